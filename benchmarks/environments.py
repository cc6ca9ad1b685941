"""Steps per second with many environments, and with many seeds, on two threads.

    python benchmarks/environments.py     # ten minutes; writes environments.csv

MEow in Hopper-v4, compiled, at an update-to-data ratio of one, so that a step costs the same
however many environments are stepped together, and at a ratio of 1/16, where physics and acting
weigh more. In-process and with a process for each environment. Then seeds as one batched program,
and one run alone on one thread and on two.
"""

import time
from pathlib import Path

import tables
import torch
from tensordict import TensorDictBase

from maxentflow import agents, envs

RESULTS = Path(__file__).parent / "environments.csv"
TASK, THREADS = "Hopper-v4", 2
WARMUP, STEPS = 1_024, 2_048
RATIOS = (1.0, 1 / 16)
COUNTS = (1, 2, 4, 8, 16, 32)
SEEDS = (1, 2, 4, 5)


def trainer(seed: int, **changes: object) -> agents.Trainer:
    torch.manual_seed(seed)
    config = agents.TrainerConfig(
        seed=seed,
        eval_every=0,
        checkpoint_every=0,
        **{"warmup_steps": WARMUP, "threads": THREADS, **changes},
    )
    torch.set_num_threads(config.threads)
    env = envs.make(TASK, config.num_envs, workers=config.workers)
    return agents.Trainer(
        agents.make("meow", env, device=config.device, paper=True), env, config, progress=False
    )


def train(team: list[agents.Trainer]) -> None:
    """As one program, compiled."""
    learner = agents.compiled.learner([each.agent for each in team], compile=True)
    agents.train(team, learner)


def steps_per_second(team: list[agents.Trainer]) -> float:
    """All runs together, over the second half of their learning."""
    lead = team[0]
    half = (lead.config.warmup_steps + lead.config.total_steps) // 2
    began = [0.0]
    add = lead.experience.add

    def noting(transitions: TensorDictBase) -> None:
        add(transitions)
        if lead.step + lead.config.num_envs <= half:
            began[0] = time.perf_counter()

    lead.experience.add = noting
    train(team)
    seconds = time.perf_counter() - began[0]
    for each in team:
        each.env.close()
    return len(team) * (lead.config.total_steps - half) / seconds


def main() -> None:
    rows = []

    def note(team: list[agents.Trainer]) -> None:
        config = team[0].config
        row = {
            "seeds": len(team),
            "threads": config.threads,
            "num_envs": config.num_envs,
            "workers": config.workers,
            "utd_ratio": config.utd_ratio,
            "steps_per_second": round(steps_per_second(team), 1),
        }
        print(row, flush=True)
        rows.append(row)
        tables.write(RESULTS, rows)

    for ratio in RATIOS:
        for count in COUNTS:
            for workers in (False, True):
                shape = {"num_envs": count, "workers": workers, "utd_ratio": ratio}
                note([trainer(0, total_steps=WARMUP + round(STEPS / ratio**0.5), **shape)])
    for threads in (1, THREADS):
        for count in SEEDS:
            note([trainer(s, total_steps=WARMUP + STEPS, threads=threads) for s in range(count)])


if __name__ == "__main__":
    main()
