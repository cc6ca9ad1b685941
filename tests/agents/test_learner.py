"""The update as one graph against the update step by step, in double precision."""

import copy

import pytest
import torch
from torchrl.objectives import HardUpdate, SoftUpdate

from maxentflow import agents, envs
from maxentflow.agents import CompilationError, learner
from maxentflow.agents.learner import Actor, Learner

from .common import differences, make_double_agent
from .test_agent import random_batch

pytestmark = pytest.mark.xdist_group("compile")
NAMES = agents.registered()
SETTINGS = {
    "neither": {"max_grad_norm": None, "average_decay": 0.0, "tau": 1.0},
    "clipping and average": {"max_grad_norm": 1e-3, "average_decay": 0.75, "tau": 0.25},
}


@pytest.fixture(autouse=True)
def as_traced(monkeypatch):
    """The graph of the loss within plain Python; most of the time goes into tracing that."""
    monkeypatch.setattr(learner, "compiled", lambda function, examples: function)


@pytest.fixture(scope="module")
def env():
    return envs.make("Pendulum-v1")


def make(name, env, *, rate=0.01, seed=0, **settings):
    """A small agent in double precision; MEow's has dropout."""
    torch.manual_seed(seed)
    if name == "meow":
        return make_double_agent(env, dropout=0.25, learning_rate=rate, **settings)
    rates = {"actor_learning_rate": rate, "critic_learning_rate": 2 * rate}
    torch.set_default_dtype(torch.float64)
    try:
        return agents.make("sac", env, hidden=(8,), **rates, **settings)
    finally:
        torch.set_default_dtype(torch.float32)


def twins(name, env, size=6, **settings):
    """Two equal agents, the first of them compiled."""
    compiled, plain = (make(name, env, **settings) for _ in range(2))
    compiled.compile(batches(env, size)[0])
    return compiled, plain


def batches(env, *sizes):
    return [random_batch(env, size, torch.float64) for size in sizes]


def state(agent):
    return {
        "loss": dict(agent.loss.state_dict()),
        "optimizer": agent.optimizer.state_dict(),
        "policy": dict(agent.policy.state_dict()),
    }


def snapshot(agent):
    return copy.deepcopy(state(agent))


def tensors(entry, path="state"):
    if isinstance(entry, torch.Tensor):
        return {path: entry.detach()}
    items = entry.items() if isinstance(entry, dict) else enumerate(entry)
    return {
        at: tensor
        for key, value in items
        if isinstance(value, (dict, list, torch.Tensor))
        for at, tensor in tensors(value, f"{path}/{key}").items()
    }


def assert_close(ours, theirs, tolerance):
    """Entries of a tensor agree to a fraction of its largest."""
    ours, theirs = tensors(ours), tensors(theirs)
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        assert ours[path].dtype == expected.dtype, path
        scale = expected.double().abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(
            ours[path], expected, rtol=0, atol=tolerance * scale, msg=lambda m, p=path: f"{p}: {m}"
        )


def assert_updates_agree(compiled, plain, given, tolerance=1e-3):
    """Reports, what is noted in the batch, all of the state, and the generator's position."""
    for seed, batch in enumerate(given):
        reports, noted, after = [], [], []
        for agent in (compiled, plain):
            torch.manual_seed(seed)
            noted.append(batch.clone())
            reports.append(agent.update(noted[-1]).to_dict())
            after.append(torch.rand(1))
        assert_close(*reports, tolerance)
        assert_close(*(entry.to_dict() for entry in noted), tolerance)
        assert torch.equal(*after)
        assert not any(entry.requires_grad for entry in reports[0].values())
    assert_close(state(compiled), state(plain), tolerance)


# Numbers


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_updates_agree(env, name, settings):
    compiled, plain = twins(name, env, **settings)
    before = snapshot(plain)
    assert_updates_agree(compiled, plain, batches(env, 6, 6, 6, 6))
    changed = " ".join(differences(before, state(compiled)))
    for part in ("loss/target_", "loss/", "exp_avg", "exp_avg_sq", "step", "policy/"):
        assert part in changed


@pytest.mark.parametrize("name", NAMES)
def test_updates_agree_to_double_precisions_rounding(env, name):
    """Also in Adam's first steps, whose bias corrections are small differences from one."""
    compiled, plain = twins(name, env, average_decay=0.5)
    assert_updates_agree(compiled, plain, batches(env, 6, 6, 6), tolerance=1e-10)


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_clipping_reaches_the_moments(env, max_grad_norm):
    """After one update the first moment is a tenth of the gradient."""
    compiled, _ = twins("sac", env, max_grad_norm=max_grad_norm)
    compiled.update(*batches(env, 6))
    moments = compiled.optimizer.moments()
    norm = 10 * torch.stack([moment["exp_avg"].norm() for moment in moments]).norm().item()
    if max_grad_norm is None:
        assert norm > 0.1
    else:
        assert norm == pytest.approx(max_grad_norm, rel=1e-2)
        assert norm < max_grad_norm


