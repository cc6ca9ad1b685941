"""Portfolios of 20 stocks, walk-forward: diversification by temperature.

    pip install "maxentflow[portfolio]"
    python benchmarks/portfolio.py run [VARIANT ...]
    python benchmarks/portfolio.py report      # portfolio/*.png and tables

Agents learn on prices up to 2010, five seeds; the temperature is chosen by the
Sharpe ratio of 2011 to 2014; what is reported is 2015 to 2022. Those classical portfolios that
skfolio computes are fitted every four weeks to the two years before. All are rebalanced weekly, at
the same costs, by the same environment. A policy acts by its mode, by samples, and by the mean of
64 samples, which are shares again. Rows are added to portfolio/backtests.csv, and to
portfolio/wealth.csv what the first seed came to week by week, by the mean.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import policies
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maxentflow import agents
from maxentflow.agents.cli.figures import STYLES
from maxentflow.agents.training.statistics import bootstrap
from maxentflow.envs import Backtest, PortfolioEnv, PortfolioScoresEnv
from maxentflow.envs.rollouts import BatchFunction

HERE = Path(__file__).parent / "portfolio"
BACKTESTS, WEALTH = HERE / "backtests.csv", HERE / "wealth.csv"
SHARES, SCORES = "maxentflow/Portfolio-v0", "maxentflow/PortfolioScores-v0"
TRAINING = {"prices": "historical", "end": "2010-12-31"}
PERIODS = {"choice": ("2011-01-01", "2014-12-31"), "test": ("2015-01-01", "2022-12-31")}
SEEDS = range(5)
STEPS = 10_000
TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3)
FIXED = {"normalize_rewards": False, "target_entropy": None}
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        f"MEow, temperature {alpha}": ("meow", SHARES, {"temperature": alpha, **FIXED})
        for alpha in TEMPERATURES
    },
    "MEow": ("meow", SHARES, {}),
    "MEow, affine": ("meow", SHARES, {"flow": "affine"}),
    "MEow, softmax": ("meow", SCORES, {}),
    "SAC, softmax": ("sac", SCORES, {}),
    "TD3, softmax": ("td3", SCORES, {}),
    "DDPG, softmax": ("ddpg", SCORES, {}),
}
CLASSICAL = "equal shares", "minimum variance", "maximum Sharpe ratio", "hierarchical risk parity"
WAYS = "mode", "samples", "mean"
LOOK_BACK, REFIT = 504, 4  # days; rebalancings from one fit to the next
FIGURES = {
    "annual_return": "annual return, %",
    "volatility": "volatility, %",
    "sharpe": "Sharpe",
    "sortino": "Sortino",
    "drawdown": "drawdown, %",
    "turnover": "turnover a year",
    "effective_assets": "effective assets",
    "largest_halved": "largest halved, %",
}


TITLES = {
    "effective_assets": "effective number of assets",
    "largest_halved": "loss if the largest is halved",
    "sharpe": "Sharpe ratio",
}


def run(labels: list[str]) -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    done = {row["agent"] for row in tables.read(BACKTESTS)}
    for label in labels:
        if label in done:
            continue
        if label in CLASSICAL:
            for period in PERIODS:
                note(label, 0, period, "-", classical(label, period))
            continue
        name, task, settings = VARIANTS[label]
        make = partial(agents.make, name, **settings)
        learned = policies.learn(make, task, SEEDS, STEPS, **TRAINING)
        kind = PortfolioEnv if task == SHARES else PortfolioScoresEnv
        for seed, agent in zip(SEEDS, learned, strict=True):
            for period in PERIODS:
                for way in WAYS:
                    env = evaluation(kind, period)
                    with policies.acting(agent, deterministic=way == "mode") as act:
                        act = mean_of(act) if way == "mean" else act
                        note(label, seed, period, way, env.rollout(act, seed=seed))


def mean_of(act: BatchFunction, samples: int = 64) -> BatchFunction:
    """The mean of a policy's samples, which are shares too, or scores."""
    return lambda x: act(np.repeat(x, samples, 0)).mean(0, keepdims=True)


def evaluation(kind: type[PortfolioEnv], period: str) -> PortfolioEnv:
    """The whole of a period as one episode."""
    start, end = PERIODS[period]
    return kind("historical", start=start, end=end, days=None)


def note(label: str, seed: int, period: str, way: str, backtest: Backtest) -> None:
    row: dict[str, Any] = {"agent": label, "seed": seed, "period": period, "actions": way}
    figures = backtest.statistics()
    tables.append(BACKTESTS, row | {name: round(figures[name], 5) for name in FIGURES})
    if seed == 0 and period == "test" and way in ("mean", "-"):
        wealth = np.exp(np.cumsum(backtest.returns))
        for day in range(4, len(wealth), 5):
            tables.append(WEALTH, {"agent": label, "day": day, "wealth": round(wealth[day], 4)})
    print(
        label, seed, period, way, {name: round(figures[name], 3) for name in FIGURES}, flush=True
    )


