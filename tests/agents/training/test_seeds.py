"""Runs in step with each other against the same runs alone."""

import copy
import signal
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from maxentflow.agents import NonFiniteError, train
from maxentflow.agents.learner import EagerLearner

from ..common import (
    NO_WARMUP,
    QUICK,
    checkpoint,
    comparable,
    differences,
    make_trainer,
    metrics,
    resumed,
)

SEEDS = 0, 1, 2
QUIET = {"eval_every": 0, "checkpoint_every": 0}
SHORT = {"total_steps": 50, "warmup_steps": 30, **QUIET}


@pytest.mark.quick_for("replay_size")
@pytest.mark.parametrize(
    "run",
    [
        *({"agent": name} for name in QUICK),
        {"num_envs": 2, "workers": True, "utd_ratio": 0.3},
        {"replay_size": 35},
        {"agent": "ppo", "num_envs": 2},
    ],
    ids=str,
)
def test_together_as_alone(run):
    """Bit for bit, evaluations and random numbers included."""
    run = {**SHORT, "warmup_steps": 0 if run.get("agent") in NO_WARMUP else 30, **run}
    together = [make_trainer(seed=seed, **run) for seed in SEEDS]
    before = torch.get_rng_state()
    train(together)
    assert torch.equal(torch.get_rng_state(), before)  # each has drawn from its own
    states = [comparable(trainer.state()) for trainer in together]
    for seed, trainer, state in zip(SEEDS, together, states, strict=True):
        alone = make_trainer(seed=seed, **run)
        alone.run()
        assert not differences(state, comparable(alone.state()))
        assert trainer.updates == alone.updates > 0
        trainer.env.close()
        alone.env.close()
    assert differences(states[0], states[1])


@pytest.mark.slow
def test_metrics_and_checkpoints_together_as_alone(tmp_path):
    run = {"total_steps": 60, "eval_every": 30, "checkpoint_every": 25, "warmup_steps": 30}
    train([make_trainer(seed=s, folder=tmp_path / f"{s}", **run) for s in (0, 1)])
    for seed in (0, 1):
        alone = tmp_path / f"alone {seed}"
        make_trainer(seed=seed, folder=alone, **run).run()
        assert metrics(tmp_path / f"{seed}") == metrics(alone)
        assert [row["step"] for row in metrics(alone)] == ["20", "30", "40", "60"]
        one, other = (comparable(checkpoint(f)) for f in (tmp_path / f"{seed}", alone))
        assert not differences(one, other)


@pytest.mark.slow
def test_one_goes_on_alone_where_several_stopped():
    """With its own random numbers, whatever else drew since."""
    together = [make_trainer(seed=seed, **SHORT) for seed in SEEDS]
    train(together)
    other = make_trainer(seed=1, **SHORT)
    other.restore(together[1].state())
    ends = []
    for trainer in (other, together[1]):
        trainer.config.total_steps = 60
        trainer.run()
        ends.append(comparable(trainer.state()))
        torch.manual_seed(99)
    assert not differences(*ends)


@pytest.mark.slow
def test_going_on_together_is_as_never_having_stopped(tmp_path):
    run = {"total_steps": 60, "warmup_steps": 30, "eval_every": 30, "checkpoint_every": 45}
    train([make_trainer(seed=s, folder=tmp_path / f"whole-{s}", **run) for s in (0, 1)])
    parts = [tmp_path / f"part-{s}" for s in (0, 1)]
    short = {**run, "total_steps": 40, "eval_every": 0}
    train([make_trainer(seed=s, folder=parts[s], **short) for s in (0, 1)])
    train([resumed(parts[s], seed=s, **run) for s in (0, 1)])
    for seed in (0, 1):
        state, whole = (checkpoint(f) for f in (parts[seed], tmp_path / f"whole-{seed}"))
        for key in ("loss", "policy", "optimizers", "random_state", "simulator", "statistics"):
            if key == "statistics":
                state[key].pop("finished"), whole[key].pop("finished")
            assert not differences(state[key], whole[key], key)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("where", ["observation", "loss"])
@pytest.mark.quick_for("observation-1")
def test_one_that_is_not_finite_stops_all_and_loses_nothing(tmp_path, where, index):
    """Also those whose step was to be stored after that one's; counts and optimisers agree."""
    run = {"settings": {"paper": True}, "total_steps": 90, "eval_every": 0}
    together = [make_trainer(seed=seed, folder=tmp_path / str(seed), **run) for seed in SEEDS]
    spoilt = together[index]
    step = spoilt.env.step

    def spoil(action):
        observation, reward, *rest = step(action)
        if spoilt.step == 60:
            observation, reward = (
                (np.full_like(observation, np.nan), reward)
                if where == "observation"
                else (observation, reward + 1e25)
            )
        return observation, reward, *rest

    spoilt.env.step = spoil
    message = (
        rf"^Stopped after \d+ steps: {where} is (nan|inf); the state is in .*/{index}/checkpoints/"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(together)
    sizes = {len(t.experience.buffer) for t in together if t is not spoilt}
    assert len(sizes) == 1
    for seed, trainer in zip(SEEDS, together, strict=True):
        stopped = checkpoint(tmp_path / str(seed), f"stopped_{trainer.step}.pt")
        assert stopped["updates"] == trainer.updates > 0
        (optimizer,) = stopped["optimizers"]
        assert {int(entry["step"]) for entry in optimizer["state"].values()} == {trainer.updates}
        assert all(entry.isfinite().all() for entry in stopped["loss"].values())
        assert checkpoint(tmp_path / str(seed))["step"] == 45


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"batch_size": 8}, r"batch_size \(16 and 8\)"),
        ({"settings": {"tau": 0.5}}, r"tau \(0.005 and 0.5\)"),
        ({"env_id": "Pendulum-v1"}, r"task \(maxentflow/MultiGoal-v0 and Pendulum-v1\)"),
        ({"agent": "sac"}, r"agent \(meow and sac\)"),
    ],
)
def test_runs_that_differ_by_more_than_the_seed_are_refused(changes, differing):
    pair = [make_trainer(seed=0, **QUIET), make_trainer(seed=1, **QUIET, **changes)]
    with pytest.raises(ValueError, match=f"must differ by seed alone, not by .*{differing}"):
        train(pair)
    assert pair[0].step == 0


