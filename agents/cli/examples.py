"""Two examples of each command, for its help.

Only the standard library is imported here.
"""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES = {
    "train": (
        "train meow --env Hopper-v4 --seed 1 --total-steps 300000",
        "train --resume runs/Hopper-v4-meow-1 --total-steps 600000",
    ),
    "sweep": (
        "sweep tau.yaml --parallel 2",
        "sweep --resume runs/tau",
    ),
    "evaluate": (
        "evaluate runs/Hopper-v4-meow-0 --episodes 20 --stochastic",
        "evaluate runs/Hopper-v4-meow-0 --best --video hopper.mp4",
    ),
    "plot": (
        "plot runs/Hopper-v4-meow-0",
        "plot runs/Hopper-v4-* --out hopper.png",
    ),
    "compare": (
        "compare runs/Hopper-v4-*",
        "compare runs/Hopper-v4-* --threshold 1000 --out hopper.csv",
    ),
    "robustness": (
        "robustness runs/Hopper-v4-meow-0 --perturb friction 0.3:1.7:8",
        "robustness runs/Hopper-v4-* --perturb mass 0.5:1.5:5 --episodes 20 --out mass.png",
    ),
    "diagnose": (
        "diagnose runs/Hopper-v4-meow-0",
        "diagnose runs/Hopper-v4-meow-0 --episodes 20 --out hopper.png",
    ),
    "collect": (
        "collect runs/Hopper-v4-sac-0 --out hopper/sac-v0",
        "collect runs/Hopper-v4-sac-0 --out hopper.npz --episodes 50",
    ),
    "export": (
        "export runs/Hopper-v4-meow-0 --format onnx",
        "export runs/Hopper-v4-meow-0 --best --stochastic --out hopper.pt2",
    ),
    "watch": (
        "watch runs/Hopper-v4-meow-0 --stochastic",
        "watch runs/Hopper-v4-meow-0 --episodes 3",
    ),
    "package": (
        "package runs/Hopper-v4-meow-0 --video",
        "package runs/Hopper-v4-meow-0 --out hopper.zip",
    ),
    "report": (
        "report runs/Hopper-v4-meow-0",
        "report runs/Hopper-v4-meow-0 runs/Hopper-v4-sac-0 --out hopper.html",
    ),
    "runs": (
        "runs",
        "runs runs/paper",
    ),
    "show": (
        "show runs/Hopper-v4-meow-0",
        "show runs/Hopper-v4-meow-0 | less",
    ),
    "agents": (
        "agents",
        "agents --import my_agents",
    ),
    "completion": (
        "completion bash > ~/.local/share/bash-completion/completions/maxentflow",
        "completion zsh > ~/.zfunc/_maxentflow",
    ),
}
"""What follows the program's name; each command has two."""
