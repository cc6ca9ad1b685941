"""What a sweep's specification takes and refuses."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from maxentflow.agents.cli import sweep
from maxentflow.agents.cluster import Spec
from maxentflow.agents.cluster.spec import Range

PENDULUM = {"agent": "sac", "env": "Pendulum-v1"}
TEXT = """
agent: sac
env: Pendulum-v1
settings: {total-steps: 2000, hidden: [16, 16], compile: "off"}
search:
  critic-learning-rate: {low: 1e-4, high: 1e-2, log: true}
  batch_size: [16, 32]
seeds: [3, 4]
"""


def spec(**entries: Any) -> Spec:
    return Spec(**{**PENDULUM, "search": {"batch_size": [16, 32]}, **entries})


def test_a_file_is_read(tmp_path):
    path = tmp_path / "tau.yaml"
    path.write_text(TEXT)
    read = Spec.read(path)
    assert read.search == {
        "critic_learning_rate": Range(1e-4, 1e-2, log=True),  # which YAML takes for words
        "batch_size": [16, 32],
    }
    run = read.description({"critic_learning_rate": 0.001, "batch_size": 32, "seed": 4})
    assert (run.agent, run.env, run.compile) == ("sac", "Pendulum-v1", "off")
    assert (run.agent_config.critic_learning_rate, run.agent_config.hidden) == (0.001, (16, 16))
    config = run.trainer_config
    assert (config.total_steps, config.batch_size, config.seed) == (2_000, 32, 4)


def test_the_specifications_of_the_documents_are_read(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "howto" / "sweep.md"
    found = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    assert found
    for number, text in enumerate([*found, inspect.getdoc(sweep._Sweep).partition("such as")[2]]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(textwrap.dedent(text))
        assert Spec.read(path).agent == "sac"


def test_a_grid_has_all_combinations():
    grid = spec(search={"tau": [0.1, 0.2, 0.3], "batch_size": [16, 32]}, algorithm="grid").grid()
    found = [(each["tau"], each["batch_size"]) for each in grid]
    assert sorted(found) == [(tau, size) for tau in (0.1, 0.2, 0.3) for size in (16, 32)]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"agent": "sca"}, "sac"),
        ({"search": {}}, "search names no setting"),
        ({"search": {"taw": [1]}}, "no setting 'taw'; known: tau"),
        ({"search": {"tau": []}}, "list of values, or low and high"),
        ({"search": {"tau": {"low": 1}}}, "list of values, or low and high"),
        ({"search": {"tau": {"low": 0.2, "high": 0.1}}}, "low must be below high"),
        ({"search": {"tau": {"low": 0.0, "high": 0.1, "log": True}}}, "positive on a log scale"),
        ({"search": {"tau": {"low": "few", "high": 0.1}}}, "must be numbers"),
        ({"search": {"tau": {"low": 0.1, "high": 1.5}}}, r"tau must be in \(0, 1\]"),
        ({"search": {"batch_size": [16, "many"]}}, "batch_size must be int"),
        ({"search": {"batch_size": [16, 0]}}, "batch_size must be at least 1"),
        ({"search": {"tau": {"low": 0.1, "high": 0.2}}, "algorithm": "grid"}, "not a range"),
        ({"search": {"seed": [1, 2]}}, "Give seeds"),
        ({"settings": {"batch_size": 16}}, "in settings and in search"),
        ({"settings": {"eval_every": 0}}, "eval_every must not be 0"),
        ({"search": {"tau": [0.01, 0.02, 0.01]}}, "a value of tau twice"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "a seed twice"),
        ({"seeds": [0, 1], "algorithm": "optuna"}, "Optuna takes one seed"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"reduction_factor": 1}, "at least 2"),
        ({"early_stopping": True, "grace_steps": 10**9}, "at most total_steps"),
    ],
)
def test_what_does_not_fit_is_refused(entries, reason):
    with pytest.raises(ValueError, match=reason):
        spec(**entries)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("agent: sac", "lacks env, search"),
        ("- 1", "not a sweep's specification"),
        ("a: [", "no YAML"),
        (TEXT + "\ntrails: 3", "no setting 'trails'; known: trials"),
        (TEXT + "\ntrials: few", "trials must be"),
        (TEXT + "\nalgorithm: best", "algorithm must be"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, reason):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        Spec.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Spec.read(tmp_path / "none.yaml")


@pytest.mark.parametrize("low", [math.nan, -math.inf])
def test_bounds_are_finite(low):
    with pytest.raises(ValueError, match="low must be below high"):
        Range(low, 1.0)


def test_off_of_yaml_is_the_word():
    """YAML 1.1 reads it as false."""
    read = spec(settings=yaml.safe_load("{compile: off}"))
    assert read.description({}).compile == "off"
