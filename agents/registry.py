"""Agents by name."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym

from maxentflow import envs
from maxentflow.agents.agent import Agent
from maxentflow.agents.names import BUILT_IN, Summary
from maxentflow.agents.settings import AgentConfig
from maxentflow.agents.standardized import standardized

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

__all__ = [
    "config",
    "config_type",
    "make",
    "register",
    "registered",
    "summaries",
    "unknown_name",
]


Build = Callable[..., Agent]


class _Entry(NamedTuple):
    build: Build
    config_type: type[AgentConfig]
    summary: Summary


_AGENTS: dict[str, _Entry] = {}


def register(
    name: str,
    config_type: type[AgentConfig],
    *,
    actions: tuple[str, ...] = ("continuous", "discrete"),
) -> Callable[[Build], Build]:
    """Decorator that adds an agent under ``name``, for :func:`make` and the command line.

    Args:
        name: what to call it.
        config_type: a dataclass of its settings.
        actions: the spaces it acts in, for ``maxentflow agents``, which shows the first line of
            its docstring too.

    Raises:
        ValueError: ``config_type`` does not derive from ``AgentConfig``, or the name is that of an
            agent that comes with the package.

    Example:
        >>> @dataclass
        ... class PlainConfig(MeowConfig):
        ...     heads: int = 1
        >>> @register("plain-meow", PlainConfig)
        ... def plain_meow(env, config, *, device):
        ...     return meow(env, config, device=device)
        >>> _ = _AGENTS.pop("plain-meow")  # this was only an example
    """
    if not issubclass(config_type, AgentConfig):
        raise ValueError(f"Settings of an agent derive from AgentConfig, got {config_type}.")

    def add(build: Build) -> Build:
        package = __name__.rpartition(".")[0]
        if name in BUILT_IN and not build.__module__.startswith(f"{package}."):
            raise ValueError(f"An agent {name!r} comes with the package; choose another name.")
        if name in BUILT_IN:
            build, summary = _complete(build), BUILT_IN[name]
        else:
            about = (build.__doc__ or "").strip().partition("\n")[0].removesuffix(".")
            summary = Summary(actions, about)
        _AGENTS[name] = _Entry(build, config_type, summary)
        return build

    return add


def registered() -> tuple[str, ...]:
    """Names that :func:`make` accepts.

    Example:
        >>> registered()
        ('meow', 'sac', 'flow-sac', 'sql', 'td3', 'ddpg', 'bc', 'soft-q', 'discrete-sac', 'dqn', \
'ppo')
    """
    return tuple(dict.fromkeys((*BUILT_IN, *_AGENTS)))


def summaries() -> dict[str, Summary]:
    """A line about each agent, and the spaces that it acts in.

    Example:
        >>> summaries()["dqn"].actions
        ('discrete',)
    """
    return {**BUILT_IN, **{name: entry.summary for name, entry in _AGENTS.items()}}


def config(name: str, env_id: str | None = None, *, paper: bool = False, **overrides: Any) -> Any:
    """The configuration of an agent for a task, with fields replaced.

    Args:
        name: one of :func:`registered`.
        env_id: the task's gymnasium id.
        paper: begin from the settings of the algorithm's paper, which may be tuned for the task.
        overrides: fields to replace.

    Raises:
        ValueError: an unknown agent, one without settings of a paper, or a field that its
            configuration does not have.

    Example:
        >>> config("meow", "Hopper-v4", paper=True, flow="affine").temperature
        0.25
    """
    kind = config_type(name)
    for_task = getattr(kind, "paper", None) if paper else kind.for_task
    if for_task is None:
        raise ValueError(f"Agent {name!r} has no settings of a paper.")
    defaults = for_task(env_id)
    known = [field.name for field in fields(defaults)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(
            f"Agent {name!r} has no setting {', '.join(map(repr, unknown))}; "
            f"its settings: {', '.join(known)}."
        )
    return replace(defaults, **overrides)


def config_type(name: str) -> type[AgentConfig]:
    """The class of an agent's configuration.

    Raises:
        ValueError: an unknown agent.
    """
    return _registered(name).config_type


def make(
    name: str,
    env: gym.vector.VectorEnv | EnvBase,
    *,
    device: str = "cpu",
    paper: bool = False,
    **overrides: Any,
) -> Agent:
    """Build an agent by name for an environment, with the task's defaults.

    Args:
        name: one of :func:`registered`.
        env: a vector environment of :func:`maxentflow.envs.make`, or one of TorchRL, such as of
            :func:`maxentflow.envs.make_batched`.
        device: where its networks are.
        paper: begin from the settings of the algorithm's paper, see :func:`config`.
        overrides: fields of the agent's configuration to replace.

    Raises:
        ValueError: an unknown agent or field, a value out of range, or an environment that the
            agent cannot act in.

    Example:
        >>> from maxentflow import envs
        >>> agent = make("meow", envs.make("Pendulum-v1"), flow="affine", temperature=0.1)
        >>> agent.config.flow
        'affine'
    """
    resolved = config(name, envs.task_id(env), paper=paper, **overrides)
    known: Any = env if isinstance(env, gym.vector.VectorEnv) else envs.spaces(env)
    agent = _registered(name).build(known, resolved, device=device)
    return _as_asked(agent, resolved, known)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The refusal of a name, with those that are known and its near matches."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"Unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")


def _complete(build: Build) -> Build:
    """A builder that users call as a function, without :func:`make`."""

    @functools.wraps(build)
    def complete(env: Any, *arguments: Any, **options: Any) -> Agent:
        agent = build(env, *arguments, **options)
        return _as_asked(agent, agent.config, env)

    return complete


def _as_asked(agent: Agent, config: AgentConfig, env: Any) -> Agent:
    """With observations standardised, where the settings ask for it and the algorithm does not."""
    if config.normalize_observations and not config.standardizes:
        return standardized(agent, env.single_observation_space)
    return agent


def _registered(name: str) -> _Entry:
    if name in BUILT_IN and name not in _AGENTS:  # imported when it is asked for
        importlib.import_module(f"maxentflow.agents.{name.replace('-', '_')}")
    if name not in _AGENTS:
        raise unknown_name("agent", name, registered())
    return _AGENTS[name]
