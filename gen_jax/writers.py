"""What a run reports during training: metrics.jsonl (the record), TensorBoard and other copies, a progress bar."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO

import tqdm

from gen_jax.run import Run, legible, to_json, write_text, writing


class Copy(Protocol):
    """What also gets every line of the record, such as `trackers.Trackers`."""

    def write(self, record: dict[str, Any]) -> None: ...

    def pictures(self, step: int, paths: Mapping[str, pathlib.Path]) -> None: ...


class Writer:
    """Appends scalars to metrics.jsonl, and hands them on to its copies: TensorBoard, and those that are given.

    Opening it truncates the record to the step that training resumes from, and rewrites the events from the
    record. A run that was killed and resumed thus has every step once in both, like an uninterrupted run.

    Args:
      workdir: directory of the run.
      step: the last step to keep, 0 for a new run.
      data: name of the training set, stored in every line and as a text in the events.
      copies: what else gets the lines and pictures; whoever made them closes them.

    Example:
      >>> import tempfile
      >>> workdir = tempfile.mkdtemp()
      >>> with Writer(workdir, 0, "mnist") as writer:
      ...     writer.write(1, {"loss": 0.5})
      ...     writer.write(2, {"loss": 0.25})
      >>> Writer(workdir, 1, "mnist").close()
      >>> [record["loss"] for record in read_metrics(workdir)]
      [0.5]
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int, data: str, copies: Sequence[Copy] = ()):
        run = Run(workdir)
        self._path = run.metrics
        self._data = data
        with writing(run.workdir):
            run.tensorboard.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_metrics(workdir) if record["step"] <= step]
        write_text(self._path, "".join(to_json(record) + "\n" for record in kept))
        with writing(run.tensorboard):
            events = _Events(run, data)
            for record in kept:
                events.write(record)
            events.flush()
        with writing(self._path):
            self._metrics = self._path.open("a")
        self._events, self._copies = events, copies

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Appends one line; a value that is not finite becomes null, and is left out of the copies.

        Raises:
          UserError: if the disk is full or the directory can no longer be written.
        """
        record = {"step": step, "time": round(time.time(), 3), "data": self._data, **scalars}
        with writing(self._path):
            self._metrics.write(to_json(record) + "\n")
            self._metrics.flush()
            self._events.write(record)
            self._events.flush()
        for copy in self._copies:
            copy.write(record)

    def pictures(self, step: int, paths: Mapping[str, pathlib.Path]) -> None:
        """Hands PNG files of the run, by name, to the given copies."""
        for copy in self._copies:
            copy.pictures(step, paths)

    def close(self) -> None:
        with writing(self._path):
            self._metrics.close()
            self._events.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, [{"step": 100, "time": seconds since 1970, "loss": 0.1}, ...].

    Lines that are not records (such as the last one, if the process was killed while writing it) are skipped.
    """
    path = Run(workdir).metrics
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def training_seconds(records: Iterable[Mapping[str, Any]]) -> float:
    """Returns the total time over all starts of a run; the clock of a resumed run may restart at 0.

    Args:
      records: lines of metrics.jsonl in order; those without "seconds" do not count.

    Example:
      >>> training_seconds([{"seconds": 100.0}, {"seconds": 250.0}, {"eval/loss": 1.0}, {"seconds": 50.0}])
      300.0
    """
    total = before = 0.0
    for record in records:
        if isinstance(now := record.get("seconds"), (int, float)):
            total += now - before if now >= before else now
            before = now
    return total


_NO_SCALARS = ("step", "time", "data")  # keys of a record


class _Events:
    """TensorBoard's event file, written synchronously: SummaryWriter's thread loses its buffer when the process is
    killed, and once a full disk has ended that thread, callers block forever."""

    def __init__(self, run: Run, data: str):
        with _hidden("torch"):  # tensorboardX imports it if it is installed, which takes seconds
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboardX.summary import text

        for old in run.tensorboard.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventsWriter(str(run.tensorboard / "events"))
        self._writer.write_event(Event(step=0, summary=text("data", legible(data))))

    def write(self, record: dict[str, Any]) -> None:
        # Both classes are created when their modules are imported, so no type checker sees them.
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name not in _NO_SCALARS and value is not None and math.isfinite(value)
        ]
        summary = Summary(value=values)
        self._writer.write_event(Event(step=record["step"], wall_time=record.get("time", 0.0), summary=summary))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Makes imports of a module fail as if it were not installed."""
    found = sys.modules.get(module)
    sys.modules[module] = None  # pyright: ignore[reportArgumentType]  None makes an import fail
    try:
        yield
    finally:
        del sys.modules[module]
        if found is not None:
            sys.modules[module] = found


class Progress:
    """Shows the progress of a run, or of anything that is counted: steps, loss, images/s and time left.

    A bar on a terminal; elsewhere (a log file, a batch system) a plain line every ten seconds.

    Args:
      total: steps of the whole run.
      initial: steps done before this start.
      stream: where to write; standard error by default.
      unit: what is counted.
      title: comes first, if there is one.

    Example:
      >>> import io
      >>> stream = io.StringIO()
      >>> with Progress(total=4, stream=stream) as progress:
      ...     for step in range(1, 5):
      ...         progress.update(step, loss=0.5, images_per_second=1200.0)
      >>> stream.getvalue().splitlines()[-1]
      '4/4 steps, loss 0.5, 1,200 images/s, 00:00 left'
    """

    def __init__(
        self, total: int, initial: int = 0, stream: TextIO | None = None, unit: str = "steps", title: str = ""
    ):
        out: Any = stream or sys.stderr or io.StringIO()  # sys.stderr is None if it was closed
        terminal = out.isatty()
        line = "{desc}{n_fmt}/{total_fmt} {unit}{postfix}, {remaining} left"
        self._bar = tqdm.tqdm(
            desc=f"{title}: " if title else "",
            unit=unit,
            total=total,
            initial=initial,
            bar_format="{percentage:3.0f}%|{bar}| " + line if terminal else line,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else 10.0,
            miniters=1,
            file=out if terminal else _Lines(out),
        )
        # A bar left open when Python 3.13 exits (after an exception, say) is drawn once more, which crashes Python.
        atexit.register(self._bar.close)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, step: int, loss: float | None = None, images_per_second: float | None = None) -> None:
        """Shows that `step` steps are done; the numbers stay until the next ones are given."""
        shown = {"loss {:.4g}": loss, "{:,.0f} images/s": images_per_second}
        texts = [form.format(value) for form, value in shown.items() if value is not None]
        if texts:
            self._bar.set_postfix_str(", ".join(texts), refresh=False)
        self._bar.update(step - self._bar.n)

    @property
    def done(self) -> int:
        """How much is done."""
        return self._bar.n

    @property
    def total(self) -> int:
        """How much there is to do."""
        return self._bar.total

    def expect(self, total: int) -> None:
        """Corrects the total: some of it need not be done."""
        self._bar.total = total

    def say(self, line: str) -> None:
        """Prints a line on standard output, above the bar."""
        with self._bar.external_write_mode(sys.stdout, nolock=True):
            print(line, flush=True)

    def close(self) -> None:
        """Shows the last state and ends the line."""
        self._bar.close()
        atexit.unregister(self._bar.close)


class _Lines:
    """A stream that turns tqdm's repeated drawing into plain lines, without repeats."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            self._stream.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()
