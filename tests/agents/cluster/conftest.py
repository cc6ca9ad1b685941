import pytest

from maxentflow.agents.cluster.connection import connected


@pytest.fixture(scope="session")
def ray_cluster():
    """A cluster on this machine, for all tests of a process."""
    with connected(num_cpus=2):
        yield
