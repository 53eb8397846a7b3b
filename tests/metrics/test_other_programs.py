"""Our measures beside those of programs that papers use, on the same features.

Each needs its package, `pip install --no-deps torch-fidelity pytorch-fid prdc vendi-score`, and PyTorch.
Nothing here compares features: only what is computed from them.
"""

import importlib.util
import sys
import types
from unittest import mock

import numpy as np
import pytest

from gen_jax.metrics import frechet, kid, vendi
from gen_jax.metrics import precision_recall as pr
from gen_jax.metrics.inception_score import inception_score
from gen_jax.metrics.moments import Moments

pytestmark = pytest.mark.slow

TORCHVISION = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
               "torchvision.models")  # fmt: skip


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    """Real and fake features [N, D], correlated and not negative, like those of a network after its last ReLU."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(24, 24)) / 5
    real, fake = rng.normal(size=(1_500, 24)), rng.normal(0.2, 1.1, size=(1_200, 24))
    return tuple(np.maximum(each @ mixed + 0.5, 0).astype(np.float32) for each in (real, fake))  # pyright: ignore[reportReturnType]


def _module(name: str, needs: tuple[str, ...] = ("torch",)) -> types.ModuleType:
    """A module of another program. Torchvision, which only their networks and data sets use, need not be there."""
    for package in (*needs, name.split(".")[0]):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None:
            for each in TORCHVISION:
                patch.setitem(sys.modules, each, mock.MagicMock())
        return importlib.import_module(name)


def _tensors(*arrays: np.ndarray) -> list:
    return [importlib.import_module("torch").from_numpy(each) for each in arrays]


def test_frechet_distance_of_pytorch_fid(features):
    # They take the root of C1 C2, ours is the symmetric form: the same trace.
    real, fake = features
    theirs = _module("pytorch_fid.fid_score").calculate_frechet_distance
    moments = [
        (np.mean(x, axis=0), np.cov(x, rowvar=False)) for x in (real.astype(np.float64), fake.astype(np.float64))
    ]
    expected = theirs(*moments[0], *moments[1])
    assert frechet.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet.distance(Moments.of(real).gaussian(), Moments.of(fake).gaussian()) == pytest.approx(
        expected, rel=1e-9
    )


def test_frechet_distance_of_torch_fidelity(features):
    # Their mean of float32 features is taken in float32, which leaves an error near 1e-6.
    theirs = _module("torch_fidelity.metric_fid")
    stats = [theirs.fid_features_to_statistics(each) for each in _tensors(*features)]
    expected = theirs.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet.frechet_distance(*features) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_of_torch_fidelity(features):
    real, fake = features
    theirs = _module("torch_fidelity.metric_kid")
    settings = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
                "kid_kernel_poly_coef0": 1, "rng_seed": 2020, "verbose": False, "kid_subsets": 3}  # fmt: skip

    def distance(subset_size: int, subsets: int) -> dict[str, float]:
        sets = _tensors(fake.astype(np.float64), real[: len(fake)].astype(np.float64))
        changed = {"kid_subset_size": subset_size, "kid_subsets": subsets}
        return theirs.kid_features_to_metric(*sets, **(settings | changed))

    expected = distance(len(fake), 1)["kernel_inception_distance_mean"]
    assert kid.squared_mmd(fake, real[: len(fake)]) == pytest.approx(expected, rel=1e-9)
    # Subsets are drawn by another generator, so they agree within their spread.
    expected, found = distance(300, 100), kid.kernel_distance(fake, real[: len(fake)], subset_size=300)
    spread = expected["kernel_inception_distance_std"]
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], abs=5 * spread / 10)
    assert found.std == pytest.approx(spread, rel=0.3)


def test_inception_score_of_torch_fidelity():
    # They take logits, and shuffle by another generator: with one split that does not matter.
    logits = np.random.default_rng(0).normal(0, 3, size=(2_000, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    theirs = _module("torch_fidelity.metric_isc").isc_features_to_metric
    [tensor] = _tensors(logits)
    assert inception_score(probabilities, 1).mean == pytest.approx(theirs(tensor, 1)["inception_score_mean"], rel=1e-9)
    expected = [theirs(tensor, 10, True, seed)["inception_score_std"] for seed in range(20)]
    found = [inception_score(probabilities, seed=seed).std for seed in range(20)]
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.25)
    score = theirs(tensor)["inception_score_mean"]
    assert inception_score(probabilities).mean == pytest.approx(score, abs=4 * np.mean(found) / np.sqrt(10))


def test_precision_and_recall_of_torch_fidelity(features):
    # The same definition: balls are closed, and the k-th neighbour is not the point itself. Fakes are their first set.
    real, fake = features
    theirs = _module("torch_fidelity.metric_prc").calculate_precision_recall_full
    expected = theirs(*_tensors(fake.astype(np.float64), real.astype(np.float64)))
    assert pr.precision_recall(real, fake) == pytest.approx(expected, abs=1e-6)  # a float32 mean


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_of_its_authors(features, k: int):
    # Their balls are open (<), ours are closed (<=): without ties that is the same, up to rounding.
    real, fake = (each.astype(np.float64) for each in features)
    expected = _module("prdc", ("sklearn",)).compute_prdc(real, fake, k)
    assert pr.prdc(real, fake, k, k)._asdict() == pytest.approx(expected, abs=1e-12)


def test_prdc_differs_from_its_authors_on_the_edge():
    # Fakes that copy the reals, k = 1: an open ball misses the neighbour that defines it, a closed one holds it.
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    theirs = _module("prdc", ("sklearn",)).compute_prdc(points, points, 1)
    assert theirs["density"] == pytest.approx(1)
    assert pr.prdc(points, points, 1, 1).density == pytest.approx(2)  # each its own point, and its nearest


def test_vendi_score_of_its_authors(features):
    # They leave rows of zeros out of the trace, ours count as one more kind: without such rows the same.
    theirs = _module("vendi_score.vendi", ("scipy", "sklearn"))
    x = features[0][:400].astype(np.float64) + 1e-3
    assert vendi.vendi_score(x) == pytest.approx(theirs.score_dual(x), rel=1e-9)
    assert vendi.vendi_score(x[:20]) == pytest.approx(theirs.score_X(x[:20]), rel=1e-9)
