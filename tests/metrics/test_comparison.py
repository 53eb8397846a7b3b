"""The command that judges any pictures, with pixels as features: its values from other functions, and its refusals."""

import json
import pathlib
import re
import sys
import tracemalloc
import types

import numpy as np
import PIL.Image
import pytest

from gen_jax.data import cache
from gen_jax.data.dataset import spread
from gen_jax.method import UserError
from gen_jax.metrics import __main__ as command
from gen_jax.metrics import bootstrap, classifier, comparison, extractors, moments, on_disk, sources
from gen_jax.metrics.frechet import frechet_distance
from gen_jax.metrics.precision_recall import precision_recall

RNG = np.random.default_rng(0)
SETS = {
    "good": RNG.integers(0, 200, (150, 4, 4, 1)).astype(np.uint8),
    "bad": RNG.integers(50, 256, (120, 4, 4, 1)).astype(np.uint8),
    "real": RNG.integers(0, 200, (130, 4, 4, 1)).astype(np.uint8),
}


@pytest.fixture
def files(tmp_path):
    for name, images in SETS.items():
        np.savez(tmp_path / f"{name}.npz", images)
    return {name: str(tmp_path / f"{name}.npz") for name in SETS}


def test_every_measure_of_every_set_is_printed_and_written(files, tmp_path, capsys):
    path = str(tmp_path / "table.json")
    command.main([*files.values(), "--judge=pixels", f"--json={path}", f"--cache_dir={tmp_path}/cache"])
    printed = capsys.readouterr().out
    (found,) = json.loads(pathlib.Path(path).read_text())
    values = {
        name.rsplit("/")[-1][:-4]: {row["measure"]: row for row in rows} for name, rows in found["values"].items()
    }
    assert values.keys() == {"good", "bad"}
    assert set(found["pictures"].values()) == {120}  # the size of the smallest, for all
    thinned = {name: images[spread(len(images), 120)] for name, images in SETS.items()}
    features = {name: images.reshape(120, -1) / 255 for name, images in thinned.items()}
    for name in values:
        row = values[name]["frechet_distance"]
        assert row["value"] == pytest.approx(frechet_distance(features[name], features["real"]), rel=1e-5)
        low, high = row["spread"]
        assert low < row["value"] < high
        precision, recall = precision_recall(features["real"], features[name])
        assert values[name]["precision"]["value"] == pytest.approx(precision)
        assert values[name]["recall"]["value"] == pytest.approx(recall)
    (difference,) = found["differences"].values()
    both = (values[name]["frechet_distance"]["value"] for name in ("good", "bad"))
    assert difference["value"] == pytest.approx(float(np.subtract(*both)))
    assert difference["high"] < 0  # the good one is nearer
    assert re.search(r"\| frechet_distance \| lower \| [\d.e-]+ \(", printed)
    assert "not FID" in printed


def test_real_test_images_are_judged_beside_the_samples(tmp_path, capsys):
    command.main(["stroke_digits@train[:60]", "stroke_digits", "--judge=pixels", "--num=60",
                  "--measures=overlap,memorisation,frechet", f"--cache_dir={tmp_path}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "| stroke_digits@train[:60] | real (stroke_digits@test) |" in printed
    assert re.search(r"\| memorisation \| 0.5 \| [\d.]+ \([^)]+\) \| \|", printed)  # test images have no test images
    assert (
        "frechet of stroke_digits@train[:60]: left out: 60 samples are too few for a Frechet distance on 784 features: "
        "use more than 784"
    ) in printed


def test_features_of_the_reference_are_kept(tmp_path):
    seen = []

    def batches(images):
        seen.append(len(images))
        yield images.reshape(len(images), -1).astype(np.float32), None

    network = extractors.Extractor("net", "01234567", 16, "", batches)
    pictures = types.SimpleNamespace(name="real", images=SETS["real"])
    first, again = (comparison.see(pictures, network, str(tmp_path), keep=True) for _ in range(2))
    np.testing.assert_array_equal(first.features, again.features)
    assert seen == [130]
    comparison.see(pictures, network._replace(digest="other"), str(tmp_path), keep=True)
    assert seen == [130, 130]
    assert cache.root(str(tmp_path)).is_dir()


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "_PIECE_ROWS", 64)
    monkeypatch.setattr(bootstrap, "_PIECE_ROWS", 64)
    monkeypatch.setattr(extractors, "_PIXELS", 2**12)
    monkeypatch.setattr(on_disk, "_PIECE", 2**12)
    monkeypatch.setattr(cache, "_PIECE", 2**12)
    peaks = []
    for num in (2_000, 2_000, 6_000):  # once more than is looked at: the first call imports
        for name, save in (("a", np.savez), ("b", np.savez_compressed)):
            save(tmp_path / f"{name}.npz", RNG.integers(0, 256, (num, 8, 8, 3)).astype(np.uint8))
        tracemalloc.start()
        command.main([f"{tmp_path}/a.npz", f"{tmp_path}/b.npz", "--judge=pixels", "--measures=frechet",
                      f"--cache_dir={tmp_path}/cache"])  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 192 bytes a picture and 768 for its features, in each set, were they held; the interval holds a few numbers a row.
    assert (peaks[2] - peaks[1]) / 4_000 < 150


def test_the_time_left_is_shown_and_kept_features_are_not_counted(tmp_path, capsys, monkeypatch):
    short = classifier.Recipe(num_steps=2)
    monkeypatch.setattr(classifier, "Recipe", lambda: short)
    words = ["stroke_digits@train[:40]", "stroke_digits@train[40:100]", "--num=40", "--measures=kernel",
             f"--cache_dir={tmp_path}"]  # fmt: skip
    command.main([*words, "--judge=pixels,turns"])
    lines = capsys.readouterr().err.splitlines()
    assert "pixels: 80/80 pictures, 00:00 left" in lines
    assert "turns_classifier: 80/80 pictures, 00:00 left" in lines
    assert "measuring stroke_digits@train[:40], set 1 of 1" in lines
    command.main([*words, "--judge=turns"])
    assert "turns_classifier: 40/40 pictures, 00:00 left" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("published", "whole", "num", "name"), [
    (True, True, 50_000, "fid"), (False, True, 50_000, "frechet_distance"), (True, False, 50_000, "frechet_distance"),
    (True, True, 49_999, "frechet_distance"),
])  # fmt: skip
def test_only_the_published_protocol_is_called_fid(published, whole, num, name):
    features = np.random.default_rng(0).normal(size=(num, 2))
    network = extractors.Extractor("net", "01234567", 2, "", lambda images: iter([(images, None)]), published)
    sets = comparison.Sets(comparison.Seen("a", features, None), comparison.Seen("b", features[:100], None), None,
                           network, whole)  # fmt: skip
    (row,) = comparison.frechet(sets)
    assert row.measure == name


