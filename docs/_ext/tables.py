"""Tables of settings and of options, as the site's directives make them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docutils import nodes

Cell = Sequence[nodes.Node]


def table(
    header: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[Cell]]
) -> nodes.table:
    """A table with a header; a cell is what stands in its one paragraph."""
    group = nodes.tgroup(
        "", *(nodes.colspec(colwidth=width) for width in widths), cols=len(widths)
    )
    group += nodes.thead("", _row([nodes.Text(title)] for title in header))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["settings"])


def _row(cells: Iterable[Cell]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))
