"""Transitions to learn from that others have recorded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase

__all__ = ["check_demonstrations", "import_minari", "read_demonstrations"]


def read_demonstrations(name: str, env: gym.vector.VectorEnv) -> TensorDict:
    """Observations and actions of a Minari data set, or of a file.

    Args:
        name: of a Minari data set on this machine, whose actions are rescaled to [-1, 1] from the
            bounds that it notes; or a ``.npz`` file with arrays ``observation`` and ``action``,
            actions in [-1, 1].
        env: the environment of the agent that learns.

    Returns:
        ``"observation"`` and ``"action"``, batch size ``(n,)``.

    Raises:
        ValueError: it cannot be read, its shapes are not those of the environment, or a number is
            not finite or an action out of bounds.
    """
    observation, action = _read_file(name) if name.endswith(".npz") else _read_minari(name)
    if not (observation.ndim and action.ndim):
        raise ValueError(f"Data set {name!r} has numbers where it should have arrays.")
    if len(observation) != len(action):
        raise ValueError(
            f"Data set {name!r} has {len(observation)} observations and {len(action)} actions."
        )
    arrays = {"observation": observation, "action": action}
    try:
        tensors = {key: torch.as_tensor(np.array(entry)) for key, entry in arrays.items()}
    except TypeError as error:
        raise ValueError(f"Data set {name!r} cannot be read: {error}.") from error
    return check_demonstrations(TensorDict(tensors, [len(action)]), env, f"Data set {name!r}")


def check_demonstrations(
    data: TensorDictBase, env: gym.vector.VectorEnv, name: str = "The demonstrations"
) -> TensorDict:
    """Transitions as an agent learns from them: those of an environment, in single precision.

    Args:
        data: ``"observation"`` and ``"action"``, batch size ``(n,)``.
        env: the environment of the agent that learns.
        name: of the data, for a refusal.

    Raises:
        ValueError: an entry is missing or of another shape than the environment's, a number is not
            finite, or an action lies beyond -1 and 1.
    """
    entries = {}
    for key, space in (
        ("observation", env.single_observation_space),
        ("action", env.single_action_space),
    ):
        entry = data.get(key, None)
        if entry is None:
            raise ValueError(f"{name} have no entry {key!r}.")
        if entry.shape[1:] != space.shape or not len(entry):
            raise ValueError(
                f"{name}: entry {key!r} has shape {tuple(entry.shape)}, the environment takes "
                f"{space}."
            )
        if entry.is_complex():
            raise ValueError(f"{name}: entry {key!r} has complex numbers.")
        if key == "action" or np.issubdtype(space.dtype, np.floating):
            entry = entry.float()
        if not entry.isfinite().all():
            raise ValueError(f"{name}: entry {key!r} has numbers that are not finite.")
        entries[key] = entry
    if entries["action"].abs().max() > 1.0 + 1e-6:
        raise ValueError(f"{name}: entry 'action' has numbers beyond the bounds -1 and 1.")
    entries["action"] = entries["action"].clamp(-1.0, 1.0)
    return TensorDict(entries, [len(entries["action"])])


def import_minari() -> Any:
    """The package minari, which is an extra.

    Raises:
        ValueError: it is missing.
    """
    try:
        return importlib.import_module("minari")
    except ImportError:
        raise ValueError(
            "Minari data sets need the package minari: pip install 'maxentflow[offline]'."
        ) from None


def _read_file(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(Path(name).expanduser(), allow_pickle=False) as arrays:
            return arrays["observation"], arrays["action"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        reason = str(error).removesuffix(".") or type(error).__name__
        raise ValueError(f"Data set {name!r} cannot be read: {reason}.") from error


def _read_minari(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    minari = import_minari()
    try:
        dataset = minari.load_dataset(name)
        episodes = [
            (episode.observations[: len(episode.actions)], episode.actions)
            for episode in dataset.iterate_episodes()
        ]
    except Exception as error:  # minari raises what its storage raises
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ValueError(f"Data set {name!r} cannot be read: {reason}.") from error
    space = dataset.action_space
    if not isinstance(space, gym.spaces.Box) or not isinstance(
        dataset.observation_space, gym.spaces.Box
    ):
        raise ValueError(
            f"Data set {name!r} must have Box spaces, got {dataset.observation_space} and {space}."
        )
    observations, actions = (np.concatenate(parts) for parts in zip(*episodes, strict=True))
    return observations, 2 * (actions - space.low) / (space.high - space.low) - 1
