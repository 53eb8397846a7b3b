"""Generator gradients with a confident discriminator: minimax against non-saturating loss (Goodfellow et al. 2014).

    python -m experiments.generator_gradient

Both losses reach the generator through the logit f of D(G(z)) = sigmoid(f). Their derivatives in f are known: -D for
the minimax loss log(1 - D), and -(1 - D) for the non-saturating loss -log D. So an image's gradient in the generator's
weights is the gradient of its logit, times D or times 1 - D. Here both are measured, image by image, with a fixed
generator, while a discriminator learns to distinguish its images from a ring of Gaussians (as in Arjovsky & Bottou
2017, figure 2): D(G(z)) falls from a half towards zero, and the minimax gradient falls with it.
"""

from __future__ import annotations

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import record
from gen_jax.data import gaussians
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series
from gen_jax.gan import losses, networks
from gen_jax.method import Array, Key, PyTree
from gen_jax.run import directory, write_bytes

NAME = "generator_gradient"
LOSSES = ("minimax", "non_saturating")
LATENTS, WIDTH, BATCH, LEARNING_RATE = 2, 32, 256, 3e-3
STEPS = (0, 50, 100, 200, 400, 800, 1600, 3200)  # of the discriminator; the generator's gradient is measured at each
DECADES = (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of D(G(z)), in the table

GENERATOR, DISCRIMINATOR = networks.make(
    {"name": "dense", "generator_hidden": (WIDTH, WIDTH), "hidden": (WIDTH, WIDTH), "output": "linear"},
    (1, 1, 2), 0, 0, 1, jnp.float32,
)  # fmt: skip


def logit(generator: PyTree, discriminator: PyTree, z: Array) -> Array:
    """The logit of D(G(z)) for one z [Z]: f32 []."""
    image = GENERATOR.apply({"params": generator}, z[None])
    return DISCRIMINATOR.apply({"params": discriminator}, image)[0]  # pyright: ignore[reportIndexIssue]


def gradients(generator: PyTree, discriminator: PyTree, z: Array) -> dict[str, Array]:
    """Returns D(G(z)) and the norms of gradients in the generator's weights.

    Args:
      generator: its weights.
      discriminator: its weights.
      z: f32 [B, Z].

    Returns:
      "probability" f32 [B]; "logit" f32 [B], the norm of the gradient of each image's logit; for each of LOSSES the
      norm of the gradient of each image's loss, f32 [B]; "<loss>/batch" f32 [], the norm of the gradient of the mean
      loss.
    """

    def loss_of(name: str, generator: PyTree, z: Array) -> Array:
        value = logit(generator, discriminator, z)
        return losses.LOSSES[name]().generator(jnp.zeros(()), value)

    def norms(fn) -> Array:
        return jax.vmap(lambda one: optax.global_norm(jax.grad(fn)(generator, one)))(z)

    found = {
        "probability": jax.nn.sigmoid(jax.vmap(lambda one: logit(generator, discriminator, one))(z)),
        "logit": norms(lambda generator, one: logit(generator, discriminator, one)),
    }
    for name in LOSSES:
        one_loss = functools.partial(loss_of, name)
        found[name] = norms(one_loss)
        mean = jax.grad(lambda generator, f=one_loss: jnp.mean(jax.vmap(lambda one: f(generator, one))(z)))(generator)
        found[f"{name}/batch"] = optax.global_norm(mean)
    return found


def measure(key: Key, points: Array) -> list[dict[str, Array]]:
    """Returns `gradients` at each of STEPS while a discriminator is trained against a fixed generator.

    Args:
      key: of all random numbers.
      points: real points, f32 [N, 2] in [-1, 1].
    """
    key_generator, key_discriminator, key_train, key_z = jax.random.split(key, 4)
    generator = GENERATOR.init(key_generator, jnp.zeros((1, LATENTS)))["params"]
    discriminator = DISCRIMINATOR.init(key_discriminator, jnp.zeros((1, 1, 1, 2)))["params"]
    optimize = optax.adam(LEARNING_RATE)

    def train(carry: tuple[PyTree, PyTree], step: Array) -> tuple[tuple[PyTree, PyTree], None]:
        params, opt_state = carry
        key_real, key_fake = jax.random.split(jax.random.fold_in(key_train, step))
        real = points[jax.random.randint(key_real, (BATCH,), 0, len(points))].reshape(-1, 1, 1, 2)
        fake = GENERATOR.apply({"params": generator}, jax.random.normal(key_fake, (BATCH, LATENTS)))

        def loss_fn(params: PyTree) -> Array:
            judged = [DISCRIMINATOR.apply({"params": params}, x) for x in (real, fake)]
            return jnp.mean(losses.minimax().discriminator(*judged))  # pyright: ignore[reportArgumentType]

        updates, opt_state = optimize.update(jax.grad(loss_fn)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    z, measured = jax.random.normal(key_z, (BATCH, LATENTS)), []
    carry = discriminator, optimize.init(discriminator)
    for start, stop in zip((0, *STEPS[:-1]), STEPS, strict=True):
        carry, _ = jax.lax.scan(train, carry, jnp.arange(start, stop))
        measured.append(gradients(generator, carry[0], z))
    return measured


def tables(measured: list[dict[str, np.ndarray]]) -> dict[str, list[dict]]:
    """Returns rows by D(G(z)) and by step, from the results of `measure` for several seeds: leaves [seeds, ...]."""
    whole = {
        name: np.concatenate([np.ravel(each[name]) for each in measured]) for name in ("probability", "logit", *LOSSES)
    }
    closed = {"minimax": lambda p: p, "non_saturating": lambda p: 1 - p}
    by_probability = []
    for decade in DECADES:
        near = np.abs(np.log10(np.maximum(whole["probability"], 1e-30) / decade)) < 0.1
        if not near.any():
            continue
        row = {"D(G(z))": decade, "images": int(near.sum())}
        for name in LOSSES:
            p, ratio = whole["probability"][near], whole[name][near] / whole["logit"][near]
            row |= {
                f"{name}: closed form": float(closed[name](np.median(p))),
                f"{name}: measured": float(np.median(ratio)),
                f"{name}: largest error": float(np.abs(ratio / closed[name](p) - 1).max()),
            }
        by_probability.append(row)
    by_step = []
    for step, each in zip(STEPS, measured, strict=True):
        minimax, other = (each[f"{name}/batch"] for name in LOSSES)
        by_step.append(
            {
                "discriminator's steps": step,
                "mean D(G(z))": float(each["probability"].mean()),
                "minimax gradient": float(minimax.mean()),
                "non-saturating gradient": float(other.mean()),
                "ratio": float(np.mean(other / minimax)),
                "ratio, smallest seed": float(np.min(other / minimax)),
                "largest seed": float(np.max(other / minimax)),
            }
        )
    return {
        "What is left of the gradient of an image's logit (images within a tenth of a decade, medians)": by_probability,
        "Norm of the gradient of the batch's mean loss, mean of the seeds": by_step,
    }


def figure(measured: list[dict[str, np.ndarray]]) -> str:
    """Returns the factor of the logit's gradient over D(G(z)), as SVG: closed forms and measured images."""
    p = np.logspace(-6, np.log10(0.99), 200)
    lines = []
    for name, closed in zip(LOSSES, (p, 1 - p), strict=True):
        probability, ratio = (
            np.concatenate([np.ravel(each[key])[::16] for each in measured]) for key in ("probability", name)
        )
        ratio = ratio / np.concatenate([np.ravel(each["logit"])[::16] for each in measured])
        lines += [
            Series(f"{name}, closed form", p, closed),
            Series(f"{name}, measured", probability, ratio, dots=True),
        ]
    x, y = Axis(1e-6, 1.0, log=True), Axis(1e-6, 1.5, log=True)
    return svg.plot(lines, "D(G(z))", "share of the logit's gradient", x, y, colours=(0, 0, 1, 1))


def main() -> None:
    """Runs the experiment, and writes table, figure and verdict."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=directory, default=record.RESULTS / NAME)
    flags = parser.parse_args()
    mixture = gaussians.MIXTURES["ring8"]
    points = jnp.asarray(gaussians.draw(mixture, 0, 10_000) / mixture.extent)
    keys = jax.vmap(jax.random.key)(jnp.arange(flags.seeds))
    measured = jax.device_get(jax.jit(jax.vmap(measure, (0, None)))(keys, points))
    found = tables(measured)
    by_probability, by_step = found.values()
    error = max(row[f"{name}: largest error"] for row in by_probability for name in LOSSES)
    last = by_step[-1]
    verdict = (
        "The minimax loss scales the gradient of an image's logit by D(G(z)), the non-saturating loss by 1 - D(G(z)), "
        f"up to a relative error of {error:.1g}: after {STEPS[-1]:,} steps of only the discriminator the mean D(G(z)) "
        f"is {last['mean D(G(z))']:.1g}, and the minimax gradient of a batch is {last['ratio']:,.0f} times smaller."
    )
    flags.out.mkdir(parents=True, exist_ok=True)
    write_bytes(flags.out / "gradient.svg", figure(measured).encode())
    command = f"python -m experiments.{NAME}" + (f" --seeds={flags.seeds}" if flags.seeds != 5 else "")
    report = {"command": command, "verdict": verdict, "seeds": flags.seeds, "versions": record.versions()}
    record.write(flags.out, report, found)


if __name__ == "__main__":
    main()
