"""How good a trained model is: loss on the test split, and its samples judged by a classifier of our own.

A classifier that the project trains on the data set itself gives the features and the labels; no download
is involved, and no figure can be compared with published FIDs. Each name says so, and says how many samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax import methods, parallel, sample
from gen_jax.data import dataset, gaussians
from gen_jax.figures import samples as figures
from gen_jax.method import Batch, DataSpec, Figure, Method, Picture, Scalars, State, UserError, stream, to_bytes
from gen_jax.metrics import classifier as classifiers
from gen_jax.metrics import disentanglement, modes, ms_ssim
from gen_jax.metrics.frechet import frechet_distance
from gen_jax.metrics.precision_recall import MAX_REFERENCE, density_coverage, nearest, precision_recall, thin
from gen_jax.run import Run, write_json

NUM_NEAREST = 8  # samples whose nearest training images are shown
NUM_SEARCHED = 60_000  # training images that these are looked for among: a set may be too large to be read whole
NEIGHBOURS = 5
SMALLEST = 8  # pixels of a side, of pictures that say by themselves how they are turned
NUM_PAIRS = 100  # of each class, whose similarity is taken; as Odena et al. 2017


def make_losses(
    config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh
) -> Callable[[State], dict[str, tuple[float, float]]]:
    """Returns state -> {measure: (mean, standard error)} over `config.eval.num_examples` of the `held_out` examples.

    Sums are taken in float64. Empty where the method evaluates nothing.
    """
    if method.evaluate is None:
        return lambda state: {}
    evaluate = method.evaluate
    _, arrays, rows = held_out(data, config.eval.num_examples)
    call = _over_examples(config, mesh, lambda state, batch: evaluate(state, batch, stream(state.key, "eval")))
    return lambda state: {name: _mean(values.astype(np.float64)) for name, values in call(state, arrays, rows).items()}


def held_out(data: dataset.Dataset, num: int) -> tuple[str, dict[str, Any], np.ndarray]:
    """Returns the split that a model is judged by, its name first, and the numbers of at most `num` of its examples.

    They are spread over the test split, which may be sorted by class, or over the training split where there is none.

    Example:
      >>> arrays = {"image": np.zeros((9, 2, 2, 1), np.uint8)}
      >>> held_out(dataset.Dataset(dataset.DataSpec("x", (2, 2, 1), 9), arrays, None), 3)[::2]
      ('training', array([0, 5, 7]))
    """
    split, arrays = ("test", data.test) if data.test is not None else ("training", data.train)
    return split, arrays, dataset.spread(len(arrays["image"]), num)


def _over_examples(
    config: Any, mesh: jax.sharding.Mesh, fn: Callable[[State, Batch], Scalars]
) -> Callable[[State, Mapping[str, Any], np.ndarray], dict[str, np.ndarray]]:
    """Returns (state, arrays of a split, rows) -> what `fn` gives for these rows, [N, ...]; compiled once.

    `index` of a batch is an example's position among the rows. The last batch is padded and the padding left out.
    """
    options = parallel.compiler_options(config.fast_compile_options)
    call = jax.jit(fn, out_shardings=parallel.sharded(mesh), compiler_options=options)

    def over_examples(state: State, arrays: Mapping[str, Any], rows: np.ndarray) -> dict[str, np.ndarray]:
        values: dict[str, list[np.ndarray]] = {}
        num = len(rows)
        for start, mine in parallel.padded_batches(0, num, parallel.rows_at_a_time(config.batch_size, num, mesh)):
            batch = {k: np.asarray(v[rows[mine]]) for k, v in arrays.items()} | {"index": mine}
            for name, measured in call(state, parallel.put_rows(batch, mesh)).items():
                values.setdefault(name, []).append(parallel.fetch(measured)[: num - start])
        return {name: np.concatenate(pieces) for name, pieces in values.items()}

    return over_examples


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def judge(
    model: sample.Model,
    data: dataset.Dataset,
    images: np.ndarray,
    condition: Mapping[str, np.ndarray],
    thorough: bool = False,
) -> dict[str, Any]:
    """Returns what report.json holds: every metric of `images` and of the model, each with its protocol.

    Args:
      model: what is judged; its `evaluate` gives its loss.
      data: what it was trained on.
      images: its samples, [N, H, W, C], as `to_data` gives them.
      condition: what they were asked for, [N, ...] by name.
      thorough: also what takes minutes.
    """
    config, step, labels = model.config, int(model.state.step), condition.get("label")
    made = described(model)
    rows = _judge_losses(model, data)
    rows += _judge_codes(model, data, thorough)
    rows += _judge_by_modes(data, images, made)
    rows += _judge_by_similarity(data, images, labels, made)
    histogram = None
    if _has_features(data.spec):
        judged, histogram = judge_by_classifier(config, data, images, labels, made)
        rows += judged
    sampler = ", ".join(model.method.describe.values()) or "one pass"
    return {
        "metrics": rows,
        "histogram": histogram,
        "facts": {"checkpoint_step": step, "sampler": sampler, "data": data.spec.name},
    }


def described(model: sample.Model) -> str:
    """Returns what made the samples of a model, for a protocol."""
    return ", ".join([*model.method.describe.values(), f"step {int(model.state.step):,}"])


def _judge_losses(model: sample.Model, data: dataset.Dataset) -> list[dict[str, Any]]:
    config, step = model.config, int(model.state.step)
    split, _, examples = held_out(data, config.eval.num_examples)
    which = "" if split == "test" else ", spread over the set (it has no test split)"
    protocol = f"mean over {len(examples):,} {split} examples{which}, averaged weights, step {step:,}"
    measures, rows = methods.options(config).measures, []
    for name, (value, error) in make_losses(config, model.method, data, model.mesh)(model.state).items():
        measure = measures.get(name.partition("/")[0])
        better = "lower" if measure and measure.is_bound else None
        rows.append(_metric(f"{split}_{name}", value, better, protocol, None, error))
    return rows


def make_tracker(config: Any, data: dataset.Dataset) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns samples -> {"frechet_distance/classifier_1k": value} as `judge` gives it, or {} where none is tracked."""
    num = config.eval.track
    if not num:
        return lambda images: {}
    classifier = classifiers.train(data, config.data.cache_dir, _recipe(config))
    name = f"frechet_distance/{_judge_of(classifier)}_{short(num)}"
    return lambda images: {name: frechet_distance(classifier.features(images[:num]), classifier.train_features)}


