"""A Ray cluster: one that runs, or one on this machine."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from maxentflow.agents.task_errors import SignalExit
from maxentflow.agents.training.session import Interruption, signals

__all__ = ["connected", "ray"]

_PATIENCE = 10  # seconds, for an answer of a cluster's address


def ray() -> ModuleType:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError('This needs Ray: pip install "maxentflow[cluster]" brings it.') from error


@contextmanager
def connected(address: str | None = None, *, num_cpus: int = 1) -> Iterator[None]:
    """A context in which there is a cluster.

    Args:
        address: of one that runs, ``"auto"`` for the one of this machine; by default the one that
            this process is connected to already, or else a new one on this machine, which ends
            with the context.
        num_cpus: processor cores that are needed; a new cluster takes them to be there.

    Raises:
        ValueError: Ray is not installed, there is no cluster, or it has fewer cores.

    Example::

        with connected("auto", num_cpus=4):
            ...  # of the cluster that this machine belongs to
    """
    package = ray()
    if package.is_initialized():
        _check_cores(package, num_cpus)
        yield
        return
    try:
        with signals(_end):
            _connect(package, address, num_cpus)
            with signals(_end):  # Ray has set its own handler of SIGTERM
                _check_cores(package, num_cpus)
                yield
    finally:
        package.shutdown()


def _connect(package: ModuleType, address: str | None, num_cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            cores = max(num_cpus, os.cpu_count() or 1)
            # A cluster that runs on this machine is used by its address only.
            package.init("local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            _check_listens(address)
            package.init(address, **quiet)
    except SignalExit:
        raise
    except SystemExit as end:
        raise SignalExit(128 + signal.SIGTERM) from end  # Ray's own handler exits with 15
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].removesuffix(".")
        raise ValueError(f"There is no Ray cluster at {address or 'hand'}: {reason}.") from error


def _check_listens(address: str) -> None:
    """Refuse a host and port that nobody listens on; Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _end(number: int, frame: object) -> None:
    interruption = Interruption()
    interruption.note(number, frame)
    interruption.raise_if_set()


def _check_cores(package: ModuleType, needed: int) -> None:
    cores = int(package.cluster_resources().get("CPU", 0))
    if cores < needed:
        raise ValueError(f"The Ray cluster has {cores} processor cores, {needed} are needed.")
