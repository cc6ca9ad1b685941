"""What SoftBellmanLoss returns, how it reduces and weighs it, and what it writes."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer
from torchrl.data.replay_buffers.samplers import prioritized as samplers

from .common import (
    MODELS,
    TEMPERATURE,
    closely,
    exactly,
    hand_target,
    make_batch,
    make_loss,
    make_model,
    moved_apart,
)

REPORTED = ["q", "value", "target", "td_error", "entropy"]


def by_hand(model, frozen, data):
    """The loss and the report of every sample."""
    q = model.q_value(data["action"], data["observation"]).detach()
    value = model.value(data["observation"]).detach()
    target = hand_target(data, frozen)
    return {
        "loss": ((q - target) ** 2).mean(-1),
        "q": q.mean(-1),
        "value": value.mean(-1),
        "target": target.squeeze(-1),
        "td_error": (q - target).abs().mean(-1),
        "entropy": ((value - q) / TEMPERATURE).mean(-1),
    }


def weights_for(data):
    return torch.rand(data.shape, dtype=torch.float64) + 0.1


@pytest.mark.parametrize("size", [(1,), (6,), (2, 3)])
def test_every_sample(size):
    model, loss, frozen = moved_apart(reduction="none")
    data = make_batch(*size)
    out = loss(data)
    assert out.batch_size == torch.Size(size)
    for key, expected in by_hand(model, frozen, data).items():
        closely(out[key].detach(), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [(6,), (2, 3)])
def test_reductions(reduction, size):
    model, loss, frozen = moved_apart(reduction=reduction)
    data = make_batch(*size)
    out, expected = loss(data), by_hand(model, frozen, data)
    assert out.batch_size == torch.Size([])
    closely(out["loss"].detach(), getattr(expected["loss"], reduction)())
    for key in REPORTED:
        closely(out[key], expected[key].mean())


def test_no_reduction_named_is_the_mean():
    model, data = make_model(), make_batch()
    exactly(make_loss(model)(data)["loss"], make_loss(model, reduction="mean")(data)["loss"])


def test_flattening_the_batch_changes_nothing():
    _, loss, _ = moved_apart(reduction="none")
    data = make_batch(2, 3)
    flat = data.reshape(6)
    expected = loss(flat)["loss"]
    closely(loss(data)["loss"], expected.reshape(2, 3))
    closely(data["td_error"], flat["td_error"].reshape(2, 3))


def test_only_the_loss_has_a_gradient():
    out = make_loss()(make_batch())
    assert out["loss"].requires_grad
    assert not any(out[key].requires_grad for key in REPORTED)


@pytest.mark.parametrize("size", [(6,), (2, 3)])
def test_the_priority_is_the_largest_error_over_heads(size):
    model, loss, frozen = moved_apart()
    data = make_batch(*size)
    loss(data)
    q = model.q_value(data["action"], data["observation"]).detach()
    error = (q - hand_target(data, frozen)).abs()
    closely(data["td_error"], torch.maximum(error[..., 0], error[..., 1]))
    assert not data["td_error"].requires_grad


def test_nothing_else_is_written_to_the_input():
    loss, data = make_loss(), make_batch()
    before = data.clone()
    loss(data)
    assert set(data.keys(True, True)) - set(before.keys(True, True)) == {"td_error"}
    assert (data.exclude("td_error") == before).all()


def test_the_entropy_of_the_policys_own_actions():
    flow = make_model()
    data = make_batch(64)
    action, log_prob = flow.sample(data["observation"])
    data["action"] = action.detach()
    # The squash is inverted in between: 1 - a**2 costs some of float64's digits.
    torch.testing.assert_close(
        make_loss(flow)(data)["entropy"], -log_prob.mean().detach(), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("option", ["auto", True])
def test_weights(option):
    model, loss, frozen = moved_apart(use_prioritized_weights=option)
    data = make_batch()
    weight = data["priority_weight"] = weights_for(data)
    each = by_hand(model, frozen, data)["loss"]
    closely(loss(data)["loss"].detach(), (weight * each).sum() / weight.sum())


@pytest.mark.parametrize("size", [(6,), (2, 3)])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_weights_under_other_reductions(reduction, size):
    model, loss, frozen = moved_apart(reduction=reduction)
    data = make_batch(*size)
    data["priority_weight"] = weights_for(data)
    expected = data["priority_weight"] * by_hand(model, frozen, data)["loss"]
    closely(loss(data)["loss"].detach(), expected.sum() if reduction == "sum" else expected)


def test_weights_switched_off():
    loss, data = make_loss(use_prioritized_weights=False), make_batch()
    expected = loss(data)["loss"]
    data["priority_weight"] = weights_for(data)
    exactly(loss(data)["loss"], expected)


@pytest.mark.parametrize("option", ["auto", True])
def test_without_weights_in_the_batch_all_count_the_same(option):
    model, loss, frozen = moved_apart(use_prioritized_weights=option)
    data = make_batch()
    closely(loss(data)["loss"].detach(), by_hand(model, frozen, data)["loss"].mean())


def test_weights_leave_the_report_and_the_priorities_alone():
    loss, data = make_loss(), make_batch()
    plain = data.clone()
    data["priority_weight"] = weights_for(data)
    out, expected = loss(data), loss(plain)
    for key in REPORTED:
        exactly(out[key], expected[key])
    exactly(data["td_error"], plain["td_error"])


@pytest.mark.parametrize("key", [("collector", "mask"), ("mine", "valid")])
def test_padded_steps_do_not_count(key):
    loss, data = make_loss(), make_batch(2, 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    data[key] = mask
    if key != ("collector", "mask"):
        loss.loss_mask_key = key
    expected = loss(data[mask].select("observation", "action", "next"))["loss"]
    closely(loss(data)["loss"], expected)


class SumTree:
    """TorchRL's compiled segment tree in plain tensors: releases of torch it lags have none."""

    empty, reduce = 0.0, torch.sum

    def __init__(self, capacity):
        self.values = torch.full((capacity,), self.empty)

    def __getitem__(self, index):
        return self.values[index]

    def __setitem__(self, index, value):
        self.values[index] = torch.as_tensor(value, dtype=self.values.dtype)

    def query(self, start, end):
        return type(self).reduce(self.values[start:end]).item()

    def scan_lower_bound(self, mass):
        return torch.searchsorted(self.values.cumsum(0), torch.as_tensor(mass).float())


