"""What lies in a run's folder: written whole, read back as it was, and never executed."""

import importlib.metadata
import os
import pickle
import platform
import re
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maxentflow import agents, envs, flows
from maxentflow.agents import Agent, RunFolder, Step, TrainerConfig
from maxentflow.agents.training.loggers import Metrics
from maxentflow.agents.training.run_folder import read_metrics

from ..common import SMALL, differences, task

COLUMNS = ["step", "eval_return", "loss"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def create(folder, agent="meow", env_kwargs=None, **settings):
    """A run of an agent for its task; gives the agent."""
    made = agents.make(agent, envs.make(task(agent)), **{**SMALL[agent], **settings})
    folder.create(made, TrainerConfig(seed=3), task(agent), env_kwargs)
    return made


def as_tuples(value):
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        *((name, {}) for name in agents.registered()),
        ("meow", {"max_grad_norm": None, "temperature": 1e-3}),
        ("meow", {"flow_options": {"blocks": 3, "activation": "relu"}}),
        ("sac", {"hidden": (32, 8)}),
    ],
)
def test_a_configuration_comes_back(folder, agent, settings):
    made = create(folder, agent, **settings)
    content = folder.config()
    assert (content["agent"], content["env"]) == (agent, task(agent))
    assert (content["custom"], content["env_kwargs"]) == ([], {})
    back = {name: as_tuples(value) for name, value in content["agent_config"].items()}
    assert type(made.config)(**back) == made.config
    assert TrainerConfig(**content["trainer_config"]) == TrainerConfig(seed=3)


def test_options_of_the_environment_come_back(folder):
    options = {"exclude": True, "reset_noise_scale": 0.25, "range": (0.5, 1.0)}
    create(folder, env_kwargs=options)
    assert folder.config()["env_kwargs"] == {**options, "range": [0.5, 1.0]}
    assert folder.config()["custom"] == []


def test_what_cannot_be_rebuilt_is_named(folder, tmp_path):
    """So that going on with the run, or evaluating it, can be refused."""
    env = envs.make("Pendulum-v1")
    flow = flows.build("additive", 1, 3, temperature=0.5, blocks=1)
    folder.create(agents.meow(env, flow=flow), TrainerConfig(), "Pendulum-v1")
    assert folder.config()["custom"] == ["flow"]

    class Opaque:
        pass

    other = RunFolder(tmp_path / "options")
    create(other, env_kwargs={"reward": Opaque()})
    assert other.config()["custom"] == ["environment"]

    policy = flows.FlowPolicy(flow)
    steps = [Step(("loss",), torch.optim.Adam(flow.parameters()))]
    own = Agent("own", policy, policy, steps)
    none = RunFolder(tmp_path / "own")
    none.create(own, TrainerConfig(), None)
    assert none.config()["custom"] == ["agent", "environment"]


def test_a_new_length_is_written(folder):
    create(folder)
    before = folder.config()
    folder.set_total_steps(77)
    before["trainer_config"]["total_steps"] = 77
    assert folder.config() == before
    assert "versions" in yaml.safe_load(folder.config_path.read_text())


def test_the_configuration_names_versions(folder):
    create(folder)
    versions = yaml.safe_load(folder.config_path.read_text())["versions"]
    assert versions.pop("python") == platform.python_version()
    assert set(versions) >= {"maxentflow", "torch", "torchrl", "gymnasium", "mujoco"}
    for name, version in versions.items():
        assert version == importlib.metadata.version(name)


def test_a_run_that_exists_is_not_overwritten(folder):
    create(folder)
    before = folder.config_path.read_bytes()
    with pytest.raises(ValueError, match=r"holds a run already; .*--resume .*run"):
        create(folder, "sac")
    assert folder.config_path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("something")
    with pytest.raises(ValueError, match=r"Cannot make the run folder .*file"):
        create(RunFolder(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "something"


def test_a_folder_without_a_run(folder):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        folder.config()
    assert folder.load_checkpoint() is None
    assert read_metrics(folder) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just words",
        b"- 1\n- 2\n",
        b"agent: meow\n",
        b"agent: [unclosed\n",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system ['exit 1']\n",
        b"agent: meow\nagent_config: {a: !!python/name:os.system }\ntrainer_config: {}\n",
    ],
)
def test_a_configuration_that_is_none(folder, content):
    folder.path.mkdir()
    folder.config_path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is not a run's configuration"):
        folder.config()


