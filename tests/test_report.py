import html.parser
import io
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from browser import Browser, find_chromium

from gen_jax import report
from gen_jax.figures.pictures import save_picture
from gen_jax.method import DataSpec, Picture, Scatter, UserError, labelled

TIMES = "\N{MULTIPLICATION SIGN}"
EVIL = '"><script>document.title = "hacked"</script><img src=x onerror=alert(1)>'


def write_run(folder: pathlib.Path, name: str = "ddpm_mnist", steps: int = 100) -> pathlib.Path:
    """Writes the files of a finished run of 100 steps, every text in them containing `name`."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (120, 8, 8, 1), np.uint8)
    (folder / "pictures").mkdir(parents=True)
    config = {
        "name": name,
        "variant": "",
        "config": {
            "method": "ddpm",
            "num_steps": 100,
            "log_every": 2,
            "data": {"name": name},
            "optimizer": {"name": name},
        },
        "data": DataSpec(name, (8, 8, 1), 1000, labelled(f"{name} {i}" for i in range(10)), "abc123").to_dict(),
        "versions": {"python": "3.11", "jax": name},
        "devices": {"platform": "cpu", "kind": name, "count": 1},
        "processes": 1,
        "git_commit": None,
        "command": f"python -m gen_jax.main --config={name}",
        "parameters": {name: [{"module": name, "parameters": 1200}, {"module": "up_0", "parameters": 34}]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "step": step,
            "train/loss": 1 / step,
            f"train/{name}": 1.0,
            "speed/images_per_second": 512.0,
            "seconds": step / 2,
        }
        for step in range(2, steps + 1, 2)
    ]
    lines += [{"step": step, "eval/loss": 1 / step} for step in range(50, steps + 1, 50)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for index, (kind, labels) in enumerate([("strip", (name,) * 6), ("animation", (name,) * 6), ("grid", ())]):
        shown = images[:24].reshape(6, 4, 8, 8, 1) if kind == "animation" else images[:6]
        save_picture(
            folder / f"pictures/{index:02}_{kind}.npz", Picture(shown, f"{kind} {name}", name, kind, labels), "mnist"
        )
    np.savez(folder / "samples.npz", images, np.arange(120) % 10)
    for step in (50, 100):
        save_picture(
            folder / f"training/samples/{step:08}.npz",
            Picture(images[step // 5 :][:16], f"samples {name}", name),
            "mnist",
        )
    metric = {"name": f"{name}/classifier_1k", "value": 12.345, "reference": 3.21, "standard_error": 0.456}
    evaluation = {
        "metrics": [metric | {"better": "lower", "protocol": f"1,000 samples of {name}"}],
        "histogram": {"names": [f"{name} {i}" for i in range(10)], "share": [0.1] * 10, "reference": [0.1] * 10},
        "facts": {"checkpoint_step": 100, "sampler": name},
    }
    (folder / "report.json").write_text(json.dumps(evaluation))
    return folder


def change_config(folder: pathlib.Path, **values) -> None:
    """Sets values of the resolved config of a run."""
    record = json.loads((folder / "config.json").read_text())
    record["config"] |= values
    (folder / "config.json").write_text(json.dumps(record))


class Page(html.parser.HTMLParser):
    """What a browser would find in a page: elements, text, and whether every element is closed."""

    def __init__(self, content: str):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for attributes in self.named("section")]


def page_of(folder: pathlib.Path) -> Page:
    return Page(report.write(folder).read_text("utf-8"))


def test_a_name_that_is_not_utf_8_is_shown_with_backslashes(tmp_path):
    page = page_of(write_run(tmp_path / "caf\udce9", "caf\udce9"))
    assert page.sections == [name for name, _, _ in report.SECTIONS]
    assert r"DDPM trained on caf\udce9" in page.text


def test_a_finished_run_shows_every_part_in_order(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert not page.open
    assert page.sections == [name for name, _, _ in report.SECTIONS]
    assert [attributes["href"] for attributes in page.named("a")] == [f"#{name}" for name in page.sections]
    for words in (
        f"DDPM trained on ddpm_mnist : 1,000 grey images of 8 {TIMES} 8 pixels in 10 classes.",
        f"trained for 100 of 100 steps parameters 1,234 training time 50 s device 1 {TIMES} ddpm_mnist",
        "12.35 standard error 0.46 real test data 3.21 lower is better",
        "How it was measured: 1,000 samples of ddpm_mnist",
        "The first 5 of 120 samples",
        "The first 100 samples",
        "ddpm_mnist all modules 1,234",
        "images per second (median) 512",
        "optimizer.name ddpm_mnist",
        "python -m gen_jax.main --config=ddpm_mnist Copy",
    ):
        assert words in page.text
    assert not page.named("aside")


def judged(folder: pathlib.Path, **changes) -> str:
    """The key figures of a run that two judges looked at, beside a metric of an older version."""
    path = write_run(folder) / "report.json"
    report = json.loads(path.read_text())
    pixels = {"name": "pixels", "network": "pixels, scaled to 0 to 1", "weights": "none", "features": 64,
              "pictures": "as they are"}  # fmt: skip
    network = {"name": "net", "network": "a network", "weights": "0f1e2d3c", "features": 1280,
               "pictures": "resized to 224x224"}  # fmt: skip
    for judge in (pixels, network):
        for num in (500, 100):
            sets = {"samples": f"{num}", "against": f"{num} of 900 training images", "real": f"{num} test images"}
            row = {"name": f"recall/{judge['name']}_{num}", "value": num / 1000, "protocol": "all in one sentence"}
            report["metrics"].append(row | {"judge": judge, "sets": sets, "how": f"balls among {num}"} | changes)
    reason = {"measure": "kernel/net", "reason": "too few", "judge": network}
    report["left_out"] = [reason, reason, {"measure": "other", "reason": "no classes"}]
    path.write_text(json.dumps(report))
    page = page_of(folder)
    assert not page.open
    return page.text[page.text.index("Key figures ") : page.text.index("Samples as drawn The")]


def test_each_judge_stands_apart_with_its_protocol(tmp_path):
    old, pixels, network, rest = re.split(r"(?=Pixels, scaled|A network judge|Not measured: Other)", judged(tmp_path))
    assert "ddpm_mnist/ classifier_1k 12.35" in old  # a row without its judge keeps its whole name
    assert "How it was measured: 1,000 samples of ddpm_mnist" in old
    for text, facts in (
        (pixels, "Pixels, scaled to 0 to 1 judge pixels weights none features 64 pictures as they are"),
        (network, "A network judge net weights 0f1e2d3c features 1,280 pictures resized to 224x224"),
    ):
        assert text.startswith(facts)
        for num in (500, 100):
            sets = f"{num} samples, against {num} of 900 training images. Real test data: {num} test images."
            assert f"{sets} Recall 0.{num // 100}" in text
            assert f"Recall: balls among {num}." in text.partition("How each was measured")[2]
        assert "recall/" not in text
    assert network.count("Kernel: too few.") == 1
    assert "Not measured" not in pixels
    assert rest.startswith("Not measured: Other: no classes.")


@pytest.mark.parametrize("changes", [{"judge": "pixels"}, {"judge": [], "sets": 3}, {"sets": {"samples": [EVIL]}}])
def test_parts_of_a_protocol_that_nobody_can_read_break_nothing(tmp_path, changes):
    assert "Recall" in judged(tmp_path, **changes)


def test_every_text_is_escaped(tmp_path):
    """Against the same page with a harmless name: no text adds an element, or an attribute."""
    content = report.write(write_run(tmp_path / "run", EVIL)).read_text("utf-8")
    evil, harmless = Page(content), page_of(write_run(tmp_path / "harmless"))
    assert [(tag, sorted(attributes)) for tag, attributes in evil.elements] == [
        (tag, sorted(attributes)) for tag, attributes in harmless.elements
    ]
    assert evil.text.count(EVIL) > 20
    assert len(re.findall("<script", content)) == 1


def test_nothing_comes_from_elsewhere(tmp_path):
    content = report.write(write_run(tmp_path / "run")).read_text("utf-8")
    for tag, attributes in Page(content).elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "background"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert not {"style", "onclick", "onload"} & set(attributes)
    assert not re.search(r"url\(|@import|https?:", content)


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_nothing_in_a_runs_directory_is_unpickled(tmp_path):
    folder, trace = write_run(tmp_path / "run"), tmp_path / "exploded"
    bomb = np.array([Bomb(trace)], object)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(io.BytesIO(saved(bomb)), allow_pickle=False)
    np.savez(folder / "samples.npz", bomb)
    np.savez(folder / "pictures/00_strip.npz", images=bomb, kind=bomb)
    text = page_of(folder).text
    assert "samples.npz could not be read" in text
    assert "00_strip.npz could not be read" in text
    assert not trace.exists()
    np.load(folder / "samples.npz", allow_pickle=True)["arr_0"]
    assert trace.exists()  # it would have


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_every_picture_and_control_has_a_name(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert all(attributes["alt"] for attributes in page.named("img"))
    for tag in ("input", "canvas", "section", "nav"):
        assert all(attributes["aria-label"] for attributes in page.named(tag))
    assert all("aria-label" in attributes for attributes in page.named("svg") if attributes.get("role") == "img")


def test_an_empty_directory_gives_a_page_that_says_what_is_missing(tmp_path):
    page = page_of(tmp_path)
    for words in ("No samples yet", "Not measured yet", "--mode=eval", "No step has been logged yet"):
        assert words in page.text


def test_no_directory_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no run's directory"):
        report.write(tmp_path / "none")


@pytest.mark.parametrize(
    "part",
    [
        "config.json",
        "metrics.jsonl",
        "report.json",
        "pictures/00_strip.npz",
        "training/samples/00000050.npz",
    ],
)
def test_any_part_may_be_missing_or_cut_short(tmp_path, part):
    folder = write_run(tmp_path / "run")
    path = folder / part
    if path.is_file() and path.suffix != ".jsonl":
        path.write_bytes(path.read_bytes()[:-40])
        page = page_of(folder)
        assert f"{part} could not be read" in page.text
        assert str(tmp_path) not in page.text
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(folder)
    assert "could not be read" not in page.text
    assert "reproduce" in page.sections


@pytest.mark.parametrize("key", ["config", "data", "devices", "parameters", "versions", "name", "command"])
@pytest.mark.parametrize("value", [None, [], [1], {"a": 1}, -1, EVIL])
def test_a_config_of_another_form_does_not_break_the_page(tmp_path, key, value):
    folder = write_run(tmp_path / "run")
    for unneeded in ("pictures", "training"):
        shutil.rmtree(folder / unneeded)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    page = page_of(folder)
    assert not page.open
    assert "12.35" in page.text


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    folder = write_run(tmp_path / "run", steps=60)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 62, "train/lo')
    text = page_of(folder).text
    assert "not finished: step 60 of 100" in text
    assert "measured at step 100; the last step logged is 60" in text
    assert "could not be read" not in text


def test_a_last_step_between_two_logs_counts_as_finished(tmp_path):
    folder = write_run(tmp_path / "run")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_steps": 100', '"num_steps": 101'))  # logged every 2
    assert "not finished" not in page_of(folder).text


def test_data_other_than_asked_for_is_said_aloud(tmp_path):
    folder = write_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["name"] = "drawn_digits"
    (folder / "config.json").write_text(json.dumps(config))
    assert "asks for the data set" not in page_of(folder).text  # a folder's set has a shorter name than its path

    config["config"]["data"]["offline_substitute"] = "drawn_digits"
    (folder / "config.json").write_text(json.dumps(config))
    text = page_of(folder).text
    assert "DDPM trained on drawn_digits" in text
    assert "asks for the data set ddpm_mnist; this run was trained on drawn_digits instead" in text


def test_known_measures_have_their_unit_and_come_behind_the_loss(tmp_path):
    folder = write_run(tmp_path / "run")
    change_config(folder, method="vae")
    names = ("a", "kl", "reconstruction", "nll/importance_10")
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (2, 4):
            file.write(json.dumps({"step": step} | {f"train/{name}": 3.0 * step for name in names}) + "\n")
    text = page_of(folder).text
    titles = [
        "loss log scale train/loss",
        "reconstruction, nats per image train/reconstruction",
        "KL divergence, nats per image train/kl",
        "negative log-likelihood (importance 10), nats per image train/nll/importance_10",
        "a train/a",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "VAE trained on" in text
    change_config(folder, method="gan")  # which has no such measures: they are what the files call them
    assert "nats" not in page_of(folder).text


def test_samples_that_got_worse_late_are_said_aloud(tmp_path):
    folder, name = write_run(tmp_path / "run"), "eval/frechet_distance/classifier_1k"
    before = (folder / "metrics.jsonl").read_text()

    def text_of(*distances: float) -> str:
        lines = (json.dumps({"step": 10 * number, name: d}) for number, d in enumerate(distances, 1))
        (folder / "metrics.jsonl").write_text(before + "\n".join(lines) + "\n")
        return page_of(folder).text

    told = "since step 40 their tracked Frechet distance has been above twice its best, 4 at step 20"
    assert told in text_of(30.0, 4.0, 7.9, 8.1, 20.0)
    assert told in text_of(30.0, 4.0, 9.0 / 2, 8.1)
    assert "got worse" not in text_of(30.0, 4.0, 20.0, 7.9)  # a dip from which it came back
    assert "got worse" not in text_of(30.0, 20.0, 10.0)
    assert "got worse" not in text_of(30.0)
    assert "4 at step 20; --config.sample.checkpoint=best samples" in text_of(30.0, 4.0, 20.0)
    change_config(folder, eval={"best": "loss"})  # the best checkpoint is another one
    assert "4 at step 20; a run with --config.eval.best=frechet_distance keeps" in text_of(30.0, 4.0, 20.0)


def test_curves_of_both_players_share_a_chart(tmp_path):
    folder = write_run(tmp_path / "run")
    change_config(folder, method="gan")
    values = {
        "train/grad_norm": 2.0, "train/discriminator_grad_norm": 5.0, "train/real_score": 0.7, "train/fake_score": 0.3,
        "eval/fake_score": 0.2, "eval/discriminator_spectral_norm/conv_0": 1.5,
        "eval/discriminator_spectral_norm/out": 2.5,
    }  # fmt: skip
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (2, 4):
            file.write(json.dumps({"step": step} | values) + "\n")
    text = page_of(folder).text
    titles = [
        "scores of real and generated images train/real_score train/fake_score eval/fake_score",
        "gradient norms of both players train/grad_norm train/discriminator_grad_norm",
        "spectral norms of the discriminator's kernels eval/discriminator_spectral_norm/conv_0 "
        "eval/discriminator_spectral_norm/out",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize("method", ["of_a_newer_version", None, 3, {"a": 1}])
def test_a_method_that_is_not_known_is_called_by_its_name(tmp_path, method):
    folder = write_run(tmp_path / "run")
    change_config(folder, method=method)
    text = page_of(folder).text
    assert f"{method} trained on ddpm_mnist" in text
    assert "train/loss" in text


def test_the_data_of_a_run_of_version_0_1_are_described(tmp_path):
    folder = write_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    names = config["data"].pop("features")["label"]["names"]
    config["data"] |= {"class_names": names, "factor_sizes": None, "dtype": "uint8"}
    del config["data"]["kind"]
    (folder / "config.json").write_text(json.dumps(config))
    assert f"1,000 grey images of 8 {TIMES} 8 pixels in 10 classes." in page_of(folder).text
    assert report.read(folder).samples.labels[:2] == ("ddpm_mnist 0", "ddpm_mnist 1")


def test_values_that_are_not_finite_are_named(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 102, "train/loss": NaN}\n{"step": 104, "train/loss": Infinity}\n')
    assert "train/loss was not finite at 2 logged steps, first at step 102" in page_of(folder).text


def test_lines_are_read_once_a_step_and_time_over_all_starts(tmp_path):
    lines = [(10, 5.0, 1.0), (20, 9.0, 0.5), (20, 2.0, 0.25), (30, 6.0, 0.2)]  # the third began anew
    records = [json.dumps({"step": step, "seconds": seconds, "train/loss": loss}) for step, seconds, loss in lines]
    (tmp_path / "metrics.jsonl").write_text("\n".join([records[0], "not json", *records[1:]]))
    run = report.read(tmp_path)
    assert run.curves["train/loss"].steps.tolist() == [10, 20, 30]
    assert run.curves["train/loss"].values.tolist() == [1.0, 0.25, 0.2]
    assert run.seconds == 9 + 6
    assert run.notes == ["metrics.jsonl has 1 lines that could not be read and are left out."]


def test_only_the_first_samples_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 3), np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "samples.npz", images)
        samples = report.read(tmp_path).samples
        np.testing.assert_array_equal(samples.images, images[:100])
        assert (samples.labels, samples.total) == ((), 500)


def test_labels_are_shown_by_name(tmp_path):
    assert report.read(write_run(tmp_path / "run")).samples.labels[:2] == ("ddpm_mnist 0", "ddpm_mnist 1")


def test_of_many_steps_of_training_the_first_and_the_last_are_frames(tmp_path):
    for step in range(10, 2010, 10):
        shown = np.full((4, 2, 2, 1), step // 10, np.uint8)
        save_picture(tmp_path / f"training/manifold/{step:08}.npz", Picture(shown, "t", columns=4), "mnist")
    moving = report.read(tmp_path).training["manifold"]
    assert moving.kind == "animation"
    assert moving.images.shape == (24, 4, 2, 2, 1)
    steps = [int(label.removeprefix("step ").replace(",", "")) for label in moving.labels]
    assert (moving.labels[0], moving.labels[-1], steps) == ("step 10", "step 2,000", sorted(steps))
    assert (moving.images[:, 0, 0, 0, 0] == np.array(steps) // 10).all()


def test_a_frame_of_another_size_is_left_out_and_one_alone_is_a_still(tmp_path):
    for step, count in ((10, 4), (20, 9), (30, 4)):
        save_picture(tmp_path / f"training/a/{step}.npz", Picture(np.zeros((count, 2, 2, 1), np.uint8), "t"), "mnist")
        save_picture(
            tmp_path / f"training/b/{step}.npz", Scatter(np.zeros((count, 2), np.float32), None, None, "t"), "mnist"
        )
    save_picture(tmp_path / "training/c/10.npz", Picture(np.zeros((4, 2, 2, 1), np.uint8), "t"), "mnist")
    training = report.read(tmp_path).training
    assert training["a"].labels == training["b"].labels == ("step 10", "step 30")
    assert training["b"].points.shape == (2, 4, 2)
    assert training["c"].kind == "grid"


def test_the_film_of_training_is_made_anew_when_a_frame_comes(tmp_path):
    folder = write_run(tmp_path / "run")
    report.write(folder)
    gif = folder / "training/samples.gif"
    os.utime(gif, (1, 1))
    report.write(folder)
    assert gif.stat().st_mtime > 1
    before = gif.stat().st_mtime_ns
    report.write(folder)
    assert gif.stat().st_mtime_ns == before


def test_animations_are_written_as_gif_once(tmp_path):
    folder = write_run(tmp_path / "run")
    report.write(folder)
    [gif] = (folder / "pictures").glob("*.gif")
    assert (folder / "training/samples.gif").is_file()
    before = gif.stat().st_mtime_ns
    report.write(folder)
    assert gif.name == "01_animation.gif"
    assert gif.stat().st_mtime_ns == before


def test_a_moving_scatter_has_a_gif_too(tmp_path):
    folder = write_run(tmp_path / "run")
    points = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    for name, shown in (("05_still", points[0]), ("06_moving", points)):
        save_picture(folder / f"pictures/{name}.npz", Scatter(shown, None, None, name), "mnist")
    assert "06_moving" in page_of(folder).text
    assert sorted(path.name for path in (folder / "pictures").glob("*.gif")) == ["01_animation.gif", "06_moving.gif"]


def test_the_page_of_a_normal_run_can_be_mailed(tmp_path):
    folder = write_run(tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 32, 32, 3), np.uint8)  # nothing compresses worse
    save_picture(folder / "pictures/05_noise.npz", Picture(noise, "noise", kind="animation"), "mnist")
    assert report.write(folder).stat().st_size < 3_000_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("needs a Chromium, and none is installed")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("name", ["ddpm_mnist", EVIL])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_without_complaint(browser, tmp_path, name, width):
    path = report.write(write_run(tmp_path / "run", name))
    browser.open(path, width=width)
    assert browser.messages == []
    assert all(url.startswith("data:") or url.endswith("/run/report.html") for url in browser.requests)
    assert browser.evaluate("document.title") == f"{name}: gen_jax report"
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_the_keyboard_moves_the_slider_and_the_read_out(browser, tmp_path):
    folder = write_run(tmp_path / "run")
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None, None] * np.full((1, 1, 4, 4, 1), 40, np.uint8)
    labels = tuple(f"t = {index}" for index in range(6))
    save_picture(folder / "pictures/01_animation.npz", Picture(frames, "t", kind="animation", labels=labels), "mnist")
    browser.open(report.write(folder))
    pixel = "document.querySelector('.player canvas').getContext('2d').getImageData(1, 1, 1, 1).data[0]"
    label = "document.querySelector('.player output').textContent"
    assert (browser.evaluate(pixel), browser.evaluate(label)) == (200, "t = 5")
    browser.evaluate("document.querySelector('.player input').focus()")
    browser.press("ArrowLeft", 37)
    browser.press("ArrowLeft", 37)
    assert (browser.evaluate(pixel), browser.evaluate(label)) == (120, "t = 3")
    browser.press("Home", 36)
    assert (browser.evaluate(pixel), browser.evaluate(label)) == (0, "t = 0")
    button = "document.querySelector('.player button').textContent"
    assert browser.evaluate(button) == "Play"
    browser.press(" ", 32)
    assert browser.evaluate(button) == "Pause"
    browser.press(" ", 32)
    assert browser.evaluate(button) == "Play"
    browser.evaluate("document.querySelector('.chart .plot').focus()")
    browser.press("End", 35)
    assert (
        browser.evaluate("document.querySelector('.read-out').textContent")
        == "step 100: train/loss 0.01, eval/loss 0.01"
    )
    browser.press("Home", 36)
    read_out = browser.evaluate("document.querySelector('.read-out').textContent")
    assert read_out == "step 2: train/loss 0.5, eval/loss 0.02 (step 50)"


def test_the_slider_shows_one_frame_of_a_scatter(browser, tmp_path):
    folder = write_run(tmp_path / "run")
    points = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    save_picture(folder / "pictures/05_moving.npz", Scatter(points, None, None, "t"), "mnist")
    shown = "[...document.querySelectorAll('.frame')].map((frame) => getComputedStyle(frame).display !== 'none')"
    path = report.write(folder)
    browser.open(path, script=False)
    assert browser.evaluate(shown) == [False, False, True]
    browser.open(path)
    assert browser.evaluate(shown) == [False, False, True]
    browser.evaluate("document.querySelector('.player[data-frames] input').focus()")
    browser.press("Home", 36)
    assert browser.evaluate(shown) == [True, False, False]
    assert browser.evaluate("document.querySelector('.player[data-frames] output').textContent") == "frame 1 of 3"


def test_dark_and_light_differ(browser, tmp_path):
    path = report.write(write_run(tmp_path / "run"))
    colours = []
    for dark in (False, True):
        browser.open(path, dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(251, 250, 248)", "rgb(20, 22, 26)"]
