"""Evaluation of a trained model: losses on held-out examples, metrics of its codes, and metrics of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gen_jax import judges, methods, parallel, sample
from gen_jax.data import dataset
from gen_jax.figures import samples as figures
from gen_jax.judges import metric
from gen_jax.method import Batch, DataSpec, Figure, Method, Picture, Scalars, State, counted, stream, to_bytes
from gen_jax.metrics import disentanglement
from gen_jax.metrics.precision_recall import nearest
from gen_jax.run import Run, write_json

NUM_NEAREST = 8  # samples whose nearest training images are shown
NUM_SEARCHED = 60_000  # training images searched, at most: a set may be too large to read completely
NUM_NEIGHBOURS = 5


def make_losses(
    config: Any, method: Method, data: dataset.Dataset, mesh: jax.sharding.Mesh
) -> Callable[[State], dict[str, tuple[float, float | None]]]:
    """Returns state -> {measure: (mean, standard error)} over `config.eval.num_examples` of the `held_out` examples.

    Sums are computed in float64. The dict is empty if the method evaluates nothing.
    """
    if method.evaluate is None:
        return lambda state: {}
    evaluate = method.evaluate
    _, arrays, rows = held_out(data, config.eval.num_examples)
    call = _over_examples(config, mesh, lambda state, batch: evaluate(state, batch, stream(state.key, "eval")))
    return lambda state: {name: _mean(values.astype(np.float64)) for name, values in call(state, arrays, rows).items()}


def held_out(data: dataset.Dataset, num: int) -> tuple[str, dict[str, Any], np.ndarray]:
    """Returns the name of the split for evaluation, its arrays, and the indices of at most `num` of its examples.

    The examples are spread evenly over the test split, which may be sorted by class, or over the training split if
    there is no test split.

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
    """Returns (state, arrays of a split, rows) -> the values of `fn` for these rows, [N, ...]; compiled once.

    `index` of a batch is an example's position among the rows. The last batch is padded; the padding is dropped.
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


def _mean(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and its standard error, which a single value does not have."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def judge(
    model: sample.Model,
    data: dataset.Dataset,
    images: np.ndarray,
    condition: Mapping[str, np.ndarray],
    thorough: bool = False,
) -> dict[str, Any]:
    """Returns the content of report.json: every metric of `images` and of the model, each with its protocol.

    Args:
      model: the model to judge; its method's `evaluate` computes its losses.
      data: the data set that it was trained on.
      images: its samples, [N, H, W, C], as `to_data` returns them.
      condition: the conditions of the samples, [N, ...] by name.
      thorough: also compute the metrics that take minutes.
    """
    made = described(model)
    captions = () if model.texts is None else model.texts.captions(len(images))
    found = judges.judge_samples(model.config, data, judges.Samples(images, condition.get("label"), made, captions))
    return {
        "metrics": _judge_losses(model, data) + _judge_codes(model, data, thorough) + found.rows,
        "left_out": found.left_out,
        "histogram": found.histogram,
        "facts": {
            "checkpoint_step": int(model.state.step),
            "sampler": ", ".join(model.method.describe.values()) or "one pass",
            "samples": made,
            "data": data.spec.name,
            "judge": found.judge or "none",
        },
    }


def described(model: sample.Model) -> str:
    """Returns how the samples of a model were generated, for a protocol."""
    settings = model.config.sample
    checkpoint = settings.checkpoint if settings.checkpoint in ("best", "last") else "kept"
    labels = ["classes by their shares of the training images"] if "label" in model.method.condition else []
    labels += [f"{name} of held-out examples" for name in _from_held_out(model.method, model.spec)]
    if model.texts is not None:
        of = {"test": "test picture", "train": "training picture"}[model.texts.split]
        labels.append(f"captions of {counted(len(model.texts.prompts), of)} in turn")
    step = f"{checkpoint} checkpoint, step {int(model.state.step):,}"
    return ", ".join([*model.method.describe.values(), *labels, step, f"sampling seed {settings.seed}"])


def asked(method: Method, spec: DataSpec, num: int) -> dict[str, np.ndarray]:
    """Returns the conditions of `num` samples to judge: classes in proportion to their shares of the training images.

    For display, samples cycle through the classes instead: see `sample.conditions`.
    """
    counts = spec.features["label"].counts if "label" in method.condition else ()
    return {"label": by_share(counts, num)} if counts else {}


def given(method: Method, data: dataset.Dataset, num: int) -> dict[str, np.ndarray]:
    """Returns the conditions of samples that are no classes or texts, from held-out examples: `num` of each, or as many
    as there are; {} for a method that has no such condition.

    Example:
      >>> from gen_jax.method import Feature
      >>> images = np.zeros((9, 2, 2, 1), np.uint8)
      >>> spec = DataSpec("x", (2, 2, 1), 9, {"small": Feature((1, 1, 1), "uint8")})
      >>> data = dataset.Dataset(spec, {"image": images, "small": images[:, :1, :1]}, None)
      >>> given(Method(*[None] * 5, condition=("small",)), data, 16)["small"].shape
      (9, 1, 1, 1)
    """
    names = _from_held_out(method, data.spec)
    _, arrays, rows = held_out(data, num)
    return {name: np.asarray(arrays[name][rows]) for name in names}


def _from_held_out(method: Method, spec: DataSpec) -> list[str]:
    """Conditions that are neither classes nor texts: a run has texts of its own."""
    told = {name: spec.features[name] for name in method.condition if name in spec.features}
    return [name for name, feature in told.items() if not (feature.names or feature.several)]


def by_share(counts: Sequence[int], num: int) -> np.ndarray:
    """Returns `num` classes, i32, in proportion to `counts`, rounded to whole numbers. They cycle through the classes
    that have samples left, so that the first ones make an orderly picture.

    Example:
      >>> by_share([75, 0, 25], 8).tolist()
      [0, 2, 0, 2, 0, 0, 0, 0]
    """
    exact = num * np.asarray(counts, np.float64) / np.sum(counts)
    often = np.floor(exact).astype(np.int64)
    often[np.argsort(often - exact, kind="stable")[: num - often.sum()]] += 1  # the largest remainders
    labels = np.repeat(np.arange(len(often)), often)
    turn = np.concatenate([np.arange(each) for each in often])
    return labels[np.lexsort((labels, turn))].astype(np.int32)


def _judge_losses(model: sample.Model, data: dataset.Dataset) -> list[dict[str, Any]]:
    config, step = model.config, int(model.state.step)
    split, _, examples = held_out(data, config.eval.num_examples)
    which = "" if split == "test" else ", spread over the set (it has no test split)"
    about = counted(len(examples), f"{split} example")
    protocol = f"mean over {about}{which}, averaged weights, step {step:,}"
    measures, rows = methods.options(config).measures, []
    for name, (value, error) in make_losses(config, model.method, data, model.mesh)(model.state).items():
        measure = measures.get(name.partition("/")[0])
        better = ("lower" if measure.is_bound else measure.better or None) if measure else None
        rows.append(metric(f"{split}_{name}", value, better, protocol, None, error))
    return rows


def _judge_codes(model: sample.Model, data: dataset.Dataset, thorough: bool) -> list[dict[str, Any]]:
    """Metrics of codes, if the method has any, and of disentanglement, if the data has factors."""
    code, config, state = model.method.code, model.config, model.state
    if code is None:
        return []
    call = _over_examples(
        config, model.mesh, lambda state, batch: {"code": code.encode(state, batch, stream(state.key, "eval"))}
    )
    split, arrays, examples = held_out(data, config.eval.num_examples)
    codes = call(state, arrays, examples)["code"].reshape(len(examples), -1)
    about = counted(len(codes), f"{split} example")
    step = int(state.step)
    if code.kind == "integers":
        protocol = f"number of the {code.size} codes that occur in {about}, averaged weights, step {step:,}"
        name = disentanglement.named("codes_used", examples=len(codes))
        return [metric(name, float(len(np.unique(codes))), None, protocol)]
    rows = [_active_units(codes, about, step)] if code.kind == "means" else []  # vectors may have any scale
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
        f"how well single latents capture single factors of {data.spec.name}, from mean codes of randomly drawn "
        f"training images (their number is in the name), averaged weights, step {step:,}"
    )
    return rows + [metric(name, value, "higher", protocol) for name, value in values.items()]


def _active_units(codes: np.ndarray, about: str, step: int) -> dict[str, Any]:
    protocol = (
        f"number of the {codes.shape[1]} latents whose mean code has a variance above 0.01 over {about} "
        f"(Burda et al. 2016), averaged weights, step {step:,}"
    )
    name = disentanglement.named("active_units", examples=len(codes))
    return metric(name, disentanglement.active_units(codes), None, protocol)


def nearest_picture(images: np.ndarray, data: dataset.Dataset) -> dict[str, Figure]:
    """Returns a few samples, each with its nearest training images in pixel distance; points over the training data.

    Args:
      images: samples, [N, H, W, C], as `to_data` returns them.
      data: at most 60,000 images of its training split are searched.
    """
    if data.spec.kind == "points":
        num = figures.num_shown(data.spec)
        caption = f"At most {num:,} samples, drawn over as many points of the training data."
        return {"points": figures.still(images[:num], data.spec, "Samples and data", caption, data.train["image"])}
    queries, train = images[:NUM_NEAREST], _TrainingImages(data, NUM_SEARCHED)
    num = min(NUM_NEIGHBOURS, len(train))
    index, _ = nearest(queries, train, num)
    rows = [np.concatenate([query[None], train[near]]) for query, near in zip(queries, index, strict=True)]
    among = "" if len(train) == len(data.train["image"]) else f"among {len(train):,} spread over the set, "
    return {
        "nearest": Picture(
            np.concatenate(rows),  # pyright: ignore[reportArgumentType]  a picture is drawn from either kind of array
            title="Nearest training images",
            caption=f"Left: a sample. Next to it: {among}the {num} training images with the closest pixels. A "
            "copied training image would appear next to its original.",
            columns=1 + num,
        )
    }


class _TrainingImages:
    """At most `num` training images as they are shown, uint8 [n, H, W, C], read only when indexed."""

    def __init__(self, data: dataset.Dataset, num: int):
        self._images, self._value_range = data.train["image"], data.spec.value_range
        self._rows = dataset.spread(len(self._images), num)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return to_bytes(self._images[self._rows[rows]], self._value_range)


def write_report(run: Run, values: dict[str, Any]) -> None:
    """Writes report.json. It keeps existing metrics if their facts are the same, the step at which the run finished,
    and why it did so early."""
    old, names = run.read_report(), {row["name"] for row in values["metrics"]}
    of_same = old.get("facts") == values["facts"]
    kept = [row for row in old["metrics"] if row["name"] not in names] if of_same else []
    finished = {name: old.get(name) for name in ("finished_step", "stopped_early")}
    write_json(run.report_json, finished | values | {"metrics": values["metrics"] + kept})


def table(values: dict[str, Any]) -> str:
    """Returns the metrics as lines of text, with the reason for each one that was left out."""
    width = max([36, *(len(row["name"]) for row in values["metrics"])])
    lines = [f"{'metric':{width}} {'value':>10} {'real test data':>16}"]
    for row in values["metrics"]:
        reference = "" if row["reference"] is None else f"{row['reference']:.4g}"
        lines.append(f"{row['name']:{width}} {row['value']:10.4g} {reference:>16}")
    return "\n".join(lines + [f"{each['measure']}: left out: {each['reason']}" for each in values["left_out"]])
