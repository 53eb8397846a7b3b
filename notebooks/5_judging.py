# %% [markdown]
# # Judge samples of another program
#
# `python -m gen_jax.metrics` judges pictures, whichever program made them. This notebook makes four sets of digits with
# known faults, and looks at which measure sees which fault. It takes a few minutes on two CPU cores.

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
# ## Four sets with faults
#
# The reference is `stroke_digits`, whose digits are drawn from pen strokes. Our "models" are
#
# - `blurred`: good digits, blurred;
# - `few`: good digits, but only twenty different ones, again and again (mode collapse);
# - `copied`: training pictures, unchanged (memorisation);
# - `font`: digits of a font, noisy and shifted: what another program might make.
#
# A set is an `.npz` file with uint8 pictures `[N, H, W, C]`, or a folder of pictures.

# %%
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import PIL.ImageFont

from gen_jax.config import base_config
from gen_jax.data import dataset, stroke_digits
from gen_jax.figures.grid import grid

NUM = 400
fresh, _ = stroke_digits.draw(seed=7, index=np.arange(NUM))  # uint8 [NUM, 28, 28, 1]
config = base_config().data
config.name = "stroke_digits"
training = dataset.load(config).train["image"]
copied = np.asarray(training[dataset.spread(len(training), NUM)])  # those that the judge takes as the reference


def blurred(image):
    picture = PIL.Image.fromarray(image[..., 0])
    return np.asarray(picture.filter(PIL.ImageFilter.GaussianBlur(1.5)))[..., None]


def of_font(index, rng):
    picture = PIL.Image.new("L", (28, 28))
    font = PIL.ImageFont.load_default(size=int(rng.integers(18, 25)))
    PIL.ImageDraw.Draw(picture).text(rng.integers(4, 12, 2).tolist(), str(index % 10), fill=255, font=font)
    return np.clip(np.asarray(picture) + rng.normal(0, 10, (28, 28)), 0, 255).astype(np.uint8)[..., None]


rng = np.random.default_rng(0)
sets = {
    "blurred": np.stack([blurred(image) for image in fresh]),
    "few": fresh[np.arange(NUM) % 20],
    "copied": copied,
    "font": np.stack([of_font(index, rng) for index in range(NUM)]),
}
for name, images in sets.items():
    np.savez(f"{name}.npz", images)
PIL.Image.fromarray(grid(np.concatenate([images[:20] for images in sets.values()]), 20)[..., 0])

# %% [markdown]
# ## Judge them
#
# The judge is a classifier that is trained on the reference, in about a minute; its features and its classes are what
# pictures are compared by. (`--judge=efficientnet_lite0` takes features of ImageNet, and works for any pictures.) The
# last argument is the reference. Its own test images are judged beside the sets: no set can be expected to do better.

# %%
run(
    "gen_jax.metrics",
    "blurred.npz",
    "few.npz",
    "copied.npz",
    "font.npz",
    "stroke_digits",
    "--judge=classifier",
    "--measures=frechet,overlap,score,memorisation",
    f"--num={NUM}",
    "--json=table.json",
)

# %% [markdown]
# Read the table by column, beside that of the real test images:
#
# - **blurred**: precision does not see it: a blurred digit is still near some real digit. Recall does, because the
#   blurred digits are all alike, and so does the Frechet distance.
# - **few**: precision is high again, because each picture is good. Recall and coverage see that most real pictures have
#   no counterpart. Looking at single pictures would not show this fault.
# - **copied**: as good as the test images by every measure of quality. Only `memorisation` sees it: the share of
#   pictures that are nearer to a training picture than to any test picture, one half if nothing was learned by heart.
# - **font**: the largest Frechet distance, and nearly no coverage, though a person reads its digits easily. These
#   measures ask whether pictures come from the same distribution as the reference, not whether they are legible.
#
# No measure sees all four faults.
#
# ## What compares with what
#
# One judge, one number of pictures, one reference. The Frechet distance changes with the number, for
# real images, too:

# %%
for num in (100, 200, 400):
    run("gen_jax.metrics", "few.npz", "stroke_digits", "--judge=classifier", "--measures=frechet", f"--num={num}")

# %% [markdown]
# `--json` writes every value with its protocol: the judge, the hash of its weights, the numbers of pictures, the
# intervals.

# %%
import json
import pathlib

found = json.loads(pathlib.Path("table.json").read_text())
print(json.dumps(found[0], indent=1)[:1500])

# %% [markdown]
# [Judge pictures](../docs/judging.md) describes all measures and judges, and when a value may be called FID.
