"""``--import``: parts of one's own on the command line, and in a run that is used later."""

import sys

import gymnasium as gym
import pytest

from maxentflow import agents
from maxentflow.agents.cli import imports, main
from maxentflow.flows import registry

from .tiny import checkpoint, words

MODULE = """
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from maxentflow import flows

@flows.register("mine")
def mine(action_dim, obs_dim, *, blocks=1, hidden=(8,)):
    return [flows.AdditiveCoupling(action_dim, obs_dim, hidden=hidden) for _ in range(blocks)]

gym.register("Mine-v0", PendulumEnv, max_episode_steps=20)
"""
FLAGS = ["--import", "my_parts"]


@pytest.fixture(autouse=True)
def same_path(monkeypatch):
    """The present folder, which a command adds to what Python imports from, leaves again."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run of a flow and a task that a module registers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))
    (tmp_path / "my_parts.py").write_text(MODULE)
    main([*words(tmp_path / "run", env="Mine-v0"), "--flow", "mine", *FLAGS])
    yield tmp_path / "run"
    sys.modules.pop("my_parts", None)
    gym.registry.pop("Mine-v0", None)


def forget():
    """As in another process."""
    del sys.modules["my_parts"]
    del registry._RECIPES["mine"]
    del gym.registry["Mine-v0"]


def test_a_run_is_used_later(run, capsys):
    forget()
    main(["evaluate", str(run), "--episodes", "1", "--import=my_parts"])
    assert "Mine-v0, mode: return " in capsys.readouterr().out
    forget()
    main(["train", *FLAGS, "--resume", str(run), "--total-steps", "70"])
    assert checkpoint(run)["step"] == 70
    assert agents.load(run).config.flow == "mine"
    hints = capsys.readouterr().out.partition("Next:\n")[2].splitlines()
    forget()
    main(hints[0].split()[1:])  # maxentflow evaluate --import my_parts RUN …
    assert f" train --import my_parts --resume {run} " in hints[1]


@pytest.mark.parametrize("words", [["--env", "my_parts:Mine-v0"], ["--env=my_parts:Mine-v0"]])
def test_the_module_of_a_task_is_imported(run, words):
    forget()
    assert imports.take(["train", "sac", *words]) == ["train", "sac", *words]
    assert imports.named == ["my_parts"]
    assert "Mine-v0" in gym.registry


def test_a_task_of_torchrl_is_no_module():
    imports.take(["train", "sac", "--env", "torchrl:Gym/Pendulum-v1"])
    assert imports.named == []


@pytest.mark.slow
def test_without_its_module_it_is_refused(run, refused):
    forget()
    sentence = f"{run} needs the module 'my_parts', which registers parts of it: give --import "
    assert refused("evaluate", str(run)).startswith(sentence)
    with pytest.raises(ValueError, match="or import it before"):
        agents.load(run)
    assert "my_parts" not in sys.modules
    __import__("my_parts")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--import"], "--import needs the name of a module, such as my_flows."),
        (
            ["--import", "../my_flows"],
            "--import needs the name of a module, such as my_flows, got '../my_flows'.",
        ),
        (
            ["--import", "no_such"],
            "Module 'no_such' cannot be imported: No module named 'no_such'.",
        ),
    ],
)
def test_refusals(flags, sentence, refused):
    assert refused("evaluate", "runs/x", *flags) == sentence


def test_a_module_that_fails(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("raise RuntimeError('of its own.\\nand more')")
    assert refused("runs", "--import", "broken") == (
        "Module 'broken' cannot be imported: of its own."
    )


def test_the_usage_names_what_a_module_registers(run, capsys):
    capsys.readouterr()
    main(FLAGS)
    assert capsys.readouterr().out.startswith("usage: maxentflow COMMAND")


def test_the_next_command_names_none(tmp_path):
    imports.take(["runs", "--import", "json"])
    assert imports.named == ["json"]
    assert imports.take(["runs"]) == ["runs"]
    assert imports.named == []
