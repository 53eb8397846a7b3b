"""The page of a run: report.html, made only from the files in the run's directory.

It needs no data set, model or device, so it can be rebuilt anywhere and at any time. For an unfinished or
incomplete run it shows what exists and names what is missing. `read` reads the files, each function below it
makes one section of the page, and `SECTIONS` sets their order.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import statistics
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gen_jax import config as configs
from gen_jax import methods
from gen_jax.figures import animation, bars, curve, page, samples, scatter
from gen_jax.figures.grid import Images, checked, grid
from gen_jax.figures.markup import Html, element, join, number
from gen_jax.figures.pictures import animate, load_picture
from gen_jax.method import DataSpec, Figure, Scatter, UserError, counted
from gen_jax.run import directory, write_text
from gen_jax.writers import training_seconds

_NUM_LARGE, _NUM_GRID = 5, 100  # samples shown
_MAX_FRAMES = 24  # of the pictures drawn during training
_GIF_WIDTH = 240  # pixels, approximately: a GIF is viewed outside the page, where nothing enlarges it
_FASTEST, _WHOLE = 80, 4000  # ms: the shortest time that a GIF shows a frame, and the time for all of its frames
# Public logs of GANs on CIFAR-10 end at 2.8 to 5 times their best FID (DCGAN, LSGAN, AC-GAN), or at 1.0 to 1.1 times it
# (WGAN-GP, SNGAN). Gradient norms cannot tell: the generator's last one is 0.06 to 1 of the largest where the games of
# experiments.gan_losses are solved, 0.16 to 1 where they collapse.
_WORSE = 2
_NAMES = ("KL", "ELBO", "NLL", "MIG", "SAP", "DCI", "VAE", "MS-SSIM", "PSNR", "SSIM", "Y")
_WORDS = {word.lower(): word for word in _NAMES}
_TIMES = "\N{MULTIPLICATION SIGN}"
BETTER = {
    "lower": "lower is better",
    "higher": "higher is better",
    "reference": "closer to real data is better",
    "0.5": "0.5 is best",
}
# What json, zipfile, numpy or Pillow raise on a damaged or half-written file.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)

T = TypeVar("T")


class Samples(NamedTuple):
    """The first of the run's samples, unselected."""

    images: Images  # [N, H, W, C] with N at most _NUM_GRID; or points f32 [N, 1, 1, 2], which may be more
    labels: tuple[str, ...]  # one per image, or ()
    total: int  # number in the file


class Metric(NamedTuple):
    """One line of report.json's `metrics`; the last three are of metrics in a judge's features, and of newer runs."""

    name: str
    value: float
    protocol: str = ""
    reference: float | None = None
    standard_error: float | None = None
    better: str | None = None
    judge: dict[str, Any] | None = None  # what identifies the judge
    sets: dict[str, Any] | None = None  # the images that it looked at
    how: str = ""  # the rest of the protocol


class Judged(NamedTuple):
    """What one judge found."""

    judge: dict[str, Any]
    metrics: list[Metric]
    left_out: list[dict[str, Any]]


@dataclasses.dataclass
class Run:
    """The content of a run's directory, as far as it could be read."""

    name: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # config.json
    curves: dict[str, curve.Series] = dataclasses.field(default_factory=dict)  # by "group/name"
    step: int = 0  # the last one logged
    seconds: float = 0.0  # of training, over all starts
    pictures: dict[str, Figure] = dataclasses.field(default_factory=dict)  # by file name, in order
    samples: Samples | None = None
    training: dict[str, Figure] = dataclasses.field(default_factory=dict)  # by name: drawn during training
    metrics: list[Metric] = dataclasses.field(default_factory=list)  # report.json
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # report.json
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # report.json
    stopped_early: str = ""  # report.json: why
    histogram: dict[str, Any] = dataclasses.field(default_factory=dict)  # report.json
    notes: list[str] = dataclasses.field(default_factory=list)  # what could not be read, or the reader must know

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved config."""
        return _as_dict(self.config.get("config"))

    @property
    def data(self) -> dict[str, Any]:
        """The data set that the run was actually trained on, from DataSpec.to_dict."""
        return _as_dict(self.config.get("data"))

    @property
    def converted(self) -> dict[str, Any]:
        """Of published weights: their file, its SHA-256 and layout, and the command that converted them; else {}."""
        return _as_dict(self.config.get("converted"))

    @property
    def options(self) -> configs.Options:
        """The method's title and measures, from its module; empty for an unknown method."""
        return _options_of(self.settings)

    @property
    def num_steps(self) -> int | None:
        return self.settings.get("num_steps")

    @property
    def parameters(self) -> dict[str, list[dict[str, Any]]]:
        """One row per module, by network."""
        return _as_dict(self.config.get("parameters"))

    def command(self, mode: str) -> Html:
        """The run's command with another mode."""
        return element("code", f"{self.config.get('command', 'python -m gen_jax.main')} --mode={mode}")


