"""Collection by actors: what they send, how old it is, and what happens when some are lost."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents.cluster import Actors, actors, connected
from maxentflow.agents.training import Trainer, TrainerConfig
from maxentflow.agents.training.replay import Replay


def parts(num_envs: int = 2) -> tuple[agents.Agent, Any]:
    env = envs.make("maxentflow/MultiGoal-v0", num_envs)
    return agents.make("sac", env, hidden=(8, 8)), env


def configuration(**entries: Any) -> TrainerConfig:
    usual = {"num_envs": 2, "actors": 3, "actor_steps": 5, "batch_size": 16, "eval_every": 0}
    usual |= {"total_steps": 200, "warmup_steps": 60, "utd_ratio": 0.2}
    return TrainerConfig(**{**usual, **entries})


def follows_the_task(replay: Replay) -> bool:
    """Whether each transition is one of MultiGoal: s' = clip(s + a), and its reward."""
    kept = replay[:]
    place, action, following = kept["observation"], kept["action"], kept["next"]
    arrived = (place + action).clamp(-7, 7)
    goals = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    squares = (arrived[:, None] - goals).square().sum(-1).min(-1).values
    is_goal = squares <= 1
    reward = -30 * action.square().sum(-1) - squares + 10 * is_goal
    rounding = 5e-7  # of a sum of single-precision numbers up to 7
    return (
        torch.allclose(following["observation"], arrived, atol=rounding)
        and torch.allclose(following["reward"][:, 0], reward, rtol=1e-4, atol=1e-4)
        and torch.equal(following["terminated"][:, 0], is_goal)
    )


