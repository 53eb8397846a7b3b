import itertools
import sys

import numpy as np
import pytest
import sklearn.metrics

from gen_jax.method import DataSpec, UserError, with_factors
from gen_jax.metrics import disentanglement as dis

SIZES = (3, 4, 1, 5)  # one factor that does not vary


def _grid(times: int = 1) -> np.ndarray:
    return np.repeat(list(itertools.product(*map(range, SIZES))), times, axis=0)


def _mixed(factors: np.ndarray) -> np.ndarray:
    """Codes [N, 5] that know something of several factors, none of them exactly, and one that knows nothing."""
    rng = np.random.default_rng(1)
    mixture = np.array([[2, 0.3, 0, 0, 0.5], [0, 1.5, 0.4, 0, 0], [0, 0, 0, 0, 0], [0.2, 0, 1, 0, 0.6]])
    return factors @ mixture + rng.normal(0, 0.3, (len(factors), 5))


def _changed(codes: np.ndarray) -> np.ndarray:
    """The same codes in another order, two of them with the other sign."""
    return codes[:, [3, 0, 4, 2, 1]] * [1, -1, 1, 1, -1]


def _score_of(codes_of, **changes) -> float:
    settings = {"num_votes": 200, "num_test_votes": 200, "batch_size": 32, "num_global": 640} | changes
    return dis.factor_vae_score(codes_of, SIZES, **settings)


def test_mutual_information_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 40, (5_000, 2))
    codes = dis.discretise(np.sin(factors[:, :1]) + rng.normal(0, [0.1, 1.0, 5.0], (5_000, 3)))
    for code in codes.T:
        for factor in factors.T:
            expected = sklearn.metrics.mutual_info_score(code, factor)
            assert dis.mutual_information(code, factor) == pytest.approx(expected, abs=1e-9)
            assert dis.mutual_information(factor, factor) == pytest.approx(dis.entropy(factor), abs=1e-9)


def test_bins_are_those_of_a_histogram():
    codes = np.random.default_rng(0).normal(size=(1_000, 1))
    bins = dis.discretise(codes, 20)
    np.testing.assert_array_equal(np.bincount(bins[:, 0], minlength=20), np.histogram(codes, 20)[0])


def test_mig_of_the_worked_example():
    # golden.json, metrics: mutual informations log 3, 0.636514168295 and 0 with a factor of three values; latents
    # with these are the factor itself, one that tells its first value from the others, and one that tells nothing.
    factor = np.repeat([0, 1, 2], 2)
    codes = np.stack([factor, factor == 0, [0, 1, 0, 1, 0, 1]], axis=1)
    informations = [dis.mutual_information(code, factor) for code in codes.T]
    np.testing.assert_allclose(informations, [1.09861228867, 0.636514168295, 0], atol=1e-11)
    assert dis.mig(codes, factor[:, None]) == pytest.approx(0.420619835714, abs=1e-11)


