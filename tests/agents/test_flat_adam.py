"""FlatAdam against torch's Adam on the same parameters."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from maxentflow.agents import FlatAdam

SIZES = [(7, 33), (33,), (5, 1), (16,), ()]


def parameters(dtype=torch.float64):
    """Tensors of sizes that fill cache lines and that do not; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in SIZES]


def loss_of(tensors, step):
    """A different quartic at each step, whose gradient is zero for none."""
    return sum(((p - 0.1 * step) ** 4).sum() * (i + 1) for i, p in enumerate(tensors))


def take_steps(optimizer, tensors, count):
    for step in range(count):
        optimizer.backward(loss_of(tensors, step))
        optimizer.step()


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def as_torch_does(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()


def as_modules_do(optimizer, loss):
    """As ``module.zero_grad()``: gradients are dropped, and new ones made elsewhere."""
    for parameter in all_parameters(optimizer):
        parameter.grad = None
    loss.backward()


def in_one_go(optimizer, loss):
    optimizer.backward(loss)


def all_parameters(optimizer):
    return optimizer.parameters()


@pytest.mark.parametrize("differentiate", [as_torch_does, as_modules_do, in_one_go])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9)}, {"amsgrad": True}]
)
def test_steps_are_adams(differentiate, options):
    ours, theirs = parameters(), parameters()
    flat, adam = FlatAdam(ours, lr=0.05, **options), torch.optim.Adam(theirs, lr=0.05, **options)
    for step in range(20):
        differentiate(flat, loss_of(ours, step))
        as_torch_does(adam, loss_of(theirs, step))
        flat.step()
        adam.step()
        assert_same(ours, theirs)
        assert_same([p.grad for p in ours], [p.grad for p in theirs])


def test_groups_have_options_of_their_own():
    ours, theirs = parameters(), parameters()

    def groups(tensors):
        return [{"params": tensors[:2], "lr": 0.1}, {"params": tensors[2:]}]

    flat, adam = FlatAdam(groups(ours), lr=0.01), torch.optim.Adam(groups(theirs), lr=0.01)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 3, gamma=0.5) for o in (flat, adam)]
    for step in range(10):
        flat.backward(loss_of(ours, step))
        as_torch_does(adam, loss_of(theirs, step))
        for stepper in (flat, adam, *schedulers):
            stepper.step()
    assert_same(ours, theirs)


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clipping_the_vectors_clips_the_parameters(max_norm):
    ours, theirs = parameters(), parameters()
    flat = FlatAdam(ours)
    flat.backward(loss_of(ours, 1))
    loss_of(theirs, 1).backward()
    norm = clip_grad_norm_(flat.param_groups[0]["params"], max_norm)
    assert_same([norm], [clip_grad_norm_(theirs, max_norm)])
    assert_same([p.grad for p in ours], [p.grad for p in theirs])


def test_backward_replaces_and_torchs_accumulates():
    ours = parameters()
    flat = FlatAdam(ours)
    flat.backward(loss_of(ours, 0))
    once = [p.grad.clone() for p in ours]
    flat.backward(loss_of(ours, 0))
    assert_same([p.grad for p in ours], once)
    loss_of(ours, 0).backward()
    assert_same([p.grad for p in ours], [2 * g for g in once])


def test_a_parameter_that_takes_no_part_stays():
    ours = parameters()
    flat = FlatAdam(ours, lr=0.1)
    before = ours[1].detach().clone()
    flat.backward(loss_of(ours[:1], 0))
    flat.step()
    assert torch.equal(ours[1], before)
    assert not torch.equal(ours[0], parameters()[0])


def test_padding_stays_zero():
    ours = parameters()
    flat = FlatAdam(ours, lr=0.1)
    take_steps(flat, ours, 5)
    (vector,) = flat.param_groups[0]["params"]
    count = sum(p.numel() for p in ours)
    assert vector.numel() == 240 + 48 + 16 + 16 + 16
    assert vector.count_nonzero() == count
    for entry in (vector.grad, flat.state[vector]["exp_avg"], flat.state[vector]["exp_avg_sq"]):
        assert entry.count_nonzero() == count


def test_gradients_that_are_there_are_kept():
    ours = parameters()
    loss_of(ours, 0).backward()
    before = [p.grad.clone() for p in ours]
    FlatAdam(ours)
    assert_same([p.grad for p in ours], before)


def test_a_state_is_taken_up_where_it_was_left():
    ours = parameters()
    flat = FlatAdam(ours, lr=0.1)
    take_steps(flat, ours, 3)
    others = [nn.Parameter(p.detach().clone()) for p in ours]
    again = FlatAdam(others, lr=0.5)
    again.load_state_dict(copy.deepcopy(flat.state_dict()))
    take_steps(flat, ours, 3)
    take_steps(again, others, 3)
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))


def test_what_does_not_fit_one_vector_is_refused():
    first, *_ = parameters()
    with pytest.raises(ValueError, match="share one dtype and device"):
        FlatAdam([first, *parameters(torch.float32)])
    with pytest.raises(ValueError, match="given a parameter twice"):
        FlatAdam([{"params": [first]}, {"params": [first]}])
    with pytest.raises(ValueError, match="at least one parameter in each group"):
        FlatAdam([{"params": []}])
    with pytest.raises(ValueError, match="that require gradients only"):
        FlatAdam([nn.Parameter(torch.zeros(2), requires_grad=False)])


@pytest.mark.parametrize("change", [lambda n: n.float(), lambda n: n[0].requires_grad_(False)])
def test_a_model_moved_cast_or_frozen_later_is_refused(change):
    net = nn.Sequential(nn.Linear(3, 2)).double()
    flat = FlatAdam(net.parameters())
    change(net)
    with pytest.raises(RuntimeError, match="moved, cast or frozen after its optimizer was made"):
        flat.step()
