"""What the tasks of this package take alike, and how they refuse what they do not."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PATHS",
    "check_blocked",
    "check_render_mode",
    "finite_numbers",
    "is_number",
    "is_whole",
]

PATHS = ("bridge", "tunnel")
"""The two ways to a goal; ``info["path"]`` is the index of the one taken."""


def check_blocked(blocked: str | None) -> None:
    """Refuse a path that is none of the two, nor ``None``."""
    if blocked not in (None, *PATHS):
        raise ValueError(f"blocked must be 'bridge', 'tunnel' or None, got {blocked!r}.")


def check_render_mode(render_mode: str | None) -> None:
    """Refuse what is neither ``"rgb_array"`` nor ``None``."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or NumPy, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a real number, of Python or NumPy, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def finite_numbers(action: Any, size: int) -> NDArray[np.float64]:
    """An action of one or two finite numbers, in double precision; a ValueError for any other."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (size,) or not np.isfinite(action).all():
        said = "one finite number" if size == 1 else "two finite numbers"
        raise ValueError(f"action must be {said}, got {action.tolist()}.")
    return action
