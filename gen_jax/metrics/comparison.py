"""Sample sets beside each other: every measure of each set against one reference, in the features of one network.

All sets have the same number n of pictures, and so has the reference: most measures change with n. Where the reference
has a test split of n pictures, that is judged like a sample set. It shows what perfect samples would score.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gen_jax.data import cache
from gen_jax.method import UserError
from gen_jax.metrics import bootstrap, kid, ms_ssim, on_disk, vendi
from gen_jax.metrics import inception_score as scores
from gen_jax.metrics import memorisation as memory
from gen_jax.metrics.extractors import Extractor
from gen_jax.metrics.frechet import require_enough
from gen_jax.metrics.precision_recall import prdc
from gen_jax.metrics.sources import Pictures
from gen_jax.writers import Progress

PUBLISHED_NUM = 50_000  # samples of a published FID


class Seen(NamedTuple):
    """A set of pictures, as the network of an extractor sees them.

    Attributes:
      name: of the set.
      features: f32 [n, D], mostly memory-mapped.
      probabilities: f32 [n, K], or None.
    """

    name: str
    features: np.ndarray
    probabilities: np.ndarray | None

    def rows(self, numbers: np.ndarray) -> Seen:
        """Returns some of the pictures."""
        return Seen(
            self.name, self.features[numbers], None if self.probabilities is None else self.probabilities[numbers]
        )


class Row(NamedTuple):
    """One measure of one set.

    Attributes:
      measure: its name.
      value: of the set.
      spread: lower and upper end of what `how` says, or None.
      better: "lower", "higher", "0.5", or "reference": near the value of real pictures.
      how: the protocol, in words.
      standard_error: of the value, or None if it is unknown.
    """

    measure: str
    value: float
    spread: tuple[float, float] | None
    better: str
    how: str
    standard_error: float | None = None


class Sets(NamedTuple):
    """What a measure may look at.

    Attributes:
      fake: the set to judge.
      real: n pictures of the reference.
      test: n pictures of its test split, or None.
      extractor: the network.
      whole: whether `real` are all pictures of the reference.
      pictures: the pictures of `fake` with their labels, for measures that need no network; None leaves these out.
    """

    fake: Seen
    real: Seen
    test: Seen | None
    extractor: Extractor
    whole: bool
    pictures: Pictures | None = None


def see(
    pictures: Pictures,
    extractor: Extractor,
    cache_dir: str = "",
    keep: bool = False,
    progress: Progress | None = None,
) -> Seen:
    """Returns pictures as an extractor sees them. Neither they nor their features are in memory all at once.

    Args:
      pictures: to look at.
      extractor: the network.
      cache_dir: as in the config; the features are in a file there.
      keep: they are looked at once, and the file remains.
      progress: counts pictures; those whose features are known already are not among them any more.
    """
    folder = cache.root(cache_dir) / "features"
    if not keep or not extractor.digest:
        return Seen(pictures.name, *_look(pictures, extractor, folder, progress))
    key, looked = {"judge": extractor.label, "images": cache.fingerprint({"image": pictures.images})}, False

    def build() -> tuple[cache.Arrays, dict]:
        nonlocal looked
        looked = True
        features, probabilities = _look(pictures, extractor, folder, progress)
        return {"features": features} | ({} if probabilities is None else {"probabilities": probabilities}), {}

    found = cache.fetch(folder, f"{extractor.name}-{pictures.name}", key, build).arrays
    if progress is not None and not looked:
        progress.expect(progress.total - len(pictures.images))
    return Seen(pictures.name, found["features"], found.get("probabilities"))


def _look(
    pictures: Pictures, extractor: Extractor, folder: pathlib.Path, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The features and the probabilities, memory-mapped."""
    seen, guessed = on_disk.Store(folder), None
    for features, probabilities in extractor.batches(pictures.images):
        seen.append(features)
        if probabilities is not None:
            guessed = guessed or on_disk.Store(folder)
            guessed.append(probabilities)
        if progress is not None:
            progress.update(progress.done + len(features))
    return seen.array(), guessed and guessed.array()


def frechet(sets: Sets) -> list[Row]:
    """The Frechet distance, with a 95% interval; `fid` if all is as published."""
    n, real = len(sets.fake.features), len(sets.real.features)
    require_enough(min(n, real), sets.extractor.size)
    found = bootstrap.linear_frechet_interval(sets.fake.features, sets.real.features)
    is_fid = sets.extractor.published and n >= PUBLISHED_NUM and sets.whole
    how = f"{n:,} pictures against {real:,}; 95% bootstrap interval"
    how += ", to first order" if is_fid else ", to first order; not FID"
    name, spread = "fid" if is_fid else "frechet_distance", (found.low, found.high)
    return [Row(name, found.value, spread, "lower", how, found.standard_error)]


def kernel(sets: Sets) -> list[Row]:
    """The kernel distance; KID in the features of the published network."""
    found = kid.kernel_distance(sets.fake.features, sets.real.features)
    name = "kid" if sets.extractor.published else "kernel_distance"
    how, spread = "kernel (x.y / D + 1)^3, unbiased", None
    if found.std:
        spread = found.mean - found.std, found.mean + found.std
        how += (
            f"; mean of {found.num_subsets} subsets of {found.subset_size:,} pictures, plus and minus their standard "
            "deviation"
        )
    return [Row(name, found.mean, spread, "lower", how)]


