"""Checkpoints: bit by bit, on any number of devices, and never a damaged one for a whole one."""

import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import checkpoint, xla
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import State, UserError


def make_state(step: int, width: int = 4, optimizer: optax.GradientTransformation | None = None) -> State:
    """A state of every kind of leaf: typed key, bf16, integers, scalars, optax's tuples, empty dicts."""
    # From numpy: processes with other compiler options must make the same bits.
    kernel = jnp.asarray(np.random.default_rng(step).standard_normal((3, 3, 1, width), np.float32))
    params = {"net": {"conv": {"kernel": kernel, "scale": jnp.full((width,), step, jnp.bfloat16)}}}
    optimizer = optimizer or optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(
        step=jnp.int32(step),
        key=jax.random.key(step),
        params=params,
        variables={},
        opt_state={"net": optimizer.init(params["net"])},
        ema=jax.tree.map(lambda x: x * 0.5, params),
        frozen={},
    )


def assert_same_bits(actual: State, expected: State) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def put(state: State, sharding: jax.sharding.Sharding) -> State:
    return jax.tree.map(lambda x: jax.device_put(x, sharding), state)


def like(state: State, sharding: jax.sharding.Sharding | None = None) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def save_steps(directory: pathlib.Path, *steps: int, keep: int = 3) -> None:
    with Checkpoints(directory, keep) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step))


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_round_trip_is_bitwise(tmp_path):
    state = make_state(12)
    save_steps(tmp_path, 12)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like(state))
        assert checkpoints.latest() == 12
    assert restored is not None
    assert_same_bits(restored, state)


def test_empty_directory_has_nothing_to_restore_and_is_not_made(tmp_path):
    with Checkpoints(tmp_path / "absent") as checkpoints:
        assert checkpoints.restore(like(make_state(0))) is None
        assert checkpoints.steps() == []
        assert checkpoints.latest() is None
    assert not (tmp_path / "absent").exists()


