"""The update as one graph against the update step by step, in double precision."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchrl.objectives import HardUpdate

from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled import CompiledLearner, CompiledUpdate
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.schedule import Schedule
from maxentflow.agents.compiled.watch import Watch
from maxentflow.agents.learner import CompilationError, RandomStreams
from maxentflow.agents.parts.optimizers import FadingAdamW
from maxentflow.objectives import DelayedUpdate, PolyakUpdate, UpdaterChain, WeightAverage

from .common import (
    MAKERS,
    assert_close,
    changes,
    meow,
    observed,
    random_batch,
    sac,
    snapshot,
    td3,
    tensors,
)

pytestmark = pytest.mark.xdist_group("compile")
NAMES = tuple(MAKERS)
SETTINGS = {
    "neither": {"tau": 1.0},
    "clipping and average": {"max_grad_norm": 1e-3, "average": 0.75},
}
STREAMS = RandomStreams(1)


@pytest.fixture(autouse=True)
def _as_traced(as_traced, monkeypatch):
    """Tracing takes most of the time; acting is left out."""

    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr("maxentflow.agents.compiled.single.CompiledActing", refuse)


class Prepared:
    """An agent that learns by its traced update, and says which updates did."""

    def __init__(self, agent, size=6):
        self.agent = agent
        self.learner = CompiledLearner(agent)
        self.learner.prepare([random_batch(size)], [observed()])
        self.compiled = []
        self._agents_own, agent.update = agent.update, self._uncompiled

    def _uncompiled(self, batch):
        self.compiled[-1] = False
        return self._agents_own(batch)

    def update(self, batch):
        self.compiled.append(True)
        (result,) = self.learner.update([batch], STREAMS)
        if isinstance(result, Exception):
            raise result
        return result


def twins(name, **settings):
    """Two equal agents, the first of which learns by its traced update."""
    one, other = (MAKERS[name](**settings) for _ in range(2))
    return Prepared(one), other


def batches(*sizes):
    return [random_batch(size) for size in sizes]


def assert_updates_agree(prepared, plain, given, tolerance=1e-10):
    """Reports, what is noted in the batch, all of the state, and the generator's position."""
    prepared.learner.synchronize()  # the test may have changed the agent
    for seed, batch in enumerate(given):
        reports, noted, after = [], [], []
        for learns in (prepared, plain):
            torch.manual_seed(seed)
            noted.append(batch.clone())
            reports.append(learns.update(noted[-1]).to_dict())
            after.append(torch.rand(1))
        assert_close(*reports, tolerance)
        assert_close(*(entry.to_dict() for entry in noted), tolerance)
        assert torch.equal(*after)
        assert not any(entry.requires_grad for entry in reports[0].values())
    ours, theirs = prepared.agent.state_dict(), plain.state_dict()
    assert_close(ours, theirs, tolerance)
    assert ours["updates"] == theirs["updates"]
    assert ours["target_updater"] == theirs["target_updater"]


# Numbers


@pytest.mark.quick_for("meow-clipping")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", NAMES)
def test_updates_agree(name, settings):
    """To double precision's rounding, also in Adam's first steps, whose bias corrections are small
    differences from one."""
    prepared, plain = twins(name, **settings)
    before = {
        path: tensor.clone() for path, tensor in tensors(prepared.agent.state_dict()).items()
    }
    assert_updates_agree(prepared, plain, batches(6, 6, 6, 6))
    assert prepared.compiled == [True] * 4
    changed = " ".join(changes(before, tensors(prepared.agent.state_dict())))
    for part in ("loss/target_", "loss/", "exp_avg", "exp_avg_sq", "step", "policy/"):
        assert part in changed


@pytest.mark.slow
def test_turns_that_do_not_fall_together():
    """The actor at every third update, an average at every second."""

    def make():
        agent = sac(every=3)
        average = DelayedUpdate(WeightAverage(agent.policy, 0.5), 2)
        return Agent("own", agent.policy, agent.loss, agent.steps, target_updaters=[average])

    prepared, plain = Prepared(make()), make()
    assert len(prepared.learner._update.graphs) == 4
    assert_updates_agree(prepared, plain, batches(*[6] * 7))
    assert all(prepared.compiled)


