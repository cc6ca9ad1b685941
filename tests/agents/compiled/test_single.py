"""One agent's compiled learner: acting, forms, and torch's compiler itself."""

import os
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import AdditiveGaussianModule

from maxentflow import flows
from maxentflow.agents import compiled
from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled import CompiledLearner, Ensemble, single
from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.learner import CompilationError, EagerLearner, RandomStreams

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
    td3,
)

pytestmark = pytest.mark.xdist_group("compile")  # one after the other, sharing what is compiled
STREAMS = RandomStreams(1)


def prepared(agent, dtype=torch.float64):
    learner = CompiledLearner(agent)
    learner.prepare([random_batch(dtype=dtype)], [observed(dtype=dtype)])
    return learner


def act(learner, observation, seed=0):
    torch.manual_seed(seed)
    (acted,) = learner.act([observation.clone()], STREAMS)
    return acted.to_dict(), torch.rand(1)


def assert_acts_alike(learner, agent, observation):
    ours, after = act(learner, observation)
    theirs, expected_after = act(EagerLearner([agent]), observation)
    assert_close(ours, theirs, 1e-10)
    assert torch.equal(after, expected_after)
    return ours


# Who it is


def test_who_learns():
    agents = [meow(), meow(seed=1)]
    assert type(compiled.learner(agents[:1], compile=False)) is EagerLearner
    assert type(compiled.learner(agents[:1], compile=True)) is CompiledLearner
    assert type(compiled.learner(agents, compile=False)) is Ensemble
    with pytest.raises(ValueError, match="at least one agent"):
        compiled.learner([], compile=False)


def test_before_it_is_prepared_it_is_the_agent():
    agent, plain = meow(), meow()
    learner, other = CompiledLearner(agent), EagerLearner([plain])
    for each in (learner, other):
        torch.manual_seed(0)
        each.act([observed()], STREAMS)
        each.update([random_batch()], STREAMS)
        each.synchronize()
    assert not changes(agent.state_dict(), plain.state_dict())


# Acting


@pytest.mark.parametrize(
    "name", ["meow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sac", "td3"))]
)
def test_all_that_the_behaviour_writes(traced_only, name):
    agent = MAKERS[name]()
    learner = prepared(agent)
    observation = observed()
    first = assert_acts_alike(learner, agent, observation)
    assert torch.equal(first["observation"], observation["observation"])
    assert set(first) == set(agent.act(observation.clone()).keys())
    for _ in range(2):
        learner.update([random_batch()], STREAMS)  # what acts is the newest policy
    second = assert_acts_alike(learner, agent, observation)
    assert (first["action"] - second["action"]).abs().max() > 1e-4


@pytest.mark.slow
def test_observations_are_written_to(traced_only):
    learner = prepared(meow())
    observation = observed()
    (acted,) = learner.act([observation], STREAMS)
    assert acted is observation
    assert acted["action"].shape == (4, ACTION_DIM)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda td: td.set("observation", td["observation"].T.contiguous().T),
            id="turned",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda td: td.set("hint", torch.zeros(4)), id="more", marks=pytest.mark.slow),
        pytest.param(lambda td: td[:3], id="fewer"),
    ],
)
@pytest.mark.slow
def test_observations_of_another_form_go_to_the_agent(traced_only, monkeypatch, change):
    agent = meow()
    learner = prepared(agent)
    monkeypatch.setattr(CompiledActing, "__call__", None)
    assert_acts_alike(learner, agent, change(observed()))


