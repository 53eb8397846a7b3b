"""Writes the notebooks (.ipynb) from the scripts beside them: `make notebooks`.

The scripts are the source: cells start with `# %%`, as in many editors. The notebooks are for Colab and Jupyter. They
hold no outputs and no random cell ids, so the same script gives the same file.
"""

from __future__ import annotations

import pathlib

import jupytext
import nbformat

FOLDER = pathlib.Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(script: pathlib.Path) -> nbformat.NotebookNode:
    """Returns a script in the percent format as a notebook."""
    book = jupytext.read(script, fmt="py:percent")
    book.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(book.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", nbformat.from_dict({})
    return book


def main() -> None:
    for script in sorted(FOLDER.glob("[0-9]*.py")):
        nbformat.write(notebook(script), script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
