"""Policies as files: the same actions, in the task's own units, without this package."""

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

from maxentflow import agents, envs
from maxentflow.agents.training import export as module
from maxentflow.agents.training.export import export
from maxentflow.agents.training.formats import SUFFIXES
from maxentflow.agents.training.portable import Noise

CONTINUOUS = {
    "meow": {"flow_options": {"blocks": 1}},
    "sac": {"hidden": (8,)},
    "flow-sac": {"hidden": (8,), "flow_options": {"blocks": 1}},
    "sql": {"hidden": (8,)},
    "td3": {"hidden": (8,)},
    "ddpg": {"hidden": (8,)},
    "ppo": {"hidden": (8,)},
}
DISCRETE = {name: {"hidden": (8,)} for name in ("soft-q", "discrete-sac", "dqn", "ppo")}
CASES = [("Pendulum-v1", *case) for case in CONTINUOUS.items()] + [
    ("CartPole-v1", *case) for case in DISCRETE.items()
]
DRAWS = {"meow", "sac", "flow-sac", "sql", "ppo", "soft-q", "discrete-sac"}


def make(task, name, options):
    torch.manual_seed(0)
    env = envs.make(task)
    return agents.make(name, env, **options), env


def seen(env, rows):
    return torch.randn(rows, *env.single_observation_space.shape)


def native(task, actions):
    """Actions in [-1, 1] in the units of a task, by gymnasium's own wrapper."""
    space = gym.make(task).action_space
    if not isinstance(space, gym.spaces.Box):
        return actions
    wrapped = gym.wrappers.RescaleAction(gym.make(task), -np.float32(1), np.float32(1))
    return np.stack([wrapped.action(action) for action in actions])


@pytest.mark.quick_for("soft-q")
@pytest.mark.parametrize(("task", "name", "options"), CASES)
def test_the_mode_is_that_of_the_policy_in_the_tasks_units(task, name, options, tmp_path):
    agent, env = make(task, name, options)
    assert export(agent, env, tmp_path / "policy.pt2") == []
    policy = torch.export.load(tmp_path / "policy.pt2").module()
    for rows in (1, 7, 64):
        observation = seen(env, rows)
        expected = native(task, agent.predict(observation.numpy()))
        np.testing.assert_allclose(policy(observation).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("task", "name", "options"), CASES)
