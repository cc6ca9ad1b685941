"""Models, batches and the objective written out by hand, for the tests of this package."""

from __future__ import annotations

import copy

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.objectives import SoftUpdate

from maxentflow import flows
from maxentflow.objectives import SoftBellmanLoss

OBS_DIM, ACTION_DIM, TEMPERATURE = 3, 2, 0.25
GAMMA = 0.875  # a binary fraction: TorchRL keeps gamma in float32
MODELS = (*flows.registered(), "plain")
WITH_DROPOUT = [m for m in MODELS if m == "plain" or "dropout" in flows.options(m)]


class PlainModel(nn.Module):
    """The two methods that the loss requires, and dropout in both."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.q = _network(ACTION_DIM + OBS_DIM, heads)
        self.v = _network(OBS_DIM, heads)

    def q_value(self, action, observation):
        return self.q(torch.cat([action, observation], -1))

    def value(self, observation):
        return self.v(observation)


def _network(width_in, width_out):
    return nn.Sequential(
        nn.Linear(width_in, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, width_out)
    )


def make_model(name="additive", *, heads=2, dtype=torch.float64):
    """A small model in evaluation mode whose parameters are all random, shift heads included."""
    if name == "plain":
        return PlainModel(heads).to(dtype).eval()
    small = {"hidden": (8,), "blocks": 1, "dropout": 0.5}
    flow = flows.build(
        name,
        ACTION_DIM,
        OBS_DIM,
        temperature=TEMPERATURE,
        heads=heads,
        log_sigma=(-1.0, 0.0),
        scale={"hidden": (8,)},
        shift={"hidden": (8,)},
        **{key: small[key] for key in flows.options(name) if key in small},
    )
    perturb(flow, 0.3)
    return flow.to(dtype).eval()


def perturb(model, size=0.1):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))


def make_loss(model=None, *, gamma=GAMMA, **options):
    """A loss in evaluation mode, with an updater so that TorchRL does not warn."""
    loss = SoftBellmanLoss(make_model() if model is None else model, **options)
    SoftUpdate(loss, tau=0.1)
    loss.make_value_estimator(gamma=gamma)
    return loss.eval()


def moved_apart(name="additive", **options):
    """A model, its loss, and a frozen copy of the model as the target knows it."""
    model = make_model(name)
    frozen = copy.deepcopy(model)
    loss = make_loss(model, **options)
    perturb(model)
    return model, loss, frozen


def make_batch(*size, dtype=torch.float64):
    """Transitions of which each third is ordinary, terminated and truncated, in turn."""
    size = size or (6,)
    kind = torch.arange(torch.Size(size).numel()).reshape(*size, 1) % 3
    return TensorDict(
        observation=torch.randn(*size, OBS_DIM, dtype=dtype),
        action=torch.rand(*size, ACTION_DIM, dtype=dtype) * 1.6 - 0.8,
        next=TensorDict(
            observation=torch.randn(*size, OBS_DIM, dtype=dtype),
            reward=torch.randn(*size, 1, dtype=dtype),
            done=kind > 0,
            terminated=kind == 1,
            batch_size=size,
        ),
        batch_size=size,
    )


def hand_target(data, frozen, gamma=GAMMA):
    """r + gamma (1 - terminated) min_h V_h(s'), shape ``(*batch, 1)``."""
    reward, terminated = data["next", "reward"], data["next", "terminated"]
    value = frozen.value(data["next", "observation"]).detach()
    lowest = value.sort(-1).values[..., :1]
    return reward + gamma * lowest * (1 - terminated.to(reward.dtype))


def exactly(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def closely(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
