"""Environments as a training loop sees them: tensors in, tensors out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Unbounded
from torchrl.envs import EnvBase

from maxentflow import envs
from maxentflow.agents.training.episodes import one_each

__all__ = [
    "STEP_LIMIT",
    "Entry",
    "GymnasiumSimulator",
    "Simulator",
    "TorchRLSimulator",
    "check_finite",
    "check_tensor",
    "simulator",
]

STEP_LIMIT = 10_000
"""Steps after which an episode is truncated in tasks that have no time limit of their own."""


class Entry(NamedTuple):
    """Shape, without batch dimensions, and dtype of an observation or an action."""

    shape: torch.Size
    dtype: torch.dtype


class Simulator(Protocol):
    """Environments that are stepped together.

    A step adds ``"next"`` to what it is given: ``"observation"``, the final one where an episode
    ended, ``"reward"``, ``"done"``, ``"terminated"`` and ``"truncated"``, shapes
    ``(num_envs, 1)`` for all but the first. It raises :class:`FloatingPointError` where an
    action, an observation, also the first of an episode, or a reward is not finite.
    """

    num_envs: int
    observation: Entry
    action: Entry
    is_exact: bool
    """Whether :meth:`restore` goes back to the state itself; if not, new episodes begin."""

    def reset(self, seed: int) -> TensorDictBase:
        """The first observations, batch size ``(num_envs,)``."""
        ...

    def random_action(self, observation: TensorDictBase) -> TensorDictBase:
        """Add uniformly random actions to observations."""
        ...

    def send(self, acted: TensorDictBase) -> None:
        """Begin a step, in the background where the environments have processes of their own."""
        ...

    def receive(self) -> tuple[TensorDictBase, TensorDictBase]:
        """End the step: the transitions, and the observations that the next one begins from."""
        ...

    def settle(self) -> None:
        """End a step that was begun, if there is one; what it leads to is lost."""
        ...

    def state(self) -> Any:
        """All that later steps depend on: numbers, strings, lists, tensors."""
        ...

    def restore(self, state: Any) -> TensorDictBase:
        """Go back to a state; give its observations."""
        ...


def simulator(
    env: VectorEnv | EnvBase, device: str = "cpu", max_episode_steps: int | None = None
) -> Simulator:
    """A simulator of gymnasium's vector environments or of a TorchRL environment.

    Args:
        env: the environments.
        device: where its tensors are to be.
        max_episode_steps: truncate episodes after so many steps; in a gymnasium task without a
            time limit of its own, :data:`STEP_LIMIT` by default.

    Raises:
        ValueError: it is neither; it does not reset in the step in which an episode ends; or
            episodes of a TorchRL environment are to be truncated, which its own
            :class:`~torchrl.envs.transforms.StepCounter` does.
    """
    if isinstance(env, EnvBase):
        if max_episode_steps is not None:
            raise ValueError(
                "max_episode_steps is for gymnasium's environments; add TorchRL's StepCounter to "
                "this one."
            )
        return TorchRLSimulator(env, device)
    if isinstance(env, VectorEnv):
        envs.check_vector(env)
        return GymnasiumSimulator(env, device, max_episode_steps)
    raise ValueError(
        f"A vector environment of envs.make or a TorchRL environment is needed, got {env!r}."
    )


class GymnasiumSimulator:
    """See :class:`Simulator`."""

    is_exact = True

    def __init__(self, env: VectorEnv, device: str, max_episode_steps: int | None) -> None:
        self.num_envs = env.num_envs
        self.observation = _entry(env.single_observation_space)
        self.action = _entry(env.single_action_space)
        self._env = env
        self._device = torch.device(device)
        self._pending = False
        self._on_cpu = self._device.type == "cpu"
        own_limit = None if env.spec is None else env.spec.max_episode_steps
        self._limit = max_episode_steps if own_limit else max_episode_steps or STEP_LIMIT
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._acted: TensorDictBase = TensorDict()
        self._action: NDArray[Any] = np.empty(0)

    def reset(self, seed: int) -> TensorDictBase:
        observation, _ = self._env.reset(seed=seed)
        check_finite("observation", observation)
        return self._observed(observation)

    def random_action(self, observation: TensorDictBase) -> TensorDictBase:
        shape = (self.num_envs, *self.action.shape)
        space = self._env.single_action_space
        if type(space) is gym.spaces.Box:  # a space of a kind of its own knows its samples
            low, high = (torch.as_tensor(bound) for bound in (space.low, space.high))
            action = torch.rand(shape).mul_(high - low).add_(low).to(self.action.dtype)
        elif isinstance(space, gym.spaces.Discrete):
            action = torch.randint(int(space.n), shape).add_(int(space.start))
        else:
            space.seed(int(torch.randint(2**31, ())))  # so that a run is a function of its seed
            samples = np.stack([space.sample() for _ in range(self.num_envs)])
            action = torch.as_tensor(samples)
        return observation.set("action", action.to(self._device))

    def send(self, acted: TensorDictBase) -> None:
        self._acted = acted
        self._action = acted["action"].numpy(force=True)
        check_finite("action", self._action)
        if isinstance(self._env, AsyncVectorEnv):
            self._env.step_async(self._action)
            self._pending = True

    def receive(self) -> tuple[TensorDictBase, TensorDictBase]:
        if isinstance(self._env, AsyncVectorEnv):
            self._pending = False
            outcome = self._env.step_wait()
        else:
            outcome = self._env.step(self._action)
        observation, reward, terminated, truncated, info = outcome
        done = terminated | truncated
        final = observation
        if done.any():
            final = observation.copy()
            final[done] = np.stack(list(info["final_obs"][done]))
        with np.errstate(over="ignore"):  # it is told as infinite
            reward = reward.astype(np.float32)
        check_finite("observation", final)
        check_finite("reward", reward)
        if self._limit is not None:
            self._lengths += 1
            cut = (self._lengths >= self._limit) & ~done
            if cut.any():
                truncated, done = truncated | cut, done | cut
                observation, _ = self._env.reset(options={"reset_mask": cut})
            self._lengths[done] = 0
        if observation is not final:  # an episode has begun
            check_finite("observation", observation)
        following = {
            "observation": self._tensor(final),
            "reward": self._tensor(reward[:, None]),
            "done": self._tensor(done[:, None]),
            "terminated": self._tensor(terminated[:, None]),
            "truncated": self._tensor(truncated[:, None]),
        }
        transitions = self._acted.set("next", TensorDict(following, [self.num_envs]))
        return transitions, self._observed(observation)

    def settle(self) -> None:
        if isinstance(self._env, AsyncVectorEnv) and self._pending:
            self._pending = False
            self._env.step_wait()

    def state(self) -> dict[str, Any]:
        ended = self._env.closed  # workers are, after an exception in one of them
        states = None if ended else envs.states(self._env)
        return {"environments": states, "lengths": self._lengths.tolist()}

    def restore(self, state: dict[str, Any]) -> TensorDictBase:
        if state["environments"] is None:
            raise ValueError("The state of the environments was lost with their workers.")
        observation = envs.restore(self._env, state["environments"])
        self._lengths[:] = one_each(state["lengths"], self._lengths)
        return self._observed(observation)

    def _observed(self, observation: NDArray[Any]) -> TensorDictBase:
        return TensorDict({"observation": self._tensor(observation)}, [self.num_envs])

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self._device)


class TorchRLSimulator:
    """See :class:`Simulator`. Tensors stay on the environment's device if that is the agent's."""

    is_exact = False

    def __init__(self, env: EnvBase, device: str) -> None:
        self.num_envs = env.batch_size.numel()
        spec = env.observation_spec["observation"]
        batch = len(env.batch_size)
        self.observation = Entry(spec.shape[batch:], spec.dtype)
        self.action = Entry(env.action_spec.shape[batch:], env.action_spec.dtype)
        self._env = env
        self._device = torch.device(device)
        self._acted: TensorDictBase = TensorDict()
        self._present: TensorDictBase = TensorDict()
        self._seed, self._steps = 0, 0

    def reset(self, seed: int) -> TensorDictBase:
        self._env.set_seed(seed)
        self._seed, self._present = seed, self._env.reset()
        check_tensor("observation", self._present["observation"])
        return self._shown(self._present)

    def random_action(self, observation: TensorDictBase) -> TensorDictBase:
        if isinstance(self._env.action_spec, Unbounded):  # see envs.spaces
            action = torch.rand(self._env.action_spec.shape).mul_(2.0).sub_(1.0)
        else:
            action = self._env.rand_action(self._present.clone(recurse=False))["action"]
        return observation.set(
            "action", action.reshape(self.num_envs, *self.action.shape).to(self._device)
        )

    def send(self, acted: TensorDictBase) -> None:
        self._acted = acted

    def receive(self) -> tuple[TensorDictBase, TensorDictBase]:
        env, acted = self._env, self._acted
        check_tensor("action", acted["action"])
        action = acted["action"].to(env.device).reshape(env.action_spec.shape)
        self._steps += 1
        stepped, following = env.step_and_maybe_reset(self._present.set("action", action))
        self._present = following
        nexts = stepped["next"]
        check_tensor("observation", nexts["observation"])
        check_tensor("reward", nexts["reward"])
        if following["observation"] is not nexts["observation"]:  # an episode has begun
            check_tensor("observation", following["observation"])
        zeros = torch.zeros_like(nexts["done"])
        keys = ("observation", "reward", "done", "terminated", "truncated")
        entries = {key: nexts.get(key, zeros) for key in keys}
        entries["terminated"] = nexts.get("terminated", nexts["done"])
        shown = TensorDict(entries, env.batch_size).reshape(self.num_envs).to(self._device)
        return acted.set("next", shown), self._shown(following)

    def settle(self) -> None:
        """Steps are taken at once."""

    def state(self) -> Any:
        return {"seed": self._seed, "steps": self._steps}

    def restore(self, state: Any) -> TensorDictBase:
        self._steps = state["steps"]
        # Episodes that have not been there: seeds of a run of another length are far away.
        observation = self.reset((state["seed"] + 1_000_003 * (1 + self._steps)) % 2**31)
        self._seed = state["seed"]
        return observation

    def _shown(self, data: TensorDictBase) -> TensorDictBase:
        shown = data.select("observation").reshape(self.num_envs)
        return shown.to(self._device)


def _entry(space: gym.Space[Any]) -> Entry:
    if space.shape is None or space.dtype is None:
        raise ValueError(f"A space of numbers is needed, got {space}.")
    return Entry(torch.Size(space.shape), torch.from_numpy(np.empty(0, space.dtype)).dtype)


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Raise :class:`FloatingPointError` with a name where a number is not finite."""
    if array.dtype.kind != "f" or math.isfinite(np.vdot(array, array)):
        return  # the cheapest sum in which what is not finite shows; it may overflow
    wrong = array[~np.isfinite(array)]
    if len(wrong):
        raise FloatingPointError(f"{name} is {wrong[0]}")


def check_tensor(name: str, tensor: Tensor) -> None:
    """:func:`check_finite` of a tensor, on any device."""
    if tensor.is_floating_point():
        finite = tensor.isfinite()
        if not finite.all():
            raise FloatingPointError(f"{name} is {tensor[~finite][0].item()}")
