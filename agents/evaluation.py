"""What a policy earns."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import envs

__all__ = ["Evaluation", "evaluate"]

_AT_ONCE = 10


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of episodes, shape ``(episodes,)`` each."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    def __str__(self) -> str:
        return (
            f"return {self.returns.mean():.1f} ± {self.returns.std():.1f} "
            f"over {len(self.returns)} episodes of {self.lengths.mean():.0f} steps"
        )


def evaluate(
    policy: TensorDictModuleBase,
    env_id: str,
    *,
    episodes: int = 10,
    deterministic: bool = True,
    seed: int = 0,
    env: SyncVectorEnv | AsyncVectorEnv | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Run whole episodes and sum their rewards.

    Episode ``i`` starts from ``seed + i``, whatever happens in the others. The generators of
    torch are left as they were.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        env_id: the task.
        episodes: how many, at least 1.
        deterministic: take the policy's mode rather than a sample.
        seed: of the first episode.
        env: environments to run in, one episode each at a time; made here by default.
        device: where the policy is.

    Raises:
        ValueError: ``episodes`` is below 1, or ``seed`` negative.

    Example:
        >>> agent = make("meow", envs.make("Pendulum-v1"))
        >>> evaluate(agent.policy, "Pendulum-v1", episodes=2).lengths
        array([200, 200])
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    own = env is None
    if env is None:
        env = envs.make(env_id, min(episodes, _AT_ONCE))
    exploration = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    returns = np.zeros(episodes)
    lengths = np.zeros(episodes, dtype=np.int64)
    with torch.random.fork_rng(), torch.no_grad(), set_exploration_type(exploration):
        torch.manual_seed(seed)
        for first in range(0, episodes, env.num_envs):
            running = np.arange(first, first + env.num_envs)
            seeds: list[int | None] = [seed + int(index) for index in running]
            alive = running < episodes
            observation, _ = env.reset(seed=seeds)
            while alive.any():
                batch = TensorDict(
                    observation=torch.from_numpy(observation).to(device),
                    batch_size=[env.num_envs],
                )
                action = policy(batch)["action"].cpu().numpy()
                observation, reward, terminated, truncated, _ = env.step(action)
                returns[running[alive]] += reward[alive]
                lengths[running[alive]] += 1
                alive &= ~(terminated | truncated)
    if own:
        env.close()
    return Evaluation(returns, lengths)


def record_video(
    policy: TensorDictModuleBase, env_id: str, path: str, *, deterministic: bool, seed: int
) -> None:
    """Write one episode as an mp4.

    Raises:
        ValueError: the task cannot render, or the file cannot be written.
    """
    import imageio.v2 as imageio

    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's own default asks for a screen
    env = envs.make_single(env_id, render_mode="rgb_array")
    exploration = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    observation, _ = env.reset(seed=seed)
    over = False
    try:
        first = env.render()
    except Exception as error:  # each simulator raises its own where it cannot draw
        raise ValueError(f"{env_id} cannot be drawn on this machine: {error}.") from error
    try:
        writer: Any = imageio.get_writer(
            path, format="FFMPEG", fps=env.metadata.get("render_fps", 30), macro_block_size=2
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot write a video to {path}: {error}.") from error
    with writer, torch.random.fork_rng(), torch.no_grad(), set_exploration_type(exploration):
        torch.manual_seed(seed)
        writer.append_data(first)
        while not over:
            batch = TensorDict(observation=torch.from_numpy(observation)[None], batch_size=[1])
            action = policy(batch)["action"][0].numpy()
            observation, _, terminated, truncated, _ = env.step(action)
            over = bool(terminated or truncated)
            writer.append_data(env.render())
    env.close()