def test_evaluation_mode_is_compiled_apart(env):
    compiled, plain = twins("meow", env)
    assert_updates_agree(compiled, plain, batches(env, 6))
    for agent in (compiled, plain):
        agent.loss.eval()
    compiled.compile(*batches(env, 6))
    assert_updates_agree(compiled, plain, batches(env, 6, 6))
    for agent in (compiled, plain):
        agent.loss.train()
    assert_updates_agree(compiled, plain, batches(env, 6))


@pytest.mark.parametrize("name", NAMES)
def test_compiling_changes_nothing(env, name):
    agent = make(name, env, average_decay=0.5)
    agent.update(*batches(env, 6))
    (batch,) = batches(env, 6)
    before, entries = snapshot(agent), batch.clone().to_dict()
    generator = torch.get_rng_state()
    agent.compile(batch)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not differences(before, state(agent))
    assert not differences(entries, batch.to_dict())


@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_uncompiled_updates_in_turn(env, name, monkeypatch):
    compiled, plain = twins(name, env, average_decay=0.5)
    calls, update = [], Learner.__call__
    monkeypatch.setattr(
        Learner, "__call__", lambda self, batch: calls.append(len(batch)) or update(self, batch)
    )
    assert_updates_agree(compiled, plain, batches(env, 6, 4, 4, 6, 6, 5, 6))
    assert calls == [6, 6, 6, 6]


def turned(batch):
    batch["observation"] = batch["observation"].T.contiguous().T


def cast_in_part(batch):
    batch["next", "reward"] = batch["next", "reward"].float()


def weighted(batch):
    batch["priority_weight"] = torch.rand(batch.shape, dtype=torch.float64)


@pytest.mark.parametrize("change", [turned, cast_in_part, weighted])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_another_form_is_not_given_to_compiled_code(env, name, change, monkeypatch):
    compiled, plain = twins(name, env)
    (batch,) = batches(env, 6)
    change(batch)
    monkeypatch.setattr(Learner, "__call__", None)
    assert_updates_agree(compiled, plain, [batch])


@pytest.mark.parametrize("name", NAMES)
def test_what_an_update_noted_in_a_batch_does_not_change_its_form(env, name, monkeypatch):
    compiled, _ = twins(name, env)
    (batch,) = batches(env, 6)
    compiled.update(batch)
    assert batch.get("td_error") is not None
    monkeypatch.setattr(type(compiled.loss), "forward", None)
    compiled.update(batch)


@pytest.mark.parametrize("change", [lambda x: x.T.contiguous().T, lambda x: x.float()])
def test_observations_of_another_form_are_not_given_to_compiled_code(env, change, monkeypatch):
    agent = make("meow", env)
    observation = torch.randn(4, 3, dtype=torch.float64)
    agent.compile(batches(env, 6)[0], observation)
    monkeypatch.setattr(Actor, "__call__", None)
    monkeypatch.setattr(agent, "explore", lambda observation: observation.dtype)
    changed = change(observation)
    assert agent.act(changed) is changed.dtype


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_were_cast_are_refused(env, name):
    compiled, _ = twins(name, env)
    compiled.loss.float()
    with pytest.raises(RuntimeError, match="was moved, cast or frozen"):
        compiled.update(batches(env, 6)[0])


# What is changed after compilation


@pytest.mark.parametrize("name", NAMES)
def test_a_step_size_that_is_changed(env, name):
    compiled, plain = twins(name, env)
    unchanged = make(name, env)
    first, second = batches(env, 6, 6)
    assert_updates_agree(compiled, plain, [first])
    torch.manual_seed(0)
    unchanged.update(first.clone())
    for agent in (compiled, plain):
        for factor, group in zip((0.1, 3.0), agent.optimizer.param_groups, strict=False):
            group["lr"] *= factor
    assert_updates_agree(compiled, plain, [second])
    torch.manual_seed(0)
    unchanged.update(second.clone())
    with pytest.raises(AssertionError):
        assert_close(state(compiled)["loss"], state(unchanged)["loss"], 1e-3)


def test_a_schedule(env):
    compiled, plain = twins("sac", env)
    schedules = [
        torch.optim.lr_scheduler.StepLR(agent.optimizer, 2, gamma=0.1)
        for agent in (compiled, plain)
    ]
    for batch in batches(env, 6, 6, 6, 6, 6):
        assert_updates_agree(compiled, plain, [batch])
        for schedule in schedules:
            schedule.step()


