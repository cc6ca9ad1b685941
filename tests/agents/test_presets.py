"""The reference configuration and its table of tasks, number by number."""

import pytest
import torch
from torch import nn

from maxentflow import agents, envs, flows
from maxentflow.agents import MeowConfig, TrainerConfig
from maxentflow.agents.presets import GENERAL, preset
from maxentflow.flows.batched_mlp import BatchedLinear

# Chao et al. 2024, appendix: steps, tau, alpha, log-sigma max and min, warm-up, gamma
TABLE = {
    "Hopper": (1_500_000, 0.005, 0.25, -0.3, -5, 5_000, 0.99),
    "HalfCheetah": (1_500_000, 0.003, 0.25, 2.0, -5, 10_000, 0.99),
    "Walker2d": (4_000_000, 0.005, 0.1, -0.3, -5, 10_000, 0.99),
    "Ant": (4_000_000, 0.0001, 0.05, -0.3, -5, 5_000, 0.99),
    "Humanoid": (5_000_000, 0.0005, 0.125, -0.3, -5, 5_000, 0.99),
}
ROWS = [
    *((f"{task}-v{version}", *row) for task, row in TABLE.items() for version in (4, 5)),
    ("maxentflow/MultiGoal-v0", 4_000, 0.0005, 2.5, 1.0, -2, 1_000, 0.9),
]


@pytest.mark.parametrize(
    ("env_id", "steps", "tau", "alpha", "high", "low", "warmup", "gamma"), ROWS
)
def test_the_table(env_id, steps, tau, alpha, high, low, warmup, gamma):
    config = MeowConfig.paper(env_id)
    assert (config.tau, config.temperature, config.gamma) == (tau, alpha, gamma)
    assert config.log_sigma == (low, high)
    trainer = TrainerConfig.for_task(env_id, paper=True)
    assert (trainer.total_steps, trainer.warmup_steps) == (steps, warmup)
    assert {agents.config(name, env_id).gamma for name in agents.registered()} == {gamma}


@pytest.mark.parametrize("env_id", [row[0] for row in ROWS])
def test_what_all_tasks_share(env_id):
    config, trainer = MeowConfig.paper(env_id), TrainerConfig.for_task(env_id)
    assert (config.flow, config.flow_options, config.heads) == ("additive", {}, 2)
    assert (config.learning_rate, config.max_grad_norm) == (1e-3, 30)
    assert (trainer.batch_size, trainer.replay_size) == (256, 1_000_000)
    assert (trainer.num_envs, trainer.utd_ratio) == (1, 1)
    assert trainer.eval_episodes == 10
    # In MuJoCo as in the paper; MultiGoal's whole run is shorter than that.
    assert trainer.max_episode_steps == (40 if env_id.startswith("maxentflow/") else None)
    assert trainer.eval_every == (500 if env_id.startswith("maxentflow/") else 10_000)


# Chao et al. 2024, appendix, Isaac Gym: tau, alpha, log-sigma max and min, copies
ROBOTS = {
    "torchrl:Brax/ant": (0.0005, 0.075, 2.0, -5, 128),
    "torchrl:Brax/humanoid": (0.00025, 0.25, -0.3, -5, 128),
    "torchrl:MJLab/Mjlab-Velocity-Flat-Unitree-Go1": (0.025, 0.00075, -1.0, -5, 128),
    "torchrl:MJLab/Mjlab-Velocity-Rough-Unitree-Go1": (0.025, 0.00075, -1.0, -5, 128),
    "torchrl:MujocoPlayground/LeapCubeReorient": (0.001, 0.1, -0.3, -4, 512),
    "torchrl:MujocoPlayground/PandaOpenCabinet": (0.01, 0.075, -0.3, -5, 512),
}


@pytest.mark.parametrize("env_id", ROBOTS)
def test_the_table_of_robots(env_id):
    tau, alpha, high, low, copies = ROBOTS[env_id]
    config, trainer = MeowConfig.paper(env_id), TrainerConfig.for_task(env_id)
    assert (config.tau, config.temperature, config.log_sigma) == (tau, alpha, (low, high))
    assert config.normalize_observations
    assert (trainer.num_envs, trainer.replay_size) == (copies, 15_000 * copies)
    assert trainer.utd_ratio * copies == 1


