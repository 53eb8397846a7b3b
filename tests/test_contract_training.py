"""The contract of the step where much comes together: several batches a step, steps a call, dropout; and who learns."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_methods import (
    BATCH,
    CONFIGS,
    DDPM_STEP,
    GAN_STEP,
    SGD,
    batch_of,
    make,
    make_anew,
    params_of,
    slow_where,
    still,
    train,
    train_made,
)

from gen_jax import methods, optimizer, parallel
from gen_jax.gan.defaults import gan_config
from gen_jax.method import DataSpec, stream

pytestmark = pytest.mark.long

GAMES = [name for name, (file, _) in CONFIGS.items() if "gan" in file]

# Everything that draws or stacks something of its own in a step, at once.
DROPOUT = ("--config.network.dropout=0.3",)
CRITIC = (
    *DROPOUT, "--config.gan.critic_steps=2", "--config.gan.loss=wasserstein", "--config.gan.penalty.name=wgan_gp",
    "--config.network.norm=none", "--config.gan.instance_noise=0.1",
    "--config.discriminator_optimizer.learning_rate=0.1",
)  # fmt: skip
ALL_AT_ONCE = {
    "ddpm": (*DROPOUT, "--config.diffusion.label_drop=0.3", "--config.diffusion.mirror=true"),
    "flow": (*DROPOUT, "--config.diffusion.label_drop=0.3", "--config.diffusion.mirror=true"),
    "latent": (*DROPOUT, "--config.diffusion.label_drop=0.3", "--config.diffusion.mirror=true"),
    "meanflow": (
        *DROPOUT,
        "--config.diffusion.label_drop=0.3",
        "--config.diffusion.mirror=true",
        "--config.meanflow.guidance=1.5",
        "--config.meanflow.guidance_mix=0.3",
    ),
    "consistency": (*DROPOUT, "--config.diffusion.label_drop=0.3", "--config.diffusion.mirror=true"),
    "distilled": (),  # what its student drops and mirrors is set with its teacher
    "vae": ("--config.vae.binarisation=dynamic", "--config.vae.kl_warmup_steps=10"),
    "scvae": (),
    "hvae": ("--config.vae.binarisation=dynamic",),
    "autoencoder": (),  # nothing but mirroring and the vectors from which codes restart, which are always on
    "vqvae": (),  # nothing but the vectors from which codes restart, which are always drawn
    "gan": (*CRITIC, "--config.gan.constraint.name=none"),
    "acgan": CRITIC,
    "stackgan": (),  # nothing but captions, conditions and noise, which are always on
    "ddgan": (),  # nothing but times, noise and mirroring, which are always on
    "srresnet": (),  # nothing is random but the start
    "srgan": (),
    "sr3": (*DROPOUT, "--config.diffusion.mirror=true"),
    "coupling": (),  # nothing but the noise of dequantisation, which is always on
    "tarflow": (),
    "autoregressive": (),
}


# Each takes ten to thirty seconds to compile. That several steps are one loop around any step, under both executors, is
# seen by the smallest method at once; all the others are among the slow tests.
FAST = {("vae", "jit", 2), ("vae", "pmap", 2)}
CASES = [
    pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
    for case in itertools.product(methods.METHODS, parallel.EXECUTORS, (1, 2))
]


@pytest.mark.parametrize(("name", "executor", "calls"), CASES)
def test_many_steps_a_call_on_many_devices_are_single_steps_on_one(name, executor, calls):
    words = (*SGD, *ALL_AT_ONCE[name])
    one = params_of(train(name, *words, num_steps=4).state)
    several = (f"--config.steps_per_call={calls}", "--config.log_every=10")
    eight = train(name, *words, *several, executor=executor, devices=8, num_steps=4)
    assert int(eight.state.step) == 4
    assert np.isfinite(float(eight.scalars["loss"]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), params_of(eight.state), one)


@pytest.mark.parametrize("name", slow_where([name for name, on in ALL_AT_ONCE.items() if on], DDPM_STEP | GAN_STEP))
def test_what_is_switched_on_above_draws_numbers_of_its_own(name):
    # Were it not read, the test above would prove nothing of it.
    def draws(*words):
        made = make(name, *SGD, *words)
        state = methods.abstract_state(made.method, made.spec, made.stage, parallel.make_mesh(1))
        batch, several = made.spec.abstract_batch(BATCH), made.method.batches_per_step
        if several > 1:
            batch = {k: jax.ShapeDtypeStruct((several, *v.shape), v.dtype) for k, v in batch.items()}
        return str(jax.make_jaxpr(made.method.step)(state, batch)).count("random_bits[")

    words = ALL_AT_ONCE[name]
    off = "--config.vae.binarisation=none" if name in ("vae", "hvae") else "--config.network.dropout=0.0"
    assert draws(*words) > draws(*words, off) > 0


# Who learns. A discriminator's loss falls just as well where the generator stands still: its own gain is asked for.

ALONE = (
    "--config.num_steps=30", "--config.optimizer.learning_rate=1e-2", "--config.ema=0.5",
    "--config.discriminator_optimizer.learning_rate=0.0",
)  # fmt: skip

# Where the game is a small part of the loss: a large one.
LOUD = {"srgan": ("--config.superres.adversarial=1000",)}
# Where the logits of a discriminator that has not learnt anything lie close together.
LEAST_GAIN = {"srgan": 0.002}


def gain(made):
    """How much more real the first discriminator finds the generator's images once that one has learnt alone.

    Nothing but the averaged generator differs between the two states that are compared.
    """
    before = made.init(1)
    after = train_made(made, num_steps=30).state
    evaluate, batch, key = jax.jit(made.method.evaluate), batch_of(0, made.spec), stream(before.key, "eval")
    scores = [evaluate(before.replace(ema=state.ema), batch, key)["fake_score"] for state in (before, after)]
    return float(jnp.mean(scores[1]) - jnp.mean(scores[0])), still(before, after)


def generators(leaves):
    return [leaf for leaf in leaves if "generator" in leaf.split("/")[1].split("_")]


@pytest.mark.parametrize("game", slow_where(GAMES, GAN_STEP))
def test_a_generator_learns_from_a_discriminator_that_stands_still(game):
    found, standing = gain(make(game, *ALONE, *LOUD.get(game, ())))
    assert found > LEAST_GAIN.get(game, 0.01)
    assert generators(standing) == []
    assert all(leaf.startswith("params/discriminator/") for leaf in standing)
    assert standing


@pytest.mark.parametrize("mistake", ["dropped", pytest.param("reversed", marks=pytest.mark.slow)])
def test_the_test_above_sees_an_update_that_is_dropped_or_reversed(mistake, monkeypatch):
    right = optimizer.make

    def wrong(*args):
        made = right(*args)

        def apply(state, network, grads):
            if network != "generator":
                return made.apply(state, network, grads)
            if mistake == "reversed":
                return made.apply(state, network, jax.tree.map(jnp.negative, grads))
            return state, made.apply(state, network, grads)[1]

        return made._replace(apply=apply)

    monkeypatch.setattr(optimizer, "make", wrong)
    found, standing = gain(make_anew("gan", *ALONE))
    assert not found > 0.01
    assert bool(generators(standing)) == (mistake == "dropped")


# The rate of a discriminator that takes several steps a step.

PEAK, JUDGE_PEAK, NUM_STEPS = 0.3, 0.2, 5


def line(step, peak, num_steps, warmup):
    """The rate by hand: up to the peak in `warmup` steps, then straight down to zero at the run's end."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (num_steps - step) / (num_steps - warmup)