def test_a_configuration_says_what_is_wrong_with_it(folder):
    create(folder)
    whole = folder.config_path.read_text()
    for old, new, said in (
        ("env_kwargs:", "env_options:", "it lacks env_kwargs"),
        ("custom: []", "custom: {}", "custom is no list"),
    ):
        folder.config_path.write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=said):
            folder.config()


STATE = {
    "agent": "meow",
    "step": 7,
    "nested": {"weight": torch.arange(6.0).reshape(2, 3), "list": [1, 2.5, None, (3.0, 4)]},
    "large": 2**100,  # as in the state of NumPy's generator
}


class Nothing:
    """An experience without any."""

    def state_dict(self):
        return {"none": 0}


class Files:
    """An experience in files of its own, of which the last two are needed."""

    def __init__(self):
        self.count = 0

    def save(self, folder):
        self.count += 1
        (folder / f"{self.count}.pt").write_bytes(b"something")
        return {"files": [f"{self.count - 1}.pt", f"{self.count}.pt"]}


def save(folder, state=STATE):
    return folder.save_checkpoint(state, Nothing())


def test_a_checkpoint_comes_back(folder):
    path = save(folder)
    assert path == folder.checkpoint_path
    loaded = folder.load_checkpoint()
    assert torch.equal(loaded["nested"].pop("weight"), STATE["nested"]["weight"])
    assert loaded["nested"]["list"] == STATE["nested"]["list"]
    assert (loaded["step"], loaded["large"], loaded["agent"]) == (7, 2**100, "meow")
    assert loaded["experience"] == {"none": 0}
    assert [entry.name for entry in path.parent.iterdir()] == ["latest.pt"]


def test_files_that_no_checkpoint_needs_are_removed(folder):
    experience = Files()
    for count in range(1, 5):
        folder.save_checkpoint(STATE, experience)
        needed = {f"{max(count - 1, 1)}.pt", f"{count}.pt"}
        before = {f"{max(count - 2, 1)}.pt"}  # which the checkpoint before needs
        assert {path.name for path in folder.replay_path.iterdir()} == needed | before
        assert set(folder.load_checkpoint()["experience"]["files"]) >= needed


def test_files_of_the_checkpoint_before_stay_until_there_is_another(folder, monkeypatch):
    experience = Files()
    folder.save_checkpoint(STATE, experience)

    replace = os.replace

    def never(source, destination):
        if Path(destination).name == "latest.pt":
            raise OSError("Killed")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", never)
        for _ in range(2):
            with pytest.raises(OSError, match="Killed"):
                folder.save_checkpoint({**STATE, "step": 8}, experience)
    assert (folder.replay_path / "1.pt").exists()
    (folder.replay_path / "directory").mkdir()
    (folder.replay_path / "directory" / "file").write_text("of an earlier life")
    folder.save_checkpoint({**STATE, "step": 9}, experience)
    assert {path.name for path in folder.replay_path.iterdir()} == {"1.pt", "3.pt", "4.pt"}


def test_the_state_of_a_run_that_stopped_leaves_the_latest(folder):
    save(folder)
    before = folder.checkpoint_path.read_bytes()
    path = folder.save_stopped({**STATE, "step": 8})
    assert path.name == "stopped_8.pt"
    assert torch.load(path, weights_only=True)["step"] == 8
    assert folder.checkpoint_path.read_bytes() == before


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_a_malicious_checkpoint_is_not_executed(folder, tmp_path, form):
    trap = str(tmp_path / "trap")
    state = {**STATE, "nested": Malicious(trap)}
    folder.checkpoint_path.parent.mkdir(parents=True)
    with open(folder.checkpoint_path, "wb") as file:
        if form == "pickle":
            pickle.dump(state, file)
        else:
            torch.save(state, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"latest\.pt is not a readable checkpoint"):
        folder.load_checkpoint()
    assert not os.path.exists(trap)
    if form == "pickle":
        pickle.loads(folder.checkpoint_path.read_bytes())
    else:
        torch.load(folder.checkpoint_path, weights_only=False)
    assert os.path.exists(trap)  # it would have been


