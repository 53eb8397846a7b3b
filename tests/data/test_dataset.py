import types

import numpy as np
import pytest

from gen_jax.data import dataset
from gen_jax.method import UserError


def _arrays(num_examples: int) -> dict[str, np.ndarray]:
    """Examples whose label is their number."""
    number = np.arange(num_examples)
    return {"image": number.astype(np.uint8).reshape(-1, 1, 1, 1), "label": number.astype(np.int32)}


def _labels(batches: dataset.Batches, steps: range) -> np.ndarray:
    return np.concatenate([batches.batch(step)["label"].ravel() for step in steps])


def test_shapes_and_types_of_a_batch():
    batch = dataset.Batches(_arrays(10), batch_size=4, seed=0).batch(0)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "image": ((4, 1, 1, 1), np.uint8),
        "label": ((4,), np.int32),
        "index": ((4,), np.int32),
    }
    np.testing.assert_array_equal(batch["index"], range(4))
    np.testing.assert_array_equal(batch["image"].ravel(), batch["label"])


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 4), (10, 5), (3, 8), (1, 4), (7, 7)])
def test_every_epoch_holds_every_example_once(num_examples: int, batch_size: int):
    batches = dataset.Batches(_arrays(num_examples), batch_size, seed=3)
    labels = _labels(batches, range(num_examples * 3))
    epochs = labels[: len(labels) // num_examples * num_examples].reshape(-1, num_examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(num_examples), epochs.shape))


def test_a_batch_depends_on_seed_and_step_alone():
    forwards, backwards = (dataset.Batches(_arrays(10), 4, seed=0) for _ in range(2))
    there = [forwards.batch(step)["label"] for step in range(20)]
    back = [backwards.batch(step)["label"] for step in reversed(range(20))]
    np.testing.assert_array_equal(there, back[::-1])


def test_orders_of_epochs_and_of_seeds_differ():
    orders = [dataset.permutation(seed, epoch, 100) for seed in range(4) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 16


def test_order_is_that_of_philox_raw_output():
    raw = np.random.Philox(np.random.SeedSequence([5, 2])).random_raw(50).tolist()
    assert dataset.permutation(5, 2, 50).tolist() == sorted(range(50), key=raw.__getitem__)


def test_permutations_are_uniform():
    counts = np.zeros((4, 4))
    for epoch in range(2_000):
        counts[np.arange(4), dataset.permutation(0, epoch, 4)] += 1
    np.testing.assert_allclose(counts, 500, atol=5 * np.sqrt(2_000 * 0.25 * 0.75))


@pytest.mark.parametrize("batches_per_step", [1, 3])
def test_processes_share_the_global_batch(batches_per_step: int):
    whole = dataset.Batches(_arrays(11), 8, seed=0, batches_per_step=batches_per_step)
    parts = [dataset.Batches(_arrays(11), 8, 0, process, 4, batches_per_step) for process in range(4)]
    for step in range(6):
        joined = [part.batch(step) for part in parts]
        for name, expected in whole.batch(step).items():
            axis = 0 if batches_per_step == 1 else 1
            np.testing.assert_array_equal(np.concatenate([part[name] for part in joined], axis), expected)


def test_several_batches_a_step_are_the_next_batches_stacked():
    one, three = (dataset.Batches(_arrays(10), 4, 0, batches_per_step=k) for k in (1, 3))
    for step in range(5):
        for name, stacked in three.batch(step).items():
            expected = np.stack([one.batch(3 * step + i)[name] for i in range(3)])
            np.testing.assert_array_equal(stacked, expected)


def test_unlabelled_sets_have_no_labels():
    images = {"image": np.zeros((5, 2, 2, 3), np.uint8)}
    assert set(dataset.Batches(images, 2, 0).batch(0)) == {"image", "index"}


def test_refuses_a_batch_that_does_not_divide_by_the_processes():
    with pytest.raises(UserError, match="batch_size 10 does not divide over 4 processes"):
        dataset.Batches(_arrays(20), 10, 0, process_count=4)


def test_refuses_arrays_of_different_lengths():
    with pytest.raises(ValueError, match="of one length"):
        dataset.Batches({"image": np.zeros((3, 1, 1, 1)), "label": np.zeros(4)}, 2, 0)


def _config(name: str, offline_substitute: str = "", **changes: int) -> types.SimpleNamespace:
    values = {"image_size": 0, "crop": 0, "reduce": 0} | changes
    return types.SimpleNamespace(name=name, offline_substitute=offline_substitute, **values)


def test_a_prefix_chooses_the_loader_and_tfds_is_the_default(monkeypatch: pytest.MonkeyPatch):
    def module_that_names_itself(module: str) -> types.SimpleNamespace:
        def load(name: str, config: object) -> dataset.Dataset:
            return dataset.Dataset(dataset.DataSpec(f"{module} loads {name}", (1, 1, 1), 4), _arrays(4), None)

        return types.SimpleNamespace(load=load)

    monkeypatch.setattr("importlib.import_module", module_that_names_itself)
    monkeypatch.setitem(dataset.LOADERS, "folder", "folders")
    names = ("folder:/a:b", "tfds:x", "x:1.0.0", "x", "stroke_digits")
    found = {name: dataset.load(_config(name)).spec.name for name in names}
    assert found == {
        "folder:/a:b": "folders loads /a:b",
        "tfds:x": "gen_jax.data.tfds loads x",
        "x:1.0.0": "gen_jax.data.tfds loads x:1.0.0",
        "x": "gen_jax.data.tfds loads x",
        "stroke_digits": "gen_jax.data.stroke_digits loads ",
    }


def _loaders(monkeypatch: pytest.MonkeyPatch) -> dataset.Dataset:
    """Makes TFDS unavailable; returns what stroke_digits gives."""
    data = dataset.Dataset(dataset.DataSpec("stroke_digits", (1, 1, 1), 4), _arrays(4), None)

    def unavailable(name: str, config: types.SimpleNamespace) -> dataset.Dataset:
        raise dataset.UnavailableError(f"{name!r} cannot be downloaded")

    modules = {
        "gen_jax.data.tfds": types.SimpleNamespace(load=unavailable),
        "gen_jax.data.stroke_digits": types.SimpleNamespace(load=lambda name, config: data),
    }
    monkeypatch.setattr("importlib.import_module", modules.__getitem__)
    return data


def test_where_nothing_can_be_downloaded_the_substitute_is_read_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    expected = _loaders(monkeypatch)
    data = dataset.load(_config("mnist", "stroke_digits"))
    assert data is expected
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == lines[-1] == "=" * len(lines[0])
    assert lines[1] == "gen_jax: THIS IS NOT mnist: the data is stroke_digits instead."
    assert "'mnist' cannot be downloaded" in lines[2]
    assert '--config.data.offline_substitute=""' in lines[-2]


def test_without_a_substitute_it_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    _loaders(monkeypatch)
    with pytest.raises(UserError, match="'mnist' cannot be downloaded"):
        dataset.load(_config("mnist", ""))
    assert not capsys.readouterr().err


def test_only_a_missing_network_is_a_reason_to_substitute(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str, config: types.SimpleNamespace) -> dataset.Dataset:
        raise UserError("no split 'trian'")

    monkeypatch.setattr("importlib.import_module", lambda module: types.SimpleNamespace(load=broken))
    with pytest.raises(UserError, match="no split"):
        dataset.load(_config("mnist", "stroke_digits"))


@pytest.mark.parametrize(("num_examples", "num"), [(1, 5), (2, 1), (3, 3), (100, 7), (1000, 999), (737_280, 2_000)])
def test_spread_examples_differ_and_leave_no_large_gap(num_examples, num):
    rows = dataset.spread(num_examples, num)
    assert len(rows) == min(num, num_examples)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < num_examples
    ends = np.concatenate([rows, rows[:1] + num_examples])
    assert np.diff(ends).max() <= 3 * num_examples / len(rows) + 1
