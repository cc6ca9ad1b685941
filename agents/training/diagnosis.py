"""Measure how an agent's soft value, its policy and its stored actions agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent
from maxentflow.agents.task_errors import close, of_the_task
from maxentflow.agents.training.evaluation import AT_ONCE, Task, episode_limit

__all__ = ["MEANINGS", "Diagnosis", "diagnose"]

Array = NDArray[np.float64]

_SAMPLES = 64  # of the policy at each state
_STATES = 512  # in a batch
_TOLERANCE = 1e-2  # nats
_GAP = 1e-3  # in units of reward
_PERCENTILES = (5, 50, 95)

MEANINGS = {
    "value": "mean V of the visited states, minimum over heads",
    "value_mean_head": "the same, mean over heads",
    "soft_return": "mean discounted return with the entropy term",
    "discounted_return": "mean discounted return without it",
    "bias": "value - soft_return",
    "bias_in_spreads": "bias / standard deviation of soft returns",
    "correlation": "of V and soft return",
    "alpha": "temperature, in units of reward",
    "reward_scale": "what rewards are divided by",
    "entropy": "of the policy, nats of the whole action",
    "entropy_per_entry": "nats",
    "target_entropy": "what the temperature is learned towards, nats",
    "action_std": "standard deviation of actions at a state",
    "sigma": "mean sigma of the flow's scale",
    "sigma_at_bound": "share of log-sigmas within 1% of a bound",
    "recovered": "share of samples whose stored action gives their Q",
    "squash_gap": "mean over states of -alpha log(recovered)",
    "squash_gap_largest": "the largest",
    "squash_gap_share": f"share of states with a gap above {_GAP:g}",
    "squash_half_lost": "share of states with less than half recovered",
    "saturated": "share of samples with an entry beyond 1 - 1e-5",
    **{f"own_{n}": f"(V - Q) / alpha of own samples, percentile {n}" for n in _PERCENTILES},
    **{f"replay_{n}": f"(V - Q) / alpha of the replay, percentile {n}" for n in _PERCENTILES},
}
"""What :func:`diagnose` measures; V, Q and returns in units of reward."""


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` measured.

    Attributes:
        numbers: by name; printing a diagnosis says what each means.
        warnings: what is wrong, one sentence each.
        value: V of the visited states, minimum over heads, shape ``(states,)``.
        soft_return: what the policy earned from there, shape ``(states,)``.
        log_prob: of the policy's own samples, any number of them.
        replay_log_prob: of the replay's actions, where there is a replay.

    Example:
        >>> value, soft_return = np.array([1.5, 3.5]), np.array([1.0, 3.0])
        >>> print(Diagnosis({"bias": 0.5}, ("This is one.",), value, soft_return, np.zeros(2)))
        bias                      0.5  value - soft_return
        There is no squash.
        There is no replay.
        Warning: This is one.
    """

    numbers: dict[str, float]
    warnings: tuple[str, ...]
    value: Array
    soft_return: Array
    log_prob: Array
    replay_log_prob: Array | None = None

    def __str__(self) -> str:
        lines = [
            f"{name:<19}{number:>10.4g}  {MEANINGS[name]}" for name, number in self.numbers.items()
        ]
        if "recovered" not in self.numbers:
            lines.append("There is no squash.")
        if self.replay_log_prob is None:
            lines.append("There is no replay.")
        return "\n".join([*lines, *(f"Warning: {each}" for each in self.warnings)])


