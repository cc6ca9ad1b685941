"""What a checkpoint of Humanoid-v4 costs as the replay grows.

    python benchmarks/checkpoints.py     # two minutes; writes checkpoints.csv

A replay is filled with transitions of the task's sizes, and saved after every 10,000 of them, as a
run does; beside it what the whole replay, written anew, would take. Files are written through to
the disk.
"""

import tempfile
import time
from pathlib import Path

import tables
import torch
from tensordict import TensorDict

from maxentflow import agents, envs
from maxentflow.agents import RunFolder
from maxentflow.agents.training.experience import ReplayBuffer, UpdateSchedule
from maxentflow.agents.training.replay import Replay
from maxentflow.agents.training.simulator import simulator

RESULTS = Path(__file__).parent / "checkpoints.csv"
TASK, NUM_ENVS, EVERY = "Humanoid-v4", 1_000, 10_000
SHOWN = (10_000, 200_000, 1_000_000)


def main() -> None:
    env = envs.make(TASK)
    agent = agents.make("meow", env, paper=True)
    sizes = simulator(env)
    replay = Replay(SHOWN[-1], NUM_ENVS, sizes.observation, sizes.action)
    experience = ReplayBuffer(replay, 256, UpdateSchedule(0, 1.0))
    done = torch.zeros(NUM_ENVS, 1, dtype=torch.bool)
    rows = []
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        folder.create(agent, agents.TrainerConfig(), TASK)
        while replay.added < SHOWN[-1]:
            following = {"observation": torch.randn(NUM_ENVS, *sizes.observation.shape)}
            following |= {"reward": torch.randn(NUM_ENVS, 1), "done": done, "terminated": done}
            step = {"observation": following["observation"]}
            step["action"] = torch.rand(NUM_ENVS, *sizes.action.shape)
            experience.add(TensorDict({**step, "next": following}, [NUM_ENVS]))
            if replay.added % EVERY:
                continue
            before = size(folder)
            began = time.perf_counter()
            folder.save_checkpoint({**agent.state_dict(), "step": replay.added}, experience)
            seconds = time.perf_counter() - began
            if replay.added in SHOWN:
                row = {
                    "transitions": replay.added,
                    "seconds": round(seconds, 3),
                    "megabytes_added": round((size(folder) - before) / 1e6, 1),
                    "megabytes_of_whole_replay": round(replay.added * row_bytes(replay) / 1e6, 1),
                }
                print(row, flush=True)
                rows.append(row)
    tables.write(RESULTS, rows)


def size(folder: RunFolder) -> int:
    return sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())


def row_bytes(replay: Replay) -> float:
    return replay.nbytes / SHOWN[-1]


if __name__ == "__main__":
    main()