@pytest.mark.parametrize("critic_steps", [1, 3])
@pytest.mark.parametrize("warmup", [0, 2])
def test_both_rates_fall_to_zero_at_the_end_of_the_run(critic_steps, warmup):
    # G(z) = b and D(x) = w x + v under Wasserstein's loss: in each step, w moves by its rate times (x - b), v not at
    # all, and b by its rate times w. With x = 1 all of it is known by hand. (G(z) = a z + b, and after every step a is
    # put back to 0.)
    config = gan_config(learning_rate=PEAK, discriminator_rate=JUDGE_PEAK)
    config.network = ConfigDict({"name": "dense", "generator_hidden": (), "hidden": (), "output": "linear"})
    config.optimizer = {"name": "sgd", "b1": 0.0, "learning_rate": PEAK, "warmup_steps": warmup, "clip_norm": 0.0}
    config.optimizer.decay = {"name": "linear"}
    config.gan.update(latents=1, loss="wasserstein", critic_steps=critic_steps)
    config.num_steps = NUM_STEPS
    method = methods.make(config, DataSpec("points", (1, 1, 1), 64, kind="points", value_range=(-1, 1)))
    state = method.init(jax.random.key(0), {}, {})
    w, v, b = 0.5, -0.1, 0.7
    layer = lambda kernel, bias: {"out": {"kernel": jnp.array([[kernel]]), "bias": jnp.array([bias])}}  # noqa: E731
    state = state.replace(params={"generator": layer(0.0, b), "discriminator": layer(w, v)})
    lead = (critic_steps,) if critic_steps > 1 else ()
    index = np.broadcast_to(np.arange(4, dtype=np.int32), (*lead, 4))
    batch = {"image": np.ones((*lead, 4, 1, 1, 1), np.float32), "index": index}
    step = jax.jit(method.step)
    all_judge_steps = NUM_STEPS * critic_steps
    rates = [line(i, JUDGE_PEAK, all_judge_steps, warmup * critic_steps) for i in range(all_judge_steps)]
    assert min(rates) > 0
    for number in range(NUM_STEPS):
        state, scalars = step(state, batch)
        for rate in rates[number * critic_steps :][:critic_steps]:
            w += rate * (1 - b)
        b += line(number, PEAK, NUM_STEPS, warmup) * w
        judge, made = state.params["discriminator"]["out"], state.params["generator"]["out"]
        found = [float(leaf.ravel()[0]) for leaf in (judge["kernel"], judge["bias"], made["bias"])]
        np.testing.assert_allclose(found, [w, v, b], rtol=1e-5)
        state = state.replace(params=state.params | {"generator": layer(0.0, float(made["bias"][0]))})  # no noise in G
        np.testing.assert_allclose(scalars["learning_rate"], line(number, PEAK, NUM_STEPS, warmup), rtol=1e-5)
    # What lies behind the end has no rate left: the decay is neither longer nor shorter than the run.
    after, _ = step(state, batch)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), after.params, state.params)