@pytest.mark.parametrize("damage", ["empty", "text", "half", "one byte"])
def test_a_damaged_checkpoint(folder, damage):
    content = save(folder).read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a checkpoint\n" * 100,
        "half": content[: len(content) // 2],
        "one byte": content[:-1],
    }[damage]
    folder.checkpoint_path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"latest\.pt is not a readable checkpoint"):
        folder.load_checkpoint()


def test_every_flipped_bit_of_the_numbers_is_found(folder):
    """torch itself loads such a file."""
    content = bytearray(save(folder).read_bytes())
    with zipfile.ZipFile(folder.checkpoint_path) as archive:
        numbers = [each for each in archive.infolist() if "/data/" in each.filename]
    assert sum(each.file_size for each in numbers) == 24
    for each in numbers:
        start = content.index(each.filename.encode()) + len(each.filename)
        start = content.index(archive_bytes(folder.checkpoint_path, each), start)
        for bit in range(8 * each.file_size):
            folder.checkpoint_path.write_bytes(flipped(content, start + bit // 8, bit % 8))
            torch.load(folder.checkpoint_path, weights_only=True)
            with pytest.raises(ValueError, match=r"latest\.pt is not a readable checkpoint"):
                folder.load_checkpoint()


@pytest.mark.slow
def test_every_flipped_bit_of_a_checkpoint_is_found_or_changes_nothing(folder):
    content = bytearray(save(folder).read_bytes())
    whole = folder.load_checkpoint()
    found = 0
    for place in range(len(content)):
        for bit in range(8):
            folder.checkpoint_path.write_bytes(flipped(content, place, bit))
            try:
                loaded = folder.load_checkpoint()
            except ValueError:
                found += 1
            else:
                assert not differences(whole, loaded), (place, bit)
    assert found > 4 * len(content)


def flipped(content, place, bit):
    """Bytes with one bit changed."""
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return changed


def test_an_entry_that_became_a_folder_is_found(folder):
    """One flipped bit outside of every checksum: torch leaves what was in memory there."""
    content = bytearray(save(folder).read_bytes())
    listed = [found.start() for found in re.finditer(b"PK\x01\x02", content)]
    assert len(listed) > 5
    for start in listed:
        folder.checkpoint_path.write_bytes(flipped(content, start + 38, 4))
        with pytest.raises(ValueError, match=r"latest\.pt is not a readable checkpoint"):
            folder.load_checkpoint()


def archive_bytes(path, entry):
    with zipfile.ZipFile(path) as archive:
        return archive.read(entry)


def test_a_folder_is_of_one_process_at_a_time(folder):
    create(folder)
    folder.begin()
    other = RunFolder(folder.path)
    with pytest.raises(ValueError, match="is being trained in by another process"):
        other.begin()
    folder.end()
    other.begin()
    other.end()
    other.end()


@pytest.mark.parametrize("moment", ["in the middle", "before the end"])
def test_a_writer_that_dies_leaves_the_old_checkpoint(folder, monkeypatch, moment):
    save(folder)
    before = folder.checkpoint_path.read_bytes()

    def half(state, file):
        file.write(before[: len(before) // 2])
        raise OSError("No space left on device")

    def never(source, destination):
        raise OSError("Killed")

    with monkeypatch.context() as patch:
        if moment == "in the middle":
            patch.setattr(torch, "save", half)
        else:
            patch.setattr(os, "replace", never)
        with pytest.raises(OSError, match=r"No space|Killed"):
            save(folder, {**STATE, "step": 8})
    assert folder.checkpoint_path.read_bytes() == before
    assert folder.load_checkpoint()["step"] == 7
    save(folder, {**STATE, "step": 9})
    assert folder.load_checkpoint()["step"] == 9


def write_rows(folder, *steps, from_step=0):
    metrics = Metrics(folder, COLUMNS, from_step)
    for step in steps:
        row = {"step": step, "loss": step / 10}
        metrics.write(row | ({"eval_return": 2.0 * step} if step % 20 == 0 else {}))
    metrics.close()


def test_metrics_as_text(folder):
    folder.path.mkdir()
    write_rows(folder, 10, 20)
    assert folder.metrics_path.read_text() == "step,eval_return,loss\n10,,1.0\n20,40.0,2.0\n"
    assert read_metrics(folder) == [
        {"step": "10", "eval_return": "", "loss": "1.0"},
        {"step": "20", "eval_return": "40.0", "loss": "2.0"},
    ]


@pytest.mark.parametrize(
    ("line", "cells"), [("15,x", "2 cells"), ("15,1.0,2.0,3.0", "4 cells"), ("", "0 cells")]
)
def test_a_whole_row_of_another_length_is_refused(folder, line, cells):
    folder.path.mkdir()
    write_rows(folder, 10, 20)
    text = folder.metrics_path.read_text().replace("20,40.0,2.0", f"{line}\n20,40.0,2.0")
    folder.metrics_path.write_text(text)
    with pytest.raises(ValueError, match=rf"csv is no table: line 3 has {cells}, not 3\.$"):
        read_metrics(folder)


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, -1.7976931348623157e308, float("nan")])
def test_metrics_keep_every_digit(folder, value):
    folder.path.mkdir()
    metrics = Metrics(folder, COLUMNS)
    metrics.write({"step": 1, "loss": value})
    metrics.close()
    assert repr(float(read_metrics(folder)[0]["loss"])) == repr(value)


@pytest.mark.parametrize(
    ("from_step", "kept"), [(0, []), (9, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])]
)
@pytest.mark.parametrize("tail", ["", "40", "40,", "40,80.0,4", "40,80.0,4.0"])
def test_metrics_go_on_after_the_step_resumed_from(folder, from_step, kept, tail):
    folder.path.mkdir()
    write_rows(folder, 10, 20, 30)
    with open(folder.metrics_path, "a") as file:
        file.write(tail)
    write_rows(folder, 50, from_step=from_step)
    assert [int(row["step"]) for row in read_metrics(folder)] == [*kept, 50]
    header, *lines = folder.metrics_path.read_text().splitlines()
    assert header == "step,eval_return,loss"
    assert all(line.count(",") == 2 for line in lines)


@pytest.mark.parametrize("text", ["", "step,eval_", "step,eval_return,loss"])
def test_metrics_after_a_header_cut_short(folder, text):
    folder.path.mkdir()
    folder.metrics_path.write_text(text)
    write_rows(folder, 10)
    assert folder.metrics_path.read_text() == "step,eval_return,loss\n10,,1.0\n"


def test_metrics_that_cannot_be_replaced_stay(folder, monkeypatch):
    folder.path.mkdir()
    write_rows(folder, 10, 20, 30)
    before = folder.metrics_path.read_text()

    def never(source, destination):
        raise OSError("Killed")

    monkeypatch.setattr(os, "replace", never)
    with pytest.raises(ValueError, match="Cannot write to"):
        Metrics(folder, COLUMNS, 10)
    assert folder.metrics_path.read_text() == before


def test_tensorboard_has_the_same_numbers(folder):
    folder.path.mkdir()
    write_rows(folder, 10, 20, 30)
    write_rows(folder, 40, from_step=20)
    events = EventAccumulator(str(folder.tensorboard_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"evaluation/eval_return", "training/loss"}
    loss = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert loss == [(step, pytest.approx(step / 10, rel=1e-7)) for step in (10, 20, 40)]
    evaluation = [(event.step, event.value) for event in events.Scalars("evaluation/eval_return")]
    assert evaluation == [(20, 40.0), (40, 80.0)]
