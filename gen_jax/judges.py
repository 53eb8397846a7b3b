"""Sample metrics: the Frechet distance, precision and recall, modes, similarity within classes.

Each metric uses n samples, and its reference uses n real test images. With fewer test images there is no reference:
the Frechet distance, coverage and recall of the same model change with n. If the test split is smaller than the number
of samples, the metrics are computed a second time, with as many samples as there are test images. A metric that needs
more images than there are is left out, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data import captioned_shapes, dataset, gaussians
from gen_jax.method import DataSpec, UserError, to_bytes
from gen_jax.metrics import classifier as classifiers
from gen_jax.metrics import comparison, extractors, modes, ms_ssim, scenes, sources
from gen_jax.metrics.frechet import frechet_distance
from gen_jax.metrics.precision_recall import MAX_REFERENCE, density_coverage, precision_recall, thin
from gen_jax.writers import Progress

SMALLEST_SIDE = 8  # pixels; the orientation of smaller pictures cannot be recognised
NEIGHBOURS = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
LEAST = {"frechet_distance": classifiers.NUM_FEATURES + 1} | {name: k + 1 for name, k in NEIGHBOURS.items()}
"""The smallest number of images per set that each metric accepts."""
LEAST_COMPARED = LEAST["frechet_distance"]  # test images: a comparison with fewer is uninformative


class Samples(NamedTuple):
    """The samples to judge.

    Attributes:
      images: [N, H, W, C], as `to_data` returns them.
      labels: i32 [N], the requested classes, or None.
      made: how they were generated, in words.
      captions: [N], the requested texts, or () for a model of no texts.
    """

    images: np.ndarray
    labels: np.ndarray | None
    made: str
    captions: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """The results.

    Attributes:
      rows: one per metric, as `metric` returns them.
      left_out: {"measure", "reason"} of each metric that could not be computed.
      histogram: the share of each class among all samples, or None.
      judge: the classifier that provided features and classes, or "" if none did.
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    histogram: dict[str, Any] | None = None
    judge: str = ""


class _Judged(NamedTuple):
    """Whose features a metric uses, on how many images, and how: its protocol in parts."""

    judge: dict[str, Any]  # as `Extractor.facts`
    sets: dict[str, str]  # from "samples", "against" and "real" to their numbers, in words
    how: str = ""


def metric(
    name: str,
    value: float,
    better: str | None,
    protocol: str,
    reference: float | None = None,
    error: float | None = None,
    by: _Judged | None = None,
) -> dict[str, Any]:
    """Returns one row of report.json's `metrics`; `by`: whose features it uses, for the page."""
    return {
        "name": name,
        "value": value,
        "reference": reference,
        "standard_error": error,
        "better": better,
        "protocol": protocol + ".",
    } | ({} if by is None else by._asdict())


def too_few(measure: str, **counts: int) -> str | None:
    """Returns why a metric cannot be computed from sets of these sizes, or None if it can.

    Example:
      >>> too_few("recall", samples=1_000, training_images=3)
      'it needs at least 4 of each, and there are 3 training images'
    """
    few = [f"{num:,} {name.replace('_', ' ')}" for name, num in counts.items() if num < LEAST[measure]]
    return f"it needs at least {LEAST[measure]} of each, and there are {' and '.join(few)}" if few else None


def judge_samples(config: Any, data: dataset.Dataset, samples: Samples) -> Judgement:
    """Returns all metrics of the samples of a model trained on `data`."""
    if not _classes(data.spec):
        samples = samples._replace(labels=None)
    found = Judgement(_by_modes(data, samples), [])
    if data.spec.kind != "image":
        return found
    rows, left_out = judge_by_similarity(data, samples)
    rows += judge_by_channels(config, data, samples) + judge_by_captions(data, samples)
    found = Judgement(found.rows + rows, left_out)
    if has_features(data.spec):
        judged = judge_by_classifier(config, data, samples)
        found = judged._replace(rows=found.rows + judged.rows, left_out=found.left_out + judged.left_out)
    for name in _networks(config):
        rows, left_out = judge_by_network(name, config, data, samples)
        found = found._replace(rows=found.rows + rows, left_out=found.left_out + left_out)
    return found


