"""SoftBellmanLoss reads the action before the squash in place of the action, where it is there."""

import math

import pytest
import torch

from maxentflow import flows

from .common import (
    ACTION_DIM,
    OBS_DIM,
    TEMPERATURE,
    closely,
    exactly,
    hand_target,
    make_batch,
    make_loss,
    make_model,
    moved_apart,
    perturb,
)


def log_slope(squash, raw):
    """Log-determinants of the squashes, written out so that they are exact at any size."""
    if squash == "tanh":
        size = raw.abs()
        return (math.log(4) - 2 * size - 2 * torch.log1p(torch.exp(-2 * size))).sum(-1)
    # Stick-breaking: x_i is a share of what is left, and the slope of a sigmoid is p (1 - p).
    left, total = torch.zeros(raw.shape[:-1], dtype=raw.dtype), 0.0
    count = raw.shape[-1]
    for index in range(count):
        # Logarithms of whole numbers are kept in single precision.
        odds = raw[..., index] - torch.tensor(count - index).log().double()
        take, leave = -torch.log1p(torch.exp(-odds)), -torch.log1p(torch.exp(odds))
        total = total + take + leave + left
        left = left + leave
    return total


def gaussian_flow(squash, normalized=False):
    """A Gaussian of a scale that the observation gives, and a squash, around two entries."""
    last = flows.TanhSquash(2) if squash == "tanh" else flows.SimplexSquash(2)
    flow = flows.EnergyBasedFlow(
        flows.StandardNormal(2),
        [flows.StateScale(2, OBS_DIM, bounds=(-1.0, 1.0), hidden=(8,)), last],
        temperature=TEMPERATURE,
        shift=flows.RewardShift(OBS_DIM, 2, hidden=(8,)),
        normalized=normalized,
    )
    perturb(flow, 0.3)
    return flow.double().eval()


def hand_q(flow, squash, raw, observation):
    """Q from its definition, of a flow of :func:`gaussian_flow`."""
    log_sigma = flow.layers[0].log_sigma(observation)
    shift = flow.shift(observation)
    energy = -0.5 * (raw / log_sigma.exp()).square().sum(-1) - log_slope(squash, raw)
    if flow.normalized:
        log_prob = energy - log_sigma.sum(-1) - math.log(2 * math.pi)
        return TEMPERATURE * log_prob.unsqueeze(-1) + shift
    return TEMPERATURE * (energy.unsqueeze(-1) + shift)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("size", [1.0, 8.0], ids=["moderate", "beyond the margin"])
@pytest.mark.parametrize("squash", ["tanh", "simplex"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(squash, size, normalized):
    flow, data = gaussian_flow(squash, normalized), make_batch(12)
    raw = data["raw_action"] = size * torch.randn(12, 2, dtype=torch.float64)
    data["action"] = torch.full((12, flow.action_dim), 0.3, dtype=torch.float64)  # not read
    parameters = list(flow.parameters())
    error = hand_q(flow, squash, raw, data["observation"]) - hand_target(data, flow)
    expected = error.square().mean()
    out = make_loss(flow)(data)
    closely(out["loss"], expected)
    closely(data["td_error"], error.abs().amax(-1).detach())
    for got, wanted in zip(
        torch.autograd.grad(out["loss"], parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        closely(got, wanted)


def test_single_precision_is_exact_beyond_the_margin():
    flow, data = gaussian_flow("tanh"), make_batch(12)
    raw = data["raw_action"] = 3 * torch.randn(12, 2, dtype=torch.float64) + 8
    expected = hand_q(flow, "tanh", raw, data["observation"]).mean().detach()
    single = data.apply(lambda x: x.float() if x.is_floating_point() else x)
    single["action"] = single["raw_action"].tanh()
    loss = make_loss(flow.float())
    torch.testing.assert_close(loss(single)["q"], expected.float(), rtol=1e-5, atol=0)
    by_action = loss(single.exclude("raw_action"))["q"]
    assert abs(by_action - expected) > 0.5


@pytest.mark.parametrize("name", flows.registered())
def test_it_is_the_loss_of_the_squashed_action(name):
    model, loss, _ = moved_apart(name)
    data = make_batch()
    expected = loss(data.clone())
    data["raw_action"] = model.unsquash(data["action"]).detach()
    data["action"] = -data["action"]
    for key, entry in loss(data).items():
        torch.testing.assert_close(entry, expected[key], rtol=1e-8, atol=1e-8)


def test_dropout_is_that_of_the_action():
    model = make_model().train()
    loss, data = make_loss(model).train(), make_batch()
    torch.manual_seed(0)
    expected = loss(data.clone())["loss"]
    data["raw_action"] = model.unsquash(data["action"]).detach()
    torch.manual_seed(0)
    torch.testing.assert_close(loss(data)["loss"], expected, rtol=1e-8, atol=0)


def test_without_the_entry_the_action_is_read():
    model, data = make_model(), make_batch()
    loss = make_loss(model)
    closely(loss(data)["q"], model.q_value(data["action"], data["observation"]).mean().detach())


def test_the_action_may_be_left_out_then():
    model, data = make_model(), make_batch()
    loss = make_loss(model)
    data["raw_action"] = torch.atanh(data.pop("action"))
    assert loss(data)["loss"].isfinite()


@pytest.mark.parametrize("new", ["renamed", ("nested", "renamed")])
def test_it_is_read_from_its_new_key(new):
    loss, data = make_loss(), make_batch()
    data["raw_action"] = torch.randn(6, ACTION_DIM, dtype=torch.float64)
    expected = loss(data.clone())["loss"]
    loss.set_keys(raw_action=new)
    assert not torch.allclose(loss(data.clone())["loss"], expected)  # the action is read
    data[new] = data.pop("raw_action")
    exactly(loss(data)["loss"], expected)


@pytest.mark.parametrize("kind", ["no squash", "plain", "categorical"])
def test_a_model_without_a_squash_reads_the_action(kind):
    data = make_batch()
    if kind == "categorical":
        model = flows.CategoricalEnergy(4, OBS_DIM, temperature=0.5, hidden=(8,)).double()
        data["action"] = torch.randint(4, (6,))
    elif kind == "plain":
        model = make_model("plain")
    else:
        model = flows.build(
            "additive", ACTION_DIM, OBS_DIM, temperature=0.5, squash="none", dropout=0.0
        ).double()
    loss = make_loss(model)
    expected = loss(data.clone())["loss"]
    data["raw_action"] = torch.full((6, ACTION_DIM), 99.0, dtype=torch.float64)
    exactly(loss(data)["loss"], expected)
