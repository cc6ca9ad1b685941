"""Runs that go on, and damaged run folders, which evaluate refuses too."""

import copy
import dataclasses
import shutil

import pytest
import torch
import yaml

from maxentflow import agents, envs, flows
from maxentflow.agents import RunFolder, TrainerConfig
from maxentflow.agents.cli import main
from maxentflow.agents.training.files import save_atomically

from .tiny import MULTIGOAL, TRAIN, checkpoint, contents, metrics, stopped, words

COMMANDS = {
    "evaluate": lambda run: ["evaluate", str(run), "--episodes", "1", "--max-steps", "3"],
    "resume": lambda run: ["train", "--resume", str(run), "--total-steps", "70"],
}


@pytest.fixture(autouse=True)
def _quick(without_conclusion):
    """Conclusions have tests of their own."""


@pytest.fixture(params=COMMANDS)
def command(request):
    return COMMANDS[request.param]


@pytest.mark.parametrize("agent", ["meow", "td3"])
@pytest.mark.quick_for("meow")
def test_going_on_is_as_never_having_stopped(tmp_path, finished, agent):
    parts = tmp_path / "parts"
    main(words(parts, agent, total_steps=45))
    main(["train", agent, "--resume", str(parts), "--total-steps", "60"])
    # but for the rows at the first end
    rows = [row for row in metrics(parts) if row["step"] != "45"]
    assert rows == metrics(finished(agent))


def test_a_new_length_is_written_down(run):
    main(["train", "--resume", str(run), "--total-steps", "70"])
    assert RunFolder(run).config()["trainer_config"]["total_steps"] == 70
    before = RunFolder(run).config()
    before["trainer_config"]["total_steps"] = 80
    main(["train", "--resume", str(run), "--total-steps", "80"])
    assert RunFolder(run).config() == before
    assert [row["step"] for row in metrics(run)] == ["20", "30", "40", "60", "70", "80"]


def test_a_new_length_is_not_written_down_if_it_is_refused(run, refused):
    before = contents(run)
    refused("train", "--resume", run, "--total-steps", "50")
    assert contents(run) == before


def test_without_a_checkpoint_a_run_begins_again(run):
    expected = metrics(run)
    shutil.rmtree(run / "checkpoints")
    main(["train", "--resume", str(run)])
    assert metrics(run) == expected
    assert checkpoint(run)["step"] == 60


@pytest.mark.slow
def test_several_go_on_together(tmp_path):
    main([*words(tmp_path, "sac", total_steps=25), "--seeds", "0,1"])
    folders = [tmp_path / "seed-0", tmp_path / "seed-1"]
    main(["train", "--resume", *map(str, folders), "--total-steps", "30"])
    for folder in folders:
        state = checkpoint(folder)
        assert (state["step"], state["updates"]) == (30, 10)


@pytest.mark.slow
def test_runs_at_different_steps_are_refused_together(tmp_path, refused):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, steps in zip(folders, (25, 30), strict=True):
        main(words(folder, total_steps=steps))
    sentence = refused("train", "--resume", *folders, "--total-steps", "50")
    assert "must differ by seed alone" in sentence


# Runs that a configuration does not rebuild


def own_flow_run(path):
    """A run of MultiGoal with a flow of one's own, as a script leaves it."""
    env = envs.make(MULTIGOAL)
    flow = flows.build("additive", 2, 2, temperature=7.0, blocks=1)
    agent = agents.meow(env, flow=flow)
    settings = {**TRAIN, "total_steps": 30}
    del settings["env"]
    config = TrainerConfig(**settings)
    folder = RunFolder(path)
    folder.create(agent, config, MULTIGOAL)
    agents.Trainer(agent, env, config, folder, progress=False).run()
    return folder


