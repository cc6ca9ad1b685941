"""Runs in step with each other against the same runs alone."""

import copy

import numpy as np
import pytest
import torch

from maxentflow.agents import BatchingError, NonFiniteError, cli, train
from maxentflow.agents.run_folder import RunFolder

from .common import checkpoint, differences, make_trainer, metrics, without_figures, words

SEEDS = 0, 1, 2
EXACT = ("step", "updates", "owed", "episodes", "lengths", "environments", "torch_generator")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    without_figures(monkeypatch)


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        ("meow", {}),
        ("sac", {}),
        ("meow", {"num_envs": 2, "workers": True, "utd_ratio": 0.3}),
        ("meow", {"replay_size": 45}),
    ],
)
def test_together_as_alone(agent, settings):
    """The same random numbers; else the same to rounding, which ten updates leave small."""
    run = {"agent": agent, "total_steps": 50, "eval_every": 50, "checkpoint_every": 0, **settings}
    together = [make_trainer(seed=seed, **run) for seed in SEEDS]
    train(together, progress=False)
    for seed, trainer in zip(SEEDS, together, strict=True):
        alone = make_trainer(seed=seed, **run)
        alone.run()
        state, expected = trainer.state(), alone.state()
        for key in EXACT:
            if key == "environments":  # whose actions agree to rounding
                for one, other in zip(state[key], expected[key], strict=True):
                    assert len(one.pop("actions")) == len(other.pop("actions"))
            assert not differences(state[key], expected[key], key)
        for key in ("replay", "loss", "policy"):
            torch.testing.assert_close(dict(state[key]), dict(expected[key]), rtol=1e-3, atol=1e-3)
        trainer.env.close()
        alone.env.close()


def test_one_goes_on_alone_where_several_stopped():
    """With its own random numbers, whatever else drew since."""
    run = {"total_steps": 50, "eval_every": 0, "checkpoint_every": 0}
    together = [make_trainer(seed=seed, **run) for seed in SEEDS]
    train(together, progress=False)
    stopped = copy.deepcopy(together[1].state())
    other = make_trainer(seed=1, **run)
    other.restore(stopped)
    ends = []
    for trainer in (other, together[1]):
        trainer.config.total_steps = 60
        trainer.run()
        ends.append(copy.deepcopy(trainer.state()))
        torch.manual_seed(99)
    for key in ("loss", "replay", "torch_generator", "updates"):
        assert not differences(ends[0][key], ends[1][key], key)


def test_seeds_from_the_command_line(tmp_path):
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (4, 7)]
    arguments = words(tmp_path / "runs", total_steps=60, log_every=20, eval_every=60)
    cli.main([*arguments, "--seeds", "4,7"])
    for seed, folder in zip((4, 7), folders, strict=True):
        assert RunFolder(folder).config()["trainer_config"]["seed"] == seed
        cli.main(
            words(tmp_path / str(seed), total_steps=60, log_every=20, eval_every=60, seed=seed)
        )
        rows, expected = metrics(folder), metrics(tmp_path / str(seed))
        assert [row["step"] for row in rows] == ["20", "40", "60"]
        for row, other in zip(rows, expected, strict=True):
            assert row.keys() == other.keys()
            for name in row:
                assert (row[name] == "") == (other[name] == "")
                if row[name]:
                    assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-2), name
    cli.main(["train", "--resume", *map(str, folders), "--total-steps", "70"])
    for folder in folders:
        assert [row["step"] for row in metrics(folder)][-1] == "70"
        assert checkpoint(folder)["step"] == 70
        cli.main(["evaluate", str(folder), "--episodes", "1"])


def test_going_on_together_is_as_never_having_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cli.main([*words(whole, total_steps=90), "--seeds", "0,1"])
    cli.main([*words(parts, total_steps=60), "--seeds", "0,1"])
    folders = [parts / "seed-0", parts / "seed-1"]
    cli.main(["train", "--resume", *map(str, folders), "--total-steps", "90"])
    for folder in folders:
        state, expected = checkpoint(folder), checkpoint(whole / folder.name)
        for key in ("loss", "optimizer", "replay", "torch_generator"):
            assert not differences(state[key], expected[key], key)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("where", ["observation", "loss"])
def test_one_that_is_not_finite_stops_all_and_loses_nothing(tmp_path, where, index):
    """Also those whose step was to be stored after that one's."""
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
    together = [
        make_trainer(seed=seed, folder=RunFolder(tmp_path / str(seed)), total_steps=90)
        for seed in SEEDS
    ]
    spoilt = together[index]
    step = spoilt.env.step

    def spoil(action):
        observation, reward, *rest = step(action)
        if spoilt.step == 60:
            observation, reward = (
                (np.full_like(observation, np.nan), reward)
                if where == "observation"
                else (observation, reward + 1e25)
            )
        return observation, reward, *rest

    spoilt.env.step = spoil
    message = (
        rf"^Stopped after \d+ steps: {where} is (nan|inf); the state is in .*/{index}/checkpoints/"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(together, progress=False)
    assert len({len(trainer.replay) for trainer in together if trainer is not spoilt}) == 1
    for seed, trainer in zip(SEEDS, together, strict=True):
        stopped = checkpoint(tmp_path / str(seed), f"stopped_{trainer.step}.pt")
        assert stopped["updates"] == trainer.updates > 0
        assert stopped["loss"].keys() == trainer.agent.loss.state_dict().keys()
        assert all(entry.isfinite().all() for entry in stopped["loss"].values())
        assert checkpoint(tmp_path / str(seed))["step"] == 45


@pytest.mark.parametrize(
    "changes", [{"batch_size": 8}, {"settings": {"tau": 0.5}}, {"env_id": "Pendulum-v1"}]
)
def test_runs_that_differ_by_more_than_the_seed_are_refused(changes):
    pair = [make_trainer(seed=0), make_trainer(seed=1, **changes)]
    with pytest.raises(BatchingError, match="must differ by seed alone"):
        train(pair, progress=False)
    assert pair[0].step == 0


@pytest.mark.parametrize("change", ["temperature", "step size"])
def test_agents_that_differ_beyond_their_configurations_are_refused(change):
    pair = [make_trainer(seed=seed) for seed in (0, 1)]
    if change == "temperature":
        pair[1].agent.policy.flow.temperature = 5.0
    else:
        pair[1].agent.optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(BatchingError, match="settings of the networks or optimizers differ"):
        train(pair, progress=False)


def test_a_state_is_gone_back_to_where_runs_were_together():
    """With the weights of the state and not those of what followed."""
    pair = [make_trainer(seed=seed, total_steps=50) for seed in (0, 1)]
    train(pair, progress=False)
    state = pair[0].state()
    kept = copy.deepcopy(state)
    for trainer in pair:
        trainer.config.total_steps = 60
    train(pair, progress=False)
    assert differences(pair[0].state(), kept)
    assert not differences(state, kept)
    pair[0].restore(state)
    found = pair[0].state()
    assert not differences({**found, "seconds": 0.0}, {**kept, "seconds": 0.0})


def test_no_trainers_are_refused():
    with pytest.raises(ValueError, match="at least one trainer"):
        train([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0,x"), "--seeds must be whole numbers and commas, got '0,x'"),
        (("--seeds", "0,1,0"), "--seeds names a seed twice: 0,1,0"),
        (("--seeds", "0,-1"), "seed must not be negative, got -1"),
        (("--seeds", "0,1", "--seed", "3"), "Give --seed or --seeds, not both"),
    ],
)
def test_seeds_that_are_refused(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words(tmp_path / "runs"), *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"maxentflow: {message}")
    assert not (tmp_path / "runs").exists()