class MinTree(SumTree):
    empty, reduce = float("inf"), torch.min


@pytest.fixture
def prioritized(monkeypatch):
    """Makes a prioritised buffer of 32 transitions, the same draws each time."""
    for precision in ("Fp32", "Fp64"):
        monkeypatch.setattr(samplers, f"SumSegmentTree{precision}", SumTree)
        monkeypatch.setattr(samplers, f"MinSegmentTree{precision}", MinTree)

    def make(alpha, beta):
        buffer = TensorDictPrioritizedReplayBuffer(
            alpha=alpha,
            beta=beta,
            storage=LazyTensorStorage(32),
            batch_size=64,
            priority_key="td_error",
            generator=torch.Generator().manual_seed(0),
        )
        buffer.extend(make_batch(32, dtype=torch.float32))
        return buffer

    return make


def test_with_prioritised_replay(prioritized):
    alpha, beta = 0.7, 0.9
    buffer = prioritized(alpha, beta)
    loss = make_loss(make_model(dtype=torch.float32))
    first = buffer.sample()
    loss(first)["loss"].backward()
    buffer.update_tensordict_priority(first)
    second = buffer.sample()
    priority = dict(zip(first["index"].tolist(), first["td_error"].tolist(), strict=True))
    known = [i for i, index in enumerate(second["index"].tolist()) if index in priority]
    weight = second["priority_weight"][known]
    error = torch.tensor([priority[i] for i in second["index"][known].tolist()])
    expected = error ** (-alpha * beta)
    # In float32, and TorchRL adds 1e-8 to each priority.
    torch.testing.assert_close(weight / weight[0], expected / expected[0], rtol=1e-5, atol=0)
    assert weight.std() > 0.01
    each = make_loss(make_model(dtype=torch.float32), reduction="none")
    each.load_state_dict(loss.state_dict())
    unweighted = each(second.exclude("priority_weight"))["loss"]
    average = (unweighted * second["priority_weight"]).sum() / second["priority_weight"].sum()
    torch.testing.assert_close(loss(second)["loss"], average, rtol=1e-6, atol=0)  # float32


@pytest.mark.parametrize("name", MODELS)
def test_a_single_transition_without_batch_dimensions(name):
    _, loss, _ = moved_apart(name)
    data = make_batch(1)
    expected = loss(data)["loss"]
    single = TensorDict.clone(data[0])
    closely(loss(single)["loss"], expected)
    assert single["td_error"].shape == ()
