"""Find the command, and end every failure in one sentence.

Only the standard library is imported here: the usage is shown at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from maxentflow.agents.cli import help_texts, imports
from maxentflow.agents.cli.examples import EXAMPLES
from maxentflow.agents.names import BUILT_IN

__all__ = ["main"]

_COMMANDS = tuple(EXAMPLES)  # a module of this package each

_USAGE = """\
usage: maxentflow COMMAND ...

commands:
  train AGENT --env TASK     train an agent, e.g. maxentflow train meow --env Hopper-v4
  train --resume RUN ...     continue exactly where the last checkpoint is
  sweep SPEC.yaml            train many runs that differ in some settings, also on a cluster
  evaluate RUN [options]     run episodes with a trained policy, or film one
  plot RUN [RUN ...]         learning curves, with the published ones
  compare RUN [RUN ...]      a table of runs: returns with intervals, sample efficiency
  robustness RUN [RUN ...]   returns where friction, masses or the ground differ from training
  diagnose RUN [options]     the soft value against returns, of meow and soft-q
  collect RUN --out NAME     episodes of a trained policy as a data set, for bc
  export RUN [options]       a policy as a torch or ONNX file that runs without this package
  watch RUN [options]        an episode in a window, or as a film where there is no screen
  package RUN [options]      a policy as one file to share; evaluate and watch take it
  report RUN [RUN ...]       one HTML page: curves, settings, a film, and a health check
  runs [FOLDER ...]          the runs in a folder, with steps, return and state
  show RUN                   settings, versions and metrics of a run
  agents                     the agents, and the actions that each takes
  completion bash|zsh        a script by which the shell completes commands and options

examples:
  maxentflow train meow --env Hopper-v4 --total-steps 300000
  maxentflow evaluate runs/Hopper-v4-meow-0 --episodes 20 --stochastic

Agents: {agents}.
COMMAND --help tells the options, train AGENT --help those of an agent.
--version tells the version. With any command, --import MODULE first imports a module of yours,
which registers flows, agents or tasks.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: words after the program's name; those of the process by default.

    Raises:
        SystemExit: with code 2 after one sentence on standard error, for anything that cannot be
            done; 130 after Ctrl-C; 143 after SIGTERM; 129 after SIGHUP; 141 if nobody reads the
            output any more.
    """
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    # Ray, which torchrl imports, would abort with a trace at a SIGTERM while it starts.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python's own flush at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, FloatingPointError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            message = f"{place}{error.strerror or error}."
        _say(f"maxentflow: {' '.join(message.splitlines())}")
        sys.exit(2)
    except RuntimeError as error:
        from maxentflow.agents.task_errors import TaskError

        if not isinstance(error, TaskError):
            raise
        _say(f"maxentflow: {str(error)[0].upper()}{str(error)[1:].removesuffix('.')}.")
        sys.exit(2)
    except SystemExit as end:
        for note in getattr(end, "__notes__", ()):
            _say(note)
        raise
    except KeyboardInterrupt as interrupt:
        _say(f"\n{str(interrupt) or 'Interrupted.'}")
        sys.exit(130)


def _say(sentence: str) -> None:
    with suppress(OSError):  # of a terminal that is gone, or a file on a full disk
        print(sentence, file=sys.stderr)


def _run(words: list[str]) -> None:
    arguments = imports.take(words)
    first, helps = {*arguments[:2]}, {"-h", "--help"}
    resumes = arguments[:2] == ["train", "--resume"] and not helps.isdisjoint(arguments)
    if resumes or (first <= {"train", *helps} and first != {"train"}):
        registry = sys.modules.get("maxentflow.agents.registry")
        names = BUILT_IN if registry is None else registry.registered()
        print(_USAGE.format(agents=", ".join(names)), end="")
        return
    if arguments == ["--version"]:
        print(f"maxentflow {importlib.metadata.version('maxentflow')}")
        return
    if (text := help_texts.written(words)) is not None:
        print(text, end="")
        sys.exit()
    command, *rest = arguments
    if command not in _COMMANDS:
        from maxentflow.agents.registry import unknown_name

        raise unknown_name("command", command, _COMMANDS)
    importlib.import_module(f"maxentflow.agents.cli.{command}").run(rest)
