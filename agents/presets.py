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
    num_envs: int = 1
    """Copies. With several, the replay holds 15,000 steps of each and one update follows a step of
    all; the paper's configuration standardises observations then."""


GENERAL = Preset()
"""For tasks without any of their own."""

_LONG = 10_000_000
_QUADRUPED = Preset(_LONG, 5_000, 0.00075, 0.025, log_sigma=(-5.0, -1.0), num_envs=128)
_PRESETS = {
    "Hopper": Preset(1_500_000, 5_000, 0.25, 0.005),
    "HalfCheetah": Preset(1_500_000, 10_000, 0.25, 0.003, log_sigma=(-5.0, 2.0)),
    "Walker2d": Preset(4_000_000, 10_000, 0.1, 0.005),
    "Ant": Preset(4_000_000, 5_000, 0.05, 0.0001),
    "Humanoid": Preset(5_000_000, 5_000, 0.125, 0.0005),
    # The paper's robots in Isaac Gym, as the nearest task that is kept up; lengths are ours.
    "torchrl:Brax/ant": Preset(_LONG, 5_000, 0.075, 0.0005, log_sigma=(-5.0, 2.0), num_envs=128),
    "torchrl:Brax/humanoid": Preset(_LONG, 5_000, 0.25, 0.00025, num_envs=128),
    "torchrl:MJLab/Mjlab-Velocity-Flat-Unitree-Go1": _QUADRUPED,
    "torchrl:MJLab/Mjlab-Velocity-Rough-Unitree-Go1": _QUADRUPED,
    "torchrl:MujocoPlayground/LeapCubeReorient": Preset(
        _LONG, 5_000, 0.1, 0.001, log_sigma=(-4.0, -0.3), num_envs=512
    ),
    "torchrl:MujocoPlayground/PandaOpenCabinet": Preset(_LONG, 5_000, 0.075, 0.01, num_envs=512),
}


def preset(env_id: str | None) -> Preset:
    """The preset of a task by its id, whatever its version; :data:`GENERAL` where there is none.

    Example:
        >>> preset("Hopper-v5").temperature
        0.25
    """
    if env_id is None:
        return GENERAL
    name = env_id if ":" in env_id else env_id.rpartition("-v")[0]
    if name in _PRESETS:
        return _PRESETS[name]
    return Preset(**getattr(envs.task_class(env_id), "preset", {}))
