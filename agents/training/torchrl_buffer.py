"""TorchRL's replay buffers, behind the interface of our replay."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import PrioritizedSampler, ReplayBuffer, TensorDictReplayBuffer
from torchrl.envs.transforms import MultiStepTransform

__all__ = ["TorchRLBuffer"]


class TorchRLBuffer:
    """Steps of several environments in a TorchRL buffer, one or n at a time.

    It keeps the entries of the first step that it is given, and draws from torch's own generator,
    where TorchRL's default is NumPy's.

    Args:
        buffer: what keeps transitions.
        n_step: puts the steps of each environment together, before the buffer takes them. An end
            of the episode counts in all of them; TorchRL's default overlooks it.

    Raises:
        ValueError: the n-step transform is inside of the buffer, which would take environments for
            points in time.
    """

    def __init__(self, buffer: ReplayBuffer, n_step: MultiStepTransform | None = None) -> None:
        if any(isinstance(part, MultiStepTransform) for part in buffer.transform):
            raise ValueError("Give MultiStepTransform as n_step, not as the buffer's transform.")
        self._buffer = buffer
        self._keys: list[NestedKey] = []
        self._n_step = n_step
        self._window: list[TensorDictBase] = []  # steps that more are to be put together with
        self._begin()

    def __len__(self) -> int:
        return len(self._buffer)

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment."""
        # A warm-up's random actions have no log-probability.
        self._keys = self._keys or list(transitions.keys(True, True))
        steps = transitions.select(*self._keys)
        if self._n_step is None:
            self._buffer.extend(steps)
            return
        self._window = [*self._window, steps][-self._n_step.n_steps :]
        combined = self._combine.inv(steps.unsqueeze(-1))
        if combined is not None:
            self._buffer.extend(combined.reshape(-1))

    def sample(self, batch_size: int) -> TensorDictBase:
        """A batch."""
        return self._buffer.sample(batch_size)

    def learned(self, batch: TensorDictBase) -> None:
        """Take the priorities that an update wrote into its batch."""
        if isinstance(self._buffer, TensorDictReplayBuffer):  # a plain one has no priorities
            self._buffer.update_tensordict_priority(batch)

    def end_episodes(self) -> None:
        """Forget the steps that more were to be put together with."""
        self._window = []
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": self._buffer.state_dict(), **self._state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._buffer.load_state_dict(state["buffer"])
        self._load_state(state)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write all that is kept into a folder; give what :meth:`load` needs."""
        path = Path(tempfile.mkdtemp(prefix="buffer-", dir=folder))
        self._buffer.dumps(path)
        return {"files": [path.name], **self._state()}

    def load(self, saved: dict[str, Any], folder: Path) -> None:
        """Take back what :meth:`save` has written."""
        self._buffer.loads(folder / saved["files"][0])
        self._load_state(saved)

    def _begin(self) -> None:
        """Get ready for steps after those of the window."""
        if self._n_step is not None:
            self._combine = copy.deepcopy(self._n_step)
            self._combine.done_keys = []
            if self._window:
                self._combine.inv(torch.stack(self._window, dim=1))
        sampler = self._buffer.sampler
        if isinstance(sampler, PrioritizedSampler) and sampler.device.type == "cpu":
            self._buffer.set_rng(torch.default_generator)

    def _state(self) -> dict[str, Any]:
        window = [step.to_dict() for step in self._window]
        return {"keys": list(self._keys), "window": window}

    def _load_state(self, state: dict[str, Any]) -> None:
        self._keys = list(state["keys"])
        self._window = [TensorDict(step).auto_batch_size_(1) for step in state["window"]]
        self._begin()
