"""Which command, what is imported for it, and how a failure ends."""

import contextlib
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maxentflow.agents import MeowConfig, registry
from maxentflow.agents.cli import main
from maxentflow.agents.names import BUILT_IN

HEAVY = (
    *("torch", "torchrl", "tensordict", "matplotlib", "tyro", "gymnasium", "scipy", "yaml"),
    "mujoco",
)


@pytest.mark.parametrize(
    "arguments", [[], ["-h"], ["--help"], ["train", "--help"], ["train", "--resume", "a", "-h"]]
)
def test_usage(capsys, arguments):
    main(arguments)
    output = capsys.readouterr()
    assert output.err == ""
    for command in ("train AGENT", "train --resume RUN", "evaluate RUN", "plot RUN"):
        assert command in output.out
    assert f"Agents: {', '.join(BUILT_IN)}.\n" in output.out


def test_usage_comes_at_once():
    code = (
        "import sys; from maxentflow.agents.cli import main; main(['--help']); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    began = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.perf_counter() - began < 1.5
    assert output.stdout.splitlines()[-1] == "[]"


def test_usage_lists_agents_registered_by_then(capsys, monkeypatch):
    monkeypatch.setattr(registry, "_AGENTS", dict(registry._AGENTS))
    registry.register("own", MeowConfig)(registry.make)
    main(["--help"])
    assert "dqn, ppo, own." in capsys.readouterr().out


def test_the_names_that_are_known_without_import_are_those_that_can_be_made():
    assert registry.registered() == tuple(BUILT_IN)
    for name in BUILT_IN:
        assert registry.config(name).__class__ is registry.config_type(name)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "trian",
            "Unknown command 'trian'; known: train, sweep, evaluate, plot, compare, "
            "robustness, diagnose, collect, export, watch, package, report, runs, show, agents, "
            "completion. "
            "Did you mean 'train'?",
        ),
        (
            "xyz",
            "Unknown command 'xyz'; known: train, sweep, evaluate, plot, compare, "
            "robustness, diagnose, collect, export, watch, package, report, runs, show, agents, "
            "completion.",
        ),
    ],
)
def test_an_unknown_command(refused, word, says):
    assert refused(word) == says


@pytest.mark.slow
def test_as_a_program_in_a_terminal(tmp_path):
    """Colours and boxes are for those who asked for help, not for a sentence."""
    arguments = ["train", "meow", "--env", "Pendulum-v1", "--tau", "7"]
    command = [sys.executable, "-m", "maxentflow.agents", *arguments]
    master, terminal = pty.openpty()
    child = subprocess.Popen(command, cwd=tmp_path, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # raised where the other end has closed
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    assert child.wait(120) == 2
    assert shown.decode() == "maxentflow: tau must be in (0, 1], got 7.0.\r\n"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_error():
    """As of ``maxentflow ... | head``."""
    command = [sys.executable, "-m", "maxentflow.agents", "--help"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_refusal_that_cannot_be_written_has_its_code(tmp_path):
    with open("/dev/full", "w") as full:
        program = [sys.executable, "-m", "maxentflow.agents", "evaluate", str(tmp_path / "none")]
        assert subprocess.run(program, stderr=full, check=False).returncode == 2
