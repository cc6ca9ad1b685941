"""Make any gymnasium task in the form that agents expect."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from maxentflow.envs.resumable import Resumable
from maxentflow.envs.spaces import standardise
from maxentflow.envs.tasks import Recipe, Task, create
from maxentflow.envs.workers import WorkerVectorEnv, in_worker, start_method

if TYPE_CHECKING:
    from torchrl.envs import EnvBase, GymWrapper

__all__ = ["check_vector", "like", "make", "make_single", "make_torchrl", "task_id"]


def make_single(
    env: Task, *, seed: int | None = None, render_mode: str | None = None, **kwargs: Any
) -> Resumable:
    """One environment with standard spaces.

    ==================================  =====================================================
    space of the task                   space here
    ==================================  =====================================================
    Box action                          Box in [-1, 1], float32, the same shape; as it is if
                                        ``metadata["rescale_action"]`` is false, for actions
                                        that mean something as they are
    other action, such as Discrete      as it is
    Box observation of floats           float32, the same shape; a scalar has shape (1,)
    Box observation of integers         float32; as it is with two dimensions and more, such as an
                                        image of bytes
    Discrete, Dict, Tuple, ...          flattened to one float32 vector; indices are one-hot
    ==================================  =====================================================

    Args:
        env: a gymnasium id, a spec, or a function that makes an environment.
        seed: seed of the first reset; ``None`` for chance.
        render_mode: as for :func:`gymnasium.make`.
        kwargs: passed on to the environment.

    Raises:
        ValueError: an unknown id, with near matches; an observation that is not numbers; Box
            actions to be rescaled that are integers or lack finite, distinct bounds.

    Example:
        >>> make_single("Pendulum-v1").action_space
        Box(-1.0, 1.0, (1,), float32)
        >>> make_single("CartPole-v1").action_space
        Discrete(2)
    """
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    return Resumable(standardise(create(env, kwargs)), seed)


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
    the environments that ended. The attribute ``recipe`` holds the task and ``kwargs``, of which
    :func:`like` makes more.

    Args:
        env: a gymnasium id, a spec, a function that makes an environment, or one environment.
        num_envs: how many copies, at least 1.
        seed: seeds environment ``i`` with ``seed + i`` at its first reset; ``None`` for chance.
        workers: give each copy a process of its own. It pays where a step takes longer than the
            tenth of a millisecond that talking to a process takes; results are the same. A script
            that uses workers needs ``if __name__ == "__main__":``.
        kwargs: passed on to the environment.

    Raises:
        ValueError: ``num_envs`` is below 1, or as :func:`make_single`; a single environment is
            given where several, workers or keyword arguments are asked for.

    Example:
        >>> env = make("Hopper-v4", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> observation.shape, observation.dtype
        ((2, 11), dtype('float32'))
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    recipe = Recipe(env, kwargs)
    task: Task
    if isinstance(env, gym.Env):
        if num_envs > 1 or workers or kwargs:
            raise ValueError(
                f"A single environment, {env}, cannot be copied or changed; give its gymnasium id "
                "or a function that makes it."
            )
        only = env
        task = lambda: only  # noqa: E731
    else:
        task = env
    vector = (_in_workers if workers else _in_process)(task, num_envs, seed, kwargs)
    vector.recipe = recipe  # type: ignore[union-attr]
    return vector


def _copies(
    task: Task, num_envs: int, seed: int | None, options: dict[str, Any]
) -> list[Callable[[], gym.Env[Any, Any]]]:
    seeds = [None if seed is None else seed + index for index in range(num_envs)]
    return [partial(make_single, task, seed=own_seed, **options) for own_seed in seeds]


def _in_process(
    task: Task, num_envs: int, seed: int | None, options: dict[str, Any]
) -> SyncVectorEnv:
    copies = _copies(task, num_envs, seed, options)
    vector = SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.spec = vector.envs[0].spec  # gymnasium leaves it empty
    return vector


def _in_workers(
    task: Task, num_envs: int, seed: int | None, options: dict[str, Any]
) -> AsyncVectorEnv:
    with make_single(task, **options) as first:  # in this process, so that refusals are raised
        spec = first.spec
    if isinstance(task, str):  # the workers' registry may lack what a notebook registered
        task = gym.registry.get(task.rpartition(":")[2], task)
    vector = WorkerVectorEnv(
        [in_worker(copy) for copy in _copies(task, num_envs, seed, options)],
        autoreset_mode=AutoresetMode.SAME_STEP,
        context=start_method(),
    )
    vector.spec = spec
    return vector


def like(
    env: VectorEnv, num_envs: int = 1, *, workers: bool = False, **changes: Any
) -> SyncVectorEnv | AsyncVectorEnv:
    """More of an environment: the same task with the same keyword arguments.

    Args:
        env: made by :func:`make` or by :func:`gymnasium.make_vec`.
        num_envs: how many copies.
        workers: give each a process of its own.
        changes: keyword arguments to change, such as ``render_mode="rgb_array"``.

    Raises:
        ValueError: it is not known how the environment was made, it was made of a single
            environment, or a vector wrapper is around it.

    Example:
        >>> env = make("Hopper-v4", exclude_current_positions_from_observation=False)
        >>> like(env, 3).observation_space.shape
        (3, 12)
    """
    recipe = getattr(env, "recipe", None)
    if recipe is None:
        if env.spec is not None and env.unwrapped is env:
            return _like_gymnasium(env, num_envs, workers, changes)
        raise ValueError(
            "More of this environment cannot be made, since it is not known how it was; make it "
            "with maxentflow.envs.make, or give an environment for evaluations (eval_env)."
        )
    if isinstance(recipe.task, gym.Env):
        raise ValueError(
            f"More of this environment cannot be made, since {recipe.task} cannot be copied; give "
            "a function that makes it, or an environment for evaluations (eval_env)."
        )
    return make(recipe.task, num_envs, workers=workers, **{**recipe.options, **changes})


def _like_gymnasium(env: VectorEnv, num_envs: int, workers: bool, changes: dict[str, Any]) -> Any:
    spec = copy.deepcopy(env.spec)
    assert spec is not None
    context = {"context": start_method()} if workers else {}
    # Here gymnasium notes, and reads again, both its own arguments and the environment's.
    spec.kwargs |= changes | {
        "num_envs": num_envs,
        "vectorization_mode": "async" if workers else "sync",
        "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP, **context},
    }
    return gym.make_vec(spec)


def task_id(env: VectorEnv | EnvBase) -> str | None:
    """The name of an environment's task: its gymnasium id, or the name that
    :func:`maxentflow.envs.make_batched` was given; ``None`` where it has none.

    Raises:
        ValueError: it is something else, such as a name or a single environment of gymnasium.

    Example:
        >>> task_id(make("Pendulum-v1"))
        'Pendulum-v1'
    """
    if not isinstance(env, VectorEnv):
        if not hasattr(env, "batch_size"):
            raise ValueError(
                "An environment of maxentflow.envs.make is needed, such as "
                f"envs.make('Pendulum-v1'), got {env!r}."
            )
        recipe = vars(env).get("recipe")
        return None if recipe is None else recipe.task
    return None if env.spec is None else env.spec.id


def check_vector(env: VectorEnv) -> None:
    """Refuse a vector environment that a trainer cannot step.

    Raises:
        ValueError: it does not reset in the step in which an episode ends, or observes float64.

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


def make_torchrl(
    env: Task, *, seed: int | None = None, device: str = "cpu", **kwargs: Any
) -> GymWrapper:
    """The same task as one TorchRL environment, for TorchRL's collectors and rollouts.

    Spaces are those of :func:`make_single`; discrete actions are indices.

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
    from torchrl.envs import GymWrapper  # takes two seconds, which gymnasium's users need not wait

    single = make_single(env, seed=seed, **kwargs)
    return GymWrapper(single, device=device, categorical_action_encoding=True)
