import os

import pytest
import torch

os.environ.setdefault("MUJOCO_GL", "egl")


@pytest.fixture(autouse=True)
def reproducible():
    """One seed, and one thread, as in a run of the trainer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
