"""The command line, ``maxentflow``."""

from maxentflow.agents.cli.dispatch import main

__all__ = ["main"]
