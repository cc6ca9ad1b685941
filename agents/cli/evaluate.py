"""``maxentflow evaluate``: whole episodes with a trained policy, and a film of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maxentflow.agents.cli.assemble import make_env, trained
from maxentflow.agents.cli.conclusion import AT_ONCE
from maxentflow.agents.cli.description import read
from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.training import RunFolder, evaluate, record_video
from maxentflow.agents.training.evaluation import STEP_LIMIT

__all__ = ["run"]


@dataclass
class _Evaluate:
    """Run whole episodes with a trained policy."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    episodes: int = 10
    """How many."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""
    max_steps: int | None = None
    """Cut episodes after so many steps; by default only those of tasks without a time limit."""
    video: Path | None = None
    """Also film one episode into this mp4."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("max_steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        if self.video is not None:
            _check_video(self.video)


def run(arguments: list[str]) -> None:
    """Evaluate, print the result, then film.

    Raises:
        ValueError: something is wrong with the arguments, the run or the film.
    """
    options = parse(_Evaluate, arguments, "evaluate")
    folder = RunFolder(options.run)
    description = read(folder)
    env = make_env(description, min(options.episodes, AT_ONCE))
    policy = trained(description, folder, env).policy
    result = evaluate(
        policy,
        env,
        episodes=options.episodes,
        deterministic=not options.stochastic,
        seed=options.seed,
        max_steps=options.max_steps,
    )
    env.close()
    print(f"{description.env}, {'samples' if options.stochastic else 'mode'}: {result}")
    if options.video is not None:
        record_video(
            policy,
            description.env,
            options.video,
            deterministic=not options.stochastic,
            seed=options.seed,
            max_steps=options.max_steps or STEP_LIMIT,
            **description.env_options,
        )
        print(f"Video: {options.video}")


def _check_video(path: Path) -> None:
    """Refuse a file that cannot be, before anything is computed."""
    if path.suffix != ".mp4":
        raise ValueError(f"A video must be an .mp4 file, got {path}.")
    if path.is_dir():
        raise ValueError(f"Cannot write a video to {path}: it is a folder.")
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write a video to {path}: {path.parent} is no folder.")
