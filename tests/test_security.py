"""What the sources may not do: unpickle, run text as code, unpack archives; each place that could is named here."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path for room in ("gen_jax", "configs", "benchmarks", "experiments") for path in (ROOT / room).rglob("*.py")
)

# yaml and toml are data, but their readers have run code before; our data is JSON.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "code",
    "runpy",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"extractall", "unpack_archive", "system", "popen", "execv", "execve", "exec_module"}
ALLOWED = {
    ("gen_jax/config.py", "exec_module"),  # the config file that the user names; never one of a run
    # Weights files of PyTorch are pickles: its unpickler resolves no name but those of a state dict
    # (tests/metrics/test_torch_file.py).
    ("gen_jax/metrics/torch_file.py", "pickle"),
    # So are published embeddings of captions: its unpickler resolves no name but those of numpy's arrays, to classes of
    # its own (tests/text/test_by_file.py). Nothing else uses the module.
    ("gen_jax/text/by_file.py", "pickle"),
}


def forbidden(tree):
    """Yields (line, what) of everything in a module that is not to be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, name) for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            name = ast.unparse(node.func)
            if name in BUILTINS or (name.rpartition(".")[2] in ATTRIBUTES and "." in name):
                yield node.lineno, name.rpartition(".")[2]
            if (
                name in ("np.load", "numpy.load", "np.lib.format.read_array")
                and keywords.get("allow_pickle") != "False"
            ):
                yield node.lineno, f"{name} without allow_pickle=False"
            if keywords.get("shell") not in (None, "False"):
                yield node.lineno, "shell"


def test_there_are_sources():
    assert len(FILES) > 40


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from yaml import load", "import torch.x, marshal", "eval('1')", "exec(x)", "np.load(path)",
        "np.load(path, allow_pickle=True)", "archive.extractall()", "os.system('ls')", "subprocess.run(x, shell=True)",
    ],
)  # fmt: skip
def test_what_is_forbidden_is_found(source):
    assert list(forbidden(ast.parse(source)))


@pytest.mark.parametrize("source", ["re.compile('a')", "jax.jit(f).lower(x).compile()", "ast.literal_eval(x)"])
def test_what_is_harmless_is_not(source):
    assert not list(forbidden(ast.parse(source)))


def test_no_source_unpickles_runs_text_or_unpacks():
    found = [
        (path.relative_to(ROOT).as_posix(), what, line)
        for path in FILES
        for line, what in forbidden(ast.parse(path.read_text("utf-8")))
    ]
    assert {(path, what) for path, what, _ in found} == ALLOWED, found


def test_what_is_read_of_a_run_is_data(tmp_path, monkeypatch):
    """A directory with Python files of every name that it is read by: none of them runs."""
    import gen_jax
    from gen_jax import report
    from gen_jax.method import UserError

    (tmp_path / "run").mkdir()
    for name in ("config", "sitecustomize", "json", "report", "ddpm_mnist", "__init__", "conftest"):
        (tmp_path / f"run/{name}.py").write_text("raise SystemExit('it ran')")
    text = "__import__('os').abort()"
    (tmp_path / "run/config.json").write_text(f'{{"name": "{text}", "config": {{"method": "{text}"}}, "data": {{}}}}')
    monkeypatch.chdir(tmp_path / "run")
    assert text.replace("'", "&#x27;") in report.write(tmp_path / "run").read_text().replace("&#39;", "&#x27;")
    with pytest.raises((UserError, KeyError, AttributeError, TypeError)):
        gen_jax.load(tmp_path / "run")


def test_the_one_use_of_pickle_is_an_unpickler_with_a_list_of_names():
    source = ast.parse((ROOT / "gen_jax/metrics/torch_file.py").read_text("utf-8"))
    uses = [
        ast.unparse(node)
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    ]
    made = [
        node
        for node in ast.walk(source)
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
    ]
    assert set(uses) <= {"pickle.Unpickler", "pickle.UnpicklingError"}
    assert uses.count("pickle.Unpickler") == len(made) == 1
    assert "find_class" in {node.name for node in made[0].body if isinstance(node, ast.FunctionDef)}
