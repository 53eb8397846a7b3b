import json
import types

import numpy as np
import pytest
from clu.parameter_overview import count_parameters
from conftest import data_config

from experiments import (
    ablation,
    acgan,
    acgan_sweep,
    captions,
    codes,
    guidance,
    latents,
    modern_gan,
    paths,
    photographs,
    predictions,
    priors,
    removed_convolution,
    runs,
    schedules,
    stacked,
    steps,
    trilemma,
    zero_snr,
)  # fmt: skip
from gen_jax import config as configs
from gen_jax import judges, methods, parallel, sample
from gen_jax.data import dataset
from gen_jax.diffusion import model
from gen_jax.method import DataSpec, Feature, UserError, labelled
from gen_jax.run import Run

MODULES = (
    acgan, acgan_sweep, captions, codes, guidance, latents, modern_gan, paths, photographs, predictions,
    priors, removed_convolution, schedules, stacked, steps, trilemma, zero_snr,
)  # fmt: skip
EXPERIMENTS = [each.ABLATION for each in MODULES]
SPECS = {
    "mnist": DataSpec("mnist", (28, 28, 1), 60_000, labelled("0123456789")),
    "cifar10": DataSpec("cifar10", (32, 32, 3), 50_000, labelled("0123456789")),
    "stacked:mnist": DataSpec("stacked:mnist", (28, 28, 3), 60_000),
    "image_folder:": DataSpec("pictures", (64, 64, 3), 2_700),
    "captioned_shapes": DataSpec(
        "captioned_shapes", (64, 64, 3), 10_000, {"text": Feature((4, 64), "float32", several=True)}
    ),
}


def spec_of(config) -> DataSpec:
    return dataset.load(config.data).spec if config.data.name == "shades" else SPECS[config.data.name]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
