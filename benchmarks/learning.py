"""Learning curves on MuJoCo, against the published ones.

    python benchmarks/learning.py train HalfCheetah-v4-meow 0   # one run, or the rest of it
    python benchmarks/learning.py train HalfCheetah-v4-meow-batched 0 1   # as one program
    python benchmarks/learning.py solved                        # Pendulum-v1 and CartPole-v1
    python benchmarks/learning.py report                        # tables and figures of all runs

Runs are kept in runs/benchmarks; report copies metrics and configurations of finished ones into
learning/ next to this file, draws the figures there and writes summary.csv. solved evaluates the
last policies of the small tasks on a hundred episodes, the same for all seeds, and writes
solved.csv; rows of runs on another machine stay.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import study
import tables

from maxentflow.agents import RunFolder, evaluate
from maxentflow.agents.cli import figures
from maxentflow.agents.cli import main as maxentflow
from maxentflow.agents.cli.curves import read_curves
from maxentflow.agents.training import description as runs
from maxentflow.agents.training.run_folder import read_metrics

RESULTS = Path(__file__).parent / "learning"
RUNS = Path("runs/benchmarks")


class Experiment(NamedTuple):
    """Runs of one configuration, and what the mean of each one's last evaluations is held to."""

    command: str
    steps: int
    seeds: tuple[int, ...]
    last: int
    must_reach: float | None


EXPERIMENTS = {
    "HalfCheetah-v4-meow": Experiment(
        "meow --paper --env HalfCheetah-v4", 100_000, (0, 1), 3, 5_200
    ),
    "HalfCheetah-v4-meow-affine": Experiment(
        "meow --paper --env HalfCheetah-v4 --flow affine", 100_000, (0, 1), 3, None
    ),
    "HalfCheetah-v4-meow-newest": Experiment(
        "meow --paper --env HalfCheetah-v4 --average-decay 0", 100_000, (0, 1), 3, None
    ),
    "HalfCheetah-v4-meow-newest-one-mask": Experiment(
        "meow --paper --env HalfCheetah-v4 --average-decay 0 --no-dropout-per-head",
        100_000,
        (0, 1),
        3,
        None,
    ),
    **{
        f"HalfCheetah-v4-meow-{count}-envs": Experiment(
            f"meow --paper --env HalfCheetah-v4 --num-envs {count}", 100_000, (0,), 3, None
        )
        for count in (8, 32)
    },
    "HalfCheetah-v4-sac": Experiment("sac --env HalfCheetah-v4", 100_000, (0,), 3, 4_000),
    "HalfCheetah-v4-meow-one-graph": Experiment(
        "meow --paper --env HalfCheetah-v4", 100_000, (0, 1, 2, 3), 3, 5_200
    ),
    "HalfCheetah-v4-meow-batched": Experiment(
        "meow --paper --env HalfCheetah-v4", 100_000, (0, 1), 3, 5_200
    ),
    "Hopper-v4-meow": Experiment("meow --paper --env Hopper-v4", 300_000, (0, 1), 5, 2_400),
    "Hopper-v4-meow-one-graph": Experiment(
        "meow --paper --env Hopper-v4", 300_000, (0, 1), 5, 2_400
    ),
    "Hopper-v4-meow-newest": Experiment(
        "meow --paper --env Hopper-v4 --average-decay 0", 300_000, (0, 1), 5, None
    ),
    "Pendulum-v1-td3": Experiment(
        "td3 --env Pendulum-v1 --warmup-steps 1000 --eval-every 1000", 20_000, (0, 1, 2), 5, -200
    ),
    "Pendulum-v1-ppo": Experiment(
        "ppo --env Pendulum-v1 --gamma 0.9 --learning-rate 1e-3 --eval-every 5000",
        100_000,
        (0, 1, 2),
        5,
        -200,
    ),
    **{
        f"Pendulum-v1-{agent}": Experiment(
            f"{agent} --env Pendulum-v1 --warmup-steps 1000 --eval-every 1000{more}",
            20_000,
            (0, 1, 2),
            5,
            -200,
        )
        for agent, more in {
            "ddpg": "",
            "sac": "",
            "flow-sac": "",
            "sql": " --temperature 1.0",
        }.items()
    },
    **{
        f"CartPole-v1-{agent}": Experiment(
            f"{agent} --env CartPole-v1 --warmup-steps 1000 --eval-every 1000",
            30_000,
            (0, 1, 2),
            5,
            475,
        )
        for agent in ("dqn", "discrete-sac")
    },
    "CartPole-v1-soft-q": Experiment(
        "soft-q --env CartPole-v1 --warmup-steps 1000 --eval-every 1000", 30_000, (0, 1, 2), 5, 475
    ),
    "CartPole-v1-ppo": Experiment(
        "ppo --env CartPole-v1 --eval-every 5000", 100_000, (0, 1, 2), 5, 475
    ),
}


