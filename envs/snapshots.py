"""Save and set the state of simulators that allow it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

__all__ = ["Savable", "count_steps", "savable"]


@runtime_checkable
class Savable(Protocol):
    """An environment whose state can be read and set in the middle of an episode.

    The state is numbers, strings, lists and dictionaries of them. It leaves out ``np_random`` and
    what the constructor was given. After ``load_state_dict`` in an environment that was reset,
    the next steps are the same, bit for bit.

    Example:
        >>> env, other = MultiGoalEnv(), MultiGoalEnv()
        >>> isinstance(env, Savable)
        True
        >>> _ = env.reset(seed=0), other.reset(seed=1)
        >>> other.load_state_dict(env.state_dict())
        >>> first, second = (one.step(np.ones(2))[0] for one in (env, other))
        >>> bool((first == second).all())
        True
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _MujocoState:
    """The integration state of one of gymnasium's MuJoCo tasks.

    MuJoCo computes a step from it alone, warm start of the contact solver included. What a step
    leaves beside it (body positions, contact forces) is one integration older, and is right again
    after the next step.
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def state_dict(self) -> dict[str, Any]:
        import mujoco

        model, kind = self._env.model, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, self._env.data, state, kind)
        return {"integration": state.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(self._env.model, self._env.data, np.array(state["integration"]), kind)


# Wrappers without a state but for what a reset sets, and for the steps of a time limit.
_STATELESS = (
    gym.wrappers.DtypeObservation,
    gym.wrappers.FlattenObservation,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.RescaleAction,
    gym.wrappers.ReshapeObservation,
    gym.wrappers.TimeLimit,
)


def savable(env: gym.Env[Any, Any]) -> Savable | None:
    """What saves the state of an environment's simulator; ``None`` where nothing does.

    Own tasks are :class:`Savable`, gymnasium's MuJoCo tasks are saved through MuJoCo. A task of
    another package that derives from gymnasium's may keep more than MuJoCo knows, and a wrapper
    may keep what only it knows: neither is saved.

    Example:
        >>> savable(gym.make("maxentflow/MultiGoal-v0")).state_dict()
        {'path': [[0.0, 0.0]]}
        >>> savable(gym.make("Pendulum-v1")) is None
        True
    """
    while isinstance(env, gym.Wrapper):
        if type(env) not in _STATELESS:
            return None
        env = env.env
    if isinstance(env, Savable):
        return env
    if type(env).__module__.startswith("gymnasium.envs.mujoco."):
        return _MujocoState(env)
    return None


class _Idle:
    def step(self, action: Any) -> tuple[None, float, bool, bool, dict[str, Any]]:
        return None, 0.0, False, False, {}


def count_steps(env: gym.Env[Any, Any], steps: int) -> None:
    """Let an environment's time limits count steps that its simulator does not take.

    Example:
        >>> env = gym.make("maxentflow/MultiGoal-v0", max_episode_steps=10)
        >>> _ = env.reset(seed=0)
        >>> count_steps(env, 9)
        >>> env.step(np.zeros(2, np.float32))[3]
        True
    """
    while isinstance(env, gym.Wrapper):
        inner = env.env
        if isinstance(env, gym.wrappers.TimeLimit):
            env.env = _Idle()  # type: ignore[assignment]
            for _ in range(steps):
                env.step(None)
            env.env = inner
        env = inner
