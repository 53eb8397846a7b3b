"""U-Nets of other projects: each is about as large as ours, and a step of it runs."""

import pytest

pytest.importorskip("torch", reason="PyTorch is in the extra bench")
pytest.importorskip("diffusers", reason="diffusers is in the extra others")
pytest.importorskip("denoising_diffusion_pytorch", reason="denoising-diffusion-pytorch is in the extra others")

from benchmarks import ddpm, others

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", others.OTHERS)
def test_a_network_of_another_project_is_about_as_large_as_ours_and_trains(name):
    job = ddpm.make_job([])
    ours = others.ours(job)
    theirs = others.theirs(job, others.OTHERS[name])
    assert theirs.parameters == pytest.approx(ours.parameters, rel=0.1)
    assert theirs.flops > 1e9
    assert all(float(step()) > 0 for step in theirs.steps)
