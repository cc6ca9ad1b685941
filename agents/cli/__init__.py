"""The command line: ``maxentflow train``, ``evaluate``, ``plot`` and ``diagnose``."""

from maxentflow.agents.cli.dispatch import main

__all__ = ["main"]