@pytest.mark.slow
def test_a_step_that_is_not_due_leaves_its_optimizer_alone():
    prepared, _ = twins("td3")
    before = copy.deepcopy(prepared.agent.steps[1].optimizer.state_dict())
    prepared.update(random_batch())
    assert not changes(before, prepared.agent.steps[1].optimizer.state_dict())
    prepared.update(random_batch())
    changed = changes(before, prepared.agent.steps[1].optimizer.state_dict())
    assert len(changed) == len(tensors(before))


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
@pytest.mark.slow
def test_each_step_clips_its_own_gradient(max_grad_norm):
    """After one update the first moment is a tenth of the gradient."""
    prepared, _ = twins("sac", max_grad_norm=max_grad_norm)
    prepared.update(random_batch())
    for factor, step in zip((1, 3), prepared.agent.steps, strict=True):
        moments = [state["exp_avg"].norm() for state in step.optimizer.state.values()]
        norm = 10 * torch.stack(moments).norm().item()
        if max_grad_norm is None:
            assert norm > 0.01
        else:
            assert norm == pytest.approx(factor * max_grad_norm, rel=1e-2)
            assert norm < factor * max_grad_norm


@pytest.mark.slow
@pytest.mark.parametrize("fade", [None, 2])
def test_decoupled_weight_decay(fade):
    def make():
        agent = meow(dropout=0.0)
        adam = torch.optim.AdamW if fade is None else partial(FadingAdamW, fade=fade)
        optimizer = adam(agent.loss.parameters(), lr=0.1, weight_decay=0.5)
        return Agent("own", agent.policy, agent.loss, [Step(("loss",), optimizer)])

    prepared, plain = Prepared(make()), make()
    assert_updates_agree(prepared, plain, batches(6, 6, 6))
    assert all(prepared.compiled)


def test_a_parameter_that_takes_no_part_stays():
    def make():
        agent = meow()
        spare = nn.Parameter(torch.ones(5, dtype=torch.float64))
        parameters = [spare, *agent.loss.parameters()]
        return Agent(
            "own", agent.policy, agent.loss, [Step(("loss",), torch.optim.Adam(parameters))]
        )

    prepared, plain = Prepared(make()), make()
    for batch in batches(6, 6):
        torch.manual_seed(0)
        prepared.update(batch.clone())
        torch.manual_seed(0)
        plain.update(batch)
    spare, *parameters = prepared.agent.steps[0].parameters()
    state = prepared.agent.steps[0].optimizer.state
    assert torch.equal(spare, torch.ones_like(spare))
    assert state[spare]["step"] == 0
    assert all(state[parameter]["step"] == 2 for parameter in parameters)
    assert_close(dict(prepared.agent.loss.state_dict()), dict(plain.loss.state_dict()), 1e-10)


@pytest.mark.quick_for("td3")
@pytest.mark.parametrize("name", NAMES)
def test_preparing_changes_nothing(name):
    agent = MAKERS[name](average=0.5)
    agent.update(random_batch())
    agent.update(random_batch())
    batch, observation = random_batch(), observed()
    before, given, seen = snapshot(agent), batch.clone().to_dict(), observation.clone().to_dict()
    generator = torch.get_rng_state()
    CompiledLearner(agent).prepare([batch], [observation])
    assert torch.equal(torch.get_rng_state(), generator)
    assert not changes(before, agent.state_dict())
    assert before["updates"] == agent.updates
    assert not changes(given, batch.to_dict())
    assert not changes(seen, observation.to_dict())


@pytest.mark.quick_for("td3")
@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_uncompiled_updates_in_turn(name):
    prepared, plain = twins(name, average=0.5, max_grad_norm=0.1)
    assert_updates_agree(prepared, plain, batches(6, 4, 4, 6, 6, 5, 6))
    assert prepared.compiled == [True, False, False, True, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "td3"])
def test_an_agent_that_has_learned_before(name):
    one, plain = (MAKERS[name](average=0.5) for _ in range(2))
    for batch in batches(6, 6, 6):
        for agent in (one, plain):
            torch.manual_seed(0)
            agent.update(batch.clone())
    prepared = Prepared(one)
    assert_updates_agree(prepared, plain, batches(6, 6, 6))
    assert all(prepared.compiled)


@pytest.mark.slow
def test_an_agent_that_is_prepared_twice():
    one, plain = td3(average=0.5), td3(average=0.5)
    first, second = Prepared(one), Prepared(one)
    for prepared in (first, second, first):
        assert_updates_agree(prepared, plain, batches(6, 6))
        assert all(prepared.compiled)


