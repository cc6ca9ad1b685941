"""A flow as a torch distribution, and as the actor of TorchRL's losses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor
from torchrl.modules.distributions.utils import rsample_and_log_prob

from maxentflow.flows import EnergyBasedFlow, FlowDistribution, ObservationOf, build, registered

from .cases import largest, make_flow, perturb, uniform

over_registered = pytest.mark.parametrize("name", registered())


def make(name: str) -> EnergyBasedFlow:
    torch.manual_seed(0)
    return perturb(make_flow(name, 2, 3), 0.2).double().eval()


def actor(flow: EnergyBasedFlow) -> ProbabilisticActor:
    return ProbabilisticActor(
        TensorDictModule(ObservationOf(flow), ["observation"], ["context"]),
        in_keys={"observation": "context"},
        out_keys=["action"],
        distribution_class=FlowDistribution,
        distribution_kwargs={"flow": flow},
        return_log_prob=True,
    )


@over_registered
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.quick_for("shape1")
def test_samples_and_their_densities_are_the_flows(name: str, shape: tuple[int, ...]) -> None:
    flow, observation = make(name), uniform(5, 3, bound=2)
    policy = FlowDistribution(observation, flow)
    assert (policy.batch_shape, policy.event_shape) == ((5,), (2,))
    for call in (policy.rsample_and_log_prob, lambda s: rsample_and_log_prob(policy, s)):
        torch.manual_seed(1)
        action, log_prob = call(shape)
        torch.manual_seed(1)
        expected, density = flow.sample(observation, shape)
        assert torch.equal(action, expected)
        assert torch.equal(log_prob, density)
        assert action.shape == (*shape, 5, 2)
        assert action.requires_grad
    assert largest(policy.log_prob(action) - flow.log_prob(action, observation)) == 0.0
    assert largest(policy.log_prob(action) - log_prob) <= 1e-6
    assert not policy.sample(shape).requires_grad
    assert not any(entry.requires_grad for entry in policy.sample_and_log_prob(shape))
    assert torch.equal(policy.mode, flow.mode(observation))
    assert torch.equal(policy.deterministic_sample, policy.mode)


def test_a_sample_at_the_bounds_has_its_exact_density() -> None:
    """TorchRL's own tanh loses it (pytorch/rl #4080, #2199): an inverse in single precision cannot
    tell what is 1 - 1e-9 from 1."""
    torch.manual_seed(0)
    flow = build("additive", 2, 3, temperature=1.0, heads=0, translation={"hidden": ()})
    for parameter in flow.layers[-2].parameters():
        torch.nn.init.constant_(parameter, 6.0)  # the means lie far beyond
    observation = torch.ones(100, 3) / 3
    action, log_prob = FlowDistribution(observation, flow).rsample_and_log_prob()
    assert (action.abs() == 1.0).any()
    torch.manual_seed(1)
    _, log_prob = FlowDistribution(observation, flow).rsample_and_log_prob()
    # The same latents in double precision, which still tells these actions from the bounds.
    torch.manual_seed(1)
    latent = torch.randn(100, 2)
    double = copy.deepcopy(flow).double()
    expected = -0.5 * latent.double().square().sum(-1) - math.log(2 * math.pi)
    moved = latent.double()
    for layer in double.layers:
        moved, log_det = layer(moved, observation.double())
        expected = expected - log_det
    assert largest(log_prob - expected) <= 1e-3
    assert largest(flow.log_prob(action, observation) - expected) > 10.0  # an inverse cannot


@over_registered
def test_torchrls_actor_finds_every_parameter(name: str) -> None:
    flow = make(name)
    made = actor(flow)
    assert {id(p) for p in made.parameters()} == {id(p) for p in flow.parameters()}
    copied = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.1)  # the copy's distribution follows it, the original's stays
    data = TensorDict(observation=uniform(5, 3, bound=2), batch_size=[5])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        before, after = made(data.clone()), copied(data.clone())
    assert torch.equal(before["action"], flow.mode(data["observation"]))
    assert largest(before["action"] - after["action"]) > 1e-3
    with set_exploration_type(ExplorationType.RANDOM):
        sampled = made(data.clone())
    expected = flow.log_prob(sampled["action"], data["observation"])
    assert largest(sampled["action_log_prob"] - expected) <= 1e-6
