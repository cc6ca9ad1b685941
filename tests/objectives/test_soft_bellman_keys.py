"""SoftBellmanLoss reads and writes where its keys say."""

from dataclasses import asdict

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import ValueEstimators
from torchrl.objectives.value import TD0Estimator

from maxentflow.objectives import SoftBellmanLoss

from .common import exactly, make_batch, make_loss, make_model

DEFAULTS = {
    "observation": "observation",
    "action": "action",
    "raw_action": "raw_action",
    "reward": "reward",
    "done": "done",
    "terminated": "terminated",
    "value": "state_value",
    "priority": "td_error",
    "priority_weight": "priority_weight",
}
PLACES = {
    "observation": ("root", "next"),
    "action": ("root",),
    "reward": ("next",),
    "done": ("next",),
    "terminated": ("next",),
    "priority_weight": ("root",),
}
NEW_KEYS = ["renamed", ("nested", "renamed")]
ESTIMATORS = [ValueEstimators.TD0, ValueEstimators.TD1, ValueEstimators.TDLambda]


def weighted_batch(*size):
    data = make_batch(*size)
    return data.set("priority_weight", torch.rand(data.shape, dtype=torch.float64) + 0.1)


def move(data, key, new):
    """Take an entry away from its default place and put it under a new key."""
    for place in PLACES[key]:
        part = data if place == "root" else data["next"]
        part.set(new, part.pop(DEFAULTS[key]))
    return data


def as_keywords(data, keys):
    return {key if isinstance(key, str) else "_".join(key): data.get(key) for key in keys}


def test_defaults():
    assert asdict(make_loss().tensor_keys) == DEFAULTS


@pytest.mark.parametrize("new", NEW_KEYS)
@pytest.mark.parametrize("key", PLACES)
def test_an_entry_is_read_from_its_new_key(key, new):
    loss, data = make_loss(), weighted_batch()
    expected = loss(data.clone())["loss"]
    loss.set_keys(**{key: new})
    exactly(loss(move(data, key, new))["loss"], expected)


@pytest.mark.parametrize("new", NEW_KEYS)
def test_done_is_read_from_its_new_key_on_trajectories(new):
    loss, data = make_loss(), make_batch(2, 5)
    loss.make_value_estimator(ValueEstimators.TDLambda)
    expected = loss(data.clone())["loss"]
    loss.set_keys(done=new)
    exactly(loss(move(data, "done", new))["loss"], expected)


@pytest.mark.parametrize("new", NEW_KEYS)
def test_the_priority_is_written_to_its_new_key(new):
    loss, data = make_loss(), make_batch()
    expected = data.clone()
    loss(expected)
    loss.set_keys(priority=new)
    loss(data)
    assert "td_error" not in data
    exactly(data[new], expected["td_error"])


@pytest.mark.parametrize("new", NEW_KEYS)
def test_the_value_key_is_where_the_value_network_writes(new):
    loss, data = make_loss(), make_batch()
    expected = loss(data.clone())["loss"]
    loss.set_keys(value=new)
    exactly(loss(data)["loss"], expected)
    written = loss.value_network(TensorDict(observation=data["observation"], batch_size=[6]))
    assert written[new].shape == (6, 1)


@pytest.mark.parametrize("new", NEW_KEYS)
def test_all_keys_at_once(new):
    loss, data = make_loss(), weighted_batch()
    expected = loss(data.clone())["loss"]
    rename = {key: f"{key}_2" if new == "renamed" else ("deep", key) for key in DEFAULTS}
    if new != "renamed":  # TorchRL cannot look a nested weight up: a test of its own
        rename["priority_weight"] = "priority_weight"
    loss.set_keys(**rename)
    for key in PLACES:
        if rename[key] != DEFAULTS[key]:
            move(data, key, rename[key])
    exactly(loss(data)["loss"], expected)
    assert rename["priority"] in data.keys(include_nested=True)


