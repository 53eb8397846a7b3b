"""What the core promises to methods that nobody has written yet: examples at the start, and codes of either kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import config as configs
from gen_jax import evaluate, parallel
from gen_jax.data.dataset import Dataset
from gen_jax.method import NUM_EXAMPLES, Code, DataSpec, Method, State
from gen_jax.sample import Model
from gen_jax.train import initial_state

NUM = 1300  # more than a method sees, and no multiple of it


def values_of(num):
    return np.random.default_rng(0).integers(0, 256, (num, 2, 3, 1)).astype(np.uint8)


def mean_method(num_seen):
    """A method that starts from the mean of the examples, which no network knows."""

    def init(key, examples, frozen):
        num_seen.append(examples["image"].shape[0])
        seen = {"mean": jnp.mean(examples["image"].astype(jnp.float32), axis=0), "last": examples["index"][-1]}
        return State(jnp.int32(0), key, {}, {"seen": seen}, {}, {}, frozen)

    return Method(init, *[None] * 4)  # pyright: ignore


@pytest.mark.parametrize("num", [40, NUM])
def test_init_sees_the_same_training_examples_on_1_and_on_8_devices(num):
    images = values_of(num)
    # Sorted by brightness, as some sets are by class: the mean of the first examples is not that of the set.
    images = images[np.argsort(images.mean(axis=(1, 2, 3)))]
    data = Dataset(DataSpec("x", (2, 3, 1), num), {"image": images}, {"image": 255 - images})
    found, num_seen = [], []
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices)
        state = initial_state(configs.base_config(), mean_method(num_seen), data, mesh, {"stage": jnp.arange(3)})
        np.testing.assert_array_equal(state.frozen["stage"], [0, 1, 2])
        assert len(state.variables["seen"]["mean"].sharding.device_set) == devices
        found.append(jax.tree.map(np.asarray, state.variables["seen"]))
    assert {*num_seen} == {min(num, NUM_EXAMPLES)}
    np.testing.assert_array_equal(found[0]["mean"], found[1]["mean"])
    assert found[0]["last"] == found[1]["last"] == min(num, NUM_EXAMPLES) - 1
    # All of a small set; of a large one a share that lies all over it.
    error = 1e-3 if num <= NUM_EXAMPLES else 10
    np.testing.assert_allclose(found[0]["mean"], images.mean(axis=0), atol=error)
    assert num <= NUM_EXAMPLES or np.abs(found[0]["mean"] - images[:NUM_EXAMPLES].mean(axis=0)).min() > 20


def judged(code, images, devices):
    """The measures of a code, over more examples than a batch holds and no multiple of it."""
    arrays = {"image": images}
    data = Dataset(DataSpec("x", images.shape[1:], len(images)), arrays, arrays)
    config = configs.base_config()
    config.batch_size, config.eval.num_examples = 16, len(images)
    method = Method(*[None] * 5, code=code)  # pyright: ignore
    state = State(jnp.int32(3), jax.random.key(0), {}, {}, {}, {"codebook": jnp.int32(100)}, {})
    model = Model(config, data.spec, method, state, parallel.make_mesh(devices))
    return evaluate._judge_codes(model, data, thorough=False)


@pytest.mark.parametrize("devices", [1, 8])
def test_integers_are_judged_by_how_many_of_the_codes_are_used(devices):
    # Each image is its own code of 2x3 places, plus what stands in the averages. 21 images: batches of 16, 8 or 5.
    images = np.zeros((21, 2, 3, 1), np.uint8)
    images[4, 1, 2] = 7
    images[20] = np.array([[3, 5, 3], [7, 0, 5]])[..., None]

    def encode(state, batch, key):
        return batch["image"][..., 0].astype(jnp.int32) + state.ema["codebook"]

    (row,) = judged(Code("integers", (2, 3), encode, lambda state, codes: codes, size=512), images, devices)
    assert row["name"] == "codes_used/21_examples"
    assert row["value"] == 4  # 100, 103, 105, 107
    assert row["protocol"].startswith("number of the 512 codes that occur in 21 test examples")
    assert "step 3" in row["protocol"]


@pytest.mark.parametrize("devices", [1, 8])
def test_means_are_judged_by_the_number_of_latents_that_vary(devices):
    # Of six latents, one a pixel, two vary by more than 0.01: a standard deviation of 0.25 and of 0.11; one of 0.09.
    rng = np.random.default_rng(0)
    images = np.full((21, 2, 3, 1), 128, np.uint8)
    for place, std in {(0, 1): 0.25, (1, 0): 0.11, (1, 2): 0.09}.items():
        signs = rng.permutation(np.r_[np.ones(10), -np.ones(11)])
        images[:, *place, 0] = np.round(128 + 100 * std * signs)

    def encode(state, batch, key):
        return batch["image"].astype(jnp.float32) / state.ema["codebook"]

    (row,) = judged(Code("means", (2, 3, 1), encode, lambda state, codes: codes), images, devices)
    assert row["name"] == "active_units/21_examples"
    assert row["value"] == 2
    assert row["protocol"].startswith("number of the 6 latents whose mean code has a variance above 0.01 over 21 test")
