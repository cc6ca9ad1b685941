"""Any gymnasium task, in the form that agents expect."""

from __future__ import annotations

import difflib
import importlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from maxentflow.envs.resumable import Resumable

if TYPE_CHECKING:
    from torchrl.envs import GymWrapper

__all__ = [
    "Task",
    "check_vector",
    "is_resumable",
    "like",
    "make",
    "make_single",
    "make_torchrl",
    "restore",
    "states",
    "task_class",
    "task_id",
]

Task = str | EnvSpec | Callable[..., gym.Env[Any, Any]]
"""A gymnasium id, a gymnasium spec, or a function that makes an environment."""

_OF_VECTORS = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")


@dataclass(frozen=True)
class _Recipe:
    """What a vector environment was made of; :func:`make` notes it there as ``recipe``."""

    task: Task | gym.Env[Any, Any]
    options: dict[str, Any] = field(default_factory=dict)


def make_single(
    env: Task, *, seed: int | None = None, render_mode: str | None = None, **kwargs: Any
) -> Resumable:
    """One environment: actions rescaled to [-1, 1], floating-point observations in float32.

    Boxes keep their shape. Discrete actions, and observations of integers such as images, are
    left as they are; other observations (dictionaries, tuples, indices) become one vector. A task
    whose actions mean something as they are says ``metadata["rescale_action"] = False``.

    Args:
        env: a gymnasium id, a spec, or a function that makes an environment.
        seed: seed of the first reset; ``None`` for chance.
        render_mode: as for :func:`gymnasium.make`.
        kwargs: passed on to the environment.

    Raises:
        ValueError: an unknown id, with near matches; an observation that is not numbers; actions
            without finite bounds.

    Example:
        >>> make_single("Pendulum-v1").action_space
        Box(-1.0, 1.0, (1,), float32)
        >>> make_single("CartPole-v1").action_space
        Discrete(2)
    """
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    return Resumable(_standardise(_create(env, kwargs)), seed)


def _create(task: Task, options: dict[str, Any]) -> gym.Env[Any, Any]:
    if not isinstance(task, (str, EnvSpec)):
        if not callable(task):
            raise ValueError(
                f"A gymnasium id, a spec or a function that makes an environment is needed, "
                f"got {task!r}."
            )
        return task(**options)
    name = task if isinstance(task, str) else task.id
    if name == task and ":" not in name and ("/" not in name or name.startswith("maxentflow/")):
        _check_known(name)
    with warnings.catch_warnings():
        # The v4 tasks are what the published curves were measured on.
        warnings.filterwarnings("ignore", message=".*out of date.*")
        try:
            return gym.make(task, **options)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(f"Unknown task {name!r}: {error}") from error
        except (gym.error.Error, ImportError, TypeError) as error:
            raise ValueError(f"Task {name!r} cannot be made: {error}") from error


def _standardise(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        # Observations become float32 on purpose.
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        return _rescaled(_numeric(env))


def _numeric(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if not isinstance(env.observation_space, gym.spaces.Box):
        try:
            env = gym.wrappers.FlattenObservation(env)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"{_name(env)} observes {env.observation_space}; numbers are needed."
            ) from error
        if not isinstance(env.observation_space, gym.spaces.Box):
            raise ValueError(f"{_name(env)} observes {env.observation_space}; numbers are needed.")
        return gym.wrappers.DtypeObservation(env, np.float32)
    if env.observation_space.shape == ():
        env = gym.wrappers.ReshapeObservation(env, (1,))
    dtype = env.observation_space.dtype
    if np.issubdtype(dtype, np.floating) and dtype != np.float32:
        env = gym.wrappers.DtypeObservation(env, np.float32)
    return env


def _rescaled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or not env.metadata.get("rescale_action", True):
        return env
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"{_name(env)} has actions without finite bounds: {space}.")
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"{_name(env)} has actions that are no real numbers: {space}.")
    return gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))


def _name(env: gym.Env[Any, Any]) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


