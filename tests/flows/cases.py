"""Random layers and flows in double precision, and the quadrature that checks their densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import normflows
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maxentflow.flows import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Autoregressive,
    AutoregressiveAffine,
    AutoregressiveSpline,
    ElementwiseAffine,
    ElementwiseCoupling,
    ElementwiseMixtureCDF,
    EnergyBasedFlow,
    Inverse,
    Layer,
    MixtureCDFCoupling,
    NormflowsLayer,
    Permutation,
    ResidualLayer,
    RewardShift,
    SplineCoupling,
    StandardNormal,
    StateLinear,
    StateScale,
    TanhSquash,
    build,
    options,
    registered,
)

from . import normflows_cases
from .normflows_cases import NORMFLOWS_LAYERS

quick = settings(max_examples=4, deadline=None, derandomize=True)
few = settings(max_examples=3, deadline=None, derandomize=True)

SEEDS = st.integers(0, 2**31 - 1)
DIMS = st.integers(1, 4)
SQUASH = st.booleans()
BATCHES = st.sampled_from([(), (5,), (2, 3)])
HIDDEN = (16, 16)


def _custom_mask(dim: int) -> list[int]:
    return [1] * (dim - 1) + [0]


def _splines(dim: int, context_dim: int | None, **options: object) -> SplineCoupling:
    """With ends that the variables of the tests lie on both sides of."""
    return SplineCoupling(dim, context_dim, hidden=HIDDEN, bins=5, bound=3.0, **options)


def _mixtures(dim: int, context_dim: int | None, **options: object) -> MixtureCDFCoupling:
    return MixtureCDFCoupling(dim, context_dim, hidden=HIDDEN, components=3, **options)


LAYERS: dict[str, Callable[[int, int], Layer]] = {
    "StateScale": lambda d, c: StateScale(d, c, bounds=(-1.5, 0.5), hidden=HIDDEN),
    "StateLinear": lambda d, c: StateLinear(d, c, hidden=HIDDEN, max_log_scale=1.0),
    "AdditiveCoupling-even": lambda d, c: AdditiveCoupling(d, c, mask="even", hidden=HIDDEN),
    "AdditiveCoupling-odd": lambda d, c: AdditiveCoupling(d, c, mask="odd", hidden=HIDDEN),
    "AdditiveCoupling-custom": lambda d, c: AdditiveCoupling(d, c, mask=_custom_mask(d)),
    "AdditiveCoupling-unconditional": lambda d, c: AdditiveCoupling(d, hidden=HIDDEN),
    "AffineCoupling-even": lambda d, c: AffineCoupling(d, c, mask="even", hidden=HIDDEN),
    "AffineCoupling-odd": lambda d, c: AffineCoupling(d, c, mask="odd", hidden=HIDDEN),
    "AffineCoupling-custom": lambda d, c: AffineCoupling(d, c, mask=_custom_mask(d)),
    "AffineCoupling-unconditional": lambda d, c: AffineCoupling(d, hidden=HIDDEN),
    "SplineCoupling-even": lambda d, c: _splines(d, c, mask="even"),
    "SplineCoupling-odd": lambda d, c: _splines(d, c, mask="odd"),
    "SplineCoupling-custom": lambda d, c: _splines(d, c, mask=_custom_mask(d)),
    "SplineCoupling-unconditional": lambda d, c: _splines(d, None),
    "MixtureCDFCoupling-even": lambda d, c: _mixtures(d, c, mask="even"),
    "MixtureCDFCoupling-odd": lambda d, c: _mixtures(d, c, mask="odd"),
    "MixtureCDFCoupling-unconditional": lambda d, c: _mixtures(d, None),
    "ElementwiseCoupling-affine": lambda d, c: ElementwiseCoupling(
        d, c, function=ElementwiseAffine(), mask="odd", hidden=HIDDEN
    ),
    "AutoregressiveAffine": lambda d, c: AutoregressiveAffine(d, c, hidden=HIDDEN),
    "AutoregressiveAffine-descending": lambda d, c: AutoregressiveAffine(
        d, c, order="descending", hidden=(16,)
    ),
    "AutoregressiveAffine-unconditional": lambda d, c: AutoregressiveAffine(d, hidden=HIDDEN),
    "AutoregressiveSpline": lambda d, c: AutoregressiveSpline(
        d, c, hidden=HIDDEN, bins=5, bound=3.0
    ),
    "AutoregressiveSpline-order": lambda d, c: AutoregressiveSpline(
        d, c, order=torch.randperm(d).tolist(), hidden=HIDDEN, bins=5, bound=3.0
    ),
    "Autoregressive-mixture": lambda d, c: Autoregressive(
        d, c, function=ElementwiseMixtureCDF(components=3), hidden=HIDDEN
    ),
    "ResidualLayer": lambda d, c: ResidualLayer(d, c, hidden=HIDDEN),
    "ResidualLayer-unconditional": lambda d, c: ResidualLayer(d, hidden=(16,)),
    "ActNorm": lambda d, c: ActNorm(d),
    "StateLinear-unconditional": lambda d, c: StateLinear(d),
    "StateScale-unconditional": lambda d, c: StateScale(d),
    "Inverse-AutoregressiveAffine": lambda d, c: Inverse(AutoregressiveAffine(d, c)),
    "Inverse-ResidualLayer": lambda d, c: Inverse(ResidualLayer(d, c, hidden=HIDDEN)),
    "Inverse-StateLinear": lambda d, c: Inverse(StateLinear(d, c, hidden=HIDDEN)),
    "Inverse-AffineCoupling": lambda d, c: Inverse(
        AffineCoupling(d, c, mask="odd", hidden=HIDDEN)
    ),
    "Permutation": lambda d, c: Permutation(d),
    "Permutation-random": lambda d, c: Permutation(d, torch.randperm(d).tolist()),
    "TanhSquash": lambda d, c: TanhSquash(d),
    "TanhSquash-bounds": lambda d, c: TanhSquash(d, -3.0, [i + 1.0 for i in range(d)]),
    **{f"normflows-{name}": make for name, make in NORMFLOWS_LAYERS.items()},
}

SMALLEST_DIM = {f"normflows-{name}": dim for name, dim in normflows_cases.SMALLEST_DIM.items()}
LARGEST_DIM = {f"normflows-{name}": dim for name, dim in normflows_cases.LARGEST_DIM.items()}


def tolerance(name: str) -> float:
    """What a round trip may be off by: more where normflows iterates."""
    return 1e-8 if name.removeprefix("normflows-") in normflows_cases.ITERATIVE else 1e-9


def fitting_dim(name: str, dim: int) -> int:
    """The size nearest to ``dim`` that a layer takes."""
    return max(min(dim, LARGEST_DIM.get(name, dim)), SMALLEST_DIM.get(name, 1))


def perturb(module: nn.Module, noise: float = 0.3) -> nn.Module:
    """Add noise to every parameter: at their initial zeros, most properties hold trivially."""
    with torch.no_grad():
        for parameter in module.parameters():
            fan = max(parameter.shape[-2:], default=1) if parameter.ndim > 1 else 1
            parameter.add_(noise * 2 / math.sqrt(fan) * torch.randn_like(parameter))
    return module


def uniform(*shape: int, bound: float) -> Tensor:
    """Double-precision entries between ``-bound`` and ``bound``."""
    return bound * (2 * torch.rand(*shape, dtype=torch.float64) - 1)


class LayerCase(NamedTuple):
    layer: Layer
    z: Tensor
    x: Tensor
    context: Tensor


@st.composite
def layer_cases(draw: st.DrawFn, name: str) -> LayerCase:
    """A random layer with a latent ``z``, an unrelated variable ``x`` and a context."""
    dim = fitting_dim(name, draw(DIMS))
    context_dim, batch = draw(st.integers(1, 3)), draw(BATCHES)
    torch.manual_seed(draw(SEEDS))
    layer = perturb(LAYERS[name](dim, context_dim)).double().eval()
    z, x = uniform(*batch, dim, bound=5), uniform(*batch, dim, bound=5)
    if isinstance(layer, TanhSquash):
        x = torch.tanh(x)
    return LayerCase(layer, z, x, uniform(*batch, context_dim, bound=2))


def _mixed(action_dim: int, obs_dim: int) -> list[Layer]:
    return [
        AdditiveCoupling(action_dim, obs_dim, mask="odd", hidden=HIDDEN),
        Permutation(action_dim),
        NormflowsLayer(normflows.flows.LULinearPermute(action_dim)),
        AffineCoupling(action_dim, obs_dim, mask="odd", **_SMALL),
        NORMFLOWS_LAYERS["MaskedAffineFlow"](action_dim, obs_dim),
    ]


# Small networks, and densities that a grid of actions resolves.
_SMALL = {"hidden": HIDDEN, "max_log_scale": 0.5}
_SMALLER = {**_SMALL, "bins": 4, "components": 3}
# A block has layers of both masks or orders, where the recipe has these.
_BLOCKS = {"residual": 2}

MIXED = "our layers mixed with those of normflows"
FLOWS = (*registered(), MIXED)


def make_flow(
    name: str,
    action_dim: int,
    obs_dim: int,
    *,
    temperature: float = 0.5,
    heads: int = 2,
    log_sigma: tuple[float, float] | None = (-1.5, 0.3),
    squash: bool = True,
    **further: object,
) -> EnergyBasedFlow:
    """A flow with small networks: one that is registered, or ``MIXED``."""
    if name in registered():
        small = {k: v for k, v in _SMALLER.items() if k in options(name)}
        return build(
            name,
            action_dim,
            obs_dim,
            temperature=temperature,
            heads=heads,
            log_sigma=log_sigma,
            squash="tanh" if squash else "none",
            scale={"hidden": HIDDEN},
            shift={"hidden": HIDDEN},
            **{**small, "blocks": _BLOCKS.get(name, 1), **further},
        )
    return EnergyBasedFlow(
        StandardNormal(action_dim),
        [
            StateScale(action_dim, obs_dim, bounds=log_sigma, hidden=HIDDEN),
            *_mixed(action_dim, obs_dim),
            *([TanhSquash(action_dim)] if squash else []),
        ],
        temperature=temperature,
        shift=RewardShift(obs_dim, heads, hidden=HIDDEN) if heads else None,
        **further,
    )


class FlowCase(NamedTuple):
    flow: EnergyBasedFlow
    action: Tensor
    observation: Tensor

    @property
    def ends_in_squash(self) -> bool:
        return isinstance(self.flow.layers[-1], TanhSquash)


@st.composite
def flow_cases(
    draw: st.DrawFn,
    name: str,
    *,
    dims: st.SearchStrategy[int] = DIMS,
    batches: st.SearchStrategy[tuple[int, ...]] = BATCHES,
    squash: st.SearchStrategy[bool] = SQUASH,
    log_sigma: tuple[float, float] = (-1.5, 0.3),
    noise: float = 0.2,
) -> FlowCase:
    """A random flow in evaluation mode with actions and observations."""
    action_dim, obs_dim, batch = draw(dims), draw(st.integers(1, 3)), draw(batches)
    heads, squash_ = draw(st.integers(0, 3)), draw(squash)
    temperature = draw(st.floats(0.05, 3.0))
    torch.manual_seed(draw(SEEDS))
    flow = make_flow(
        name,
        action_dim,
        obs_dim,
        temperature=temperature,
        heads=heads,
        log_sigma=log_sigma,
        squash=squash_,
    )
    flow = perturb(flow, noise).double().eval()
    action = uniform(*batch, action_dim, bound=3)
    if squash_:
        action = torch.tanh(action)
    return FlowCase(flow, action, uniform(*batch, obs_dim, bound=2))


class Grid(NamedTuple):
    """Actions ``(points, dim)`` with the logarithms of their quadrature weights."""

    axes: list[Tensor]
    action: Tensor
    log_weight: Tensor

    def log_integral(self, log_density: Tensor) -> Tensor:
        """Of log-densities ``(points, ...)``."""
        weights = self.log_weight.reshape(-1, *[1] * (log_density.ndim - 1))
        return torch.logsumexp(log_density + weights, dim=0)


def action_grid(
    dim: int, squash: bool, *, half_width: float = 12.0, points: int | None = None
) -> Grid:
    """The trapezoid rule in u, where a = tanh(u) or a = u.

    It converges faster than any power of the spacing for smooth densities that vanish at the ends.
    """
    points = points or {1: 2001, 2: 257}[dim]
    return _grid([(-half_width, half_width)] * dim, squash, points)


def grid_around(samples: Tensor, squash: bool) -> Grid:
    """A trapezoid rule where the samples ``(count, dim)`` lie, and a little further."""
    u = torch.atanh(samples) if squash else samples
    low, high = u.amin(0), u.amax(0)
    margin = 0.2 * (high - low)
    ends = torch.stack([low - margin, high + margin], dim=-1).tolist()
    return _grid(ends, squash, {1: 2001, 2: 201}[len(ends)])


def _grid(ends: Sequence[tuple[float, float]], squash: bool, points: int) -> Grid:
    axes = [torch.linspace(low, high, points, dtype=torch.float64) for low, high in ends]
    u = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(ends))
    log_cell = sum(math.log((high - low) / (points - 1)) for low, high in ends)
    log_weight = torch.full((len(u),), log_cell, dtype=torch.float64)
    if not squash:
        return Grid(axes, u, log_weight)
    log_cosh = u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2)
    return Grid(axes, torch.tanh(u), log_weight - 2 * log_cosh.sum(-1))


def latent_grid(flow: EnergyBasedFlow, observation: Tensor) -> Grid:
    """Actions that are images of a grid of latents, with the volumes that autograd gives them.

    For densities with kinks or peaks: in latents the integrand is the base's density, of which
    the trapezoid rule with a spacing of 1/4 is exact to rounding.
    """
    points = {1: 1001, 2: 65}[flow.action_dim]
    grid = action_grid(flow.action_dim, squash=False, half_width=8.0, points=points)
    latent = grid.action.clone().requires_grad_()
    action = latent
    for layer in flow.layers:
        action, _ = layer(action, observation)
    rows = [torch.autograd.grad(entry.sum(), latent, retain_graph=True)[0] for entry in action.T]
    volume = torch.linalg.slogdet(torch.stack(rows, dim=-2)).logabsdet
    return Grid(grid.axes, action.detach(), grid.log_weight + volume)


# Flows whose densities a grid of actions resolves: no kinks, not too wide and not too narrow.
SMOOTH = {"additive", "residual"}


def largest(error: Tensor) -> float:
    """The largest magnitude of an entry."""
    return error.detach().abs().max().item()


def flow_around(layer: Layer, squash: bool, dim: int = 2) -> EnergyBasedFlow:
    """A random flow of observations of size 3 with one layer after the scale."""
    scale = StateScale(dim, 3, bounds=(-1.0, -0.3), hidden=HIDDEN)
    layers = [scale, layer, *([TanhSquash(dim)] if squash else [])]
    shift = RewardShift(3, 2, hidden=HIDDEN)
    flow = EnergyBasedFlow(StandardNormal(dim), layers, temperature=0.5, shift=shift)
    return perturb(flow).double().eval()


def normalisation_error(flow: EnergyBasedFlow, grid: Grid, observation: Tensor) -> float:
    """Of the density's integral, and of V as the soft maximum of Q."""
    batch = observation.shape[:-1]
    action = grid.action.reshape(-1, *[1] * len(batch), flow.action_dim)
    with torch.no_grad():
        q, v = flow.q_and_value(action, observation)
        integral = grid.log_integral((q - v) / flow.temperature).exp()
        soft_maximum = flow.temperature * grid.log_integral(q / flow.temperature)
        value = flow.value(observation)
    return max(largest(integral - 1), largest(value - soft_maximum))
