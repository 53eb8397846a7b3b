"""The command line: `python -m gen_jax.main --config=configs/<name>.py[:<variant>] [--config.<key>=<value> ...]`.

The flags select a config, a mode and the directory of a run. No other module of the package imports this file.
A user's mistake ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import pathlib
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_jax.run import Run

MODES = {
    "train": "train or resume, then sample, evaluate and write the report (the default)",
    "sample": "write config.sample.num samples of a trained run: samples.npz and samples.png",
    "eval": "evaluate config.eval.num_samples samples of a trained run: report.json and the report",
    "edit": "fill in, vary or connect pictures with a trained diffusion run: edits.npz, edits.png and the report",
    "upscale": "make pictures of any size larger with a trained run of srresnet or srgan, as PNG files in a folder",
    "export": "write a trained model for use elsewhere: as safetensors, in diffusers' layout or as StableHLO",
    "report": "regenerate report.html from the run's files",
    "compare": "write a page that compares runs, or those of a sweep: --mode=compare runs/a runs/b",
    "profile": "write a trace of a few train steps and a table of the costliest operations",
    "rehearse": "compile the config's train step for a TPU slice, here, and print what it needs there",
}

EDITING = {
    "pictures": ("PATH", "a picture, a folder of pictures, an .npz file or a run"),
    "mask": ("MASK", "fill in: left, right, top, bottom or center, or a picture whose white pixels are to be filled"),
    "strength": ("SHARE", "vary: how much of a picture becomes noise first, 0 to 1"),
    "between": ("N", "N pictures on the way from each picture to the next, both included"),
    "labels": ("LABELS", "classes of the pictures, one for all or one each with commas: 7, or cat,dog"),
    "each": ("N", "results for each picture; default: 4"),
    "resample": ("N", "how often each step of --mask is taken again; default: 9"),
}

UPSCALING = {
    "pictures": ("PATH", "a picture or a folder of pictures"),
    "out": (
        "PATH",
        "folder for the results; default: upscaled in the run's directory, or export of --mode=export. "
        "--mode=compare: the page's file",
    ),
    "compare": (None, "make the pictures smaller first, and compare the results with them"),
}

FLAGS_OF = {
    "rehearse": ("topology",),
    "edit": tuple(EDITING),
    "upscale": tuple(UPSCALING),
    "compare": ("out",),
    "export": ("format", "out"),
}
"""By mode, the flags that have no meaning in other modes."""

EXIT_CODES = {
    0: "finished",
    75: "stopped by a signal and saved; the same command resumes",
    2: "a mistake of the user, or a disk that cannot be written; one line explains it",
    3: "another process of the run was lost; the same command resumes",
    130: "interrupted with Ctrl-C outside training",
    1: "a bug",
}

# JAX options that the environment can set, with the values that this program's train steps need.
SWITCHES = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_no_tracing": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_threefry_partitionable": True,
    "jax_transfer_guard": "allow",
}


def _parser() -> argparse.ArgumentParser:
    from gen_jax import command

    modes = "\n".join(f"  {name:8} {text}" for name, text in MODES.items())
    codes = "\n".join(f"  {code:<8} {text}" for code, text in EXIT_CODES.items())
    parser = command.Parser(
        prog="python -m gen_jax.main",
        description="Train, sample and evaluate generative models of images.",
        epilog=f"modes:\n{modes}\n\n"
        "Any config value can be set: --config.seed=1 --config.optimizer.learning_rate=1e-3\n"
        f"Unknown keys and values of the wrong type are refused.\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this; with --config: its description and keys")
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="e.g. configs/ddpm_mnist.py or configs/ddpm_mnist.py:tiny"
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="the run's directory, or an address such as s3://bucket/run; default: runs/<config name>[-<variant>]",
    )
    parser.add_argument("--mode", metavar="MODE", default="train", help="what to do with the run (see below)")
    parser.add_argument(
        "--topology",
        metavar="TYPE:SHAPE",
        default="",
        help="TPU slice of --mode=rehearse, such as v5e:16x16 or v4:4x4x4",
    )
    parser.add_argument(
        "--format", metavar="NAME", help="of --mode=export: safetensors (the default), diffusers or stablehlo"
    )
    edit = parser.add_argument_group("--mode=edit, with one of --mask, --strength and --between")
    for name, (metavar, what) in EDITING.items():
        edit.add_argument(f"--{name}", metavar=metavar, help=what)
    larger = parser.add_argument_group("--mode=upscale, with --pictures")
    larger.add_argument("--out", metavar=UPSCALING["out"][0], help=UPSCALING["out"][1])
    larger.add_argument("--compare", action="store_true", help=UPSCALING["compare"][1])
    several = parser.add_argument_group("several processes (detected automatically on TPU pods and under SLURM)")
    several.add_argument("--coordinator", metavar="HOST:PORT", default="", help="address of process 0")
    several.add_argument(
        "--num_processes", type=int, default=0, metavar="N", help="1: run alone, regardless of SLURM's variables"
    )
    several.add_argument("--process_id", type=int, default=-1, metavar="I")
    return parser


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags, and the remaining words: `--config.<key>=<value>`.

    Raises:
      UserError: a flag without a value, or with an invalid one.
    """
    parser = _parser()
    flags, words = parser.parse_known_args(argv)
    if flags.mode not in MODES:
        from gen_jax.method import did_you_mean

        parser.error(f"--mode is {flags.mode!r}; {did_you_mean(flags.mode, MODES)}allowed: {', '.join(MODES)}")
    return flags, words


