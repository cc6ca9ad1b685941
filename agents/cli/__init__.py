"""The command line: ``maxentflow train``, ``evaluate``, ``plot``, ``compare``, ``diagnose`` and
``agents``."""

from maxentflow.agents.cli.dispatch import main

__all__ = ["main"]
