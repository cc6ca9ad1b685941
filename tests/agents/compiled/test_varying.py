"""Compiled updates and actions while running scales move between them."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from maxentflow import agents, envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled import CompiledLearner, Ensemble, learner
from maxentflow.agents.compiled.watch import varying
from maxentflow.agents.learner import CompilationError, EagerLearner, RandomStreams
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss, WeightAverage

from .common import assert_close, changes, in_double, meow, snapshot

pytestmark = pytest.mark.xdist_group("compile")
TASK, OBS_DIM, ACTION_DIM = "maxentflow/MultiGoal-v0", 2, 2


def default(seed=0, **settings):
    """MEow as it is by default, in double precision."""
    with in_double(seed):
        return agents.make("meow", envs.make(TASK), **settings)


def tiny(seed=0):
    """The same parts around a Gaussian, which is traced in a second."""
    with in_double(seed):
        flow = flows.EnergyBasedFlow(
            flows.StandardNormal(ACTION_DIM),
            [flows.StateScale(ACTION_DIM, OBS_DIM, hidden=(8,)), flows.TanhSquash(ACTION_DIM)],
            temperature=flows.LearnedTemperature(0.1),
            shift=flows.RewardShift(OBS_DIM, 2, hidden=(8,), init="orthogonal"),
            normalized=True,
        )
        norm, returns = flows.ObservationNorm(OBS_DIM), flows.ReturnScale()
    model = flows.NormalizedModel(flow, norm, returns)
    loss = SoftBellmanLoss(model, target_entropy=-1.0)
    loss.make_value_estimator(gamma=0.875)
    newest = flows.FlowPolicy(model, raw_action_key="raw_action")
    average = WeightAverage(newest, 0.5)
    log_alpha = flow.temperature_module.log_alpha
    weights = [p for p in loss.parameters() if p is not log_alpha]
    return Agent(
        name="tiny",
        policy=average.module,
        behavior=newest,
        loss=loss,
        steps=[
            Step(("loss",), torch.optim.Adam(weights, lr=0.01), max_grad_norm=1.0),
            Step(("loss_alpha",), torch.optim.Adam([log_alpha], lr=0.02)),
        ],
        target_updaters=[PolyakUpdate(loss, tau=0.25), average],
        state={"observations": norm, "returns": flows.DiscountedReturns(returns, 0.875)},
    )


def step_of(size=4, scale=1.0):
    """A step of some environments, such as :meth:`Agent.observe` takes in."""
    kind = torch.arange(size)[:, None] % 3
    return TensorDict(
        observation=scale * torch.randn(size, OBS_DIM, dtype=torch.float64) + scale,
        action=torch.rand(size, ACTION_DIM, dtype=torch.float64) * 1.6 - 0.8,
        next=TensorDict(
            observation=torch.randn(size, OBS_DIM, dtype=torch.float64),
            reward=scale * torch.randn(size, 1, dtype=torch.float64),
            done=kind > 0,
            terminated=kind == 1,
            batch_size=[size],
        ),
        batch_size=[size],
    )


def batch_of(size=6):
    """A batch as the agent's replay gives it."""
    batch = step_of(size)
    batch["raw_action"] = torch.atanh(batch["action"])
    return batch


def seen(size=4):
    observation = torch.randn(size, OBS_DIM, dtype=torch.float64)
    return TensorDict(observation=observation, batch_size=[size])


def move(*teams, scale):
    """All agents of one place take in the same step, those of another place another."""
    for place in zip(*teams, strict=True):
        step = step_of(scale=scale)
        for agent in place:
            agent.observe(step.clone())


SCALES = 1.0, 30.0, 1e-2, 1e3
"""Of what is observed between updates: the scales move by orders of magnitude."""


class Noted(CompiledLearner):
    """Says which updates and actions were traced ones."""

    def __init__(self, agent, batch, observation):
        super().__init__(agent)
        self.traced = []
        self.prepare([batch], [observation])
        self._agents_own, agent.update = agent.update, self._uncompiled
        inner = self._acting.takes
        self._acting.takes = lambda given: self._note(inner(given))

    def update(self, batches, streams):
        self._note(True)
        return super().update(batches, streams)

    def _uncompiled(self, batch):
        self.traced[-1] = False
        return self._agents_own(batch)

    def _note(self, traced):
        self.traced.append(traced)
        return traced


def assert_goes_on_alike(ours, theirs, scales=SCALES, tolerance=1e-10):
    """Updates and actions of two learners, each with its agents, while the scales move."""
    (one, own), (other, plain) = ours, theirs
    streams = [RandomStreams(len(own)) for _ in range(2)]
    for each in streams:
        for index in range(len(own)):
            with each[index]:
                torch.manual_seed(index)
    for scale in scales:
        move(own, plain, scale=scale)
        given, shown = [batch_of() for _ in own], [seen() for _ in own]
        reports, acted, noted = [], [], []
        for index, each in enumerate((one, other)):
            batches = [batch.clone() for batch in given]
            if len(own) == 1:
                torch.manual_seed(3)
            reports.append([r.to_dict() for r in each.update(batches, streams[index])])
            noted.append([batch.to_dict() for batch in batches])
            observations = [entry.clone() for entry in shown]
            acted.append([a.to_dict() for a in each.act(observations, streams[index])])
        for pair in (reports, noted, acted):
            for mine, its in zip(*pair, strict=True):
                assert_close(mine, its, tolerance)
        assert all("raw_action" in each for each in acted[0])
    one.synchronize()
    for mine, its in zip(own, plain, strict=True):
        assert mine.updates == its.updates == len(scales)
        assert_close(mine.state_dict(), its.state_dict(), tolerance)