def main(argv: list[str]) -> None:
    """Runs one mode.

    Raises:
      UserError: a user's mistake.
    """
    flags, words = parse(argv)
    if flags.help:
        _print_help(flags.config, words)
        return

    # Heavy imports come only after the flags have been parsed.
    import jax

    from gen_jax import methods, parallel, remote
    from gen_jax.method import UserError
    from gen_jax.run import Run

    if flags.mode == "compare":
        _compare(flags, words)
        return
    if flags.config is None and flags.workdir is None:
        raise UserError("nothing to do: give --config=configs/<name>.py, or --workdir=<a run's directory> (see --help)")
    _refuse_flags_of_other_modes(flags)
    _set_switches()
    if flags.mode == "rehearse":
        _use_cpu()
    if flags.mode != "report":  # which needs no device
        _use_compilation_cache()
        parallel.set_up_processes(flags.coordinator, flags.num_processes, flags.process_id)
        parallel.devices()
    name = variant = ""
    config = None
    if flags.config is not None:
        name, variant, config = methods.load(flags.config)
    workdir = flags.workdir or pathlib.Path("runs") / (name + (f"-{variant}" if variant else ""))
    if remote.is_address(workdir) and flags.mode != "report" and jax.process_count() > 1:
        raise UserError(
            f"--workdir={workdir} is an address, and several processes need a folder that all of them see: mount the "
            "bucket, and give the folder"
        )
    with remote.working_in(workdir, flags.mode == "train") as folder:
        if flags.mode in ("train", "rehearse"):
            _train_or_rehearse(flags, words, Run(folder), (name, variant, config), argv)
        else:
            _use(flags, words, Run(folder).workdir)


def _train_or_rehearse(
    flags: argparse.Namespace, words: list[str], run: Run, loaded: tuple[str, str, Any], argv: list[str]
) -> None:
    """Runs a mode that takes a config: the one that was loaded, with its name and variant, or else that of the run."""
    from gen_jax import methods, stages

    name, variant, config = loaded
    if config is None:  # resume from the directory alone
        record = run.read_config()
        name, variant, config = record["name"], record["variant"], methods.stored(record)
    config = stages.with_absolute_paths(methods.override(config, words))
    methods.check(config)
    if flags.mode == "train":
        from gen_jax import train

        train.train(config, run, name, variant, shlex.join(["python", "-m", "gen_jax.main", *argv]))
    else:
        from gen_jax import rehearse

        rehearse.rehearse(config, flags.topology or rehearse.DEFAULT)


