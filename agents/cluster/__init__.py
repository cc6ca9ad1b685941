"""Beyond one machine, by Ray: actors that collect, and sweeps over settings.

Ray is an optional package, ``pip install "maxentflow[cluster]"``; it is imported when it is first
needed.
"""

from maxentflow.agents.cluster.actors import Actors
from maxentflow.agents.cluster.connection import connected
from maxentflow.agents.cluster.spec import Spec
from maxentflow.agents.cluster.sweep import Trial, sweep

__all__ = ["Actors", "Spec", "Trial", "connected", "sweep"]
