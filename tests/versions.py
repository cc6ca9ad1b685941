"""Run the quick suite with other Pythons, and with the oldest and the newest releases admitted.

    python tests/versions.py [--python 3.11 3.12 3.13] [--resolution tested oldest newest]
                             [--torch 2.13.0] [--tests tests/flows ...]

Each combination gets an environment of its own in a temporary folder, filled by uv: "tested" is
constraints.txt, "oldest" the lowest releases of what pyproject.toml names, "newest" the highest of
everything. torch is installed first, by --torch where it is given. Prints a table; the logs stay
in the folder.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTIONS = {
    "tested": ["--constraint", "constraints.txt"],
    "oldest": ["--resolution", "lowest-direct"],
    "newest": ["--upgrade"],
}


def attempt(python: str, resolution: str, options: argparse.Namespace, folder: Path) -> str:
    """What came of one combination, in a few words."""
    place = folder / f"{python}-{resolution}"
    interpreter = place / "bin" / "python"
    chosen = RESOLUTIONS[resolution]
    torch = [f"torch=={options.torch}"] if options.torch else ["torch"]
    steps = {
        "no such Python": [
            *(options.uv, "venv", "--quiet", "--seed", "--python", python, place),
        ],
        "torch cannot be installed": [
            *(options.uv, "pip", "install", "--quiet", "--python", interpreter),
            *(torch if options.torch else [*torch, *chosen]),
        ],
        "cannot be installed": [
            *(options.uv, "pip", "install", "--quiet", "--python", interpreter),
            *(*chosen, *torch, "--editable", ".[all,dev,docs,notebooks]"),
        ],
        "tests fail": [
            *(interpreter, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup"),
            *("-m", "not slow", "-p", "no:cacheprovider", *options.tests),
        ],
    }
    log = folder / f"{python}-{resolution}.log"
    with log.open("w") as file:
        for failure, command in steps.items():
            environment = {**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
            done = subprocess.run(
                list(map(str, command)),
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                return f"{failure}: {_last_line(log)}"
    return _last_line(log)


def _last_line(log: Path) -> str:
    lines = [line.strip("= \n") for line in log.read_text().splitlines() if line.strip("= \n")]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--resolution", nargs="+", choices=RESOLUTIONS, default=[*RESOLUTIONS])
    parser.add_argument("--torch", help="this release of torch, such as 2.13.0")
    parser.add_argument("--tests", nargs="+", default=["tests"])
    parser.add_argument("--uv", default="uv", help="the program uv, pip install uv")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="versions-"))
    print(f"Logs: {folder}")
    failed = False
    for python in options.python:
        for resolution in options.resolution:
            outcome = attempt(python, resolution, options, folder)
            failed |= not re.match(r"\d+ passed", outcome)
            print(f"Python {python}, {resolution:7} {outcome}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
