import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gan_losses as experiment
from gen_jax import methods
from gen_jax.data import gaussians
from gen_jax.method import DataSpec
from gen_jax.metrics import modes

SPEC = DataSpec(experiment.DATA, (1, 1, 2), 100, kind="points", value_range=(-5.0, 5.0))
REAL = gaussians.draw(gaussians.MIXTURES["grid25"], 0, 100).reshape(-1, 1, 1, 2)


@functools.cache
def tiny(game: str):
    config = experiment.config(experiment.GAMES[game], 24)
    config.batch_size = 8
    config.network.generator_hidden = config.network.hidden = (4,)
    return config


def test_every_game_is_one_that_a_run_could_have():
    for game in experiment.GAMES.values():
        config = experiment.config(game, 600)
        methods.make(config, SPEC)
        assert config.num_steps % experiment.NUM_LOOKS == 0
        assert not game.base or game.base in experiment.GAMES


def test_remedies_have_the_strengths_that_their_games_were_played_with():
    """As experiments/results/gan_losses has them: of versions whose configs had a key for each weight and bound."""
    choices = {name: experiment.config(game, 600).gan for name, game in experiment.GAMES.items()}
    penalties = {name: c.penalty.to_dict() for name, c in choices.items() if c.penalty.name != "none"}
    constraints = {name: c.constraint.to_dict() for name, c in choices.items() if c.constraint.name != "none"}
    gradient_penalty = {"name": "wgan_gp", "weight": 1.0, "every": 1}
    r1 = {name: {"name": "r1", "weight": 0.02, "every": 1} for name in choices if "R1" in name}
    assert penalties == r1 | {"Wasserstein, gradient penalty": gradient_penalty}
    assert len(r1) == 6
    spectral = {name: {"name": "spectral"} for name in choices if "spectral" in name}
    assert constraints == spectral | {"Wasserstein, clipping": {"name": "clip", "bound": 0.1}}
    assert len(spectral) == 2


@pytest.mark.slow
def test_seeds_in_one_program_are_what_they_are_alone():
    config = tiny("relativistic, R1 and instance noise")
    method = methods.make(config, SPEC)
    steps = jax.jit(experiment.many_steps(method, config, jnp.asarray(REAL), 3))

    def after(seeds: list[int]):
        states, _ = steps(experiment.start(method, seeds))
        return states.params

    both, alone = after([3, 7]), after([7])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], atol=1e-6), both, alone)


@pytest.mark.parametrize(
    ("covered", "good", "inside", "gradients", "expected"),
    [
        (25, 0.95, 1.0, [1, 1, 1], "solved"),
        (24, 0.90, 1.0, [1, 1, 1e-9], "solved"),
        (23, 0.99, 1.0, [1, 1, 1], "collapse"),
        (25, 0.80, 1.0, [1, 1, 1], "points between modes"),
        (0, 0.00, 1.0, [1, 1, 1e-3], "vanishing gradient"),
        (3, 0.10, 0.4, [1, 1, 1], "divergence"),
        (3, 0.10, 1.0, [1, np.nan, 1], "divergence"),
    ],
)
def test_failures_have_names(covered, good, inside, gradients, expected):
    assert experiment.outcome(modes.Scores(covered, good, 0.0), inside, np.array(gradients, float)) == expected


def test_a_game_is_judged_by_its_last_points():
    mixture = gaussians.MIXTURES["grid25"]
    collapsed, whole = np.repeat(mixture.centres[:4], 500, axis=0), np.repeat(mixture.centres, 80, axis=0)
    looks = np.stack([[whole, whole], [collapsed, whole]])  # two looks at two seeds
    ones = np.ones((2, 2))
    row = experiment.judge("hinge", experiment.Trace(looks, {"grad_norm": ones, "fake_score": ones}, 3.0, 24))
    assert row["modes"] == [4, 25]
    assert row["most modes on the way"] == [25, 25]
    assert row["outcome"] == ["collapse", "solved"]
    told = experiment.summary(row)
    assert told["solved"] == "1 of 2"
    assert told["failures"] == "collapse 1"
    assert told["good points"] == "100% (100% to 100%)"
    rows = {"hinge": row, "hinge, spectral norm": row | {"game": "hinge, spectral norm", "modes": [25, 25]}}
    (changed,) = experiment.remedies(rows)
    assert (changed["with"], changed["modes"]) == ("spectral norm", "14 -> 25")
    assert "none. The best loss without a remedy solves 1 of 2" in experiment.verdict(rows)
    assert experiment.verdict({"hinge, spectral norm": row}).endswith("seeds: none.")  # nothing without one was played


@pytest.mark.slow
def test_the_command_writes_its_table_and_figures(tmp_path, monkeypatch):
    small = tiny("hinge")
    monkeypatch.setattr(experiment, "config", lambda game, steps: small)
    words = ["gan_losses", "--only=hinge", "--steps=24", "--seeds=2", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", words)
    experiment.main()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "table.md", "points.png", "training.gif"}
    assert "| hinge, spectral norm |" in (tmp_path / "table.md").read_text()
