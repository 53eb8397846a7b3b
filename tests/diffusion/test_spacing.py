"""Spacings: Karras' levels on every path, where sampling starts from them, and what is refused."""

import jax
import numpy as np
import pytest
from diffusion.normal_data import MEAN, STD, exact

from gen_jax import methods
from gen_jax.diffusion import sampler, schedule, solvers, spacing
from gen_jax.method import DataSpec, UserError, labelled

PATHS = {
    "linear": schedule.linear(),
    "cosine": schedule.cosine(zero_terminal_snr=True),
    "scaled_linear": schedule.scaled_linear(),  # ends at a noise of 15
    "ten times": schedule.cosine(10, zero_terminal_snr=True),
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
    "variance_preserving": schedule.variance_preserving(),
}
# Reference sheet, float64: 5 and the first of 18 levels from 80 to 0.002.
FIVE = [80.0, 17.52783196464411, 2.515218976147159, 0.16975275626876413, 0.002]
EIGHTEEN = [80.0, 57.58598472124816, 40.78557379650796, 28.374584604156844, 19.352452980325225]


def noises(path, made, n):
    levels = path.path(made(path, n))
    return (levels.sigma / levels.alpha)[:-1]


@pytest.mark.parametrize("name", ["trailing", "leading", "linspace"])
def test_evenly_spaced_times_are_those_of_the_path(name):
    for n in (1, 7, 50):
        np.testing.assert_array_equal(spacing.SPACINGS[name]()(PATHS["linear"], n), PATHS["linear"].steps(n, name))
    np.testing.assert_array_equal(spacing.trailing()(PATHS["straight"], 4), [1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("path", ["straight", "variance_exploding", "variance_preserving"])
def test_the_levels_of_the_paper_have_their_noise_on_every_path(path):
    made = spacing.karras(sigma_max=80.0)
    np.testing.assert_allclose(noises(PATHS[path], made, 5), FIVE, rtol=1e-9)
    np.testing.assert_allclose(noises(PATHS[path], made, 18)[:5], EIGHTEEN, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("path", PATHS)
def test_levels_part_a_root_of_the_noise_within_what_the_path_has(path, n):
    """By default from 80 to 0.002, or the path's own ends; between the times of a table too."""
    made = PATHS[path]
    least, most = made.noise_range
    low, high = max(0.002, least), min(80.0, most)
    root = np.array([high ** (1 / 7) + i / max(n - 1, 1) * (low ** (1 / 7) - high ** (1 / 7)) for i in range(n)])
    np.testing.assert_allclose(noises(made, spacing.karras(), n), root**7, rtol=1e-8)
    np.testing.assert_allclose(noises(made, spacing.karras(1.0, 0.3, 2.0), 3), [2, 1.15, 0.3], rtol=1e-8)
    steps = spacing.karras()(made, n)
    assert np.all(np.diff(steps) < 0)


def test_a_table_of_few_times_is_sampled_with_more_levels_between_them():
    made = PATHS["ten times"]
    steps = spacing.karras()(made, 10)
    assert len(steps) == 10
    assert np.any(steps % 1 != 0)
    assert 8 < steps[0] < 9  # a noise of 80 lies before the end, which is pure noise


@pytest.mark.parametrize("name", ["ancestral", "heun", "plms"])
@pytest.mark.parametrize(
    "path", sorted(PATHS.keys() - {"scaled_linear"})
)  # N(0, 1) is too far from what that ends with
def test_samples_of_normal_data_reach_its_mean_and_variance(path, name):
    """The first level is not the end of the path, and the noise there is as it should be."""
    made, keys = PATHS[path], jax.random.split(jax.random.key(0), 4_000)
    steps = spacing.karras(sigma_max=20.0)(made, min(60, getattr(made, "num_steps", 60)))
    x0 = np.asarray(sampler.sample(exact, made, solvers.SAMPLERS[name](), steps, keys, (1,)))
    few = 0.15 if len(steps) == 10 else 0.015
    assert x0.mean() == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4_000) + few)
    assert x0.std() == pytest.approx(STD, rel=4.5 / np.sqrt(8_000) + 2 * few)


def test_sampling_starts_from_the_noise_of_the_first_level():
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = np.stack([jax.random.normal(jax.random.fold_in(key, 0), (4,)) for key in keys])
    for path, expected in (
        ("straight", 20 / 21),
        ("variance_exploding", 20),
        ("variance_preserving", 1),
        ("cosine", 1),
    ):
        steps = spacing.karras(sigma_max=20.0)(PATHS[path], 3)
        way = sampler.trajectory(exact, PATHS[path], solvers.ddim(), steps, keys, (4,), keep=[0])
        np.testing.assert_allclose(way.x_t[0], expected * drawn, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "path", "line"),
    [
        ((0.0,), "straight", "rho is 0; it must be above 0"),
        (
            (7.0, 0.002, 200.0),
            "variance_exploding",
            "from 200 down to 0.002; .* the variance_exploding path's 80 to 0.002",
        ),
        ((7.0, 0.001, 80.0), "variance_exploding", "from 80 down to 0.001"),
        ((7.0, 3.0, 2.0), "straight", "from 2 down to 3; they must fall"),
        ((7.0, -1.0, 2.0), "straight", "from 2 down to -1"),
        ((7.0, 0.0, 80.0), "scaled_linear", "from 80 down to .*; .* the scaled_linear path's 14.6146 to 0.0291672"),
    ],
)
def test_levels_that_a_path_does_not_have_are_refused_in_one_line(words, path, line):
    with pytest.raises(UserError, match=line) as error:
        spacing.karras(*words)(PATHS[path], 5)
    assert "\n" not in str(error.value)


def test_impossible_numbers_of_steps_are_refused():
    with pytest.raises(UserError, match="11 sampling steps are not possible: this schedule has 1 to 10"):
        spacing.karras()(PATHS["ten times"], 11)


def test_a_spacing_is_named_on_the_command_line_as_ever_and_a_plain_name_is_read():
    config = methods.load("ddpm_mnist:tiny")[2]
    for word in ("spacing=leading", "spacing.name=leading"):
        assert methods.override(config, [f"--config.sample.{word}"]).sample.spacing.to_dict() == {"name": "leading"}
    found = methods.override(config, ["--config.sample.spacing=karras", "--config.sample.spacing.rho=5"])
    assert found.sample.spacing.to_dict() == {"name": "karras", "rho": 5.0, "sigma_min": 0.0, "sigma_max": 0.0}
    stored = config.to_dict()
    stored["sample"]["spacing"] = "linspace"  # as runs had it before it had parameters
    for version in ("0.1.0", "0.2.0"):
        record = {"config": stored, "versions": {"gen_jax": version}}
        assert methods.stored(record).sample.spacing.to_dict() == {"name": "linspace"}


def test_a_report_names_the_network_calls_and_leaves_out_levels_that_are_the_path_s():
    config = methods.load("edm_mnist")[2]
    told = methods.make(config, DataSpec("digits", (28, 28, 1), 600, labelled("0123456789"))).describe
    assert told["sampler"] == "heun, 18 steps (35 network calls)"
    assert told["spacing"] == "karras spacing (rho 7.0)"
