"""The learned temperature: its gradient by hand, its bounds, and where dual descent ends."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from maxentflow.flows import LearnedTemperature, ScheduledTemperature, build

from .cases import HIDDEN, largest, perturb, uniform


def make(initial: float = 0.5, **options: object) -> LearnedTemperature:
    return LearnedTemperature(initial, **options).double()


def slope(temperature: LearnedTemperature, log_prob: Tensor, target: float) -> Tensor:
    """The gradient of the dual loss in the logarithm of the temperature."""
    loss = temperature.dual_loss(log_prob, target)
    (gradient,) = torch.autograd.grad(loss, temperature.log_alpha)
    return gradient


@pytest.mark.parametrize("initial", [1e-8, 1e-3, 0.5, 40.0, 1e8])
def test_it_starts_at_its_initial_value_and_goes_back_to_it(initial: float) -> None:
    temperature = make(initial)
    for _ in range(2):
        assert temperature().item() == pytest.approx(initial, rel=1e-6)  # made in single precision
        assert temperature().shape == ()
        temperature.log_alpha.data.fill_(1.0)
        temperature.reset_parameters()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5)])
@pytest.mark.parametrize("target", [-3.0, 0.0, 1.25])
def test_the_dual_loss_and_its_gradient_by_hand(shape: tuple[int, ...], target: float) -> None:
    temperature = make(0.3)
    log_prob = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gap = sum(log_prob.detach().flatten().tolist()) / log_prob.numel() + target
    loss = temperature.dual_loss(log_prob, target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-temperature.log_alpha.item() * gap, rel=1e-12)
    assert slope(temperature, log_prob, target).item() == pytest.approx(-gap, rel=1e-12)
    loss.backward()
    assert log_prob.grad is None  # the policy's samples are constants


@pytest.mark.parametrize(("entropy", "rises"), [(-2.0, True), (0.5, False)])
def test_descent_raises_the_temperature_of_a_policy_that_is_too_certain(
    entropy: float, rises: bool
) -> None:
    temperature = make()
    before = temperature()
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)
    temperature.dual_loss(torch.tensor(-entropy), target_entropy=-1.0).backward()
    optimizer.step()
    assert bool(temperature() > before) is rises
    # Of the logarithm, a step is the rate times the gap, whatever the temperature is.
    ratio = (temperature() / before).log().item()
    assert ratio == pytest.approx(0.1 * (-1.0 - entropy), rel=1e-9)


def test_what_it_gives_carries_no_gradient() -> None:
    temperature = make()
    assert not temperature().requires_grad
    assert temperature.log_alpha.requires_grad


@pytest.mark.parametrize(("log_alpha", "expected"), [(-50.0, 0.1), (50.0, 2.0), (-1.0, None)])
def test_it_stays_between_its_bounds(log_alpha: float, expected: float | None) -> None:
    temperature = make(bounds=(0.1, 2.0))
    temperature.log_alpha.data.fill_(log_alpha)
    expected = math.exp(log_alpha) if expected is None else expected
    assert temperature().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("outwards", [1.0, -1.0])
def test_descent_stops_at_a_bound_and_comes_back_from_it(outwards: float) -> None:
    """Adam's momentum takes it a little further than the bound, where it must not be stuck."""
    temperature = make(1.0, bounds=(0.5, 2.0))
    optimizer = torch.optim.Adam(temperature.parameters(), lr=0.05)

    def descend(gap: float, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            temperature.dual_loss(torch.tensor(gap), target_entropy=0.0).backward()
            optimizer.step()
        return temperature().item()

    bound = 2.0 if outwards > 0 else 0.5
    assert descend(outwards, 200) == pytest.approx(bound, rel=1e-12)
    assert abs(temperature.log_alpha.item()) <= math.log(2.0) + 1.0
    assert descend(-outwards, 200) == pytest.approx(1.0 / bound, rel=1e-12)


@pytest.mark.parametrize("initial", [0.02, 2.0])
@pytest.mark.parametrize("target", [-1.0, 0.3])
def test_dual_descent_ends_where_the_best_gaussian_has_the_target_entropy(
    initial: float, target: float
) -> None:
    r"""Of the reward :math:`-k a^2 / 2` the best policy at :math:`\alpha` is a Gaussian of the
    variance :math:`\alpha / k`, whose entropy is :math:`\log(2 \pi e \alpha / k) / 2`."""
    k, temperature = 3.0, make(initial)
    optimizer = torch.optim.Adam(temperature.parameters(), lr=0.05)
    noise = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)
    noise = noise / noise.square().mean().sqrt()
    for _ in range(400):
        policy = torch.distributions.Normal(0.0, (temperature() / k).sqrt())
        optimizer.zero_grad()
        temperature.dual_loss(policy.log_prob(noise * policy.scale), target).backward()
        optimizer.step()
    expected = k * math.exp(2 * target) / (2 * math.pi * math.e)
    assert temperature().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["additive", "affine", "maf"])
