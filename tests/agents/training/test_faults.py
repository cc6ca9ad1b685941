"""A run survives whatever happens to it: see faults.py, which repeats a seed outside of a test."""

import random

import pytest

from . import faults
from .children import in_child

pytestmark = pytest.mark.xdist_group("resume")  # which has a server of children


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "seed"), [(2, 0), (200, random.SystemRandom().randrange(10**6))], ids=["2", "200"]
)
def test_disturbed_runs_end_as_quiet_ones(count, seed):
    moments, reason = in_child(faults.disturb, count, seed)
    if reason is not None:
        print(f"The disk is not filled: {reason}.")
    failed = [str(moment) for moment in moments if moment.problems]
    assert not failed, "\n".join([f"seed {seed}", *failed, faults.table(moments)])
    happened = [moment.fault.name for moment in moments if moment.fired]
    assert len(happened) == count
    if count > 2 * len(faults.EXITS):
        every = set(faults.EXITS) - (set() if reason is None else {"disk full"})
        assert set(happened) == every
