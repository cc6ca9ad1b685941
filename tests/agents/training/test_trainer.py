"""The loop, against tasks stepped by hand, counts, and runs that must not differ."""

import copy
import os
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, exploration_type

from maxentflow import agents, envs, flows
from maxentflow.agents import NonFiniteError, Trainer, TrainerConfig
from maxentflow.agents.training import TaskError

from ..common import (
    AGENTS,
    COUNT,
    MULTIGOAL,
    checkpoint,
    comparable,
    differences,
    make_trainer,
    metrics,
    plain,
    resumed,
)

PAPER = {"paper": True}  # with dropout, without running scales
QUIET = {"eval_every": 0, "checkpoint_every": 0}


def stored(trainer):
    return trainer.experience.buffer[:]


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize(
    ("env_id", "steps", "warmup", "limit", "expected", "at_least"),
    [
        ("Hopper-v4", 160, 140, None, "terminated", 2),
        ("Pendulum-v1", 480, 470, None, "truncated", 2),
        (MULTIGOAL, 300, 280, None, "terminated", 2),
        # Truncated by the trainer where the task has not ended by then.
        ("Hopper-v4", 160, 160, 12, "cut", 4),
        (MULTIGOAL, 160, 160, 12, "cut", 4),
    ],
)
@pytest.mark.quick_for("Hopper", "cut")
def test_replay_holds_what_the_task_did(
    env_id, steps, warmup, limit, expected, at_least, num_envs
):
    trainer = make_trainer(
        env_id,
        seed=3,
        total_steps=steps,
        warmup_steps=warmup,
        num_envs=num_envs,
        max_episode_steps=limit,
        **QUIET,
    )
    trainer.run()
    data = stored(trainer)
    assert len(data) == steps
    ends = {"terminated": 0, "truncated": 0, "cut": 0}
    for index in range(num_envs):
        env, length = plain(env_id), 0
        observation, _ = env.reset(seed=3 + index)
        for row in data[index::num_envs]:
            np.testing.assert_array_equal(row["observation"], observation.astype(np.float32))
            after, reward, terminated, truncated, _ = env.step(row["action"].numpy())
            final = row["next", "observation"]
            np.testing.assert_array_equal(final, after.astype(np.float32))
            length += 1
            cut = length == limit and not (terminated or truncated)
            assert row["next", "reward"].item() == np.float32(reward)
            assert row["next", "terminated"].item() == terminated
            assert row["next", "done"].item() == (terminated or truncated or cut)
            ends["terminated"] += terminated
            ends["truncated"] += truncated
            ends["cut"] += cut
            observation = after
            if terminated or truncated or cut:
                observation, length = env.reset()[0], 0
    assert ends[expected] >= at_least
    assert trainer.episodes == sum(ends.values())


def test_the_true_last_observation_at_a_time_limit(count):
    trainer = make_trainer(count(), total_steps=25, warmup_steps=25, **QUIET)
    trainer.run()
    data = stored(trainer)
    before = [*range(10), *range(10), *range(5)]
    assert data["observation"][:, 0].tolist() == before
    assert data["next", "observation"][:, 0].tolist() == [step + 1 for step in before]
    assert not data["next", "terminated"].any()
    assert data["next", "done"].flatten().nonzero().flatten().tolist() == [9, 19]
    assert trainer.episodes == 2


@pytest.mark.parametrize(
    ("changes", "updates", "last"),
    [
        ({}, 20, 40),
        ({"utd_ratio": 3}, 60, 40),
        ({"utd_ratio": 0.25}, 5, 40),  # after steps 24, 28, ..., 40
        ({"utd_ratio": 0.1, "total_steps": 220}, 20, 220),  # ten tenths make one, to rounding
        ({"num_envs": 4}, 20, 40),  # four each after steps 24, 28, ..., 40
        ({"num_envs": 3}, 24, 42),  # three each after steps 21, 24, ..., 42
        ({"num_envs": 4, "utd_ratio": 0.125}, 2, 40),  # after steps 28 and 36
        ({"batch_size": 32}, 9, 40),  # from the 32nd transition on
        ({"warmup_steps": 0}, 33, 40),  # from the eighth on
        ({"warmup_steps": 40}, 0, 40),
    ],
)
@pytest.mark.quick_for("changes3", "changes5", "changes7")
def test_number_of_updates(count, changes, updates, last):
    settings = {"total_steps": 40, "warmup_steps": 20, "batch_size": 8, **QUIET, **changes}
    trainer = make_trainer(count(), "sac", **settings)
    sizes = []
    update = trainer.agent.update
    trainer.agent.update = lambda batch: (sizes.append(len(batch)), update(batch))[1]
    trainer.run()
    assert sizes == [settings["batch_size"]] * updates
    assert (trainer.updates, trainer.step) == (updates, last)


