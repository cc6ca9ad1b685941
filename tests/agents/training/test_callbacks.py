"""Callbacks: when they are called, and how they end a run."""

import pytest

from maxentflow.agents.training import Callback, StopAtReturn, train

from ..common import checkpoint, make_trainer, metrics, resumed

LENGTHS = {"total_steps": 60, "warmup_steps": 20, "log_every": 20, "eval_every": 40}


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
            return "something"

    trainer = make_trainer(callbacks=[Returns()], **LENGTHS)
    trainer.run()
    assert trainer.step == 60


def test_at_a_return():
    low, high = (make_trainer(callbacks=[StopAtReturn(value)], **LENGTHS) for value in (-1e9, 1e9))
    low.run()
    high.run()
    assert (low.step, high.step) == (40, 60)
    with pytest.raises(ValueError, match="threshold must be finite, got nan"):
        StopAtReturn(float("nan"))
