"""What theory promises of maximum-entropy policies in changed dynamics, and what they earn there.

    python benchmarks/worst_dynamics.py run
    python benchmarks/worst_dynamics.py report     # worst_dynamics.png and a table

A point on a torus of side 2 is pushed by its actions and by noise, for one to ten steps; rewards
are positive and greatest at the origin. MEow learns it at three temperatures, three seeds. The
lower bound of Eysenbach and Levine 2022 (arXiv:2103.06257, theorem 4.2) on its return under the
worst admissible dynamics is computed from its exact log-probabilities, and the return itself by
dynamic programming over an adversary who chooses the direction of a wind in each state and step.
Sums over states are on a grid of 32 x 32. Rows are added to worst_dynamics.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import policies
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maxentflow import agents
from maxentflow.agents.cli.figures import STYLES

HERE = Path(__file__).parent
RESULTS = HERE / "worst_dynamics.csv"
REACH, NOISE, SHARPNESS = 0.5, 0.4, 2.0
HORIZONS = (1, 3, 10)  # steps of an episode; agents learn with the longest
AREA = 4.0  # of the torus, and of the actions
TEMPERATURES = (0.01, 0.1, 1.0)  # in units of log r; the bound's own is the horizon
SEEDS = range(3)
STEPS, GAMMA = 4_000, 0.9
CELLS, ACTIONS = 32, 256
CERTAIN = 1e3  # log-density of the one action of a deterministic policy, where exp(-1000) is zero
WAVES = np.arange(-12, 13)  # of the noise's density; the twelfth is below 1e-49 of the first
WINDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

Array = NDArray[np.float64]
Policy = Callable[[Array], tuple[Array, Array]]
"""Actions ``(states, ACTIONS, 2)`` and their log-probabilities, of observations."""


def log_reward(state: Array) -> Array:
    return SHARPNESS * (np.cos(np.pi * state).mean(-1) - 1.0)


def observe(state: Array) -> Array:
    angle = np.pi * state
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


class NoisyTorus(gym.Env[Array, Array]):
    """The task, with log r as reward: a maximum-entropy agent maximises the bound's objective."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.0, 1.0, 2)
        return observe(self._state).astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict]:
        moved = self._state + REACH * action + NOISE * self.np_random.normal(size=2)
        self._state = (moved + 1.0) % 2.0 - 1.0
        reward = float(log_reward(self._state))
        return observe(self._state).astype(np.float32), reward, False, False, {}


gym.register("NoisyTorus-v0", entry_point=NoisyTorus, max_episode_steps=HORIZONS[-1])


# The model


AXIS = np.arange(CELLS) * 2.0 / CELLS - 1.0
STATES = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)
REWARD = np.exp(log_reward(STATES))


def density(offset: Array) -> Array:
    """Of the noise along one axis: a normal distribution around a circle of length 2."""
    turns = 2.0 * np.arange(-4, 5)
    square = ((offset[..., None] + turns) / NOISE) ** 2
    return np.exp(-0.5 * square).sum(-1) / (NOISE * np.sqrt(2.0 * np.pi))


def entropy() -> float:
    """Of the next state, in nats."""
    found = density(AXIS)
    return float(-2.0 * (found * np.log(found)).mean() * 2.0)


def log_ratio(wind: Array) -> float:
    """log of the integral of p / p~ over actions and next states, for a wind ``(2,)``."""
    integrals = [(density(AXIS) / density(AXIS - shift)).mean() * 2.0 for shift in wind]
    return float(np.log(AREA * np.prod(integrals)))


def divergence(wind: Array) -> float:
    """KL(p || p~) for a wind ``(2,)``."""
    one = density(AXIS)
    return sum(float((one * np.log(one / density(AXIS - w))).mean() * 2.0) for w in wind)


def directions(size: float) -> Array:
    """Winds of a size: eight, or none."""
    angles = np.arange(8) * np.pi / 4.0
    return size * np.stack([np.cos(angles), np.sin(angles)], axis=-1) if size else np.zeros((1, 2))


