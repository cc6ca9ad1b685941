"""Shapes of the spaces that an agent acts in."""

from __future__ import annotations

import math

import gymnasium as gym

from maxentflow import envs
from maxentflow.agents.names import BUILT_IN

__all__ = ["continuous_sizes", "discrete_sizes", "entropy_of"]

Shape = tuple[int, ...]
"""Of an observation: ``(size,)`` of a vector, or ``(height, width, channels)`` of an image."""

_FEW_PIXELS = 8  # no image is lower


def continuous_sizes(
    env: gym.vector.VectorEnv, agent: str, *, images: bool = True, shares: bool = False
) -> tuple[Shape, int]:
    """Shape of an observation, and size of a continuous action.

    Args:
        env: the environment.
        agent: its name, for a refusal.
        images: whether the agent takes images.
        shares: whether it acts in a :class:`~maxentflow.envs.Simplex` too.

    Raises:
        ValueError: the action space is not a one-dimensional box in [-1, 1], or the observation
            neither a vector nor an image; the message names agents or a wrapper that fit.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"Agent {agent!r} needs a one-dimensional continuous action space, got {space}"
            f"{_hint(space)}."
        )
    if isinstance(space, envs.Simplex):
        if not shares:
            raise ValueError(
                f"Agent {agent!r} acts between -1 and 1, the environment takes shares of a whole, "
                f"{space}; flows with squash='simplex' act in it, those of meow and flow-sac."
            )
    elif (space.low != -1).any() or (space.high != 1).any():
        raise ValueError(
            f"Agent {agent!r} acts between -1 and 1, the environment takes {space}; make it with "
            "maxentflow.envs.make, which rescales actions."
        )
    return _observation_shape(env, agent, images), space.shape[0]


def entropy_of(space: gym.Space, entry: float) -> float:
    r"""Entropy of a whole continuous action, in nats.

    Args:
        space: of actions, a box in [-1, 1] or a simplex.
        entry: entropy of each entry of an action in [-1, 1]. In a simplex of n shares, whose
            uniform distribution has the entropy :math:`-\log (n - 1)!`, the action is as far
            from uniform for each of the n - 1 degrees of freedom as in the box for each of n.

    Example:
        >>> entropy_of(gym.spaces.Box(-1.0, 1.0, (3,)), -0.5)
        -1.5
        >>> entropy_of(envs.Simplex(2), -0.5)  # log 2 less for an interval of half the length
        -1.1931471805599454
    """
    assert space.shape is not None
    (size,) = space.shape
    if isinstance(space, envs.Simplex):
        return (size - 1) * (entry - math.log(2.0)) - math.lgamma(size)
    return size * entry


def discrete_sizes(env: gym.vector.VectorEnv, agent: str) -> tuple[Shape, int]:
    """Shape of an observation, and the number of discrete actions.

    Raises:
        ValueError: the action space is not discrete from 0 on, or the observation neither a
            vector nor an image; the message names agents or a wrapper that fit.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
        raise ValueError(
            f"Agent {agent!r} needs discrete actions 0, 1, 2, ..., got {space}{_hint(space)}."
        )
    return _observation_shape(env, agent), int(space.n)


def _hint(space: gym.Space) -> str:
    """Agents that act in a space, or a wrapper after which some do."""
    if isinstance(space, gym.spaces.Discrete):
        if space.start == 0:
            return f"; for discrete actions there are {_fitting('discrete')}"
        return "; gymnasium.wrappers.TransformAction can count its actions from 0"
    if isinstance(space, gym.spaces.Box):
        if len(space.shape) == 1:
            return f"; for continuous actions there are {_fitting('continuous')}"
        return "; gymnasium.wrappers.TransformAction can make its actions vectors"
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return "; gymnasium.wrappers.TransformAction can number its combinations, as one Discrete"
    return "; gymnasium.wrappers.TransformAction can turn it into a Box or a Discrete space"


def _fitting(actions: str) -> str:
    *names, last = (name for name, agent in BUILT_IN.items() if actions in agent.actions)
    return f"{', '.join(names)} and {last}"


def _observation_shape(env: gym.vector.VectorEnv, agent: str, images: bool = True) -> Shape:
    shape = env.single_observation_space.shape
    if shape is None or len(shape) not in ((1, 3) if images else (1,)):
        kinds = "vectors, or images (height, width, channels)" if images else "vectors"
        raise ValueError(
            f"Agent {agent!r} needs observations that are {kinds}, got "
            f"{env.single_observation_space}; flatten them with "
            "gymnasium.wrappers.FlattenObservation."
        )
    if len(shape) == 3 and shape[0] < _FEW_PIXELS <= min(shape[1:]):
        raise ValueError(
            f"Agent {agent!r} takes images as (height, width, channels), got shape {shape}; "
            "gymnasium.wrappers.TransformObservation can move the channels to the end."
        )
    return shape
