"""``maxentflow completion``: commands, agents and options by the Tab key."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from dataclasses import dataclass
from typing import Literal

import tyro

from maxentflow.agents.cli.examples import EXAMPLES
from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.names import BUILT_IN

__all__ = ["options_of", "run"]


@dataclass
class _Completion:
    """Print a script by which bash or zsh completes commands, agents, options and file names."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Whose script."""


_SCRIPT = """\
_maxentflow() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    elif [ "$command $COMP_CWORD" = "train 2" ]; then
        words="{agents} --resume"
    else
        case "$command ${{COMP_WORDS[2]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _maxentflow maxentflow
"""


def run(arguments: list[str]) -> None:
    """Print the script."""
    shell = parse(_Completion, arguments, "completion").shell
    cases = [
        *(f"train {name}" for name in BUILT_IN),
        "train --resume",
        *(command for command in EXAMPLES if command != "train"),
    ]
    script = _SCRIPT.format(
        commands=" ".join(EXAMPLES),
        agents=" ".join(BUILT_IN),
        cases="\n".join(
            f"        '{words}{'' if words.startswith('train') else ' '}'*) "
            f'words="{" ".join(options_of(words))}" ;;'
            for words in sorted(cases, key=len, reverse=True)  # sac is not flow-sac
        ),
    )
    if shell == "zsh":
        script = f"autoload -U +X bashcompinit && bashcompinit\n{script}"
    print(script, end="")


def options_of(words: str) -> list[str]:
    """The options that the help of a command names."""
    command, *rest = words.split()
    module = importlib.import_module(f"{__package__}.{command}")
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        module.run([*rest, "--help"])
    listed = re.findall(r"^[│|\s]*(?:-\w, )?(--[a-z][\w-]*)", help_text.getvalue(), re.M)
    return sorted({*listed, "--import", "--help"})
