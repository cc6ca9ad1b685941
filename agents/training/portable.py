"""A policy as a function of tensors that draws no random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow.agents.agent import Agent
from maxentflow.envs.tasks import create

__all__ = ["Noise", "PortablePolicy", "own_space"]


@dataclass(frozen=True)
class Noise:
    """Random numbers that an exported policy takes, in place of drawing them.

    Attributes:
        name: of the input.
        distribution: standard normal, or uniform in [0, 1).
        shape: for one observation.
    """

    name: str
    distribution: Literal["normal", "uniform"]
    shape: tuple[int, ...]

    def draw(self, rows: int) -> Tensor:
        """Numbers for several observations, of torch's generator."""
        function = torch.randn if self.distribution == "normal" else torch.rand
        return function(rows, *self.shape)


class PortablePolicy(nn.Module):
    """A policy as a function of observations and random numbers, with actions in the units of its
    task.

    Args:
        agent: whose policy it is.
        env: a vector environment such as it was trained in.
        stochastic: sample actions instead of taking the mode.
    """

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent, env: VectorEnv, stochastic: bool) -> None:
        super().__init__()
        self.policy = agent.policy
        self._kind = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
        own: Any = own_space(env)
        unit = env.single_action_space
        self._start = int(own.start) if isinstance(own, gym.spaces.Discrete) else 0
        self._is_rescaled = isinstance(own, gym.spaces.Box) and own != unit
        bounds: Any = (own.low, own.high) if self._is_rescaled else (-1.0, 1.0)
        self.register_buffer("low", torch.as_tensor(bounds[0], dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(bounds[1], dtype=torch.float32))

    def noise(self, observation: Tensor) -> list[Noise]:
        """The random numbers that it draws for some observations."""
        with _Noted(len(observation)) as noted:
            self._act(observation)
        drawn = noted.drawn
        names = ["noise"] if len(drawn) == 1 else [f"noise_{i}" for i in range(len(drawn))]
        return [Noise(name, *each) for name, each in zip(names, drawn, strict=True)]

    def forward(self, observation: Tensor, *noise: Tensor) -> Tensor:
        with _Given(noise):
            action = self._act(observation).detach()
        if self._is_rescaled:
            share = (action + 1.0) / 2.0
            return torch.clamp(self.low + (self.high - self.low) * share, self.low, self.high)
        return action + self._start if self._start else action

    def _act(self, observation: Tensor) -> Tensor:
        with set_exploration_type(self._kind):
            given = TensorDict(observation=observation, batch_size=observation.shape[:1])
            return self.policy(given)["action"]


_Draw = tuple[Literal["normal", "uniform"], tuple[int, ...]]


class _Noted(TorchFunctionMode):
    """Notes the random numbers that are drawn, a row for each observation."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.drawn: list[_Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _NORMAL:
            self.drawn.append(("normal", tuple(result.shape[1:])))
        elif func in _UNIFORM:
            self.drawn.append(("uniform", tuple(result.shape[1:])))
        elif func in _INDICES:
            self.drawn.append(("uniform", (1,)))
        else:
            return result
        if len(result) != self._rows:
            raise ValueError(
                "The policy cannot be exported: it draws random numbers that are not one row for "
                "each observation."
            )
        return result


class _Given(TorchFunctionMode):
    """Gives random numbers that are there in place of drawing them."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._noise = iter(noise)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.normal:
            mean, deviation = args[:2]
            return mean + deviation * next(self._noise)
        if func in _NORMAL or func in _UNIFORM:
            return next(self._noise)
        if func in _INDICES:  # the inverse of the distribution function
            weights = args[0]
            below = weights.cumsum(-1) <= next(self._noise) * weights.sum(-1, keepdim=True)
            index = below.sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
            return index if weights.ndim > 1 else index.squeeze(-1)
        return func(*args, **(kwargs or {}))


_NORMAL = {torch.randn, torch.randn_like, torch.normal, Tensor.normal_}
_UNIFORM = {torch.rand, torch.rand_like, Tensor.uniform_}
_INDICES = {torch.multinomial, Tensor.multinomial}


def own_space(env: VectorEnv) -> gym.Space[Any]:
    """The action space of a task as gymnasium makes it."""
    recipe = getattr(env, "recipe", None)
    if recipe is None:
        return env.single_action_space
    if isinstance(recipe.task, gym.Env):
        return recipe.task.action_space
    own = create(recipe.task, recipe.options)
    own.close()
    return own.action_space
