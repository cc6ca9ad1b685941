"""The regression of SoftBellmanLoss and its target, against formulas written out by hand."""

import copy

import pytest
import torch
from tensordict import TensorDict
from torchrl.data.postprocs import MultiStep
from torchrl.objectives import ValueEstimators
from torchrl.objectives.value import TD0Estimator

from maxentflow import flows
from maxentflow.objectives import SoftBellmanLoss

from .common import (
    GAMMA,
    MODELS,
    OBS_DIM,
    closely,
    exactly,
    hand_target,
    make_batch,
    make_loss,
    make_model,
    moved_apart,
    perturb,
)

DISTANCES = {
    "l2": lambda error: error**2,
    "l1": lambda error: error.abs(),
    "smooth_l1": lambda error: torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5),
}


def hand_lambda_returns(data, frozen, gamma, lmbda):
    """Backwards over time: G = r + gamma (1 - terminated) ((1 - lmbda) V' + lmbda G')."""
    reward, done = data["next", "reward"], data["next", "done"]
    alive = 1 - data["next", "terminated"].to(reward.dtype)
    value = frozen.value(data["next", "observation"]).detach().amin(-1, keepdim=True)
    returns, later = torch.zeros_like(reward), value[:, -1]
    for t in reversed(range(reward.shape[1])):
        ended = done[:, t] | (t == reward.shape[1] - 1)
        blend = torch.where(ended, value[:, t], (1 - lmbda) * value[:, t] + lmbda * later)
        later = reward[:, t] + gamma * alive[:, t] * blend
        returns[:, t] = later
    return returns


def td_lambda(lmbda):
    # TorchRL's vectorised form fails at lmbda = 0 on an empty filter.
    return {
        "value_type": ValueEstimators.TDLambda,
        "gamma": GAMMA,
        "lmbda": lmbda,
        "vectorized": lmbda > 0,
    }


@pytest.mark.parametrize("function", DISTANCES)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients(name, function):
    model, loss, frozen = moved_apart(name, loss_function=function)
    data = make_batch(12)
    parameters = list(model.parameters())
    error = model.q_value(data["action"], data["observation"]) - hand_target(data, frozen)
    expected = DISTANCES[function](error).sum() / (12 * 2)
    actual = loss(data)["loss"]
    closely(actual, expected)
    options = {"allow_unused": True, "materialize_grads": True}
    for got, wanted in zip(
        torch.autograd.grad(actual, parameters, **options),
        torch.autograd.grad(expected, parameters, **options),
        strict=True,
    ):
        closely(got, wanted)


@pytest.mark.parametrize("heads", [0, 1, 3])
def test_any_number_of_heads(heads):
    model = make_model("affine", heads=heads)
    loss, data = make_loss(model), make_batch()
    error = model.q_value(data["action"], data["observation"]) - hand_target(data, model)
    closely(loss(data)["loss"], (error**2).mean())


def test_terminated_steps_do_not_bootstrap_and_truncated_ones_do():
    model = make_model()
    loss, data = make_loss(model, reduction="none"), make_batch(3)
    target = loss(data)["target"]
    reward = data["next", "reward"].squeeze(-1)
    lowest = model.value(data["next", "observation"]).amin(-1)
    closely(target[0], reward[0] + GAMMA * lowest[0])
    exactly(target[1], reward[1])
    assert data["next", "done"][2]
    assert not data["next", "terminated"][2]
    closely(target[2], reward[2] + GAMMA * lowest[2])


def test_the_target_takes_the_lower_head_of_each_row():
    torch.manual_seed(2)
    model = make_model()
    perturb(model, 1.0)
    loss, data = make_loss(model, reduction="none"), make_batch(60)[::3]
    value = model.value(data["next", "observation"])
    assert 0 < value.argmin(-1).sum() < len(value)  # either head is the lower one somewhere
    lower = torch.where(value[:, 0] < value[:, 1], value[:, 0], value[:, 1])
    closely(loss(data)["target"], data["next", "reward"].squeeze(-1) + GAMMA * lower)


@pytest.mark.parametrize("name", MODELS)
def test_the_target_keeps_its_own_parameters(name):
    model, loss, frozen = moved_apart(name)
    data = make_batch()
    target = loss(data)["target"]
    closely(target, hand_target(data, frozen).mean())
    perturb(model, 1.0)
    exactly(loss(data)["target"], target)
    assert not torch.allclose(hand_target(data, model).mean(), target)


def test_the_target_takes_no_gradient():
    loss, data = make_loss(), make_batch()
    observation = data["next", "observation"].requires_grad_()
    loss(data)["loss"].backward()
    assert observation.grad is None
    targets = list(loss.target_network_params.values(True, True))
    assert not any(target.requires_grad for target in targets)
    assert all(target.grad is None for target in targets)


@pytest.mark.parametrize("name", MODELS)
def test_the_target_is_in_evaluation_mode(name):
    model = make_model(name).train()
    frozen, loss, data = copy.deepcopy(model).eval(), make_loss(model).train(), make_batch()
    closely(loss(data)["target"], hand_target(data, frozen).mean())


