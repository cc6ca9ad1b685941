"""SoftBellmanLoss as a module: parameters, modes, saving, casting, compiling, refusals."""

import copy
import warnings

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from torch import nn
from torchrl.objectives import SoftUpdate

from maxentflow.objectives import SoftBellmanLoss, SoftValueModel

from .common import (
    MODELS,
    WITH_DROPOUT,
    PlainModel,
    closely,
    exactly,
    hand_target,
    make_batch,
    make_loss,
    make_model,
    moved_apart,
    perturb,
)


def source_and_target(loss):
    source, target = loss.network_params, loss.target_network_params
    return [(source.get(key), target.get(key)) for key in target.keys(True, True)]


def snapshot(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_models_own_each_once(name):
    model = make_model(name)
    parameters = list(SoftBellmanLoss(model).parameters())
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    assert all(parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("name", MODELS)
def test_the_target_is_a_copy_of_the_model(name):
    model = make_model(name)
    copied = sum(
        target.numel()
        for source, target in source_and_target(make_loss(model))
        if source.requires_grad
    )
    assert copied == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_no_parameters_are_installed_to_compute_a_loss(monkeypatch, name):
    """Both networks hold theirs; to install the target's took 5% of an update."""
    loss = make_loss(make_model(name))
    optimizer, updater = torch.optim.Adam(loss.parameters()), SoftUpdate(loss, tau=0.5)
    other = make_loss(make_model(name))
    monkeypatch.setattr(TensorDictParams, "to_module", None)
    for _ in range(2):
        loss(make_batch(32))["loss"].backward()
        optimizer.step()
        updater.step()
    loss.load_state_dict(other.state_dict())
    loss(make_batch(32))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.quick_for("additive", "affine", "plain")
def test_an_optimiser_on_the_loss_trains_the_acting_model(name):
    model, data = make_model(name), make_batch(32)
    loss = make_loss(model)
    before = model.q_value(data["action"], data["observation"]).detach()
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    errors = []
    for _ in range(50):
        optimizer.zero_grad()
        out = loss(data)
        out["loss"].backward()
        optimizer.step()
        errors.append(out["loss"].item())
    q = model.q_value(data["action"], data["observation"])
    assert not torch.allclose(q, before)
    assert errors[-1] < 0.7 * errors[0]
    closely(loss(data)["q"], q.detach().mean())


def test_changes_of_the_acting_model_reach_the_loss():
    model, data = make_model(), make_batch()
    loss = make_loss(model)
    before = loss(data)["q"]
    perturb(model)
    q = loss(data)["q"]
    assert not torch.allclose(q, before)
    closely(q, model.q_value(data["action"], data["observation"]).detach().mean())


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_modes_switch_the_regressions_dropout_only(name):
    _, loss, frozen = moved_apart(name)
    data = make_batch()
    loss.eval()
    exactly(loss(data)["loss"], loss(data)["loss"])
    loss.train()
    first, second = loss(data), loss(data)
    assert first["q"] != second["q"]
    exactly(first["target"], second["target"])
    closely(first["target"], hand_target(data, frozen).mean())


@pytest.mark.parametrize("acting", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_acting_model_keeps_its_own_mode(acting, training):
    model = make_model().train(acting)
    loss = SoftBellmanLoss(model)
    SoftUpdate(loss, tau=0.1)
    loss.train(training)
    loss(make_batch())
    assert {module.training for module in model.modules()} == {acting}
    model.train(not acting)
    assert loss.training is training
    assert (loss(make_batch())["loss"] != loss(make_batch())["loss"]).item()


def test_a_new_loss_is_in_training_mode():
    loss, data = SoftBellmanLoss(make_model()), make_batch()
    SoftUpdate(loss, tau=0.1)
    assert loss.training
    assert loss(data)["q"] != loss(data)["q"]


def test_modes_return_the_loss():
    loss = make_loss()
    assert loss.train() is loss
    assert loss.eval() is loss


@pytest.mark.parametrize("name", MODELS)
def test_state_dict(name):
    _, loss, _ = moved_apart(name)
    data = make_batch()
    expected = loss(data)
    other = make_loss(make_model(name))
    assert other(data)["loss"] != expected["loss"]
    other.load_state_dict(loss.state_dict())
    actual = other(data)
    for key in loss.out_keys:
        exactly(actual[key], expected[key])


def test_a_loaded_state_reaches_the_acting_model_and_leaves_its_source():
    model, loss, _ = moved_apart()
    other_model, data = make_model(), make_batch()
    other = make_loss(other_model)
    other.load_state_dict(loss.state_dict())
    action, observation = data["action"], data["observation"]
    exactly(other_model.q_value(action, observation), model.q_value(action, observation))
    expected = loss(data)["loss"]
    perturb(other_model)
    exactly(loss(data)["loss"], expected)


def test_state_dict_survives_a_file(tmp_path):
    _, loss, _ = moved_apart()
    data, path = make_batch(), tmp_path / "loss.pt"
    torch.save(loss.state_dict(), path)
    other = make_loss()
    other.load_state_dict(torch.load(path, weights_only=True))
    exactly(other(data)["loss"], loss(data)["loss"])


def test_deepcopy_is_equal_and_independent():
    _, loss, _ = moved_apart()
    data = make_batch()
    expected = loss(data)
    other = copy.deepcopy(loss)
    actual = other(data)
    for key in loss.out_keys:
        exactly(actual[key], expected[key])
    for parameter in loss.parameters():
        parameter.data.add_(0.1)
    exactly(other(data)["loss"], actual["loss"])


def test_a_deepcopy_trains_its_own_parameters():
    other, data = copy.deepcopy(make_loss()), make_batch()
    expected = other(data)["loss"]
    expected.backward()
    assert all(parameter.grad is not None for parameter in other.network_params.parameters())
    for parameter in other.parameters():
        parameter.data.add_(0.1)
    assert other(data)["loss"] != expected


def test_deepcopy_has_each_parameter_once():
    loss = make_loss()
    other = copy.deepcopy(loss)
    assert len(list(other.parameters())) == len(list(loss.parameters()))


def test_the_target_of_a_deepcopy_follows_its_own_parameters():
    loss = copy.deepcopy(make_loss())
    data = make_batch()
    updater = SoftUpdate(loss, tau=0.5)
    expected = loss(data)["target"]
    with torch.no_grad():
        for parameter in loss.network_params.parameters():
            parameter.add_(0.1)
    updater.step()
    assert loss(data)["target"] != expected


def test_parameters_swapped_in_by_tensordict_are_used():
    model = make_model()
    loss, data = make_loss(model), make_batch()
    expected = loss(data)["q"]
    moved = TensorDict.from_module(loss).detach().clone()
    moved.apply_(lambda tensor: tensor + 0.1 if tensor.is_floating_point() else tensor)
    with moved.to_module(loss):
        assert loss(data)["q"] != expected
    exactly(loss(data)["q"], expected)


@pytest.mark.parametrize("when", ["before the first call", "after it"])
def test_casting(when):
    model = make_model(dtype=torch.float32)
    loss, data = make_loss(model), make_batch()
    if when == "after it":
        single = loss(make_batch(dtype=torch.float32))
        assert {single[key].dtype for key in loss.out_keys} == {torch.float32}
    loss.to(torch.float64)
    tensors = [*loss.parameters(), *model.parameters()]
    tensors += [target for _, target in source_and_target(loss)]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}
    out = loss(data)
    assert {out[key].dtype for key in loss.out_keys} == {torch.float64}
    closely(out["target"], hand_target(data, model).mean())
    q = model.q_value(data["action"], data["observation"])
    closely(out["loss"], ((q - hand_target(data, model)) ** 2).mean())


def test_no_device_or_dtype_is_remembered():
    loss = make_loss()
    loss(make_batch())
    remembered = [v for v in vars(loss).values() if isinstance(v, (torch.device, torch.dtype))]
    assert remembered == []


@pytest.mark.parametrize("name", MODELS)
def test_reset_parameters(name):
    model, loss, _ = moved_apart(name)
    targets = [
        target.clone() for source, target in source_and_target(loss) if source.requires_grad
    ]
    for parameter in model.parameters():  # no initialisation draws values as large as these
        parameter.data.add_(1000.0)
    before = snapshot(model)
    loss.reset_parameters_recursive()
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))
    pairs = source_and_target(loss)
    for source, target in pairs:
        exactly(target, source.detach())
    moved = [target for source, target in pairs if source.requires_grad]
    assert all((old != new).any() for old, new in zip(targets, moved, strict=True))
    assert not any(target.requires_grad for _, target in pairs)
    data = make_batch()
    closely(loss(data)["target"], hand_target(data, model).mean())


