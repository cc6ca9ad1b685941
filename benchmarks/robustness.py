"""Trained policies where friction, masses, the ground and more differ from training.

    python benchmarks/robustness.py run --tasks Hopper-v4 --seeds 0     # trains what is missing
    python benchmarks/robustness.py measure                             # robustness/measured.csv
    python benchmarks/robustness.py report                              # robustness/areas.csv

study.py tells what run does. measure evaluates the last policy of each run that is over, its mode
and its samples, 20 episodes for each value of each quantity; what is in the file stays. report
gives, for each task, quantity and agent, the area under the curve relative to the undisturbed
return, with a 95% bootstrap interval over seeds, and draws the curves of the modes.

The ranges were chosen before any policy was measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tables
from study import Study, main

from maxentflow.agents import robustness
from maxentflow.agents.training import description as runs
from maxentflow.agents.training.statistics import area_under_curve, bootstrap, mean_band

HERE = Path(__file__).parent / "robustness"
MEASURED, AREAS = HERE / "measured.csv", HERE / "areas.csv"
EPISODES = 20
RANGES: dict[str, list[float]] = {
    "friction": np.linspace(0.2, 2.0, 7).tolist(),
    "mass": np.linspace(0.5, 1.5, 7).tolist(),
    "gravity": np.linspace(0.5, 1.5, 7).tolist(),
    "motor": np.linspace(0.4, 1.6, 7).tolist(),
    "damping": [0.2, 0.5, 1.0, 2.0, 5.0],
    "observation_noise": np.linspace(0.0, 0.3, 7).tolist(),
    "action_delay": [0, 1, 2, 3, 4],
    "push": np.linspace(0.0, 2.0, 5).tolist(),
    "ground": np.linspace(0.0, 0.3, 7).tolist(),
    "obstacles": np.linspace(0.0, 0.1, 5).tolist(),
}
STUDY = Study(
    "robustness/training",
    "Maximum-entropy policies lose less where the world differs from training.",
    {"MEow": "meow --paper", "SAC": "sac", "TD3": "td3", "DDPG": "ddpg"},
    {"Hopper-v4": 300_000, "HalfCheetah-v4": 300_000, "Walker2d-v4": 300_000, "Ant-v4": 500_000},
)


def measure() -> None:
    HERE.mkdir(exist_ok=True)
    done = {
        tuple(row[name] for name in ("task", "variant", "seed", "way", "quantity"))
        for row in tables.read(MEASURED)
    }
    for task in STUDY.tasks:
        for variant in STUDY.variants:
            for seed in STUDY.seeds:
                if STUDY.is_over(task, variant, seed):
                    measure_run(task, variant, seed, done)


def measure_run(task: str, variant: str, seed: int, done: set[Any]) -> None:
    folder = STUDY.folder(task, variant, seed)
    description = runs.read(folder)
    policy = runs.trained(description, folder, runs.make_env(description, 1)).policy
    for way in ("mode", "samples"):
        for quantity, values in RANGES.items():
            if (task, variant, str(seed), way, quantity) in done:
                continue
            found = robustness(
                policy,
                task,
                quantity,
                values,
                episodes=EPISODES,
                deterministic=way == "mode",
                seed=2_000_000,
            )
            for value, returns in zip(values, found.returns, strict=True):
                row = {
                    "task": task,
                    "variant": variant,
                    "seed": seed,
                    "way": way,
                    "quantity": quantity,
                    "value": f"{value:g}",
                    "mean_return": round(float(returns.mean()), 1),
                    "undisturbed": round(float(found.undisturbed.mean()), 1),
                }
                tables.append(MEASURED, row)
            print(task, variant, seed, way, quantity, f"{found.relative_area:.2f}", flush=True)


def report() -> None:
    rows = tables.read(MEASURED)
    areas = []
    for task in STUDY.tasks:
        for quantity, values in RANGES.items():
            for way in ("mode", "samples"):
                for variant in STUDY.variants:
                    key = {"task": task, "quantity": quantity, "way": way, "variant": variant}
                    found = [row for row in rows if key.items() <= row.items()]
                    curves = _by_seed(found)
                    if not curves:
                        continue
                    relative = [
                        area_under_curve(values, returns) / undisturbed
                        for returns, undisturbed in curves
                    ]
                    low, high = bootstrap([relative], lambda scores: float(np.mean(scores[0])))
                    area = {"area": np.mean(relative), "low": low, "high": high}
                    row = {**key, **{name: f"{number:.3f}" for name, number in area.items()}}
                    areas.append({**row, "seeds": len(curves)})
                    print(*areas[-1].values())
    tables.write(AREAS, areas)
    for task in STUDY.tasks:
        _draw(task, [row for row in rows if (row["task"], row["way"]) == (task, "mode")])


def _by_seed(rows: list[dict[str, Any]]) -> list[tuple[list[float], float]]:
    """Mean returns over the values, and the undisturbed return, of each seed."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    of_seed = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    return [
        ([float(row["mean_return"]) for row in found], float(found[0]["undisturbed"]))
        for found in of_seed
    ]


def _draw(task: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    from maxentflow.agents.cli.figures import STYLES
    from maxentflow.envs import PERTURBATIONS

    if not rows:
        return
    figure = Figure(figsize=(16, 6), layout="constrained")
    for axes, (quantity, values) in zip(figure.subplots(2, 5).flat, RANGES.items(), strict=True):
        for style, variant in zip(STYLES, STUDY.variants, strict=False):
            found = [
                row for row in rows if (row["variant"], row["quantity"]) == (variant, quantity)
            ]
            curves = _by_seed(found)
            if curves:
                table = np.array([returns for returns, _ in curves])
                line = {"color": style.color, "linestyle": style.line}
                axes.plot(values, table.mean(0), label=variant, **line)
                if len(table) > 2:
                    axes.fill_between(
                        values, *mean_band(table), color=style.color, alpha=0.15, linewidth=0
                    )
        axes.axvline(PERTURBATIONS[quantity].neutral, color="k", linestyle=":", linewidth=1)
        axes.set(xlabel=quantity.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="return of the mode", title=task)
    figure.axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(HERE / f"{task}.png", dpi=100)


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    elif sys.argv[1:] == ["report"]:
        report()
    else:
        main(__doc__.partition("\n")[0], [STUDY])
