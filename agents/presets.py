"""Training defaults for tasks, those of the paper where it has them
(Chao et al. 2024, arXiv:2405.13629, table A1).

A task of one's own brings them along, as the attribute ``preset`` of its class.
"""

from __future__ import annotations

from dataclasses import dataclass

from maxentflow import envs

__all__ = ["GENERAL", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """Settings of one task; of any version of it."""

    total_steps: int = 1_000_000
    warmup_steps: int = 5_000
    temperature: float = 0.2
    tau: float = 0.005
    gamma: float = 0.99
    log_sigma: tuple[float, float] = (-5.0, -0.3)
    max_episode_steps: int | None = None
    squash: str = "tanh"
    """Last layer of a flow that acts in it."""


GENERAL = Preset()
"""For tasks without any of their own."""

_PRESETS = {
    "Hopper": Preset(1_500_000, 5_000, 0.25, 0.005),
    "HalfCheetah": Preset(1_500_000, 10_000, 0.25, 0.003, log_sigma=(-5.0, 2.0)),
    "Walker2d": Preset(4_000_000, 10_000, 0.1, 0.005),
    "Ant": Preset(4_000_000, 5_000, 0.05, 0.0001),
    "Humanoid": Preset(5_000_000, 5_000, 0.125, 0.0005),
}


def preset(env_id: str | None) -> Preset:
    """The preset of a gymnasium id, whatever its version; :data:`GENERAL` where there is none.

    Example:
        >>> preset("Hopper-v5").temperature
        0.25
    """
    if env_id is None:
        return GENERAL
    name = env_id.rpartition("-v")[0]
    if name in _PRESETS:
        return _PRESETS[name]
    return Preset(**getattr(envs.task_class(env_id), "preset", {}))
