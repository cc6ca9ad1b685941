"""``maxentflow train`` from its options to the end of a run, or to what stops it."""

import contextlib
import errno
import os
import re
import resource
import shlex
import signal
import sys

import gymnasium as gym
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from PIL import Image

from maxentflow import agents, envs, flows
from maxentflow.agents import RunFolder, Trainer, compiled, load, registry
from maxentflow.agents.cli import main
from maxentflow.agents.training.description import Description

from .tiny import (
    MULTIGOAL,
    PROBE,
    SMALL,
    Line,
    checkpoint,
    metrics,
    stopped,
    without_progress,
    words,
)


@pytest.mark.parametrize(
    ("env_id", "temperature", "tau", "steps", "warmup"),
    [
        ("HalfCheetah-v4", 0.25, 0.003, 1_500_000, 10_000),
        ("Ant-v5", 0.05, 0.0001, 4_000_000, 5_000),
        (MULTIGOAL, 2.5, 0.0005, 4_000, 1_000),
    ],
)
def test_help_shows_the_tasks_own_defaults(help_text, env_id, temperature, tau, steps, warmup):
    text = help_text("train", "meow", "--env", env_id, "--paper")
    assert f"the defaults shown are those for {env_id}." in text
    expected = {
        "temperature": temperature,
        "tau": tau,
        "total-steps": steps,
        "warmup-steps": warmup,
        "flow": "additive",
        "compile": "auto",
    }
    for flag, default in expected.items():
        assert re.search(rf"--{flag} ((?! --).)*?\(default: {re.escape(str(default))}\)", text), (
            flag
        )


def test_help_shows_the_agents_own_defaults_for_training(help_text):
    text = help_text("train", "ppo", "--env", "Pendulum-v1")
    assert re.search(r"--num-envs INT ((?! --).)*\(default: 8\)", text)
    assert re.search(r"--warmup-steps INT ((?! --).)*\(default: 0\)", text)


def test_help_without_a_task(help_text):
    text = help_text("train", "sac")
    assert "the defaults shown are those for any task." in text
    for flag in ("--env", "--env-kwargs", "--hidden", "--temperature", "--run-dir", "--seeds"):
        assert flag in text


def test_help_lists_what_is_registered_by_then(help_text, monkeypatch):
    monkeypatch.setattr(flows.registry, "_RECIPES", dict(flows.registry._RECIPES))
    flows.register("own")(lambda dim, obs_dim: [])
    text = help_text("train", "meow")
    assert "own" in flows.registered()
    for known in (flows.registered(), flows.registry.BASES, flows.registry.SQUASHES):
        assert f"({', '.join(known)})" in text


def test_an_agent_registered_by_a_script(tmp_path, monkeypatch, without_conclusion):
    monkeypatch.setattr(registry, "_AGENTS", dict(registry._AGENTS))

    @registry.register("own", agents.Td3Config)
    def own(env, config, *, device):
        return agents.td3(env, config, device=device)

    arguments = words(tmp_path / "run", agent="td3")
    arguments[1] = "own"
    main(arguments)
    assert checkpoint(tmp_path / "run")["step"] == 60


def test_more_threads_than_cores_are_not_used_before_and_after_training_either(
    tmp_path, without_conclusion
):
    """A thousand took minutes for an evaluation."""
    before = torch.get_num_threads()
    try:
        main(words(tmp_path / "run", agent="td3", threads=1_000))
        assert torch.get_num_threads() <= os.cpu_count()
    finally:
        torch.set_num_threads(before)


def test_without_progress_nothing_is_written_to_standard_error(
    tmp_path, capsys, without_conclusion
):
    run = tmp_path / "run"
    main([*words(run, agent="td3"), "--no-progress"])
    main(["train", "--resume", str(run), "--total-steps", "80", "--no-progress"])
    assert capsys.readouterr().err == ""
    assert checkpoint(run)["step"] == 80


def test_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    """Train, evaluate, plot; lines in place of a bar where standard error is no terminal."""
    monkeypatch.chdir(tmp_path)
    main(words(env=MULTIGOAL, checkpoint_every=0))
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"seed 0, step {step} of 60" for step in (20, 30, 40, 60)
    ]
    assert re.fullmatch(r".*: return -\d+\.?\d*, loss \d\S*, \d+ steps/s, 0 s left", lines[-1])
    run = RunFolder(tmp_path / "runs" / "MultiGoal-v0-meow-0")
    assert "Run folder: runs/MultiGoal-v0-meow-0" in output.out
    assert f"{MULTIGOAL} after 60 steps, mode: return " in output.out
    assert "Sampled episodes that end at each goal: (+5, +0) " in output.out
    assert "  maxentflow evaluate runs/MultiGoal-v0-meow-0 --episodes 20" in output.out
    assert [row["step"] for row in metrics(run.path)] == ["20", "30", "40", "60"]
    assert checkpoint(run.path)["step"] == 60
    for name in ("MultiGoal-v0.png", "returns.png"):
        assert Image.open(run.figures_path / name).size[0] > 500
        assert f"figures/{name}" in output.out


