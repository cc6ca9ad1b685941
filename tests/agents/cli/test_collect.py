"""``maxentflow collect`` by what it writes, and a clone of that."""

import numpy as np
import torch

from maxentflow import agents, envs
from maxentflow.agents.cli import main
from maxentflow.agents.training import collect

TASK = "Pendulum-v1"


def test_from_the_command_line_and_cloned(tmp_path, capsys, monkeypatch, refused):
    monkeypatch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "8", "--total-steps", "40", "--eval-every", "0"]
    main(["train", "sac", "--env", TASK, "--warmup-steps", "30", "--run-dir", "expert", *small])
    capsys.readouterr()
    main(["collect", "expert", "--out", "steps.npz", "--episodes", "2", "--seed", "7"])
    said = capsys.readouterr().out
    assert said.startswith(f"steps.npz: 2 episodes of {TASK}, 400 steps, mean return -")
    agent = agents.make("sac", envs.make(TASK), hidden=(8,))
    agent.load_state_dict(agents.RunFolder("expert").load_checkpoint())
    recorded = collect(agent.policy, TASK, episodes=2, seed=7)
    with np.load("steps.npz") as arrays:
        np.testing.assert_array_equal(arrays["action"], torch.cat([e["action"] for e in recorded]))
    main(["train", "bc", "--env", TASK, "--dataset", "steps.npz", "--run-dir", "clone", *small])
    for words, sentence in (
        (("--out", "steps.npz"), "steps.npz exists already."),
        (
            ("--out", "nowhere/steps.npz"),
            "Cannot write the data set nowhere/steps.npz: nowhere is no folder.",
        ),
        (("--out", "a.npz", "--episodes", "0"), "episodes must be at least 1, got 0."),
        (("--out", "a.npz", "--seed", "-1"), "seed must be at least 0, got -1."),
    ):
        assert refused("collect", "expert", *words) == sentence
