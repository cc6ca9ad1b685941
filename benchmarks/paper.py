"""The experiments of the MEow paper (Chao et al. 2024, arXiv:2405.13629) that train agents.

    python benchmarks/paper.py list
    python benchmarks/paper.py run shifts
    python benchmarks/paper.py report shifts       # paper/shifts.csv, paper/shifts.png

study.py tells what the commands do. The deterministic action against samples is a column of every
report. determinants.py and monte_carlo.py are the experiments that look into a single flow.
"""

from study import Study, main

from maxentflow import flows

LENGTH = 150_000
TWO = dict.fromkeys(("HalfCheetah-v4", "Hopper-v4"), LENGTH)
FIVE = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")
FIXED = "--target-entropy None --temperature 0.25"

STUDIES = (
    Study(
        "paper/shifts",
        "Learnable reward shifting (LRS), and two shifts (SCDQ), raise returns.",
        {
            "vanilla": "meow --paper --heads 0",
            "LRS": "meow --paper --heads 1",
            "LRS and SCDQ": "meow --paper --heads 2",
        },
        TWO,
    ),
    Study(
        "paper/architectures",
        "Additive coupling layers learn better than affine ones.",
        {name: f"meow --paper --flow {name}" for name in flows.registered()},
        {"HalfCheetah-v4": LENGTH},
    ),
    Study(
        "paper/forms",
        "One flow is better than a critic and an actor, whichever of both is a flow.",
        {
            "network critic, Gaussian actor": f"sac {FIXED}",
            "flow critic, Gaussian actor": f"sac --critic-flow additive {FIXED}",
            "network critic, flow actor": f"flow-sac --flow additive {FIXED}",
            "flow critic, flow actor": f"flow-sac --flow additive --critic-flow additive {FIXED}",
            "one flow": "meow --paper --temperature 0.25",
        },
        TWO,
    ),
    Study(
        "paper/sac-shift",
        "SAC gains nothing from reward shifting.",
        {"SAC": "sac", "SAC with LRS": "sac --reward-shift"},
        TWO,
    ),
    Study(
        "paper/tasks",
        "MEow reaches or passes the baselines on five tasks (figure 3).",
        {
            "meow": "meow --paper",
            "meow, one setting": "meow",
            "sac": "sac",
            "td3": "td3",
            "ddpg": "ddpg",
            "ppo": "ppo",
            "sql": "sql",
            "flow-sac": "flow-sac",
        },
        dict.fromkeys(FIVE, 1_000_000),
    ),
)

if __name__ == "__main__":
    main(__doc__.partition("\n")[0], STUDIES)
