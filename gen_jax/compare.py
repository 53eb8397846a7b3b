"""`--mode=compare`: runs beside each other on one page, made from the files in their directories alone.

Runs whose configs and data are equal but for the seed, and for what changes no result, are one group: a line with a
band, a mean with its spread. The groups keep the order of the command line, and differences are to the first one, seed
by seed. `read` finds the runs, each function below it makes one part of the page, and `SECTIONS` sets their order.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import statistics
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gen_jax import config as configs
from gen_jax import methods, report
from gen_jax.figures import curve, page, samples
from gen_jax.figures.grid import grid
from gen_jax.figures.markup import Html, element, join, number
from gen_jax.method import Scatter, UserError, counted
from gen_jax.run import Run, directory, write_text

LEDGER = "sweep.json"  # of a sweep: its runs in their order
_NUM_SAMPLES, _COLUMNS = 20, 10  # of each group
_NUM_CHARTS = 6  # the others fold
_NONE = "-"


@dataclasses.dataclass
class Member:
    """A run of a group."""

    workdir: pathlib.Path
    seed: str  # unique in its group
    content: report.Run

    @property
    def name(self) -> str:
        return self.workdir.resolve().name


@dataclasses.dataclass
class Group:
    """Runs that differ in their seeds only."""

    name: str
    number: int  # its place, which decides its colour
    values: dict[str, Any]  # the config, without the seed, and the data
    members: list[Member]

    @property
    def first(self) -> report.Run:
        return self.members[0].content

    @property
    def label(self) -> Html:
        """Its name behind its colour."""
        return join(element("span", class_=f"key {curve.colour_class(self.number)}"), self.name)


def compare(paths: Sequence[str], out: str | None = None) -> pathlib.Path:
    """Writes the page that compares runs.

    Args:
      paths: directories of runs, or of sweeps: folders of runs.
      out: file of the page; default: compare.html in the sweep's folder if there is only that, else where we are.

    Returns:
      The path of the page.

    Raises:
      UserError: a directory without runs, fewer than two runs, or a page that cannot be written.
    """
    workdirs = find(paths)
    if len(workdirs) < 2:
        raise UserError("--mode=compare needs two runs or more: --mode=compare runs/a runs/b, or the folder of a sweep")
    folder = directory(paths[0]) if len(paths) == 1 else pathlib.Path()
    path = directory(out) if out else folder / "compare.html"
    if path.is_dir():
        raise UserError(f"--out={out} is a folder: give the name of a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {path.parent}; create it first")
    write_text(path, draw(read(workdirs), path.absolute().parent))
    return path


def find(paths: Iterable[str]) -> list[pathlib.Path]:
    """Returns the directories of the runs that paths name, each once; a sweep's are in the order of its ledger.

    Raises:
      UserError: a path without a run.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for path in map(directory, paths):
        runs = [path] if Run(path).config_path.is_file() else _runs_in(path)
        if not runs:
            raise UserError(f"{path} holds no run, nor do its folders")
        found |= {each.resolve(): found.get(each.resolve(), each) for each in runs}
    return [*found.values()]


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        order = [*json.loads((folder / LEDGER).read_text())["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        order = []
    runs = sorted(each.parent for each in folder.glob("*/config.json"))
    return sorted(runs, key=lambda run: order.index(run.name) if run.name in order else len(order))


def read(workdirs: Sequence[pathlib.Path]) -> list[Group]:
    """Returns the groups of runs, in the order of their first run."""
    groups: dict[str, Group] = {}
    for workdir in workdirs:
        content = report.read(workdir, pictures=False)
        values = _values(content)
        seed = str(values.pop("seed", "unknown"))
        group = groups.setdefault(json.dumps(values, sort_keys=True), Group("", len(groups), values, []))
        while any(each.seed == seed for each in group.members):
            seed += " again"
        group.members.append(Member(workdir, seed, content))
    for group in groups.values():
        group.name = _name(group)
    names = [group.name for group in groups.values()]
    for group in groups.values():
        if names.count(group.name) > 1:
            group.name = f"{group.name} ({group.number + 1})"
    return [*groups.values()]


def _values(run: report.Run) -> dict[str, Any]:
    """The config, flat, without what has no effect on results, and what the run was trained on."""
    try:
        config = methods.stored(run.config).to_dict()
    except (UserError, KeyError, TypeError, ValueError, AttributeError):  # not a config of ours
        config = run.settings
    data = f"{run.data.get('name', 'unknown data')} ({str(run.data.get('fingerprint', ''))[:8]})"
    values = {key: value for key, value in configs.flatten(config).items() if key not in configs.WITHOUT_EFFECT}
    return values | {"trained on": data}


def _name(group: Group) -> str:
    """The name of the first run's folder without its seed, or that of its config.

    Example:
      >>> _name(Group("", 0, {}, [Member(pathlib.Path("runs/lr=0.1,seed=3"), "3", report.Run("ddpm"))]))
      'lr=0.1'
    """
    member = group.members[0]
    return re.sub(r"[-_,.]?(?<![a-z])seed[-_=]?\d+", "", member.name).strip("-_,. ") or member.content.name


def draw(groups: Sequence[Group], folder: pathlib.Path) -> str:
    """Returns the page; runs below its folder are linked to their reports."""
    parts = [(name, heading, report.made(make, groups)) for name, heading, make in SECTIONS]
    shown = [(name, heading, body) for name, heading, body in parts if body is not None]
    shown.append(("runs", "Runs", _runs(groups, folder)))
    num = sum(len(group.members) for group in groups)
    title = f"{counted(num, 'run')} compared"
    kinds = dict.fromkeys(group.first.options.title or str(group.first.settings.get("method")) for group in groups)
    sets = dict.fromkeys(str(group.first.data.get("name", "unknown data")) for group in groups)
    lead = join("; ".join(kinds), ", trained on ", element("strong", ", ".join(sets)), ".")
    legend = element(
        "ul", *(element("li", g.label, element("small", f" {_seeds(g)}")) for g in groups), class_="groups"
    )
    return page.document(
        title,
        element(
            "main",
            element("header", element("h1", title), element("p", lead, class_="lead"), legend),
            page.notice(_notes(groups)),
            page.contents((name, heading) for name, heading, _ in shown),
            *(page.section(name, heading, body) for name, heading, body in shown),
        ),
        element("footer", "Made by gen_jax from the runs' files alone. The page loads nothing from elsewhere."),
    )


def _seeds(group: Group) -> str:
    seeds = [member.seed for member in group.members]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _notes(groups: Sequence[Group]) -> list[str]:
    """What a reader of the numbers must not miss, each with the runs that it is about."""
    told: dict[str, list[str]] = {}
    for group in groups:
        for member in group.members:
            run = member.content
            unmeasured = [] if run.metrics else ["No metrics yet: --mode=eval measures them."]
            for line in (*report.warnings_of(run), *run.notes, *unmeasured):
                told.setdefault(line, []).append(member.name)
    return [f"{', '.join(names)}: {line}" for line, names in told.items()]


def _config(groups: Sequence[Group]) -> Html:
    keys = dict.fromkeys(key for group in groups for key in group.values)
    differ = [key for key in keys if len({repr(group.values.get(key)) for group in groups}) > 1]
    differ.sort(key=lambda key: key.removesuffix(".name"))  # a choice before its parameters
    if not differ:
        return element("p", "The configs of these runs are equal, but for the seed.")
    rows = [(_key(key), *(element("code", _text(group.values.get(key))) for group in groups)) for key in differ]
    note = f"The other {len(keys) - len(differ)} values are equal."
    return join(
        element("div", page.table(("", *(group.label for group in groups)), rows), class_="side"),
        element("p", note, class_="note"),
    )


def _key(key: str) -> Html:
    """A dotted key, which may break behind its dots."""
    *outer, leaf = key.split(".")
    return element("code", *(join(part, ".", Html("<wbr>")) for part in outer), leaf)


def _text(value: Any) -> str:
    return _NONE if value is None else configs.as_text(value) or '""'


def _curves(groups: Sequence[Group]) -> Html | None:
    measures = {name: each for group in groups for name, each in group.first.options.measures.items()}
    keys = dict.fromkeys(key for group in groups for member in group.members for key in member.content.curves)
    place = {name: index for index, name in enumerate(measures)}

    def rank(key: str) -> tuple[bool, bool, int]:  # first what several groups have, then losses, then known measures
        name = key.partition("/")[2].partition("/")[0]
        shared = sum(key in group.first.curves for group in groups)
        return shared < min(2, len(groups)), name != "loss", place.get(name, len(place))

    charts = []
    for key in sorted((key for key in keys if not key.startswith("speed/")), key=rank):
        having = {g.number: [m.content.curves[key] for m in g.members if key in m.content.curves] for g in groups}
        having = {at: found for at, found in having.items() if found}
        if all(len(one.steps) == 1 for found in having.values() for one in found):
            continue  # a point is no curve
        lines = [curve.mean_and_range(groups[at].name, found) for at, found in having.items()]
        kind, _, name = key.partition("/")
        charts.append(curve.chart(lines, f"{report.title_of(name, measures)} ({kind})", [*having]))
    if not charts:
        return None
    told = "Each line is the mean over the seeds of a group, its band reaches from the smallest to the largest."
    warning = "Noisy curves are smoothed. Losses of different methods or objectives cannot be compared."
    rest = [page.details(f"{len(charts) - _NUM_CHARTS} more", element("div", *charts[_NUM_CHARTS:], class_="charts"))]
    return join(
        element("p", f"{told} {warning}", class_="note"),
        element("div", *charts[:_NUM_CHARTS], class_="charts"),
        *(rest if len(charts) > _NUM_CHARTS else []),
    )


def _metrics(groups: Sequence[Group]) -> Html:
    found: dict[str, dict[int, dict[str, report.Metric]]] = {}  # by metric, group and seed
    for group in groups:
        for member in group.members:
            for metric in member.content.metrics:
                by_group = found.setdefault(_identity(metric, member.content), {})
                by_group.setdefault(group.number, {})[member.seed] = metric
    if not found:
        return report.missing("None of these runs has metrics yet: --mode=eval measures them.")
    told = "Mean \N{PLUS-MINUS SIGN} standard deviation over seeds; a dot is a seed."
    against = f" Differences are to {groups[0].name}, over the seeds that both have." if len(groups) > 1 else ""
    how = {group.name: group.first.facts.get("samples") for group in groups}
    made = [element("li", element("strong", name), f": {words}.") for name, words in how.items() if words]
    return join(
        element("p", told, against, class_="note"),
        *(_metric(groups, by_group) for by_group in found.values()),
        page.details("How the samples were made", element("ul", *made, class_="note")) if made else None,
    )


def _identity(metric: report.Metric, run: report.Run) -> str:
    """What must be equal for two values to be comparable: the metric with its protocol, the judge, the data."""
    return json.dumps([metric.name, metric.judge, run.data.get("fingerprint")], sort_keys=True, default=str)


def _metric(groups: Sequence[Group], found: Mapping[int, Mapping[str, report.Metric]]) -> Html:
    """One metric of all groups that have it."""
    one = next(iter(next(iter(found.values())).values()))
    values = {at: {seed: metric.value for seed, metric in by_seed.items()} for at, by_seed in found.items()}
    every = [value for by_seed in values.values() for value in by_seed.values()]
    room = 0.08 * (max(every) - min(every)) or 1.0
    axis = curve.Axis(min(every) - room, max(every) + room)
    best = _best(one, {at: statistics.fmean(by_seed.values()) for at, by_seed in values.items()})
    rows = []
    for group in groups:
        own = values.get(group.number, {})
        told = spread([*own.values()])
        rows.append(
            element(
                "tr",
                element("th", group.label, scope="row"),
                element("td", _dots([*own.values()], axis, group.number) if own else None, class_="strip"),
                element("td", element("strong", told) if group.number == best else told, class_="number"),
                element("td", difference(own, values.get(0, {})) if group.number else None, class_="number")
                if len(groups) > 1
                else None,
            )
        )
    name, slash, protocol = one.name.partition("/")
    remarks = [report.BETTER.get(one.better or "", "")]
    remarks += [f"real test data {number(one.reference)}"] if one.reference is not None else []
    judge = one.judge or {}
    remarks += [f"judge {judge.get('name')} {judge.get('weights', '')}".strip()] if judge else []
    return element(
        "figure",
        element("h3", report.in_words(name), " ", element("code", f"{name}{slash}{protocol}")),
        element("table", element("tbody", *rows), class_="spreads"),
        element("figcaption", "; ".join(filter(None, remarks))) if any(remarks) else None,
    )


def _best(metric: report.Metric, means: Mapping[int, float]) -> int | None:
    """The group with the best mean, if one is better than another."""
    aims = {"reference": metric.reference, "0.5": 0.5, "lower": -float("inf"), "higher": float("inf")}
    aim = aims.get(metric.better or "")
    if aim is None or len(means) < 2:
        return None
    sign = {"lower": 1, "higher": -1}.get(metric.better or "")
    return min(means, key=lambda at: sign * means[at] if sign else abs(means[at] - aim))


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Returns the mean of values, with so many digits, and their standard deviation.

    Example:
      >>> spread([1.0, 2.0, 3.0]), spread([2.0]), spread([])
      ('2 ± 1', '2', '-')
    """
    if not values:
        return _NONE
    mean = number(statistics.fmean(values), digits)
    return mean if len(values) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {number(statistics.stdev(values), 2)}"


def difference(own: Mapping[Any, float], first: Mapping[Any, float]) -> str:
    """Returns mean and standard deviation of the differences to another group, over the seeds that both have.

    Example:
      >>> difference({0: 1.0, 1: 3.0, 2: 9.0}, {0: 2.0, 1: 5.0})
      '-1.5 ± 0.71, lower in 2 of 2'
      >>> difference({0: 3.0}, {0: 2.0}), difference({0: 1.0}, {1: 1.0})
      ('+1', 'no common seed')
    """
    pairs = [own[seed] - first[seed] for seed in own if seed in first]
    if not pairs:
        return "no common seed" if own and first else _NONE
    told = spread(pairs, 3)
    told = told if told.startswith("-") else f"+{told}"
    if len(pairs) == 1:
        return told
    lower = sum(pair < 0 for pair in pairs)
    higher = sum(pair > 0 for pair in pairs)
    return f"{told}, {f'lower in {lower}' if lower >= higher else f'higher in {higher}'} of {len(pairs)}"


def _dots(values: Sequence[float], axis: curve.Axis, colour: int) -> Html:
    """The values of a group on an axis, and a line at their mean."""
    at = curve.percent(float(axis.place(statistics.fmean(values))))
    dots = (element("circle", cx=curve.percent(float(axis.place(value))), cy="50%", r=4) for value in values)
    return element(
        "svg",
        element("line", x1=0, x2="100%", y1="50%", y2="50%", class_="base"),
        element("line", x1=at, x2=at, y1="12%", y2="88%"),
        *dots,
        class_=curve.colour_class(colour),
        aria_hidden="true",
    )


def _samples(groups: Sequence[Group]) -> Html:
    return join(
        element("div", *map(_samples_of, groups), class_="beside"),
        element(
            "p", "The first samples of the first seed of each group, in the order drawn, unselected.", class_="note"
        ),
    )


def _samples_of(group: Group) -> Html:
    member = group.members[0]
    found = member.content.samples
    if found is None:
        body = report.missing("No samples yet: --mode=sample draws them.")
    else:
        spec = report.spec_of(member.content.data)
        shown = samples.still(found.images if spec.kind == "points" else found.images[:_NUM_SAMPLES], spec, group.name)
        if isinstance(shown, Scatter):
            body = page.scatter(shown)
        else:
            body = page.image(grid(found.images[:_NUM_SAMPLES], _COLUMNS), f"Samples of {group.name}", "pixels sheet")
    return element("figure", element("h3", group.label), body)


def _cost(groups: Sequence[Group]) -> Html:
    header = ("", "steps", "training time", "parameters", "images/s in training", "device")
    return element("div", page.table(header, map(_cost_of, groups), frozenset({1, 2, 3, 4})), class_="side")


def _cost_of(group: Group) -> tuple[object, ...]:
    runs = [member.content for member in group.members]
    seconds = [run.seconds for run in runs if run.seconds]
    rates = [run.curves["speed/images_per_second"].values for run in runs if "speed/images_per_second" in run.curves]
    count = sum(row["parameters"] for rows in group.first.parameters.values() for row in rows)
    devices = {json.dumps(run.config.get("devices")): run.config.get("devices") for run in runs}
    names = [
        f"{d.get('count', 1)} \N{MULTIPLICATION SIGN} {d.get('kind') or d.get('platform')}"
        for d in devices.values()
        if d
    ]
    return (
        group.label,
        f"{max(run.step for run in runs):,}",
        report.duration(statistics.fmean(seconds)) if seconds else _NONE,
        f"{count:,}" if count else _NONE,
        number(statistics.fmean(statistics.median(rate.tolist()) for rate in rates), 3) if rates else _NONE,
        ", ".join(dict.fromkeys(names)) or _NONE,
    )


def _runs(groups: Sequence[Group], folder: pathlib.Path) -> Html:
    rows, commands = [], []
    for group in groups:
        for member in group.members:
            page_of_it = Run(member.workdir).report_html.absolute()
            link: object = member.name
            if page_of_it.is_file() and page_of_it.is_relative_to(folder):
                link = element("a", member.name, href=urllib.parse.quote(str(page_of_it.relative_to(folder))))
            rows.append((group.label, member.seed, link))
            if command := member.content.config.get("command"):
                commands += [element("p", member.name, class_="note"), page.code(command)]
    return join(
        element("div", page.table(("", "seed", "run"), rows, frozenset({1})), class_="side"),
        page.details("Commands", *commands) if commands else None,
    )


SECTIONS: tuple[tuple[str, str, Callable[[Sequence[Group]], Html | None]], ...] = (
    ("config", "What differs", _config),
    ("metrics", "Metrics", _metrics),
    ("curves", "Curves", _curves),
    ("samples", "Samples", _samples),
    ("cost", "Cost", _cost),
)
"""Anchor, heading and maker of each part of the page, in order; a maker returns None if the part does not apply."""
