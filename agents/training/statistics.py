"""Statistics of runs: intervals over seeds, aggregates over tasks, sample efficiency.

The measures of Agarwal et al. 2021 (arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "area_under_curve",
    "bootstrap",
    "iqm",
    "mean_band",
    "on_common_steps",
    "probability_of_improvement",
    "steps_to",
]

Scores = Sequence[ArrayLike]
"""For each task, a number for each seed."""

_RESAMPLES = 5_000


class Interval(NamedTuple):
    """A confidence interval; both ends are nan where there are too few seeds for one."""

    low: float
    high: float


def iqm(scores: Scores) -> float:
    """The interquartile mean: the mean of the middle half of all tasks' and seeds' scores.

    Example:
        >>> iqm([[0.0, 2.0], [4.0, 100.0]])
        3.0
    """
    from scipy.stats import trim_mean  # takes a second to import, and every run imports this file

    return float(trim_mean(_joined(scores), 0.25))


def bootstrap(
    scores: Scores,
    statistic: Callable[[Scores], float],
    *,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
) -> Interval:
    """The percentile bootstrap interval of a statistic, with seeds drawn anew within each task.

    Intervals of few seeds are too narrow: of five seeds, one in six of those that are called 95%
    misses the truth, of three one in four.

    Args:
        scores: for each task, a number for each seed.
        statistic: of such scores, such as :func:`iqm`.
        confidence: share of intervals that would hold the truth, of many seeds.
        resamples: how many times seeds are drawn.

    Returns:
        Without an interval where a task has fewer than three seeds.

    Raises:
        ValueError: there are no scores, or ``confidence`` is not between 0 and 1.

    Example:
        >>> low, high = bootstrap([[1.0, 2.0, 3.0, 4.0]], iqm)
        >>> 1.0 <= low < 2.5 < high <= 4.0
        True
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    tasks = [np.asarray(task, float) for task in scores]
    if not tasks:
        raise ValueError("There are no scores.")
    if min(map(len, tasks)) < 3:
        return Interval(np.nan, np.nan)
    chance = np.random.default_rng(0)
    values = [
        statistic([task[chance.integers(len(task), size=len(task))] for task in tasks])
        for _ in range(resamples)
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """How often a run of the one is better than a run of the other, on average over tasks.

    The Mann-Whitney statistic; equal scores count a half.

    Args:
        scores: for each task, a number for each seed.
        others: of the same tasks in the same order; the number of seeds may differ.

    Raises:
        ValueError: the numbers of tasks differ, or there are none.

    Example:
        >>> probability_of_improvement([[1.0, 3.0]], [[2.0, 2.0]])
        0.5
    """
    if len(scores) != len(others) or not len(scores):
        raise ValueError(f"Both need the same tasks, got {len(scores)} and {len(others)}.")
    shares = []
    for one, other in zip(scores, others, strict=True):
        difference = np.subtract.outer(np.asarray(one, float), np.asarray(other, float))
        shares.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    return float(np.mean(shares))


def area_under_curve(steps: ArrayLike, returns: ArrayLike) -> float:
    """The mean return over training, by the trapezoidal rule from the first evaluation to the
    last; the return itself of a single one.

    Example:
        >>> area_under_curve([0, 10, 20], [0.0, 1.0, 1.0])
        0.75
    """
    at, heights = np.asarray(steps, float), np.asarray(returns, float)
    if len(at) == 1:
        return float(heights[0])
    return float(np.trapezoid(heights, at) / (at[-1] - at[0]))


def steps_to(steps: ArrayLike, returns: ArrayLike, threshold: float) -> float:
    """The first evaluated step at which the return reaches a threshold; infinity without one.

    Example:
        >>> steps_to([10, 20, 30], [1.0, 5.0, 4.0], threshold=4.0)
        20.0
    """
    reached = np.asarray(returns, float) >= threshold
    return float(np.asarray(steps, float)[reached.argmax()]) if reached.any() else float("inf")


def on_common_steps(
    curves: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Curves of several seeds at the steps that all of them have.

    Args:
        curves: of each seed, steps and returns.

    Returns:
        The steps, and the returns ``(seeds, steps)``.

    Raises:
        ValueError: they have no step in common.

    Example:
        >>> first = np.array([10, 20]), np.array([1.0, 2.0])
        >>> second = np.array([20, 30]), np.array([3.0, 4.0])
        >>> on_common_steps([first, second])
        (array([20]), array([[2.],
               [3.]]))
    """
    common = np.array(sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves))))
    if not len(common):
        raise ValueError("The runs have no evaluation at the same step.")
    table = [returns[np.isin(steps, common)] for steps, returns in curves]
    return common, np.array(table, dtype=float)


def mean_band(
    table: NDArray[np.float64], *, confidence: float = 0.95, resamples: int = _RESAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentile bootstrap interval of the mean over seeds, at every step.

    Args:
        table: returns, shape ``(seeds, steps)``.
        confidence: share of intervals that would hold the truth, of many seeds.
        resamples: how many times seeds are drawn.

    Returns:
        Lower and upper ends, shape ``(steps,)`` each.

    Example:
        >>> low, high = mean_band(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
        >>> bool(0.0 <= low[0] < 2.0 < high[0] <= 4.0), float(low[1]), float(high[1])
        (True, 1.0, 1.0)
    """
    chance = np.random.default_rng(0)
    drawn = chance.integers(len(table), size=(resamples, len(table)))
    counts = np.stack([(drawn == seed).sum(1) for seed in range(len(table))], axis=1)
    means = counts @ table / len(table)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return low, high


def _joined(scores: Scores) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(task, float).ravel() for task in scores])
