"""The directive ``settings``: a table of a dataclass of settings, read from the code."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, ClassVar, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation
from tables import table

HEADER = ("Setting", "Type", "Default", "What it is")
WIDTHS = (20, 20, 15, 45)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    type: str
    default: str
    help: str


def read_settings(config: type) -> list[Setting]:
    """The fields of a dataclass, each with the docstring that follows it in the source.

    Raises:
        ValueError: ``config`` is not a dataclass, or a field has no docstring.
    """
    if not dataclasses.is_dataclass(config):
        raise ValueError(f"settings needs a dataclass, got {config!r}.")
    hints = get_type_hints(config)
    return [
        Setting(
            field.name,
            stringify_annotation(hints[field.name], "smart").replace("~", ""),
            _default(field),
            _help(config, field.name),
        )
        for field in dataclasses.fields(config)
    ]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else repr(field.default)


def _help(config: type, name: str) -> str:
    for owner in config.__mro__[:-1]:
        docs = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
        if (owner.__qualname__, name) in docs:
            return " ".join(docs[owner.__qualname__, name]).strip()
    raise ValueError(f"{config.__qualname__}.{name} has no docstring.")


class SettingsDirective(SphinxDirective):
    """``settings``: takes the import path of a dataclass, such as maxentflow.agents.MeowConfig."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        try:
            config = getattr(importlib.import_module(module), name)
            rows = read_settings(config)
        except (ImportError, AttributeError, ValueError) as error:
            raise self.error(f"settings: {error}") from error
        for owner in config.__mro__[:-1]:
            self.env.note_dependency(ModuleAnalyzer.for_module(owner.__module__).srcname)
        return [table(HEADER, WIDTHS, map(_cells, rows))]


def _cells(row: Setting) -> list[list[nodes.Node]]:
    code = [[nodes.literal("", text)] for text in (row.name, row.type, row.default)]
    return [*code, [nodes.Text(row.help)]]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings", SettingsDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