def characteristic(actions: Array) -> NDArray[np.complex128]:
    """Fourier coefficients of the next state's density, ``(states, WAVES, WAVES)``, of samples of
    a policy's actions in every state; wind is a factor of each."""
    mean = STATES[:, None] + REACH * actions
    waves = np.exp(-1j * np.pi * WAVES * mean[..., None])  # (states, actions, 2, waves)
    along, across = waves[:, :, 0].swapaxes(1, 2), waves[:, :, 1]
    damping = np.exp(-0.5 * (np.pi * NOISE * WAVES) ** 2)
    return along @ across / actions.shape[1] * damping[:, None] * damping


def expected_sum(
    moves: NDArray[np.complex128],
    winds: Array,
    horizon: int,
    arrival: Array | float = 0.0,
    departure: Array | float = 0.0,
) -> float:
    """Expected sum over an episode of functions of states, where an adversary who sees state and
    step chooses one of some winds ``(winds, 2)``."""
    grid = np.exp(1j * np.pi * WAVES * AXIS[:, None]) / CELLS
    phases = np.exp(-1j * np.pi * WAVES * winds[..., None])  # (winds, 2, waves)
    turned = phases[:, 0, :, None] * phases[:, 1, None, :]
    value = np.zeros(len(STATES))
    for _ in range(horizon):
        waves = grid.T @ (arrival + value).reshape(CELLS, CELLS) @ grid
        following = moves.reshape(len(STATES), -1) @ (turned * waves).reshape(len(winds), -1).T
        value = departure + following.real.min(1)
    return float(value.mean())


@dataclass(frozen=True)
class Promise:
    """A policy's bound on its return under the worst dynamics, and what it is made of."""

    horizon: int
    mean_log_reward: float
    """Expected mean of log r over an episode."""
    policy_entropy: float
    """Expected sum of the policy's entropy over an episode, in nats."""

    def bound(self, wind: float) -> float:
        """exp(J_MaxEnt + log T - epsilon) of theorem 4.2."""
        cost = self.horizon * (max(map(log_ratio, directions(wind))) - entropy())
        return self.horizon * float(np.exp(self.mean_log_reward + self.policy_entropy - cost))

    def without_entropy(self, wind: float) -> float:
        """What its proof has before entropies, by Jensen's inequality and a change of measure."""
        cost = self.horizon * max(map(divergence, directions(wind)))
        return self.horizon * float(np.exp(self.mean_log_reward - cost))


def promise(moves: NDArray[np.complex128], entropies: Array, horizon: int) -> Promise:
    """Of a policy that has these entropies in the states."""
    calm = directions(0.0)
    return Promise(
        horizon,
        expected_sum(moves, calm, horizon, arrival=np.log(REWARD)) / horizon,
        expected_sum(moves, calm, horizon, departure=entropies),
    )


# The policies


def of_agent(agent: agents.Agent, observation: Array) -> tuple[Array, Array]:
    with torch.no_grad():
        seen = torch.as_tensor(observation, dtype=torch.float32)
        action, log_prob = agent.policy.flow.sample(seen, (ACTIONS,))
    return action.transpose(0, 1).double().numpy(), log_prob.T.double().numpy()


def mode_of(agent: agents.Agent, observation: Array) -> tuple[Array, Array]:
    action = agent.predict(observation)[:, None].astype(np.float64)
    return action, np.full(action.shape[:2], CERTAIN)


def straight(observation: Array) -> tuple[Array, Array]:
    """To the origin by the shortest way, as fast as it goes."""
    state = np.arctan2(observation[..., :2], observation[..., 2:]) / np.pi
    action = np.clip(-state / REACH, -1.0, 1.0)[:, None]
    return action, np.full(action.shape[:2], CERTAIN)


