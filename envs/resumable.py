"""Environments whose state can be written down and restored exactly."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["Resumable"]


class Resumable(gym.Wrapper):
    """Records what is needed to bring an environment back to the present step.

    Simulators differ in how their state is read and set; what every gymnasium environment has is a
    seeded generator and a reset. So the state is the generator as it was when the episode began
    and the actions since, and restoring repeats the episode. It is exact for environments whose
    only source of chance is gymnasium's ``np_random`` and that carry nothing else from one
    episode to the next, as gymnasium's own and those of this package.

    An episode without an end would be an endless list of actions. They are noted up to a limit,
    after which the episode has no state that could be saved.

    Args:
        env: the environment.
        seed: seed of the first reset, where that does not bring one.
        max_actions: how many actions of an episode are noted.

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
        self, env: gym.Env[Any, Any], seed: int | None = None, max_actions: int = 100_000
    ) -> None:
        super().__init__(env)
        self._seed = seed
        self._max_actions = max_actions
        self._length = 0
        self._start: dict[str, Any] | None = None
        self._actions: list[Any] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As any environment's; with an option ``"restore"``, a state, return to that."""
        if options is not None and "restore" in options:
            return self.restore(options["restore"]), {}
        if self._start is None and seed is None:
            seed = self._seed
        generator = None if seed is not None else self.unwrapped.np_random.bit_generator.state
        self._start = {"seed": seed, "generator": generator, "options": options}
        self._actions = []
        self._length = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        action = np.array(action, dtype=self.action_space.dtype)
        self._length += 1
        if self._length <= self._max_actions:
            self._actions.append(action)
        else:
            self._actions = []
        return super().step(action)

    def state(self) -> dict[str, Any]:
        """How the episode began and its actions so far: numbers, strings and lists only.

        Raises:
            RuntimeError: before the first reset.
            ValueError: the episode is longer than ``max_actions``.
        """
        if self._start is None:
            raise RuntimeError("The environment has no state before its first reset.")
        if self._length > self._max_actions:
            raise ValueError(
                f"An episode of {self._length} steps is too long for its state to be saved; give "
                "the task a time limit."
            )
        return {**self._start, "actions": [action.tolist() for action in self._actions]}

    def restore(self, state: dict[str, Any]) -> Any:
        """Return to a state taken by :meth:`state`, here or in another process.

        Returns:
            The observation at that state.
        """
        if state["generator"] is not None:
            bit_generator = getattr(np.random, state["generator"]["bit_generator"])()
            bit_generator.state = state["generator"]
            self.unwrapped.np_random = np.random.Generator(bit_generator)
        self._seed = None  # a first reset, which it was for, is not to come any more
        observation, _ = self.reset(seed=state["seed"], options=state["options"])
        dtype = self.action_space.dtype
        for action in state["actions"]:
            observation = self.step(np.array(action, dtype=dtype))[0]
        return observation
