"""What the process is set to while runs train, put back afterwards."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from maxentflow.agents.task_errors import SignalExit

__all__ = ["Interruption", "session", "signals", "use_threads"]

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_DEFAULT_THRESHOLD = 128 * 1024

_ONE_SIGNAL = 0.5  # seconds; timeout(1) sends SIGTERM to a process, and again to its group

_HANGUP: Any = getattr(signal, "SIGHUP", None)  # of a terminal that closes; not on Windows


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP as a flag, so that a step is never left half done.

    A second signal stops the process at once, and so does a first one while updates are compiled:
    that may take minutes, and no step is under way.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._noted = 0.0
        self._at_once = False
        self._compiles = False

    def __bool__(self) -> bool:
        return self._signal is not None

    def raise_if_set(self) -> None:
        """Stop as the signal would have stopped the process.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SignalExit: after SIGTERM or SIGHUP, with exit status 143 or 129.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SignalExit(128 + self._signal)

    def raise_if_at_once(self) -> None:
        """Stop after a second signal, as :meth:`raise_if_set`."""
        if self._at_once:
            self.raise_if_set()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """A context in which the first signal stops the process at once."""
        self._compiles = True
        try:
            yield
        finally:
            self._compiles = False

    def note(self, number: int, frame: object) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if self._compiles:
            self._compiles = False
            self._signal, self._noted, self._at_once = number, now, True
            self.raise_if_set()
        if self._signal is not None:
            if number == self._signal == signal.SIGTERM and now - self._noted < _ONE_SIGNAL:
                return
            self._signal, self._at_once = number, True
            self.raise_if_set()
        self._signal, self._noted = number, now


@contextmanager
def session(threads: int) -> Iterator[Interruption]:
    """A context for training: fast arithmetic, and an end that loses nothing.

    Within it torch computes with the given number of threads and takes numbers below 1e-38 for
    zero (``torch.set_flush_denormal``), glibc keeps freed memory, the collector leaves alone what
    exists already, and signals are flags. On leaving, each is as it was.

    Args:
        threads: as :func:`use_threads` takes them.

    Example:
        >>> with session(threads=1) as interruption:
        ...     torch.tensor(1e-30).mul(1e-10).item(), bool(interruption)
        (0.0, False)
    """
    interruption = Interruption()
    threads_before, flushed_before = torch.get_num_threads(), _flushes_denormals()
    use_threads(threads)
    torch.set_flush_denormal(True)  # a processor is slow with such numbers
    _set_malloc_thresholds(2**30)
    gc.collect()
    gc.freeze()
    try:
        with signals(interruption.note):
            yield interruption
    except Exception:  # a library may fail at an exception in the middle of its work
        interruption.raise_if_at_once()
        raise
    finally:
        gc.unfreeze()
        _set_malloc_thresholds(_DEFAULT_THRESHOLD)
        torch.set_flush_denormal(flushed_before)
        torch.set_num_threads(threads_before)


@contextmanager
def signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """A context in which a function handles Ctrl-C, SIGTERM, and SIGHUP where it is heeded.

    Only the main thread can handle signals; in another one nothing changes.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        heeds_hangup = _HANGUP and signal.getsignal(_HANGUP) != signal.SIG_IGN  # as under nohup
        for number in (signal.SIGINT, signal.SIGTERM, *([_HANGUP] if heeds_hangup else [])):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def use_threads(threads: int) -> None:
    """Have torch compute with so many threads, but for those beyond one a core that the process
    may use: they would only wait for each other."""
    torch.set_num_threads(min(threads, _cores()))


def _cores() -> int:
    """Those that the process may use, where the system says it."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _flushes_denormals() -> bool:
    return torch.tensor(1e-30).mul(1e-10).item() == 0.0


def _set_malloc_thresholds(size: int) -> None:
    """Have glibc return freed blocks to the kernel only where they are larger.

    With its defaults each update returns megabytes and faults the same pages back in, a tenth of
    its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, size)