def has_features(spec: DataSpec) -> bool:
    """Returns whether a classifier can be trained on the set: on its labels, or on rotated pictures.

    None is for pictures with smaller copies: what was made of a small one is compared with its own large one.
    """
    if spec.kind != "image" or spec.value_range != (0, 255) or "small" in spec.features:
        return False
    return _classes(spec) > 0 or (spec.factor_sizes is None and min(spec.image_shape[:2]) >= SMALLEST_SIDE)


def _classes(spec: DataSpec) -> int:
    """The number of classes to distinguish: a set with a single class counts as unlabelled."""
    return spec.num_classes if classifiers.has_classes(spec) and spec.num_classes else 0


def recipe(config: Any) -> classifiers.Recipe:
    """Returns how the classifier of a run is trained."""
    return classifiers.Recipe(num_steps=config.eval.classifier_steps)


def name_of(classifier: classifiers.Classifier) -> str:
    """Returns the part of a metric's name that identifies the classifier whose features it uses."""
    return "turns_classifier" if classifier.of_turns else "classifier"


def short(num: int) -> str:
    """Returns a count as it is written in the name of a metric.

    Example:
      >>> short(10_000), short(1_500), short(100)
      ('10k', '1500', '100')
    """
    return f"{num // 1000}k" if num % 1000 == 0 else str(num)


class _Pair(NamedTuple):
    """n samples and n real test images."""

    num: int
    samples: np.ndarray  # indices of the samples
    real: dict[str, Any] | None  # arrays of the test images, or None if there are too few

    @property
    def reference(self) -> str:
        if self.real is None:
            return "No reference: the test split has fewer images"
        return f"Reference: {self.num:,} real test images"

    def sets(self, against: str) -> dict[str, str]:
        real = "none: the test split has fewer images" if self.real is None else f"{self.num:,} test images"
        return {"samples": f"{self.num:,}", "against": against, "real": real}


def _pairs(data: dataset.Dataset, num: int) -> Iterator[_Pair]:
    """Yields all samples; then, if the test split is smaller but large enough, as many samples as it has images."""
    test = 0 if data.test is None else len(data.test["image"])
    for size in (num, test) if LEAST_COMPARED <= test < num else (num,):
        rows = dataset.spread(test, size)
        real = None if data.test is None or test < size else {k: np.asarray(v[rows]) for k, v in data.test.items()}
        yield _Pair(size, dataset.spread(num, size), real)


def _by_modes(data: dataset.Dataset, samples: Samples) -> list[dict[str, Any]]:
    """Mode coverage, if the data is drawn from a known mixture."""
    mixture, rows = gaussians.find(data.spec.name), []
    if mixture is None:
        return []
    for pair in _pairs(data, len(samples.images)):
        points = samples.images[pair.samples].reshape(pair.num, -1)
        found = modes.scores(points, mixture.centres, mixture.sigma)
        reference = (None, None, None)
        if pair.real is not None:
            reference = modes.scores(pair.real["image"].reshape(pair.num, -1), mixture.centres, mixture.sigma)
        protocol = (
            f"{pair.num:,} samples ({samples.made}). Good: within {modes.GOOD_SIGMAS:g} standard deviations "
            f"of the nearest of {len(mixture.centres)} centres. Covered: at least {modes.MIN_POINTS} good points. "
            "Reverse KL: divergence of the samples' distribution over modes from the uniform one, in nats. "
            + pair.reference.replace("images", "points")
        )
        names = zip(("modes_covered", "good_points", "reverse_kl"), ("higher", "higher", "lower"), strict=True)
        errors = (None, _binomial_error(found.good, pair.num), None)
        rows += [
            metric(f"{name}/{short(pair.num)}", value, better, protocol, real, error)
            for (name, better), value, real, error in zip(names, found, reference, errors, strict=True)
        ]
    return rows


