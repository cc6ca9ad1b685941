"""Daily prices for portfolios: simulated, historical, or a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import is_whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prices", "historical", "simulated"]

TRADING_DAYS = 252
"""Of a year."""

_EXTRA = "pip install 'maxentflow[portfolio]'"


@dataclass(frozen=True)
class Prices:
    """Closing prices, day by day.

    Attributes:
        values: shape ``(days, assets)``, positive.
        assets: names, one for each column.
        dates: of the days, increasing, as datetime64; ``None`` where days have numbers alone.
    """

    values: NDArray[np.float64]
    assets: tuple[str, ...]
    dates: NDArray[np.datetime64] | None = None

    @classmethod
    def of(
        cls, prices: str | pd.DataFrame | NDArray[Any], assets: str | Sequence[str] = ()
    ) -> Prices:
        """Prices by name, from a data frame or from an array.

        Args:
            prices: ``"simulated"``, see :func:`simulated`; ``"historical"``, see
                :func:`historical`; a data frame with a column for each asset, perhaps with dates
                as its index; or an array of shape ``(days, assets)``.
            assets: names of those to keep, in this order, perhaps as one string with commas; all
                by default.

        Raises:
            ValueError: an unknown name or asset; fewer than two assets; prices that are not
                finite and positive; dates that do not increase; a missing package.

        Example:
            >>> Prices.of(np.array([[1.0, 2.0], [1.1, 1.9]])).assets
            ('0', '1')
        """
        if isinstance(prices, str):
            makers = {"simulated": simulated, "historical": historical}
            if prices not in makers:
                raise ValueError(
                    f"prices must be 'simulated', 'historical', a data frame or an array, got "
                    f"{prices!r}."
                )
            found = makers[prices]()
        else:
            found = _of_table(prices)
        names = assets.split(",") if isinstance(assets, str) else list(assets)
        return found.only(names) if names else found

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] < 2:
            raise ValueError(
                f"Prices need the shape (days, assets) with at least 2 assets, got "
                f"{self.values.shape}."
            )
        if len(set(self.assets)) < len(self.assets):
            raise ValueError(f"The names of assets must differ, got {', '.join(self.assets)}.")
        wrong = ~(np.isfinite(self.values) & (self.values > 0))
        if wrong.any():
            day, asset = np.argwhere(wrong)[0]
            when = f"day {day}" if self.dates is None else str(self.dates[day].astype("M8[D]"))
            raise ValueError(
                f"Prices must be finite and positive; {self.assets[asset]} on {when} is "
                f"{self.values[day, asset]}, and {wrong.sum() - 1} others are not."
            )
        if self.dates is not None and not (np.diff(self.dates) > np.timedelta64(0)).all():
            raise ValueError("Dates of prices must increase from row to row.")

    def only(self, assets: Sequence[str]) -> Prices:
        """The prices of some assets, in the order given."""
        unknown = [asset for asset in assets if asset not in self.assets]
        if unknown:
            raise ValueError(f"Unknown asset {unknown[0]!r}; there are {', '.join(self.assets)}.")
        columns = [self.assets.index(asset) for asset in assets]
        return Prices(self.values[:, columns], tuple(assets), self.dates)

    def day(self, when: str | int) -> int:
        """Number of the first day at a date or after it.

        Args:
            when: a date, also a year or a month; of prices without dates the number of a day.

        Raises:
            ValueError: it is neither, or the prices end before it.
        """
        if self.dates is None:
            return self._number(when)
        day = int(np.searchsorted(self.dates, _date(when)))
        if day == len(self.dates):
            last = self.dates[-1].astype("M8[D]")
            raise ValueError(f"The prices end on {last}, before {when}.")
        return day

    def until(self, when: str | int) -> int:
        """Number of the last day that is not after a date; of a year or a month, of its end.

        Args:
            when: as in :meth:`day`.

        Raises:
            ValueError: it is neither, or the prices begin after it.
        """
        if self.dates is None:
            return self._number(when)
        day = int(np.searchsorted(self.dates, _date(when) + 1)) - 1
        if day < 0:
            first = self.dates[0].astype("M8[D]")
            raise ValueError(f"The prices begin on {first}, after {when}.")
        return day

    def _number(self, when: str | int) -> int:
        if not is_whole(when):
            raise ValueError(f"These prices have no dates; {when!r} must be the number of a day.")
        day = int(when)
        if not 0 <= day < len(self.values):
            raise ValueError(f"There are days 0 to {len(self.values) - 1}, got {day}.")
        return day


def _date(when: str | int) -> np.datetime64:
    """A date in the precision in which it is written."""
    try:
        date = np.datetime64(str(when))
    except (TypeError, ValueError):
        date = np.datetime64("NaT")
    if not isinstance(when, str) or np.isnat(date):
        raise ValueError(f"These prices have dates; {when!r} is none, such as 2010-12-31.")
    return date


def _of_table(table: pd.DataFrame | NDArray[Any]) -> Prices:
    columns = getattr(table, "columns", None)
    try:
        values = np.array(table, dtype=np.float64)  # a copy: the caller's may change
    except (TypeError, ValueError) as error:
        raise ValueError(f"Prices must be numbers: {error}.") from error
    if columns is None:
        return Prices(values, tuple(map(str, range(values.shape[-1] if values.ndim else 0))))
    return Prices(values, tuple(map(str, columns)), _dates(table.index))  # type: ignore[union-attr]


def _dates(index: pd.Index) -> NDArray[np.datetime64] | None:
    """The dates of rows; ``None`` where these are only counted."""
    if getattr(index, "tz", None) is not None:
        index = index.tz_localize(None)
    entries = np.asarray(index)
    if np.issubdtype(entries.dtype, np.number):
        return None
    try:
        return entries.astype("datetime64[ns]")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The index of prices must be dates, or numbers of days, got {index[0]!r}."
        ) from error


def historical() -> Prices:
    """Adjusted daily prices of 20 stocks of the S&P 500 from 1990 to 2022, which the package
    skfolio holds.

    Those are companies that did well until 2022: what a portfolio of them earned says nothing
    about what one would have earned that was chosen in 1990.

    Raises:
        ValueError: skfolio is missing.
    """
    try:
        from skfolio.datasets import load_sp500_dataset
    except ImportError as error:
        raise ValueError(f"Historical prices need skfolio: {_EXTRA}.") from error
    return _of_table(load_sp500_dataset())


def simulated(years: int = 20, assets: int = 8, *, seed: int = 0) -> Prices:
    r"""Prices of a market with calm years and crises, and with fat tails.

    A hidden regime is calm or a crisis, from one day to the next with probabilities 1/750 and
    1/125 of a change. The daily log return of asset i is

    .. math:: r_i = \mu_i(g) + \beta_i \sigma_m(g)\, x + \sigma_i(g)\, y_i

    with x, y of Student's t distribution with 4 degrees of freedom, scaled to a variance of 1.
    A year of the market has volatility 12% and drift 9% when calm, 30% and -20% in a crisis;
    assets differ in :math:`\beta` (0.4 to 1.6), in their own volatility (10 to 40% a year,
    half as much again in a crisis) and in their own drift (-2 to 6% a year), which belongs to no
    risk.

    Args:
        years: of 252 days.
        assets: how many.
        seed: of assets and returns.

    Raises:
        ValueError: fewer than 1 year or 2 assets.

    Example:
        >>> simulated(years=2, assets=3).values.shape
        (504, 3)
    """
    if years < 1 or assets < 2:
        raise ValueError(
            f"A market needs at least 1 year and 2 assets, got years={years}, assets={assets}."
        )
    random = np.random.default_rng(seed)
    days = years * TRADING_DAYS
    beta = random.permutation(np.linspace(0.4, 1.6, assets))
    own_volatility = random.permutation(np.linspace(0.10, 0.40, assets))
    own_drift = random.permutation(np.linspace(-0.02, 0.06, assets))
    changes = random.random(days)
    crisis = np.zeros(days, dtype=bool)
    for day in range(1, days):
        probability = 1 / 125 if crisis[day - 1] else 1 / 750
        crisis[day] = crisis[day - 1] ^ (changes[day] < probability)
    drift = np.where(crisis, -0.20, 0.09)[:, None] * beta + own_drift
    market = np.where(crisis, 0.30, 0.12)[:, None] * beta * _student(random, (days, 1))
    own = np.where(crisis, 1.5, 1.0)[:, None] * own_volatility * _student(random, (days, assets))
    returns = drift / TRADING_DAYS + (market + own) / np.sqrt(TRADING_DAYS)
    names = tuple(f"asset {index}" for index in range(assets))
    return Prices(100.0 * np.exp(returns.cumsum(0)), names)


def _student(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return random.standard_t(4, shape) / np.sqrt(2.0)  # the variance of t with 4 degrees is 2
