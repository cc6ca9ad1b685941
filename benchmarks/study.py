"""Studies: training runs that differ by one thing, on some tasks and seeds.

A script declares its studies and calls :func:`main`, which gives it three commands:

    python benchmarks/paper.py list                     # the studies, and what each asks
    python benchmarks/paper.py run shifts               # its runs that are missing, or their rest
    python benchmarks/paper.py run shifts --tasks Hopper-v4 --variants "vanilla;LRS" --seeds 0,1
    python benchmarks/paper.py report shifts            # shifts.csv, shifts_curves.csv, shifts.png

A run is kept in runs/STUDY/TASK/VARIANT/seed-N; one that was interrupted goes on from its last
checkpoint, with the same command. --steps shortens runs that have not begun, --jobs has several
at a time, with a thread each. A report evaluates the last policy of each run that is over, on 20
episodes of its mode and 20 of its samples, and writes rows in place of older ones; rows of runs
on another machine stay, and are in the table and the figures too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
import tables

from maxentflow.agents import RunFolder, evaluate
from maxentflow.agents.cli import figures
from maxentflow.agents.cli.curves import Curve, Group, group
from maxentflow.agents.training import description as runs
from maxentflow.agents.training.run_folder import read_metrics
from maxentflow.agents.training.statistics import (
    area_under_curve,
    bootstrap,
    iqm,
    probability_of_improvement,
)

HERE = Path(__file__).parent
RUNS = Path("runs")
EPISODES = 20
CURVES = ("step", "seconds", "eval_return", "eval_value", "eval_discounted_return")


@dataclass(frozen=True)
class Study:
    """Training runs that differ by one thing.

    Attributes:
        name: of the CSVs, in this folder, and of the runs' folder.
        question: what it asks, or the claim that it tests.
        variants: label and the words after ``maxentflow train``; those of another library's agent
            are ``stable-baselines3`` and its name.
        tasks: gymnasium ids, and the steps of a run.
        seeds: of the runs.
        words: further words of every command of ours, by the task and the steps of a run.
        begun: return of each task below which an agent has not begun to learn.
    """

    name: str
    question: str
    variants: Mapping[str, str]
    tasks: Mapping[str, int]
    seeds: tuple[int, ...] = (0, 1, 2)
    words: Callable[[str, int], str] = lambda task, steps: ""
    begun: Mapping[str, float] = field(default_factory=dict)

    def folder(self, task: str, variant: str, seed: int) -> RunFolder:
        words = variant.replace(",", "").replace(" ", "-")
        return RunFolder(RUNS / self.name / task / words / f"seed-{seed}")

    def is_over(self, task: str, variant: str, seed: int) -> bool:
        run = self.folder(task, variant, seed)
        if self._peer(variant):
            return peers.is_over(run.path)
        return is_over(run)

    def train(self, task: str, variant: str, seed: int, steps: int) -> bool:
        """Make a run, or its rest; say whether it is over."""
        if self.is_over(task, variant, seed):
            return True
        run = self.folder(task, variant, seed)
        if peer := self._peer(variant):
            shutil.rmtree(run.path, ignore_errors=True)  # it cannot be resumed
            words = [sys.executable, peers.__file__, peer, task, str(seed), str(steps), run.path]
        else:
            words = [sys.executable, "-m", "maxentflow.agents", "train"]
            if run.config_path.exists():
                words += ["--resume", run.path]
            else:
                words += [*self.variants[variant].split(), "--env", task, "--seed", str(seed)]
                words += ["--total-steps", str(steps), "--run-dir", run.path]
                words += self.words(task, steps).split()
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        ended = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        print(f"{run}: {'done' if ended.returncode == 0 else ended.stderr.strip()}", flush=True)
        return ended.returncode == 0

    def report(self) -> None:
        """Write what the runs have come to, print a table and draw the curves."""
        over = [
            run
            for run in (
                (task, variant, seed)
                for task in self.tasks
                for variant in self.variants
                for seed in self._seeds(task, variant)
            )
            if self.is_over(*run)
        ]
        if not over and not (HERE / f"{self.name}.csv").exists():
            print(f"No run of {self.name} is over.")
            return
        rows = self._merge(f"{self.name}.csv", [self._row(*run) for run in over])
        points = self._merge(
            f"{self.name}_curves.csv", [point for run in over for point in self._points(*run)]
        )
        tasks = {task: found for task in self.tasks if (found := self._groups(task, points))}
        for task, groups in tasks.items():
            for variant, curves in groups.items():
                self._print(task, variant, rows, curves)
        self._draw(tasks)
        first, *others = self.variants
        for variant in others:
            self._compare(variant, first, rows)

    def _peer(self, variant: str) -> str | None:
        library, _, algorithm = self.variants[variant].partition(" ")
        return algorithm if library == "stable-baselines3" else None

    def _seeds(self, task: str, variant: str) -> list[int]:
        places = self.folder(task, variant, 0).path.parent.glob("seed-*")
        return sorted(int(place.name.removeprefix("seed-")) for place in places)

    def _row(self, task: str, variant: str, seed: int) -> dict[str, Any]:
        """The last policy of a run."""
        run = self.folder(task, variant, seed)
        metrics = read_metrics(run)
        return {
            "task": task,
            "variant": variant,
            "seed": seed,
            "steps": int(metrics[-1]["step"]),
            **last_returns(run, task, self._peer(variant)),
            "minutes": round(float(metrics[-1]["seconds"]) / 60, 1),
        }

    def _points(self, task: str, variant: str, seed: int) -> Iterable[dict[str, Any]]:
        """The evaluations of a run, with V of their first observations where the agent has a V."""
        for each in read_metrics(self.folder(task, variant, seed)):
            if each["eval_return"]:
                numbers = {column: _short(each.get(column, "")) for column in CURVES}
                yield {"task": task, "variant": variant, "seed": seed, **numbers}

    def _merge(self, name: str, new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write rows, with those of the file that are of other runs, in the study's order."""
        run = lambda row: (row["task"], row["variant"], int(row["seed"]))  # noqa: E731
        replaced = {run(row) for row in new}
        kept = [row for row in tables.read(HERE / name) if run(row) not in replaced]
        tasks, variants = list(self.tasks), list(self.variants)
        rows = sorted(
            [*kept, *new],
            key=lambda row: (
                _place(tasks, row["task"]),
                _place(variants, row["variant"]),
                int(row["seed"]),
            ),
        )
        tables.write(HERE / name, rows)
        return rows

    def _groups(self, task: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Group]:
        """The curves of a task by variant."""
        groups = {}
        for variant, command in self.variants.items():
            found = [row for row in points if (row["task"], row["variant"]) == (task, variant)]
            curves = []
            for seed in sorted({int(row["seed"]) for row in found}):
                columns = zip(
                    *(
                        [float(row[name] or "nan") for name in CURVES[:3]]
                        for row in found
                        if int(row["seed"]) == seed
                    ),
                    strict=True,
                )
                steps, seconds, returns = map(np.array, columns)
                agent = command.partition(" ")[0]
                curves.append(
                    Curve(task, agent, seed, {}, steps.astype(int), returns, seconds, variant)
                )
            if curves:
                groups[variant] = group(variant, curves)
        return groups

    def _draw(self, tasks: Mapping[str, Mapping[str, Group]]) -> None:
        """A figure of all tasks, for every six variants."""
        size, variants = len(figures.STYLES), list(self.variants)
        for part, first in enumerate(range(0, len(variants), size), start=1):
            shown = variants[first : first + size]
            chosen = {
                task: {variant: groups[variant] for variant in shown if variant in groups}
                for task, groups in tasks.items()
            }
            chosen = {task: groups for task, groups in chosen.items() if groups}
            if chosen:
                end = "" if part == 1 else f"-{part}"
                figures.learning_curves(chosen, HERE / f"{self.name}{end}.png")

    def _print(self, task: str, variant: str, rows: list[dict[str, Any]], curves: Group) -> None:
        """Means over seeds of both ways to act, and the IQM."""
        found = [row for row in rows if (row["task"], row["variant"]) == (task, variant)]
        modes = [float(row["mode"]) for row in found]
        low, high = bootstrap([modes], lambda scores: float(np.mean(scores[0])))
        interval = "" if np.isnan(low) else f"[{low:,.5g}, {high:,.5g}]"
        samples = np.mean([float(row["samples"]) for row in found])
        area = np.mean([area_under_curve(curves.steps, each) for each in curves.returns])
        line = f"{task:26} {variant:32} mode {np.mean(modes):8,.5g} {interval:18}"
        line += f" IQM {iqm([modes]):8,.5g}   samples {samples:8,.5g}   over training {area:8,.5g}"
        line += f"   {len(found)} seeds, {int(found[0]['steps']):,} steps"
        if task in self.begun:
            learned = sum(each.returns.max() > self.begun[task] for each in curves.curves)
            line += f", {learned} have begun"
        print(line)

    def _compare(self, variant: str, first: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """How often a run of a variant is better than one of the first, over common tasks."""
        scores: dict[str, dict[str, list[float]]] = {variant: {}, first: {}}
        for row in rows:
            if row["variant"] in scores:
                of_task = scores[row["variant"]].setdefault(row["task"], [])
                of_task.append(float(row["mode"]))
        tasks = [task for task in scores[variant] if task in scores[first]]
        if tasks:
            share = probability_of_improvement(
                *([scores[name][task] for task in tasks] for name in (variant, first))
            )
            print(
                f"A run of {variant} is better than one of {first} with probability {share:.2f}."
            )


def _place(names: Sequence[str], name: str) -> int:
    """Of a name among others; unknown ones, of runs made before a change, come last."""
    return names.index(name) if name in names else len(names)


def _short(text: str) -> str:
    """A number with seven digits."""
    return f"{float(text):.7g}" if text else ""


def is_over(run: RunFolder) -> bool:
    """Whether a run has taken all its steps."""
    if not run.metrics_path.exists():
        return False
    rows = read_metrics(run)
    return bool(rows) and int(rows[-1]["step"]) >= run.config()["trainer_config"]["total_steps"]


def last_returns(run: RunFolder, task: str, peer: str | None = None) -> dict[str, float]:
    """Mean returns of the last policy, of its mode and of its samples."""
    if peer is None:
        description = runs.read(run)
        env = runs.make_env(description, 10)
        policy = runs.trained(description, run, env).policy
    else:
        env = peers.evaluation_env(task)
        policy = peers.policy(peer, task, run.path)
    return {
        way: round(
            float(
                evaluate(
                    policy, env, episodes=EPISODES, deterministic=way == "mode", seed=2_000_000
                ).returns.mean()
            ),
            2,
        )
        for way in ("mode", "samples")
    }


def main(description: str, studies: Sequence[Study]) -> None:
    """The command line of a script with some studies."""
    by_name = {study.name.rpartition("/")[2]: study for study in studies}
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("command", choices=["list", "run", "report"])
    only = next(iter(by_name)) if len(by_name) == 1 else None
    parser.add_argument("study", nargs="?", choices=list(by_name), default=only)
    parser.add_argument("--tasks", help="with commas between them")
    parser.add_argument("--variants", help="labels, with semicolons between them")
    parser.add_argument("--seeds")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.command == "list":
        for name, study in by_name.items():
            print(f"{name}: {study.question}\n    {'; '.join(study.variants)}")
        return
    if given.study is None:
        parser.error(f"name one of {', '.join(by_name)}")
    study = by_name[given.study]
    if given.command == "report":
        study.report()
        return
    variants = given.variants.split(";") if given.variants else list(study.variants)
    tasks = given.tasks.split(",") if given.tasks else list(study.tasks)
    seeds = [int(seed) for seed in given.seeds.split(",")] if given.seeds else study.seeds
    for kind, names, known in (
        ("tasks", tasks, study.tasks),
        ("variants", variants, study.variants),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"{', '.join(unknown)}: not of the {kind} {'; '.join(known)}")
    with ThreadPoolExecutor(given.jobs) as pool:
        running = [
            pool.submit(study.train, task, variant, seed, given.steps or study.tasks[task])
            for seed in seeds
            for task in tasks
            for variant in variants
        ]
    if not all(run.result() for run in running):
        sys.exit(1)
