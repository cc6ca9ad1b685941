"""Flows of zuko and normflows, of the same families and sizes as the recipes of maxentflow.flows.

Made of each library's own classes, as its documentation puts them together: ReLU nets, a standard
normal base. normflows' spline and autoregressive layers have residual nets: their one block has
the two hidden activations of the others' nets, and one matrix more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import normflows as nf
import torch
import zuko
from torch import Tensor, nn

__all__ = ["Peer", "build"]


class Peer(Protocol):
    """A density of another library. A context has one row for each point."""

    module: nn.Module

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-densities, ``(batch,)``, of points, ``(batch, dim)``."""

    def sample(self, count: int, context: Tensor | None = None) -> Tensor:
        """Points, ``(count, dim)``, without gradients."""


class Size(NamedTuple):
    """The arguments of ``build``."""

    dim: int
    context_dim: int
    transforms: int
    hidden: tuple[int, int]
    bins: int
    bound: float

    @property
    def width(self) -> int:
        """The only hidden width."""
        (width,) = set(self.hidden)
        return width


def build(
    library: Literal["zuko", "normflows"],
    family: str,
    dim: int,
    context_dim: int,
    *,
    transforms: int,
    hidden: tuple[int, int] = (64, 64),
    bins: int = 8,
    bound: float = 5.0,
) -> Peer | None:
    """A library's model of a family, or None where it has no such model.

    Args:
        library: "zuko" or "normflows".
        family: a recipe of ``maxentflow.flows``.
        dim: size of a point, at least 2.
        context_dim: size of a context, 0 for none.
        transforms: how many couplings, autoregressive layers or residual blocks.
        hidden: hidden widths of each net; residual nets need equal ones.
        bins: bins of a spline, components of a mixture.
        bound: where a spline's tails begin.

    Raises:
        KeyError: an unknown library or family.
        ValueError: unequal widths for residual nets.
    """
    size = Size(dim, context_dim, transforms, hidden, bins, bound)
    return {"zuko": _zuko, "normflows": _normflows}[library](family, size)


class ZukoPeer:
    """See ``Peer``."""

    def __init__(self, flow: zuko.flows.Flow) -> None:
        self.module = flow

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.module(context).log_prob(x)

    def sample(self, count: int, context: Tensor | None = None) -> Tensor:
        # The rows of a context are the batch of its distribution.
        return self.module(context).sample((count,) if context is None else ())


def _zuko(family: str, size: Size) -> Peer | None:
    recipe = _ZUKO[family]
    return ZukoPeer(recipe(size)) if recipe else None


def _zuko_flow(kind: type[zuko.flows.Flow], size: Size, **univariate: Any) -> zuko.flows.Flow:
    return kind(
        size.dim,
        size.context_dim,
        transforms=size.transforms,
        hidden_features=size.hidden,
        **univariate,
    )


def _zuko_spline(kind: type[zuko.flows.Flow], size: Size) -> zuko.flows.Flow:
    """What zuko.flows.NSF makes of MAF; NSF itself has a bound of 5 and no other."""
    return _zuko_flow(
        kind,
        size,
        univariate=partial(zuko.transforms.MonotonicRQSTransform, bound=size.bound),
        shapes=[(size.bins,), (size.bins,), (size.bins - 1,)],
    )


def _zuko_mixture_cdf(size: Size) -> zuko.flows.Flow:
    """Of Flow++'s form; normal for its logistic components, equal weights, no affine map."""
    return _zuko_flow(
        zuko.flows.NICE,
        size,
        univariate=zuko.transforms.GaussianizationTransform,
        shapes=[(size.bins,), (size.bins,)],
    )


def _zuko_iaf(size: Size) -> zuko.flows.Flow:
    """https://github.com/probabilists/zuko/discussions/72"""
    maf = _zuko_flow(zuko.flows.MAF, size)
    return zuko.flows.Flow(maf.transform.inv, maf.base)


def _zuko_glow(size: Size) -> zuko.flows.Flow:
    """From parts: the affine map is an ActNorm that does not start from the data."""
    couplings = _zuko_flow(zuko.flows.RealNVP, size)
    layers = []
    for coupling in couplings.transform.transforms:
        layers += [
            zuko.lazy.UnconditionalTransform(
                zuko.transforms.MonotonicAffineTransform,
                shift=torch.zeros(size.dim),
                scale=torch.zeros(size.dim),
            ),
            zuko.lazy.UnconditionalTransform(
                zuko.transforms.LULinearTransform, torch.eye(size.dim)
            ),
            coupling,
        ]
    return zuko.flows.Flow(layers, couplings.base)


_ZUKO: dict[str, Callable[[Size], zuko.flows.Flow] | None] = {
    "additive": partial(
        _zuko_flow,
        zuko.flows.NICE,
        univariate=zuko.transforms.AdditiveTransform,
        shapes=[()],
    ),
    "affine": partial(_zuko_flow, zuko.flows.RealNVP),
    # The documentation's coupling, NSF(passes=2), is "maf-spline" itself in two dimensions.
    "spline": partial(_zuko_spline, zuko.flows.NICE),
    "mixture-cdf": _zuko_mixture_cdf,
    "maf": partial(_zuko_flow, zuko.flows.MAF),
    "iaf": _zuko_iaf,
    "maf-spline": partial(_zuko_spline, zuko.flows.MAF),
    "glow": _zuko_glow,
    "residual": None,  # none of its transforms is a residual block
}