def test_every_run_and_row_is_a_valid_config(experiment: ablation.Ablation):
    for row in experiment.rows.values():
        trained = runs.resolve(ablation.words(experiment, row.run))
        config = methods.override(trained, row.words)
        methods.check(config)
        assert configs.changes(trained.to_dict(), config.to_dict(), configs.JUDGING) == []
        spec, first = spec_of(config), methods.whole_stage(config)
        methods.make(config, spec, None if first is None else methods.make_stage(first, spec))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replaces training, sampling and judging; returns the names and sizes of what was sampled."""
    drawn = []

    def train(folder, lines, command, parallel):
        assert command.startswith("python -m experiments.example --")
        for name in lines:
            (folder / name).mkdir(parents=True, exist_ok=True)
            reports = [json.dumps({"step": step, "seconds": 60.0 * step}) for step in (1, 5)]
            Run(folder / name).metrics.write_text("\n".join(reports))

    def load(workdir, words, free):
        assert free == configs.JUDGING  # rows may sample and judge in other ways
        config = types.SimpleNamespace(data=types.SimpleNamespace(name="made up"), run=workdir.name)
        return types.SimpleNamespace(config=config, words=words)

    def draw(model, spec, num):
        drawn.append((model.config.run, num))
        return judges.Samples(np.full((num, 4, 4, 1), len(drawn), np.uint8), None, "made"), 50.0

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(sample, "load", load)
    monkeypatch.setattr(dataset, "load", lambda config: types.SimpleNamespace(spec=None))
    monkeypatch.setattr(ablation, "draw", draw)
    return drawn


EXAMPLE = ablation.Ablation(
    name="example",
    about="An example.",
    config="ddpm_mnist.py",
    words=(),
    runs={"a": (), "b": ("--config.num_steps=7",)},
    rows={"first": ablation.Row("a"), "second": ablation.Row("b", ("--config.sample.num_steps=3",))},
    measures=("loss", "size", "images_per_second"),
    measure=lambda samples, data, config: ({"loss": float(samples.images[0, 0, 0, 0])}, {"loss": 0.5}),
    of_run=lambda workdir, model, data: {"size": 9.0},
    verdict=lambda found: f"Means: {ablation.means(found, 'loss')}",
    figure=lambda found, real, shown: f"<svg>{sorted(shown)}</svg>",
    folder="example",
    seeds=2,
    num=20,
)


def test_rows_and_seeds_are_measured_once_and_stand_in_the_table(tmp_path, made_up: list, capsys):
    words = [f"--runs={tmp_path}/runs", f"--out={tmp_path}/out"]
    ablation.main(EXAMPLE, words)
    assert made_up == [("a-seed0", 20), ("b-seed0", 20), ("a-seed1", 20), ("b-seed1", 20)]
    report = json.loads((tmp_path / "out/report.json").read_text())
    ((title, rows),) = report["tables"].items()
    assert title == "20 samples a row, 2 seeds: mean (smallest to largest)"
    assert [row[""] for row in rows] == ["first", "second", "real test images"]
    assert [row["loss"] for row in rows] == ["2 (1 to 3)", "3 (2 to 4)", "0.5"]
    assert [row["size"] for row in rows] == ["9 (9 to 9)", "9 (9 to 9)", ""]
    assert [row["images per second"] for row in rows] == ["50 (50 to 50)", "50 (50 to 50)", ""]
    assert {row["minutes of training"] for row in rows} == {"5 (5 to 5)", ""}
    assert report["verdict"] == "Means: {'first': 2.0, 'second': 3.0}"
    assert report["words"] == {"every run": [], "a": [], "b": ["--config.num_steps=7"]}
    assert (tmp_path / "out/example.svg").read_text() == "<svg>['first', 'second']</svg>"
    ablation.main(EXAMPLE, words)
    assert len(made_up) == 4
    ablation.main(EXAMPLE, [*words, "--num=9", "--rows", "second", "--seeds=1"])
    assert made_up[4:] == [("b-seed0", 9)]
    assert "second, seed 0: loss 5" in capsys.readouterr().out


def test_a_dear_row_is_measured_for_its_own_number_of_seeds(tmp_path, made_up: list):
    dear = EXAMPLE.rows | {
        "dear": ablation.Row("a", ("--config.sample.num_steps=9",), seeds=1),
        "only": ablation.Row("c", seeds=1),
    }
    some = EXAMPLE._replace(rows=dear, runs=EXAMPLE.runs | {"c": ()})
    ablation.main(some, [f"--runs={tmp_path}/runs", f"--out={tmp_path}/out"])
    assert [name for name, _ in made_up] == ["a-seed0", "b-seed0", "a-seed0", "c-seed0", "a-seed1", "b-seed1"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "a-seed0", "a-seed1", "b-seed0", "b-seed1", "c-seed0",
    ]  # fmt: skip
    ((_, rows),) = json.loads((tmp_path / "out/report.json").read_text())["tables"].items()
    assert [row[""] for row in rows] == ["first", "second", "dear (1 seed)", "only (1 seed)", "real test images"]
    assert [row["loss"] for row in rows[:4]] == ["3 (1 to 5)", "4 (2 to 6)", "3", "4"]


def test_an_experiment_without_samples_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 1"):
        ablation.main(EXAMPLE, ["--num=0", f"--runs={tmp_path}", f"--out={tmp_path}"])


def test_the_distance_of_brightness_is_that_of_uniform_distributions():
    # W1 of the uniform distributions on [0, 1] and [1/4, 3/4] is the mean of |q - (1/4 + q/2)| over q: 1/8.
    q = (np.arange(1_000) + 0.5) / 1_000
    assert zero_snr.distance(q, 0.25 + q / 2) == pytest.approx(1 / 8, abs=1e-6)
    images = np.array([255, 0, 51], np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    np.testing.assert_allclose(zero_snr.brightness(images), [0, 0.2, 1])


def test_paths_differ_in_the_process_alone_and_are_sampled_with_as_many_calls():
    network, calls = set(), set()
    for row in paths.ABLATION.rows.values():
        line = [f"--config={runs.ROOT}/configs/ddpm_mnist.py", *paths.ABLATION.runs[row.run]]
        config = methods.override(runs.resolve(line), row.words)
        network.add((str(config.network), config.num_steps, config.batch_size, str(config.optimizer)))
        made = configs.chosen(model.CHOICES["sample.sampler"], config.sample.sampler)
        calls.add(made.calls(config.sample.num_steps))
    assert len(network) == 1
    assert calls == {25}
    edm = methods.override(runs.resolve([f"--config={runs.ROOT}/configs/ddpm_mnist.py", *paths.RUNS["EDM"]]), [])
    theirs = methods.load("edm_mnist")[2]
    assert edm.diffusion == theirs.diffusion
    assert edm.sample.spacing == theirs.sample.spacing


def sizes_of(line: list[str]) -> dict[str, int]:
    """Parameters of the networks of a command line, by name."""
    config = runs.resolve(line)
    spec = spec_of(config)
    state = methods.abstract_state(methods.make(config, spec), spec, None, parallel.make_mesh(1))
    return {network: count_parameters(params) for network, params in state.params.items()}


@pytest.mark.parametrize(
    ("run", "kept", "generator", "discriminator"),
    [("with", 4, 3_806_080, 2_765_696), ("without", 3, 3_696_384, 675_712)],
)
def test_removing_the_last_convolution_leaves_the_published_sizes(run, kept, generator, discriminator):
    line = ablation.words(removed_convolution.ABLATION, run)
    whole = [line[0], *removed_convolution.widths(kept, shrink=1)]
    assert sizes_of(whole) == {"generator": generator, "discriminator": discriminator}
    assert runs.resolve(line).network == runs.resolve([line[0], *removed_convolution.widths(kept)]).network


def test_the_sweep_contains_the_run_that_is_compared():
    nine, name = acgan_sweep.ABLATION.runs, acgan.run_of(acgan.RATE, acgan.NOISE)
    assert len(nine) == 9
    assert acgan_sweep.ABLATION.folder == acgan.ABLATION.folder
    assert ablation.words(acgan_sweep.ABLATION, name) == ablation.words(acgan.ABLATION, name)
    both = [
        (c.optimizer.learning_rate, c.discriminator_optimizer.learning_rate, c.network.activation_noise)
        for c in (runs.resolve(ablation.words(acgan_sweep.ABLATION, each)) for each in nine)
    ]
    assert sorted(both) == [(rate, rate, noise) for rate in (1e-4, 2e-4, 3e-4) for noise in (0.0, 0.1, 0.2)]


@pytest.mark.parametrize(
    ("experiment", "name"), [(stacked, "stacked:made_up_digits"), (acgan, "made_up_mnist")], ids=["stacked", "acgan"]
)
def test_measures_of_an_experiment_are_those_of_its_table(experiment, name, made_up_tfds):
    config = configs.base_config()
    config.data = data_config(made_up_tfds, name)
    config.eval.classifier_steps = 10
    data = dataset.load(config.data)
    assert data.test is not None
    labels = data.test.get("label")
    samples = judges.Samples(data.test["image"][:100], None if labels is None else labels[:100], "made")
    values, real = experiment.measure(samples, data, config)
    assert set(experiment.ABLATION.measures) <= values.keys()
    assert set(experiment.ABLATION.measures) <= real.keys()


@pytest.mark.slow
def test_a_row_is_measured_by_the_run_s_own_samples(tiny_run, made_up_tfds):
    data = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    model = sample.load(tiny_run, ("--config.sample.num=70",))
    samples, speed = ablation.draw(model, data.spec, 70)
    assert speed > 0
    values, _ = ablation.by_classifier(samples, data, model.config)
    report = json.loads((tiny_run / "report.json").read_text())["metrics"]
    of_run = {one["name"].partition("/")[0]: one["value"] for one in report}
    for name in ("frechet_distance", "precision", "recall", "coverage"):
        assert values[name] == pytest.approx(of_run[name], rel=1e-3)