@pytest.mark.filterwarnings("ignore:.*inline_inbuilt_nn_modules")  # tensordict's
@pytest.mark.slow
def test_compiled_whole():
    torch._dynamo.reset()
    model, loss, _ = moved_apart()
    data = make_batch()
    parameters = list(model.parameters())
    plain, expected = data.clone(), loss(data.clone())
    loss(plain)
    gradients = torch.autograd.grad(expected["loss"], parameters)
    actual = torch.compile(loss, backend="aot_eager", fullgraph=True)(data)
    for key in loss.out_keys:
        closely(actual[key], expected[key])
    closely(data["td_error"], plain["td_error"])
    for got, wanted in zip(
        torch.autograd.grad(actual["loss"], parameters), gradients, strict=True
    ):
        closely(got, wanted)


def test_models_fit_the_protocol():
    assert all(isinstance(make_model(name), SoftValueModel) for name in MODELS)
    assert not isinstance(nn.Linear(2, 2), SoftValueModel)


@pytest.mark.parametrize("missing", ["q_value", "value"])
def test_a_model_without_a_method_is_refused(missing):
    methods = {"q_value", "value"} - {missing}
    incomplete = type("Incomplete", (nn.Module,), {name: lambda self: None for name in methods})
    with pytest.raises(ValueError, match=rf"^[^.]*Incomplete without {missing}\.$"):
        SoftBellmanLoss(incomplete())


