"""``maxentflow sweep``: many runs that differ in some settings."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from maxentflow.agents.cli import compare, figures, imports
from maxentflow.agents.cli.curves import shortened
from maxentflow.agents.cli.parsing import parse, quoted
from maxentflow.agents.cli.tables import write_table
from maxentflow.agents.cluster import Spec, Trial, sweep
from maxentflow.agents.task_errors import SignalExit

__all__ = ["run"]

_SHOWN = 10  # combinations on the screen


@dataclass
class _Sweep:
    """Train many runs that differ in some settings, each in a run folder of its own.

    A specification is a YAML file such as

        agent: sac
        env: Pendulum-v1
        settings: {total_steps: 20000}
        search:
          tau: {low: 0.001, high: 0.05, log: true}
          batch_size: [64, 256]
        algorithm: random  # or grid, optuna
        trials: 8"""

    spec: tyro.conf.Positional[Path | None] = None
    """A YAML file: agent, env, search, and optionally settings, algorithm (grid, random, optuna),
    trials, seeds, early_stopping, grace_steps, reduction_factor, paper."""
    out: Path | None = None
    """Folder of the trials; runs/NAME by default, after the file."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the sweep of a folder, each trial from its last checkpoint."""
    address: str | None = None
    """A Ray cluster that runs, auto for the one of this machine; by default one is started."""
    parallel: int | None = None
    """Trials at a time; by default as many as there are cores for."""


def run(arguments: list[str]) -> None:
    """Train the trials, print the best, write a table and compare the best as curves."""
    options = parse(_Sweep, arguments, "sweep")
    if (options.spec is None) == (options.resume is None):
        raise ValueError("Give a specification, or --resume with the folder of a sweep.")
    if options.parallel is not None and options.parallel < 1:
        raise ValueError(f"parallel must be at least 1, got {options.parallel}.")
    if options.spec is None:
        assert options.resume is not None
        out = options.resume
        spec = Spec.read(out / "sweep.yaml")
    else:
        out = options.out or Path("runs") / options.spec.stem
        spec = Spec.read(options.spec)
        try:
            out.mkdir(parents=True, exist_ok=True)
            if not (out / "sweep.yaml").exists():
                shutil.copyfile(options.spec, out / "sweep.yaml")
        except OSError as error:
            raise ValueError(f"Cannot write to {out}: {error.strerror}.") from error
    print(f"Sweep: {out}", flush=True)
    go_on = f"go on with maxentflow sweep{imports.words()} --resume {quoted(out)}"
    try:
        trials = sweep(
            spec,
            out,
            address=options.address,
            resume=options.resume is not None,
            parallel=options.parallel,
            imports=imports.named,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; {go_on}.") from None
    except SignalExit as end:
        end.add_note(f"Terminated; {go_on}.")
        raise
    rows = _rows(trials)
    if rows:
        write_table(rows, out / "sweep.csv")
    best = _best(trials)
    print(_table(best))
    print(f"Trials: {out / 'sweep.csv'}")
    failed = [trial for trial in trials if trial.state.startswith("failed")]
    for trial in failed:
        print(f"{trial.folder}: {trial.state}")
    curves = [each for _, each in best[: len(figures.STYLES)]]
    if curves:
        folders = [str(trial.folder) for group in curves for trial in group]
        compare.run([*folders, "--out", str(out / "compare.csv")])


def _rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [
        {
            "folder": trial.folder.path.name,
            **trial.settings,
            "steps": trial.steps,
            "return": trial.returns[-1] if trial.returns else math.nan,
            "best_return": max(trial.returns, default=math.nan),
            "state": trial.state,
        }
        for trial in trials
    ]


def _best(trials: Sequence[Trial]) -> list[tuple[float, list[Trial]]]:
    """Trials that differ by seed alone together, with the mean of their last returns; those that
    came furthest first, and of these the best. Of trials that were drawn alike, one counts."""
    groups: dict[str, dict[int, Trial]] = defaultdict(dict)
    for trial in trials:
        if trial.returns:
            settings = {name: by for name, by in trial.settings.items() if name != "seed"}
            groups[json.dumps(settings, sort_keys=True)].setdefault(trial.settings["seed"], trial)
    alike = [list(group.values()) for group in groups.values()]
    ranked = [
        (min(trial.steps for trial in group), np.mean([trial.returns[-1] for trial in group]))
        for group in alike
    ]
    order = sorted(zip(ranked, alike, strict=True), key=lambda pair: pair[0])[::-1]
    return [(float(rank[1]), group) for rank, group in order]


def _table(best: Sequence[tuple[float, list[Trial]]]) -> str:
    lines = []
    for value, group in best[:_SHOWN]:
        settings = [
            f"{name} {shortened(str(by))}"
            for name, by in group[0].settings.items()
            if name != "seed"
        ]
        seeds = f", {len(group)} seeds" if len(group) > 1 else ""
        steps = min(trial.steps for trial in group)
        lines.append(f"{value:10.4g}  after {steps:,} steps{seeds}: {', '.join(settings)}")
    if len(best) > _SHOWN:
        lines.append(f"and {len(best) - _SHOWN} more")
    return "\n".join(["Return, best first:", *lines])
