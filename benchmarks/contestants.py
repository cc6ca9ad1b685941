"""What speed.py times side by side, each in a process of its own.

    python benchmarks/contestants.py NAME ENV THREADS [REFERENCE]

Says ``ready`` when it has warmed up; then for every line that it reads it goes on for a while and
writes its figures, in milliseconds, as one line of JSON.
"""

import contextlib
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import gymnasium as gym
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WARMUP = 1_000  # steps before the first update; TorchRL's recipe learns every 1,000 steps
FIRST = 1_000  # and steps before the first figure, with compilation
STEPS = 1_000  # for each figure
UPDATES = 100
LENGTHY = 10**7
FIRST_OPERAND = {
    torch.ops.aten.mm: 0,
    torch.ops.aten.bmm: 0,
    torch.ops.aten.addmm: 1,
    torch.ops.aten.baddbmm: 1,
}

answers = sys.stdout


def answer(line: str) -> None:
    """Write a line, and wait for leave to go on."""
    print(line, file=answers, flush=True)
    if not sys.stdin.readline():
        os._exit(0)


class Stopwatch:
    """Times of named parts of a loop."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time noted."""

        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **options)
            self.add(name, time.perf_counter() - began)
            return result

        return timed

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self, times: int) -> dict[str, float]:
        """Milliseconds of each part, for one of so many rounds, from the last call on."""
        figures = {name: seconds / times * 1e3 for name, seconds in self._seconds.items()}
        self._seconds = {}
        return figures


watch = Stopwatch()


class Metronome(gym.Wrapper):
    """Counts the steps of whoever trains in it, and holds it up after every ``STEPS``."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._left = WARMUP + FIRST
        self._began = time.perf_counter()
        self._warm = False
        self._step = watch.around("physics", env.step)

    def step(self, action: Any) -> Any:
        if self._left == 0:
            whole = (time.perf_counter() - self._began) / STEPS * 1e3
            figures = {"training step": whole, **watch.take(STEPS)}
            answer(json.dumps(figures) if self._warm else "ready")
            self._warm = True
            self._left = STEPS
            self._began = time.perf_counter()
        self._left -= 1
        return self._step(action)


def timed(env_id: str) -> str:
    """The name of a task in a metronome, and without a time limit."""
    gym.register(
        "Timed-v0",
        entry_point=lambda **options: Metronome(gym.make(env_id, max_episode_steps=-1, **options)),
    )
    return "Timed-v0"


def maxentflow(env_id: str, compile: bool) -> None:
    from maxentflow import agents, envs
    from maxentflow.agents import compiled

    torch.manual_seed(0)
    settings = agents.config("meow", env_id, paper=True)
    env = envs.make(timed(env_id))
    config = agents.TrainerConfig(
        total_steps=LENGTHY,
        warmup_steps=WARMUP,
        eval_every=0,
        checkpoint_every=0,
        threads=torch.get_num_threads(),
    )
    agent = agents.meow(env, settings)
    trainer = agents.Trainer(agent, env, config, progress=False)
    learner: Any = compiled.learner([agent], compile=compile)
    learner.update = watch.around("update", learner.update)
    learner.act = watch.around("act", learner.act)
    experience: Any = trainer.experience
    experience.add = watch.around("store", experience.add)
    experience.buffer.sample = watch.around("sample", experience.buffer.sample)
    trainer.run(learner)


def stable_baselines3(env_id: str) -> None:
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", timed(env_id), learning_starts=WARMUP, device="cpu")
    model.learn(LENGTHY)


def sbx(env_id: str) -> None:
    from sbx import SAC

    SAC("MlpPolicy", timed(env_id), learning_starts=WARMUP).learn(LENGTHY)


def torchrl(env_id: str) -> None:
    """The loop of TorchRL's SAC recipe: 1,000 steps, then as many updates."""
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torch import nn, optim
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.envs import DoubleToFloat, GymEnv, InitTracker, RewardSum, TransformedEnv
    from torchrl.envs.transforms import Compose
    from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import SACLoss, SoftUpdate

    env = TransformedEnv(
        GymEnv(timed(env_id)), Compose(InitTracker(), DoubleToFloat(), RewardSum())
    )
    obs_dim = env.observation_spec["observation"].shape[-1]
    spec = env.action_spec
    hidden = {"num_cells": [256, 256], "activation_class": nn.ReLU}
    network = nn.Sequential(
        MLP(in_features=obs_dim, out_features=2 * spec.shape[-1], **hidden),
        NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=0.1),
    )
    actor = ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high, "tanh_loc": False},
    )
    critic = ValueOperator(
        MLP(in_features=obs_dim + spec.shape[-1], out_features=1, **hidden),
        in_keys=["action", "observation"],
    )
    loss = SACLoss(actor, critic, num_qvalue_nets=2, loss_function="l2", delay_qvalue=True)
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, eps=0.995)
    optimizers = {
        "loss_actor": optim.Adam(loss.actor_network_params.flatten_keys().values(), lr=3e-4),
        "loss_qvalue": optim.Adam(loss.qvalue_network_params.flatten_keys().values(), lr=3e-4),
        "loss_alpha": optim.Adam([loss.log_alpha], lr=3e-4),
    }
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000_000), batch_size=256)
    collector = Collector(
        env,
        actor,
        init_random_frames=WARMUP,
        frames_per_batch=1_000,
        total_frames=LENGTHY,
        device="cpu",
    )
    collected = 0
    for data in collector:
        replay.extend(data.reshape(-1))
        collected += data.numel()
        if collected <= WARMUP:
            continue
        for _ in range(data.numel()):
            report = loss(replay.sample())
            for name, optimizer in optimizers.items():
                optimizer.zero_grad()
                report[name].backward()
                optimizer.step()
            target.step()


