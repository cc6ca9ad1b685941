"""The reference, and links to it from everywhere else.

The directive ``api`` documents names of a module from their docstrings: a table of first
sentences, then each in full. Code in the text of a page, such as ``flows.build``, becomes a link
to the reference, and the reference lists the pages that have such links.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

PACKAGES = (
    "maxentflow.flows",
    "maxentflow.flows.registry",
    "maxentflow.objectives",
    "maxentflow.envs",
    "maxentflow.agents",
    "maxentflow.agents.training",
    "maxentflow.agents.compiled",
    "maxentflow.agents.cluster",
)
"""Whose ``__all__`` is public, and belongs into the reference."""
REFERENCE = "reference/"
_CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)


class ApiDirective(SphinxDirective):
    """``api``: takes a module; its content is names of that module, one a line."""

    required_arguments: ClassVar[int] = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"no-table": directives.flag}

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        names = [line.strip() for line in self.content if line.strip()]
        table = [
            f".. currentmodule:: {module.__name__}",
            "",
            ".. autosummary::",
            "   :nosignatures:",
        ]
        table += ["", *(f"   {name}" for name in names), ""]
        entries = [line for name in names for line in _entry(module, name)]
        text = entries if "no-table" in self.options else table + entries
        return self.parse_text_to_nodes("\n".join(text))


def _entry(module: ModuleType, name: str) -> Iterator[str]:
    target = getattr(module, name)
    if inspect.isclass(target):
        kind = "exception" if issubclass(target, BaseException) else "class"
    else:
        kind = "function" if callable(target) else "data"
    if kind == "data":  # autodoc shows the docstring of its type
        yield f".. py:data:: {name}"
        yield from ("", *(f"   {line}" for line in _data_docstring(module.__name__, name)))
        return
    signature = _signature(target) if dataclasses.is_dataclass(target) else ""
    yield f".. auto{kind}:: {name}{signature}"
    if kind == "class":
        yield "   :members:"
    yield ""


def _signature(record: Any) -> str:
    """How to make a dataclass: names and defaults; the types stand with its fields."""
    required = [field.name for field in dataclasses.fields(record) if _is_required(field)]
    others = [
        f"{field.name}={'...' if field.default is dataclasses.MISSING else repr(field.default)}"
        for field in dataclasses.fields(record)
        if field.init and field.name not in required
    ]
    return f"({', '.join(required + others)})"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _data_docstring(package: str, name: str) -> list[str]:
    """The string below a name's assignment, in whichever file of the package has it."""
    for module in [*sys.modules]:
        if module.startswith(package):
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if found:
                return found
    raise ExtensionError(f"{package}.{name} has no docstring.")


@cache
def names_in_text() -> dict[str, str]:
    """What a page may call a public name, and where the reference has it."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        short = package.removeprefix("maxentflow.")
        for name in importlib.import_module(package).__all__:
            found.setdefault(f"{package}.{name}", f"{package}.{name}")
            found.setdefault(f"{short}.{name}", f"{package}.{name}")
            found.setdefault(f"{short.rpartition('.')[2]}.{name}", f"{package}.{name}")
            if name[0].isupper():
                found.setdefault(name, f"{package}.{name}")
    return found


def target_of(text: str) -> str | None:
    """The full name that a piece of code in a text means, if it is public.

    Example:
        >>> target_of('flows.build("spline", ...)')
        'maxentflow.flows.build'
    """
    match = _CALL.fullmatch(text)
    return names_in_text().get(match["name"]) if match else None


def _link_code(app: Sphinx, doctree: nodes.document) -> None:
    """Make links of public names in the text of pages that are not the reference."""
    docname = app.env.docname
    if docname.startswith(REFERENCE):
        return
    for literal in list(doctree.findall(nodes.literal)):
        target = target_of(literal.astext())
        inside = (nodes.reference, nodes.title, addnodes.pending_xref)
        if target is None or any(isinstance(parent, inside) for parent in _parents(literal)):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refdoc=docname
        )
        literal.replace_self(link)
        link += literal
    mentions = {
        node["reftarget"]
        for node in doctree.findall(addnodes.pending_xref)
        if node.get("refdomain") == "py"
    }
    _mentions(app.env)[docname] = mentions


def _parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while (node := node.parent) is not None:
        yield node


def _mentions(env: BuildEnvironment) -> dict[str, set[str]]:
    if not hasattr(env, "api_mentions"):
        env.api_mentions = {}
    return env.api_mentions


def _forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _mentions(env).pop(docname, None)


def _merge(
    app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment
) -> None:
    _mentions(env).update({name: _mentions(other).get(name, set()) for name in docnames})


def _find_elsewhere(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a name that is documented under another one of our modules."""
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    parts = target.removeprefix("maxentflow.").split(".")
    for start in range(len(parts) if target.startswith("maxentflow.") else 1):
        ending = "." + ".".join(parts[start:])
        homes = [entry for name, entry in domain.objects.items() if name.endswith(ending)]
        pages = {(entry.docname, entry.node_id) for entry in homes}
        if len(pages) == 1:
            docname, anchor = pages.pop()
            return make_refnode(app.builder, node["refdoc"], docname, anchor, content, target)
    return None


_written: dict[str, list[str]] = {}


def _keep(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    if what == "attribute":
        _written[name] = [*lines]


def _restore(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Undo what napoleon makes of an attribute's sentence with a colon: a type."""
    if what == "attribute":
        lines[:] = _written.pop(name)


class ListMentions(SphinxPostTransform):
    """Below each entry of the reference, the pages that link to it."""

    default_priority = 5  # before the links that it makes are resolved

    def run(self, **kwargs: Any) -> None:
        if not self.env.docname.startswith(REFERENCE):
            return
        for entry in self.document.findall(addnodes.desc):
            signature, content = entry.children[0], entry.children[-1]
            ids = set(signature.get("ids", ()))
            pages = [
                page for page, targets in sorted(_mentions(self.env).items()) if ids & targets
            ]
            if pages:
                content += self._line(pages)

    def _line(self, pages: list[str]) -> nodes.paragraph:
        line = nodes.paragraph("", "Pages about it: ", classes=["mentions"])
        for number, page in enumerate(pages):
            title = self.env.titles[page].astext()
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            line += nodes.Text(", " if number else "")
            line += nodes.reference("", title, internal=True, refuri=uri)
        return line


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("api", ApiDirective)
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)  # napoleon's is 500
    app.connect("doctree-read", _link_code)
    app.connect("missing-reference", _find_elsewhere)
    app.connect("env-purge-doc", _forget)
    app.connect("env-merge-info", _merge)
    app.add_post_transform(ListMentions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
