"""``maxentflow robustness``: returns over the size of a disturbance."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from maxentflow.agents.cli import figures
from maxentflow.agents.cli.curves import by_label
from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.cli.tables import write_table
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import RunFolder
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.disturbances import Robustness, robustness
from maxentflow.agents.training.files import check_place
from maxentflow.envs import PERTURBATIONS

__all__ = ["run"]


@dataclass
class _Robustness:
    """Evaluate trained policies where friction, masses or something else differs from training.

    Quantities: {quantities}."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, of one task of MuJoCo; those that differ by seed alone are one line."""
    perturb: tuple[str, str]
    """What to change, and its values: first:last:count, or numbers with commas between them."""
    episodes: int = 20
    """How many for each value."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i, for every value."""
    out: Path = Path("robustness.png")
    """Where to write the figure; the numbers go beside it as a .csv file."""


_Robustness.__doc__ = (_Robustness.__doc__ or "").replace(
    "{quantities}", "; ".join(f"{name}, {kind.about}" for name, kind in PERTURBATIONS.items())
)


def run(arguments: list[str]) -> None:
    """Evaluate, print a table, write it and draw it."""
    options = parse(_Robustness, arguments, "robustness")
    if not options.runs:
        raise ValueError("robustness needs at least one run folder.")
    check_place(options.out, "figure", ".png")
    check_least(options, episodes=1, seed=0)
    quantity, values = options.perturb[0], _numbers(options.perturb[1])
    tasks = by_label([RunFolder(path) for path in options.runs])
    if len(tasks) > 1:
        raise ValueError(f"The runs are of several tasks: {', '.join(tasks)}.")
    (groups,) = tasks.values()
    if len(groups) > len(figures.STYLES):
        raise ValueError(
            f"A figure shows at most {len(figures.STYLES)} agents, got {len(groups)}."
        )
    found: dict[str, list[Robustness]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    for label, curves in groups.items():
        for curve in curves:
            result = _measure(curve.folder, quantity, values, options)
            found[label].append(result)
            rows += _rows(label, curve.seed, result)
    kind = "samples" if options.stochastic else "mode"
    print(f"{next(iter(tasks))}, {kind}: mean return by {quantity}")
    for label, results in found.items():
        means = np.mean([each.returns.mean(1) for each in results], axis=0)
        line = "  ".join(f"{v:g}: {m:,.0f}" for v, m in zip(values, means, strict=True))
        area = np.mean([each.relative_area for each in results])
        print(f"{label}: {line}  (area {area:.2f} of the undisturbed return)")
    table = options.out.with_suffix(".csv")
    write_table(rows, table)
    figures.robustness(found, next(iter(tasks)), PERTURBATIONS[quantity].neutral, options.out)
    print(f"Numbers: {table}\nFigure: {options.out}")


def _measure(
    folder: RunFolder | None, quantity: str, values: list[float], options: _Robustness
) -> Robustness:
    assert folder is not None
    description = read(folder)
    env = make_env(description, 1)
    policy = trained(description, folder, env).policy
    close(env)
    return robustness(
        policy,
        description.env,
        quantity,
        values,
        episodes=options.episodes,
        deterministic=not options.stochastic,
        seed=options.seed,
        **description.env_kwargs,
    )


def _rows(label: str, seed: int, result: Robustness) -> list[dict[str, Any]]:
    return [
        {
            "agent": label,
            "seed": seed,
            "quantity": result.quantity,
            "value": f"{value:g}",
            "mean_return": round(float(returns.mean()), 2),
            "sd_over_episodes": round(float(returns.std()), 2),
            "undisturbed": round(float(result.undisturbed.mean()), 2),
        }
        for value, returns in zip(result.values, result.returns, strict=True)
    ]


def _numbers(text: str) -> list[float]:
    """Values from first:last:count or a,b,c."""
    try:
        if ":" in text:
            first, last, count = text.split(":")
            values = np.linspace(float(first), float(last), int(count)).tolist()
        else:
            values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise ValueError(
            f"Values must be first:last:count or numbers with commas between them, got {text!r}."
        )
    return values