def write(workdir: pathlib.Path | str) -> pathlib.Path:
    """Writes report.html, and a GIF beside each animation, from the files of a run's directory.

    Args:
      workdir: directory of a run, finished or not.

    Returns:
      Path of the page.

    Raises:
      UserError: the directory does not exist or cannot be written to.
    """
    workdir = directory(workdir)
    if not workdir.is_dir():
        raise UserError(f"no run's directory at {workdir}")
    run = read(workdir)
    description = f"A model trained on {run.data.get('name', 'unknown data')}"
    for name, picture in run.pictures.items():
        _write_film(workdir / "pictures" / name, picture, description)
    for name, picture in run.training.items():
        _write_film(workdir / "training" / name, picture, description)
    path = workdir / "report.html"
    write_text(path, draw(run))
    return path


def read(workdir: pathlib.Path, pictures: bool = True) -> Run:
    """Returns the content of the files in a run's directory; each damaged one becomes a note.

    Args:
      workdir: directory of a run, finished or not.
      pictures: whether to read also those of the method and those drawn during training.
    """
    run = Run(workdir.resolve().name)

    def load(path: pathlib.Path, reader: Callable[[pathlib.Path], T], default: T) -> T:
        try:
            return reader(path) if path.exists() else default
        except _DAMAGE as error:
            name = str(path.relative_to(workdir))
            reason = str(error).replace(str(path), name)  # a shared page must not reveal its author's folders
            run.notes.append(f"{name} could not be read and is left out ({type(error).__name__}: {reason}).")
            return default

    run.config = load(workdir / "config.json", _read_object, {})
    run.name = "-".join(str(part) for part in (run.config.get("name"), run.config.get("variant")) if part) or run.name
    lines = load(workdir / "metrics.jsonl", functools.partial(_read_lines, notes=run.notes), [])
    run.curves = _curves(lines, run.notes)
    run.step = max((int(line["step"]) for line in lines), default=0)
    run.seconds = training_seconds(lines)
    for path in sorted((workdir / "pictures").glob("[0-9]*_*.npz")) if pictures else ():
        if picture := load(path, load_picture, None):
            run.pictures[path.name] = picture
    run.samples = load(workdir / "samples.npz", functools.partial(_read_samples, data=run.data), None)
    for folder in sorted(path for path in (workdir / "training").glob("*") if path.is_dir()) if pictures else ():
        frames = {f"step {int(p.stem):,}": load(p, load_picture, None) for p in _frame_files(folder)}
        whole = {label: frame for label, frame in frames.items() if frame is not None}
        if whole and (moving := load(folder, lambda _, whole=whole: animate(whole), None)):
            run.training[folder.name] = moving
    report = load(workdir / "report.json", _read_object, {})
    run.facts, run.histogram = _as_dict(report.get("facts")), _as_dict(report.get("histogram"))
    if report.get("finished_step") == run.step:  # it has not been trained further
        run.stopped_early = str(report.get("stopped_early") or "")
    left_out, metrics = report.get("left_out"), report.get("metrics")
    run.left_out = [_as_dict(each) for each in left_out] if isinstance(left_out, list) else []
    for values in metrics if isinstance(metrics, list) else []:
        try:
            run.metrics.append(_metric(values))
        except _DAMAGE:
            run.notes.append(f"A metric of report.json cannot be read and is left out: {json.dumps(values)}")
    return run


