"""MEow on MultiGoal, reference configuration: do the sampled episodes reach all four goals?

    python benchmarks/multigoal.py

Trains each seed, samples 400 episodes from the start, and writes multigoal.csv and a figure of
each seed next to this file.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import policies
import tables
import torch

from maxentflow import agents, envs
from maxentflow.envs.multigoal import draw

HERE = Path(__file__).parent
ENV = "maxentflow/MultiGoal-v0"
SEEDS = (0, 1, 2)
EPISODES = 400


def main() -> None:
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        env = envs.make(ENV)
        agent = agents.make("meow", env, paper=True)
        config = replace(agents.TrainerConfig.for_task(ENV), seed=seed, eval_every=0)
        agents.Trainer(agent, env, config).run()
        rollouts = policies.episodes(
            agent.policy, envs.MultiGoalEnv, EPISODES, outcome="goal", seed=10_000 + seed
        )
        draw(rollouts, HERE / f"multigoal-{seed}.png", partial(policies.value, agent))
        shares = [(rollouts.outcomes == goal).mean() for goal in range(4)]
        steps = np.quantile([len(path) - 1 for path in rollouts.paths], [0.5, 0.95])
        goals = {
            f"goal_{x:+.0f}_{y:+.0f}": share
            for (x, y), share in zip(envs.GOALS, shares, strict=True)
        }
        rows.append(
            {
                "seed": seed,
                "steps": config.total_steps,
                "episodes": EPISODES,
                "reached": sum(shares),
                **goals,
                "median_steps": steps[0],
                "95_percent_steps": steps[1],
            }
        )
        print(f"seed {seed}: {sum(shares):.1%} end at a goal, each {min(shares):.1%} or more")
        print(f"        in {steps[0]:.0f} steps, 95% of them in {steps[1]:.0f}")
    tables.write(HERE / "multigoal.csv", rows)


if __name__ == "__main__":
    main()
