"""Evaluate a policy on whole episodes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import envs
from maxentflow.agents.agent import act_with
from maxentflow.agents.task_errors import TaskError, close, of_the_task
from maxentflow.agents.training.files import write_atomically
from maxentflow.agents.training.simulator import STEP_LIMIT, check_finite, check_tensor

__all__ = ["AT_ONCE", "Evaluation", "evaluate", "record_video", "watch"]

AT_ONCE = 10
"""Episodes of an evaluation that run together."""

_OBSERVATION = "observation of an evaluation"

Task = str | Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Numbers of whole episodes.

    Attributes:
        returns: undiscounted, shape ``(episodes,)``.
        lengths: in steps, shape ``(episodes,)``.
        cut: how many episodes were cut since they had no end.
        first_observations: what each began with, shape ``(episodes, ·)``.
        discounted_returns: by the discount that was given, shape ``(episodes,)``.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    cut: int = 0
    first_observations: NDArray[Any] | None = None
    discounted_returns: NDArray[np.float64] | None = None

    def __str__(self) -> str:
        text = (
            f"return {self.returns.mean():.1f} ± {self.returns.std():.1f} "
            f"over {len(self.returns)} episodes of {self.lengths.mean():.0f} steps"
        )
        return text + (f", {self.cut} of which were cut there" if self.cut else "")


@torch.no_grad()
def evaluate(
    policy: TensorDictModuleBase,
    env: Task | VectorEnv | EnvBase,
    *,
    episodes: int = 10,
    deterministic: bool = True,
    seed: int = 0,
    max_steps: int | None = None,
    gamma: float = 1.0,
    device: str = "cpu",
) -> Evaluation:
    """Run whole episodes and sum their rewards.

    Episode ``i`` starts from ``seed + i``, whatever happens in the others; of a TorchRL
    environment the copies are seeded together, with the seed of the first. The generators of torch
    are left as they were.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        env: a gymnasium id; a function that makes a gymnasium environment; a vector environment of
            :func:`maxentflow.envs.make` or a TorchRL environment, whose copies run an episode each
            at a time.
        episodes: how many, at least 1.
        deterministic: take the policy's mode rather than a sample.
        seed: of the first episode.
        max_steps: cut episodes after so many steps; by default after 10,000 steps in a task
            without a time limit, and never in others.
        gamma: discount of the discounted returns.
        device: where the policy is.

    Raises:
        ValueError: ``policy`` is none, or takes no observations of this task; ``episodes`` or
            ``max_steps`` is below 1, ``seed`` negative, or ``gamma`` outside [0, 1].
        FloatingPointError: an observation or a reward is not finite.
        TaskError: the environment raised an exception.

    Example:
        >>> agent = make("meow", envs.make("Pendulum-v1"))
        >>> evaluate(agent.policy, "Pendulum-v1", episodes=2).lengths
        array([200, 200])
    """
    check_policy(policy)
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}.")
    exploration = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    with torch.random.fork_rng(), set_exploration_type(exploration):
        torch.manual_seed(seed)
        if isinstance(env, EnvBase):
            limit = max_steps or STEP_LIMIT
            return _evaluate_torchrl(policy, env, episodes, seed, limit, gamma, device)
        if isinstance(env, VectorEnv):
            return _evaluate_vector(policy, env, episodes, seed, max_steps, gamma, device)
        made = envs.make(env, min(episodes, AT_ONCE))
        try:
            return _evaluate_vector(policy, made, episodes, seed, max_steps, gamma, device)
        finally:
            close(made)


def check_policy(policy: object) -> None:
    """Refuse what is no policy, such as an agent.

    Raises:
        ValueError: it cannot be called.
    """
    if not callable(policy):
        raise ValueError(f"A policy is needed, such as agent.policy, got {type(policy).__name__}.")


def episode_limit(env: VectorEnv | gym.Env[Any, Any]) -> int:
    """Steps after which an episode is cut: the task's own limit, or :data:`STEP_LIMIT`."""
    limit = None if env.spec is None else env.spec.max_episode_steps
    return STEP_LIMIT if limit is None else limit