@pytest.mark.quick_for("ppo-CartPole")
@pytest.mark.parametrize(
    ("agent", "env"),
    [
        *((name, PROBE) for name in ("sac", "flow-sac", "sql", "td3", "ddpg")),
        *((name, "CartPole-v1") for name in ("ppo", "soft-q", "discrete-sac", "dqn")),
    ],
)
def test_every_agent(tmp_path, capsys, agent, env):
    run = tmp_path / "run"
    main(words(run, agent, env=env))
    printed = capsys.readouterr().out
    assert re.search(rf"{env} after 6[04] steps, mode: return ", printed)
    assert f"Figure: {run}/figures/returns.png" in printed
    assert [int(row["updates"]) for row in metrics(run)][-1] > 0
    main(["evaluate", str(run), "--episodes", "1"])
    assert f"{env}, mode: return " in capsys.readouterr().out
    main(["train", "--resume", str(run), "--total-steps", "70"])
    assert checkpoint(run)["step"] >= 70


def test_every_agent_is_tried():
    assert set(SMALL) == set(agents.registered())


@pytest.mark.slow
def test_the_summary_of_a_task_sees_samples_and_values(tmp_path, monkeypatch, capsys):
    """Whatever task has one; the command line knows none by name."""
    seen = {}

    def summary(act, path, value=None):
        observation = torch.zeros(5, 2).numpy()
        seen.update(actions=act(observation), path=path, value=value(observation))
        return "Four are there."

    monkeypatch.setattr(Line, "summary", staticmethod(summary), raising=False)
    main(words(tmp_path / "run"))
    assert f"Four are there.\nFigure: {seen['path']}\n" in capsys.readouterr().out
    assert seen["path"] == tmp_path / "run" / "figures" / "Line-v0.png"
    assert seen["actions"].shape == (5, 1)
    assert len({float(action) for action in seen["actions"][:, 0]}) == 5  # samples, not modes
    assert seen["value"].shape == (5,)
    assert len({float(value) for value in seen["value"]}) == 1


def test_a_second_run_gets_a_folder_of_its_own(tmp_path, monkeypatch, without_conclusion):
    monkeypatch.chdir(tmp_path)
    for seed in (7, 7, 8):
        main(words(total_steps=25, eval_every=0, seed=seed))
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["Line-v0-meow-7", "Line-v0-meow-7-2", "Line-v0-meow-8"]
    first, second, other = (checkpoint(tmp_path / "runs" / name)["loss"] for name in names)
    assert first.keys() == second.keys() == other.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_several_seeds(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*words(tmp_path / "runs", "sac", total_steps=30), "--seeds", "4,7"])
    printed = capsys.readouterr().out
    for seed in (4, 7):
        folder = RunFolder(tmp_path / "runs" / f"seed-{seed}")
        assert f"Run folder: {folder}" in printed
        assert f"Seed {seed}:\n{PROBE} after 30 steps" in printed
        assert folder.config()["trainer_config"]["seed"] == seed
        assert checkpoint(folder.path)["step"] == 30


@pytest.mark.parametrize(("word", "widths"), [("7,9", (7, 9)), ("7", (7,))])
def test_sizes_of_networks_on_the_command_line(word, widths, tmp_path, without_conclusion):
    run = tmp_path / "run"
    options = ["--flow-options", "hidden", word, "blocks", "1"]
    main([*words(run, total_steps=5), *options])
    matrices = [value for value in checkpoint(run)["loss"].values() if value.ndim == 2]
    assert {matrix.shape[0] for matrix in matrices} >= set(widths)
    assert {matrix.shape[1] for matrix in matrices} >= set(widths)


