"""Preparation of TFDS's own sets as array_record, with or without TensorFlow.

To prepare plain image sets (MNIST and similar sets, CIFAR), TFDS needs TensorFlow in three places: to unpack archives,
to open raw files and to encode pixels as PNG. If TensorFlow is missing, plain Python replaces it there. All private
names of TFDS that this project touches are in this file, in `stand_ins`.
"""

from __future__ import annotations

import contextlib
import importlib.resources.abc
import importlib.util
import io
import logging
import os
import pathlib
import shutil
import sys
import threading
import types
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import PIL.Image
import requests
import tensorflow_datasets as tfds

from gen_jax.data import locks
from gen_jax.data import tfds as prepared_sets
from gen_jax.data.dataset import LOADERS, UnavailableError
from gen_jax.method import UserError, did_you_mean

_PATIENCE = 12.0  # seconds that a host may take to answer at all
_STALL = 60.0  # seconds that a download may stall
_RETRIES = 2  # TFDS would try ten times, for over three minutes


def prepare(name: str, config: Any) -> pathlib.Path:
    """Returns the directory of the set `name`; downloads and prepares it if it is not prepared yet.

    If several processes need the set, one prepares it while the others wait. Leftovers of an interrupted preparation
    are removed, as are those of this one if it fails. Raw files in downloads/manual of the folder replace a download.

    Args:
      name: as TFDS knows it: "mnist", "mnist:3.0.1", "set/config".
      config: `data_dir` ("" for TFDS's own folder).

    Raises:
      UnavailableError: it must be downloaded, and there is no network; raised after about 12 s.
      UserError: TFDS has no such set, or cannot prepare it here; one line that says what to do.

    Example:
      >>> prepare("mnits", types.SimpleNamespace(data_dir="/nowhere"))
      Traceback (most recent call last):
      gen_jax.method.UserError: there is no set 'mnits', neither prepared in /nowhere nor known to TFDS: did you mean
      mnist? (`python -m gen_jax.data` lists them)
    """
    folder = prepared_sets.data_dir(config.data_dir)
    _require_known(name, folder)
    with _alone(name, folder) as alone, _failures_told(name, folder, config.data_dir), _quiet():
        builder: Any = tfds.builder(name, data_dir=folder, file_format="array_record")
        place = pathlib.Path(builder.data_dir)
        if builder.is_prepared():  # by another process, or under its full name "set/config"
            return place
        prepared_sets.require_image(builder)
        if place.exists():
            raise UserError(f"{place} has no dataset_info.json, so it is incomplete: remove it and try again")
        say(f"{name} is not prepared in {folder}: downloading and preparing it, once")
        _remove_leftovers(place, folder, alone)
        try:
            with stand_ins(builder):
                # TFDS would first ask for the set in its own format, which only TensorFlow reads.
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        finally:
            _remove_leftovers(place, folder, alone)
    say(f"{name} is prepared in {place}")
    return place


def known() -> list[str]:
    """Returns the names of all sets that TFDS has code for; takes a second the first time.

    Example:
      >>> {"mnist", "fashion_mnist", "cifar10"} <= set(known())
      True
    """
    return tfds.list_builders(with_community_datasets=False)


def say(line: str) -> None:
    """Writes a line for the user to stderr."""
    print(f"gen_jax: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stand_ins(builder: Any) -> Iterator[None]:
    """Lets `builder` prepare without TensorFlow if that is missing, and give up early without a network.

    TFDS is patched for this block only.

    Raises:
      UserError: TFDS no longer has the private names that are patched.
    """
    try:
        from tensorflow_datasets.core import dataset_builder
        from tensorflow_datasets.core.download import downloader, extractor
        from tensorflow_datasets.core.features import image_feature
        from tensorflow_datasets.core.utils import tqdm_utils

        changes: list[tuple[Any, str, Any]] = [
            (downloader, "MAX_RETRIES", _RETRIES),
            (downloader, "_open_url", _patient(downloader._open_url)),
            (tqdm_utils, "_active", tqdm_utils._active and sys.stderr.isatty()),
        ]
        if _is_missing("importlib_resources"):  # TFDS 4.9.10 needs it and does not say so
            changes.append((dataset_builder, "importlib_resources", importlib.resources))
        if _is_missing("tensorflow"):
            modules = {sys.modules[each.__module__] for each in type(builder).__mro__}
            changes += [(module, "tf", _TENSORFLOW) for module in (extractor, *modules) if hasattr(module, "tf")]
            changes.append((image_feature._ImageEncoder, "_encode_image", _encode_png))
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"TFDS {tfds.__version__} cannot prepare data sets without TensorFlow ({error}): "
            '`pip install "gen-jax[tf]"`, or `pip install tensorflow-datasets==4.9.10`'
        ) from error
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class _StandIn(types.SimpleNamespace):
    """A few names of TensorFlow that Python can replace; all others raise as if TensorFlow were missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up by Python itself
            raise AttributeError(name)
        raise ModuleNotFoundError(f"no stand-in for TensorFlow's {name}", name="tensorflow")


_GFILE = _StandIn(GFile=open, exists=os.path.exists, listdir=os.listdir)
_TENSORFLOW = _StandIn(io=_StandIn(gfile=_GFILE), compat=_StandIn(as_text=str))


def _encode_png(encoder: Any, pixels: Any) -> bytes:
    """Replaces `_ImageEncoder._encode_image`: pixels [H, W, C] to the bytes of a PNG."""
    if encoder.encoding_format != "png":  # PNG gives the same pixels with any encoder; JPEG does not
        raise ModuleNotFoundError("no stand-in for TensorFlow's JPEG encoder", name="tensorflow")
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def _is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _patient(open_url: Callable[..., Any]) -> Callable[..., Any]:
    """Returns TFDS's `_open_url`, changed to give up if the network does not answer."""

    def open_or_give_up(url: str, **kwargs: Any) -> Any:
        if url.startswith("http"):
            _require_answer(url)
        return open_url(url, timeout=_STALL, **kwargs)

    return open_or_give_up


