"""Determinants of a flow over training, without and with a reward shift (Chao et al. 2024, 4.1).

    python benchmarks/determinants.py [STEPS]      # paper/determinants.csv and a figure

Without a shift V is the log-determinant of the linear layers, which then has to grow with it.
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
from matplotlib.figure import Figure
from torch import Tensor

from maxentflow import agents, envs
from maxentflow.agents import Trainer, TrainerConfig, compiled
from maxentflow.agents.cli.figures import STYLES

RESULTS = Path(__file__).parent / "paper"


class Determinants:
    """Follows the determinants of an agent's flow at the observations that it acts on.

    Args:
        agent: which acts.
        every: environment steps between two entries.
    """

    def __init__(self, agent: agents.Agent, every: int) -> None:
        self._flow: Any = agent.behavior.flow  # type: ignore[union-attr]
        self._every = every
        self._seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=256)
        self._steps = 0
        self.rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def observe(self, transitions: Any) -> None:
        self._seen.append((transitions["observation"].clone(), transitions["action"].clone()))
        self._steps += len(transitions)
        if self._steps % self._every == 0:
            observation, action = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
            linear = non_linear = torch.zeros(len(action))
            for layer in reversed(self._flow.layers):
                action, log_det = layer.inverse(action, observation)
                if layer.is_linear:
                    linear = linear + log_det
                else:
                    non_linear = non_linear + log_det
            value = self._flow.value(observation).amin(-1)
            self.rows.append(
                {
                    "step": self._steps,
                    "log_det_linear": round(float(linear.mean()), 3),
                    "log_det_non_linear": round(float(non_linear.mean()), 3),
                    "value": round(float(value.mean()), 2),
                }
            )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing."""


def determinants(steps: int) -> None:
    """Log-determinants of linear and of other layers over training, without and with LRS."""
    rows = []
    variants: dict[str, dict[str, Any]] = {
        "vanilla": {"heads": 0},
        "vanilla, wide bounds": {"heads": 0, "log_sigma": (-60.0, 60.0)},
        "LRS": {"heads": 1},
    }
    for label, settings in variants.items():
        torch.manual_seed(0)
        env = envs.make("Hopper-v4")
        made = agents.make("meow", env, paper=True, **settings)
        probe = Determinants(made, every=1_000)
        made.state = {**made.state, "probe": probe}
        config = TrainerConfig(total_steps=steps, warmup_steps=5_000, eval_every=0)
        Trainer(made, env, config).run(compiled.learner([made], compile=True))
        rows += [{"variant": label, **each} for each in probe.rows]
    tables.write(RESULTS / "determinants.csv", rows)
    figure = Figure(figsize=(11.4, 3.2), layout="constrained")
    names = {
        "log_det_linear": "linear layers, log |det J| to the latent",
        "log_det_non_linear": "other layers, log |det J| to the latent",
        "value": "V",
    }
    for axes, (column, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for style, label in zip(STYLES, variants, strict=False):
            points = [(each["step"], each[column]) for each in rows if each["variant"] == label]
            axes.plot(*np.array(points).T, color=style.color, linestyle=style.line, label=label)
        axes.set(title=title, xlabel="environment steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(RESULTS / "determinants.png", dpi=120)


if __name__ == "__main__":
    determinants(int(sys.argv[1]) if len(sys.argv) > 1 else 150_000)
