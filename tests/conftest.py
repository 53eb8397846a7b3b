"""Fixtures of all tests: where the real data lies (if anywhere), and a small made-up data set."""

import contextlib
import fcntl
import gc
import importlib.metadata
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what is missing is set below
    from gen_jax import xla

# Eight virtual devices; and tests compile far more than they compute, so the compiler takes it easy. An XLA that does
# not know a flag ends the process, and newer ones have no choice of emitters.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
_CHOICE_OF_EMITTERS = tuple(int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2]) < (0, 11)
os.environ.setdefault("XLA_FLAGS", _FLAGS + " --xla_cpu_use_fusion_emitters=false" * _CHOICE_OF_EMITTERS)
if xla.needed():
    os.environ["XLA_FLAGS"] += f" {xla.SAFE}"


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not look at it again and again.

    Tracing makes so many objects that it would look often, and take a sixth of the time of some files.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real data beside the checkout; tests that need it skip where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared, which is not here")
    return folder


TINY = (  # what makes a run of configs/ddpm_mnist.py:tiny still smaller, for 8x8 images
    "--config.data.name=made_up_digits", "--config.batch_size=16", "--config.network.multipliers=(1,)",
    "--config.network.attention_sizes=()", "--config.num_steps=12", "--config.log_every=2", "--config.eval_every=6",
    "--config.checkpoint_every=4", "--config.sample.num=70", "--config.sample.batch_size=70",
    "--config.sample.num_steps=3", "--config.eval.num_examples=20", "--config.eval.classifier_steps=10",
    "--config.eval.track=70", "--config.optimizer.name=adam",  # Muon's matmuls take long to compile
)  # fmt: skip


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of this session, which all of its workers see."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def once(path: pathlib.Path) -> Iterator[bool]:
    """Gives True to the first worker that comes, which makes `path`; the others wait for it, and get False."""
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        made = pathlib.Path(f"{path}.made")
        yield not made.exists()
        made.touch()


@pytest.fixture(scope="session")
def tiny_run(made_up_tfds: pathlib.Path, common: pathlib.Path) -> pathlib.Path:
    """A finished run of the smallest DDPM; tests read it and must not change it."""
    from gen_jax import main

    workdir = common / "tiny"
    with once(workdir) as first:
        if first:
            main.main([*tiny_words(made_up_tfds), f"--workdir={workdir}"])
    return workdir


def tiny_words(data_dir: pathlib.Path) -> list[str]:
    """The command line of `tiny_run`, without its --workdir."""
    config = pathlib.Path(__file__).resolve().parents[1] / "configs/ddpm_mnist.py"
    return [f"--config={config}:tiny", f"--config.data.data_dir={data_dir}", *TINY]


def data_config(data_dir: pathlib.Path | str, name: str, **changes: Any) -> Any:
    """`config.data` of the set `name` in a folder of TFDS."""
    from gen_jax.config import base_config

    config = base_config().data
    config.update(name=name, data_dir=str(data_dir), **changes)
    return config


@pytest.fixture(scope="session", autouse=True)
def _own_cache(common: pathlib.Path) -> Iterator[None]:
    """Keeps the caches of tests out of the user's, and of a command inside a test only programs that take long.

    This process has the small ones in its memory, and to store one JAX looks through all that are stored.
    """
    import jax

    from gen_jax import main

    os.environ["XDG_CACHE_HOME"] = str(common / "cache")
    use = main._use_compilation_cache

    def use_sparingly() -> None:
        use()
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "_use_compilation_cache", use_sparingly)
        yield


@pytest.fixture(autouse=True)
def _no_compilation_cache_left_on() -> Iterator[None]:
    """A command run inside a test keeps compiled programs on disk, and would go on so in all tests after it.

    With a limit on its size the cache looks through all of its files at every program: for the thousands of small
    programs of the tests that takes longer than to compile them.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    yield
    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


# Three by five points for each digit, a row an octal number.
DIGITS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717")


def made_up_digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a digit as uint8 [8, 8]: a font of 3x5 points, shifted by up to a pixel, of random brightness, noisy."""
    image = rng.integers(0, 40, (8, 8))
    points = np.array([[int(row) >> shift & 1 for shift in (2, 1, 0)] for row in DIGITS[label]])
    top, left = rng.integers(1, 3), rng.integers(2, 4)
    image[top : top + 5, left : left + 3] += points * rng.integers(150, 215)
    return image.astype(np.uint8)


@pytest.fixture(scope="session")
def made_up_tfds(common: pathlib.Path) -> pathlib.Path:
    """A data_dir of TFDS with small prepared sets, 512 + 128 images each: found by name in any process.

    `made_up_digits` (8x8x1, 10 classes), `made_up_unlabelled` (the same without labels), `made_up_colours`
    (9x12x3, 3 classes) and `made_up_mnist` (28x28x1, 10 classes).
    """
    import PIL.Image
    import tensorflow_datasets as tfds

    def digit(label: int, rng: np.random.Generator) -> np.ndarray:
        return made_up_digit(label, rng)[..., None]

    def large_digit(label: int, rng: np.random.Generator) -> np.ndarray:
        return np.pad(np.kron(made_up_digit(label, rng), np.ones((3, 3), np.uint8)), 2)[..., None]

    def colour(label: int, rng: np.random.Generator) -> np.ndarray:
        image = rng.integers(0, 100, (9, 12, 3))
        image[..., label] += 120
        return image.astype(np.uint8)

    def prepare(title: str, draw, shape: tuple[int, int, int], class_names: list[str] | None) -> None:
        class MadeUp(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            __module__ = "made_up"  # in a package, TFDS would look for the builder's files there
            name = title
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(shape=shape)}
                if class_names is not None:
                    features["label"] = tfds.features.ClassLabel(names=class_names)
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(0, 512), "test": self._generate_examples(1, 128)}

            def _generate_examples(self, seed, num_examples):
                rng = np.random.default_rng(seed)
                for number in range(num_examples):
                    label = int(rng.integers(len(class_names or DIGITS)))
                    pixels = draw(label, rng)
                    # As a PIL image: TFDS encodes arrays with TensorFlow.
                    example = {"image": PIL.Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels)}
                    yield number, example if class_names is None else example | {"label": label}

        MadeUp(data_dir=folder, file_format="array_record").download_and_prepare()

    folder = common / "tfds"
    tfds.disable_progress_bar()
    digits = [str(number) for number in range(10)]
    with once(folder) as first:
        if first:
            prepare("made_up_digits", digit, (8, 8, 1), digits)
            prepare("made_up_unlabelled", digit, (8, 8, 1), None)
            prepare("made_up_colours", colour, (9, 12, 3), ["red", "green", "blue"])
            prepare("made_up_mnist", large_digit, (28, 28, 1), digits)
    return folder
