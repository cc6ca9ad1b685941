"""Which flow an agent uses, with the same options in every agent that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

import gymnasium as gym
import tyro
from torch import nn

from maxentflow import envs, flows
from maxentflow.agents.presets import preset
from maxentflow.agents.settings import AgentConfig

__all__ = ["FlowConfig", "actor_flow", "check_image", "recipe_options", "without_dropout"]


def _one_of(names: Callable[[], Iterable[str]]) -> Any:
    """Lists the names in the help of the command line, those registered up to then."""
    return tyro.conf.arg(
        help_behavior_hint=lambda default: f"({', '.join(names())}) (default: {default})"
    )


def _bases() -> Iterable[str]:
    return flows.registry.BASES


def _squashes() -> Iterable[str]:
    return flows.registry.SQUASHES


@dataclass
class FlowConfig(AgentConfig):
    """Settings of a flow."""

    flow: Annotated[str, _one_of(flows.registered)] = "additive"
    """Architecture."""
    flow_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Options of the architecture by name and value, such as blocks 3 or hidden 128,128; see
    flows.options()."""
    base: Annotated[str, _one_of(_bases)] = "normal"
    """Base distribution."""
    squash: Annotated[str, _one_of(_squashes)] = "tanh"
    """Last layer: tanh for actions in [-1, 1], simplex for shares of a whole."""

    @classmethod
    def for_task(cls, env_id: str | None) -> Self:
        """The usual settings, with the task's discount and squash."""
        return replace(super().for_task(env_id), squash=preset(env_id).squash)


def recipe_options(config: FlowConfig) -> dict[str, Any]:
    """Options of the recipe and nothing else, with sizes such as "128,128" as tuples.

    Raises:
        ValueError: an unknown flow or option.
    """
    known = flows.options(config.flow)
    options = {
        name: _sizes(value) if isinstance(known.get(name), tuple) else value
        for name, value in config.flow_options.items()
    }
    flows.registry.check_options(config.flow, options)
    return options


def actor_flow(
    config: FlowConfig,
    action_dim: int,
    obs_dim: int,
    hidden: Sequence[int],
    encoder: nn.Module | None,
) -> flows.EnergyBasedFlow:
    """A flow that is a policy and nothing else, with a mean and a scale of its own; without
    dropout, unless the options of the architecture ask for it."""
    networks = {"hidden": hidden, "init": "near_zero"}
    return flows.build(
        config.flow,
        action_dim,
        obs_dim,
        temperature=1.0,
        heads=0,
        log_sigma=(-5.0, 1.0),
        scale={**networks, "initial": 0.0},
        translation=networks,
        base=config.base,
        squash=config.squash,
        encoder=encoder,
        **{**without_dropout(config.flow), **recipe_options(config)},
    )


def without_dropout(flow: str) -> dict[str, Any]:
    """The option that turns dropout off, where an architecture has it."""
    return {"dropout": 0.0} if "dropout" in flows.options(flow) else {}


def _sizes(value: object) -> object:
    try:
        return tuple(int(part) for part in str(value).split(","))
    except ValueError:
        return value  # not as a command line writes them


def check_image(config: FlowConfig, env: gym.vector.VectorEnv, agent: str) -> None:
    """Refuse a flow whose actions are not those that an environment takes.

    Raises:
        ValueError: the squash, or none, does not end at the bounds of the action space.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Box):
        return  # refused with the sizes
    if isinstance(space, envs.Simplex) or config.squash == "simplex":
        if not (isinstance(space, envs.Simplex) and config.squash == "simplex"):
            raise ValueError(
                f"A flow with squash='simplex' acts in a maxentflow.envs.Simplex, and no other "
                f"flow does; got squash={config.squash!r}, and the environment of agent "
                f"{agent!r} takes {space}."
            )
        return
    bounds = float(space.low.min()), float(space.high.max())
    if config.squash == "none" and config.base != "uniform":
        image = (-float("inf"), float("inf"))
    else:
        image = (-1.0, 1.0)
    if config.squash in flows.registry.SQUASHES and image != bounds:
        raise ValueError(
            f"A flow with squash={config.squash!r} acts in [{image[0]:g}, {image[1]:g}], the "
            f"environment of agent {agent!r} takes {space}."
        )
