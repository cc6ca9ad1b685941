"""Fixed permutations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maxentflow.flows import Permutation

from .cases import quick


@quick
@given(order=st.integers(1, 5).flatmap(lambda dim: st.permutations(range(dim))))
def test_entry_i_comes_from_order_i(order: list[int]) -> None:
    z = torch.arange(10.0, 10.0 + len(order))
    x, _ = Permutation(len(order), order)(z)
    assert x.tolist() == [10.0 + i for i in order]


def test_the_default_is_the_reversed_order() -> None:
    assert Permutation(3)(torch.tensor([1.0, 2.0, 3.0]))[0].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("order", [[0, 0], [0, 2], [1], [0, 1, 2], [-1, 0], []])
def test_what_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"order must be a permutation of 0 \.\. 1, got \["):
        Permutation(2, order)
