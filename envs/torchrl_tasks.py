"""Tasks of TorchRL's environments by name: DeepMind Control, mjlab, Brax, MuJoCo Playground."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np

from maxentflow.envs.tasks import TORCHRL, Recipe

if TYPE_CHECKING:
    import torch
    from torchrl.envs import EnvBase

__all__ = ["Spaces", "like_batched", "make_batched", "spaces"]

_LONGEST = 200  # characters of a simulator's own words
_BATCHED = ("BraxEnv", "JumanjiEnv", "MujocoPlaygroundEnv")  # by an argument batch_size


class Spaces(NamedTuple):
    """What an agent needs to know of its environment.

    Attributes:
        single_observation_space: of one copy.
        single_action_space: of one copy.

    Example:
        >>> spaces(make_batched("torchrl:Gym/CartPole-v1", 2)).single_action_space
        Discrete(2)
    """

    single_observation_space: gym.spaces.Box
    single_action_space: gym.Space[Any]


def make_batched(
    task: str,
    num_envs: int = 1,
    *,
    seed: int | None = None,
    workers: bool = False,
    device: str = "cpu",
    **options: Any,
) -> EnvBase:
    """Copies of a task of TorchRL, stepped together, that agents and trainers take.

    ===================================  ====================================================
    name                                 class, and what it needs
    ===================================  ====================================================
    ``torchrl:DMControl/cheetah/run``    ``DMControlEnv("cheetah", "run")``; dm_control
    ``torchrl:MJLab/Mjlab-Cartpole``     ``MJLabEnv("Mjlab-Cartpole")``; mjlab
    ``torchrl:Brax/ant``                 ``BraxEnv("ant")``; brax
    ``torchrl:MujocoPlayground/...``     ``MujocoPlaygroundEnv``; playground
    ``torchrl:Gym/Pendulum-v1``          ``GymEnv("Pendulum-v1")``
    ===================================  ====================================================

    The word before the slash is a class of :mod:`torchrl.envs` without ``Env``; what follows are
    its arguments. Simulators with copies of their own make ``num_envs`` of them, on their device
    and without numpy; of others there are so many copies. Observations that are numbers are put
    together as one float32 vector ``"observation"``, actions are rescaled to [-1, 1].

    Args:
        task: a name as above.
        num_envs: how many copies, at least 1.
        seed: of the first reset; ``None`` for chance.
        workers: give each copy of a simulator without copies of its own a process.
        device: where tensors are.
        options: keyword arguments of the class.

    Returns:
        An environment of batch size ``(num_envs,)``.

    Raises:
        ValueError: an unknown class or a wrong number of arguments, a package that is missing,
            a task that cannot be made, ``num_envs`` below 1, or observations that are no numbers.

    Example:
        >>> env = make_batched("torchrl:Gym/Pendulum-v1", 2, seed=0)
        >>> env.reset()["observation"].shape, env.batch_size
        (torch.Size([2, 3]), torch.Size([2]))
    """
    from torchrl.envs import TransformedEnv

    from maxentflow.envs.torchrl_vectors import Parallel, Serial

    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    kind, arguments = _parsed(task)
    taken = {name for each in kind.__mro__ for name in _parameters(each)}
    own = {"device": device, **options}
    if "categorical_action_encoding" in taken:  # indices in place of one-hot vectors
        own = {"categorical_action_encoding": True, **own}
    make: Any = partial(kind, *arguments)
    try:
        if "num_envs" in taken:
            env = make(num_envs=num_envs, **own)
        elif kind.__name__ in _BATCHED:
            env = make(batch_size=[num_envs], **own)
        else:
            one = make(**own)  # in this process, so that refusals are raised
            _standard(one, task)
            one.close()
            vector: Any = Parallel if workers else Serial
            env = vector(num_envs, partial(make, **own))
            env.start()  # or else it cannot be closed
        env = TransformedEnv(env, _standard(env, task))
    except _RefusedError:
        raise
    except Exception as error:  # each simulator raises its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"Task {task!r} cannot be made: {reason[:_LONGEST].removesuffix('.')}."
        ) from error
    env.recipe = Recipe(task, {"device": device, **options})
    if seed is not None:
        env.set_seed(seed)
    return env


def like_batched(env: EnvBase, num_envs: int = 1) -> EnvBase:
    """More of an environment: the same task with the same keyword arguments.

    Raises:
        ValueError: it was not made by :func:`make_batched`.

    Example:
        >>> like_batched(make_batched("torchrl:Gym/Pendulum-v1"), 3).batch_size
        torch.Size([3])
    """
    recipe = vars(env).get("recipe")
    if recipe is None:
        raise ValueError(
            "More of this environment cannot be made, since it is not known how it was; make it "
            "with maxentflow.envs.make_batched, or give an environment for evaluations (eval_env)."
        )
    return make_batched(recipe.task, num_envs, **recipe.options)


def spaces(env: EnvBase) -> Spaces:
    """The spaces of one copy of an environment of TorchRL, as gymnasium's.

    Actions without bounds, as mjlab has them, are taken between -1 and 1.

    Raises:
        ValueError: its actions are neither numbers nor indices.

    Example:
        >>> spaces(make_batched("torchrl:Gym/Pendulum-v1", 2)).single_action_space
        Box(-1.0, 1.0, (1,), float32)
    """
    from torchrl.data import Bounded, Categorical, Unbounded

    batch = len(env.batch_size)
    seen, acted = env.observation_spec["observation"], env.action_spec
    observation = gym.spaces.Box(-np.inf, np.inf, tuple(seen.shape[batch:]), _dtype(seen.dtype))
    if isinstance(acted, Categorical):
        return Spaces(observation, gym.spaces.Discrete(int(acted.space.n)))
    shape = tuple(acted.shape[batch:])
    if isinstance(acted, Unbounded) and acted.dtype.is_floating_point:
        return Spaces(observation, gym.spaces.Box(-1.0, 1.0, shape, _dtype(acted.dtype)))
    if not isinstance(acted, Bounded):
        raise ValueError(f"Actions must be numbers or indices, the environment has {acted}.")
    low, high = (
        bound.reshape(-1, *shape)[0].cpu().numpy() for bound in (acted.space.low, acted.space.high)
    )
    return Spaces(observation, gym.spaces.Box(low, high, shape, _dtype(acted.dtype)))


def _parsed(task: str) -> tuple[Any, list[str]]:
    """The class of a task, and its arguments."""
    from torchrl import envs

    word, _, rest = task.removeprefix(TORCHRL).partition("/")
    kind = getattr(envs, f"{word}Env", None)
    if not (isinstance(kind, type) and issubclass(kind, envs.EnvBase)):
        raise ValueError(
            f"Unknown task {task!r}: TorchRL has no {word}Env; names are such as "
            "torchrl:DMControl/cheetah/run."
        )
    needed = [
        name
        for name, each in _parameters(kind).items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ][1:]
    arguments = rest.split("/", max(len(needed) - 1, 0)) if rest else []
    if len(arguments) < len(needed):
        raise ValueError(
            f"Task {task!r} needs {' and '.join(needed)}: torchrl:{word}/{'/'.join(needed)}."
        )
    return kind, arguments


class _RefusedError(ValueError):
    """A refusal in our own words."""


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    own: Any = vars(kind).get("__init__")
    return {} if own is None else inspect.signature(own).parameters


def _standard(env: EnvBase, task: str) -> Any:
    """What brings observations and actions into the form that agents expect."""
    from torchrl.data import Bounded
    from torchrl.envs.transforms import (
        ActionScaling,
        CatTensors,
        Compose,
        DoubleToFloat,
        UnsqueezeTransform,
    )

    batch = len(env.batch_size)
    entries = dict(env.observation_spec.items(True, True))
    keys = [key for key, spec in entries.items() if spec is not None and key != "pixels"]
    others = [
        key
        for key in keys
        if not entries[key].dtype.is_floating_point or entries[key].ndim > batch + 1
    ]
    if others or not keys:
        seen = f"{others[0]!r} as {_about(entries[others[0]])}" if others else "nothing"
        raise _RefusedError(
            f"Task {task!r} observes {seen}; vectors of real numbers are needed. In Python, "
            "transforms of TorchRL can make them."
        )
    wide = keys
    flat = [key for key in wide if entries[key].ndim == batch]
    transforms: list[Any] = []
    if flat:
        transforms.append(UnsqueezeTransform(dim=-1, in_keys=flat, out_keys=flat))
    transforms.append(DoubleToFloat())
    if wide != ["observation"]:
        transforms.append(CatTensors(in_keys=wide, out_key="observation", del_keys=True))
    if isinstance(env.action_spec, Bounded) and env.action_spec.dtype.is_floating_point:
        transforms.append(ActionScaling())
    return Compose(*transforms)


def _about(spec: Any) -> str:
    return f"{spec.dtype} of shape {tuple(spec.shape)}"


def _dtype(dtype: torch.dtype) -> Any:
    import torch

    return torch.empty(0, dtype=dtype).numpy().dtype.type
