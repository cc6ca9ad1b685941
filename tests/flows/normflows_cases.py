"""The layers of normflows that an energy-based flow takes, for the properties of every layer."""

from __future__ import annotations

from collections.abc import Callable

import normflows.flows as nf
import torch
from normflows.nets import LipschitzMLP
from torch import Tensor, nn

from maxentflow.flows import Layer, NormflowsLayer

_WIDTH = 16
_SMOOTH = {"activation": nn.SiLU}


def _mask(dim: int) -> Tensor:
    return torch.tensor([float(i % 2) for i in range(dim)])


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, outputs))


def _masked_affine(dim: int) -> nf.Flow:
    return nf.MaskedAffineFlow(_mask(dim), _network(dim, dim), _network(dim, dim))


def _additive(dim: int) -> nf.Flow:
    return nf.MaskedAffineFlow(_mask(dim), _network(dim, dim))


def _block(dim: int, scale: bool = True, **options: object) -> nf.Flow:
    outputs = (1 + scale) * (dim // 2)
    return nf.AffineCouplingBlock(_network((dim + 1) // 2, outputs), scale, **options)


def _coupled_spline(dim: int, context_dim: int | None) -> nf.Flow:
    return nf.CoupledRationalQuadraticSpline(
        dim, 1, _WIDTH, num_context_channels=context_dim, **_SMOOTH
    )


def _autoregressive_spline(dim: int, context_dim: int | None) -> nf.Flow:
    return nf.AutoregressiveRationalQuadraticSpline(
        dim, 1, _WIDTH, num_context_channels=context_dim, permute_mask=True, **_SMOOTH
    )


# The box of the periodic layers: it holds the variables of every test.
_BOX = 60.0


def _circular(kind: type[nf.Flow], dim: int, context_dim: int) -> nf.Flow:
    every_other = list(range(0, dim, 2))
    return kind(
        dim,
        1,
        _WIDTH,
        every_other,
        num_context_channels=context_dim,
        tail_bound=_BOX,
        **_SMOOTH,
    )


def _residual(reverse: bool) -> nf.Flow:
    net = LipschitzMLP([2, _WIDTH, 2], lipschitz_const=0.9, init_zeros=False)
    return nf.Residual(net, reverse, brute_force=True)


_FACTORIES: dict[str, Callable[[int, int], nf.Flow]] = {
    "Permute": lambda d, c: nf.Permute(d),
    "Permute-swap": lambda d, c: nf.Permute(d, mode="swap"),
    "LULinearPermute": lambda d, c: nf.LULinearPermute(d),
    "InvertibleAffine": lambda d, c: nf.InvertibleAffine(d, use_lu=False),
    "InvertibleAffine-lu": lambda d, c: nf.InvertibleAffine(d),
    "Invertible1x1Conv": lambda d, c: nf.Invertible1x1Conv(d),
    "Invertible1x1Conv-lu": lambda d, c: nf.Invertible1x1Conv(d, use_lu=True),
    "AffineConstFlow": lambda d, c: nf.AffineConstFlow((d,)),
    "CCAffineConst": lambda d, c: nf.CCAffineConst(d, c),
    "ActNorm": lambda d, c: nf.ActNorm((d,)),
    "PeriodicShift": lambda d, c: nf.PeriodicShift([0], bound=_BOX, shift=1.0),
    "MaskedAffineFlow": lambda d, c: _masked_affine(d),
    "MaskedAffineFlow-additive": lambda d, c: _additive(d),
    "AffineCouplingBlock": lambda d, c: _block(d),
    "AffineCouplingBlock-sigmoid": lambda d, c: _block(d, scale_map="sigmoid"),
    "AffineCouplingBlock-sigmoid_inv": lambda d, c: _block(d, scale_map="sigmoid_inv"),
    "AffineCouplingBlock-additive": lambda d, c: _block(d, scale=False),
    # Few channels: where its sigmoid underflows, the log-determinant is infinite.
    "GlowBlock": lambda d, c: nf.GlowBlock(d, 4),
    "GlowBlock-additive": lambda d, c: nf.GlowBlock(d, 4, scale=False, use_lu=False),
    "MaskedAffineAutoregressive": lambda d, c: nf.MaskedAffineAutoregressive(d, _WIDTH, c),
    "MaskedAffineAutoregressive-unconditional": lambda d, c: nf.MaskedAffineAutoregressive(
        d, _WIDTH
    ),
    "CoupledRationalQuadraticSpline": _coupled_spline,
    "CoupledRationalQuadraticSpline-unconditional": lambda d, c: _coupled_spline(d, None),
    "AutoregressiveRationalQuadraticSpline": _autoregressive_spline,
    "AutoregressiveRationalQuadraticSpline-unconditional": lambda d, c: _autoregressive_spline(
        d, None
    ),
    "CircularCoupledRationalQuadraticSpline": lambda d, c: _circular(
        nf.CircularCoupledRationalQuadraticSpline, d, c
    ),
    "CircularAutoregressiveRationalQuadraticSpline": lambda d, c: _circular(
        nf.CircularAutoregressiveRationalQuadraticSpline, d, c
    ),
    "Residual": lambda d, c: _residual(reverse=True),
    "Residual-forward": lambda d, c: _residual(reverse=False),
}


def _adapted(make: Callable[[int, int], nf.Flow]) -> Callable[[int, int], Layer]:
    return lambda dim, context_dim: NormflowsLayer(make(dim, context_dim))


NORMFLOWS_LAYERS = {name: _adapted(make) for name, make in _FACTORIES.items()}

# In one dimension a coupling of two parts leaves nothing to transform, or nothing to condition on.
SMALLEST_DIM = {
    name: 2
    for name in NORMFLOWS_LAYERS
    if name.startswith(("AffineCouplingBlock", "GlowBlock", "Residual")) or "Coupled" in name
}

# The exact log-determinant of normflows' residual block is written for two dimensions.
LARGEST_DIM = {"Residual": 2, "Residual-forward": 2}

# Layers that find one of their directions by iteration.
ITERATIVE = {"Residual", "Residual-forward"}