def uniform(observation: Array) -> tuple[Array, Array]:
    line = (np.arange(16) + 0.5) / 8.0 - 1.0
    pairs = np.stack(np.meshgrid(line, line), axis=-1).reshape(1, -1, 2)
    actions = np.broadcast_to(pairs, (len(observation), *pairs.shape[1:]))
    return actions, np.full(actions.shape[:2], -np.log(AREA))


def rows(label: str, seed: int | str, policy: Policy) -> None:
    actions, log_prob = policy(observe(STATES))
    moves, entropies = characteristic(actions), -log_prob.mean(1)
    for horizon in HORIZONS:
        promised = promise(moves, entropies, horizon)
        for wind in WINDS:
            earned = expected_sum(moves, directions(wind), horizon, arrival=REWARD)
            row = {
                "policy": label,
                "seed": seed,
                "horizon": horizon,
                "wind": wind,
                "return": earned,
                "bound": promised.bound(wind),
                "bound_without_entropy": promised.without_entropy(wind),
                "policy_entropy": entropies.mean(),
            }
            assert row["bound"] <= row["bound_without_entropy"] * (1 + 1e-9) <= earned
            tables.append(
                RESULTS, {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
            )
        print(label, seed, promised, flush=True)


def run() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    done = {row["policy"] for row in tables.read(RESULTS)}
    for label, policy in (("uniform", uniform), ("straight", straight)):
        if label not in done:
            rows(label, "", policy)
    for temperature in TEMPERATURES:
        label = f"MEow, {temperature:g}"
        if label in done:
            continue
        make = partial(
            agents.make, "meow", temperature=temperature, target_entropy=None, gamma=GAMMA
        )
        learned = policies.learn(make, "NoisyTorus-v0", SEEDS, STEPS)
        for seed, agent in zip(SEEDS, learned, strict=True):
            rows(label, seed, partial(of_agent, agent))
            rows(f"mode of {label}", seed, partial(mode_of, agent))


# The report


def report() -> None:
    found: dict[tuple[str, int, float], list[dict[str, str]]] = {}
    for row in tables.read(RESULTS):
        key = row["policy"], int(row["horizon"]), float(row["wind"])
        found.setdefault(key, []).append(row)

    def means(policy: str, horizon: int, column: str) -> list[float]:
        cells = [found[policy, horizon, wind] for wind in WINDS]
        return [float(np.mean([float(row[column]) for row in cell])) for cell in cells]

    names = list(dict.fromkeys(policy for policy, *_ in found))
    for horizon in HORIZONS:
        for name in names:
            for column in ("return", "bound_without_entropy", "bound"):
                numbers = " ".join(f"{mean:9.3g}" for mean in means(name, horizon, column))
                print(f"{horizon:3} {name:20} {column:22} {numbers}")
    for name in names:
        print(f"{name:20} entropy {means(name, 1, 'policy_entropy')[0]:.2f}")
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    cold, warm = (f"MEow, {alpha:g}" for alpha in TEMPERATURES[:2])
    longest = HORIZONS[-1]
    for name, style in zip(
        ("straight", cold, warm, f"mode of {warm}", "uniform"), STYLES, strict=False
    ):
        look = {"color": style.color, "linestyle": style.line}
        left.plot(WINDS, means(name, longest, "return"), label=name, **look)
    curves = [(name, horizon) for name in ("uniform", warm) for horizon in (HORIZONS[0], longest)]
    for (name, horizon), style in zip(curves, STYLES, strict=False):
        share = np.divide(means(name, horizon, "bound"), means(name, horizon, "return"))
        look = {"color": style.color, "linestyle": style.line}
        right.plot(WINDS, share, label=f"{name}; {horizon} step{'s' * (horizon > 1)}", **look)
    left.set(ylabel=f"worst return of {longest} steps", ylim=0.0)
    right.set(ylabel="bound / worst return", yscale="log")
    for axes in (left, right):
        axes.set_xlabel("strength of the wind")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(HERE / "worst_dynamics.png", dpi=100)


if __name__ == "__main__":
    {"run": run, "report": report}[(sys.argv[1:] or ["report"])[0]]()
