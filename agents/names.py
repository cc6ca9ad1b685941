"""Agents that come with the package, to know without importing any."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BUILT_IN", "Summary"]


class Summary(NamedTuple):
    """What an agent is, in a line.

    Attributes:
        actions: the spaces it acts in, ``"continuous"``, ``"discrete"`` or both.
        about: one line.
    """

    actions: tuple[str, ...]
    about: str


_CONTINUOUS, _DISCRETE = ("continuous",), ("discrete",)

BUILT_IN = {
    "meow": Summary(_CONTINUOUS, "one energy-based flow is Q, V and policy (Chao 2024)"),
    "sac": Summary(_CONTINUOUS, "soft actor-critic with a Gaussian (Haarnoja 2018)"),
    "flow-sac": Summary(_CONTINUOUS, "soft actor-critic with a flow as its actor (Ward 2019)"),
    "sql": Summary(_CONTINUOUS, "soft Q-learning with Stein's sampler (Haarnoja 2017)"),
    "td3": Summary(_CONTINUOUS, "two critics, a delayed deterministic actor (Fujimoto 2018)"),
    "ddpg": Summary(_CONTINUOUS, "one critic, a deterministic actor (Lillicrap 2016)"),
    "bc": Summary(_CONTINUOUS, "behaviour cloning by a flow's exact likelihood"),
    "soft-q": Summary(_DISCRETE, "soft Q-learning, the sum over actions exact"),
    "discrete-sac": Summary(_DISCRETE, "soft actor-critic over actions (Christodoulou 2019)"),
    "dqn": Summary(_DISCRETE, "double deep Q-learning (van Hasselt 2016)"),
    "ppo": Summary(_CONTINUOUS + _DISCRETE, "proximal policy optimisation (Schulman 2017)"),
}
"""By name."""
