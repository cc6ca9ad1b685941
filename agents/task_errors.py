"""Exceptions of an environment, told from those of an agent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from maxentflow.envs.workers import WorkerEndedError, WorkerError, exception_text

__all__ = ["SignalExit", "TaskError", "close", "of_the_task"]


class TaskError(RuntimeError):
    """An environment raised an exception, which is the cause of this one."""


class SignalExit(SystemExit):
    """The end of the process by a signal, not by an environment."""


def of_the_task() -> AbstractContextManager[None]:
    """A context in which an environment is called.

    Raises:
        TaskError: the environment raised an exception, be it one that ends Python, such as that of
            ``sys.exit``.

    Example:
        >>> try:
        ...     with of_the_task():
        ...         raise KeyError("speed")
        ... except TaskError as error:
        ...     str(error).partition(" (")[0]
        "the environment raised KeyError: 'speed'"
    """
    return _GUARD


class _Guard:
    # No contextlib.contextmanager, which takes what StopIteration causes for that itself.
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, _OWN):
            return
        said = error if isinstance(error, WorkerError) else exception_text(error)
        raise TaskError(f"the environment raised {said}") from error


# A number that is not finite; a worker that was killed; signals.
_OWN = FloatingPointError, WorkerEndedError, KeyboardInterrupt, SignalExit
_GUARD = _Guard()


def close(env: Any) -> None:
    """Close an environment.

    Raises:
        TaskError: it raised an exception.
    """
    with of_the_task():
        env.close()
