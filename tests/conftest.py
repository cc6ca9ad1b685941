import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible():
    """One seed for every test, so that a failure can be repeated, and one thread, as in a run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
