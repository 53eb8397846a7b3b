"""The documentation holds: its commands are accepted, its links lead somewhere, its Python blocks run.

Nothing is trained but the smallest run. docs/bad_inputs.md, whose commands are mistakes, has a test of its own.
"""

import ast
import doctest
import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from typing import NamedTuple

import numpy as np
import pytest
from conftest import TINY

import gen_jax
from experiments import ablation
from gen_jax import config as configs
from gen_jax import export, main, methods, parallel, sweep, train
from gen_jax.checkpoint import Checkpoints
from gen_jax.data import __main__ as data_main
from gen_jax.data import captioned_shapes, dataset, prepare
from gen_jax.gan import losses as gan_losses
from gen_jax.method import DataSpec, Feature, UserError, labelled
from gen_jax.run import Run
from gen_jax.text import words as word_counts
from gen_jax.text.encoder import Given
from gen_jax.text.texts import Texts

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "bad_inputs.md")]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "docs/bad_inputs.md"]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What stands for something that a reader fills in.
PLACEHOLDERS = {"<dir>": "pictures", "<folder>": "pictures", "<s>": "1", "<scale>": "2", "<name>": "mnist",
                "<commit>": "HEAD", "$i": "0"}  # fmt: skip
SHAPES = {
    "mnist": (28, 28, 1), "stroke_digits": (28, 28, 1), "dsprites": (64, 64, 1), "cifar10": (32, 32, 3),
    "cifar10_jpeg": (32, 32, 3), "stacked:mnist": (28, 28, 3), "captioned_shapes": (64, 64, 3),
}  # fmt: skip
UNLABELLED = ("dsprites", "stacked:mnist", "captioned_shapes")
TEXT = {"text": Feature((4, 128), "float32", several=True)}


class Block(NamedTuple):
    language: str
    text: str


def blocks(text):
    return [Block(*match.groups()) for match in FENCE.finditer(text)]


def prose(text):
    return FENCE.sub("", text)


