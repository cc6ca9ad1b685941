"""stable-baselines3's agents, trained and evaluated as ours are.

    pip install stable-baselines3
    python benchmarks/peers.py ALGORITHM ENV SEED STEPS FOLDER

Writes metrics.csv while it trains, with ten episodes of the mode every 5,000 steps, and model.zip
at the end. One thread. The library's own settings, but for what its documentation recommends for
MuJoCo: noise of 0.1 for the deterministic agents, and as many random steps as ours take.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.utils import ExplorationType, exploration_type

from maxentflow import envs
from maxentflow.agents import evaluate

EVERY, EPISODES, WARMUP = 5_000, 10, 5_000


class Policy(TensorDictModuleBase):
    """A model of stable-baselines3, with actions rescaled to [-1, 1]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation"], ["action"]
        self._model = [model]  # a list, since it is no module of torch
        self._low, self._high = model.action_space.low, model.action_space.high

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict["observation"].numpy()
        mode = exploration_type() == ExplorationType.DETERMINISTIC
        action, _ = self._model[0].predict(observation, deterministic=mode)
        scaled = 2 * (action - self._low) / (self._high - self._low) - 1
        return tensordict.set("action", torch.as_tensor(scaled, dtype=torch.float32))


def algorithm(name: str) -> Any:
    import stable_baselines3

    return getattr(stable_baselines3, name.upper())


def is_over(folder: Path) -> bool:
    return (folder / "model.zip").exists()


def policy(name: str, task: str, folder: Path) -> Policy:
    """The last policy of a run."""
    return Policy(algorithm(name).load(folder / "model.zip", device="cpu"))


def evaluation_env(task: str) -> Any:
    return envs.make(task, num_envs=10)


def train(name: str, task: str, seed: int, steps: int, folder: Path) -> None:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    torch.set_num_threads(1)
    options: dict[str, Any] = {} if name == "ppo" else {"learning_starts": WARMUP}
    if name in ("td3", "ddpg"):
        size = envs.make(task).single_action_space.shape[0]
        options["action_noise"] = NormalActionNoise(np.zeros(size), 0.1 * np.ones(size))
    model = algorithm(name)("MlpPolicy", task, seed=seed, device="cpu", **options)
    folder.mkdir(parents=True)
    env, began = evaluation_env(task), time.perf_counter()
    with (folder / "metrics.csv").open("w", newline="") as file:
        metrics = csv.writer(file, lineterminator="\n")
        metrics.writerow(("step", "seconds", "eval_return"))

        def note(step: int) -> None:
            returns = evaluate(Policy(model), env, episodes=EPISODES).returns
            seconds = time.perf_counter() - began
            metrics.writerow((step, round(seconds), returns.mean()))
            file.flush()

        class Evaluation(BaseCallback):
            def _on_step(self) -> bool:
                if self.num_timesteps % EVERY == 0 and self.num_timesteps <= steps:
                    note(self.num_timesteps)
                return True

        model.learn(steps, callback=Evaluation())
        if steps % EVERY:
            note(steps)
    model.save(folder / "model.zip")


if __name__ == "__main__":
    name, task, seed, steps, folder = sys.argv[1:]
    train(name, task, int(seed), int(steps), Path(folder))
