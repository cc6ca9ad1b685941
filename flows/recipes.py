"""The architectures that :func:`~maxentflow.flows.build` knows by name.

Their defaults are for agents. The limits on slopes (``max_log_scale``, ``min_bin``, ``min_slope``)
are tighter than in the layers, and mixtures start as the identity (``spread``): regression on its
own values does not learn a soft Q that may be as steep as a density model. Density models want the
layers' own values.
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
_AFFINE = {"max_log_scale": 0.5}
_SPLINE = {"bins": 8, "bound": 5.0, "min_bin": 0.5, "min_slope": 0.3}
_MOST_BLOCKS = 1_000  # more would only fill the memory, and take hours to make
_MIXTURE = {"components": 8, "max_log_scale": 0.5, "spread": 0.0}


def _repeat(make: Callable[[], Sequence[Layer]], blocks: int) -> list[Layer]:
    if not 1 <= blocks <= _MOST_BLOCKS:
        raise ValueError(f"blocks must be from 1 to {_MOST_BLOCKS:,}, got {blocks}.")
    return [layer for _ in range(blocks) for layer in make()]


def _couplings(coupling: Callable[..., Layer], blocks: int, last_mask: str) -> list[Layer]:
    """``last_mask`` is that of the layer next to the action, where learning starts."""
    if last_mask not in ("even", "odd"):
        raise ValueError(f"last_mask must be 'even' or 'odd', got {last_mask!r}.")
    masks: tuple[Mask, Mask] = ("odd", "even") if last_mask == "even" else ("even", "odd")
    return _repeat(lambda: [coupling(mask=mask) for mask in masks], blocks)


def _autoregressions(layer: Callable[..., Layer], blocks: int) -> list[Layer]:
    return _repeat(lambda: [layer(order=order) for order in ("descending", "ascending")], blocks)


@register("additive", **_NETWORK)
def additive(
    dim: int, obs_dim: int | None, *, blocks: int = 2, last_mask: str = "odd", **options: Any
) -> list[Layer]:
    """NICE: blocks of two additive couplings with alternating masks.

    ``last_mask`` is the mask next to the action, ``"odd"`` as in the reference.
    """
    return _couplings(partial(AdditiveCoupling, dim, obs_dim, **options), blocks, last_mask)


@register("affine", **_NETWORK, **_AFFINE)
def affine(
    dim: int, obs_dim: int | None, *, blocks: int = 2, last_mask: str = "even", **options: Any
) -> list[Layer]:
    """RealNVP: blocks of two affine couplings with alternating masks, ``last_mask`` last."""
    return _couplings(partial(AffineCoupling, dim, obs_dim, **options), blocks, last_mask)


@register("spline", **_NETWORK, **_SPLINE)
def spline(
    dim: int, obs_dim: int | None, *, blocks: int = 2, last_mask: str = "even", **options: Any
) -> list[Layer]:
    """Neural spline flow: blocks of two couplings with alternating masks, ``last_mask`` last."""
    return _couplings(partial(SplineCoupling, dim, obs_dim, **options), blocks, last_mask)


@register("mixture-cdf", **_NETWORK, **_MIXTURE)
def mixture_cdf(
    dim: int, obs_dim: int | None, *, blocks: int = 2, last_mask: str = "even", **options: Any
) -> list[Layer]:
    """Flow++: blocks of two couplings with alternating masks, ``last_mask`` last.

    Acting finds roots.
    """
    return _couplings(partial(MixtureCDFCoupling, dim, obs_dim, **options), blocks, last_mask)


@register("maf", **_MASKED_NETWORK, **_AFFINE)
def maf(dim: int, obs_dim: int | None, *, blocks: int = 2, **options: Any) -> list[Layer]:
    """Masked autoregressive flow: blocks of two layers with alternating orders, fast to learn."""
    return _autoregressions(partial(AutoregressiveAffine, dim, obs_dim, **options), blocks)


@register("iaf", **_MASKED_NETWORK, **_AFFINE)
def iaf(dim: int, obs_dim: int | None, *, blocks: int = 2, **options: Any) -> list[Layer]:
    """Inverse autoregressive flow: "maf" with its directions exchanged, fast to act."""
    return [Inverse(layer) for layer in maf(dim, obs_dim, blocks=blocks, **options)]


@register("maf-spline", **_MASKED_NETWORK, **_SPLINE)
def maf_spline(dim: int, obs_dim: int | None, *, blocks: int = 2, **options: Any) -> list[Layer]:
    """Autoregressive neural spline flow: blocks of two layers with alternating orders."""
    return _autoregressions(partial(AutoregressiveSpline, dim, obs_dim, **options), blocks)


@register("glow", **_NETWORK, **_AFFINE)
def glow(
    dim: int,
    obs_dim: int | None,
    *,
    blocks: int = 4,
    conditional_linear: bool = True,
    **options: Any,
) -> list[Layer]:
    """Glow without its images: from latent to action, affine coupling, linear map, normalisation.

    ``conditional_linear`` says whether the linear maps depend on the observation.
    """
    # In the linear map, layer norm and dropout would make V a sample too.
    linear = {key: options[key] for key in ("hidden", "activation", "max_log_scale")}
    masks: Iterator[Mask] = itertools.cycle(("odd", "even"))
    return _repeat(
        lambda: [
            AffineCoupling(dim, obs_dim, mask=next(masks), **options),
            StateLinear(dim, obs_dim if conditional_linear else None, **linear),
            ActNorm(dim),
        ],
        blocks,
    )


@register("residual", hidden=(64, 64), lipschitz=0.9)
def residual(dim: int, obs_dim: int | None, *, blocks: int = 4, **options: Any) -> list[Layer]:
    """Residual flow: contractions beside the identity, for small actions; acting repeats."""
    return _repeat(lambda: [ResidualLayer(dim, obs_dim, **options)], blocks)
