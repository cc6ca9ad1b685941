"""The entropy's weight, with the same options in every agent: fixed, learned or scheduled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrl.objectives import LossModule

from maxentflow import flows
from maxentflow.agents.agent import HasState, Step
from maxentflow.agents.settings import AgentConfig, Count, Finite, Positive, Temperature

__all__ = ["TemperatureConfig", "dual_step", "follow_schedule", "temperature"]


@dataclass
class TemperatureConfig(AgentConfig):
    """Settings of the entropy's weight alpha.

    It is learned towards ``target_entropy`` if there is one, goes to ``final_temperature`` if
    there is one, and stays otherwise.
    """

    temperature: Temperature = 0.2
    """Entropy weight alpha, in units of reward; at first, where it is learned or scheduled."""
    target_entropy: Finite | None = None
    """Entropy of each entry of the action, in nats, that the temperature is learned towards; None
    for a temperature that is not learned."""
    temperature_learning_rate: Positive = 1e-3
    """Learning rate of the temperature's logarithm."""
    final_temperature: Temperature | None = None
    """Temperature at the end of a schedule, in equal ratios; None for no schedule."""
    temperature_steps: Count = 100_000
    """Environment steps of that schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_entropy is not None and self.final_temperature is not None:
            raise ValueError(
                "A temperature is learned or scheduled: final_temperature "
                f"{self.final_temperature} needs target_entropy None, got {self.target_entropy}."
            )


def temperature(config: TemperatureConfig) -> float | flows.Temperature:
    """The temperature of a flow or an energy model, as its settings say."""
    if config.target_entropy is not None:
        return flows.LearnedTemperature(config.temperature)
    return _schedule(config) or config.temperature


def follow_schedule(loss: LossModule, config: TemperatureConfig) -> dict[str, HasState]:
    """Have a loss of TorchRL that was made with ``fixed_alpha`` follow the schedule.

    Returns:
        The schedule, for the agent's state; nothing where there is none.
    """
    schedule = _schedule(config)
    if schedule is None:
        return {}
    loss.log_alpha = schedule.log_alpha.to(loss.log_alpha)
    schedule.log_alpha = loss.log_alpha
    return {"temperature": schedule}


def dual_step(log_alpha: torch.Tensor, config: TemperatureConfig) -> list[Step]:
    """The descent of a learned temperature; nothing where it is not learned."""
    if config.target_entropy is None:
        return []
    rate = config.temperature_learning_rate
    return [Step(("loss_alpha",), torch.optim.Adam([log_alpha], lr=rate, fused=True))]


def _schedule(config: TemperatureConfig) -> flows.ScheduledTemperature | None:
    if config.final_temperature is None:
        return None
    return flows.ScheduledTemperature(
        config.temperature, config.final_temperature, steps=config.temperature_steps
    )
