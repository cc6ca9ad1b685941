"""``maxentflow collect``: episodes of a trained policy as a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import RunFolder
from maxentflow.agents.training.collection import check_dataset, collect, write_dataset
from maxentflow.agents.training.description import make_env, read, trained

__all__ = ["run"]


@dataclass
class _Collect:
    """Record episodes of a trained policy, for bc to clone."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: str
    """A new Minari data set, by its name, or a .npz file."""
    episodes: int = 100
    """How many."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the mode instead of sampling actions."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""


def run(arguments: list[str]) -> None:
    """Record, write, and say how good the episodes were."""
    options = parse(_Collect, arguments, "collect")
    check_least(options, episodes=1, seed=0)
    folder = RunFolder(options.run)
    description = read(folder)
    check_dataset(options.out, description.env, **description.env_kwargs)
    env = make_env(description, 1)
    policy = trained(description, folder, env).policy
    close(env)
    recorded = collect(
        policy,
        description.env,
        episodes=options.episodes,
        deterministic=options.deterministic,
        seed=options.seed,
        **description.env_kwargs,
    )
    write_dataset(recorded, options.out, description.env, **description.env_kwargs)
    steps = sum(len(episode) for episode in recorded)
    mean = sum(float(each["next", "reward"].sum()) for each in recorded) / len(recorded)
    print(
        f"{options.out}: {len(recorded)} episodes of {description.env}, {steps} steps, "
        f"mean return {mean:.1f}"
    )
