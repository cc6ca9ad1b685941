import shutil

import gymnasium as gym
import pytest
import torch

from maxentflow.agents import registry
from maxentflow.agents.cli import main

from .tiny import PROBE, Line, stopped, without_progress, words


@pytest.fixture(autouse=True, scope="session")
def prepared():
    """Every agent is registered before a test puts the registry back."""
    torch.set_num_threads(1)
    for name in registry.registered():
        registry.config_type(name)


@pytest.fixture(autouse=True, scope="session")
def probe():
    """Registers Line with a time limit of 20 steps; probe/Endless-v0 has none."""
    for name, limit in ((PROBE, 20), ("probe/Endless-v0", None)):
        gym.register(name, Line, max_episode_steps=limit, disable_env_checker=True)
    yield
    for name in (PROBE, "probe/Endless-v0"):
        gym.registry.pop(name, None)


@pytest.fixture
def without_conclusion(monkeypatch):
    """Leave out the evaluation and the pictures at a run's end."""
    monkeypatch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, probe):
    """Gives the folder of an agent's small run, made when it is first asked for."""
    folders = {}

    def get(agent="meow"):
        if agent not in folders:
            folders[agent] = tmp_path_factory.mktemp("finished") / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
                main(words(folders[agent], agent))
        return folders[agent]

    return get


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run of meow, to be damaged."""
    return shutil.copytree(finished(), tmp_path / "run")


@pytest.fixture
def refused(capsys):
    """Runs a command line that is refused; gives the sentence."""

    def run(*arguments):
        capsys.readouterr()
        assert stopped(arguments) == 2
        output = capsys.readouterr()
        error = without_progress(output.err)
        assert "Traceback" not in error + output.out
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert error.startswith("maxentflow: ")
        assert len(error) < 500
        return error.removeprefix("maxentflow: ").strip()

    return run


@pytest.fixture
def help_text(capsys):
    """The help that a command line asks for, on one line."""

    def run(*arguments):
        assert stopped([*arguments, "--help"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return " ".join(output.out.translate(dict.fromkeys(map(ord, "╭╮╰╯─│"), " ")).split())

    return run
