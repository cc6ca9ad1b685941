"""Look up and create tasks: by gymnasium id, by spec or by a function."""

from __future__ import annotations

import difflib
import importlib
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from maxentflow.envs.workers import exception_text

__all__ = ["TORCHRL", "Recipe", "Task", "create", "is_torchrl", "task_class"]

TORCHRL = "torchrl:"
"""What begins the name of a task that TorchRL wraps, see :func:`maxentflow.envs.make_batched`."""

Task = str | EnvSpec | Callable[..., gym.Env[Any, Any]]
"""A gymnasium id, a gymnasium spec, or a function that makes an environment."""


@dataclass(frozen=True)
class Recipe:
    """The task and the keyword arguments that a vector environment was made of."""

    task: Task | gym.Env[Any, Any]
    options: dict[str, Any]


def is_torchrl(task: object) -> bool:
    """Whether a task is one of TorchRL's, by its name.

    Example:
        >>> is_torchrl("torchrl:DMControl/cheetah/run"), is_torchrl("Hopper-v4")
        (True, False)
    """
    return isinstance(task, str) and task.startswith(TORCHRL)


def create(task: Task, options: dict[str, Any]) -> gym.Env[Any, Any]:
    """The environment as gymnasium, or the function, makes it.

    Args:
        task: a gymnasium id, a spec, or a function that makes an environment.
        options: keyword arguments of the environment.

    Raises:
        ValueError: an unknown id, with near matches; it is none of the three; gymnasium cannot
            make it.

    Example:
        >>> create("Pendulum-v1", {"g": 5.0}).unwrapped.g
        5.0
    """
    if not isinstance(task, (str, EnvSpec)):
        if not callable(task):
            raise ValueError(
                f"A gymnasium id, a spec or a function that makes an environment is needed, "
                f"got {task!r}."
            )
        env = task(**options)
        if not isinstance(env, gym.Env):
            raise ValueError(f"{task!r} made {env!r}, which is no gymnasium environment.")
        return env
    if is_torchrl(task):
        raise ValueError(
            f"Task {task!r} is TorchRL's: maxentflow.envs.make_batched makes it, to train and to "
            "evaluate in; here one of gymnasium's is needed."
        )
    if isinstance(task, str):
        _check_known(task)
    name = task if isinstance(task, str) else task.id
    _take_mujocos_warnings(task)
    with warnings.catch_warnings():
        # The v4 tasks are what the published curves were measured on.
        warnings.filterwarnings("ignore", message=".*out of date.*")
        # A spec may bring wrappers that lower precision, as those of this package.
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        try:
            return gym.make(task, **options)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(f"Unknown task {task!r}: {error}") from error
        except (gym.error.Error, ImportError, TypeError) as error:
            raise ValueError(f"Task {name!r} cannot be made: {error}") from error
        except (Exception, SystemExit) as error:  # of the task's own code
            if isinstance(error, SystemExit) and type(error) is not SystemExit:  # of a signal
                raise
            raise ValueError(f"Task {name!r} cannot be made: {exception_text(error)}.") from error


def _take_mujocos_warnings(task: str | EnvSpec) -> None:
    """Make MuJoCo's warnings Python's. Else it writes each into a file in the present folder too,
    and those of old models, which gymnasium's v4 tasks have, for every copy that is made."""
    spec = gym.registry.get(task.rpartition(":")[2]) if isinstance(task, str) else task
    if spec is None or not re.search("mujoco|robotics|maze", str(spec.entry_point), re.I):
        return
    try:
        import mujoco
    except ImportError:  # gymnasium says so
        return
    mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    if "is deprecated" not in message:
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)


def _check_known(env_id: str) -> None:
    # Gymnasium names near matches itself where the id has a namespace, and imports what stands
    # before a colon.
    foreign = "/" in env_id and not env_id.startswith("maxentflow/")
    if env_id in gym.registry or ":" in env_id or foreign:
        return
    near = difflib.get_close_matches(env_id, gym.registry, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Unknown task {env_id!r}.{hint}")


def task_class(env_id: str) -> type[gym.Env[Any, Any]] | None:
    """The class of a registered task, without making an environment.

    A class may bring two things that are read from it: ``preset``, training defaults by name, and
    a static method ``summary(act, path, value)``, see :class:`maxentflow.envs.MultiGoalEnv`.

    Args:
        env_id: a gymnasium id.

    Returns:
        The class; ``None`` where the id is not registered, its module cannot be imported, or its
        entry point is a function.

    Example:
        >>> task_class("maxentflow/MultiGoal-v0").__name__
        'MultiGoalEnv'
    """
    spec = gym.registry.get(env_id)
    if spec is None:
        return None
    entry: Any = spec.entry_point
    if isinstance(entry, str):
        module, _, name = entry.partition(":")
        try:
            entry = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, gym.error.Error):
            return None
    return entry if isinstance(entry, type) else None
