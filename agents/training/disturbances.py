"""Evaluate a policy in worlds that differ from the one it was trained in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from tensordict.nn import TensorDictModuleBase

from maxentflow.agents.training.evaluation import evaluate
from maxentflow.agents.training.statistics import area_under_curve
from maxentflow.envs import Perturbed
from maxentflow.envs.perturbed import check_known
from maxentflow.envs.tasks import create

__all__ = ["Robustness", "robustness"]


@dataclass(frozen=True)
class Robustness:
    """Returns over the size of a disturbance.

    Attributes:
        quantity: what was changed, one of :data:`maxentflow.envs.PERTURBATIONS`.
        values: it had, shape ``(n,)``.
        returns: of each episode there, shape ``(n, episodes)``.
        undisturbed: returns in the task as it is, shape ``(episodes,)``.
    """

    quantity: str
    values: NDArray[np.float64]
    returns: NDArray[np.float64]
    undisturbed: NDArray[np.float64]

    @property
    def relative_area(self) -> float:
        """The mean return over the values, as a part of the undisturbed return; nan where that is
        not positive."""
        reference = float(self.undisturbed.mean())
        if reference <= 0:
            return float("nan")
        return area_under_curve(self.values, self.returns.mean(1)) / reference


def robustness(
    policy: TensorDictModuleBase,
    task: str | Callable[..., gym.Env[Any, Any]],
    quantity: str,
    values: Sequence[float],
    *,
    episodes: int = 20,
    deterministic: bool = True,
    seed: int = 0,
    **options: Any,
) -> Robustness:
    """Run whole episodes for each size of a disturbance; nothing is learned.

    Episode ``i`` starts from ``seed + i`` for every size.

    Args:
        policy: reads ``"observation"``, writes ``"action"``.
        task: the id of a task of MuJoCo, or a function that makes one.
        quantity: what to change, see :class:`maxentflow.envs.Perturbed`.
        values: it is to have, increasing.
        episodes: for each value, at least 1.
        deterministic: take the policy's mode rather than a sample.
        seed: of the first episode.
        options: keyword arguments of the task.

    Raises:
        ValueError: the task is not one of MuJoCo, the quantity is unknown, the values are out of
            range or not increasing, or there are no episodes.

    Example:
        >>> from maxentflow import agents, envs
        >>> agent = agents.make("sac", envs.make("InvertedPendulum-v5"))
        >>> result = robustness(
        ...     agent.policy, "InvertedPendulum-v5", "gravity", [0.5, 2.0], episodes=2
        ... )
        >>> result.returns.shape, result.undisturbed.shape
        ((2, 2), (2,))
    """
    check_known(quantity)
    sizes = np.asarray(values, float)
    if not len(sizes) or (np.diff(sizes) <= 0).any():
        raise ValueError(f"Values must increase, got {list(values)}.")

    def returns(**amounts: float) -> NDArray[np.float64]:
        make = partial(_disturbed, task, options, amounts)
        how: dict[str, Any] = {"episodes": episodes, "deterministic": deterministic}
        return evaluate(policy, make, seed=seed, **how).returns

    whole = quantity == "action_delay"
    for size in sizes:  # before any episode is run
        _disturbed(task, options, {quantity: size}).close()
    found = [returns(**{quantity: int(size) if whole else float(size)}) for size in sizes]
    return Robustness(quantity, sizes, np.array(found), returns())


def _disturbed(
    task: str | Callable[..., gym.Env[Any, Any]],
    options: dict[str, Any],
    amounts: dict[str, float],
) -> gym.Env[Any, Any]:
    return Perturbed(create(task, options), **amounts)