def test_settings_on_the_command_line_are_those_of_the_run(tmp_path, without_conclusion):
    changes = {"temperature": 0.5, "tau": 0.25, "seed": 4, "heads": 1, "total_steps": 5}
    options = ["--max-grad-norm", "None", "--env-kwargs", "reward", "3", "--compile", "off"]
    main([*words(tmp_path / "run", **changes), *options])
    content = RunFolder(tmp_path / "run").config()
    agent, trainer = content["agent_config"], content["trainer_config"]
    assert (content["agent"], content["env"], content["compile"]) == ("meow", PROBE, "off")
    assert content["env_kwargs"] == {"reward": 3}
    assert content["custom"] == []
    assert (agent["temperature"], agent["tau"], agent["heads"]) == (0.5, 0.25, 1)
    assert agent["max_grad_norm"] is None
    assert agent["flow_options"] == {"blocks": 1}
    assert (trainer["seed"], trainer["total_steps"]) == (4, 5)
    assert not {"env", "compile"} & trainer.keys()


def test_a_task_given_twice_is_the_last_with_its_own_defaults(tmp_path, without_conclusion):
    both = ["--env", "Pendulum-v1", "--env", MULTIGOAL, "--total-steps", "5", "--eval-every", "0"]
    main(["train", "meow", *both, "--run-dir", str(tmp_path / "run")])
    content = RunFolder(tmp_path / "run").config()
    expected = agents.config("meow", MULTIGOAL).gamma
    assert content["env"] == MULTIGOAL
    assert content["agent_config"]["gamma"] == expected
    assert expected != agents.config("meow", "Pendulum-v1").gamma


@pytest.mark.slow
def test_keyword_arguments_of_a_task_reach_training_and_evaluation(tmp_path, capsys):
    run = tmp_path / "run"
    main([*words(run), "--env-kwargs", "reward", "2.5"])
    assert "after 60 steps, mode: return 50.0 ± 0.0" in capsys.readouterr().out
    last = metrics(run)[-1]
    assert (float(last["train_return"]), float(last["eval_return"])) == (50.0, 50.0)


@pytest.fixture
def learner_of(monkeypatch):
    """What agents were to be compiled or not; nothing is."""
    asked = []

    def learner(given, *, compile):
        asked.append((len(given), compile))
        return make(given, compile=False)

    make = compiled.learner
    monkeypatch.setattr(compiled, "learner", learner)
    return asked


@pytest.mark.parametrize(("choice", "compiles"), [("on", True), ("off", False), ("auto", False)])
@pytest.mark.slow
def test_whether_a_run_is_compiled_is_kept(
    tmp_path, learner_of, without_conclusion, choice, compiles
):
    run = tmp_path / "run"
    main([*words(run), "--compile", choice])
    main(["train", "--resume", str(run), "--total-steps", "70"])
    assert learner_of == [(1, compiles), (1, compiles)]


@pytest.mark.parametrize(
    ("agent", "settings", "training", "compiles"),
    [
        ("td3", {}, {"total_steps": 10_100, "warmup_steps": 100}, True),
        ("td3", {}, {"total_steps": 10_099, "warmup_steps": 100}, False),
        ("td3", {}, {"total_steps": 10_100, "warmup_steps": 100, "utd_ratio": 0.99}, False),
        ("td3", {}, {"total_steps": 2_100, "warmup_steps": 100, "utd_ratio": 5.0}, True),
        # 2,048 steps make 10 epochs of 32 minibatches
        ("ppo", {}, {"total_steps": 2_048 * 32, "warmup_steps": 0, "num_envs": 8}, True),
        ("ppo", {}, {"total_steps": 2_048 * 32 - 1, "warmup_steps": 0, "num_envs": 8}, False),
        ("ppo", {"epochs": 1}, {"total_steps": 2_048 * 32, "warmup_steps": 0}, False),
    ],
)
def test_what_is_long_enough_to_be_compiled(agent, settings, training, compiles):
    config = agents.config(agent, PROBE, hidden=(8,), **settings)
    made = agents.make(agent, envs.make(PROBE), **vars(config))
    trainer_config = agents.TrainerConfig(**training)
    assert Description(agent, config, PROBE, trainer_config).compiles(made) == compiles


# What stops a run


def test_a_reward_that_is_not_finite(tmp_path, refused):
    folder = tmp_path / "run"
    options = ["--env-kwargs", "spoilt", "50"]
    sentence = refused(*words(folder, eval_every=0), *options)
    path = folder / "checkpoints" / "stopped_49.pt"
    assert sentence == f"Stopped after 49 steps: reward is nan; the state is in {path}."
    assert torch.load(path, weights_only=True)["step"] == 49
    assert checkpoint(folder)["step"] == 25
    assert [row["step"] for row in metrics(folder)] == ["20", "40"]


