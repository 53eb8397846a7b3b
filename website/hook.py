"""What the site has beside docs/: the README, notebooks, results, the reference of all modules, the gallery.

Nothing of it is written to disk. Links between files of the checkout become links between pages, so the same Markdown
can be read on a code host and on the site.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import docstrings
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
GALLERY = pathlib.Path(os.environ.get("GALLERY", ROOT / "runs/gallery"))  # a run or a sweep in each folder
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
LINK = re.compile(r"(?<=\]\()([^)\s:#]+)")  # not a URL, and without its anchor


def beside() -> dict[str, str]:
    """Returns where files outside docs/ are on the site, by their paths in the checkout."""
    results = sorted((ROOT / "experiments/results").glob("*/*"))
    found = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "LICENSE", *results]
    places = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix() for path in found if path.is_file()}
    places |= {f"notebooks/{path.stem}.ipynb": f"notebooks/{path.stem}.md" for path in notebooks()}
    return {
        "README.md": "index.md",
        "website/reference.md": "reference.md",
        "website/style.css": "assets/style.css",
        "website/favicon.svg": "assets/favicon.svg",
        **places,
    }


def notebooks() -> list[pathlib.Path]:
    """Returns the notebooks' scripts, in the order in which they are read."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.py"))


class Module(NamedTuple):
    """A module as the reference shows it: its parts, first line and docstring."""

    parts: tuple[str, ...]
    about: str
    is_package: bool

    @property
    def page(self) -> str:
        return "/".join(["reference", *self.parts[1:], *(["index"] if self.is_package else [])]) + ".md"


def modules() -> Iterator[Module]:
    """Yields the modules of gen_jax but for programs and those that are private, a package before what is in it."""
    for path in sorted((ROOT / "gen_jax").rglob("*.py"), key=lambda path: path.with_suffix("").parts):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            about = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            yield Module(parts, about.partition("\n\n")[0].replace("\n", " "), path.name == "__init__.py")


def reference(every: list[Module]) -> dict[str, str]:
    """Returns the pages of the reference: one for each module, and for a package the list of what is in it."""
    pages = {}
    for module in every:
        text = [f"# {'.'.join(module.parts)}", f"::: {'.'.join(module.parts)}"]
        if module.is_package:
            inside = [one for one in every if one.parts[:-1] == module.parts]
            folder = os.path.dirname(module.page)
            rows = [
                f"| [{one.parts[-1]}]({os.path.relpath(one.page, folder)}) | {_cell(one.about)} |" for one in inside
            ]
            text += ["\n".join(["| Module | |", "| --- | --- |", *rows])]
        pages[module.page] = "\n\n".join(text) + "\n"
    return pages


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def contents(every: list[Module], parts: tuple[str, ...]) -> list[Any]:
    """Returns the navigation of a package: its page, its modules, its packages."""
    inside = [one for one in every if one.parts[:-1] == parts]
    own = next(one.page for one in every if one.parts == parts)
    return [
        own,
        *({one.parts[-1]: one.page} for one in inside if not one.is_package),
        *({one.parts[-1]: contents(every, one.parts)} for one in inside if one.is_package),
    ]


