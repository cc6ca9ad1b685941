"""The architectures that :func:`~maxentflow.flows.build` knows by name.

Their defaults are for agents. What limits slopes (``max_log_scale``, ``min_bin``, ``min_slope``)
is tighter than in the layers: a soft Q that may be as steep as a density model's is not learned by
regression on its own values. Density models want the layers' own limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from maxentflow.flows.act_norm import ActNorm
from maxentflow.flows.autoregressive import AutoregressiveAffine, AutoregressiveSpline
from maxentflow.flows.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Mask,
    MixtureCDFCoupling,
    SplineCoupling,
)
from maxentflow.flows.inverse import Inverse
from maxentflow.flows.layer import Layer
from maxentflow.flows.linear import StateLinear
from maxentflow.flows.registry import register
from maxentflow.flows.residual import ResidualLayer

_MASKED_NETWORK = {"hidden": (64, 64), "activation": "swish", "dropout": 0.1, "init": "orthogonal"}
_NETWORK = {**_MASKED_NETWORK, "layer_norm": True}


def _repeat(make: Callable[[], Sequence[Layer]], blocks: int) -> list[Layer]:
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}.")
    return [layer for _ in range(blocks) for layer in make()]


def _couplings(coupling: Callable[..., Layer], blocks: int) -> list[Layer]:
    return _repeat(lambda: [coupling(mask=mask) for mask in ("even", "odd")], blocks)


def _autoregressions(layer: Callable[..., Layer], blocks: int) -> list[Layer]:
    return _repeat(lambda: [layer(order=order) for order in ("ascending", "descending")], blocks)


@register("additive", **_NETWORK)
def additive(
    action_dim: int, obs_dim: int | None, *, blocks: int = 2, **network: Any
) -> Sequence[Layer]:
    """NICE: blocks of two additive couplings with alternating masks."""
    return _couplings(partial(AdditiveCoupling, action_dim, obs_dim, **network), blocks)


@register("affine", **_NETWORK)
def affine(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    max_log_scale: float = 0.5,
    **network: Any,
) -> Sequence[Layer]:
    """RealNVP: blocks of two affine couplings with alternating masks."""
    coupling = partial(AffineCoupling, action_dim, obs_dim, max_log_scale=max_log_scale, **network)
    return _couplings(coupling, blocks)


@register("spline", **_NETWORK)
def spline(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    bins: int = 8,
    bound: float = 5.0,
    min_bin: float = 0.5,
    min_slope: float = 0.3,
    **network: Any,
) -> Sequence[Layer]:
    """Neural spline flow: blocks of two couplings with alternating masks."""
    options: dict[str, Any] = {
        "bins": bins,
        "bound": bound,
        "min_bin": min_bin,
        "min_slope": min_slope,
    }
    coupling = partial(SplineCoupling, action_dim, obs_dim, **options, **network)
    return _couplings(coupling, blocks)


@register("mixture-cdf", **_NETWORK)
def mixture_cdf(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    components: int = 8,
    max_log_scale: float = 0.5,
    **network: Any,
) -> Sequence[Layer]:
    """Flow++: blocks of two couplings with alternating masks; acting finds roots."""
    coupling = partial(
        MixtureCDFCoupling,
        action_dim,
        obs_dim,
        components=components,
        max_log_scale=max_log_scale,
        **network,
    )
    return _couplings(coupling, blocks)


@register("maf", **_MASKED_NETWORK)
def maf(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    max_log_scale: float = 0.5,
    **network: Any,
) -> Sequence[Layer]:
    """Masked autoregressive flow: blocks of two layers with alternating orders, fast to learn."""
    layer = partial(
        AutoregressiveAffine, action_dim, obs_dim, max_log_scale=max_log_scale, **network
    )
    return _autoregressions(layer, blocks)


@register("iaf", **_MASKED_NETWORK)
def iaf(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    max_log_scale: float = 0.5,
    **network: Any,
) -> Sequence[Layer]:
    """Inverse autoregressive flow: the layers of "maf" turned round, fast to act."""
    layers = maf(action_dim, obs_dim, blocks=blocks, max_log_scale=max_log_scale, **network)
    return [Inverse(layer) for layer in layers]


@register("maf-spline", **_MASKED_NETWORK)
def maf_spline(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 2,
    bins: int = 8,
    bound: float = 5.0,
    min_bin: float = 0.5,
    min_slope: float = 0.3,
    **network: Any,
) -> Sequence[Layer]:
    """Autoregressive neural spline flow: blocks of two layers with alternating orders."""
    options: dict[str, Any] = {
        "bins": bins,
        "bound": bound,
        "min_bin": min_bin,
        "min_slope": min_slope,
    }
    layer = partial(AutoregressiveSpline, action_dim, obs_dim, **options, **network)
    return _autoregressions(layer, blocks)


@register("glow", **_NETWORK)
def glow(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 4,
    max_log_scale: float = 0.5,
    **network: Any,
) -> Sequence[Layer]:
    """Glow without its images: blocks of normalisation, linear map and affine coupling."""
    # In the linear map, layer norm and dropout would make V a sample too.
    linear = {"hidden": network["hidden"], "activation": network["activation"]}
    masks: Iterator[Mask] = itertools.cycle(("odd", "even"))
    return _repeat(
        lambda: [
            ActNorm(action_dim),
            StateLinear(action_dim, obs_dim, max_log_scale=max_log_scale, **linear),
            AffineCoupling(
                action_dim, obs_dim, mask=next(masks), max_log_scale=max_log_scale, **network
            ),
        ],
        blocks,
    )


@register("residual")
def residual(
    action_dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 4,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float = 0.9,
) -> Sequence[Layer]:
    """Residual flow: contractions beside the identity, for small actions; acting repeats."""
    return _repeat(
        lambda: [ResidualLayer(action_dim, obs_dim, hidden=hidden, lipschitz=lipschitz)], blocks
    )
