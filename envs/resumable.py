"""Save the state of environments, and return to it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from maxentflow.envs.snapshots import count_steps, savable

__all__ = ["Resumable", "is_resumable", "restore", "states"]


class Resumable(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Records what is needed to return to the present step of an environment.

    That is the random generator as it was when the episode began, and the actions since:
    restoring repeats the episode. It is exact for environments whose only source of chance is
    gymnasium's ``np_random`` and that carry nothing else from one episode to the next, as
    gymnasium's own and those of this package. Memory is bounded however long an episode is:

    ============================================  ==========================  ====================
    environment                                   actions kept                longer episodes
    ============================================  ==========================  ====================
    gymnasium's MuJoCo tasks; environments with   1,000, from a saved state   go on, from the next
    :class:`~maxentflow.envs.Savable`'s methods   of the simulator            saved state
    others                                        100,000                     cannot be saved
    ============================================  ==========================  ====================

    Args:
        env: the environment.
        seed: seed of the first reset, where that does not bring one.
        max_actions: how many actions are kept, at least 1; by default as in the table.

    Raises:
        ValueError: ``max_actions`` is below 1.

    Example:
        >>> env = Resumable(gym.make("maxentflow/MultiGoal-v0"))
        >>> _ = env.reset(seed=0)
        >>> _ = env.step(np.array([0.5, 0.0]))
        >>> state = env.state()
        >>> first = env.step(np.array([0.0, 0.5]))[0]
        >>> other = Resumable(gym.make("maxentflow/MultiGoal-v0"))
        >>> _ = other.restore(state)
        >>> bool((other.step(np.array([0.0, 0.5]))[0] == first).all())
        True
    """

    def __init__(
        self, env: gym.Env[Any, Any], seed: int | None = None, max_actions: int | None = None
    ) -> None:
        gym.Wrapper.__init__(self, env)
        # Without the seed: environments made from this one's spec have seeds of their own.
        gym.utils.RecordConstructorArgs.__init__(self, max_actions=max_actions)
        if max_actions is not None and max_actions < 1:
            raise ValueError(f"max_actions must be at least 1, got {max_actions}.")
        self._seed = seed
        self._simulator = savable(env)
        default = 100_000 if self._simulator is None else 1_000
        self._max_actions = default if max_actions is None else max_actions
        space = env.action_space
        self._is_array = space.shape is not None and space.dtype is not None
        self._dtype = space.dtype
        self._start: dict[str, Any] | None = None
        self._anchor: dict[str, Any] | None = None
        self._actions: NDArray[Any] = np.empty((0, *(space.shape or ())), self._dtype)
        self._kept = 0
        self._is_saved = self._is_array

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As any environment's; with an option ``"restore"``, a state, return to that."""
        if options is not None and "restore" in options:
            return self.restore(options["restore"]), {}
        if self._start is None and seed is None:
            seed = self._seed
        generator = None if seed is not None else self._generator()
        self._start = {"seed": seed, "generator": generator, "options": options}
        self._anchor = None
        self._kept = 0
        self._is_saved = self._is_array
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if not self._is_array:
            return _own(self.env.step(action))
        # In the precision in which it is kept; an index is a scalar, which can be a key.
        action = np.asarray(action, dtype=self._dtype)[()]
        if self._is_saved and self._kept == len(self._actions):
            self._make_room()
        if self._is_saved:
            self._actions[self._kept] = action
        outcome = _own(self.env.step(action))
        self._kept += self._is_saved
        return outcome

    def _make_room(self) -> None:
        if self._kept < self._max_actions:
            capacity = min(max(64, 2 * self._kept), self._max_actions)
            grown = np.empty((capacity, *self._actions.shape[1:]), self._dtype)
            grown[: self._kept] = self._actions
            self._actions = grown
        elif self._simulator is not None:
            before = 0 if self._anchor is None else self._anchor["steps"]
            self._anchor = {
                "steps": before + self._kept,
                "simulator": self._simulator.state_dict(),
                "generator": self._generator(),
            }
            self._kept = 0
        else:
            self._is_saved = False
            self._actions = self._actions[:0].copy()
            self._kept = 0

    def state(self) -> dict[str, Any]:
        """How the episode began and its actions: numbers, strings, lists and dictionaries.

        Raises:
            RuntimeError: before the first reset.
            ValueError: the episode is too long to be saved, see the table above; or actions are
                no arrays.
        """
        if self._start is None:
            raise RuntimeError("The environment has no state before its first reset.")
        if not self._is_array:
            raise ValueError(f"Actions in {self.action_space} cannot be saved.")
        if not self._is_saved:
            raise ValueError(
                f"An episode of more than {self._max_actions:,} steps cannot be saved; give the "
                "task a time limit."
            )
        actions = self._actions[: self._kept].tolist()
        return {**self._start, "anchor": self._anchor, "actions": actions}

    def restore(self, state: dict[str, Any]) -> Any:
        """Return to a state taken by :meth:`state`, here or in another process.

        Returns:
            The observation at that state.

        Raises:
            ValueError: it is the state of another environment, whose simulator can be saved.
        """
        anchor = state["anchor"]
        if anchor is not None and self._simulator is None:
            raise ValueError("The state is one of another environment.")
        if state["generator"] is not None:
            self._set_generator(state["generator"])
        self._seed = None  # a first reset, which it was for, is not to come any more
        observation, _ = self.reset(seed=state["seed"], options=state["options"])
        if anchor is not None and self._simulator is not None:
            self._simulator.load_state_dict(anchor["simulator"])
            self._set_generator(anchor["generator"])
            count_steps(self.env, anchor["steps"])
            self._anchor = anchor
        for action in state["actions"]:
            observation = self.step(action)[0]
        return observation

    def _generator(self) -> dict[str, Any]:
        return self.unwrapped.np_random.bit_generator.state  # type: ignore[return-value]

    def _set_generator(self, state: dict[str, Any]) -> None:
        bit_generator = getattr(np.random, state["bit_generator"])()
        bit_generator.state = state
        self.unwrapped.np_random = np.random.Generator(bit_generator)


