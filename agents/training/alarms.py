"""Say in the log that a policy has collapsed or its values have exploded."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["COLLAPSED", "Alarms"]

COLLAPSED = -5.0
"""Entropy of an entry of the action, in nats: a standard deviation of about 0.002."""
_IMPOSSIBLE = 1_000.0  # nats an entry: replayed actions that the policy has left for good
_BEYOND = 2.0  # times the largest return that any policy could have


class Alarms:
    r"""Watches rows of the metrics, and says once what has gone wrong.

    ===================== ================================================================
    column                what is said when
    ===================== ================================================================
    ``policy_entropy``    collapsed: below -5 nats for each entry of the action, a standard
                          deviation of about 0.002
    ``entropy``           left its data: -log π of replayed actions is above 1,000 nats an entry
    ``value``             exploded: its magnitude is above twice
                          :math:`\max|r| / (1 - \gamma)`, which no policy can earn
    ===================== ================================================================

    An alarm is raised again after a row in which all was well.

    Args:
        action_entries: how many numbers an action has.
        gamma: discount of the agent; ``None`` if it has none.

    Example:
        >>> alarms = Alarms(action_entries=2, gamma=0.99)
        >>> row = {"step": 4_000, "policy_entropy": -14.2, "value": 3.0}
        >>> alarms.raised(row, largest_reward=1.0)
        ['Step 4000: the policy has collapsed, policy_entropy is -14.2 nats.']
        >>> alarms.raised(row, largest_reward=1.0)
        []
    """

    def __init__(self, action_entries: int, gamma: float | None) -> None:
        self._entries = action_entries
        self._gamma = gamma
        self._ringing: set[str] = set()

    def raised(self, row: Mapping[str, float], largest_reward: float) -> list[str]:
        """Sentences on what this row shows and the one before did not.

        Args:
            row: numbers by column, with ``"step"``.
            largest_reward: largest magnitude of a reward up to this row.
        """
        found = self._found(row, largest_reward)
        new = [text for column, text in found.items() if column not in self._ringing]
        self._ringing = set(found)
        return [f"Step {int(row['step'])}: {text}" for text in new]

    def _found(self, row: Mapping[str, float], largest_reward: float) -> dict[str, str]:
        found = {}
        own = row.get("policy_entropy", math.inf)
        if own < COLLAPSED * self._entries:
            found["policy_entropy"] = (
                f"the policy has collapsed, policy_entropy is {own:.4g} nats."
            )
        replayed = row.get("entropy", 0.0)
        if replayed > _IMPOSSIBLE * self._entries:
            found["entropy"] = (
                "the policy has left the actions it learns from, their -log pi in the column "
                f"entropy is {replayed:.4g} nats."
            )
        value = abs(row.get("value", 0.0))
        if self._gamma is not None and self._gamma < 1 and largest_reward > 0:
            most = largest_reward / (1 - self._gamma)
            if value > _BEYOND * most:
                found["value"] = (
                    f"values have exploded, value is {row['value']:.4g} and no return can be "
                    f"above {most:.4g}."
                )
        return found
