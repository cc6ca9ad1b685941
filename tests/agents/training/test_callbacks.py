"""Callbacks: when they are called, and how they end a run."""

import numpy as np
import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import compiled
from maxentflow.agents.training import Callback, Schedule, StopAtReturn, train

from ..common import checkpoint, comparable, differences, make_trainer, metrics, resumed

LENGTHS = {"total_steps": 60, "warmup_steps": 20, "log_every": 20, "eval_every": 40}
LENGTHS |= {"agent": "sac"}  # a third of an update of meow


class Notes(Callback):
    """Writes down what it is called with."""

    def __init__(self):
        self.events = []

    def on_step(self, trainer):
        self.events.append(("step", trainer.step, trainer.updates))

    def on_log(self, trainer, row):
        self.events.append(("log", trainer.step, "eval_return" in row))

    def on_evaluation(self, trainer, result):
        self.events.append(("evaluation", trainer.step, len(result.returns)))

    def on_end(self, trainer):
        self.events.append(("end", trainer.step))


class StopAt(Callback):
    """Ends a run after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        return trainer.step >= self.step


def test_when_each_is_called():
    notes = Notes()
    trainer = make_trainer(callbacks=[notes], **LENGTHS, eval_episodes=2)
    trainer.run()
    steps = [event for event in notes.events if event[0] == "step"]
    assert [event[1] for event in steps] == list(range(1, 61))
    assert steps[-1][2] == trainer.updates
    assert [event for event in notes.events if event[0] != "step"] == [
        ("log", 20, False),
        ("evaluation", 40, 2),
        ("log", 40, True),
        ("evaluation", 60, 2),
        ("log", 60, True),
        ("end", 60),
    ]


@pytest.mark.slow
def test_a_run_that_is_ended_goes_on_as_if_it_had_not_been(tmp_path):
    whole = make_trainer(folder=tmp_path / "whole", **LENGTHS)
    whole.run()
    ended = make_trainer(folder=tmp_path / "ended", callbacks=[StopAt(33)], **LENGTHS)
    ended.run()
    assert ended.step == checkpoint(tmp_path / "ended")["step"] == 33
    resumed(tmp_path / "ended", **LENGTHS).run()
    assert metrics(tmp_path / "ended") == metrics(tmp_path / "whole")


def test_the_end_is_told_when_a_run_fails():
    notes = Notes()

    class Fails(Callback):
        def on_step(self, trainer):
            raise RuntimeError("of one's own")

    with pytest.raises(RuntimeError, match="of one's own"):
        make_trainer(callbacks=[Fails(), notes], **LENGTHS).run()
    assert notes.events == [("end", 1)]


def test_several_seeds_end_together():
    trainers = [
        make_trainer(seed=seed, callbacks=[StopAt(33)] if seed else [], **LENGTHS)
        for seed in range(2)
    ]
    train(trainers)
    assert trainers[0].step == trainers[1].step == 34


def test_only_true_ends_a_run():
    class Returns(Callback):
        def on_step(self, trainer):
            return "something" if trainer.step % 2 else np.bool_(trainer.step == 100)

    trainer = make_trainer(callbacks=[Returns()], **LENGTHS)
    trainer.run()
    assert trainer.step == 60


def test_true_of_numpy_ends_a_run():
    class Ends(Callback):
        def on_step(self, trainer):
            return np.bool_(trainer.step == 33)

    trainer = make_trainer(callbacks=[Ends()], **LENGTHS)
    trainer.run()
    assert trainer.step == 33


@pytest.mark.slow
def test_weights_are_the_newest_with_several_seeds_too():
    """What a callback reads and writes is what a single run has."""

    class Halves(Callback):
        def __init__(self):
            self.seen = []

        def on_step(self, trainer):
            weight = next(trainer.agent.policy.parameters())
            self.seen.append(weight.sum().item())
            if trainer.step == 40:
                with torch.no_grad():
                    weight *= 0.5

    alone, together = Halves(), Halves()
    make_trainer(callbacks=[alone], **LENGTHS).run()
    trainers = [make_trainer(seed=s, callbacks=[] if s else [together], **LENGTHS) for s in (0, 1)]
    learner = compiled.Ensemble([each.agent for each in trainers], compile=False)
    train(trainers, learner)
    assert together.seen == pytest.approx(alone.seen, rel=1e-4, abs=1e-5)
    assert len(set(alone.seen)) > 20


@pytest.mark.slow
def test_an_end_that_raises_leaves_nothing_open(tmp_path):
    class Raises(Callback):
        def on_end(self, trainer):
            assert trainer.folder.is_locked()
            raise RuntimeError("of one's own")

    notes = Notes()
    trainers = [
        make_trainer(seed=s, folder=tmp_path / str(s), callbacks=[Raises(), notes], **LENGTHS)
        for s in range(2)
    ]
    with pytest.raises(RuntimeError, match="of one's own"):
        train(trainers)
    assert [event for event in notes.events if event[0] == "end"] == [("end", 60)] * 2
    for trainer in trainers:
        assert not trainer.folder.is_locked()
        trainer.config.total_steps = 61
        with pytest.raises(RuntimeError, match="of one's own"):
            trainer.run()
        assert trainer.step == 61


@pytest.mark.slow
def test_at_a_return():
    low, high = (make_trainer(callbacks=[StopAtReturn(value)], **LENGTHS) for value in (-1e9, 1e9))
    low.run()
    high.run()
    assert (low.step, high.step) == (40, 60)
    with pytest.raises(ValueError, match="threshold must be finite, got nan"):
        StopAtReturn(float("nan"))


def test_a_schedule_follows_the_share_of_the_run():
    told = []
    env = envs.make("Pendulum-v1", num_envs=3)
    agent = agents.make("sac", env, hidden=(8,))
    config = agents.TrainerConfig(
        total_steps=60, warmup_steps=60, num_envs=3, batch_size=16, eval_every=0
    )
    schedule = Schedule(lambda trainer, number: told.append(number), lambda share: share, every=20)
    agents.Trainer(agent, env, config, callbacks=[schedule], progress=False).run()
    assert told == [3 / 60, 21 / 60, 42 / 60, 60 / 60]


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_a_schedule_needs_an_interval(every):
    with pytest.raises(ValueError, match=f"every must be a whole number .*, got {every}"):
        Schedule(print, float, every=every)


@pytest.mark.parametrize("number", [-0.1, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused(number):
    def put(trainer, number):
        trainer.agent.steps[-1].optimizer.param_groups[0]["lr"] = number

    trainer = make_trainer(callbacks=[Schedule(put, lambda share: number)], **LENGTHS)
    with pytest.raises(ValueError, match=f"Schedule set a learning rate of {number}; it must be"):
        trainer.run()


@pytest.mark.parametrize("kind", [LookupError, SystemExit])
def test_a_callback_that_raises_costs_no_steps(kind, tmp_path):
    class Fails(Callback):
        def on_step(self, trainer):
            if trainer.step == 33:
                raise kind("of one's own")

    failing = make_trainer(folder=tmp_path / "run", callbacks=[Fails()], **LENGTHS)
    with pytest.raises(kind, match="of one's own") as said:
        failing.run()
    kept = tmp_path / "run" / "checkpoints" / "stopped_33.pt"
    assert said.value.__notes__ == [f"Stopped after 33 steps; the state is in {kept}."]
    quiet = make_trainer(callbacks=[StopAt(33)], **LENGTHS)
    quiet.run()
    state = torch.load(kept, weights_only=True)
    assert not differences(comparable(state), comparable(quiet.state()))


def test_what_is_no_callback_is_refused():
    with pytest.raises(ValueError, match=r"A callback is a .*Callback, got <built-in .*print>"):
        make_trainer(callbacks=[print], **LENGTHS)
