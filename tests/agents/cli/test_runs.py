"""``maxentflow runs`` and ``maxentflow show`` by what they print."""

import csv
import fcntl
import importlib.metadata
import shutil
import threading

import pytest

from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.cli.show import sparkline

from .tiny import PROBE, words


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 60 steps with an evaluation every 30."""
    path = tmp_path_factory.mktemp("trained") / "probe"
    main(words(path, env=PROBE, temperature=0.5))
    return path


@pytest.fixture
def mine(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "runs" / "of mine" / "probe")


def cells(line):
    return [cell for cell in line.split("  ") if cell]


def test_a_line_for_each_run(mine, capsys):
    later = RunFolder(mine)
    later.set_total_steps(1_000)
    other = mine.with_name("new")
    main(["train", "sac", "--env", PROBE, "--run-dir", str(other), "--total-steps", "4"])
    damaged = mine.with_name("old")
    damaged.mkdir()
    (damaged / "config.yaml").write_text("agent: meow\n")
    capsys.readouterr()
    main(["runs", str(mine.parents[1])])
    lines = [
        [cell.strip() for cell in cells(line)] for line in capsys.readouterr().out.splitlines()
    ]
    assert lines[0] == ["run", "task", "agent", "seed", "steps", "of", "return", "state"]
    assert lines[1] == [str(other), PROBE, "sac", "0", "4", "4", "20", "complete"]
    assert lines[2] == [str(damaged), *["-"] * 6, "damaged"]
    assert lines[3] == [str(mine), PROBE, "meow", "0", "60", "1,000", "20", "stopped"]
    later.begin()
    main(["runs", str(mine)])
    assert cells(capsys.readouterr().out.splitlines()[1])[-1].strip() == "running"
    later.end()


def test_a_run_that_has_not_logged_yet(mine, capsys):
    (mine / "metrics.csv").unlink()
    main(["runs", str(mine)])
    assert capsys.readouterr().out.splitlines()[1].endswith("stopped")
    (mine / "checkpoints" / "latest.pt").unlink()
    main(["runs", str(mine)])
    assert capsys.readouterr().out.splitlines()[1].endswith("not begun")


def test_a_run_is_shown(mine, capsys):
    capsys.readouterr()
    main(["show", str(mine)])
    text = capsys.readouterr().out
    assert text.startswith(
        f"{mine}: meow in {PROBE}, complete\n\nsettings other than the defaults"
    )
    settings = text.partition("settings other")[2].partition("\n\n")[0]
    assert "temperature  " in settings
    assert "  0.5\n" in settings
    assert "learning_rate" not in settings
    assert f"torch       {importlib.metadata.version('torch')}\n" in text
    assert "returns of 2 evaluations, 20 to 20\n  ▅▅\n" in text


@pytest.mark.slow
def test_returns_that_are_not_finite(mine, capsys):
    with (mine / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    next(row for row in rows if row["eval_return"])["eval_return"] = "nan"
    with (mine / "metrics.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    main(["show", str(mine)])
    assert "returns of 2 evaluations, 20 to 20\n  ▅\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_parts_of_ones_own(mine, capsys):
    config = mine / "config.yaml"
    config.write_text(config.read_text().replace("custom: []", "custom: [flow]"))
    main(["show", str(mine)])
    text = capsys.readouterr().out
    assert "parts of one's own\n  flow" in text
    assert "\nsettings\n" in text


@pytest.mark.parametrize("content", ["seconds\n1.0\n", "step,eval_return\n1,abc\n", "step\nx\n"])
@pytest.mark.quick_for("abc")
def test_damaged_metrics_are_named(mine, capsys, content):
    (mine / "metrics.csv").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        main(["show", str(mine)])
    assert capsys.readouterr().err.endswith("metrics.csv is not the metrics of a run.\n")


def test_to_look_takes_nobodys_place(mine):
    """Several may look at once, and a run begins all the same."""
    folder, other = RunFolder(mine), RunFolder(mine)
    with (mine / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not folder.is_locked()
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        folder.begin()
    assert other.is_locked()
    folder.end()


def test_bars_rise_with_the_numbers():
    assert sparkline([0.0, 7.0, 3.5]) == "▁█▅"
    assert sparkline([float(n) for n in range(160)], width=8) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs", "nowhere"], "There is no folder nowhere."),
        (["runs", "."], "There are no runs in .."),
        (["show", "."], ". is not a run folder: it has no config.yaml."),
    ],
)
def test_refusals(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err == f"maxentflow: {said}\n"


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"maxentflow {importlib.metadata.version('maxentflow')}\n"