def configs() -> str:
    """Returns the page of all configs, from their docstrings."""
    text = ["# Configs", "Every file of `configs/`, for `--config=<name>[:<variant>]`. Add `--help` for its values."]
    for path in sorted((ROOT / "configs").glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        text += [f"## {path.stem}", docstrings.escaped(about)]
    return "\n\n".join(text) + "\n"


def gallery(runs: list[pathlib.Path]) -> str:
    """Returns the page of runs that were made with the site."""
    text = ["# Gallery", (ROOT / "website/gallery.md").read_text("utf-8").strip()]
    if not runs:
        return "\n\n".join([*text, "This copy of the site was built without them: `make docs` trains them first.\n"])
    cards = []
    for run in runs:
        title, about = _told(run)
        picture = f'<img src="gallery/{run.name}.png" alt="Samples">' if picture_of(run) else ""
        cards.append(f'<a href="gallery/{run.name}.html">{picture}<strong>{title}</strong><span>{about}</span></a>')
    return "\n\n".join([*text, f'<div class="gallery">\n{chr(10).join(cards)}\n</div>']) + "\n"


def _told(run: pathlib.Path) -> tuple[str, str]:
    """What a run is called, and what it is."""
    if not (run / "config.json").is_file():
        return "Runs beside each other", "The page of a comparison: two losses of a GAN, two seeds each."
    record = json.loads((run / "config.json").read_text("utf-8"))
    about = ast.get_docstring(ast.parse((ROOT / f"configs/{record['name']}.py").read_text("utf-8"))) or ""
    return record["name"], re.split(r"[:(.] ?", about)[0].replace("<", "&lt;") + "."


def page_of(run: pathlib.Path) -> pathlib.Path:
    """Returns the page of a run, or of a sweep."""
    return next((run / name for name in ("report.html", "compare.html") if (run / name).is_file()), run / "report.html")


def picture_of(run: pathlib.Path) -> pathlib.Path | None:
    """Returns the samples of a run, or of the first run of a sweep."""
    return next(iter(sorted([*run.glob("samples.png"), *run.glob("*/samples.png")])), None)


def gallery_runs() -> list[pathlib.Path]:
    """Returns the finished runs of the gallery."""
    return sorted(run for run in GALLERY.glob("*") if page_of(run).is_file())


def moved(markdown: str, source: str, page: str, places: dict[str, str]) -> str:
    """Returns a page's text whose links lead where `places` says.

    Args:
      markdown: the text of a file of the checkout.
      source: the path of this file.
      page: the path of its page.
      places: paths on the site by paths in the checkout; those that it lacks are below docs/.

    Example:
      >>> places = {"README.md": "index.md", "notebooks/1.ipynb": "notebooks/1.md"}
      >>> moved("[a](docs/data.md#sizes) [b](https://x.org)", "README.md", "index.md", places)
      '[a](data.md#sizes) [b](https://x.org)'
      >>> moved("[c](../README.md) [d](../docs/data.md)", "notebooks/1.ipynb", "notebooks/1.md", places)
      '[c](../index.md) [d](../data.md)'
    """

    def at(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), link[1]))
        there = places.get(target, target.removeprefix("docs/"))
        return os.path.relpath(there, os.path.dirname(page) or ".")

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(at, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(at, markdown[end:])])


def as_page(script: pathlib.Path) -> str:
    """Returns the Markdown of a notebook: its text, and its code in fences."""
    book = jupytext.read(script, fmt="py:percent")
    cells = [f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source for cell in book.cells]
    return "\n\n".join(cells) + "\n"


def title_of(script: pathlib.Path) -> str:
    """Returns the heading of a notebook."""
    return re.search(r"^# # (.+)$", script.read_text("utf-8"), re.MULTILINE)[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts generated pages into the navigation."""
    every = list(modules())
    generated = {
        "notebooks": [{title_of(path): f"notebooks/{path.stem}.md"} for path in notebooks()],
        "reference": [
            "reference.md",
            {"Configs": "reference/configs.md"},
            {"Mistakes and messages": "bad_inputs.md"},
            {"gen_jax": contents(every, ("gen_jax",))},
            {"Changes": "CHANGELOG.md"},
        ],
    }

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            return [filled(one) for one in entry]
        if isinstance(entry, dict):
            return {title: filled(inside) for title, inside in entry.items()}
        return generated.get(entry, entry)

    config.nav = filled(config.nav)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that are not in docs/."""
    for source, there in beside().items():
        if source.startswith("notebooks/"):
            files.append(File.generated(config, there, content=as_page(ROOT / source)))
        else:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / source)))
    for there, text in {**reference(list(modules())), "reference/configs.md": configs()}.items():
        files.append(File.generated(config, there, content=text))
    runs = gallery_runs()
    files.append(File.generated(config, "gallery.md", content=gallery(runs)))
    for run in runs:
        files.append(File.generated(config, f"gallery/{run.name}.html", abs_src_path=str(page_of(run))))
        if picture := picture_of(run):
            files.append(File.generated(config, f"gallery/{run.name}.png", abs_src_path=str(picture)))
    return files


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuses a site that would fetch something from elsewhere."""
    for page in pathlib.Path(config.site_dir).rglob("*.html"):
        if found := FETCHED.search(page.read_text("utf-8")):
            raise PluginError(f"{page} fetches from another place: {found[0]}")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links between files links between pages."""
    there = page.file.src_uri
    sources = {place: source for source, place in beside().items()}
    source = sources.get(there, f"docs/{there}")
    if there.startswith(("reference", "gallery")):  # made for the site
        return markdown
    return moved(markdown, source, there, beside())
