import numpy as np

from experiments import ablation, trilemma


def test_the_figure_has_every_row_with_its_seeds_and_its_samples_and_the_verdict_names_the_best():
    names = list(trilemma.ABLATION.rows)
    found: ablation.Found = {
        (name, seed): {"frechet_distance": 20 - i + seed, "images_per_second": 1000 / (1 + i), "recall": 0.1 * i}
        for i, name in enumerate(names)
        for seed in (0, 1)
    }
    assert trilemma.verdict(found) == (
        "Quality: DDPM, DDIM, 10 steps (Frechet distance 7.5). Speed: VAE (1,000 images/s). "
        "Diversity: DDPM, DDIM, 10 steps (recall 1.3). No row leads in all."
    )
    images = {name: np.zeros((10, 4, 4, 1), np.uint8) for name in names}
    figure = trilemma.figure(found, {"frechet_distance": 1.5, "recall": 0.91}, images)
    assert figure.count("<circle") == 3 * len(names) * (2 + 1)  # panels, rows, seeds and their mean
    assert figure.count("<rect") == 1 + 10 * len(names)  # the page, and black images
    assert figure.count("stroke-dasharray") == 2  # real data has no speed