def spans(text):
    """Inline code; a span may run over the end of a line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def commands(text):
    """The words of every command that starts with `python -m`, from fenced blocks and inline code."""
    lines = [span for span in spans(text) if span.startswith("python -m ")]
    for block in blocks(text):
        if block.language != "python":
            whole = block.text.replace("\\\n", " ").splitlines()
            lines += [line[line.index("python -m ") :] for line in whole if "python -m " in line]
    return [words(line) for line in lines]


def words(line):
    line = line[:-1] if line.endswith('"') and line.count('"') % 2 else line  # the end of what is said to ssh
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(placeholder, value)
    assert not re.search(r"<\w+>", line), f"a placeholder that PLACEHOLDERS does not fill in: {line}"
    return [word for word in shlex.split(line, comments=True)[2:] if word != "&"]


@functools.cache
def loaded(path):
    return methods.load(path)[2]


@functools.cache
def runs():
    """The config of every run that some page trains under a --workdir of its own."""
    found = {}
    for page in PAGES:
        for module, *argv in commands(page.read_text("utf-8")):
            if module == "gen_jax.main":
                flags, values = main.parse(argv)
                if flags.config and flags.workdir and flags.mode == "train":
                    found[flags.workdir] = methods.override(loaded(flags.config), values)
    return found


def run_at(workdir):
    """The config of the run in `runs/<config>[-<variant>]`, or in a directory that a page trains a run in, or of the
    first stage in its folder `pretrained`.
    """
    if workdir.endswith("/pretrained"):
        return methods.whole_stage(run_at(workdir.removesuffix("/pretrained")))
    if workdir in runs():
        return runs()[workdir]
    name, _, variant = workdir.removeprefix("runs/").partition("-")
    return loaded(f"{name}:{variant}")


def spec_of(config):
    """Like the data that a config names."""
    name, size = config.data.name, config.data.image_size or config.data.crop
    if name.startswith("gaussians"):
        return DataSpec(name, (1, 1, 2), 100_000, kind="points", value_range=(-5.0, 5.0))
    if name.startswith(configs.FOLDER):
        spec = DataSpec(name, (size or 28, size or 28, 3), 1_000, texts_of(config) or labelled("ab"))
        return dataset.with_smaller(spec, config.data.reduce) if config.data.reduce else spec
    shape = (size, size, SHAPES[name][2]) if size else SHAPES[name]
    return DataSpec(name, shape, 60_000, texts_of(config) if name in UNLABELLED else labelled("0123456789"))


def texts_of(config):
    return TEXT if config.data.get("text", {"name": "none"})["name"] != "none" else {}


def stage_of(config, spec):
    """The first stage, as a config or as the run that a page trains."""
    whole = methods.whole_stage(config)
    if whole is not None:
        return methods.make_stage(whole, spec)
    if not config.get("pretrained"):
        return None
    first = run_at(config.pretrained)
    return methods.make_stage(first, spec_of(first))


def check_run(config):
    """All that is refused before data are read."""
    methods.check(config)
    spec = spec_of(config)
    methods.make(config, spec, stage_of(config, spec))
    train.check_batch(config, parallel.make_mesh(config.num_devices or 1), goes_on=False)


def check_main(argv):
    flags, values = main.parse(argv)
    if flags.mode == "compare":
        assert values
        assert not any(word.startswith("-") for word in values)
        return
    assert flags.config or flags.workdir
    before = loaded(flags.config) if flags.config else run_at(flags.workdir)
    after = methods.override(before, values)
    check_run(after)
    of_samples = dict.fromkeys(("sample", "edit", "upscale", "export"), configs.SAMPLING)
    free = (of_samples | {"eval": configs.JUDGING, "report": ()}).get(flags.mode, ("*",))
    assert not configs.changes(before.to_dict(), after.to_dict(), free)


def check_data(argv):
    name = next((word for word in argv if not word.startswith("--")), "")
    prefix = name.partition(":")[0]
    assert not name or prefix in dataset.LOADERS or prefix in prepare.known()
    flags = {word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    assert flags <= {*data_main.OPTIONS, "sheet"}


def check_experiment(experiment, argv):
    """All that is not a flag of the common frame goes to the runs."""
    _, words = ablation.parse(experiment, argv)
    assert all(word.startswith("--config.") for word in words)


def check_program(module, argv):
    """Flags are those that the program's source adds to its parser, one of them with a name that is put together."""
    place = ROOT / module.replace(".", "/")
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    assert file.is_file()
    if "\nABLATION = " in file.read_text():  # on the common frame, which has the flags
        check_experiment(importlib.import_module(module).ABLATION, argv)
        return
    known = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
            parts = getattr(node.args[0], "values", [node.args[0]])  # of an f-string
            known.append("".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in parts))
    for word in argv:
        if word.startswith("--") and not word.startswith("--config."):
            flag = word.partition("=")[0]
            assert any(re.fullmatch(pattern, flag) for pattern in known), f"{module} has no {flag}"


def check_sweep(argv):
    flags, fixed, swept = sweep.parse(argv)
    if flags.search:
        sweep.space_of(methods.load(flags.config)[2], flags.config, fixed, swept)
        return
    for trial in sweep.trials_of(flags.config, fixed, swept, flags.random, flags.random_seed):
        check_run(trial.config)


def check_command(module, argv):
    if module == "gen_jax.main":
        check_main(argv)
    elif module == "gen_jax.sweep":
        check_sweep(argv)
    elif module == "gen_jax.data":
        check_data(argv)
    else:
        check_program(module, argv)


def accepted_by(name, values):
    """Whether a config takes values, or, where only a key is named, has it."""
    config = loaded(name)
    if "=" not in values[0]:
        return values[0].removeprefix("--config.") in configs.flatten(config)
    try:
        methods.check(methods.override(config, values))
    except UserError:
        return False
    return True


@each_page
def test_every_command_is_accepted(page):
    text = page.read_text("utf-8")
    for module, *argv in commands(text):
        try:
            check_command(module, argv)
        except UserError as error:
            pytest.fail(f"python -m {shlex.join([module, *argv])}: {error}")
    for span in spans(text):
        if span.startswith("--config.") and span != "--config.":
            values = words(f"python -m {span}")
            assert any(accepted_by(name, values) for name in CONFIGS), span
        elif span.startswith("--config=") and span != "--config=":
            check_main(words(f"python -m {span}"))


@each_page
def test_every_target_extra_and_file_that_is_named_exists(page):
    text = page.read_text("utf-8")
    shell = [line for block in blocks(text) if block.language != "python" for line in block.text.splitlines()]
    targets = {match[1] for line in [*spans(text), *shell] if (match := re.match(r"make ([\w-]+)", line))}
    assert targets <= {*re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*re.findall(r"pip install \S*\[(\w+)\]", text)} <= extras.keys()
    for span in spans(text):
        if match := re.fullmatch(r"((?:gen_jax|configs|docs|tests|experiments|benchmarks)/[\w/.]*)(?::(\w+))?", span):
            assert (ROOT / match[1]).exists(), span
            if match[2]:
                methods.load(f"{ROOT / match[1]}:{match[2]}")


