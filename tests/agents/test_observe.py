"""What an agent takes in of every step: running scales and raw actions, in whole runs."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from tensordict import TensorDict
from torch import nn

from maxentflow import agents, envs, flows
from maxentflow.agents import Agent, RunFolder, Step, Trainer, TrainerConfig

from .common import comparable, differences

RUN = {
    "total_steps": 60,
    "warmup_steps": 40,
    "batch_size": 16,
    "replay_size": 500,
    "checkpoint_every": 0,
    "log_every": 30,
    "eval_every": 0,
}


def run_of(env_id="Pendulum-v1", *, seed=0, folder=None, **changes):
    """A run of MEow as it is by default."""
    torch.manual_seed(seed)
    config = TrainerConfig(**{"seed": seed, **RUN, **changes})
    env = envs.make(env_id, config.num_envs)
    agent = agents.make("meow", env)
    if folder is not None:
        folder = RunFolder(folder)
        if not folder.config_path.exists():
            folder.create(agent, config, env_id)
    return Trainer(agent, env, config, folder, progress=False)


@pytest.fixture(scope="module")
def trained():
    """A run of two environments whose episodes end after 7 steps."""
    torch.set_num_threads(1)
    trainer = run_of(num_envs=2, max_episode_steps=7)
    trainer.run()
    return trainer


# The parts


class Noting(nn.Module):
    """Notes what it is shown, and adds an entry."""

    def __init__(self, name, seen):
        super().__init__()
        self.name, self.seen = name, seen

    def observe(self, transitions):
        self.seen.append((self.name, set(transitions.keys())))
        transitions[self.name] = torch.zeros(len(transitions))


def test_every_part_that_observes_is_called_in_order():
    seen, policy = [], nn.Linear(1, 1)
    agent = Agent(
        name="own",
        policy=policy,
        loss=policy,
        steps=[Step(("loss",), torch.optim.SGD(policy.parameters()))],
        state={"b": Noting("b", seen), "plain": nn.Linear(1, 1), "a": Noting("a", seen)},
    )
    agent.observe(TensorDict(observation=torch.zeros(2, 1), batch_size=[2]))
    assert seen == [("b", {"observation"}), ("a", {"observation", "b"})]


def test_meow_observes_with_its_scales_and_its_raw_actions():
    agent = agents.make("meow", envs.make("Pendulum-v1"))
    assert agent.stored == ("raw_action",)
    kinds = {name: type(part) for name, part in agent.state.items()}
    assert kinds == {
        "observations": flows.ObservationNorm,
        "returns": flows.DiscountedReturns,
        "raw_actions": flows.RawActions,
    }
    model = agent.policy.flow
    assert agent.state["observations"] is agent.loss.observations
    assert agent.state["returns"].scale is agent.loss.returns
    # The average that is evaluated has the scales of what learns.
    for one, other in zip(model.buffers(), agent.behavior.flow.buffers(), strict=True):
        assert one is other


@pytest.mark.parametrize(
    ("settings", "parts", "stored"),
    [
        ({"normalize_observations": False}, {"returns", "raw_actions"}, True),
        ({"normalize_rewards": False}, {"observations", "raw_actions"}, True),
        ({"raw_actions": False}, {"observations", "returns"}, False),
        ({"paper": True}, set(), False),
    ],
)
def test_what_is_switched_off_is_not_there(settings, parts, stored):
    agent = agents.make("meow", envs.make("Pendulum-v1"), **settings)
    assert set(agent.state) == parts
    assert agent.stored == (("raw_action",) if stored else ())
    if not parts:
        assert isinstance(agent.policy.flow, flows.EnergyBasedFlow)
    assert (agent.loss.observations is None) == ("observations" not in parts)
    assert (agent.loss.returns is None) == ("returns" not in parts)


def test_the_target_entropy_is_of_the_whole_action():
    """A setting of each entry, of a flow of one's own as well."""
    env = envs.make("maxentflow/MultiGoal-v0")
    assert agents.make("meow", env, target_entropy=-0.75).loss.target_entropy == 2 * -0.75
    fixed = agents.make("meow", env, target_entropy=None)
    assert fixed.loss.target_entropy is None
    assert len(fixed.steps) == 1
    own = flows.build("affine", 2, 2, temperature=0.1, blocks=1)
    assert agents.meow(env, flow=own).loss.target_entropy is None


def test_temperature_and_networks_have_optimizers_of_their_own():
    agent = agents.make(
        "meow",
        envs.make("Pendulum-v1"),
        learning_rate=0.5,
        flow_learning_rate=0.25,
        temperature_learning_rate=0.125,
    )
    regression, dual = agent.steps
    twin = agent.loss.network.model
    learned = twin.temperature_module.log_alpha
    assert [id(p) for p in dual.parameters()] == [id(learned)]
    assert dual.losses == ("loss_alpha",)
    assert dual.optimizer.param_groups[0]["lr"] == 0.125
    weights = {id(p) for p in twin.parameters()}
    assert {id(p) for p in agent.behavior.flow.parameters()} < weights
    assert {id(p) for p in regression.parameters()} == weights - {id(learned)}
    shifts = {id(p) for flow in (twin.first, twin.second) for p in flow.shift.parameters()}
    for group in regression.optimizer.param_groups:
        expected = 0.5 if {id(p) for p in group["params"]} <= shifts else 0.25
        assert group["lr"] == expected
    assert {id(p) for p in regression.optimizer.param_groups[0]["params"]} == shifts