def test_a_flow_of_ones_own_is_refused(tmp_path, refused, command):
    folder = own_flow_run(tmp_path / "run")
    before = contents(tmp_path)
    sentence = refused(*command(folder))
    assert f"{folder} was trained with parts of your own (flow)" in sentence
    assert "in Python" in sentence
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_run_of_a_script_goes_on(tmp_path, command):
    env = envs.make(MULTIGOAL)
    agent = agents.make("meow", env, flow_options={"blocks": 1})
    settings = {**TRAIN, "total_steps": 30}
    del settings["env"]
    config = TrainerConfig(**settings)
    folder = RunFolder(tmp_path / "run")
    folder.create(agent, config, MULTIGOAL)
    agents.Trainer(agent, env, config, folder, progress=False).run()
    main(command(folder))
    assert checkpoint(folder.path)["step"] in (30, 70)


@pytest.mark.parametrize(
    ("agent", "setting"),
    [
        ("meow", {"gamma": 0.5}),
        ("meow", {"learning_rate": 0.1}),
        ("td3", {"gamma": 0.5}),
        ("td3", {"policy_delay": 7}),
        ("meow", {"temperature": 0.7}),
        ("meow", {"log_sigma": [-2.0, 0.0]}),
    ],
)
@pytest.mark.quick_for("resume-meow")
def test_settings_that_a_checkpoint_brings_back_cannot_be_edited(
    tmp_path, finished, refused, command, agent, setting
):
    run = shutil.copytree(finished(agent), tmp_path / "run")
    rewrite(run, agent_config=setting)
    before = contents(run)
    message = f"config.yaml was changed: {next(iter(setting))} must be as in the checkpoint"
    assert message in refused(*command(run))
    assert contents(run) == before


@pytest.mark.parametrize("setting", [{"batch_size": 8}, {"seed": 3}, {"utd_ratio": 0.5}])
def test_settings_that_change_what_is_learned_cannot_be_edited(run, refused, setting):
    rewrite(run, trainer_config=setting)
    before = contents(run)
    message = f"config.yaml was changed: {next(iter(setting))} must be as in the checkpoint"
    assert message in refused("train", "--resume", run, "--total-steps", "70")
    assert contents(run) == before


def test_python_too_is_refused_a_configuration_that_was_edited(run):
    rewrite(run, agent_config={"temperature": 0.7}, env_kwargs={"reward": 2})
    with pytest.raises(ValueError, match=r"was changed: temperature, env_kwargs must be as in"):
        RunFolder(run).load_checkpoint()


def test_an_edit_while_a_run_goes_on_is_found_out(run, refused):
    folder = RunFolder(run)
    state = folder.load_checkpoint()
    experience = type("Nothing", (), {"state_dict": dict})()
    folder.save_checkpoint(state, experience)
    rewrite(run, agent_config={"tau": 0.7})
    folder.save_checkpoint(state, experience)
    assert "config.yaml was changed: tau must be" in refused("evaluate", run)


# Damage


def rewrite(run, **changes):
    content = yaml.safe_load(RunFolder(run).config_path.read_text())
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    RunFolder(run).config_path.write_text(yaml.safe_dump(content))


def damage_replay(run):
    for path in (run / "checkpoints" / "replay").iterdir():
        path.write_bytes(b"PK half of it")


def remove_replay(run):
    shutil.rmtree(run / "checkpoints" / "replay")