def test_a_model_without_both_methods_is_refused():
    with pytest.raises(ValueError, match="Linear without q_value and value"):
        SoftBellmanLoss(nn.Linear(2, 2))


def test_a_model_that_is_no_module_is_refused():
    methods = {name: getattr(PlainModel, name) for name in ("q_value", "value")}
    with pytest.raises(ValueError, match=r"got Loose without nn\.Module"):
        SoftBellmanLoss(type("Loose", (), methods)())


@pytest.mark.parametrize(
    "option",
    [
        {"loss_function": "huber"},
        {"loss_function": None},
        {"reduction": "average"},
        {"use_prioritized_weights": "sometimes"},
    ],
    ids=str,
)
def test_a_bad_option_is_refused(option):
    (value,) = option.values()
    with pytest.raises(ValueError, match=repr(value)):
        SoftBellmanLoss(make_model(), **option)


def test_rewards_without_their_last_dimension_are_refused():
    loss, data = make_loss(), make_batch(2)  # as many rows as heads: it must not broadcast
    data["next", "reward"] = data["next", "reward"].squeeze(-1)
    with pytest.raises(RuntimeError, match="shape"):
        loss(data)


def test_no_warning_once_an_updater_is_attached():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = SoftBellmanLoss(make_model())
        updater = SoftUpdate(loss, tau=0.1)
        loss(make_batch())["loss"].backward()
        updater.step()
        loss.state_dict()
        loss.make_value_estimator(gamma=0.5)
        loss.set_keys(reward="reward")
        loss.eval()(make_batch())


def test_torchrls_warning_without_an_updater():
    loss = SoftBellmanLoss(make_model())
    with pytest.warns(UserWarning, match="No target network updater"):
        loss(make_batch())
