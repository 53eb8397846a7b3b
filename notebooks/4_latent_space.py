# %% [markdown]
# # The latent space of a VAE
#
# A variational autoencoder squeezes a picture into a few numbers, its *code*, and makes a picture of any code. With two
# numbers one can see all codes at once. This notebook trains such a VAE, draws where the digits go, and walks through
# the plane. It takes a few minutes on two CPU cores.

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
# ## Train

# %%
STEPS = 1000

run(
    "gen_jax.main",
    "--config=vae_mnist:tiny",
    "--config.data.name=stroke_digits",
    f"--config.num_steps={STEPS}",
    "--config.batch_size=64",
    "--config.checkpoint_every=500",
    "--config.eval_every=500",
    "--config.network=dense",
    "--config.network.hidden=256,256",
    "--workdir=runs/notebook_vae",
)

# %% [markdown]
# ## Where the digits go
#
# The encoder gives the mean of q(z | x), a point of the plane for each picture. It was never told the digits; the
# colours are ours.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

import gen_jax
from gen_jax.data import stroke_digits
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series
from gen_jax.figures.grid import grid

model = gen_jax.load("runs/notebook_vae")
code = model.method.code
images, labels = stroke_digits.draw(seed=5, index=np.arange(500))  # not those of training
encode = jax.jit(lambda state, batch: code.encode(state, batch, jax.random.key(0)))
z = np.asarray(encode(model.state, {"image": images, "label": labels, "index": np.arange(500)}), float)  # [500, 2]
z.mean(axis=0), z.std(axis=0)

# %%
square = Axis(-3.5, 3.5)
clouds = [Series(str(digit), *z[labels == digit].T, dots=True) for digit in (0, 1, 3, 7, 8)]
svg.plot(clouds, "first number", "second number", square, square)

# %% [markdown]
# The prior of the codes is a standard normal distribution. The KL divergence in the loss keeps the codes of all
# pictures together near it, so that there are no empty places that the decoder has never seen.
#
# ## The plane as pictures
#
# The decoder makes a picture of each point. The points are the quantiles of the normal distribution, so that each cell
# holds the same share of the prior.

# %%
from statistics import NormalDist

decode = jax.jit(code.decode)


def show(codes, columns):
    images = decode(model.state, jnp.asarray(codes, jnp.float32))  # f32 [N, 28, 28, 1] in [-1, 1]
    return PIL.Image.fromarray(grid(np.asarray(127.5 * (images + 1)).astype(np.uint8), columns)[..., 0])


line = [NormalDist().inv_cdf((i + 0.5) / 16) for i in range(16)]
show([(x, y) for y in line[::-1] for x in line], columns=16)

# %% [markdown]
# ## A walk
#
# A straight line between the codes of two pictures passes over others. Each stop looks like a digit, though some lie
# between two of them.

# %%
start, end = z[0], z[7]
show([start + share * (end - start) for share in np.linspace(0, 1, 12)], columns=12)

# %% [markdown]
# ## How much does the code say?
#
# The report splits the loss into the reconstruction and the KL divergence, in nats. The second is the mean amount of
# information that the code holds about a picture. Weighting it more (`--config.vae.beta=4`) makes codes that hold less,
# and are smoother; that is the beta-VAE.

# %%
import json
import pathlib

report = json.loads(pathlib.Path("runs/notebook_vae/report.json").read_text())
for metric in report["metrics"]:
    print(metric["name"], metric["value"])

# %% [markdown]
# Two numbers are few: pictures are blurred, because the decoder shows the mean of all pictures that share a code.
# `vae_mnist_dense` has forty. Next: [judge samples of another program](5_judging.ipynb).
