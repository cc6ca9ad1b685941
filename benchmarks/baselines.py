"""Our baselines beside stable-baselines3's: the same steps, machine and evaluation.

    pip install stable-baselines3
    python benchmarks/baselines.py run --seeds 0 --jobs 2
    python benchmarks/baselines.py report          # baselines.csv, baselines.png

study.py tells what the commands do, peers.py how the other library's agents are trained.
"""

from study import Study, main

BASELINES = Study(
    "baselines",
    "Our baselines learn as well as stable-baselines3's.",
    {
        label: f"{library}{name}"
        for name in ("sac", "td3", "ddpg", "ppo")
        for label, library in (
            (name, ""),
            (f"{name}, stable-baselines3", "stable-baselines3 "),
        )
    },
    {"HalfCheetah-v4": 150_000, "Hopper-v4": 150_000},
)

if __name__ == "__main__":
    main(__doc__.partition("\n")[0], [BASELINES])
