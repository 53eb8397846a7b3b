"""Codes of four autoencoders with equal networks, and what a second model makes of them.

    python -m experiments.codes    # three seeds of four runs of two stages; 1,000 samples a row

A learned codebook (VQ-VAE) and finite scalar quantization (FSQ) give whole numbers, of which a PixelCNN is the second
model. The means of a VAE with a small KL weight and the vectors of a sparse-coding autoencoder (SC-VAE) are real
numbers, of which a DDPM is. All encoders and decoders have the levels (32, 64), which make 7x7 codes of a digit, and
1,500 steps; the second models have 2,000. PSNR is that of test images after encoding and decoding. Runs are in
runs/codes; what is finished is not repeated.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ablation
from experiments.ablation import DIVERSITY, QUALITY, Found, Row, Values, means
from gen_jax import command, evaluate, sample
from gen_jax.data import dataset
from gen_jax.figures.markup import number
from gen_jax.method import stream, to_bytes, to_data
from gen_jax.metrics.psnr import psnr

FSQ = ("--config.pretrained.vqvae.quantizer=fsq", "--config.pretrained.vqvae.quantizer.levels=5,5,5")
CONFIGS = {"vq": "codes_mnist.py", "fsq": "codes_mnist.py", "kl": "latent_mnist.py", "sc": "latent_mnist.py:sparse"}
ROWS = {"VQ-VAE": Row("vq"), "FSQ": Row("fsq"), "VAE": Row("kl"), "SC-VAE": Row("sc")}
ENCODED_AT_ONCE = 250


def of_run(workdir: pathlib.Path, model: sample.Model, data: dataset.Dataset) -> Values:
    """Returns the PSNR of the first stage; of whole numbers also the share of codes in use and their bits per image; of
    sparse codes also the share of atoms that are on.
    """
    first = sample.load(workdir / "pretrained")
    code = first.method.code
    assert code is not None
    _, arrays, rows = evaluate.held_out(data, model.config.eval.num_examples)

    @jax.jit
    def both(state: Any, batch: Any) -> Any:
        codes = code.encode(state, batch, stream(state.key, "eval"))
        return codes, to_data(code.decode(state, codes), data.spec)

    used, quality = set(), []
    for start in range(0, len(rows), ENCODED_AT_ONCE):
        some = rows[start : start + ENCODED_AT_ONCE]
        batch = {name: np.asarray(values[some]) for name, values in arrays.items()} | {"index": some}
        codes, found = jax.device_get(both(first.state, batch))
        shown = to_bytes(batch["image"], data.spec.value_range)
        quality += psnr(jnp.asarray(shown), found, span=255.0).tolist()
        used |= set(np.unique(codes).tolist()) if code.kind == "integers" else set()
    values = {"psnr": float(np.mean(quality))}
    if code.kind == "integers":
        bits = ablation.losses(model, data)["bits_per_code"] * math.prod(code.shape)
        return values | {"codes_used": len(used) / code.size, "bits_per_image": bits}
    sparse = {name: value for name, value in ablation.losses(first, data).items() if name == "nonzeros"}
    return values | sparse


def verdict(found: Found) -> str:
    """Returns one line: the autoencoder with the best reconstructions, and the one with the best samples.

    Example:
      >>> verdict({("VAE", 0): {"psnr": 20.0, "frechet_distance": 3.0}})
      'Best reconstructions: VAE (20 dB). Best samples: VAE (Frechet distance 3).'
    """
    quality, distance = means(found, "psnr"), means(found, "frechet_distance")
    sharp, best = max(quality, key=quality.__getitem__), min(distance, key=distance.__getitem__)
    return (
        f"Best reconstructions: {sharp} ({number(quality[sharp], 3)} dB). "
        f"Best samples: {best} (Frechet distance {number(distance[best], 3)})."
    )


ABLATION = ablation.Ablation(
    name="codes",
    about=(__doc__ or "").split("\n")[0],
    words=(
        "--config.num_steps=2000", "--config.pretrained.num_steps=1500",
        "--config.pretrained.optimizer.decay.share=0.5",
    ),
    configs=CONFIGS,
    runs={"vq": (), "fsq": FSQ, "kl": (), "sc": ()},
    rows=ROWS,
    measures=(
        "psnr", "codes_used", "nonzeros", "bits_per_image", "frechet_distance", "confident_share", "recall",
        "images_per_second",
    ),
    of_run=of_run,
    verdict=verdict,
    figure=ablation.panels(("psnr", "Reconstruction", "PSNR in dB, right is better"), QUALITY, DIVERSITY),
    folder="codes",
    num=1_000,
)  # fmt: skip

if __name__ == "__main__":
    command.run(lambda argv: ablation.main(ABLATION, argv), "the same command resumes from here")