NOT_A_CONFIGURATION = "config.yaml is not a run's configuration"
DAMAGES = {
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
        "latest.pt is not a readable checkpoint of maxentflow",
    ),
    "a checkpoint without a step": (
        lambda run: torch.save(
            {name: entry for name, entry in checkpoint(run).items() if name != "step"},
            RunFolder(run).checkpoint_path,
        ),
        "is not a readable checkpoint",
    ),
    "a checkpoint that is a tensor": (
        lambda run: torch.save(torch.ones(3), RunFolder(run).checkpoint_path),
        "checkpoint",
    ),
    "a configuration that is garbage": (
        lambda run: RunFolder(run).config_path.write_text("{]"),
        NOT_A_CONFIGURATION,
    ),
    "a configuration of zeros": (
        lambda run: RunFolder(run).config_path.write_bytes(bytes(100)),
        NOT_A_CONFIGURATION,
    ),
    "no settings of the agent": (lambda run: rewrite(run, agent_config=None), NOT_A_CONFIGURATION),
    "no settings of the trainer": (
        lambda run: rewrite(run, trainer_config=None),
        NOT_A_CONFIGURATION,
    ),
    "settings in a list": (lambda run: rewrite(run, agent_config=[1, 2]), NOT_A_CONFIGURATION),
    "no task": (lambda run: rewrite(run, env=None), NOT_A_CONFIGURATION),
    "a task that is a number": (lambda run: rewrite(run, env=3), NOT_A_CONFIGURATION),
    "no agent": (lambda run: rewrite(run, agent=None), NOT_A_CONFIGURATION),
    "options that are a list": (lambda run: rewrite(run, env_kwargs=[1]), NOT_A_CONFIGURATION),
    "compile neither on nor off": (lambda run: rewrite(run, compile=True), NOT_A_CONFIGURATION),
    "an option that the task does not take": (
        lambda run: rewrite(run, env_kwargs={"gravity": 3}),
        "unexpected keyword argument 'gravity'",
    ),
    "an unknown setting of the agent": (
        lambda run: rewrite(run, agent_config={"warmth": 1}),
        "configuration: there is no setting 'warmth'; known: gamma, normalize_observations, flow",
    ),
    "an unknown setting of the trainer": (
        lambda run: rewrite(run, trainer_config={"warmth": 1}),
        "configuration: there is no setting 'warmth'; known: seed, total_steps",
    ),
    "a setting that is no number": (
        lambda run: rewrite(run, trainer_config={"total_steps": "many"}),
        "total_steps must be int, got 'many'",
    ),
    "a setting out of range": (
        lambda run: rewrite(run, agent_config={"gamma": 7.0}),
        "gamma must be in [0, 1], got 7.0",
    ),
    "an agent nobody registered": (
        lambda run: rewrite(run, agent="moew"),
        "Unknown agent 'moew'",
    ),
    "another flow than the checkpoint's": (
        lambda run: rewrite(run, agent_config={"flow": "affine"}),
        "config.yaml was changed: flow must be as in the checkpoint",
    ),
    "another task than the checkpoint's": (
        lambda run: rewrite(run, env="Pendulum-v1"),
        "config.yaml was changed: env must be as in the checkpoint",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_refused(run, refused, command, damage):
    make_damage, says = DAMAGES[damage]
    RunFolder(run).previous_path.unlink()
    make_damage(run)
    before = contents(run)
    assert says in refused(*command(run))
    assert contents(run) == before


MAY_BE_NONE = (
    "max_grad_norm",
    "max_episode_steps",
    "max_lag",
    "target_entropy",
    "initial_log_sigma",
    "mean_hidden",
    "final_temperature",
)


def fields(kind):
    return [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("part", "name"),
    [("agent_config", name) for name in fields(agents.MeowConfig)]
    + [("trainer_config", name) for name in fields(TrainerConfig)],
)
@pytest.mark.quick_for("trainer_config", "evaluate-agent_config-t")
def test_a_null_is_refused_where_there_must_be_a_value(run, refused, command, part, name):
    if name in MAY_BE_NONE:
        return
    rewrite(run, **{part: {name: None}})
    assert f"{name} must be " in refused(*command(run))


def test_a_run_without_a_checkpoint_is_not_evaluated(run, refused):
    RunFolder(run).checkpoint_path.unlink()
    RunFolder(run).previous_path.unlink()
    assert refused("evaluate", run) == f"{run} has no checkpoint yet."


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_last_two_checkpoints_are_kept_with_their_replay(run):
    folder = RunFolder(run)
    states = [folder.load_checkpoint(previous=previous) for previous in (False, True)]
    assert [state["step"] for state in states] == [60, 50]
    files = {name for state in states for name in state["experience"]["files"]}
    assert {path.name for path in folder.replay_path.iterdir()} == files


@pytest.mark.parametrize(
    "make_damage",
    [
        lambda folder: flip(folder.checkpoint_path),
        lambda folder: folder.checkpoint_path.write_bytes(b"PK half of it"),
        lambda folder: folder.checkpoint_path.unlink(),
        lambda folder: flip(max(folder.replay_path.iterdir())),
    ],
    ids=["a bit", "cut short", "gone", "a bit of the newest part of the replay"],
)
@pytest.mark.quick_for("part of the replay", "cut short")
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    run, make_damage, without_conclusion, capsys
):
    before, rows = checkpoint(run), metrics(run)
    make_damage(RunFolder(run))
    main(["train", "--resume", str(run)])
    said = capsys.readouterr().err
    assert "previous.pt, of step 50, is used" in said
    assert metrics(run) == rows
    after = checkpoint(run)
    assert after["step"] == 60
    for part in ("loss", "policy"):
        for name, entry in before[part].items():
            assert torch.equal(entry, after[part][name]), name


