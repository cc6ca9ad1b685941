"""A portfolio that is rebalanced every week, and what one is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import check_render_mode, is_number, is_whole
from maxentflow.envs.markets import TRADING_DAYS, Prices
from maxentflow.envs.rollouts import BatchFunction, picture, save
from maxentflow.envs.simplex import Simplex

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Backtest", "PortfolioEnv", "PortfolioScoresEnv"]

HORIZONS = 1, 5, 21, 63, 252
"""Days back to which returns are observed."""
WINDOWS = 21, 63
"""Days of which volatilities are observed."""
_NO_RISK = 1e-12  # of a year; what rounding leaves of none
_MOST = 1_000.0  # percent; returns beyond are observed as this
_SHARPEST = 5.0  # a score of 1 weighs exp(10) times as much as one of -1
_PERCENT = 100.0


@dataclass
class Backtest:
    """What a portfolio did, day by day and rebalancing by rebalancing.

    Attributes:
        returns: log returns of days, after costs.
        shares: after each rebalancing, each of shape ``(assets,)``.
        turnovers: sum of the absolute changes of shares at each rebalancing.
    """

    returns: list[float] = field(default_factory=list)
    shares: list[NDArray[np.float64]] = field(default_factory=list)
    turnovers: list[float] = field(default_factory=list)

    def statistics(self) -> dict[str, float]:
        """Figures by name.

        ====================  ==================================================================
        ``annual_return``     of simple daily returns, mean times 252
        ``volatility``        their standard deviation times the root of 252
        ``sharpe``            the first over the second; the riskless rate is 0
        ``sortino``           the same with the root mean square of negative returns
        ``drawdown``          largest loss from a peak, as a fraction of the peak
        ``turnover``          sum of absolute changes of shares, a year
        ``effective_assets``  exp of the entropy of the shares, mean of rebalancings
        ``largest_halved``    loss where the largest holding falls by half overnight, as a
                              fraction of the portfolio, mean of rebalancings
        ====================  ==================================================================

        Raises:
            ValueError: fewer than two days, or no shares.

        Example:
            >>> equal = Backtest([0.01, -0.01], [np.array([0.5, 0.5])], [0.0])
            >>> round(equal.statistics()["effective_assets"], 6)
            2.0
        """
        if len(self.returns) < 2 or not self.shares:
            raise ValueError(
                f"Statistics need 2 days and more, and shares; got {len(self.returns)} days and "
                f"{len(self.shares)} rebalancings."
            )
        logs = np.array(self.returns)
        daily = np.expm1(logs)
        wealth = np.exp(np.concatenate([[0.0], logs.cumsum()]))
        shares = np.array(self.shares)
        logarithms = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
        annual = TRADING_DAYS * daily.mean()
        volatility = np.sqrt(TRADING_DAYS) * daily.std(ddof=1)
        downside = np.sqrt(TRADING_DAYS * (np.minimum(daily, 0.0) ** 2).mean())
        figures = {
            "annual_return": annual,
            "volatility": volatility,
            "sharpe": annual / volatility if volatility > _NO_RISK else np.nan,
            "sortino": annual / downside if downside > 0 else np.nan,
            "drawdown": (1.0 - wealth / np.maximum.accumulate(wealth)).max(),
            "turnover": np.sum(self.turnovers) * TRADING_DAYS / len(logs),
            "effective_assets": np.exp(-(shares * logarithms).sum(-1)).mean(),
            "largest_halved": 0.5 * shares.max(-1).mean(),
        }
        return {name: float(value) for name, value in figures.items()}


class PortfolioEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A portfolio of several assets, rebalanced every ``hold`` trading days.

    Action: the shares of the assets in the portfolio, a point of :class:`Simplex`. Observation,
    for each asset: the log returns of the last h days over the root of h, for h of 1, 5, 21, 63
    and 252, and the standard deviations of daily log returns over the last 21 and 63 days, all in
    percent, and its present share. Reward: the log return of the days until the next rebalancing,
    after costs, in percent,

    .. math:: 100 \Big( \log(1 - c\,|w - w'|_1) + \log \sum_i w_i \frac{p_i(t + n)}{p_i(t)} \Big)

    with :math:`w'` the shares that the last rebalancing has become with the prices. An episode
    begins with equal shares, at a random day, and is truncated after ``days``.

    Args:
        prices: see :meth:`Prices.of`.
        assets: names of those to hold; all by default.
        start: first day: a date such as ``"2010-06-30"`` or ``"2010"``, or its number where
            prices have no dates. The 252 days before it are observed.
        end: last day, likewise; a year or a month ends with its last day. The end of the prices
            by default.
        days: of an episode, where there are as many; ``None`` for all from start to
            end, always from the first.
        hold: trading days from one rebalancing to the next.
        cost: of a trade, as a fraction of its volume.
        render_mode: ``"rgb_array"`` or ``None``.

    Raises:
        ValueError: an argument is out of range, or prices are refused; from ``step``, an action
            that is not a point of the action space.

    Example:
        >>> env = PortfolioEnv()
        >>> observation, info = env.reset(seed=0)
        >>> env.action_space, observation.shape
        (Simplex(8), (64,))
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 20_000,
        "warmup_steps": 1_000,
        "temperature": 0.1,
        "gamma": 0.9,
        "log_sigma": (-5.0, 1.0),
        "squash": "simplex",
    }
    """Training defaults."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        prices: str | pd.DataFrame | NDArray[Any] = "simulated",
        *,
        assets: str | Sequence[str] = (),
        start: str | int | None = None,
        end: str | int | None = None,
        days: int | None = TRADING_DAYS,
        hold: int = 5,
        cost: float = 0.001,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        if not is_whole(hold) or hold < 1:
            raise ValueError(f"hold must be a whole number of days, at least 1, got {hold!r}.")
        if not is_number(cost) or not 0.0 <= cost < 0.5:
            raise ValueError(f"cost must be at least 0 and below 0.5, got {cost!r}.")
        self.prices = Prices.of(prices, assets)
        self.hold, self.cost, self.render_mode = hold, cost, render_mode
        before = max(HORIZONS)
        self.first = before if start is None else max(self.prices.day(start), before)
        self.last = len(self.prices.values) - 1
        if end is not None:
            self.last = self.prices.until(end)
        if self.last - self.first < hold:
            raise ValueError(
                f"From the first day, {self.first}, to the last, {self.last}, there is no time to "
                f"hold a portfolio for {hold} days; {before} days before the first are observed."
            )
        if days is not None and (not is_whole(days) or days < hold):
            raise ValueError(f"days must be at least hold, {hold}, or None, got {days!r}.")
        length = self.last - self.first if days is None else min(days, self.last - self.first)
        self.days = length // hold * hold
        """Of an episode, whole holdings."""
        self._latest = self.first if days is None else self.last - self.days
        size = len(self.prices.assets)
        self._features = _features(np.log(self.prices.values))
        self.action_space = Simplex(size)  # type: ignore[assignment]
        width = size * (len(HORIZONS) + len(WINDOWS) + 1)
        self.observation_space = gym.spaces.Box(-_MOST, _MOST, (width,), np.float32)
        self.day = self._begin = self.first
        """Number of the present day, a row of the prices."""
        self._shares = np.full(size, 1.0 / size)
        self.backtest = Backtest()
        """What the present episode has come to."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._begin = int(self.np_random.integers(self.first, self._latest + 1))
        self.day = self._begin
        self._shares = np.full_like(self._shares, 1.0 / len(self._shares))
        self.backtest = Backtest()
        return self._observation(), {"turnover": 0.0}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self.day - self._begin >= self.days:
            raise ValueError("The episode is over; reset begins another.")
        shares = self._shares_of(action)
        turnover = float(np.abs(shares - self._shares).sum())
        held = self.prices.values[self.day : self.day + self.hold + 1]
        growth = (held / held[0]) @ shares
        returns = np.diff(np.log(growth))
        returns[0] += np.log1p(-self.cost * turnover)
        self._shares = shares * (held[-1] / held[0]) / growth[-1]
        self.day += self.hold
        self.backtest.returns.extend(returns.tolist())
        self.backtest.shares.append(shares)
        self.backtest.turnovers.append(turnover)
        truncated = self.day - self._begin >= self.days
        reward = _PERCENT * float(returns.sum())
        return self._observation(), reward, False, truncated, {"turnover": turnover}

    def _shares_of(self, action: NDArray[np.float32]) -> NDArray[np.float64]:
        given = np.asarray(action, dtype=np.float64)
        if given not in self.action_space:
            raise ValueError(
                f"action must be {len(self._shares)} shares that add up to 1, got "
                f"{given.tolist()}."
            )
        return given.clip(0.0) / given.clip(0.0).sum()

    def _observation(self) -> NDArray[np.float32]:
        features = self._features[self.day]
        return np.concatenate([features, self._shares]).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """The episode so far, see :class:`maxentflow.envs.Savable`."""
        return {
            "begin": self._begin,
            "day": self.day,
            "shares": self._shares.tolist(),
            "returns": list(self.backtest.returns),
            "each": [shares.tolist() for shares in self.backtest.shares],
            "turnovers": list(self.backtest.turnovers),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`."""
        self._begin, self.day = int(state["begin"]), int(state["day"])
        self._shares = np.array(state["shares"])
        self.backtest = Backtest(
            list(state["returns"]),
            [np.array(shares) for shares in state["each"]],
            list(state["turnovers"]),
        )

    def render(self) -> NDArray[np.uint8] | None:
        """The shares over the episode, as ``(240, 360, 3)`` bytes."""
        if self.render_mode is None:
            return None
        return picture(3.6, 2.4, lambda axes: _draw_shares(axes, self.backtest, self.days))

    @classmethod
    def summary(
        cls, act: BatchFunction, path: Path, value: BatchFunction | None = None, **options: Any
    ) -> str:
        """Draw an episode: wealth beside that of equal shares, and shares.

        Args:
            act: samples actions ``(n, assets)`` for observations ``(n, 8 assets)``.
            path: where the figure goes; missing folders are made.
            value: not drawn.
            options: keyword arguments of the task.

        Returns:
            Sharpe ratio and effective number of assets of 20 episodes, as a sentence.

        Raises:
            ValueError: the figure cannot be written.
        """
        from matplotlib.figure import Figure

        env, other = cls(**options), PortfolioEnv(**options)
        assets = len(env.prices.assets)
        episodes = [env.rollout(act, seed=seed) for seed in range(20)]
        equal = other.rollout(lambda x: np.full((len(x), assets), 1 / assets), seed=0)
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for label, backtest in (("policy", episodes[0]), ("equal shares", equal)):
            above.plot(np.exp(np.cumsum(backtest.returns)), label=label)
        above.set(ylabel="wealth", title="An episode of sampled actions")
        above.legend(frameon=False)
        _draw_shares(below, episodes[0], env.days)
        below.set(xlabel="trading day", ylabel="share")
        save(figure, path)
        figures = [episode.statistics() for episode in episodes]
        sharpe = np.nanmean([each["sharpe"] for each in figures])
        effective = np.mean([each["effective_assets"] for each in figures])
        return (
            f"20 episodes of sampled actions: Sharpe ratio {sharpe:.2f}, effective number of "
            f"assets {effective:.1f} of {assets}"
        )

    def rollout(self, act: BatchFunction, *, seed: int | None = None) -> Backtest:
        """Run an episode.

        Args:
            act: actions ``(1, assets)`` for observations ``(1, ·)``.
            seed: of the reset, which chooses the day.

        Example:
            >>> env = PortfolioEnv(days=10)
            >>> len(env.rollout(lambda x: np.full((len(x), 8), 0.125), seed=0).returns)
            10
        """
        observation, _ = self.reset(seed=seed)
        truncated = False
        while not truncated:
            observation, _, _, truncated, _ = self.step(act(observation[None])[0])
        return self.backtest


