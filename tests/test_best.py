"""The best checkpoints by any measure, as many as are asked for, and runs that stop early."""

import json

import jax
import jax.numpy as jnp
import pytest
from test_methods import batch_of

from gen_jax import best, evaluate, main, methods, parallel, sample, sweep, validation
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import DataSpec, State, UserError, labelled
from gen_jax.run import Run
from gen_jax.writers import read_metrics

SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))


def config_of(*words, name="vae_mnist"):
    config = methods.override(methods.load(f"{name}:tiny")[2], [f"--config.{word}" for word in words])
    methods.check(config)
    return config


def state_at(step):
    return State(jnp.int32(step), jax.random.key(0), {"net": jnp.full(2, step)}, {}, {}, {}, {})


def write_record(run, name, values):
    lines = [{"step": step, name: value} for step, value in values.items()]
    run.workdir.mkdir(exist_ok=True)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("words", "name", "ranked"),
    [
        ([], "eval/frechet_distance/classifier_1k", [20, 10, 30]),
        (["eval.best=loss"], "eval/loss", [20, 10, 30]),
        (["eval.best=negative_elbo"], "eval/negative_elbo", [20, 10, 30]),  # a bound: lower is better
    ],
)
def test_lower_is_better_for_distances_losses_and_bounds(words, name, ranked, tmp_path):
    write_record(Run(tmp_path), name, {10: 2.0, 20: 1.0, 30: 3.0, 40: None})
    scores = best.scores_of(Run(tmp_path), config_of(*words))
    assert scores.ranked == [*ranked, 40]  # a value that is not finite comes last
    assert scores.since_best == 2
    assert best.scores_of(Run(tmp_path), config_of("eval.best=reconstruction")).ranked == []


def test_higher_is_better_where_the_method_says_so(tmp_path):
    write_record(Run(tmp_path), "eval/psnr_y_shaved4", {10: 20.0, 20: 21.0, 30: 19.0})
    assert best.scores_of(Run(tmp_path), config_of("eval.best=psnr_y_shaved4", name="srresnet_t91")).ranked == [
        20,
        10,
        30,
    ]


def test_values_of_another_judge_do_not_count():
    scores = best.Scores(config_of())
    assert scores.add(1, {"eval/frechet_distance/classifier_1k": 5.0}) == 0
    assert scores.add(2, {"eval/frechet_distance/classifier_2k": 9.0}) == 0
    assert scores.add(3, {"eval/frechet_distance/classifier_2k": 9.0}) == 1
    assert scores.add(4, {"eval/frechet_distances": 1.0}) is None
    assert scores.ranked == [2, 3]


def test_the_best_of_any_measure_are_kept_and_found_again(tmp_path):
    run, config = Run(tmp_path), config_of("eval.best=loss", "eval.keep_best=2")
    values = {10: 5.0, 20: 3.0, 30: 4.0, 40: 6.0, 50: 2.0}
    with validation.BestCheckpoints(run, 0, {}, config) as kept:
        taken = []
        for step, value in values.items():
            taken.append(kept.takes(step, {"eval/loss": value}))
            if taken[-1]:
                kept.save(state_at(step))
        assert taken == [True, True, True, False, True]
    assert Checkpoints(run.best).steps() == [20, 50]
    write_record(run, "eval/loss", values)
    with validation.BestCheckpoints(run, 40, {}, config) as kept:  # step 50 is taken again
        assert Checkpoints(run.best).steps() == [20]
        assert not kept.takes(50, {"eval/loss": 4.5})
        assert kept.takes(60, {"eval/loss": 3.5})
    with validation.BestCheckpoints(run, 40, {}, config_of("eval.best=loss")):
        assert Checkpoints(run.best).steps() == [20]


@pytest.fixture
def three_kept(tmp_path):
    """An untrained run with checkpoints of steps 10 to 40, three of them among the best."""
    run, config = Run(tmp_path), config_of("eval.best=loss", "eval.keep_best=3")
    method, mesh = methods.make(config, SPEC), parallel.make_mesh(1)
    run.write_config({"config": config.to_dict(), "data": SPEC.to_dict(), "versions": {"gen_jax": "0.2.0"}})
    write_record(run, "eval/loss", {10: 3.0, 20: 1.0, 30: 2.0, 40: 9.0})
    state = parallel.init_state(method.init, 0, mesh, batch_of(0, SPEC, 64), {})
    for folder, steps in ((run.best, (10, 20, 30)), (run.checkpoints, (30, 40))):
        with Checkpoints(folder) as checkpoints:
            for step in steps:
                checkpoints.save(state.replace(step=jax.device_put(jnp.int32(step), state.step.sharding)))
    return run