@contextlib.contextmanager
def disk():
    """Gives a function after which writes to files fail, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def when_at(monkeypatch, method, step, happens):
    """Let something happen before a method of the trainer, from a step on."""
    original = getattr(Trainer, method)

    def replaced(self, *arguments):
        if self.step >= step:
            happens()
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, method, replaced)


@pytest.mark.parametrize("method", ["_log", "save"])
@pytest.mark.quick_for("save")
def test_a_disk_that_is_full_during_a_run(tmp_path, monkeypatch, capsys, method):
    folder = tmp_path / "run"
    with disk() as fill:
        when_at(monkeypatch, method, 50, fill)
        code = stopped(words(folder, eval_every=0))
    error = without_progress(capsys.readouterr().err)
    assert code == 2
    assert re.fullmatch(
        r"maxentflow: Stopped after (50|60) steps: File too large; continue from the last "
        rf"checkpoint with maxentflow train --resume {folder}\.\n",
        error,
    )
    assert checkpoint(folder)["step"] == (50 if method == "_log" else 25)


def test_a_folder_below_home(tmp_path, monkeypatch, without_conclusion):
    monkeypatch.setenv("HOME", str(tmp_path))
    main(words("~/runs/one", total_steps=25))
    assert (tmp_path / "runs" / "one" / "config.yaml").exists()


def test_a_folder_below_home_after_an_equals_sign(tmp_path, monkeypatch, without_conclusion):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main([*words(total_steps=25), "--run-dir=~/runs/one"])
    assert (tmp_path / "runs" / "one" / "config.yaml").exists()
    assert not (tmp_path / "~").exists()


def test_a_folder_that_cannot_be_made_leaves_none(tmp_path, refused):
    assert "File name too long" in refused(*words(tmp_path / "a" / "b" / ("x" * 300)))
    assert not [*tmp_path.iterdir()]


def test_what_comes_next_can_be_pasted(tmp_path, capsys):
    main(words(tmp_path / "a run", "sac", total_steps=25))
    said = capsys.readouterr().out
    hints = [shlex.split(line) for line in said.partition("Next:\n")[2].splitlines()]
    assert len(hints) == 4
    assert all(str(tmp_path / "a run") in hint for hint in hints if "--help" not in hint)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"warmup_steps": 100}, "warmup_steps=100 is longer than the run"),
        ({"batch_size": 100}, "batch_size=100 is longer than the run"),
        ({"utd_ratio": 1e-9}, "utd_ratio=1e-09 gives no update in 30 steps"),
        ({}, None),
    ],
)
def test_a_run_that_learns_nothing_says_so(tmp_path, capsys, without_conclusion, changes, why):
    main([*words(tmp_path / "run", "sac", total_steps=30, **changes), "--no-progress"])
    said = capsys.readouterr().err
    assert said == ("" if why is None else f"Warning: nothing will be learned: {why}.\n")
    assert (checkpoint(tmp_path / "run")["updates"] == 0) == (why is not None)


def stopped_by(said, reason, steps, run):
    """The state of a run that an exception of its environment ended, as the sentence tells it."""
    stopped = run / "checkpoints" / f"stopped_{steps}.pt"
    # From a worker, cloudpickle from 3.1.3 has no file's name.
    assert re.fullmatch(
        rf"Stopped after {steps} steps: the environment raised RuntimeError: {reason} "
        rf"\((.*test_train\.py|<dynamic-code>), line \d+\); the state is in {stopped}; "
        rf"continue from the last checkpoint with maxentflow train --resume {run}\.",
        said,
    )
    return stopped


def test_an_environment_that_raises(tmp_path, refused, capsys, monkeypatch):
    step = Line.step

    def breaks(self, action):
        if self.steps == 17:
            raise RuntimeError("the motor broke")
        return step(self, action)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Line, "step", breaks)
        said = refused(*words(run, "sac", checkpoint_every=10))
    stopped = stopped_by(said, "the motor broke", 17, run)
    assert checkpoint(run)["step"] == 10
    main(["evaluate", str(stopped), "--episodes", "1"])
    assert capsys.readouterr().out.startswith(f"{PROBE}, mode: return 20.0")
    agent = load(stopped)
    saved = torch.load(stopped, weights_only=True)["policy"]
    assert all(
        torch.equal(entry, saved[name]) for name, entry in agent.policy.state_dict().items()
    )


def test_an_environment_that_raises_in_a_worker(tmp_path, refused, capsys):
    class Breaks(PendulumEnv):  # pickled by value: workers cannot import from these tests
        steps = 0

        def step(self, action):
            if self.steps == 17:
                raise RuntimeError("the motor broke at 100%")
            self.steps += 1
            return super().step(action)

    run, task = tmp_path / "run", "probe/Breaks-v0"
    gym.register(task, entry_point=Breaks, max_episode_steps=20)
    try:
        command = words(run, "sac", env=task, num_envs=2, checkpoint_every=10, eval_every=0)
        said = refused(*command, "--workers")
        stopped = stopped_by(said, "the motor broke at 100%", 34, run)
        assert checkpoint(run)["step"] == 30
        assert load(stopped).updates == 14
    finally:
        del gym.registry[task]


def test_a_run_that_is_still_going_is_not_resumed(run, refused):
    folder = RunFolder(run)
    folder.begin()
    before = folder.metrics_path.read_text(), folder.config_path.read_text()
    said = refused("train", "--resume", str(folder), "--total-steps", "90")
    assert said == f"{folder} is being trained in by another process."
    assert (folder.metrics_path.read_text(), folder.config_path.read_text()) == before
    folder.end()


def test_an_update_beyond_the_memory(tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--warmup-steps", "2", "--batch-size", "2", "--eval-every", "0", "--compile", "off"]
    huge = ["--particles", str(10**11), "--total-steps", "9"]
    assert stopped(["train", "sql", "--env", MULTIGOAL, "--run-dir", run, *small, *huge]) == 2
    said = without_progress(capsys.readouterr().err)
    assert "Stopped after 3 steps: an update needs more memory than there is" in said
    assert "Traceback" not in said


def test_a_disk_that_is_full_from_the_start(tmp_path, capsys):
    with disk() as fill:
        fill()
        code = stopped(words(tmp_path / "run"))
    assert code == 2
    assert without_progress(capsys.readouterr().err) == (
        f"maxentflow: Cannot make the run folder {tmp_path}/run: File too large.\n"
    )


@pytest.mark.parametrize("options", [["--total-steps", "90"], []])
def test_a_disk_that_is_full_when_going_on(run, capsys, options):
    if not options:
        RunFolder(run).set_total_steps(90)
    configuration, rows = (run / "config.yaml").read_bytes(), metrics(run)
    with disk() as fill:
        fill()
        code = stopped(["train", "--resume", run, *options])
    assert code == 2
    assert (
        without_progress(capsys.readouterr().err)
        == f"maxentflow: Cannot write to {run}: File too large.\n"
    )
    assert (run / "config.yaml").read_bytes() == configuration
    assert metrics(run) == rows


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")],
)
@pytest.mark.quick_for("15-143")
def test_a_signal_ends_the_run_with_its_state_saved(
    tmp_path, monkeypatch, capsys, finished, without_conclusion, number, code, says
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        when_at(patch, "_log", 40, lambda: os.kill(os.getpid(), number))
        assert stopped(words(folder)) == code
    assert without_progress(capsys.readouterr().err) == (
        f"\n{says}; continue from the last checkpoint with maxentflow train --resume {folder}.\n"
    )
    assert checkpoint(folder)["step"] == 40
    main(["train", "--resume", str(folder)])
    assert metrics(folder) == metrics(finished())


def test_a_second_ctrl_c_stops_at_once(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    when_at(monkeypatch, "_log", 40, twice)
    assert stopped(words(folder)) == 130
    assert "Interrupted; continue from the last checkpoint" in capsys.readouterr().err
    assert checkpoint(folder)["step"] == 25


def test_ctrl_c_outside_of_training(run, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("maxentflow.agents.cli.evaluate.evaluate", interrupt)
    assert stopped(["evaluate", run]) == 130
    assert without_progress(capsys.readouterr().err) == "\nInterrupted.\n"


class Gone:
    """The standard error of a terminal that has closed."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")

    def flush(self):
        pass


def test_a_terminal_that_closes_ends_a_run_with_its_own_status(tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def update(self, batch):
        monkeypatch.setattr(agents.Agent, "update", learned)
        monkeypatch.setattr(sys, "stderr", Gone())
        signal.raise_signal(signal.SIGHUP)
        return learned(self, batch)

    learned = agents.Agent.update
    monkeypatch.setattr(agents.Agent, "update", update)
    options = [
        "--warmup-steps",
        "20",
        "--total-steps",
        "60",
        "--batch-size",
        "8",
        "--compile",
        "off",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["train", "sac", "--env", PROBE, "--run-dir", str(folder), "--no-progress", *options])
    assert ended.value.code == 129
    assert 20 <= RunFolder(folder).load_checkpoint()["step"] < 60