class PortfolioScoresEnv(PortfolioEnv):
    r"""The same portfolio for agents that act in :math:`[-1, 1]^n`.

    Action: a score for each asset; shares are the softmax of five times the scores, so that one
    asset can have 99.9% of the whole among eight. All else is as in :class:`PortfolioEnv`.

    Raises:
        ValueError: as :class:`PortfolioEnv`; from ``step``, scores that are not finite.

    Example:
        >>> env = PortfolioScoresEnv()
        >>> _ = env.reset(seed=0)
        >>> _ = env.step(np.array([1, -1, -1, -1, -1, -1, -1, -1]))
        >>> float(env.backtest.shares[0].max().round(4))
        0.9997
    """

    preset: ClassVar[dict[str, Any]] = {**PortfolioEnv.preset, "squash": "tanh"}
    """Training defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = gym.spaces.Box(-1.0, 1.0, self._shares.shape, np.float32)

    def _shares_of(self, action: NDArray[np.float32]) -> NDArray[np.float64]:
        scores = np.asarray(action, dtype=np.float64)
        if scores.shape != self._shares.shape or not np.isfinite(scores).all():
            raise ValueError(
                f"action must be {len(self._shares)} finite scores, got {scores.tolist()}."
            )
        weights = np.exp(_SHARPEST * (scores.clip(-1.0, 1.0) - 1.0))
        return weights / weights.sum()


def _features(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is observed of prices on each day, shape ``(days, 7 assets)``, in percent; zeros for
    days with too little before them."""
    days, assets = logs.shape
    daily = np.diff(logs, axis=0, prepend=logs[:1])
    found = np.zeros((days, len(HORIZONS) + len(WINDOWS), assets))
    for index, horizon in enumerate(HORIZONS):
        found[horizon:, index] = (logs[horizon:] - logs[:-horizon]) / np.sqrt(horizon)
    for index, window in enumerate(WINDOWS, start=len(HORIZONS)):
        windows = np.lib.stride_tricks.sliding_window_view(daily[1:], window, axis=0)
        found[window:, index] = windows.std(-1)
    return (_PERCENT * found.reshape(days, -1)).clip(-_MOST, _MOST)


def _draw_shares(axes: Any, backtest: Backtest, days: int) -> None:
    axes.set(xlim=(0, days), ylim=(0, 1))
    if backtest.shares:
        ends = np.linspace(0, len(backtest.returns), len(backtest.shares) + 1)
        shares = np.array([*backtest.shares, backtest.shares[-1]])
        axes.stackplot(ends, shares.T, step="post")