class Ray:
    """Answers as Ray does, in this process; actors answer in a random order, some die."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause: Exception) -> None:
                self.cause = cause

    def __init__(self, seed: int, deaths: float = 0.0) -> None:
        self._random = random.Random(seed)
        self._deaths = deaths
        self._stored: dict[int, Any] = {}
        self.waiting = Counter[int]()
        self.most_waiting = 0

    def remote(self, **_: Any) -> Any:
        def decorate(kind: Any) -> Any:
            return SimpleNamespace(remote=lambda *a: self._Handle(self, kind(*a)))

        return decorate

    class _Handle:
        def __init__(self, ray: Ray, actor: Any) -> None:
            self.collect = SimpleNamespace(remote=lambda *a: ray.begin(actor, *a))

    def begin(self, actor: Any, weights: int, is_random: bool) -> int:
        if self._random.random() < self._deaths:
            return self.put(self.exceptions.RayError("The actor died."))
        try:
            answer = actor.collect(self._stored[weights], is_random)
        except Exception as error:
            answer = self.exceptions.RayTaskError(error)
        self.waiting[id(actor)] += 1
        self.most_waiting = max(self.most_waiting, self.waiting[id(actor)])
        return self.put((id(actor), answer))

    def put(self, value: Any) -> int:
        self._stored[len(self._stored)] = value
        return len(self._stored) - 1

    def get(self, reference: int) -> Any:
        value = self._stored[reference]
        if isinstance(value, Exception):
            raise value
        self.waiting[value[0]] -= 1
        if isinstance(value[1], Exception):
            raise value[1]
        return value[1]

    def wait(self, references: list[int], num_returns: int, timeout: float) -> Any:
        return [self._random.choice(references)], []

    def kill(self, actor: Any) -> None:
        pass


@pytest.fixture
def fake(monkeypatch):
    def use(seed: int = 0, deaths: float = 0.0) -> Ray:
        ray = Ray(seed, deaths)
        monkeypatch.setattr(actors, "ray", lambda: ray)
        return ray

    return use


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.quick_for("1")
def test_a_run_is_of_steps_of_the_task(fake, seed):
    ray = fake(seed)
    config = configuration(seed=seed, utd_ratio=0.5)
    trainer = Trainer(*parts(), config, collector=Actors(parts, config), progress=False)
    trainer.run()
    assert (trainer.step, trainer.updates) == (200, 70)
    assert len(trainer.experience.buffer) == 200
    assert follows_the_task(trainer.experience.buffer)
    assert ray.most_waiting == 1  # each waits until its steps were taken
    assert trainer.episodes > 0


@pytest.mark.parametrize("max_lag", [30, 45, 200])
@pytest.mark.quick_for("200")
def test_no_policy_is_further_behind_than_allowed(fake, max_lag):
    fake(1)
    config = configuration(max_lag=max_lag, utd_ratio=1.0)
    collector, (agent, _) = Actors(parts, config), parts()
    lags = []
    for _ in range(100):
        collected = collector.collect(agent, random=False)
        lags.append(collector.report()["weight_lag"])
        agent.updates += config.num_envs * len(collected.steps)
    assert 20 <= max(lags) <= max_lag
    if max_lag == 200:  # the order is random, so that without a bound some are late
        assert max(lags) > 45


def test_actors_act_with_the_weights_they_are_sent():
    agent, _ = parts()
    config = configuration()
    actor = actors._Actor(parts, config, 3, [])
    torch.manual_seed(5)
    for parameter in agent.behavior.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    first = actor._observation.clone()
    weights = {name: entry.numpy() for name, entry in agent.behavior.state_dict().items()}
    torch.manual_seed(6)
    steps, _, _ = actor.collect(weights, False)
    torch.manual_seed(6)
    acted = agent.act(first)
    assert np.array_equal(steps["action"][0], acted["action"].numpy())
    assert steps["action"].shape == (5, 2, 2)


def test_actors_that_die_are_replaced(fake, capsys):
    fake(2, deaths=0.2)
    config = configuration()
    collector = Actors(parts, config)
    trainer = Trainer(*parts(), config, collector=collector, progress=False)
    trainer.run()
    assert trainer.step == 200
    assert follows_the_task(trainer.experience.buffer)
    lost = collector.report()["actors_lost"]
    assert lost > 0
    assert capsys.readouterr().err.count("is lost and replaced") == lost


def test_a_run_ends_where_no_actor_lives(fake):
    fake(0, deaths=1.0)
    config = configuration()
    trainer = Trainer(*parts(), config, collector=Actors(parts, config), progress=False)
    with pytest.raises(ConnectionError, match="again and again, the last one: The actor died"):
        trainer.run()


def test_what_is_not_finite_stops_the_run(fake, monkeypatch):
    fake()
    config = configuration()

    def broken() -> Any:
        agent, env = parts()
        step = env.step

        def nan(action: Any) -> Any:
            observation, reward, *rest = step(action)
            return observation, reward * np.nan, *rest

        env.step = nan
        return agent, env

    trainer = Trainer(*parts(), config, collector=Actors(broken, config), progress=False)
    with pytest.raises(agents.NonFiniteError, match="Stopped after 0 steps: reward is nan"):
        trainer.run()


def test_a_resumed_run_goes_on(fake, tmp_path):
    fake()
    folder = agents.RunFolder(tmp_path / "run")
    config = configuration(checkpoint_every=100, total_steps=100)
    agent, env = parts()
    folder.create(agent, config, envs.task_id(env))
    Trainer(agent, env, config, folder, collector=Actors(parts, config), progress=False).run()
    config = configuration(checkpoint_every=100)
    trainer = Trainer(*parts(), config, folder, collector=Actors(parts, config), progress=False)
    trainer.restore(folder.load_checkpoint())
    assert (trainer.step, len(trainer.experience.buffer)) == (100, 100)
    trainer.run()
    assert (trainer.step, trainer.updates) == (200, 28)
    assert follows_the_task(trainer.experience.buffer)


def test_a_lag_that_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="max_lag must be at least 30"):
        configuration(max_lag=29, utd_ratio=1.0)


def test_an_agent_that_learns_from_its_newest_policy_refuses_actors():
    env = envs.make("maxentflow/MultiGoal-v0")
    config = TrainerConfig(total_steps=100, warmup_steps=0, actors=2, eval_every=0)
    with pytest.raises(ValueError, match="actors must be 0, got 2"):
        Trainer(agents.make("ppo", env), env, config)


def test_a_configuration_with_actors_needs_a_collector():
    config = configuration()
    with pytest.raises(ValueError, match=r"actors=3 needs a collector, such as .*Actors"):
        Trainer(*parts(), config).run()
    with pytest.raises(ValueError, match="asks for no actors"):
        Actors(parts, configuration(actors=0))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_machine_of_a_cluster_is_lost():
    """Two actors on a node each, one of which is killed while they collect; a third comes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    config = configuration(actors=2, total_steps=2_000)
    killed: list[float] = []

    class Kill(agents.training.Callback):
        def on_log(self, trainer: Any, row: Any) -> None:
            if row["step"] >= 600 and not killed:
                cluster.remove_node(nodes[0], allow_graceful=False)
                cluster.add_node(num_cpus=1)
                killed.append(row["step"])

    try:
        with connected(cluster.address, num_cpus=2), Actors(parts, config) as collector:
            trainer = Trainer(
                *parts(), config, collector=collector, callbacks=[Kill()], progress=False
            )
            trainer.run()
            lost = collector.report()["actors_lost"]
    finally:
        cluster.shutdown()
    assert killed
    assert lost >= 1
    assert trainer.step == 2_000
    assert follows_the_task(trainer.experience.buffer)
