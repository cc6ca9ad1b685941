"""A replay buffer that keeps each observation once."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from maxentflow.agents.training.files import load, save_atomically
from maxentflow.agents.training.simulator import Entry

__all__ = ["Replay", "read_files"]

_FIRST_FINALS = 64  # final observations that there is room for at first

Chunk = dict[str, Any]
"""Transitions that follow each other: tables on the CPU, and the number of the first."""


class Replay:
    """The latest transitions of one or several environments, to draw batches from.

    The observation after a step is the one before the next, so both are one row of one table;
    final observations are stored in a side table that grows with the number of episodes. A
    transition costs one observation, one action and nine bytes, where a buffer of whole
    transitions costs twice the observation. Memory is reserved at once and taken from the system
    as it fills.

    Args:
        capacity: transitions to keep, rounded up to whole steps of all environments.
        num_envs: environments that are stepped together.
        observation: shape and dtype of an observation.
        action: shape and dtype of an action.
        extra: further entries of a step to keep, of the forms that the first step has them in.
        device: where the tables are.
        folder: map the tables from files there, so that the system keeps in memory what is used;
            the files have no names any more and end with the process. Final observations stay in
            memory.

    Raises:
        ValueError: a size is below 1, there is not enough memory or space in the folder, or tables
            on another device than the CPU are to be in files.

    Example:
        >>> vector = Entry(torch.Size([3]), torch.float32)
        >>> index = Entry(torch.Size([]), torch.int64)
        >>> replay = Replay(capacity=100, num_envs=2, observation=vector, action=index)
        >>> following = TensorDict(
        ...     observation=torch.ones(2, 3),
        ...     reward=torch.ones(2, 1),
        ...     done=torch.tensor([[False], [True]]),
        ...     terminated=torch.tensor([[False], [True]]),
        ... )
        >>> step = {"observation": torch.zeros(2, 3), "action": torch.tensor([0, 1])}
        >>> replay.add(TensorDict({**step, "next": following}, [2]))
        >>> len(replay), replay.sample(8)["next", "reward"].shape
        (2, torch.Size([8, 1]))
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation: Entry,
        action: Entry,
        extra: Sequence[str] = (),
        *,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ) -> None:
        for name, size in (("capacity", capacity), ("num_envs", num_envs)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        self.num_envs = num_envs
        self.device = torch.device(device)
        if folder is not None and self.device.type != "cpu":
            raise ValueError(f"A replay on disk is read by the CPU, got device {device}.")
        self._place = folder
        self.added = 0
        """Transitions that there have been, the number of the next."""
        self._steps = -(-capacity // num_envs)
        self._rows = (self._steps + 1) * num_envs  # and the observations after the last
        self._now = 0  # the first of the rows that the next step goes to
        self._size = 0
        try:
            self._observation = self._table(observation.shape, observation.dtype)
            self._action = self._table(action.shape, action.dtype)
            self._reward = self._table((1,), torch.float32)
            self._terminated = self._table((1,), torch.bool)
            # Where an episode's final observation is in _final; -1 where it goes on.
            self._end = self._table((), torch.int32)
        except OSError as error:
            raise ValueError(
                f"A replay of {capacity} transitions cannot be made in {folder}: {error.strerror}."
            ) from error
        except (RuntimeError, TypeError, OverflowError) as error:  # the latter beyond 64 bits
            tables = (observation, action)
            each = sum(math.prod(table.shape) * table.dtype.itemsize for table in tables)
            raise ValueError(
                f"There is not enough memory for a replay of {capacity} transitions, some "
                f"{capacity * each / 1e9:.3g} GB; give a smaller replay_size, or replay_on=disk."
            ) from error
        self._extra: dict[str, Tensor | None] = dict.fromkeys(extra)
        self._final = torch.empty(
            _FIRST_FINALS, *observation.shape, dtype=observation.dtype, device=device
        )
        self._free = list(range(_FIRST_FINALS))[::-1]
        self._ends: dict[int, int] = {}  # by row, what _end says, to know without asking a device
        self._files: list[str] = []  # that hold what is kept, up to the last call of save
        self._folder: Path | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        tables = self._observation, self._action, self._reward, self._terminated, self._end
        extra = [table for table in self._extra.values() if table is not None]
        return sum(table.nbytes for table in (*tables, *extra, self._final))

    def add(self, transitions: TensorDictBase) -> None:
        """Add one step of every environment, in place of the oldest where there is no room.

        Args:
            transitions: batch size ``(num_envs,)``: ``"observation"``, ``"action"``, the extra
                entries and, under ``"next"``, ``"observation"``, ``"reward"``, ``"done"`` and
                ``"terminated"``.
        """
        count, following = self.num_envs, transitions["next"]
        here = slice(self._now, self._now + count)
        # A GPU is not waited for.
        self._observation[here].copy_(transitions["observation"], non_blocking=True)
        self._action[here].copy_(transitions["action"], non_blocking=True)
        for name in self._extra:
            entry = transitions[name]
            self._extra_table(name, entry)[here].copy_(entry, non_blocking=True)
        self._reward[here].copy_(following["reward"], non_blocking=True)
        self._terminated[here].copy_(following["terminated"], non_blocking=True)
        self._end[here].fill_(-1)
        self._now = (self._now + count) % self._rows
        self.added += count
        if self._size == self._steps * count:
            gone = range(self._now, self._now + count)
            self._free += [self._ends.pop(row) for row in gone if row in self._ends]
        else:
            self._size += count
        final = following["observation"]
        self._observation[self._now : self._now + count].copy_(final, non_blocking=True)
        done = following["done"].numpy(force=True)
        if done.any():
            for index in done[:, 0].nonzero()[0].tolist():
                self._end_episode(here.start + index, final[index])

    def sample(self, batch_size: int) -> TensorDict:
        """Transitions drawn uniformly, with replacement, by torch's own generator.

        Returns:
            ``"observation"``, ``"action"``, the extra entries and, under ``"next"``,
            ``"observation"``, ``"reward"``, ``"done"`` and ``"terminated"``, batch size
            ``(batch_size,)``.
        """
        return self[torch.randint(0, self._size, (batch_size,), device=self.device)]

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
                    done.view(-1, *(1,) * (final.ndim - 1)),
                    final,
                    self._observation.index_select(0, following_row),
                ),
                "reward": self._reward.index_select(0, row),
                "done": done,
                "terminated": self._terminated.index_select(0, row),
            },
            index.shape,
        )
        return TensorDict(
            {
                "observation": self._observation.index_select(0, row),
                "action": self._action.index_select(0, row),
                **{name: table.index_select(0, row) for name, table in self._kept()},
                "next": following,
            },
            index.shape,
        )

    def chunk(self, first: int) -> Chunk:
        """Transitions by number, from one on to the last, as far as they are still kept.

        A chunk holds the observations after its last step too. With all chunks that cover what
        the replay keeps it can be brought back.
        """
        first = max(first, self.added - self._size)
        age = torch.arange(self._size - (self.added - first), self._size + self.num_envs)
        row = ((age + self._now - self._size) % self._rows).to(self.device)
        observation, row = self._observation[row], row[: len(row) - self.num_envs]
        end = self._end[row]
        tables = {
            "observation": observation,
            "action": self._action[row],
            **{name: table[row] for name, table in self._kept()},
            "reward": self._reward[row],
            "terminated": self._terminated[row],
            "ended": end >= 0,
            "final": self._final[end[end >= 0]],
        }
        return {"first": first, **{name: table.cpu() for name, table in tables.items()}}

    def _load_chunks(self, chunks: Sequence[Mapping[str, Any]]) -> None:
        """Take the transitions of chunks in place of what is kept.

        Args:
            chunks: in order, without gaps; of those that overlap, the later ones count.

        Raises:
            ValueError: the chunks do not follow each other, or their sizes are not this replay's.
        """
        starts = [chunk["first"] for chunk in chunks]
        ends = [chunk["first"] + len(chunk["reward"]) for chunk in chunks]
        last = ends[-1] if ends else 0
        begins = max(starts[0] if starts else 0, last - self._steps * self.num_envs)
        for chunk, end, following in zip(chunks, ends, [*starts[1:], last], strict=True):
            observation, action = chunk["observation"], chunk["action"]
            if following > end or following < chunk["first"]:
                raise ValueError("The checkpoint's replay has a gap.")
            if (
                _form(observation) != _form(self._observation)
                or _form(action) != _form(self._action)
                or len(observation) != len(action) + self.num_envs
                or not all(self._takes(chunk, name) for name in self._extra)
            ):
                raise ValueError(
                    f"A replay of {len(action)} transitions with observations "
                    f"{_form(observation)} and actions {_form(action)} does not fit into this one."
                )
        self._size, self.added, self._ends = last - begins, last, {}
        self._now = self._size % self._rows
        self._free = list(range(len(self._final)))[::-1]
        for chunk, following in zip(chunks, [*starts[1:], last], strict=True):
            first = chunk["first"]
            skip = min(max(begins - first, 0), following - first)
            rows = slice(first + skip - begins, following - begins)
            taken = slice(skip, following - first)
            count = rows.stop - rows.start + self.num_envs
            self._observation[rows.start : rows.start + count] = chunk["observation"][
                skip : skip + count
            ]
            self._action[rows] = chunk["action"][taken]
            for name in self._extra.keys() & chunk.keys():
                entry = chunk[name][taken]
                self._extra_table(name, entry)[rows] = entry.to(self.device)
            self._reward[rows] = chunk["reward"][taken]
            self._terminated[rows] = chunk["terminated"][taken]
            self._end[rows] = -1
            ended = chunk["ended"]
            finals = iter(chunk["final"][int(ended[:skip].sum()) :])
            for index in ended[taken].nonzero().flatten().tolist():
                self._end_episode(rows.start + index, next(finals))

    def state_dict(self) -> dict[str, Any]:
        """What is kept, on the CPU."""
        return {"chunks": [self.chunk(0)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, in a replay of the same sizes.

        Raises:
            ValueError: the sizes differ.
        """
        self._folder, self._files = None, []
        self._load_chunks(state["chunks"])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what was added since the last call into a new file of a folder.

        Returns:
            ``"files"``: the names of all that :meth:`load` needs.
        """
        if folder != self._folder:
            self._folder, self._files = folder, []
        oldest = self.added - self._size
        self._files = [name for name in self._files if _span(name)[1] > oldest]
        first = _span(self._files[-1])[1] if self._files else oldest
        if first < self.added or not self._files:
            name = f"{first:012d}-{self.added:012d}.pt"
            save_atomically(self.chunk(first), folder / name)
            self._files.append(name)
        return {"files": list(self._files)}

    def load(self, saved: Mapping[str, Any], folder: Path) -> None:
        """Take back what :meth:`save` has written.

        Raises:
            ValueError: a file cannot be read, or the sizes differ.
        """
        self._load_chunks([_read(folder / name) for name in saved["files"]])
        self._folder, self._files = folder, list(saved["files"])

    def learned(self, batch: TensorDictBase) -> None:
        """Nothing to do: there are no priorities."""

    def end_episodes(self) -> None:
        """Take the episodes in progress as truncated: what is added next does not go on from
        there. A file that holds their last steps is written anew by the next call of
        :meth:`save`."""
        if not self._size:
            return
        if self._files and _span(self._files[-1])[1] == self.added:
            self._files = self._files[:-1]
        last = (self._now - self.num_envs) % self._rows
        for index in range(self.num_envs):
            if last + index not in self._ends:
                self._end_episode(last + index, self._observation[self._now + index].clone())

    def _takes(self, chunk: Mapping[str, Any], name: str) -> bool:
        """Whether a chunk has an extra entry in the form of its table; an empty one has none."""
        if name not in chunk:
            return len(chunk["action"]) == 0
        table = self._extra[name]
        return table is None or _form(table) == _form(chunk[name])

    def _extra_table(self, name: str, like: Tensor) -> Tensor:
        """The table of an extra entry, made when it first comes."""
        table = self._extra[name]
        if table is None:
            self._extra[name] = table = self._table(like.shape[1:], like.dtype)
        return table

    def _table(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A table with a row of some shape for each transition."""
        shape = self._rows, *shape
        if self._place is None:
            return torch.empty(shape, dtype=dtype, device=self.device)
        count = math.prod(shape)
        number, name = tempfile.mkstemp(dir=self._place)
        try:
            if count:  # all of it now: writing to a full disk through a map kills the process
                os.posix_fallocate(number, 0, count * dtype.itemsize)
            return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
        finally:
            os.close(number)
            os.unlink(name)

    def _kept(self) -> list[tuple[str, Tensor]]:
        """The tables of extra entries."""
        return [(name, table) for name, table in self._extra.items() if table is not None]

    def _end_episode(self, row: int, final: Tensor) -> None:
        if not self._free:
            known = len(self._final)
            self._final = torch.cat([self._final, torch.empty_like(self._final)])
            self._free += reversed(range(known, 2 * known))
        slot = self._free.pop()
        self._ends[row] = self._end[row] = slot
        self._final[slot] = final


def read_files(paths: Sequence[Path], names: Sequence[str], count: int) -> TensorDict:
    """About ``count`` of the transitions in files of :meth:`Replay.save`, evenly spaced.

    Args:
        paths: the files.
        names: entries of a transition: ``"observation"``, ``"action"`` or extra ones.
        count: how many transitions; fewer where there are not as many.

    Returns:
        The entries, shape ``(transitions, ·)``.

    Raises:
        ValueError: a file cannot be read.
    """
    spans = [_span(path.name) for path in paths]
    stride = max(1, sum(last - first for first, last in spans) // count)
    parts = []
    for path in paths:
        chunk = _read(path)
        try:
            kept = slice(0, len(chunk["action"]), stride)  # observations are more than actions
            tables = {name: chunk[name][kept].clone() for name in names}  # the rest is freed
            parts.append(TensorDict(tables).auto_batch_size_(1))
            if parts[-1].shape != (len(tables["action"]),):
                raise ValueError
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a readable part of a replay.") from error
    return torch.cat(parts)


def _read(path: Path) -> Chunk:
    try:
        return load(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable part of a replay.") from error


def _form(table: Tensor) -> tuple[Any, ...]:
    """Shape and dtype of an entry of a table."""
    return tuple(table.shape[1:]), table.dtype


def _span(name: str) -> tuple[int, int]:
    """The numbers of a file's first transition and of the one after its last."""
    first, last = name.removesuffix(".pt").split("-")
    return int(first), int(last)