def _use(flags: argparse.Namespace, words: list[str], workdir: pathlib.Path) -> None:
    """Runs a mode that takes a run as it is."""
    from gen_jax.method import UserError

    if flags.mode == "report":
        if words:
            raise UserError(f"--mode=report takes no config values: leave out {words[0]}")
        from gen_jax import report

        print(f"report: {report.write(workdir)}")
    elif flags.mode == "edit":
        from gen_jax import edit

        edit.edit(workdir, _given(flags, EDITING), tuple(words))
    elif flags.mode == "upscale":
        from gen_jax import upscale

        upscale.upscale(workdir, _given(flags, UPSCALING), tuple(words))
    elif flags.mode == "export":
        from gen_jax import export

        export.export(workdir, flags.format or "", flags.out, tuple(words))
    else:
        import importlib

        module, function = {
            "sample": ("gen_jax.sample", "sample"),
            "eval": ("gen_jax.finish", "judge_run"),
            "profile": ("gen_jax.profile", "profile"),
        }[flags.mode]
        getattr(importlib.import_module(module), function)(workdir, tuple(words))


def _compare(flags: argparse.Namespace, words: list[str]) -> None:
    """Writes the page of `--mode=compare`, which needs no device."""
    from gen_jax import compare
    from gen_jax.method import UserError

    _refuse_flags_of_other_modes(flags)
    given = [f"--{name}" for name in ("config", "workdir") if getattr(flags, name) is not None]
    for word in (*given, *(word for word in words if word.startswith("-"))):
        raise UserError(f"--mode=compare takes directories and --out, not {word}: --mode=compare runs/a runs/b")
    print(f"comparison: {compare.compare(words, flags.out)}")


def _print_help(config: str | None, words: list[str]) -> None:
    """Prints what there is to set in a config; without one, the flags and the names of configs."""
    from gen_jax import help as listing

    if config:
        print(listing.of_config(config, words))
    else:
        print(f"{_parser().format_help()}\nconfigs:\n{listing.titles()}")


def _given(flags: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Returns the values of those flags that were given."""
    return {name: value for name in names if (value := getattr(flags, name))}


def _refuse_flags_of_other_modes(flags: argparse.Namespace) -> None:
    from gen_jax.method import UserError

    for name, value in _given(flags, dict.fromkeys(itertools.chain(*FLAGS_OF.values()))).items():
        modes = [mode for mode, names in FLAGS_OF.items() if name in names]
        if flags.mode not in modes:
            given = f"--{name}" if value is True else f"--{name}={value}"
            those = " or ".join(f"--mode={mode}" for mode in modes)
            raise UserError(f"{given} is for {those}: leave it out, or set that mode")


def _use_cpu() -> None:
    """Hides accelerators, which a rehearsal does not use: with libtpu installed, JAX would look for a TPU."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _set_switches() -> None:
    """Sets JAX's `SWITCHES`, and prints which of them had other values."""
    import jax

    others = []
    for name, value in SWITCHES.items():
        found = getattr(jax.config, name, None)  # a string, a number or an enum
        if getattr(found, "value", found) not in (value, None):
            jax.config.update(name, value)
            others.append(name.upper())
    if others:
        print(f"gen_jax: ignoring {', '.join(others)}: models are trained in float32, by compiled programs",
              file=sys.stderr)  # fmt: skip


def _use_compilation_cache() -> None:
    """Caches compiled programs in the user's cache directory (at most 2 GiB), including the many small ones.

    If JAX_COMPILATION_CACHE_DIR is set, nothing is changed.
    """
    import jax

    from gen_jax.data import cache

    folder = cache.root() / "compiled"
    if jax.config.jax_compilation_cache_dir not in (None, str(folder)):  # pyright: ignore  defined when JAX is imported
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.owner()  # JAX asks for it, too, at every program
        _sweep_compiled(folder)
    except (OSError, KeyError):  # not writable, or of a user that the system does not know: starts only take longer
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _sweep_compiled(folder: pathlib.Path) -> None:
    """Removes incomplete entries of killed processes: with one, JAX warns at every compilation and stops caching."""
    import filelock

    # JAX's own lock, held while it writes a program and then the time of its last use.
    with (
        contextlib.suppress(filelock.Timeout, NotImplementedError),
        filelock.FileLock(folder / ".lockfile", timeout=10),
    ):
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        for name, size in sizes.items():
            key, _, kind = name.rpartition("-")
            other = {"cache": "atime", "atime": "cache"}.get(kind)
            if other and not (size and sizes.get(f"{key}-{other}")):
                (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        from gen_jax import command
    except ValueError as error:  # from JAX: one of its environment variables has an invalid value
        print(f"gen_jax: JAX cannot be imported: {error}", file=sys.stderr)
        sys.exit(2)

    command.run(main, "the same command resumes from the newest checkpoint")
