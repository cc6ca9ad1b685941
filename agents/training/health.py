"""Say whether a run is healthy, from its metrics, its policy and its optimisers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from maxentflow.agents.agent import Agent
from maxentflow.agents.training.alarms import COLLAPSED, Alarms

__all__ = ["Finding", "health"]

_SATURATED = 0.999  # of the largest magnitude of an entry
_MANY_SATURATED = 0.9  # share of entries; bang-bang control is right in some tasks
_MANY_DEAD = 0.1  # share of parameters
_FALLEN = 0.5  # of the way from the first evaluation to the best


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        is_well: whether it is as it should be.
        text: a sentence.
    """

    name: str
    is_well: bool
    text: str


def health(
    rows: Sequence[Mapping[str, float]], agent: Agent, actions: NDArray[Any]
) -> list[Finding]:
    """Look at a run for what commonly goes wrong.

    ================== ===========================================================================
    finding            is not well if
    ================== ===========================================================================
    numbers            one in the metrics is not finite
    return             it has fallen back by more than half of what it had gained
    alarms             one of :class:`~maxentflow.agents.training.alarms.Alarms` was raised
    entropy            the last is below -5 nats for each entry of the action
    saturated actions  more than 90% of the entries of the policy's modes are at their bounds
    gradients          more than 10% of the parameters have never had one
    ================== ===========================================================================

    Args:
        rows: of the metrics, with missing numbers left out.
        agent: as it was at its last checkpoint.
        actions: modes of its policy in [-1, 1], shape ``(states, action_dim)``; indices of
            discrete actions are not looked at.

    Returns:
        What could be looked at: the entropy only of an agent whose metrics have it.

    Example:
        >>> from maxentflow import agents, envs
        >>> agent = agents.make("sac", envs.make("Pendulum-v1"))
        >>> rows = [{"step": 10, "eval_return": -9.0}, {"step": 20, "eval_return": float("nan")}]
        >>> for finding in health(rows, agent, np.zeros((4, 1), np.float32)):
        ...     print(finding.name, finding.is_well)
        numbers False
        return True
        alarms True
        saturated actions True
        gradients True
    """
    found = [_numbers(rows), _returns(rows), _alarms(rows, agent, actions)]
    found += _entropy(rows, int(np.prod(actions.shape[1:])))
    if actions.dtype.kind == "f":
        found.append(_saturation(actions))
    return [*found, _gradients(agent)]


def _numbers(rows: Sequence[Mapping[str, float]]) -> Finding:
    wrong = sorted({name for row in rows for name, x in row.items() if not math.isfinite(x)})
    text = f"Not finite: {', '.join(wrong)}." if wrong else "All numbers are finite."
    return Finding("numbers", not wrong, text)


def _returns(rows: Sequence[Mapping[str, float]]) -> Finding:
    returns = [
        row["eval_return"] for row in rows if math.isfinite(row.get("eval_return", math.nan))
    ]
    if len(returns) < 2:
        return Finding("return", True, f"Evaluations: {len(returns)}, too few to say.")
    first, best, last = returns[0], max(returns), returns[-1]
    text = f"From {first:.4g} to {last:.4g}; the best evaluation gave {best:.4g}."
    return Finding("return", last >= best - _FALLEN * (best - first), text)


def _alarms(rows: Sequence[Mapping[str, float]], agent: Agent, actions: NDArray[Any]) -> Finding:
    # The largest reward is not in the metrics; with 0 values are not compared with it.
    alarms = Alarms(int(np.prod(actions.shape[1:])), getattr(agent.config, "gamma", None))
    raised = [text for row in rows for text in alarms.raised(row, largest_reward=0.0)]
    return Finding("alarms", not raised, " ".join(raised) or "None was raised.")


def _entropy(rows: Sequence[Mapping[str, float]], entries: int) -> list[Finding]:
    for name in ("policy_entropy", "entropy"):
        entropies = [row[name] for row in rows if name in row]
        if entropies:
            last = entropies[-1]
            text = f"The last {name} is {last:.4g} nats, {last / entries:.4g} for each entry."
            return [Finding("entropy", last >= COLLAPSED * entries, text)]
    return []


def _saturation(actions: NDArray[Any]) -> Finding:
    share = float((np.abs(actions) > _SATURATED).mean())
    text = f"{share:.0%} of the entries of {len(actions)} modes are at their bounds."
    return Finding("saturated actions", share <= _MANY_SATURATED, text)


def _gradients(agent: Agent) -> Finding:
    dead = total = 0
    for step in agent.steps:
        for state in step.optimizer.state.values():
            squares = state.get("exp_avg_sq")
            if isinstance(squares, torch.Tensor):
                dead += int((squares == 0).sum())
                total += squares.numel()
    if not total:
        return Finding("gradients", True, "There has been no update.")
    text = f"{dead / total:.1%} of {total:,} parameters have not had one."
    return Finding("gradients", dead <= _MANY_DEAD * total, text)