def test_the_good_checkpoint_stays_until_there_is_another(run, monkeypatch, capsys):
    """The newest is damaged, and the disk is full when the next is to be written."""
    folder, save = RunFolder(run), RunFolder._save
    folder.checkpoint_path.write_bytes(b"PK half of it")

    def full(self, state, name, *keep):
        if name == "latest.pt":
            raise OSError(28, "No space left on device")
        return save(self, state, name, *keep)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_save", full)
        assert stopped(["train", "--resume", run]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert folder.load_checkpoint(previous=True)["step"] == 50
    main(["evaluate", str(run), "--episodes", "1"])


def test_a_full_disk_leaves_both_checkpoints_and_nothing_else(run, monkeypatch, capsys):
    """Half of a file that fails is removed, and nothing takes the place of the one before."""
    folder, save = RunFolder(run), torch.save
    names = {path.name for path in folder.checkpoint_path.parent.iterdir()}

    def full(state, file):
        if "simulator" in state:
            file.write(b"half of it")
            file.flush()
            raise OSError(28, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        assert stopped(["train", "--resume", run, "--total-steps", "70"]) == 2
    assert "No space left on device; continue from the last checkpoint" in capsys.readouterr().err
    states = [folder.load_checkpoint(previous=previous) for previous in (False, True)]
    assert [state["step"] for state in states] == [60, 50]
    assert {path.name for path in folder.checkpoint_path.parent.iterdir()} == names


def test_the_only_checkpoint_damaged(run, refused):
    """What the sentence says helps."""
    folder = RunFolder(run)
    folder.previous_path.unlink()
    flip(folder.checkpoint_path)
    checkpoints, expected = folder.checkpoint_path.parent, metrics(run)
    said = f"No other checkpoint can be used; remove {checkpoints} to begin the run again."
    assert refused("train", "--resume", run).endswith(said)
    shutil.rmtree(checkpoints)
    main(["train", "--resume", str(run)])
    assert metrics(run) == expected


def flip_both(run):
    for path in (RunFolder(run).checkpoint_path, RunFolder(run).previous_path):
        flip(path)


@pytest.mark.parametrize("make_damage", [flip_both, damage_replay, remove_replay])
def test_no_checkpoint_can_be_used(run, refused, make_damage):
    make_damage(run)
    said = refused("train", "--resume", run)
    assert said.endswith(f"; remove {run / 'checkpoints'} to begin the run again.")


def test_a_changed_configuration_costs_no_checkpoint(run, refused):
    """It is to be changed back: nothing is said of checkpoints, however many there are."""
    rewrite(run, agent_config={"flow": "affine"})
    said = refused("train", "--resume", run)
    assert said.endswith("; change it back, or begin a new run.")
    RunFolder(run).previous_path.unlink()
    assert refused("train", "--resume", run) == said


@pytest.mark.parametrize("empties", [True, False])
def test_metrics_that_are_lost(run, capsys, without_conclusion, empties):
    path = RunFolder(run).metrics_path
    kept = metrics(run)[-1]
    path.unlink()
    if empties:
        path.touch()
    main(["train", "--resume", str(run), "--total-steps", "70"])
    said = f"{path} is missing or empty; it begins again after step 60.\n"
    assert said in capsys.readouterr().err
    (row,) = metrics(run)
    assert int(row["step"]) == int(kept["step"]) + 10


def test_both_checkpoints_damaged(run, refused, command):
    flip_both(run)
    before = contents(run)
    assert "latest.pt is not a readable checkpoint" in refused(*command(run))
    assert contents(run) == before


@pytest.mark.parametrize("make_damage", [damage_replay, remove_replay])
@pytest.mark.quick_for("damage_replay")
def test_a_replay_that_is_damaged_or_gone(run, refused, make_damage):
    """Evaluation does without; a run cannot go on."""
    make_damage(run)
    main(["evaluate", str(run), "--episodes", "1"])
    before = contents(run)
    assert "latest.pt" in refused("train", "--resume", run, "--total-steps", "70")
    assert contents(run) == before


METRICS = {
    "another table": "a,b\n1,2\n",
    "no numbers": "step,eval_return\nmany,1\n",
    "bytes": b"\xff\xfe\x00\n",
    "a byte-order mark": "\ufeffstep,eval_return\n30,1.0\n",
    "a null": "step,eval_return\n30,1.0\n\0\n",
    "a cell without end": 'step,eval_return\n"' + "x" * 200_000 + "\n",
}


@pytest.mark.parametrize("content", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("words", [["train", "--total-steps", "70", "--resume"], ["plot"]])
@pytest.mark.quick_for("words1", "bytes")
def test_metrics_that_are_damaged(run, refused, monkeypatch, words, content):
    monkeypatch.chdir(run.parent)
    path = RunFolder(run).metrics_path
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes(), checkpoint(run)["step"]
    assert "metrics" in refused(*words, run)
    assert (path.read_bytes(), checkpoint(run)["step"]) == before
    assert not (run.parent / "curves.png").exists()


@pytest.mark.parametrize(
    "name", ["metrics.csv", "checkpoints/latest.pt", "checkpoints/previous.pt"]
)
def test_a_folder_where_a_run_writes_a_file_is_noticed_before_it_goes_on(run, refused, name):
    path = run / name
    path.unlink()
    path.mkdir()
    assert f"{path} is a folder" in refused("train", "--total-steps", "70", "--resume", run)


def of_two_environments(state):
    state["simulator"]["lengths"] = [1, 1]


def of_two_returns(state):
    state["statistics"]["returns"] = [0.0, 0.0]


def of_negative_updates(state):
    state["updates"] = -3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_two_environments, "The checkpoint is of 2 environments, this run has 1."),
        (of_two_returns, "The checkpoint is of 2 environments, this run has 1."),
        (of_negative_updates, "The checkpoint's number of updates is -3."),
    ],
)
def test_numbers_of_a_checkpoint_that_cannot_be(run, refused, change, said):
    folder = RunFolder(run)
    folder.previous_path.unlink()
    state = checkpoint(run)
    change(state)
    save_atomically(state, folder.checkpoint_path)
    assert said in refused("train", "--total-steps", "70", "--resume", run)