# What is given


def turned(batch):
    batch["observation"] = batch["observation"].T.contiguous().T


def cast_in_part(batch):
    batch["next", "reward"] = batch["next", "reward"].float()


def weighted(batch):
    batch["priority_weight"] = torch.rand(batch.shape, dtype=torch.float64)


@pytest.mark.parametrize("name", ["meow", "sac"])
@pytest.mark.quick_for("sac")
def test_a_batch_of_another_form_is_not_given_to_compiled_code(name):
    prepared, plain = twins(name)
    for change in (turned, cast_in_part, weighted):
        (batch,) = batches(6)
        change(batch)
        assert_updates_agree(prepared, plain, [batch])
    assert prepared.compiled == [False] * 3


@pytest.mark.quick_for("td3")
@pytest.mark.parametrize("name", NAMES)
def test_what_an_update_noted_in_a_batch_does_not_change_its_form(name):
    prepared, _ = twins(name)
    (batch,) = batches(6)
    prepared.update(batch)
    assert batch.get("td_error") is not None
    prepared.update(batch)
    assert prepared.compiled == [True, True]


# What is changed afterwards


@pytest.mark.quick_for("td3")
@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_that_is_changed(name):
    prepared, plain = twins(name)
    assert_updates_agree(prepared, plain, batches(6, 6))
    for agent in (prepared.agent, plain):
        for factor, step in zip((0.1, 3.0), agent.steps, strict=False):
            for group in step.optimizer.param_groups:
                group["lr"] *= factor
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert all(prepared.compiled)


@pytest.mark.slow
def test_a_schedule():
    prepared, plain = twins("sac")
    schedules = [
        torch.optim.lr_scheduler.StepLR(step.optimizer, 2, gamma=0.1)
        for agent in (prepared.agent, plain)
        for step in agent.steps
    ]
    for batch in batches(6, 6, 6, 6, 6):
        assert_updates_agree(prepared, plain, [batch])
        for schedule in schedules:
            schedule.step()
    assert all(prepared.compiled)


@pytest.mark.quick_for("sac-optimizers")
@pytest.mark.parametrize(
    ("name", "part"),
    [*((name, "agent") for name in NAMES), ("sac", "optimizers"), ("sac", "loss")],
)
def test_states_that_are_loaded(name, part):
    prepared, plain = twins(name, average=0.5)
    assert_updates_agree(prepared, plain, batches(6, 6))
    donor = MAKERS[name](average=0.5, seed=5, rate=0.05)
    for batch in batches(6, 6, 6):
        donor.update(batch)
    for agent in (prepared.agent, plain):
        state = snapshot(donor)
        if part == "agent":
            agent.load_state_dict(state)
        elif part == "loss":
            agent.loss.load_state_dict(state["loss"])
        else:
            for step, optimizer in zip(agent.steps, state["optimizers"], strict=True):
                step.optimizer.load_state_dict(optimizer)
    assert_updates_agree(prepared, plain, batches(6, 6, 6))
    if part == "loss":
        assert all(prepared.compiled)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_turns_that_were_not_foreseen_are_not_given_to_compiled_code(name):
    """Of the one count, where steps and updaters had the same turns."""
    prepared, plain = twins(name)
    for agent in (prepared.agent, plain):
        agent.updates += 1
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert prepared.compiled == [name != "td3"] * 2


@pytest.mark.slow
def test_parameters_that_are_put_elsewhere_are_taken_back():
    prepared, plain = twins("sac", average=0.5)
    assert_updates_agree(prepared, plain, batches(6))
    for module in (prepared.agent.loss, prepared.agent.policy):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert all(prepared.compiled)


@pytest.mark.slow
def test_parameters_that_were_cast_are_refused():
    prepared, _ = twins("meow")
    prepared.agent.loss.float()
    with pytest.raises(RuntimeError, match="was moved, cast or frozen after its update"):
        prepared.update(random_batch())


def all_groups(**options):
    def change(agent):
        for step in agent.steps:
            for group in step.optimizer.param_groups:
                group.update(options)

    return change


def other_step(agent):
    agent.steps[0] = Step(("loss",), torch.optim.SGD(agent.loss.parameters(), lr=0.1))


