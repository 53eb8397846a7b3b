"""Disentanglement, how well single latents capture single factors: MIG, modularity, SAP, DCI and FactorVAE score.

`measure` computes all of them for the codes of a data set, by name and protocol; each function below it computes one.

All use mean codes, one row per image, and the factors that the image was rendered with, as whole numbers. Unless noted
otherwise, the protocol is that of Locatello et al. 2019: 10,000 rows, and 5,000 more for testing. A factor that does
not vary is left out. No metric depends on the order of the latents, nor, up to rounding, on their signs.

SAP and DCI need scikit-learn, which is imported when they are called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gen_jax.data.dataset import permutation
from gen_jax.method import DataSpec, UserError


def require_factors(spec: DataSpec) -> tuple[int, ...]:
    """Returns the number of values of each factor of a data set.

    Raises:
      UserError: its factors are unknown.

    Example:
      >>> require_factors(DataSpec("mnist", (28, 28, 1), 60_000))
      Traceback (most recent call last):
      gen_jax.method.UserError: 'mnist' has no factors of variation to measure disentanglement by; dsprites has
    """
    if spec.factor_sizes is None:
        raise UserError(f"{spec.name!r} has no factors of variation to measure disentanglement by; dsprites has")
    return spec.factor_sizes


def measure(
    codes_of: Callable[[np.ndarray], np.ndarray],
    factors: np.ndarray,
    factor_sizes: tuple[int, ...],
    num_codes: int = 10_000,
    thorough: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Returns the metrics of a code by name, which includes the protocol: MIG, modularity, SAP by correlation; or all.

    For a small set, at most two thirds of the rows are used for training, and the rest for testing.

    Args:
      codes_of: from the indices [n] of examples to their mean codes [n, Z].
      factors: of all examples, whole numbers [N, F].
      factor_sizes: number of values of each factor.
      num_codes: rows drawn at random; half as many more for testing. Also the votes of the FactorVAE score.
      thorough: also compute SAP and DCI, which take minutes and need scikit-learn, and the FactorVAE score.
      seed: of all draws.
      say: receives a line for the user about each metric that was left out, and why.

    Example:
      >>> factors = np.array([[i, j] for i in range(4) for j in range(5)])
      >>> measure(lambda rows: factors[rows] * [-1.0, 3.0], factors, (4, 5), num_codes=12)
      {'mig/20_bins_12_samples': ..., 'modularity/20_bins_12_samples': ..., 'sap_correlation/12_samples': ...}
    """
    num = min(num_codes, 2 * len(factors) // 3)
    rows = permutation(seed, 0, len(factors))[: num + num // 2]
    codes, of_codes = codes_of(rows[:num]), np.asarray(factors[rows[:num]])
    values = {
        named("mig", bins=20, samples=num): mig(codes, of_codes, bins=20),
        named("modularity", bins=20, samples=num): modularity(codes, of_codes, bins=20),
        named("sap_correlation", samples=num): sap_correlation(codes, of_codes),
    }
    if not thorough:
        return values
    both = codes, of_codes, codes_of(rows[num:]), np.asarray(factors[rows[num:]])
    try:
        values[named("sap", samples=num, tested=num // 2)] = sap(*both, seed=seed)
        for name, value in dci(*both, seed=seed).items():
            values[named(f"dci_{name}", samples=num, tested=num // 2)] = value
    except UserError as error:  # no scikit-learn
        say(f"left out: {error}")
    row_of = _row_of_every_combination(np.asarray(factors), factor_sizes)
    if row_of is None:
        say("left out: the FactorVAE score needs an image of every combination of factors, and the set lacks some")
        return values

    def codes_of_factors(wanted: np.ndarray) -> np.ndarray:
        rows, place = np.unique(row_of[tuple(wanted.T)], return_inverse=True)
        return codes_of(rows)[place.ravel()]

    score = factor_vae_score(codes_of_factors, factor_sizes, num, num // 2, num_global=num, seed=seed)
    return {**values, named("factor_vae_score", votes=num, tested=num // 2): score}


def _row_of_every_combination(factors: np.ndarray, factor_sizes: tuple[int, ...]) -> np.ndarray | None:
    """The index of an example for each combination of factors, [*factor_sizes], or None if one is missing."""
    rows = np.full(factor_sizes, -1)
    rows[tuple(factors.T)] = np.arange(len(factors))
    return None if (rows < 0).any() else rows


def named(measure: str, **protocol: int) -> str:
    """Returns a metric's name with its protocol.

    Example:
      >>> named("mig", bins=20, samples=10_000)
      'mig/20_bins_10000_samples'
    """
    return f"{measure}/" + "_".join(f"{value}_{name}" for name, value in protocol.items())


def discretise(codes: np.ndarray, bins: int = 20) -> np.ndarray:
    """Returns the bins i64 [N, Z] of codes [N, Z]: equally wide, from a latent's smallest value to its largest.

    Example:
      >>> discretise(np.array([[0.0, 7.0], [0.4, 7.0], [1.0, 7.0]]), bins=2).tolist()
      [[0, 0], [0, 0], [1, 0]]
    """
    codes = np.asarray(codes, np.float64)
    low, span = codes.min(axis=0), np.ptp(codes, axis=0)
    share = (codes - low) / np.where(span > 0, span, 1)
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def entropy(values: np.ndarray) -> float:
    """Returns the empirical entropy in nats of values [N].

    Example:
      >>> round(entropy(np.array([0, 0, 1, 2])), 6)  # 1.5 bits
      1.039721
    """
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the empirical mutual information in nats of whole numbers [N] and [N].

    Example:
      >>> round(mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7])), 6)  # log 2
      0.693147
    """
    a, b = (np.unique(values, return_inverse=True)[1] for values in (a, b))
    joint = np.bincount(a * (b.max() + 1) + b, minlength=(a.max() + 1) * (b.max() + 1)) / len(a)
    joint = joint.reshape(a.max() + 1, b.max() + 1)
    row, column = np.nonzero(joint)
    share = joint[row, column]
    return float((share * np.log(share / (joint.sum(axis=1)[row] * joint.sum(axis=0)[column]))).sum())


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """Returns the number of latents that vary with the data: the variance of their mean codes is above `threshold`.

    Args:
      means: [N, Z], mean codes of N images.
      threshold: 0.01 (Burda et al. 2016, section 5.2).

    Example:
      >>> active_units(np.array([[0.0, 1.0, 0.05], [1.0, 1.0, 0.0]]))
      1
    """
    return int(np.sum(np.var(np.asarray(means, np.float64), axis=0) > threshold))


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns the mutual information gap (Chen et al. 2018, equation 6), in [0, 1].

    A factor's gap is the difference between the two largest mutual informations of a latent with it, divided by the
    factor's entropy; MIG is the mean gap. A factor with more values than bins cannot reach 1. Chen et al. estimate
    mutual information from samples of q(z | x) over the whole set instead, so the values are not comparable.

    Args:
      codes: [N, Z].
      factors: whole numbers [N, F].
      bins: of each latent, equally wide; see `discretise`.

    Raises:
      ValueError: no factor varies.

    Example:
      >>> factors = np.array([[i, j] for i in range(4) for j in range(5)])
      >>> round(mig(factors[:, ::-1] * [-1.0, 3.0], factors), 6)
      1.0
    """
    factors = _varying(factors)
    table = _informations(codes, factors, bins)
    return float(np.mean([_gap(of) / entropy(factor) for of, factor in zip(table.T, factors.T, strict=True)]))


def modularity(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns the modularity (Ridgeway & Mozer 2018), in [0, 1]: 1 if no latent tells of more than one factor.

    Unlike MIG it does not ask whether a factor is in one latent only: several copies of it change nothing. See
    `modularity_of`.

    Args:
      codes: [N, Z].
      factors: whole numbers [N, F].
      bins: of each latent, equally wide; see `discretise`.

    Raises:
      ValueError: no factor varies.

    Example:
      >>> factors = np.array([[i, j] for i in range(4) for j in range(5)])
      >>> round(modularity(factors[:, [0, 1, 1]] * [-1.0, 3.0, 1.0], factors), 6)
      1.0
    """
    return modularity_of(_informations(codes, _varying(factors), bins))


def modularity_of(informations: np.ndarray) -> float:
    """Returns the mean over latents of 1 - sum_f (m_f - t_f)^2 / (max m^2 (F - 1)), from mutual informations m.

    The template t is max m at the latent's best factor and 0 elsewhere. A latent without any information counts as 0,
    as in Locatello et al. 2019, though it mixes nothing: constant latents lower the score. With a single factor, all
    other latents count as 1.

    Args:
      informations: mutual information of latents and factors [Z, F], at least 0.

    Example:
      >>> round(modularity_of(np.array([[3.0, 0.0, 4.0], [2.0, 0.0, 0.0]])), 6)  # 1 - 9 / (16 * 2), and 1
      0.859375
    """
    squares = np.square(np.asarray(informations, np.float64))
    best = squares.max(axis=1)
    off = (squares.sum(axis=1) - best) / (np.where(best > 0, best, 1) * max(1, squares.shape[1] - 1))
    return float(np.mean(np.where(best > 0, 1 - off, 0)))


def sap(
    codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, test_factors: np.ndarray, seed: int = 0
) -> float:
    """Returns the separated attribute predictability (Kumar et al. 2018), with factors treated as classes.

    A factor's gap is the difference between the accuracies of the two latents that predict it best, each with a linear
    SVM (C = 0.01, balanced classes); SAP is the mean gap. Even for a perfect code it is below 1: the second latent
    reaches chance level, and a linear classifier on one latent cannot separate three classes.

    Args:
      codes: [N, Z], for fitting.
      factors: whole numbers [N, F].
      test_codes: [M, Z], for testing.
      test_factors: [M, F].
      seed: of the solver.

    Raises:
      UserError: scikit-learn is not installed.
    """
    svm = _scikit("svm")
    gaps = []
    for factor, test_factor in _pairs(factors, test_factors):
        accuracies = []
        for code, test_code in zip(np.asarray(codes).T, np.asarray(test_codes).T, strict=True):
            classifier = svm.LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            accuracies.append(classifier.fit(code[:, None], factor).score(test_code[:, None], test_factor))
        gaps.append(_gap(np.array(accuracies)))
    return float(np.mean(gaps))


def sap_correlation(codes: np.ndarray, factors: np.ndarray) -> float:
    """Returns SAP with factors treated as numbers: it uses squared correlations instead of accuracies, in [0, 1].

    Example:
      >>> factors = np.array([[i, j] for i in range(4) for j in range(5)])
      >>> round(sap_correlation(factors[:, ::-1] * [-1.0, 3.0], factors), 6)
      1.0
    """
    standard = [np.asarray(each, np.float64) for each in (codes, _varying(factors))]
    standard = [each - each.mean(axis=0) for each in standard]
    codes, factors = (each / np.maximum(np.linalg.norm(each, axis=0), np.finfo(float).tiny) for each in standard)
    return float(np.mean([_gap(squares) for squares in np.square(factors.T @ codes)]))


def dci(
    codes: np.ndarray,
    factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    num_trees: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """Returns `disentanglement`, `completeness` and `informativeness` (Eastwood & Williams 2018), each in [0, 1].

    Boosted trees predict each factor from all latents; `disentanglement` and `completeness` are computed from the
    importance of each latent for each factor. Informativeness is the mean accuracy on the test rows.

    Args:
      codes: [N, Z], for fitting.
      factors: whole numbers [N, F].
      test_codes: [M, Z], for testing.
      test_factors: [M, F].
      num_trees: per class of a factor.
      seed: of the trees.

    Raises:
      UserError: scikit-learn is not installed.
    """
    ensemble = _scikit("ensemble")
    importance, accuracies = [], []
    for factor, test_factor in _pairs(factors, test_factors):
        trees = ensemble.GradientBoostingClassifier(n_estimators=num_trees, random_state=seed).fit(codes, factor)
        importance.append(np.abs(trees.feature_importances_))
        accuracies.append(trees.score(test_codes, test_factor))
    table = np.stack(importance, axis=1)
    return {
        "disentanglement": disentanglement(table),
        "completeness": completeness(table),
        "informativeness": float(np.mean(accuracies)),
    }


def disentanglement(importance: np.ndarray) -> float:
    """Returns 1 if each useful latent is important for one factor only, 0 if it is equally important for all factors.

    It is the mean over latents of 1 - H(their shares of importance), with H relative to the largest possible entropy,
    weighted by importance.

    Args:
      importance: [Z, F], at least 0.

    Example:
      >>> round(disentanglement(np.array([[0.9, 0.1], [0.1, 0.9], [0.0, 0.0]])), 6)
      0.531004
    """
    total = importance.sum(axis=1)
    share = importance[total > 0] / total[total > 0, None]
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    scores = 1 + (share * logs).sum(axis=1) / np.log(max(2, importance.shape[1]))
    return float(np.average(scores, weights=total[total > 0])) if len(scores) else 0.0


def completeness(importance: np.ndarray) -> float:
    """Returns 1 if each factor is predicted from one latent only, 0 if from all latents equally.

    It is `disentanglement` with latents and factors exchanged.

    Example:
      >>> round(completeness(np.array([[0.9, 0.1], [0.1, 0.9], [0.0, 0.0]])), 6)
      0.704097
    """
    return disentanglement(importance.T)


def factor_vae_score(
    codes_of: Callable[[np.ndarray], np.ndarray],
    factor_sizes: tuple[int, ...],
    num_votes: int = 10_000,
    num_test_votes: int = 5_000,
    batch_size: int = 64,
    num_global: int = 10_000,
    threshold: float = 0.05,
    seed: int = 0,
) -> float:
    """Returns the accuracy of the FactorVAE score (Kim & Mnih 2018, section 4), in [0, 1]; chance is about 1 / F.

    In a batch, one factor is fixed and the others are drawn. The batch votes for the latent with the smallest variance
    relative to its variance over all images. The predicted factor is the one for which this latent received the most
    votes. Latents with a standard deviation of `threshold` or less over all images are excluded. The other latents
    keep their indices; the released code renumbers them, and so mixes latents up.

    Args:
      codes_of: from factors [n, F] to codes [n, Z] of images with these factors; called once, for all images.
      factor_sizes: number of values of each factor.
      num_votes: votes that form the classifier.
      num_test_votes: votes that test it.
      batch_size: images per vote.
      num_global: images for the variance over all images, rounded up to whole batches.
      threshold: a standard deviation.
      seed: of all draws.

    Raises:
      ValueError: no factor varies.

    Example:
      >>> factor_vae_score(lambda factors: factors * 1.0, (3, 1, 5), num_votes=50, num_test_votes=50)
      1.0
    """
    sizes = np.asarray(factor_sizes)
    varying = np.flatnonzero(sizes > 1)
    if not len(varying):
        raise ValueError("no factor varies")
    rng = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        return rng.integers(sizes, size=(batch_size, len(sizes)))

    batches = [drawn() for _ in range(-(-num_global // batch_size))]
    num_everywhere = len(batches)
    fixed = rng.choice(varying, size=num_votes + num_test_votes)
    for factor in fixed:
        batches.append(drawn())
        batches[-1][:, factor] = batches[-1][0, factor]
    codes = codes_of(np.concatenate(batches)).reshape(len(batches), batch_size, -1)

    variance = np.var(codes[:num_everywhere].reshape(num_everywhere * batch_size, -1), axis=0, ddof=1)
    active = np.sqrt(variance) > threshold
    if not active.any():
        return 0.0
    relative = np.var(codes[num_everywhere:], axis=1) / np.where(active, variance, 1)
    vote = np.argmin(np.where(active, relative, np.inf), axis=1)

    table = np.zeros((len(variance), len(sizes)), np.int64)  # votes for each latent with each factor fixed
    np.add.at(table, (vote[:num_votes], fixed[:num_votes]), 1)
    return float(np.mean(table.argmax(axis=1)[vote[num_votes:]] == fixed[num_votes:]))


def _informations(codes: np.ndarray, factors: np.ndarray, bins: int) -> np.ndarray:
    """The mutual information of each latent, in bins, with each factor: nats [Z, F]."""
    return np.array([[mutual_information(code, factor) for factor in factors.T] for code in discretise(codes, bins).T])


def _gap(values: np.ndarray) -> float:
    """The difference between the two largest values; a single value is its own gap."""
    second, first = np.sort(np.append(values, 0.0))[-2:]
    return first - second


def _varying(factors: np.ndarray) -> np.ndarray:
    factors = np.asarray(factors)
    varies = (factors != factors[:1]).any(axis=0)
    if not varies.any():
        raise ValueError("no factor varies")
    return factors[:, varies]


def _pairs(factors: np.ndarray, test_factors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each factor that varies in the first rows, paired with its test rows."""
    factors, test_factors = np.asarray(factors), np.asarray(test_factors)
    varies = (factors != factors[:1]).any(axis=0)
    return list(zip(_varying(factors).T, test_factors[:, varies].T, strict=True))


def _scikit(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise UserError('SAP and DCI need scikit-learn: pip install "gen-jax[disentanglement]"') from None
