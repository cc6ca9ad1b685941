"""``maxentflow watch``: episodes of a trained policy in a window."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.task_errors import close
from maxentflow.agents.training.archive import opened
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.evaluation import record_video, watch

__all__ = ["run"]


@dataclass
class _Watch:
    """Show an episode of a trained policy in a window; without a screen, film it."""

    run: tyro.conf.Positional[Path]
    """The run's folder, or an archive of maxentflow package."""
    episodes: int = 1
    """How many."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the policy with the highest return of an evaluation so far, in place of the newest."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""


def run(arguments: list[str]) -> None:
    """Show or film, and say what the episodes earned or where the films are."""
    options = parse(_Watch, arguments, "watch")
    check_least(options, episodes=1, seed=0)
    with opened(options.run) as folder:
        description = read(folder)
        env = make_env(description, 1)
        policy = trained(description, folder, env, best=options.best).policy
        close(env)
    name = options.run.resolve().name.removesuffix(".zip")
    for seed in range(options.seed, options.seed + options.episodes):
        how: dict[str, Any] = {"deterministic": not options.stochastic, "seed": seed}
        how |= description.env_kwargs
        if has_screen():
            print(f"Episode from seed {seed}: return {watch(policy, description.env, **how):.1f}")
        else:
            path = Path(f"{name}-{seed}.mp4")
            record_video(policy, description.env, path, **how)
            print(f"There is no screen; video: {path}")


def has_screen() -> bool:
    """Whether a window can be opened."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