def reference(env_id: str, checkout: str) -> None:
    """The public MEow code as it is; its update is what lies between a sample and an action."""
    sys.path[:0] = [
        os.path.join(checkout, "cleanrl"),
        os.path.join(checkout, "cleanrl", "cleanrl"),
    ]
    import meow_continuous_action as meow

    from maxentflow import agents

    sampled: list[float] = []
    sample, act = meow.ReplayBuffer.sample, meow.FlowPolicy.sample

    def noted_sample(*args: Any, **options: Any) -> Any:
        batch = sample(*args, **options)
        sampled.append(time.perf_counter())
        return batch

    def noted_act(*args: Any, **options: Any) -> Any:
        if sampled:
            watch.add("update", time.perf_counter() - sampled.pop())
        return act(*args, **options)

    meow.ReplayBuffer.sample, meow.FlowPolicy.sample = noted_sample, noted_act
    meow.SummaryWriter = MagicMock()
    # Its evaluation, which is not what is timed, does not run with gymnasium 1.
    meow.evaluate = lambda *_, **__: -np.inf
    gym.make_vec = lambda env_id, num_envs: gym.make(env_id)
    settings = agents.config("meow", env_id, paper=True)
    meow.train(
        meow.Args(
            env_id=timed(env_id),
            cuda=False,
            total_timesteps=LENGTHY,
            learning_starts=WARMUP,
            alpha=settings.temperature,
            tau=settings.tau,
            sigma_min=settings.log_sigma[0],
            sigma_max=settings.log_sigma[1],
        )
    )