def check_tracked(config: Any, spec: DataSpec) -> None:
    """Raises a UserError where `eval.track` asks for a Frechet distance that cannot be taken."""
    num = config.eval.track
    if num and not _has_features(spec):
        raise UserError(f"config.eval.track is {num}, and no classifier gives features of {spec.name}: use 0")
    if 0 < num <= classifiers.NUM_FEATURES:
        raise UserError(
            f"config.eval.track is {num}; a Frechet distance of {classifiers.NUM_FEATURES} features needs more samples "
            "than that: use 0 for none"
        )


def _has_features(spec: DataSpec) -> bool:
    """Whether a classifier can be trained on the set: on its labels, or on turned pictures."""
    pictures = spec.kind == "image" and spec.value_range == (0, 255) and spec.factor_sizes is None
    return spec.num_classes is not None or (pictures and min(spec.image_shape[:2]) >= SMALLEST)


def _recipe(config: Any) -> classifiers.Recipe:
    return classifiers.Recipe(num_steps=config.eval.classifier_steps)


def _judge_of(classifier: classifiers.Classifier) -> str:
    """How a metric's name says whose features it is of."""
    return "turns_classifier" if classifier.of_turns else "classifier"


def _judge_codes(model: sample.Model, data: dataset.Dataset, thorough: bool) -> list[dict[str, Any]]:
    """Measures of the codes of images, where the method has any; of factors, where the data has any."""
    code, config, state = model.method.code, model.config, model.state
    if code is None:
        return []
    call = _over_examples(
        config, model.mesh, lambda state, batch: {"code": code.encode(state, batch, stream(state.key, "eval"))}
    )
    split, arrays, examples = held_out(data, config.eval.num_examples)
    codes = call(state, arrays, examples)["code"].reshape(len(examples), -1)
    about = f"{len(codes):,} {split} examples"
    step = int(state.step)
    if code.kind == "integers":
        protocol = f"of {code.size} codes those that stand anywhere in {about}, averaged weights, step {step:,}"
        name = disentanglement.named("codes_used", examples=len(codes))
        return [_metric(name, float(len(np.unique(codes))), None, protocol)]
    protocol = (
        f"of {codes.shape[1]} latents those whose mean code varies by more than 0.01 over {about} "
        f"(Burda et al. 2016), averaged weights, step {step:,}"
    )
    name = disentanglement.named("active_units", examples=len(codes))
    rows = [_metric(name, disentanglement.active_units(codes), None, protocol)]
    if data.spec.factor_sizes is None:
        return rows
    chief = jax.process_index() == 0
    values = disentanglement.measure(
        lambda numbers: call(state, data.train, numbers)["code"].reshape(len(numbers), -1),
        data.train["factors"],
        data.spec.factor_sizes,
        config.eval.num_codes,
        thorough,
        say=lambda line: print(line, flush=True) if chief else None,
    )
    protocol = (
        f"how well each factor of {data.spec.name} stands in a latent of its own, from mean codes of training images "
        f"drawn at random; the name says how many, averaged weights, step {step:,}"
    )
    return rows + [_metric(name, value, "higher", protocol) for name, value in values.items()]


