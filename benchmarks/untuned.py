"""MEow's one setting on tasks that nobody tuned it for, beside the paper's setting and SAC.

    python benchmarks/untuned.py run untuned       # all runs that are missing
    python benchmarks/untuned.py run untuned --tasks Reacher-v4 --variants "meow;sac" --seeds 100
    python benchmarks/untuned.py run ablations --tasks InvertedDoublePendulum-v4
    python benchmarks/untuned.py report untuned    # untuned.csv, untuned_curves.csv, .png

study.py tells what the commands do. The tasks of Box2D need swig and gymnasium[box2d].
"""

from study import Study, main

# Steps, and the return that an agent which has not begun to learn stays below.
TASKS = {
    "Pendulum-v1": (10_000, -800),
    "MountainCarContinuous-v0": (30_000, 0),
    "InvertedPendulum-v4": (20_000, 200),
    "InvertedDoublePendulum-v4": (20_000, 1_000),
    "Reacher-v4": (30_000, -12),
    "Pusher-v5": (30_000, -60),
    "Swimmer-v4": (30_000, 15),
    "maxentflow/MultiGoal-v0": (30_000, -1_000),
    "BipedalWalker-v3": (150_000, -90),
    "LunarLanderContinuous-v3": (150_000, -100),
    "HalfCheetah-v4": (100_000, 500),
    "Hopper-v4": (100_000, 300),
    "Walker2d-v4": (100_000, 300),
    "Ant-v4": (100_000, 300),
    "Humanoid-v4": (100_000, 300),
}
LENGTHS = {task: steps for task, (steps, _) in TASKS.items()}
BEGUN = {task: threshold for task, (_, threshold) in TASKS.items()}


def words(task: str, steps: int) -> str:
    return f"--eval-every {max(1_000, steps // 10)} --warmup-steps {min(5_000, steps // 10)}"


STUDIES = (
    Study(
        "untuned",
        "One setting learns every task as well as SAC does.",
        {"meow": "meow", "paper": "meow --paper", "sac": "sac"},
        LENGTHS,
        words=words,
        begun=BEGUN,
    ),
    Study(
        "ablations",
        "Every part of the setting pays: one is left out.",
        {
            "all": "meow",
            "one flow": "meow --no-twin --heads 2",
            "temperature fixed": "meow --target-entropy None",
            "no reward scale": "meow --no-normalize-rewards",
            "no observation norm": "meow --no-normalize-observations",
            "narrow at first": "meow --initial-log-sigma -2.65",
            "reference weights": "meow --init reference",
            "no mean": "meow --mean-hidden None",
            "no layer norm in V": "meow --no-shift-norm",
            "clamped actions": "meow --no-raw-actions",
        },
        LENGTHS,
        words=words,
        begun=BEGUN,
    ),
)

if __name__ == "__main__":
    main(__doc__.partition("\n")[0], STUDIES)
