"""Sizes of the spaces that an agent acts in."""

from __future__ import annotations

import gymnasium as gym

__all__ = ["continuous_sizes", "discrete_sizes"]


def continuous_sizes(env: gym.vector.VectorEnv, agent: str) -> tuple[int, int]:
    """Sizes of an observation and of a continuous action.

    Raises:
        ValueError: a space is not a one-dimensional box; the message names agents that fit.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        fits = ""
        if isinstance(space, gym.spaces.Discrete):
            fits = "; for discrete actions there are soft-q and ppo"
        raise ValueError(
            f"Agent {agent!r} needs a one-dimensional continuous action space, got {space}{fits}."
        )
    if (space.low != -1).any() or (space.high != 1).any():
        raise ValueError(
            f"Agent {agent!r} acts between -1 and 1, the environment takes {space}; make it with "
            "maxentflow.envs.make, which rescales actions."
        )
    return _observation_size(env, agent), space.shape[0]


def discrete_sizes(env: gym.vector.VectorEnv, agent: str) -> tuple[int, int]:
    """Size of an observation, and the number of discrete actions.

    Raises:
        ValueError: the observation space is not a one-dimensional box, or the action space is not
            discrete from 0 on; the message names agents that fit.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
        fits = ""
        if isinstance(space, gym.spaces.Box):
            fits = "; for continuous actions there are meow, sac, td3 and ppo"
        raise ValueError(
            f"Agent {agent!r} needs discrete actions 0, 1, 2, ..., got {space}{fits}."
        )
    return _observation_size(env, agent), int(space.n)


def _observation_size(env: gym.vector.VectorEnv, agent: str) -> int:
    shape = env.single_observation_space.shape
    if shape is None or len(shape) != 1:
        raise ValueError(
            f"Agent {agent!r} needs observations that are vectors, got "
            f"{env.single_observation_space}; flatten them with "
            "gymnasium.wrappers.FlattenObservation."
        )
    return shape[0]
