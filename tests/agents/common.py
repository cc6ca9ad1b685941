"""Small runs, small agents, and comparisons to the last bit, for the tests of this package."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, exploration_type

from maxentflow import agents, envs, flows
from maxentflow.agents import Agent, RunFolder, Step, Trainer, TrainerConfig
from maxentflow.agents.training.run_folder import read_metrics

MULTIGOAL = "maxentflow/MultiGoal-v0"
COUNT = "probe/Count-v0"
QUICK = "meow", "sac", "td3", "soft-q", "ppo", "bc"
AGENTS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in agents.registered()
]
"""Every agent, where each costs seconds: those of the same parts are for make test-all."""
DISCRETE = [name for name, of in agents.summaries().items() if of.actions == ("discrete",)]
TASKS = {"ppo": "Pendulum-v1", **dict.fromkeys(DISCRETE, "CartPole-v1")}
"""Where an agent does not act in MultiGoal."""
SMALL = {
    "meow": {
        "flow_options": {"blocks": 1},
        "mean_hidden": (8,),
        "scale_hidden": (8,),
        "shift_hidden": (16,),
        "twin": False,  # half as much to trace
    },
    "sac": {"hidden": (16,)},
    "td3": {"hidden": (16,)},
    "flow-sac": {"hidden": (8,), "flow_options": {"blocks": 1, "hidden": "8"}},
    "sql": {"hidden": (16,), "value_samples": 4, "particles": 4},
    "ddpg": {"hidden": (16,)},
    "bc": {"hidden": (8,), "flow": "affine", "flow_options": {"blocks": 1, "hidden": "8"}},
    "soft-q": {"hidden": (16,)},
    "discrete-sac": {"hidden": (16,)},
    "dqn": {"hidden": (16,), "epsilon_steps": 100},
    "ppo": {"hidden": (16,), "rollout_steps": 32, "epochs": 2, "minibatch_size": 16},
}
RUN = {
    "total_steps": 150,
    "warmup_steps": 40,
    "batch_size": 16,
    "replay_size": 500,
    "checkpoint_every": 45,
    "log_every": 20,
    "eval_every": 60,
    "eval_episodes": 2,
}
NO_WARMUP = {"ppo": {"warmup_steps": 0}, "bc": {"warmup_steps": 0}}
EPISODES = Path(tempfile.mkdtemp(prefix="maxentflow")) / "multigoal.npz"
"""Demonstrations for behaviour cloning."""


def _demonstrations():
    """A file of random actions in MultiGoal."""
    chance = np.random.default_rng(0)
    np.savez(
        EPISODES,
        observation=chance.normal(size=(400, 2)).astype(np.float32),
        action=chance.uniform(-1.0, 1.0, (400, 2)).astype(np.float32),
    )
    atexit.register(shutil.rmtree, EPISODES.parent, ignore_errors=True)
    return str(EPISODES)


SMALL["bc"]["dataset"] = _demonstrations()


def task(agent):
    return TASKS.get(agent, MULTIGOAL)


def checkpoint(folder, name="latest.pt"):
    return torch.load(RunFolder(folder).checkpoint_path.with_name(name), weights_only=True)


def metrics(folder):
    """The rows of metrics.csv, less the two columns that a clock fills."""
    return [
        {key: cell for key, cell in row.items() if key not in ("seconds", "steps_per_second")}
        for row in read_metrics(RunFolder(folder))
    ]


def differences(first, second, path="state"):
    """Where two nested states differ, bit for bit."""
    if type(first) is not type(second):
        return [path]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [path]
        return [
            at for key in first for at in differences(first[key], second[key], f"{path}/{key}")
        ]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [path]
        pairs = enumerate(zip(first, second, strict=True))
        return [at for i, (a, b) in pairs for at in differences(a, b, f"{path}/{i}")]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [path]
    return [] if first == second else [path]


def make_trainer(
    env_id=None,
    agent="meow",
    *,
    seed=0,
    folder=None,
    settings=None,
    experience=None,
    callbacks=(),
    **changes,
):
    """A small trainer; every configuration entry has RUN's value or the one given.

    A path given as the folder becomes a run folder, where there is none yet.
    """
    torch.manual_seed(seed)
    env_id = env_id or task(agent)
    config = TrainerConfig(**{"seed": seed, **RUN, **NO_WARMUP.get(agent, {}), **changes})
    env = envs.make(env_id, config.num_envs, workers=config.workers)
    made = agents.make(agent, env, **{**SMALL.get(agent, {}), **(settings or {})})
    if folder is not None:
        folder = RunFolder(folder)
        if not folder.config_path.exists():
            folder.create(made, config, env_id)
    return Trainer(
        made, env, config, folder, experience=experience, callbacks=callbacks, progress=False
    )


def resumed(folder, **run):
    """The trainer of :func:`make_trainer`, at the folder's checkpoint if there is one."""
    trainer = make_trainer(folder=folder, **run)
    state = trainer.folder.load_checkpoint()
    if state is not None:
        trainer.restore(state)
    return trainer


def comparable(state):
    """A state less what a clock fills, and less the settings that it was reached with."""
    return {key: entry for key, entry in state.items() if key not in ("seconds", "settings")}


def make_double_agent(env, *, heads=2, dropout=0.0, **settings):
    """MEow in double precision, every parameter random, so that no gradient is zero."""
    obs_dim, action_dim = env.single_observation_space.shape[0], env.single_action_space.shape[0]
    flow = flows.build(
        "additive",
        action_dim,
        obs_dim,
        temperature=0.5,
        heads=heads,
        log_sigma=(-1.0, 0.0),
        scale={"hidden": (8,)},
        shift={"hidden": (8,)},
        hidden=(8,),
        dropout=dropout,
    ).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return agents.meow(env, flow=flow, **settings)


class Scripted(TensorDictModuleBase):
    """A policy from a function of the observation, with noise where it is asked to explore.

    Its arithmetic is the same in every bit for any number of rows, unlike a matrix product's.
    """

    in_keys = ("observation",)
    out_keys = ("action",)

    def __init__(self, act, noise=0.25):
        super().__init__()
        self.act, self.noise = act, noise

    def forward(self, tensordict):
        action = self.act(tensordict["observation"])
        if exploration_type() == ExplorationType.RANDOM and self.noise:
            action = action + self.noise * torch.randn_like(action)
        return tensordict.set("action", action.clamp(-1.0, 1.0))


def lean(observation):
    """Three torques from eleven observations, by exact arithmetic."""
    return (2.0 * observation[..., 1:4]).clamp(-1.0, 1.0)


def scripted_agent(act, noise=0.0):
    """An agent that nothing can train, to act with."""
    policy = Scripted(act, noise)
    unused = torch.nn.Parameter(torch.zeros(()))
    return Agent("scripted", policy, policy, [Step(("none",), torch.optim.SGD([unused]))])


def plain(env_id, **kwargs):
    """The task as gymnasium makes it, actions in [-1, 1]."""
    env = gym.make(env_id, **kwargs)
    return gym.wrappers.RescaleAction(env, -1.0, 1.0)


class Count(gym.Env):
    """Observes how many steps the episode has; at one step of all, something is not finite."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode=None, spoilt="nothing", value=float("nan"), at=33):
        self.render_mode = render_mode
        self.spoilt, self.value, self.at = spoilt, value, at
        self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.total += 1
        observation, reward = np.array([self.steps, 1.0], np.float32), 1.0
        if self.total == self.at and self.spoilt == "observation":
            observation[1] = self.value
        if self.total == self.at and self.spoilt == "reward":
            reward = self.value
        return observation, reward, False, False, {}