def _own(outcome: tuple[Any, Any, bool, bool, dict[str, Any]]) -> Any:
    """A step's outcome whose final observation the reset that follows cannot overwrite."""
    observation, reward, terminated, truncated, info = outcome
    if (terminated or truncated) and isinstance(observation, np.ndarray):
        return observation.copy(), reward, terminated, truncated, info
    return outcome


def is_resumable(env: VectorEnv) -> bool:
    """Whether it was made by :func:`maxentflow.envs.make`, so that :func:`states` applies.

    Example:
        >>> from maxentflow.envs import make
        >>> is_resumable(make("Pendulum-v1"))
        True
    """
    return hasattr(env, "recipe")


def states(env: VectorEnv) -> list[dict[str, Any]]:
    """:meth:`Resumable.state` of each copy in a vector environment of :func:`make`.

    Raises:
        ValueError: it was made otherwise, or as :meth:`Resumable.state`.

    Example:
        >>> from maxentflow.envs import make
        >>> env = make("Pendulum-v1", num_envs=2)
        >>> _ = env.reset(seed=3)
        >>> [state["seed"] for state in states(env)]
        [3, 4]
    """
    if not is_resumable(env):
        raise ValueError(
            "The state of this environment cannot be saved; make it with maxentflow.envs.make."
        )
    return list(env.call("state"))  # type: ignore[attr-defined]


def restore(env: VectorEnv, states: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """Return each copy in a vector environment of :func:`make` to its state.

    Args:
        env: the environment, in whatever state.
        states: what :func:`states` gave, one for each copy.

    Returns:
        The observations, shape ``(num_envs, *observation_shape)``.

    Raises:
        ValueError: it was made otherwise, or there are not as many states as copies.

    Example:
        >>> from maxentflow.envs import make
        >>> env = make("Pendulum-v1", num_envs=2, seed=0)
        >>> observation, _ = env.reset()
        >>> bool((restore(make("Pendulum-v1", num_envs=2), states(env)) == observation).all())
        True
    """
    if not is_resumable(env):
        raise ValueError(
            "The state of this environment cannot be restored; make it with maxentflow.envs.make."
        )
    if len(states) != env.num_envs:
        raise ValueError(
            f"The checkpoint has {len(states)} environments, this run {env.num_envs}."
        )
    observation, _ = env.reset()
    for index, state in enumerate(states):
        this = np.arange(env.num_envs) == index
        observation, _ = env.reset(options={"reset_mask": this, "restore": state})
    return observation