def classical(label: str, period: str) -> Backtest:
    """One of skfolio's portfolios, through the same rebalancings at the same costs."""
    env = evaluation(PortfolioEnv, period)
    fit = fitter(label)
    env.reset(seed=0)
    daily = np.diff(env.prices.values, axis=0) / env.prices.values[:-1]
    shares, truncated, count = np.empty(0), False, 0
    while not truncated:
        if count % REFIT == 0:
            shares = fit(daily[env.day - LOOK_BACK : env.day])
        *_, truncated, _ = env.step(shares.astype(np.float32))
        count += 1
    return env.backtest


def fitter(label: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Shares of simple daily returns ``(days, assets)``."""
    from skfolio.optimization import (
        EqualWeighted,
        HierarchicalRiskParity,
        MeanRisk,
        ObjectiveFunction,
    )

    model = {
        "equal shares": EqualWeighted,
        "minimum variance": MeanRisk,
        "maximum Sharpe ratio": partial(
            MeanRisk, objective_function=ObjectiveFunction.MAXIMIZE_RATIO
        ),
        "hierarchical risk parity": HierarchicalRiskParity,
    }[label]

    def fit(returns: NDArray[Any]) -> NDArray[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(model().fit(returns).weights_)

    return fit


# The report


def report() -> None:
    rows = tables.read(BACKTESTS)
    for period in PERIODS:
        print(f"\n{period}: means over seeds, 95% intervals of the Sharpe ratio\n")
        print("| agent | actions | " + " | ".join(FIGURES.values()) + " |")
        print("| --- " * (2 + len(FIGURES)) + "|")
        for label, way in dict.fromkeys((row["agent"], row["actions"]) for row in rows):
            found = select(rows, label, period, way)
            print(
                f"| {label} | {way} | " + " | ".join(cell(found, name) for name in FIGURES) + " |"
            )
    draw_temperatures(rows)
    draw_wealth(tables.read(WEALTH), chosen(rows))


def select(rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["agent"], row["period"], row["actions"]) == keys]


def cell(rows: list[dict[str, Any]], name: str) -> str:
    values = [float(row[name]) for row in rows]
    in_percent = FIGURES[name].endswith("%")
    words = f"{np.mean(values) * (100 if in_percent else 1):.{1 if in_percent else 2}f}"
    if name != "sharpe" or len(values) == 1:
        return words
    low, high = bootstrap([values], lambda scores: float(np.mean(scores[0])))
    return f"{words} [{low:.2f}, {high:.2f}]"


def draw_temperatures(rows: list[dict[str, Any]]) -> None:
    """Diversification, risk and Sharpe ratio of MEow over the temperature, beside TD3 and DDPG."""
    figure = Figure(figsize=(10.8, 3.7), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), TITLES, strict=True):
        for style, way in zip(STYLES, WAYS, strict=False):
            found = [
                [
                    float(row[name])
                    for row in select(rows, f"MEow, temperature {alpha}", "test", way)
                ]
                for alpha in TEMPERATURES
            ]
            shown = [alpha for alpha, values in zip(TEMPERATURES, found, strict=True) if values]
            found = [values for values in found if values]
            axes.plot(
                shown,
                [np.mean(values) for values in found],
                color=style.color,
                linestyle=style.line,
                label=f"MEow, {way}",
            )
            for alpha, values in zip(shown, found, strict=True):
                axes.plot([alpha] * len(values), values, ".", color=style.color, alpha=0.5)
        for style, label in zip(
            STYLES[3:], ("equal shares", "TD3, softmax", "DDPG, softmax"), strict=False
        ):
            way = "-" if label in CLASSICAL else "mode"
            values = [float(row[name]) for row in select(rows, label, "test", way)]
            if values:
                mean = float(np.mean(values))
                axes.axhline(mean, color=style.color, linestyle=style.line, label=label)
        axes.set(xscale="log", xlabel="temperature", title=TITLES[name])
        axes.set_xticks(TEMPERATURES, labels=[f"{alpha:g}" for alpha in TEMPERATURES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(HERE / "temperature.png", dpi=120)


def chosen(rows: list[dict[str, Any]]) -> str:
    """MEow at the temperature with the highest Sharpe ratio from 2011 to 2014."""
    ratios = {}
    for alpha in TEMPERATURES:
        label = f"MEow, temperature {alpha}"
        found = [float(row["sharpe"]) for row in select(rows, label, "choice", "mean")]
        if found:
            ratios[label] = np.mean(found)
    return max(ratios, key=lambda label: ratios[label])


def draw_wealth(rows: list[dict[str, Any]], meow: str) -> None:
    """What 1 became from 2015 to 2022."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    labels = [meow, "DDPG, softmax", "TD3, softmax", *CLASSICAL[:3]]
    for style, label in zip(STYLES, labels, strict=False):
        found = [row for row in rows if row["agent"] == label]
        axes.plot(
            [int(row["day"]) for row in found],
            [float(row["wealth"]) for row in found],
            color=style.color,
            linestyle=style.line,
            label=label,
        )
    axes.set(yscale="log", xlabel="trading days from January 2015", ylabel="wealth")
    axes.set_yticks([1, 2, 3, 4], labels=["1", "2", "3", "4"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(HERE / "wealth.png", dpi=120)


if __name__ == "__main__":
    command, *given = sys.argv[1:] or ["report"]
    if command == "run":
        run(given or [*CLASSICAL, *VARIANTS])
    else:
        report()