def _evaluate_vector(
    policy: TensorDictModuleBase,
    env: VectorEnv,
    episodes: int,
    seed: int,
    max_steps: int | None,
    gamma: float,
    device: str,
) -> Evaluation:
    observation: NDArray[Any]

    def begin(first: int) -> NDArray[Any]:
        nonlocal observation
        seeds: Any = [first + index for index in range(env.num_envs)]  # gymnasium types one only
        with of_the_task():
            observation, _ = env.reset(seed=seeds)
        check_finite(_OBSERVATION, observation)
        return observation

    def step() -> tuple[NDArray[Any], NDArray[Any]]:
        nonlocal observation
        seen = torch.from_numpy(observation).to(device)
        action = act_with(policy, seen)["action"]
        with of_the_task():
            observation, reward, terminated, truncated, _ = env.step(action.cpu().numpy())
        check_finite(_OBSERVATION, observation)
        return reward, terminated | truncated

    limit = max_steps or episode_limit(env)
    return _play(begin, step, env.num_envs, episodes, seed, limit, gamma)


def _evaluate_torchrl(
    policy: TensorDictModuleBase,
    env: EnvBase,
    episodes: int,
    seed: int,
    max_steps: int,
    gamma: float,
    device: str,
) -> Evaluation:
    copies = env.batch_size.numel()
    present: TensorDictBase

    def shown() -> TensorDictBase:
        return present.select("observation").reshape(copies)

    def begin(first: int) -> NDArray[Any]:
        nonlocal present
        with of_the_task():
            env.set_seed(first)
            present = env.reset()
        check_tensor(_OBSERVATION, present["observation"])
        return shown()["observation"].numpy(force=True)

    def step() -> tuple[NDArray[Any], NDArray[Any]]:
        nonlocal present
        action = act_with(policy, shown()["observation"].to(device))["action"].to(env.device)
        action = action.reshape(env.action_spec.shape)
        with of_the_task():
            stepped, present = env.step_and_maybe_reset(present.set("action", action))
        check_tensor(_OBSERVATION, present["observation"])
        reward, done = (
            stepped["next", name].reshape(copies).numpy(force=True) for name in ("reward", "done")
        )
        return reward, done

    return _play(begin, step, copies, episodes, seed, max_steps, gamma)


def _play(
    begin: Callable[[int], NDArray[Any]],
    step: Callable[[], tuple[NDArray[Any], NDArray[Any]]],
    copies: int,
    episodes: int,
    seed: int,
    max_steps: int,
    gamma: float,
) -> Evaluation:
    """Whole episodes, as many at a time as there are copies.

    Args:
        begin: resets all copies from a seed, and gives what they observe.
        step: takes a step of all; gives rewards, and where episodes are over.
        copies: how many.
        episodes: as of :func:`evaluate`, and so are the others.
    """
    beginnings, cut = [], 0
    returns, discounted = np.zeros(episodes), np.zeros(episodes)
    lengths = np.zeros(episodes, dtype=np.int64)
    for first in range(0, episodes, copies):
        running = np.arange(first, first + copies)
        alive = running < episodes
        beginnings.append(begin(seed + first)[alive])
        for count in range(max_steps):
            reward, over = step()
            check_finite("reward of an evaluation", reward[alive])
            returns[running[alive]] += reward[alive]
            discounted[running[alive]] += gamma**count * reward[alive]
            lengths[running[alive]] += 1
            alive &= ~over
            if not alive.any():
                break
        cut += int(alive.sum())
    return Evaluation(returns, lengths, cut, np.concatenate(beginnings), discounted)


