"""Any words and any settings: done, or refused in one sentence, and never a traceback."""

import contextlib
import dataclasses
import functools
import io
import os
import random
import shutil
from typing import get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maxentflow.agents import TrainerConfig, registry
from maxentflow.agents.cli import main
from maxentflow.agents.cli.completion import options_of
from maxentflow.agents.cli.dispatch import _COMMANDS

from .tiny import PROBE, SMALL, without_progress, words

CASES = int(os.environ.get("MAXENTFLOW_CASES", "1000"))
"""How many: three quarters of them settings, the others command lines, some of which train."""

COSTLY = {"num_envs", "hidden", "mean_hidden", "threads", "flow_options", "workers"}
"""Settings of which a large value takes the memory or the time that it asks for."""
LONG = {*COSTLY, "total_steps", "actors", "dataset"}
"""Settings that are left alone where a run begins."""

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**63, 2**64, 1e14, 1e23, 1e-30, 1e308, -0.0]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", " ", "None", "True", "nan", "inf", "auto", "cpu", "meta", "cuda", "--"]),
)
places = texts.filter(lambda text: not {"/", ".", "~"} & {*text})
"""Without those that lead out of the present folder."""
anything = st.one_of(numbers, texts)
extremes = st.sampled_from([1e-30, -1e308, float("nan"), float("inf"), -0.0])
small = st.one_of(st.integers(-1, 3), st.sampled_from([10**30, "x", "", "1.5", "None"]))


@functools.cache
def options(command):
    """What the help names. Its styles have random names, of which Hypothesis would warn."""
    state = random.getstate()
    try:
        return options_of(command)
    finally:
        random.setstate(state)


def name_of(flag):
    return flag.removeprefix("--").removeprefix("no-").replace("-", "_")


@st.composite
def lines(draw):
    agent = draw(st.sampled_from(registry.registered()))
    words = ["train", agent, "--env", PROBE]
    flags = [*options(f"train {agent}"), "--resume"]
    for flag in draw(st.lists(st.sampled_from(flags), max_size=3, unique=True)):
        of_places = name_of(flag) in {"run_dir", "resume", "import", "env"}
        value = small if name_of(flag) in COSTLY else places if of_places else anything
        words += [flag, *map(str, draw(st.lists(value, min_size=1, max_size=2)))]
        if draw(st.booleans()):
            words.pop()
    if draw(st.booleans()) and draw(st.booleans()):
        words.insert(draw(st.integers(0, len(words))), draw(texts))
    return words


@st.composite
def lines_of_small_runs(draw):
    """Runs of a second, but for up to two settings whose values are mostly of the right kind."""
    agent = draw(st.sampled_from(sorted(SMALL.keys() - {"bc"})))  # which needs a data set
    env = PROBE if "continuous" in registry.summaries()[agent].actions else "CartPole-v1"
    command = words(None, agent, env=env, total_steps=40, eval_every=20)
    configs = registry.config_type(agent), TrainerConfig
    hints = {name: hint for kind in configs for name, hint in get_type_hints(kind).items()}
    known = [each.name for kind in configs for each in dataclasses.fields(kind)]
    names = st.sampled_from([name for name in known if name not in LONG])
    for name in draw(st.lists(names, min_size=1, max_size=2, unique=True)):
        kinds = {*get_args(hints[name]), hints[name]}
        large = st.just(1.0 if name == "utd_ratio" else 1e30)
        rates = st.one_of(st.floats(0.0, 2.0), st.floats(0.0, 1.0), extremes, large)
        value = rates if float in kinds else st.integers(0, 3) if int in kinds else texts
        command += [f"--{name.replace('_', '-')}"]
        command += [str(draw(value))] if bool not in kinds else []
    return [*command, "--run-dir", draw(st.sampled_from(["run", "a run", "a/run", "run.d"]))]


@st.composite
def lines_of_other_commands(draw):
    command = draw(st.sampled_from([name for name in _COMMANDS if name != "train"]))
    values = st.one_of(places, numbers.map(str))
    words = [command, *draw(st.lists(values, max_size=2))]
    for flag in draw(st.lists(st.sampled_from(options(command)), max_size=3, unique=True)):
        words += [flag, *draw(st.lists(values, max_size=2))]
    return words


@pytest.fixture(scope="module")
def nothing_is_trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxentflow.agents.cli.train._train", lambda runs: None)
        yield


def cases(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize="MAXENTFLOW_CASES" not in os.environ,  # else other cases each time
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def settings_of_an_agent(draw):
    kind = draw(
        st.sampled_from([*map(registry.config_type, registry.registered()), TrainerConfig])
    )
    chosen = st.lists(st.sampled_from(dataclasses.fields(kind)), min_size=1, max_size=3)
    drawn = {}
    for field in draw(chosen):
        if "str" in field.type or "Literal" in field.type:
            drawn[field.name] = draw(texts)
        elif isinstance(field.default, tuple):
            drawn[field.name] = tuple(draw(st.lists(numbers, max_size=3)))
        else:
            drawn[field.name] = draw(numbers)
    return kind, drawn


@cases(CASES * 3 // 4)
@given(settings_of_an_agent())
def test_settings(drawn):
    kind, values = drawn
    try:
        kind(**values)
    except ValueError as error:
        said = str(error)
        assert said.endswith("."), (kind, values, said)
        assert "\n" not in said, (kind, values, said)
        assert len(said) < 600, (kind, values, said)


@cases(CASES // 10)
@example(["train", "sac", "--env", PROBE, "--replay-size", "1e14"])
@example(["train", "sac", "--env", PROBE, "--seed", str(2**70)])
@example(["train", "sac", "--env", PROBE, "--device", "privateuseone"])
@example(["train", "sac", "--env", PROBE, "--num-envs", str(10**30)])
@given(lines())
@pytest.mark.usefixtures("nothing_is_trained")
def test_training(tmp_path_factory, words):
    check(words, tmp_path_factory)


@cases(CASES // 20)
@given(lines_of_small_runs())
def test_runs(tmp_path_factory, words):
    check(words, tmp_path_factory)


@cases(CASES // 10)
@given(lines_of_other_commands())
def test_other_commands_without_a_run(tmp_path_factory, words):
    check(words, tmp_path_factory)


def check(words, tmp_path_factory):
    place = tmp_path_factory.mktemp("any")
    error = io.StringIO()
    code = 0
    with (
        contextlib.chdir(place),
        contextlib.redirect_stderr(error),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code or 0
    shutil.rmtree(place)
    lines = without_progress(error.getvalue()).splitlines(keepends=True)
    said = "".join(line for line in lines if not line.startswith("Warning: "))
    assert code in (0, 2), (words, said)
    if code == 2:
        assert said.startswith("maxentflow: "), (words, said)
        assert said.count("\n") == 1, (words, said)
        assert len(said) < 600, (words, said)
