"""How good a trained model is: loss on the test split, and its samples judged by a classifier of our own.

A classifier that the project trains on the data set itself gives the features and the labels; no download
is involved, and no figure can be compared with published FIDs. Each name says so, and says how many samples.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gen_jax import parallel, report, sample
from gen_jax.data import dataset, gaussians
from gen_jax.data.points import drawable
from gen_jax.method import Method, Picture, State, stream
from gen_jax.metrics import classifier as classifiers
from gen_jax.metrics import modes, ms_ssim
from gen_jax.metrics.frechet import frechet_distance
from gen_jax.metrics.precision_recall import MAX_REFERENCE, density_coverage, nearest, precision_recall, thin
from gen_jax.run import Run, write_json

NUM_NEAREST = 8  # samples whose nearest training images are shown
NEIGHBOURS = 5
NUM_PAIRS = 100  # of each class, whose similarity is taken; as Odena et al. 2017


def evaluate(workdir: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """`--mode=eval`: judges `config.eval.num_samples` new samples of a run; writes report.json and the page."""
    model = sample.load(workdir, overrides)
    config, run = model.config, Run(workdir)
    if model.spec.name == config.data.offline_substitute:
        config.data.name = model.spec.name  # there may be a network by now, but this is what it was trained on
    data = dataset.load(config.data)
    dataset.refuse_other(model.spec, data.spec, run.workdir)
    chief = jax.process_index() == 0
    images, labels = model.generate(model.state, config.eval.num_samples, progress=chief)
    values = judge(config, model.method, data, model.mesh, model.state, images, labels)
    if chief:
        write_report(run, values)
        print(table(values))
        print(f"report: {report.write(run.workdir)}")


def make_losses(
    config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh
) -> Callable[[State], dict[str, tuple[float, float]]]:
    """Returns state -> {measure: (mean, standard error)} over the first `config.eval.num_examples` test examples.

    The last batch is padded and the padding left out; sums are taken in float64. Empty where the method
    evaluates nothing or the data has no test split.
    """
    if method.evaluate is None or data.test is None:
        return lambda state: {}
    test, num = data.test, min(config.eval.num_examples, len(data.test["image"]))
    devices, processes = mesh.devices.size, jax.process_count()
    size = -(-min(config.batch_size, num) // devices) * devices
    evaluate = method.evaluate
    options = parallel.compiler_options(config.fast_compile_options)
    call = jax.jit(
        lambda state, batch: evaluate(state, batch, stream(state.key, "eval")),
        out_shardings=parallel.sharded(mesh),
        compiler_options=options,
    )

    def losses(state: State) -> dict[str, tuple[float, float]]:
        values: dict[str, list[np.ndarray]] = {}
        for start in range(0, num, size):
            index = np.minimum(np.arange(start, start + size), num - 1)
            mine = np.split(index, processes)[jax.process_index()]
            rows = {k: np.asarray(v[mine]) for k, v in test.items()} | {"index": mine.astype(np.int32)}
            for name, measured in call(state, parallel.put_rows(rows, mesh)).items():
                values.setdefault(name, []).append(parallel.fetch(measured)[: num - start].astype(np.float64))
        return {name: _mean(np.concatenate(pieces)) for name, pieces in values.items()}

    return losses


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def judge(
    config: Any,
    method: Method,
    data: dataset.Dataset,
    mesh: jax.sharding.Mesh,
    state: State,
    images: np.ndarray,
    labels: np.ndarray | None,
) -> dict[str, Any]:
    """Returns what report.json holds: every metric of `images` and of the model, each with its protocol.

    Args:
      config: of the run.
      method: what is judged; `evaluate` gives its loss.
      data: what it was trained on.
      mesh: where the loss is computed.
      state: what is judged.
      images: its samples, uint8 [N, H, W, C].
      labels: i32 [N], the classes asked for, or None.
    """
    step = int(state.step)
    rows = []
    for name, (value, error) in make_losses(config, method, data, mesh)(state).items():
        num = min(config.eval.num_examples, len(data.test["image"])) if data.test else 0
        protocol = f"mean over {num:,} test examples, averaged weights, step {step:,}"
        rows.append(_metric(f"test_{name}", value, "lower", protocol, None, error))
    rows += _judge_by_modes(config, data, images, step)
    rows += _judge_by_similarity(config, data, images, labels, step)
    histogram = None
    if data.spec.num_classes is not None:
        judged, histogram = _judge_by_classifier(config, data, images, labels, step)
        rows += judged
    return {
        "metrics": rows,
        "histogram": histogram,
        "facts": {"checkpoint_step": step, "sampler": _sampler(config), "data": data.spec.name},
    }


def _judge_by_modes(config: Any, data: dataset.Dataset, points: np.ndarray, step: int) -> list[dict[str, Any]]:
    """Returns how samples lie around the centres of the mixture that the data is drawn from, where it is one."""
    mixture = gaussians.find(data.spec.name)
    if mixture is None:
        return []
    num = len(points)
    centres, sigma = mixture.centres, mixture.sigma
    found = modes.scores(points.reshape(num, -1), centres, sigma)
    real = None if data.test is None else modes.scores(data.test["image"][:num].reshape(-1, 2), centres, sigma)
    protocol = (
        f"{num:,} samples ({_sampler(config)}, step {step:,}). Good: within {modes.GOOD_SIGMAS:g} standard deviations "
        f"of the nearest of {len(centres)} centres. Covered: {modes.MIN_POINTS} good points at least. Reverse KL: of "
        f"the samples' shares of the modes from equal ones, in nats. Reference: test points, {num:,} at most"
    )
    return [
        _metric(f"{measure}/{short(num)}", value, better, protocol, real[i] if real else None, error)
        for i, (measure, value, better, error) in enumerate(
            (
                ("modes_covered", found.covered, "higher", None),
                ("good_points", found.good, "higher", _binomial_error(found.good, num)),
                ("reverse_kl", found.reverse_kl, "lower", None),
            )
        )
    ]


def _judge_by_similarity(
    config: Any, data: dataset.Dataset, images: np.ndarray, labels: np.ndarray | None, step: int
) -> list[dict[str, Any]]:
    """Returns how alike samples of one class are, where classes were asked for and images are no smaller than a
    window."""
    height, width, _ = data.spec.image_shape
    if labels is None or min(height, width) < ms_ssim.WINDOW or np.bincount(labels).max() < 2:
        return []
    low, high = data.spec.value_range
    found = ms_ssim.within_class(images, labels, NUM_PAIRS, value_range=high - low)
    real = None
    if data.test is not None:
        real = ms_ssim.within_class(data.test["image"], data.test["label"], NUM_PAIRS, value_range=high - low)
    protocol = (
        f"Mean multi-scale structural similarity of {NUM_PAIRS} random pairs a class, among {len(images):,} samples "
        f"({_sampler(config)}, step {step:,}); {ms_ssim.num_scales(height, width)} of 5 scales, their weights divided "
        "by their sum. Above real images: less variety within a class. Reference: all real test images"
    )
    name = f"within_class_ms_ssim/{ms_ssim.protocol(height, width, NUM_PAIRS)}"
    return [_metric(name, found.mean, "reference", protocol, real.mean if real else None, found.standard_error)]


def _judge_by_classifier(
    config: Any, data: dataset.Dataset, images: np.ndarray, labels: np.ndarray | None, step: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recipe = classifiers.Recipe(num_steps=config.eval.classifier_steps)
    classifier = classifiers.train(data, config.data.cache_dir, recipe)
    num, n = len(images), short(len(images))
    fake, train = classifier.features(images), classifier.train_features
    probabilities = classifier.probabilities(images)
    neighbours = min(num, MAX_REFERENCE)
    protocol = (
        f"{num:,} samples ({_sampler(config)}, step {step:,}), judged by a classifier trained on {data.spec.name} "
        f"(test accuracy {classifier.test_accuracy:.2%}). Frechet distance: its features, against all "
        f"{len(train):,} training images; not FID. Precision, recall (k = 3), density, coverage (k = 5): against "
        f"{neighbours:,} training images. Confident share: classified with more than 0.9 confidence. "
        + ("" if labels is None else "Class agreement: classified as the class asked for. ")
        + f"Reference: real test images, {num:,} at most"
    )
    real_probabilities = real = None
    if data.test is not None:
        real = classifier.features(data.test["image"][:num])
        real_probabilities = classifier.probabilities(data.test["image"])

    def row(measure: str, better: str, value: float, reference: float | None, error: float | None = None):
        return _metric(f"{measure}/classifier_{n}", value, better, protocol, reference, error)

    rows = []
    if num > fake.shape[1]:
        reference = frechet_distance(real, train) if real is not None and len(real) > real.shape[1] else None
        rows.append(row("frechet_distance", "lower", frechet_distance(fake, train), reference))
    if num > NEIGHBOURS:
        some = thin(train, neighbours)
        values = precision_recall(some, thin(fake)) + density_coverage(some, thin(fake))
        references = [None] * 4 if real is None else precision_recall(some, real) + density_coverage(some, real)
        names = ("precision", "recall", "density", "coverage")
        rows += [row(*each) for each in zip(names, ["higher"] * 4, values, references, strict=True)]
    sure = classifiers.confident_share(probabilities)
    reference = None if real_probabilities is None else classifiers.confident_share(real_probabilities)
    rows.append(row("confident_share", "higher", sure, reference, _binomial_error(sure, num)))
    if labels is not None:
        agreed = float(np.mean(probabilities.argmax(axis=1) == labels))
        rows.append(row("class_agreement", "higher", agreed, classifier.test_accuracy, _binomial_error(agreed, num)))
    histogram = {
        "names": list(data.spec.class_names or ()),
        "share": classifiers.class_histogram(probabilities).tolist(),
        "reference": None if real_probabilities is None else classifiers.class_histogram(real_probabilities).tolist(),
    }
    return rows, histogram


def _binomial_error(share: float, num: int) -> float:
    """Standard error of a share of `num` independent samples."""
    return float(np.sqrt(share * (1 - share) / num))


def short(num: int) -> str:
    """Returns a count as it stands in the name of a metric.

    Example:
      >>> short(10_000), short(1_500), short(100)
      ('10k', '1500', '100')
    """
    return f"{num // 1000}k" if num % 1000 == 0 else str(num)


def _metric(
    name: str,
    value: float,
    better: str,
    protocol: str,
    reference: float | None = None,
    error: float | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "reference": reference,
        "standard_error": error,
        "better": better,
        "protocol": protocol + ".",
    }


def _sampler(config: Any) -> str:
    values = config.sample
    return f"{values.sampler}, {values.num_steps} steps" if "sampler" in values else "one pass"


def nearest_picture(images: np.ndarray, data: dataset.Dataset) -> dict[str, Picture]:
    """Returns a few samples, each beside its nearest training images by distance of pixels."""
    if data.spec.holds_points:
        return _points_picture(images, data)
    queries = images[:NUM_NEAREST]
    index, _ = nearest(queries, data.train["image"], NEIGHBOURS)
    rows = [
        np.concatenate([query[None], data.train["image"][near]]) for query, near in zip(queries, index, strict=True)
    ]
    return {
        "nearest": Picture(
            np.concatenate(rows),  # pyright: ignore[reportArgumentType]  a picture is drawn from either kind of array
            title="Nearest training images",
            caption=f"Left: a sample. Beside it: the {NEIGHBOURS} training images whose pixels are closest. A sample "
            "that is a copy would stand beside its original.",
            columns=1 + NEIGHBOURS,
        )
    }


def _points_picture(points: np.ndarray, data: dataset.Dataset) -> dict[str, Picture]:
    """Returns as many points of the training set as there are samples, beside these."""
    num = min(len(points), len(data.train["image"]))
    both = np.stack([data.train["image"][:num], points[:num]])
    return {
        "points": Picture(
            drawable(both, data.spec)[:, 0],  # pyright: ignore[reportArgumentType]  a picture is drawn from either kind
            title="Data and samples",
            caption=f"Left: {num:,} points of the training data. Right: as many samples. Brighter is more.",
            columns=2,
        )
    }


def write_report(run: Run, values: dict[str, Any]) -> None:
    """Writes report.json; figures of the same checkpoint that stand there under other names are kept."""
    kept: list[dict[str, Any]] = []
    if run.report_json.is_file():
        old = json.loads(run.report_json.read_text())
        names = {row["name"] for row in values["metrics"]}
        if old["facts"]["checkpoint_step"] == values["facts"]["checkpoint_step"]:
            kept = [row for row in old["metrics"] if row["name"] not in names]
    write_json(run.report_json, values | {"metrics": values["metrics"] + kept})


def table(values: dict[str, Any]) -> str:
    """Returns the metrics as lines of text."""
    lines = [f"{'metric':36} {'value':>10} {'real test images':>18}"]
    for row in values["metrics"]:
        reference = "" if row["reference"] is None else f"{row['reference']:.4g}"
        lines.append(f"{row['name']:36} {row['value']:10.4g} {reference:>18}")
    return "\n".join(lines)
