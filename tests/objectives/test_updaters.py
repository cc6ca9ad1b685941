"""Target updates and averages of weights against their closed forms."""

import pytest
import torch
from torch import nn
from torchrl.objectives import HardUpdate, SoftUpdate

from maxentflow.objectives import (
    DelayedUpdate,
    PolyakUpdate,
    SoftBellmanLoss,
    UpdaterChain,
    WeightAverage,
)
from maxentflow.objectives.functional import copy_but_for

from .common import MODELS, exactly, make_batch, make_model, perturb


def source_and_target(loss):
    """Pairs of trained parameters and their targets."""
    source, target = loss.network_params, loss.target_network_params
    pairs = [(source.get(key), target.get(key)) for key in target.keys(True, True)]
    return [(s.detach(), t) for s, t in pairs if s.requires_grad]


def apart(updater, name="additive", dtype=torch.float64, **options):
    """A loss and its updater, with sources that have moved away from the targets."""
    torch.manual_seed(0)
    model = make_model(name, dtype=dtype)
    loss = SoftBellmanLoss(model)
    made = updater(loss, **options)
    perturb(model)
    return model, loss, made


@pytest.mark.parametrize("tau", [0.0005, 0.005, 0.5])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("updater", [SoftUpdate, PolyakUpdate])
@pytest.mark.quick_for("0.005")
def test_the_target_moves_by_tau(updater, name, tau):
    _, loss, made = apart(updater, name, tau=tau)
    before = [(source.clone(), target.clone()) for source, target in source_and_target(loss)]
    made.step()
    after = source_and_target(loss)
    for (source, target), (source_after, target_after) in zip(before, after, strict=True):
        exactly(source_after, source)
        moved = target + tau * (source - target)
        torch.testing.assert_close(target_after, moved, rtol=0, atol=1e-15)
        assert (target_after != target).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_polyak_is_soft_update(name, dtype):
    _, soft, soft_updater = apart(SoftUpdate, name, dtype, tau=0.005)
    _, polyak, polyak_updater = apart(PolyakUpdate, name, dtype, tau=0.005)
    for _ in range(3):
        soft_updater.step()
        polyak_updater.step()
    pairs = zip(source_and_target(soft), source_and_target(polyak), strict=True)
    for (source, expected), (source_2, actual) in pairs:
        exactly(source_2, source)
        exactly(actual, expected)


def test_many_steps_decay_geometrically():
    _, loss, updater = apart(PolyakUpdate, tau=0.25)
    before = [(source.clone(), target.clone()) for source, target in source_and_target(loss)]
    for _ in range(20):
        updater.step()
    for (source, target), (_, after) in zip(before, source_and_target(loss), strict=True):
        expected = source + 0.75**20 * (target - source)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-14)  # 20 roundings


def test_polyak_takes_eps_as_soft_update_does():
    _, by_tau, tau_updater = apart(PolyakUpdate, tau=0.25)
    _, by_eps, eps_updater = apart(PolyakUpdate, eps=0.75)
    tau_updater.step()
    eps_updater.step()
    for (_, one), (_, other) in zip(
        source_and_target(by_tau), source_and_target(by_eps), strict=True
    ):
        exactly(one, other)


@pytest.mark.parametrize("options", [{}, {"tau": 0.1, "eps": 0.9}, {"tau": -0.1}])
def test_polyak_refuses_what_soft_update_refuses(options):
    loss = SoftBellmanLoss(make_model())
    with pytest.raises((ValueError, RuntimeError)):
        PolyakUpdate(loss, **options)


def test_hard_update():
    _, loss, updater = apart(HardUpdate, value_network_update_interval=2)
    before = [target.clone() for _, target in source_and_target(loss)]
    for _ in range(2):
        updater.step()
        for old, (_, target) in zip(before, source_and_target(loss), strict=True):
            exactly(target, old)
    updater.step()
    for source, target in source_and_target(loss):
        exactly(target, source)


@pytest.mark.parametrize("updater", [SoftUpdate, PolyakUpdate])
def test_attaching_copies_the_source(updater):
    model = make_model()
    loss = SoftBellmanLoss(model)
    perturb(model)
    updater(loss, tau=0.005)
    for source, target in source_and_target(loss):
        exactly(target, source)