@pytest.mark.parametrize("env_id", [None, "", "Pendulum-v1", "Ant", "MultiGoal-v0", "my/Ant-v4"])
def test_other_tasks_get_the_general_settings(env_id):
    assert preset(env_id) == GENERAL
    assert MeowConfig.for_task(env_id) == MeowConfig()


def linears(module):
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def widths(module):
    return [(part.in_features, part.out_features) for part in linears(module)]


@pytest.mark.parametrize(
    ("env_id", "obs_dim", "action_dim"),
    [("Hopper-v4", 11, 3), ("HalfCheetah-v5", 17, 6), ("maxentflow/MultiGoal-v0", 2, 2)],
)
def test_the_flow(env_id, obs_dim, action_dim):
    agent = agents.make("meow", envs.make(env_id), paper=True)
    flow = agent.policy.flow
    row = next(row for row in ROWS if row[0] == env_id)
    scale, *couplings, squash = flow.layers

    assert isinstance(flow.base, flows.StandardNormal)
    assert isinstance(scale, flows.StateScale)
    assert scale.bounds == (row[5], row[4])
    assert flow.temperature == row[3]
    assert widths(scale.net) == [(obs_dim, 64), (64, 64), (64, action_dim)]

    assert len(couplings) == 2 * 2
    even = torch.arange(action_dim) % 2 == 0
    for index, coupling in enumerate(couplings):
        assert isinstance(coupling, flows.AdditiveCoupling)
        assert torch.equal(coupling.mask.bool(), even if index % 2 == 0 else ~even)
        assert [type(part).__name__ for part in coupling.net] == [
            *["Linear", "LayerNorm", "Swish", "Dropout"] * 2,
            "Linear",
        ]
        assert widths(coupling.net) == [(action_dim + obs_dim, 64), (64, 64), (64, action_dim)]
        assert {part.p for part in coupling.net if isinstance(part, flows.Dropout)} == {0.1}

    assert isinstance(squash, flows.TanhSquash)
    ends, _ = squash.inverse(torch.ones(1, action_dim))
    # atanh(1 - 1e-5); single precision rounds its argument by 3e-8, which atanh magnifies.
    torch.testing.assert_close(ends, torch.full_like(ends, 6.1030), rtol=0, atol=1e-3)

    assert flow.shift.heads == 2
    shapes = [
        tuple(part.weight.shape)
        for part in flow.shift.modules()
        if isinstance(part, BatchedLinear)
    ]
    assert shapes == [(2, obs_dim, 256), (2, 256, 256), (2, 256, 1)]


def test_swish_has_a_slope_for_each_unit():
    flow = agents.make("meow", envs.make("Hopper-v4"), paper=True).policy.flow
    slopes = [part.beta for part in flow.modules() if isinstance(part, flows.Swish)]
    sizes = sorted(beta.numel() for beta in slopes)
    assert sizes == [64] * (2 + 4 * 2) + [2 * 256] * 2
    assert all((beta == 1).all() for beta in slopes)


def test_weights_at_the_start():
    flow = agents.make("meow", envs.make("Hopper-v4"), paper=True).policy.flow
    scale, *couplings, _ = flow.layers
    zero = [part.weight for part in flow.shift.modules() if isinstance(part, BatchedLinear)]
    for weight in [*zero, *(part.weight for part in linears(scale))]:
        assert (weight == 0).all()
    for part in (part for coupling in couplings for part in linears(coupling)):
        weight = part.weight.detach().double()
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        # Orthogonal in single precision.
        torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-5)
        bound = 1 / part.in_features**0.5
        assert 0 < part.bias.abs().max() <= bound


def test_the_optimizer_is_adam():
    (step,) = agents.make("meow", envs.make("Hopper-v4"), paper=True).steps
    optimizer = step.optimizer
    assert type(optimizer) is torch.optim.Adam
    assert step.max_grad_norm == 30
    (group,) = optimizer.param_groups
    assert group["lr"] == 1e-3
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)
