"""SoftBellmanLoss of a model in units of reward, against the loss of data normalised by hand."""

import copy

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate, ValueEstimators

from maxentflow import flows
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

from .common import (
    ACTION_DIM,
    GAMMA,
    MODELS,
    OBS_DIM,
    TEMPERATURE,
    closely,
    exactly,
    make_batch,
    make_loss,
    make_model,
    perturb,
)

CLIP = 1.5
LARGE = 1024.0  # a power of two, by which products are exact
IN_REWARD = ["q", "value", "target", "td_error"]
PARTS = ["both", "observations", "returns"]


def scales(parts="both", factor=1.0):
    """What has followed random observations and returns of a size."""
    generator = np.random.default_rng(3)
    norm = flows.ObservationNorm(OBS_DIM, clip=CLIP).double()
    norm.update(torch.as_tensor(generator.normal([1.0, 0.0, -1.0], [2.0, 0.5, 1.0], (50, 3))))
    returns = flows.ReturnScale().double()
    returns.update(factor * torch.as_tensor(generator.normal(3.0, 7.0, 50)))
    return (
        norm if parts in ("both", "observations") else None,
        returns if parts in ("both", "returns") else None,
    )


def normalized_by_hand(data, norm, returns, reward=("next", "reward")):
    """The batch as the model within is to see it."""
    data = data.clone()
    if norm is not None:
        mean, variance = norm.mean.numpy(), norm.variance.numpy()
        for key in ("observation", ("next", "observation")):
            scaled = (data[key].numpy() - mean) / np.sqrt(variance + 1e-8)
            data[key] = torch.as_tensor(np.clip(scaled, -CLIP, CLIP))
    if returns is not None:
        data[reward] = data[reward] / returns().item()
    return data


class Pair:
    """A loss of a model with scales, and one of an equal model without; targets differ."""

    def __init__(self, name="additive", parts="both", value_type=None, **options):
        model = make_model(name)
        self.scales = scales(parts)
        self.c = 1.0 if self.scales[1] is None else self.scales[1]().item()
        self.models = [copy.deepcopy(model) for _ in range(2)]
        whole = flows.NormalizedModel(self.models[0], *self.scales)
        self.losses = [make_loss(each, **options) for each in (whole, self.models[1])]
        for each in self.models:
            torch.manual_seed(1)
            perturb(each)
        if value_type is not None:
            for loss in self.losses:
                loss.make_value_estimator(**value_type)

    def __call__(self, data, **keys):
        """Both outputs, and both batches with what was noted there."""
        given = [data.clone(), normalized_by_hand(data, *self.scales, **keys)]
        outputs = []
        for loss, batch in zip(self.losses, given, strict=True):
            torch.manual_seed(2)
            outputs.append(loss(batch))
        return outputs, given

    def assert_agree(self, data, **keys):
        (out, expected), (noted, by_hand) = self(data, **keys)
        assert out.keys() == expected.keys()
        for key, entry in expected.items():
            closely(out[key], entry * self.c if key in (*IN_REWARD, "alpha") else entry)
        closely(noted["td_error"], by_hand["td_error"] * self.c)


@pytest.mark.parametrize(
    ("name", "parts"), [*((name, "both") for name in MODELS), *(("additive", p) for p in PARTS)]
)
def test_it_is_the_loss_of_data_normalised_by_hand(name, parts):
    pair = Pair(name, parts)
    data = make_batch(12)
    pair.assert_agree(data)
    (out, expected), _ = pair(data)
    options = {"allow_unused": True, "materialize_grads": True}
    found, wanted = (
        torch.autograd.grad(each["loss"], list(model.parameters()), **options)
        for each, model in zip((out, expected), pair.models, strict=True)
    )
    for one, other in zip(found, wanted, strict=True):
        closely(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_function": "l1"},
        {"loss_function": "smooth_l1"},
        {"reduction": "none"},
        {"reduction": "sum"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(6,), (2, 3)])
def test_other_distances_and_reductions(options, size):
    Pair(**options).assert_agree(make_batch(*size))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_priority_weights(reduction):
    data = make_batch()
    data["priority_weight"] = torch.rand(6, dtype=torch.float64) + 0.1
    pair = Pair(reduction=reduction)
    pair.assert_agree(data)
    (out, _), _ = pair(data)
    assert not torch.allclose(out["loss"], pair(data.exclude("priority_weight"))[0][0]["loss"])


@pytest.mark.parametrize(
    "value_type",
    [
        {"value_type": ValueEstimators.TDLambda, "gamma": GAMMA, "lmbda": 0.75},
        {"value_type": ValueEstimators.TD1, "gamma": GAMMA},
        {"value_type": ValueEstimators.TD0, "gamma": 0.5},
    ],
    ids=["TD(lambda)", "TD1", "TD0"],
)
def test_targets_of_trajectories(value_type):
    Pair(value_type=value_type, reduction="none").assert_agree(make_batch(3, 7))


def test_multi_step_transitions():
    data = make_batch()
    data["steps_to_next_obs"] = torch.tensor([1, 1, 2, 3, 3, 3]).unsqueeze(-1)
    Pair(reduction="none").assert_agree(data)


@pytest.mark.parametrize("new", ["renamed", ("deep", "renamed")])
def test_entries_under_other_keys(new):
    pair, data = Pair(), make_batch()
    data["next"].set(new, data["next"].pop("reward"))
    for loss in pair.losses:
        loss.set_keys(reward=new)
    full = ("next", *new) if isinstance(new, tuple) else ("next", new)
    pair.assert_agree(data, reward=full)


