"""Imports point down: a room may use only the rooms below it."""

import ast
import pathlib
import subprocess
import sys

from gen_jax.methods import METHODS

PACKAGE = pathlib.Path(__file__).parents[1] / "gen_jax"

BUILT_ON_FAMILIES = {"autoencoder", "ddgan", "superres"}  # with parts of GANs, VAEs and diffusion

# From the top down. Rooms on one line do not use each other.
LAYERS = [
    {"main", "convert", "sweep"},
    {"compare", "edit", "export", "help", "profile", "rehearse", "search", "upscale"},
    {"train"},
    {"finish"},
    {"validation"},
    {"evaluate"},
    {"portable", "stages", "warm"},
    {"sample"},
    {"editor", "tiles"},
    {"best", "judges"},
    {"report"},
    {"methods"},
    BUILT_ON_FAMILIES,
    {"diffusion", "gan", "nflow", "vae", *(module.split(".")[1] for module in METHODS.values())} - BUILT_ON_FAMILIES,
    {"text"},
    {"metrics"},
    {"figures"},
    {"remote"},
    {"data"},
    {"checkpoint", "trackers", "writers"},
    {"run"},
    {"config"},
    {"optimizer"},
    {"muon"},
    {"nn"},
    {"parallel"},
    {"command"},
    {"method"},
    {"memory", "xla"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def rooms_that(path):
    """Rooms of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gen_jax":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.split(".")[1] for a in node.names if a.name.startswith("gen_jax.")]


def test_imports_point_down():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        if path.stem == "__main__":  # of a room: a program, which stands where main does
            room = "main"
        for used in rooms_that(path):
            if used in LEVEL and used != room and LEVEL[used] <= LEVEL[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {used}")
    assert not wrong


def test_every_room_has_its_place():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert rooms == LEVEL.keys()


def test_importing_the_package_is_cheap_and_training_needs_no_tensorflow():
    code = (
        "import sys, gen_jax; assert 'jax' not in sys.modules, 'import gen_jax imports jax';"
        "import gen_jax.train, gen_jax.profile, gen_jax.diffusion.ddpm, gen_jax.data.tfds;"
        "assert 'tensorflow' not in sys.modules; assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