def draw(run: Run) -> str:
    """Returns the page of a run."""
    parts = [(name, heading, made(make, run)) for name, heading, make in SECTIONS]
    shown = [(name, heading, body) for name, heading, body in parts if body is not None]
    return page.document(
        f"{run.name}: gen_jax report",
        element(
            "main",
            element("header", element("h1", run.name), made(_summary, run)),
            page.notice(run.notes),
            page.contents((name, heading) for name, heading, _ in shown),
            *(page.section(name, heading, body) for name, heading, body in shown),
        ),
        element("footer", "Made by gen_jax from the run's files alone. The page loads nothing from elsewhere."),
    )


def made(make: Callable[[T], Html | None], content: T) -> Html | None:
    """Returns one part of the page: a file of another version, or edited by hand, must not break the other parts."""
    try:
        return make(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return missing(f"This part of the run's files cannot be shown ({type(error).__name__}: {error}).")


def _summary(run: Run) -> Html:
    of = f" of {run.num_steps:,}" if run.num_steps else ""
    known: list[tuple[str, object]] = [("trained for", f"{run.step:,}{of} steps")]
    if run.converted:
        known = [("weights from", run.converted.get("file"))]
    if run.parameters:
        known.append(("parameters", f"{sum(map(_count, run.parameters.values())):,}"))
    if stage := _as_dict(run.config.get("pretrained")):
        title = _options_of(_as_dict(stage.get("config"))).title or "unknown"
        known.append(("first stage", f"{title}, {stage.get('parameters', 0):,} frozen parameters"))
    if run.seconds:
        known.append(("training time", duration(run.seconds)))
    if devices := run.config.get("devices"):
        known.append(("device", f"{devices.get('count', 1)} {_TIMES} {devices.get('kind') or devices.get('platform')}"))
    return join(
        element(
            "p",
            run.options.title or str(run.settings.get("method", "model")),
            " trained on ",
            _describe_data(run.data),
            ".",
            class_="lead",
        ),
        page.notice(warnings_of(run)),
        page.facts(known),
    )


def _options_of(settings: dict[str, Any]) -> configs.Options:
    try:
        return methods.options(configs.from_json(settings))
    except (UserError, *_DAMAGE, AttributeError):
        return configs.Options(configs.base_config)


def _describe_data(data: dict[str, Any]) -> Html:
    if not data:
        return Html("a data set that the run does not name")
    height, width, channels = data.get("image_shape", (0, 0, 0))
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    spec = spec_of(data)
    points = spec.kind == "points"
    kind = "points in the plane" if points else f"{colours} images of {height} {_TIMES} {width} pixels"
    classes = spec.class_names
    without = ", with captions" if "text" in spec.features else ", without labels"
    return join(
        element("strong", data.get("name", "an unnamed data set")),
        f": {data.get('num_examples', 0):,} {kind}",
        f" in {counted(len(classes), 'class', 'classes')}" if classes else without,
    )


def warnings_of(run: Run) -> list[str]:
    """What a reader of the numbers must not miss."""
    warnings = []
    if run.converted:
        warnings.append(
            f"These weights were not trained here: they are those of {run.converted.get('file')} (SHA-256 "
            f"{str(run.converted.get('sha256'))[:16]}). Recipe and data set are those named at the conversion."
        )
    elif run.stopped_early:
        warnings.append(f"Training {run.stopped_early}.")
    elif run.num_steps and run.num_steps - run.step >= run.settings.get("log_every", 1):
        warnings.append(f"This run is not finished: step {run.step:,} of {run.num_steps:,} was the last one logged.")
    data, used = run.settings.get("data", {}), run.data.get("name")
    asked = data.get("name")
    if used and used == data.get("offline_substitute") and used != asked:
        warnings.append(f"The config asks for the data set {asked}; this run was trained on {used} instead.")
    measured = run.facts.get("checkpoint_step")
    if run.metrics and measured is not None and measured != run.step and not run.converted:
        warnings.append(f"The key figures were measured at step {measured:,}; the last step logged is {run.step:,}.")
    tracked = [series for key, series in run.curves.items() if key.startswith("eval/frechet_distance/")]
    kept = run.settings.get("eval", {}).get("best", configs.DISTANCE) == configs.DISTANCE
    return warnings + [told for each in tracked if (told := got_worse(each, kept))]


def got_worse(distances: curve.Series, kept: bool = True) -> str | None:
    """Returns a line on samples that got worse late in training, as those of GANs may, or None if they did not.

    They did if the last distances are all above `_WORSE` times the smallest one before them.

    Args:
      distances: the tracked Frechet distances of a run.
      kept: these distances ranked checkpoints, so that of the best one is kept.

    Example:
      >>> got_worse(curve.Series("", np.array([100.0, 200.0, 300.0]), np.array([9.0, 4.0, 9.0])))
      'Samples got worse late in training: since step 300 their tracked Frechet distance has been above twice its best,
      4 at step 200; --config.sample.checkpoint=best samples and judges that checkpoint.'
    """
    steps, values = distances.steps, distances.values
    best = int(values.argmin())
    fine = np.flatnonzero(values <= _WORSE * values[best])[-1]
    if fine == len(values) - 1:
        return None
    since, of = f"{steps[fine + 1]:,.0f}", f"{number(values[best], 3)} at step {steps[best]:,.0f}"
    way = (
        "--config.sample.checkpoint=best samples and judges that checkpoint"
        if kept
        else f"a run with --config.eval.best={configs.DISTANCE} keeps such a checkpoint"
    )
    return (
        f"Samples got worse late in training: since step {since} their tracked Frechet distance has been above twice "
        f"its best, {of}; {way}."
    )


def _headline(run: Run) -> Html:
    if run.samples is None:
        return missing("No samples yet. ", run.command("sample"), " writes samples.npz.")
    images, labels, total = run.samples
    spec = spec_of(run.data)
    most = _NUM_LARGE * (3 if "text" in spec.features else 1)
    count = len(images) if spec.kind == "points" else min(most, len(images))
    shown = samples.still(images[:count], spec, "Generated samples")
    if isinstance(shown, Scatter):
        drawn = page.scatter(shown)
    else:
        drawn = element("div", page.labelled(images[:count], labels[:count], "Generated sample"), class_="headline")
    told = f"The first {count:,} of {total:,} samples, in the order drawn, unselected."
    return join(drawn, element("p", told, class_="note"))


def _key_figures(run: Run) -> Html:
    if not run.metrics:
        return missing("Not measured yet. ", run.command("eval"), " writes report.json.")
    alone, *judged = _by_judge(run)
    groups = (
        element(
            "div",
            element("dl", *(_card(metric, whole=True) for metric in metrics)),
            element("p", "How it was measured: ", protocol or "not stated", class_="note"),
            class_="metrics",
        )
        for protocol, metrics in _grouped(alone.metrics, lambda metric: metric.protocol).items()
    )
    return join(
        *groups,
        *map(_of_judge, judged),
        _not_measured(alone.left_out),
        _how_sampled(run.facts),
    )


def _how_sampled(facts: Mapping[str, Any]) -> Html | None:
    """How samples were made: in a sentence, which has the step and the sampler; older reports have these alone."""
    if "samples" in facts:
        return element("p", "Samples: ", _value(facts["samples"]), ".", class_="note")
    return page.facts((name.replace("_", " "), _value(value)) for name, value in facts.items()) if facts else None


def _by_judge(run: Run) -> list[Judged]:
    """The metrics of each judge; first those without one: of the model alone, and all that older versions wrote."""
    found: dict[str, Judged] = {"{}": Judged({}, [], [])}
    for metric in run.metrics:
        judge = metric.judge or {}
        found.setdefault(json.dumps(judge, sort_keys=True), Judged(judge, [], [])).metrics.append(metric)
    for each in run.left_out:
        judge = _as_dict(each.get("judge"))
        found.setdefault(json.dumps(judge, sort_keys=True), Judged(judge, [], [])).left_out.append(each)
    return list(found.values())


def _of_judge(judged: Judged) -> Html:
    """What one judge found, apart from the others: values of two judges are not comparable."""
    known = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in judged.judge.items()}
    title, name = known.pop("network", "A network"), known.pop("name", "not named")
    groups = (
        element(
            "div",
            element("p", told, class_="sets"),
            element("dl", *(_card(metric) for metric in metrics)),
            class_="metrics",
        )
        for told, metrics in _grouped(judged.metrics, _sets).items()
    )
    how = [f"{in_words(each.name.partition('/')[0])}: {each.how}." for each in judged.metrics if each.how]
    told = [element("li", line) for line in dict.fromkeys(how)]
    return element(
        "div",
        element("h3", title[:1].upper() + title[1:]),
        page.facts([("judge", element("code", name)), *known.items()]),
        *groups,
        page.details("How each was measured", element("ul", *told)) if told else None,
        _not_measured(judged.left_out),
        class_="judge",
    )