def overlap(sets: Sets) -> list[Row]:
    """Precision and recall (k = 3), density and coverage (k = 5)."""
    found = prdc(sets.real.features, sets.fake.features)
    num = {"precision": len(sets.fake.features)} | dict.fromkeys(("recall", "coverage"), len(sets.real.features))
    rows = []
    for name, value in found._asdict().items():
        how = f"balls to neighbour number {3 if name in ('precision', 'recall') else 5}"
        if name == "density":  # no share: its balls overlap
            rows.append(Row(name, value, None, "higher", how))
        else:
            error = math.sqrt(value * (1 - value) / num[name])
            rows.append(Row(name, value, wilson(value, num[name]), "higher", f"{how}; 95% Wilson interval", error))
    return rows


def wilson(share: float, num: int) -> tuple[float, float]:
    """Returns the 95% interval of a share of `num` independent trials (Wilson 1927); it has a width at 0 and 1 too.

    Example:
      >>> low, high = wilson(1.0, 60)  # at 1 it starts at n / (n + z^2)
      >>> round(low, 4), high
      (0.9398, 1.0)
    """
    z = 1.959964
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def score(sets: Sets) -> list[Row]:
    """The Inception score; `class_score` with another classifier."""
    if sets.fake.probabilities is None:
        raise UserError(f"the judge {sets.extractor.name} has no classes: another one does (efficientnet_lite0)")
    found = scores.inception_score(sets.fake.probabilities)
    name = "inception_score" if sets.extractor.published else "class_score"
    how = (
        f"exp of the mean KL(p(y|x) || p(y)) over classes of {sets.extractor.classes}; mean of {found.num_splits} "
        "random splits, plus and minus their standard deviation; it never looks at the reference"
    )
    return [Row(name, found.mean, (found.mean - found.std, found.mean + found.std), "higher", how)]


def variety(sets: Sets) -> list[Row]:
    """The Vendi score."""
    how = "effective number of different pictures, cosine of features; without reference"
    return [Row("vendi_score", vendi.vendi_score(sets.fake.features), None, "reference", how)]


def similarity(sets: Sets) -> list[Row]:
    """The similarity of pictures of one class, if they have labels."""
    if sets.pictures is None or sets.pictures.labels is None or sets.pictures.labels.max(initial=-1) < 0:
        raise UserError("these pictures have no labels: an .npz holds them as arr_1, a folder as sub-folders")
    images, labels = sets.pictures.images, sets.pictures.labels
    height, width = images.shape[1:3]
    pairs = ms_ssim.pairs_per_class(len(np.unique(labels)))
    found = ms_ssim.within_class(images, labels, pairs)
    how = (
        f"mean MS-SSIM ({ms_ssim.protocol(height, width, pairs)}) of random pairs of one class, of the pixels; above "
        "the real value there is less variety within classes"
    )
    return [Row("within_class_ms_ssim", found.mean, None, "reference", how, found.standard_error)]


def copies(sets: Sets) -> list[Row]:
    """The share of samples nearer to training than to test images."""
    if sets.fake is sets.test:
        return []
    if sets.test is None:
        raise UserError("it needs as many test images, and the reference has no such split: use a data set by name")
    found = memory.memorisation(sets.fake.features, sets.real.features, sets.test.features)
    how = (
        f"share of pictures whose nearest of {found.num_images:,} reference images is nearer than their nearest of as "
        "many test images; about 0.5 without memorisation"
    )
    share, error = found.share, found.standard_error
    spread = max(0.0, share - 1.96 * error), min(1.0, share + 1.96 * error)
    return [Row("memorisation", share, spread, "0.5", f"{how}; 95% normal interval", error)]


MEASURES: dict[str, Callable[[Sets], list[Row]]] = {
    "frechet": frechet,
    "kernel": kernel,
    "overlap": overlap,
    "score": score,
    "vendi": variety,
    "similarity": similarity,
    "memorisation": copies,
}
"""From a name on the command line to the measures that it stands for."""


def judge(sets: Sets, measures: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """Returns the rows of all measures of one set, and for each measure that is left out the reason."""
    rows, left_out = [], {}
    for name in measures:
        try:
            rows += MEASURES[name](sets)
        except (UserError, ValueError) as error:
            left_out[name] = str(error)
    return rows, left_out


def differences(seen: Sequence[Seen], real: Seen) -> list[tuple[str, bootstrap.Interval]]:
    """Returns the differences of the first set's Frechet distance and each other set's, with 95% intervals.

    Both distances of a difference are to the same draws of the reference, so its interval is shorter than those of the
    two distances suggest.
    """
    first = seen[0]
    return [
        (
            f"{first.name} minus {each.name}",
            bootstrap.linear_frechet_interval(first.features, real.features, each.features),
        )
        for each in seen[1:]
    ]


def table(columns: Mapping[str, Sequence[Row]]) -> str:
    """Returns a Markdown table with a row for each measure and a column for each set.

    Example:
      >>> print(table({"a": [Row("recall", 0.5, (0.4, 0.6), "higher", "")], "b": []}))
      | measure | better | a | b |
      | --- | --- | ---: | ---: |
      | recall | higher | 0.5 (0.4 to 0.6) | |
    """
    measures = {row.measure: row.better for rows in columns.values() for row in rows}
    lines = [["measure", "better", *columns], ["---", "---", *["---:"] * len(columns)]]
    for measure, better in measures.items():
        cells = [next((shown(row) for row in rows if row.measure == measure), "") for rows in columns.values()]
        lines.append([measure, better, *cells])
    return "\n".join(" ".join(f"| {cell}" if cell else "|" for cell in line) + " |" for line in lines)


def shown(row: Row) -> str:
    """Returns a value with its spread.

    Example:
      >>> shown(Row("recall", 0.51234, None, "higher", ""))
      '0.5123'
    """
    if row.spread is None:
        return f"{row.value:.4g}"
    low, high = row.spread
    return f"{row.value:.4g} ({low:.4g} to {high:.4g})"