def train(name: str, seeds: Sequence[int]) -> None:
    folders = [_folder(name, seed) for seed in seeds]
    if all((folder / "config.yaml").exists() for folder in folders):
        maxentflow(["train", "--resume", *map(str, folders)])
        return
    experiment = EXPERIMENTS[name]
    command = ["train", *experiment.command.split(), "--total-steps", str(experiment.steps)]
    if len(seeds) == 1:
        maxentflow([*command, "--seed", str(seeds[0]), "--run-dir", str(folders[0])])
    else:
        together = ",".join(map(str, seeds))
        maxentflow([*command, "--seeds", together, "--run-dir", str(folders[0].parent)])


def _folder(name: str, seed: int) -> Path:
    return RUNS / name / f"seed-{seed}"


def solved() -> None:
    older = {
        (each["experiment"], each["seed"]): each for each in tables.read(RESULTS / "solved.csv")
    }
    rows: list[dict[str, object]] = []
    for name, experiment in EXPERIMENTS.items():
        if not name.startswith(("Pendulum", "CartPole")):
            continue
        for seed in experiment.seeds:
            folder = RunFolder(_folder(name, seed))
            if not study.is_over(folder):
                if (name, str(seed)) in older:
                    rows.append({**older[name, str(seed)]})
                continue
            description = runs.read(folder)
            env = runs.make_env(description, 10)
            result = evaluate(runs.trained(description, folder, env).policy, env, episodes=100)
            rows.append(
                {
                    "experiment": name,
                    "seed": seed,
                    "steps": experiment.steps,
                    "episodes": 100,
                    "mean_return": round(float(result.returns.mean()), 1),
                    "sd_over_episodes": round(float(result.returns.std()), 1),
                    "solved_from": experiment.must_reach,
                }
            )
            print(rows[-1])
    tables.write(RESULTS / "solved.csv", rows)


def report() -> None:
    RESULTS.mkdir(exist_ok=True)
    rows: list[dict[str, object]] = []
    tasks: dict[str, list[tuple[RunFolder, str]]] = {}
    for name, experiment in EXPERIMENTS.items():
        for seed in experiment.seeds:
            source = RunFolder(_folder(name, seed))
            folder = RunFolder(RESULTS / f"{name}-{seed}")
            if study.is_over(source):
                folder.path.mkdir(exist_ok=True)
                shutil.copy(source.metrics_path, folder.metrics_path)
                shutil.copy(source.config_path, folder.config_path)
            if folder.metrics_path.exists():
                task = folder.config()["env"]
                label = name.removeprefix(f"{task}-").replace("-", " ")
                tasks.setdefault(task, []).append((folder, label))
                rows.append({"experiment": name, "seed": seed, **summary(experiment, folder)})
    tables.write(RESULTS / "summary.csv", rows)
    for task, labelled in tasks.items():
        names = list(dict.fromkeys(label for _, label in labelled))
        size = len(figures.STYLES)
        for part, first in enumerate(range(0, len(names), size), start=1):
            shown = [each for each in labelled if each[1] in names[first : first + size]]
            folders, labels = zip(*shown, strict=True)
            path = RESULTS / (f"{task}.png" if part == 1 else f"{task}-{part}.png")
            figures.learning_curves(read_curves(folders, labels), path)
    print((RESULTS / "summary.csv").read_text(), end="")


def summary(experiment: Experiment, folder: RunFolder) -> dict[str, object]:
    rows = [row for row in read_metrics(folder) if row["eval_return"]]
    mean = float(np.mean([float(row["eval_return"]) for row in rows[-experiment.last :]]))
    return {
        "steps": int(rows[-1]["step"]),
        "evaluations_averaged": experiment.last,
        "mean_return": round(mean, 1),
        "must_reach": experiment.must_reach,
        "hours": round(float(rows[-1]["seconds"]) / 3600, 2),
    }


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["report"]
    if command == "train":
        train(arguments[0], [int(seed) for seed in arguments[1:]])
    elif command == "solved":
        solved()
    else:
        report()
