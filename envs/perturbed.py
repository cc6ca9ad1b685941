"""A changed world: how does a policy do where friction, masses or the ground differ?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.ground import Ground

__all__ = ["PERTURBATIONS", "Perturbed"]

Amount = float | tuple[float, float]
"""A number, or the ends of the interval from which it is drawn for every episode."""


class _Kind(NamedTuple):
    neutral: float
    least: float
    most: float
    about: str


PERTURBATIONS = {
    "friction": _Kind(1.0, 0.01, 10.0, "factor of the sliding friction of every surface"),
    "mass": _Kind(1.0, 0.1, 10.0, "factor of the masses and inertias of all bodies"),
    "gravity": _Kind(1.0, 0.0, 10.0, "factor of gravity"),
    "motor": _Kind(1.0, 0.0, 10.0, "factor of the strength of the motors"),
    "damping": _Kind(1.0, 0.0, 100.0, "factor of the damping of the joints"),
    "observation_noise": _Kind(0.0, 0.0, 10.0, "standard deviation of noise on observations"),
    "action_delay": _Kind(0, 0, 100, "steps before an action is carried out"),
    "push": _Kind(0.0, 0.0, 10.0, "size of pushes, in weights of the robot"),
    "ground": _Kind(0.0, 0.0, 1.0, "height of the highest hill of the ground, metres"),
    "obstacles": _Kind(0.0, 0.0, 0.5, "height of bars across the way, metres"),
}
"""What can be changed: the value that changes nothing, the least and the largest value, and what
it is."""

# Arrays of a model, by what changes them; mass also moves constants that MuJoCo computes from it.
_ARRAYS = {
    "friction": ("geom_friction", "pair_friction"),
    "mass": (
        "body_mass",
        "body_inertia",
        "body_subtreemass",
        "body_invweight0",
        "dof_invweight0",
        "dof_M0",
        "tendon_invweight0",
        "actuator_acc0",
    ),
    "motor": ("actuator_gear",),
    "damping": ("dof_damping",),
}


class Perturbed(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A task of MuJoCo in a changed world.

    Every quantity is a number, or the two ends of an interval from which it is drawn uniformly
    for every episode, by the task's own generator and after the task's own draws: with a seed,
    episodes begin as they do in the task as it is. What an episode has is in
    ``info["perturbation"]``, by name. Closing the wrapper gives the task its model back, and the
    wrapper changes nothing from then on.

    Several wrappers compose, each with quantities of its own.

    =====================  =====================  ================================================
    quantity               accepted, and neutral  meaning
    =====================  =====================  ================================================
    ``friction``           0.01 to 10, 1          factor of the sliding friction of every surface
    ``mass``               0.1 to 10, 1           factor of the masses and inertias of all bodies;
                                                  the armature of joints stays
    ``gravity``            0 to 10, 1             factor of gravity
    ``motor``              0 to 10, 1             factor of the strength of the motors, where
                                                  actions are torques or forces
    ``damping``            0 to 100, 1            factor of the damping of the joints
    ``observation_noise``  0 to 10, 0             standard deviation of Gaussian noise, in the
                                                  observation's own units
    ``action_delay``       0 to 100, 0            whole steps before an action is carried out;
                                                  until then the action is 0
    ``push``               0 to 10, 0             horizontal force on the trunk for one step, in
                                                  weights of the robot at 9.81 m/s²; along x for
                                                  planar robots
    ``ground``             0 to 1, 0              height in metres of the highest hill: waves of
                                                  one to four metres, flat around the start
    ``obstacles``          0 to 0.5, 0            height in metres of bars across the way, one
                                                  every three metres
    =====================  =====================  ================================================

    ``ground`` and ``obstacles`` need a robot on a floor that is a plane at height 0, such as
    gymnasium's Hopper, Walker2d, HalfCheetah, Ant and Humanoid. The fall check counts from the
    ground; the height that is observed counts from zero. The ground ends after a kilometre, for
    robots that turn 300 m ahead and 50 m to each side.

    Args:
        env: a task whose ``unwrapped`` has a ``model`` and ``data`` of MuJoCo.
        push_rate: probability that a step has a push.
        amounts: quantities by name.

    Raises:
        ValueError: the task is not one of MuJoCo, an unknown quantity or one out of range, one
            that a wrapper inside changes already, or one without effect: gravity where there is
            none, friction where nothing touches.

    Example:
        >>> env = Perturbed(gym.make("Hopper-v5"), friction=(0.5, 1.5), mass=1.2)
        >>> _, info = env.reset(seed=0)
        >>> {name: round(value, 2) for name, value in info["perturbation"].items()}
        {'friction': 1.36, 'mass': 1.2}
    """

    def __init__(
        self, env: gym.Env[Any, Any], *, push_rate: float = 0.05, **amounts: Amount
    ) -> None:
        recorded: dict[str, Any] = {"push_rate": push_rate, **amounts}
        gym.utils.RecordConstructorArgs.__init__(self, **recorded)
        gym.Wrapper.__init__(self, env)
        task: Any = env.unwrapped
        self._task = task
        _check_task(task)
        if not (isinstance(push_rate, (int, float, np.number)) and 0 <= push_rate <= 1):
            raise ValueError(f"push_rate must be in [0, 1], got {push_rate!r}.")
        amounts = {name: _checked(name, amount) for name, amount in amounts.items()}
        self._amounts, self._push_rate = amounts, push_rate
        space = self.observation_space
        if amounts.get("observation_noise") and not (
            isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        ):
            raise ValueError(f"observation_noise needs observations of real numbers, got {space}.")
        if "gravity" in amounts and not task.model.opt.gravity.any():
            raise ValueError(f"{_name_of(task)} has no gravity to change.")
        if "friction" in amounts and not _touches(task.model):
            raise ValueError(f"{_name_of(task)} has no friction to change: nothing in it touches.")
        needs_ground = any(amounts.get(name) for name in ("ground", "obstacles"))
        for inner in _wrappers(env):
            if isinstance(inner, Perturbed):
                for name in amounts.keys() & inner._amounts.keys():
                    raise ValueError(f"{name} is changed already, by a Perturbed inside.")
                if needs_ground and inner._ground is not None:
                    raise ValueError("ground and obstacles need to be in one Perturbed.")
                inner._restore()  # before the model is another one
        self._ground: Ground | None = Ground(self._task) if needs_ground else None
        self._kept: dict[str, NDArray[Any]] = {}
        self._drawn: dict[str, float] = {}
        self._waiting: deque[Any] = deque()
        self._trunk = int(task.model.jnt_bodyid[0])
        self._moves_sideways = _moves_sideways(task.model, self._trunk)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._restore()
        observation, info = self.env.reset(seed=seed, options=options)
        self._drawn = {name: self._draw(name, amount) for name, amount in self._amounts.items()}
        self._apply()
        idle = np.zeros(self.action_space.shape or (), self.action_space.dtype)
        self._waiting = deque(int(self._drawn.get("action_delay", 0)) * [idle])
        return self._seen(observation), self._told(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        action = np.array(action)  # a caller may use its array again
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"action must have shape {self.action_space.shape}, got {action.shape}."
            )
        self._waiting.append(action)
        self._push()
        try:
            outcome = self.env.step(self._waiting.popleft())
        finally:
            self._task.data.xfrc_applied[self._trunk] = 0.0
        observation, reward, terminated, truncated, info = outcome
        return self._seen(observation), reward, terminated, truncated, self._told(info)

    def close(self) -> None:
        for wrapper in _wrappers(self):  # outermost first, in the reverse order of their changes
            if isinstance(wrapper, Perturbed):
                wrapper._restore()
        self._amounts, self._drawn = {}, {}
        if self._ground is not None:
            self._ground.close()
            self._ground = None
        super().close()

    def _draw(self, name: str, amount: Amount) -> float:
        if not isinstance(amount, tuple):
            return int(amount) if name == "action_delay" else amount
        if name == "action_delay":
            return int(self.np_random.integers(int(amount[0]), int(amount[1]) + 1))
        return float(self.np_random.uniform(*amount))

    def _apply(self) -> None:
        import mujoco

        model, drawn = self._task.model, self._drawn
        if self._ground is not None:
            self._ground.set(drawn.get("ground", 0.0), drawn.get("obstacles", 0.0))
            mujoco.mj_kinematics(model, self._task.data)  # for a picture before the first step
        self._kept = {
            array: getattr(model, array).copy()
            for name in drawn
            for array in _ARRAYS.get(name, ())
        }
        if "gravity" in drawn:
            self._kept["gravity"] = model.opt.gravity.copy()
            model.opt.gravity[:] *= drawn["gravity"]
        if "friction" in drawn:
            model.geom_friction[:, 0] *= drawn["friction"]
            model.pair_friction[:, :2] *= drawn["friction"]
        if "motor" in drawn:
            model.actuator_gear[:] *= drawn["motor"]
        if "damping" in drawn:
            model.dof_damping[:] *= drawn["damping"]
        if "mass" in drawn:
            model.body_mass[:] *= drawn["mass"]
            model.body_inertia[:] *= drawn["mass"]
            mujoco.mj_setConst(model, mujoco.MjData(model))

    def _restore(self) -> None:
        model = self._task.model
        for name, array in self._kept.items():
            (model.opt.gravity if name == "gravity" else getattr(model, name))[:] = array
        self._kept = {}
        if self._ground is not None:
            self._ground.set(0.0, 0.0)

    def _push(self) -> None:
        size = self._drawn.get("push", 0.0)
        if not size or self.np_random.random() >= self._push_rate:
            return
        model = self._task.model
        weight = 9.81 * model.body_subtreemass[self._trunk]
        if self._moves_sideways:
            angle = self.np_random.uniform(0.0, 2 * np.pi)
            direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        else:
            direction = np.array([self.np_random.choice([-1.0, 1.0]), 0.0, 0.0])
        self._task.data.xfrc_applied[self._trunk, :3] = size * weight * direction

    def _seen(self, observation: Any) -> Any:
        noise = self._drawn.get("observation_noise", 0.0)
        if not noise:
            return observation
        drawn = noise * self.np_random.standard_normal(observation.shape)
        return (observation + drawn).astype(observation.dtype)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "perturbation": {**info.get("perturbation", {}), **self._drawn}}


