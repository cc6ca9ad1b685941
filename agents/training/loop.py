"""The training loop, and what drives one or several of them in step with each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tensordict import TensorDictBase
from tqdm import tqdm

from maxentflow.agents.agent import Agent
from maxentflow.agents.learner import (
    CompilationError,
    EagerLearner,
    Learner,
    RandomState,
    RandomStreams,
    random_state,
    set_random_state,
)
from maxentflow.agents.task_errors import SignalExit, TaskError, of_the_task
from maxentflow.agents.training.collector import Collector
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.episodes import EpisodeStatistics
from maxentflow.agents.training.experience import Experience
from maxentflow.agents.training.simulator import Simulator

__all__ = [
    "Act",
    "NonFiniteError",
    "Run",
    "Synchronize",
    "Update",
    "drive",
    "training_loop",
]


class NonFiniteError(FloatingPointError):
    """An observation, a reward, an action, a loss or a gradient was not finite."""


class Act(NamedTuple):
    """Asks for the behaviour's actions."""

    observation: TensorDictBase


class Wait(NamedTuple):
    """Lets other runs begin their steps too, before this one waits for its own to end."""


class Update(NamedTuple):
    """Asks for an update from a batch; the answer is the loss's report."""

    batch: TensorDictBase


class Synchronize(NamedTuple):
    """Asks for the agent to be up to date, before it is evaluated or saved."""


class Prepare(NamedTuple):
    """Asks, between steps, for the learner to get ready."""


Request = Act | Wait | Update | Synchronize | Prepare
Loop = Generator[Request, Any, None]
_Compiling = Callable[[], AbstractContextManager[None]]


@dataclass
class Run:
    """What a training loop works on, and what it calls.

    Attributes:
        log: write a row of the metrics, with an evaluation if the argument says so.
        save: write a checkpoint.
        save_stopped: write the state of a run that cannot go on beside its checkpoint; give the
            file.
        interrupted: whether to stop after the present step.
        collector: acts and steps environments elsewhere; none to do so in the loop, where the
            simulator's are stepped.
        after_step: called after a step and its updates, before that is asked; all runs that are
            in step with each other have one, or none has.
        observation: what the next step begins from; nothing before the first reset.
        report: of the last update.
        step: environment steps taken.
        example: a batch that it has updated from, for a learner that needs one to get ready.
        is_to_prepare: whether the learner is to get ready before the next step.
        has_company: whether other runs are in step with it.
        random_state: torch's generators, while the run does not go on.
    """

    config: TrainerConfig
    agent: Agent
    simulator: Simulator
    experience: Experience
    statistics: EpisodeStatistics
    log: Callable[[bool], object]
    save: Callable[[], object]
    save_stopped: Callable[[], Path | None]
    interrupted: Callable[[], object]
    collector: Collector | None = None
    after_step: Callable[[], object] | None = None
    observation: TensorDictBase | None = None
    report: TensorDictBase | None = None
    step: int = 0
    example: TensorDictBase | None = None
    is_to_prepare: bool = False
    has_company: bool = False
    random_state: RandomState = field(default_factory=random_state)


def training_loop(run: Run) -> Loop:
    """Step the environments, update, log, save, to the end of the run.

    What acts and learns answers the loop's requests, see :func:`drive`.
    """
    config = run.config
    if run.observation is None:
        with of_the_task():
            run.observation = run.simulator.reset(config.seed)
    stops = False
    while run.step < config.total_steps and not stops:
        if run.is_to_prepare:
            yield Prepare()
        if getattr(run.experience, "is_offline", False):
            run.step += 1
        else:
            yield from _step(run) if run.collector is None else _collect(run, run.collector)
        if getattr(run.experience, "reads_agent", False):
            yield Synchronize()
        for batch in run.experience.batches():
            run.report = yield Update(batch)

        evaluates = config.is_due(run.step, config.eval_every)
        if evaluates or config.is_due(run.step, config.log_every):
            yield Synchronize()
            run.log(evaluates)
        if run.after_step is not None:
            yield Synchronize()
            run.after_step()
        stops = bool(run.interrupted())
        if stops or config.is_due(run.step, config.checkpoint_every or config.total_steps):
            yield Synchronize()
            run.save()


def _step(run: Run) -> Loop:
    """Act, step the environments, store."""
    assert run.observation is not None
    if run.step < run.config.warmup_steps:
        acted = run.simulator.random_action(run.observation)
    else:
        acted = yield Act(run.observation)

    with of_the_task():
        run.simulator.send(acted)
    if run.has_company:
        yield Wait()
    with of_the_task():
        transitions, run.observation = run.simulator.receive()

    run.statistics.add(transitions)
    run.agent.observe(transitions)
    run.experience.add(transitions)
    run.step += run.simulator.num_envs


def _collect(run: Run, collector: Collector) -> Loop:
    """Store what was done elsewhere with copies of the policy."""
    yield Synchronize()
    collected = collector.collect(run.agent, random=run.step < run.config.warmup_steps)
    for transitions in collected.steps:
        run.agent.observe(transitions)
        run.experience.add(transitions)
        run.step += run.simulator.num_envs
    run.statistics.add_finished(collected.episodes, collected.largest_reward)
    end_episodes = getattr(run.experience, "end_episodes", None)
    if end_episodes is not None:  # what comes next is of other environments
        end_episodes()