def entries(state, path=()):
    """Paths of all entries of nested dictionaries; of a table of tensors the first alone."""
    if isinstance(state, list):
        for index, value in enumerate(state):
            yield from entries(value, (*path, index))
    if isinstance(state, dict):
        tensors = all(isinstance(value, torch.Tensor) for value in state.values())
        for key in list(state)[: 1 if tensors else None]:
            yield (*path, key)
            yield from entries(state[key], (*path, key))


@pytest.mark.slow
def test_a_checkpoint_that_lacks_an_entry(tmp_path, capsys):
    """Whichever it is, there is a sentence; an evaluation needs nothing of the loop."""
    run = tmp_path / "run"
    main(words(run, "sac", total_steps=25, eval_every=0))
    path, state = RunFolder(run).checkpoint_path, checkpoint(run)
    tried = 0
    for *above, key in entries(state):
        if above[-1:] in (["state"], ["report"]) or key in ("initialized", "best_return"):
            continue
        if above[:1] == ["optimizers"] and key != "param_groups":  # torch's own business
            continue
        damaged = copy.deepcopy(state)
        inner = damaged
        for name in above:
            inner = inner[name]
        del inner[key]
        torch.save(damaged, path)
        capsys.readouterr()
        assert stopped(COMMANDS["resume"](run)) == 2, (above, key)
        assert capsys.readouterr().err.startswith("maxentflow: "), (above, key)
        if above[:1] == ["policy"] or (not above and key in ("agent", "updates", "policy")):
            assert stopped(COMMANDS["evaluate"](run)) == 2, (above, key)
        tried += 1
    assert tried > 40
