# %% [markdown]
# # Train and look at a DDPM
#
# A diffusion model learns to remove noise from pictures. Given pure noise, and asked again and again, it ends at a new
# picture. This notebook adds noise to digits, trains a small model to remove it, and looks at what it has learned. It
# takes a few minutes on two CPU cores, and downloads nothing: the digits are drawn from pen strokes.

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
# ## Noise, level by level
#
# At time t a picture x0 has become x_t = alpha x0 + sigma eps, where eps is standard normal noise. A *schedule* says
# what alpha and sigma are. Here is the cosine schedule of Nichol & Dhariwal 2021, and what it makes of ten digits.

# %%
import numpy as np
import PIL.Image

from gen_jax.data import stroke_digits
from gen_jax.diffusion import schedule
from gen_jax.figures import svg
from gen_jax.figures.curve import Series
from gen_jax.figures.grid import grid

cosine = schedule.cosine(num_steps=1000)
t = np.arange(1000)
svg.plot([Series("alpha", t, cosine.alpha), Series("sigma", t, cosine.sigma)], "time", "factor")

# %%
digits, labels = stroke_digits.draw(seed=0, index=np.arange(10))  # uint8 [10, 28, 28, 1]


def show(images, columns=10):
    """Shows images with values in [-1, 1], twice as large."""
    pixels = grid(np.clip(127.5 * (np.asarray(images) + 1), 0, 255).astype(np.uint8), columns)
    return PIL.Image.fromarray(np.kron(pixels[..., 0], np.ones((2, 2), np.uint8)))


x0 = digits / 127.5 - 1
eps = np.random.default_rng(0).standard_normal(x0.shape)
levels = [0, 200, 400, 600, 800, 999]
show(np.concatenate([cosine.alpha[t] * x0 + cosine.sigma[t] * eps for t in levels]))

# %% [markdown]
# Each row is one level. Down to the middle, a person can still tell the digit; the last row is noise.
#
# ## Train
#
# The network sees x_t and t, and predicts the noise. `ddpm_mnist:tiny` is a config with a very small U-Net; we give it
# more steps than it has by default. The run writes its directory, `runs/notebook_ddpm`.

# %%
STEPS = 800

run(
    "gen_jax.main",
    "--config=ddpm_mnist:tiny",
    "--config.data.name=stroke_digits",
    f"--config.num_steps={STEPS}",
    "--config.checkpoint_every=200",
    "--config.eval_every=200",
    "--workdir=runs/notebook_ddpm",
)

# %% [markdown]
# `metrics.jsonl` holds one line for each report. The loss falls quickly, then slowly. That is normal: most of what is
# left is noise that no network can know.

# %%
import json
import pathlib

lines = [json.loads(line) for line in pathlib.Path("runs/notebook_ddpm/metrics.jsonl").read_text().splitlines()]
lines[0]

# %%
losses = np.array([(line["step"], line["train/loss"]) for line in lines if "train/loss" in line])
svg.plot([Series("training loss", *losses.T)], "step", "mean squared error")

# %% [markdown]
# ## Sample
#
# The model is class-conditional. Without `labels` the samples go through the digits in turn. Sampling starts from noise
# and takes as many steps as we like; more steps cost more network calls.

# %%
import gen_jax

rows = []
for num_steps in (2, 5, 10, 50):
    model = gen_jax.load("runs/notebook_ddpm", sampler="ddim", num_steps=num_steps)
    rows.append(model.sample(10) / 127.5 - 1)
show(np.concatenate(rows))

# %% [markdown]
# The rows take 2, 5, 10 and 50 steps from the *same* noise: DDIM follows a path without new randomness, so the digits
# of a column resemble each other, and sharpen. The ancestral sampler draws new noise in every step instead.
#
# ## There and back
#
# As DDIM has no randomness of its own, it can run backwards: from a picture to the noise that it would come from. Two
# pictures can then be connected by a walk through the noise, each stop of which is a picture.

# %%
model = gen_jax.load("runs/notebook_ddpm", num_steps=50)
pair = digits[[3, 8]]
way = model.interpolate(pair[:1], pair[1:], num=10, labels=3)  # uint8 [1, 10, 28, 28, 1]
show(way[0] / 127.5 - 1)

# %% [markdown]
# A model that was trained for so short a time gets the strokes and misses some digits. `python -m gen_jax.main
# --config=ddpm_mnist` trains a larger one for ten minutes. Next: [write a sampler of your own](2_sampler.ipynb).
