"""Tasks of TorchRL from the command line."""

import pytest

from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.training.run_folder import read_metrics

from .tiny import words

TASK = "torchrl:Gym/Pendulum-v1"


@pytest.mark.slow
def test_train_evaluate_and_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = words(agent="td3", env=TASK, num_envs=2, max_episode_steps=None)
    command = [word for word in command if word not in ("--max-episode-steps", "None")]
    main(command)
    said = capsys.readouterr().out
    assert "Run folder: runs/Gym-Pendulum-v1-td3-0" in said
    assert f"{TASK} after 60 steps, mode: return " in said
    folder = RunFolder("runs/Gym-Pendulum-v1-td3-0")
    assert folder.config()["env"] == TASK
    main(["evaluate", str(folder), "--episodes", "3"])
    assert capsys.readouterr().out.startswith(f"{TASK}, mode: return ")
    main(["train", "--resume", str(folder), "--total-steps", "80"])
    assert int(read_metrics(folder)[-1]["step"]) == 80


def test_what_needs_gymnasium_says_so(tmp_path, refused, without_conclusion):
    run = tmp_path / "run"
    main(words(run, "td3", env=TASK, num_envs=1))
    assert "is TorchRL's" in refused("watch", run)
    assert "is TorchRL's" in refused("collect", run, "--out", tmp_path / "data.npz")
    assert "TorchRL has no NopeEnv" in refused("train", "td3", "--env", "torchrl:Nope/x")
