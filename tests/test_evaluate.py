import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import config as configs
from gen_jax import evaluate, judges, main, parallel
from gen_jax.data import dataset, gaussians
from gen_jax.data.dataset import Dataset
from gen_jax.method import Code, DataSpec, Method, State, UserError, labelled, with_factors
from gen_jax.metrics.frechet import frechet_distance
from gen_jax.run import Run
from gen_jax.sample import Model
from gen_jax.vae.defaults import vae_config

pytestmark = pytest.mark.long


def test_1003_examples_count_1003():
    # One value an example, known in advance: the first pixel. Padding of the last batch must not count.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1003, 2, 2, 1)).astype(np.uint8)
    data = Dataset(DataSpec("x", (2, 2, 1), 1003), {"image": images}, {"image": images})
    pixel = lambda state, batch, key: {"loss": batch["image"][:, 0, 0, 0].astype(jnp.float32)}  # noqa: E731
    method = Method(*[None] * 3, pixel, None)  # pyright: ignore
    state = State(jnp.int32(0), jax.random.key(0), {}, {}, {}, {}, {})
    config = configs.base_config()
    config.eval.num_examples = 5000
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices)
        placed = jax.device_put(state, parallel.replicated(mesh))
        value, error = evaluate.make_losses(config, method, data, mesh)(placed)["loss"]
        first = images[:, 0, 0, 0].astype(np.float64)
        assert value == pytest.approx(first.mean(), rel=1e-12)
        assert error == pytest.approx(first.std(ddof=1) / np.sqrt(1003), rel=1e-12)


def test_without_a_test_split_training_examples_are_judged_and_called_so():
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    data = Dataset(DataSpec("x", (1, 1, 1), 50), {"image": images}, None)
    pixel = lambda state, batch, key: {"loss": batch["image"][:, 0, 0, 0].astype(jnp.float32)}  # noqa: E731
    method = Method(*[None] * 3, pixel, None)  # pyright: ignore
    state = State(jnp.int32(0), jax.random.key(0), {}, {}, {}, {}, {})
    config = vae_config()
    config.eval.num_examples = 20
    model = Model(config, data.spec, method, state, parallel.make_mesh(1))
    (row,) = evaluate.judge(model, data, images, {})["metrics"]
    assert (row["name"], row["better"]) == ("training_loss", None)
    assert row["protocol"].startswith("mean over 20 training examples, spread over the set")
    assert row["value"] == pytest.approx(dataset.spread(50, 20).mean())


def test_a_test_split_that_is_sorted_by_class_is_judged_by_all_classes():
    label = np.repeat(np.arange(10), 100)
    arrays = {"image": np.zeros((1000, 1, 1, 1), np.uint8), "label": label}
    split, test, rows = evaluate.held_out(Dataset(DataSpec("x", (1, 1, 1), 1000), arrays, arrays), 50)
    assert split == "test"
    assert set(np.bincount(test["label"][rows])) <= {4, 5, 6}


def test_codes_are_judged_by_the_factors_of_the_data():
    # The code is the factors, each in a latent of its own, and a third latent says nothing.
    factors = np.stack(np.meshgrid(np.arange(4), np.arange(5), np.arange(3)), axis=-1).reshape(-1, 3)[:, :2]
    arrays = {"image": factors.sum(axis=1).astype(np.uint8).reshape(-1, 1, 1, 1), "factors": factors.astype(np.int32)}
    spec = DataSpec("x", (1, 1, 1), len(factors), with_factors((4, 5)))
    encode = lambda state, batch, key: jnp.pad(batch["factors"].astype(jnp.float32), ((0, 0), (0, 1)))  # noqa: E731
    method = Method(*[None] * 5, code=Code("means", (3,), encode, None))  # pyright: ignore
    state = State(jnp.int32(0), jax.random.key(0), {}, {}, {}, {}, {})
    config = vae_config()
    config.eval.num_codes, config.batch_size = 37, 7

    def judged(spec):
        data, model = Dataset(spec, arrays, None), Model(config, spec, method, state, parallel.make_mesh(1))
        rows = evaluate.judge(model, data, arrays["image"], {})["metrics"]
        return {row["name"]: row["value"] for row in rows}

    values = judged(spec)
    assert values["active_units/60_examples"] == 2
    assert values["mig/20_bins_37_samples"] == pytest.approx(1, abs=0.1)  # 37 samples of independent factors
    of_37 = {f"{name}_samples" for name in ("mig/20_bins_37", "modularity/20_bins_37", "sap_correlation/37")}
    assert values.keys() == {"active_units/60_examples"} | of_37
    assert judged(DataSpec("x", (1, 1, 1), 60)).keys() == {"active_units/60_examples"}
    method = method._replace(code=method.code._replace(kind="vectors"))  # whose scale means nothing
    assert judged(spec).keys() == of_37


