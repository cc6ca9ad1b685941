"""Train agents of several seeds, and use their policies as functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from maxentflow import agents, envs
from maxentflow.agents import compiled
from maxentflow.envs import Rollouts
from maxentflow.envs.rollouts import BatchFunction

__all__ = ["BATCH", "acting", "episodes", "learn", "trainer", "value"]

BATCH = 128


def learn(
    make: Callable[[Any], agents.Agent],
    task: str,
    seeds: Sequence[int],
    steps: int,
    warmup_steps: int = 1_000,
    **how: Any,
) -> list[agents.Agent]:
    """Agents of several seeds, trained one after the other: on one thread a program of several
    seeds is slower.

    Args:
        make: makes an agent for an environment.
        task: a gymnasium id.
        seeds: of the runs.
        steps: length of a run.
        warmup_steps: random steps at its beginning.
        how: keyword arguments of the task.
    """
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        env = envs.make(task, **how)
        agent = make(env)
        trainer(agent, env, steps, seed, warmup_steps).run(compiled.learner([agent], compile=True))
        made.append(agent)
    return made


def trainer(
    agent: agents.Agent, env: Any, steps: int, seed: int, warmup_steps: int = 0
) -> agents.Trainer:
    """What trains an agent in batches of 128, without evaluations or checkpoints."""
    config = agents.TrainerConfig(
        total_steps=steps,
        warmup_steps=warmup_steps,
        batch_size=BATCH,
        eval_every=0,
        checkpoint_every=0,
        seed=seed,
    )
    return agents.Trainer(agent, env, config, progress=False)


def episodes(
    agent: agents.Agent,
    make: Callable[[], gym.Env[Any, Any]],
    count: int,
    *,
    outcome: str,
    deterministic: bool = False,
    seed: int = 0,
    max_steps: int = 1_000,
) -> Rollouts:
    """Episodes of a policy's samples, or of its mode; see :meth:`Rollouts.sample`."""
    with acting(agent, deterministic=deterministic, seed=seed) as act:
        return Rollouts.sample(make, act, count, outcome=outcome, seed=seed, max_steps=max_steps)


@contextmanager
def acting(
    agent: agents.Agent, *, deterministic: bool = False, seed: int = 0
) -> Iterator[BatchFunction]:
    """A policy's samples, or its mode, as a function of observations."""

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield partial(agent.predict, deterministic=deterministic)


@torch.no_grad()
def value(agent: agents.Agent, observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft values of observations, the least over heads."""
    return agent.policy.flow.value(torch.from_numpy(observation)).amin(-1).numpy()
