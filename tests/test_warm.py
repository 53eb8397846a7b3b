"""A warm start: what fits is taken over, by name and shape, and nothing else."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_words
from test_methods import batch_of

from gen_jax import main, methods, parallel, sample, warm
from gen_jax.checkpoint import Checkpoints
from gen_jax.method import DataSpec, UserError, labelled
from gen_jax.run import Run

SPEC = DataSpec("made_up", (8, 8, 1), 64, labelled("0123456789"))


def leaves_of(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def config_of(*words):
    return methods.override(methods.load("vae_mnist:tiny")[2], [f"--config.{word}" for word in words])


@functools.cache
def initial(*words, seed=0):
    method = methods.make(config_of(*words), SPEC)
    return parallel.init_state(method.init, seed, parallel.make_mesh(2), batch_of(0, SPEC, 64), {})


@pytest.fixture
def trained(tmp_path):
    """A run whose averages differ from its parameters, and its State."""
    run, state = Run(tmp_path / "old"), initial(seed=1)
    state = state.replace(ema=jax.tree.map(lambda x: x + 3, state.ema), step=state.step + 40)
    run.write_config({"config": config_of().to_dict(), "data": SPEC.to_dict(), "versions": {"gen_jax": "0.2.0"}})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state)
    return run, state


def found(path, *words):
    config = config_of(f"warm_start={path}", *words)
    mesh = parallel.make_mesh(2)
    like = methods.abstract_state(methods.make(config, SPEC), SPEC, None, mesh, config.sharding)
    return warm.find(config, like, mesh)


def test_a_run_begins_with_the_averages_of_another_and_with_an_optimizer_of_its_own(trained):
    run, old = trained
    weights, new = found(run.workdir), initial()
    total = sum(leaf.size for leaf in jax.tree.leaves(new.params))
    assert weights.told == f"  warm start  {run.workdir}, step 40: {total:,} of {total:,} parameters"
    started = weights.into(new)
    averages = leaves_of(old.ema)
    for part in (started.params, started.ema):
        for name, leaf in leaves_of(part).items():
            np.testing.assert_array_equal(leaf, averages[name])
    assert int(started.step) == 0
    for name, leaf in leaves_of(started.opt_state).items():
        np.testing.assert_array_equal(leaf, leaves_of(new.opt_state)[name])
    assert parallel.shardings(started) == parallel.shardings(new)
    # As a step does: were two of them the same buffer, it could not be donated.
    step = jax.jit(lambda s: s.replace(params=jax.tree.map(jnp.add, s.params, s.ema)), donate_argnums=0)
    after = step(started)
    for name, leaf in leaves_of(after.params).items():
        np.testing.assert_array_equal(leaf, 2 * averages[name])


def test_what_does_not_fit_stays_new_and_is_told(trained):
    (run, old), wider = trained, ("vae.latents=5", "vae.manifold=false")
    weights, new = found(run.workdir, *wider), initial(*wider)
    started, before, averages = weights.into(new), leaves_of(new.params), leaves_of(old.ema)
    fit = {name for name, leaf in before.items() if name in averages and averages[name].shape == leaf.shape}
    assert 0 < len(fit) < len(before)
    for name, leaf in leaves_of(started.params).items():
        np.testing.assert_array_equal(leaf, averages[name] if name in fit else before[name])
    lines = weights.told.splitlines()
    taken, total = sum(before[name].size for name in fit), sum(leaf.size for leaf in before.values())
    assert lines[0].endswith(f"step 40: {taken:,} of {total:,} parameters")
    told = {name for name in before if any(line.startswith(f"    new: {name} is ") for line in lines[1:])}
    assert told == before.keys() - fit
    assert any("float32[" in line and line.endswith("here") for line in lines[1:])


def test_a_run_in_parts_takes_what_a_whole_one_learnt(trained, monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 1)
    run, old = trained
    config = config_of("sharding=fsdp")
    method, mesh = methods.make(config, SPEC), parallel.make_mesh(2)
    new = parallel.init_state(method.init, 0, mesh, batch_of(0, SPEC, 64), {}, "fsdp")
    started = found(run.workdir, "sharding=fsdp").into(new)
    assert parallel.shardings(started) == parallel.shardings(new)
    for name, leaf in leaves_of(started.params).items():
        np.testing.assert_array_equal(leaf, leaves_of(old.ema)[name])


def write_safetensors(path, tensors):
    """By the format's description: the length of the header, the header, the bytes."""
    header, body = {}, b""
    for name, array in tensors.items():
        header[name] = {"dtype": {"float32": "F32", "int32": "I32"}[str(array.dtype)], "shape": list(array.shape),
                        "data_offsets": [len(body), len(body) + array.nbytes]}  # fmt: skip
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_a_file_of_averages_serves_as_well(tmp_path):
    averages = leaves_of(initial(seed=1).ema)
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {f"ema/{name}": leaf for name, leaf in averages.items()} | {"step": np.int32(7)})
    weights = found(file)
    assert ", step 7: " in weights.told
    started = weights.into(initial())
    for part in (started.params, started.ema):
        for name, leaf in leaves_of(part).items():
            np.testing.assert_array_equal(leaf, averages[name])


def test_refusals(trained, tmp_path):
    run, _ = trained
    (tmp_path / "untrained").mkdir()
    shutil.copy(run.config_path, tmp_path / "untrained")
    write_safetensors(tmp_path / "other.safetensors", {"ema/other/kernel": np.zeros(3, np.float32)})
    for path, line in {
        "nothing": "holds no run",
        "untrained": "holds no checkpoint yet",
        "nothing.safetensors": "cannot read the weights file",
        "other.safetensors": "of which nothing fits: vae/.* is not there",
    }.items():
        with pytest.raises(UserError, match=f"^config.warm_start.*{line}") as error:
            found(tmp_path / path)
        assert "\n" not in str(error.value)


@pytest.mark.long
def test_a_run_starts_warm_once_and_its_source_is_part_of_its_config(tiny_run, made_up_tfds, tmp_path, capsys):
    source = shutil.copytree(tiny_run, tmp_path / "source")
    words = [*tiny_words(made_up_tfds), f"--workdir={tmp_path / 'new'}", "--config.eval.track=0",
             "--config.optimizer.learning_rate=1e-12", "--config.ema=0"]  # fmt: skip
    start = f"--config.warm_start={source}"
    main.main([*words, start, "--config.num_steps=4"])
    assert f"warm start  {source}, step 12" in capsys.readouterr().out
    old, new = (sample.load(path).state.ema for path in (source, tmp_path / "new"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), old, new)
    shutil.rmtree(source)  # a run that goes on needs it no more
    main.main([*words, start, "--config.num_steps=8"])
    assert "warm start" not in capsys.readouterr().out
    with pytest.raises(UserError, match="warm_start: .*source -> "):
        main.main([*words, "--config.num_steps=8"])