def _judge_by_modes(data: dataset.Dataset, points: np.ndarray, made: str) -> list[dict[str, Any]]:
    """Returns how samples lie around the centres of the mixture that the data is drawn from, where it is one."""
    mixture = gaussians.find(data.spec.name)
    if mixture is None:
        return []
    num = len(points)
    found = modes.scores(points.reshape(num, -1), mixture.centres, mixture.sigma)
    reference = (None, None, None)
    if data.test is not None:
        reference = modes.scores(data.test["image"][:num].reshape(-1, 2), mixture.centres, mixture.sigma)
    protocol = (
        f"{num:,} samples ({made}). Good: within {modes.GOOD_SIGMAS:g} standard deviations "
        f"of the nearest of {len(mixture.centres)} centres. Covered: {modes.MIN_POINTS} good points at least. Reverse "
        f"KL: of the samples' shares of the modes from equal ones, in nats. Reference: test points, {num:,} at most"
    )
    names = ("modes_covered", "good_points", "reverse_kl")
    errors = (None, _binomial_error(found.good, num), None)
    return [
        _metric(f"{name}/{short(num)}", value, better, protocol, real, error)
        for name, value, better, real, error in zip(
            names, found, ("higher", "higher", "lower"), reference, errors, strict=True
        )
    ]


def _judge_by_similarity(
    data: dataset.Dataset, images: np.ndarray, labels: np.ndarray | None, made: str
) -> list[dict[str, Any]]:
    """Returns how alike samples of one class are, where classes were asked for and images are no smaller than a
    window."""
    height, width, _ = data.spec.image_shape
    if labels is None or min(height, width) < ms_ssim.WINDOW or np.bincount(labels).max() < 2:
        return []
    found = ms_ssim.within_class(images, labels, NUM_PAIRS)
    real = None
    if data.test is not None:
        rows = dataset.spread(len(data.test["image"]), MAX_REFERENCE)
        shown = to_bytes(data.test["image"][rows], data.spec.value_range)
        real = ms_ssim.within_class(shown, data.test["label"][rows], NUM_PAIRS).mean
    protocol = (
        f"Mean multi-scale structural similarity of {NUM_PAIRS} random pairs a class, among {len(images):,} samples "
        f"({made}); {ms_ssim.num_scales(height, width)} of 5 scales, their weights divided "
        f"by their sum. Above real images: less variety within a class. Reference: real test images, "
        f"{MAX_REFERENCE:,} at most"
    )
    name = f"within_class_ms_ssim/{ms_ssim.protocol(height, width, NUM_PAIRS)}"
    return [_metric(name, found.mean, "reference", protocol, real, found.standard_error)]


