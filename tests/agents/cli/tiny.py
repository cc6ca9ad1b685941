"""A small run from the command line, and what it leaves behind."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.training.run_folder import read_metrics

MULTIGOAL = "maxentflow/MultiGoal-v0"
PROBE = "probe/Line-v0"
TRAIN = {
    "env": PROBE,
    "total_steps": 60,
    "warmup_steps": 20,
    "batch_size": 16,
    "replay_size": 500,
    "eval_every": 30,
    "eval_episodes": 2,
    "log_every": 20,
    "checkpoint_every": 25,
}
SMALL = {
    "meow": ["--flow-options", "blocks", "1", "--no-twin"],  # half as much to compute
    "sac": ["--hidden", "8"],
    "td3": ["--hidden", "8"],
    "flow-sac": ["--hidden", "8", "--flow-options", "blocks", "1"],
    "sql": ["--hidden", "8", "--value-samples", "4", "--particles", "4"],
    "ddpg": ["--hidden", "8"],
    "bc": ["--hidden", "8", "--flow", "affine", "--flow-options", "blocks", "1"],
    "soft-q": ["--hidden", "8"],
    "discrete-sac": ["--hidden", "8"],
    "dqn": ["--hidden", "8"],
    "ppo": ["--hidden", "8", "--rollout-steps", "16", "--minibatch-size", "8", "--epochs", "2"],
}


def without_progress(text):
    """What was written to standard error, but for the lines that tell how far a run is."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"seed \d+, step [\d,]+ of ", line))


def words(folder=None, agent="meow", **changes):
    """The command line of a small training run."""
    options = {**TRAIN, **changes}
    if agent in ("ppo", "bc"):
        options["warmup_steps"] = 0
    if folder is not None:
        options["run_dir"] = folder
    flags = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return ["train", agent, *flags, *SMALL[agent]]


def stopped(arguments):
    """The exit code of a command line that does not come to its end."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in arguments])
    return stop.value.code


def checkpoint(folder):
    return torch.load(RunFolder(folder).checkpoint_path, weights_only=True)


def metrics(folder):
    """The rows of metrics.csv, less the two columns that a clock fills."""
    return [
        {key: cell for key, cell in row.items() if key not in ("seconds", "steps_per_second")}
        for row in read_metrics(RunFolder(folder))
    ]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Line(gym.Env):
    """Pays a reward for each step and never ends; one step of all may be worth nan."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, reward=1.0, spoilt=0):
        self.render_mode = render_mode
        self.reward, self.spoilt, self.steps = reward, spoilt, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = float("nan") if self.steps == self.spoilt else 1.0 * self.reward
        observation = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return observation, reward, False, False, {}

    def render(self):
        return np.full((32, 32, 3), min(int(10 * self.reward), 255), np.uint8)
