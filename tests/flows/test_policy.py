"""The flow as a TensorDict policy."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, set_interaction_type
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow.flows import CategoricalEnergy, Dropout, FlowPolicy, options, registered

from .cases import HIDDEN, largest, make_flow, perturb, uniform

over_registered = pytest.mark.parametrize("name", registered())
BATCHES = [(), (5,), (2, 3)]
DETERMINISTIC = (InteractionType.DETERMINISTIC, InteractionType.MODE, InteractionType.MEAN)


def make_policy(name: str, **keys: object) -> FlowPolicy:
    torch.manual_seed(0)
    return FlowPolicy(perturb(make_flow(name, 2, 3), 0.2).double(), **keys)


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=uniform(*batch, 3, bound=2), batch_size=batch)


@over_registered
@pytest.mark.parametrize(
    ("kind", "batch"), zip((None, InteractionType.RANDOM, None), BATCHES, strict=True)
)
def test_random_acting_samples(
    name: str, kind: InteractionType | None, batch: tuple[int, ...]
) -> None:
    policy, data = make_policy(name), observations(*batch)
    with set_interaction_type(kind):
        torch.manual_seed(1)
        out = policy(data)
        torch.manual_seed(1)
        expected_action, expected_log_prob = policy.flow.sample(data["observation"])
        assert torch.equal(out["action"], expected_action)
        assert torch.equal(out["action_log_prob"], expected_log_prob)
        assert out["action"].shape == (*batch, 2)
        assert out["action_log_prob"].shape == batch
        assert largest(policy(data.clone())["action"] - expected_action) > 1e-3


@over_registered
@pytest.mark.parametrize(("kind", "batch"), zip(DETERMINISTIC, BATCHES, strict=True))
def test_deterministic_acting_takes_the_mode(
    name: str, kind: InteractionType, batch: tuple[int, ...]
) -> None:
    policy, data = make_policy(name), observations(*batch)
    with set_interaction_type(kind):
        out = policy(data)
    mode = policy.flow.mode(data["observation"])
    assert torch.equal(out["action"], mode)
    expected = policy.flow.log_prob(mode, data["observation"])
    assert largest(out["action_log_prob"] - expected) <= 1e-9


@over_registered
def test_the_log_prob_is_that_of_the_action(name: str) -> None:
    policy, data = make_policy(name), observations(200)
    for kind in (InteractionType.RANDOM, InteractionType.MODE):
        with set_interaction_type(kind):
            out = policy(data)
        q, v = policy.flow.q_and_value(out["action"], out["observation"])
        # Nearer to the ends, tanh's rounding is more than the tolerance.
        inside = out["action"].abs().amax(-1) <= 1 - 1e-6
        assert inside.double().mean() > 0.5
        error = (q - v)[:, 0] / policy.flow.temperature - out["action_log_prob"]
        assert largest(error[inside]) <= 1e-8


def test_torchrls_exploration_type_is_obeyed() -> None:
    policy, data = make_policy("additive"), observations(5)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        once, again = policy(data.clone())["action"], policy(data.clone())["action"]
    assert torch.equal(once, again)
    with set_exploration_type(ExplorationType.RANDOM):
        once, again = policy(data.clone())["action"], policy(data.clone())["action"]
    assert largest(once - again) > 1e-3


def test_keys_default_to_torchrls() -> None:
    policy = make_policy("additive")
    assert policy.in_keys == ["observation"]
    assert policy.out_keys == ["action", "action_log_prob"]
    out = policy(observations(5))
    assert set(out.keys()) == {"observation", "action", "action_log_prob"}


def test_nested_keys_of_ones_own() -> None:
    policy = make_policy(
        "additive",
        observation_key=("agent", "state"),
        action_key=("agent", "torque"),
        log_prob_key=("agent", "score"),
    )
    state = uniform(5, 3, bound=2)
    data = TensorDict(agent=TensorDict(state=state, batch_size=[5]), batch_size=[5])
    with set_interaction_type(InteractionType.MODE):
        out = policy(data)
    assert out is data
    assert torch.equal(out["agent", "torque"], policy.flow.mode(state))
    assert out["agent", "score"].shape == (5,)
    assert set(out.keys()) == {"agent"}


@over_registered
@pytest.mark.parametrize("mode", [True, False])
def test_acting_never_drops_units(name: str, mode: bool) -> None:
    policy, data = make_policy(name), observations(5)
    expected = policy.flow.mode(data["observation"])
    if "dropout" in options(name):
        assert any(isinstance(module, Dropout) for module in policy.modules())
    assert policy.train(mode) is policy
    assert policy.training == mode
    assert not any(module.training for module in policy.flow.modules())
    with set_interaction_type(InteractionType.MODE):
        assert torch.equal(policy(data)["action"], expected)


def test_a_flow_in_training_mode_is_put_in_evaluation_mode() -> None:
    assert not FlowPolicy(make_flow("additive", 2, 3).train()).flow.training


def test_observations_of_another_size_are_refused() -> None:
    data = TensorDict(observation=torch.zeros(5, 4), batch_size=[5])
    with pytest.raises(ValueError, match=r"observation must have shape \(\*batch, 3\)"):
        make_policy("additive")(data)


class TestCategorical:
    model = CategoricalEnergy(4, 3, temperature=0.5, hidden=HIDDEN)

    def test_random_acting_samples(self) -> None:
        policy, data = FlowPolicy(self.model), observations(2, 3).float()
        torch.manual_seed(1)
        out = policy(data)
        torch.manual_seed(1)
        action, log_prob = self.model.sample(data["observation"])
        assert torch.equal(out["action"], action)
        assert torch.equal(out["action_log_prob"], log_prob)

    @pytest.mark.parametrize("kind", DETERMINISTIC)
    def test_deterministic_acting_takes_the_most_likely_action(
        self, kind: InteractionType
    ) -> None:
        policy, data = FlowPolicy(self.model), observations(5).float()
        with set_interaction_type(kind):
            out = policy(data)
        log_probs = self.model.log_probs(data["observation"])
        assert torch.equal(out["action"], log_probs.argmax(-1))
        assert torch.equal(out["action_log_prob"], log_probs.amax(-1))
