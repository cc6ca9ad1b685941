"""Where metrics go beside ``metrics.csv``."""

import csv

import pytest

from maxentflow import agents, envs
from maxentflow.agents import RunFolder, Trainer, TrainerConfig
from maxentflow.agents.training import loggers
from maxentflow.agents.training.run_folder import read_metrics


def trained(path, **settings):
    folder = RunFolder(path)
    env = envs.make("Pendulum-v1")
    agent = agents.make("sac", env, hidden=(8,))
    config = TrainerConfig(
        total_steps=60, warmup_steps=32, batch_size=16, log_every=20, eval_every=0, **settings
    )
    folder.create(agent, config, "Pendulum-v1")
    Trainer(agent, env, config, folder, progress=False).run()
    return folder


def test_csv_of_torchrl_has_the_numbers_of_metrics_csv(tmp_path):
    folder = trained(tmp_path / "run", logger="csv")
    assert not folder.tensorboard_path.exists()
    (path,) = folder.path.glob("csv/run/scalars/training/updates.csv")
    rows = [(int(row[0]), float(row[1])) for row in csv.reader(path.open())]
    assert rows == [(int(row["step"]), float(row["updates"])) for row in read_metrics(folder)]


def test_no_logger(tmp_path):
    folder = trained(tmp_path / "run", logger="none")
    assert len(read_metrics(folder)) == 3
    assert not folder.tensorboard_path.exists()


def test_wandb_is_told_every_number_and_finds_its_run_again(tmp_path, monkeypatch):
    made, told = [], []

    class Wandb:
        def __init__(self, title, **settings):
            made.append((title, settings))

        def log_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    monkeypatch.setattr("torchrl.record.loggers.wandb.WandbLogger", Wandb)
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: True)
    folder = trained(tmp_path / "run", logger="wandb")
    ((title, settings),) = made
    assert (title, settings["project"], settings["id"]) == ("run", "maxentflow", None)
    assert [step for name, _, step in told[:-1] if name == "training/updates"] == [20, 40, 60]
    assert told[-1] == "closed"
    (folder.path / "wandb" / "offline-run-20260101_000000-abc123").mkdir(parents=True)
    loggers.Metrics(folder, ["step"], 60, "wandb").close()
    assert made[-1][1]["id"] == "abc123"


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_missing_is_named_before_anything_is_done(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"needs its package: pip install {name}"):
        trained(tmp_path / "run", logger=name)


def test_an_unknown_logger():
    with pytest.raises(ValueError, match=r"Unknown logger 'wand'; known: tensorboard, csv, wandb"):
        loggers.check_logger("wand")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("wandb", "torchrl.record.loggers.wandb.WandbLogger"),
        ("mlflow", "torchrl.record.loggers.mlflow.MLFlowLogger"),
        ("trackio", "torchrl.record.loggers.trackio.TrackioLogger"),
    ],
)
def test_a_service_that_fails_is_a_sentence(name, place, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no account.\nA page of advice.")

    monkeypatch.setattr(place, fail)
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: True)
    with pytest.raises(ValueError, match=rf"^The logger '{name}' cannot be used: no account\.$"):
        trained(tmp_path / "run", logger=name)


def test_metrics_with_a_step_twice_are_refused_before_training(tmp_path):
    folder = trained(tmp_path / "run", logger="none")
    text = folder.metrics_path.read_text()
    folder.metrics_path.write_text(text + text.splitlines(keepends=True)[-1])
    with pytest.raises(
        ValueError, match=r"metrics.csv is not the metrics of .*: it has steps twi"
    ):
        loggers.Metrics(folder, list(read_metrics(folder)[0]), from_step=60)
    assert len(folder.metrics_path.read_text().splitlines()) == 5
