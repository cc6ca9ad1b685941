"""The table of a flow's parts against what its parts do."""

from __future__ import annotations

from itertools import pairwise

import normflows
import pytest
import torch

from maxentflow.flows import (
    AffineCoupling,
    EnergyBasedFlow,
    Inverse,
    NormflowsLayer,
    StandardNormal,
    build,
    describe,
    registered,
)

from .cases import HIDDEN, make_flow, perturb, uniform

HEADER = ["part", "to action", "to latent", "parameters", "linear", "determinant counted in"]

# Of the layers with a cost other than a pass in both directions, for two entries.
COSTS = {
    "MixtureCDFCoupling": ["iterative", "1 pass"],
    "AutoregressiveAffine": ["2 passes", "1 pass"],
    "AutoregressiveSpline": ["2 passes", "1 pass"],
    "Inverse(AutoregressiveAffine)": ["1 pass", "2 passes"],
    "ResidualLayer": ["iterative", "1 pass"],
}


def table(flow: EnergyBasedFlow, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The printed rows, cut where the header's titles start."""
    describe(flow)
    rows = capsys.readouterr().out.splitlines()
    starts = [rows[0].index(title) for title in HEADER]
    return [[row[a:b].strip() for a, b in pairwise([*starts, None])] for row in rows]


def counted_in(flow: EnergyBasedFlow, position: int) -> list[str]:
    """By what the layer's determinant depends on."""
    x, context = uniform(5, 2, bound=0.9), uniform(5, 3, bound=2)
    layer = flow.layers[position]
    log_det = layer.inverse(x, context)[1]
    if (layer.inverse(0.5 * x, context)[1] - log_det).abs().max() > 1e-9:
        return ["no", "Q"]
    return ["yes", "V" if log_det.any() else "nowhere, it is 0"]


@pytest.mark.parametrize("name", registered())
def test_every_column(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    flow = perturb(make_flow(name, 2, 3)).double().eval()
    header, base, *layers, shift = table(flow, capsys)
    assert header == HEADER
    assert base == ["StandardNormal", "", "", "0", "", "normaliser in V"]
    size = sum(p.numel() for p in flow.shift.parameters())
    assert shift == ["RewardShift", "", "", f"{size:,}", "", "added to Q and V"]
    for position, (row, layer) in enumerate(zip(layers, flow.layers, strict=True)):
        kind = type(layer).__name__
        if kind == "Inverse":
            kind = f"Inverse({type(layer.layer).__name__})"
        size = sum(p.numel() for p in layer.parameters())
        costs = COSTS.get(kind, ["1 pass", "1 pass"])
        assert row == [kind, *costs, f"{size:,}", *counted_in(flow, position)]
    total = sum(int(row[3].replace(",", "")) for row in (base, *layers, shift))
    assert total == sum(p.numel() for p in flow.parameters())


def test_a_normalized_flow_counts_nothing_in_v(capsys: pytest.CaptureFixture[str]) -> None:
    """Its V is the shift alone, whatever the layers do."""
    flow = build("glow", 2, 3, temperature=0.5, normalized=True, blocks=1, dropout=0.0).eval()
    _, base, *layers, _ = table(flow, capsys)
    assert base[-1] == "normaliser in Q"
    assert {row[-1] for row in layers} == {"Q"}
    observation = torch.randn(5, 3)
    assert torch.equal(flow.value(observation), flow.shift(observation))


def test_wrapped_layers_are_named_with_what_they_wrap(
    capsys: pytest.CaptureFixture[str],
) -> None:
    layers = [
        NormflowsLayer(normflows.flows.LULinearPermute(2)),
        Inverse(Inverse(AffineCoupling(2, 3, hidden=HIDDEN))),
    ]
    flow = EnergyBasedFlow(StandardNormal(2), layers, temperature=1.0)
    names = [row[0] for row in table(flow, capsys)]
    assert names == [
        "part",
        "StandardNormal",
        "NormflowsLayer(LULinearPermute)",
        "Inverse(Inverse(AffineCoupling))",
    ]