def judge_by_channels(config: Any, data: dataset.Dataset, samples: Samples) -> list[dict[str, Any]]:
    """Mode coverage of stacked pictures: each channel is classified by the classifier of the set that is stacked."""
    if data.single is None:
        return []
    single = data.single.spec
    classifier = classifiers.train(data.single, config.data.cache_dir, recipe(config))
    every = f"{classifier.num_classes ** data.spec.image_shape[-1]:,} combinations of the channels' classes"
    how = {
        "modes_found": f"of the {every}, those that at least one sample shows",
        "reverse_kl": f"KL(shares of the samples || equal shares) over the {every}, in nats",
    }

    def found(images: np.ndarray) -> modes.Found:
        channels = (classifier.probabilities(images[..., c : c + 1]) for c in range(images.shape[-1]))
        return modes.of_classes(np.stack([each.argmax(axis=1) for each in channels], axis=1), classifier.num_classes)

    rows = []
    for pair in _pairs(data, len(samples.images)):
        values = found(samples.images[pair.samples])
        real = (None, None) if pair.real is None else found(pair.real["image"])
        protocol = _protocol(classifier, single.name, samples.made, pair, how, how)
        judge, sets = extractors.of_classifier(classifier, single).facts, pair.sets("equal shares of all modes")
        for measure, value, reference in zip(how, values, real, strict=True):
            name, better = (
                f"{measure}/{name_of(classifier)}_{short(pair.num)}",
                "higher" if measure == "modes_found" else "lower",
            )
            rows.append(metric(name, value, better, protocol, reference, None, _Judged(judge, sets, how[measure])))
    return rows


def judge_by_captions(data: dataset.Dataset, samples: Samples) -> list[dict[str, Any]]:
    """Shares of the captions' statements that the samples show, if the set is drawn from a grammar of captions."""
    if data.spec.name != captioned_shapes.NAME or not samples.captions:
        return []
    rows = []
    for pair in _pairs(data, len(samples.images)):
        captions = [samples.captions[i] for i in pair.samples]
        shown = scenes.read(samples.images[pair.samples])
        found, chance = (scenes.agreement(shown, told) for told in (captions, captions[1:] + captions[:1]))
        real: dict[str, float] = {}
        if pair.real is not None:
            own = [data.captions["test"][int(i)] for i in dataset.spread(len(data.captions["test"]), pair.num)]
            told = [each[i % len(each)] for i, each in enumerate(own)]
            real = scenes.agreement(scenes.read(pair.real["image"]), told)
        protocol = (
            f"Share of what the captions of {pair.num:,} samples ({samples.made}) say of this attribute that is true "
            "of the pictures, read without a network, by comparison with what the set's renderer draws. By chance, "
            f"with each other's captions: {', '.join(f'{name} {value:.1%}' for name, value in chance.items())}. "
            f"{pair.reference}, with their own captions"
        )
        for name, value in found.items():
            rows.append(
                metric(f"{name}_agreement/captions_{short(pair.num)}", value, "higher", protocol, real.get(name))
            )
    return rows