def drive(runs: Sequence[Run], learner: Learner, compiling: _Compiling = nullcontext) -> None:
    """Answer the requests of training loops until all of them are over.

    Runs that differ by their random numbers alone ask for the same at the same time, so that a
    learner can act and learn for all of them at once.

    Args:
        runs: at the same step; each has torch's generators for itself.
        learner: acts and learns. It gets ready between the step that brings the first update and
            the next; runs that go on have an example, and it does before their first step. If it
            cannot, one line says so, and the agents go on as they are.
        compiling: makes a context for the time in which it gets ready.

    Raises:
        KeyboardInterrupt: while it gets ready; the states of all are saved.
        SystemExit: likewise; or a callback's, with its state saved.
        NonFiniteError: from one of the runs; the states of all are saved.
        TaskError: likewise.
        Exception: a callback's, with a note of where the states are saved.
    """
    loops = [training_loop(run) for run in runs]
    streams = RandomStreams(len(runs))
    for index, run in enumerate(runs):
        with streams[index]:
            set_random_state(run.random_state)
    asked = [run.interrupted for run in runs]
    stops = False
    if len(runs) > 1:  # all of them stop after the same step
        for run in runs:
            run.interrupted = lambda: stops
            run.has_company = True
    answers: Sequence[Any] = [None] * len(runs)
    try:
        waits = not isinstance(learner, EagerLearner)
        for run in runs:
            run.is_to_prepare = waits and run.example is not None
        while requests := _ask(loops, answers, streams):
            first = requests[0]
            if isinstance(first, Act):
                answers = learner.act([request.observation for request in requests], streams)
            elif isinstance(first, Update):
                batches = [request.batch for request in requests]
                if waits and not runs[0].is_to_prepare:
                    for run, batch in zip(runs, batches, strict=True):
                        run.example, run.is_to_prepare = batch.clone(), True
                answers = learner.update(batches, streams)
            elif isinstance(first, Prepare):
                learner, waits = _prepared(learner, runs, streams, compiling), False
                answers = [None] * len(runs)
            else:
                if isinstance(first, Synchronize):
                    learner.synchronize()
                answers = [None] * len(runs)
            stops = stops or any(ask() for ask in asked)
    except _StoppedError as stopped:
        learner.synchronize()
        paths: list[Path | None] = []
        for index, run in enumerate(runs):
            with streams[index]:
                try:
                    run.simulator.settle()
                    paths.append(run.save_stopped())
                except Exception as error:  # the others are saved all the same
                    tqdm.write(f"A state was not saved: {error}", sys.stderr)
                    paths.append(None)
        run, path = runs[stopped.index], paths[stopped.index]
        saved = "" if path is None else f"; the state is in {path}"
        if not isinstance(stopped.reason, FloatingPointError | TaskError):
            stopped.reason.add_note(f"Stopped after {run.step} steps{saved}.")
            raise stopped.reason from stopped.reason.__cause__
        kind = TaskError if isinstance(stopped.reason, TaskError) else NonFiniteError
        cause = stopped.reason.__cause__ or stopped.reason
        raise kind(f"Stopped after {run.step} steps: {stopped}{saved}.") from cause
    finally:
        learner.synchronize()
        for index, run in enumerate(runs):
            run.interrupted, run.has_company = asked[index], False
            with streams[index]:
                run.random_state = random_state()


class _StoppedError(Exception):
    """One of several loops cannot go on."""

    def __init__(self, index: int, reason: Exception | SystemExit) -> None:
        super().__init__(str(reason))
        self.index, self.reason = index, reason


def _ask(loops: Sequence[Loop], answers: Sequence[Any], streams: RandomStreams) -> list[Any]:
    """Give each loop its answer; get the next request of each, none where they are over."""
    requests: list[Any] = []
    stopped: list[_StoppedError] = []
    for index, (loop, answer) in enumerate(zip(loops, answers, strict=True)):
        with streams[index]:
            try:
                failed = isinstance(answer, FloatingPointError)
                requests.append(loop.throw(answer) if failed else loop.send(answer))
            except StopIteration:
                continue
            except (OSError, MemoryError, SignalExit):  # nor could or should a state be saved
                raise
            except (Exception, SystemExit) as error:  # also a callback's
                stopped.append(_StoppedError(index, error))
    if stopped:
        raise stopped[0]
    return requests


def _prepared(
    learner: Learner, runs: Sequence[Run], streams: RandomStreams, compiling: _Compiling
) -> Learner:
    """The learner, or one that does without where it cannot get ready."""
    for run in runs:
        run.is_to_prepare = False
    examples = [run.example for run in runs if run.example is not None]
    observations = [run.observation for run in runs if run.observation is not None]
    try:
        with compiling():
            learner.prepare(examples, observations)
    except CompilationError as error:
        tqdm.write(f"{error} The run goes on without; it learns the same, slower.", sys.stderr)
        return EagerLearner([run.agent for run in runs])
    except BaseException:  # such as a signal's; it is between steps, and nothing has changed
        for index, run in enumerate(runs):
            with streams[index]:
                run.save()
        raise
    return learner
