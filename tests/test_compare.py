import json
import pathlib
import re

import pytest
from test_report import EVIL, Page, browser, change_config, write_run  # noqa: F401  browser is a fixture

from gen_jax import compare, main
from gen_jax.method import UserError


def write_runs(folder: pathlib.Path, values: dict[str, list[float]], name: str = "ddpm_mnist") -> pathlib.Path:
    """Writes a folder of runs: the Frechet distance of every group by seed; groups differ in their batch size."""
    for number, (group, distances) in enumerate(values.items()):
        for seed, distance in enumerate(distances):
            run = write_run(folder / f"{group},seed={seed}", name)
            change_config(run, seed=seed, batch_size=16 * (number + 1))
            report = json.loads((run / "report.json").read_text())
            report["metrics"] = [{"name": "frechet_distance/classifier_1k", "value": distance, "better": "lower"}]
            (run / "report.json").write_text(json.dumps(report))
            (run / "report.html").touch()
    return folder


def page_of(*paths: pathlib.Path, out: pathlib.Path | None = None) -> Page:
    page = Page(compare.compare([str(path) for path in paths], out and str(out)).read_text("utf-8"))
    assert not page.open
    return page


def part(page: Page, start: str, end: str) -> str:
    return page.text.partition(f" {start} ")[2].partition(f" {end} ")[0]


TWELVE = {
    "ema=0.5": [10.0, 12.0, 14.0],
    "ema=0.9": [9.0, 10.0, 14.5],
    "ema=0.99": [20.0, 22.0, 21.0],
    "ema=0.999": [8.0, 9.0, 10.0],
}


def test_twelve_runs_are_four_groups_with_their_spread_and_paired_differences(tmp_path):
    page = page_of(write_runs(tmp_path / "s", TWELVE))
    assert page.sections == [name for name, *_ in compare.SECTIONS] + ["runs"]
    assert page.text.count("seeds 0, 1, 2") == 4
    figures = part(page, "frechet_distance/classifier_1k", "lower is better")
    # Standard deviations of 10, 12, 14 and so on, by hand; the differences are -1, -2, 0.5 and so on.
    assert "ema=0.5 12 ± 2 " in f"{figures} "
    assert "ema=0.9 11.17 ± 2.9 -0.833 ± 1.3, lower in 2 of 3" in figures
    assert "ema=0.99 21 ± 1 +9 ± 1.7, higher in 3 of 3" in figures
    assert "ema=0.999 9 ± 1 -3 ± 1, lower in 3 of 3" in figures
    assert [tag for tag, _ in page.elements].count("circle") == 12
    config = part(page, "What differs", "Metrics")
    assert "batch_size 16 32 48 64" in config
    assert "values are equal" in config


def test_only_a_better_mean_stands_out(tmp_path):
    content = compare.compare([str(write_runs(tmp_path / "s", TWELVE))]).read_text()
    assert re.findall(r"<strong>([^<]*±[^<]*)</strong>", content) == ["9 ± 1"]


def test_two_runs_of_one_seed_each(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [3.0], "b": [2.5]})
    page = page_of(folder / "b,seed=0", folder / "a,seed=0", out=tmp_path / "of_two.html")
    assert (tmp_path / "of_two.html").is_file()
    assert "b 2.5 a 3 +0.5" in page.text
    assert "±" not in part(page, "frechet_distance/classifier_1k", "Curves")
    assert "a seed 0" in page.text


def test_two_seeds_of_one_config_are_one_group(tmp_path):
    page = page_of(write_runs(tmp_path / "s", {"a": [3.0, 5.0]}))
    assert "a 4 ± 1.4" in page.text
    assert "equal, but for the seed" in page.text
    assert "Differences are to" not in page.text


def test_seeds_stay_one_group_if_only_the_record_of_a_run_differs(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [3.0, 5.0]})
    change_config(folder / "a,seed=1", log_every=7, trackers="wandb")
    page = page_of(folder)
    assert "a 4 ± 1.4" in page.text
    assert "equal, but for the seed" in page.text


def test_runs_of_different_methods_are_compared(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [3.0], "b": [2.5]})
    change_config(folder / "b,seed=0", method="vae", vae={"beta": 4.0})
    with (folder / "b,seed=0/metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "train/kl": 3.0}) + "\n" for step in (2, 4))
    page = page_of(folder)
    assert "DDPM; VAE, trained on ddpm_mnist" in page.text
    assert "vae. beta - 4.0" in page.text
    assert "KL divergence, nats per image (train) b" in page.text


def test_a_run_without_metrics_or_samples_says_so_and_one_that_goes_on_too(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [3.0, 4.0], "b": [2.0, 3.0]})
    for name in ("report.json", "samples.npz", "metrics.jsonl"):
        (folder / "b,seed=1" / name).unlink()
    page = page_of(folder)
    assert "b,seed=1: No metrics yet: --mode=eval measures them." in page.text
    assert "b,seed=1: This run is not finished" in page.text
    assert "b 2 -1" in page.text
    for path in folder.glob("*/report.json"):
        path.unlink()
    (folder / "a,seed=0/samples.npz").unlink()
    page = page_of(folder)
    assert "None of these runs has metrics yet" in page.text
    assert "No samples yet" in page.text


