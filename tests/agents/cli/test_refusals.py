"""Words that cannot be understood or done are refused in one sentence, and nothing is written."""

import re

import pytest

from .tiny import contents

HERE = "{here}"  # a folder that the test fills in
RUN = "{run}"  # a finished run in it
TRAIN = ("train", "meow", "--env", "Pendulum-v1")
REFUSED = [
    # what is wrong, and what the sentence says of it
    (("train", "moew"), "Unknown agent 'moew'; known: meow, sac, flow-sac, sql, td3, ddpg, bc,"),
    (("train",), "An agent is missing, as in train meow --env Hopper-v4; known: meow, sac,"),
    (("train", "--env", "Hopper-v4"), "An agent is missing, as in train meow"),
    (("collect",), "collect needs PATH and --out; maxentflow collect --help tells more."),
    (("train", "meow"), "A task is missing; give its id, as in train meow --env Hopper-v4"),
    ((*TRAIN, "--env", "Hoper-v4"), "Unknown task 'Hoper-v4'. Did you mean Hopper-v4"),
    ((*TRAIN, "--env=Hoper-v4"), "Unknown task 'Hoper-v4'. Did you mean Hopper-v4"),
    ((*TRAIN, "--env", ""), "--env is empty"),
    ((*TRAIN, "--env", "nothing/Here-v0"), "Unknown task 'nothing/Here-v0'"),
    ((*TRAIN, "--env", "nothing_here:Task-v0"), "nothing_here"),
    ((*TRAIN, "--env", "CartPole-v1"), "'meow' needs a one-dimensional continuous action space"),
    (("train", "sac", "--env", "CartPole-v1"), "got Discrete(2)"),
    (
        ("train", "soft-q", "--env", "Pendulum-v1"),
        "for continuous actions there are meow, sac,",
    ),
    ((*TRAIN, "--env-kwargs", "gravity", "3"), "unexpected keyword argument 'gravity'"),
    ((*TRAIN, "--env-kwargs", "g", "banana"), "Task 'Pendulum-v1' cannot be used with {'g': "),
    ((*TRAIN, "--env-kwargs", "workers", "True"), "unexpected keyword argument 'workers'"),
    ((*TRAIN, "--env-kwargs", "render_mode", "human"), "env_kwargs cannot have render_mode"),
    ((*TRAIN, "--env-kwargs", "g=3"), "--env-kwargs: names and values in turn are needed"),
    (
        (*TRAIN, "--flow", "adative"),
        "Unknown flow 'adative'; registered: additive, affine, spline",
    ),
    ((*TRAIN, "--flow-options", "blokcs", "3"), "has no option 'blokcs'; its options: blocks"),
    (
        (*TRAIN, "--flow-options", "blocks", str(2**70)),
        "Option 'blocks' of flow 'additive' must be below 10^9, got 1180591620717411303424",
    ),
    (
        (*TRAIN, "--flow-options", "blocks", "1000000"),
        "blocks must be from 1 to 1,000, got 1000000",
    ),
    (
        (*TRAIN, "--shift-hidden", str(2**70)),
        "shift_hidden must be widths of at least 1, below 10^9, got (1180591620717411303424,)",
    ),
    ((*TRAIN, "--flow-options", "blocks", "0"), "blocks must be from 1 to 1,000, got 0"),
    ((*TRAIN, "--flow-options", "blocks", "many"), "'blocks' of flow 'additive' is 2 by default"),
    ((*TRAIN, "--flow-options", "blocks"), "--flow-options"),
    ((*TRAIN, "--flow-options", "hidden", "8,wide"), "is (64, 64) by default, got '8,wide'"),
    (
        (*TRAIN, "--flow-options", "hidden", "999999999999"),
        "hidden' of flow 'additive' must be below 10^9",
    ),
    ((*TRAIN, "--paper", "--heads", "99999999999999999"), "Agent 'meow' cannot be made"),
    ((*TRAIN, "--heads", "2"), "twin needs normalized flows with one head"),
    ((*TRAIN, "--temprature", "3"), "--temprature"),
    ((*TRAIN, "surplus"), "surplus"),
    (("train", "sac", "--env", "Pendulum-v1", "--flow", "affine"), "--flow"),
    ((*TRAIN, "--total-steps", "many"), "--total-steps: a whole number is needed"),
    ((*TRAIN, "--batch-size", "1.5"), "--batch-size: a whole number is needed"),
    ((*TRAIN, "--replay-size", "1e14"), "--replay-size: a whole number is needed"),
    (
        (*TRAIN, "--replay-size", "100000000000000"),
        "not enough memory for a replay of 1000",
    ),
    ((*TRAIN, "--replay-size", "1" + 30 * "0"), "not enough memory for a replay of 1000"),
    ((*TRAIN, "--temperature", "warm"), "--temperature"),
    ((*TRAIN, "--seed"), "--seed"),
    ((*TRAIN, "--temperature", "-1"), "temperature must be in [1e-6, 1e6], got -1.0"),
    ((*TRAIN, "--temperature", "1e-30"), "temperature must be in [1e-6, 1e6], got 1e-30"),
    (("train", "sac", "--env", "Pendulum-v1", "--temperature", "1e9"), "must be in [1e-6, 1e6]"),
    (
        ("train", "soft-q", "--env", "CartPole-v1", "--final-temperature", "inf"),
        "final_temperature must be in [1e-6, 1e6], got inf",
    ),
    ((*TRAIN, "--tau", "7"), "tau must be in (0, 1], got 7.0"),
    ((*TRAIN, "--gamma", "1.5"), "gamma must be in [0, 1], got 1.5"),
    ((*TRAIN, "--heads", "-1"), "heads"),
    ((*TRAIN, "--log-sigma", "1", "0"), "log-sigma must be finite and increasing, got (1.0, 0.0)"),
    ((*TRAIN, "--total-steps", "0"), "total_steps must be at least 1, got 0"),
    ((*TRAIN, "--num-envs", "0"), "num_envs must be at least 1, got 0"),
    ((*TRAIN, "--compile", "maybe"), "'maybe' for argument '--compile'. Expected one of ('auto',"),
    ((*TRAIN, "--seed", "-1"), "seed must be at least 0, got -1"),
    ((*TRAIN, "--seed", "99999999999999999999"), "seed must be below 2**32"),
    ((*TRAIN, "--seeds", "1,one"), "--seeds must be whole numbers and commas, got '1,one'"),
    ((*TRAIN, "--seeds", "1,1"), "--seeds names a seed twice: 1,1"),
    ((*TRAIN, "--seeds", "1,2", "--seed", "3"), "Give --seed or --seeds, not both"),
    ((*TRAIN, "--device", "nonsense"), "Device 'nonsense' cannot be used"),
    ((*TRAIN, "--device", "cuda:77"), "Device 'cuda:77' cannot be used"),
    ((*TRAIN, "--device", "meta"), "Device 'meta' cannot be used"),
    ((*TRAIN, "--device", "vulkan"), "Device 'vulkan' cannot be used"),
    ((*TRAIN, "--threads", "100000"), "threads must be between 1 and 1024, got 100000"),
    ((*TRAIN, "--run-dir", ""), "--run-dir is empty"),
    ((*TRAIN, "--run-dir="), "--run-dir is empty"),
    ((*TRAIN, "--run-dir", " "), "--run-dir is empty"),
    ((*TRAIN, "--run-dir", "~nobody-of-that-name/q"), "no home folder ~nobody-of-that-name, of ~"),
    ((*TRAIN, "--run-dir=~nobody-of-that-name/q"), "no home folder ~nobody-of-that-name, of ~"),
    ((*TRAIN, "--run-dir", "x" * 300), "x/config.yaml: File name too long"),
    (("compare", RUN, "--out", ""), "--out is empty"),
    (("compare", RUN, "--out", "no/table.csv"), "Cannot write the table no/table.csv: no is no f"),
    (("plot", RUN, "--out", "no/a.png"), "Cannot write the figure no/a.png: no is no folder."),
    (("evaluate", ""), "A word is empty"),
    ((*TRAIN, "--run-dir", RUN), "holds a run already"),
    ((*TRAIN, "--run-dir", f"{RUN}/config.yaml"), "Cannot make the run folder"),
    ((*TRAIN, "--run-dir", "/proc/run"), "Cannot make the run folder /proc/run"),  # read-only
    ((*TRAIN, "--replay-size", "100", "--total-steps", "20"), "replay_size"),
    (("train", "ppo", "--env", "Pendulum-v1", "--warmup-steps", "5"), "warmup_steps must be 0"),
    (("train", "--resume"), "--resume"),
    (("train", "--resume", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("train", f"--resume={HERE}/nowhere"), "nowhere is not a run folder"),
    (("compare", RUN, "--threshold", "nan"), "threshold must be finite, got nan."),
    (("train", "--resume", RUN), "run has 60 steps already; give a larger --total-steps"),
    (("train", "--resume", RUN, "--total-steps", "60"), "run has 60 steps already"),
    (("train", "--resume", RUN, "--total-steps", "0"), "total_steps must be at least 1, got 0"),
    (("train", "sac", "--resume", RUN), "run is a run of 'meow', not of 'sac'"),
    (("train", "--resume", RUN, "--seed", "3"), "--seed"),
    (("train", "--resume", RUN, RUN, "--total-steps", "90"), "--resume names a run twice"),
    (("evaluate",), "evaluate needs PATH; maxentflow evaluate --help"),
    (("evaluate", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("evaluate", RUN, "--episodes", "0"), "episodes must be at least 1, got 0"),
    (("evaluate", RUN, "--episodes", "few"), "--episodes: a whole number is needed"),
    (("evaluate", RUN, "--max-steps", "0"), "max_steps must be at least 1, got 0"),
    (("evaluate", RUN, "--seed", "-1"), "seed must be at least 0, got -1"),
    (("evaluate", RUN, "--seed", "99999999999999999999"), "seed must be below 2**32"),
    (("evaluate", RUN, "--speed", "3"), "--speed"),
    (("evaluate", RUN, "--video", f"{HERE}/nowhere/film.mp4"), "nowhere is no folder"),
    (("evaluate", RUN, "--video", "/proc/film.mp4"), "Cannot write the video /proc/film.mp4: No"),
    (("evaluate", RUN, "--video", f"{RUN}/config.yaml/film.mp4"), "config.yaml is no folder"),
    (("evaluate", RUN, "--video", f"{HERE}/film"), "The video must be a file ending in .mp4"),
    (("evaluate", RUN, "--video", HERE), "The video must be a file ending in .mp4"),
    (("plot",), "at least one run folder"),
    (("plot", f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("plot", RUN, f"{HERE}/nowhere"), "nowhere is not a run folder"),
    (("plot", RUN, "--out", HERE), "Cannot write the figure"),
    (("plot", RUN, "--out", f"{RUN}/config.yaml/curves.png"), "Cannot write the figure"),
    (("plot", RUN, "--out", f"{HERE}/curves.nonsense"), "Cannot write the figure"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED]
)
def test_wrong_input_is_refused_in_one_sentence(
    run, tmp_path, monkeypatch, refused, arguments, says
):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    filled = [word.replace(HERE, str(tmp_path)).replace(RUN, str(run)) for word in arguments]
    sentence = refused(*filled)
    assert says in sentence
    assert not re.search(r"-{3,}|[─│╭╯]", sentence)  # a sentence, not a box
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_no_folder_is_made_if_that_of_another_seed_is_taken(run, tmp_path, refused):
    taken = run.rename(tmp_path / "seed-1")
    sentence = refused(*TRAIN, "--seeds", "0,1", "--run-dir", tmp_path)
    assert "seed-1 holds a run already" in sentence
    assert list(tmp_path.iterdir()) == [taken]
