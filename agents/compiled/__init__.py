"""Agents whose updates and actions are compiled, alone or several seeds as one program."""

from __future__ import annotations

from collections.abc import Sequence

from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled.ensemble import Ensemble
from maxentflow.agents.compiled.single import CompiledLearner
from maxentflow.agents.compiled.update import CompiledUpdate
from maxentflow.agents.learner import EagerLearner, Learner

__all__ = ["CompiledLearner", "CompiledUpdate", "Ensemble", "learner"]


def learner(agents: Sequence[Agent], *, compile: bool) -> Learner:
    """Who acts and learns for these agents.

    ======== =================== ======================
    agents   ``compile=False``   ``compile=True``
    ======== =================== ======================
    one      ``EagerLearner``    ``CompiledLearner``
    several  ``Ensemble``        ``Ensemble``, compiled
    ======== =================== ======================

    Args:
        agents: one for each run.
        compile: whether ``prepare`` compiles.

    Raises:
        ValueError: there are no agents.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2, blocks=1)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        >>> agent = Agent("own", flows.FlowPolicy(flow), loss, steps)
        >>> type(learner([agent], compile=True)).__name__
        'CompiledLearner'
    """
    if not agents:
        raise ValueError("A learner needs at least one agent.")
    if len(agents) > 1:
        return Ensemble(agents, compile=compile)
    return CompiledLearner(agents[0]) if compile else EagerLearner(agents)
