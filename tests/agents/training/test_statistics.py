"""Aggregates and intervals against scipy, and against runs that somebody thought of."""

import numpy as np
import pytest
from scipy import stats

from maxentflow.agents.training.statistics import (
    area_under_curve,
    bootstrap,
    iqm,
    mean_band,
    on_common_steps,
    probability_of_improvement,
    steps_to,
)

CHANCE = np.random.default_rng(0)


def mean(scores):
    return float(np.mean(scores))


@pytest.mark.parametrize("count", [1, 3, 4, 7, 20])
def test_iqm_is_scipys_trimmed_mean(count):
    scores = CHANCE.normal(size=(3, count))
    expected = stats.trim_mean(scores.ravel(), 0.25)
    assert iqm(scores) == pytest.approx(expected, rel=1e-12)
    assert iqm([scores[0], scores[1], scores[2]]) == pytest.approx(expected, rel=1e-12)


def test_iqm_forgets_the_best_and_the_worst_quarter():
    assert iqm([[1.0, 2.0, 3.0, 1e9], [-1e9, 2.0, 3.0, 4.0]]) == 2.5


@pytest.mark.parametrize("count", [3, 5, 12])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.quick_for("0.95")
def test_the_bootstrap_of_one_task_is_scipys(count, confidence):
    scores = np.random.default_rng(count).normal(size=count)
    theirs = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=20_000,
        confidence_level=confidence,
        method="percentile",
        rng=1,
    ).confidence_interval
    low, high = bootstrap([scores], mean, confidence=confidence, resamples=20_000)
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.04 * width)
    assert high == pytest.approx(theirs.high, abs=0.04 * width)


def test_seeds_are_drawn_within_their_task():
    """Tasks of other sizes of return do not widen the interval."""
    low, high = bootstrap([[1.0, 1.0, 1.0], [1e6, 1e6, 1e6]], mean)
    assert low == high == pytest.approx(500_000.5)


@pytest.mark.slow
def test_intervals_cover_the_truth_nearly_as_often_as_they_say():
    """Of 20 seeds, in 400 experiments; the percentile bootstrap is a little too narrow."""
    chance, hits = np.random.default_rng(3), 0
    for _ in range(400):
        low, high = bootstrap([chance.normal(size=20)], mean, resamples=300)
        hits += low <= 0.0 <= high
    assert 0.88 <= hits / 400 <= 0.98


@pytest.mark.parametrize("scores", [[[1.0]], [[1.0, 2.0]], [[1.0, 2.0, 3.0], [1.0]]])
def test_few_seeds_have_no_interval(scores):
    assert np.isnan(bootstrap(scores, iqm)).all()


def test_what_the_bootstrap_refuses():
    with pytest.raises(ValueError, match="There are no scores"):
        bootstrap([], iqm)
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        bootstrap([[1.0, 2.0, 3.0]], iqm, confidence=95)


def test_the_probability_of_improvement_is_mann_whitneys():
    one, other = CHANCE.integers(0, 5, 9).astype(float), CHANCE.integers(0, 5, 6).astype(float)
    u = stats.mannwhitneyu(one, other).statistic
    assert probability_of_improvement([one], [other]) == pytest.approx(u / 54)
    assert probability_of_improvement([other], [one]) == pytest.approx(1 - u / 54)
    both = probability_of_improvement([one, [1.0]], [other, [0.0]])
    assert both == pytest.approx((u / 54 + 1) / 2)
    with pytest.raises(ValueError, match="the same tasks, got 1 and 2"):
        probability_of_improvement([one], [one, other])


def test_the_area_under_a_curve_is_scipys():
    from scipy.integrate import trapezoid

    steps = np.array([10.0, 20.0, 50.0, 60.0])
    returns = CHANCE.normal(size=4)
    assert area_under_curve(steps, returns) == pytest.approx(trapezoid(returns, steps) / 50)
    assert area_under_curve([10], [3.0]) == 3.0
    assert area_under_curve([0, 1, 100], [5.0, 5.0, 5.0]) == 5.0


def test_the_steps_to_a_threshold():
    assert steps_to([10, 20, 30], [1.0, 2.0, 1.0], 2.0) == 20.0
    assert steps_to([10, 20, 30], [9.0, 2.0, 1.0], 2.0) == 10.0
    assert steps_to([10, 20], [1.0, 1.5], 2.0) == float("inf")


@pytest.mark.slow
def test_the_band_of_a_curve_is_the_bootstrap_of_each_step():
    table = CHANCE.normal(size=(6, 3))
    low, high = mean_band(table, resamples=20_000)
    for step in range(3):
        alone = bootstrap([table[:, step]], mean, resamples=20_000)
        width = alone.high - alone.low
        assert low[step] == pytest.approx(alone.low, abs=0.04 * width)
        assert high[step] == pytest.approx(alone.high, abs=0.04 * width)


def test_curves_on_the_steps_that_all_have():
    curves = [
        (np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0])),
        (np.array([20, 30, 40]), np.array([5.0, 6.0, 7.0])),
    ]
    steps, table = on_common_steps(curves)
    assert steps.tolist() == [20, 30]
    assert table.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    with pytest.raises(ValueError, match="no evaluation at the same step"):
        on_common_steps([curves[0], (np.array([5]), np.array([1.0]))])
