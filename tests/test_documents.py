"""The README's Python runs, and so do the examples."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from maxentflow.flows import registry

ROOT = Path(__file__).parent.parent


def test_readme_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    code = (
        "\n".join(blocks)
        .replace("5_000", "60")
        .replace("1_000", "20")
        .replace("range(300)", "range(3)")
    )
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "reversed" in names["flows"].registered()
    assert names["log_prob"].allclose(((names["q"] - names["v"]) / 0.25)[:, 0], atol=1e-4)


def test_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["own_agent.py", "60"])
    runpy.run_path(str(ROOT / "examples" / "own_agent.py"), run_name="__main__")
    assert "Pendulum-v1: return" in capsys.readouterr().out


def test_links_in_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
