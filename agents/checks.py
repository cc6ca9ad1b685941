"""Checks of an agent's settings and of the spaces that it acts in."""

from __future__ import annotations

import gymnasium as gym

__all__ = [
    "check_fraction",
    "check_hidden",
    "check_positive",
    "continuous_sizes",
    "discrete_sizes",
]


def check_positive(**settings: float | None) -> None:
    """Refuse settings that are not positive and finite; ``None`` passes.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in settings.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_fraction(ends: str = "[]", **settings: float) -> None:
    """Refuse settings that do not lie between 0 and 1.

    Args:
        ends: a bracket for each end, ``[`` and ``]`` where it is included, ``(`` and ``)`` where
            it is not.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, value in settings.items():
        inside = 0 <= value <= 1
        if not inside or (ends[0] == "(" and value == 0) or (ends[1] == ")" and value == 1):
            raise ValueError(f"{name} must be in {ends[0]}0, 1{ends[1]}, got {value}.")


def check_hidden(hidden: tuple[int, ...]) -> None:
    """Refuse widths of hidden layers below 1.

    Raises:
        ValueError: one is.
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden must be widths of at least 1, got {hidden}.")


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
