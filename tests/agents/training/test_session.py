"""What the process is set to in training, and that it is as before afterwards."""

import os
import signal
import threading
from contextlib import nullcontext

import pytest
import torch

from maxentflow.agents.learner import EagerLearner
from maxentflow.agents.training import session as session_module
from maxentflow.agents.training import train
from maxentflow.agents.training.session import session

from ..common import differences, make_trainer, resumed

QUIET = {"eval_every": 0, "checkpoint_every": 0, "total_steps": 50, "warmup_steps": 40}


def flushes():
    return torch.tensor(1e-30).mul(1e-10).item() == 0.0  # 1e-40, which has fewer digits


def settings():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return torch.get_num_threads(), flushes(), handlers


@pytest.fixture(autouse=True)
def restored():
    """Whatever a test does to the process."""
    threads, flushed, handlers = settings()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flushed)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_on_one_core_two_threads_are_one():
    """Two would take turns, and wait for each other in between."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cores)])
    try:
        with session(threads=2):
            assert torch.get_num_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])  # the latter by nohup
def test_a_hangup_is_a_signal_to_stop_but_under_nohup(before):
    outer = signal.signal(signal.SIGHUP, before)
    try:
        with session(threads=1) as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert bool(interruption) == (before == signal.SIG_DFL)
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, outer)


@pytest.fixture
def mallopt(monkeypatch):
    """The thresholds that glibc is asked for."""
    calls = []

    class Libc:
        def mallopt(self, parameter, size):
            calls.append((parameter, size))

    monkeypatch.setattr(session_module.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(session_module.ctypes, "CDLL", lambda name: Libc())
    return calls


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("ends", ["well", "stopped by an error", "interrupted"])
def test_a_run_leaves_the_process_as_it_was(mallopt, ends, flushed):
    torch.set_num_threads(2)
    torch.set_flush_denormal(flushed)
    signal.signal(signal.SIGTERM, lambda *_: None)
    before = settings()
    trainer = make_trainer(**QUIET, threads=1)
    seen, update = [], trainer.agent.update

    def learn(batch):
        seen.append((*settings()[:2], list(mallopt)))
        if ends == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        if ends == "stopped by an error":
            raise RuntimeError("something else")
        return update(batch)

    trainer.agent.update = learn
    expected = {"stopped by an error": RuntimeError, "interrupted": KeyboardInterrupt}
    if ends == "well":
        trainer.run()
    else:
        with pytest.raises(expected[ends]):
            trainer.run()
    assert seen[0] == (1, True, [(-1, 2**30), (-3, 2**30)])
    assert settings() == before
    assert mallopt == [(-1, 2**30), (-3, 2**30), (-1, 2**17), (-3, 2**17)]  # glibc's default


def test_other_libraries_are_left_alone(monkeypatch, mallopt):
    monkeypatch.setattr(session_module.platform, "libc_ver", lambda: ("", ""))
    with session(threads=1):
        pass
    assert mallopt == []


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_flags_and_a_second_ctrl_c_is_at_once(first):
    reached = []

    def twice():
        with session(threads=1) as interruption:
            reached.append(bool(interruption))
            os.kill(os.getpid(), first)
            reached.append(bool(interruption))
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("beyond the second")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert reached == [False, True]


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_a_run_that_is_stopped_finishes_its_step(number, error, code):
    trainer = make_trainer(**QUIET)
    update = trainer.agent.update

    def learn(batch):
        if trainer.step == 45:
            os.kill(os.getpid(), number)
        return update(batch)

    trainer.agent.update = learn
    with pytest.raises(error) as caught:
        trainer.run()
    assert code is None or caught.value.code == code
    assert (trainer.step, trainer.updates) == (45, 5)
    trainer.agent.update = update
    trainer.run()
    assert (trainer.step, trainer.updates) == (50, 10)


def test_training_in_a_thread_leaves_signals_alone():
    """Which only the main thread may handle."""
    before, errors = settings()[2], []

    def train():
        try:
            make_trainer(**QUIET).run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert errors == []
    assert settings()[2] == before


@pytest.mark.parametrize(
    ("numbers", "apart", "stops"),
    [
        ([signal.SIGINT, signal.SIGINT], 0.0, KeyboardInterrupt),
        ([signal.SIGTERM, signal.SIGTERM], 0.6, SystemExit),
        ([signal.SIGTERM, signal.SIGTERM], 0.4, None),  # timeout(1) sends one twice
        ([signal.SIGINT, signal.SIGTERM], 0.0, SystemExit),
        ([signal.SIGTERM, signal.SIGINT], 0.0, KeyboardInterrupt),
    ],
)
def test_a_second_signal_stops_at_once(monkeypatch, numbers, apart, stops):
    clock = iter([10.0, 10.0 + apart])
    monkeypatch.setattr(session_module.time, "monotonic", lambda: next(clock))
    with session(threads=1) as interruption:
        interruption.note(numbers[0], None)
        with nullcontext() if stops is None else pytest.raises(stops):
            interruption.note(numbers[1], None)
        assert interruption
    with pytest.raises(stops or SystemExit):
        interruption.raise_if_set()


def test_a_library_that_fails_at_a_second_signal_is_no_failure():
    """As TorchRL's, whose context managers return what has no truth value."""

    def fail():
        with session(threads=1) as interruption:
            interruption.note(signal.SIGINT, None)
            try:
                interruption.note(signal.SIGINT, None)
            except KeyboardInterrupt:
                raise RuntimeError("no truth value") from None

    with pytest.raises(KeyboardInterrupt):
        fail()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_updates_are_compiled_ends_the_run_at_once_and_loses_nothing(
    number, tmp_path
):
    class Slow(EagerLearner):
        def prepare(self, batches, observations):
            os.kill(os.getpid(), number)
            pytest.fail("It goes on.")

    class Compiled:
        def __init__(self, agents):
            self._eager = Slow(agents)

        def __getattr__(self, name):
            return getattr(self._eager, name)

    run = {**QUIET, "agent": "sac", "threads": 1}
    trainer = make_trainer(folder=tmp_path, **run)
    before = settings()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
        train([trainer], Compiled([trainer.agent]))
    if number == signal.SIGTERM:
        assert stopped.value.code == 143
    continued, whole = resumed(tmp_path, **run), make_trainer(**run)
    assert (continued.step, continued.updates) == (41, 1)
    for each in (continued, whole):
        each.run()
    ours, theirs = continued.state(), whole.state()
    for part in ("policy", "loss", "experience", "random_state", "step", "updates"):
        assert not differences(ours[part], theirs[part], part)
    assert settings() == before
