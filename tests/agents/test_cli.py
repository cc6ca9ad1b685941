"""The command line: what it refuses, what it explains, and a run from beginning to end."""

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image

from maxentflow import agents, flows
from maxentflow.agents import cli, evaluate
from maxentflow.agents.run_folder import RunFolder

from .common import MULTIGOAL, checkpoint, metrics, without_figures, words

HERE = "{here}"  # a folder that the test fills in
RUN = "{run}"  # a finished run in it


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run, made once."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        cli.main(words(folder, total_steps=60, eval_every=30))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """The sentence with which a command line is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in arguments])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    assert output.err.startswith("maxentflow: ")
    assert "Traceback" not in output.err + output.out
    return output.err.removeprefix("maxentflow: ").strip()


TRAIN = ("train", "meow")
REFUSED = [
    # what is wrong, and what the sentence says of it
    (("trian",), "Unknown command 'trian'; known: train, evaluate, plot. Did you mean 'train'?"),
    (("xyz",), "Unknown command 'xyz'; known: train, evaluate, plot."),
    (("train", "moew"), "Unknown agent 'moew'; known: meow, sac. Did you mean 'meow'?"),
    (("train", "--env", "Hopper-v4"), "--env"),
    ((*TRAIN, "--env", "Hoper-v4"), "Unknown task 'Hoper-v4'. Did you mean Hopper-v4"),
    ((*TRAIN, "--env=Hoper-v4"), "Unknown task 'Hoper-v4'. Did you mean Hopper-v4"),
    ((*TRAIN, "--env", ""), "Unknown task ''"),
    ((*TRAIN, "--env", "nothing/Here-v0"), "Unknown task 'nothing/Here-v0'"),
    ((*TRAIN, "--env", "nothing_here:Task-v0"), "nothing_here"),
    ((*TRAIN, "--env", "CartPole-v1"), "'meow' needs a one-dimensional continuous action space"),
    (("train", "sac", "--env", "CartPole-v1"), "got Discrete(2)"),
    (
        (*TRAIN, "--flow", "adative"),
        "Unknown flow 'adative'; registered: additive, affine, spline",
    ),
    ((*TRAIN, "--flow-options", "blokcs", "3"), "has no option 'blokcs'; its options: blocks"),
    ((*TRAIN, "--flow-options", "blocks", "0"), "blocks must be at least 1, got 0"),
    ((*TRAIN, "--flow-options", "blocks", "many"), "'blocks' of flow 'additive' is 2 by default"),
    ((*TRAIN, "--flow-options", "blocks"), "--flow-options"),
    ((*TRAIN, "--flow-options", "base", "mixture"), "has no option 'base'; its options: blocks"),
    ((*TRAIN, "--flow-options", "hidden", "8,wide"), "is (64, 64) by default, got '8,wide'"),
    ((*TRAIN, "--flow-options", "hidden", "True"), "is (64, 64) by default, got True"),
    ((*TRAIN, "--temprature", "3"), "--temprature"),
    ((*TRAIN, "surplus"), "surplus"),
    (("train", "sac", "--flow", "affine"), "--flow"),
    ((*TRAIN, "--total-steps", "many"), "--total-steps: invalid literal for int()"),
    ((*TRAIN, "--batch-size", "1.5"), "--batch-size: invalid literal for int()"),
    ((*TRAIN, "--temperature", "warm"), "--temperature"),
    ((*TRAIN, "--seed"), "--seed"),
    ((*TRAIN, "--temperature", "-1"), "temperature must be positive and finite, got -1.0"),
    ((*TRAIN, "--temperature", "nan"), "temperature must be positive and finite, got nan"),
    ((*TRAIN, "--tau", "7"), "tau must be in (0, 1], got 7.0"),
    ((*TRAIN, "--gamma", "1.5"), "gamma must be in [0, 1], got 1.5"),
    ((*TRAIN, "--heads", "-1"), "heads >= 0"),
    ((*TRAIN, "--log-sigma", "1", "0"), "log-sigma must be finite and increasing, got (1.0, 0.0)"),
    ((*TRAIN, "--total-steps", "0"), "total_steps must be at least 1, got 0"),
    ((*TRAIN, "--seed", "-1"), "seed must not be negative, got -1"),
    ((*TRAIN, "--seed", "99999999999999999999"), "seed"),
    ((*TRAIN, "--device", "nonsense"), "Device 'nonsense' cannot be used"),
    ((*TRAIN, "--device", "cuda:77"), "Device 'cuda:77' cannot be used"),
    ((*TRAIN, "--run-dir", RUN), "holds a run already"),
    ((*TRAIN, "--run-dir", f"{RUN}/config.yaml"), "Cannot make the run folder"),
    ((*TRAIN, "--replay-size", "100", "--total-steps", "20"), "replay_size"),
    (("train", "--resume"), "--resume"),
    (("train", "--resume", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("train", f"--resume={HERE}/nowhere"), "nowhere is not a run folder"),
    (("train", "--resume", RUN), "run is complete at 60 steps; give a larger --total-steps"),
    (("train", "--resume", RUN, "--total-steps", "60"), "run is complete at 60 steps"),
    (("train", "--resume", RUN, "--total-steps", "0"), "total_steps must be at least 1, got 0"),
    (("train", "sac", "--resume", RUN), "run is a run of 'meow', not of 'sac'"),
    (("train", "--resume", RUN, "--seed", "3"), "--seed"),
    (("train", "--resume", RUN, RUN, "--total-steps", "90"), "--resume names a run twice"),
    (("evaluate",), "The run's folder"),
    (("evaluate", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("evaluate", RUN, "--episodes", "0"), "episodes must be at least 1, got 0"),
    (("evaluate", RUN, "--episodes", "few"), "--episodes: invalid literal for int()"),
    (("evaluate", RUN, "--seed", "-1"), "seed"),
    (("evaluate", RUN, "--speed", "3"), "--speed"),
    (("evaluate", RUN, "--video", f"{HERE}/nowhere/film.mp4"), "Cannot write a video to"),
    (("plot",), "at least one run folder"),
    (("plot", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("plot", RUN, f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("plot", RUN, "--out", f"{RUN}/config.yaml/curves.png"), "Cannot write the figure"),
    (("plot", RUN, "--out", f"{HERE}/curves.nonsense"), "Cannot write the figure"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED]
)
def test_wrong_input_is_refused_in_one_sentence(
    run, tmp_path, monkeypatch, capsys, arguments, says
):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    filled = [word.replace(HERE, str(tmp_path)).replace(RUN, str(run)) for word in arguments]
    sentence = refused(capsys, *filled)
    assert says in sentence
    assert not re.search(r"-{3,}|[─│╭╯]", sentence)  # a sentence, not a box
    assert len(sentence) < 400
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def rewrite(run, **changes):
    content = yaml.safe_load(RunFolder(run).config_path.read_text())
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    RunFolder(run).config_path.write_text(yaml.safe_dump(content))


DAMAGES = {
    "no checkpoint": (
        lambda run: RunFolder(run).checkpoint_path.unlink(),
        "has no checkpoint yet",
    ),
    "a checkpoint cut short": (
        lambda run: RunFolder(run).checkpoint_path.write_bytes(b"PK half of it"),
        "latest.pt is not a readable checkpoint",
    ),
    "a checkpoint of something else": (
        lambda run: torch.save({"model": torch.ones(3)}, RunFolder(run).checkpoint_path),
        "is not a readable checkpoint of maxentflow",
    ),
    "a checkpoint without networks": (
        lambda run: torch.save({"agent": "meow"}, RunFolder(run).checkpoint_path),
        "The checkpoint's networks are not those of this run",
    ),
    "a checkpoint that is a tensor": (
        lambda run: torch.save(torch.ones(3), RunFolder(run).checkpoint_path),
        "checkpoint",
    ),
    "a configuration that is garbage": (
        lambda run: RunFolder(run).config_path.write_text("{]"),
        "config.yaml is not a run's configuration",
    ),
    "a configuration with a list": (
        lambda run: rewrite(run, agent_config=[1, 2]),
        "config.yaml is not a run's configuration",
    ),
    "an unknown setting of the agent": (
        lambda run: rewrite(run, agent_config={"warmth": 1}),
        "'meow' has no setting 'warmth'",
    ),
    "an unknown setting of the trainer": (
        lambda run: rewrite(run, trainer_config={"warmth": 1}),
        "config.yaml is not a run's configuration",
    ),
    "a setting that is no number": (
        lambda run: rewrite(run, trainer_config={"total_steps": "many"}),
        "config.yaml is not a run's configuration",
    ),
    "an agent nobody registered": (
        lambda run: rewrite(run, agent="moew"),
        "Unknown agent 'moew'",
    ),
    "another flow than the checkpoint's": (
        lambda run: rewrite(run, agent_config={"flow": "affine"}),
        "The checkpoint's networks are not those of this run",
    ),
    "another task than the checkpoint's": (
        lambda run: rewrite(run, trainer_config={"env": "Pendulum-v1"}),
        "The checkpoint's networks are not those of this run",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_damaged_runs_are_refused(run, capsys, command, damage):
    make_damage, says = DAMAGES[damage]
    make_damage(run)
    before = contents(run)
    if (command, damage) == ("resume", "no checkpoint"):
        return_to_start(run)
        return
    arguments = {
        "evaluate": ("evaluate", run),
        "resume": ("train", "--resume", run, "--total-steps", "90"),
    }[command]
    assert says in refused(capsys, *arguments)
    assert contents(run) == before


@pytest.mark.parametrize("setting", [{"gamma": 0.5}, {"learning_rate": 0.1}])
def test_settings_that_a_checkpoint_brings_back_cannot_be_edited(run, capsys, setting):
    rewrite(run, agent_config=setting)
    message = "config.yaml was changed: a discount and step sizes are those of the checkpoint"
    assert message in refused(capsys, "train", "--resume", run, "--total-steps", "90")


def test_a_task_given_twice_is_the_last_with_its_own_defaults(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "_run", seen.extend)
    both = ["--env", "Pendulum-v1", "--env", MULTIGOAL]
    cli.main(["train", "meow", *both, "--run-dir", str(tmp_path / "run")])
    (trainer,) = seen
    expected = agents.config("meow", MULTIGOAL)
    assert trainer.config.env == MULTIGOAL
    assert trainer.agent.config.temperature == expected.temperature
    assert expected.temperature != agents.config("meow", "Pendulum-v1").temperature


def return_to_start(run):
    """Without a checkpoint, a run resumed is the run from its start."""
    expected, path = metrics(run), RunFolder(run).checkpoint_path
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        cli.main(["train", "--resume", str(run)])
    assert metrics(run) == expected
    assert path.exists()


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["train"], ["train", "--help"]])
def test_usage(capsys, arguments):
    cli.main(arguments)
    output = capsys.readouterr()
    assert output.err == ""
    for command in ("train AGENT", "train --resume RUN", "evaluate RUN", "plot RUN"):
        assert command in output.out
    assert "meow or sac" in output.out


def help_text(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--help"])
    output = capsys.readouterr()
    assert stop.value.code == 0
    assert output.err == ""
    return " ".join(re.sub("[╭╮╰╯─│]", " ", output.out).split())


@pytest.mark.parametrize(
    ("env_id", "temperature", "tau", "steps", "warmup"),
    [
        ("HalfCheetah-v4", 0.25, 0.003, 1_500_000, 10_000),
        ("Ant-v5", 0.05, 0.0001, 4_000_000, 5_000),
        (MULTIGOAL, 2.5, 0.0005, 4_000, 1_000),
    ],
)
def test_help_shows_the_tasks_own_defaults(capsys, env_id, temperature, tau, steps, warmup):
    text = help_text(capsys, "train", "meow", "--env", env_id)
    expected = {
        "temperature": temperature,
        "tau": tau,
        "total-steps": steps,
        "warmup-steps": warmup,
        "env": env_id,
        "flow": "additive",
    }
    for flag, default in expected.items():
        assert re.search(rf"--{flag} ((?! --).)*?\(default: {re.escape(str(default))}\)", text), (
            flag
        )


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["train", "sac"], ["--actor-learning-rate", "--hidden", "--alpha-init", "--run-dir"]),
        (["evaluate"], ["--episodes", "--stochastic", "--seed", "--video"]),
        (["plot"], ["--out"]),
        (["train", "--resume", "anywhere"], ["--resume", "--total-steps"]),
    ],
)
def test_help_names_the_options(capsys, arguments, flags):
    text = help_text(capsys, *arguments)
    for flag in flags:
        assert flag in text


def test_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    """Train, evaluate both ways, plot; a bar that nobody would see is not drawn."""
    monkeypatch.chdir(tmp_path)
    arguments = words("unused", total_steps=60, eval_every=30, checkpoint_every=0)
    at = arguments.index("--run-dir")
    del arguments[at : at + 2]
    cli.main(arguments)
    output = capsys.readouterr()
    assert output.err == ""
    run = RunFolder(tmp_path / "runs" / "MultiGoal-v0-meow-0")
    assert "Run folder: runs/MultiGoal-v0-meow-0" in output.out
    assert "after 60 steps, mode: return " in output.out
    assert [row["step"] for row in metrics(run.path)] == ["20", "30", "40", "60"]
    assert checkpoint(run.path)["step"] == 60
    for name in ("multigoal.png", "returns.png"):
        assert Image.open(run.figures_path / name).size[0] > 500
        assert f"figures/{name}" in output.out

    agent, config = cli._trained(run)
    for flags, deterministic in (([], True), (["--stochastic"], False)):
        cli.main(["evaluate", str(run.path), "--episodes", "2", "--seed", "5", *flags])
        printed = capsys.readouterr().out
        result = evaluate(
            agent.policy, config.env, episodes=2, seed=5, deterministic=deterministic
        )
        kind = "mode" if deterministic else "samples"
        assert printed == f"{MULTIGOAL}, {kind}: {result}\n"

    cli.main(["plot", str(run.path), "--out", "curves.png"])
    assert capsys.readouterr().out == "Figure: curves.png\n"
    assert Image.open("curves.png").size == (960, 810)


def test_a_second_run_gets_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without_figures(monkeypatch)
    arguments = words("unused", total_steps=5, eval_every=0)
    at = arguments.index("--run-dir")
    del arguments[at : at + 2]
    for seed in (7, 7, 8):
        cli.main([*arguments, "--seed", str(seed)])
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["MultiGoal-v0-meow-7", "MultiGoal-v0-meow-7-2", "MultiGoal-v0-meow-8"]
    first, second, other = (checkpoint(tmp_path / "runs" / name) for name in names)
    key = next(key for key in first["loss"] if key.startswith("network"))
    assert torch.equal(first["replay"]["action"], second["replay"]["action"])
    assert not torch.equal(first["replay"]["action"], other["replay"]["action"])
    assert first["loss"].keys() == other["loss"].keys()
    assert torch.equal(first["loss"][key], second["loss"][key])


@pytest.mark.parametrize(("word", "widths"), [("7,9", (7, 9)), ("7", (7,))])
def test_sizes_of_networks_on_the_command_line(word, widths, tmp_path, monkeypatch):
    without_figures(monkeypatch)
    run = tmp_path / "run"
    options = ["--flow-options", "hidden", word, "blocks", "1"]
    cli.main([*words(run, total_steps=5), *options])
    loss = RunFolder(run).load_checkpoint()["loss"]
    matrices = [value for value in loss.values() if value.ndim == 2]
    assert {matrix.shape[0] for matrix in matrices} >= set(widths)
    assert {matrix.shape[1] for matrix in matrices} >= set(widths)


def test_settings_on_the_command_line_are_those_of_the_run(tmp_path, monkeypatch):
    without_figures(monkeypatch)
    changes = {"temperature": 0.5, "tau": 0.25, "seed": 4, "heads": 1, "total_steps": 5}
    cli.main([*words(tmp_path / "run", **changes), "--max-grad-norm", "None"])
    content = RunFolder(tmp_path / "run").config()
    agent, trainer = content["agent_config"], content["trainer_config"]
    assert (agent["temperature"], agent["tau"], agent["heads"]) == (0.5, 0.25, 1)
    assert agent["max_grad_norm"] is None
    assert agent["flow_options"] == {"blocks": 1}
    assert (agent["gamma"], agent["log_sigma"]) == (0.9, [-2.0, 1.0])  # the task's
    assert (trainer["seed"], trainer["total_steps"]) == (4, 5)


def test_a_video(run, tmp_path, capsys):
    path = tmp_path / "film.mp4"
    cli.main(["evaluate", str(run), "--episodes", "1", "--video", str(path)])
    assert f"Video: {path}" in capsys.readouterr().out
    assert path.stat().st_size > 1000


def test_a_run_that_stops_says_why(tmp_path, monkeypatch, capsys, count):
    without_figures(monkeypatch)
    folder = tmp_path / "run"
    task = count(spoilt="reward", at=50)
    sentence = refused(capsys, *words(folder, env=task, eval_every=0))
    path = folder / "checkpoints" / "stopped_49.pt"
    assert sentence == f"Stopped after 49 steps: reward is nan; the state is in {path}."
    assert checkpoint(folder, path.name)["step"] == 49
    assert checkpoint(folder)["step"] == 45
    assert [row["step"] for row in metrics(folder)] == ["20", "40"]


def test_as_a_program_in_a_terminal(tmp_path):
    """Colours and boxes are for those who asked for help, not for a sentence."""
    command = [sys.executable, "-m", "maxentflow.agents", "train", "meow", "--tau", "7"]
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


def test_help_lists_what_is_registered_by_then(capsys, monkeypatch):
    monkeypatch.setattr(flows.registry, "_RECIPES", dict(flows.registry._RECIPES))
    flows.register("own")(lambda dim, obs_dim: [])
    text = help_text(capsys, "train", "meow")
    for known in (flows.registered(), flows.registry.BASES, flows.registry.SQUASHES):
        assert f"({', '.join(known)})" in text
    assert "own" in flows.registered()