def _require_answer(url: str) -> None:
    """Raises an error of requests if `url` does not answer in time, whether the name, the proxy or the host fails."""
    failures = []

    def ask() -> None:
        try:
            requests.head(url, timeout=_PATIENCE)
        except requests.RequestException as error:
            failures.append(error)

    # Name lookup has no timeout, so the thread may outlive this call.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        raise requests.ConnectTimeout(request=requests.Request("HEAD", url))
    if failures:
        raise failures[0]


def _require_known(name: str, folder: pathlib.Path) -> None:
    bare = name.partition(":")[0]
    names = known()
    if bare.partition("/")[0] not in names:
        hint = did_you_mean(bare, [*names, *prepared_sets.prepared(folder), *LOADERS], 0.6)
        raise UserError(
            f"there is no set {bare!r}, neither prepared in {folder} nor known to TFDS: {hint}"
            "(`python -m gen_jax.data` lists them)"
        )


@contextlib.contextmanager
def _alone(name: str, folder: pathlib.Path) -> Iterator[bool]:
    """Like `locks.alone`, for a set in the folder of prepared sets; removes the folder if it was created in vain."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = locks.alone(
        folder / f".{name.replace('/', '_')}.lock", f"another process is preparing {name} in {folder}: waiting"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)  # after the lock is gone
        try:
            alone = stack.enter_context(lock)
        except OSError as error:
            raise UserError(
                f"{name!r} is not prepared, and {folder} cannot be written ({error.strerror}): "
                "set TFDS_DATA_DIR or --config.data.data_dir"
            ) from None
        yield alone


def _remove_empty(places: Iterable[pathlib.Path]) -> None:
    for place in places:
        with contextlib.suppress(OSError):  # it is not empty, or does not exist
            place.rmdir()


def _remove_leftovers(place: pathlib.Path, folder: pathlib.Path, alone: bool) -> None:
    """Removes leftovers of an unfinished preparation: partial shards, partial downloads and empty folders."""
    name = place.relative_to(folder).parts[0]
    downloads = folder / "downloads"
    if alone:  # else another process may be using them
        for leftover in (*place.parent.glob(f"incomplete.*_{place.name}"), *(downloads / name).glob("*.tmp.*")):
            shutil.rmtree(leftover, ignore_errors=True)
    _remove_empty((place.parent, folder / name, downloads / name, downloads / "extracted", downloads))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS's prints and warnings, since the user gets our own lines; its progress bars stay."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _failures_told(name: str, folder: pathlib.Path, data_dir: str) -> Iterator[None]:
    """Turns whatever TFDS raises into one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        command = f"`python -m gen_jax.data {name}{f' --data_dir={data_dir}' if data_dir else ''}`"
        for cause in (error, *_causes(error)):
            if isinstance(cause, ModuleNotFoundError):
                package = '"gen-jax[tf]"' if cause.name == "tensorflow" else cause.name
                raise UserError(
                    f"to prepare {name!r}, TFDS needs {cause.name}: `pip install {package}`, then {command}"
                ) from error
            if _is_of_network(cause):
                raise UnavailableError(
                    f"{name!r} is not prepared in {folder} and cannot be downloaded ({_reason(cause)}): run {command} "
                    "where there is a network, or set TFDS_DATA_DIR or --config.data.data_dir to a folder that holds it"
                ) from error
        raise UserError(f"TFDS cannot prepare {name!r}: {_reason(error)}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield cause
        yield from _causes(cause)


def _is_of_network(error: BaseException) -> bool:
    """Whether a download failed: no answer, a refusal, or something else in its place (a hotel's login page)."""
    return isinstance(error, requests.RequestException | urllib.error.URLError) or type(error).__name__ in (
        "DownloadError",
        "NonMatchingChecksumError",
    )


def _reason(error: BaseException) -> str:
    request = getattr(error, "request", None)
    if request is not None:
        return f"no answer from {urllib.parse.urlsplit(request.url).netloc}"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition('}": ')[2].rstrip(".:")  # TFDS puts the builder's arguments in front