def judge_by_similarity(data: dataset.Dataset, samples: Samples) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The similarity of samples within each class, if the model is class-conditional."""
    (height, width, _), labels = data.spec.image_shape, samples.labels
    if labels is None:
        return [], []
    measure = "within_class_ms_ssim"
    if min(height, width) < ms_ssim.WINDOW:
        reason = f"images of {height}x{width} pixels are smaller than its window of {ms_ssim.WINDOW}x{ms_ssim.WINDOW}"
        return [], [{"measure": measure, "reason": reason}]
    pairs = ms_ssim.pairs_per_class(_classes(data.spec))
    rows, left_out = [], []
    for pair in _pairs(data, len(samples.images)):
        mine = labels[pair.samples]
        if np.bincount(mine).max() < 2:
            left_out.append({"measure": measure, "reason": f"no class has two samples among {pair.num:,}"})
            continue
        found = ms_ssim.within_class(samples.images[pair.samples], mine, pairs)
        real = None
        if pair.real is not None and np.bincount(pair.real["label"]).max() > 1:
            shown = to_bytes(pair.real["image"], data.spec.value_range)
            real = ms_ssim.within_class(shown, pair.real["label"], pairs).mean
        protocol = (
            f"Mean multi-scale structural similarity of {pairs} random pairs per class, among {pair.num:,} samples "
            f"({samples.made}); {ms_ssim.num_scales(height, width)} of 5 scales, with their weights normalised to "
            f"sum to 1. A value above that of real images means less variety within a class. {pair.reference}"
        )
        name = f"{measure}/{ms_ssim.protocol(height, width, pairs)}_{short(pair.num)}"
        rows.append(metric(name, found.mean, "reference", protocol, real, found.standard_error))
    return rows, left_out


def judge_by_classifier(config: Any, data: dataset.Dataset, samples: Samples) -> Judgement:
    """Returns the metrics of samples (uint8 images) that use the data set's own classifier."""
    classifier = classifiers.train(data, config.data.cache_dir, recipe(config))
    if classifier.of_turns:
        samples = samples._replace(labels=None)
    outputs, judge = classifier.outputs(samples.images), extractors.of_classifier(classifier, data.spec)
    rows, left_out = [], []
    for pair in _pairs(data, len(samples.images)):
        fake = _Seen(*(each[pair.samples] for each in outputs))
        real = None if pair.real is None else _Seen(*classifier.outputs(pair.real["image"]))
        against = thin(classifier.train_features, min(pair.num, MAX_REFERENCE))
        values, lacking = _overlap(fake, real, classifier.train_features, against)
        left_out += [each | {"judge": judge.facts} for each in lacking]
        if not classifier.of_turns:
            asked = None if samples.labels is None else samples.labels[pair.samples]
            values |= _classified(fake, asked, real, None if pair.real is None else pair.real["label"])
        how = _how(len(classifier.train_features), len(against))
        protocol = _protocol(classifier, data.spec.name, samples.made, pair, how, values)
        name, num = f"{name_of(classifier)}_{short(pair.num)}", len(classifier.train_features)
        sets = pair.sets(f"all {num:,} training images (Frechet distance) and {len(against):,} of them (the rest)")
        for measure, value in values.items():
            by = _Judged(judge.facts, sets, how[measure])
            rows.append(metric(f"{measure}/{name}", *value[:2], protocol, *value[2:], by))
    label = f"{name_of(classifier)} {classifier.digest}"
    if classifier.of_turns:
        return Judgement(rows, left_out, None, label)
    real_outputs = None if data.test is None else classifier.outputs(data.test["image"])
    return Judgement(rows, left_out, {
        "names": list(data.spec.class_names or ()),
        "share": classifiers.class_histogram(outputs[0]).tolist(),
        "reference": None if real_outputs is None else classifiers.class_histogram(real_outputs[0]).tolist(),
    }, label)  # fmt: skip


