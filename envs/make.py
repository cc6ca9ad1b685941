"""Any gymnasium task, in the form that agents expect."""

from __future__ import annotations

import difflib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torchrl.envs import GymWrapper

from maxentflow.envs.resumable import Resumable
from maxentflow.envs.same_step import SameStepVectorEnv

__all__ = ["make", "make_single", "make_torchrl", "restore", "states"]


def make_single(
    env_id: str, *, seed: int | None = None, render_mode: str | None = None, **kwargs: Any
) -> Resumable:
    """One environment: actions rescaled to [-1, 1], observations as one float32 vector.

    Args:
        env_id: any gymnasium id.
        seed: seed of the first reset; ``None`` for chance.
        render_mode: as for :func:`gymnasium.make`.
        kwargs: passed on to the environment.

    Raises:
        ValueError: an unknown id, with near matches; an observation that is not numbers; an
            action space without finite bounds or of integers.

    Example:
        >>> make_single("Pendulum-v1").action_space
        Box(-1.0, 1.0, (1,), float32)
    """
    if ":" not in env_id and ("/" not in env_id or env_id.startswith("maxentflow/")):
        _check_known(env_id)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    with warnings.catch_warnings():
        # The v4 tasks are what the published curves were measured on; observations become float32
        # on purpose.
        warnings.filterwarnings("ignore", message=".*out of date.*")
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        try:
            env = gym.make(env_id, **kwargs)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(f"Unknown task {env_id!r}: {error}") from error
        except (gym.error.Error, ImportError) as error:
            raise ValueError(f"Task {env_id!r} cannot be made: {error}") from error
        return Resumable(_standardise(env, env_id), seed)


def _standardise(env: gym.Env[Any, Any], env_id: str) -> gym.Env[Any, Any]:
    observation_space, action_space = env.observation_space, env.action_space
    if isinstance(observation_space, (gym.spaces.Dict, gym.spaces.Tuple)):
        env = gym.wrappers.FlattenObservation(env)
    elif not isinstance(observation_space, gym.spaces.Box):
        raise ValueError(
            f"{env_id} observes {observation_space}; a Box, or a Dict or Tuple of them, is needed."
        )
    elif len(observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    if env.observation_space.dtype != np.float32:
        env = gym.wrappers.DtypeObservation(env, np.float32)
    if isinstance(action_space, gym.spaces.Box):
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ValueError(f"{env_id} has actions without finite bounds: {action_space}.")
        if not np.issubdtype(action_space.dtype, np.floating):
            raise ValueError(f"{env_id} has actions that are no real numbers: {action_space}.")
        env = gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return env


def make(
    env_id: str,
    num_envs: int = 1,
    *,
    seed: int | None = None,
    workers: bool = False,
    **kwargs: Any,
) -> SyncVectorEnv | AsyncVectorEnv:
    """A gymnasium vector environment of ``num_envs`` copies of a task.

    Actions lie in [-1, 1], observations are float32. An environment that ends is reset in the same
    step; ``truncations`` report time limits, and ``infos["final_obs"]`` holds the true last
    observations of the environments that ended.

    Args:
        env_id: any gymnasium id.
        num_envs: how many copies, at least 1.
        seed: seeds environment ``i`` with ``seed + i`` at its first reset; ``None`` for chance.
        workers: give each copy a process of its own, which pays where a step takes longer than
            the tenth of a millisecond that talking to a process takes. What happens in them is
            the same.
        kwargs: passed on to :func:`make_single`.

    Raises:
        ValueError: ``num_envs`` is below 1, or as :func:`make_single`.

    Example:
        >>> env = make("Hopper-v4", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> observation.shape, observation.dtype
        ((2, 11), dtype('float32'))
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    seeds = [None if seed is None else seed + index for index in range(num_envs)]
    copies: list[Callable[[], gym.Env[Any, Any]]]
    copies = [partial(make_single, env_id, seed=own_seed, **kwargs) for own_seed in seeds]
    first: gym.Env[Any, Any]
    if workers:
        copies = [partial(_uninterrupted, copy, os.getpid()) for copy in copies]
        first = copies[0]()  # here, so that a refusal is not one of another process
        # Forked where possible: a fresh process would import torchrl and the user's script.
        forks = "fork" in multiprocessing.get_all_start_methods()
        env: SyncVectorEnv | AsyncVectorEnv = AsyncVectorEnv(
            copies,
            autoreset_mode=AutoresetMode.SAME_STEP,
            context="fork" if forks else None,
        )
    else:
        env = SameStepVectorEnv(copies)
        first = env.envs[0]
    env.spec = first.spec  # gymnasium leaves it empty; agents read their task from it
    if workers:
        first.close()
    return env


def _uninterrupted(copy: Callable[[], gym.Env[Any, Any]], parent: int) -> gym.Env[Any, Any]:
    """A copy that lives on at Ctrl-C, which a terminal sends to workers as well.

    What the main process makes of it is its own matter; it may want to finish a step.
    """
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return copy()


def states(env: SyncVectorEnv | AsyncVectorEnv) -> list[dict[str, Any]]:
    """:meth:`Resumable.state` of each copy in a vector environment of :func:`make`.

    Example:
        >>> env = make("Pendulum-v1", num_envs=2)
        >>> _ = env.reset(seed=3)
        >>> [state["seed"] for state in states(env)]
        [3, 4]
    """
    return list(env.call("state"))


def restore(
    env: SyncVectorEnv | AsyncVectorEnv, states: Sequence[dict[str, Any]]
) -> NDArray[np.float32]:
    """Return every copy in a vector environment of :func:`make` to a state of its own.

    Args:
        env: the environment, in whatever state.
        states: what :func:`states` gave, one for each copy.

    Returns:
        The observations, shape ``(num_envs, obs_dim)``.

    Raises:
        ValueError: there are not as many states as copies.

    Example:
        >>> env = make("Pendulum-v1", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> bool((restore(make("Pendulum-v1", num_envs=2), states(env)) == observation).all())
        True
    """
    if len(states) != env.num_envs:
        raise ValueError(
            f"The checkpoint has {len(states)} environments, this run {env.num_envs}."
        )
    observation, _ = env.reset()
    for index, state in enumerate(states):
        this = np.arange(env.num_envs) == index
        observation, _ = env.reset(options={"reset_mask": this, "restore": state})
    return observation


def make_torchrl(
    env_id: str, *, seed: int | None = None, device: str = "cpu", **kwargs: Any
) -> GymWrapper:
    """The same task as one TorchRL environment, for TorchRL's collectors and rollouts.

    Args:
        env_id: any gymnasium id.
        seed: seed of the first reset; ``None`` for chance.
        device: where its tensors are.
        kwargs: passed on to :func:`make_single`.

    Raises:
        ValueError: as :func:`make_single`.

    Example:
        >>> env = make_torchrl("Hopper-v4", seed=0)
        >>> env.rollout(3)["next", "reward"].shape
        torch.Size([3, 1])
    """
    return GymWrapper(make_single(env_id, seed=seed, **kwargs), device=device)


def _check_known(env_id: str) -> None:
    if env_id in gym.registry:
        return
    near = difflib.get_close_matches(env_id, gym.registry, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Unknown task {env_id!r}.{hint}")