@pytest.mark.quick_for("meow", "discrete-sac", "dqn")
def test_samples_have_the_policys_distribution(task, name, options, tmp_path):
    agent, env = make(task, name, options)
    noise = export(agent, env, tmp_path / "policy.pt2", stochastic=True)
    assert len(noise) == (name in DRAWS)
    policy = torch.export.load(tmp_path / "policy.pt2").module()
    observation = seen(env, 1).expand(2_000, -1)
    found = policy(observation, *(each.draw(2_000) for each in noise)).numpy()
    own = native(task, agent.predict(observation.numpy(), deterministic=False))
    if name not in DRAWS:
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
    elif task == "CartPole-v1":
        counts = [np.bincount(each.astype(int), minlength=2) for each in (found, own)]
        assert stats.chi2_contingency(counts).pvalue > 1e-3
    else:
        assert stats.ks_2samp(found[:, 0], own[:, 0]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("format", ["torchscript", "onnx"])
@pytest.mark.parametrize(
    ("task", "name"), [("Pendulum-v1", "meow"), ("Pendulum-v1", "sac"), ("CartPole-v1", "soft-q")]
)
def test_other_formats(task, name, stochastic, format, tmp_path):
    agent, env = make(task, name, {**CONTINUOUS, **DISCRETE}[name])
    path = tmp_path / f"policy{SUFFIXES[format]}"
    noise = export(agent, env, path, format=format, stochastic=stochastic)
    given = [seen(env, 9), *(each.draw(9) for each in noise)]
    export(agent, env, tmp_path / "same.pt2", stochastic=stochastic)
    expected = torch.export.load(tmp_path / "same.pt2").module()(*given)
    if format == "torchscript":
        found = torch.jit.load(str(path))(*given)
    else:
        import onnxruntime

        names = ["observation", *(each.name for each in noise)]
        fed = {name: entry.numpy() for name, entry in zip(names, given, strict=True)}
        found = torch.from_numpy(onnxruntime.InferenceSession(path).run(["action"], fed)[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_file_runs_where_this_package_is_not(tmp_path):
    agent, env = make("Pendulum-v1", "meow", CONTINUOUS["meow"])
    export(agent, env, tmp_path / "policy.pt2")
    code = f"""
import sys
sys.modules["maxentflow"] = None
sys.modules["torchrl"] = sys.modules["tensordict"] = None
import torch
policy = torch.export.load({str(tmp_path / "policy.pt2")!r}).module()
print(policy(torch.zeros(1, 3)).item())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = native("Pendulum-v1", agent.predict(np.zeros((1, 3), np.float32)))
    assert float(said.stdout) == pytest.approx(float(expected[0, 0]), abs=1e-5)


def test_what_lies_beside_it_names_inputs_and_output(tmp_path):
    agent, env = make("Pendulum-v1", "sac", {"hidden": (8,)})
    noise = export(agent, env, tmp_path / "policy.pt2", stochastic=True)
    assert noise == [Noise("noise", "normal", (1,))]
    about = json.loads((tmp_path / "policy.pt2.json").read_text())
    assert about["task"] == "Pendulum-v1"
    assert about["observation"] == {"shape": [3], "dtype": "float32"}
    assert about["action"] == {"shape": [1], "dtype": "float32", "low": [-2.0], "high": [2.0]}
    assert about["noise"] == [{"name": "noise", "distribution": "normal", "shape": [1]}]


@pytest.mark.slow
def test_actions_that_mean_something_as_they_are_stay_as_they_are(tmp_path):
    env = envs.make("maxentflow/Portfolio-v0")
    agent = agents.make("meow", env, flow_options={"blocks": 1})
    export(agent, env, tmp_path / "policy.pt2")
    policy = torch.export.load(tmp_path / "policy.pt2").module()
    observation = seen(env, 5)
    found = policy(observation)
    torch.testing.assert_close(found.sum(-1), torch.ones(5), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.numpy(), agent.predict(observation.numpy()), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("policy.pt2", "onnx", "must be a file ending in .onnx"),
        ("policy.pt2", "keras", "Unknown format 'keras'; known: torch-export, torchscript, onnx"),
        ("none/policy.pt2", "torch-export", "is no folder"),
    ],
)
def test_refusals(path, format, message, tmp_path):
    agent, env = make("Pendulum-v1", "td3", {"hidden": (8,)})
    with pytest.raises(ValueError, match=message):
        export(agent, env, tmp_path / path, format=format)


@pytest.mark.slow
def test_what_onnx_does_not_take_is_refused(tmp_path):
    agent, env = make(
        "Pendulum-v1",
        "meow",
        {"flow": "mixture-cdf", "flow_options": {"blocks": 1}, "twin": False},
    )
    with pytest.raises(ValueError, match="The policy cannot be exported to ONNX: "):
        export(agent, env, tmp_path / "policy.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_what_torchscript_does_not_take_is_refused(tmp_path):
    agent, env = make("CartPole-v1", "discrete-sac", {"hidden": (8,)})
    path = tmp_path / "policy.pt"
    with pytest.raises(ValueError, match="cannot be exported to TorchScript; torch-export and"):
        export(agent, env, path, format="torchscript", stochastic=True)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    agent, env = make("Pendulum-v1", "td3", {"hidden": (8,)})
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript, onnxruntime: pip install"):
        export(agent, env, tmp_path / "policy.onnx", format="onnx")


def test_a_file_that_gives_other_actions_is_not_kept(tmp_path, monkeypatch):
    agent, env = make("Pendulum-v1", "td3", {"hidden": (8,)})
    (tmp_path / "policy.pt2").write_text("of before")

    def wrong(policy, given, names):
        return b"wrong", lambda observation: policy(observation) + 0.01

    monkeypatch.setitem(module.WRITERS, "torch-export", wrong)
    with pytest.raises(ValueError, match="was not written: its actions differ from the policy's"):
        export(agent, env, tmp_path / "policy.pt2")
    assert {each.name for each in tmp_path.iterdir()} == {"policy.pt2"}
    assert (tmp_path / "policy.pt2").read_text() == "of before"


@pytest.mark.parametrize("format", ["torch-export", "torchscript"])
def test_a_full_disk_is_said(tmp_path, format):
    """As a limit on the size of files, in a process of its own: torch's writers abort at it."""
    code = f"""
import resource, signal
from maxentflow import agents, envs
from maxentflow.agents.training.export import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
env = envs.make("Pendulum-v1")
agent = agents.make("td3", env, hidden=(8,))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    export(agent, env, "policy{SUFFIXES[format]}", format="{format}")
except ValueError as error:
    print(error)
"""
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == f"Cannot write to policy{SUFFIXES[format]}: File too large.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_of_the_agent_or_the_generators_changes(tmp_path):
    agent, env = make("Pendulum-v1", "sac", {"hidden": (8,)})
    state, modes = torch.get_rng_state(), [m.training for m in agent.policy.modules()]
    export(agent, env, tmp_path / "policy.pt2", stochastic=True)
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in agent.policy.modules()] == modes
