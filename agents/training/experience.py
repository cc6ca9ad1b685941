"""Where steps go and where batches come from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs.transforms import MultiStepTransform

from maxentflow.agents.agent import Agent, Rollout
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.replay import Replay
from maxentflow.agents.training.simulator import Simulator
from maxentflow.agents.training.torchrl_buffer import TorchRLBuffer

__all__ = [
    "Demonstrations",
    "Experience",
    "ReplayBuffer",
    "RolloutBuffer",
    "UpdateSchedule",
    "experience",
]

_ROUNDING = 1e-6  # of sums of update-to-data ratios


class Experience(Protocol):
    """Takes the steps of a run, and gives the batches that are due after each.

    A class may have more:

    ================== ===========================================================================
    ``reads_agent``    if true, the agent is brought up to date before :meth:`batches` is called
    ``is_offline``     if true, no environment is stepped; a step is a call of :meth:`batches`
    ``end_episodes()`` called when a run is resumed in an environment that cannot go back to its
                       state: what is added next is of new episodes
    ================== ===========================================================================
    """

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment.

        Args:
            transitions: batch size ``(num_envs,)``: what the behaviour read and wrote, and
                ``"next"`` with ``"observation"``, ``"reward"``, ``"done"``, ``"terminated"`` and
                ``"truncated"``. Random actions of a warm-up bring no more than ``"action"``.
        """
        ...

    def batches(self) -> Iterator[TensorDictBase]:
        """The batches to update from now, which may be none.

        One is drawn when the update from the one before is over, so that it can use what that
        update wrote into its batch, such as priorities.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that later batches depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            ValueError: it does not fit.
        """
        ...


class UpdateSchedule:
    """How many updates are due, from an update-to-data ratio and a warm-up.

    Args:
        warmup_steps: environment steps before the first update.
        utd_ratio: updates for each environment step after that.

    Example:
        >>> schedule = UpdateSchedule(warmup_steps=4, utd_ratio=0.5)
        >>> [schedule.due(2, ready=True) for _ in range(4)]
        [0, 0, 1, 1]
    """

    def __init__(self, warmup_steps: int, utd_ratio: float) -> None:
        self._warmup_steps = warmup_steps
        self._utd_ratio = utd_ratio
        self._steps = 0
        self._owed = 0.0

    def due(self, steps: int, ready: bool) -> int:
        """The updates due after so many more steps.

        Args:
            steps: environment steps, of all environments.
            ready: whether there is enough for a batch.
        """
        self._steps += steps
        if self._steps <= self._warmup_steps or not ready:
            return 0
        self._owed += steps * self._utd_ratio
        due = int(self._owed + _ROUNDING)
        self._owed -= due
        return due

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self._owed = state["steps"], state["owed"]


class ReplayBuffer:
    """Random batches from the steps so far: of our replay, or of a TorchRL buffer.

    Priorities of a TorchRL buffer are updated from what the loss writes into a batch.

    Args:
        buffer: what keeps transitions.
        batch_size: transitions in a batch.
        schedule: when updates are due.
        n_step: puts the steps of each environment together, before a TorchRL buffer takes them;
            see :class:`~maxentflow.agents.training.torchrl_buffer.TorchRLBuffer`.

    Raises:
        ValueError: the n-step transform is inside of the buffer, which would take environments for
            points in time, or it is to go before our replay.

    Example:
        >>> from torchrl.data import LazyTensorStorage
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
        >>> experience = ReplayBuffer(buffer, 8, UpdateSchedule(warmup_steps=0, utd_ratio=1.0))
        >>> step = TensorDict(observation=torch.zeros(4, 3), batch_size=[4])
        >>> for _ in range(3):
        ...     experience.add(step)
        ...     print([len(batch) for batch in experience.batches()])
        []
        [8, 8, 8, 8]
        [8, 8, 8, 8]
    """

    def __init__(
        self,
        buffer: Replay | TensorDictReplayBuffer,
        batch_size: int,
        schedule: UpdateSchedule,
        *,
        n_step: MultiStepTransform | None = None,
    ) -> None:
        if isinstance(buffer, Replay) and n_step is not None:
            raise ValueError("n_step needs a buffer of TorchRL, got our replay.")
        self.buffer = buffer
        self._store = buffer if isinstance(buffer, Replay) else TorchRLBuffer(buffer, n_step)
        self._batch_size = batch_size
        self._schedule = schedule
        self._waiting = 0  # steps since the last batches

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment."""
        self._waiting += len(transitions)
        self._store.add(transitions)

    def batches(self) -> Iterator[TensorDictBase]:
        """The batches to update from now."""
        due = self._schedule.due(self._waiting, ready=len(self.buffer) >= self._batch_size)
        self._waiting = 0
        for _ in range(due):
            batch = self.buffer.sample(self._batch_size)
            yield batch
            self._store.learned(batch)

    def end_episodes(self) -> None:
        """Take the episodes in progress as truncated."""
        self._store.end_episodes()

    def state_dict(self) -> dict[str, Any]:
        return {**self._store.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._store.load_state_dict(state)
        self._schedule.load_state_dict(state["schedule"])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the transitions into a folder: our replay those that are new, a buffer of TorchRL
        all that it keeps.

        Returns:
            What :meth:`load` needs, with ``"files"``, the names of what it reads.
        """
        return {**self._store.save(folder), "schedule": self._schedule.state_dict()}

    def load(self, saved: dict[str, Any], folder: Path) -> None:
        """Take back what :meth:`save` has written."""
        self._store.load(saved, folder)
        self._schedule.load_state_dict(saved["schedule"])


