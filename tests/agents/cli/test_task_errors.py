"""Commands in a task that fails: one sentence with the place, and nothing lost."""

from pathlib import Path

import pytest

from maxentflow.agents.cli import main

from .tiny import PROBE, Line, checkpoint, words

COMMANDS = {
    "evaluate": [],
    "evaluate --video": ["--video", "film.mp4"],
    "collect": ["--out", "steps.npz"],
    "package": [],
    "report": [],
    "watch": [],
    "diagnose": [],
}
ENDS = {ZeroDivisionError: "of its own", StopIteration: "of its own", SystemExit: "0"}


@pytest.fixture(autouse=True)
def without_screen(monkeypatch, tmp_path):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def failing(error):
    def fails(self, *_, **__):
        raise error

    return fails


@pytest.mark.parametrize("method", ["reset", "step", "close"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.quick_for("evaluate-step", "collect-close", "report-step", "watch-reset")
def test_the_place_is_told(run, refused, monkeypatch, command, method):
    monkeypatch.setattr(Line, method, failing(ZeroDivisionError("of its own")))
    said = refused(command.split()[0], run, *COMMANDS[command])
    assert said.startswith("The environment raised ZeroDivisionError: of its own (")
    assert said.endswith(").")
    assert "test_task_errors.py, line " in said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.quick_for("evaluate", "report")
def test_a_task_that_cannot_be_made(run, refused, monkeypatch, command):
    monkeypatch.setattr(Line, "__init__", failing(KeyError("scene.xml")))
    said = refused(command.split()[0], run, *COMMANDS[command])
    assert said.startswith(f"Task {PROBE!r} cannot be made: KeyError: 'scene.xml' (")


def test_a_constructor_that_ends_python(run, refused, monkeypatch):
    monkeypatch.setattr(Line, "__init__", failing(SystemExit(0)))
    said = refused("evaluate", run)
    assert said.startswith(f"Task {PROBE!r} cannot be made: SystemExit: 0 (")


@pytest.mark.parametrize("error", [KeyError("lamp"), StopIteration("lamp"), SystemExit(0)])
@pytest.mark.parametrize("first", [1, 2])
def test_a_picture_that_cannot_be_drawn(run, refused, monkeypatch, error, first):
    render, count = Line.render, iter(range(1, 100))

    def fails(self):
        if next(count) >= first:
            raise error
        return render(self)

    monkeypatch.setattr(Line, "render", fails)
    said = refused("evaluate", run, "--video", "film.mp4")
    begins = f"{PROBE} cannot be drawn on this machine: " if first == 1 else "The environment rai"
    assert said.startswith(begins)
    assert not Path("film.mp4").exists()


@pytest.mark.parametrize("error", ENDS)
def test_training_keeps_its_state(tmp_path, refused, monkeypatch, error):
    step = Line.step

    def fails(self, action):
        if self.steps == 40:
            raise error(*([0] if error is SystemExit else [ENDS[error]]))
        return step(self, action)

    monkeypatch.setattr(Line, "step", fails)
    said = refused(*words(tmp_path / "run", eval_every=0))
    assert said.startswith("Stopped after 40 steps: the environment raised ")
    assert f"{error.__name__}: {ENDS[error]} (" in said
    kept = tmp_path / "run" / "checkpoints" / "stopped_40.pt"
    assert f"the state is in {kept}; " in said
    assert checkpoint(tmp_path / "run")["step"] == 25


def test_a_task_that_fails_in_an_evaluation_of_training(tmp_path, refused, monkeypatch):
    reset = Line.reset
    calls = []

    def fails(self, **options):
        calls.append(self)
        if len({id(each) for each in calls}) > 1:  # the evaluation's own copies
            raise ZeroDivisionError("of its own")
        return reset(self, **options)

    monkeypatch.setattr(Line, "reset", fails)
    said = refused(*words(tmp_path / "run"))
    assert said.startswith("Stopped after 30 steps: the environment raised ZeroDivisionError")
    assert (tmp_path / "run" / "checkpoints" / "stopped_30.pt").exists()


def test_a_report_has_the_runs_that_can_be_looked_at(run, finished, monkeypatch, capsys):
    others = str(finished("td3"))
    step, failed = Line.step, []

    def fails(self, action):
        if not failed:
            failed.append(action)
            raise ZeroDivisionError("of its own")
        return step(self, action)

    monkeypatch.setattr(Line, "step", fails)
    main(["report", str(run), others, "--out", "page.html"])
    shown = capsys.readouterr()
    assert shown.out.endswith("Page: page.html\n")
    assert shown.err.count("the environment raised ZeroDivisionError") == 1
    page = Path("page.html").read_text()
    assert page.count("ZeroDivisionError") == 1
    assert page.count("saturated actions") == 1


def test_no_page_of_nothing(run, refused, tmp_path):
    for path in (run / "checkpoints").glob("*.pt"):
        path.unlink()
    assert "has no checkpoint yet" in refused("report", run)
    assert not (tmp_path / "report.html").exists()


def test_a_task_without_a_picture(run, refused, monkeypatch):
    monkeypatch.setattr(Line, "render", lambda self: None)
    said = refused("evaluate", run, "--video", "film.mp4")
    assert said == f"{PROBE} cannot be drawn: its render gives no picture."
