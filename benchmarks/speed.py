"""Time of an update, and of a training step, beside the update's own matrix products.

    python benchmarks/speed.py                 # Hopper-v4 on one thread
    python benchmarks/speed.py Humanoid-v4 2   # another task, and threads

Everything is measured in turns, several times over, since machines drift; the table gives the
median and the range over the turns. Writes speed.csv next to this file, one row for each figure,
and replaces the rows of the same task and threads.
"""

import csv
import dataclasses
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDictBase
from torch.utils._python_dispatch import TorchDispatchMode

from maxentflow import agents, envs
from maxentflow.agents import Agent, Trainer, TrainerConfig

RESULTS = Path(__file__).parent / "speed.csv"
TURNS = 5
UPDATES = 100
STEPS = 500
WARMUP = 2_000
FIRST_OPERAND = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.baddbmm: 1,
}


class MatrixProducts(TorchDispatchMode):
    """Notes the operands of every matrix product, to repeat them on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[list[torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = FIRST_OPERAND.get(func.overloadpacket)
        if first is not None:
            self.operands.append([_like(tensor) for tensor in args[first : first + 2]])
        return func(*args, **(kwargs or {}))

    def repeat(self) -> None:
        with torch.no_grad():
            for left, right in self.operands:
                left @ right

    def flops(self) -> int:
        return sum(2 * left.numel() * right.shape[-1] for left, right in self.operands)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Random numbers in the shape and memory layout of a tensor."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.randn(last + 1).as_strided(tensor.shape, tensor.stride())


def milliseconds(function: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times * 1e3


def measure(env_id: str, threads: int) -> dict[str, list[float]]:
    torch.manual_seed(0)
    env = envs.make(env_id)
    agent = agents.make("meow", env)
    config = dataclasses.replace(
        TrainerConfig.for_task(env_id),
        total_steps=WARMUP + 300,
        warmup_steps=WARMUP,
        eval_every=0,
        threads=threads,
        compile="off",
    )
    trainer = Trainer(agent, env, config, progress=False)
    trainer.run()
    sample = trainer.replay.sample

    began = time.perf_counter()
    agent.compile(sample())
    print(f"compiled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    compiled, agent._compiled = agent._compiled, {}

    products = MatrixProducts()
    with products:
        agent.update(sample())
    print(f"{products.flops() / 1e9:.3f} GFLOP in an update's matrix products", file=sys.stderr)

    def training_step() -> None:
        trainer.config = dataclasses.replace(config, total_steps=trainer.step + STEPS)
        trainer.run()

    figures: dict[str, list[float]] = {}
    for _ in range(TURNS):
        turn = {"matrix products": milliseconds(products.repeat, UPDATES)}
        for name, graph in (("eager", {}), ("compiled", compiled)):
            agent._compiled = graph
            batches = iter([sample() for _ in range(UPDATES)])
            update = partial(_update_next, agent, batches)
            turn[f"update, {name}"] = milliseconds(update, UPDATES)
            turn[f"training step, {name}"] = milliseconds(training_step, 1) / STEPS
        turn["act"] = milliseconds(trainer._act, UPDATES)
        step = partial(trainer._step_environment, trainer._act())
        turn["physics"] = milliseconds(step, UPDATES)
        turn["store"] = milliseconds(partial(trainer.replay.extend, step()), UPDATES)
        turn["sample"] = milliseconds(sample, UPDATES)
        for name, value in turn.items():
            figures.setdefault(name, []).append(value)
    return figures


def _update_next(agent: Agent, batches: Iterator[TensorDictBase]) -> None:
    agent.update(next(batches))


def main(env_id: str = "Hopper-v4", threads: str = "1") -> None:
    figures = measure(env_id, int(threads))
    rows = []
    if RESULTS.exists():
        with open(RESULTS, newline="") as file:
            rows = list(csv.DictReader(file))
    rows = [row for row in rows if (row["env"], row["threads"]) != (env_id, threads)]
    for name, values in figures.items():
        rows.append(
            {
                "env": env_id,
                "threads": threads,
                "figure": name,
                "median_ms": f"{np.median(values):.3f}",
                "least_ms": f"{min(values):.3f}",
                "most_ms": f"{max(values):.3f}",
                "per_second": f"{1e3 / np.median(values):.1f}",
                "torch": torch.__version__,
                "processor": processor(),
            }
        )
        print(
            f"{name:26} {np.median(values):7.2f} ms"
            f"   ({min(values):.2f} to {max(values):.2f})   {1e3 / np.median(values):7.1f} /s"
        )
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def processor() -> str:
    """The processor's name, and the widest vectors it computes with."""
    names = [platform.processor() or platform.machine()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({torch.backends.cpu.get_cpu_capability()}), {len(names)} cores"


if __name__ == "__main__":
    main(*sys.argv[1:])
