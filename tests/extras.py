"""Install each extra alone in an empty environment, and use what it is for.

    python tests/extras.py [--extras flows agents mujoco ...] [--torch 2.13.0] [--uv uv]

The wheel is built from this checkout. torch is installed first, by --torch where it is given, so
that a build for the CPU serves. Prints a line for each extra; needs a network and some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = (
    "from maxentflow.agents.cli import main; main('train sac --env {env} --total-steps 20 "
    "--warmup-steps 10 --batch-size 4 --hidden 8 8 --compile off --eval-every 0 {more}'.split())"
)
MULTIGOAL = "maxentflow/MultiGoal-v0"
USES = {
    "flows": (
        "",
        "import torch\nfrom maxentflow import flows\n"
        "for name in flows.registered():\n"
        "    flow = flows.build(name, 2, 3, temperature=0.1)\n"
        "    assert flow.sample(torch.zeros(3))[0].shape == (2,)",
    ),
    "agents": ("agents", TRAIN.format(env=MULTIGOAL, more="")),
    "mujoco": ("agents,mujoco", TRAIN.format(env="Hopper-v4", more="")),
    "maze": ("agents,maze", TRAIN.format(env="maxentflow/TwoPathsMaze-v0", more="")),
    "portfolio": (
        "agents,portfolio",
        "from maxentflow.envs import portfolio; assert portfolio",
    ),
    "driving": (
        "agents,driving",
        TRAIN.format(env="maxentflow/Intersection-v0", more="--replay-size 100"),
    ),
    "offline": (
        "agents,offline",
        TRAIN.format(env=MULTIGOAL, more="--run-dir r")
        + "; main('collect r --out probe/data-v0 --episodes 2'.split())",
    ),
    "video": (
        "agents,mujoco,video",
        TRAIN.format(env="Hopper-v4", more="--run-dir r")
        + "; main('evaluate r --episodes 1 --max-steps 10 --video r.mp4'.split())",
    ),
    "onnx": (
        "agents,onnx",
        TRAIN.format(env=MULTIGOAL, more="--run-dir r")
        + "; main('export r --format onnx'.split())",
    ),
    "cluster": (
        "agents,cluster",
        TRAIN.format(env=MULTIGOAL, more="--actors 1 --actor-steps 5"),
    ),
}
"""What is installed, and what is run then."""


def run(*command: object, cwd: Path) -> str:
    """The last line of what went wrong; nothing if nothing did."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", nargs="+", choices=USES, default=[*USES])
    parser.add_argument("--torch", help="this release of torch, such as 2.13.0")
    parser.add_argument("--uv", default="uv", help="the program uv, pip install uv")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="extras-"))
    build = [options.uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT]
    if failure := run(*build, cwd=folder):
        sys.exit(f"The wheel cannot be built: {failure}")
    (wheel,) = folder.glob("*.whl")
    failed = False
    for name in options.extras:
        extras, code = USES[name]
        place = folder / name
        python = place / "bin" / "python"
        install = [options.uv, "pip", "install", "--quiet", "--python", python]
        install += ["--constraint", ROOT / "constraints.txt"]
        torch = f"torch=={options.torch}" if options.torch else "torch"
        failure = (
            run(options.uv, "venv", "--quiet", "--python", sys.executable, place, cwd=folder)
            or run(*install, torch, cwd=folder)
            or run(*install, f"{wheel}[{extras}]" if extras else wheel, cwd=folder)
            or run(python, "-c", code, cwd=place)
        )
        failed |= bool(failure)
        print(f"{name:10} {failure or 'works'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
