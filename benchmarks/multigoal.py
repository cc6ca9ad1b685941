"""MEow on MultiGoal, reference configuration: do the sampled episodes reach all four goals?

    python benchmarks/multigoal.py

Trains each seed, samples 400 episodes from the start, and writes multigoal.csv and a figure of
each seed next to this file.
"""

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import agents, envs
from maxentflow.envs.multigoal import Rollouts

HERE = Path(__file__).parent
ENV = "maxentflow/MultiGoal-v0"
SEEDS = (0, 1, 2)
EPISODES = 400


def sampled(agent: agents.Agent, episodes: int, seed: int) -> Rollouts:
    """Episodes of a policy's samples."""

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = TensorDict({"observation": torch.from_numpy(observation)}, [len(observation)])
        return agent.policy(seen)["action"].numpy()

    with torch.no_grad(), torch.random.fork_rng(), set_exploration_type(ExplorationType.RANDOM):
        torch.manual_seed(seed)
        return Rollouts.sample(act, episodes, seed)


@torch.no_grad()
def value(agent: agents.Agent, observation: NDArray[np.float32]) -> NDArray[np.float32]:
    return agent.policy.flow.value(torch.from_numpy(observation)).amin(-1).numpy()


def main() -> None:
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        env = envs.make(ENV)
        agent = agents.make("meow", env, paper=True)
        config = replace(agents.TrainerConfig.for_task(ENV), seed=seed, eval_every=0)
        agents.Trainer(agent, env, config).run()
        rollouts = sampled(agent, EPISODES, seed=10_000 + seed)
        rollouts.draw(HERE / f"multigoal-{seed}.png", partial(value, agent))
        shares = [(rollouts.goals == goal).mean() for goal in range(4)]
        steps = np.quantile([len(path) - 1 for path in rollouts.paths], [0.5, 0.95])
        rows.append([seed, config.total_steps, EPISODES, sum(shares), *shares, *steps])
        print(f"seed {seed}: {sum(shares):.1%} end at a goal, each {min(shares):.1%} or more")
        print(f"        in {steps[0]:.0f} steps, 95% of them in {steps[1]:.0f}")
    with open(HERE / "multigoal.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        lengths = ["median_steps", "95_percent_steps"]
        goals = [f"goal_{x:+.0f}_{y:+.0f}" for x, y in envs.GOALS]
        writer.writerow(["seed", "steps", "episodes", "reached", *goals, *lengths])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
