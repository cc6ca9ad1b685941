"""``maxentflow evaluate``: the numbers of whole episodes, and films."""

import re
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main

from .tiny import MULTIGOAL, PROBE, contents, words


@pytest.fixture(scope="module")
def multigoal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multigoal") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
        main(words(folder, env=MULTIGOAL))
    return folder


@pytest.mark.parametrize(("flags", "deterministic"), [([], True), (["--stochastic"], False)])
@pytest.mark.quick_for("flags0")
def test_the_numbers_are_those_of_python(multigoal, capsys, flags, deterministic):
    main(["evaluate", str(multigoal), "--episodes", "2", "--seed", "5", *flags])
    agent = agents.make("meow", envs.make(MULTIGOAL), flow_options={"blocks": 1}, twin=False)
    agent.load_state_dict(RunFolder(multigoal).load_checkpoint())
    result = agents.evaluate(
        agent.policy, MULTIGOAL, episodes=2, seed=5, deterministic=deterministic
    )
    kind = "mode" if deterministic else "samples"
    assert capsys.readouterr().out == f"{MULTIGOAL}, {kind}: {result}\n"


def test_samples_of_a_deterministic_policy_are_said_to_be_its_mode(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
    small = ["--total-steps", "30", "--warmup-steps", "25", "--eval-every", "0", "--hidden", "8"]
    run = tmp_path / "td3"
    main(["train", "td3", "--env", MULTIGOAL, "--run-dir", str(run), *small])
    capsys.readouterr()
    main(["evaluate", str(run), "--episodes", "2", "--stochastic"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{MULTIGOAL}, samples: ")
    assert lines[1] == "Where these episodes began, every sample of the policy was its mode."


def test_a_policy_with_weights_that_are_nan_has_no_returns(multigoal, tmp_path, refused, capsys):
    folder = RunFolder(shutil.copytree(multigoal, tmp_path / "run"))
    state = folder.load_checkpoint()
    for part in ("policy", "behavior"):
        for entry in state[part].values():
            if entry.is_floating_point():
                entry.fill_(float("nan"))
    torch.save(state, folder.checkpoint_path)
    main(["evaluate", str(folder), "--episodes", "1"])  # the checkpoint before is as good as ever
    said = capsys.readouterr().err
    assert re.search(
        r"checkpoint's .* has numbers that are not finite\. .*previous\.pt, .*used", said
    )
    folder.previous_path.unlink()
    assert "not finite" in refused("evaluate", str(folder), "--episodes", "1")


def test_nothing_of_the_run_is_changed(run):
    before = contents(run)
    main(["evaluate", str(run), "--episodes", "1"])
    assert contents(run) == before


@pytest.fixture(scope="module")
def generous(tmp_path_factory, probe):
    """A run in a task with keyword arguments."""
    folder = tmp_path_factory.mktemp("generous") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
        main([*words(folder, total_steps=25), "--env-kwargs", "reward", "12"])
    return folder


def test_keyword_arguments_of_the_task_are_those_of_training(generous, tmp_path, capsys):
    film = tmp_path / "film.mp4"
    main(["evaluate", str(generous), "--episodes", "2", "--video", str(film)])
    printed = capsys.readouterr().out
    assert printed == (
        f"{PROBE}, mode: return 240.0 ± 0.0 over 2 episodes of 20 steps\nVideo: {film}\n"
    )
    frames = [np.asarray(frame) for frame in imageio.get_reader(film)]
    assert len(frames) == 21
    assert all(abs(frame.mean() - 120) < 5 for frame in frames)  # 10 times the reward


def test_episodes_are_cut_where_asked(run, capsys):
    main(["evaluate", str(run), "--episodes", "3", "--max-steps", "7"])
    printed = capsys.readouterr().out
    assert printed == (
        f"{PROBE}, mode: return 7.0 ± 0.0 over 3 episodes of 7 steps, 3 of which were cut there\n"
    )


def test_a_task_without_a_time_limit_ends(tmp_path, capsys, monkeypatch, without_conclusion):
    """An evaluation, and a film of as many steps."""
    monkeypatch.setattr("maxentflow.agents.training.evaluation.STEP_LIMIT", 50)
    run, film = tmp_path / "run", tmp_path / "film.mp4"
    main(words(run, env="probe/Endless-v0", total_steps=25))
    main(["evaluate", str(run), "--episodes", "1"])
    assert "over 1 episodes of 50 steps, 1 of which were cut there" in capsys.readouterr().out
    main(["evaluate", str(run), "--episodes", "1", "--max-steps", "9", "--video", str(film)])
    assert sum(1 for _ in imageio.get_reader(film)) == 10


def test_a_film_that_cannot_be_drawn_comes_after_the_result(tmp_path, run, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maxentflow.agents.cli.evaluate.record_video", fail)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(run), "--episodes", "1", "--video", str(tmp_path / "film.mp4")])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out.startswith(f"{PROBE}, mode: return 20.0")
    assert output.err == "maxentflow: No space left on device.\n"


def test_a_run_on_another_device_is_evaluated_on_the_cpu(run, capsys):
    path = RunFolder(run).config_path
    path.write_text(path.read_text().replace("device: cpu", "device: cuda:5"))
    main(["evaluate", str(run), "--episodes", "1"])
    assert "return 20.0" in capsys.readouterr().out


def test_a_run_that_was_moved(run, tmp_path, capsys):
    moved = shutil.move(run, tmp_path / "elsewhere")
    main(["evaluate", str(moved), "--episodes", "1"])
    assert "return 20.0" in capsys.readouterr().out