def test_v_stays_where_it_is_and_the_advantage_scales(name: str) -> None:
    flow = build(
        name,
        2,
        3,
        temperature=LearnedTemperature(0.5),
        normalized=True,
        scale={"hidden": HIDDEN},
        shift={"hidden": HIDDEN},
        hidden=HIDDEN,
        blocks=1,
    )
    flow = perturb(flow).double().eval()
    observation, action = uniform(5, 3, bound=2), uniform(5, 2, bound=0.9)
    at: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
    for alpha in (0.02, 1.0, 30.0):
        flow.temperature_module.log_alpha.data.fill_(math.log(alpha))
        q, value = flow.q_and_value(action, observation)
        assert torch.equal(flow.value(observation), value)
        at[alpha] = q - value, value, flow.log_prob(action, observation)
    advantage, value, log_prob = at[1.0]
    for alpha, (scaled, same, policy) in at.items():
        assert torch.equal(same, value)
        assert torch.equal(policy, log_prob)
        assert largest(scaled - alpha * advantage) <= 1e-12 * max(alpha, 1) * largest(advantage)


def test_a_regression_of_q_gives_it_no_gradient() -> None:
    flow = build("additive", 1, 3, temperature=LearnedTemperature(0.5), normalized=True)
    q, value = flow.q_and_value(torch.zeros(4, 1), torch.randn(4, 3))
    (q.square().mean() + value.mean()).backward()
    assert flow.temperature_module.log_alpha.grad is None
    assert all(p.grad is not None for p in flow.shift.parameters())


def test_it_is_saved_with_the_flow() -> None:
    first, second = (
        build("additive", 1, 3, temperature=LearnedTemperature(alpha), normalized=True)
        for alpha in (0.5, 3.0)
    )
    second.load_state_dict(first.state_dict())
    assert second.temperature == first.temperature == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("initial", "bounds"),
    [
        (0.0, (1e-8, 1e8)),
        (-1.0, (1e-8, 1e8)),
        (float("nan"), (1e-8, 1e8)),
        (float("inf"), (1e-8, 1e8)),
        (1e9, (1e-8, 1e8)),
        (0.5, (0.6, 1.0)),
        (0.5, (0.0, 1.0)),
        (0.5, (0.1, float("inf"))),
        (0.5, (1.0, 0.1)),
    ],
)
def test_values_out_of_range_are_refused(initial: float, bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="A learned temperature begins between its bounds"):
        LearnedTemperature(initial, bounds=bounds)


# The schedule


def test_the_schedule_by_hand() -> None:
    temperature = ScheduledTemperature(2.0, 0.02, steps=8)
    seen = []
    for _ in range(12):
        seen.append(temperature().item())
        temperature.observe(TensorDict(batch_size=[1]))
    expected = [2.0 * 0.01 ** min(step / 8, 1.0) for step in range(12)]
    assert seen == pytest.approx(expected, rel=1e-6)


def test_a_schedule_over_many_steps_does_not_drift() -> None:
    """Single precision would lose a tenth of each of a million small steps."""
    temperature = ScheduledTemperature(1.0, 1e-3, steps=10**6)
    for _ in range(1_000):
        temperature.advance(500)
    assert temperature().item() == pytest.approx(10**-1.5, rel=1e-6)


def test_a_schedule_goes_on_where_it_was() -> None:
    first, second = (ScheduledTemperature(1.0, 0.1, steps=10) for _ in range(2))
    first.advance(4)
    second.load_state_dict(first.state_dict())
    assert second() == first()
    for each in (first, second):
        each.advance(3)
    assert second().item() == first().item() == pytest.approx(0.1**0.7, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 5), "positive and finite, got 0.0 and 1.0"),
        ((1.0, math.inf, 5), "positive and finite, got 1.0 and inf"),
        ((1.0, 0.5, 0), "steps must be at least 1, got 0"),
    ],
)
def test_schedules_that_are_refused(arguments: tuple[float, float, int], message: str) -> None:
    initial, final, steps = arguments
    with pytest.raises(ValueError, match=message):
        ScheduledTemperature(initial, final, steps=steps)


def test_a_flow_follows_its_schedule() -> None:
    temperature = ScheduledTemperature(1.0, 0.25, steps=2)
    flow = perturb(build("additive", 2, 3, temperature=temperature, heads=2, normalized=True))
    action, observation = torch.rand(5, 2) / 2, torch.randn(5, 3)
    flow.eval()
    before, v = flow.q_and_value(action, observation)
    temperature.advance(2)
    after, same = flow.q_and_value(action, observation)
    assert torch.equal(v, same)
    torch.testing.assert_close(4 * (after - v), before - v, rtol=1e-5, atol=1e-6)