def _wrappers(env: Any) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def _touches(model: Any) -> bool:
    """Whether two bodies, or a body and the world, can be in contact."""
    asks, answers = model.geom_contype[:, None], model.geom_conaffinity[None, :]
    meets = ((asks & answers) | (asks.T & answers.T)) != 0
    body = model.geom_bodyid
    return bool(model.npair or (meets & (body[:, None] != body[None, :])).any())


def _moves_sideways(model: Any, body: int) -> bool:
    """Whether a body can be pushed along y."""
    import mujoco

    joints = np.flatnonzero(model.jnt_bodyid == body)
    slides = model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_SLIDE
    is_free = (model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_FREE).any()
    return bool(is_free or (slides & (np.abs(model.jnt_axis[joints, 1]) > 0.5)).any())


def _check_task(task: Any) -> None:
    model = getattr(task, "model", None)
    if not type(model).__module__.startswith("mujoco") or not hasattr(task, "data"):
        raise ValueError(f"Perturbed needs a task of MuJoCo, got {_name_of(task)}.")


def _name_of(task: Any) -> str:
    spec = getattr(task, "spec", None)
    return type(task).__name__ if spec is None else str(spec.id)


def check_known(name: str) -> None:
    """Refuse what is no quantity.

    Raises:
        ValueError: it is none.
    """
    if name not in PERTURBATIONS:
        raise ValueError(
            f"There is nothing called {name!r} to change; known: {', '.join(PERTURBATIONS)}."
        )


def _checked(name: str, amount: Any) -> Amount:
    """An amount as it is used."""
    check_known(name)
    kind = PERTURBATIONS[name]
    is_whole = name == "action_delay"
    try:
        given = np.asarray(amount)
        ends = given.astype(float)
        fits = (
            given.dtype.kind in "iuf"
            and ends.shape in ((), (2,))
            and bool((kind.least <= ends).all() and (ends <= kind.most).all())
            and bool((np.diff(np.atleast_1d(ends)) >= 0).all())
            and (not is_whole or bool((ends == ends.round()).all()))
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        numbers = "whole numbers" if is_whole else "numbers"
        raise ValueError(
            f"{name} must be between {kind.least:g} and {kind.most:g}, or an interval of such "
            f"{numbers}, got {amount}."
        )
    return float(ends) if ends.shape == () else (float(ends[0]), float(ends[1]))
