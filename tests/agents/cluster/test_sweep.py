"""Sweeps by a real Ray on this machine: trials are ordinary runs, also if their process dies."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from maxentflow.agents.cli import main
from maxentflow.agents.cluster import Spec, sweep
from maxentflow.agents.training import RunFolder
from maxentflow.agents.training.run_folder import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

# Once, its process is killed in the middle of an episode.
TASK = """
import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np


class Fatal(gym.Env):
    observation_space = gym.spaces.Box(-9.0, 9.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, survived, render_mode=None):
        self._survived = Path(survived)
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place = self.np_random.normal(size=2).astype(np.float32)
        return self._place, {}

    def step(self, action):
        self._steps += 1
        if self._steps == 90 and not self._survived.exists():
            self._survived.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._place = np.clip(self._place + 0.1 * action, -9, 9).astype(np.float32)
        return self._place, -float(self._place @ self._place), False, False, {}


gym.register("Fatal-v0", Fatal, max_episode_steps=25)
"""
SETTINGS = {
    "total_steps": 120,
    "warmup_steps": 30,
    "eval_every": 40,
    "eval_episodes": 1,
    "checkpoint_every": 40,
    "log_every": 20,
    "hidden": [8, 8],
    "compile": "off",
    "logger": "csv",
}


@pytest.fixture
def fatal_task(tmp_path, monkeypatch):
    """The module that registers it, and the file by which it knows that it was killed."""
    (tmp_path / "fatal_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "fatal_task", tmp_path / "survived"


def learned(folder: RunFolder) -> list[dict[str, str]]:
    """What the metrics say, without times."""
    rows = read_metrics(folder)
    times = ("seconds", "steps_per_second")
    return [{name: by for name, by in row.items() if name not in times} for row in rows]


def test_trials_are_ordinary_runs_also_if_one_is_killed(ray_cluster, tmp_path, fatal_task):
    module, survived = fatal_task
    __import__(module)
    spec = Spec(
        agent="sac",
        env="Fatal-v0",
        settings={**SETTINGS, "env_kwargs": {"survived": str(survived)}},
        search={"batch_size": [16, 24]},
        algorithm="grid",
        seeds=[7],
    )
    trials = sweep(spec, tmp_path / "sweep", parallel=1, imports=[module])
    assert survived.exists()  # it was killed
    assert [(trial.state, trial.steps) for trial in trials] == 2 * [("complete", 120)]
    for size, trial in zip((16, 24), trials, strict=True):
        run = tmp_path / f"alone-{size}"
        words = f"train sac --env Fatal-v0 --env-kwargs survived {survived} --import {module} "
        words += "--total-steps 120 --warmup-steps 30 --eval-every 40 --eval-episodes 1 --seed 7 "
        words += "--checkpoint-every 40 --log-every 20 --hidden 8 8 --compile off --logger csv "
        words += f"--batch-size {size} --run-dir {run}"
        main(words.split())
        assert trial.settings["batch_size"] == size
        assert learned(trial.folder) == learned(RunFolder(run))
        assert trial.returns == [
            float(row["eval_return"]) for row in learned(RunFolder(run)) if row["eval_return"]
        ]


def test_a_folder_is_used_once(ray_cluster, tmp_path):
    spec = Spec(agent="sac", env="Pendulum-v1", search={"batch_size": [16]})
    (tmp_path / ".tune").mkdir()
    with pytest.raises(ValueError, match="holds a sweep already"):
        sweep(spec, tmp_path)
    with pytest.raises(ValueError, match="no sweep to go on with"):
        sweep(spec, tmp_path / "other", resume=True)


SPECIFICATION = """
agent: sac
env: Pendulum-v1
settings: {total_steps: 400, warmup_steps: 100, eval_every: 100, eval_episodes: 1,
  checkpoint_every: 100, hidden: [8, 8], compile: "off", logger: csv}
search:
  critic_learning_rate: {low: 1e-4, high: 1e-2, log: true}
  batch_size: [16, 32]