def test_values_of_two_judges_or_data_sets_never_share_a_table(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [3.0], "b": [2.5]})
    path = folder / "b,seed=0/report.json"
    path.write_text(path.read_text().replace('"better"', '"judge": {"name": "classifier", "weights": "1f"}, "better"'))
    page = page_of(folder)
    assert "a 3 b - -" in page.text
    assert "a - b 2.5 -" in page.text
    assert "judge classifier 1f" in page.text


def test_a_sweep_keeps_its_order_and_a_run_counts_once(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [1.0], "b": [2.0], "c": [3.0]})
    (folder / "sweep.json").write_text(json.dumps({"runs": {"c,seed=0": {}, "a,seed=0": {}, "gone": {}}}))
    found = compare.find([str(folder / "b,seed=0"), str(folder)])
    assert [path.name for path in found] == ["b,seed=0", "c,seed=0", "a,seed=0"]


def test_the_same_config_and_seed_twice_are_two_runs(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [1.0], "b": [2.0]})
    change_config(folder / "b,seed=0", batch_size=16)
    page = page_of(folder)
    assert "a seeds 0, 0 again" in page.text
    assert "a 1.5 ± 0.71" in page.text


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"config": [], "data": 3}', '{"config": {"method": "ddpm"}}'])
def test_a_damaged_run_breaks_nothing(tmp_path, damage):
    folder = write_runs(tmp_path / "s", {"a": [1.0], "b": [2.0]})
    (folder / "b,seed=0/config.json").write_text(damage)
    for name in ("report.json", "samples.npz"):
        path = folder / "b,seed=0" / name
        path.write_bytes(path.read_bytes()[:-40])
    assert "2 runs compared" in page_of(folder).text


def test_nothing_comes_from_elsewhere_and_every_text_is_escaped(tmp_path):
    pages = []
    for name in ("harmless", EVIL):
        path = compare.compare([str(write_runs(tmp_path / str(len(pages)), {"a": [1.0], "b": [2.0]}, name))])
        pages.append(Page(path.read_text("utf-8")))
        assert not re.search(r"url\(|@import|https?:", path.read_text("utf-8"))
    shapes = [[(tag, sorted(attributes)) for tag, attributes in page.elements] for page in pages]
    assert shapes[0] == shapes[1]
    links = [attributes["href"] for attributes in pages[0].named("a")]
    assert links[-2:] == ["a%2Cseed%3D0/report.html", "b%2Cseed%3D0/report.html"]
    assert all(link.startswith("#") for link in links[:-2])


def test_runs_outside_the_pages_folder_are_not_linked(tmp_path):
    folder = write_runs(tmp_path / "s", {"a": [1.0], "b": [2.0]})
    (tmp_path / "pages").mkdir()
    page = page_of(folder, out=tmp_path / "pages/c.html")
    assert all(attributes["href"].startswith("#") for attributes in page.named("a"))
    assert str(tmp_path) not in page.text


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    folder = write_runs(tmp_path / "s", {"a": [1.0], "b": [2.0]})
    monkeypatch.chdir(tmp_path)
    run = str(folder / "a,seed=0")
    for words, told in (
        ([], "needs two runs or more"),
        ([run, run], "needs two runs or more"),
        ([run, "none"], "none holds no run, nor do its folders"),
        ([str(folder), f"--out={folder}"], "is a folder"),
        ([str(folder), "--out=none/c.html"], "there is no folder none"),
        ([str(folder), "--config.seed=1"], "takes directories and --out, not --config.seed=1"),
        ([str(folder), "--config=ddpm_mnist"], "not --config"),
        ([str(folder), "--mask=left"], "is for --mode=edit"),
    ):
        with pytest.raises(UserError, match=told):
            main.main(["--mode=compare", *words])


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("values", [TWELVE, {"a": [1.0], "b": [2.0]}], ids=["twelve", "two"])
def test_a_browser_shows_the_page_without_complaint(browser, tmp_path, width, values):  # noqa: F811
    path = compare.compare([str(write_runs(tmp_path / "s", values))])
    for dark in (False, True):
        browser.messages.clear()
        browser.requests.clear()
        browser.open(path, width=width, dark=dark)
        assert browser.messages == []
        assert all(url.startswith("data:") or url.endswith("/s/compare.html") for url in browser.requests)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
