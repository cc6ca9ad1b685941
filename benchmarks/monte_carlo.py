"""Monte-Carlo estimates of soft values beside the closed form (Chao et al. 2024, 4.3).

    python benchmarks/monte_carlo.py [STEPS]       # paper/monte-carlo.csv and a figure

Errors of SAC's and of soft Q-learning's estimate by the number of samples, for four sizes of
actions, at states that a trained policy visits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from tensordict import TensorDict
from torch import Tensor

from maxentflow import agents, envs
from maxentflow.agents import Trainer, TrainerConfig, compiled
from maxentflow.agents.cli.figures import STYLES

RESULTS = Path(__file__).parent / "paper"


def estimates(
    flow: Any, observation: Tensor, samples: int, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Estimates of V of some observations, ``(repeats, observations)``, with nothing learned.

    SAC's is the mean of Q - alpha log pi over samples of a tanh-Gaussian with the flow's own
    means and standard deviations before the squash; with the flow as its actor the same is exact,
    whatever the sample. SQL's is a sum over uniform actions.
    """
    alpha, size = flow.temperature, flow.action_dim
    _, _, raw = flow.sample_raw(observation, (2_000,))
    normal = torch.distributions.Normal(raw.mean(0), raw.std(0))
    found: dict[str, list[Tensor]] = {"sac": [], "sql": []}
    for _ in range(repeats):
        u = normal.sample((samples,))
        log_prob = normal.log_prob(u).sum(-1) - flow.squash(u)[1]
        q = flow.raw_q_and_value(u, observation)[0].amin(-1)
        found["sac"].append((q - alpha * log_prob).mean(0))
        action = 2 * torch.rand(samples, len(observation), size) - 1
        q = flow.q_value(action, observation).amin(-1)
        volume = size * np.log(2) - np.log(samples)
        found["sql"].append(alpha * ((q / alpha).logsumexp(0) + volume))
    return {name: torch.stack(each).double().numpy() for name, each in found.items()}


@torch.no_grad()
def errors(agent: agents.Agent, task: str) -> list[dict[str, Any]]:
    """Errors of both estimates against the closed form, at states that the policy visits."""
    env = envs.make(task, seed=0)
    observation, states = torch.as_tensor(env.reset(seed=0)[0]), []
    for _ in range(200):
        states.append(observation)
        acted = agent.policy(TensorDict(observation=observation, batch_size=[1]))
        observation = torch.as_tensor(env.step(acted["action"].numpy())[0])
    seen = torch.cat(states[::10])
    flow = agent.policy.flow
    exact = flow.value(seen).amin(-1).double().numpy()
    rows = []
    for samples in (1, 4, 16, 64, 256, 1024):
        for name, found in estimates(flow, seen, samples, repeats=20).items():
            error = np.abs(found - exact).mean(1) / flow.temperature
            mean = float(error.mean())
            half = float(stats.sem(error) * stats.t.ppf(0.975, len(error) - 1))
            rows.append(
                {
                    "task": task,
                    "action_dim": flow.action_dim,
                    "estimate": name,
                    "samples": samples,
                    "error_in_alpha": round(mean, 4),
                    "half_interval": round(half, 4),
                    "bias_in_alpha": round(float((found - exact).mean() / flow.temperature), 4),
                }
            )
    return rows


def monte_carlo(steps: int) -> None:
    """Errors of Monte-Carlo soft values of trained flows, for several sizes of actions."""
    rows = []
    for task in ("Pendulum-v1", "Hopper-v4", "HalfCheetah-v4", "Humanoid-v4"):
        torch.manual_seed(0)
        env = envs.make(task)
        made = agents.make("meow", env, paper=True, heads=1)
        config = TrainerConfig(
            total_steps=steps, warmup_steps=steps // 4, eval_every=0, replay_size=steps
        )
        Trainer(made, env, config).run(compiled.learner([made], compile=True))
        rows += errors(made, task)
    tables.write(RESULTS / "monte-carlo.csv", rows)
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    titles = {"sac": "SAC's estimate, Gaussian samples", "sql": "SQL's estimate, uniform samples"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        sizes = sorted({each["action_dim"] for each in rows})
        for style, size in zip(STYLES, sizes, strict=False):
            points = np.array(
                [
                    (each["samples"], each["error_in_alpha"], each["half_interval"])
                    for each in rows
                    if (each["estimate"], each["action_dim"]) == (name, size)
                ]
            )
            axes.errorbar(
                *points.T,
                color=style.color,
                linestyle=style.line,
                capsize=2,
                label=f"{size} entries",
            )
        axes.set(title=title, xlabel="samples", ylabel="|error of V| / alpha")
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(RESULTS / "monte-carlo.png", dpi=120)


if __name__ == "__main__":
    monte_carlo(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