@torch.no_grad()
def diagnose(
    agent: Agent,
    env: Task | VectorEnv,
    *,
    episodes: int = 10,
    seed: int = 0,
    replay: TensorDictBase | None = None,
) -> Diagnosis:
    r"""Play whole episodes with sampled actions, and compare V with soft returns.

    .. math:: G_t = r_t - \alpha \log \pi(a_t | s_t) + \gamma\, (1 - \text{terminated}_t)
        \big(G_{t+1} - \alpha \bar H\big)

    of every visited state, with V of the final observation after the last step of a truncated
    episode, and :math:`\bar H` the target entropy of the loss, 0 if it has none. 64 samples at
    each visited state give the policy's noise. A sample is *recovered* if Q, computed from what a
    replay stores of it, is V + alpha log pi within 0.01 alpha and rounding. Where a share m is
    recovered, regressions of Q determine V up to -alpha log m, the *gap*.

    Args:
        agent: with a ``critic`` that also has ``sample``, ``q_and_value`` and ``temperature``,
            and settings with ``gamma``.
        env: a gymnasium id; a function that makes a gymnasium environment; or a vector
            environment of :func:`maxentflow.envs.make`.
        episodes: how many, at least 1; episode ``i`` starts from ``seed + i``.
        seed: of the first episode. The generators of torch are left as they were.
        replay: transitions, ``"observation"``, ``"action"`` and the agent's ``stored`` entries,
            shape ``(transitions, ·)``.

    Raises:
        ValueError: the agent has no such critic, ``episodes`` is below 1, or ``seed`` negative.

    Example:
        >>> agent = make("meow", envs.make("Pendulum-v1"))
        >>> result = diagnose(agent, "Pendulum-v1", episodes=1)
        >>> result.value.shape, result.numbers["recovered"]
        ((200,), 1.0)
    """
    model, gamma = agent.critic, getattr(agent.config, "gamma", None)
    needed = ("value", "sample", "q_and_value", "temperature")
    if gamma is None or not all(hasattr(model, name) for name in needed):
        raise ValueError(
            f"Agent {agent.name!r} has no soft value to diagnose; those that have one are meow "
            "and soft-q."
        )
    for name, number, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")
    raw = "raw_action" in agent.stored
    made = env if isinstance(env, VectorEnv) else envs.make(env, min(episodes, AT_ONCE))
    envs.check_vector(made)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            free = getattr(agent.loss, "target_entropy", None) or 0.0
            observation, soft, plain = _play(model, made, episodes, seed, gamma, free)
        finally:
            if made is not env:
                close(made)
        parts = [_sampled(model, part, raw) for part in observation.split(_STATES)]
    noise = {name: np.concatenate([part[name] for part in parts], -1) for name in parts[0]}
    value, own, alpha = noise["value"], noise["log_prob"], float(model.temperature)
    old = None if replay is None else _replayed(model, replay, raw)
    with np.errstate(all="ignore"):  # returns may all be the same
        numbers = {
            **{name: entry.mean() for name, entry in noise.items()},
            "soft_return": soft.mean(),
            "discounted_return": plain.mean(),
            "bias": (value - soft).mean(),
            "bias_in_spreads": (value - soft).mean() / soft.std(),
            "correlation": np.corrcoef(value, soft)[0, 1],
            "alpha": alpha,
            "reward_scale": getattr(model, "scale", None),
            "entropy": -own.mean(),
            "entropy_per_entry": -own.mean() / noise["entries"][0],
            "target_entropy": getattr(agent.loss, "target_entropy", None),
            **_percentiles("own", own),
        }
        if old is not None:
            numbers |= _percentiles("replay", old)
        if "recovered" in noise:
            gap = alpha * np.log(1 / noise["recovered"])
            numbers |= {
                "squash_gap": gap.mean(),
                "squash_gap_largest": gap.max(),
                "squash_gap_share": (gap > _GAP).mean(),
                "squash_half_lost": (noise["recovered"] < 0.5).mean(),
            }
    known = {name: float(numbers[name]) for name in MEANINGS if numbers.get(name) is not None}
    finite = np.isfinite(value) & np.isfinite(soft) & np.isfinite(own).all(0)
    warnings = _warnings(known, noise["entries"][0], int((~finite).sum()))
    return Diagnosis(known, warnings, value, soft, own.ravel(), old)


def _array(tensor: Tensor) -> Array:
    return tensor.numpy(force=True).astype(np.float64)


def _play(
    model: Any, env: VectorEnv, episodes: int, seed: int, gamma: float, free: float
) -> tuple[Tensor, Array, Array]:
    """The visited states, with their soft returns and those without the entropy term.

    Only the entropy above ``free`` counts, from the second step on, as in the loss's targets.
    """
    device = next(model.parameters()).device
    states, soft, plain = [], [], []

    def value(observation: NDArray[Any]) -> Array:
        return _array(model.value(torch.from_numpy(observation).to(device)).amin(-1))

    for first in range(0, episodes, env.num_envs):
        running = range(first, first + env.num_envs)
        alive, rest = np.array(running) < episodes, np.zeros(env.num_envs)
        seeds: Any = [seed + index for index in running]  # gymnasium types one number only
        with of_the_task():
            observation, _ = env.reset(seed=seeds)
        path = []
        for _ in range(episode_limit(env)):
            state = torch.from_numpy(observation).to(device)
            action, log_prob = model.sample(state)
            taken = action.numpy(force=True)
            with of_the_task():
                observation, reward, terminated, truncated, info = env.step(taken)
            bonus = _array(-model.temperature * log_prob)
            path.append((state, reward, bonus, alive.copy(), ~terminated))
            cut = alive & truncated & ~terminated
            if cut.any():
                rest[cut] = value(np.stack(list(info["final_obs"][cut])))
            alive &= ~(terminated | truncated)
            if not alive.any():
                break
        rest[alive] = value(observation)[alive]
        with_entropy, without = rest, rest
        cost = float(model.temperature) * free
        for state, reward, bonus, alive, goes_on in reversed(path):
            following = gamma * (with_entropy - cost * goes_on)
            with_entropy = np.where(alive, reward + bonus + following, with_entropy)
            without = np.where(alive, reward + gamma * without, without)
            states.append(state[torch.from_numpy(alive)])
            soft.append(with_entropy[alive])
            plain.append(without[alive])
    return torch.cat(states), np.concatenate(soft), np.concatenate(plain)


