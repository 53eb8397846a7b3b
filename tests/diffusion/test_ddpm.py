"""What is a method's own: the times it trains at, and what it tells the network, seen by a network that echoes it."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import methods
from gen_jax.diffusion import model
from gen_jax.method import DataSpec, UserError, labelled

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/ddpm_mnist.py")
SPEC = DataSpec("made_up", (4, 4, 1), 64, labelled("abc"))


@dataclasses.dataclass
class Echo:
    """A network without parameters: its output is the time that it is told, in thousands, everywhere."""

    out_channels: int = 1
    num_classes: int = 0
    dtype: Any = None
    seen_labels: ClassVar[list] = []

    def init(self, key, x, time, *, label=None):
        return {"params": {"none": jnp.zeros(1)}}

    def apply(self, variables, x_t, time, *, label=None, index=None, train=False, rngs=None):
        Echo.seen_labels.append(label)
        return jnp.broadcast_to((time / 1000)[:, None, None, None], x_t.shape) + 0 * variables["params"]["none"][0]


@pytest.fixture(autouse=True)
def _echo(monkeypatch):
    monkeypatch.setitem(model.NETWORKS, "echo", (Echo,))


def make(*words, spec=SPEC, config=CONFIG):
    config = methods.load(config)[2]
    words = ["--config.network=echo", "--config.optimizer=sgd", "--config.diffusion.prediction=x",
             "--config.diffusion.weighting=x", "--config.sample.num_steps=10", *words]  # fmt: skip
    return methods.make(methods.override(config, words), spec)


def make_table(*words, **others):
    return make("--config.diffusion.num_timesteps=10", *words, **others)


def times_trained_at(method, batch_size, step):
    """Each example's time, from its loss: on black images (-1) the error of the echo is (time / 1000 + 1)^2."""
    state = method.init(jax.random.key(0), {}, {}).replace(step=jnp.int32(step))
    batch = {
        "image": np.zeros((batch_size, 4, 4, 1), np.uint8),
        "index": np.arange(batch_size, dtype=np.int32),
        "label": np.zeros(batch_size, np.int32),
    }
    loss = jax.jit(method.evaluate)(state, batch, jax.random.key(step))["loss"]
    return (np.sqrt(np.asarray(loss, np.float64)) - 1) * 1000


def sample(method, n):
    keys = jax.random.split(jax.random.key(0), n)
    label = {"label": jnp.arange(n) % 3} if method.condition else {}
    return jax.jit(method.sample)(method.init(jax.random.key(0), {}, {}), keys, label)


def test_training_and_sampling_tell_the_network_the_same_times():
    method = make_table()
    trained = np.concatenate([times_trained_at(method, 50, step) for step in range(4)])
    assert {round(t) for t in trained} == set(range(0, 1000, 100))
    np.testing.assert_allclose(trained, trained.round(-2), atol=0.01)
    for n, last_told in ((1, 0.9), (10, 0.0)):  # a sample is x0_hat of the last step: t = T - 1 for n = 1, 0 for n = T
        samples = sample(make_table(f"--config.sample.num_steps={n}"), 2)
        np.testing.assert_allclose(samples, last_told, atol=1e-6)


@pytest.mark.parametrize("path", ["straight", "variance_exploding"])
def test_training_and_sampling_tell_the_network_times_of_one_scale_along_a_formula(path):
    method = make(f"--config.diffusion.schedule={path}")
    trained = times_trained_at(method, 400, 0)
    assert np.all((trained > -0.01) & (trained < 1000.01))
    np.testing.assert_allclose(np.quantile(trained, [0.25, 0.5, 0.75]), [250, 500, 750], atol=4 * 25)
    for n in (1, 10):  # the last step is from 1 / n
        words = (f"--config.sample.num_steps={n}", "--config.sample.sampler=euler", "--config.sample.clip=false")
        samples = sample(make(f"--config.diffusion.schedule={path}", *words), 2)
        np.testing.assert_allclose(samples, 1 / n, atol=1e-5)