OPTIONS = {
    "betas": all_groups(betas=(0.5, 0.9)),
    "eps": all_groups(eps=0.1),
    "weight_decay": all_groups(weight_decay=0.1),
    "fade": all_groups(fade=2),
    "maximize": all_groups(maximize=True),
    "optimizer": other_step,
    "max_grad_norm": lambda agent: setattr(agent.steps[0], "max_grad_norm", 1e-3),
    "tau": lambda agent: setattr(agent.target_updaters[0], "eps", 0.5),
    "decay": lambda agent: setattr(agent.target_updaters[1], "decay", 0.1),
    "updaters": lambda agent: setattr(agent, "target_updater", UpdaterChain([])),
    "gamma": lambda agent: agent.loss.value_estimator.gamma.fill_(0.25),
    "estimator": lambda agent: agent.loss.make_value_estimator(gamma=0.25),
    "temperature": lambda agent: setattr(agent.loss, "temperature", 3.0),
    "loss_function": lambda agent: setattr(agent.loss, "loss_function", "l1"),
    "reduction": lambda agent: setattr(agent.loss, "reduction", "sum"),
    "mode": lambda agent: agent.loss.eval(),
}


@pytest.mark.parametrize("change", OPTIONS.values(), ids=OPTIONS.keys())
def test_settings_that_are_changed_are_noticed(change):
    agent = meow(average=0.5, max_grad_norm=10.0)
    agent.update(random_batch())
    updaters = Schedule(agent).updaters
    watch = Watch(agent, updaters, Layout(agent, updaters))
    agent.update(random_batch())
    agent.steps[0].optimizer.param_groups[0]["lr"] = 0.5
    agent.loss.load_state_dict(agent.loss.state_dict())
    assert watch.is_current()
    change(agent)
    assert not watch.is_current()


def test_settings_that_are_changed_are_not_left_to_compiled_code():
    prepared, plain = twins("meow", average=0.5, max_grad_norm=10.0)
    assert_updates_agree(prepared, plain, batches(6))
    for agent in (prepared.agent, plain):
        agent.loss.loss_function = "l1"
    assert_updates_agree(prepared, plain, batches(6, 6))
    for agent in (prepared.agent, plain):
        agent.loss.loss_function = "l2"
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert prepared.compiled == [True, False, False, True, True]


# Losses and gradients that are not finite


@pytest.mark.quick_for("td3-nan")
@pytest.mark.parametrize(
    ("name", "value"), [("meow", float("nan")), ("sac", float("inf")), ("td3", float("nan"))]
)
def test_a_loss_that_is_not_finite_changes_nothing(name, value):
    prepared, plain = twins(name, average=0.5, max_grad_norm=0.5)
    assert_updates_agree(prepared, plain, batches(6, 6, 6))
    before = snapshot(prepared.agent)
    (bad,) = batches(6)
    bad["next", "reward"][2] = value
    for agent in (prepared, plain):
        torch.manual_seed(0)
        with pytest.raises(FloatingPointError, match=r"^loss is (nan|inf)$"):
            agent.update(bad.clone())
    after = prepared.agent.state_dict()
    assert not changes(before, after)
    assert before["target_updater"] == after["target_updater"]
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert all(prepared.compiled)


