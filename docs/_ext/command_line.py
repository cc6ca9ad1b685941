"""The directive ``command-line``: every command's options, as the program itself prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table

from maxentflow import agents
from maxentflow.agents.cli.help_texts import printed

HEADER = ("Option", "Default", "Meaning")
WIDTHS = (30, 15, 55)
_WIDE = 1_000  # columns, so that the program breaks no line


@dataclass
class Group:
    """A box of the help."""

    title: str
    options: list[tuple[str, str]] = field(default_factory=list)
    """What is written, and what it means."""


@dataclass(frozen=True)
class Help:
    """What a command says of itself."""

    usage: str
    about: str
    groups: list[Group]


def commands() -> Iterator[list[str]]:
    """The words of each command, an agent's own where a command takes an agent."""
    named = re.findall(r"^  (?!maxentflow )([a-z-]+) ", printed([], _WIDE), re.MULTILINE)
    for command in dict.fromkeys(named):
        if command == "train":
            yield from (["train", agent] for agent in agents.registered())
            yield ["train", "--resume"]
        else:
            yield [command]


def read_help(text: str) -> Help:
    """Take a help text apart.

    Example:
        >>> read_help('''usage: x
        ...
        ... Draw runs.
        ...
        ...  options
        ...  -----------------------------
        ...   --out PATH   Where to write.
        ... ''').groups
        [Group(title='options', options=[('--out PATH', 'Where to write.')])]
    """
    text = re.sub(r"^  \S.*\n  -+ *\n", "", text, flags=re.MULTILINE)  # a group's description
    head, *rest = re.split(r"^ (?=\S.*\n -+ *$)", text, flags=re.MULTILINE)
    usage, _, about = head.partition("\n\n")
    return Help(
        usage.removeprefix("usage: ").strip(), " ".join(about.split()), [*map(_group, rest)]
    )


def _group(text: str) -> Group:
    title, _, *lines = text.splitlines()
    group = Group(title.strip())
    for line in lines:
        if re.match(r"  \S", line):
            flag, meaning = re.fullmatch(r"  (.*?)(?:\s{2,}(.*?))?\s*", line).groups()
            group.options.append((flag, meaning or ""))
        elif group.options and line.strip():
            flag, meaning = group.options[-1]
            group.options[-1] = flag, f"{meaning} {line.strip()}".strip()
    group.options = [option for option in group.options if option[0] != "-h, --help"]
    return group


class CommandLineDirective(SphinxDirective):
    """``command-line``: a section for each command."""

    def run(self) -> list[nodes.Node]:
        return [_section(words) for words in commands()]


def _section(words: list[str]) -> nodes.section:
    name = " ".join(words)
    said = read_help(printed([*words, "--help"], _WIDE))
    section = nodes.section("", nodes.title("", name), ids=[nodes.make_id(f"cli-{name}")])
    section += nodes.literal_block(said.usage, said.usage, language="text")
    section += nodes.paragraph("", said.about)
    for group in said.groups:
        section += nodes.rubric("", group.title.capitalize().replace("-config options", ""))
        section += table(HEADER, WIDTHS, (_cells(*option) for option in group.options))
    return section


def _cells(flag: str, meaning: str) -> tuple[list[nodes.Node], ...]:
    text, default = re.fullmatch(r"(.*?)(?:\s*\(default: (.*)\))?", meaning).groups()
    shown = [nodes.literal("", default)] if default else []
    words = [
        nodes.literal("", part) if part.startswith("--") else nodes.Text(part)
        for part in re.split(r"(--[a-z][a-z-]*)", text)
    ]
    return [nodes.literal("", flag)], shown, words


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLineDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
