"""Small networks and a first stage for the tests of this folder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.autoregressive.pixelcnn import PixelCNN
from gen_jax.config import base_config
from gen_jax.method import Code, DataSpec, Method, Stage, labelled


def network(num_values: int, grid: tuple[int, int], classes: int = 0, **fields: Any) -> Any:
    return PixelCNN(num_values, grid, **{"width": 6, "depth": 3, "num_classes": classes} | fields)


def shaken(params, scale=0.3, seed=2):
    """Parameters with random numbers added to all: the last layer, which starts at zero, does something, too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), params)


def spec_of(grid, classes=()):
    return DataSpec("made_up", (*grid, 1), 64, labelled(classes) if classes else {})


def stage_of(spec, size, kind: Any = "integers", shape=None, code=True):
    """A first stage whose codes are the bytes of a picture, plus what its weights say, modulo its size.

    Pictures are its codes again, from -1 to 1.
    """

    def encode(state, batch, key):
        return (batch["image"][..., 0].astype(jnp.int32) + state.ema["shift"]) % size

    def decode(state, codes):
        return ((codes - state.ema["shift"]) % size / ((size - 1) / 2) - 1.0)[..., None]

    made = Code(kind, spec.image_shape[:2] if shape is None else shape, encode, decode, size) if code else None
    config = base_config()
    config.method = "toy"
    return Stage(Method(*[None] * 5, code=made), config, spec, {"shift": jnp.int32(0)})  # pyright: ignore


def batch_of(integers, label=None):
    """A batch whose pictures are integers [B, h, w]."""
    index = np.arange(len(integers), dtype=np.int32)
    batch = {"image": np.asarray(integers, np.uint8)[..., None], "index": index}
    return batch if label is None else batch | {"label": np.asarray(label, np.int32)}


def every_grid(grid, size):
    """All pictures there are: [size ** (h w), h, w]."""
    num = grid[0] * grid[1]
    return np.stack(np.meshgrid(*[np.arange(size)] * num, indexing="ij"), -1).reshape(-1, *grid)
