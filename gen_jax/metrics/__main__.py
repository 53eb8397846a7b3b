"""`python -m gen_jax.metrics SAMPLES... REFERENCE`: judges pictures, whichever program made them.

Like main.py this is a program: it may import from layers above its own, and nothing imports it. A user's mistake ends
in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from gen_jax import command
from gen_jax.method import UserError, counted, did_you_mean
from gen_jax.run import directory, write_json

LARGEST = 10_000  # pictures a set, by default
OPTIONS = ("data_dir", "cache_dir", "image_size", "channels", "background", "on_error", "max_megapixels")
"""Keys of `config.base_config().data` that are flags here."""

ABOUT = """\
Judge sets of pictures against a reference. Each is a folder of pictures, an .npz file, a run of gen_jax, or a data set
by name (mnist, cifar10, ...; mnist@test for another split). Example:

  python -m gen_jax.metrics runs/ddpm_mnist samples.npz mnist --judge=efficientnet_lite0,classifier --json=table.json

Pictures and features stay in files, in --cache_dir, so memory does not grow with their number. Two measures need all
features of two sets at once: overlap (12 bytes a value: 0.31 GB for 10,000 pictures a set and 1,280 features) and
memorisation (8 bytes a value of the reference).
"""


def main(argv: list[str]) -> None:
    """Judges the sets that `argv` names, and prints a table for each judge.

    Raises:
      UserError: a mistake of the user.
    """
    flags = _parser().parse_args(argv)
    if flags.json and not pathlib.Path(flags.json).absolute().parent.is_dir():
        raise UserError(f"--json={flags.json}: there is no folder {pathlib.Path(flags.json).parent}; create it first")
    from gen_jax.config import base_config
    from gen_jax.metrics import comparison, extractors, sources

    config = base_config().data
    config.update({key: getattr(flags, key) for key in OPTIONS})
    measures = [name for name in flags.measures.split(",") if name] or [*comparison.MEASURES]
    for name in measures:
        if name not in comparison.MEASURES:
            raise UserError(
                f"there is no measure {name!r}; {did_you_mean(name, comparison.MEASURES)}there are: "
                f"{', '.join(comparison.MEASURES)}"
            )
    try:
        *sets, reference = [sources.read(source, config) for source in (*flags.samples, flags.reference)]
    except UserError as error:
        raise UserError(command.in_own_flags(str(error), OPTIONS)) from error
    _refuse_unequal(sets, reference)
    thinned, real, test = _thinned(sets, reference, flags.num)
    judges = [extractors.make(name, reference, config) for name in flags.judge.split(",")]
    found = [_judge(extractor, thinned, real, test, measures, config.cache_dir) for extractor in judges]
    if flags.json:
        write_json(directory(flags.json), found)
        print(f"written to {flags.json}")


def _parser() -> argparse.ArgumentParser:
    from gen_jax.config import base_config

    config = base_config().data
    parser = argparse.ArgumentParser(
        prog="python -m gen_jax.metrics",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("samples", nargs="+", help="pictures to judge: one or more sets")
    parser.add_argument("reference", help="the real pictures that they are compared with")
    parser.add_argument(
        "--judge",
        default="efficientnet_lite0",
        help="efficientnet_lite0, inception:<file>, classifier, turns or pixels; several with commas",
    )
    parser.add_argument(
        "--measures",
        default="",
        help="of frechet, kernel, overlap, score, vendi, similarity, memorisation, with commas; default: all",
    )
    parser.add_argument(
        "--num",
        type=int,
        default=0,
        help=f"pictures of each set; default: as many as the smallest has, at most {LARGEST:,}; "
        "-1: all of each, as for a published FID",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="also write all values, with their protocols")
    for key in OPTIONS:
        parser.add_argument(f"--{key}", type=type(config[key]), default=config[key], help=f"as --config.data.{key}")
    return parser


def _refuse_unequal(sets: list[Any], reference: Any) -> None:
    shape = reference.images.shape[1:]
    names = [each.name for each in sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is given more than once")
    for each in sets:
        if each.images.shape[1:] != shape:
            mine, other = ("x".join(map(str, s)) for s in (each.images.shape[1:], shape))
            raise UserError(
                f"{each.name} has pictures of {mine} and {reference.name} of {other}: they must be equal; --image_size "
                "and --channels (1: grey, 3: colour) change those of folders and data sets"
            )


def _thinned(sets: list[Any], reference: Any, num: int) -> tuple[list[Any], Any, Any]:
    """The same number of pictures of each set, of the reference, and of its test split if that has as many."""
    smallest = min(len(each.images) for each in (*sets, reference))
    if num > smallest:
        least = min((*sets, reference), key=lambda each: len(each.images))
        raise UserError(f"--num={num}, but {least.name} has {counted(smallest, 'picture')}")
    if num < -1 or num == 1:
        raise UserError(f"--num={num}: it is at least 2, 0 for as many as there are, or -1 for all of each set")
    size = num or min(smallest, LARGEST)
    test = None
    if reference.data is not None and reference.data.test is not None:
        images = reference.data.test["image"]
        if len(images) >= max(2, size):
            test = reference._replace(name=f"real ({reference.name}@test)", images=images, data=None)
            test = test._replace(labels=reference.data.test.get("label"))
    if size == -1:
        return sets, reference, test
    return [each.thinned(size) for each in sets], reference.thinned(size), test and test.thinned(size)


def _judge(extractor: Any, sets: list[Any], reference: Any, test: Any, measures: list[str], cache_dir: str) -> Any:
    """Prints the table of one judge; returns its content."""
    from gen_jax.metrics import comparison
    from gen_jax.writers import Progress

    print(f"judge: {extractor.label}, {extractor.about}", flush=True)
    pictures = [*sets, test] if test else sets
    num = len(reference.images) + sum(len(each.images) for each in pictures)
    with Progress(num, unit="pictures", title=extractor.name) as progress:
        real = comparison.see(reference, extractor, cache_dir, keep=True, progress=progress)
        held_out = comparison.see(test, extractor, cache_dir, keep=True, progress=progress) if test else None
        seen = [comparison.see(each, extractor, cache_dir, progress=progress) for each in sets]
    columns, left_out = {}, {}
    for place, (each, shown) in enumerate(zip([*seen, held_out] if held_out else seen, pictures, strict=True), 1):
        print(f"measuring {each.name}, set {place} of {len(pictures)}", file=sys.stderr, flush=True)
        columns[each.name], left_out[each.name] = comparison.judge(
            comparison.Sets(each, real, held_out, extractor, reference.whole, shown), measures
        )
    sizes = " and ".join(f"{size:,}" for size in sorted({len(each.features) for each in seen}))
    print(f"{sizes} pictures a set, against {len(real.features):,} of {reference.name}")
    print(comparison.table(columns))
    protocols = {row.measure: row.how for rows in columns.values() for row in rows}
    for measure, how in protocols.items():
        print(f"  {measure}: {how}")
    for name, reasons in left_out.items():
        for measure, reason in reasons.items():
            print(f"  {measure} of {name}: left out: {reason}")
    measured = [each for each in seen if "frechet" in measures and "frechet" not in left_out[each.name]]
    pairs = comparison.differences(measured, real) if measured else []
    for name, found in pairs:
        print(f"  frechet_distance, {name}: {found.value:.4g} (95% interval {found.low:.4g} to {found.high:.4g})")
    print()
    return {
        "judge": extractor.label,
        "about": extractor.about,
        "reference": reference.name,
        "pictures": {each.name: len(each.features) for each in (*seen, real)},
        "values": {name: [row._asdict() for row in rows] for name, rows in columns.items()},
        "differences": {name: found._asdict() for name, found in pairs},
        "left_out": left_out,
    }


if __name__ == "__main__":
    command.run(main, "the same command starts again")
