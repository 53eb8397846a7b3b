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

from gen_jax.data import stroke_digits
from gen_jax.figures.grid import grid

NUM = 400
fresh, _ = stroke_digits.draw(seed=7, index=np.arange(NUM))  # uint8 [NUM, 28, 28, 1]
training, _ = stroke_digits.draw(seed=0, index=np.arange(NUM))


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
    "copied": training,
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
# Read the table by column:
#
# - **blurred**: the Frechet distance and the precision see it; few of its pictures look like real ones.
# - **few**: precision stays high, because each picture is good. Recall and coverage see it: most real pictures have no
#   counterpart. A single picture would not show this fault.
# - **copied**: nearly perfect in all measures of quality, better than the test images. Only `memorisation` sees it: the
#   share of samples that are nearer to a training picture than to any test picture is far above one half.
# - **font**: bad in everything, though a person reads its digits easily. These measures ask whether pictures come from
#   the same distribution as the reference, not whether they are legible.
#
# ## What compares with what
#
# One judge, one number of pictures, one reference. The Frechet distance falls as the number grows, for real images too:

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
