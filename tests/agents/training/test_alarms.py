"""What is said of a run that has gone wrong, and when."""

import pytest
import torch
from tensordict import TensorDict

from maxentflow import agents, envs
from maxentflow.agents.training.alarms import Alarms
from maxentflow.agents.training.episodes import EpisodeStatistics

WELL = {"step": 1_000, "policy_entropy": -2.0, "entropy": 30.0, "value": -90.0}


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("policy_entropy", -9.9, -10.1),
        ("entropy", 1_999.0, 2_001.0),
        ("value", 199.0, 201.0),
        ("value", -199.0, -201.0),
    ],
)
def test_an_alarm_is_raised_beyond_its_limit_only(column: str, good: float, bad: float) -> None:
    alarms = Alarms(action_entries=2, gamma=0.99)
    assert alarms.raised({**WELL, column: good}, largest_reward=1.0) == []
    (said,) = alarms.raised({**WELL, column: bad}, largest_reward=1.0)
    assert said.startswith("Step 1000: ")
    assert column in said
    assert f"{bad:.4g}" in said


def test_an_alarm_is_raised_once_until_all_is_well_again() -> None:
    alarms = Alarms(action_entries=1, gamma=0.9)
    collapsed = {**WELL, "policy_entropy": -50.0}
    heard = [len(alarms.raised(row, 100.0)) for row in (collapsed, collapsed, WELL, collapsed)]
    assert heard == [1, 0, 0, 1]


def test_rows_without_these_columns_raise_none() -> None:
    assert Alarms(3, None).raised({"step": 5, "value": 1e9}, 1.0) == []
    assert Alarms(3, 0.99).raised({"step": 5, "value": 1e9}, 0.0) == []
    assert Alarms(3, 1.0).raised({"step": 5, "value": 1e9}, 1.0) == []
    assert Alarms(3, 0.99).raised({"step": 5}, 1.0) == []


def test_a_run_says_that_its_policy_has_collapsed(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    env = envs.make("Pendulum-v1", seed=0)
    config = agents.TrainerConfig(
        total_steps=60, warmup_steps=30, batch_size=8, eval_every=0, log_every=10
    )
    agent = agents.make("meow", env, log_sigma=(-12.0, -10.0), initial_log_sigma=None)
    agents.Trainer(agent, env, config, progress=False).run()
    said = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    assert len(said) == 1
    assert said[0].startswith("Warning: Step 40: the policy has collapsed, policy_entropy is -")


def test_the_largest_reward_is_counted_and_saved() -> None:
    statistics = EpisodeStatistics(2)
    for rewards in ([1.0, -7.0], [2.0, 3.0]):
        following = TensorDict(
            reward=torch.tensor(rewards).unsqueeze(-1), done=torch.zeros(2, 1, dtype=torch.bool)
        )
        statistics.add(TensorDict(next=following))
    assert statistics.largest_reward == 7.0
    other = EpisodeStatistics(2)
    other.load_state_dict(statistics.state_dict())
    assert other.largest_reward == 7.0
