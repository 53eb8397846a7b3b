# %% [markdown]
# # A sampler of your own
#
# A sampler walks from noise to data down a list of noise levels. It knows the network only as a function `denoise(x_t,
# level)` that estimates the clean picture, x0_hat. This notebook writes a sampler, proves its order of accuracy on data
# whose exact denoiser is known, and uses it on a trained model. It takes a few minutes on two CPU cores.

# %%
import importlib.util
import subprocess
import sys

GEN_JAX = ""  # in Colab: what pip installs, "git+" and the address of the repository that this notebook is from
if importlib.util.find_spec("gen_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", GEN_JAX], check=True)


def run(*words):
    """Runs `python -m <words>`, as in a shell."""
    subprocess.run([sys.executable, "-m", *words], check=True)


# %% [markdown]
# ## The step of DDIM
#
# With x_t = alpha x0 + sigma eps, an estimate of x0 gives one of the noise, too: eps_hat = (x_t - alpha_t x0_hat) /
# sigma_t. DDIM (Song et al. 2021) puts both together at the next, cleaner level s:
#
#     x_s = alpha_s x0_hat + sigma_s eps_hat
#         = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x0_hat
#
# ## Look ahead
#
# During a step the estimate x0_hat changes, but DDIM holds it at its value at the start. A better guess is where it
# will be half-way through the step, if it goes on changing as it did in the step before:
#
#     x0_mid = x0_hat + (h / (2 h_before)) (x0_hat - x0_hat_before)
#
# where h is the length of a step in log(alpha / sigma). That costs no further network call, only memory: for that
# a sampler has a `carry`.
#
# What depends on the levels alone is computed once, in float64: the `plan`. A step gets its row of the plan.

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import sampler, schedule, solvers
from gen_jax.diffusion.sampler import Sampler


class Plan(NamedTuple):
    of_x_t: np.ndarray  # each [S], for S steps
    of_x0: np.ndarray
    ahead: np.ndarray


def look_ahead() -> Sampler:
    """Returns DDIM whose x0_hat is extrapolated to the middle of each step."""

    def plan(levels, path):
        with np.errstate(divide="ignore", invalid="ignore"):  # the ends: pure noise and clean data
            h = np.diff(np.log(levels.alpha) - np.log(levels.sigma))
            ahead = h / (2 * np.roll(h, 1))
        inner = np.isfinite(ahead) & (np.arange(len(h)) > 0)  # the first step has none before it
        alpha_t, sigma_t, alpha_s, sigma_s = levels.alpha[:-1], levels.sigma[:-1], levels.alpha[1:], levels.sigma[1:]
        ratio = sigma_s / sigma_t
        return Plan(ratio, alpha_s - alpha_t * ratio, np.where(inner, ahead, 0.0))

    def step(carry, x_t, denoise, row, noise):
        x0_hat, plan = denoise(x_t, row.t), row.plan
        x0_mid = x0_hat + plan.ahead * (x0_hat - carry)
        return x0_hat, plan.of_x_t * x_t + plan.of_x0 * x0_mid, x0_hat

    return Sampler(plan, init=jnp.zeros_like, step=step, noisy=False)


# %% [markdown]
# ## Is it right?
#
# Let the data be normal, with mean 0 and standard deviation 0.5. Then the best denoiser is known:
#
#     E[x0 | x_t] = 0.25 alpha_t / (0.25 alpha_t^2 + sigma_t^2) x_t
#
# and so is the end of the exact path, without any randomness: noise of size 1 becomes data of size 0.5, so x0 is 0.5
# times the first x_t, up to the standard deviation of x_t there. We count how the error falls with the number of steps.

# %%
STD = 0.5
path = schedule.straight()  # alpha = 1 - t, sigma = t


def exact(x_t, level):
    over = (...,) + (None,) * (x_t.ndim - 1)  # a level for each picture
    alpha, sigma = (jnp.broadcast_to(each, x_t.shape[:1])[over] for each in (level.alpha, level.sigma))
    return STD**2 * alpha / (STD**2 * alpha**2 + sigma**2) * x_t


keys = jax.random.split(jax.random.key(0), 64)


def walk(rule, steps):
    return jax.jit(lambda keys: sampler.trajectory(exact, path, rule, steps, keys, shape=(1,)))(keys)


errors = {"DDIM": [], "look ahead": []}
counts = [8, 16, 32, 64, 128]
for num_steps in counts:
    for name, rule in (("DDIM", solvers.ddim()), ("look ahead", look_ahead())):
        found = walk(rule, path.steps(num_steps))
        errors[name].append(float(jnp.max(jnp.abs(found.x0 - STD * found.x_t[0]))))
errors

# %%
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series

lines = [Series(name, np.array(counts, float), np.array(values)) for name, values in errors.items()]
low, high = min(map(min, errors.values())), max(map(max, errors.values()))
svg.plot(lines, "steps", "error", Axis(7, 150, log=True), Axis(low / 2, 2 * high, log=True))

# %% [markdown]
# With twice the steps, DDIM's error halves: it is of first order. The error of the new sampler is smaller from the
# start, and falls faster: it is of second order, but for the first steps and the last one. These are DDIM's own,
# because log(alpha / sigma) is infinite at both ends.
#
# ## On a trained model
#
# A name in a config is a key of a table. A sampler that is in it before the first model is loaded can be asked for by
# its name. First a small model:

# %%
STEPS = 600

run(
    "gen_jax.main",
    "--config=flow_mnist:tiny",
    "--config.data.name=stroke_digits",
    f"--config.num_steps={STEPS}",
    "--config.checkpoint_every=200",
    "--config.eval_every=200",
    "--workdir=runs/notebook_flow",
)

# %%
import gen_jax

solvers.SAMPLERS["look_ahead"] = look_ahead


def drawn(name, num_steps):
    return gen_jax.load("runs/notebook_flow", sampler=name, num_steps=num_steps).sample(20).astype(float)


reference = drawn("heun", 64)  # where the exact path ends, nearly
for num_steps in (4, 8, 16):
    off = {name: np.abs(drawn(name, num_steps) - reference).mean() for name in ("ddim", "look_ahead", "dpm_solver")}
    print(num_steps, "steps:", ", ".join(f"{name} is off by {grey:.2f} grey values" for name, grey in off.items()))

# %% [markdown]
# `look_ahead` and the built-in `dpm_solver` agree: what you have just written is DPM-Solver++(2M) of Lu et al. 2022.
# Both ask the network as often as DDIM does.
#
# [Extend gen_jax](../docs/extend.md) says how to make such a sampler part of the project. Next:
# [compare two losses of a GAN](3_gan_losses.ipynb).