def test_modularity_of_tables_worked_out_by_hand():
    # Squares 9, 0, 16: what is off the best is 9 of 16, over two other factors. The second tells of one factor, the
    # third of two alike, the fourth of none, which counts as 0.
    table = np.array([[3.0, 0.0, 4.0], [2.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    each = [1 - 9 / 32, 1, 1 / 2, 0]
    assert dis.modularity_of(table) == pytest.approx(np.mean(each), abs=1e-12)
    for row, expected in zip(table, each, strict=True):
        assert dis.modularity_of(row[None]) == pytest.approx(expected, abs=1e-12)
    assert dis.modularity_of(table[:, [1, 2, 0]]) == dis.modularity_of(7 * table) == dis.modularity_of(table)
    assert dis.modularity_of(np.array([[2.0], [0.5]])) == 1


def test_modularity_of_codes_worked_out_by_hand():
    # Two coins: a latent that is the first tells log 2 of it and nothing of the second; their sum tells log(2) / 2 of
    # each, so that it is of no factor more than of the other; a constant tells nothing.
    coins = np.array(list(itertools.product([0, 1], [0, 1])) * 3)
    first, total, constant = coins[:, 0], coins.sum(axis=1), np.full(12, 7)
    for code, expected in ((first, 1), (total, 0), (constant, 0)):
        assert dis.modularity(code[:, None], coins) == pytest.approx(expected, abs=1e-9)
    assert dis.modularity(np.stack([first, total, constant], axis=1), coins) == pytest.approx(1 / 3, abs=1e-9)
    # A copy lowers MIG, and not modularity.
    copied = coins[:, [0, 0, 1]]
    assert dis.modularity(copied, coins) == pytest.approx(1)
    assert dis.mig(copied, coins) == pytest.approx(0.5)


def test_a_perfect_code_is_about_one():
    factors = _grid(10)
    codes = factors[:, [3, 2, 0, 1]] * [1.0, 1.0, -2.0, 0.5]
    assert dis.mig(codes, factors) == pytest.approx(1)
    assert dis.modularity(codes[:, [0, 2, 3]], factors) == pytest.approx(1)  # without the constant
    assert dis.sap_correlation(codes, factors) == pytest.approx(1)
    scores = dis.dci(codes, factors, codes, factors, num_trees=10)
    assert scores == pytest.approx(dict.fromkeys(scores, 1), abs=1e-6)
    assert _score_of(lambda factors: factors[:, [3, 2, 0, 1]] * [1.0, 1.0, -2.0, 0.5]) == 1


def test_an_independent_code_is_about_zero():
    rng = np.random.default_rng(0)
    factors = _grid(100)
    codes = rng.normal(size=(len(factors), 4))
    assert dis.mig(codes, factors) < 0.01
    assert dis.sap_correlation(codes, factors) < 0.01
    half = rng.permutation(len(factors))
    fit, test = half[:600], half[600:1_200]
    assert abs(dis.sap(codes[fit], factors[fit], codes[test], factors[test])) < 0.05
    scores = dis.dci(codes[fit], factors[fit], codes[test], factors[test], num_trees=5)
    assert scores["disentanglement"] < 0.15
    assert scores["completeness"] < 0.15
    assert scores["informativeness"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3, abs=0.07)  # chance
    assert _score_of(lambda factors: rng.normal(size=(len(factors), 4))) < 0.55  # chance: one of three factors


def test_sap_of_two_classes_is_the_accuracy_above_chance():
    factors = np.array(list(itertools.product([0, 1], [0, 1])) * 25)
    assert dis.sap(factors * [4.0, -4.0], factors, factors * [4.0, -4.0], factors) == pytest.approx(0.5)


def test_order_and_sign_of_latents_change_nothing():
    factors = _grid(20)
    codes = _mixed(factors)
    other = _changed(codes)
    assert dis.mig(other, factors) == pytest.approx(dis.mig(codes, factors), abs=1e-12)
    assert dis.modularity(other, factors) == pytest.approx(dis.modularity(codes, factors), abs=1e-12)
    assert dis.sap_correlation(other, factors) == pytest.approx(dis.sap_correlation(codes, factors), abs=1e-12)
    fit, test = slice(0, None, 2), slice(1, None, 2)
    of, of_other = (dis.sap(c[fit], factors[fit], c[test], factors[test]) for c in (codes, other))
    assert of_other == pytest.approx(of, abs=0.01)  # the solver's rounding
    of, of_other = (dis.dci(c[fit], factors[fit], c[test], factors[test], num_trees=5) for c in (codes, other))
    assert of_other == pytest.approx(of, abs=0.02)  # thresholds lie between rows, and ties are broken by order
    assert _score_of(lambda f: _changed(_mixed(f))) == _score_of(_mixed)


def test_a_constant_factor_is_left_out():
    factors = _grid(20)
    codes, varying = _mixed(factors), factors[:, [0, 1, 3]]
    assert dis.mig(codes, factors) == dis.mig(codes, varying)
    assert dis.modularity(codes, factors) == dis.modularity(codes, varying)
    assert dis.sap_correlation(codes, factors) == dis.sap_correlation(codes, varying)
    some = slice(0, None, 4)
    for measure in (dis.sap, lambda *args: dis.dci(*args, num_trees=2)):
        with_constant, without = (measure(codes[some], f[some], codes[some], f[some]) for f in (factors, varying))
        assert with_constant == without
    for measure in (dis.mig, dis.modularity, dis.sap_correlation):
        with pytest.raises(ValueError, match="no factor varies"):
            measure(codes, factors[:, 2:3])
    with pytest.raises(ValueError, match="no factor varies"):
        dis.factor_vae_score(lambda factors: factors, (1, 1))


def test_a_constant_latent_tells_nothing():
    factors = _grid()
    codes = np.concatenate([factors, np.full((len(factors), 1), 7.0)], axis=1)
    assert dis.mig(codes, factors) == pytest.approx(1)
    assert dis.sap_correlation(codes, factors) == pytest.approx(1)
    assert dis.mig(codes[:, -1:], factors) == 0


@pytest.mark.parametrize("place", range(4))
def test_factor_vae_score_keeps_the_number_of_a_latent_behind_inactive_ones(place: int):
    def codes_of(factors: np.ndarray) -> np.ndarray:
        codes = np.insert(factors[:, [0, 1, 3]].astype(float), place, 0.0, axis=1)
        codes[:, place] += 0.01 * np.sin(np.arange(len(codes)))  # a standard deviation below the threshold
        return codes

    assert _score_of(codes_of) == 1


def test_inactive_latents_take_no_part_in_the_factor_vae_score():
    def codes_of(factors: np.ndarray) -> np.ndarray:
        return np.concatenate([factors, 1e-3 * factors[:, :1] * factors[:, 1:2]], axis=1)

    assert _score_of(codes_of) == 1
    assert _score_of(lambda factors: 1e-3 * factors) == 0


def test_importance_of_one_factor_or_latent():
    assert dis.disentanglement(np.eye(3)) == dis.completeness(np.eye(3)) == 1
    assert dis.disentanglement(np.ones((4, 3))) == pytest.approx(0)
    assert dis.completeness(np.ones((4, 3))) == pytest.approx(0)
    assert dis.disentanglement(np.array([[1.0], [2.0]])) == 1
    assert dis.disentanglement(np.zeros((2, 2))) == 0


def test_without_factors_or_scikit_learn_one_line_says_so(monkeypatch: pytest.MonkeyPatch):
    spec = DataSpec("dsprites:drawn", (64, 64, 1), 1, with_factors(SIZES))
    assert dis.require_factors(spec) == SIZES
    with pytest.raises(UserError, match=r"^'mnist' has no factors of variation.*$"):
        dis.require_factors(DataSpec("mnist", (28, 28, 1), 1))
    factors = _grid()
    for module, measure in (("svm", dis.sap), ("ensemble", dis.dci)):
        monkeypatch.setitem(sys.modules, f"sklearn.{module}", None)
        with pytest.raises(UserError, match=r"^SAP and DCI need scikit-learn: pip install .*$"):
            measure(factors, factors, factors, factors)


def test_all_measures_of_a_set_have_their_protocol_in_their_names(monkeypatch: pytest.MonkeyPatch):
    factors = np.random.default_rng(0).permutation(_grid(5))
    read = []

    def codes_of(rows: np.ndarray) -> np.ndarray:
        read.append(rows)
        return factors[rows][:, ::-1] * [1.0, -2.0, 1.0, 3.0]

    cheap = dis.measure(codes_of, factors, SIZES, num_codes=120)
    assert cheap == {
        "mig/20_bins_120_samples": pytest.approx(1, abs=0.05),
        "modularity/20_bins_120_samples": pytest.approx(0.75, abs=0.05),  # one latent of four is constant
        "sap_correlation/120_samples": pytest.approx(1, abs=0.05),
    }
    assert [len(set(rows.tolist())) for rows in read] == [120]  # no example twice
    monkeypatch.setattr(dis, "dci", lambda *both, seed: {"completeness": float(len(both[2]))})  # slow
    values = dis.measure(codes_of, factors, SIZES, num_codes=120, thorough=True)
    assert values.keys() - cheap.keys() == {
        "sap/120_samples_60_tested", "dci_completeness/120_samples_60_tested", "factor_vae_score/120_votes_60_tested"
    }  # fmt: skip
    assert values["factor_vae_score/120_votes_60_tested"] == 1
    assert values["dci_completeness/120_samples_60_tested"] == 60
    assert not set(read[1].tolist()) & set(read[2].tolist())  # tested on other examples
    assert all("_60_samples" not in name for name in values)
    assert "mig/20_bins_200_samples" in dis.measure(codes_of, factors, SIZES)  # of 300, a third is left to test on


def test_what_cannot_be_measured_is_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    factors, lines = _grid(3)[:-3], []
    values = dis.measure(lambda rows: factors[rows] * 1.0, factors, SIZES, 60, thorough=True, say=lines.append)
    assert values.keys() == {"mig/20_bins_60_samples", "modularity/20_bins_60_samples", "sap_correlation/60_samples"}
    assert 'pip install "gen-jax[disentanglement]"' in lines[0]
    assert "FactorVAE" in lines[1]
    assert len(lines) == 2
