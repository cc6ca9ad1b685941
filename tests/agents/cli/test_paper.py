"""The settings of an algorithm's paper, in Python and by ``train --paper``."""

import re

import pytest

from maxentflow import agents, envs, flows
from maxentflow.agents import MeowConfig, RunFolder, TrainerConfig, registry
from maxentflow.agents.cli import main

from ..common import task
from .tiny import TRAIN, words

# Chao et al. 2024, appendix: alpha, tau, highest log-sigma, steps, warm-up
TABLE = {
    "Hopper-v4": (0.25, 0.005, -0.3, 1_500_000, 5_000),
    "HalfCheetah-v4": (0.25, 0.003, 2.0, 1_500_000, 10_000),
    "Walker2d-v4": (0.1, 0.005, -0.3, 4_000_000, 10_000),
    "Ant-v4": (0.05, 0.0001, -0.3, 4_000_000, 5_000),
    "Humanoid-v4": (0.125, 0.0005, -0.3, 5_000_000, 5_000),
}
# What it has of none of the parts that came later, and what all its tasks share
SHARED = {
    "normalize_observations": False,
    "normalize_rewards": False,
    "target_entropy": None,
    "normalized": False,
    "raw_actions": False,
    "initial_log_sigma": None,
    "shift_norm": False,
    "activation": "swish",
    "init": "reference",
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "max_grad_norm": 30.0,
    "heads": 2,
    "gamma": 0.99,
}


@pytest.mark.parametrize("env_id", TABLE)
def test_the_table_of_the_paper(env_id):
    alpha, tau, high, steps, warmup = TABLE[env_id]
    config = agents.config("meow", env_id, paper=True)
    assert config == MeowConfig.paper(env_id)
    assert (config.temperature, config.tau, config.log_sigma) == (alpha, tau, (-5.0, high))
    assert {name: getattr(config, name) for name in SHARED} == SHARED
    trainer = TrainerConfig.for_task(env_id, "meow", paper=True)
    assert (trainer.total_steps, trainer.warmup_steps) == (steps, warmup)


def test_settings_replace_the_papers():
    config = agents.config("meow", "Ant-v4", paper=True, temperature=0.5, dropout=0.0)
    assert (config.temperature, config.dropout, config.tau) == (0.5, 0.0, 0.0001)


@pytest.mark.parametrize("env_id", TABLE)
def test_without_it_tasks_differ_in_their_length_alone(env_id):
    assert agents.config("meow", env_id) == MeowConfig() != MeowConfig.paper(env_id)
    usual, paper = (TrainerConfig.for_task(env_id, "meow", paper=p) for p in (False, True))
    assert usual.warmup_steps == 5_000
    assert vars(usual) == {**vars(paper), "warmup_steps": 5_000}


def test_an_agent_of_the_paper():
    agent = agents.make("meow", envs.make("Pendulum-v1"), paper=True, temperature=0.3)
    assert agent.config == agents.config("meow", "Pendulum-v1", paper=True, temperature=0.3)
    flow = agent.policy.flow
    assert isinstance(flow, flows.EnergyBasedFlow)
    assert flow.temperature == 0.3
    assert not flow.normalized
    assert (len(agent.steps), dict(agent.state), agent.stored) == (1, {}, ())


@pytest.mark.parametrize("name", [name for name in agents.registered() if name != "meow"])
def test_agents_without_a_paper_refuse(name):
    message = rf"^Agent '{name}' has no settings of a paper\.$"
    with pytest.raises(ValueError, match=message):
        registry.config(name, "Pendulum-v1", paper=True)
    env_id = task(name)
    with pytest.raises(ValueError, match=message):
        agents.make(name, envs.make(env_id), paper=True)


# On the command line


@pytest.mark.parametrize("more", [(), ("--env", "Pendulum-v1"), ("--env", "Hopper-v4", "--help")])
@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_the_command_line_refuses_in_one_sentence(refused, tmp_path, monkeypatch, name, more):
    monkeypatch.chdir(tmp_path)
    sentence = refused("train", name, "--paper", *more)
    assert sentence == f"Agent {name!r} has no settings of a paper."
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_papers_defaults(help_text):
    paper = help_text("train", "meow", "--env", "HalfCheetah-v4", "--paper")
    usual = help_text("train", "meow", "--env", "HalfCheetah-v4")
    for option, default in (
        ("--temperature ", "0.25"),
        ("--tau ", "0.003"),
        ("--log-sigma ", "-5.0 2.0"),
        ("--warmup-steps ", "10000"),
    ):
        shown = [
            re.search(rf"{option}.*?\(default: ([^)]*)\)", text)[1] for text in (paper, usual)
        ]
        assert shown[0] == default
        assert shown[1] != default


def test_a_run_keeps_its_settings_in_its_folder(tmp_path, without_conclusion):
    """What is given on the command line replaces the paper's; nothing else is needed later."""
    main([str(word) for word in words(tmp_path / "run", tau=0.25)] + ["--paper"])
    content = RunFolder(tmp_path / "run").config()
    config = registry.config("meow", TRAIN["env"], paper=True, tau=0.25)
    assert content["agent_config"]["tau"] == 0.25
    for name in ("dropout", "init", "normalized", "target_entropy", "raw_actions", "temperature"):
        assert content["agent_config"][name] == getattr(config, name)
    assert content["trainer_config"]["warmup_steps"] == TRAIN["warmup_steps"]
    main(["train", "--resume", str(tmp_path / "run"), "--total-steps", "65"])
    assert RunFolder(tmp_path / "run").config()["trainer_config"]["total_steps"] == 65