def make(
    env: Task | gym.Env[Any, Any],
    num_envs: int = 1,
    *,
    seed: int | None = None,
    workers: bool = False,
    **kwargs: Any,
) -> SyncVectorEnv | AsyncVectorEnv:
    """A gymnasium vector environment of ``num_envs`` copies of a task.

    Spaces are those of :func:`make_single`. An environment that ends is reset in the same step;
    ``truncations`` report time limits, and ``infos["final_obs"]`` holds the final observations of
    the environments that ended. The attribute ``recipe`` notes what it was made of, so that
    :func:`like` can make more.

    Args:
        env: a gymnasium id, a spec, a function that makes an environment, or one environment.
        num_envs: how many copies, at least 1.
        seed: seeds environment ``i`` with ``seed + i`` at its first reset; ``None`` for chance.
        workers: give each copy a process of its own, which pays where a step takes longer than
            the tenth of a millisecond that talking to a process takes. What happens in them is
            the same. A script that uses them needs ``if __name__ == "__main__":``, as with all
            processes of Python.
        kwargs: passed on to the environment.

    Raises:
        ValueError: ``num_envs`` is below 1, or as :func:`make_single`; a single environment is
            given where several, a process or keyword arguments are asked for.

    Example:
        >>> env = make("Hopper-v4", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> observation.shape, observation.dtype
        ((2, 11), dtype('float32'))
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    recipe = _Recipe(env, kwargs)
    task: Task
    if isinstance(env, gym.Env):
        if num_envs > 1 or workers or kwargs:
            raise ValueError(
                "One environment cannot be copied; give its gymnasium id, or a function that "
                "makes it."
            )
        only = env
        task = lambda: only  # noqa: E731
    else:
        task = env
    seeds = [None if seed is None else seed + index for index in range(num_envs)]
    copies: list[Callable[[], gym.Env[Any, Any]]]
    copies = [partial(make_single, task, seed=own_seed, **kwargs) for own_seed in seeds]
    vector: SyncVectorEnv | AsyncVectorEnv
    if workers:
        first = copies[0]()  # here, so that a refusal is not one of another process
        vector = AsyncVectorEnv(
            [partial(_in_worker, copy, os.getpid()) for copy in copies],
            autoreset_mode=AutoresetMode.SAME_STEP,
            context=_process_context(),
        )
        vector.spec = first.spec
        first.close()
    else:
        vector = SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
        vector.spec = vector.envs[0].spec  # gymnasium leaves it empty
    vector.recipe = recipe  # type: ignore[union-attr]
    return vector


def _process_context() -> str:
    """How workers are started: not as a fork of this process, which may run threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(["maxentflow.envs"])
    return "forkserver"


def _in_worker(copy: Callable[[], gym.Env[Any, Any]], parent: int) -> gym.Env[Any, Any]:
    """A copy whose process is in a session of its own and lives on at Ctrl-C.

    A signal to the group then reaches the main process alone, which may want to finish a step.
    The worker ends with the pipe to it.
    """
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError, AttributeError):
            os.setsid()
    return copy()


