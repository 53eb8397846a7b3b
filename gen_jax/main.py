"""The command line: `python -m gen_jax.main --config=configs/<name>.py[:<variant>] [--config.<key>=<value> ...]`.

Flags become a config, the config and a mode become a run. Nothing imports this file. A user's mistake
ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
from typing import NoReturn

MODES = {
    "train": "train, or go on training, then sample, judge and write the report (the default)",
    "sample": "write config.sample.num samples of a trained run: samples.npz and samples.png",
    "eval": "judge config.eval.num_samples samples of a trained run: report.json and the report",
    "report": "write report.html anew from the run's files",
    "profile": "write a trace of a few train steps and a table of the costliest operations",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line, not the whole usage in front of it
        from gen_jax.method import UserError

        raise UserError(f"{message.removeprefix('argument ')} (see --help)")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags, and the words that are left: `--config.<key>=<value>`.

    Raises:
      UserError: a flag without its value, or with one that it cannot have.
    """
    modes = "\n".join(f"  {name:8} {text}" for name, text in MODES.items())
    parser = _Parser(
        prog="python -m gen_jax.main",
        description="Train, sample and judge generative models of images.",
        epilog=f"modes:\n{modes}\n\n"
        "Any config value can be set: --config.seed=1 --config.optimizer.learning_rate=1e-3\n"
        "A value that is unknown or of another type is refused.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="e.g. configs/ddpm_mnist.py or configs/ddpm_mnist.py:tiny"
    )
    parser.add_argument("--workdir", metavar="DIR", help="the run's directory; default: runs/<config name>[-<variant>]")
    parser.add_argument("--mode", metavar="MODE", default="train", help="what to do with the run (see below)")
    several = parser.add_argument_group("several processes (found by themselves on TPU pods and under SLURM)")
    several.add_argument("--coordinator", metavar="HOST:PORT", default="", help="address of process 0")
    several.add_argument("--num_processes", type=int, default=0, metavar="N")
    several.add_argument("--process_id", type=int, default=-1, metavar="I")
    flags, words = parser.parse_known_args(argv)
    if flags.mode not in MODES:
        from gen_jax.method import did_you_mean

        parser.error(f"--mode is {flags.mode!r}; {did_you_mean(flags.mode, MODES)}there are: {', '.join(MODES)}")
    return flags, words


def main(argv: list[str]) -> None:
    """Runs one mode.

    Raises:
      UserError: a mistake of the user's.
    """
    flags, words = parse(argv)

    # Heavy imports wait until the flags are known to be flags.
    from gen_jax import methods, parallel, stages
    from gen_jax.method import UserError
    from gen_jax.run import Run

    _use_compilation_cache()
    parallel.set_up_processes(flags.coordinator, flags.num_processes, flags.process_id)
    if flags.config is None and flags.workdir is None:
        raise UserError("nothing to do: give --config=configs/<name>.py, or --workdir=<a run's directory> (see --help)")
    name = variant = ""
    config = None
    if flags.config is not None:
        name, variant, config = methods.load(flags.config)
    run = Run(flags.workdir or pathlib.Path("runs") / (name + (f"-{variant}" if variant else "")))

    if flags.mode == "train":
        if config is None:  # resume from the directory alone
            record = run.read_config()
            name, variant, config = record["name"], record["variant"], methods.stored(record)
        config = stages.with_absolute_paths(methods.override(config, words))
        methods.check(config)
        from gen_jax import train

        train.train(config, run, name, variant, shlex.join(["python", "-m", "gen_jax.main", *argv]))
    elif flags.mode == "report":
        if words:
            raise UserError(f"--mode=report takes no config values: {words[0]}")
        from gen_jax import report

        print(f"report: {report.write(run.workdir)}")
    else:
        import importlib

        module, function = {
            "sample": ("gen_jax.sample", "sample"),
            "eval": ("gen_jax.finish", "judge_run"),
            "profile": ("gen_jax.profile", "profile"),
        }[flags.mode]
        getattr(importlib.import_module(module), function)(run.workdir, tuple(words))


def _use_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache directory (at most 2 GiB), the many small ones too."""
    import jax

    from gen_jax.data import cache

    jax.config.update("jax_compilation_cache_dir", str(cache.root() / "compiled"))
    jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    from gen_jax import command

    command.run(main, "the same command goes on from the newest checkpoint")
