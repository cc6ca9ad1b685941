"""The command line: ``maxentflow train``, ``evaluate`` and ``plot``."""

from maxentflow.agents.cli.dispatch import main

__all__ = ["main"]