@pytest.mark.parametrize("updater", [SoftUpdate, PolyakUpdate])
def test_steps_follow_training(updater):
    """Sources changed between two steps are seen by the second."""
    model, loss, made = apart(updater, tau=0.5)
    made.step()
    perturb(model)
    expected = [(source + target) / 2 for source, target in source_and_target(loss)]
    made.step()
    for wanted, (_, target) in zip(expected, source_and_target(loss), strict=True):
        torch.testing.assert_close(target, wanted, rtol=0, atol=1e-15)
        assert not target.requires_grad


def cast(loss):
    loss.to(torch.float32)


def reload(loss):
    loss.load_state_dict({key: value.clone() for key, value in loss.state_dict().items()})


def reset(loss):
    loss.reset_parameters_recursive()


@pytest.mark.parametrize("updater", [SoftUpdate, PolyakUpdate])
@pytest.mark.parametrize("change", [cast, reload, reset])
def test_steps_go_on_after_the_loss_was_changed(change, updater):
    model, loss, made = apart(updater, tau=0.5)
    made.step()
    change(loss)
    perturb(model)
    expected = [(source + target) / 2 for source, target in source_and_target(loss)]
    made.step()
    for wanted, (_, target) in zip(expected, source_and_target(loss), strict=True):
        tolerance = torch.finfo(target.dtype).eps
        torch.testing.assert_close(target, wanted, rtol=tolerance, atol=tolerance)


def test_polyak_silences_torchrls_warning(recwarn):
    _, loss, updater = apart(PolyakUpdate, tau=0.005)
    loss(make_batch())["loss"].backward()
    updater.step()
    assert len(recwarn) == 0


def test_the_average_is_the_weighted_sum_of_all_weights():
    """a_n = d^n w_0 + (1 - d) sum over k of d^(n - k) w_k."""
    decay, history = 0.875, [torch.randn(3, 2, dtype=torch.float64) for _ in range(6)]
    source = nn.Linear(2, 3, bias=False, dtype=torch.float64)
    source.weight.data.copy_(history[0])
    average = WeightAverage(source, decay)
    for weight in history[1:]:
        source.weight.data.copy_(weight)
        average.step()
    count = len(history) - 1
    shares = [decay**count, *((1 - decay) * decay ** (count - k) for k in range(1, count + 1))]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
    torch.testing.assert_close(average.module.weight, expected, rtol=0, atol=1e-14)
    assert torch.equal(source.weight, history[-1])


def test_buffers_are_the_newest():
    source = nn.BatchNorm1d(2)
    average = WeightAverage(source, 0.5)
    source(torch.randn(8, 2) + 3)
    average.step()
    for name, entry in source.state_dict().items():
        exactly(average.module.state_dict()[name], entry)
    assert source.num_batches_tracked == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_the_decay_may_change():
    source = nn.Linear(1, 1, bias=False)
    average = WeightAverage(source, 0.9)
    start = average.module.weight.item()
    source.weight.data.fill_(2.0)
    average.decay = 0.5
    average.step()
    assert average.module.weight.item() == pytest.approx(0.5 * start + 1.0)


def test_a_delayed_update_steps_at_every_third_call_also_after_it_was_saved():
    source = nn.Linear(1, 1, bias=False)
    average = WeightAverage(source, 0.0)
    delayed, moved = DelayedUpdate(average, 3), []
    for call in range(9):
        source.weight.data.fill_(float(call))
        before = average.module.weight.item()
        if call == 4:  # two calls into the second round
            state = delayed.state_dict()
            delayed = DelayedUpdate(average, 3)
            delayed.load_state_dict(state)
        delayed.step()
        moved.append(average.module.weight.item() != before)
    assert moved == [False, False, True] * 3


def test_a_delay_below_one_is_refused():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        DelayedUpdate(WeightAverage(nn.Linear(1, 1), 0.5), 0)


def test_a_chain_is_its_updaters_in_their_order():
    source = nn.Linear(1, 1, bias=False)
    first = WeightAverage(source, 0.0)
    second = WeightAverage(first.module, 0.0)  # of what the first has become
    chain = UpdaterChain([first, second])
    source.weight.data.fill_(7.0)
    chain.step()
    assert second.module.weight.item() == 7.0
    chain.load_state_dict(chain.state_dict())


def test_a_copy_has_tables_of_hooks_of_its_own():
    source = nn.Sequential(nn.Linear(2, 2))
    copied = copy_but_for(source, [source[0].bias])
    copied[0].register_forward_hook(lambda module, inputs, output: output + 1.0)
    assert not source[0]._forward_hooks
    assert copied[0].bias is source[0].bias
    assert copied[0].weight is not source[0].weight
    assert torch.equal(copied(torch.ones(2)), source(torch.ones(2)) + 1.0)