def test_warm_up_actions_are_uniform():
    trainer = make_trainer(
        "Hopper-v4",
        settings=PAPER,
        total_steps=1000,
        warmup_steps=1000,
        **{**QUIET, "replay_size": 1000},
    )
    before = copy.deepcopy(trainer.agent.loss.state_dict())
    trainer.run()
    for column in stored(trainer)["action"].T:
        assert stats.kstest(column.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    correlation = np.corrcoef(stored(trainer)["action"].T)
    # Independent entries correlate by less than four standard deviations of 1 / sqrt(1000).
    assert np.abs(correlation - np.eye(3)).max() < 4 / np.sqrt(1000)
    assert trainer.updates == 0
    assert not differences(before, trainer.agent.loss.state_dict())


def test_modes_while_acting_evaluating_and_learning():
    trainer = make_trainer(
        settings=PAPER, total_steps=60, warmup_steps=40, eval_every=30, eval_episodes=1
    )
    agent, update = trainer.agent, trainer.agent.update
    seen = {"act": set(), "evaluate": set(), "learn": set()}

    def dropping(module):
        return {part.training for part in module.modules() if isinstance(part, flows.Dropout)}

    def noted(what, policy):
        def act(batch):
            seen[what].add((exploration_type(), *dropping(policy), torch.is_grad_enabled()))
            return policy(batch)

        return act

    def learn(batch):
        learning, target = agent.loss.network, agent.loss.value_network
        seen["learn"].add((*dropping(learning), *dropping(target)))
        report = update(batch)
        seen["learn"].add((*dropping(learning), *dropping(target)))
        return report

    agent.behavior = noted("act", agent.behavior)
    agent.policy = noted("evaluate", agent.policy)
    agent.update = learn
    trainer.run()
    assert seen["act"] == {(ExplorationType.RANDOM, False, False)}
    assert seen["evaluate"] == {(ExplorationType.DETERMINISTIC, False, False)}
    assert seen["learn"] == {(True, False)}


def test_actions_after_the_warm_up_are_the_policys_samples():
    trainer = make_trainer(settings=PAPER, total_steps=44, warmup_steps=40, batch_size=44, **QUIET)
    trainer.run()  # with a batch that large, nothing is learned before the last step
    data = stored(trainer)
    flow = make_trainer(settings=PAPER).agent.policy.flow  # as seeded, as the trainer's was
    warm = torch.cat([2 * torch.rand(1, 2) - 1 for _ in range(40)])
    assert torch.equal(data["action"][:40], warm)
    for row in data[40:]:
        with torch.no_grad():
            action, _ = flow.sample(row["observation"][None])
        assert torch.equal(row["action"], action[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spoilt", ["observation", "reward"])
@pytest.mark.quick_for("reward-nan", "observation-inf")
def test_a_task_that_is_not_finite_stops_the_run(tmp_path, count, spoilt, value):
    trainer = make_trainer(
        count(spoilt=spoilt, value=value),
        "sac",
        folder=tmp_path,
        total_steps=60,
        warmup_steps=20,
        checkpoint_every=15,
        log_every=10,
        eval_every=0,
    )
    snapshots = []
    update = trainer.agent.update

    def learn(batch):
        report = update(batch)
        snapshots.append(copy.deepcopy(trainer.agent.loss.state_dict()))
        return report

    trainer.agent.update = learn
    message = rf"^Stopped after 32 steps: {spoilt} is {value}; the state is in .*stopped_32\.pt\.$"
    with pytest.raises(NonFiniteError, match=message):
        trainer.run()
    assert checkpoint(tmp_path)["step"] == 30
    assert [row["step"] for row in metrics(tmp_path)] == ["10", "20", "30"]
    stopped = checkpoint(tmp_path, "stopped_32.pt")
    (chunk,) = stopped["experience"]["chunks"]
    assert stopped["step"] == len(chunk["reward"]) == 32
    assert not differences(dict(stopped["loss"]), dict(snapshots[-1]))
    assert len(snapshots) == 12
    assert all(entry.isfinite().all() for entry in snapshots[-1].values())
    for name in ("observation", "reward", "final"):
        assert chunk[name].isfinite().all()


def test_an_agent_is_usable_after_the_run_stopped(count):
    """The task's last good state is what an ordinary shorter run ends in."""
    trainer = make_trainer(count(spoilt="reward"), total_steps=60, warmup_steps=20, **QUIET)
    with pytest.raises(NonFiniteError, match=r"reward is nan\.$"):
        trainer.run()
    expected = make_trainer(COUNT, total_steps=32, warmup_steps=20, **QUIET)
    expected.run()
    state, wanted = trainer.agent.loss.state_dict(), expected.agent.loss.state_dict()
    assert not differences(dict(state), dict(wanted))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, count):
    """A reward of 1e25 is finite; its square is not, in single precision."""
    trainer = make_trainer(
        count(spoilt="reward", value=1e25, at=1),
        settings=PAPER,
        folder=tmp_path,
        total_steps=60,
        warmup_steps=20,
        batch_size=16,
        checkpoint_every=15,
        log_every=10,
        eval_every=0,
    )
    before = []
    update = trainer.agent.update

    def learn(batch):
        before[:] = [copy.deepcopy(trainer.agent.loss.state_dict())]
        before.append((batch["next", "reward"] > 1e20).any())
        return update(batch)

    trainer.agent.update = learn
    with pytest.raises(NonFiniteError, match=r"^Stopped after \d+ steps: loss is inf; ") as caught:
        trainer.run()
    parameters, drawn = before
    assert drawn
    assert not differences(dict(trainer.agent.loss.state_dict()), dict(parameters))
    assert all(entry.isfinite().all() for entry in parameters.values())
    stopped = checkpoint(tmp_path, f"stopped_{trainer.step}.pt")
    assert f"after {trainer.step} steps" in str(caught.value)
    assert str(tmp_path / "checkpoints" / f"stopped_{trainer.step}.pt") in str(caught.value)
    assert (stopped["step"], stopped["updates"]) == (trainer.step, trainer.updates)
    latest = checkpoint(tmp_path)["step"]
    assert latest == (trainer.step - 1) // 15 * 15
    rows = metrics(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(10, trainer.step, 10))


def test_an_action_that_is_not_finite_stops_the_run(tmp_path):
    """As after a step of the optimiser that was far too large."""
    trainer = make_trainer(folder=tmp_path, total_steps=60, eval_every=0)
    update = trainer.agent.update

    def explode(batch):
        report = update(batch)
        for parameter in trainer.agent.loss.parameters():
            parameter.data.fill_(float("nan"))
        return report

    trainer.agent.update = explode
    with pytest.raises(NonFiniteError, match=r"^Stopped after 41 steps: action is nan; "):
        trainer.run()
    assert checkpoint(tmp_path, "stopped_41.pt")["step"] == 41


def trained(agent="meow", **changes):
    trainer = make_trainer(agent=agent, **{"total_steps": 56, "checkpoint_every": 0, **changes})
    trainer.run()
    state = comparable(trainer.state())
    del state["statistics"]["finished"]
    return state


@pytest.fixture(scope="module")
def unevaluated():
    """States that runs of seed 0 end in, each made when it is first asked for."""
    torch.set_num_threads(1)
    return cache(partial(trained, eval_every=0))


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.quick_for("td3", "soft-q")
def test_evaluation_leaves_the_run_as_it_is(unevaluated, agent):
    found = differences(unevaluated(agent), trained(agent, eval_every=24))
    assert found == ["state/best_return"]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.quick_for("td3", "soft-q", "ppo")
def test_a_run_is_a_function_of_its_seed(unevaluated, agent):
    first = unevaluated(agent)
    again, other = (trained(agent, eval_every=0, seed=seed) for seed in (0, 1))
    assert not differences(first, again)
    apart = differences(first, other)
    assert any(path.startswith("state/loss") for path in apart)
    assert agent == "bc" or any(path.startswith("state/experience") for path in apart)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.quick_for("meow", "soft-q")
def test_every_agent_learns_through_the_same_loop(tmp_path, agent):
    trainer = make_trainer(
        agent=agent,
        folder=tmp_path,
        settings={"tau": 0.5} if hasattr(agents.config(agent), "tau") else {},
        total_steps=60,
        log_every=20,
        eval_every=30,
    )
    before = copy.deepcopy(dict(trainer.agent.loss.state_dict()))
    trainer.run()
    # Of 60 steps a rollout takes 32, for two epochs of two minibatches; cloning updates in each.
    assert trainer.updates == {"ppo": 4, "bc": 60}.get(agent, 20)
    after = dict(trainer.agent.loss.state_dict())
    changed = {path.split(".")[0].split("/")[-1] for path in differences(before, after)}
    learning = {name for name in before if "_params." in name}
    parts = {name.split(".")[0] for name in learning}
    assert parts <= changed  # actors, critics and targets
    assert (agent in ("ppo", "bc")) != any(name.startswith("target_") for name in parts)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == ["20", "30", "40", "60"]
    for row in rows:
        assert bool(row["eval_return"]) == (row["step"] in ("30", "60"))
    for name in trainer.agent.loss.out_keys:
        assert np.isfinite(float(rows[-1][name]))
        assert agent == "bc" or rows[0][name] == ""  # which learns from the first step on


def test_training_returns_are_those_of_the_finished_episodes(tmp_path):
    trainer = make_trainer(
        "Hopper-v4",
        folder=tmp_path,
        total_steps=200,
        warmup_steps=200,
        log_every=200,
        **QUIET,
    )
    trainer.run()
    data = stored(trainer)
    ends = [-1, *data["next", "done"].flatten().nonzero().flatten().tolist()]
    reward = data["next", "reward"].flatten().double()
    episodes = [reward[a + 1 : b + 1] for a, b in pairwise(ends)]
    (row,) = metrics(tmp_path)
    assert int(row["episodes"]) == len(episodes) > 3
    # The replay keeps rewards in single precision, the metrics in double.
    assert float(row["train_return"]) == pytest.approx(
        np.mean([episode.sum().item() for episode in episodes]), rel=1e-6
    )
    assert float(row["train_length"]) == np.mean([len(episode) for episode in episodes])


def test_evaluations_in_training_are_evaluations(tmp_path):
    """The last row's is what the final policy earns from seeds of its own."""
    trainer = make_trainer(
        "Hopper-v4", folder=tmp_path, total_steps=60, eval_every=30, eval_episodes=3
    )
    trainer.run()
    result = agents.evaluate(trainer.agent.policy, "Hopper-v4", episodes=3, seed=1_000_000)
    row = metrics(tmp_path)[-1]
    assert float(row["eval_return"]) == result.returns.mean()
    assert float(row["eval_return_std"]) == result.returns.std()
    assert float(row["eval_length"]) == result.lengths.mean()


def test_a_report_of_each_sample_is_averaged(tmp_path):
    """As TorchRL's losses give some of theirs."""
    trainer = make_trainer(folder=tmp_path, total_steps=60, log_every=60, **QUIET)
    loss, forward, last = trainer.agent.loss, trainer.agent.loss.forward, []

    def reporting(batch):
        report = forward(batch)
        last[:] = [batch["td_error"].clone()]
        return report.set("errors", batch["td_error"]).set("count", torch.tensor(len(batch)))

    loss.forward = reporting
    loss.out_keys = [*loss.out_keys, "errors", "count"]
    trainer.run()
    (row,) = metrics(tmp_path)
    assert last[0].shape == (16,)
    assert float(row["errors"]) == last[0].mean().item()
    assert float(row["count"]) == 16
    resumed(tmp_path, total_steps=60).run()


class Newest:
    """An experience written for a test: the newest transitions, all of them as a batch."""

    def __init__(self):
        self.steps = []

    def add(self, transitions):
        self.steps.append(transitions)

    def batches(self):
        if len(self.steps) >= 10:
            yield torch.cat([step.exclude("action_log_prob") for step in self.steps[-10:]])

    def state_dict(self):
        return {"steps": [step.to_dict() for step in self.steps]}

    def load_state_dict(self, state):
        self.steps = [TensorDict(step, [1]) for step in state["steps"]]


def test_an_experience_of_ones_own(tmp_path):
    """It gets all that the behaviour wrote, and is saved with the run."""
    run = {
        "settings": PAPER,
        "total_steps": 30,
        "warmup_steps": 5,
        "eval_every": 0,
        "log_every": 50,
    }
    whole, part = Newest(), Newest()
    trainer = make_trainer(folder=tmp_path / "whole", experience=whole, **run)
    trainer.run()
    assert trainer.updates == 21
    for count, step in enumerate(whole.steps):
        assert step.batch_size == (1,)
        assert ("action_log_prob" in step.keys()) == (count >= 5)  # noqa: SIM118
        assert step["next"].keys() >= {"observation", "reward", "done", "terminated", "truncated"}
    policy = make_trainer(settings=PAPER).agent.policy  # as seeded, as the trainer's was
    step = whole.steps[5]
    expected = policy.flow.log_prob(step["action"], step["observation"])
    assert step["action_log_prob"].item() == pytest.approx(expected.item(), rel=1e-4)

    folder = tmp_path / "part"
    make_trainer(folder=folder, experience=part, **{**run, "total_steps": 20}).run()
    other = resumed(folder, experience=Newest(), **run)
    other.run()
    one, same = (comparable(each.state()) for each in (trainer, other))
    assert not differences(one, same)


@pytest.mark.parametrize("replay_size", [pytest.param(10_000, marks=pytest.mark.slow), 100])
def test_checkpoints_write_each_transition_once(tmp_path, monkeypatch, replay_size):
    """What a checkpoint costs does not grow with the replay."""
    written, replace = [], os.replace

    def noting(source, destination):
        if Path(destination).suffix == ".pt":
            written.append((Path(destination), Path(source).stat().st_size))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", noting)
    trainer = make_trainer(
        "Hopper-v4",
        folder=tmp_path,
        replay_size=replay_size,
        total_steps=600,
        warmup_steps=600,
        checkpoint_every=40,
        log_every=600,
        eval_every=0,
    )
    trainer.run()
    latest = [size for path, size in written if path.name == "latest.pt"]
    chunks = [size for path, size in written if path.parent.name == "replay"]
    assert len(latest) == len(chunks) == 15
    # Of 40 transitions, of 71 bytes each, and a few final observations; torch adds some.
    assert max(chunks) < 1.5 * min(chunks) < 1.5 * (40 * 71 + 4_000)
    # The actions of the episode in progress are in it.
    assert max(latest) < 1.1 * min(latest)
    kept = list((tmp_path / "checkpoints" / "replay").iterdir())
    assert len(kept) == (15 if replay_size == 10_000 else 4)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_trainer(total_steps=60).run()
    assert not list(tmp_path.iterdir())


def test_a_second_call_of_run_has_nothing_to_do():
    trainer = make_trainer(total_steps=50, **QUIET)
    trainer.run()
    state = trainer.state()
    trainer.run()
    assert not differences(comparable(state), comparable(trainer.state()))


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.quick_for("meow")
def test_a_run_in_two_calls_is_one(agent):
    """Whatever draws random numbers in between."""
    whole = make_trainer(agent=agent, total_steps=70, **QUIET)
    whole.run()
    parts = make_trainer(agent=agent, total_steps=50, **QUIET)
    parts.run()
    torch.manual_seed(99)
    parts.config.total_steps = 70
    parts.run()
    state, expected = (comparable(trainer.state()) for trainer in (parts, whole))
    for each in (state, expected):
        del each["statistics"]["finished"]  # since the last log, which an end is
    assert not differences(state, expected)


POSITIVE = (
    "total_steps",
    "num_envs",
    "max_episode_steps",
    "batch_size",
    "replay_size",
    "eval_episodes",
    "log_every",
)


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("value", [0, -3])
def test_settings_that_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}"):
        TrainerConfig(**{name: value})


@pytest.mark.parametrize("threads", [0, -3, 100_000])
def test_threads_that_no_machine_has(threads):
    with pytest.raises(ValueError, match=f"^threads must be between 1 and 1024, got {threads}"):
        TrainerConfig(threads=threads)


@pytest.mark.parametrize("name", ["seed", "warmup_steps", "eval_every", "checkpoint_every"])
def test_settings_that_must_not_be_negative(name):
    assert getattr(TrainerConfig(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, got -1"):
        TrainerConfig(**{name: -1})


def test_a_replay_too_small_for_a_batch_is_refused():
    """With it there would never be an update."""
    with pytest.raises(ValueError, match=r"replay_size.*10|batch_size.*16"):
        make_trainer(replay_size=10, batch_size=16)


def test_another_number_of_copies_than_configured_is_refused():
    env = envs.make(MULTIGOAL, 4)
    with pytest.raises(ValueError, match="has 4 copies, the configuration says num_envs=1"):
        Trainer(agents.make("meow", env), env, TrainerConfig())


def test_an_agent_elsewhere_than_the_configuration_is_refused():
    env = envs.make(MULTIGOAL)
    agent = agents.make("meow", env)
    with pytest.raises(ValueError, match="agent is on cpu, the configuration says 'meta'"):
        Trainer(agent, env, TrainerConfig(device="meta"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"agent": "sac"}, "of agent 'meow', this is 'sac'"),
        ({"num_envs": 2}, "has 1 environments, this run 2"),
        ({"env_id": "Pendulum-v1"}, "networks are not those of this run"),
        ({"settings": {"heads": 2}}, "networks are not those of this run"),
        ({"settings": {"twin": True}}, "networks are not those of this run"),
        ({"settings": {"flow_options": {"blocks": 2}}}, "networks are not those of this run"),
    ],
)
@pytest.mark.quick_for("other0", "other1", "other5")
def test_checkpoints_of_other_runs_are_refused(other, message):
    trainer = make_trainer(total_steps=50, **QUIET)
    trainer.run()
    with pytest.raises(ValueError, match=message):
        make_trainer(**other).restore(trainer.state())


def test_an_environment_that_raises_is_the_cause(tmp_path):
    trainer = make_trainer(agent="sac", folder=tmp_path, total_steps=60, warmup_steps=30)
    env = trainer.env.envs[0].unwrapped
    step, error = env.step, ZeroDivisionError("of its own")

    def breaks(action):
        if trainer.step == 40:
            raise error
        return step(action)

    env.step = breaks
    with pytest.raises(
        TaskError, match=r"^Stopped after 40 steps: the environment raised"
    ) as said:
        trainer.run()
    assert said.value.__cause__ is error
    state = checkpoint(tmp_path, "stopped_40.pt")
    assert (state["step"], state["updates"]) == (40, trainer.updates)


class TwoMotors(gym.Env):
    """Observations of Pendulum-v1's size, and actions of another."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Reacher-v4", r"policy of 'sac' takes no observations of shape \(11,\): "),
        (TwoMotors, r"actions of 'sac' have shape \(1,\), those of the environment \(2,\)"),
    ],
)
def test_an_agent_of_another_environment_is_refused(task, message):
    agent = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8,))
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message):
        Trainer(agent, envs.make(task), TrainerConfig(total_steps=10), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_no_agent_no_configuration_and_no_folder_is_refused(tmp_path):
    env = envs.make("Pendulum-v1")
    agent, config = agents.make("sac", env, hidden=(8,)), agents.TrainerConfig(total_steps=10)
    for given, message in (
        ((None, env, config), "agent must be of type Agent, got None"),
        ((agent, env, {"total_steps": 10}), "config must be of type TrainerConfig, got {'total"),
        ((agent, env, config, str(tmp_path)), "folder must be of RunFolder.create, got '"),
    ):
        with pytest.raises(ValueError, match=message):
            agents.Trainer(*given)