def judge_by_network(
    name: str, config: Any, data: dataset.Dataset, samples: Samples
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Returns the metrics of samples in the features of a network of `config.eval.judges`, and what is left out.

    Unlike with the classifier, whose features of all training images are kept, samples are compared with as many
    training images: a large network takes minutes for all of them.
    """
    train = sources.Pictures(data.spec.name, data.train["image"], None, data, data.spec.fingerprint)
    extractor = extractors.make(name, train, config.data)
    measures = [name for name in comparison.MEASURES if name != "similarity"]  # measured without a network
    rows, left_out = [], []
    for pair, seen, against, test in _seen_by(extractor, train, samples, config.data.cache_dir):
        sets = comparison.Sets(seen, against, test, extractor, whole=False)
        found, reasons = comparison.judge(sets, measures)
        reference = {} if test is None else {
            row.measure: row.value for row in comparison.judge(sets._replace(fake=test), measures)[0]
        }  # fmt: skip
        for each, why in reasons.items():
            left_out.append({"measure": f"{each}/{extractor.name}", "reason": why, "judge": extractor.facts})
        sets = pair.sets(f"{len(against.features):,} of {data.spec.num_examples:,} training images")
        for row in found:
            protocol = (
                f"{pair.num:,} samples ({samples.made}), judged by {extractor.label}, {extractor.about}, against "
                f"{len(against.features):,} training images. {row.how}. {pair.reference}"
            )
            measure = f"{row.measure}/{extractor.name}_{short(pair.num)}"
            real, by = reference.get(row.measure), _Judged(extractor.facts, sets, row.how)
            rows.append(metric(measure, row.value, row.better, protocol, real, row.standard_error, by))
    return rows, left_out


def _seen_by(
    extractor: extractors.Extractor, train: sources.Pictures, samples: Samples, cache_dir: str
) -> list[tuple[_Pair, comparison.Seen, comparison.Seen, comparison.Seen | None]]:
    """For each pair: its samples, as many training images, and its test images, as a network sees them."""
    data = train.data
    assert data is not None
    pairs = list(_pairs(data, len(samples.images)))
    num = len(samples.images) + sum(pair.num * (1 if pair.real is None else 2) for pair in pairs)
    with Progress(num, unit="pictures", title=extractor.name) as progress:

        def see(name: str, images: Any) -> comparison.Seen:
            shown = train._replace(name=name, images=to_bytes(np.asarray(images), data.spec.value_range))
            return comparison.see(shown, extractor, cache_dir, keep=True, progress=progress)

        mine = train._replace(name="samples", images=samples.images)
        own = comparison.see(mine, extractor, cache_dir, progress=progress)
        return [
            (
                pair,
                own.rows(pair.samples),
                see(train.name, train.thinned(pair.num).images),
                None if pair.real is None else see(f"{train.name}@test", pair.real["image"]),
            )
            for pair in pairs
        ]


def _networks(config: Any) -> list[str]:
    return [name.strip() for name in config.eval.judges.split(",") if name.strip()]


def check_networks(config: Any) -> None:
    """Refuses a network of `eval.judges` that cannot judge a run, before training.

    Raises:
      UserError: it is unknown, named twice, or a classifier, or its weights are missing.
    """
    names = _networks(config)
    kinds = [name.partition(":")[0] for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if kind in ("classifier", "turns"):
            raise UserError(
                f"config.eval.judges has {name!r}, but a classifier of the data always judges a run: leave it out"
            )
        if kinds.count(kind) > 1:  # their metrics would have one name
            raise UserError(f"config.eval.judges has {kind!r} more than once: leave one out")
        extractors.check(name)


class _Seen(NamedTuple):
    """Images as the classifier sees them."""

    probabilities: np.ndarray  # f32 [N, K]
    features: np.ndarray  # f32 [N, 64]


_Value = tuple[float, str, float | None, float | None]  # value, which way is better, reference, standard error


def _overlap(
    fake: _Seen, real: _Seen | None, train: np.ndarray, against: np.ndarray
) -> tuple[dict[str, _Value], list[dict[str, str]]]:
    """Metrics that compare features of samples, and of real images, with features of all or some training images."""
    measures = {
        ("frechet_distance",): (train, lambda features: (frechet_distance(features, train),)),
        ("precision", "recall"): (against, lambda features: precision_recall(against, thin(features))),
        ("density", "coverage"): (against, lambda features: density_coverage(against, thin(features))),
    }
    values: dict[str, _Value] = {}
    left_out = []
    for names, (others, measure) in measures.items():
        counts = {"samples": len(fake.features), "training_images": len(others)}
        reasons = {name: reason for name in names if (reason := too_few(name, **counts))}
        left_out += [{"measure": name, "reason": reason} for name, reason in reasons.items()]
        if reasons:
            continue
        found = measure(fake.features)
        references = (None,) * len(names) if real is None else measure(real.features)
        for name, value, reference in zip(names, found, references, strict=True):
            values[name] = (value, "lower" if name == "frechet_distance" else "higher", reference, None)
    return values, left_out


def _classified(
    fake: _Seen, asked: np.ndarray | None, real: _Seen | None, right: np.ndarray | None
) -> dict[str, _Value]:
    """Shares of samples, and of real images, that are classified confidently, and classified as their label."""

    def values(seen: _Seen | None, labels: np.ndarray | None) -> list[float | None]:
        if seen is None:
            return [None, None]
        agreed = None if labels is None else float(np.mean(seen.probabilities.argmax(axis=1) == labels))
        return [classifiers.confident_share(seen.probabilities), agreed]

    num = len(fake.probabilities)
    rows = zip(("confident_share", "class_agreement"), values(fake, asked), values(real, right), strict=True)
    return {
        name: (value, "higher", reference, _binomial_error(value, num))
        for name, value, reference in rows
        if value is not None
    }


def _how(num_training: int, num_against: int) -> dict[str, str]:
    """How each measure with the run's own classifier is taken."""
    balls = f"against {num_against:,} training images"
    return {
        "frechet_distance": f"its features, against all {num_training:,} training images; not FID",
        **{name: f"k = {k}, {balls}" for name, k in NEIGHBOURS.items()},
        "confident_share": "classified with a confidence above 0.9",
        "class_agreement": "classified as the requested class",
    }


def _protocol(
    classifier: classifiers.Classifier,
    data: str,
    made: str,
    pair: _Pair,
    how: Mapping[str, str],
    measured: Collection[str],
) -> str:
    """How the measures were taken: those that were, and no others."""
    accuracy = "" if np.isnan(classifier.test_accuracy) else f", test accuracy {classifier.test_accuracy:.2%}"
    task = f"of the rotations of images of {data}" if classifier.of_turns else f"of the classes of {data}"
    judge = f"a classifier {task} (weights {classifier.digest}{accuracy})"
    alike: dict[str, list[str]] = {}
    for name in measured:
        alike.setdefault(how[name], []).append(name.replace("_", " "))
    taken = [f"{' and '.join(names).capitalize()}: {text}" for text, names in alike.items()]
    return ". ".join([f"{pair.num:,} samples ({made}), judged by {judge}", *taken, pair.reference])


def make_tracker(config: Any, data: dataset.Dataset) -> Callable[[np.ndarray], dict[str, float]] | None:
    """Returns samples -> {"frechet_distance/classifier_1k": value}, as in `judge_samples`, or None if `eval.track`
    is 0 or the set is too small.
    """
    num = config.eval.track
    if not num or untracked(config, data.spec):
        return None
    classifier = classifiers.train(data, config.data.cache_dir, recipe(config))
    name = f"frechet_distance/{name_of(classifier)}_{short(num)}"
    return lambda images: {name: frechet_distance(classifier.features(images[:num]), classifier.train_features)}


def untracked(config: Any, spec: DataSpec) -> str | None:
    """Returns why no Frechet distance is tracked although `eval.track` requests one, or None."""
    reason = too_few("frechet_distance", training_images=spec.num_examples) if config.eval.track else None
    return reason and f"no Frechet distance is tracked: {reason}"


def check_tracked(config: Any, spec: DataSpec) -> None:
    """Raises a UserError if `eval.track` requests a Frechet distance that cannot be computed."""
    num = config.eval.track
    if num and not has_features(spec):
        raise UserError(f"config.eval.track is {num}, but no classifier gives features of {spec.name}: use 0")
    if 0 < num < LEAST["frechet_distance"]:
        raise UserError(
            f"config.eval.track is {num}; a Frechet distance on {classifiers.NUM_FEATURES} features needs more samples "
            "than features: use 0 for none"
        )


def _binomial_error(share: float, num: int) -> float:
    """Standard error of a share of `num` independent samples."""
    return float(np.sqrt(share * (1 - share) / num))
