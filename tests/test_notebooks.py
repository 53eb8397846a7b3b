"""The notebooks are what their scripts say, and run from top to bottom."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def cells_of(script):
    """The cells of a script, as (kind, text): read without the library that made the notebook."""
    for cell in re.split(r"^# %%", script.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        header, _, text = cell.partition("\n")
        if header.strip() == "[markdown]":
            yield "markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines())
        else:
            yield "code", text.strip()


@each_script
def test_a_notebook_is_in_sync_with_its_script(script):
    book = json.loads(script.with_suffix(".ipynb").read_text("utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]
    assert cells == [*cells_of(script)], "run `make notebooks`"
    assert not any(cell.get("outputs") for cell in book["cells"])


def test_every_notebook_has_its_script():
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == [path.stem for path in SCRIPTS]
    assert len(SCRIPTS) == 5


@each_script
def test_links_lead_somewhere(script):
    targets = re.findall(r"\]\(([^):#]+)\)", script.read_text("utf-8"))
    assert [target for target in targets if not (script.parent / target).exists()] == []


@pytest.mark.slow
@each_script
def test_a_notebook_runs(script, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
