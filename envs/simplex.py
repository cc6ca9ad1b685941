"""The space of shares of a whole."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

__all__ = ["Simplex"]

_TOLERANCE = 1e-4  # single precision, and what a user's own sum leaves


class Simplex(gym.spaces.Box):
    """Shares of a whole: numbers from 0 to 1 that add up to 1.

    Samples are uniform on the simplex. Environments with such actions are not rescaled to
    [-1, 1], and only flows with ``squash="simplex"`` act in them.

    Args:
        size: number of shares, at least 2.
        seed: of the samples.
        batch_shape: of several such points, as those of vector environments.

    Raises:
        ValueError: ``size`` is below 2.

    Example:
        >>> space = Simplex(3, seed=0)
        >>> float(space.sample().sum().round(6)), space.contains(np.ones(3, np.float32))
        (1.0, False)
    """

    def __init__(
        self,
        size: int,
        seed: int | np.random.Generator | None = None,
        *,
        batch_shape: tuple[int, ...] = (),
    ) -> None:
        if size < 2:
            raise ValueError(f"A simplex has at least 2 shares, got size={size}.")
        super().__init__(0.0, 1.0, (*batch_shape, size), np.float32, seed)

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.float32]:
        """Shares from the uniform distribution on the simplex; neither argument is for it."""
        if mask is not None or probability is not None:
            raise ValueError("A simplex is sampled with neither mask nor probability.")
        *batch_shape, size = self.shape
        return self.np_random.dirichlet(np.ones(size), batch_shape or None).astype(np.float32)

    def contains(self, x: Any) -> bool:
        """Whether the entries are non-negative and add up to 1, within 1e-4."""
        try:
            shares = np.asarray(x, dtype=np.float64)
        except (TypeError, ValueError):
            return False
        if shares.shape != self.shape or not np.isfinite(shares).all():
            return False
        adds_up = np.abs(shares.sum(-1) - 1.0) <= _TOLERANCE
        return bool(shares.min() >= -_TOLERANCE and adds_up.all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Simplex) and self.shape == other.shape

    def __repr__(self) -> str:
        *batch_shape, size = self.shape
        several = f", batch_shape={tuple(batch_shape)}" if batch_shape else ""
        return f"Simplex({size}{several})"


@batch_space.register(Simplex)
def _batch(space: Simplex, n: int = 1) -> Simplex:
    *batch_shape, size = space.shape
    return Simplex(size, copy.deepcopy(space.np_random), batch_shape=(n, *batch_shape))
