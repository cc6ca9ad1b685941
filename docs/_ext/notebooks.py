"""The notebooks of examples/ as pages of the site, and a gallery of them."""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
EXAMPLES = ROOT / "examples"
PAGES = DOCS / "tutorials"
_LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]+)\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)"
)


@dataclass(frozen=True)
class Tutorial:
    """A notebook, as the gallery shows it."""

    name: str
    title: str
    points: list[str]
    figure: bytes | None


def read_tutorial(path: Path) -> Tutorial:
    """What the gallery needs of a notebook: its title, its first list and a figure.

    The figure is that of the cell tagged "thumbnail", or the first.
    """
    cells = json.loads(path.read_text())["cells"]
    opening = "".join(cells[0]["source"])
    figures = [
        (tagged, output["data"]["image/png"])
        for cell in cells
        for tagged in ["thumbnail" in cell["metadata"].get("tags", ())]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    ]
    figures.sort(key=lambda figure: not figure[0])
    return Tutorial(
        name=path.stem,
        title=opening.splitlines()[0].lstrip("# "),
        points=[
            " ".join(point.split()) for point in re.findall(r"^- (.+(?:\n  .+)*)", opening, re.M)
        ],
        figure=base64.b64decode(figures[0][1]) if figures else None,
    )


def mended(source: str, folder: str, page_folder: str) -> str:
    """Markdown whose links lead, on the site, to where they led in the repository.

    A notebook's page is in docs/tutorials/. A document that the site does not have is named
    instead of linked.

    Args:
        source: Markdown.
        folder: of the file that has it, from the root of the repository.
        page_folder: of its page, from there too.

    Example:
        >>> mended("[trip](../docs/design.md#v), [02](02_a.ipynb)", "examples", "docs/tutorials")
        '[trip](../design.md#v), [02](02_a.ipynb)'
        >>> page = "[02](../../examples/02_a.ipynb), [it](../../README.md)"
        >>> mended(page, "docs/howto", "docs/howto")
        '[02](../tutorials/02_a.ipynb), it (`README.md`)'
    """

    def mend(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["path"]))
        if path.startswith("examples/") and path.endswith(".ipynb"):
            path = path.replace("examples/", "docs/tutorials/")
        elif not path.startswith("docs/") and (path.endswith(".md") or (ROOT / path).is_dir()):
            return f"{match['text']} (`{path}`)"
        target = posixpath.relpath(path, page_folder)
        return f"[{match['text']}]({target}{match['anchor'] or ''})"

    return _LINK.sub(mend, source)


def _mend_page(app: Sphinx, docname: str, source: list[str]) -> None:
    if app.env.doc2path(docname).suffix == ".md":
        folder = posixpath.dirname(f"docs/{docname}")
        source[0] = mended(source[0], folder, folder)


def _copy(app: Sphinx) -> None:
    PAGES.mkdir(exist_ok=True)
    wanted: dict[Path, bytes] = {}
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = mended("".join(cell["source"]), "examples", "docs/tutorials")
        wanted[PAGES / path.name] = json.dumps(notebook).encode()
        figure = read_tutorial(path).figure
        if figure is not None:
            wanted[PAGES / f"{path.stem}.png"] = figure
    for path in {*PAGES.iterdir()} - {*wanted}:
        path.unlink()
    for path, content in wanted.items():
        if not path.exists() or path.read_bytes() != content:  # a new time is a page to read
            waiting = path.with_suffix(f".{os.getpid()}")
            waiting.write_bytes(content)
            waiting.replace(path)


class GalleryDirective(SphinxDirective):
    """``gallery``: a card for each notebook."""

    def run(self) -> list[nodes.Node]:
        lines = ["::::::{grid} 1 1 2 2", ":gutter: 3", ""]
        for path in sorted(EXAMPLES.glob("*.ipynb")):
            self.env.note_dependency(str(path))
            tutorial = read_tutorial(path)
            lines += [f":::::{{grid-item-card}} {tutorial.title}"]
            lines += [f":link: /tutorials/{tutorial.name}", ":link-type: doc"]
            if tutorial.figure is not None:
                lines += [f":img-top: /tutorials/{tutorial.name}.png"]
                lines += [f":img-alt: a figure of {tutorial.name}"]
            lines += ["", *(f"- {point}" for point in tutorial.points), ":::::", ""]
        return self.parse_text_to_nodes("\n".join([*lines, "::::::"]))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _copy)
    app.connect("source-read", _mend_page)
    app.add_directive("gallery", GalleryDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
