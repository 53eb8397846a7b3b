"""Grey pictures of one mean brightness each, which spans the whole range: a test of what the last noise level hides.

`shades` holds 32x32 pictures in four classes: flat, stripes, checks and a ramp. The mean of a picture is uniform from
black to white and independent of its class, so a model has to get it right from noise alone. Lin et al. 2023 show that
schedules whose last level still carries signal fail at that. Nothing is downloaded or cached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gen_jax.data import cache
from gen_jax.data.dataset import Dataset
from gen_jax.method import DataSpec, UserError, labelled

NAME = "shades"
SIZE = 32  # pixels
CLASSES = ("flat", "stripes", "checks", "ramp")
NUM_EXAMPLES = {"train": 20_000, "test": 4_000}
CONTRAST = 0.5  # largest amplitude of a texture, as a share of what the brightness leaves
_SEED = {"train": 0, "test": 1}


def draw(seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures uint8 [num, 32, 32, 1] and labels i32 [num], a function of (seed, row) alone.

    Before rounding the mean of a picture is exactly its brightness: textures have mean 0, and their amplitude keeps
    every pixel between black and white.

    Example:
      >>> images, labels = draw(seed=0, num=1_000)
      >>> means = images.mean(axis=(1, 2, 3)) / 255
      >>> bool(means.min() < 0.01), bool(means.max() > 0.99), round(float(means.mean()), 1)
      (True, True, 0.5)
    """
    raw = np.random.Philox(np.random.SeedSequence([seed])).random_raw(5 * num).reshape(num, 5)
    label = (raw[:, 0] % len(CLASSES)).astype(np.int32)
    brightness, strength, angle, phase = (((raw[:, 1:] >> 11) + 0.5) / 2**53).T  # inside (0, 1)
    amplitude = CONTRAST * strength * np.minimum(brightness, 1 - brightness)
    texture = np.choose(label[:, None, None], _textures(2 * np.pi * angle, 2 * np.pi * phase))
    pixels = brightness[:, None, None] + amplitude[:, None, None] * texture
    return np.rint(255 * pixels).astype(np.uint8)[..., None], label


def _textures(angle: np.ndarray, phase: np.ndarray) -> list[np.ndarray]:
    """One texture of each class, f64 [N, 32, 32], between -1 and 1 and of mean 0."""
    line = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    turn, shift = angle[:, None, None], phase[:, None, None]
    across = np.cos(turn) * line[:, None] + np.sin(turn) * line  # of the direction `turn`, -0.71..0.71
    stripes = np.sin(6 * np.pi * line + shift) + 0 * across  # three whole periods
    checks = np.sign(np.sin(4 * np.pi * line[:, None]) * np.sin(4 * np.pi * line)) * np.sign(shift - np.pi)
    return [0 * across, stripes, checks, across * np.sqrt(2)]


def load(name: str, config: Any) -> Dataset:
    """Returns the set; see `dataset.load`.

    Args:
      name: "": there is one such set.
      config: `image_size` and `channels` must be 0 or those of the set, splits "train" and "test" or "".

    Raises:
      UserError: the config asks for what the set does not have.
    """
    if name:
        raise UserError(f"there is no set {NAME}:{name}; its name is {NAME}")
    for key, size in (("image_size", SIZE), ("channels", 1)):
        if config[key] not in (0, size):
            raise UserError(f"config.data.{key} is {config[key]}; {NAME} has {size}: use 0")
    for key, allowed in (("train_split", ("train",)), ("test_split", ("test", ""))):
        if config[key] not in allowed:
            raise UserError(f"config.data.{key} is {config[key]!r}; {NAME} has no such split: use {allowed[0]}")
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for split, num in NUM_EXAMPLES.items():
        image, label = draw(_SEED[split], num)
        arrays[split] = {"image": image, "label": label}
    spec = DataSpec(
        name=NAME,
        image_shape=(SIZE, SIZE, 1),
        num_examples=NUM_EXAMPLES["train"],
        features=labelled(CLASSES),
        fingerprint=cache.fingerprint(arrays["train"]),
    )
    return Dataset(spec, arrays["train"], arrays["test"] if config.test_split else None)
