"""Collect with Ray actors: processes on any machine that act and step environments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.envs import EnvBase
from tqdm import tqdm

from maxentflow.agents.agent import Agent
from maxentflow.agents.cluster.connection import ray
from maxentflow.agents.training import TrainerConfig
from maxentflow.agents.training.collector import Collected
from maxentflow.agents.training.episodes import EpisodeStatistics
from maxentflow.agents.training.simulator import simulator

__all__ = ["Actors"]

Parts = Callable[[], tuple[Agent, VectorEnv | EnvBase]]
Arrays = dict[str, NDArray[Any]]

_GIVES_UP_AFTER = 3  # losses of an actor without a word from any


class Actors:
    """Collects the steps of a run with actors of the Ray cluster that the process is connected to.

    Each actor acts and steps ``config.num_envs`` environments with the newest weights of the
    behaviour, ``config.actor_steps`` times, sends what it did through the object store, and waits
    until it was taken, so that what nobody learns from yet is at most one batch an actor. No step
    is of a policy more than ``config.max_lag`` updates behind: where an actor would be, it is
    waited for. An actor that is lost with its process or its machine, or does not answer in time,
    is replaced by a new one, and the steps that it had not sent are lost.

    Args:
        make: the agent and its ``config.num_envs`` environments, called in the process of each
            actor, where torch is seeded already; has to be picklable by cloudpickle.
        config: of the run.
        timeout: seconds to wait for an actor.

    Raises:
        ValueError: Ray is not installed, or the configuration asks for no actors.
        ConnectionError: from :meth:`collect`, actors are lost again and again.

    Example::

        def make():
            env = envs.make("Hopper-v4")
            return agents.make("sac", env), env

        config = agents.TrainerConfig(total_steps=300_000, actors=4)
        with cluster.connected(num_cpus=4), cluster.Actors(make, config) as actors:
            agents.Trainer(*make(), config, collector=actors).run()
    """

    columns: tuple[str, ...] = ("weight_lag", "actors_lost")

    def __init__(self, make: Parts, config: TrainerConfig, *, timeout: float = 300.0) -> None:
        if not config.actors:
            raise ValueError("The configuration asks for no actors.")
        self._ray = ray()
        self._worker = self._ray.remote(num_cpus=1)(_Actor)
        self._make, self._config, self._timeout = make, config, timeout
        self._max_lag = config.max_lag or 2 * config.updates_in_a_round
        self._updates = math.ceil(config.steps_at_once * config.utd_ratio)  # from one batch
        self._actors: dict[int, Any] = {}
        self._begun: dict[Any, _Begun] = {}  # by reference, in the order of their policies
        self._weights: tuple[int, Any] | None = None  # of which update, and where
        self._lag = 0
        self._lost = self._lost_in_a_row = 0

    def __enter__(self) -> Actors:
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors, self._begun, self._weights = {}, {}, None

    def collect(self, agent: Agent, *, random: bool) -> Collected:
        """The steps of the first actor that has some."""
        for index in range(self._config.actors):
            if index not in self._actors:
                self._start(index, agent, random=random)
        while True:
            reference = self._first(agent)
            begun = self._begun.pop(reference, None)
            if begun is None:
                continue
            try:
                steps, episodes, largest = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, FloatingPointError):
                    raise FloatingPointError(str(error.cause)) from error
                raise error.cause from error
            except self._ray.exceptions.RayError as error:
                self._replace(begun.actor, agent, random=random, reason=error)
                continue
            self._lag = max(self._lag, agent.updates - begun.version)
            self._lost_in_a_row = 0
            self._begin(begun.actor, agent, random=random)
            return Collected(in_order(steps), episodes, largest)

    def report(self) -> dict[str, float]:
        """The most updates that a policy was behind since the last call, and the actors lost so
        far."""
        lag, self._lag = self._lag, 0
        return {"weight_lag": lag, "actors_lost": self._lost}

    def _first(self, agent: Agent) -> Any:
        """What is there first; of those that must not wait longer, the oldest."""
        waiting = list(self._begun)
        if any(
            agent.updates + place * self._updates - begun.version > self._max_lag
            for place, begun in enumerate(self._begun.values(), start=1)
        ):
            waiting = waiting[:1]
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=self._timeout)
        return ready[0] if ready else self._late(waiting[0], agent)

    def _late(self, reference: Any, agent: Agent) -> None:
        begun = self._begun.pop(reference)
        reason = TimeoutError(f"no answer in {self._timeout:g} seconds")
        self._replace(begun.actor, agent, random=begun.random, reason=reason)

    def _replace(self, index: int, agent: Agent, *, random: bool, reason: Exception) -> None:
        self._lost += 1
        self._lost_in_a_row += 1
        said = str(reason).strip().partition("\n")[0]
        if self._lost_in_a_row >= _GIVES_UP_AFTER * self._config.actors:
            raise ConnectionError(f"actors are lost again and again, the last one: {said}")
        tqdm.write(f"Warning: actor {index} is lost and replaced: {said}", sys.stderr)
        self._ray.kill(self._actors[index])
        self._start(index, agent, random=random)

    def _start(self, index: int, agent: Agent, *, random: bool) -> None:
        entropy = [self._config.seed, index, self._lost, agent.updates]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31)
        self._actors[index] = self._worker.remote(self._make, self._config, seed, sys.path)
        self._begin(index, agent, random=random)

    def _begin(self, index: int, agent: Agent, *, random: bool) -> None:
        """Have an actor take its next steps."""
        assert agent.behavior is not None
        if self._weights is None or self._weights[0] != agent.updates:
            state = agent.behavior.state_dict()
            arrays = {
                name: entry.numpy(force=True)
                for name, entry in state.items()
                if isinstance(entry, torch.Tensor)
            }
            self._weights = agent.updates, self._ray.put(arrays)
        reference = self._actors[index].collect.remote(self._weights[1], random)
        self._begun[reference] = _Begun(index, agent.updates, random)


class _Begun(NamedTuple):
    actor: int
    version: int  # updates of the policy
    random: bool


class _Actor:
    """In a process of its own: the environments, and a copy of the agent."""

    def __init__(self, make: Parts, config: TrainerConfig, seed: int, path: list[str]) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self._agent, env = make()
        torch.manual_seed(seed)
        self._steps = config.actor_steps
        self._kept = "observation", "action", *self._agent.stored, "next"
        self._simulator = simulator(env, "cpu", config.max_episode_steps)
        self._statistics = EpisodeStatistics(config.num_envs)
        self._observation = self._simulator.reset(seed)

    def collect(
        self, weights: Arrays, random: bool
    ) -> tuple[Arrays, list[tuple[float, int]], float]:
        """Steps by name of the entry, shapes ``(actor_steps, num_envs, ·)``, and what ended."""
        behavior = self._agent.behavior
        assert behavior is not None
        state = {name: torch.tensor(entry) for name, entry in weights.items()}
        behavior.load_state_dict({**behavior.state_dict(), **state})
        taken = []
        for _ in range(self._steps):
            acted = (
                self._simulator.random_action(self._observation)
                if random
                else self._agent.act(self._observation)
            )
            self._simulator.send(acted)
            transitions, self._observation = self._simulator.receive()
            self._statistics.add(transitions)
            taken.append(transitions.select(*self._kept, strict=False))
        steps = TensorDict.stack(taken).contiguous().flatten_keys(".")
        arrays = {name: entry.numpy() for name, entry in steps.items()}
        return arrays, self._statistics.finished(), self._statistics.largest_reward


def in_order(arrays: Arrays) -> Sequence[TensorDict]:
    """The steps of a batch that an actor has sent, one after the other."""
    tables = {name: torch.tensor(entry) for name, entry in arrays.items()}
    count, num_envs = next(iter(tables.values())).shape[:2]
    return TensorDict(tables, [count, num_envs]).unflatten_keys(".").unbind(0)
