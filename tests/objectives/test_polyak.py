"""Target updates: TorchRL's own and PolyakUpdate."""

import pytest
import torch
from torchrl.objectives import HardUpdate, SoftUpdate

from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

from .common import MODELS, exactly, make_batch, make_model, perturb


def source_and_target(loss):
    """Pairs of trained parameters and their targets."""
    source, target = loss.value_network_params, loss.target_value_network_params
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


def test_vectors_are_one_step_of_all_targets():
    """With sources in one vector, an average of the vectors is the step of every pair."""
    torch.manual_seed(0)
    model = make_model()
    vector = torch.cat([p.detach().flatten() for p in model.parameters()])
    parts = vector.split([p.numel() for p in model.parameters()])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        parameter.data = part.view_as(parameter)
    loss = SoftBellmanLoss(model)
    updater = PolyakUpdate(loss, tau=0.25)
    perturb(model)
    before = [(source.clone(), target.clone()) for source, target in source_and_target(loss)]
    ((whole, average),) = updater.vectors()
    assert whole.data_ptr() == vector.data_ptr()
    for (_, target), (_, after) in zip(before, source_and_target(loss), strict=True):
        exactly(after, target)
    average.lerp_(whole, 0.25)
    for (source, target), (_, after) in zip(before, source_and_target(loss), strict=True):
        torch.testing.assert_close(after, 0.75 * target + 0.25 * source, rtol=1e-6, atol=1e-7)
