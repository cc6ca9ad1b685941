"""Record whole episodes of a policy, and write them as data sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import envs
from maxentflow.agents.agent import act_with
from maxentflow.agents.parts.demonstrations import import_minari
from maxentflow.agents.task_errors import close, of_the_task
from maxentflow.agents.training.evaluation import check_policy, episode_limit
from maxentflow.agents.training.files import check_place
from maxentflow.envs.spaces import is_rescaled
from maxentflow.envs.tasks import create

__all__ = ["check_dataset", "collect", "write_dataset"]


@torch.no_grad()
def collect(
    policy: TensorDictModuleBase,
    task: str | Callable[..., gym.Env[Any, Any]],
    *,
    episodes: int,
    deterministic: bool = False,
    seed: int = 0,
    **options: Any,
) -> list[TensorDict]:
    """Record whole episodes.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        task: a gymnasium id, or a function that makes an environment.
        episodes: how many, at least 1.
        deterministic: take the policy's mode rather than a sample.
        seed: of the first episode; episode ``i`` starts from ``seed + i``. Those of a task without
            a time limit are cut after 10,000 steps.
        options: keyword arguments of the task.

    Returns:
        For each episode a TensorDict of batch size ``(steps,)``: ``"observation"``, ``"action"``
        in [-1, 1], and ``"next"`` with ``"observation"``, ``"reward"``, ``"terminated"`` and
        ``"truncated"``.

    Raises:
        ValueError: there are no episodes, or the task cannot be made.

    Example:
        >>> from maxentflow import agents
        >>> agent = agents.make("sac", envs.make("Pendulum-v1"))
        >>> (episode,) = collect(agent.policy, "Pendulum-v1", episodes=1)
        >>> episode["action"].shape, episode["next", "reward"].shape
        (torch.Size([200, 1]), torch.Size([200, 1]))
    """
    check_policy(policy)
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    env = envs.make_single(task, **options)
    kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    found = []
    with torch.random.fork_rng(), set_exploration_type(kind):
        torch.manual_seed(seed)
        for index in range(episodes):
            found.append(_episode(policy, env, seed + index))
    close(env)
    return found


def _episode(policy: TensorDictModuleBase, env: gym.Env[Any, Any], seed: int) -> TensorDict:
    with of_the_task():
        observation, _ = env.reset(seed=seed)
    limit = episode_limit(env)
    steps: list[TensorDict] = []
    while not steps or not (steps[-1]["next", "terminated"] or steps[-1]["next", "truncated"]):
        seen = torch.as_tensor(np.array(observation))
        action = act_with(policy, seen[None])["action"][0]
        with of_the_task():
            observation, reward, terminated, truncated, _ = env.step(action.cpu().numpy())
        following = {
            "observation": torch.as_tensor(np.array(observation)),
            "reward": torch.tensor([float(reward)]),
            "terminated": torch.tensor([bool(terminated)]),
            "truncated": torch.tensor([bool(truncated) or len(steps) + 1 >= limit]),
        }
        steps.append(TensorDict({"observation": seen, "action": action.cpu(), "next": following}))
    return torch.stack(steps).contiguous()


def check_dataset(name: str, task: str | Callable[..., gym.Env[Any, Any]], **options: Any) -> None:
    """See that a data set can be written, before anything is recorded for it.

    Args:
        name: as of :func:`write_dataset`.
        task: the episodes' task.
        options: its keyword arguments.

    Raises:
        ValueError: as of :func:`write_dataset`.

    Example:
        >>> check_dataset("nowhere/steps.npz", "Pendulum-v1")
        Traceback (most recent call last):
        ValueError: Cannot write the data set nowhere/steps.npz: nowhere is no folder.
    """
    env = envs.make_single(task, **options)
    if not isinstance(env.action_space, gym.spaces.Box):
        raise ValueError("A data set of demonstrations needs continuous actions.")
    close(env)
    if name.endswith(".npz"):
        path = Path(name).expanduser()
        if path.exists():
            raise ValueError(f"{path} exists already.")
        check_place(path, "data set")
        return
    minari = import_minari()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no name of a Minari data set, such as a/b-v0.") from error
    if name in minari.list_local_datasets():
        raise ValueError(f"Data set {name!r} exists already.")


def write_dataset(
    recorded: Sequence[TensorDict],
    name: str,
    task: str | Callable[..., gym.Env[Any, Any]],
    **options: Any,
) -> None:
    """Write episodes of continuous actions.

    Args:
        recorded: of :func:`collect`.
        name: of a new Minari data set, such as ``"hopper/meow-v0"``, with actions as the task
            itself takes them; or a ``.npz`` file with arrays ``observation`` and ``action``, in
            [-1, 1], of all steps.
        task: the episodes' task.
        options: its keyword arguments.

    Raises:
        ValueError: actions are not continuous, the data set exists already or cannot be written,
            or the package minari is missing.

    Example:
        >>> import tempfile
        >>> from maxentflow import agents
        >>> agent = agents.make("sac", envs.make("Pendulum-v1"))
        >>> recorded = collect(agent.policy, "Pendulum-v1", episodes=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_dataset(recorded, f"{folder}/steps.npz", "Pendulum-v1")
        ...     np.load(f"{folder}/steps.npz")["action"].shape
        (400, 1)
    """
    check_dataset(name, task, **options)
    if name.endswith(".npz"):
        path = Path(name).expanduser()
        arrays: dict[str, Any] = {
            key: torch.cat([each[key] for each in recorded]).numpy()
            for key in ("observation", "action")
        }
        try:
            np.savez(path, **arrays)
        except OSError as error:
            raise ValueError(f"Cannot write {path}: {error.strerror or error}.") from error
        return
    import minari
    from minari.data_collector import EpisodeBuffer

    env = create(task, options)
    space, standard = env.action_space, envs.make_single(task, **options).observation_space
    assert isinstance(space, gym.spaces.Box)
    rescaled = is_rescaled(env)
    middle = (space.high + space.low) / 2 if rescaled else np.float32(0.0)
    half = (space.high - space.low) / 2 if rescaled else np.float32(1.0)
    buffers = []
    for each in recorded:
        following = each["next"]
        seen = torch.cat([each["observation"], following["observation"][-1:]])
        buffers.append(
            EpisodeBuffer(
                observations=seen.numpy(),
                actions=(middle + half * each["action"].numpy()).astype(space.dtype),
                rewards=following["reward"].squeeze(-1).numpy(),
                terminations=following["terminated"].squeeze(-1).numpy(),
                truncations=following["truncated"].squeeze(-1).numpy(),
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a data set may be described with
            minari.create_dataset_from_buffers(name, buffers, env=env, observation_space=standard)
    except Exception as error:  # minari raises what its storage raises
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ValueError(f"Data set {name!r} cannot be written: {reason}.") from error
