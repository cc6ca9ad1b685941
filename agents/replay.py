"""A replay buffer that keeps each observation once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tensordict import TensorDict
from torch import Tensor

__all__ = ["Replay"]

_FIRST_ENDS = 64  # last observations that there is room for at first


class Replay:
    """The latest transitions of one or several environments, to draw batches from.

    The observation after a step is the one before the next, so both are one row of one table; what
    an episode saw last, which has no step after it, lies in a table of its own that grows with the
    number of episodes. A transition costs one observation, one action and nine bytes, where a
    buffer of whole transitions costs twice the observation. Memory is reserved at once and taken
    from the system as it fills.

    Args:
        capacity: transitions to keep, rounded up to whole steps of all environments.
        num_envs: environments that are stepped together.
        obs_dim: size of an observation.
        action_dim: size of an action.
        device: where the tables are.

    Raises:
        ValueError: a size is below 1.

    Example:
        >>> replay = Replay(capacity=100, num_envs=2, obs_dim=3, action_dim=1)
        >>> replay.start(np.zeros((2, 3)))
        >>> ended, after = np.array([False, True]), np.ones((2, 3), np.float32)
        >>> replay.add(np.zeros((2, 1)), np.ones(2), ended, ended, after, after)
        >>> len(replay), replay.sample(8)["next", "reward"].shape
        (2, torch.Size([8, 1]))
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_dim: int,
        action_dim: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = {
            "capacity": capacity,
            "num_envs": num_envs,
            "obs_dim": obs_dim,
            "action_dim": action_dim,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self._steps = -(-capacity // num_envs)
        self._rows = (self._steps + 1) * num_envs  # and the observations after the last step
        self._now = 0  # first of the rows that hold the present observations
        self._size = 0
        self._observation = torch.empty(self._rows, obs_dim, device=device)
        self._action = torch.empty(self._rows, action_dim, device=device)
        self._reward = torch.empty(self._rows, device=device)
        self._terminated = torch.empty(self._rows, dtype=torch.bool, device=device)
        # Where an episode's last observation is in _final; -1 for a step that does not end one.
        self._end = torch.empty(self._rows, dtype=torch.int32, device=device)
        self._final = torch.empty(_FIRST_ENDS, obs_dim, device=device)
        self._free = list(range(_FIRST_ENDS))[::-1]
        self._ends: dict[int, int] = {}  # by row, what _end says, to know without asking a device

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        tables = self._observation, self._action, self._reward, self._terminated, self._end
        return sum(table.nbytes for table in (*tables, self._final))

    def start(self, observation: ArrayLike | Tensor) -> None:
        """Note the observations ``(num_envs, obs_dim)`` that the next step begins from."""
        self.present().copy_(torch.as_tensor(observation), non_blocking=True)

    def present(self) -> Tensor:
        """Where the observations that the next step begins from are, on the replay's device."""
        return self._observation[self._now : self._now + self.num_envs]

    def add(
        self,
        action: ArrayLike | Tensor,
        reward: ArrayLike | Tensor,
        terminated: ArrayLike | Tensor,
        ended: NDArray[np.bool_],
        final: NDArray[np.float32],
        following: ArrayLike | Tensor,
    ) -> None:
        """Add one step of every environment, in place of the oldest where there is no room.

        Args:
            action: shape ``(num_envs, action_dim)``.
            reward: shape ``(num_envs,)``.
            terminated: shape ``(num_envs,)``; a target bootstraps where it is false.
            ended: shape ``(num_envs,)``: terminated, truncated or cut.
            final: the observations that the step led to, ``(num_envs, obs_dim)``.
            following: those that the next step begins from; they differ where an episode ended.
        """
        count = self.num_envs
        here = slice(self._now, self._now + count)
        # A GPU is not waited for.
        self._action[here].copy_(torch.as_tensor(action), non_blocking=True)
        self._reward[here].copy_(torch.as_tensor(reward), non_blocking=True)
        self._terminated[here].copy_(torch.as_tensor(terminated), non_blocking=True)
        self._end[here] = -1
        self._now = (self._now + count) % self._rows
        if self._size == self._steps * count:
            gone = range(self._now, self._now + count)
            self._free += [self._ends.pop(row) for row in gone if row in self._ends]
        else:
            self._size += count
        self.start(following)
        for index in np.flatnonzero(ended):
            if not self._free:
                self._grow()
            row, slot = here.start + int(index), self._free.pop()
            self._ends[row] = self._end[row] = slot
            self._final[slot] = torch.as_tensor(final[index])

    def sample(self, batch_size: int) -> TensorDict:
        """Transitions drawn uniformly, with replacement, by torch's own generator.

        Returns:
            ``"observation"``, ``"action"`` and, under ``"next"``, ``"observation"``, ``"reward"``,
            ``"done"`` and ``"terminated"``, shapes ``(batch_size, ·)``.
        """
        return self[torch.randint(0, self._size, (batch_size,), device=self.device)]

    def blank(self, batch_size: int) -> TensorDict:
        """Zeros in the form of a sample."""
        sizes = {"observation": self._observation.shape[1:], "action": self._action.shape[1:]}
        zeros = partial(torch.zeros, device=self.device)
        flag = zeros(batch_size, 1, dtype=torch.bool)
        following = {
            "observation": zeros(batch_size, *sizes["observation"]),
            "reward": zeros(batch_size, 1),
            "done": flag,
            "terminated": flag.clone(),
        }
        own = {name: zeros(batch_size, *size) for name, size in sizes.items()}
        return TensorDict({**own, "next": TensorDict(following, [batch_size])}, [batch_size])

    def __getitem__(self, index: slice | Tensor) -> TensorDict:
        """Transitions by age, the oldest first; with several environments these alternate."""
        if isinstance(index, slice):
            index = torch.arange(self._size, device=self.device)[index]
        row, following_row = index, index + self.num_envs
        if self._now != self._size:  # the oldest is not the first row any more
            row = (index + (self._now - self._size)).remainder_(self._rows)
            following_row = (row + self.num_envs).remainder_(self._rows)
        # index_select, which takes half as long as indexing by a tensor
        end = self._end.index_select(0, row)
        done = (end >= 0).unsqueeze(-1)
        final = self._final.index_select(0, end.clamp_(min=0))
        following = TensorDict(
            {
                "observation": torch.where(
                    done, final, self._observation.index_select(0, following_row)
                ),
                "reward": self._reward.index_select(0, row).unsqueeze(-1),
                "done": done,
                "terminated": self._terminated.index_select(0, row).unsqueeze(-1),
            },
            index.shape,
        )
        return TensorDict(
            {
                "observation": self._observation.index_select(0, row),
                "action": self._action.index_select(0, row),
                "next": following,
            },
            index.shape,
        )

    def state_dict(self) -> dict[str, Any]:
        """What is kept, in order of age, on the CPU."""
        row = (torch.arange(self._size + self.num_envs) + self._now - self._size) % self._rows
        row = row.to(self.device)
        observation, row = self._observation[row], row[: self._size]
        end = self._end[row]
        tables = {
            "observation": observation,
            "action": self._action[row],
            "reward": self._reward[row],
            "terminated": self._terminated[row],
            "ended": end >= 0,
            "final": self._final[end[end >= 0]],
        }
        return {"size": self._size, **{name: table.cpu() for name, table in tables.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, in a buffer of the same sizes.

        Raises:
            ValueError: the sizes differ.
        """
        size, observation, action = state["size"], state["observation"], state["action"]
        if (
            size > self._steps * self.num_envs
            or observation.shape != (size + self.num_envs, self._observation.shape[1])
            or action.shape != (size, self._action.shape[1])
        ):
            raise ValueError(
                f"A replay of {size} transitions with observations {tuple(observation.shape)} and "
                f"actions {tuple(action.shape)} does not fit into this one."
            )
        self._size, self._now = size, size % self._rows
        self._observation[: len(observation)] = observation
        self._action[:size] = action
        self._reward[:size] = state["reward"]
        self._terminated[:size] = state["terminated"]
        ended, final = state["ended"], state["final"]
        while len(self._final) < len(final):
            self._grow()
        self._final[: len(final)] = final
        self._end[:size] = torch.where(ended, ended.cumsum(0) - 1, -1).int()
        self._ends = {row: slot for slot, row in enumerate(ended.nonzero().flatten().tolist())}
        self._free = list(range(len(final), len(self._final)))[::-1]

    def _grow(self) -> None:
        known = len(self._final)
        self._final = torch.cat([self._final, torch.empty_like(self._final)])
        self._free += reversed(range(known, 2 * known))
