"""Train for very long at next to nothing, and watch what the process holds.

python -m tests.agents.training.leaking --steps 1000000
"""

import argparse
import os
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

from maxentflow import agents, envs
from maxentflow.agents import RunFolder, Trainer, TrainerConfig
from maxentflow.agents.training import Callback

LENGTH = 50  # of an episode
COPIES = 8  # of the environment
REPLAY = 1_000


class Nothing(gym.Env):
    """Observes the same and pays nothing, for ever."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Watch(Callback):
    """Notes at each row of the metrics: the step, resident bytes, file handles, processes."""

    def __init__(self):
        self.rows = []

    def on_log(self, trainer, row):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        handles = len(os.listdir("/proc/self/fd"))
        tasks = os.listdir("/proc/self/task")
        children = [Path(f"/proc/self/task/{task}/children").read_text().split() for task in tasks]
        size = os.sysconf("SC_PAGE_SIZE")
        processes = len(tasks) + sum(map(len, children))
        self.rows.append((trainer.step, pages * size, handles, processes))


def watched(steps, rows):
    """What a run of Nothing holds, at each row of its metrics."""
    gym.register("probe/Nothing-v0", Nothing, max_episode_steps=LENGTH, disable_env_checker=True)
    env = envs.make("probe/Nothing-v0", COPIES)
    agent = agents.make("ddpg", env, hidden=(4,))
    every = steps // rows
    config = TrainerConfig(
        total_steps=steps,
        num_envs=COPIES,
        warmup_steps=100,
        replay_size=REPLAY,
        batch_size=4,
        utd_ratio=0.01,
        log_every=every,
        checkpoint_every=2 * every,
        eval_every=4 * every,
        eval_episodes=1,
    )
    watch = Watch()
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create(agent, config, "probe/Nothing-v0")
        Trainer(agent, env, config, folder, callbacks=[watch], progress=False).run()
    return watch.rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    rows = watched(parser.parse_args().steps, 200)
    for step, resident, handles, processes in rows:
        print(f"step {step}: {resident / 2**20:.2f} MB, {handles} handles, {processes} processes")
