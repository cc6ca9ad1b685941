"""The training loop, of one run or of several in step with each other."""

from __future__ import annotations

import ctypes
import gc
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from maxentflow.agents.agent import CompilationError, compiler_complaints
from maxentflow.agents.ensemble import Ensemble

if TYPE_CHECKING:
    from maxentflow.agents.trainer import Trainer

__all__ = ["BatchingError", "NonFiniteError", "train"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class BatchingError(ValueError):
    """Runs cannot be one batched program."""


class NonFiniteError(FloatingPointError):
    """An observation, a reward, an action or a loss was not finite."""


def train(trainers: Sequence[Trainer], *, progress: bool = True) -> None:
    """Run trainers that differ by seed alone to their end, in step with each other.

    Several become one batched program, see :class:`~maxentflow.agents.ensemble.Ensemble`. Each
    draws the random numbers that it would draw alone and does what it would do, to rounding.
    Until it returns, torch takes numbers below 1e-38 for zero (``torch.set_flush_denormal``).

    Args:
        trainers: at the same step.
        progress: show a bar when the output is a terminal.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the step in progress is finished and every state saved.
        NonFiniteError: from one of the runs; the states of the others are saved too.
        BatchingError: the trainers differ by more than the seed, or their agents cannot be
            batched; nothing has been done then.
        ValueError: there are no trainers.

    Example:
        >>> from maxentflow import agents, envs
        >>> def trainer(seed):
        ...     torch.manual_seed(seed)
        ...     env = envs.make("maxentflow/MultiGoal-v0")
        ...     config = agents.TrainerConfig(
        ...         seed=seed, total_steps=64, warmup_steps=32, batch_size=16, eval_every=0
        ...     )
        ...     return agents.Trainer(agents.make("meow", env), env, config)
        >>> pair = [trainer(0), trainer(1)]
        >>> train(pair, progress=False)
        >>> [(each.step, each.updates) for each in pair]
        [(64, 32), (64, 32)]
    """
    if not trainers:
        raise ValueError("train needs at least one trainer.")
    lead, config = trainers[0], trainers[0].config
    players = _One(lead) if len(trainers) == 1 else _Several(trainers)
    torch.set_num_threads(config.threads)
    for trainer in trainers:
        trainer.begin()
    bar = tqdm(
        total=config.total_steps,
        initial=lead.step,
        disable=None if progress else True,
        unit="step",
        dynamic_ncols=True,
    )
    prepared = False
    _keep_freed_memory()
    torch.set_flush_denormal(True)  # a processor is slow with numbers below 1e-38
    gc.collect()
    gc.freeze()  # what exists now lives to the end; the collector need not walk it again
    interrupted = _Interrupt()
    try:
        if lead.updates:  # a run goes on, and what it does next had been prepared
            _prepare(players, bar)
            prepared = True
        while lead.step < config.total_steps and not interrupted:
            for trainer, action in zip(trainers, players.act(), strict=True):
                trainer.send(action)
            _receive(trainers)
            if lead.learns():
                if not prepared:
                    _prepare(players, bar)
                    prepared = True
                for _ in range(max(trainer.updates_due() for trainer in trainers)):
                    players.update()
            evaluates = lead.due(config.eval_every)
            logs = evaluates or lead.due(config.log_every)
            for trainer in trainers if logs else ():
                bar.set_postfix(_postfix(trainer.log(evaluates)))
            bar.update(config.num_envs)
            saves = lead.due(config.checkpoint_every or config.total_steps)
            for trainer in trainers if saves or interrupted else ():
                trainer.save()
    except NonFiniteError:
        for trainer in trainers:
            if not trainer.alone:
                trainer.save_stopped()
        raise
    finally:
        interrupted.restore()
        gc.unfreeze()
        torch.set_flush_denormal(False)
        bar.close()
        for trainer in trainers:
            trainer.end()  # brings its agent up to date
    if interrupted:
        raise KeyboardInterrupt


class _Players(Protocol):
    """Who acts and learns in the loop."""

    def act(self) -> list[NDArray[np.float32]]:
        """Actions, for each trainer."""
        ...

    def prepare(self) -> None:
        """Get ready for updates; may raise CompilationError, and then does without."""
        ...

    def update(self) -> None:
        """One update of each agent, from a batch of its trainer's replay."""
        ...


class _One:
    """The agent of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        trainer.leave()

    def act(self) -> list[NDArray[np.float32]]:
        return [self._trainer.act()]

    def prepare(self) -> None:
        trainer = self._trainer
        if trainer.config.compiles():
            with _same_random_numbers():
                trainer.agent.compile(trainer.sample(), trainer.observation())

    def update(self) -> None:
        self._trainer.update()


class _Several:
    """The agents of several trainers, as an ensemble from the first update on."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        lead = trainers[0]
        for trainer in trainers[1:]:
            if (
                replace(trainer.config, seed=lead.config.seed) != lead.config
                or trainer.agent.config != lead.agent.config
                or trainer.step != lead.step
            ):
                raise BatchingError("Trainers in step with each other must differ by seed alone.")
        blank = lead.replay.blank(lead.config.batch_size)
        observation = torch.zeros_like(blank["observation"][: lead.env.num_envs])
        try:
            with _same_random_numbers():
                self._ensemble = Ensemble([t.agent for t in trainers], blank, observation)
        except (NotImplementedError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BatchingError(f"These runs cannot be batched: {reason}.") from error
        self._trainers = trainers
        for trainer in trainers:
            trainer.join(self._ensemble.write_back)

    def act(self) -> list[NDArray[np.float32]]:
        actions, draws = [], []
        for trainer in self._trainers:
            with trainer.randomness():
                if trainer.warms_up():
                    actions.append(trainer.act())
                else:
                    draws.append(self._ensemble.actor.draw())
        if actions:
            return actions
        observations = [trainer.observation() for trainer in self._trainers]
        batched = self._ensemble.act(observations, draws)
        return [t.checked(action) for t, action in zip(self._trainers, batched, strict=True)]

    def prepare(self) -> None:
        lead = self._trainers[0]
        if lead.config.compiles():
            with _same_random_numbers(), compiler_complaints(lead.agent.name):
                self._ensemble.compile(lead.sample(), lead.observation())

    def update(self) -> None:
        batches, draws = [], []
        for trainer in self._trainers:
            with trainer.randomness():
                batches.append(trainer.sample())
                draws.append(self._ensemble.learner.draw())
        reports = self._ensemble.update(batches, draws)
        for trainer, report in zip(self._trainers, reports, strict=True):
            trainer.note(report)


def _receive(trainers: Sequence[Trainer]) -> None:
    """Have each store its step, also where that of another was not finite."""
    failure: NonFiniteError | None = None
    for trainer in trainers:
        try:
            trainer.receive()
        except NonFiniteError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _prepare(players: _Players, bar: tqdm[NoReturn]) -> None:
    bar.set_description("compiling")
    try:
        players.prepare()
    except CompilationError as error:
        tqdm.write(f"{error} The run goes on without; it learns the same, slower.", sys.stderr)
    bar.set_description(None)


def _same_random_numbers() -> AbstractContextManager[None]:
    """A context after which torch's generators are as they were."""
    return torch.random.fork_rng(range(torch.cuda.device_count()))


class _Interrupt:
    """Ctrl-C as a flag, true once it was pressed, so that a step is never left half done."""

    def __init__(self) -> None:
        self._pressed = False
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._press)

    def __bool__(self) -> bool:
        return self._pressed

    def _press(self, *_: object) -> None:
        self._pressed = True

    def restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


def _keep_freed_memory() -> None:
    """Have glibc hold on to freed blocks, which the next update asks for again.

    Otherwise each update returns megabytes to the kernel and faults the same pages back in, about
    a tenth of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 2**30)


def _postfix(row: dict[str, float]) -> dict[str, str]:
    shown = {
        "return": row.get("eval_return", row.get("train_return")),
        "loss": next((value for key, value in row.items() if key.startswith("loss")), None),
    }
    return {name: f"{value:.4g}" for name, value in shown.items() if value is not None}
