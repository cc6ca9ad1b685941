"""``maxentflow diagnose``: V against returns, the policy's noise, and what the squash loses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from tensordict import TensorDict

from maxentflow.agents.agent import Agent
from maxentflow.agents.cli import figures
from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.cli.tables import write_table
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import RunFolder, diagnose
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.evaluation import AT_ONCE
from maxentflow.agents.training.files import check_place
from maxentflow.agents.training.replay import read_files

__all__ = ["run"]

_TRANSITIONS = 10_000  # of the replay


@dataclass
class _Diagnose:
    """Compare a trained agent's soft value with its returns, and measure its policy's noise.

    For agents with a soft value: meow and soft-q."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    episodes: int = 10
    """How many to play, with sampled actions."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""
    out: Path | None = None
    """Where to write the figure, a .png file, with the numbers beside it as .csv; RUN/diagnose.png
    by default."""


def run(arguments: list[str]) -> None:
    """Measure, print the numbers, then write them and draw a figure."""
    options = parse(_Diagnose, arguments, "diagnose")
    folder = RunFolder(options.run)
    out = folder.path / "diagnose.png" if options.out is None else options.out
    _check(options, out)
    description = read(folder)
    env = make_env(description, min(options.episodes, AT_ONCE))
    agent = trained(description, folder, env)
    replay = _replay(folder, agent)
    result = diagnose(agent, env, episodes=options.episodes, seed=options.seed, replay=replay)
    close(env)
    print(
        f"{description.env}, {len(result.value)} states of {options.episodes} episodes, samples:"
    )
    print(result)
    rows = [{"name": name, "value": value} for name, value in result.numbers.items()]
    write_table(rows, out.with_suffix(".csv"))
    figures.diagnosis(result, folder, out)
    print(f"Figure: {out}")


def _check(options: _Diagnose, out: Path) -> None:
    check_least(options, episodes=1, seed=0)
    if options.out is not None:
        check_place(out, "figure", ".png")


def _replay(folder: RunFolder, agent: Agent) -> TensorDict | None:
    """Transitions of the checkpoint's replay, if its files are there."""
    try:
        experience = (folder.load_checkpoint() or {}).get("experience", {})
    except ValueError:  # the policy is that of the checkpoint before
        return None
    paths = [folder.replay_path / name for name in experience.get("files", ())]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return read_files(paths, ("observation", "action", *agent.stored), _TRANSITIONS)
