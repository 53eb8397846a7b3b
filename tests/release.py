"""Builds wheel and sdist and tries each in empty environments: `make release-check`.

    python tests/release.py python3.11 python3.13

For every Python that is named and both files: a new environment, pip install, and from another folder a tiny job, whose
model is loaded and sampled there. The files are built from what git tracks, so nothing that lies about gets into them.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
JOB = ["-m", "gen_jax.main", "--config=gan_gaussians:tiny"]
USE = """
import gen_jax, importlib.metadata, sys
assert importlib.metadata.version("gen-jax") == gen_jax.__version__ == sys.argv[1], gen_jax.__version__
assert "site-packages" in gen_jax.__file__, gen_jax.__file__
assert gen_jax.load("runs/gan_gaussians-tiny").sample(10).shape == (10, 1, 1, 2)
"""


def works(python: str) -> bool:
    """Returns whether this is a Python that can make environments; a name on the PATH may lead to none."""
    try:
        return not subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode
    except OSError:
        return False


def build(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the wheel and the sdist, built in a copy of the tracked files."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    source = folder / "source"
    for name in tracked.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder / "dist", source], check=True)
    return sorted((folder / "dist").iterdir(), key=lambda file: file.suffix != ".whl")


def check(python: str, file: pathlib.Path, version: str, folder: pathlib.Path) -> None:
    """Installs a file into an empty environment, and runs a tiny job far from the checkout."""
    folder.mkdir()
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    inside = folder / "venv/bin/python"
    subprocess.run([inside, "-m", "pip", "install", "--quiet", file], check=True)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    with (folder / "log").open("w+") as log:
        for words in (JOB, ["-c", USE, version]):
            if subprocess.run([inside, *words], cwd=elsewhere, stdout=log, stderr=log).returncode:
                log.seek(0)
                raise SystemExit(f"{log.read()}\n{file.name} does not work with {python}")


def main(pythons: list[str]) -> None:
    if missing := [python for python in pythons if not works(python)]:
        raise SystemExit(f"not found: {', '.join(missing)}; name others: make release-check RELEASE_PYTHONS=...")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = build(folder)
        version = files[0].name.split("-")[1]
        for python in pythons:
            for file in files:
                check(python, file, version, folder / f"{pathlib.Path(python).name}{file.suffix}")
                print(f"{file.name} works with {python}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
