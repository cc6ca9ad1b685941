"""Pieces of an HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["image", "page", "table", "video"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; vertical-align: top;
         border-bottom: 1px solid #8884; }
img, video { max-width: 100%; background: white; }
table { display: block; overflow-x: auto; }
h1, h2, h3, p { overflow-wrap: anywhere; }
.well::before { content: "✓ "; color: #009e73; }
.look::before { content: "⚠ "; color: #d55e00; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are HTML already."""
    title = escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table of texts.

    Example:
        >>> table(["a"], [["<b>"]])
        '<table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    rest = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><tr>{top}</tr>{rest}</table>"


def image(path: Path, what: str) -> str:
    """A picture, with what is said where it is not seen."""
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{_encoded(path)}">'


def video(path: Path) -> str:
    """A film, of an mp4 file."""
    return f'<video controls muted loop src="data:video/mp4;base64,{_encoded(path)}"></video>'


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