def test_a_batch_of_the_size_of_the_schedule_trains_at_every_time_once():
    # The loss of a step: mean over the batch of (t / 10 + 1)^2, t = 0..9 each once.
    method = make_table("--config.batch_size=10")
    expected = np.mean([(t / 10 + 1) ** 2 for t in range(10)])
    numbers = np.arange(10, dtype=np.int32)
    batch = {"image": np.zeros((10, 4, 4, 1), np.uint8), "index": numbers, "label": numbers % 3}
    state, step = method.init(jax.random.key(0), {}, {}), jax.jit(method.step)
    for _ in range(3):
        state, scalars = step(state, batch)
        assert float(scalars["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_batch_in_pieces_has_the_times_of_the_whole(pieces):
    method = make_table("--config.batch_size=10", f"--config.accumulate={pieces}")
    numbers = np.arange(10, dtype=np.int32)
    batch = {"image": np.zeros((10, 4, 4, 1), np.uint8), "index": numbers, "label": numbers % 3}
    if pieces > 1:
        batch = {name: value.reshape(pieces, -1, *value.shape[1:]) for name, value in batch.items()}
    _, scalars = jax.jit(method.step)(method.init(jax.random.key(0), {}, {}), batch)
    assert float(scalars["loss"]) == pytest.approx(np.mean([(t / 10 + 1) ** 2 for t in range(10)]), rel=1e-5)


def test_labels_reach_the_network_where_it_is_conditional():
    method = make_table()
    assert method.condition == ("label",)
    Echo.seen_labels.clear()
    times_trained_at(method, 4, 0)
    assert Echo.seen_labels[-1] is not None
    keys = jax.random.split(jax.random.key(0), 3)
    method.sample(method.init(jax.random.key(0), {}, {}), keys, {"label": jnp.array([2, 0, 1])})
    assert Echo.seen_labels[-1].shape == (3,)
    unconditional = make_table("--config.diffusion.conditional=false")
    assert unconditional.condition == ()
    times_trained_at(unconditional, 4, 0)
    assert Echo.seen_labels[-1] is None
    sample(unconditional, 2)
    assert Echo.seen_labels[-1] is None


def test_samples_are_kept_within_the_range_of_the_data_where_a_config_says_so():
    """Taken for the noise, the echo says that of 80 times more noise than data there is much data."""
    words = ("--config.diffusion.schedule=variance_exploding", "--config.diffusion.prediction=eps")
    free, kept = (
        sample(make(*words, "--config.sample.num_steps=1", f"--config.sample.clip={clip}"), 2)
        for clip in ("false", "true")
    )
    assert np.abs(free).max() > 10
    np.testing.assert_array_equal(kept, np.clip(free, -1, 1))


def test_the_network_may_be_told_the_log_snr():
    words = ("--config.diffusion.told=log_snr", "--config.sample.num_steps=1")
    np.testing.assert_allclose(sample(make(*words), 2), 1, rtol=1e-6)  # pure noise is the end of its scale


def test_refusals():
    with pytest.raises(UserError, match="made_up has none"):
        make_table(spec=DataSpec("made_up", (4, 4, 1), 64))
    with pytest.raises(UserError, match="'v' or 'x'"):
        make_table("--config.diffusion.prediction=eps")
    for config in (CONFIG, "flow_mnist"):
        with pytest.raises(UserError, match="needs pictures; data set made_up holds points"):
            make(spec=DataSpec("made_up", (1, 1, 2), 64, labelled("a"), kind="points"), config=config)
    with pytest.raises(UserError, match="the straight path has no whole times"):
        make("--config.diffusion.schedule=straight", "--config.sample.spacing=leading")
    with pytest.raises(UserError, match=r"^config\.diffusion\.schedule\.num_steps is 1; it must be 2 or more"):
        make_table("--config.diffusion.schedule.num_steps=1")


SLOPE = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 10  # no two columns or rows of it are equal


class Seen:
    """A model whose images are noted as they enter it."""

    def __init__(self, *words):
        config = methods.override(methods.load(CONFIG)[2], ["--config.network=echo", "--config.optimizer=sgd",
                                  "--config.diffusion.prediction=x", *words])  # fmt: skip
        self.images, domain = [], model.pixels(SPEC)

        def enter(state, batch, key):
            jax.debug.callback(lambda image: self.images.append(np.asarray(image)), batch["image"])
            return domain.enter(state, batch, key)

        self.method = model.make(config, SPEC, domain._replace(enter=enter))

    def turned(self, index, step=0, train=True):
        """Which of some equal images, at positions `index` of the batch, entered mirrored: bool [B]."""
        state = self.method.init(jax.random.key(7), {}, {}).replace(step=jnp.int32(step))
        label = np.zeros(len(index), np.int32)
        batch = {"image": np.repeat(SLOPE[None], len(index), 0), "index": index.astype(np.int32), "label": label}
        self.images.clear()
        call = self.method.step if train else lambda *given: self.method.evaluate(*given, jax.random.key(0))
        jax.block_until_ready(jax.jit(call)(state, batch))
        jax.effects_barrier()
        (images,) = self.images
        found = (images == SLOPE[:, ::-1]).all((1, 2, 3))
        np.testing.assert_array_equal(images[~found], batch["image"][~found])
        return found


def test_half_of_the_images_are_mirrored_left_right_and_others_in_the_next_step():
    n = 2000
    seen = Seen("--config.diffusion.mirror=true", f"--config.batch_size={n}")
    first, second = (seen.turned(np.arange(n), step) for step in (0, 1))
    for share, expected in ((first, 0.5), (second, 0.5), (first & second, 0.25)):
        assert abs(share.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_which_image_is_mirrored_belongs_to_its_position_in_the_batch_and_to_the_step():
    seen, index = Seen("--config.diffusion.mirror=true", "--config.batch_size=40"), np.arange(40)
    whole = seen.turned(index, 5)
    np.testing.assert_array_equal(seen.turned(index[::-1], 5), whole[::-1])
    halves = [seen.turned(part, 5) for part in (index[:20], index[20:])]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_none_is_mirrored_in_evaluation_or_where_mirror_is_off():
    index = np.arange(40)
    assert not Seen("--config.diffusion.mirror=true").turned(index, train=False).any()
    assert not Seen("--config.batch_size=40").turned(index).any()


def test_images_without_a_left_and_a_right_are_not_mirrored():
    with pytest.raises(UserError, match="mirror has no effect on images that are one pixel wide"):
        make("--config.diffusion.mirror=true", spec=DataSpec("thin", (4, 1, 1), 64, labelled("abc")))
