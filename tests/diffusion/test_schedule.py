"""Paths: tables' values in float64, formulas of real times, last levels, lists of steps, what the device is given.

The tables hold numbers of the reference sheet: float64 closed forms for T = 1000, made with numpy alone from the
formulas of the papers, at the times of `TIMES`. The lists of steps there are exact integer arithmetic.
"""

import decimal
import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import method
from gen_jax.diffusion import schedule

TIMES = [0, 1, 250, 500, 998, 999]
# fmt: off
ALPHA_BAR = {
    ("linear", False): [
        0.9999, 0.9997800920720721, 0.5214230306185275, 0.07779665836502389, 4.118193638138445e-05,
        4.035829765375676e-05
    ],
    ("linear", True): [0.9999, 0.9997793254331531, 0.5188605367916812, 0.0752462157043267, 4.213262465088072e-09, 0.0],
    ("scaled_linear", False): [
        0.99915, 0.9982960278384514, 0.6737926252333215, 0.2763326838229746, 0.004716698899875748, 0.004660098513077238
    ],
    ("scaled_linear", True): [
        0.99915, 0.9982334461401825, 0.6524570153414769, 0.24101878275731575, 1.9678880566212916e-07, 0.0
    ],
    ("cosine", False): [
        0.999958715775178, 0.9999125759273678, 0.8458879864968832, 0.49228517244880304, 2.4287669070348544e-06,
        2.4287669070348567e-09
    ],
    ("cosine", True): [
        0.9999587157751779, 0.9999125736533471, 0.845880710452926, 0.4922645385316662, 2.277811478992018e-06, 0.0
    ],
    ("sigmoid_beta", False): [
        0.9998507947991829, 0.9997010188194536, 0.9027989162246408, 0.29888762784675893, 4.0489620005560006e-05,
        3.968181990533219e-05
    ],
    ("sigmoid_beta", True): [
        0.999850794799183, 0.9997000693114607, 0.9021994328597476, 0.2957541807533249, 4.121529502443045e-09, 0.0
    ],
    ("sigmoid_abar", False): [
        0.9996997208002508, 0.9993978073666185, 0.8498630091830929, 0.49834281788206963, 0.00030027919974932816,
        3.0027919974932843e-07
    ],
    ("sigmoid_abar", True): [
        0.9996997208002509, 0.999397641821817, 0.8497841801543403, 0.4981152906195792, 0.0002818970629910186, 0.0
    ],
}
SNR = {
    ("linear", False): [
        9999.0000000011, 4546.357657463682, 1.0895280466430102, 0.0843595494103264, 4.118363240311403e-05,
        4.0359926511684205e-05
    ],
    ("linear", True): [
        9999.0000000011, 4530.559818099135, 1.0783994589257593, 0.08136891892974193, 4.213262482839652e-09, 0.0
    ],
    ("scaled_linear", False): [
        1175.47058823527, 585.8640477618947, 2.0655346180179253, 0.38185044100482407, 0.0047390515792460315,
        0.004681916706157956
    ],
    ("scaled_linear", True): [
        1175.47058823527, 565.073881326952, 1.877341923568234, 0.3175556618290463, 1.967888443879708e-07, 0.0
    ],
    ("cosine", False): [
        24221.32715552543, 11437.497085434357, 5.488786806875221, 0.9696096031372297, 2.42877280595787e-06,
        2.4287669129337654e-09
    ],
    ("cosine", True): [
        24221.327155460287, 11437.199562082289, 5.488480468206164, 0.9695295599564252, 2.27781666742897e-06, 0.0
    ],
    ("sigmoid_beta", False): [
        6701.179243912713, 3343.692124676554, 9.28795113345746, 0.4263048830943059, 4.049125948126995e-05,
        3.968339461465052e-05
    ],
    ("sigmoid_beta", True): [
        6701.179243917701, 3333.103638644566, 9.22488958132456, 0.419958731270411, 4.12152951943005e-09, 0.0
    ],
    ("sigmoid_abar", False): [
        3329.2339983432166, 1659.5981949409677, 5.660583741281357, 0.9933931689727478, 0.000300369394430717,
        3.002792899169533e-07
    ],
    ("sigmoid_abar", True): [
        3329.233998344448, 1659.1418163134908, 5.657088454647834, 0.9924894728004465, 0.00028197655135267724, 0.0
    ],
}
SUM_OF_ALPHA_BAR = {
    ("linear", False): 275.51323339680613,
    ("linear", True): 274.058084373704,
    ("scaled_linear", False): 373.3766305691685,
    ("scaled_linear", True): 352.17934167304554,
    ("cosine", False): 495.5775125824862,
    ("cosine", True): 495.5639425904617,
    ("sigmoid_beta", False): 428.53670133154566,
    ("sigmoid_beta", True): 427.40683677352104,
    ("sigmoid_abar", False): 499.5000003002793,
    ("sigmoid_abar", True): 499.34341351175493,
}
BETAS = {
    "linear": [0.0001, 0.00011991991991991993, 0.00507997997997998, 0.010059959959959959, 0.01998008008008008, 0.02],
    "scaled_linear": [
        0.00085, 0.0008546986554056862, 0.0024277610290551624, 0.00481495414171188, 0.011982376333083366, 0.012
    ],
    "cosine": [
        4.128422482196914e-05, 4.614175273665033e-05, 0.0013272239542118092, 0.003155691441585007, 0.7499993929011166,
        0.999
    ],
    "sigmoid_beta": [
        0.00014920520081703202, 0.00014979833041933025, 0.0010464782947001436, 0.010079879790061013,
        0.01995020166958067, 0.01995079479918297
    ],
    "sigmoid_abar": [
        0.00030027919974917605, 0.00030200411918746006, 0.0011641706718912292, 0.003314364235860956, 0.5013569029180894,
        0.999
    ],
}
BETA_998_RESCALED = {
    "linear": 0.75226723115047,
    "scaled_linear": 0.751137004176492,
    "cosine": 0.7579675808279058,
    "sigmoid_beta": 0.7525051878654935,
    "sigmoid_abar": 0.5107907636296971,
}
STEPS = {
    ("leading", 7): [852, 710, 568, 426, 284, 142, 0],
    ("linspace", 7): [999, 832, 666, 500, 333, 166, 0],
    ("trailing", 7): [999, 856, 713, 570, 428, 285, 142],
    ("leading", 10): [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
    ("linspace", 10): [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    ("trailing", 10): [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
    ("leading", 13): [912, 836, 760, 684, 608, 532, 456, 380, 304, 228, 152, 76, 0],
    ("linspace", 13): [999, 916, 832, 749, 666, 583, 500, 416, 333, 250, 166, 83, 0],
    ("trailing", 13): [999, 922, 845, 768, 691, 614, 537, 461, 384, 307, 230, 153, 76],
    ("leading", 30): [
        957, 924, 891, 858, 825, 792, 759, 726, 693, 660, 627, 594, 561, 528, 495, 462, 429, 396, 363, 330, 297, 264,
        231, 198, 165, 132, 99, 66, 33, 0
    ],
    ("linspace", 30): [
        999, 965, 930, 896, 861, 827, 792, 758, 723, 689, 655, 620, 586, 551, 517, 482, 448, 413, 379, 344, 310, 276,
        241, 207, 172, 138, 103, 69, 34, 0
    ],
    ("trailing", 30): [
        999, 966, 932, 899, 866, 832, 799, 766, 732, 699, 666, 632, 599, 566, 532, 499, 466, 432, 399, 366, 332, 299,
        266, 232, 199, 166, 132, 99, 66, 32
    ],
    ("leading", 50): [
        980, 960, 940, 920, 900, 880, 860, 840, 820, 800, 780, 760, 740, 720, 700, 680, 660, 640, 620, 600, 580, 560,
        540, 520, 500, 480, 460, 440, 420, 400, 380, 360, 340, 320, 300, 280, 260, 240, 220, 200, 180, 160, 140, 120,
        100, 80, 60, 40, 20, 0
    ],
    ("linspace", 50): [
        999, 979, 958, 938, 917, 897, 877, 856, 836, 816, 795, 775, 754, 734, 714, 693, 673, 652, 632, 612, 591, 571,
        550, 530, 510, 489, 469, 449, 428, 408, 387, 367, 347, 326, 306, 285, 265, 245, 224, 204, 183, 163, 143, 122,
        102, 82, 61, 41, 20, 0
    ],
    ("trailing", 50): [
        999, 979, 959, 939, 919, 899, 879, 859, 839, 819, 799, 779, 759, 739, 719, 699, 679, 659, 639, 619, 599, 579,
        559, 539, 519, 499, 479, 459, 439, 419, 399, 379, 359, 339, 319, 299, 279, 259, 239, 219, 199, 179, 159, 139,
        119, 99, 79, 59, 39, 19
    ],
}
# fmt: on

TABLES = sorted({name for name, _ in ALPHA_BAR})
ALL = [(name, rescaled) for name in TABLES for rescaled in (False, True)]
CONTINUOUS = {
    "straight": schedule.straight(),
    "variance_exploding": schedule.variance_exploding(),
    "wide": schedule.variance_exploding(0.01, 50.0),
    "variance_preserving": schedule.variance_preserving(),
    "preserving a constant rate": schedule.variance_preserving(3.0, 3.0),
}


def test_every_path_is_a_table_or_a_formula():
    assert sorted(schedule.SCHEDULES) == sorted([*TABLES, "straight", "variance_exploding", "variance_preserving"])
    for name, make in schedule.SCHEDULES.items():
        made = make()
        assert made.name == name
        assert isinstance(made, schedule.Schedule) == (name in TABLES)
        assert made.unit == (name in (*TABLES, "variance_preserving"))


@pytest.mark.parametrize(("name", "rescaled"), ALL)
def test_values_are_those_of_the_closed_form(name, rescaled):
    made = schedule.SCHEDULES[name](zero_terminal_snr=rescaled)
    assert made.name == name
    assert made.alpha.dtype == made.sigma.dtype == np.float64
    np.testing.assert_allclose(made.alpha_bar[TIMES], ALPHA_BAR[name, rescaled], rtol=1e-10)
    np.testing.assert_allclose((made.alpha / made.sigma)[TIMES] ** 2, SNR[name, rescaled], rtol=1e-10)
    np.testing.assert_allclose(made.alpha_bar.sum(), SUM_OF_ALPHA_BAR[name, rescaled], rtol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_ratios_of_alpha_bar_give_the_betas(name):
    alpha_bar = np.append(1, schedule.SCHEDULES[name]().alpha_bar)
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    np.testing.assert_allclose(betas[TIMES], BETAS[name], rtol=1e-10)
    assert np.sum(betas > 0.999 - 1e-9) == (name in ("cosine", "sigmoid_abar"))  # only their last is clipped
    rescaled = schedule.SCHEDULES[name](zero_terminal_snr=True).alpha_bar
    np.testing.assert_allclose(1 - rescaled[998] / rescaled[997], BETA_998_RESCALED[name], rtol=1e-9)


@pytest.mark.parametrize(("name", "rescaled"), ALL)
@pytest.mark.parametrize("num_steps", [2, 50, 1000])
def test_noise_rises_strictly_and_squares_add_up_to_one(name, rescaled, num_steps):
    made = schedule.SCHEDULES[name](num_steps, rescaled)
    assert made.num_steps == num_steps
    assert np.all(np.diff(made.alpha) < 0)
    assert np.all(np.diff(made.sigma) >= 0)  # near T sigma rises by less than a float64 can tell from 1
    assert np.all(np.diff(made.log_snr) < 0)
    assert np.all(made.sigma > 0)
    np.testing.assert_allclose(made.alpha**2 + made.sigma**2, 1, rtol=1e-14)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("num_steps", [2, 50, 1000])
def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_level(name, num_steps):
    made = schedule.SCHEDULES[name](num_steps, zero_terminal_snr=True)
    plain = schedule.SCHEDULES[name](num_steps)
    assert plain.alpha[-1] > 0
    assert made.alpha[-1] == 0
    assert made.sigma[-1] == 1
    assert made.log_snr[-1] == -np.inf
    np.testing.assert_allclose(made.alpha[0], plain.alpha[0], rtol=1e-12)
    np.testing.assert_allclose(made.sigma[0], plain.sigma[0], rtol=1e-10)


@pytest.mark.parametrize("rescaled", [False, True])
def test_float32_tables_are_accurate_at_every_time(rescaled):
    """Against the linear schedule worked out with 50 decimal digits; 1 - alpha_bar in float32 is 2e-4 off at t = 0."""
    with decimal.localcontext(prec=50):
        one, alpha_bar, alpha = decimal.Decimal(1), decimal.Decimal(1), []
        for i in range(1000):
            alpha_bar *= one - (decimal.Decimal("1e-4") + i * decimal.Decimal("0.0199") / 999)
            alpha.append(alpha_bar.sqrt())
        if rescaled:
            first, last = alpha[0], alpha[-1]
            alpha = [(a - last) * first / (first - last) for a in alpha]
        exact_alpha = np.array([float(a) for a in alpha])
        exact_sigma = np.array([float((one - a * a).sqrt()) for a in alpha])
    level = schedule.linear(zero_terminal_snr=rescaled).level(jnp.arange(1000))
    np.testing.assert_allclose(np.asarray(level.alpha, np.float64), exact_alpha, rtol=1e-7, atol=0)
    np.testing.assert_allclose(np.asarray(level.sigma, np.float64), exact_sigma, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("spacing", "n"), STEPS)
def test_steps_are_those_of_the_reference(spacing, n):
    steps = schedule.linear().steps(n, spacing)
    assert steps.dtype == np.int64
    assert steps.tolist() == STEPS[spacing, n]


def rounded(numerators, denominator):
    """Quotients to the nearest whole number, of two the even one: in whole numbers, so that none is rounded before."""
    whole, rest = np.divmod(numerators, denominator)
    return whole + ((2 * rest > denominator) | ((2 * rest == denominator) & (whole % 2 == 1)))


@pytest.mark.parametrize("num_steps", [1, 37, 1000])
def test_steps_are_exact_for_every_number_of_them(num_steps):
    """Floating strides give 62 wrong lengths for T = 1000."""
    made = schedule.linear(num_steps)
    for n in range(1, num_steps + 1):
        i = np.arange(n)
        trailing = rounded(num_steps * (n - i), n) - 1
        np.testing.assert_array_equal(made.steps(n), trailing)
        assert trailing[0] == num_steps - 1
        np.testing.assert_array_equal(made.steps(n, "leading"), (i * (num_steps // n))[::-1])
        linspace = rounded((num_steps - 1) * i, n - 1)[::-1] if n > 1 else [0]
        np.testing.assert_array_equal(made.steps(n, "linspace"), linspace)


def test_quotients_are_rounded_as_python_rounds_fractions():
    for a, b in ((37, 1), (36, 2)):  # the second has halves
        for n in range(1, 38):
            expected = [round(fractions.Fraction(a * i, b * n)) for i in range(n)]
            assert rounded(a * np.arange(n), b * n).tolist() == expected


@pytest.mark.parametrize(
    ("n", "first"), [(1, 0), (250, 996), (251, 750), (334, 666), (501, 500), (600, 599), (999, 998), (1000, 999)]
)
def test_leading_steps_start_below_the_last_time(n, first):
    assert schedule.linear().steps(n, "leading")[0] == first


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(n):
    with pytest.raises(method.UserError, match=f"^{n} sampling steps are not possible: this schedule has 1 to 1000$"):
        schedule.linear().steps(n)


def test_an_unknown_spacing_is_refused_with_the_known_ones():
    with pytest.raises(method.UserError, match=r"'trailling'; there are trailing, leading, linspace$"):
        schedule.linear().steps(10, "trailling")


@pytest.mark.parametrize(("num_steps", "rescaled"), [(0, False), (0, True), (1, True)])
@pytest.mark.parametrize("name", TABLES)
def test_too_short_schedules_are_refused(name, num_steps, rescaled):
    with pytest.raises(method.UserError, match="needs num_steps of"):
        schedule.SCHEDULES[name](num_steps, rescaled)


@pytest.mark.parametrize("num_steps", [50, 1000])
def test_training_and_sampling_see_the_same_numbers(num_steps):
    made = schedule.cosine(num_steps)
    steps = made.steps(13)
    trained = jax.jit(made.level)(jnp.asarray(steps, jnp.int32))
    walked = made.path(steps)
    for on_device, on_host in zip(trained, walked, strict=True):
        assert on_device.dtype == jnp.float32
        np.testing.assert_array_equal(on_device, on_host[:-1].astype(np.float32))


def test_the_network_is_told_the_time_on_one_scale():
    assert schedule.linear(1000).level(jnp.array([0, 999])).time.tolist() == [0, 999]
    assert schedule.linear(50).level(jnp.array([0, 49])).time.tolist() == [0, 980]
    for made in CONTINUOUS.values():
        assert made.level(jnp.array([0.25, 1.0])).time.tolist() == [250, 1000]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_levels_have_the_shape_of_their_times(shape):
    for level in (
        schedule.linear().level(jnp.full(shape, 7)),
        *(m.level(jnp.full(shape, 0.7)) for m in CONTINUOUS.values()),
    ):
        assert [leaf.shape for leaf in level] == [shape] * 3
        assert {leaf.dtype for leaf in level} == {jnp.dtype(jnp.float32)}


def test_a_path_ends_in_clean_data():
    for path in (schedule.linear().path([999, 5]), *(m.path([1.0, 0.3]) for m in CONTINUOUS.values())):
        assert {leaf.dtype for leaf in path} == {np.dtype(np.float64)}
        assert [len(leaf) for leaf in path] == [3] * 3
        assert path.alpha[-1] == schedule.CLEAN.alpha == 1
        assert path.sigma[-1] == schedule.CLEAN.sigma == 0


@pytest.mark.parametrize("steps", [[], [1000], [5, -1], [3, 3], [3, 5]])
def test_paths_that_do_not_fall_within_the_schedule_are_refused(steps):
    with pytest.raises(method.UserError, match=r"must fall strictly within 999\.\.0"):
        schedule.linear().path(steps)


def test_noise_is_added_by_the_level_of_each_example():
    x0, eps = jnp.full((2, 4, 4, 1), 0.6), jnp.full((2, 4, 4, 1), -1.1)
    x_t = schedule.add_noise(x0, eps, schedule.linear().level(jnp.array([0, 500])))
    expected = [0.5889699992499632, -0.8889932938924155]  # reference sheet, conversions, float64 closed form
    np.testing.assert_allclose(x_t[:, 0, 0, 0], expected, rtol=1e-6)


def test_the_straight_path_is_a_straight_line():
    t = np.linspace(0.01, 1, 100)
    path = schedule.straight().path(t[::-1])
    np.testing.assert_array_equal(path.alpha[:-1], 1 - t[::-1])
    np.testing.assert_array_equal(path.sigma[:-1], t[::-1])
    last = schedule.straight().level(jnp.array([1.0]))
    assert (last.alpha.item(), last.sigma.item()) == (0, 1)  # pure noise, exactly


@pytest.mark.parametrize(("least", "most"), [(0.002, 80.0), (0.01, 50.0)])
def test_variance_explodes_evenly_in_its_logarithm(least, most):
    t = np.linspace(1, 0.01, 100)
    path = schedule.variance_exploding(least, most).path(t)
    assert set(path.alpha) == {1.0}
    np.testing.assert_allclose(path.sigma[:-1], np.exp((1 - t) * np.log(least) + t * np.log(most)), rtol=1e-12)
    ends = schedule.variance_exploding(least, most).level(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends.sigma, [least, most], rtol=1e-6)
    assert ends.alpha.tolist() == [1, 1]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_sampling_starts_from_the_noise_of_its_first_level(name):
    made = CONTINUOUS[name]
    for t in (1.0, 0.3):
        levels = made.path([t])
        assert schedule.start_std(made, levels) == (1 if "preserving" in name else made.sigma(t))
    table = schedule.linear()
    assert schedule.start_std(table, table.path([500])) == 1


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000])
def test_steps_of_a_formula_part_its_times_evenly(name, n):
    steps = CONTINUOUS[name].steps(n)
    assert steps.dtype == np.float64
    assert steps.tolist() == [float(fractions.Fraction(n - i, n)) for i in range(n)]
    sigma = CONTINUOUS[name].path(steps).sigma
    assert np.all(np.diff(sigma) < 0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_training_and_sampling_see_the_same_numbers_of_a_formula(name):
    """To rounding: the device has the formula in float32, the host in float64."""
    made = CONTINUOUS[name]
    steps = made.steps(13)
    trained = jax.jit(made.level)(jnp.asarray(steps, jnp.float32))
    for on_device, on_host in zip(trained, made.path(steps), strict=True):
        np.testing.assert_allclose(on_device, on_host[:-1], rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_formula_refuses_what_it_has_not(name):
    made = CONTINUOUS[name]
    for n in (0, -1, schedule.MOST_STEPS + 1):
        with pytest.raises(method.UserError, match=f"^{n} sampling steps are not possible: the {made.name} path has"):
            made.steps(n)
    for spacing in ("leading", "linspace"):
        with pytest.raises(
            method.UserError, match=f"'{spacing}': the {made.name} path has no whole times.*trailing or karras$"
        ):
            made.steps(5, spacing)
    with pytest.raises(method.UserError, match="has no such spacing of steps 'trailling'; use trailing or karras$"):
        made.steps(5, "trailling")
    for steps in ([], [1.5], [0.5, -0.1], [0.3, 0.3], [0.3, 0.5]):
        with pytest.raises(method.UserError, match=r"must fall strictly within 1\.\.0"):
            made.path(steps)
    if made.sigma(0.0) > 0:
        assert made.path([0.5, 0.0]).sigma[1] == made.sigma(0.0)
    else:
        with pytest.raises(method.UserError, match=r"must fall strictly within 1\.\.0"):
            made.path([0.5, 0.0])


@pytest.mark.parametrize(("least", "most"), [(0.0, 80.0), (-1.0, 80.0), (80.0, 0.002), (1.0, 1.0), (float("nan"), 1.0)])
def test_noise_that_does_not_explode_is_refused(least, most):
    with pytest.raises(method.UserError, match="they must satisfy 0 < sigma_min < sigma_max$"):
        schedule.variance_exploding(least, most)


def test_noise_of_a_formula_is_added_by_the_level_of_each_example():
    x0, eps = jnp.full((2, 4, 4, 1), 0.6), jnp.full((2, 4, 4, 1), -1.1)
    x_t = schedule.add_noise(x0, eps, schedule.straight().level(jnp.array([0.25, 1.0])))
    np.testing.assert_allclose(x_t[:, 0, 0, 0], [0.75 * 0.6 - 0.25 * 1.1, -1.1], rtol=1e-6)
    x_t = schedule.add_noise(x0, eps, schedule.variance_exploding(0.01, 100.0).level(jnp.array([0.5, 1.0])))
    np.testing.assert_allclose(x_t[:, 0, 0, 0], [0.6 - 1.1, 0.6 - 110], rtol=1e-6)


def test_variance_is_preserved_at_a_rate_that_rises_evenly():
    """Against the integral of the rate by quadrature, and the derivative of log alpha by differences."""
    made, rate = schedule.variance_preserving(), lambda t: 0.1 + 19.9 * t
    for t in (0.01, 0.3, 1.0):
        nodes, weights = np.polynomial.legendre.leggauss(5)
        integral = t / 2 * np.sum(weights * rate(t / 2 * (nodes + 1)))
        np.testing.assert_allclose(made.alpha(t), np.exp(-integral / 2), rtol=1e-13)
        slope = (np.log(made.alpha(t + 1e-5)) - np.log(made.alpha(t - 1e-5))) / 2e-5
        np.testing.assert_allclose(slope, -rate(t) / 2, rtol=1e-8)
    t = np.linspace(1, 0.001, 300)
    levels = made.path(t)
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, rtol=1e-14)
    # 1 - alpha^2 in float32 would be 3e-2 off at the earliest time of training.
    early = made.level(jnp.array([schedule.EARLIEST]))
    np.testing.assert_allclose(early.sigma, math.sqrt(0.1 * schedule.EARLIEST), rtol=1e-3)
    assert 0.00657 < made.alpha(1.0) < 0.00658  # some data is left: 0.0066


def test_the_table_of_a_thousand_linear_betas_is_close_to_the_path_that_preserves_variance():
    table, made = schedule.linear(), schedule.variance_preserving()
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(table.log_snr[9:], 2 * np.log(made.alpha(t) / made.sigma(t))[9:], atol=0.12)


@pytest.mark.parametrize(("least", "most"), [(0.0, 20.0), (-1.0, 20.0), (20.0, 0.1), (float("nan"), 1.0)])
def test_a_rate_that_preserves_nothing_is_refused(least, most):
    with pytest.raises(method.UserError, match="they must satisfy 0 < beta_min <= beta_max$"):
        schedule.variance_preserving(least, most)


# Every path that there is, with and without pure noise at its end, and the shortest tables.
EVERY = {f"{name} {rescaled}": schedule.SCHEDULES[name](zero_terminal_snr=rescaled) for name, rescaled in ALL} | {
    **CONTINUOUS,
    "one level": schedule.linear(1),
    "two levels": schedule.cosine(2, zero_terminal_snr=True),
}


def times_of(made):
    """Times of a path, rising; of a formula down to where training begins."""
    if isinstance(made, schedule.Schedule):
        return np.arange(made.num_steps)
    return np.geomspace(schedule.EARLIEST, 1, 200)


@pytest.mark.parametrize("name", EVERY)
def test_the_level_of_a_noise_is_that_of_its_time(name):
    """The noise of every time leads back to it: in float64 to rounding, and as a JAX array in float32."""
    made, t = EVERY[name], times_of(EVERY[name])
    levels = schedule.Level(*(leaf[-2::-1] for leaf in made.path(t[::-1])))
    with np.errstate(divide="ignore"):
        q = levels.sigma / levels.alpha
    found = made.at_noise(q)
    # The last betas of a cosine turn the angle by 1e-3 and less, so that fewer digits of the time are left.
    np.testing.assert_allclose(made.time_at(q), t, rtol=1e-9, atol=1e-8)
    for leaf, expected in zip(found[1:], levels[1:], strict=True):
        assert leaf.dtype == np.float64
        np.testing.assert_allclose(leaf, expected, rtol=1e-9, atol=1e-14)
    assert (found.alpha[-1] == 0) == (levels.alpha[-1] == 0)
    on_device = jax.jit(made.at_noise)(jnp.asarray(q, jnp.float32))
    for leaf, expected in zip(on_device, found, strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-2 if leaf is on_device.time else 5e-7)


@pytest.mark.parametrize("name", EVERY)
def test_levels_between_times_have_the_noise_that_was_asked_for_and_rise_with_it(name):
    made = EVERY[name]
    low, high = made.noise_range
    q = np.geomspace(max(low, 1e-4), min(high, 1e4), 777)
    levels = made.at_noise(q)
    np.testing.assert_allclose(levels.sigma / levels.alpha, q, rtol=1e-9)
    if high > low:
        assert np.all(np.diff(levels.time) > 0)
        on_device = jax.jit(made.time_at)(jnp.asarray(q, jnp.float32))
        assert np.all(np.diff(on_device) >= 0)
    if made.unit:
        np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, rtol=1e-14)
    # Beyond its ends a path has its ends.
    for beyond, at in ((low / 2, 0), (2 * high, -1)):
        t = times_of(made)[at] if isinstance(made, schedule.Schedule) else (0.0, 1.0)[at]
        assert float(made.time_at(beyond)) == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_training_at_a_noise_is_at_a_time_that_the_path_has(name):
    made = EVERY[name]
    q = jnp.array([0.0, 1e-3, 1.0, 50.0, 1e6, jnp.inf])
    t = jax.jit(made.trained_at)(q)
    level = made.level(t)
    assert np.all(np.isfinite(jnp.stack(level)))
    assert np.all(level.sigma > 0)
    if isinstance(made, schedule.Schedule):
        assert t.dtype == jnp.int32
        nearest = np.abs(np.arctan2(made.sigma, made.alpha)[:, None] - np.arctan(np.asarray(q, np.float64)))
        chosen = nearest[t, np.arange(len(q))]
        np.testing.assert_allclose(chosen, nearest.min(axis=0), atol=1e-6)


def test_levels_may_be_visited_between_the_times_of_a_table():
    made = schedule.cosine(zero_terminal_snr=True)
    steps = np.array([999.0, 998.5, 400.25, 400.0])
    levels = made.path(steps)
    at_table = made.path([999, 400])
    np.testing.assert_array_equal(levels.alpha[[0, 3]], at_table.alpha[:2])  # bit for bit
    np.testing.assert_array_equal(levels.sigma[[0, 3]], at_table.sigma[:2])
    assert levels.time.tolist() == [999, 998.5, 400.25, 400, 0]
    angles = np.arctan2(made.sigma, made.alpha)
    np.testing.assert_allclose(levels.alpha[1], np.cos((angles[998] + angles[999]) / 2), rtol=1e-12)
    np.testing.assert_allclose(levels.sigma[2], np.sin(0.75 * angles[400] + 0.25 * angles[401]), rtol=1e-12)
    for wrong in ([999.5], [3.0, -0.5], [5.25, 5.25]):
        with pytest.raises(method.UserError, match="must fall strictly within"):
            made.path(wrong)
