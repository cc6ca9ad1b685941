"""A layer turned round."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maxentflow.flows import Inverse

from .cases import LAYERS, perturb, uniform


@pytest.mark.parametrize("name", ["StateLinear", "AdditiveCoupling-odd", "AffineCoupling-odd"])
def test_it_is_the_other_backwards(name: str) -> None:
    torch.manual_seed(0)
    layer = perturb(LAYERS[name](2, 3)).double().eval()
    turned = Inverse(layer)
    x, context = uniform(5, 2, bound=3), uniform(5, 3, bound=3)
    for ours, theirs in ((turned, layer.inverse), (turned.inverse, layer)):
        assert all(map(torch.equal, ours(x, context), theirs(x, context)))
    facts = ("dim", "context_dim", "is_linear", "is_volume_preserving")
    assert [getattr(turned, fact) for fact in facts] == [getattr(layer, fact) for fact in facts]
    assert list(turned.parameters()) == list(layer.parameters())


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="Inverse turns a Layer round, got Linear"):
        Inverse(nn.Linear(2, 2))