def test_a_run_is_sampled_at_its_best_its_last_or_any_kept_step(three_kept):
    def step_of(checkpoint):
        return int(sample.load(three_kept.workdir, (f"--config.sample.checkpoint={checkpoint}",)).state.step)

    assert [step_of(each) for each in ("last", "best", "10", "30", "40")] == [40, 20, 10, 30, 40]
    model = sample.load(three_kept.workdir, ("--config.sample.checkpoint=10",))
    assert "kept checkpoint, step 10" in evaluate.described(model)
    with pytest.raises(UserError, match="holds no checkpoint of step 15; there are: 10, 20, 30, 40"):
        step_of("15")
    with pytest.raises(UserError, match=r"sample\.checkpoint is 'first'; .*allowed: last, best"):
        step_of("first")
    (three_kept.best / "20/leaves.json").write_text("{}")  # damaged: the next best takes its place
    assert step_of("best") == 30


def test_early_stopping_counts_evaluations_since_the_best():
    config = config_of("eval.best=loss", "eval.patience=3", "num_steps=100")
    scores, found = best.Scores(config), []
    for step, value in zip(range(10, 110, 10), (5, 4, 4, 6, 3, 4, 5, 3, 2, 1), strict=True):
        scores.add(step, {"eval/loss": float(value)})
        found.append(bool(best.stopped_early(config, scores, step)))
    # Best at step 20, again at 50; an equal value is no better one. At the end nothing is left to stop.
    assert [10 * (i + 1) for i, stopped in enumerate(found) if stopped] == [80]
    assert best.stopped_early(config_of("eval.best=loss", "num_steps=100"), scores, 80) == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["eval.best=nll"], "'nll', which this run does not measure: use --config.eval.best=loss, or set .*track"),
        (["eval.patience=2"], "'frechet_distance', which this run does not measure: use --config.eval.best=loss"),
        (["eval.keep_best=2"], "'frechet_distance', which this run does not measure"),
    ],
)
def test_checkpoints_are_not_ranked_by_what_is_not_measured(words, line):
    config = config_of("eval.track=0", *words)
    made = methods.make(config, SPEC)
    abstract = methods.abstract_state(made, SPEC, None, parallel.make_mesh(1))
    data = evaluate.dataset.Dataset(SPEC, {}, None)
    with pytest.raises(UserError, match=line) as error:
        validation.check_best(config, made, abstract, data)
    assert "\n" not in str(error.value)
    validation.check_best(config_of("eval.track=0"), made, abstract, data)
    validation.check_best(config_of("eval.best=loss", "eval.patience=2"), made, abstract, data)


@pytest.mark.long
def test_a_run_that_stopped_early_says_so_counts_as_finished_and_goes_on_with_more_patience(
    made_up_tfds, tmp_path, capsys
):
    # At a learning rate of 0 nothing becomes better after the first look; nor by the rounding of an average.
    values = {"data.name": "made_up_digits", "data.data_dir": made_up_tfds, "batch_size": 16, "num_steps": 30,
              "log_every": 2, "eval_every": 2, "checkpoint_every": 100, "sample.num": 20, "sample.batch_size": 20,
              "eval.num_examples": 20, "eval.classifier_steps": 10, "optimizer.decay": "none", "eval.track": 0,
              "optimizer.learning_rate": 0, "ema": 0, "eval.best": "loss", "eval.patience": 2}  # fmt: skip
    words = ["--config=vae_mnist:tiny", f"--workdir={tmp_path}", *(f"--config.{k}={v}" for k, v in values.items())]
    main.main(words)
    run, why = Run(tmp_path), "stopped early at step 6 of 30: eval/loss was best at step 2, 2 evaluations before"
    assert why in capsys.readouterr().out
    assert run.read_report()["stopped_early"] == why
    assert run.finished_step == Checkpoints(run.checkpoints).latest() == 6
    page = run.report_html.read_text()
    assert f"Training {why}." in page
    assert "is not finished" not in page
    assert [record["step"] for record in read_metrics(tmp_path) if "eval/loss" in record] == [2, 4, 6]
    config = methods.stored(run.read_config())
    assert sweep.is_finished(run, config)

    main.main(words)
    said = capsys.readouterr().out
    assert "has finished at step 6" in said
    assert "Stopped early at step 6" in said
    assert "--config.eval.patience" in said
    main.main([*words, "--mode=eval", "--config.eval.num_samples=20"][1:])
    assert run.read_report()["stopped_early"] == why

    main.main([*words, "--config.eval.patience=0", "--config.num_steps=8"])
    assert run.finished_step == 8
    assert not run.read_report()["stopped_early"]
    assert "stopped early" not in run.report_html.read_text()