def test_runs_at_other_steps_are_refused():
    pair = [make_trainer(seed=seed, **SHORT) for seed in (0, 1)]
    pair[0].run()
    with pytest.raises(ValueError, match=r"must differ by seed alone, not by step \("):
        train(pair)


def test_no_trainers_are_refused():
    with pytest.raises(ValueError, match="at least one trainer"):
        train([])


def test_a_learner_is_asked_for_all_at_once():
    """In the same order for each run, which is what lets several be one program."""
    pair = [make_trainer(seed=seed, **SHORT) for seed in (0, 1)]
    asked = []

    class Noting(EagerLearner):
        def act(self, observations, streams):
            asked.append(("act", len(observations)))
            return super().act(observations, streams)

        def update(self, batches, streams):
            asked.append(("update", len(batches)))
            return super().update(batches, streams)

    train(pair, Noting([trainer.agent for trainer in pair]))
    assert asked == [("act", 2), ("update", 2)] * 20


@pytest.mark.parametrize(("spoilt", "reads"), [("nothing", 6), ("reward", 5)])
def test_a_learner_brings_agents_up_to_date_before_they_are_read(count, spoilt, reads):
    """Before evaluations, checkpoints and the state of a run that stopped."""
    lengths = {"total_steps": 60, "eval_every": 50, "log_every": 20, "checkpoint_every": 45}
    trainer = make_trainer(count(spoilt=spoilt, at=56), **lengths)
    events = []

    class Late(EagerLearner):
        def update(self, batches, streams):
            events.append("update")
            return super().update(batches, streams)

        def synchronize(self):
            events.append("synchronize")
            return super().synchronize()

    run = trainer._run
    run.log = lambda evaluates: events.append("read")
    run.save = run.save_stopped = lambda: events.append("read")
    with (
        nullcontext() if spoilt == "nothing" else pytest.raises(NonFiniteError, match=r"55 steps")
    ):
        trainer.run(Late([trainer.agent]))
    assert events.count("read") == reads
    while "read" in events:
        earlier = [event for event in events[: events.index("read")] if event == "update"]
        assert not earlier or events[events.index("read") - 1] == "synchronize"
        events.remove("read")
    assert events[-1] == "synchronize"


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.quick_for("1")
def test_a_signal_stops_all_runs_after_the_same_step(tmp_path, index):
    """Whichever of them is stepping when it comes."""
    together = [
        make_trainer(agent="td3", seed=seed, folder=tmp_path / str(seed)) for seed in SEEDS
    ]
    run = together[index]
    step = run.env.step

    def interrupted(action):
        if run.step == 60:
            signal.raise_signal(signal.SIGINT)
        return step(action)

    run.env.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        train(together)
    steps = {trainer.step for trainer in together}
    assert len(steps) == 1
    for seed, trainer in zip(SEEDS, together, strict=True):
        saved = checkpoint(tmp_path / str(seed))
        assert (saved["step"], saved["updates"]) == (trainer.step, trainer.updates)


@pytest.mark.slow
def test_an_action_that_is_not_finite_stops_runs_whose_workers_step(tmp_path):
    together = [
        make_trainer(seed=seed, folder=tmp_path / str(seed), num_envs=2, workers=True)
        for seed in SEEDS[:2]
    ]
    act = together[0].agent.act

    def spoilt(observation):
        acted = act(observation)
        if together[0].step == 50:
            acted["action"] = acted["action"] * float("nan")
        return acted

    together[0].agent.act = spoilt
    with pytest.raises(NonFiniteError, match="Stopped after 50 steps: action is nan"):
        train(together)
    for seed, trainer in zip(SEEDS[:2], together, strict=True):
        assert checkpoint(tmp_path / str(seed), "stopped_50.pt")["step"] == 50
        trainer.env.close()


def test_a_state_can_be_gone_back_to_again_and_again():
    """Torch's optimisers would go on writing into the state that they were given."""
    trainer = make_trainer(total_steps=60)
    trainer.run()
    state = trainer.state()
    kept = copy.deepcopy(state)
    trainer.restore(state)
    trainer.config.total_steps = 80
    trainer.run()
    assert not differences(state, kept)
