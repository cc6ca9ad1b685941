"""MaximumLikelihoodLoss: its value, gradient and noise, its keys, and what it is as a module."""

import copy
import math
import warnings
from dataclasses import asdict

import pytest
import torch
from tensordict import TensorDict
from torch import distributions as D
from torch import nn

from maxentflow import flows
from maxentflow.objectives import DensityModel, MaximumLikelihoodLoss

from .common import ACTION_DIM, OBS_DIM, closely, exactly, perturb

RECIPES = flows.registered()
WITH_DROPOUT = [name for name in RECIPES if "dropout" in flows.options(name)]
conditional_and_not = pytest.mark.parametrize("obs_dim", [OBS_DIM, None])
SIZES = [(), (1,), (6,), (2, 3)]
NEW_KEYS = ["renamed", ("nested", "renamed")]
DEFAULTS = {"observation": "observation", "action": "action"}


class Regressor(nn.Module):
    """A model of one's own: a Gaussian around a linear prediction, after dropout."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(OBS_DIM, ACTION_DIM), nn.Dropout(0.5))
        self.double()

    def log_prob(self, action, observation):
        return D.Normal(self.mean(observation), 1.0).log_prob(action).sum(-1)


class Laplace(nn.Module):
    """A model of one's own that reads no observation and has no parameters."""

    obs_dim = None

    def log_prob(self, action):
        return -action.abs().sum(-1) - ACTION_DIM * math.log(2)


def make_flow(name="additive", obs_dim=OBS_DIM, *, dtype=torch.float64):
    """A small flow in evaluation mode whose parameters are all random."""
    small = {"hidden": (8,), "blocks": 1, "dropout": 0.5}
    flow = flows.build(
        name,
        ACTION_DIM,
        obs_dim,
        temperature=1.0,
        heads=0,
        log_sigma=(-1.0, 0.0),
        scale={"hidden": (8,)},
        **{key: small[key] for key in flows.options(name) if key in small},
    )
    perturb(flow, 0.3)
    return flow.to(dtype).eval()


def standard_normal():
    return flows.EnergyBasedFlow(flows.StandardNormal(ACTION_DIM), [], temperature=1.0)


def make_loss(model=None, **options):
    """A loss in evaluation mode."""
    return MaximumLikelihoodLoss(make_flow() if model is None else model, **options).eval()


def make_batch(*size, dtype=torch.float64):
    size = size or (6,)
    return TensorDict(
        observation=torch.randn(*size, OBS_DIM, dtype=dtype),
        action=torch.rand(*size, ACTION_DIM, dtype=dtype) * 1.6 - 0.8,
        batch_size=size,
    )


def by_hand(model, data):
    """The log-likelihood of every action."""
    if getattr(model, "obs_dim", OBS_DIM) is None:
        return model.log_prob(data["action"])
    return model.log_prob(data["action"], data["observation"])


def gradients(value, model):
    parameters = list(model.parameters())
    return torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)


# Value


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("layer", ["none", "scale", "state-scale", "act-norm"])
def test_value_in_closed_form(layer, squash):
    data = make_batch(32)
    loc, scale, layers = torch.zeros(2).double(), torch.ones(2).double(), []
    if layer != "none":
        if layer == "act-norm":
            part = flows.ActNorm(2)
        else:
            context_dim = OBS_DIM if layer == "state-scale" else None
            part = flows.StateScale(2, context_dim, hidden=(8,), bounds=(-1.0, 1.0))
        perturb(part.double(), 0.5)
        layers.append(part)
        if layer == "act-norm":
            loc, scale = part.shift, part.log_scale.exp()
        else:
            scale = part.log_sigma(data["observation"]).exp()
    expected = D.Independent(D.Normal(loc, scale), 1)
    if squash:
        layers.append(flows.TanhSquash(2))
        expected = D.TransformedDistribution(expected, D.TanhTransform())
    flow = flows.EnergyBasedFlow(flows.StandardNormal(2), layers, temperature=1.0).double()
    torch.testing.assert_close(
        make_loss(flow)(data)["loss"],
        -expected.log_prob(data["action"]).mean(),
        rtol=1e-12,
        atol=1e-12,
    )


