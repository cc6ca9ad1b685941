"""What a step of many environments costs: physics, acting and learning apart, on one thread.

    python benchmarks/copies.py     # five minutes; writes copies.csv

MEow in Ant-v5, compiled, with one update of 256 transitions for each step of all environments.
Medians of at least ten steps.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import tables
import torch
from tensordict import TensorDict

from maxentflow import agents, envs
from maxentflow.agents.learner import RandomStreams
from maxentflow.agents.training.simulator import simulator

RESULTS = Path(__file__).parent / "copies.csv"
TASK, BATCH = "Ant-v5", 256
COUNTS = (1, 8, 32, 128, 512)
SECONDS = 5.0


def milliseconds(function: Callable[[], object]) -> float:
    """The median duration, over some seconds."""
    function()
    taken: list[float] = []
    while sum(taken) < SECONDS or len(taken) < 10:
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return 1e3 * median(taken)


def measure(count: int) -> dict[str, float]:
    torch.manual_seed(0)
    env = envs.make(TASK, count)
    agent = agents.make("meow", env)
    copies = simulator(env, "cpu", None)
    seen = copies.reset(0)
    obs_dim, action_dim = seen["observation"].shape[-1], env.single_action_space.shape[-1]
    following = {
        "observation": torch.randn(BATCH, obs_dim),
        "reward": torch.randn(BATCH, 1),
        "done": torch.zeros(BATCH, 1, dtype=torch.bool),
        "terminated": torch.zeros(BATCH, 1, dtype=torch.bool),
    }
    batch = TensorDict(
        {
            "observation": torch.randn(BATCH, obs_dim),
            "action": 0.9 * torch.rand(BATCH, action_dim),
            "raw_action": torch.randn(BATCH, action_dim),
            "next": following,
        },
        [BATCH],
    )
    learner, streams = agents.compiled.learner([agent], compile=True), RandomStreams(1)
    learner.prepare([batch], [seen])

    def step() -> None:
        copies.send(copies.random_action(seen.clone()))
        copies.receive()

    costs = {
        "physics_ms": milliseconds(step),
        "acting_ms": milliseconds(lambda: learner.act([seen.clone()], streams)),
        "learning_ms": milliseconds(lambda: learner.update([batch.clone()], streams)),
    }
    env.close()
    total = sum(costs.values())
    return {"num_envs": count, **costs, "steps_per_second": 1e3 * count / total}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as in a run
    rows = []
    for count in COUNTS:
        row = {name: round(value, 3) for name, value in measure(count).items()}
        print(row, flush=True)
        rows.append(row)
        tables.write(RESULTS, rows)


if __name__ == "__main__":
    main()