class NormflowsPeer:
    """See ``Peer``."""

    def __init__(self, flow: nf.NormalizingFlow) -> None:
        self.module = flow

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.module.log_prob(x, *_given(context))

    @torch.no_grad()
    def sample(self, count: int, context: Tensor | None = None) -> Tensor:
        points, _ = self.module.sample(count, *_given(context))
        return points.detach()  # a residual block turns gradients on


class NormflowsResidualPeer(NormflowsPeer):
    """Bounds the Lipschitz constants, as is due after each step, before the next."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.module.training:
            nf.utils.update_lipschitz(self.module, n_iterations=5)  # LipschitzMLP's default
        return super().log_prob(x.detach())  # a residual block has its input require gradients


def _given(context: Tensor | None) -> tuple[Tensor, ...]:
    """Only flows and layers with a context have an argument for it."""
    return () if context is None else (context,)


def _normflows(family: str, size: Size) -> Peer | None:
    block = _NORMFLOWS[family]
    if block is None or (size.context_dim and family in _NORMFLOWS_UNCONDITIONAL):
        return None
    if family == "residual" and size.dim != 2:
        return None  # beyond the plane, its log-determinant is an estimate
    base = nf.distributions.DiagGaussian(size.dim, trainable=False)
    flow = nf.ConditionalNormalizingFlow if size.context_dim else nf.NormalizingFlow
    peer = NormflowsResidualPeer if family == "residual" else NormflowsPeer
    return peer(flow(base, [layer for _ in range(size.transforms) for layer in block(size)]))


def _normflows_affine(size: Size, scale: bool = True) -> list[nf.flows.Flow]:
    """As in normflows' README."""
    return [
        nf.flows.AffineCouplingBlock(_normflows_net(size, scale), scale),
        nf.flows.Permute(size.dim, mode="swap"),
    ]


def _normflows_glow(size: Size) -> list[nf.flows.Flow]:
    """What a GlowBlock has for images, with its order and its scale map."""
    return [
        nf.flows.AffineCouplingBlock(_normflows_net(size), scale_map="sigmoid"),
        nf.flows.InvertibleAffine(size.dim, use_lu=True),
        nf.flows.ActNorm(size.dim),
    ]


def _normflows_net(size: Size, scale: bool = True) -> nf.nets.MLP:
    kept, changed = size.dim - size.dim // 2, size.dim // 2
    return nf.nets.MLP([kept, *size.hidden, (1 + scale) * changed], init_zeros=True)


def _normflows_spline(size: Size, kind: type[nf.flows.Flow]) -> list[nf.flows.Flow]:
    layer = kind(
        size.dim,
        num_blocks=1,
        num_hidden_channels=size.width,
        num_context_channels=size.context_dim or None,
        num_bins=size.bins,
        tail_bound=size.bound,
    )
    return [layer, nf.flows.Permute(size.dim, mode="swap")]


def _normflows_iaf(size: Size) -> list[nf.flows.Flow]:
    """As in normflows' example conditional_flow: the layer's one pass is from latent to data.

    Its scales end at 1.001; without the linear map, no density would be wider than the base.
    """
    layer = nf.flows.MaskedAffineAutoregressive(
        size.dim, size.width, context_features=size.context_dim or None, num_blocks=1
    )
    return [layer, nf.flows.LULinearPermute(size.dim)]


def _normflows_maf(size: Size) -> list[nf.flows.Flow]:
    layer, linear = _normflows_iaf(size)
    return [nf.flows.Reverse(layer), linear]


def _normflows_residual(size: Size) -> list[nf.flows.Flow]:
    """As in normflows' example residual, but with the exact log-determinant."""
    net = nf.nets.LipschitzMLP([size.dim, *size.hidden, size.dim])
    return [
        nf.flows.Residual(net, reduce_memory=False, brute_force=True),
        nf.flows.ActNorm(size.dim),
    ]


_NORMFLOWS: dict[str, Callable[[Size], list[nf.flows.Flow]] | None] = {
    "additive": partial(_normflows_affine, scale=False),
    "affine": _normflows_affine,
    # This coupling also has a spline, the same for all points, for the half that it keeps.
    "spline": partial(_normflows_spline, kind=nf.flows.CoupledRationalQuadraticSpline),
    "mixture-cdf": None,  # none of its layers is the distribution function of a mixture
    "maf": _normflows_maf,
    "iaf": _normflows_iaf,
    "maf-spline": partial(_normflows_spline, kind=nf.flows.AutoregressiveRationalQuadraticSpline),
    "glow": _normflows_glow,
    "residual": _normflows_residual,
}
# AffineCouplingBlock, Reverse, ActNorm and Residual take no context.
_NORMFLOWS_UNCONDITIONAL = {"additive", "affine", "maf", "glow", "residual"}
