"""No NaN passes in silence, wherever it enters: the run stops and says where."""

import math
import re

import numpy as np
import pytest
import torch

from maxentflow.agents import NonFiniteError

from ..common import checkpoint, make_trainer, metrics

RUN = {"total_steps": 60, "warmup_steps": 20, "eval_every": 0, "log_every": 10}
SPOILT_AT = 28  # steps are taken before


def once(trainer, owner, name, spoil):
    """Have a function change what a method gives, at one step."""
    method = getattr(owner, name)

    def spoilt(*arguments, **options):
        result = method(*arguments, **options)
        return spoil(result) if trainer.step >= SPOILT_AT else result

    setattr(owner, name, spoilt)


def nan_like(array):
    return np.full_like(array, np.nan)


def begun(trainer):
    """The first observation of a run."""
    reset = trainer.env.reset
    trainer.env.reset = lambda **options: (nan_like(reset(**options)[0]), {})


def step(change):
    return lambda trainer: once(trainer, trainer.env, "step", change)


def after_an_end(trainer):
    """The first observation of an episode that follows one that the task or the trainer ended."""

    def spoil(outcome):
        observation, reward, terminated, truncated, info = outcome
        over = (terminated | truncated)[:, None]
        spoilt = np.where(over, np.float32(np.nan), observation)
        return spoilt, reward, terminated, truncated, info

    once(trainer, trainer.env, "step", spoil)
    once(trainer, trainer.env, "reset", lambda outcome: (nan_like(outcome[0]), {}))


def act(trainer):
    once(
        trainer,
        trainer.agent,
        "act",
        lambda acted: acted.set("action", acted["action"] * math.nan),
    )


def replay(trainer):
    def spoil(batch):
        reward = batch["next", "reward"]
        reward[0] = math.nan
        return batch

    once(trainer, trainer.experience.buffer, "sample", spoil)


def loss(trainer):
    name = trainer.agent.steps[0].losses[0]
    once(trainer, trainer.agent.loss, "forward", lambda out: out.set(name, out[name] * math.nan))


def gradient(trainer):
    parameter = trainer.agent.steps[0].parameters()[0]
    parameter.register_hook(lambda found: found * math.nan if trainer.step >= SPOILT_AT else found)


def weights(trainer):
    def spoil(report):
        for parameter in trainer.agent.loss.parameters():
            parameter.data.fill_(math.nan)
        return report

    once(trainer, trainer.agent, "update", spoil)


def normaliser(trainer):
    norm = next(part for part in trainer.agent.state.values() if hasattr(part, "variance"))

    def spoil(report):
        norm.mean.fill_(math.nan)
        return report

    once(trainer, trainer.agent, "update", spoil)


def evaluation(index):
    def spoil_evaluation(trainer):
        def spoil(outcome):
            outcome = list(outcome)
            outcome[index] = nan_like(outcome[index])
            return tuple(outcome)

        once(trainer, trainer._eval_env, "step", spoil)

    return spoil_evaluation


def evaluation_begun(trainer):
    once(trainer, trainer._eval_env, "reset", lambda outcome: (nan_like(outcome[0]), {}))


PLACES = {
    "the first observation": (begun, "observation", {}),
    "an observation": (step(lambda all_: (nan_like(all_[0]), *all_[1:])), "observation", {}),
    "an observation after an end": (after_an_end, "observation", {}),
    "a reward": (step(lambda all_: (all_[0], nan_like(all_[1]), *all_[2:])), "reward", {}),
    "an action": (act, "action", {}),
    "the replay": (replay, "loss", {}),
    "a loss": (loss, "loss", {}),
    "a gradient": (gradient, "gradient", {}),
    "weights": (weights, "action|loss", {}),
    "a normaliser": (normaliser, "action|loss", {}),
    "an evaluation's first observation": (
        evaluation_begun,
        "observation of an evaluation",
        {"eval_every": 20},
    ),
    "an evaluation's observation": (
        evaluation(0),
        "observation of an evaluation",
        {"eval_every": 20},
    ),
    "an evaluation's reward": (evaluation(1), "reward of an evaluation", {"eval_every": 20}),
}


# The largest of Q values that are NaN is an action like any other.
OF_DISCRETE_ACTIONS = [
    "the first observation",
    "an observation after an end",
    "weights",
    "an evaluation's first observation",
    "an evaluation's observation",
]


@pytest.mark.parametrize(
    ("agent", "place"),
    [*(("meow", place) for place in PLACES), *(("dqn", place) for place in OF_DISCRETE_ACTIONS)],
)
@pytest.mark.quick_for("-an observation", "-a gradient")
def test_the_run_stops_and_says_where(tmp_path, agent, place):
    spoil, named, changes = PLACES[place]
    trainer = make_trainer(
        agent=agent, folder=tmp_path, max_episode_steps=12, **{**RUN, **changes}
    )
    spoil(trainer)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    said = re.fullmatch(rf"Stopped after (\d+) steps: (?:{named}) is nan(.*)\.", str(caught.value))
    assert said, caught.value
    stopped = int(said[1])
    if place == "the first observation":
        assert (stopped, said[2]) == (0, "")
        return
    assert SPOILT_AT <= stopped < SPOILT_AT + 25
    assert checkpoint(tmp_path, f"stopped_{stopped}.pt")["step"] == stopped
    assert all("nan" not in row.values() for row in metrics(tmp_path))
    (chunk,) = checkpoint(tmp_path, f"stopped_{stopped}.pt")["experience"]["chunks"]
    for name in ("observation", "reward", "final"):
        assert chunk[name].isfinite().all()


def spoil_loss(state):
    next(entry for entry in state["loss"].values() if entry.is_floating_point()).fill_(math.nan)


def spoil_policy(state):
    for part in ("policy", "behavior"):
        entries = [entry for entry in state[part].values() if entry.is_floating_point()]
        entries[-1].flatten()[0] = math.nan


def spoil_optimizer(state):
    state["optimizers"][0]["state"][0]["exp_avg"].fill_(math.nan)


def spoil_normaliser(state):
    for part in state["state"].values():
        if "mean" in part:
            part["mean"].fill_(math.nan)


@pytest.mark.parametrize("spoil", [spoil_loss, spoil_policy, spoil_optimizer, spoil_normaliser])
def test_a_checkpoint_with_a_nan_is_refused(spoil):
    trainer = make_trainer(**{**RUN, "total_steps": 28})
    trainer.run()
    state, before = trainer.state(), trainer.state()
    spoil(state)
    with pytest.raises(ValueError, match=r"checkpoint's [\w.]+ has numbers that are not finite"):
        trainer.restore(state)
    for name, entry in before["loss"].items():
        assert torch.equal(entry, trainer.agent.loss.state_dict()[name])


def test_a_probability_that_is_not_finite_stops_a_run(tmp_path):
    """Torch samples from none: its exception is no agent's."""
    trainer = make_trainer(agent="discrete-sac", folder=tmp_path, **RUN)

    def spoil(report):
        for parameter in trainer.agent.behavior.parameters():
            parameter.data.fill_(math.nan)
        return report

    once(trainer, trainer.agent, "update", spoil)
    with pytest.raises(
        NonFiniteError, match=r"^Stopped after 28 steps: a probability of an action is not finite"
    ):
        trainer.run()
    assert checkpoint(tmp_path, "stopped_28.pt")["step"] == 28
