"""Every notebook runs, shortened, without a word of warning, and is committed with outputs."""

import re
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest

from maxentflow import agents

nbformat = pytest.importorskip("nbformat", reason="pip install nbclient nbformat ipykernel")
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the processes that run notebooks import from there too

import execute  # noqa: E402

NOTEBOOKS = [pytest.param(path, id=path.stem) for path in execute.notebooks()]
POLICIES = [
    pytest.param(path, id=path.stem) for path in sorted((EXAMPLES / "policies").glob("*.zip"))
]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_short_form_runs(path):
    found, _ = execute.run_short(path)
    assert not found, found[0]


@pytest.mark.parametrize("path", POLICIES)
def test_committed_policies_balance_the_pole(path):
    pole = partial(gym.make, "InvertedPendulum-v5", max_episode_steps=200)
    assert agents.evaluate(agents.load(path).policy, pole, episodes=1).returns == 200


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_committed_form_keeps_the_conventions(path):
    assert not list(execute.problems(nbformat.read(path, 4)))


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_missing_package_is_named_with_its_installation(path, monkeypatch):
    imports = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][1]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^[^\n]*pip install[^\n]*$"):
        exec(compile(imports.source, path.name, "exec"), {})


def notebook(source="print(1)", outputs=None):
    """A notebook of one cell that keeps the conventions."""
    new = nbformat.v4
    if outputs is None:
        outputs = [new.new_output("stream", name="stdout", text="1\n")]
    parameters = new.new_code_cell("SHORT = False", execution_count=1)
    parameters.metadata["tags"] = ["parameters"]
    cells = [
        new.new_markdown_cell("# Title"),
        parameters,
        new.new_code_cell(source, execution_count=2, outputs=outputs),
        new.new_markdown_cell("## Exercises"),
    ]
    made = new.new_notebook(cells=cells)
    execute.strip(made)
    return made


def printed(text, name="stdout"):
    return notebook(outputs=[nbformat.v4.new_output("stream", name=name, text=text)])


def test_a_good_notebook_has_no_problems():
    assert not list(execute.problems(notebook()))
    assert not list(execute.problems(notebook("def f():\n    print(1)", outputs=[])))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (printed("UserWarning: beware", "stderr"), "standard error: UserWarning: beware"),
        (printed("saved to /home/ada/run"), "an absolute path"),
        (printed("begun at 12:30:01"), "a time of day"),
        (printed("begun on 2021-01-01"), "a date"),
        (printed(" 40%|####     | 4/10"), "a progress bar"),
        (printed("<object at 0x7f12ab34cd56>"), "an address in memory"),
        (notebook(outputs=[]), "has no output"),
        (notebook("#" * 1_000_001, outputs=[]), "bytes, more than"),
    ],
)
def test_what_is_refused(made, said):
    (problem,) = execute.problems(made)
    assert said in problem


def test_conventions_are_refused_one_by_one():
    good = notebook()
    for change, said in (
        (lambda n: n.cells.pop(0), "not a title"),
        (lambda n: n.cells[1].metadata.pop("tags"), "not tagged"),
        (lambda n: n.cells.pop(), "no '## Exercises'"),
        (lambda n: n.metadata.update(widgets={}), "metadata"),
        (lambda n: n.cells[2].update(execution_count=None), "not executed in its turn"),
    ):
        bad = deepcopy(good)
        change(bad)
        assert any(said in problem for problem in execute.problems(bad))


@pytest.mark.slow
def test_short_form_reports_errors_warnings_and_crashes(tmp_path):
    path = tmp_path / "bad.ipynb"
    for source, said in (
        ("assert SHORT\n1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('beware')", "beware"),
        ("import os\nos.write(2, b'from C')", "from C"),
        ("import os\nos._exit(3)", "exit code 3"),
    ):
        nbformat.write(notebook(source, []), path)
        (found,), _ = execute.run_short(path)
        assert said in found


def test_a_notebook_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        execute.main(["99"])
    assert "No notebook begins with '99'" in capsys.readouterr().err


def test_the_readme_lists_every_notebook():
    links = re.findall(r"\]\((\w+\.ipynb)\)", (EXAMPLES / "README.md").read_text())
    assert links == [path.name for path in execute.notebooks()]
