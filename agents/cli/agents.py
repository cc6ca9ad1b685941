"""``maxentflow agents``: what there is to train."""

from __future__ import annotations

from dataclasses import dataclass

from maxentflow.agents import registry
from maxentflow.agents.cli.parsing import parse

__all__ = ["run"]


@dataclass
class _Agents:
    """List the agents, with the kind of actions that each takes."""


def run(arguments: list[str]) -> None:
    """Print a line for each agent."""
    parse(_Agents, arguments, "agents")
    summaries = registry.summaries()
    width = max(map(len, summaries))
    kinds = {name: " or ".join(each.actions) for name, each in summaries.items()}
    widest = max(map(len, kinds.values()))
    for name, each in summaries.items():
        print(f"{name:{width}}  {kinds[name]:{widest}}  {each.about}")