def test_the_buffers_that_vary_are_those_of_modules_in_the_agents_state():
    agent = tiny()
    norm, returns = agent.state["observations"], agent.state["returns"].scale
    own = {id(buffer) for buffer in (*norm.buffers(), *returns.buffers())}
    agent.state = {**agent.state, "again": nn.Sequential(norm)}
    found = [id(buffer) for buffer in varying(agent)]
    assert len(found) == len(own)
    assert set(found) == own
    assert varying(meow()) == []


@pytest.mark.slow
def test_updates_and_actions_follow_the_scales(as_traced):
    """None goes on uncompiled, and none is of the scales that were traced."""
    agent, plain = (default(flow_options={"blocks": 1}) for _ in range(2))
    move([agent], [plain], scale=5.0)
    prepared = Noted(agent, batch_of(), seen())
    assert_goes_on_alike((prepared, [agent]), (EagerLearner([plain]), [plain]))
    assert prepared.traced == [True] * (2 * len(SCALES))


def test_compiled_code_takes_them_as_arguments_too(traced_only):
    """Prepared before the first observation, when they are what is assumed then."""
    agent, plain = tiny(), tiny()
    prepared = Noted(agent, batch_of(), seen())
    assert_goes_on_alike((prepared, [agent]), (EagerLearner([plain]), [plain]))
    assert all(prepared.traced)


def test_preparing_and_updating_leave_the_scales_alone_and_what_is_loaded_counts(as_traced):
    agent, plain, donor = tiny(), tiny(), tiny(seed=7)
    for each in (agent, plain, donor):
        each.observe(step_of())
    before, batch = snapshot(agent), batch_of()
    agent.loss(batch.clone())  # which makes its value estimator when it is called first
    prepared = Noted(agent, batch, seen())
    prepared.update([batch], RandomStreams(1))
    after = agent.state_dict()
    assert not changes(before["state"], after["state"])
    moved = " ".join(changes(before["loss"], after["loss"]))
    assert "network_params" in moved
    assert "observations" not in moved
    assert "returns" not in moved

    donor.observe(step_of(scale=100.0))
    for each in (agent, plain):
        each.load_state_dict(snapshot(donor))
    prepared.synchronize()
    assert_goes_on_alike((prepared, [agent]), (EagerLearner([plain]), [plain]), (3.0, 0.1))
    assert all(prepared.traced)


@pytest.mark.slow
def test_other_buffers_of_the_loss_are_constants_as_ever(as_traced):
    """Scales that are not in the agent's state: where they move, updates go on uncompiled."""

    def still(seed=0):
        agent = tiny(seed)
        agent.state = {}
        return agent

    agent, plain = still(), still()
    assert varying(agent) == []
    prepared = Noted(agent, batch_of(), seen())
    streams = RandomStreams(1)
    for scale in (None, 30.0):
        if scale is not None:
            step = step_of(scale=scale)
            for each in (agent, plain):
                each.loss.observations.observe(step)
            prepared.synchronize()
        batch, reports = batch_of(), []
        for each in (prepared, EagerLearner([plain])):
            torch.manual_seed(0)
            reports.append(each.update([batch.clone()], streams)[0].to_dict())
        assert_close(*reports, 1e-10)
    assert prepared.traced == [True, False]


class Counting(flows.ObservationNorm):
    """Also counts what the loss looks at."""

    def forward(self, observation):
        self.count.add_(1)
        return super().forward(observation)


def test_a_loss_that_writes_into_them_is_refused():
    agent = tiny()
    counting = Counting(OBS_DIM).double()
    agent.loss.observations = counting
    agent.state = {**agent.state, "observations": counting}
    agent.observe(step_of())
    before = [buffer.clone() for buffer in counting.buffers()]
    with pytest.raises(CompilationError, match="its loss writes into its buffers"):
        CompiledLearner(agent).prepare([batch_of()], [seen()])
    assert all(map(torch.equal, counting.buffers(), before))


# Several as one program


@pytest.mark.parametrize("make", [tiny, pytest.param(default, marks=pytest.mark.slow)])
@pytest.mark.quick_for("tiny")
@pytest.mark.slow
def test_several_agents_follow_each_its_own_scales(make):
    """Which differ when they are prepared: they are not constants in which agents differ."""
    together, alone = ([make(seed) for seed in (0, 1)] for _ in range(2))
    move(together, alone, scale=5.0)
    means = [agent.state["observations"].mean for agent in together]
    assert not torch.equal(*means)
    as_one = learner(together, compile=False)
    assert isinstance(as_one, Ensemble)
    as_one.prepare([batch_of(), batch_of()], [seen(), seen()])
    as_one._alone = None  # none goes on alone
    assert_goes_on_alike((as_one, together), (EagerLearner(alone), alone))