@torch.no_grad()
def record_video(
    policy: TensorDictModuleBase,
    env: Task,
    path: str | os.PathLike[str],
    *,
    deterministic: bool = True,
    seed: int = 0,
    max_steps: int = STEP_LIMIT,
    **options: Any,
) -> None:
    """Write one episode as an mp4.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        env: a gymnasium id, or a function that makes an environment that renders.
        path: where the film goes.
        deterministic: take the policy's mode rather than a sample.
        seed: of the episode.
        max_steps: cut the episode after so many steps.
        options: keyword arguments of the environment.

    Raises:
        ValueError: the task cannot render, or the file cannot be written.
        TaskError: the environment raised an exception.
    """
    check_policy(policy)
    import imageio.v2 as imageio

    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        # By default MuJoCo asks for a screen, and SDL, which draws for gymnasium, looks for one.
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
    with closing(envs.make_single(env, render_mode="rgb_array", **options)) as made:
        with of_the_task():
            observation, _ = made.reset(seed=seed)
        first = _picture(made, env)
        # ffmpeg does not say that a disk is full: what it wrote elsewhere is copied.
        with tempfile.TemporaryDirectory() as place:
            unfinished = Path(place) / "film.mp4"
            writer: Any
            with imageio.get_writer(
                unfinished,
                format="FFMPEG",
                fps=made.metadata.get("render_fps", 30),
                macro_block_size=2,
            ) as writer:
                writer.append_data(first)

                def film() -> None:
                    with of_the_task():
                        picture = made.render()
                    writer.append_data(picture)

                _act(policy, made, observation, deterministic, seed, max_steps, film)
            try:
                write_atomically(Path(path), unfinished.read_bytes())
            except OSError as error:
                raise ValueError(
                    f"Cannot write the video {path}: {error.strerror or error}."
                ) from error


@torch.no_grad()
def watch(
    policy: TensorDictModuleBase,
    env: Task,
    *,
    deterministic: bool = True,
    seed: int = 0,
    max_steps: int = STEP_LIMIT,
    **options: Any,
) -> float:
    """Show one episode in a window.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        env: a gymnasium id, or a function that makes an environment that renders.
        deterministic: take the policy's mode rather than a sample.
        seed: of the episode.
        max_steps: cut the episode after so many steps.
        options: keyword arguments of the environment.

    Returns:
        The episode's return.

    Raises:
        ValueError: the task cannot be shown.
        TaskError: the environment raised an exception.
    """
    check_policy(policy)
    with closing(envs.make_single(env, render_mode="human", **options)) as made:
        with of_the_task():
            observation, _ = made.reset(seed=seed)
        _picture(made, env)
        return _act(policy, made, observation, deterministic, seed, max_steps, lambda: None)


def _picture(made: gym.Env[Any, Any], env: Task) -> Any:
    try:
        with of_the_task():
            picture = made.render()
    except TaskError as error:  # each simulator raises its own where it cannot draw
        if isinstance(error.__cause__, NotImplementedError):
            raise ValueError(f"{env} cannot be drawn: it has no picture.") from error
        reason = str(error.__cause__) or type(error.__cause__).__name__
        raise ValueError(f"{env} cannot be drawn on this machine: {reason}.") from error
    if picture is None and made.render_mode == "rgb_array":
        raise ValueError(f"{env} cannot be drawn: its render gives no picture.")
    return picture


def _act(
    policy: TensorDictModuleBase,
    env: gym.Env[Any, Any],
    observation: NDArray[Any],
    deterministic: bool,
    seed: int,
    max_steps: int,
    after_step: Callable[[], None],
) -> float:
    """The return of an episode; torch's generators are as before at its end."""
    total = 0.0
    exploration = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    device = next((parameter.device for parameter in policy.parameters()), None)
    with torch.random.fork_rng(), set_exploration_type(exploration):
        torch.manual_seed(seed)
        for _ in range(max_steps):
            seen = torch.from_numpy(observation)[None].to(device)
            action = act_with(policy, seen)["action"][0].cpu().numpy()
            with of_the_task():
                observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            after_step()
            if terminated or truncated:
                break
    return total
