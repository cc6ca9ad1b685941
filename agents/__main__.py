"""``python -m maxentflow.agents`` is the command line."""

from maxentflow.agents.cli import main

main()