@conditional_and_not
@pytest.mark.parametrize("name", RECIPES)
def test_gradients_of_every_recipe(name, obs_dim):
    flow, data = make_flow(name, obs_dim), make_batch()
    actual, expected = make_loss(flow)(data)["loss"], -by_hand(flow, data).mean()
    closely(actual, expected)
    wanted = gradients(expected, flow)
    assert any(gradient.any() for gradient in wanted)
    for gradient, by_autograd in zip(gradients(actual, flow), wanted, strict=True):
        closely(gradient, by_autograd)


@conditional_and_not
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_gradients_under_dropout(name, obs_dim):
    flow, data = make_flow(name, obs_dim), make_batch()
    loss = make_loss(flow).train()
    torch.manual_seed(1)
    actual = gradients(loss(data)["loss"], flow)
    flow.train()
    torch.manual_seed(1)
    for gradient, by_autograd in zip(
        actual, gradients(-by_hand(flow, data).mean(), flow), strict=True
    ):
        closely(gradient, by_autograd)


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("layer", ["act-norm", "scale"])
def test_a_gaussian_is_fitted_to_its_maximum_likelihood(layer, squash):
    latent = torch.randn(200, 2).double() * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -0.5])
    part = flows.ActNorm(2) if layer == "act-norm" else flows.StateScale(2, bounds=(-2.0, 2.0))
    layers = [part, flows.TanhSquash(2)] if squash else [part]
    flow = flows.EnergyBasedFlow(flows.StandardNormal(2), layers, temperature=1.0).double()
    loss = MaximumLikelihoodLoss(flow)
    data = TensorDict(action=latent.tanh() if squash else latent, batch_size=[200])
    optimizer = torch.optim.LBFGS(
        loss.parameters(), max_iter=50, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def step():
        optimizer.zero_grad()
        value = loss(data)["loss"]
        value.backward()
        return value

    optimizer.step(step)
    if layer == "act-norm":
        mean, log_scale = latent.mean(0), latent.std(0, correction=0).log()
        torch.testing.assert_close(part.shift.detach(), mean, rtol=0, atol=1e-6)
        fitted = part.log_scale
    else:
        log_scale, fitted = latent.square().mean(0).sqrt().log(), part.log_sigma()
    torch.testing.assert_close(fitted.detach(), log_scale, rtol=0, atol=1e-6)
    if not squash:
        least = 1 + math.log(2 * math.pi) + log_scale.sum()
        torch.testing.assert_close(loss(data)["loss"].detach(), least, rtol=0, atol=1e-10)


# Noise


@conditional_and_not
def test_noise_is_added_to_the_actions(obs_dim):
    flow, data = make_flow("spline", obs_dim), make_batch()
    loss = MaximumLikelihoodLoss(flow, noise=0.05)
    loss.network.eval()  # no dropout beside the noise
    torch.manual_seed(1)
    out = loss(data)
    torch.manual_seed(1)
    noisy = data.clone()
    noisy["action"] += 0.05 * torch.randn_like(data["action"])
    log_prob = by_hand(flow, noisy).mean()
    closely(out["loss"], -log_prob)
    closely(out["log_prob"], log_prob.detach())
    pairs = zip(gradients(out["loss"], flow), gradients(-log_prob, flow), strict=True)
    for gradient, by_autograd in pairs:
        closely(gradient, by_autograd)


def test_noise_is_drawn_anew_and_leaves_the_batch_alone():
    loss, data = MaximumLikelihoodLoss(standard_normal(), noise=0.1), make_batch()
    before = data.clone()
    assert loss(data)["loss"] != loss(data)["loss"]
    assert (data == before).all()


@pytest.mark.parametrize(("noise", "training"), [(0.1, False), (0.0, True), (0.0, False)])
def test_without_noise_nothing_is_drawn(noise, training):
    loss, data = make_loss(standard_normal(), noise=noise).train(training), make_batch()
    before = torch.get_rng_state()
    exactly(loss(data)["loss"], make_loss(standard_normal())(data)["loss"])
    exactly(torch.get_rng_state(), before)


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
def test_the_expected_loss_under_noise(noise):
    """E = d/2 log 2 pi + (|a|^2 + d sigma^2) / 2, to within four standard errors."""
    n, d = 20_000, ACTION_DIM
    data = make_batch(n)
    square = data["action"].square().sum(-1)
    expected = d / 2 * math.log(2 * math.pi) + (square.mean() + d * noise**2) / 2
    variance = noise**2 * square.mean() + d * noise**4 / 2
    actual = MaximumLikelihoodLoss(standard_normal().double(), noise=noise)(data)["loss"]
    assert (actual - expected).abs() < 4 * (variance / n).sqrt()


# Output


@conditional_and_not
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", None])
@pytest.mark.parametrize("size", SIZES)
def test_reductions(size, reduction, obs_dim):
    flow, data = make_flow("affine", obs_dim), TensorDict.clone(make_batch(1)[0])
    if size:
        data = make_batch(*size)
    out, expected = make_loss(flow, reduction=reduction)(data), by_hand(flow, data).detach()
    if reduction == "none":
        assert out.batch_size == torch.Size(size)
        closely(out["loss"].detach(), -expected)
        closely(out["log_prob"], expected)
    else:
        assert out.batch_size == torch.Size([])
        closely(out["loss"].detach(), -getattr(expected, reduction or "mean")())
        closely(out["log_prob"], expected.mean())


def test_only_the_loss_has_a_gradient():
    out = make_loss()(make_batch())
    assert out["loss"].requires_grad
    assert not out["log_prob"].requires_grad


def test_nothing_is_written_to_the_input():
    data = make_batch()
    before = data.clone()
    make_loss(noise=0.1).train()(data)
    assert set(data.keys()) == set(before.keys())
    assert (data == before).all()


@pytest.mark.parametrize("key", [("collector", "mask"), ("mine", "valid")])
def test_padded_steps_do_not_count(key):
    loss, data = make_loss(), make_batch(2, 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    data[key] = mask
    if key != ("collector", "mask"):
        loss.loss_mask_key = key
    closely(loss(data)["loss"], loss(data[mask].select("observation", "action"))["loss"])


# Keys


def test_defaults():
    assert asdict(make_loss().tensor_keys) == DEFAULTS
    text = MaximumLikelihoodLoss._AcceptedKeys.__doc__
    assert all(f"{name}: " in text for name in DEFAULTS)


@pytest.mark.parametrize("new", NEW_KEYS)
@pytest.mark.parametrize("key", DEFAULTS)
def test_an_entry_is_read_from_its_new_key(key, new):
    loss, data = make_loss(), make_batch()
    expected = loss(data)["loss"]
    loss.set_keys(**{key: new})
    moved = data.clone()
    moved.set(new, moved.pop(key))
    exactly(loss(moved)["loss"], expected)
    loss.set_keys(**{key: None})
    assert asdict(loss.tensor_keys) == DEFAULTS
    exactly(loss(data)["loss"], expected)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="reward"):
        make_loss().set_keys(reward="reward")


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_missing_entry_is_named(key):
    with pytest.raises(KeyError, match=key):
        make_loss()(make_batch().exclude(key))


def test_keys_of_one_loss_are_not_those_of_another():
    first, second = make_loss(), make_loss()
    first.set_keys(action="action_2")
    first.select_out_keys("loss")
    assert asdict(second.tensor_keys) == DEFAULTS
    assert second.in_keys == ["action", "observation"]
    assert second.out_keys == ["loss", "log_prob"]


def test_in_keys_follow_set_keys():
    loss = make_loss()
    assert loss.in_keys == ["action", "observation"]
    loss.set_keys(observation=("agent", "obs"), action="action_2")
    assert loss.in_keys == ["action_2", ("agent", "obs")]


def test_no_observation_is_read_without_a_context():
    loss, data = make_loss(make_flow(obs_dim=None)), make_batch()
    assert loss.in_keys == ["action"]
    loss.set_keys(observation="elsewhere", action=("agent", "action"))
    assert loss.in_keys == [("agent", "action")]
    alone = TensorDict(agent=TensorDict(action=data["action"]), batch_size=data.batch_size)
    loss(alone)["loss"].backward()


@conditional_and_not
@pytest.mark.parametrize("action", ["action", ("agent", "action")])
def test_keyword_arguments(action, obs_dim):
    loss, data = make_loss(make_flow(obs_dim=obs_dim)), make_batch()
    expected = loss(data)
    assert set(expected.keys()) == set(loss.out_keys) == {"loss", "log_prob"}
    loss.set_keys(action=action)
    tensors = {action if isinstance(action, str) else "_".join(action): data["action"]}
    if obs_dim:
        tensors["observation"] = data["observation"]
    for key, value in zip(loss.out_keys, loss(**tensors), strict=True):
        exactly(value, expected[key])
    loss.select_out_keys("log_prob")
    exactly(loss(**tensors), expected["log_prob"])


# As a module


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_the_models_own_each_once(name):
    flow = make_flow(name)
    parameters = list(MaximumLikelihoodLoss(flow).parameters())
    assert [id(p) for p in parameters] == list({id(p): None for p in parameters})
    assert {id(p) for p in parameters} == {id(p) for p in flow.parameters()}


def test_changes_of_the_acting_model_reach_the_loss():
    flow, data = make_flow(), make_batch()
    loss = make_loss(flow)
    before = loss(data)["loss"]
    perturb(flow)
    assert loss(data)["loss"] != before
    closely(loss(data)["loss"], -by_hand(flow, data).mean())


@pytest.mark.parametrize("acting", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_acting_model_keeps_its_own_mode(acting, training):
    flow, data = make_flow().train(acting), make_batch()
    loss = MaximumLikelihoodLoss(flow)
    assert loss.train(training) is loss
    loss(data)
    assert {module.training for module in flow.modules()} == {acting}
    flow.train(not acting)
    assert loss.training is training
    assert (loss(data)["loss"] != loss(data)["loss"]).item() is training  # dropout


def test_a_new_loss_is_in_training_mode():
    loss, data = MaximumLikelihoodLoss(make_flow()), make_batch()
    assert loss.training
    assert loss(data)["loss"] != loss(data)["loss"]  # dropout


@pytest.mark.parametrize("name", RECIPES)
def test_state_dict(name, tmp_path):
    loss, flow, data = make_loss(make_flow(name)), make_flow(name), make_batch()
    other, expected = make_loss(flow), loss(data)["loss"]
    assert other(data)["loss"] != expected
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    other.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    exactly(other(data)["loss"], expected)
    exactly(-by_hand(flow, data).mean(), expected)
    perturb(flow)
    exactly(loss(data)["loss"], expected)


def test_deepcopy_is_equal_and_independent():
    loss, data = make_loss(), make_batch()
    expected = loss(data)["loss"]
    other = copy.deepcopy(loss)
    exactly(other(data)["loss"], expected)
    perturb(other)
    assert other(data)["loss"] != expected
    exactly(loss(data)["loss"], expected)


@pytest.mark.parametrize("name", RECIPES)
def test_reset_parameters(name):
    flow, data = make_flow(name), make_batch()
    loss = make_loss(flow)
    for parameter in flow.parameters():  # no initialisation draws values as large as these
        parameter.data.add_(1000.0)
    before = [parameter.detach().clone() for parameter in flow.parameters()]
    loss.reset_parameters_recursive()
    assert all((old != new).any() for old, new in zip(before, flow.parameters(), strict=True))
    closely(loss(data)["loss"], -by_hand(flow, data).mean())


@pytest.mark.parametrize("when", ["before the first call", "after it"])
def test_casting(when):
    flow = make_flow(dtype=torch.float32)
    loss, data = make_loss(flow), make_batch()
    if when == "after it":
        assert loss(make_batch(dtype=torch.float32))["loss"].dtype == torch.float32
    loss.to(torch.float64)
    assert {p.dtype for p in (*flow.parameters(), *loss.parameters())} == {torch.float64}
    closely(loss(data)["loss"], -by_hand(flow, data).mean())


def test_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = MaximumLikelihoodLoss(make_flow())
        loss(make_batch())["loss"].backward()
        loss.state_dict()
        loss.set_keys(action="action")


# Other parameters in the place of its own


@pytest.fixture
def several():
    """A loss, the parameters of three others, a batch, and the losses those give of it."""
    loss, others, data = make_loss(), [make_loss() for _ in range(3)], make_batch()
    expected = torch.stack([other(data)["loss"] for other in others]).detach()
    return loss, [other.network_params for other in others], data, expected


def stack(several):
    return torch.stack([params.data for params in several])


def test_network_params_are_replaced(several):
    loss, others, data, expected = several
    own, before = loss.network_params, loss(data)["loss"]
    for params, value in zip(others, expected, strict=True):
        loss.network_params = params
        actual = loss(data)["loss"]
        exactly(actual.detach(), value)
        actual.backward()
        assert all(parameter.grad is not None for parameter in params.parameters())
    loss.network_params = own
    assert all(parameter.grad is None for parameter in own.parameters())
    exactly(loss(data)["loss"], before)


@pytest.mark.parametrize("detached", [True, False])
def test_parameters_swapped_in_by_tensordict(several, detached):
    loss, others, data, expected = several
    before = loss(data)["loss"]
    for params, value in zip(others, expected, strict=True):
        with TensorDict(network_params=params.data if detached else params).to_module(loss):
            actual = loss(data)["loss"]
        exactly(actual.detach(), value)
        assert actual.requires_grad is not detached
    exactly(loss(data)["loss"], before)


def test_its_own_parameters_detached_take_no_gradient():
    loss, data = make_loss(), make_batch()
    with TensorDict.from_module(loss).data.to_module(loss):
        assert not loss(data)["loss"].requires_grad
    assert loss(data)["loss"].requires_grad


def test_vmap_over_parameters_of_the_network(several):
    loss, others, data, expected = several

    def value(params):
        with params.to_module(loss.network):
            return -loss.network(data["action"], data["observation"]).mean()

    closely(torch.vmap(value)(stack(others)), expected)


def test_vmap_over_parameters_of_the_loss(several):
    loss, others, data, expected = several

    def value(params):
        with TensorDict(network_params=params).to_module(loss):
            return loss(data)["loss"]

    closely(torch.vmap(value)(stack(others)), expected)


def test_vmap_over_the_batch():
    loss, data = make_loss(), make_batch()
    closely(torch.vmap(loss)(data)["log_prob"], by_hand(loss.network.model, data).detach())


@pytest.mark.filterwarnings("ignore:.*inline_inbuilt_nn_modules")  # tensordict's
@pytest.mark.slow
def test_compiled_whole():
    torch._dynamo.reset()
    flow, data = make_flow(), make_batch()
    loss = MaximumLikelihoodLoss(flow, noise=0.1)
    loss.network.eval()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    expected = loss(data)
    torch.manual_seed(1)
    actual = compiled(data)
    for key in loss.out_keys:
        closely(actual[key], expected[key])
    pairs = zip(gradients(actual["loss"], flow), gradients(expected["loss"], flow), strict=True)
    for gradient, eager in pairs:
        closely(gradient, eager)


# Models of one's own, and refusals


def test_models_fit_the_protocol():
    models = [*map(make_flow, RECIPES), make_flow(obs_dim=None), Regressor(), Laplace()]
    assert all(isinstance(model, DensityModel) for model in models)
    assert not isinstance(nn.Linear(2, 2), DensityModel)


def test_a_model_of_ones_own_without_obs_dim():
    model, data = Regressor().eval(), make_batch()
    loss = make_loss(model)
    assert loss.in_keys == ["action", "observation"]
    actual, expected = loss(data)["loss"], -by_hand(model, data).mean()
    closely(actual, expected)
    pairs = zip(gradients(actual, model), gradients(expected, model), strict=True)
    for gradient, by_autograd in pairs:
        closely(gradient, by_autograd)
    loss.train()
    assert loss(data)["loss"] != loss(data)["loss"]
    assert not model.training


def test_a_model_of_ones_own_that_reads_no_observation():
    loss, data = make_loss(Laplace()), make_batch()
    assert loss.in_keys == ["action"]
    by_torch = D.Laplace(torch.zeros(2).double(), 1.0)
    expected = -by_torch.log_prob(data["action"]).sum(-1).mean()
    closely(loss(data.select("action"))["loss"], expected)


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (nn.Linear(2, 2), "Linear"),
        (type("Loose", (), {"log_prob": Laplace.log_prob})(), "Loose"),
        (None, "NoneType"),
    ],
)
def test_a_model_that_will_not_do_is_refused(model, got):
    with pytest.raises(ValueError, match=rf"^[^.]* torch module with log_prob, got {got}\.$"):
        MaximumLikelihoodLoss(model)


@pytest.mark.parametrize(
    "option",
    [{"noise": value} for value in (-0.1, math.nan, math.inf, -math.inf)]
    + [{"reduction": value} for value in ("average", "", 1)],
    ids=str,
)
def test_a_bad_option_is_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"^{name} must [^.]*, got {value!r}\.$"):
        MaximumLikelihoodLoss(make_flow(), **option)


@pytest.mark.parametrize("key", DEFAULTS)
def test_an_entry_of_the_wrong_size_is_refused(key):
    data = make_batch()
    data[key] = data[key][..., :1]
    with pytest.raises(ValueError, match=rf"^{key} must have shape"):
        make_loss()(data)