@pytest.mark.parametrize(("words", "line"), [
    (["--judge=efficientnet"], "there is no judge 'efficientnet'; did you mean efficientnet_lite0"),
    (["--judge=inception"], "needs its weights: inception:<file>"),
    (["--judge=pixels:x"], "the judge pixels takes no file"),
    (["--judge=classifier"], "has no classes to train a classifier on: use the judge turns"),
    (["--measures=fid"], "there is no measure 'fid'"),
    (["--num=200"], r"--num=200, but .*bad.npz has 120 pictures"),
    (["--num=-2"], "--num=-2: it is at least 2"),
])  # fmt: skip
def test_refusals_are_one_line(files, words, line):
    with pytest.raises(UserError, match=line) as error:
        command.main([*files.values(), *words])
    assert "\n" not in str(error.value)


def test_pictures_of_another_size_or_colour_are_refused(files, tmp_path):
    np.savez(tmp_path / "other.npz", np.zeros((5, 4, 5, 3), np.uint8))
    with pytest.raises(UserError, match=r"other.npz has pictures of 4x5x3 and .*real.npz of 4x4x1: they must be equal"):
        command.main([str(tmp_path / "other.npz"), files["real"], "--judge=pixels"])
    with pytest.raises(UserError, match=r"good.npz is given more than once"):
        command.main([files["good"], files["good"], files["real"], "--judge=pixels"])


def test_errors_of_the_data_name_flags_of_this_command(files, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for side in (4, 5):
        PIL.Image.new("L", (side, side)).save(folder / f"{side}.png")
    with pytest.raises(UserError, match=r" --image_size") as error:
        command.main([str(folder), files["real"], f"--cache_dir={tmp_path}/cache"])
    assert "--config" not in str(error.value)


def test_help_imports_no_network():
    import subprocess

    code = (
        "import sys; from gen_jax.metrics import __main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: assert 'gen_jax.metrics.efficientnet' not in sys.modules, 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "REFERENCE" in done.stdout or "reference" in done.stdout


def test_similarity_within_classes_needs_labels_and_is_that_of_the_pixels():
    images = RNG.integers(0, 256, (40, 16, 16, 1)).astype(np.uint8)
    images[20:] = images[20]  # the second class repeats itself
    labels = np.repeat([0, 1], 20).astype(np.int32)
    seen, extractor = comparison.Seen("a", images.reshape(40, -1), None), types.SimpleNamespace()
    pictures = sources.Pictures("a", images, labels, None, "")
    (row,) = comparison.similarity(comparison.Sets(seen, seen, None, extractor, False, pictures))
    alone = comparison.Sets(
        seen, seen, None, extractor, False, pictures._replace(images=images[:20], labels=labels[:20])
    )
    (first,) = comparison.similarity(alone)
    assert row.value == pytest.approx((first.value + 1) / 2, abs=1e-9)  # identical pictures have similarity 1
    assert first.value < 0.2
    for without in (pictures._replace(labels=None), pictures._replace(labels=labels - 2), None):
        with pytest.raises(UserError, match="no labels"):
            comparison.similarity(alone._replace(pictures=without))


def test_a_measure_that_lacks_something_says_what_for_each_set(files, tmp_path, capsys):
    path = str(tmp_path / "table.json")
    command.main([*files.values(), "--judge=pixels", "--measures=score,memorisation", f"--json={path}"])
    (found,) = json.loads(pathlib.Path(path).read_text())
    assert f"score of {files['bad']}: left out: the judge pixels has no classes" in capsys.readouterr().out
    for name in (files["good"], files["bad"]):
        assert "has no classes" in found["left_out"][name]["score"]
        assert "the reference has no such split" in found["left_out"][name]["memorisation"]
    with pytest.raises(UserError, match="there is no folder .*missing"):
        command.main([*files.values(), f"--json={tmp_path}/missing/table.json"])


def test_the_errors_of_recall_and_coverage_are_those_of_the_real_pictures():
    features = RNG.normal(size=(500, 4)).astype(np.float32)
    fake, real = comparison.Seen("a", features[:100], None), comparison.Seen("b", features[100:], None)
    rows = {row.measure: row for row in comparison.overlap(comparison.Sets(fake, real, None, None, False))}  # pyright: ignore
    for name, num in (("precision", 100), ("recall", 400), ("coverage", 400)):
        share = rows[name].value
        assert rows[name].standard_error == pytest.approx((share * (1 - share) / num) ** 0.5)
