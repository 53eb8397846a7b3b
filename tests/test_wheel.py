"""What is installed works by itself: configs by name, from any folder, and a model on another number of devices."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_trains_samples_and_loads_outside_the_checkout(tmp_path):
    source = tmp_path / "source"  # building leaves folders behind
    for name in ("gen_jax", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    # The packages that it depends on are those of this environment; a line in a .pth makes them visible, but not an
    # editable gen_jax among them, whose own .pth is not read there.
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words, devices=1):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
        ended = subprocess.run(
            [python, *words], cwd=elsewhere, env=environment | {"XLA_FLAGS": flags}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = run("-c", "import gen_jax; print(gen_jax.__file__)").strip()
    assert where.startswith(str(tmp_path / "venv"))
    run("-m", "gen_jax.main", "--config=gan_gaussians:tiny", "--config.num_devices=2", devices=2)
    run("-m", "gen_jax.main", "--workdir=runs/gan_gaussians-tiny", "--mode=sample", "--config.sample.num=50")
    samples = np.load(elsewhere / "runs/gan_gaussians-tiny/samples.npz")["arr_0"]
    assert samples.shape == (50, 1, 1, 2)
    code = (
        "import gen_jax, numpy as np; model = gen_jax.load('runs/gan_gaussians-tiny');"
        "assert model.mesh.devices.size == {}; np.save('{}.npy', model.sample(50))"
    )
    for devices in (1, 5):
        run("-c", code.format(devices, devices), devices=devices)
        np.testing.assert_allclose(np.load(elsewhere / f"{devices}.npy"), samples, atol=1e-4)