class Noise(nn.Module):
    """Adds noise whose scale is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sigma", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, action):
        return action + self.sigma * torch.randn_like(action)


def with_noise(noise):
    agent = td3()
    behavior = TensorDictSequential(agent.policy, noise)
    return Agent("td3", agent.policy, agent.loss, agent.steps, behavior=behavior)


@pytest.mark.slow
def test_buffers_of_the_behaviour_count_as_they_are(traced_only):
    """Also changed behind autograd's back, as TorchRL's modules anneal their noise."""
    noise = Noise()
    agent = with_noise(TensorDictModule(noise, in_keys=["action"], out_keys=["action"]))
    learner = prepared(agent)
    assert learner._acting is not None
    observation = observed()
    first = assert_acts_alike(learner, agent, observation)
    noise.sigma.data.fill_(0.0)
    second = assert_acts_alike(learner, agent, observation)
    assert (first["action"] - second["action"]).abs().max() > 1e-3


@pytest.mark.slow
def test_a_behaviour_that_cannot_be_traced_acts_as_it_is(traced_only):
    spec = Bounded(-1.0, 1.0, (ACTION_DIM,), dtype=torch.float64)
    agent = with_noise(AdditiveGaussianModule(spec, sigma_init=0.3, sigma_end=0.3))
    learner = prepared(agent)
    assert_acts_alike(learner, agent, observed())
    (report,) = learner.update([random_batch()], STREAMS)
    assert report["loss_qvalue"].isfinite()


# The compiler


def gaussian(*, seed=0, dtype=torch.float32, **settings):
    """MEow of a Gaussian, a fifth of the code of one with couplings."""
    torch.manual_seed(seed)
    layers = [
        flows.StateScale(ACTION_DIM, OBS_DIM, hidden=(8,)),
        flows.TanhSquash(ACTION_DIM),
    ]
    shift = flows.RewardShift(OBS_DIM, 2, hidden=(8,))
    base = flows.StandardNormal(ACTION_DIM)
    flow = flows.EnergyBasedFlow(base, layers, temperature=0.5, shift=shift).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return of_flow(flow, **settings)


@pytest.mark.parametrize(
    ("make", "threads"),
    [
        pytest.param(gaussian, 1, id="gaussian"),
        pytest.param(partial(meow, flow="additive"), 1, id="additive"),
        pytest.param(partial(meow, flow="affine"), 2, id="affine"),
    ],
)
@pytest.mark.slow
def test_updates_and_actions_by_the_compiler_agree(make, threads):
    """Affine coupling writes into latents that are expanded, one copy for each head's mask, and
    the gradient of what it selects once wrote outside its buffer where there were two threads."""
    torch.set_num_threads(threads)  # one, as ever, in the next test
    made = [make(dtype=torch.float32, average=0.5, max_grad_norm=1.0, rate=1e-3) for _ in range(2)]
    learner = prepared(made[0], torch.float32)
    for seed in range(6):
        batch, observation = random_batch(dtype=torch.float32), observed(dtype=torch.float32)
        results = []
        for each in (learner, EagerLearner(made[1:])):
            torch.manual_seed(seed)
            (report,), (acted,) = (
                each.update([batch.clone()], STREAMS),
                each.act([observation.clone()], STREAMS),
            )
            results.append({**report.to_dict(), **acted.to_dict()})
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert_close(dict(made[0].loss.state_dict()), dict(made[1].loss.state_dict()), 1e-4)


WITHOUT_COMPILER = """
import torch
from maxentflow.agents import compiled
from maxentflow.agents.learner import CompilationError, RandomStreams
from tests.agents.compiled.common import changes, meow, observed, random_batch

agent, plain = meow(), meow()
learner = compiled.learner([agent], compile=True)
try:
    learner.prepare([random_batch()], [observed()])
except CompilationError as error:
    print(error)
for each in (learner, compiled.learner([plain], compile=False)):
    torch.manual_seed(0)
    each.update([random_batch()], RandomStreams(1))
print(changes(agent.state_dict(), plain.state_dict()))
"""


@pytest.mark.slow
def test_without_a_compiler(tmp_path):
    """In a process of its own, since torch remembers what compiler it found."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        env={
            **os.environ,
            "CXX": "/no/such/compiler",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "nothing compiled yet"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    line, different = run.stdout.splitlines()
    assert line.startswith("The update of meow was not compiled: No working C++ compiler found")
    assert different == "[]"


def test_what_the_compiler_says_is_told(monkeypatch):
    """Torch puts it after the command line, which is long."""
    said = "C++ compile error\n\nCommand:\ng++ -O3\n\nOutput:\ng++: fatal error: no input\nEnd."
    monkeypatch.setattr(single.CompiledUpdate, "compile", Mock(side_effect=RuntimeError(said)))
    message = "^The update of meow was not compiled: C[+][+] compile error: g[+][+]: fatal error: "
    with pytest.raises(CompilationError, match=f"{message}no input[.]$"):
        prepared(meow())


def test_a_mistake_of_the_loss_is_told_in_one_sentence(traced_only):
    agent = meow()
    agent.loss.set_keys(action="deed")
    with pytest.raises(CompilationError, match=r"^The update of meow was not compiled: [^\n]*\.$"):
        prepared(agent)
