"""Agents in an ensemble against the same agents on their own, in double precision."""

import pytest
import torch

from maxentflow import flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled import Ensemble
from maxentflow.agents.learner import CompilationError, EagerLearner, RandomStreams
from maxentflow.objectives import SoftBellmanLoss, WeightAverage

from .common import (
    ACTION_DIM,
    MAKERS,
    OBS_DIM,
    assert_close,
    changes,
    meow,
    observed,
    of_flow,
    random_batch,
    sac,
    snapshot,
    td3,
)

pytestmark = pytest.mark.xdist_group("compile")
SEEDS = 0, 1


def team(name, **settings):
    return [MAKERS[name](seed=seed, **settings) for seed in SEEDS]


def batches(size=6):
    return [random_batch(size) for _ in SEEDS]


def observations(size=4):
    return [observed(size) for _ in SEEDS]


def prepared(agents, compile=False):
    ensemble = Ensemble(agents, compile=compile)
    ensemble.prepare(batches(), observations())
    return ensemble


def streams():
    """The same generators at each call."""
    made = RandomStreams(len(SEEDS))
    for seed in SEEDS:
        with made[seed]:
            torch.manual_seed(seed)
    return made


class Pair:
    """A team as one program and the same team one by one, each with streams of its own."""

    def __init__(self, name, compile=False, **settings):
        self.together, self.alone = team(name, **settings), team(name, **settings)
        self.learners = prepared(self.together, compile), EagerLearner(self.alone)
        self.streams = streams(), streams()

    def update(self, given=None):
        given = batches() if given is None else given
        results = []
        for learner, own in zip(self.learners, self.streams, strict=True):
            noted = [batch.clone() for batch in given]
            results.append((learner.update(noted, own), noted))
        (ours, noted), (theirs, expected) = results
        for mine, its in zip(ours, theirs, strict=True):
            assert type(mine) is type(its)
            if isinstance(its, FloatingPointError):
                assert str(mine) == str(its)
            else:
                assert_close(mine.to_dict(), its.to_dict(), 1e-10)
        for mine, its in zip(noted, expected, strict=True):
            assert_close(mine.to_dict(), its.to_dict(), 1e-10)
        return ours

    def act(self, size=4):
        seen = observations(size)
        ours, theirs = (
            learner.act([entry.clone() for entry in seen], own)
            for learner, own in zip(self.learners, self.streams, strict=True)
        )
        for mine, its in zip(ours, theirs, strict=True):
            assert_close(mine.to_dict(), its.to_dict(), 1e-10)

    def assert_same(self):
        self.learners[0].synchronize()
        for mine, its in zip(self.together, self.alone, strict=True):
            ours, theirs = mine.state_dict(), its.state_dict()
            assert_close(ours, theirs, 1e-10)
            assert ours["updates"] == theirs["updates"]
            assert ours["target_updater"] == theirs["target_updater"]
        for index in range(len(SEEDS)):
            numbers = []
            for own in self.streams:
                with own[index]:
                    numbers.append(torch.rand(1))
            assert torch.equal(*numbers)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("meow", {}),
        ("td3", {}),
        ("meow", {"average": 0.5, "max_grad_norm": 0.1}),
        ("meow", {"flow": "affine"}),
        ("sac", {"average": 0.5, "max_grad_norm": 0.1}),
    ],
)
@pytest.mark.slow
def test_together_as_alone(name, settings, capfd):
    pair = Pair(name, **settings)
    for _ in range(4):
        pair.update()
        pair.act()
    pair.assert_same()
    # Operations without a rule for vmap warn, and run once for each seed.
    assert "batching rule" not in capfd.readouterr().err


def test_compiled_as_alone(traced_only):
    pair = Pair("meow", compile=True, average=0.5)
    for _ in range(3):
        pair.update()
        pair.act()
    pair.assert_same()


@pytest.mark.slow
def test_before_it_is_prepared_agents_go_on_one_by_one():
    pair = Pair("meow")
    ensemble = Ensemble(pair.together, compile=False)
    pair.learners = ensemble, pair.learners[1]
    pair.update()
    pair.act()
    ensemble.prepare(batches(), observations())
    pair.update()
    pair.act()
    pair.assert_same()


@pytest.mark.slow
def test_preparing_changes_nothing():
    agents = team("sac", average=0.5)
    for agent in agents:
        agent.update(random_batch())
    before = [snapshot(agent) for agent in agents]
    generator = torch.get_rng_state()
    ensemble = Ensemble(agents, compile=False)
    given, seen = batches(), observations()
    torch.set_rng_state(generator)
    ensemble.prepare(given, seen)
    assert torch.equal(torch.get_rng_state(), generator)
    for agent, state in zip(agents, before, strict=True):
        assert not changes(state, agent.state_dict())


