"""The target of two flows: what the first flow's policy is worth to the second."""

import copy

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from maxentflow import flows
from maxentflow.objectives import SoftBellmanLoss

GAMMA = 0.9


def make_twin(alpha: float = 0.3) -> flows.TwinFlow:
    temperature = flows.LearnedTemperature(alpha)
    first, second = (
        flows.build(
            "affine",
            2,
            3,
            temperature=temperature,
            heads=1,
            normalized=True,
            dropout=0.0,
            shift={"init": "orthogonal"},
            translation={"init": "orthogonal"},
        )
        for _ in range(2)
    )
    return flows.TwinFlow(first, second)


def make_batch(size: int = 16) -> TensorDict:
    return TensorDict(
        observation=torch.randn(size, 3),
        action=torch.rand(size, 2) * 1.8 - 0.9,
        next=TensorDict(
            observation=torch.randn(size, 3),
            reward=torch.randn(size, 1),
            done=torch.rand(size, 1) < 0.3,
            terminated=torch.zeros(size, 1, dtype=torch.bool),
            batch_size=[size],
        ),
        batch_size=[size],
    )


def make_loss(model, **options) -> SoftBellmanLoss:
    loss = SoftBellmanLoss(model, **options)
    loss.make_value_estimator(gamma=GAMMA)
    SoftUpdate(loss, tau=0.5)
    return loss


@pytest.mark.parametrize("target_entropy", [None, -1.0])
def test_targets_by_hand(target_entropy: float | None) -> None:
    """V of the target, and the disagreement of the flows as they are now."""
    torch.manual_seed(0)
    model = make_twin()
    old = copy.deepcopy(model)
    loss = make_loss(model, target_entropy=target_entropy)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:  # not the temperature
                parameter.add_(0.1 * torch.randn_like(parameter))
    batch = make_batch()
    batch["next", "terminated"] = batch["next", "done"]
    torch.manual_seed(5)
    if target_entropy is not None:
        model.sample(batch["observation"])  # the draw for the temperature comes first
    with torch.no_grad():
        following = batch["next", "observation"]
        _, log_prob, raw = model.first.sample_raw(following)
        gap = model.second.raw_log_prob(raw, following) - log_prob
        worth = old.second.value(following).squeeze(-1) + 0.3 * gap.clamp(min=-10.0)
        if target_entropy is not None:
            worth = worth - 0.3 * target_entropy
        alive = 1 - batch["next", "terminated"].float()
        target = batch["next", "reward"] + GAMMA * alive * worth.unsqueeze(-1)
        q = model.q_value(batch["action"], batch["observation"])
    assert (gap < -0.1).any()
    torch.manual_seed(5)
    out = loss(batch)
    torch.testing.assert_close(out["target"], target.mean())
    torch.testing.assert_close(out["loss"], (q - target).square().mean())


def test_both_flows_learn_and_the_target_gives_no_gradient() -> None:
    torch.manual_seed(1)
    model = make_twin()
    loss = make_loss(model, target_entropy=-1.0)
    batch = make_batch()
    out = loss(batch)
    out["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("first.shift") for name in grads)
    assert any(name.startswith("second.layers") for name in grads)
    by_hand = copy.deepcopy(model)
    by_hand.zero_grad()
    q = by_hand.q_value(batch["action"], batch["observation"])
    with torch.no_grad():  # the same targets: any constants of their size do
        constant = q - torch.randn_like(q[:, :1])
    (q - constant).square().mean().backward()
    expected = {name for name, p in by_hand.named_parameters() if p.grad is not None}
    assert set(grads) == expected


def test_scaled_and_observed_through_a_normalized_model() -> None:
    """Loss in scaled units, everything reported in units of reward."""
    torch.manual_seed(2)
    model = make_twin()
    observations, returns = flows.ObservationNorm(3), flows.ReturnScale()
    observations.update(torch.randn(50, 3) * 4 + 1)
    returns.update(torch.tensor([50.0, -20.0]))
    loss = make_loss(flows.NormalizedModel(model, observations, returns))
    plain = make_loss(copy.deepcopy(model))
    batch = make_batch()
    scaled = batch.clone()
    scaled["observation"] = observations(batch["observation"])
    scaled["next", "observation"] = observations(batch["next", "observation"])
    scaled["next", "reward"] = batch["next", "reward"] / returns()
    torch.manual_seed(3)
    ours = loss(batch)
    torch.manual_seed(3)
    theirs = plain(scaled)
    torch.testing.assert_close(ours["loss"], theirs["loss"])
    for name in ("q", "value", "target", "td_error"):
        torch.testing.assert_close(ours[name], theirs[name] * returns())
