"""Start environments in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gymnasium as gym

__all__ = ["in_worker", "start_method"]

_SLOW_IMPORTS = ("mujoco", "torch", "torchrl")


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

    The worker ignores Ctrl-C and leaves the process group, so that a signal to the group reaches
    the main process alone, which may want to finish a step. The worker ends with the pipe to it.

    Example:
        >>> in_worker(partial(gym.make, "Pendulum-v1"))().spec.id
        'Pendulum-v1'
    """
    return partial(_make_in_worker, make, os.getpid())


def _make_in_worker(make: Callable[[], gym.Env[Any, Any]], parent: int) -> gym.Env[Any, Any]:
    if os.getpid() != parent:  # the main process also makes one, to learn the spaces
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError, AttributeError):  # Windows has no sessions
            os.setsid()
    return make()
