"""Discrete agents: soft Q-learning and discrete SAC beside double DQN and PPO.

    pip install minatar swig "gymnasium[box2d]"
    python benchmarks/discrete.py run --tasks LunarLander-v3 --seeds 0
    python benchmarks/discrete.py report           # discrete.csv, discrete.png

study.py tells what the commands do. minatar_tasks.py gives gymnasium MinAtar's games.
"""

from study import Study, main

BREAKOUT = "minatar_tasks:MinAtar/Breakout-v1"


def words(task: str, steps: int) -> str:
    """Images are learned from as in MinAtar's paper: small batches, an update every few steps."""
    return "--batch-size 64 --utd-ratio 0.25" if task == BREAKOUT else ""


DISCRETE = Study(
    "discrete",
    "Maximum-entropy agents learn as well as double DQN where actions are discrete.",
    {
        "soft-q": "soft-q",
        "discrete-sac": "discrete-sac",
        "dqn": "dqn",
        "ppo": "ppo",
    },
    {"LunarLander-v3": 150_000, BREAKOUT: 500_000},
    words=words,
)

if __name__ == "__main__":
    main(__doc__.partition("\n")[0], [DISCRETE])