def parts(env_id: str) -> None:
    """An update, its own matrix products, and what it is made of, each on its own; what we wrote
    by hand beside the form that a library has of it."""
    from torch import nn
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.objectives import SoftUpdate

    from maxentflow import agents, envs, flows
    from maxentflow.agents.compiled import CompiledLearner
    from maxentflow.agents.learner import RandomStreams
    from maxentflow.agents.training.session import session

    torch.manual_seed(0)
    env = envs.make(env_id)
    agent, twin, library = (agents.make("meow", env, paper=True) for _ in range(3))
    config = agents.TrainerConfig(
        total_steps=2 * WARMUP,
        warmup_steps=WARMUP,
        eval_every=0,
        threads=torch.get_num_threads(),
    )
    trainer = agents.Trainer(agent, env, config, progress=False)
    trainer.run()
    as_in_a_run = contextlib.ExitStack()  # left with the process
    as_in_a_run.enter_context(session(config.threads))
    for other in (twin, library):
        other.load_state_dict(copy.deepcopy(agent.state_dict()))
    replay: Any = trainer.experience
    sample = partial(replay.buffer.sample, config.batch_size)
    products = MatrixProducts()
    with products:
        agent.update(sample())

    learner, streams = CompiledLearner(twin), RandomStreams(1)
    observation = sample()[:1].select("observation")
    began = time.perf_counter()
    learner.prepare([sample()], [observation])
    print(f"{env_id}: {products.flops() / 1e9:.3f} GFLOP in an update's matrix products,")
    print(f"compiled in {time.perf_counter() - began:.0f} s")
    library.loss = torch.compile(library.loss)  # what torch and TorchRL offer
    library.target_updater = SoftUpdate(agent.loss, tau=agent.config.tau)
    for _ in range(UPDATES):  # it is compiled more than once
        library.update(sample())

    torchrl_replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(WARMUP), batch_size=config.batch_size
    )
    torchrl_replay.extend(replay.buffer[:])
    hidden = torch.randn(config.batch_size * 2, 64)
    ours, theirs = flows.Dropout(0.1), nn.Dropout(0.1)
    answer("ready")
    while True:
        figures = {"matrix products": milliseconds(products.repeat)}
        updates = {
            "update": agent.update,
            "update, compiled": lambda batch: learner.update([batch], streams),
            "update, torch.compile of the loss": library.update,
        }
        for name, update in updates.items():
            batches = iter([sample() for _ in range(UPDATES)])  # a loss writes into its batch
            figures[name] = milliseconds(lambda update=update, of=batches: update(next(of)))
        figures["forward"] = milliseconds(partial(agent.loss, sample()))
        losses = [agent.loss(sample())["loss"] for _ in range(10)]
        figures["backward"] = float(np.mean([milliseconds(loss.backward, 1) for loss in losses]))
        (step,) = agent.steps
        figures["optimiser"] = milliseconds(partial(_stand_still, step.optimizer))
        figures["target"] = milliseconds(agent.target_updaters[0].step)
        figures["target, TorchRL"] = milliseconds(library.target_updater.step)
        figures["sample"] = milliseconds(sample)
        figures["sample, TorchRL"] = milliseconds(torchrl_replay.sample)
        figures["dropout"] = milliseconds(partial(ours, hidden))
        figures["dropout, torch"] = milliseconds(partial(theirs, hidden))
        answer(json.dumps(figures))


class MatrixProducts(TorchDispatchMode):
    """Notes the operands of every matrix product, to repeat them on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[list[torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = FIRST_OPERAND.get(func.overloadpacket)
        if first is not None:
            self.operands.append([_like(tensor) for tensor in args[first : first + 2]])
        return func(*args, **(kwargs or {}))

    def repeat(self) -> None:
        with torch.no_grad():
            for left, right in self.operands:
                left @ right

    def flops(self) -> int:
        return sum(2 * left.numel() * right.shape[-1] for left, right in self.operands)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Random numbers in the shape and memory layout of a tensor."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.randn(last + 1).as_strided(tensor.shape, tensor.stride())


def _stand_still(optimizer: torch.optim.Optimizer) -> None:
    """A step of size zero: a hundred along one gradient ruin an agent, which then is slow."""
    sizes = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, size in zip(optimizer.param_groups, sizes, strict=True):
        group["lr"] = size


def milliseconds(function: Callable[[], object], times: int = UPDATES) -> float:
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times * 1e3


REFERENCE = "reference MEow"  # which alone needs a checkout
CONTESTANTS: dict[str, Callable[..., None]] = {
    "maxentflow MEow, in parts": parts,
    "maxentflow MEow, compiled": partial(maxentflow, compile=True),
    "maxentflow MEow": partial(maxentflow, compile=False),
    "stable-baselines3 SAC": stable_baselines3,
    "SBX SAC": sbx,
    "TorchRL SAC": torchrl,
    REFERENCE: reference,
}


def main(name: str, env_id: str, threads: str, *checkout: str) -> None:
    sys.stdout = sys.stderr  # what the libraries print
    # Libraries take their number of threads from the cores that they may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    torch.set_num_threads(int(threads))
    CONTESTANTS[name](env_id, *checkout)


if __name__ == "__main__":
    main(*sys.argv[1:])