def like(
    env: VectorEnv, num_envs: int = 1, *, workers: bool = False, **changes: Any
) -> SyncVectorEnv | AsyncVectorEnv:
    """More of an environment: the same task with the same keyword arguments.

    Args:
        env: made by :func:`make`, or a vector environment with a ``spec``.
        num_envs: how many copies.
        workers: give each a process of its own.
        changes: keyword arguments to change, such as ``render_mode="rgb_array"``.

    Raises:
        ValueError: it cannot be known what the environment was made of.

    Example:
        >>> env = make("Hopper-v4", exclude_current_positions_from_observation=False)
        >>> like(env, 3).observation_space.shape
        (3, 12)
    """
    recipe = getattr(env, "recipe", None)
    if recipe is not None and not isinstance(recipe.task, gym.Env):
        options = {**recipe.options, **changes}
        return make(recipe.task, num_envs, workers=workers, **options)
    if recipe is None and env.spec is not None:
        options = {k: v for k, v in env.spec.kwargs.items() if k not in _OF_VECTORS} | changes
        copy = partial(_create, env.spec.id, options)
        same = SyncVectorEnv([copy] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        same.spec = env.spec
        return same
    raise ValueError(
        "More of this environment cannot be made, since it is not known how it was; make it from "
        "a gymnasium id or a function, or give an environment for evaluations (eval_env)."
    )


def task_id(env: VectorEnv) -> str | None:
    """The gymnasium id of a vector environment's task; ``None`` where it has none.

    Example:
        >>> task_id(make("Pendulum-v1"))
        'Pendulum-v1'
    """
    return None if env.spec is None else env.spec.id


def task_class(env_id: str) -> type[gym.Env[Any, Any]] | None:
    """The class of a registered task, without making one; ``None`` where it cannot be known.

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
        except (ImportError, AttributeError):
            return None
    return entry if isinstance(entry, type) else None


def check_vector(env: VectorEnv) -> None:
    """Refuse a vector environment that a trainer cannot step.

    Raises:
        ValueError: it does not reset in the step in which an episode ends, or its observations
            are numbers in double precision.

    Example:
        >>> check_vector(make("Pendulum-v1"))
    """
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"The environment's autoreset mode is {getattr(mode, 'name', mode)}, SAME_STEP is "
            "needed; make it with maxentflow.envs.make, or give gymnasium.make_vec "
            "vector_kwargs={'autoreset_mode': AutoresetMode.SAME_STEP}."
        )
    if env.single_observation_space.dtype == np.float64:
        raise ValueError(
            "The environment observes numbers in double precision; make it with "
            "maxentflow.envs.make, which gives single precision."
        )


def is_resumable(env: VectorEnv) -> bool:
    """Whether :func:`states` can save the environments' states.

    Example:
        >>> is_resumable(make("Pendulum-v1"))
        True
    """
    return hasattr(env, "recipe")


def states(env: VectorEnv) -> list[dict[str, Any]]:
    """:meth:`Resumable.state` of each copy in a vector environment of :func:`make`.

    Raises:
        ValueError: it was made otherwise, or an episode is too long, see :class:`Resumable`.

    Example:
        >>> env = make("Pendulum-v1", num_envs=2)
        >>> _ = env.reset(seed=3)
        >>> [state["seed"] for state in states(env)]
        [3, 4]
    """
    if not is_resumable(env):
        raise ValueError(
            "The state of this environment cannot be saved; make it with maxentflow.envs.make."
        )
    return list(env.call("state"))  # type: ignore[attr-defined]


def restore(env: VectorEnv, states: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """Return every copy in a vector environment of :func:`make` to a state of its own.

    Args:
        env: the environment, in whatever state.
        states: what :func:`states` gave, one for each copy.

    Returns:
        The observations, shape ``(num_envs, *observation_shape)``.

    Raises:
        ValueError: it was made otherwise, or there are not as many states as copies.

    Example:
        >>> env = make("Pendulum-v1", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> bool((restore(make("Pendulum-v1", num_envs=2), states(env)) == observation).all())
        True
    """
    if not is_resumable(env):
        raise ValueError(
            "The state of this environment cannot be restored; make it with maxentflow.envs.make."
        )
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
    env: Task, *, seed: int | None = None, device: str = "cpu", **kwargs: Any
) -> GymWrapper:
    """The same task as one TorchRL environment, for TorchRL's collectors and rollouts.

    Args:
        env: a gymnasium id, a spec, or a function that makes an environment.
        seed: seed of the first reset; ``None`` for chance.
        device: where its tensors are.
        kwargs: passed on to the environment.

    Raises:
        ValueError: as :func:`make_single`.

    Example:
        >>> env = make_torchrl("Hopper-v4", seed=0)
        >>> env.rollout(3)["next", "reward"].shape
        torch.Size([3, 1])
    """
    from torchrl.envs import GymWrapper  # two seconds, which tasks for gymnasium need not wait

    return GymWrapper(
        make_single(env, seed=seed, **kwargs),
        device=device,
        categorical_action_encoding=True,  # discrete actions are indices, as for our agents
    )


def _check_known(env_id: str) -> None:
    if env_id in gym.registry:
        return
    near = difflib.get_close_matches(env_id, gym.registry, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Unknown task {env_id!r}.{hint}")
