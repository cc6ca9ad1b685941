"""What the paper tunes per task (Chao et al. 2024, arXiv:2405.13629, table A1).

It says nothing of when MultiGoal's episodes of training are cut; see benchmarks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

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


GENERAL = Preset()
"""For tasks that the paper does not tune."""

_PRESETS = {
    "Hopper": Preset(1_500_000, 5_000, 0.25, 0.005),
    "HalfCheetah": Preset(1_500_000, 10_000, 0.25, 0.003, log_sigma=(-5.0, 2.0)),
    "Walker2d": Preset(4_000_000, 10_000, 0.1, 0.005),
    "Ant": Preset(4_000_000, 5_000, 0.05, 0.0001),
    "Humanoid": Preset(5_000_000, 5_000, 0.125, 0.0005),
    "maxentflow/MultiGoal": Preset(
        4_000, 1_000, 2.5, 0.0005, gamma=0.9, log_sigma=(-2.0, 1.0), max_episode_steps=40
    ),
}


def preset(env_id: str | None) -> Preset:
    """The preset of a gymnasium id, whatever its version; :data:`GENERAL` for any other.

    Example:
        >>> preset("Hopper-v5").temperature
        0.25
    """
    return _PRESETS.get((env_id or "").rpartition("-v")[0], GENERAL)
