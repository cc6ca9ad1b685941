"""Polyak averaging of target parameters in one multi-tensor call."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchrl.objectives import SoftUpdate

__all__ = ["PolyakUpdate", "mirrored"]


class PolyakUpdate(SoftUpdate):
    """:class:`torchrl.objectives.SoftUpdate`, all parameters at once.

    TorchRL's own walks the parameters one by one, several times the cost of the arithmetic for
    networks of this size. Values are the same.

    Example:
        >>> from maxentflow import flows
        >>> loss = SoftBellmanLoss(flows.build("additive", 2, 3, temperature=0.25))
        >>> PolyakUpdate(loss, tau=0.005).step()
    """

    _pairs: list[tuple[Tensor, Tensor]] | None = None
    _vectors: list[tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every target a fraction tau towards its source."""
        # .data at each step: a cast or a move replaces it behind the parameter.
        sources = [source.data for source, _ in self.pairs()]
        targets = [target.data for _, target in self.pairs()]
        torch._foreach_lerp_(targets, sources, self.tau)

    @property
    def tau(self) -> float:
        """The fraction."""
        return 1 - self.eps

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every source with its target."""
        if self._pairs is None:
            self._pairs = [
                (source, self._targets.get((f"target_{key[0]}", *key[1:])))
                for key, source in self._sources.items(True, True)
            ]
        return self._pairs

    def vectors(self) -> list[tuple[Tensor, Tensor]]:
        """Every storage of sources with one of targets, see :func:`mirrored`."""
        if self._vectors is None:
            self._vectors = mirrored(self.pairs())
        return self._vectors


def mirrored(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Lay copies out in memory as what they are copies of.

    Tensors that an optimiser keeps in one vector, and their copies, can then be averaged in one
    go. What the sources leave of a storage has no meaning in that of the copies.

    Args:
        pairs: sources, each with its copy, whose values stay as they are.

    Returns:
        Every storage of the sources as a vector, with that of its copies.

    Example:
        >>> source, target = torch.arange(6.0), torch.zeros(2)
        >>> mirrored([(source[2:4], target)])
        [(tensor([0., 1., 2., 3., 4., 5.]), tensor([0., 1., 0., 0., 4., 5.]))]
    """
    vectors: dict[int, tuple[Tensor, Tensor]] = {}
    for source, copy in pairs:
        storage = source.untyped_storage()
        if storage.data_ptr() not in vectors:
            length = storage.nbytes() // source.element_size()
            whole = source.detach().as_strided((length,), (1,), 0)
            vectors[storage.data_ptr()] = whole, whole.clone()
        place = vectors[storage.data_ptr()][1].as_strided(
            source.shape, source.stride(), source.storage_offset()
        )
        copy.data = place.copy_(copy.data)
    return list(vectors.values())
