"""Each agent trained by TorchRL's own trainer and collector, from its public parts."""

import copy
from functools import partial
from itertools import count

import pytest
import torch
from tensordict import TensorDict
from torch.nn.utils import clip_grad_norm_
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.trainers import ReplayBufferTrainer, TargetNetUpdaterHook
from torchrl.trainers import Trainer as TorchRLTrainer
from torchrl.trainers.trainers import DefaultOptimizationStepper, OptimizationStepper

from maxentflow import agents, envs
from maxentflow.agents.learner import random_state, set_random_state

from .common import AGENTS, SMALL, differences, make_trainer, task

UPDATES = 12


class Batches:
    """A collector of batches that there are already."""

    init_random_frames = 0

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter([TensorDict(batch_size=[1]) for _ in range(self.count)])

    def shutdown(self):
        pass


class Steps(OptimizationStepper):
    """An agent's steps in turn, where there are several."""

    def __init__(self, steps):
        self.steps = steps
        self.updates = count(1)

    def step(self, trainer, batch):
        update = next(self.updates)
        losses = trainer.compute_loss(batch)
        due = [step for step in self.steps if update % step.every == 0]
        for step in due:
            step.optimizer.zero_grad()
        sum(losses[name] for step in due for name in step.losses).backward()
        for step in due:
            if step.max_grad_norm is not None:
                clip_grad_norm_(step.parameters(), step.max_grad_norm)
            step.optimizer.step()
        return losses.detach()


def by_torchrl(agent, collector, frames, updates=1):
    """TorchRL's trainer with an agent's loss, optimisers and target updater."""
    step, *more = agent.steps
    trainer = TorchRLTrainer(
        collector=collector,
        total_frames=frames,
        frame_skip=1,
        optim_steps_per_batch=updates,
        loss_module=agent.loss,
        optimizer=None if more else step.optimizer,
        optimization_stepper=(
            Steps(agent.steps) if more else DefaultOptimizationStepper(step.losses)
        ),
        clip_norm=step.max_grad_norm,
        progress_bar=False,
        save_trainer_interval=10**9,
    )
    trainer.register_op("post_optim", TargetNetUpdaterHook(agent.target_updater))
    return trainer


@pytest.mark.parametrize("name", agents.registered())
@pytest.mark.quick_for("meow", "ppo", "td3")
def test_the_same_weights_by_torchrls_trainer_and_by_ours(name):
    """From the same batches and random numbers, bit for bit; the policy that is used included."""
    steps = 100 if name == "ppo" else 60
    trainer = make_trainer(agent=name, total_steps=steps, eval_every=0, checkpoint_every=0)
    agent, seen = trainer.agent, []
    start, update = copy.deepcopy(agent.state_dict()), agent.update

    def noting(batch):
        if len(seen) < UPDATES:
            scales = copy.deepcopy(agent.state_dict()["state"])  # they follow the environment
            seen.append((batch.clone(), random_state(), scales))
            report = update(batch)
            seen[-1] += (copy.deepcopy(agent.state_dict()),)
            return report
        return update(batch)

    agent.update = noting
    trainer.run()
    assert len(seen) == UPDATES

    other = agents.make(name, envs.make(task(name)), **SMALL[name])
    other.load_state_dict(start)
    theirs = by_torchrl(other, Batches(UPDATES), UPDATES)
    turn = count()

    def give(_):
        batch, state, scales, _ = seen[next(turn)]
        for part, saved in scales.items():
            other.state[part].load_state_dict(saved)
        set_random_state(state)
        return batch

    theirs.register_op("process_optim_batch", give)
    theirs.train()
    state, expected = other.state_dict(), seen[-1][3]
    for key in ("policy", "behavior", "loss", "optimizers", "target_updater"):
        assert not differences(state[key], expected[key], key)
    assert differences(start["policy"], expected["policy"])


@pytest.mark.parametrize("name", [n for n in agents.registered() if n not in ("ppo", "bc")])
@pytest.mark.quick_for("meow", "td3", "dqn")
def test_driven_by_torchrl_alone(name):
    """Its collector acts with the behaviour, its buffer keeps, its trainer learns."""
    agent = agents.make(name, envs.make(task(name)), **SMALL[name])
    before = copy.deepcopy(agent.state_dict())
    collector = Collector(
        envs.make_torchrl(task(name), seed=0),
        agent.behavior,
        frames_per_batch=20,
        total_frames=100,
        no_cuda_sync=True,
    )
    trainer = by_torchrl(agent, collector, 100, updates=4)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200), batch_size=16)
    ReplayBufferTrainer(buffer, flatten_tensordicts=True).register(trainer)
    trainer.train()
    assert len(buffer) == 100
    after = agent.state_dict()
    for key in ("policy", "behavior", "loss"):
        assert differences(before[key], after[key])
        assert all(entry.isfinite().all() for entry in after[key].values())


def test_ppo_driven_by_torchrl_alone():
    agent = agents.make("ppo", envs.make("CartPole-v1"), **SMALL["ppo"])
    before = copy.deepcopy(agent.state_dict())
    collector = Collector(
        envs.make_torchrl("CartPole-v1", seed=0),
        agent.policy,
        frames_per_batch=32,
        total_frames=96,
        no_cuda_sync=True,
    )
    trainer = by_torchrl(agent, collector, 96, updates=2)

    def advantages(batch):
        with torch.no_grad():
            return agent.rollout.estimator(batch)

    trainer.register_op("pre_epoch", advantages)
    trainer.train()
    assert differences(before["policy"], agent.policy.state_dict())


@pytest.mark.parametrize("name", AGENTS)
def test_torchrls_collector_explores_with_the_behaviour(name):
    agent = agents.make(name, envs.make(task(name)), **SMALL[name])
    collector = Collector(
        envs.make_torchrl(task(name), seed=0),
        agent.behavior,
        frames_per_batch=20,
        total_frames=20,
        no_cuda_sync=True,
    )
    (data,) = collector
    torch.manual_seed(1)
    again = agent.act(data.select("observation"))
    for key in agent.behavior.out_keys:
        assert again[key].shape == data[key].shape
        assert again[key].dtype == data[key].dtype
    if name not in ("soft-q", "dqn", "discrete-sac"):  # of two actions, chance may be the same
        assert (again["action"] != data["action"]).any()
    collector.shutdown()


@pytest.mark.slow  # each process imports torch
def test_collectors_in_other_processes_act_with_the_weights_they_are_given():
    torch.manual_seed(0)
    agent = agents.make("meow", envs.make("Pendulum-v1"), twin=False, normalize_observations=False)
    flow = agent.behavior.flow
    tasks = [partial(envs.make_torchrl, "Pendulum-v1", seed=seed) for seed in (0, 1)]
    collector = MultiSyncCollector(tasks, agent.behavior, frames_per_batch=20, total_frames=40)
    try:
        for batch in collector:
            rows = batch.reshape(-1)
            with torch.no_grad():
                expected = flow.log_prob(rows["action"], rows["observation"])
            torch.testing.assert_close(rows["action_log_prob"], expected, rtol=1e-3, atol=1e-3)
            with torch.no_grad():
                for parameter in flow.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            collector.update_policy_weights_()
    finally:
        collector.shutdown()
