"""How fast MEow trains on a GPU, and five seeds of Hopper-v4 to the paper's 1.5 million steps.

    python benchmarks/gpu.py [--device cuda] [--minutes 9]

Everything in one command, which ends within the minutes and goes on where it was when it is called
again: steps per second of one seed and of eight in one process, what a step asks of the driver
(from torch's profiler: launches, copies, waits), then the long runs, from their checkpoints.
Figures go to gpu.csv next to this file, the trace to runs/benchmarks/gpu, the runs to
runs/benchmarks/Hopper-v4-meow-1500k, whose curves
``maxentflow plot runs/benchmarks/Hopper-v4-meow-1500k/seed-*`` draws beside the published one.
"""

import argparse
import os
import re
import signal
import sys
from pathlib import Path

import tables
import torch
from environments import TASK, steps_per_second, trainer

from maxentflow import agents
from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main as maxentflow

HERE = Path(__file__).parent
RESULTS = HERE / "gpu.csv"
RUNS = Path("runs/benchmarks")
TRACES = RUNS / "gpu"
WARMUP, STEPS, TRACED = 1_000, 10_000, 100
LEARNING_SEEDS, LEARNING_STEPS = (0, 1, 2, 3, 4), 1_500_000
INTERRUPTED = 130  # the exit status of a command stopped by Ctrl-C
LAUNCH = "cudaGraphLaunch"  # an update and an action are one each


def team(seeds: tuple[int, ...], device: str, steps: int) -> list[agents.Trainer]:
    settings = {"warmup_steps": WARMUP, "total_steps": steps, "threads": 1, "device": device}
    settings["workers"] = len(seeds) > 1  # their physics, side by side
    return [trainer(seed, **settings) for seed in seeds]


def calls_per_step(device: str) -> dict[str, float]:
    """How often a training step calls the driver, by the call's name; a trace is kept.

    Raises:
        SystemExit: updates and actions are not CUDA graphs; why has been printed.
    """
    (run,) = team((0,), device, 2 * WARMUP)
    learner = agents.compiled.learner([run.agent], compile=True)
    run.run(learner)
    run.config.total_steps += TRACED
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        run.run(learner)
    TRACES.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(TRACES / "trace.json.gz"))
    calls = {LAUNCH: 0.0} | {
        event.key: event.count / TRACED
        for event in profile.key_averages()
        if re.match("cu(da)?[A-Z]", event.key)
    }
    if device == "cuda" and calls[LAUNCH] < 2:
        sys.exit("Updates and actions were not recorded as CUDA graphs; see above.")
    return {f"{name} a step": count for name, count in calls.items()}


def learn(device: str) -> None:
    """Five seeds as one batched program, until the alarm or the end."""
    folders = [RUNS / f"{TASK}-meow-1500k" / f"seed-{seed}" for seed in LEARNING_SEEDS]
    if RunFolder(folders[0]).config_path.exists():
        arguments = ["--resume", *map(str, folders)]
    else:
        seeds = ",".join(map(str, LEARNING_SEEDS))
        arguments = [
            *("meow", "--paper", "--env", TASK, "--seeds", seeds, "--device", device),
            *("--run-dir", str(folders[0].parent), "--total-steps", str(LEARNING_STEPS)),
            *("--eval-every", "100000", "--checkpoint-every", "100000", "--compile", "on"),
        ]
    maxentflow(["train", *arguments])


def write(figures: dict[str, float], device: str) -> None:
    rows = tables.read(RESULTS)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    for figure, value in figures.items():
        print(f"{figure:36} {value:.2f}")
        rows.append({"figure": figure, "value": f"{value:.2f}", "device": name})
    tables.write(RESULTS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
    measured = {row["figure"] for row in tables.read(RESULTS)}
    if f"{LAUNCH} a step" not in measured:
        write(calls_per_step(options.device), options.device)
    for count in (1, 8):
        figure = f"steps per second, {count} seed{'s' if count > 1 else ''}"
        if figure not in measured:
            rate = steps_per_second(team(tuple(range(count)), options.device, STEPS))
            write({figure: rate}, options.device)
    try:
        learn(options.device)
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        raise KeyboardInterrupt from None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Out of time; the same command goes on.")