@pytest.mark.parametrize("name", NAMES)
def test_states_that_are_loaded(env, name):
    """Of the optimiser and of the loss, targets and buffers included, from another agent."""
    compiled, plain = twins(name, env, average_decay=0.5)
    assert_updates_agree(compiled, plain, batches(env, 6, 6))
    donor = make(name, env, seed=5, rate=0.05, gamma=0.5)
    for batch in batches(env, 6, 6, 6):
        donor.update(batch)
    optimizer, loss = copy.deepcopy((donor.optimizer.state_dict(), donor.loss.state_dict()))
    for parts in ({"optimizer"}, {"loss"}, {"optimizer", "loss"}):
        for agent in (compiled, plain):
            if "optimizer" in parts:
                agent.optimizer.load_state_dict(copy.deepcopy(optimizer))
            if "loss" in parts:
                agent.loss.load_state_dict(copy.deepcopy(loss))
        assert_updates_agree(compiled, plain, batches(env, 6, 6))
        assert not differences(
            [group["lr"] for group in donor.optimizer.param_groups],
            [group["lr"] for group in compiled.optimizer.param_groups],
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_discount(env, name):
    """A buffer of the loss."""
    compiled, plain = twins(name, env, gamma=0.75)
    for agent in (compiled, plain):
        agent.loss.value_estimator.gamma.fill_(0.25)
    assert_updates_agree(compiled, plain, batches(env, 6, 6))


@pytest.mark.parametrize("name", NAMES)
def test_buffers_that_change_are_not_left_to_compiled_code(env, name):
    """The real compiler's has them as they were."""
    compiled, _ = twins(name, env, gamma=0.75)
    (graph,) = compiled._compiled.values()
    compiled.loss.load_state_dict(compiled.loss.state_dict())
    compiled.update(*batches(env, 6))
    assert graph.is_current()
    compiled.loss.value_estimator.gamma.fill_(0.25)
    assert not graph.is_current()


def all_groups(**options):
    def change(agent):
        for group in agent.optimizer.param_groups:
            group.update(options)

    return change


OPTIONS = {
    "betas": all_groups(betas=(0.5, 0.9)),
    "eps": all_groups(eps=0.1),
    "weight_decay": all_groups(weight_decay=0.1),
    "maximize": all_groups(maximize=True),
    "max_grad_norm": lambda agent: setattr(agent.config, "max_grad_norm", 1e-3),
    "tau": lambda agent: setattr(agent.target_updater, "eps", 0.5),
}


@pytest.mark.parametrize("change", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_that_are_changed_are_honoured_or_refused(env, change):
    compiled, plain = twins("sac", env, max_grad_norm=10.0)
    assert_updates_agree(compiled, plain, batches(env, 6))
    for agent in (compiled, plain):
        change(agent)
    given = batches(env, 6, 6)
    try:
        compiled.update(given[0].clone())
    except RuntimeError:
        return
    plain.update(given[0].clone())
    for agent in (compiled, plain):
        agent.loss.load_state_dict(copy.deepcopy(plain.loss.state_dict()))
        agent.optimizer.load_state_dict(copy.deepcopy(plain.optimizer.state_dict()))
    assert_updates_agree(compiled, plain, given)


# Losses that are not finite


@pytest.mark.parametrize(("name", "value"), [("meow", float("nan")), ("sac", float("inf"))])
def test_a_loss_that_is_not_finite_changes_nothing(env, name, value):
    compiled, plain = twins(name, env, average_decay=0.5, max_grad_norm=0.5)
    assert_updates_agree(compiled, plain, batches(env, 6, 6))
    before = snapshot(compiled)
    (bad,) = batches(env, 6)
    bad["next", "reward"][2] = value
    for agent in (compiled, plain):
        torch.manual_seed(0)
        with pytest.raises(FloatingPointError, match=r"^loss is (nan|inf)$"):
            agent.update(bad.clone())
    assert not differences(before, state(compiled))
    assert_updates_agree(compiled, plain, batches(env, 6, 6))


# What is refused


def other_target(kind, **options):
    def change(agent):
        agent.target_updater = kind(agent.loss, **options)

    return change


def adam(agent):
    agent.optimizer = torch.optim.Adam(agent.loss.parameters(), fused=True)


REFUSED = {
    "weight decay": (all_groups(weight_decay=0.1), "options beyond step size and moments"),
    "amsgrad": (all_groups(amsgrad=True), "options beyond step size and moments"),
    "maximize": (all_groups(maximize=True), "options beyond step size and moments"),
    "Adam": (adam, "optimizer is not a FlatAdam"),
    "SoftUpdate": (other_target(SoftUpdate, tau=0.5), "target updater is not a PolyakUpdate"),
    "HardUpdate": (
        other_target(HardUpdate, value_network_update_interval=2),
        "target updater is not a PolyakUpdate",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(env, change, message):
    agent, plain = (make("sac", env) for _ in range(2))
    given = batches(env, 6, 6)
    for each in (agent, plain):
        change(each)
    with pytest.raises(NotImplementedError, match=message):
        Learner(agent, given[0])
    with pytest.raises(CompilationError, match=f"The update of sac was not compiled: .*{message}"):
        agent.compile(given[0])
    if not any(group["amsgrad"] for group in agent.optimizer.param_groups):
        assert_updates_agree(agent, plain, given, tolerance=0.0)


def test_an_average_of_what_is_not_learned_is_refused(env):
    """A policy whose parameters are not the loss's."""
    agent, other = make("sac", env, average_decay=0.0), make("sac", env, seed=1)
    stranger = agents.Agent(
        "stranger",
        other.policy,
        agent.loss,
        agent.optimizer,
        agent.target_updater,
        agent.config,
        average_decay=0.5,
    )
    with pytest.raises(NotImplementedError, match="average is of parameters that are not learned"):
        Learner(stranger, *batches(env, 6))
