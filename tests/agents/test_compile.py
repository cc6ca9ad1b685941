"""Compiled updates against uncompiled ones."""

import os
import subprocess
import sys

import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import CompilationError, TrainerConfig, cli

from .common import (
    MULTIGOAL,
    SMALL,
    differences,
    make_trainer,
    metrics,
    without_figures,
    words,
)
from .test_agent import random_batch

pytestmark = pytest.mark.xdist_group("compile")  # one after the other, sharing what is compiled


def make(name, env, seed=0, **settings):
    torch.manual_seed(seed)
    return agents.make(name, env, **{**SMALL[name], **settings})


def state(agent):
    return {
        "loss": dict(agent.loss.state_dict()),
        "optimizer": agent.optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }


def assert_updates_agree(compiled, plain, batches):
    """The same updates, dropout masks included, to single precision's rounding."""
    results = []
    for agent in (compiled, plain):
        torch.manual_seed(1)
        results.append([agent.update(batch.clone()) for batch in batches])
    for ours, theirs in zip(*results, strict=True):
        assert set(ours.keys()) == set(theirs.keys())
        torch.testing.assert_close(ours.to_dict(), theirs.to_dict(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(compiled.loss.parameters(), plain.loss.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flow", ["additive", "affine"])
def test_updates_by_the_compiler_agree(flow):
    """Affine coupling writes into latents that are expanded, one copy for each head's mask."""
    env = envs.make(MULTIGOAL)
    compiled, plain = (make("meow", env, flow=flow) for _ in range(2))
    batches = [random_batch(env, 32) for _ in range(10)]
    before, batch = state(compiled), batches[0].clone().to_dict()
    compiled.compile(batches[0])
    assert not differences(state(compiled), before)
    assert not differences(batches[0].to_dict(), batch)
    assert_updates_agree(compiled, plain, batches)


@pytest.mark.parametrize("name", agents.registered())
def test_updates_of_any_size_and_mode_agree(traced_only, name):
    env = envs.make("Pendulum-v1")
    compiled, plain = make(name, env), make(name, env)
    compiled.compile(random_batch(env, 32))
    assert_updates_agree(compiled, plain, [random_batch(env, n) for n in (32, 32, 7, 32)])
    for agent in (compiled, plain):
        agent.loss.eval()
    assert_updates_agree(compiled, plain, [random_batch(env, 32)] * 2)


@pytest.mark.parametrize("name", agents.registered())
def test_compiled_acting_agrees(traced_only, name):
    env = envs.make("Pendulum-v1")
    agent = make(name, env)
    observation = torch.randn(4, 3)

    def actions(seed):
        torch.manual_seed(seed)
        return agent.act(observation), torch.rand(1)

    plain = actions(1)
    agent.compile(random_batch(env, 8), observation)
    torch.testing.assert_close(actions(1), plain)
    assert not torch.equal(actions(2)[0], plain[0])
    agent.update(random_batch(env, 8))  # what acts is the newest policy
    compiled = actions(1)
    agent._compiled_act.clear()
    torch.testing.assert_close(compiled, actions(1))
    assert (compiled[0] - plain[0]).abs().max() > 1e-4


def test_what_the_loss_notes_in_its_batch(traced_only):
    env = envs.make("Pendulum-v1")
    compiled, plain = make("meow", env), make("meow", env)
    compiled.compile(random_batch(env, 8))
    given, noted = random_batch(env, 8), []
    for agent in (compiled, plain):
        batch = given.clone()
        torch.manual_seed(1)
        agent.update(batch)
        noted.append(batch["td_error"])
    torch.testing.assert_close(*noted)


def test_the_compiled_loss_sees_what_is_not_finite(traced_only):
    env = envs.make("Pendulum-v1")
    agent, batch = make("meow", env), random_batch(env, 8)
    agent.compile(batch)
    agent.update(batch.clone())
    before = [p.clone() for p in agent.loss.parameters()]
    batch["next", "reward"][3] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan"):
        agent.update(batch)
    assert all(torch.equal(p, q) for p, q in zip(agent.loss.parameters(), before, strict=True))


def test_an_optimizer_of_ones_own(traced_only):
    """torch's Adam cannot be part of the graph; that is said, and updates go on."""
    env = envs.make("Pendulum-v1")
    agent, plain = make("meow", env), make("meow", env)
    agent.optimizer = torch.optim.Adam(agent.loss.parameters(), lr=1e-3, fused=True)
    batch = random_batch(env, 8)
    with pytest.raises(CompilationError, match="The update of meow was not compiled: "):
        agent.compile(batch)
    assert_updates_agree(agent, plain, [batch] * 3)


def test_without_a_compiler(tmp_path, monkeypatch):
    """In a process of its own, since torch remembers what compiler it found."""
    without_figures(monkeypatch)
    compiled, plain = tmp_path / "compiled", tmp_path / "plain"
    arguments = words(compiled, compile="on", total_steps=60)
    run = subprocess.run(
        [sys.executable, "-m", "maxentflow.agents", *arguments],
        env={
            **os.environ,
            "CXX": "/no/such/compiler",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "nothing compiled yet"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    (line,) = [line for line in run.stderr.splitlines() if "compile" in line]
    assert line.startswith("The update of meow was not compiled: No working C++ compiler found")
    assert line.endswith("The run goes on without; it learns the same, slower.")
    cli.main(words(plain, compile="off", total_steps=60))
    assert metrics(compiled) == metrics(plain)


def test_a_run_whose_compilation_fails_is_the_uncompiled_run(monkeypatch, capsys):
    def fail(agent, batch, observation):
        torch.rand(3)
        raise CompilationError("No.")

    runs = {}
    for choice in ("on", "off"):
        monkeypatch.setattr(agents.Agent, "compile", fail)
        runs[choice] = make_trainer(compile=choice)
        runs[choice].run()
        runs[choice] = {**runs[choice].state(), "seconds": 0.0}
        line = "No. The run goes on without; it learns the same, slower.\n"
        assert capsys.readouterr().err == (line if choice == "on" else "")
    assert not differences(runs["on"], runs["off"])


def test_the_trainer_compiles_once_and_spares_the_random_numbers(monkeypatch):
    calls = []
    monkeypatch.setattr(
        agents.Agent,
        "compile",
        lambda agent, *shaped: calls.append([entry.shape for entry in shaped]),
    )
    trainer = make_trainer(compile="on")
    trainer.run()
    assert calls == [[(16,), (1, 2)]]
    plain = make_trainer(compile="off")
    plain.run()
    assert not differences({**trainer.state(), "seconds": 0}, {**plain.state(), "seconds": 0})


@pytest.mark.parametrize(
    ("settings", "compiles"),
    [
        ({"total_steps": 14_999}, False),
        ({"total_steps": 15_000}, True),
        ({"total_steps": 15_000, "num_envs": 2}, True),
        ({"total_steps": 15_000, "utd_ratio": 0.5}, False),
        ({"total_steps": 15_000, "compile": "off"}, False),
        ({"total_steps": 100, "compile": "on"}, True),
    ],
)
def test_long_runs_are_compiled(settings, compiles):
    assert TrainerConfig(warmup_steps=5_000, **settings).compiles() is compiles


def test_compile_is_one_of_three():
    with pytest.raises(ValueError, match="compile must be 'auto', 'on' or 'off', got 'yes'"):
        TrainerConfig(compile="yes")
