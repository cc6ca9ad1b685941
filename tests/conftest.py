import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental import proxy_tensor

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(tryfirst=True)  # before the markers of the command line select
def pytest_collection_modifyitems(items):
    for item in items:
        quick = item.get_closest_marker("quick_for")
        if quick and not any(word in item.callspec.id for word in quick.args):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("xdist_group") is None:  # by file, whose fixtures are made once
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def reproducible():
    """One seed for every test, so that a failure can be repeated, and one thread, as in a run."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed also formats a stack, for CUDA
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True, scope="session")
def bare_traces():
    """A fifth of the time to trace goes into a fake tensor of every result, which none reads."""
    describe = proxy_tensor.extract_val

    def leave_out(value, **options):
        real = isinstance(value, torch.Tensor) and not proxy_tensor.is_fake(value)
        return None if real else describe(value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy_tensor, "extract_val", leave_out)
        yield


@pytest.fixture
def no_collections(monkeypatch):
    """A run begins with a full garbage collection, which takes longer than a small one trains."""
    from maxentflow.agents.training import session

    idle = SimpleNamespace(**dict.fromkeys(("collect", "freeze", "unfreeze"), lambda: None))
    monkeypatch.setattr(session, "gc", idle)
