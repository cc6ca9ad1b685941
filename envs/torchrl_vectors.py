"""TorchRL's vector environments, which here leave torch's number of threads alone.

TorchRL's own raise it when they are closed, also by the garbage collector in the middle of other
work, and those with workers lower it when they start. Results then differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torchrl.envs import ParallelEnv, SerialEnv

__all__ = ["Parallel", "Serial"]


class Serial(SerialEnv):
    """``SerialEnv``: copies in this process."""

    def close(self, **options: Any) -> None:
        with _same_threads():
            super().close(**options)


class Parallel(ParallelEnv):
    """``ParallelEnv``: a process for each copy."""

    def start(self) -> None:
        with _same_threads():
            super().start()

    def close(self, **options: Any) -> None:
        with _same_threads():
            super().close(**options)


@contextmanager
def _same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
