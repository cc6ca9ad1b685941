"""Small agents in double precision, made of parts, and comparisons of their states."""

from __future__ import annotations

import contextlib
import copy

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate, TD3Loss

from maxentflow import flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.objectives import DelayedUpdate, PolyakUpdate, SoftBellmanLoss, WeightAverage

OBS_DIM, ACTION_DIM = 3, 2
Adam = torch.optim.Adam


@contextlib.contextmanager
def in_double(seed=0):
    """A context in which what is made is in double precision, by this seed."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def meow(
    *,
    rate=0.01,
    max_grad_norm=None,
    average=0.0,
    tau=0.25,
    gamma=0.9,
    seed=0,
    dropout=0.25,
    dtype=torch.float64,
    loss_options=None,
    **options,
):
    """MEow with dropout and two heads, every parameter random, so that no gradient is zero."""
    torch.manual_seed(seed)
    flow = flows.build(
        options.pop("flow", "additive"),
        ACTION_DIM,
        OBS_DIM,
        temperature=0.5,
        **{
            "heads": 2,
            "log_sigma": (-1.0, 0.0),
            "scale": {"hidden": (8,)},
            "shift": {"hidden": (8,)},
            "hidden": (8,),
            "dropout": dropout,
            "blocks": 1,
            **options,
        },
    ).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return of_flow(
        flow, rate=rate, max_grad_norm=max_grad_norm, average=average, tau=tau, gamma=gamma,
        **(loss_options or {}),
    )  # fmt: skip


def of_flow(
    flow, *, rate=0.01, max_grad_norm=None, average=0.0, tau=0.25, gamma=0.9, **loss_options
):
    """MEow of a flow."""
    loss = SoftBellmanLoss(flow, **loss_options)
    loss.make_value_estimator(gamma=gamma)
    newest = flows.FlowPolicy(flow)
    updaters = [PolyakUpdate(loss, tau=tau)]
    policy = newest
    if average:
        updaters.append(WeightAverage(newest, average))
        policy = updaters[-1].module
    optimizer = Adam(loss.parameters(), lr=rate, fused=True)
    return Agent(
        name="meow",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[Step(("loss",), optimizer, max_grad_norm=max_grad_norm)],
        target_updaters=updaters,
    )


def mlp(inputs, outputs):
    return MLP(inputs, outputs, num_cells=[8], activation_class=nn.Tanh)


def critics():
    return [
        ValueOperator(mlp(OBS_DIM + ACTION_DIM, 1), in_keys=["observation", "action"])
        for _ in range(2)
    ]


def entries(params):
    return list(params.values(True, True))


def sac(*, rate=0.01, max_grad_norm=None, average=0.0, tau=0.25, gamma=0.9, seed=0, every=1):
    """TorchRL's SAC, with a step for the critics and one for the actor and the temperature."""
    with in_double(seed):
        parameters = nn.Sequential(mlp(OBS_DIM, 2 * ACTION_DIM), NormalParamExtractor())
        newest = ProbabilisticActor(
            TensorDictModule(parameters, in_keys=["observation"], out_keys=["loc", "scale"]),
            in_keys=["loc", "scale"],
            distribution_class=TanhNormal,
            distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
            return_log_prob=True,
        )
        loss = SACLoss(
            newest,
            critics(),
            loss_function="l2",
            target_entropy=-1.0,
            action_spec=Bounded(-1.0, 1.0, (ACTION_DIM,)),
        )
        loss.make_value_estimator(gamma=gamma)
    updaters, policy = [PolyakUpdate(loss, tau=tau)], newest
    if average:
        updaters.append(WeightAverage(newest, average))
        policy = updaters[-1].module
    critic, actor = entries(loss.qvalue_network_params), entries(loss.actor_network_params)
    return Agent(
        name="sac",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[
            Step(("loss_qvalue",), Adam(critic, lr=2 * rate), max_grad_norm=max_grad_norm),
            Step(
                ("loss_actor", "loss_alpha"),
                Adam([{"params": actor, "lr": rate, "eps": 1e-3}, {"params": [loss.log_alpha]}]),
                max_grad_norm=None if max_grad_norm is None else 3 * max_grad_norm,
                every=every,
            ),
        ],
        target_updaters=updaters,
    )


def td3(*, rate=0.01, max_grad_norm=None, average=0.0, tau=0.25, gamma=0.9, seed=0):
    """TorchRL's TD3, actor and targets at every second update, by TorchRL's own SoftUpdate."""
    with in_double(seed):
        network = nn.Sequential(mlp(OBS_DIM, ACTION_DIM), nn.Tanh())
        newest = TensorDictModule(network, in_keys=["observation"], out_keys=["action"])
        loss = TD3Loss(
            newest,
            critics(),
            action_spec=Bounded(-1.0, 1.0, (ACTION_DIM,)),
            loss_function="l2",
        )
        loss.make_value_estimator(gamma=gamma)
    updaters, policy = [DelayedUpdate(SoftUpdate(loss, tau=tau), 2)], newest
    if average:
        updaters.append(WeightAverage(newest, average))
        policy = updaters[-1].module
    critic, actor = entries(loss.qvalue_network_params), entries(loss.actor_network_params)
    return Agent(
        name="td3",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[
            Step(("loss_qvalue",), Adam(critic, lr=rate), max_grad_norm=max_grad_norm),
            Step(("loss_actor",), Adam(actor, lr=2 * rate), 2, max_grad_norm),
        ],
        target_updaters=updaters,
    )


MAKERS = {"meow": meow, "sac": sac, "td3": td3}


def random_batch(size=6, dtype=torch.float64):
    kind = torch.arange(size)[:, None] % 3
    return TensorDict(
        observation=torch.randn(size, OBS_DIM, dtype=dtype),
        action=torch.rand(size, ACTION_DIM, dtype=dtype) * 1.6 - 0.8,
        next=TensorDict(
            observation=torch.randn(size, OBS_DIM, dtype=dtype),
            reward=torch.randn(size, 1, dtype=dtype),
            done=kind > 0,
            terminated=kind == 1,
            batch_size=[size],
        ),
        batch_size=[size],
    )


def observed(size=4, dtype=torch.float64):
    return TensorDict(observation=torch.randn(size, OBS_DIM, dtype=dtype), batch_size=[size])


def snapshot(agent):
    return copy.deepcopy(agent.state_dict())


def tensors(entry, path="state"):
    """Every tensor of a nested state, by its path."""
    if isinstance(entry, torch.Tensor):
        return {path: entry.detach()}
    if not isinstance(entry, (dict, list, tuple)):
        return {}
    items = entry.items() if isinstance(entry, dict) else enumerate(entry)
    return {
        at: tensor
        for key, value in items
        for at, tensor in tensors(value, f"{path}/{key}").items()
    }


def changes(first, second):
    """Paths of the tensors in which two states differ."""
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    return [path for path in first if not torch.equal(first[path], second[path])]


def assert_close(ours, theirs, tolerance):
    """Entries of a tensor agree to a fraction of its largest."""
    ours, theirs = tensors(ours), tensors(theirs)
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        assert ours[path].dtype == expected.dtype, path
        scale = expected.double().nan_to_num().abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(
            ours[path],
            expected,
            rtol=0,
            atol=tolerance * scale,
            equal_nan=True,
            msg=lambda m, p=path: f"{p}: {m}",
        )