def _sets(metric: Metric) -> str:
    """Which images a judge looked at."""
    counts = {"samples": "not stated", "against": "not stated", "real": "not stated"} | (metric.sets or {})
    return f"{counts['samples']} samples, against {counts['against']}. Real test data: {counts['real']}."


def _grouped(metrics: Iterable[Metric], key: Callable[[Metric], str]) -> dict[str, list[Metric]]:
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(key(metric), []).append(metric)
    return groups


def _not_measured(left_out: Iterable[dict[str, Any]]) -> Html | None:
    told = [f"{in_words(str(each.get('measure')).partition('/')[0])}: {each.get('reason')}." for each in left_out]
    if not told:
        return None
    return join(
        element("p", "Not measured:", class_="note"),
        element("ul", *(element("li", line) for line in dict.fromkeys(told)), class_="note"),
    )


def _card(metric: Metric, whole: bool = False) -> Html:
    """The value of a metric; `whole`: with its whole name, which nothing above it says."""
    label, slash, protocol = metric.name.partition("/")
    name = element("code", label, slash, Html("<wbr>"), protocol) if whole else None
    remarks = [
        f"standard error {number(metric.standard_error, 2)}" if metric.standard_error is not None else "",
        f"real test data {number(metric.reference)}" if metric.reference is not None else "",
        BETTER.get(metric.better or "", ""),
    ]
    return element(
        "div",
        element("dt", in_words(label), name),
        element("dd", number(metric.value), class_="value"),
        *(element("dd", remark) for remark in remarks if remark),
    )


