"""What is kept of a run while it is trained: its best checkpoint, and what was drawn."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import methods, validation
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import Picture, State
from gen_jax.run import Run


def test_what_was_best_is_remembered_up_to_the_step_that_a_run_goes_on_from(tmp_path):
    run, name, config = Run(tmp_path), "eval/frechet_distance/classifier_1k", methods.load("vae_mnist")[2]
    state = State(jnp.int32(30), jax.random.key(0), {"net": jnp.ones(2)}, {}, {}, {}, {})
    with validation.BestCheckpoints(run, 0, {}, config) as best:
        given = ({name: 3.0}, {name: 4.0}, {}, {name: float("nan")}, {name: 2.0})
        found = [best.takes(step, scores) for step, scores in zip((10, 20, 25, 26, 30), given, strict=True)]
        assert found == [True, False, False, False, True]
        best.save(state)
        assert Checkpoints(run.best).steps() == [30]  # whole before the loop's own checkpoint of this step
    lines = ({"step": 10, name: 3.0}, {"step": 15, name: None}, {"step": 20, name: 4.0}, {"step": 30, name: 2.0})
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with validation.BestCheckpoints(run, 30, {}, config) as best:
        assert not best.takes(35, {name: 2.5})
    assert Checkpoints(run.best).steps() == [30]
    with validation.BestCheckpoints(run, 20, {}, config) as best:  # step 30 is taken again
        assert Checkpoints(run.best).steps() == []
        assert not best.takes(30, {name: 3.5})
        assert best.takes(35, {name: 2.5})


def test_pictures_of_steps_that_are_taken_again_are_forgotten(tmp_path):
    run = Run(tmp_path)
    for step in (6, 12, 1200):
        validation.save_snapshots(run, step, {"a": Picture(np.zeros((4, 8, 8, 1), np.uint8), "t")}, "made_up")
    mine = run.training / "a/2024.png"
    mine.write_text("a user's own")
    validation.forget_snapshots(run, 12)
    assert mine.read_text() == "a user's own"
    mine.unlink()
    assert sorted(path.stem for path in run.training.glob("*/*.npz")) == ["00000006", "00000012"]
    assert len(list(run.training.glob("*/*"))) == 4
