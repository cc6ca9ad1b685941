"""Steps per second with 1 to 4 Ray actors, in an environment of 20 ms a step.

    python benchmarks/actors.py [--actors 0 1 2 4] [--milliseconds 20]

SAC on Pendulum-v1, each step of which waits, as for a robot or a large simulation; one update in
ten steps, so that the learner is not the limit. 0 actors is the ordinary loop. Writes actors.csv:
steps per second between a quarter of the run and its end, the speed relative to the ordinary loop,
the most updates that a policy was behind, the time that the learner takes to store a step and
for an update, which is not compiled, and the bytes of a step and of the weights.
"""

import argparse
import pickle
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import tables
import torch
from speed import processor

from maxentflow import agents, envs
from maxentflow.agents import cluster
from maxentflow.agents.cluster.actors import in_order

RESULTS = Path(__file__).parent / "actors.csv"
SECONDS = 30


class Waiting(gym.Wrapper):
    """A task whose steps take some time, without computing."""

    def __init__(self, env: gym.Env, milliseconds: float) -> None:
        super().__init__(env)
        self._seconds = milliseconds / 1e3

    def step(self, action):
        time.sleep(self._seconds)
        return super().step(action)


def slow_task(milliseconds: float, render_mode: str | None = None) -> gym.Env:
    return Waiting(gym.make("Pendulum-v1", render_mode=render_mode), milliseconds)


def parts(milliseconds: float) -> tuple[agents.Agent, gym.vector.VectorEnv]:
    env = envs.make(partial(slow_task, milliseconds))
    return agents.make("sac", env), env


class Clock(agents.training.Callback):
    """Notes when a quarter of the run is over, its end, and the largest lag."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.lag = 0.0
        self.began: tuple[float, int] | None = None

    def on_step(self, trainer: agents.Trainer) -> None:
        if self.began is None and trainer.step >= self._first:
            self.began = time.perf_counter(), trainer.step
        self.ended = time.perf_counter(), trainer.step

    def on_log(self, trainer: agents.Trainer, row: dict[str, float]) -> None:
        self.lag = max(self.lag, row.get("weight_lag", 0.0))

    def steps_per_second(self) -> float:
        assert self.began is not None
        return (self.ended[1] - self.began[1]) / (self.ended[0] - self.began[0])


def measure(actors: int, milliseconds: float) -> dict[str, float]:
    steps = int(SECONDS * 1e3 / milliseconds) * max(actors, 1)
    config = agents.TrainerConfig(
        total_steps=steps,
        warmup_steps=200,
        utd_ratio=0.1,
        eval_every=0,
        actors=actors,
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    clock = Clock(steps // 4)
    trainer = agents.Trainer(*parts(milliseconds), config, callbacks=[clock], progress=False)
    if not actors:
        trainer.run()
        return {"steps_per_second": clock.steps_per_second(), "weight_lag": 0}
    with (
        cluster.connected(num_cpus=actors),
        cluster.Actors(partial(parts, milliseconds), config) as collector,
    ):
        trainer.collector = collector
        trainer.run()
    weights = {name: entry.numpy() for name, entry in trainer.agent.behavior.state_dict().items()}
    return {
        "steps_per_second": clock.steps_per_second(),
        "weight_lag": clock.lag,
        "store_ms_per_step": 1e3 * storing_seconds(trainer),
        "update_ms": 1e3 * update_seconds(trainer),
        "bytes_per_step": bytes_per_step(trainer),
        "bytes_of_weights": len(pickle.dumps(weights)),
    }


def storing_seconds(trainer: agents.Trainer, steps: int = 2_000) -> float:
    """What the learner takes to store a step of an actor."""
    batch = trainer.experience.buffer.sample(steps)
    arrays = {name: entry.numpy() for name, entry in batch.flatten_keys(".").items()}
    began = time.perf_counter()
    for first in range(0, steps, trainer.config.actor_steps):
        rows = slice(first, first + trainer.config.actor_steps)
        for step in in_order({name: entry[rows, None] for name, entry in arrays.items()}):
            trainer.experience.add(step)
        trainer.experience.end_episodes()
    return (time.perf_counter() - began) / steps


def update_seconds(trainer: agents.Trainer, updates: int = 50) -> float:
    batch = trainer.experience.buffer.sample(trainer.config.batch_size)
    began = time.perf_counter()
    for _ in range(updates):
        trainer.agent.update(batch)
    return (time.perf_counter() - began) / updates


def bytes_per_step(trainer: agents.Trainer) -> int:
    """Of a step as actors send it, which has the observation after it too."""
    kept = trainer.experience.buffer[:1]
    extra = 3  # done, terminated, truncated
    size = sum(entry.nbytes for entry in kept.values(True, True) if entry.dtype != torch.bool)
    return size + extra


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--milliseconds", type=float, default=20.0)
    options = parser.parse_args()
    alone = None
    for actors in options.actors:
        figures = measure(actors, options.milliseconds)
        alone = alone or figures["steps_per_second"]
        row = {
            "actors": actors,
            "milliseconds": options.milliseconds,
            "steps_per_second": f"{figures['steps_per_second']:.1f}",
            "speedup": f"{figures['steps_per_second'] / alone:.2f}",
            "weight_lag": int(figures["weight_lag"]),
            "store_ms_per_step": f"{figures.get('store_ms_per_step', float('nan')):.3f}",
            "update_ms": f"{figures.get('update_ms', float('nan')):.2f}",
            "bytes_per_step": figures.get("bytes_per_step", ""),
            "bytes_of_weights": figures.get("bytes_of_weights", ""),
            "processor": processor(),
        }
        print(row, flush=True)
        tables.replace(RESULTS, [row], ("actors", "milliseconds"))


if __name__ == "__main__":
    main()
