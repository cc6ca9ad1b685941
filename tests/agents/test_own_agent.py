"""Agents written here from parts of torch and TorchRL alone, trained by the unchanged trainer."""

import copy

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded, Categorical
from torchrl.modules import (
    MLP,
    AdditiveGaussianModule,
    EGreedyModule,
    QValueActor,
    ValueOperator,
)
from torchrl.objectives import DDPGLoss, DQNLoss, HardUpdate, SoftUpdate

from maxentflow import envs
from maxentflow.agents import Agent, RunFolder, Step, Trainer, TrainerConfig, evaluate

from .common import checkpoint, comparable, differences, metrics


class RunningNorm(nn.Module):
    """Observations by their running mean and deviation, learned while it acts (Welford 1962)."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("squares", torch.ones(size))

    def forward(self, x):
        return (x - self.mean) / (self.squares / self.count.clamp(min=1)).sqrt().clamp(min=1e-2)

    def learn(self, x):
        for row in x.reshape(-1, x.shape[-1]):
            self.count += 1
            before = row - self.mean
            self.mean += before / self.count
            self.squares += before * (row - self.mean)
        return x


def ddpg(env):
    """Deterministic actor, noise that falls, a normaliser beside the networks."""
    size, actions = env.single_observation_space.shape[0], env.single_action_space.shape[0]
    norm = RunningNorm(size)
    network = nn.Sequential(MLP(in_features=size, out_features=actions, num_cells=[16]), nn.Tanh())
    actor = TensorDictModule(network, in_keys=["normal"], out_keys=["action"])
    q = ValueOperator(
        MLP(in_features=size + actions, out_features=1, num_cells=[16]),
        in_keys=["normal", "action"],
    )
    normal = TensorDictModule(norm, in_keys=["observation"], out_keys=["normal"])
    learning = TensorDictModule(norm.learn, in_keys=["observation"], out_keys=["observation"])
    noise = AdditiveGaussianModule(Bounded(-1.0, 1.0, (actions,)), annealing_num_steps=100)
    policy = TensorDictSequential(normal, actor)
    loss = DDPGLoss(policy, TensorDictSequential(normal, q), delay_actor=True, delay_value=True)
    loss.make_value_estimator(gamma=0.9)
    critic, actor = (
        list(parameters.values(True, True))
        for parameters in (loss.value_network_params, loss.actor_network_params)
    )
    return Agent(
        name="ddpg",
        policy=policy,
        behavior=TensorDictSequential(learning, policy, Stepping(noise)),
        loss=loss,
        steps=[
            Step(("loss_value",), torch.optim.AdamW(critic)),
            Step(
                ("loss_actor",),
                torch.optim.SGD(actor, lr=1e-2, momentum=0.9),
                every=3,
                max_grad_norm=1.0,
            ),
        ],
        target_updaters=[SoftUpdate(loss, tau=0.05)],
        state={"normaliser": norm},
    )


def dqn(env):
    """Greedy in the end, with a learning rate that falls."""
    size, actions = env.single_observation_space.shape[0], int(env.single_action_space.n)
    policy = QValueActor(
        MLP(in_features=size, out_features=actions, num_cells=[16]),
        in_keys=["observation"],
        spec=Categorical(actions),
        action_space="categorical",
    )
    explore = EGreedyModule(Categorical(actions), annealing_num_steps=100)
    loss = DQNLoss(policy, action_space="categorical", delay_value=True)
    loss.make_value_estimator(gamma=0.9)
    optimizer = torch.optim.RMSprop(loss.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return Agent(
        name="dqn",
        policy=policy,
        behavior=TensorDictSequential(policy, Stepping(explore)),
        loss=loss,
        steps=[Step(("loss",), optimizer)],
        target_updaters=[HardUpdate(loss, value_network_update_interval=7)],
        state={"schedule": schedule},
    )


class Stepping(TensorDictSequential):
    """Exploration that falls with each action, as a collector of TorchRL has it."""

    def forward(self, tensordict):
        tensordict = super().forward(tensordict)
        self[0].step()
        return tensordict


OWN = {"ddpg": (ddpg, "Pendulum-v1"), "dqn": (dqn, "CartPole-v1")}


def trainer(name, folder=None, total_steps=120):
    build, env_id = OWN[name]
    torch.manual_seed(3)
    env = envs.make(env_id, 2)
    config = TrainerConfig(
        seed=3,
        total_steps=total_steps,
        warmup_steps=40,
        num_envs=2,
        batch_size=16,
        replay_size=100,
        eval_every=60,
        eval_episodes=2,
        log_every=20,
        checkpoint_every=50,
    )
    agent = build(env)
    if folder is not None:
        folder = RunFolder(folder)
        if not folder.config_path.exists():
            folder.create(agent, config, env_id)
    return Trainer(agent, env, config, folder, progress=False)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.quick_for("ddpg")
def test_it_trains_and_is_evaluated(tmp_path, name):
    run = trainer(name, tmp_path)
    before = copy.deepcopy(run.agent.state_dict())
    run.run()
    after = run.agent.state_dict()
    assert run.updates == 80
    changed = {path.split("/")[-1].split(".")[0] for path in differences(before, after)}
    parameters = {key.split(".")[0] for key in after["loss"] if "_params." in key}
    assert any(key.startswith("target_") for key in parameters)
    assert parameters <= changed
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == ["20", "40", "60", "80", "100", "120"]
    for step in run.agent.steps:
        assert float(rows[-1][step.losses[0]]) == float(rows[-1][step.losses[0]])  # no NaN
    result = evaluate(run.agent.policy, OWN[name][1], episodes=2, seed=1_000_000 + 3)
    assert float(rows[-1]["eval_return"]) == result.returns.mean()
    assert RunFolder(tmp_path).config()["custom"] == ["agent"]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.quick_for("dqn")
def test_it_resumes_exactly(tmp_path, name):
    """With its noise, normaliser and learning rate, which are all that it has beside weights."""
    whole, part = trainer(name, tmp_path / "whole"), trainer(name, tmp_path / "part", 100)
    whole.run()
    part.run()
    other = trainer(name, tmp_path / "part")
    other.restore(other.folder.load_checkpoint())
    assert other.step == 100
    other.run()
    state, expected = (checkpoint(tmp_path / which) for which in ("part", "whole"))
    for each in (state, expected):
        del each["experience"], each["statistics"]["finished"]
    assert not differences(comparable(state), comparable(expected))
    ours, theirs = (t.experience.buffer[:].to_dict() for t in (other, whole))
    assert not differences(ours, theirs)


def test_what_has_state_is_saved():
    run = trainer("ddpg")
    run.run()
    state = run.agent.state_dict()
    assert state["state"]["normaliser"]["count"] == 120 - 40  # one of each action of its own
    (sigma,) = (entry for key, entry in state["behavior"].items() if key.endswith("sigma"))
    assert sigma.item() == pytest.approx(1.0 - 0.9 * 40 / 100, abs=1e-5)
    dqn_run = trainer("dqn")
    dqn_run.run()
    state = dqn_run.agent.state_dict()
    assert state["state"]["schedule"]["last_epoch"] == 80
    assert state["optimizers"][0]["param_groups"][0]["lr"] == pytest.approx(1e-2 / 2**8)
    (epsilon,) = (entry for key, entry in state["behavior"].items() if key.endswith("eps"))
    assert epsilon.item() == pytest.approx(1.0 - 0.9 * 40 / 100, abs=1e-5)