def test_raw_actions_are_read_as_ever():
    pair, data = Pair(), make_batch()
    data["raw_action"] = torch.atanh(data["action"])
    expected = pair(data)
    data["action"] = torch.full_like(data["action"], 0.123)
    pair.assert_agree(data)
    for one, other in zip(pair(data)[0], expected[0], strict=True):
        closely(one["loss"], other["loss"])


def test_a_single_transition_without_batch_dimensions():
    pair = Pair()
    data = TensorDict.clone(make_batch(1)[0])
    pair.assert_agree(data)


def test_discrete_actions():
    torch.manual_seed(0)
    inner = flows.CategoricalEnergy(4, OBS_DIM, temperature=TEMPERATURE, hidden=(8,)).double()
    own = scales()
    losses = [
        make_loss(each) for each in (flows.NormalizedModel(inner, *own), copy.deepcopy(inner))
    ]
    data = make_batch()
    data["action"] = torch.randint(4, (6,))
    out = losses[0](data.clone())
    expected = losses[1](normalized_by_hand(data, *own))
    closely(out["loss"], expected["loss"])
    closely(out["target"], own[1]().item() * expected["target"])
    closely(out["entropy"], expected["entropy"])


# A learned temperature


def learned(factor=1.0, reduction="mean"):
    torch.manual_seed(0)
    flow = flows.build(
        "additive",
        ACTION_DIM,
        OBS_DIM,
        temperature=flows.LearnedTemperature(TEMPERATURE),
        normalized=True,
        log_sigma=(-1.0, 0.0),
        scale={"hidden": (8,)},
        shift={"hidden": (8,)},
        hidden=(8,),
        blocks=1,
        dropout=0.0,
    )
    perturb(flow, 0.3)
    model = flows.NormalizedModel(flow.double(), *scales(factor=factor))
    return model, make_loss(model, target_entropy=-1.0, reduction=reduction)


def test_the_temperature_is_reported_in_units_of_reward_and_learned_in_its_own():
    model, loss = learned()
    data = make_batch()
    torch.manual_seed(1)
    out = loss(data)
    torch.manual_seed(1)
    log_prob = model.sample(data["observation"])[1].detach()
    closely(out["alpha"], model.temperature)
    closely(out["policy_entropy"], -log_prob.mean())
    (gradient,) = torch.autograd.grad(out["loss_alpha"], model.model.temperature_module.log_alpha)
    closely(gradient, 1.0 - log_prob.mean())
    own = model.log_prob(data["action"], data["observation"]).mean().detach()
    closely(out["entropy"], -own)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_rewards_in_other_units(reduction):
    """The same loss, to the bit, and all that is in units of reward as many times as large."""
    (_, one), (_, other) = (learned(factor, reduction) for factor in (1.0, LARGE))
    data = make_batch()
    larger = data.clone()
    larger["next", "reward"] = LARGE * larger["next", "reward"]
    torch.manual_seed(1)
    small = one(data)
    torch.manual_seed(1)
    large = other(larger)
    for key, entry in small.items():
        exactly(large[key], LARGE * entry if key in (*IN_REWARD, "alpha") else entry)
    exactly(larger["td_error"], LARGE * data["td_error"])


# The scales


def test_the_target_has_the_scales_that_the_model_has_now():
    """Also those that follow later: the target's networks alone lag behind."""
    pair, data = Pair(reduction="none"), make_batch()
    pair.assert_agree(data)
    norm, returns = pair.scales
    norm.update(5 + torch.randn(100, OBS_DIM, dtype=torch.float64))
    returns.update(torch.tensor([1e3], dtype=torch.float64))
    pair.c = returns().item()
    assert pair.c == pytest.approx(200.0, rel=1e-6)
    pair.assert_agree(data)


@pytest.mark.parametrize("updater", [SoftUpdate, PolyakUpdate])
def test_target_updates_and_descent_leave_the_scales_alone(updater):
    model, loss = learned()
    before = [buffer.clone() for buffer in model.buffers()]
    assert before
    parameters = list(loss.parameters())
    assert {id(p) for p in parameters} >= {id(p) for p in model.parameters()}
    assert not {id(b) for b in model.buffers()} & {id(p) for p in parameters}
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    out = loss(make_batch())
    (out["loss"] + out["loss_alpha"]).backward()
    optimizer.step()
    updater(loss, tau=0.5).step()
    for buffer, old in zip(model.buffers(), before, strict=True):
        exactly(buffer, old)
        assert not buffer.requires_grad


def test_the_scales_are_saved_with_the_loss():
    (_, first), (model, second) = learned(), learned(factor=3.0)
    data = make_batch()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.manual_seed(1)
    expected = first(data.clone())
    torch.manual_seed(1)
    out = second(data.clone())
    for key, entry in expected.items():
        exactly(out[key], entry)
    closely(model.returns(), first.returns())


@pytest.mark.parametrize("parts", PARTS)
def test_nothing_but_the_priority_is_written_to_the_input(parts):
    pair, data = Pair(parts=parts), make_batch()
    given = data.clone()
    pair.losses[0](given)
    assert set(given.keys(True, True)) - set(data.keys(True, True)) == {"td_error"}
    assert (given.exclude("td_error") == data).all()


def test_it_is_a_model_with_scales_that_the_loss_takes_apart():
    model, loss = learned()
    assert loss.observations is model.observations
    assert loss.returns is model.returns
    with pytest.raises(ValueError, match="without q_value and value"):
        SoftBellmanLoss(flows.NormalizedModel(torch.nn.Linear(1, 1)))


def test_a_loss_and_its_scales_in_another_precision():
    _, loss = learned()
    loss = loss.float()
    out = loss(make_batch(dtype=torch.float32))
    assert {entry.dtype for entry in out.values()} == {torch.float32}
