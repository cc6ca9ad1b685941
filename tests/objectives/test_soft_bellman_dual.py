"""The temperature's loss of SoftBellmanLoss, against formulas by hand and where descent ends."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict

from maxentflow import flows
from maxentflow.objectives import SoftBellmanLoss

from .common import (
    ACTION_DIM,
    GAMMA,
    OBS_DIM,
    TEMPERATURE,
    closely,
    exactly,
    make_batch,
    make_loss,
    make_model,
    perturb,
)

TARGET = -1.25
REGRESSION = ["loss", "q", "value", "target", "td_error", "entropy"]
DUAL = ["loss_alpha", "alpha", "policy_entropy"]


def learned_model(name="additive", *, dropout=0.0, alpha=TEMPERATURE):
    """A small normalized flow of a learned temperature, every parameter random."""
    small = {"hidden": (8,), "blocks": 1, "dropout": dropout}
    flow = flows.build(
        name,
        ACTION_DIM,
        OBS_DIM,
        temperature=flows.LearnedTemperature(alpha),
        normalized=True,
        log_sigma=(-1.0, 0.0),
        scale={"hidden": (8,)},
        shift={"hidden": (8,)},
        **{key: small[key] for key in flows.options(name) if key in small},
    )
    perturb(flow, 0.3)
    flow = flow.double().eval()
    heat(flow, alpha)
    return flow


def heat(flow, alpha):
    flow.temperature_module.log_alpha.data.fill_(math.log(alpha))


def sampled(model, observation, seed=0):
    torch.manual_seed(seed)
    return model.sample(observation)[1].detach()


def seeded(loss, data, seed=0):
    torch.manual_seed(seed)
    return loss(data)


# The loss


@pytest.mark.parametrize("name", flows.registered())
def test_the_gradient_of_the_temperature_by_hand(name):
    model, data = learned_model(name), make_batch()
    loss = make_loss(model, target_entropy=TARGET)
    out = seeded(loss, data)
    gap = sampled(model, data["observation"]).mean() + TARGET
    closely(out["loss_alpha"].detach(), -math.log(TEMPERATURE) * gap)
    log_alpha = model.temperature_module.log_alpha
    (gradient,) = torch.autograd.grad(out["loss_alpha"], log_alpha)
    closely(gradient, -gap)


def test_the_two_losses_learn_different_things():
    model, data = learned_model(), make_batch()
    out = make_loss(model, target_entropy=TARGET)(data)
    temperature = model.temperature_module.log_alpha
    others = [p for p in model.parameters() if p is not temperature]
    parameters = [temperature, *others]

    def learns(name):
        gradients = torch.autograd.grad(
            out[name], parameters, retain_graph=True, allow_unused=True
        )
        return [gradient is not None and bool(gradient.any()) for gradient in gradients]

    assert learns("loss") == [False, *[True] * len(others)]
    assert learns("loss_alpha") == [True, *[False] * len(others)]


@pytest.mark.parametrize("name", ["additive", "maf"])
def test_the_policy_is_sampled_without_dropout_and_after_the_regression(name):
    model, data = learned_model(name, dropout=0.5).train(), make_batch()
    loss = make_loss(model, target_entropy=TARGET).train()
    out = seeded(loss, data)
    torch.manual_seed(0)
    model.train().q_and_value(data["action"], data["observation"])
    log_prob = model.eval().sample(data["observation"])[1]
    closely(out["policy_entropy"], -log_prob.mean().detach())


def test_what_is_reported():
    model, data = learned_model(), make_batch()
    loss = make_loss(model, target_entropy=TARGET)
    out = seeded(loss, data)
    assert set(out.keys()) == {*REGRESSION, *DUAL} == set(loss.out_keys)
    closely(out["alpha"], torch.tensor(TEMPERATURE, dtype=torch.float64))
    closely(out["policy_entropy"], -sampled(model, data["observation"]).mean())
    assert {key for key, entry in out.items() if entry.requires_grad} == {"loss", "loss_alpha"}
    assert not data["td_error"].requires_grad


def test_the_entropy_of_the_batch_is_in_units_of_the_present_temperature():
    model, data = learned_model(), make_batch()
    loss = make_loss(model, target_entropy=TARGET)
    expected = -model.log_prob(data["action"], data["observation"]).mean().detach()
    for alpha in (TEMPERATURE, 7.0):
        heat(model, alpha)
        out = loss(data)
        closely(out["entropy"], expected)
        closely(out["alpha"], torch.tensor(alpha, dtype=torch.float64))


@pytest.mark.parametrize("size", [(6,), (2, 3)])
def test_every_sample(size):
    model, data = learned_model(), make_batch(*size)
    out = seeded(make_loss(model, target_entropy=TARGET, reduction="none"), data)
    log_prob = sampled(model, data["observation"])
    assert out.batch_size == torch.Size(size)
    closely(out["policy_entropy"], -log_prob)
    gap = log_prob.mean() + TARGET
    closely(out["loss_alpha"], (-math.log(TEMPERATURE) * gap).expand(size))
    closely(out["alpha"], torch.full(size, TEMPERATURE, dtype=torch.float64))


def test_priority_weights_are_of_the_regression_alone():
    model, data = learned_model(), make_batch()
    loss = make_loss(model, target_entropy=TARGET)
    expected = seeded(loss, data.clone())
    data["priority_weight"] = torch.rand(6, dtype=torch.float64) + 0.1
    out = seeded(loss, data)
    for key in DUAL:
        exactly(out[key], expected[key])


def test_without_a_target_entropy_the_temperature_stays():
    model, data = learned_model(), make_batch()
    loss = make_loss(model)
    before = torch.get_rng_state()
    out = loss(data)
    assert torch.equal(torch.get_rng_state(), before)  # no sample is drawn
    assert set(out.keys()) == {*REGRESSION, "alpha"} == set(loss.out_keys)
    expected = -model.log_prob(data["action"], data["observation"]).mean().detach()
    closely(out["entropy"], expected)
    gradients = torch.autograd.grad(
        out["loss"], list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    names = [name for name, _ in model.named_parameters()]
    still = {name for name, each in zip(names, gradients, strict=True) if not each.any()}
    assert still == {"temperature_module.log_alpha"}


# What the temperature is to Q and V


@pytest.mark.parametrize("name", flows.registered())
@pytest.mark.quick_for("additive", "spline")
def test_the_bonus_is_counted_from_the_target_entropy(name):
    """Where an episode goes on, the target has all but alpha times the target entropy."""
    model, data = learned_model(name), make_batch()
    loss = make_loss(model, target_entropy=TARGET, reduction="none")
    plain = make_loss(model, reduction="none")
    goes_on = ~data["next", "terminated"].squeeze(-1)
    assert goes_on.any()
    assert not goes_on.all()
    for alpha in (1.0, 0.02, 8.0):
        heat(model, alpha)
        difference = loss(data.clone())["target"] - plain(data.clone())["target"]
        closely(difference, -GAMMA * alpha * TARGET * goes_on.to(difference))


@pytest.mark.parametrize("name", flows.registered())
def test_values_do_not_move_when_the_temperature_does(name):
    """Q moves by the change of the advantage alone, and so does a target without the bonus."""
    model, data = learned_model(name), make_batch()
    loss = make_loss(model, reduction="none")
    at = {}
    for alpha in (1.0, 0.02, 8.0):
        heat(model, alpha)
        at[alpha] = loss(data.clone())
    base = at[1.0]
    for alpha, out in at.items():
        exactly(out["target"], base["target"])
        exactly(out["value"], base["value"])
        closely(out["q"] - out["value"], alpha * (base["q"] - base["value"]))


def test_the_targets_own_temperature_does_not_matter():
    model, data = learned_model(), make_batch()
    loss = make_loss(model, target_entropy=TARGET)
    expected = seeded(loss, data.clone())
    state = loss.state_dict()
    (key,) = [k for k in state if k.startswith("target_") and k.endswith("log_alpha")]
    state[key].fill_(3.0)
    out = seeded(loss, data)
    for name, entry in out.items():
        exactly(entry, expected[name])


def test_new_parameters_begin_at_the_first_temperature_again():
    model = learned_model()
    loss = make_loss(model, target_entropy=TARGET)
    heat(model, 7.0)
    loss.reset_parameters_recursive()
    assert float(model.temperature) == pytest.approx(TEMPERATURE, rel=1e-6)


def test_a_loss_in_another_precision_samples_in_it():
    loss = make_loss(learned_model(), target_entropy=TARGET).float()
    out = loss(make_batch(dtype=torch.float32))
    assert {entry.dtype for entry in out.values()} == {torch.float32}


def test_a_state_goes_on_with_its_temperature():
    first, second = (make_loss(learned_model(), target_entropy=TARGET) for _ in range(2))
    heat(first.network.model, 3.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    data = make_batch()
    one, other = (seeded(loss, data.clone()) for loss in (first, second))
    for name, entry in one.items():
        exactly(entry, other[name])


# Where descent ends


def gaussian_loss(alpha, target_entropy):
    """The policy of a one-step problem: a Gaussian of a scale that learns, around zero."""
    torch.manual_seed(0)
    flow = flows.EnergyBasedFlow(
        flows.StandardNormal(1),
        [flows.StateScale(1, bounds=(-4.0, 2.0))],
        temperature=flows.LearnedTemperature(alpha),
        shift=flows.RewardShift(1, 1, hidden=()),
        normalized=True,
    ).double()
    loss = make_loss(flow, target_entropy=target_entropy)
    return flow, loss


def quadratic_batch(k, offset):
    """Every transition is the last of its episode and pays :math:`c - k a^2 / 2`."""
    action = torch.linspace(-1.5, 1.5, 64, dtype=torch.float64)[:, None]
    yes = torch.ones(64, 1, dtype=torch.bool)
    following = TensorDict(
        observation=torch.zeros(64, 1, dtype=torch.float64),
        reward=offset - k * action.square() / 2,
        done=yes,
        terminated=yes,
        batch_size=[64],
    )
    return TensorDict(
        observation=torch.zeros(64, 1, dtype=torch.float64),
        action=action,
        next=following,
        batch_size=[64],
    )


@pytest.mark.parametrize("alpha", [0.02, 2.0])
@pytest.mark.quick_for("0.02")
def test_the_policy_of_a_regression_arrives_at_its_target_entropy(alpha):
    r"""The best Gaussian has the variance :math:`\alpha / k`; of the target entropy that is
    :math:`e^{2 \bar H} / (2 \pi e)`.

    The policy's gradient is proportional to the temperature, so the policy must be the faster of
    the two, and Adam must forget the large errors of the beginning before the temperature fell.
    """
    k, target, offset, steps = 2.0, 0.25, 3.0, 550
    flow, loss = gaussian_loss(alpha, target)
    batch = quadratic_batch(k, offset)
    log_alpha = flow.temperature_module.log_alpha
    groups = [
        {"params": [p for p in flow.parameters() if p is not log_alpha], "lr": 0.03},
        {"params": [log_alpha], "lr": 0.015},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    temperatures = []
    for step in range(steps):
        if step == 350:
            for group in optimizer.param_groups:
                group["lr"] /= 5
        out = loss(batch)
        optimizer.zero_grad()
        (out["loss"] + out["loss_alpha"]).backward()
        optimizer.step()
        temperatures.append(out["alpha"].item())
    variance = math.exp(2 * target) / (2 * math.pi * math.e)
    average = sum(temperatures[-100:]) / 100
    assert average == pytest.approx(k * variance, rel=0.05)  # samples are random
    sigma = flow.layers[0].log_sigma().exp().item()
    assert sigma**2 == pytest.approx(variance, rel=0.1)
    # V is the soft maximum of the rewards, in closed form.
    value = flow.value(torch.zeros(1, dtype=torch.float64)).item()
    expected = offset + average * math.log(math.sqrt(2 * math.pi * average / k))
    assert value == pytest.approx(expected, rel=0.01)


# Refusals


@pytest.mark.parametrize("target", [float("nan"), float("inf"), -float("inf")])
def test_a_target_entropy_is_finite(target):
    with pytest.raises(ValueError, match=r"A target entropy is a finite number .*, got"):
        SoftBellmanLoss(learned_model(), target_entropy=target)


@pytest.mark.parametrize("name", ["additive", "plain"])
def test_a_target_entropy_needs_a_learned_temperature(name):
    with pytest.raises(ValueError, match=r"needs a model with a learned temperature, got -1\.25"):
        SoftBellmanLoss(make_model(name), target_entropy=TARGET)


def test_a_fixed_temperature_of_a_normalized_flow_is_the_reports():
    model = flows.build(
        "additive", ACTION_DIM, OBS_DIM, temperature=TEMPERATURE, normalized=True, dropout=0.0
    ).double()
    data = make_batch()
    out = make_loss(model, gamma=GAMMA)(data)
    log_prob = model.log_prob(data["action"], data["observation"])
    closely(out["entropy"], -log_prob.mean().detach())