def test_places_in_a_codebook_are_counted():
    # A code is two places, of which the second is always 7; at the first stand 0, 1 and 2.
    arrays = {"image": np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)}
    spec = DataSpec("x", (1, 1, 1), 10)
    encode = lambda state, batch, key: jnp.stack([batch["image"].ravel() % 3, jnp.full(4, 7)], axis=1)  # noqa: E731
    method = Method(*[None] * 5, code=Code("integers", (2,), encode, None, size=64))  # pyright: ignore
    state = State(jnp.int32(5), jax.random.key(0), {}, {}, {}, {}, {})
    config = vae_config()
    config.batch_size = 4
    model = Model(config, spec, method, state, parallel.make_mesh(1))
    (row,) = evaluate.judge(model, Dataset(spec, arrays, arrays), arrays["image"], {})["metrics"]
    assert (row["name"], row["value"], row["better"]) == ("codes_used/10_examples", 4, None)
    assert row["protocol"] == "number of the 64 codes that occur in 10 test examples, averaged weights, step 5."


def test_a_protocol_says_all_that_shaped_the_samples():
    described = {"sampler": "ddim, 5 steps", "guidance": "guidance 2"}
    method = Method(*[None] * 5, describe=described)  # pyright: ignore
    state = State(jnp.int32(1200), jax.random.key(0), {}, {}, {}, {}, {})
    model = Model(vae_config(), DataSpec("x", (1, 1, 1), 10), method, state, parallel.make_mesh(1))
    described = "ddim, 5 steps, guidance 2, last checkpoint, step 1,200, sampling seed 0"
    assert evaluate.described(model) == described
    config = vae_config()
    config.sample.update(checkpoint="best", seed=7)
    asked = Model(config, model.spec, method._replace(condition=("label",)), state, model.mesh)
    assert "classes by their shares of the training images, best checkpoint" in evaluate.described(asked)
    assert evaluate.described(asked).endswith("sampling seed 7")
    data = Dataset(model.spec, {"image": np.zeros((10, 1, 1, 1), np.uint8)}, None)
    assert evaluate.judge(model, data, data.train["image"], {})["facts"]["sampler"] == "ddim, 5 steps, guidance 2"
    plain = Model(vae_config(), model.spec, method._replace(describe={}), state, model.mesh)
    assert evaluate.judge(plain, data, data.train["image"], {})["facts"]["sampler"] == "one pass"


def test_neighbours_are_sought_among_images_as_they_are_shown(monkeypatch):
    # Binary images; the sample is white but for its first pixel, and only one of those that are searched is like it.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (90, 4, 4, 1)).astype(np.uint8)
    images[dataset.spread(90, 40)[7]] = 1
    data = Dataset(DataSpec("x", (4, 4, 1), 90, value_range=(0, 1)), {"image": images}, None)
    sample = np.full((1, 4, 4, 1), 255, np.uint8)
    sample[0, 0, 0] = 0
    monkeypatch.setattr(evaluate, "NUM_SEARCHED", 40)
    picture = evaluate.nearest_picture(sample, data)["nearest"]
    np.testing.assert_array_equal(picture.images[:2], [sample[0], np.full((4, 4, 1), 255)])
    assert set(np.unique(picture.images)) == {0, 255}
    assert "among 40 spread over the set, the 5 training images" in picture.caption
    monkeypatch.setattr(evaluate, "NUM_SEARCHED", 90)
    assert "Next to it: the 5 training images" in evaluate.nearest_picture(sample, data)["nearest"].caption


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_collapsed_class_is_more_alike_than_real_images_of_it(collapsed):
    rng = np.random.default_rng(0)
    test = {"image": rng.integers(0, 256, (60, 28, 28, 1)).astype(np.uint8), "label": np.arange(60, dtype=np.int32) % 3}
    spec = DataSpec("x", (28, 28, 1), 60, labelled("abc"))
    data = Dataset(spec, test, test)
    images = test["image"][test["label"]] if collapsed else test["image"][::-1]  # one picture a class, or all
    (row,), _ = judges.judge_by_similarity(data, judges.Samples(images, test["label"], "step 7"))
    assert row["name"] == "within_class_ms_ssim/2_scales_100_pairs_60"
    if collapsed:
        assert row["value"] == pytest.approx(1, abs=1e-9)
        assert row["reference"] < 0.3
    else:
        assert row["value"] == pytest.approx(row["reference"], abs=0.05)


