"""What lies in a run's folder: written whole, read back as it was, and never executed."""

import importlib.metadata
import os
import pickle
import platform

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maxentflow.agents import MeowConfig, SacConfig, TrainerConfig
from maxentflow.agents.run_folder import Metrics, RunFolder, read_metrics

COLUMNS = ["step", "eval_return", "loss"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def create(folder, agent="meow", kind=MeowConfig, **settings):
    folder.create(agent, kind(**settings), TrainerConfig(seed=3, env="Hopper-v4"))


@pytest.mark.parametrize(
    ("agent", "kind", "settings"),
    [
        ("meow", MeowConfig, {}),
        ("meow", MeowConfig, {"max_grad_norm": None, "temperature": 1e-3}),
        ("meow", MeowConfig, {"flow_options": {"blocks": 3, "activation": "relu"}}),
        ("sac", SacConfig, {"hidden": (32, 8)}),
    ],
)
def test_a_configuration_comes_back(folder, agent, kind, settings):
    create(folder, agent, kind, **settings)
    content = folder.config()
    assert content["agent"] == agent
    values = content["agent_config"].items()
    back = {key: tuple(value) if isinstance(value, list) else value for key, value in values}
    assert kind(**back) == kind(**settings)
    assert TrainerConfig(**content["trainer_config"]) == TrainerConfig(seed=3, env="Hopper-v4")


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
        create(folder, "sac", SacConfig)
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


STATE = {
    "agent": "meow",
    "step": 7,
    "nested": {"weight": torch.arange(6.0).reshape(2, 3), "list": [1, 2.5, None, (3.0, 4)]},
    "large": 2**100,  # as in the state of NumPy's generator
}


def test_a_checkpoint_comes_back(folder):
    path = folder.save_checkpoint(STATE)
    assert path == folder.checkpoint_path
    loaded = folder.load_checkpoint()
    assert torch.equal(loaded["nested"].pop("weight"), STATE["nested"]["weight"])
    assert loaded["nested"]["list"] == STATE["nested"]["list"]
    assert (loaded["step"], loaded["large"], loaded["agent"]) == (7, 2**100, "meow")
    assert [entry.name for entry in path.parent.iterdir()] == ["latest.pt"]


def test_a_checkpoint_of_another_name_leaves_the_latest(folder):
    folder.save_checkpoint(STATE)
    before = folder.checkpoint_path.read_bytes()
    path = folder.save_checkpoint({**STATE, "step": 8}, "stopped_8.pt")
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
    content = folder.save_checkpoint(STATE).read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a checkpoint\n" * 100,
        "half": content[: len(content) // 2],
        "one byte": content[:-1],
    }[damage]
    folder.checkpoint_path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"latest\.pt is not a readable checkpoint"):
        folder.load_checkpoint()


@pytest.mark.parametrize("moment", ["in the middle", "before the end"])
def test_a_writer_that_dies_leaves_the_old_checkpoint(folder, monkeypatch, moment):
    folder.save_checkpoint(STATE)
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
            folder.save_checkpoint({**STATE, "step": 8})
    assert folder.checkpoint_path.read_bytes() == before
    assert folder.load_checkpoint()["step"] == 7
    folder.save_checkpoint({**STATE, "step": 9})
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
    with pytest.raises(OSError, match="Killed"):
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