def judge_by_classifier(
    config: Any, data: dataset.Dataset, images: np.ndarray, labels: np.ndarray | None, made: str
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Returns metrics of samples in the eyes of the data set's own classifier, and the histogram of their classes.

    Args:
      config: of the run.
      data: what it was trained on.
      images: samples, uint8 [N, H, W, C].
      labels: i32 [N], the classes asked for, or None.
      made: what made them, see `described`.
    """
    classifier = classifiers.train(data, config.data.cache_dir, _recipe(config))
    trained = f"{data.spec.name}'s turned images" if classifier.of_turns else data.spec.name
    num, n = len(images), short(len(images))
    fake, train = classifier.features(images), classifier.train_features
    probabilities = classifier.probabilities(images)
    neighbours = min(num, MAX_REFERENCE)
    protocol = (
        f"{num:,} samples ({made}), judged by a classifier trained on {trained} "
        f"(test accuracy {classifier.test_accuracy:.2%}). Frechet distance: its features, against all "
        f"{len(train):,} training images; not FID. Precision, recall (k = 3), density, coverage (k = 5): against "
        f"{neighbours:,} training images. "
        + ("" if classifier.of_turns else "Confident share: classified with more than 0.9 confidence. ")
        + ("" if labels is None else "Class agreement: classified as the class asked for. ")
        + f"Reference: real test images, {num:,} at most"
    )
    real_probabilities = real = None
    if data.test is not None:
        real = classifier.features(data.test["image"][dataset.spread(len(data.test["image"]), num)])
        real_probabilities = classifier.probabilities(data.test["image"])

    def row(measure: str, better: str, value: float, reference: float | None, error: float | None = None):
        return _metric(f"{measure}/{_judge_of(classifier)}_{n}", value, better, protocol, reference, error)

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
    if classifier.of_turns:
        return rows, None
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
    better: str | None,
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


def nearest_picture(images: np.ndarray, data: dataset.Dataset) -> dict[str, Figure]:
    """Returns a few samples, each beside its nearest training images by distance of pixels; points before the data.

    Args:
      images: samples, [N, H, W, C], as `to_data` gives them.
      data: of whose training split at most 60,000 images are looked at.
    """
    if data.spec.kind == "points":
        num = figures.num_shown(data.spec)
        caption = f"The first {num:,} samples at most, before as many points of the training data."
        return {"points": figures.still(images[:num], data.spec, "Samples and data", caption, data.train["image"])}
    queries, train = images[:NUM_NEAREST], _TrainingImages(data, NUM_SEARCHED)
    index, _ = nearest(queries, train, NEIGHBOURS)
    rows = [np.concatenate([query[None], train[near]]) for query, near in zip(queries, index, strict=True)]
    among = "" if len(train) == len(data.train["image"]) else f"of {len(train):,} spread over the set, "
    return {
        "nearest": Picture(
            np.concatenate(rows),  # pyright: ignore[reportArgumentType]  a picture is drawn from either kind of array
            title="Nearest training images",
            caption=f"Left: a sample. Beside it: {among}the {NEIGHBOURS} training images whose pixels are closest. A "
            "sample that is a copy would stand beside its original.",
            columns=1 + NEIGHBOURS,
        )
    }


class _TrainingImages:
    """At most `num` training images as they are shown, uint8 [n, H, W, C], read where they are indexed."""

    def __init__(self, data: dataset.Dataset, num: int):
        self._images, self._value_range = data.train["image"], data.spec.value_range
        self._rows = dataset.spread(len(self._images), num)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return to_bytes(self._images[self._rows[rows]], self._value_range)


def write_report(run: Run, values: dict[str, Any]) -> None:
    """Writes report.json; of what stands there, figures of the same checkpoint and sampler under other names are kept,
    and the step that the run has finished at."""
    old, names, facts = run.read_report(), {row["name"] for row in values["metrics"]}, values["facts"]
    of_same = all(old.get("facts", {}).get(key) == facts.get(key) for key in ("checkpoint_step", "sampler"))
    kept = [row for row in old["metrics"] if row["name"] not in names] if of_same else []
    finished = {"finished_step": old.get("finished_step")}
    write_json(run.report_json, finished | values | {"metrics": values["metrics"] + kept})


def table(values: dict[str, Any]) -> str:
    """Returns the metrics as lines of text."""
    width = max([36, *(len(row["name"]) for row in values["metrics"])])
    lines = [f"{'metric':{width}} {'value':>10} {'real test data':>16}"]
    for row in values["metrics"]:
        reference = "" if row["reference"] is None else f"{row['reference']:.4g}"
        lines.append(f"{row['name']:{width}} {row['value']:10.4g} {reference:>16}")
    return "\n".join(lines)