def test_default_gamma():
    model, data = make_model(), make_batch()
    loss = make_loss(model)
    loss.make_value_estimator()
    gamma = torch.tensor(0.99).item()  # TorchRL keeps it in float32
    closely(loss(data)["target"], hand_target(data, model, gamma).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gamma_is_honoured(gamma):
    model, data = make_model(), make_batch()
    closely(make_loss(model, gamma=gamma)(data)["target"], hand_target(data, model, gamma).mean())


@pytest.mark.parametrize("lmbda", [0.0, 0.5, 0.75, 1.0])
def test_td_lambda(lmbda):
    _, loss, frozen = moved_apart(reduction="none")
    data = make_batch(3, 7)
    loss.make_value_estimator(**td_lambda(lmbda))
    expected = hand_lambda_returns(data, frozen, GAMMA, lmbda)
    closely(loss(data)["target"], expected.squeeze(-1))


def test_td1():
    _, loss, frozen = moved_apart(reduction="none")
    data = make_batch(3, 7)
    loss.make_value_estimator(ValueEstimators.TD1, gamma=GAMMA)
    expected = hand_lambda_returns(data, frozen, GAMMA, 1.0)
    closely(loss(data)["target"], expected.squeeze(-1))


def test_td_lambda_zero_is_td0():
    loss, data = make_loss(reduction="none"), make_batch(3, 7)
    expected = loss(data)["target"]
    loss.make_value_estimator(**td_lambda(0.0))
    closely(loss(data)["target"], expected)


@pytest.mark.parametrize("form", ["class", "instance"])
def test_an_estimator_of_the_users_own(form):
    model, data = make_model(), make_batch()
    loss = make_loss(model)
    options = {"gamma": 0.5, "value_network": loss.value_network}
    if form == "class":
        returned = loss.make_value_estimator(TD0Estimator, **options)
    else:
        returned = loss.make_value_estimator(TD0Estimator(**options))
    assert returned is loss
    assert isinstance(loss.value_estimator, TD0Estimator)
    closely(loss(data)["target"], hand_target(data, model, 0.5).mean())


@pytest.mark.parametrize("value_type", [ValueEstimators.GAE, ValueEstimators.VTrace])
def test_an_unsupported_estimator_is_refused(value_type):
    with pytest.raises(NotImplementedError, match=r"SoftBellmanLoss.*TD0.*TD1.*TDLambda"):
        make_loss().make_value_estimator(value_type)


def test_multi_step_transitions_discount_by_their_length():
    model, data = make_model(), make_batch()
    loss = make_loss(model, reduction="none")
    data["steps_to_next_obs"] = torch.tensor([1, 1, 2, 3, 3, 3]).unsqueeze(-1)
    gamma = GAMMA ** data["steps_to_next_obs"]
    closely(loss(data)["target"], hand_target(data, model, gamma).squeeze(-1))


def test_the_multi_step_transform():
    model, data = make_model(), make_batch(2, 6)
    data["next", "done"].zero_()
    data["next", "terminated"].zero_()
    data["collector", "mask"] = torch.ones(2, 6, dtype=torch.bool)
    loss = make_loss(model, reduction="none")
    three = MultiStep(gamma=GAMMA, n_steps=3)(data.clone())
    reward = data["next", "reward"].squeeze(-1)
    value = model.value(data["next", "observation"]).amin(-1)
    paid = reward[:, :4] + GAMMA * reward[:, 1:5] + GAMMA**2 * reward[:, 2:]
    # TorchRL's rewards are summed by a convolution whose kernel is in float32.
    torch.testing.assert_close(
        loss(three)["target"][:, :4], paid + GAMMA**3 * value[:, 2:], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("normalized", [False, True])
def test_the_target_has_the_temperature_of_the_schedule(normalized):
    """A soft maximum at the temperature of the start would be wrong in silence."""
    torch.manual_seed(0)
    alpha = flows.ScheduledTemperature(1.0, 0.125, steps=4)
    shift = flows.RewardShift(OBS_DIM, 2, hidden=(8,))
    model = flows.CategoricalEnergy(
        3, OBS_DIM, temperature=alpha, shift=shift, normalized=normalized, hidden=(8,)
    )
    perturb(model, 0.3)
    model.double()
    loss = SoftBellmanLoss(model).make_value_estimator(gamma=1.0)
    alpha.advance(4)
    observation, following = torch.randn(2, 6, OBS_DIM, dtype=torch.float64)
    out = loss(
        TensorDict(
            observation=observation,
            action=torch.arange(6) % 3,
            next=TensorDict(
                observation=following,
                reward=torch.zeros(6, 1, dtype=torch.float64),
                done=torch.zeros(6, 1, dtype=torch.bool),
                terminated=torch.zeros(6, 1, dtype=torch.bool),
                batch_size=[6],
            ),
            batch_size=[6],
        )
    )
    expected = 0.125 * (model.q_values(following) / 0.125).logsumexp(-2)
    closely(out["target"], expected.amin(-1).mean())
    assert out["alpha"].item() == pytest.approx(0.125, rel=1e-6)
