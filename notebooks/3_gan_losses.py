# %% [markdown]
# # Compare two losses of a GAN
#
# A GAN can forget parts of its data: it *collapses* to a few modes. On points of the plane around known centres one can
# count that. This notebook trains the game of Goodfellow et al. 2014 and a relativistic game with a penalty, with three
# seeds each, and compares them. It takes a few minutes on two CPU cores.

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
# ## The data
#
# 25 narrow normal distributions on a grid.

# %%
from gen_jax.data import gaussians
from gen_jax.figures import svg
from gen_jax.figures.curve import Axis, Series

grid25 = gaussians.find("gaussians:grid25")
square = Axis(-grid25.extent, grid25.extent)


def show(title, points):
    x, y = points.T.astype(float)
    return svg.plot([Series(title, x, y, dots=True)], "", "", square, square)


real = gaussians.draw(grid25, seed=0, num_points=1000)
show("data", real)

# %% [markdown]
# ## A sweep
#
# One command trains a run for each combination of the values: two variants of the game, with three seeds each. The
# values of `gan.penalty` and `gan.loss` belong together, so the games are two sweeps.

# %%
STEPS = 1500

for name, loss, penalty in (("minimax", "minimax", "none"), ("relativistic", "relativistic", "r1")):
    run(
        "gen_jax.sweep",
        "--config=gan_gaussians:tiny",
        "seed=0,1,2",
        f"--config.num_steps={STEPS}",
        "--config.batch_size=128",
        "--config.eval_every=500",
        "--config.checkpoint_every=500",
        "--config.log_every=50",
        f"--config.gan.loss={loss}",
        f"--config.gan.penalty={penalty}",
        f"--workdir=runs/notebook_gan/{name}",
    )

# %% [markdown]
# ## Points of both games

# %%
import pathlib

import gen_jax

workdirs = {
    name: sorted(path.parent for path in pathlib.Path("runs/notebook_gan", name).glob("*/config.json"))
    for name in ("minimax", "relativistic")
}
show("minimax, seed 0", gen_jax.load(workdirs["minimax"][0]).sample(1000).reshape(-1, 2))

# %%
show("relativistic, seed 0", gen_jax.load(workdirs["relativistic"][0]).sample(1000).reshape(-1, 2))

# %% [markdown]
# ## Count
#
# A centre is found if enough points lie within a few standard deviations of it. Points far from all centres are bad
# ones: a model could otherwise find all centres by covering the plane. Both numbers are needed, and more than one seed.

# %%
from gen_jax.metrics import modes

for name, folders in workdirs.items():
    for workdir in folders:
        points = gen_jax.load(workdir).sample(2000).reshape(-1, 2)
        found = modes.scores(points, grid25.centres, grid25.sigma)
        print(f"{name:13} {workdir.name}: {found}")

# %% [markdown]
# A difference that is smaller than the spread between seeds says nothing about the losses. `--mode=compare` puts all of
# it on one page: what differs in the configs, metrics with their spread and paired differences, curves and samples.

# %%
both = [str(workdir) for folders in workdirs.values() for workdir in folders]
run("gen_jax.main", "--mode=compare", *both, "--out=runs/notebook_gan/compare.html")

# %% [markdown]
# In Colab, find the page in the folder on the left. `python -m experiments.gan_losses` of the repository compares more
# games, with and without penalties, over longer training. Next: [the latent space of a VAE](4_latent_space.ipynb).
