"""What a run says while it trains: every step once, whatever killed it."""

import io
import json
import math
import os
import struct
import subprocess
import sys

import pytest
from test_run import files_of_at_most

from gen_jax.method import UserError
from gen_jax.run import Run
from gen_jax.writers import Progress, Writer, read_metrics


def _events(workdir):
    """Reads all event files by hand: records of (length u64, crc u32, data, crc u32), as TFRecord defines them."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    found = []
    for path in sorted(Run(workdir).tensorboard.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + length])
            found += [
                (event.step, value.tag, value.simple_value)
                for value in event.summary.value
                if value.HasField("simple_value")
            ]
            position += 12 + length + 4
    return found


def _train(workdir, start, stop):
    with Writer(workdir, start, "mnist") as writer:
        for step in range(start + 1, stop + 1):
            writer.write(step, {"loss": 1 / 2**step})


def test_resumed_run_has_every_step_once_in_record_and_events(tmp_path):
    _train(tmp_path, 0, 8)
    _train(tmp_path, 5, 10)  # both within a second, too: they would share the name of an event file
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(1, 11))
    assert _events(tmp_path) == [(step, "loss", 1 / 2**step) for step in range(1, 11)]


def test_times_of_kept_lines_survive_a_resume(tmp_path):
    _train(tmp_path, 0, 3)
    before = read_metrics(tmp_path)
    _train(tmp_path, 2, 2)
    assert read_metrics(tmp_path) == before[:2]


@pytest.mark.parametrize("half", [b'{"step": 3, "lo', b"\xff\xfe", b"12", b'{"step": "x"}', b"\x00" * 64])
def test_half_a_last_line_is_cut_off(tmp_path, half):
    _train(tmp_path, 0, 2)
    with Run(tmp_path).metrics.open("ab") as file:
        file.write(half)
    _train(tmp_path, 2, 3)
    lines = Run(tmp_path).metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_events_that_a_kill_kept_from_disk_come_back_from_the_record(tmp_path):
    _train(tmp_path, 0, 4)
    for path in Run(tmp_path).tensorboard.iterdir():
        os.truncate(path, path.stat().st_size - 30)
    _train(tmp_path, 4, 5)
    assert [step for step, *_ in _events(tmp_path)] == [1, 2, 3, 4, 5]


def test_new_run_starts_with_nothing(tmp_path):
    _train(tmp_path, 0, 4)
    Writer(tmp_path, 0, "mnist").close()
    assert read_metrics(tmp_path) == []
    assert _events(tmp_path) == []


def test_not_finite_is_null_in_the_record_and_absent_from_the_events(tmp_path):
    with Writer(tmp_path, 0, "mnist") as writer:
        writer.write(1, {"loss": math.nan, "norm": math.inf, "good": 2.0})
    (line,) = Run(tmp_path).metrics.read_text().splitlines()
    assert "NaN" not in line
    assert json.loads(line).items() >= {"loss": None, "norm": None, "good": 2.0}.items()
    assert _events(tmp_path) == [(1, "good", 2.0)]


def test_lines_are_on_disk_at_once(tmp_path):
    writer = Writer(tmp_path, 0, "mnist")
    writer.write(1, {"loss": 0.5})
    assert read_metrics(tmp_path)[0]["loss"] == 0.5
    assert _events(tmp_path) == [(1, "loss", 0.5)]
    writer.close()


def test_a_set_whose_name_is_not_utf_8_is_recorded(tmp_path):
    with Writer(tmp_path, 0, "caf\udce9") as writer:
        writer.write(1, {"loss": 0.5})
    assert read_metrics(tmp_path)[0]["data"] == "caf\udce9"
    assert _events(tmp_path) == [(1, "loss", 0.5)]


def test_full_disk_is_one_line(tmp_path):
    writer = Writer(tmp_path, 0, "mnist")
    writer.write(1, {"loss": 0.5})
    with files_of_at_most(100):
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: File too large"):
            writer.write(2, {"loss" * 50: 0.5})
        with pytest.raises(UserError, match="File too large"):
            writer.close()
    _train(tmp_path, 1, 2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal_shows_loss_speed_and_time_left():
    stream = _Terminal()
    with Progress(total=10, initial=5, stream=stream) as progress:
        progress.update(6, loss=0.25, images_per_second=1500.0)
        progress.update(7)
    last = stream.getvalue().split("\r")[-1]
    assert "70%" in last
    assert "7/10 steps, loss 0.25, 1,500 images/s" in last
    assert "left" in last


def test_no_terminal_gets_few_plain_lines():
    stream = io.StringIO()
    with Progress(total=5000, stream=stream) as progress:
        for step in range(5000):
            progress.update(step + 1, loss=1.0, images_per_second=10.0)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert len(lines) <= 3
    assert lines[-1].startswith("5000/5000 steps, loss 1, 10 images/s")


def test_anything_can_be_counted_and_need_not_all_be_done():
    stream = io.StringIO()
    with Progress(total=90, stream=stream, unit="pictures", title="pixels") as progress:
        progress.update(20)
        progress.expect(progress.total - 30)
        progress.update(progress.done + 40)
    assert stream.getvalue().splitlines()[-1] == "pixels: 60/60 pictures, 00:00 left"


def test_no_stream_at_all_leaves_progress_out(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(total=1) as progress:
        progress.update(1, loss=1.0)
    assert capsys.readouterr().out == ""


def test_process_ends_well_with_its_bar_still_open():
    program = "from gen_jax.writers import Progress; progress = Progress(total=5); progress.update(2, loss=1.0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("2/5 steps")


def test_events_do_not_import_torch_where_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = (
        "import sys; from gen_jax.writers import Writer; Writer('run', 0, 'mnist').close(); "
        "assert 'torch' not in sys.modules; import torch"  # nor does it stay hidden
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stderr.strip() == "torch was imported"
    assert list(tmp_path.glob("run/tensorboard/events*"))
