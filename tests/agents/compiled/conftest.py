import pytest
import torch._inductor


@pytest.fixture
def traced_only(monkeypatch):
    """Trace as ever, and then run torch's own kernels: seconds, not a minute."""
    monkeypatch.setattr(torch._inductor, "standalone_compile", lambda graph, *_, **__: graph)


@pytest.fixture
def as_traced(monkeypatch):
    """The graph of the loss within plain Python; most of the time goes into tracing that."""
    for name in ("update", "acting", "ensemble"):
        monkeypatch.setattr(
            f"maxentflow.agents.compiled.{name}.compile_function", lambda function, _: function
        )