def in_words(name: str) -> str:
    """Example:
    >>> in_words("test_negative_elbo"), in_words("within_class_ms_ssim")
    ('Test negative ELBO', 'Within class MS-SSIM')
    """
    words = name.replace("ms_ssim", "ms-ssim").split("_")
    told = " ".join(_WORDS.get(word, word) for word in words)
    return told[:1].upper() + told[1:]


def _grid(run: Run) -> Html | None:
    if run.samples is None or len(run.samples.images) <= _NUM_LARGE or spec_of(run.data).kind == "points":
        return None
    images = run.samples.images
    caption = f"The first {len(images)} samples, in the order drawn."
    return join(
        page.image(grid(images), f"Grid of {len(images)} generated samples", "pixels wide"),
        element("p", caption, class_="note"),
    )


def _pictures(run: Run) -> Html | None:
    if run.converted and not run.pictures:
        return None  # they would be drawn when training ends
    if not run.pictures:
        return missing("No pictures of the method yet: they are drawn when training ends.")
    return join(*(page.picture(picture) for picture in run.pictures.values()))


def _histogram(run: Run) -> Html | None:
    if not run.histogram:
        return None
    names, shares = run.histogram.get("names", []), run.histogram.get("share", [])
    reference = run.histogram.get("reference")
    drawn = bars.bars([str(name) for name in names], shares, reference)
    beside = "; the line across each bar is the share among real images" if reference else ""
    return join(
        drawn, element("p", f"Share of the samples that the classifier puts into each class{beside}.", class_="note")
    )


def _loss_curves(run: Run) -> Html | None:
    if run.converted:
        return None
    return _charts(run, lambda group: group != "speed") or missing("No step has been logged yet.")


def _charts(run: Run, wanted: Callable[[str], bool]) -> Html | None:
    """One chart per name (train/loss with eval/loss), or for several that share one: losses first, then known ones."""
    measures = run.options.measures
    place = {measure: number for number, measure in enumerate(measures)}
    found: dict[str, tuple[tuple[bool, int], list[curve.Series]]] = {}
    for key, series in run.curves.items():
        group, _, name = key.partition("/")
        if wanted(group):
            measure = name.partition("/")[0]
            title = measures[measure].chart if measure in measures else ""
            rank = "loss" not in name, place.get(measure, len(place))
            found.setdefault(title or title_of(name, measures), (rank, []))[1].append(series)
    ordered = sorted(found.items(), key=lambda each: each[1][0])
    charts = [curve.chart(all_of_them, title) for title, (_, all_of_them) in ordered]
    return element("div", *charts, class_="charts") if charts else None