def test_the_rate_of_the_flow_is_that_of_all_but_its_shift():
    """Of a flow of one's own too, whether it has a shift or not."""
    env = envs.make("maxentflow/MultiGoal-v0")
    for heads, rates in ((0, [5e-4]), (2, [1e-3, 5e-4])):
        own = flows.build("affine", 2, 2, temperature=0.1, blocks=1, heads=heads)
        optimizer = agents.meow(env, flow=own).steps[0].optimizer
        assert [group["lr"] for group in optimizer.param_groups] == rates


# In a run


def test_the_mean_is_numpys_over_the_replays_observations(trained):
    norm = trained.agent.state["observations"]
    kept = trained.experience.buffer[:]["observation"].double().numpy()
    assert len(kept) == 60
    assert norm.count.item() == pytest.approx(60, abs=1e-3)
    # In single precision; what is assumed before the first step counts as 1e-4 observations.
    np.testing.assert_allclose(norm.mean, kept.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(norm.variance, kept.var(0), rtol=1e-4, atol=1e-5)


def test_the_scale_is_numpys_over_the_replays_discounted_returns(trained):
    kept = trained.experience.buffer[:]
    reward, done = (
        kept["next", key].double().numpy().reshape(-1, 2) for key in ("reward", "done")
    )
    gamma, found = trained.agent.config.gamma, []
    for row, ends in zip(reward.T, done.T, strict=True):
        cuts = np.flatnonzero(ends) + 1
        found += [lfilter([1], [1, -gamma], part) for part in np.split(row, cuts) if len(part)]
    assert len(found) == 2 * -(-30 // 7)
    returns = np.concatenate(found)
    expected = max(returns.std(), np.abs(returns).max() / 5)
    assert trained.agent.state["returns"].scale().item() == pytest.approx(expected, rel=1e-4)


def test_raw_actions_are_kept_of_random_and_of_the_policys_steps(trained):
    kept = trained.experience.buffer[:]
    action, raw = kept["action"], kept["raw_action"]
    assert raw.shape == action.shape == (60, 1)
    random, own = slice(0, 40), slice(40, 60)
    inverse = torch.atanh(action[random].double().clamp(-1 + 1e-5, 1 - 1e-5))
    # Single precision rounds an action by 6e-8, which atanh magnifies by up to 5e4.
    torch.testing.assert_close(raw[random].double(), inverse, rtol=1e-4, atol=5e-3)
    # The policy's own are those that it drew, from which the action follows to the bit.
    assert torch.equal(raw[own].tanh(), action[own])


def test_batches_bring_the_raw_actions(trained):
    batch = next(iter([trained.experience.buffer.sample(8)]))
    assert batch["raw_action"].shape == (8, 1)
    report = trained.agent.loss(batch)
    assert report["loss"].isfinite()
    assert report["entropy"].isfinite()


def test_one_environment_and_one_without_end():
    trainer = run_of(total_steps=45)
    trainer.run()
    kept = trainer.experience.buffer[:]["observation"].double().numpy()
    mean = trainer.agent.state["observations"].mean
    np.testing.assert_allclose(mean, kept.mean(0), rtol=0, atol=1e-5)


# Going on


@pytest.mark.slow
@pytest.mark.parametrize(("num_envs", "at"), [(1, 50), (2, 20), (2, 50)])
def test_a_restored_run_goes_on_to_the_bit(num_envs, at):
    """In the warm-up and after it, within an episode, in another agent of another seed."""
    whole = run_of(num_envs=num_envs, max_episode_steps=7)
    whole.run()
    part = run_of(num_envs=num_envs, max_episode_steps=7, total_steps=at)
    part.run()
    state = part.state()
    other = run_of(num_envs=num_envs, max_episode_steps=7, seed=5)
    other.restore(state)
    other.run()
    one, two = comparable(whole.state()), comparable(other.state())
    for each in (one, two):  # a run that ends writes a row, which empties this
        each["statistics"].pop("finished")
    assert not differences(one, two)
    running = one["state"]["returns"]["_extra_state"]
    assert running.shape == (num_envs, 1)


@pytest.mark.slow
def test_a_run_goes_on_from_its_folder(tmp_path):
    run = {"checkpoint_every": 45, "max_episode_steps": 7}
    whole = run_of(folder=tmp_path / "whole", **run)
    whole.run()
    part = run_of(folder=tmp_path / "part", **run)
    part.config.total_steps = 45
    part.run()
    other = run_of(folder=tmp_path / "part", seed=0, **run)
    other.restore(other.folder.load_checkpoint())
    assert other.step == 45
    other.run()
    one, two = comparable(whole.state()), comparable(other.state())
    for each in (one, two):
        each["statistics"].pop("finished")
    assert not differences(one, two)


def test_a_run_that_stops_at_its_first_step_can_be_restored():
    """Nothing is stored then, not even the form of a raw action."""
    trainer = run_of()
    step = trainer.env.step

    def spoil(action):
        observation, *rest = step(action)
        return np.full_like(observation, np.nan), *rest

    trainer.env.step = spoil
    with pytest.raises(agents.NonFiniteError):
        trainer.run()
    state = trainer.state()
    assert state["step"] == 0
    other = run_of(total_steps=45)
    other.restore(state)
    other.run()
    assert len(other.experience.buffer) == 45