def test_last_three_stay(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, 5)
    assert Checkpoints(tmp_path).steps() == [3, 4, 5]
    save_steps(tmp_path, 6, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["5", "6", "unfinished"]
    assert os.listdir(tmp_path / "unfinished") == []


def test_saving_the_same_step_again_does_nothing(tmp_path):
    save_steps(tmp_path, 3)
    before = contents(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(like(make_state(3)))
        assert state is not None
        checkpoints.save(state)
        checkpoints.save(state)
    assert contents(tmp_path) == before


def test_donated_buffers_are_saved_as_they_were(tmp_path):
    update = jax.jit(
        lambda s: s.replace(step=s.step + 1, params=jax.tree.map(lambda x: x + 1, s.params)), donate_argnums=0
    )
    state = make_state(1).replace(params={"net": jnp.zeros((512, 512))})
    with Checkpoints(tmp_path, keep=100) as checkpoints:
        for _ in range(8):
            checkpoints.save(state)
            state = update(state)
        for step in range(8, 0, -1):
            restored = checkpoints.restore(like(state))
            assert restored is not None
            assert int(restored.step) == step
            np.testing.assert_array_equal(restored.params["net"], step - 1)
            shutil.rmtree(tmp_path / str(step))


def test_a_save_from_eight_devices_compiles_nothing(tmp_path, caplog):
    # Left to itself, Orbax slices the eight copies, with a program for each slice of each shape.
    mesh = jax.sharding.Mesh(jax.devices(), "d")
    state = put(make_state(4, width=16), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    with Checkpoints(tmp_path) as checkpoints, jax.log_compiles():
        checkpoints.save(state)
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(like(make_state(4, width=16))), state)
    assert not [record for record in caplog.records if "slice" in record.getMessage()]


def test_eight_devices_to_one_and_back(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    state = make_state(1)
    with Checkpoints(tmp_path / "8") as eight, Checkpoints(tmp_path / "1") as one:
        eight.save(put(state, everywhere))
        on_one = eight.restore(like(state, alone))
        assert on_one is not None
        one.save(on_one)
        on_eight = one.restore(like(state, everywhere))
    assert on_eight is not None
    for restored, sharding in ((on_one, alone), (on_eight, everywhere)):
        assert_same_bits(restored, state)
        assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))


def _truncate(folder: pathlib.Path) -> None:
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def _empty(folder: pathlib.Path) -> None:
    os.truncate(largest_file(folder), 0)


def _flip_a_bit(folder: pathlib.Path) -> None:
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _flip_a_bit_of_an_array(folder: pathlib.Path) -> None:
    _flip_a_bit(max(folder.rglob("d"), key=lambda path: largest_file(path).stat().st_size))


def _remove(folder: pathlib.Path) -> None:
    largest_file(folder).unlink()


def _remove_list(folder: pathlib.Path) -> None:
    (folder / "files.json").unlink()


def _halve_list(folder: pathlib.Path) -> None:
    path = folder / "files.json"
    os.truncate(path, path.stat().st_size // 2)


def _clear_list(folder: pathlib.Path) -> None:
    (folder / "files.json").write_text("{}")


def _change_leaves(folder: pathlib.Path) -> None:
    path = folder / "leaves.json"
    path.write_text(path.read_text().replace("float32", "float64"))


def _empty_folder(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [
    _truncate,
    _empty,
    _flip_a_bit,
    _flip_a_bit_of_an_array,
    _remove,
    _remove_list,
    _halve_list,
    _clear_list,
    _change_leaves,
    _empty_folder,
]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("two_steps")
    save_steps(directory, 1, 2)
    return directory


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_set_aside_for_the_one_before(tmp_path, two_steps, caplog, damage):
    directory = shutil.copytree(two_steps, tmp_path / "checkpoints")
    damage(directory / "2")
    damaged = contents(directory / "2")
    with Checkpoints(directory) as checkpoints, caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(like(make_state(2)))
        assert restored is not None
        assert_same_bits(restored, make_state(1))
        (warning,) = caplog.records
        assert "2 is damaged" in warning.getMessage()
        assert "\n" not in warning.getMessage()
        assert contents(directory / "damaged" / "2") == damaged
        assert checkpoints.steps() == [1]

        checkpoints.save(make_state(2))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
    assert contents(directory / "damaged" / "2") == damaged


def test_second_damaged_checkpoint_of_a_step_does_not_replace_the_first(tmp_path, caplog):
    save_steps(tmp_path, 1)
    for _ in range(3):
        save_steps(tmp_path, 2)
        _remove_list(tmp_path / "2")
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(like(make_state(1)))
    assert sorted(os.listdir(tmp_path / "damaged")) == ["2", "2.2", "2.3"]
    assert len(caplog.records) == 3


def test_all_damaged_is_one_line_every_time_and_nothing_is_touched(tmp_path, two_steps, caplog):
    directory = shutil.copytree(two_steps, tmp_path / "checkpoints")
    _flip_a_bit(directory / "1")
    _empty(directory / "2")
    before = contents(directory)
    for _ in range(2):
        with Checkpoints(directory) as checkpoints:
            checkpoints.clean()
            with pytest.raises(UserError, match=r"none .* is intact") as error:
                checkpoints.restore(like(make_state(2)))
        assert "\n" not in str(error.value)
    assert contents(directory) == before
    assert not caplog.records


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        (make_state(2, width=8), r"params/net/conv/kernel is float32\[3,3,1,4\] there and float32\[3,3,1,8\] here"),
        (make_state(2, optimizer=optax.sgd(0.1)), r"opt_state/net/1/0/count is int32\[\] there and absent here"),
        (make_state(2, optimizer=optax.sgd(0.1, momentum=0.9)), "opt_state/net/0/trace/conv/kernel is absent there"),
        (make_state(2).replace(key=jax.random.key(0, impl="rbg")), r"key is key<fry>\[\] there and key<rbg>\[\] here"),
        (
            make_state(2).replace(variables={"net": jnp.zeros(3)}),
            r"variables/net is absent there and float32\[3\] here",
        ),
    ],
)
def test_changed_config_is_not_taken_for_damage(two_steps, caplog, changed, first):
    before = contents(two_steps)
    with Checkpoints(two_steps) as checkpoints, pytest.raises(UserError, match=first) as error:
        checkpoints.restore(like(changed))
    assert "\n" not in str(error.value)
    assert contents(two_steps) == before
    assert not caplog.records


def test_moved_directory_restores(tmp_path, two_steps):
    directory = shutil.copytree(two_steps, tmp_path / "elsewhere")
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(like(make_state(2)))
    assert restored is not None
    assert_same_bits(restored, make_state(2))


# What glob, TensorStore or Orbax take for more than a name; and bytes that are not UTF-8.
ODD = ["x [a]", "[!a]", "a*b", "a**b", "a?b", "b\\s", "gs:", "caf\udce9", "50% off", "a\nb"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_of_any_letters_is_written_and_read(tmp_path, name):
    state = make_state(2)
    # A name that matches the pattern: its parts must not get in.
    save_steps(tmp_path / "axb/checkpoints", 7)
    save_steps(tmp_path / name / "checkpoints", 1, 2)
    assert sorted(os.listdir(tmp_path)) == sorted(["axb", name])
    (tmp_path / "moved [b]").symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "moved [b]"):
        with Checkpoints(path / "checkpoints") as checkpoints:
            assert checkpoints.steps() == [1, 2]
            restored = checkpoints.restore(like(state))
        assert restored is not None
        assert_same_bits(restored, state)


def test_links_for_an_odd_path_go_with_the_checkpoints_and_come_again(tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr(checkpoint.tempfile, "tempdir", str(links))
    with Checkpoints(tmp_path / "[x]") as checkpoints:
        checkpoints.save(make_state(1))
        checkpoints.wait()
        (link,) = links.iterdir()
        shutil.rmtree(link)  # as a system clears its temporary folder
        checkpoints.save(make_state(2))
    assert Checkpoints(tmp_path / "[x]").steps() == [1, 2]
    assert os.listdir(links) == []


def _lose_manifest(folder: pathlib.Path) -> None:
    """Leaves a checkpoint as versions before 0.2 wrote it to a path with `[ ]`: each process's part, none over all."""
    (folder / "default/manifest.ocdbt").unlink()
    shutil.rmtree(folder / "default/d")
    (folder / "files.json").unlink()
    (folder / "files.json").write_text(json.dumps(checkpoint._list_files(folder)))


@pytest.mark.parametrize("name", ["moved", "x [a]"])
def test_a_checkpoint_without_a_manifest_is_read_and_stays_as_it_is(tmp_path, two_steps, name):
    directory = shutil.copytree(two_steps, tmp_path / name)
    _lose_manifest(directory / "2")
    before = contents(directory)
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(like(make_state(2)))
        assert restored is not None
        assert_same_bits(restored, make_state(2))
        assert contents(directory) == before
        checkpoints.save(make_state(3))
    assert Checkpoints(directory).steps() == [1, 2, 3]


def test_what_orbax_left_without_a_manifest_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PLAIN", re.compile(".*"))  # it gets the path as it is
    with Checkpoints(tmp_path / "[x]") as checkpoints:
        checkpoints.save(make_state(1))
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*/1: .*manifest\.ocdbt") as error:
            checkpoints.wait()
    assert "\n" not in str(error.value)
    assert Checkpoints(tmp_path / "[x]").steps() == []


def test_folders_of_the_user_beside_checkpoints_stay(tmp_path):
    mine = [tmp_path / "2023/notes", tmp_path / "unfinished/mine/notes", tmp_path / "unfinished/notes"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.clean()
        checkpoints.forget(after=0)
        checkpoints.save(make_state(2024))
        checkpoints.save(make_state(2025))
        assert [path.read_text() for path in mine] == ["mine"] * 3
        checkpoints.save(make_state(2023))
        checkpoints.wait()
    assert (tmp_path / "damaged/2023/notes").read_text() == "mine"
    assert Checkpoints(tmp_path).steps() == [2025]


def test_list_holds_every_file_with_its_size(two_steps):
    listed = json.loads((two_steps / "2" / "files.json").read_text())
    files = contents(two_steps / "2")
    assert files.keys() - listed.keys() == {"files.json"}
    assert all(len(files[name]) == entry["size"] for name, entry in listed.items())


# One device, and nothing for jaxlib to be warned of.
_SAFE = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if flag.startswith(xla.FLAG))


def _run(program: str, *args: object) -> subprocess.Popen[str]:
    """Starts a Python program that can import this file."""
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": _SAFE}
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


SAVE_FOR_EVER = """
    import itertools, sys
    from test_checkpoint import make_state
    from gen_jax.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1])
    checkpoints.clean()
    for step in itertools.count((checkpoints.latest() or 0) + 1):
        checkpoints.save(make_state(step, width=2000))
        print(step, flush=True)
"""


def _kill_while_saving(directory: pathlib.Path, kills: int) -> int:
    """Returns how many of the kills fell into a write; the newest checkpoint must be whole after each."""
    inside = 0
    newest = 0
    rng = random.Random(0)
    for _ in range(kills):
        process = _run(SAVE_FOR_EVER, directory)
        assert process.stdout is not None
        for _ in range(rng.randint(2, 4)):
            assert process.stdout.readline()
        time.sleep(0.1 * rng.random())  # a write takes about as long
        process.send_signal(signal.SIGKILL)
        process.communicate()
        inside += any((directory / "unfinished").iterdir())
        with Checkpoints(directory) as checkpoints:
            restored = checkpoints.restore(like(make_state(0, width=2000)))
        assert restored is not None
        step = int(restored.step)
        assert step == max(int(path.name) for path in directory.iterdir() if path.name.isdigit())
        assert step > newest
        assert_same_bits(restored, make_state(step, width=2000))
        newest = step
    assert not (directory / "damaged").exists()
    return inside


def test_killed_inside_a_write_the_newest_checkpoint_is_whole(tmp_path):
    assert _kill_while_saving(tmp_path, 3) > 0


@pytest.mark.slow
def test_killed_forty_times_inside_writes(tmp_path):
    assert _kill_while_saving(tmp_path, 40) > 20


def test_leftovers_of_a_killed_save_go_at_the_next_start(tmp_path):
    save_steps(tmp_path, 1)
    whole = contents(tmp_path / "1")
    shutil.copytree(tmp_path / "1", tmp_path / "unfinished" / "2.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "unfinished" / "2")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.clean()
        assert checkpoints.latest() == 1
        checkpoints.save(make_state(2))
    assert Checkpoints(tmp_path).steps() == [1, 2]
    assert contents(tmp_path / "1") == whole


FAILING_DISK = """
    import os, resource, sys
    from test_checkpoint import make_state
    from gen_jax.checkpoint import Checkpoints
    from gen_jax.method import UserError
    directory, failure = sys.argv[1:]
    try:
        with Checkpoints(directory) as checkpoints:
            checkpoints.save(make_state(1))
            checkpoints.wait()
            if failure == "vanishes":
                os.rename(directory, directory + ".away")
                open(directory, "w").close()
            else:  # no file may grow beyond so many bytes: a full disk that needs no file system of its own
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(failure),) * 2)
            checkpoints.save(make_state(2, width=20_000))
            checkpoints.wait()
    except UserError as error:
        sys.exit(str(error))
"""


def test_the_reason_is_what_the_system_said_wherever_tensorstore_puts_it():
    # TensorStore lists attributes of an error in no fixed order, some of them with text of their own.
    for text in (
        "OUT_OF_RANGE: Failed writing: 'a': Failed to write 9 bytes: File too large [os_error_code='27']",
        "OUT_OF_RANGE: File too large [context='{\"x\": true}'] [os_error_code='27']\nmore lines",
    ):
        assert checkpoint._reason(RuntimeError(text)) == "File too large"
    assert checkpoint._reason(RuntimeError("first line\nsecond")) == "first line"


def test_the_loss_of_another_process_is_not_told_as_a_failed_write(tmp_path, monkeypatch):
    lost = "Gather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error [::1]:80: Connection reset by peer"

    def save(*args, **kwargs):
        raise RuntimeError(lost)

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._orbax, "save", save)
        with pytest.raises(UserError, match="cannot write the checkpoint"):  # of a single process
            checkpoints.save(make_state(1))
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        with pytest.raises(RuntimeError, match="Gather failed"):
            checkpoints.save(make_state(1))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("10", "File too large"), ("100000", "File too large"), ("vanishes", "Not a directory|File exists")],
)
def test_failed_write_is_one_line_and_the_last_good_checkpoint_stays(tmp_path, failure, reason):
    directory = tmp_path / "checkpoints"
    process = _run(FAILING_DISK, directory, failure)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert re.fullmatch(rf"cannot write the checkpoint {directory}/2: ({reason})\n", errors), errors
    assert Checkpoints(tmp_path / "checkpoints.away" if failure == "vanishes" else directory).steps() == [1]