def title_of(name: str, measures: Mapping[str, configs.Measure]) -> str:
    """A measure in words, with its unit if known."""
    measure, _, protocol = name.partition("/")
    words, unit, *_ = measures.get(measure, configs.Measure(measure.replace("_", " ")))
    told = f" ({protocol.replace('_', ' ')})" if protocol else ""
    return words + told + (f", {unit}" if unit else "")


def _training(run: Run) -> Html | None:
    return join(*(page.picture(picture) for picture in run.training.values())) if run.training else None


def _parameters(run: Run) -> Html | None:
    if not run.parameters:
        return None
    rows: list[tuple[object, ...]] = []
    for network, modules in run.parameters.items():
        rows += [(network, element("code", row["module"]), f"{row['parameters']:,}") for row in modules]
        rows.append(tuple(element("strong", cell) for cell in (network, "all modules", f"{_count(modules):,}")))
    return page.table(("network", "module", "parameters"), rows, frozenset({2}))


def _speed(run: Run) -> Html | None:
    rates = [series.values for key, series in run.curves.items() if key == "speed/images_per_second"]
    known: list[tuple[str, object]] = []
    if rates:
        known.append(("images per second (median)", number(statistics.median(rates[0].tolist()), 3)))
    if run.seconds:
        known.append(("training time", duration(run.seconds)))
        known.append(("time per step, all included", f"{number(1000 * run.seconds / max(run.step, 1), 3)} ms"))
    charts = _charts(run, lambda group: group == "speed")
    return join(page.facts(known), charts) if known or charts else None


def _config(run: Run) -> Html | None:
    values = configs.flatten(run.settings)
    rows = [(element("code", key), element("code", _value(value))) for key, value in values.items()]
    return page.details(f"{len(rows)} values", page.table(("key", "value"), rows)) if rows else None


def _reproduce(run: Run) -> Html:
    if not (command := run.converted.get("command") or run.config.get("command")):
        return missing("config.json does not hold the command of this run.")
    known = [("git commit", run.config.get("git_commit") or "not known"), ("processes", run.config.get("processes", 1))]
    known += [(f"device {key}", value) for key, value in run.config.get("devices", {}).items()]
    known.append(("data fingerprint", run.data.get("fingerprint") or "not known"))
    known += list(run.config.get("versions", {}).items())
    rows = [(name, element("code", _value(value))) for name, value in known]
    return join(page.code(command), page.table(("made with", ""), rows))


SECTIONS: tuple[tuple[str, str, Callable[[Run], Html | None]], ...] = (
    ("samples", "Samples", _headline),
    ("figures", "Key figures", _key_figures),
    ("grid", "Samples as drawn", _grid),
    ("model", "Inside the model", _pictures),
    ("classes", "Classes", _histogram),
    ("curves", "Curves", _loss_curves),
    ("training", "During training", _training),
    ("parameters", "Parameters", _parameters),
    ("speed", "Speed", _speed),
    ("config", "Config", _config),
    ("reproduce", "Reproduce", _reproduce),
)
"""Anchor, heading and maker of each part of the page, in order; a maker returns None if the part does not apply."""


def duration(seconds: float) -> str:
    """Returns a time as a person would say it.

    Example:
      >>> duration(42.4), duration(492.0), duration(7322.0)
      ('42 s', '8 min 12 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _count(modules: list[dict[str, Any]]) -> int:
    return sum(row["parameters"] for row in modules)


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def missing(*what: object) -> Html:
    return element("p", *what, class_="missing")


def _value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value if isinstance(value, str) else json.dumps(value)
    return number(value)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _metric(values: dict[str, Any]) -> Metric:
    """A metric of report.json, with None for missing optional fields; raises if it has no name or value."""
    known = {name: values[name] for name in Metric._fields if values.get(name) is not None}
    known |= {name: float(known[name]) for name in ("value", "reference", "standard_error") if name in known}
    known |= {name: _as_dict(known[name]) for name in ("judge", "sets") if name in known}
    return Metric(**known)


def _read_lines(path: pathlib.Path, notes: list[str]) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, whose last line may still be incomplete."""
    lines, broken = [], 0
    texts = path.read_text("utf-8", errors="replace").splitlines()
    for index, line in enumerate(texts):
        try:
            record = json.loads(line)
            lines.append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            broken += index < len(texts) - 1
    if broken:
        notes.append(f"{path.name} has {broken} lines that could not be read and are left out.")
    return lines


