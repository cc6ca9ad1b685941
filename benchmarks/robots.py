"""Ant-v5 with 128 environments and one update for each step of all of them: MEow beside SAC.

    python benchmarks/robots.py run --seeds 0
    python benchmarks/robots.py report          # robots.csv, robots_curves.csv, robots.png

So the paper trains its robots. study.py tells what the commands do. A million steps are 7,773
updates, of batches of 1,024.
"""

from study import Study, main

STEPS, COPIES = 3_000_000, 128
ROBOTS = Study(
    "robots",
    "With 128 environments and an update for each step of all, MEow learns as fast as SAC.",
    {
        "MEow": "meow",
        "SAC, standardised": "sac --normalize-observations",
        "SAC": "sac",
    },
    {"Ant-v5": STEPS},
    words=lambda task, steps: (
        f"--num-envs {COPIES} --utd-ratio {1 / COPIES} --replay-size {15_000 * COPIES} "
        "--batch-size 1024 --eval-every 100000 --eval-episodes 5 --checkpoint-every 100000"
    ),
)

if __name__ == "__main__":
    main(__doc__.partition("\n")[0], [ROBOTS])
