"""Quantizers against numbers worked out by hand, and codes that are all reached and all come back."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import parallel
from gen_jax.method import State, UserError
from gen_jax.vae import quantizers
from gen_jax.vae.quantizers import fsq, vq

# A step worked out apart from this code: codes, losses, and a moving average with decay 0.99 and counts of 1.
CODEBOOK = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], np.float32)
Z = np.array([[0.9, 0.8], [0.1, -0.2], [1.2, 0.9]], np.float32)
CODES = [1, 0, 1]
LOSS = 0.025  # (0.01 + 0.04 + 0.01 + 0.04 + 0.04 + 0.01) / 6
PERPLEXITY = 1.8898815748423097  # exp(H(1/3, 2/3, 0)) = 3 / 2^(2/3)
COUNT = [1.0, 1.01, 0.99]
MOVED = [[0.001, -0.002], [1.00099019811685, 0.9970298016851317], [1.9999997979818387, 0.0]]


def quantizer(**values):
    """A codebook of three codes in the plane, for batches of three vectors, which restarts none."""
    return vq(**{"rows": 3, "size": 3, "dimensions": 2, "revive": 0.0} | values)


def state_of(one, decay=0.99, step=0, count=(1.0, 1.0, 1.0)):
    """A state whose codebook is CODEBOOK, after these uses of each code."""
    count, book = jnp.array(count), {"codebook": {"vectors": jnp.array(CODEBOOK)}}
    sums = {"sum": count[:, None] * CODEBOOK} if decay else {}
    return State(
        step=jnp.int32(step), key=jax.random.key(0), params={} if decay else book, opt_state={}, ema=book, frozen={},
        variables={"codebook": {"count": count, **sums}},
    )  # fmt: skip


def seen_by(one, z=Z, index=None, key=0):
    """What a batch of examples with one position each shows."""
    z = jnp.array(z)[:, None]
    codes = one.quantize(jnp.array(CODEBOOK), z).codes
    return one.observe(z, codes, jnp.arange(len(z)) if index is None else index, jax.random.key(key))


def test_codes_and_losses_are_those_worked_out_by_hand():
    for decay, parts in ((0.99, 0.25), (0.0, 1.25)):
        found = jax.jit(quantizer(decay=decay).quantize)(CODEBOOK, Z)
        assert found.codes.tolist() == CODES
        assert found.codes.dtype == jnp.int32
        np.testing.assert_allclose(found.z, CODEBOOK[CODES], atol=1e-6)
        assert float(found.error.mean()) == pytest.approx(LOSS, rel=1e-5)
        assert float(found.loss.mean()) == pytest.approx(parts * LOSS, rel=1e-5)
    share = quantizers.shares(found.codes, 3)
    assert float(quantizers.perplexity(share)) == pytest.approx(PERPLEXITY, rel=1e-6)


def test_the_moving_average_of_the_codebook_is_the_one_worked_out_by_hand():
    one = quantizer()
    after = jax.jit(one.advance, static_argnums=2)(state_of(one), seen_by(one), 0.9)
    np.testing.assert_allclose(after.variables["codebook"]["count"], COUNT, rtol=1e-6)
    np.testing.assert_allclose(one.current(after.params, after.variables), MOVED, rtol=1e-6, atol=1e-9)
    # The average of what is sampled from starts at the first step.
    np.testing.assert_allclose(one.averaged(after.ema), MOVED, rtol=1e-6, atol=1e-9)
    # Ten steps later half of it is new.
    later = one.advance(state_of(one, step=10), seen_by(one), 0.9)
    np.testing.assert_allclose(one.averaged(later.ema), (CODEBOOK + np.array(MOVED)) / 2, rtol=1e-6, atol=1e-9)


def test_the_gradient_passes_straight_through_to_the_encoder():
    weights = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]], np.float32)
    of_vq = jax.grad(lambda z: jnp.sum(weights * quantizer().quantize(CODEBOOK, z).z))(Z)
    np.testing.assert_allclose(of_vq, weights, rtol=1e-6)
    # Of rounding, that of the bound remains: with five levels from -2 to 2, 1.998 / 2 (1 - tanh^2).
    of_fsq = jax.grad(lambda z: jnp.sum(weights * fsq(3, (5, 5)).quantize((), z).z))(Z)
    np.testing.assert_allclose(of_fsq, weights * 0.999 * (1 - np.tanh(Z) ** 2), rtol=1e-5)


def test_the_encoder_is_pulled_to_its_codes_and_a_trained_codebook_to_its_vectors():
    def loss(codebook, z, **values):
        return jnp.sum(quantizer(**values).quantize(codebook, z).loss)

    # d/dz of 0.25 (z - e)^2, a mean over two numbers, and d/de of (z - e)^2, whose two vectors of code 1 add up.
    by_z = 0.25 * (Z - CODEBOOK[CODES])
    by_e = np.array([[-0.1, 0.2], [(1 - 0.9) + (1 - 1.2), (1 - 0.8) + (1 - 0.9)], [0.0, 0.0]])
    for decay, expected in ((0.99, 0 * by_e), (0.0, by_e)):
        codebook, z = jax.grad(loss, argnums=(0, 1))(CODEBOOK, Z, decay=decay)
        np.testing.assert_allclose(z, by_z, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(codebook, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [0.99, 0.0])
def test_dead_codes_restart_from_vectors_of_the_batch_and_the_others_stay(decay):
    # All were used equally often once a step; code 2 not for long. It dies below 0.5 of that: 0.99 * 0.5 + 0.01 * 0.
    one = quantizer(decay=decay, revive=0.5)
    before = state_of(one, decay, count=(1.0, 1.0, 0.5))
    found = [one.advance(before, seen_by(one, key=key), 0.9) for key in range(30)]
    books = np.stack([one.current(each.params, each.variables) for each in found])
    drawn = {tuple(book) for book in books[:, 2].round(5).tolist()}
    assert drawn == {tuple(z) for z in Z.round(5).tolist()}  # each of them, in some of thirty draws
    np.testing.assert_allclose(books[:, :2], np.broadcast_to((np.array(MOVED) if decay else CODEBOOK)[:2], (30, 2, 2)),
                               rtol=0.02, atol=1e-5)  # fmt: skip
    for each in found:
        np.testing.assert_allclose(one.averaged(each.ema)[2], one.current(each.params, each.variables)[2])
        assert float(each.variables["codebook"]["count"][2]) == 1.0  # as if it had been used like any other
    # A little more often, and it lives.
    alive = one.advance(state_of(one, decay, count=(1.0, 1.0, 0.51)), seen_by(one), 0.9)
    np.testing.assert_allclose(one.current(alive.params, alive.variables)[2], CODEBOOK[2], rtol=1e-4)


@pytest.mark.parametrize("executor", parallel.EXECUTORS)
def test_what_is_seen_of_a_batch_does_not_depend_on_the_devices(executor):
    one = vq(rows=16 * 6, size=12, dimensions=4)
    rng = np.random.default_rng(0)
    rows = {"z": rng.normal(size=(16, 6, 4)).astype(np.float32), "index": np.arange(16, dtype=np.int32)}
    codebook = jnp.array(rng.normal(size=(12, 4)), jnp.float32)
    key = jax.random.key(3, impl="threefry2x32")

    def see(state, batch):
        codes = one.quantize(codebook, batch["z"]).codes
        return state, parallel.mean_over_devices(one.observe(batch["z"], codes, batch["index"], key))

    runs = [("jit", 1), (executor, 8)]
    found = []
    for how, devices in runs:
        run = parallel.make_executor(how, parallel.make_mesh(devices))
        state = jax.device_put(jnp.zeros(()), parallel.replicated(run.mesh))
        call: Any = run.compile_step(see, state, run.put(rows, 0), 0)  # pyright: ignore
        found.append(jax.tree.map(np.asarray, call(state, run.put(rows, 0))[1]))
        assert "all-gather" not in call.as_text()
    one_device, eight = found
    # By hand, in float64.
    distances = ((rows["z"].reshape(-1, 1, 4) - np.asarray(codebook)) ** 2).sum(-1)
    hot = np.eye(12)[distances.argmin(axis=1)]
    np.testing.assert_allclose(one_device["share"], hot.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(one_device["mean"], hot.T @ rows["z"].reshape(-1, 4).astype(float) / 96, atol=1e-6)
    assert all(any(np.array_equal(drawn, z) for z in rows["z"].reshape(-1, 4)) for drawn in one_device["drawn"])
    np.testing.assert_allclose(one_device["drawn"], eight["drawn"], rtol=1e-6)
    np.testing.assert_allclose(one_device["share"], eight["share"], rtol=1e-6)
    np.testing.assert_allclose(one_device["mean"], eight["mean"], atol=1e-6)


def test_vectors_are_drawn_from_all_of_a_batch_in_pieces_as_in_one():
    z = jnp.array(np.random.default_rng(0).normal(size=(8, 5, 2)), jnp.float32)
    draw = lambda rows: quantizers.drawn_vectors(z[rows], jnp.arange(8)[rows], jax.random.key(0), 400, 8)  # noqa: E731
    whole = draw(slice(None))
    np.testing.assert_array_equal((draw(slice(4)) + draw(slice(4, 8))) / 2, whole)
    which = np.argmin(np.abs(np.asarray(whole)[:, None] - np.asarray(z).reshape(-1, 2)).sum(-1), axis=1)
    counts = np.bincount(which, minlength=40)
    assert counts.min() > 0  # 400 draws of 40: each about 10 times
    assert ((counts - 10) ** 2 / 10).sum() < 72  # chi-square with 39 degrees of freedom: 0.1%


def test_a_codebook_starts_from_different_vectors_of_the_examples():
    vectors = jnp.array(np.random.default_rng(0).normal(size=(40, 2)), jnp.float32)
    for decay in (0.99, 0.0):
        one = vq(rows=80, size=40, dimensions=2, decay=decay)
        start = one.init(jax.random.key(0), lambda: vectors)
        book = np.asarray(one.current(start.params, start.variables))
        assert {*map(tuple, book.round(4))} == {*map(tuple, np.asarray(vectors).round(4))}
        np.testing.assert_allclose(one.averaged(start.ema), book, rtol=1e-5)
        np.testing.assert_array_equal(start.variables["codebook"]["count"], np.full(40, 2.0))
        assert ("codebook" in start.params) == (decay == 0)


def test_a_code_that_no_vector_ever_takes_stays_finite():
    book = quantizers.codebook_of_sums(jnp.array([2.0, 0.0]), jnp.array([[4.0], [0.0]]))
    np.testing.assert_allclose(book, [[2.0], [0.0]], rtol=1e-4)


@pytest.mark.parametrize("levels", [(5,), (2, 3), (8, 6, 5), (4, 5, 7)])
def test_every_code_of_finite_scalar_quantization_is_reached_and_comes_back(levels):
    one = fsq(0, levels)
    assert one.size == math.prod(levels)
    codes = jnp.arange(one.size)
    vectors = np.asarray(one.embed((), codes))
    assert len({*map(tuple, vectors)}) == one.size
    # By hand: the digits of a number with these bases, the first of which counts least; half of the levels are below 0.
    digits = np.array([reverse[::-1] for reverse in itertools.product(*(range(each) for each in levels[::-1]))])
    np.testing.assert_allclose(vectors, (digits - np.array(levels) // 2) / (np.array(levels) // 2), rtol=1e-6)
    # Numbers from far below zero to far above reach every combination of levels.
    axis = np.linspace(-6, 6, 100 if len(levels) == 1 else 41)
    grid = jnp.array(np.stack(np.meshgrid(*[axis] * len(levels)), axis=-1).reshape(-1, len(levels)), jnp.float32)
    found = jax.jit(lambda z: one.quantize((), z))(grid)
    assert {*np.asarray(found.codes).tolist()} == {*range(one.size)}
    np.testing.assert_allclose(found.z, vectors[np.asarray(found.codes)], atol=1e-6)
    # A vector rounds to the code it stands for: the inverse of the bound, but at the ends, which no number reaches.
    reach, offset = (np.array(levels) - 1) * 0.4995, np.where(np.array(levels) % 2, 0, 0.5)
    inverse = np.arctanh(np.clip((digits - np.array(levels) // 2 + offset) / reach, -0.9999, 0.9999))
    again = one.quantize((), jnp.array(inverse - np.tan(offset / reach), jnp.float32)).codes
    np.testing.assert_array_equal(again, codes)


def test_zero_is_a_level_and_finite_scalar_quantization_loses_nothing_of_a_level():
    one = fsq(0, (8, 5, 2))
    found = one.quantize((), jnp.zeros(3))
    np.testing.assert_array_equal(found.z, np.zeros(3))
    assert float(found.loss) == 0
    # At 0, the bound of five levels is exact; of an even number it is off by tanh(tan(a)) r - 1/2, with a = 0.5 / r.
    off = [np.tanh(np.tan(0.5 / r)) * r - 0.5 for r in (7 * 0.4995, 0.4995)]
    np.testing.assert_allclose(found.error, ((off[0] / 4) ** 2 + off[1] ** 2) / 3, rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"size": 1}, "size is 1; it must be at least 2"),
        ({"dimensions": 0}, "dimensions is 0; it must be at least 1"),
        ({"commitment": -0.5}, "commitment is -0.5; it must not be negative"),
        ({"decay": 1.0}, r"decay is 1; it must be in \[0, 1\), where 0 trains by gradients"),
        ({"revive": -0.1}, r"revive is -0.1; it must be in \[0, 1\), where 0 restarts no code"),
        ({"levels": ()}, r"levels is \(\); it needs at least one number"),
        ({"levels": (5, 1)}, r"levels is \(5, 1\).* each must be 2 or more"),
        ({"levels": (256, 256, 257)}, r"are 16,842,752 codes; use at most 16,777,216"),
    ],
)
def test_invalid_values_are_refused_in_one_line(values, hint):
    with pytest.raises(UserError, match=hint) as error:
        (fsq if "levels" in values else vq)(8, **values)
    assert "\n" not in str(error.value)
