"""Start environments in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

__all__ = [
    "WorkerEndedError",
    "WorkerError",
    "WorkerVectorEnv",
    "exception_text",
    "in_worker",
    "start_method",
]

_SLOW_IMPORTS = ("mujoco", "torch", "torchrl")


class WorkerError(RuntimeError):
    """An environment raised an exception in its worker: which one, what it says, and where.

    The worker's traceback is a note of it.
    """


class WorkerEndedError(ConnectionError):
    """A worker has ended."""


def exception_text(error: BaseException) -> str:
    """An exception that was caught: its kind, what it says, and where it was raised.

    Example:
        >>> try:
        ...     0 / 0
        ... except ZeroDivisionError as error:
        ...     exception_text(error).partition(" (")[0]
        'ZeroDivisionError: division by zero'
    """
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def start_method() -> str:
    """How workers are started: never as a fork of this process, which may run threads.

    A fork server imports once what each worker would import again.

    Example:
        >>> start_method() in ("forkserver", "spawn")
        True
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    # A worker runs the main script's imports. It finds the slow ones done.
    loaded = [name for name in _SLOW_IMPORTS if name in sys.modules]
    multiprocessing.set_forkserver_preload(["maxentflow.envs", *loaded])
    return "forkserver"


def in_worker(make: Callable[[], gym.Env[Any, Any]]) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes an environment, to be called in a worker.

    The worker ignores Ctrl-C and SIGTERM and leaves the process group: the main process alone
    decides what a signal does, and may want to finish a step. The worker ends with the pipe to it.

    Example:
        >>> in_worker(partial(gym.make, "Pendulum-v1"))().spec.id
        'Pendulum-v1'
    """
    return partial(_make_in_worker, make, os.getpid())


def _make_in_worker(make: Callable[[], gym.Env[Any, Any]], parent: int) -> gym.Env[Any, Any]:
    if os.getpid() != parent:  # the main process also makes one, to learn the spaces
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A handler, which programs that the environment starts do not inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        with suppress(OSError, AttributeError):  # Windows has no sessions
            os.setsid()
    return make()


class WorkerVectorEnv(AsyncVectorEnv):
    """gymnasium's, for workers of :func:`in_worker`.

    Raises:
        WorkerError: from any method, an environment raised an exception; all workers are ended.
        WorkerEndedError: from any method, a worker has ended; the others are then ended too.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], **options: Any) -> None:
        with self._watched():
            super().__init__(makers, worker=_work, **options)
        # multiprocessing would end them by SIGTERM, and wait.
        Finalize(self, _kill, args=[self.processes], exitpriority=0)

    def step_async(self, actions: Any) -> None:
        with self._watched():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> Any:
        with self._watched():
            return super().step_wait(timeout)

    def reset_async(self, seed: Any = None, options: Any = None) -> None:
        with self._watched():
            super().reset_async(seed, options)

    def reset_wait(self, timeout: float | None = None) -> Any:
        with self._watched():
            return super().reset_wait(timeout)

    def call_async(self, name: str, /, *arguments: object, **options: object) -> None:
        with self._watched():
            super().call_async(name, *arguments, **options)

    def call_wait(self, timeout: float | None = None) -> Any:
        with self._watched():
            return super().call_wait(timeout)

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        # gymnasium's warns three times, and raises an exception without the worker's traceback.
        if all(successes):
            return
        _, _, said, trace = self.error_queue.get()
        self.close(terminate=True)
        error = WorkerError(said)
        error.add_note(trace)
        raise error

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        is_waiting = self._state is not AsyncState.DEFAULT
        if terminate or (is_waiting and not self._poll_pipe_envs(timeout)):
            terminate = True
            self._state = AsyncState.DEFAULT
            _kill(self.processes)
        super().close_extras(timeout, terminate)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Say which worker has ended, where one does not answer."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            wait([process.sentinel for process in self.processes], timeout=1)
            codes = [code for process in self.processes if (code := process.exitcode) is not None]
            self.close(terminate=True)
            code = codes[0] if codes else 0
            how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
            raise WorkerEndedError(f"A worker process of the environment {how}") from error


def _work(
    index: int, make: Any, pipe: Any, other_end: Any, memory: Any, errors: Any, *more: Any
) -> None:
    """Do what gymnasium's workers do, and end in silence where the main process is gone."""
    told: Any = _Errors(errors)
    with suppress(EOFError, ConnectionError):
        try:
            _async_worker(index, make, pipe, other_end, memory, told, *more)
        except SystemExit as error:  # of the environment; gymnasium's worker ends by it in silence
            told.put((index, SystemExit, error, traceback.format_exc()))
            pipe.send((None, False))


class _Errors:
    """Where a worker puts the exception it ends by, which may be none that can be sent."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, report: tuple[int, type[BaseException], BaseException, str]) -> None:
        index, _, error, trace = report
        self._queue.put((index, WorkerError, exception_text(error), trace))


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