class RolloutBuffer:
    """The newest policy's own steps, for a few epochs of minibatches, and then gone.

    Args:
        rollout: how many, and how they are used. What an epoch leaves over of whole minibatches
            is left out of it; which transitions these are is random.
        num_envs: environments that are stepped together.
        device: where the steps are.

    Example:
        >>> buffer = RolloutBuffer(Rollout(steps=6, epochs=2, minibatch_size=3), num_envs=2)
        >>> step = TensorDict(observation=torch.zeros(2, 3), batch_size=[2])
        >>> for _ in range(3):
        ...     buffer.add(step)
        ...     print([len(batch) for batch in buffer.batches()])
        []
        []
        [3, 3, 3, 3]
    """

    def __init__(self, rollout: Rollout, num_envs: int, device: str = "cpu") -> None:
        self._rollout = rollout
        self._num_envs = num_envs
        self._device = device
        self._steps: list[TensorDictBase] = []

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment."""
        self._steps.append(transitions)

    def batches(self) -> Iterator[TensorDictBase]:
        """The minibatches of all epochs where the rollout is whole, else none."""
        rollout = self._rollout
        if not self._is_whole():
            return
        data = torch.stack(self._steps, dim=1).contiguous()  # (num_envs, time)
        self._steps = []
        if rollout.estimator is not None:
            with torch.no_grad():
                data = rollout.estimator(data)
        data = data.reshape(-1)
        size = rollout.minibatch_size
        for _ in range(rollout.epochs):
            order = torch.randperm(len(data), device=data.device)
            for first in range(0, len(data) - size + 1, size):
                yield data[order[first : first + size]]

    @property
    def reads_agent(self) -> bool:
        """Whether the next batches depend on the agent, by the estimator of the rollout."""
        return self._rollout.estimator is not None and self._is_whole()

    def _is_whole(self) -> bool:
        return len(self._steps) * self._num_envs >= self._rollout.steps

    def end_episodes(self) -> None:
        """Take the episodes in progress as truncated."""
        if self._steps:
            following = self._steps[-1]["next"]
            following["truncated"] = following["truncated"] | ~following["done"]
            following["done"] = torch.ones_like(following["done"])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [step.to_dict() for step in self._steps]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = [
            TensorDict(step, [self._num_envs]).to(self._device) for step in state["steps"]
        ]


class Demonstrations:
    """Random batches from transitions that were recorded before; nothing is added to them.

    Args:
        data: the transitions, batch size ``(n,)``.
        batch_size: transitions in a batch.

    Raises:
        ValueError: there are none.

    Example:
        >>> data = TensorDict(action=torch.zeros(100, 2), batch_size=[100])
        >>> [len(batch) for batch in Demonstrations(data, batch_size=8).batches()]
        [8]
    """

    is_offline = True

    def __init__(self, data: TensorDictBase, batch_size: int) -> None:
        if not len(data):
            raise ValueError("There are no demonstrations to learn from.")
        self._data = data
        self._batch_size = batch_size

    def add(self, transitions: TensorDictBase) -> None:
        """Refuse them.

        Raises:
            ValueError: always.
        """
        raise ValueError("Demonstrations take no transitions.")

    def batches(self) -> Iterator[TensorDictBase]:
        """One batch."""
        device = self._data.device
        yield self._data[torch.randint(len(self._data), (self._batch_size,), device=device)]

    def state_dict(self) -> dict[str, Any]:
        """What tells them from others; the transitions themselves come with the agent."""
        return {"size": len(self._data), "digest": self._digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See that they are the same.

        Raises:
            ValueError: they are not.
        """
        if state["size"] != len(self._data):
            raise ValueError(
                f"The run has learned from {state['size']} transitions, there are "
                f"{len(self._data)} now."
            )
        if state["digest"] != self._digest():
            raise ValueError("The run has learned from other transitions than there are now.")

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for key in sorted(map(str, self._data.keys())):
            digest.update(self._data[key].cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def experience(
    agent: Agent, simulator: Simulator, config: TrainerConfig, folder: Path | None = None
) -> Experience:
    """What an agent learns from: its demonstrations, its rollout if it is on-policy, else a
    replay, which is mapped from files of a folder if the configuration says so.

    Raises:
        ValueError: a size is out of range, an on-policy agent is to warm up with random steps,
            one that learns from demonstrations is to step environments, or they cannot be read.
    """
    if agent.demonstrations is not None:
        needed = {"num_envs": 1, "actors": 0, "warmup_steps": 0, "utd_ratio": 1.0}
        given = {**vars(config), "num_envs": simulator.num_envs}
        for name, value in needed.items():
            if given[name] != value:
                raise ValueError(
                    f"Agent {agent.name!r} learns from demonstrations and steps no environment: "
                    f"{name} must be {value}, got {given[name]}."
                )
        data = agent.demonstrations
        return Demonstrations(data() if callable(data) else data, config.batch_size)
    if agent.rollout is not None:
        for name in ("warmup_steps", "actors"):
            if getattr(config, name):
                raise ValueError(
                    f"Agent {agent.name!r} learns from what its own policy did: {name} must be 0, "
                    f"got {getattr(config, name)}."
                )
        return RolloutBuffer(agent.rollout, simulator.num_envs, config.device)
    replay = Replay(
        config.replay_size,
        simulator.num_envs,
        simulator.observation,
        simulator.action,
        agent.stored,
        device=config.device,
        folder=(folder or Path(tempfile.gettempdir())) if config.replay_on == "disk" else None,
    )
    schedule = UpdateSchedule(config.warmup_steps, config.utd_ratio)
    return ReplayBuffer(replay, config.batch_size, schedule)
