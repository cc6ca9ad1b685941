"""Print the parts of a flow as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import nn

from maxentflow.flows.energy import EnergyBasedFlow
from maxentflow.flows.layer import Layer

__all__ = ["describe"]

_HEADER = ("part", "to action", "to latent", "parameters", "linear", "determinant counted in")


def describe(flow: EnergyBasedFlow) -> None:
    """Print a flow's parts, from latent to action.

    For each layer: what its two directions cost, acting runs "to action" and learning "to latent";
    how many parameters it has; whether it is linear; and where its determinant is counted, in the
    soft value V, in Q, or nowhere since it is always zero. A normalized flow counts all in Q.

    Example:
        >>> describe(build("additive", 2, 3, temperature=0.25, blocks=1, hidden=(16,)))
        part               to action   to latent   parameters   linear   determinant counted in
        StandardNormal                                      0            normaliser in V
        StateScale         1 pass      1 pass           4,674   yes      V
        AdditiveCoupling   1 pass      1 pass             178   yes      nowhere, it is 0
        AdditiveCoupling   1 pass      1 pass             178   yes      nowhere, it is 0
        TanhSquash         1 pass      1 pass               0   no       Q
        RewardShift                                   135,170            added to Q and V
    """
    linear = "Q" if flow.normalized else "V"
    rows = [_HEADER, _part(flow.base, f"normaliser in {linear}")]
    rows += [_layer(layer, linear) for layer in cast(Iterable[Layer], flow.layers)]
    if flow.shift is not None:
        rows.append(_part(flow.shift, "added to Q and V"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = [
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("   ".join(cells).rstrip())


def _layer(layer: Layer, of_linear: str) -> tuple[str, ...]:
    linear, counted = ("yes", of_linear) if layer.is_linear else ("no", "Q")
    if layer.is_volume_preserving:
        counted = "nowhere, it is 0"
    costs = layer.forward_cost, layer.inverse_cost
    return (layer.label, *costs, _parameters(layer), linear, counted)


def _part(part: nn.Module, counted: str) -> tuple[str, ...]:
    return (type(part).__name__, "", "", _parameters(part), "", counted)


def _parameters(part: nn.Module) -> str:
    return f"{sum(p.numel() for p in part.parameters()):,}"
