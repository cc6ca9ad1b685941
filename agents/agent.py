"""An agent as data, and agents by name."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import LossModule
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.learner import Actor, Learner, total_loss
from maxentflow.agents.weight_average import WeightAverage

__all__ = [
    "Agent",
    "AgentConfig",
    "CompilationError",
    "check_common",
    "check_positive",
    "compiler_complaints",
    "config",
    "make",
    "register",
    "registered",
    "space_sizes",
    "unknown_name",
]


class AgentConfig(Protocol):
    """What every agent's configuration has: a dataclass with defaults for a task."""

    gamma: float
    tau: float
    max_grad_norm: float | None
    average_decay: float

    @classmethod
    def for_task(cls, env_id: str | None) -> Any:
        """The defaults for a gymnasium id."""
        ...


class CompilationError(RuntimeError):
    """An agent's loss could not be compiled."""


@dataclass
class Agent:
    """The parts of a learning agent; any TorchRL collector or trainer can drive them.

    Attributes:
        name: the algorithm's registered name.
        policy: what is evaluated and used; reads ``"observation"``, writes ``"action"`` and
            ``"action_log_prob"``. With an ``average_decay`` it is a copy of the policy given
            here, whose weights are the running average of that one's, see
            :class:`~maxentflow.agents.weight_average.WeightAverage`.
        loss: a TorchRL loss; what it returns under names that begin with ``loss`` is summed.
        optimizer: over the loss's parameters.
        target_updater: called after each optimiser step.
        config: the dataclass that the agent was made from.
        average_decay: fraction of the average that stays in an update; 0 for no average.
        behavior: what acts in training, the policy with the newest weights.

    Raises:
        ValueError: ``average_decay`` is outside [0, 1).
    """

    name: str
    policy: TensorDictModuleBase
    loss: LossModule
    optimizer: torch.optim.Optimizer
    target_updater: TargetNetUpdater
    config: Any
    average_decay: float = 0.0
    behavior: TensorDictModuleBase = field(init=False)
    average: WeightAverage | None = field(default=None, init=False, repr=False, compare=False)
    _finite: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _compiled: dict[tuple[torch.Size, bool], Learner] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _compiled_act: dict[torch.Size, Actor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self.behavior = self.policy
        if self.average_decay != 0:
            self.average = WeightAverage(self.policy, self.average_decay)
            self.policy = self.average.module

    def compile(self, batch: TensorDictBase, observation: Tensor | None = None) -> None:
        """Compile the update, and acting, for tensors of these shapes and the loss's present mode.

        Takes about half a minute, seconds where torch has it in its cache. Changes nothing else:
        no parameter, no random number and not the batch. Updates and actions then agree with
        uncompiled ones to rounding; those of other shapes stay uncompiled. Step sizes may change
        later; other settings of the optimiser and buffers of the loss, such as its discount, may
        too, updates then go on uncompiled; for what else is changed, compile anew.

        Args:
            batch: transitions such as :meth:`update` is going to be given.
            observation: observations such as :meth:`act` is going to be given; ``None`` to leave
                acting as it is.

        Raises:
            CompilationError: there is no C++ compiler, or a part of the agent cannot be compiled;
                updates then go on as before.
        """
        devices = {p.device for p in self.loss.parameters() if p.device.type != "cpu"}
        with torch.random.fork_rng(list(devices)), compiler_complaints(self.name):
            learner = Learner(self, batch.clone())
            learner.compile(batch.clone())
            if observation is not None:
                actor = Actor(self, observation)
                actor.compile(observation)
        self._compiled[batch.shape, self.loss.training] = learner
        if observation is not None:
            self._compiled_act[observation.shape] = actor

    def act(self, observation: Tensor) -> Tensor:
        """Actions to explore with, shape ``(*batch, action_dim)``, compiled where they can be."""
        actor = self._compiled_act.get(observation.shape)
        if actor is None or not actor.takes(observation):
            return self.explore(observation)
        return actor(observation)

    @torch.no_grad()
    def explore(self, observation: Tensor) -> Tensor:
        """Samples of the behaviour, shape ``(*batch, action_dim)``."""
        batch = TensorDict({"observation": observation}, observation.shape[:-1])
        with set_exploration_type(ExplorationType.RANDOM):
            return self.behavior(batch)["action"]

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """One step of gradient descent, target and average, from a batch of transitions.

        Returns:
            What the loss reports, detached.

        Raises:
            FloatingPointError: the loss is not finite; parameters are then as they were. Compiled
                for a GPU, which is not waited for, :meth:`check` raises it later.
        """
        learner = self._compiled.get((batch.shape, self.loss.training))
        if learner is not None and learner.is_current() and learner.takes(batch):
            report = learner(batch)
            self.note(report)
            return report
        report = self._differentiate(batch)
        _check_finite(total_loss(report.items()))
        if self.config.max_grad_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            clip_grad_norm_(parameters, self.config.max_grad_norm, foreach=True)
        self.optimizer.step()
        self.target_updater.step()
        if self.average is not None:
            self.average.step()
        return report

    def note(self, report: TensorDictBase) -> None:
        """Look at the loss of an update that changes nothing where that is not finite.

        Raises:
            FloatingPointError: it is not; on a GPU, which is not waited for, :meth:`check` raises.
        """
        total = total_loss(report.items())
        if total.is_cuda:
            finite = total.isfinite()
            self._finite = finite if self._finite is None else self._finite & finite
        else:
            _check_finite(total)

    def check(self) -> None:
        """Look whether every loss on a GPU was finite since this was last asked.

        Raises:
            FloatingPointError: one was not; that update has changed nothing.
        """
        finite, self._finite = self._finite, None
        if finite is not None and not finite:
            raise FloatingPointError("loss is not finite")

    def _differentiate(self, batch: TensorDictBase) -> TensorDictBase:
        """Set the gradients to those of the loss, and return its report."""
        report = self.loss(batch)
        if isinstance(self.optimizer, FlatAdam):
            self.optimizer.backward(total_loss(report.items()))
        else:
            self.optimizer.zero_grad()
            total_loss(report.items()).backward()
        for key, entry in list(batch.items(True, True)):
            if entry.requires_grad:
                batch.set(key, entry.detach())  # SAC's loss notes its actor's loc and scale there
        return report.detach()


def _check_finite(total: Tensor) -> None:
    if not math.isfinite(total.item()):
        raise FloatingPointError(f"loss is {total.item()}")


@contextmanager
def compiler_complaints(name: str) -> Iterator[None]:
    """A context that turns what tracing and compiling complain of into one sentence.

    Raises:
        CompilationError: what is done in it failed.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"tensordict|torch")
            yield
    except Exception as error:  # a mistake of the loss itself shows again where it is not compiled
        cause = getattr(error, "inner_exception", error)
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise CompilationError(f"The update of {name} was not compiled: {reason}.") from error


_AGENTS: dict[str, tuple[Callable[..., Agent], type[AgentConfig]]] = {}


def register(
    name: str, config_type: type[AgentConfig]
) -> Callable[[Callable[..., Agent]], Callable[..., Agent]]:
    """Decorator that adds an agent under ``name``, for :func:`make` and the command line.

    Args:
        name: what to call it.
        config_type: a dataclass of its settings with ``for_task``, see :class:`AgentConfig`.

    Example:
        >>> @dataclass
        ... class HotConfig(MeowConfig):
        ...     temperature: float = 10.0
        >>> @register("hot-meow", HotConfig)
        ... def hot_meow(env, config, *, device):
        ...     return meow(env, config, device=device)
        >>> _ = _AGENTS.pop("hot-meow")  # this was only an example
    """

    def add(build: Callable[..., Agent]) -> Callable[..., Agent]:
        _AGENTS[name] = build, config_type
        return build

    return add


def registered() -> tuple[str, ...]:
    """Names that :func:`make` accepts.

    Example:
        >>> registered()
        ('meow', 'sac')
    """
    return tuple(_AGENTS)


def config(name: str, env_id: str | None = None, **overrides: Any) -> Any:
    """The configuration of an agent for a task, with fields replaced.

    Raises:
        ValueError: an unknown agent, or a field that its configuration does not have.

    Example:
        >>> config("meow", "Hopper-v4", flow="affine").temperature
        0.25
    """
    if name not in _AGENTS:
        raise unknown_name("agent", name, _AGENTS)
    defaults = _AGENTS[name][1].for_task(env_id)
    unknown = sorted(set(overrides) - set(vars(defaults)))
    if unknown:
        raise ValueError(
            f"Agent {name!r} has no setting {', '.join(map(repr, unknown))}; "
            f"its settings: {', '.join(vars(defaults))}."
        )
    return replace(defaults, **overrides)


def make(name: str, env: gym.vector.VectorEnv, *, device: str = "cpu", **overrides: Any) -> Agent:
    """Build an agent by name for an environment, with the task's defaults.

    Args:
        name: one of :func:`registered`.
        env: a vector environment of :func:`maxentflow.envs.make`.
        device: where its networks are.
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
    spec = env.spec
    resolved = config(name, None if spec is None else spec.id, **overrides)
    return _AGENTS[name][0](env, resolved, device=device)


def check_positive(**settings: float | None) -> None:
    """Refuse settings that are not positive and finite; ``None`` passes.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in settings.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_common(settings: AgentConfig) -> None:
    """Refuse a discount, a target step, a gradient norm or an average out of range.

    Raises:
        ValueError: naming the first that is.
    """
    if not 0 <= settings.gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {settings.gamma}.")
    if not 0 < settings.tau <= 1:
        raise ValueError(f"tau must be in (0, 1], got {settings.tau}.")
    if not 0 <= settings.average_decay < 1:
        raise ValueError(f"average_decay must be in [0, 1), got {settings.average_decay}.")
    check_positive(max_grad_norm=settings.max_grad_norm)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The refusal of a name, with those that are known and its near matches."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"Unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")


def space_sizes(env: gym.vector.VectorEnv, agent: str) -> tuple[int, int]:
    """Sizes of the observation and of a continuous action.

    Raises:
        ValueError: the action space is not a one-dimensional box; the message names what is.
    """
    space = env.single_action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"Agent {agent!r} needs a one-dimensional continuous action space, got {space}."
        )
    shape = env.single_observation_space.shape
    assert shape is not None
    return shape[0], space.shape[0]
