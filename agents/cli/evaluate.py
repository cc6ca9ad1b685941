"""``maxentflow evaluate``: whole episodes with a trained policy, and a film of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow.agents.agent import act_with
from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import evaluate, record_video
from maxentflow.agents.training.archive import opened
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.evaluation import AT_ONCE, STEP_LIMIT
from maxentflow.agents.training.files import check_place

__all__ = ["run"]


@dataclass
class _Evaluate:
    """Run whole episodes with a trained policy."""

    run: tyro.conf.Positional[Path]
    """The run's folder, a file of its checkpoints such as stopped_N.pt, or an archive of
    maxentflow package."""
    episodes: int = 10
    """How many."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the policy with the highest return of an evaluation so far, in place of the newest."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""
    max_steps: int | None = None
    """Cut episodes after so many steps; by default only those of tasks without a time limit."""
    video: Path | None = None
    """Also film one episode into this mp4."""


def run(arguments: list[str]) -> None:
    """Evaluate, print the result, then film."""
    options = parse(_Evaluate, arguments, "evaluate")
    _check(options)
    with opened(options.run) as folder:
        description = read(folder)
        env = make_env(description, min(options.episodes, AT_ONCE))
        policy = trained(description, folder, env, best=options.best).policy
    how: dict[str, Any] = {"deterministic": not options.stochastic, "seed": options.seed}
    result = evaluate(policy, env, episodes=options.episodes, max_steps=options.max_steps, **how)
    close(env)
    if not np.isfinite(result.returns).all():
        raise ValueError(f"The returns of the policy in {options.run} are not finite.")
    print(f"{description.env}, {'samples' if options.stochastic else 'mode'}: {result}")
    if options.stochastic and _is_deterministic(policy, result.first_observations):
        print("Where these episodes began, every sample of the policy was its mode.")
    if options.video is not None:
        how |= {"max_steps": options.max_steps or STEP_LIMIT, **description.env_kwargs}
        record_video(policy, description.env, options.video, **how)
        print(f"Video: {options.video}")


@torch.no_grad()
def _is_deterministic(policy: TensorDictModuleBase, observations: Any) -> bool:
    """Whether samples are the mode, at each of some observations."""
    actions = []
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        with set_exploration_type(kind):
            actions.append(act_with(policy, torch.as_tensor(observations))["action"])
    return torch.equal(*actions)


def _check(options: _Evaluate) -> None:
    check_least(options, episodes=1, max_steps=1, seed=0)
    video = options.video
    if video is None:
        return
    check_place(video, "video", ".mp4")
    is_new = not video.exists()
    try:
        video.open("ab").close()
    except OSError as error:
        raise ValueError(f"Cannot write the video {video}: {error.strerror}.") from error
    if is_new:
        video.unlink()