@pytest.mark.parametrize("value_type", ESTIMATORS)
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("new", NEW_KEYS)
def test_keys_reach_the_estimator(value_type, order, new):
    names = {"value": new, "reward": new, "done": ("done", "2"), "terminated": "terminated_2"}
    loss = make_loss()
    if order == "before":
        loss.set_keys(**names)
    loss.make_value_estimator(value_type)
    if order == "after":
        loss.set_keys(**names)
    reached = loss.value_estimator.tensor_keys
    assert {name: getattr(reached, name) for name in names} == names


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("form", ["class", "instance"])
def test_keys_reach_an_estimator_of_the_users_own(form, order):
    loss, data = make_loss(), make_batch()
    expected = loss(data.clone())["loss"]
    options = {"gamma": 0.875, "value_network": loss.value_network}
    if order == "before":
        loss.set_keys(reward="reward_2")
    if form == "class":
        loss.make_value_estimator(TD0Estimator, **options)
    else:
        loss.make_value_estimator(TD0Estimator(**options))
    if order == "after":
        loss.set_keys(reward="reward_2")
    data["next", "reward_2"] = data["next", "reward"].clone()
    data["next", "reward"].add_(5.0)
    exactly(loss(data)["loss"], expected)


@pytest.mark.parametrize("key", DEFAULTS)
def test_none_restores_the_default(key):
    loss, data = make_loss(), weighted_batch()
    expected = loss(data.clone())["loss"]
    loss.set_keys(**{key: "elsewhere"})
    loss.set_keys(**{key: None})
    assert getattr(loss.tensor_keys, key) == DEFAULTS[key]
    exactly(loss(data)["loss"], expected)
    assert "td_error" in data


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="advantage_key"):
        make_loss().set_keys(advantage_key="x")


def test_a_missing_entry_is_named():
    loss = make_loss()
    loss.set_keys(action="action_2")
    with pytest.raises(KeyError, match="action_2"):
        loss(make_batch())


def test_keys_of_one_loss_are_not_those_of_another():
    first, second = make_loss(), make_loss()
    first.set_keys(reward="reward_2", observation="observation_2")
    assert asdict(second.tensor_keys) == DEFAULTS
    assert second.in_keys[0] == "observation"


def test_in_keys_follow_set_keys():
    loss = make_loss()
    assert loss.in_keys == [
        "observation",
        "action",
        ("next", "observation"),
        ("next", "reward"),
        ("next", "done"),
        ("next", "terminated"),
    ]
    loss.set_keys(observation=("agent", "obs"), reward="reward_2", action="action_2")
    assert loss.in_keys == [
        ("agent", "obs"),
        "action_2",
        ("next", "agent", "obs"),
        ("next", "reward_2"),
        ("next", "done"),
        ("next", "terminated"),
    ]


def test_out_keys():
    loss = make_loss()
    assert loss.out_keys == ["loss", "q", "value", "target", "td_error", "entropy"]
    assert set(loss(make_batch()).keys()) == set(loss.out_keys)


def test_out_keys_without_a_temperature():
    loss = make_loss(make_model("plain"))
    assert loss.out_keys == ["loss", "q", "value", "target", "td_error"]
    assert set(loss(make_batch()).keys()) == set(loss.out_keys)


def test_keyword_arguments():
    loss, data = make_loss(), make_batch()
    expected = loss(data)
    values = loss(
        observation=data["observation"],
        action=data["action"],
        next_observation=data["next", "observation"],
        next_reward=data["next", "reward"],
        next_done=data["next", "done"],
        next_terminated=data["next", "terminated"],
    )
    assert len(values) == len(loss.out_keys)
    for key, value in zip(loss.out_keys, values, strict=True):
        exactly(value, expected[key])


def test_keyword_arguments_under_new_keys():
    loss, data = make_loss(), make_batch()
    expected = loss(data)
    keywords = as_keywords(data, loss.in_keys)
    loss.set_keys(observation=("agent", "obs"), reward="pay")
    keywords["agent_obs"] = keywords.pop("observation")
    keywords["next_agent_obs"] = keywords.pop("next_observation")
    keywords["next_pay"] = keywords.pop("next_reward")
    for key, value in zip(loss.out_keys, loss(**keywords), strict=True):
        exactly(value, expected[key])


def test_selected_out_keys():
    loss, data = make_loss(), make_batch()
    expected = loss(data)
    loss.select_out_keys("entropy", "loss")
    entropy, value = loss(**as_keywords(data, loss.in_keys))
    exactly(entropy, expected["entropy"])
    exactly(value, expected["loss"])


def test_the_accepted_keys_are_documented():
    text = SoftBellmanLoss._AcceptedKeys.__doc__
    assert all(f"{name}: " in text for name in DEFAULTS)