def test_similarity_within_classes_needs_classes_and_a_window():
    labels = np.zeros(4, np.int32)

    def judged(side, labels):
        data = Dataset(DataSpec("x", (side, side, 1), 4, labelled("ab")), {}, None)
        return judges.judge_by_similarity(data, judges.Samples(np.zeros((4, side, side, 1), np.uint8), labels, ""))

    measure = "within_class_ms_ssim"
    small = "images of 8x8 pixels are smaller than its window of 11x11"
    assert judged(8, labels) == ([], [{"measure": measure, "reason": small}])
    assert judged(16, None) == ([], [])
    alone = "no class has two samples among 4"
    assert judged(16, np.arange(4, dtype=np.int32)) == ([], [{"measure": measure, "reason": alone}])
    (row,), left_out = judged(16, labels)
    assert (row["value"], row["reference"], left_out) == (1.0, None, [])


def test_modes_of_a_mixture_are_counted_beside_those_of_test_points():
    from conftest import data_config

    data = dataset.load(data_config("", "gaussians:ring8"))
    half = gaussians.MIXTURES["ring8"].centres[:4]
    points = np.repeat(half, 500, axis=0).reshape(-1, 1, 1, 2).astype(np.float32)
    rows = judges._by_modes(data, judges.Samples(points, None, "ddim, 5 steps, step 3"))
    assert [(row["name"], row["value"]) for row in rows] == [
        ("modes_covered/2k", 4),
        ("good_points/2k", 1.0),
        ("reverse_kl/2k", pytest.approx(np.log(2))),
    ]
    assert rows[0]["reference"] == 8
    assert "2,000 samples (ddim, 5 steps, step 3)" in rows[0]["protocol"]
    assert rows[1]["reference"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_the_mode_judges_and_keeps_other_figures_of_the_checkpoint(tiny_run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    main.main([f"--workdir={copy}", "--mode=eval", "--config.eval.num_samples=80", "--config.sample.batch_size=80"])
    report = json.loads((copy / "report.json").read_text())
    names = [row["name"] for row in report["metrics"]]
    assert len(names) == len(set(names))
    assert {"recall/classifier_80", "recall/classifier_70", "test_loss"} <= set(names)
    assert sum(report["histogram"]["share"]) == pytest.approx(1)
    assert "recall/classifier_80" in capsys.readouterr().out
    assert "classifier_80" in (copy / "report.html").read_text() or "80 samples" in (copy / "report.html").read_text()


def test_other_data_than_it_was_trained_on_is_refused(tiny_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    stored = json.loads((copy / "config.json").read_text())
    stored["data"]["fingerprint"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="000000000000"):
        main.main([f"--workdir={copy}", "--mode=eval"])


def test_without_labels_samples_are_judged_by_features_of_turned_images(made_up_tfds):
    from conftest import data_config

    data, config = dataset.load(data_config(made_up_tfds, "made_up_unlabelled")), configs.base_config()
    config.eval.classifier_steps, config.eval.track = 10, 100
    assert data.test is not None
    samples = judges.Samples(data.test["image"][:100], None, "step 7")
    rows, left_out, histogram, judge = judges.judge_by_classifier(config, data, samples)
    names = ["frechet_distance", "precision", "recall", "density", "coverage"]
    assert [row["name"] for row in rows] == [f"{name}/turns_classifier_100" for name in names]
    assert (histogram, left_out) == (None, [])
    by = "100 samples (step 7), judged by a classifier of the rotations of images of made_up_unlabelled (weights "
    assert rows[0]["protocol"].startswith(by + judge.removeprefix("turns_classifier "))
    track = judges.make_tracker(config, data)
    assert track is not None
    assert track(data.test["image"]) == {rows[0]["name"]: rows[0]["value"]}


def test_a_distance_that_cannot_be_taken_is_refused():
    config = configs.base_config()
    config.eval.track = 65
    judges.check_tracked(config, DataSpec("x", (8, 8, 1), 4))
    points = DataSpec("points", (1, 1, 2), 4, kind="points", value_range=(-1, 1))
    for spec in (points, DataSpec("x", (7, 8, 1), 4), DataSpec("x", (64, 64, 1), 4, with_factors((2, 2)))):
        with pytest.raises(UserError, match="no classifier gives features"):
            judges.check_tracked(config, spec)
    config.eval.track = 64
    with pytest.raises(UserError, match="more samples"):
        judges.check_tracked(config, DataSpec("x", (8, 8, 1), 4))
    config.eval.track = 0
    judges.check_tracked(config, points)


def seen(num, num_test, networks=""):
    """Rows of `num` samples, which are test images, of a set with `num_test` of them and 300 training images."""
    rng = np.random.default_rng(0)
    arrays = {"image": rng.integers(0, 256, (600, 12, 12, 1)).astype(np.uint8)}
    split = lambda rows: {name: array[rows] for name, array in arrays.items()}  # noqa: E731
    data = Dataset(
        DataSpec("noise", (12, 12, 1), 300, fingerprint="noise"), split(slice(300)), split(slice(300, 300 + num_test))
    )
    config = configs.base_config()
    config.eval.classifier_steps, config.eval.judges = 5, networks
    samples = judges.Samples(arrays["image"][300 : 300 + num], None, "")
    return {row["name"]: row for row in judges.judge_samples(config, data, samples).rows}


def test_more_networks_judge_the_same_samples_against_as_many_training_images():
    rows = seen(200, 200, networks="pixels")
    pixels = np.random.default_rng(0).integers(0, 256, (600, 12, 12, 1)).astype(np.uint8).reshape(600, -1) / 255
    row = rows["frechet_distance/pixels_200"]
    assert row["value"] == row["reference"] == pytest.approx(
        frechet_distance(pixels[300:500], pixels[dataset.spread(300, 200)]), rel=1e-5
    )  # fmt: skip
    assert row["standard_error"] > 0
    assert "judged by pixels, pixels, scaled to 0 to 1, against 200 training images." in row["protocol"]
    measures = {name.partition("/")[0] for name in rows if "/pixels_" in name}
    assert {"kernel_distance", "precision", "recall", "vendi_score", "memorisation"} < measures
    assert rows.keys() > seen(200, 200).keys()  # the classifier's rows remain


def test_rows_name_their_judge_and_the_images_that_it_looked_at():
    rows = seen(200, 100, networks="pixels")
    judge = {"name": "pixels", "network": "pixels, scaled to 0 to 1", "weights": "none", "features": 144,
             "pictures": "as they are"}  # fmt: skip
    for num, real in ((200, "none: the test split has fewer images"), (100, "100 test images")):
        row = rows[f"recall/pixels_{num}"]
        assert row["judge"] == judge
        assert row["sets"] == {"samples": f"{num}", "against": f"{num} of 300 training images", "real": real}
        assert row["how"] in row["protocol"]
        own = rows[f"recall/turns_classifier_{num}"]
        assert own["judge"].items() > {"name": "turns_classifier", "features": 64, "pictures": "as they are"}.items()
        assert own["judge"]["weights"] in own["protocol"]
        against = f"all 300 training images (Frechet distance) and {num} of them (the rest)"
        assert own["sets"]["against"] == against
        assert own["how"] == f"k = 3, against {num} training images"
    assert rows["memorisation/pixels_100"]["better"] == "0.5"
    assert {row["judge"]["name"] for row in rows.values()} == {"pixels", "turns_classifier"}


def test_a_network_that_is_not_there_is_refused_before_training():
    config = configs.base_config()
    config.eval.judges = "pixels,inception:/nowhere.pth"
    with pytest.raises(UserError, match="/nowhere.pth"):
        judges.check_networks(config)
    config.eval.judges = "inceptoin"
    with pytest.raises(UserError, match="there is no judge 'inceptoin'; did you mean inception"):
        judges.check_networks(config)
    config.eval.judges = "pixels,classifier"
    with pytest.raises(UserError, match="a classifier of the data always judges a run"):
        judges.check_networks(config)
    config.eval.judges = "pixels,pixels"
    with pytest.raises(UserError, match="'pixels' more than once"):
        judges.check_networks(config)


def test_samples_of_black_and_white_images_are_compared_with_bytes():
    images = np.random.default_rng(0).integers(0, 2, (200, 8, 8, 1)).astype(np.uint8)
    spec = DataSpec("bits", (8, 8, 1), 100, fingerprint="bits", value_range=(0, 1))
    data = Dataset(spec, {"image": images[:100]}, {"image": images[100:]})
    samples = judges.Samples(255 * images[:100], None, "")  # the training images themselves, as a model returns them
    rows, _ = judges.judge_by_network("pixels", configs.base_config(), data, samples)
    values = {row["name"].partition("/")[0]: row["value"] for row in rows}
    assert values["precision"] == values["recall"] == values["coverage"] == 1
    assert values["frechet_distance"] == pytest.approx(0, abs=1e-3)


def test_a_reference_has_the_number_of_the_samples_or_is_none():
    rows = seen(200, 200)
    assert {name.rpartition("_")[2] for name in rows} == {"200"}
    # The samples are the test images: whatever is measured is the reference.
    assert all(row["value"] == row["reference"] for row in rows.values())
    assert "Reference: 200 real test images" in rows["coverage/turns_classifier_200"]["protocol"]


def test_where_fewer_test_images_are_there_samples_are_judged_again_in_their_number():
    rows = seen(200, 100)
    measures = {"frechet_distance", "precision", "recall", "density", "coverage"}
    assert rows.keys() == {f"{measure}/turns_classifier_{num}" for measure in measures for num in (200, 100)}
    assert all((row["reference"] is None) == name.endswith("_200") for name, row in rows.items())
    assert "No reference" in rows["coverage/turns_classifier_200"]["protocol"]
    # As many training images, too, are what both are held against.
    assert "against 100 training images" in rows["coverage/turns_classifier_100"]["protocol"]
    few = seen(200, 64)
    assert few.keys() == {f"{measure}/turns_classifier_200" for measure in measures}


def test_a_measure_is_the_same_whatever_else_was_judged():
    alone, beside = seen(100, 100), seen(200, 100)
    name = "frechet_distance/turns_classifier_100"
    assert alone[name]["reference"] == beside[name]["reference"]


@pytest.mark.parametrize("num", [1, 7, 100, 1000])
def test_classes_are_asked_for_by_their_shares(num):
    counts = [5923, 6742, 0, 6131, 30]
    labels = evaluate.by_share(counts, num)
    found, exact = np.bincount(labels, minlength=5), num * np.array(counts) / sum(counts)
    assert len(labels) == num
    assert (abs(found - exact) < 1).all()
    assert found[2] == 0
    if num == 1000:
        assert labels[:6].tolist() == [0, 1, 3, 4, 0, 1]  # in turn, for as long as there are any


def test_figures_of_another_protocol_are_not_kept_beside_new_ones(tmp_path):
    run = Run(tmp_path)
    row = {"name": "recall/classifier_1k", "value": 0.5}
    facts = {"checkpoint_step": 6, "samples": "ddim, 5 steps, eta 0", "judge": "classifier 01234567"}
    write = lambda name, **changes: evaluate.write_report(  # noqa: E731
        run, {"metrics": [row | {"name": name}], "facts": facts | changes, "finished_step": 6}
    )
    write("recall/classifier_1k")
    write("recall/classifier_10k")
    assert [each["name"] for each in run.read_report()["metrics"]] == ["recall/classifier_10k", "recall/classifier_1k"]
    for change in ({"samples": "ddim, 5 steps, eta 1"}, {"judge": "classifier 76543210"}, {"checkpoint_step": 5}):
        write("recall/classifier_1k")
        write("recall/classifier_10k", **change)
        assert [each["name"] for each in run.read_report()["metrics"]] == ["recall/classifier_10k"]