trials: 3
"""


@pytest.mark.parametrize(
    "more",
    [
        "algorithm: optuna",
        "early_stopping: true\ngrace_steps: 100\nreduction_factor: 2",
        "seeds: [0, 1]",
    ],
)
def test_every_way_of_searching_ends_with_a_table_and_a_figure(
    ray_cluster, tmp_path, monkeypatch, capsys, more
):
    monkeypatch.chdir(tmp_path)
    Path("way.yaml").write_text(f"{SPECIFICATION}\n{more}\n")
    main(["sweep", "way.yaml", "--parallel", "2"])
    with open("runs/way/sweep.csv") as file:
        rows = list(csv.DictReader(file))
    seeds = 2 if "seeds" in more else 1
    assert len(rows) == 3 * seeds
    states = {row["state"] for row in rows}
    assert states <= {"complete", "stopped early"}
    assert ("stopped early" in states) == ("early" in more)
    for row in rows:
        assert 1e-4 <= float(row["critic_learning_rate"]) <= 1e-2
        config = RunFolder(Path("runs/way") / row["folder"]).config()
        assert config["agent_config"]["critic_learning_rate"] == float(row["critic_learning_rate"])
    if seeds == 2:  # each combination with both
        both = [row["critic_learning_rate"] for row in rows]
        assert all(both.count(rate) == 2 for rate in both)
    assert "Return, best first" in capsys.readouterr().out
    assert Path("runs/way/compare.png").exists()


def test_a_sweep_goes_on_when_its_machine_was_killed(tmp_path):
    """Head, workers and the sweep itself die at once."""
    (tmp_path / "way.yaml").write_text(SPECIFICATION)
    command = [sys.executable, "-m", "maxentflow.agents", "sweep"]
    first = subprocess.Popen(
        [*command, "way.yaml", "--parallel", "1"], cwd=tmp_path, start_new_session=True
    )
    started = tmp_path / "runs" / "way" / "trial-1" / "checkpoints" / "latest.pt"
    while not started.exists():
        assert first.poll() is None
        time.sleep(0.1)
    _kill_family(first.pid)
    first.wait()
    subprocess.run([*command, "--resume", "runs/way", "--parallel", "1"], cwd=tmp_path, check=True)
    with open(tmp_path / "runs" / "way" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["state"], row["steps"]) for row in rows] == 3 * [("complete", "400")]


def test_a_sweep_goes_on_when_the_machine_of_a_trial_is_lost(tmp_path):
    """The only one that trials can run on, until another comes."""
    from ray.cluster_utils import Cluster

    search = "  batch_size: [16, 32]\nalgorithm: grid\n"
    before, _, _ = SPECIFICATION.replace("total_steps: 400", "total_steps: 2000").partition(
        "  critic"
    )
    (tmp_path / "way.yaml").write_text(before + search)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    node = cluster.add_node(num_cpus=1)
    words = ["way.yaml", "--parallel", "1", "--address", cluster.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "maxentflow.agents", "sweep", *words], cwd=tmp_path
    )
    folder = RunFolder(tmp_path / "runs" / "way" / "trial-0")
    try:
        while not folder.checkpoint_path.exists():
            assert process.poll() is None
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        reached = int(read_metrics(folder)[-1]["step"])
        cluster.add_node(num_cpus=1)
        assert process.wait() == 0
    finally:
        process.kill()
        cluster.shutdown()
    assert reached < 2000
    with open(tmp_path / "runs" / "way" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["state"], row["steps"]) for row in rows] == 2 * [("complete", "2000")]
    alone = tmp_path / "alone"
    words = "train sac --env Pendulum-v1 --total-steps 2000 --warmup-steps 100 --eval-every 100 "
    words += "--eval-episodes 1 --checkpoint-every 100 --hidden 8 8 --compile off --logger csv "
    main([*words.split(), "--batch-size", "16", "--run-dir", str(alone)])
    assert learned(folder) == learned(RunFolder(alone))


def test_trials_that_are_drawn_alike(tmp_path):
    """Two trials, and two draws of the same only value."""
    settings = {"total_steps": 60, "warmup_steps": 20, "batch_size": 16, "eval_every": 30}
    settings |= {"eval_episodes": 1, "hidden": [8], "compile": "off", "logger": "csv"}
    content = {"agent": "sac", "env": "Pendulum-v1", "settings": settings, "trials": 2}
    path = tmp_path / "alike.yaml"
    path.write_text(json.dumps(content | {"search": {"tau": [0.01]}}))
    main(["sweep", str(path), "--out", str(tmp_path / "out")])
    with open(tmp_path / "out" / "sweep.csv") as file:
        assert [row["state"] for row in csv.DictReader(file)] == 2 * ["complete"]
    with open(tmp_path / "out" / "compare.csv") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_a_sweep_that_ended_before_its_first_trial_begins(tmp_path):
    out = tmp_path / "out"
    (out / ".tune").mkdir(parents=True)
    (out / ".tune" / "tuner.pkl").write_bytes(b"of a sweep without trials")
    settings = {"total_steps": 60, "warmup_steps": 20, "batch_size": 16, "eval_every": 30}
    settings |= {"eval_episodes": 1, "hidden": [8], "compile": "off", "logger": "csv"}
    content = {"agent": "sac", "env": "Pendulum-v1", "settings": settings, "trials": 1}
    (out / "sweep.yaml").write_text(json.dumps(content | {"search": {"tau": [0.01]}}))
    main(["sweep", "--resume", str(out)])
    with open(out / "sweep.csv") as file:
        assert [(row["state"], row["tau"]) for row in csv.DictReader(file)] == [
            ("complete", "0.01")
        ]


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Interrupted")],
)
def test_a_signal_ends_a_sweep_that_can_go_on(tmp_path, number, code, word):
    settings = {"total_steps": 3000, "warmup_steps": 100, "eval_every": 100}
    settings |= {"eval_episodes": 1, "hidden": [8], "compile": "off", "logger": "csv"}
    content = {"agent": "sac", "env": "Pendulum-v1", "settings": settings, "trials": 1}
    path, out = tmp_path / "long.yaml", tmp_path / "out"
    path.write_text(json.dumps(content | {"search": {"tau": [0.01]}}))
    # As a shell's foreground process, which Python sees SIGINT in.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from maxentflow.agents.cli import main; main()"
    words = [sys.executable, "-c", program, "sweep", str(path), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while not (out / "trial-0" / "metrics.csv").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        _kill_family(process.pid)
    assert process.returncode == code
    assert error.strip() == f"{word}; go on with maxentflow sweep --resume {out}."
    main(["sweep", "--resume", str(out)])
    with open(out / "sweep.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["state"], row["steps"]) == ("complete", "3000")


def test_a_termination_while_ray_starts_ends_a_sweep_that_can_begin(tmp_path):
    (tmp_path / "early.py").write_text(
        "import os, signal, time\n"
        "from ray._private import worker\n"
        "before = worker.connect\n"
        "def connect(*arguments, **options):\n"
        "    before(*arguments, **options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "worker.connect = connect\n"
    )
    content = {"agent": "sac", "env": "Pendulum-v1", "settings": {}, "search": {"tau": [0.01]}}
    path, out = tmp_path / "spec.yaml", tmp_path / "out"
    path.write_text(json.dumps(content))
    words = [sys.executable, "-m", "maxentflow.agents", "sweep", str(path), "--out", str(out)]
    ended = subprocess.run(
        [*words, "--import", "early"], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert ended.returncode == 143, ended.stderr
    go_on = f"go on with maxentflow sweep --import early --resume {out}"
    assert ended.stderr.strip() == f"Terminated; {go_on}."


def test_an_address_that_nobody_listens_on():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # In a process of its own, which is connected to no cluster yet.
    program = "import sys; from maxentflow.agents.cluster.connection import connected\n"
    program += "with connected(sys.argv[1]): pass"
    command = [sys.executable, "-c", program, address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = ended.stderr.strip().splitlines()[-1]
    assert re.fullmatch(f"ValueError: There is no Ray cluster at {address}: .*refused.*", last)


def _kill_family(pid: int) -> None:
    """Kill a process with all that it has started."""
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            parent = status.read_text().rpartition(")")[2].split()[1]
            children += [int(status.parent.name)] if int(parent) == pid else []
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in children:
        _kill_family(child)
