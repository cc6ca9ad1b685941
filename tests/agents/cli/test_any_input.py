"""Any words and any settings: done, or refused in one sentence, and never a traceback."""

import contextlib
import dataclasses
import functools
import io
import os
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maxentflow.agents import TrainerConfig, registry
from maxentflow.agents.cli import main
from maxentflow.agents.cli.completion import options_of
from maxentflow.agents.cli.dispatch import _COMMANDS

from .tiny import PROBE, without_progress

CASES = int(os.environ.get("MAXENTFLOW_CASES", "1000"))
"""How many: three quarters of them settings, the others command lines."""

COSTLY = {"num_envs", "hidden", "mean_hidden", "threads", "flow_options", "workers"}
"""Settings of which a large value takes the memory or the time that it asks for."""

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
small = st.one_of(st.integers(-1, 3), st.sampled_from([10**30, "x", "", "1.5", "None"]))


def fields(agent):
    config, trainer = registry.config_type(agent), TrainerConfig
    return [field.name for kind in (config, trainer) for field in dataclasses.fields(kind)]


@st.composite
def lines(draw):
    agent = draw(st.sampled_from(registry.registered()))
    words = ["train", agent, "--env", PROBE]
    for name in draw(st.lists(st.sampled_from(fields(agent)), max_size=3, unique=True)):
        value = draw(small if name in COSTLY else st.one_of(numbers, texts))
        words += [f"--{name.replace('_', '-')}", str(value)]
    if draw(st.booleans()) and draw(st.booleans()):
        words.insert(draw(st.integers(0, len(words))), draw(texts))
    return words


options = functools.cache(options_of)


@st.composite
def lines_of_other_commands(draw):
    command = draw(st.sampled_from([name for name in _COMMANDS if name != "train"]))
    values = st.one_of(places, numbers.map(str))
    words = [command, *draw(st.lists(values, max_size=2))]
    for flag in draw(st.lists(st.sampled_from(options(command)), max_size=3, unique=True)):
        words += [flag, *draw(st.lists(values, max_size=2))]
    return words


@pytest.fixture(scope="module", autouse=True)
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
def test_training(tmp_path_factory, words):
    check(words, tmp_path_factory)


@cases(CASES * 3 // 20)
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
    said = without_progress(error.getvalue())
    assert code in (0, 2), (words, said)
    if code == 2:
        assert said.startswith("maxentflow: "), (words, said)
        assert said.count("\n") == 1, (words, said)
        assert len(said) < 600, (words, said)
