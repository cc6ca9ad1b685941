"""``maxentflow export``: a policy as a file that runs without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.training.archive import opened
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.export import export
from maxentflow.agents.training.formats import SUFFIXES, Format

__all__ = ["run"]


@dataclass
class _Export:
    """Write the policy of a run as a file that runs without this package, and check that it gives
    the same actions."""

    run: tyro.conf.Positional[Path]
    """The run's folder, or an archive of maxentflow package."""
    format: Format = "torch-export"
    """What reads it: torch.export.load, torch.jit.load, or a runtime for ONNX."""
    out: Path | None = None
    """The file; policy.pt2, policy.pt or policy.onnx in the run's folder by default, of an archive
    one of its name in the present folder."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode; the file then takes the random numbers too."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the policy with the highest return of an evaluation so far, in place of the newest."""


def run(arguments: list[str]) -> None:
    """Write, and say what the file takes and gives."""
    options = parse(_Export, arguments, "export")
    with opened(options.run) as folder:
        description = read(folder)
        env = make_env(description, 1)
        agent = trained(description, folder, env, best=options.best)
    default = Path(options.run.stem) if options.run.is_file() else options.run / "policy"
    path = options.out or default.with_name(default.name + SUFFIXES[options.format])
    noise = export(agent, env, path, format=options.format, stochastic=options.stochastic)
    env.close()
    inputs = "".join(
        f", {each.name} (rows, {', '.join(map(str, each.shape))}) {each.distribution}"
        for each in noise
    )
    print(f"{path}: from observation{inputs} to action, in the units of {description.env}")
    print(f"Inputs and output: {path}.json")
