"""A run that goes on for very long holds no more than at its beginning: see leaking.py."""

import pytest

from . import leaking
from .children import in_child

pytestmark = pytest.mark.xdist_group("resume")  # which has a server of children


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "rows"), [(10_000, 25), (1_000_000, 200)])
def test_nothing_grows(steps, rows):
    watched = [row for row in in_child(leaking.watched, steps, rows) if row[0] > leaking.REPLAY]
    _, resident, handles, processes = zip(*watched, strict=True)
    assert len(watched) >= rows - 2
    assert max(resident) - resident[0] < 20e6
    for counts in (handles, processes):  # TensorBoard's thread opens its file for a moment
        half = len(counts) // 2
        assert min(counts[half:]) == min(counts[:half])
