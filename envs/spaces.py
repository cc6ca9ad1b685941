"""Bring a task's observations and actions into the form that agents expect."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from maxentflow.envs.simplex import Simplex

__all__ = ["is_rescaled", "standardise"]


def standardise(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """An environment with the spaces that :func:`maxentflow.envs.make_single` describes.

    Raises:
        ValueError: the observation is not numbers, or actions cannot be rescaled.

    Example:
        >>> standardise(gym.make("Pendulum-v1")).action_space
        Box(-1.0, 1.0, (1,), float32)
    """
    with warnings.catch_warnings():
        # Observations become float32 on purpose.
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        return _rescaled(_numeric(env))


def is_rescaled(env: gym.Env[Any, Any]) -> bool:
    """Whether the actions of a task are brought to [-1, 1].

    Example:
        >>> is_rescaled(gym.make("Pendulum-v1")), is_rescaled(gym.make("CartPole-v1"))
        (True, False)
    """
    space = env.action_space
    is_box = isinstance(space, gym.spaces.Box) and not isinstance(space, Simplex)
    return is_box and env.metadata.get("rescale_action", True)


def _numeric(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if isinstance(env.observation_space, gym.spaces.Box):
        if env.observation_space.shape == ():
            env = gym.wrappers.ReshapeObservation(env, (1,))
        is_image = len(env.observation_space.shape or ()) > 1
        if is_image and np.issubdtype(env.observation_space.dtype, np.integer):
            return env
        return _float32(env)
    try:
        env = gym.wrappers.FlattenObservation(env)
    except (NotImplementedError, TypeError) as error:
        raise _not_numbers(env) from error
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise _not_numbers(env)
    return _float32(env)


def _float32(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if env.observation_space.dtype == np.float32:
        return env
    return gym.wrappers.DtypeObservation(env, np.float32)


def _not_numbers(env: gym.Env[Any, Any]) -> ValueError:
    return ValueError(f"{_name(env)} observes {env.observation_space}; numbers are needed.")


def _rescaled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space: Any = env.action_space
    if isinstance(space, gym.spaces.Box) and 0 in space.shape:
        raise ValueError(f"{_name(env)} has actions without entries: {space}.")
    if not is_rescaled(env):
        return env
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"{_name(env)} has actions that are no real numbers: {space}.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"{_name(env)} has actions without finite bounds: {space}.")
    if not (space.low < space.high).all():
        raise ValueError(f"{_name(env)} has an action whose bounds are equal: {space}.")
    one = space.dtype.type(1.0)
    env = gym.wrappers.RescaleAction(env, -one, one)
    if space.dtype == np.float32:
        return env
    unit = gym.spaces.Box(-1.0, 1.0, space.shape, np.float32)
    return gym.wrappers.TransformAction(env, lambda action: action.astype(space.dtype), unit)


def _name(env: gym.Env[Any, Any]) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id