def _sampled(model: Any, observation: Tensor, raw: bool) -> dict[str, Array]:
    """Numbers of each of some states, most of them from samples; states are the last dimension."""
    flow = getattr(model, "model", model)
    squashed = getattr(flow, "squash", None) is not None
    sample = model.sample_raw if squashed else model.sample
    action, log_prob, *before = sample(observation, (_SAMPLES,))
    entries = action.flatten(2) if action.ndim > 2 else action.unsqueeze(-1)
    value = model.value(observation)
    found = {
        "log_prob": log_prob,
        "value": value.amin(-1),
        "value_mean_head": value.mean(-1),
        "entries": torch.full_like(log_prob[0], entries.shape[-1]),
    }
    if action.is_floating_point():
        found["action_std"] = entries.std(0).mean(-1)
    for scale in (part for part in flow.modules() if isinstance(part, flows.StateScale)):
        low, high = scale.bounds
        seen = observation if flow is model else model.normalized(observation)
        log_sigma = scale.log_sigma(seen).expand(len(seen), -1)
        place = (log_sigma - low) / (high - low)
        found["sigma"] = log_sigma.exp().mean(-1)
        found["sigma_at_bound"] = ((place < 0.01) | (place > 0.99)).float().mean(-1)
    if squashed:
        told = _told(model, observation, action, before[0] if raw else None)
        rounding = 8 * torch.finfo(value.dtype).eps * value.abs().amax(-1) / model.temperature
        recovered = (told - log_prob).abs() <= _TOLERANCE + rounding
        found["recovered"] = recovered.double().mean(0)
        found["saturated"] = (entries.abs() > 1 - 1e-5).any(-1).double().mean(0)
    return {name: _array(entry) for name, entry in found.items()}


def _told(model: Any, observation: Tensor, action: Tensor, raw_action: Tensor | None) -> Tensor:
    """(Q - V) / alpha by what a replay stores, mean over heads."""
    if raw_action is None:
        q, value = model.q_and_value(action, observation)
    else:
        q, value = model.raw_q_and_value(raw_action, observation)
    return ((q - value) / model.temperature).mean(-1)


def _replayed(model: Any, replay: TensorDictBase, raw: bool) -> Array:
    parts = replay.to(next(model.parameters()).device).split(_STATES)
    told = [
        _told(model, part["observation"], part["action"], part["raw_action"] if raw else None)
        for part in parts
    ]
    return _array(torch.cat(told))


def _percentiles(whose: str, log_prob: Array) -> dict[str, float]:
    found = np.percentile(-log_prob, _PERCENTILES)
    return {f"{whose}_{n}": number for n, number in zip(_PERCENTILES, found, strict=True)}


def _warnings(numbers: dict[str, float], entries: float, broken: int) -> tuple[str, ...]:
    """What is wrong, with the number that shows it."""
    found = []
    if broken:
        found.append(f"V, the soft return or log pi is not finite at {broken} visited states.")
    if abs(numbers["bias_in_spreads"]) > 1:
        found.append(
            "V is further from the soft returns than these are from each other: bias_in_spreads "
            f"is {numbers['bias_in_spreads']:.3g}."
        )
    if numbers["entropy"] < numbers.get("target_entropy", -np.inf) - 0.5 * entries:
        found.append(
            "The entropy is far below its target: entropy is "
            f"{numbers['entropy']:.3g}, target_entropy {numbers['target_entropy']:.3g}."
        )
    if numbers.get("sigma_at_bound", 0) > 0.5:
        found.append(
            f"Most scales are at a bound: sigma_at_bound is {numbers['sigma_at_bound']:.3g}."
        )
    if numbers.get("squash_gap_largest", 0) > _GAP:
        found.append(
            "Stored actions do not give Q of all samples: squash_gap_largest is "
            f"{numbers['squash_gap_largest']:.3g}."
        )
    return tuple(found)