class RootAtZero(nn.Module):
    """A flow whose Q has the gradient of a root at zero added, and its value."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.temperature = model.temperature

    def q_value(self, action, observation):
        weight = next(iter(self.model.parameters()))
        root = (weight * observation[..., :1].sum()).sum().abs().sqrt()
        return self.model.q_value(action, observation) + root

    def value(self, observation):
        return self.model.value(observation)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.quick_for("None")
def test_a_gradient_that_is_not_finite_changes_nothing(max_grad_norm):
    """Under a finite loss: observations whose first entry is zero."""

    def make():
        agent = meow(dropout=0.0)
        loss = type(agent.loss)(RootAtZero(agent.loss.network.model))
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
        return Agent(
            "own",
            agent.policy,
            loss,
            [Step(("loss",), optimizer, max_grad_norm=max_grad_norm)],
            target_updaters=[PolyakUpdate(loss, tau=0.5)],
        )

    prepared, plain = Prepared(make()), make()
    assert_updates_agree(prepared, plain, batches(6))
    before = snapshot(prepared.agent)
    (bad,) = batches(6)
    bad["observation"][:, 0] = 0.0
    for agent in (prepared, plain):
        with pytest.raises(FloatingPointError, match=r"^gradient is (nan|inf)$"):
            agent.update(bad.clone())
    assert not changes(before, prepared.agent.state_dict())
    assert before["updates"] == prepared.agent.updates
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert all(prepared.compiled)


# What is refused


def with_steps(agent, steps):
    return Agent(agent.name, agent.policy, agent.loss, steps)


def with_updater(agent, updater):
    return Agent(agent.name, agent.policy, agent.loss, agent.steps, target_updaters=[updater])


def with_adam(**options):
    return lambda agent: with_steps(
        agent, [Step(("loss",), torch.optim.Adam(agent.loss.parameters(), **options))]
    )


REFUSED = {
    "weight decay": (with_adam(weight_decay=0.1), "has the option weight_decay"),
    "amsgrad": (with_adam(amsgrad=True), "has the option amsgrad"),
    "maximize": (with_adam(maximize=True), "has the option maximize"),
    "SGD": (
        lambda a: with_steps(a, [Step(("loss",), torch.optim.SGD(a.loss.parameters()))]),
        "its optimizer is SGD, not Adam or AdamW",
    ),
    "HardUpdate": (
        lambda a: with_updater(a, HardUpdate(a.loss, value_network_update_interval=2)),
        "target updater HardUpdate is not supported",
    ),
    "average": (
        lambda a: with_updater(a, WeightAverage(meow(seed=1).policy, 0.5)),
        "WeightAverage follows parameters that no step changes",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(change, message):
    agent = change(meow())
    with pytest.raises(NotImplementedError, match=message):
        CompiledUpdate(agent, random_batch())
    with pytest.raises(
        CompilationError, match=f"The update of meow was not compiled: .*{message}"
    ):
        CompiledLearner(agent).prepare([random_batch()], [observed()])


def test_a_learner_that_could_not_be_prepared_goes_on_without():
    agent, plain = (with_adam(weight_decay=0.1)(meow()) for _ in range(2))
    learner = CompiledLearner(agent)
    with pytest.raises(CompilationError):
        learner.prepare([random_batch()], [observed()])
    for batch in batches(6, 6):
        torch.manual_seed(0)
        learner.update([batch.clone()], STREAMS)
        torch.manual_seed(0)
        plain.update(batch)
    assert not changes(agent.state_dict(), plain.state_dict())


@pytest.mark.slow
def test_a_value_estimator_that_the_first_call_makes():
    def make():
        agent = meow(dropout=0.0)
        loss = type(agent.loss)(agent.loss.network.model)
        steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        return Agent("own", agent.policy, loss, steps)

    prepared, plain = Prepared(make()), make()
    assert_updates_agree(prepared, plain, batches(6, 6))
    for agent in (prepared.agent, plain):
        agent.loss.value_estimator.gamma.fill_(0.25)
    assert_updates_agree(prepared, plain, batches(6, 6))
    assert prepared.compiled == [True, True, False, False]


class Counting(type(meow().loss)):
    """A loss that counts its calls in a buffer."""

    def __init__(self, model):
        super().__init__(model)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tensordict):
        self.calls.add_(1)
        return super().forward(tensordict)


def test_a_loss_that_writes_into_its_buffers_is_refused():
    loss = Counting(meow().loss.network.model)
    agent = Agent(
        "own", meow().policy, loss, [Step(("loss",), torch.optim.Adam(loss.parameters()))]
    )
    with pytest.raises(CompilationError, match="its loss writes into its buffers"):
        CompiledLearner(agent).prepare([random_batch()], [observed()])
    assert loss.calls == 0


def test_td3_and_its_delays_are_counted():
    prepared, _ = twins("td3")
    for _ in range(3):
        prepared.update(random_batch())
    assert prepared.agent.updates == 3
    assert prepared.agent.target_updaters[0].calls == 3
    assert td3().target_updaters[0].calls == 0


@pytest.mark.slow
def test_changes_are_noticed_after_a_learner_is_synchronized():
    prepared, _ = twins("meow")
    (batch,) = batches(6)
    prepared.update(batch.clone())
    prepared.agent.loss.loss_function = "l1"
    prepared.update(batch.clone())
    prepared.learner.synchronize()
    prepared.update(batch.clone())
    assert prepared.compiled == [True, True, False]
