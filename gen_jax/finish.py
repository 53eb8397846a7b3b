"""The end of a run, and `--mode=eval`: writes samples and pictures, computes all metrics, writes the page."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import config as configs
from gen_jax import evaluate, judges, report, sample, validation
from gen_jax.data import dataset
from gen_jax.figures import samples as figures
from gen_jax.figures.pictures import save_picture
from gen_jax.method import Figure, Method, State, stream
from gen_jax.run import Run
from gen_jax.text import texts


def finish(
    model: sample.Model, data: dataset.Dataset, run: Run, num: int, trained: bool, stopped_early: str = ""
) -> None:
    """Judges `num` samples of a model and writes the report.

    Args:
      model: with the state to judge.
      data: the data set that it was trained on.
      run: where everything is written.
      num: number of samples.
      trained: whether training has just ended. If so, samples and pictures are written first; if not, the metrics that
        take minutes are computed as well.
      stopped_early: why training ended before its last step, or "".
    """
    chief, state = jax.process_index() == 0, model.state
    given = evaluate.given(model.method, data, num)
    num = min([num, *map(len, given.values())])
    asked = evaluate.asked(model.method, data.spec, num) | given
    images, condition = model.generate(state, num, asked, progress=chief)
    if trained:
        pictures = make_pictures(model.method, data, state)
        if not given:  # samples of a held-out example are near it, and not near a training image
            pictures |= evaluate.nearest_picture(images, data)
        needed = figures.num_shown(data.spec)
        shown = images if given or len(images) >= needed else model.generate(state, needed)[0]
        frames = validation.make_snapshots(model.method, data)(state, shown)
        if chief:
            captions = () if model.texts is None else model.texts.captions(num)
            sample.write_samples(run, images, condition.get("label"), data.spec, captions)
            validation.save_snapshots(run, int(state.step), frames, data.spec.name)
            for number, (name, picture) in enumerate(pictures.items()):
                save_picture(run.pictures / f"{number:02d}_{name}.npz", picture, data.spec.name)
            # The page marks the run as complete: if this process is killed here, a page of fewer steps must not remain.
            run.report_html.unlink(missing_ok=True)
    values = evaluate.judge(model, data, images, condition, thorough=not trained)
    if chief:
        ended = {"finished_step": int(state.step), "stopped_early": stopped_early}
        evaluate.write_report(run, values | (ended if trained else {}))
        print(evaluate.table(values))
        print(f"report: {report.write(run.workdir)}")


def judge_run(workdir: pathlib.Path, overrides: tuple[str, ...] = ()) -> None:
    """`--mode=eval`: judges `config.eval.num_samples` new samples of a run; writes report.json and the page."""
    model, run = sample.load(workdir, overrides, configs.JUDGING), Run(workdir)
    config = model.config
    if model.spec.name == config.data.offline_substitute:
        config.data.name = model.spec.name  # the network may be up by now, but the run was trained on the substitute
    data, _ = texts.load(config, run)
    dataset.refuse_other(model.spec, data.spec, run.workdir)
    judges.check_networks(config)
    finish(model, data, run, config.eval.num_samples, trained=False)


def make_pictures(method: Method, data: dataset.Dataset, state: State) -> dict[str, Figure]:
    """Returns the method's pictures in its order, drawn from a few examples of the test (else training) split."""
    split, rows = evaluate.held_out(data, method.num_pictured)[1:]
    batch = {k: jnp.asarray(np.asarray(v[rows])) for k, v in split.items()} | {"index": jnp.arange(len(rows))}
    names: list[str] = []  # jit returns a dict in alphabetical order

    def pictures(*args: Any) -> Mapping[str, Figure]:
        shown = method.pictures(*args)
        names.extend(shown)
        return shown

    shown = jax.jit(pictures)(state, stream(state.key, "pictures"), batch)
    return {name: shown[name] for name in names}