def _curves(lines: list[dict[str, Any]], notes: list[str]) -> dict[str, curve.Series]:
    """One curve per key `group/name`; of two values at one step, the later line counts."""
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        for key, value in line.items():
            if "/" in key and isinstance(value, (int, float)):
                points.setdefault(key, {})[line["step"]] = value
    curves = {}
    for key, values in points.items():
        finite = sorted((step, value) for step, value in values.items() if math.isfinite(value))
        if len(finite) < len(values):
            first = min(step for step, value in values.items() if not math.isfinite(value))
            notes.append(f"{key} was not finite at {len(values) - len(finite)} logged steps, first at step {first:,}.")
        if finite:
            curves[key] = curve.Series(key, *np.array(finite, np.float64).T)
    return curves


def spec_of(data: dict[str, Any]) -> DataSpec:
    """The spec of the samples: of unlabelled pictures if the files do not say."""
    return DataSpec.from_dict({"name": "", "image_shape": (0, 0, 0), "num_examples": 0} | data)


def _read_samples(path: pathlib.Path, data: dict[str, Any]) -> Samples:
    spec = spec_of(data)
    class_names = spec.class_names
    with zipfile.ZipFile(path) as archive:
        images, total = _first_rows(archive, "arr_0.npy", samples.num_shown(spec, _NUM_GRID))
        members = archive.namelist()
        labels = _first_rows(archive, "arr_1.npy", _NUM_GRID)[0].tolist() if "arr_1.npy" in members else []
        told = _first_rows(archive, "captions.npy", _NUM_GRID)[0].tolist() if "captions.npy" in members else None
    if spec.kind == "points":
        if images.shape[1:] != spec.image_shape or not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"holds {images.dtype} {list(images.shape)}, which are not points")
        return Samples(images, (), total)
    names = tuple(class_names[i] if class_names and 0 <= i < len(class_names) else str(i) for i in labels)
    return Samples(checked(images), names if told is None else tuple(told), total)


def _first_rows(archive: zipfile.ZipFile, member: str, num: int) -> tuple[np.ndarray, int]:
    """The first rows of an array in an .npz, and its number of rows: the file may be far larger than memory."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = header(file)
        if fortran_order or dtype.hasobject or not shape:
            raise ValueError(f"{member} is not a plain array with rows")
        rows = min(shape[0], num)
        content = file.read(rows * math.prod(shape[1:]) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(rows, *shape[1:]), shape[0]


def _frame_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files `<step>.npz` in order of steps, evenly thinned; the first and the last are included."""
    paths = sorted((path for path in folder.glob("*.npz") if path.stem.isdecimal()), key=lambda path: int(path.stem))
    return [paths[i] for i in curve.thinned(len(paths), _MAX_FRAMES)] if paths else []


def _write_film(source: pathlib.Path, picture: Figure, description: str) -> None:
    """Writes a GIF of an animation, and an MP4 if an encoder is installed, next to its source file or folder.

    A GIF that is not older than its source is kept. A still picture gets none.
    """
    path = source.with_suffix(".gif")
    sources = [source, *source.glob("*.npz")]
    if path.exists() and path.stat().st_mtime >= max(file.stat().st_mtime for file in sources):
        return
    if isinstance(picture, Scatter):
        if np.ndim(picture.points) < 3:
            return
        frames, factor = scatter.rasterise(picture), 1
    elif picture.kind == "animation":
        frames = animation.draw_frames(np.asarray(picture.images), picture.columns)
        factor = max(1, round(_GIF_WIDTH / frames.shape[2]))
    else:
        return
    pause = max(_FASTEST, _WHOLE // len(frames))
    animation.write_gif(path, frames, pause, factor, description)
    animation.write_mp4(path.with_suffix(".mp4"), frames, pause, factor, description)
