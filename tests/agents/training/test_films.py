"""Films of evaluations: when there are any, and that a run is the same with them."""

import imageio.v2 as imageio
import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import RunFolder, Trainer, TrainerConfig
from maxentflow.agents.training import trainer as module

from ..common import metrics

TASK = "maxentflow/MultiGoal-v0"
LENGTHS = {
    "total_steps": 60,
    "warmup_steps": 20,
    "batch_size": 16,
    "replay_size": 500,
    "eval_every": 20,
    "eval_episodes": 2,
    "log_every": 20,
    "checkpoint_every": 40,
}


def made(path, env=None, **changes):
    torch.manual_seed(0)
    env = env or envs.make(TASK)
    agent = agents.make("sac", env, hidden=(8,))
    config = TrainerConfig(**{**LENGTHS, **changes})
    folder = RunFolder(path)
    if not folder.config_path.exists():
        folder.create(agent, config, TASK)
    return Trainer(agent, env, config, folder, progress=False)


def films(path):
    return sorted(film.name for film in RunFolder(path).videos_path.glob("*"))


@pytest.mark.slow
def test_films_at_intervals_change_nothing(tmp_path):
    made(tmp_path / "with", eval_video_every=30).run()
    made(tmp_path / "without").run()
    assert films(tmp_path / "with") == ["step_40.mp4", "step_60.mp4"]
    assert not films(tmp_path / "without")
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    film = imageio.get_reader(tmp_path / "with" / "videos" / "step_40.mp4")
    assert 2 <= sum(1 for _ in film) <= 101


@pytest.mark.slow
def test_a_resumed_run_films_when_the_first_would_have(tmp_path):
    made(tmp_path, total_steps=40, eval_video_every=30).run()
    again = made(tmp_path, eval_video_every=30)
    again.restore(again.folder.load_checkpoint())
    again.run()
    assert films(tmp_path) == ["step_40.mp4", "step_60.mp4"]


def test_a_film_that_fails_is_told_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("there is no screen")

    monkeypatch.setattr(module, "record_video", fail)
    trainer = made(tmp_path, eval_video_every=30)
    trainer.run()
    assert trainer.step == 60
    assert "Warning: no film at step 40: there is no screen" in capsys.readouterr().err


def test_what_cannot_be_filmed_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="eval_every must not be 0"):
        TrainerConfig(eval_video_every=10, eval_every=0)
    env = envs.make(TASK)
    agent = agents.make("sac", env, hidden=(8,))
    config = TrainerConfig(**LENGTHS, eval_video_every=30)
    with pytest.raises(ValueError, match=r"in an environment of maxentflow\.envs\.make"):
        Trainer(agent, env, config, RunFolder(tmp_path), eval_env=envs.make(envs.MultiGoalEnv()))
    torchrl = envs.make_batched("torchrl:Gym/Pendulum-v1")
    agent = agents.make("sac", torchrl, hidden=(8,))
    with pytest.raises(ValueError, match=r"in an environment of maxentflow\.envs\.make"):
        Trainer(agent, torchrl, config, RunFolder(tmp_path))