def slugs(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.stem)
def test_every_link_and_picture_is_there(page):
    def leads_somewhere(target):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        return file.exists() and (not anchor or anchor in slugs(file))

    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page.read_text("utf-8"))))
    own = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in own if not leads_somewhere(target)] == []


def test_readme_is_short_and_names_every_config():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    rows = re.findall(r"^\| (`\w+[^|]*) \|", text[text.index("## Methods") : text.index("## Change a run")], re.M)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named - {"--config="} >= {*CONFIGS}
    for name in named:
        methods.load(name)


@each_page
def test_every_page_is_in_the_navigation_of_the_site(page):
    name = "index.md" if page == README else page.name
    assert re.search(rf": {re.escape(name)}$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_the_changelog_keeps_its_form():
    """That of keepachangelog.com: a heading for each version, newest first, and under it the kinds of changes."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", one) for one in versions)
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert {*kinds} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for version in re.split(r"^## ", text, flags=re.MULTILINE):
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert len(kinds) == len({*kinds})


def test_the_version_is_written_once():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]
    assert gen_jax.__version__ not in (ROOT / "CITATION.cff").read_text()


class Extended:
    """What the blocks of a page make of the project, in a copy of what they touch, until the test ends."""

    def __init__(self, folder, monkeypatch):
        self.tests = {}  # by path
        self._folder, self._monkeypatch = folder, monkeypatch
        (folder / "gen_jax").mkdir()
        (folder / "configs").mkdir()
        monkeypatch.setattr(gen_jax, "__path__", [*gen_jax.__path__, str(folder / "gen_jax")])
        monkeypatch.chdir(folder)  # configs are looked for here first

    def add(self, path, table, code):
        """Adds `code` to the file of the project at `path`: entries of a table, functions, or the whole file."""
        if table:
            values = vars(self._module(path))
            for name, value in eval(f"{{{code}}}", values).items():
                self._monkeypatch.setitem(values[table], name, value)
        elif (ROOT / path).exists():
            module, added = self._module(path), {}
            exec(code, vars(module), added)
            for name, value in added.items():
                self._monkeypatch.setattr(module, name, value, raising=False)
                check_examples(value, vars(module))
        else:
            (self._folder / path).write_text(code)
            importlib.invalidate_caches()

    def _module(self, path):
        if not path.startswith("tests/"):
            return importlib.import_module(path.removesuffix(".py").replace("/", "."))
        if path not in self.tests:
            spec = importlib.util.spec_from_file_location(f"extended_{pathlib.Path(path).stem}", ROOT / path)
            self.tests[path] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self.tests[path])
        return self.tests[path]


def check_examples(function, names):
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(function, function.__name__, globs=dict(names)):
        runner.run(test)
    assert runner.summarize(verbose=False).attempted > 0
    assert not runner.summarize(verbose=False).failed


def run_blocks(page, project):
    """Runs the Python blocks of a page from top to bottom, those with a file's name as that file's content."""
    names = {"__name__": "page"}
    for block in blocks(page.read_text("utf-8")):
        if block.language != "python":
            continue
        first, _, rest = block.text.partition("\n")
        if match := re.fullmatch(r"# ([\w/]+\.py)(?:, in (\w+))?", first):
            project.add(*match.groups(), rest)
            continue
        exec(compile(block.text, page.name, "exec"), names)
    return names


@pytest.fixture
def project(tmp_path, monkeypatch):
    before = {*sys.modules}
    yield Extended(tmp_path, monkeypatch)
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
            delattr(gen_jax, name.removeprefix("gen_jax."))


@pytest.fixture
def untrained_run(tmp_path):
    """A run of the smallest DDPM that was never trained: a config and a checkpoint, which is all that a model is."""
    run, mesh = Run(tmp_path / "runs/ddpm_mnist"), parallel.make_mesh(1)
    config = methods.override(loaded("ddpm_mnist:tiny"), TINY)
    spec = DataSpec("made_up_digits", (8, 8, 1), 512, labelled("0123456789"))
    method = methods.make(config, spec)
    abstract = methods.abstract_state(method, spec, None, mesh)
    run.write_config(train.describe(config, spec, abstract, mesh, "ddpm_mnist", "tiny", ""))
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(parallel.init_state(method.init, 0, mesh, {}, {}))
    return run.workdir


def test_the_python_of_readme_runs(untrained_run, project):
    names = run_blocks(README, project)  # where the run is just where the page says
    assert {name: names[name].shape for name in ("images", "sevens")} == dict.fromkeys(
        ("images", "sevens"), (16, 8, 8, 1)
    )


def test_the_python_of_editing_runs(untrained_run, project):
    names = run_blocks(ROOT / "docs/editing.md", project)
    assert [names[name].shape for name in ("filled", "varied", "again")] == [(4, 8, 8, 1)] * 3
    assert names["way"].shape == (1, 9, 8, 8, 1)


def test_the_python_of_text_runs(tmp_path, project):
    run, mesh = Run(tmp_path / "runs/stackgan_shapes"), parallel.make_mesh(1)
    config, drawn = loaded("stackgan_shapes:tiny"), captioned_shapes.Drawn("train")
    captions = {"train": [drawn.captions(i) for i in range(300)]}
    spec = DataSpec("captioned_shapes", (64, 64, 3), 300)
    by = word_counts.make(Given(dataset.Dataset(spec, {}, None, captions=captions)))
    texts = {"text": Feature((4, by.size), "float32", several=True)}
    spec = DataSpec("captioned_shapes", (64, 64, 3), 300, texts)
    method = methods.make(config, spec)
    abstract = methods.abstract_state(method, spec, None, mesh)
    run.write_config(train.describe(config, spec, abstract, mesh, "stackgan_shapes", "tiny", ""))
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(parallel.init_state(method.init, 0, mesh, {}, {}))
    Texts(by, ("a red star",), by.encode(["a red star"])).save(run.text)
    assert run_blocks(ROOT / "docs/text.md", project)["images"].shape == (2, 64, 64, 3)


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    for block in blocks((ROOT / "docs/tutorial.md").read_text("utf-8")):
        if "pip install" in block.text:
            continue
        words = [sys.executable, "-c", block.text] if block.language == "python" else ["sh", "-ec", block.text]
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
        ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, f"{block.text}\n{ended.stderr[-3000:]}"
    for page in ("runs/first/report.html", "runs/losses/compare.html", "runs/shapes/report.html"):
        assert (tmp_path / page).is_file()


def test_the_python_of_export_runs(untrained_run, project):
    pytest.importorskip("flatbuffers", reason="flatbuffers is in the extra export")
    export.export(untrained_run)
    export.export(untrained_run, "stablehlo")
    names = run_blocks(ROOT / "docs/export.md", project)
    np.testing.assert_array_equal(names["model"].sample(16), gen_jax.load(untrained_run).sample(16))
    difference = np.abs(np.int16(names["images"]) - names["model"].sample(16))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


OF_THEIR_OWN = (README, *(ROOT / f"docs/{name}.md" for name in ("extend", "editing", "text", "tutorial", "export")))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_THEIR_OWN])
def test_the_python_of_other_pages_runs(page, project):
    own = [block for block in blocks(page.read_text("utf-8")) if block.language == "python"]
    assert (len(run_blocks(page, project)) > 1) == bool(own)  # a page with Python defines something


def test_what_extend_adds_works_and_passes_the_tests_of_its_kind(project, monkeypatch):
    run_blocks(ROOT / "docs/extend.md", project)
    assert "soft_hinge" in gan_losses.LOSSES
    assert "toy" in methods.METHODS
    losses, contract = project.tests["tests/gan/test_losses.py"], project.tests["tests/test_methods.py"]
    losses.test_every_loss_is_proved()
    losses.test_values_are_those_of_the_definitions("soft_hinge")
    losses.test_gradients_are_the_closed_forms_and_finite_at_any_logit("soft_hinge", losses.R, losses.F)
    monkeypatch.setattr(contract, "ROOT", pathlib.Path())
    contract.test_every_method_is_under_contract()
    contract.test_init_depends_on_the_seed_alone("toy")
    contract.test_samples_belong_to_their_keys("toy")
    contract.test_what_is_sampled_evaluated_and_drawn_is_the_average("toy")
    contract.test_training_lowers_the_loss_of_a_fixed_batch_and_the_step_is_traced_once("toy")