@pytest.mark.slow
def test_agents_are_as_they_were_until_they_are_synchronized():
    pair = Pair("meow")
    before = [snapshot(agent) for agent in pair.together]
    pair.update()
    for agent, state in zip(pair.together, before, strict=True):
        assert not changes(state, agent.state_dict())
    pair.learners[0].synchronize()
    for agent, state in zip(pair.together, before, strict=True):
        assert changes(state, agent.state_dict())


@pytest.mark.parametrize("name", ["meow", pytest.param("td3", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_what_is_loaded_after_synchronizing_counts(name):
    pair = Pair(name)
    for _ in range(2):
        pair.update()
    pair.assert_same()
    donor = MAKERS[name](seed=7)
    for _ in range(pair.together[0].updates):
        donor.update(random_batch())
    for agents in (pair.together, pair.alone):
        agents[1].load_state_dict(snapshot(donor))
    for _ in range(3):
        pair.update()
        pair.act()
    pair.assert_same()


@pytest.mark.slow
def test_other_forms_go_on_one_by_one():
    pair = Pair("meow", average=0.5)
    pair.update()
    pair.update(batches(5))
    pair.act(3)
    pair.update()
    pair.act()
    pair.assert_same()


@pytest.mark.slow
def test_learning_rates_that_change_for_all_and_for_one():
    pair = Pair("meow")
    pair.update()
    for count in (2, 1):
        for agents in (pair.together, pair.alone):
            for agent in agents[:count]:
                agent.steps[0].optimizer.param_groups[0]["lr"] *= 0.1
        pair.update()
    pair.assert_same()


@pytest.mark.parametrize("name", ["meow", pytest.param("td3", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_an_update_that_is_not_finite_counts_for_the_others(name):
    """A run that stops was saved with updates [5, 5] and Adam's counts [5, 6]; turns of TD3's
    agents then differ, and they go on one by one."""
    pair = Pair(name, max_grad_norm=0.5)
    pair.update()
    spoilt = batches()
    spoilt[1]["next", "reward"][3] = float("nan")
    before = pair.update(spoilt)
    assert isinstance(before[1], FloatingPointError)
    pair.learners[0].synchronize()
    assert [agent.updates for agent in pair.together] == [2, 1]
    for agent in pair.together:
        counts = [s["step"].item() for s in agent.steps[0].optimizer.state.values()]
        assert set(counts) == {float(agent.updates)}
    for _ in range(3):
        pair.update()
    pair.assert_same()


@pytest.mark.slow
def test_parameters_cast_while_they_are_stacked_are_refused():
    pair = Pair("meow")
    pair.update()
    pair.together[1].loss.float()
    with pytest.raises(RuntimeError, match="was moved, cast or frozen"):
        pair.learners[0].synchronize()


# Agents that differ


def bounded(bounds, seed=0):
    """A flow of one's own whose bounds no representation shows."""
    torch.manual_seed(seed)
    layers = [
        flows.StateScale(ACTION_DIM, OBS_DIM, bounds=bounds),
        flows.TanhSquash(ACTION_DIM),
    ]
    flow = flows.EnergyBasedFlow(flows.StandardNormal(ACTION_DIM), layers, temperature=0.2)
    return of_flow(flow.double())


def split(place, seed=0):
    """SAC whose actor's parameters are divided between its two steps at a place."""
    agent = sac(seed=seed, max_grad_norm=0.1)
    critic, actor = (step.optimizer for step in agent.steps)
    groups = [*critic.param_groups, *actor.param_groups]
    for optimizer, own in ((critic, groups[:place]), (actor, groups[place:])):
        optimizer.param_groups = own
        for group in own:
            group.update(lr=0.01, eps=1e-8)
    return agent


def shifted(shift, seed=0):
    """A behaviour that adds something to its action."""
    agent = meow(seed=seed)
    newest = agent.behavior

    class Shifted(torch.nn.Module):
        in_keys, out_keys = newest.in_keys, newest.out_keys

        def __init__(self):
            super().__init__()
            self.newest = newest

        def forward(self, observation):
            acted = self.newest(observation)
            return acted.set("action", acted["action"] + shift())

    agent.behavior = Shifted()
    return agent


def with_constant(constant, seed=0):
    return shifted(lambda: constant, seed)


def drawing(rows, seed=0):
    return shifted(lambda: torch.randn(rows, ACTION_DIM, dtype=torch.float64), seed)


def permuted(seed):
    torch.manual_seed(seed)
    layers = [
        flows.StateScale(6, OBS_DIM, bounds=(-5.0, -0.3)),
        flows.Permutation(6, torch.randperm(6).tolist()),
        flows.TanhSquash(6),
    ]
    flow = flows.EnergyBasedFlow(flows.StandardNormal(6), layers, temperature=0.2)
    return of_flow(flow.double())


class Scaled(torch.nn.Module):
    """A model whose scale is in a closure, where only what it computes shows it."""

    def __init__(self, scale):
        super().__init__()
        self.model = meow().loss.network.model
        self.q_value = lambda action, observation: scale * self.model.q_value(action, observation)
        self.value = lambda observation: scale * self.model.value(observation)


def scaled(scale):
    model = Scaled(scale)
    loss = SoftBellmanLoss(model)
    loss.make_value_estimator(gamma=0.9)
    steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
    return Agent("own", flows.FlowPolicy(model.model), loss, steps)


def changed(name, **settings):
    return lambda: (MAKERS[name](), MAKERS[name](seed=1, **settings))


def with_attribute(module_of, name, value):
    def make():
        pair = meow(), meow(seed=1)
        setattr(module_of(pair[1]), name, value)
        return pair

    return make


def with_average(decay):
    agent = meow(seed=1, average=decay)
    assert isinstance(agent.target_updaters[1], WeightAverage)
    return agent


DIFFERENT = {
    "bounds": (lambda: (bounded((-5.0, -0.3)), bounded((-5.0, 2.0), 1)), "the loss has"),
    "permutation": (
        lambda: (permuted(0), permuted(1)),
        r"a constant of the loss, of shape \(6,\)",
    ),
    "temperature": (
        with_attribute(lambda agent: agent.loss, "temperature", 3.0),
        r"the loss has '.*0\.5.*' in one, '.*3\.0.*' in another",
    ),
    "mode": (lambda: (meow(), eval_mode(meow(seed=1))), "the loss has"),
    "discount": (changed("meow", gamma=0.5), "a constant of the loss|the loss has"),
    "learning rate": (changed("meow", rate=0.5), "learning rates"),
    "clipping": (changed("sac", max_grad_norm=1.0), r"hyperparameters \(steps\)"),
    "tau": (changed("td3", tau=0.5), r"hyperparameters \(fractions\)"),
    "decay": (lambda: (with_average(0.5), with_average(0.25)), r"hyperparameters \(fractions\)"),
    "class": (lambda: (meow(), sac(seed=1)), "differ in more"),
    "architecture": (lambda: (meow(), meow(seed=1, blocks=2)), "differ in more"),
    "width": (lambda: (meow(), meow(seed=1, hidden=(9,))), "differ in more"),
    "closure": (lambda: (scaled(1.0), scaled(2.0)), r"the loss has"),
    "constant's dtype": (
        lambda: (with_constant(torch.tensor(0.5)), with_constant(torch.tensor(0.5).double(), 1)),
        "differ in more",
    ),
    "random numbers": (
        lambda: (drawing(1), drawing(4, 1)),
        "differ in more than their weights: (the behaviour has|the shapes of the random)",
    ),
    "steps of groups": (
        lambda: (split(1), split(2, 1)),
        "which step or target updater|hyperparameters",
    ),
    "target noise": (lambda: (td3(), noisier(td3(seed=1))), "the loss has"),
}


@pytest.mark.slow
def test_agents_with_constants_that_are_nan_are_alike():
    nan = torch.full((ACTION_DIM,), float("nan"), dtype=torch.float64)
    pair = with_constant(nan), with_constant(nan.clone(), 1)
    Ensemble(pair, compile=False).prepare([random_batch()] * 2, [observed()] * 2)


def eval_mode(agent):
    agent.loss.eval()
    return agent


def noisier(agent):
    agent.loss.policy_noise = 1.0
    return agent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [pytest.param(*case, id=name) for name, case in DIFFERENT.items()],
)
def test_agents_that_differ_in_more_than_their_weights_are_refused(make, message):
    pair = make()
    before = [snapshot(agent) for agent in pair]
    batch = random_batch()
    size = pair[0].behavior(observed())["action"].shape[-1]
    batch["action"] = torch.rand(6, size, dtype=torch.float64)
    with pytest.raises(CompilationError, match=message):
        Ensemble(pair, compile=False).prepare([batch] * 2, [observed()] * 2)
    for agent, state in zip(pair, before, strict=True):
        after = agent.state_dict()
        for part in ("loss", "policy", "behavior"):
            assert not changes(dict(state[part]), dict(after[part]))
