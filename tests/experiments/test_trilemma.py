import json

import numpy as np
import pytest
from conftest import data_config

from experiments import runs, trilemma
from gen_jax import methods, sample
from gen_jax.data import dataset
from gen_jax.run import Run


def test_every_row_is_in_the_table_the_figure_and_the_verdict_and_none_is_measured_twice(tmp_path, monkeypatch, capsys):
    measured = []

    def train(workdir, line):
        run, config = Run(workdir), runs.resolve(line)
        methods.check(config)
        run.write_config({"config": config.to_dict(), "data": {"name": "mnist"}})
        seconds = (100.0, 250.0, 40.0, 50.0)  # of two starts
        run.metrics.write_text("".join(json.dumps({"step": i, "seconds": s}) + "\n" for i, s in enumerate(seconds)))

    def measure(workdir, row, data, num):
        measured.append((workdir.name, row.words))
        place, seed = list(trilemma.ROWS.values()).index(row), int(workdir.name[-1])
        values = {"frechet_distance": 10 - place + seed, "images_per_second": 1000 / (1 + place)}
        values |= {"precision": 0.5, "recall": 0.1 * place, "coverage": 0.5}
        return trilemma.Measured(values, {"frechet_distance": 1.5, "precision": 0.9, "recall": 0.91})

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(trilemma, "measure", measure)
    monkeypatch.setattr(trilemma, "first_samples", lambda workdir, row: np.zeros((10, 4, 4, 1), np.uint8))
    monkeypatch.setattr(dataset, "load", lambda config: config.name)
    words = ["--seeds=2", f"--out={tmp_path}/out", f"--runs={tmp_path}/runs"]
    trilemma.main(words)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["verdict"] == (
        "Quality: DDPM, DDIM, 10 steps (Frechet distance 6.5). Speed: VAE (1,000 images/s). "
        "Diversity: DDPM, DDIM, 10 steps (recall 0.4). No row leads in all."
    )
    ((title, rows),) = report["tables"].items()
    assert title == "2,000 samples a row, 2 seeds: mean (smallest to largest)"
    assert [row["model"] for row in rows] == [*trilemma.ROWS, "real test images"]
    assert rows[1]["frechet distance"] == "9.5 (9 to 10)"
    assert {row["minutes of training"] for row in rows[:-1]} == {"5 (5 to 5)"}
    assert [rows[-1][m] for m in ("frechet distance", "images per second", "recall")] == ["1.5", "", "0.91"]
    figure = (tmp_path / "out/trilemma.svg").read_text()
    assert figure.count("<circle") == 3 * 5 * (2 + 1)  # panels, rows, seeds and their mean
    assert figure.count("<rect") == 1 + 5 * 10  # the page, and black images
    assert figure.count("stroke-dasharray") == 2  # of quality and diversity: nothing draws real images
    assert len(measured) == 10
    trilemma.main(words)
    assert len(measured) == 10
    trilemma.main([*words, "--num=1000", "--rows", "VAE"])
    assert measured[10:] == [("vae-seed0", ()), ("vae-seed1", ())]
    assert report["verdict"] in capsys.readouterr().out


@pytest.mark.slow
def test_a_row_is_measured_by_the_run_s_own_samples(tiny_run, made_up_tfds):
    data = dataset.load(data_config(made_up_tfds, "made_up_digits"))
    row = trilemma.Row(
        "DDPM", ("--config.sample.sampler=ddim", "--config.sample.sampler.eta=0", "--config.sample.num_steps=2")
    )
    values, real = trilemma.measure(tiny_run, row, data, 70)
    judged = sample.load(tiny_run, row.words).sample(70)
    np.testing.assert_array_equal(trilemma.first_samples(tiny_run, row), judged[: trilemma.NUM_SHOWN])
    assert {*trilemma.MEASURES} <= values.keys()
    assert {*trilemma.MEASURES} - real.keys() == {"images_per_second"}
    assert values["images_per_second"] > 0
    report = json.loads((tiny_run / "report.json").read_text())["metrics"]
    same = trilemma.measure(tiny_run, trilemma.Row("DDPM"), data, 70).values
    of_run = {one["name"].partition("/")[0]: one["value"] for one in report}
    for name in ("frechet_distance", "precision", "recall", "coverage"):
        assert same[name] == pytest.approx(of_run[name], rel=1e-3)
