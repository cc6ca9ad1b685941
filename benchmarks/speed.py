"""How fast MEow trains, beside other libraries and its own matrix products.

    python benchmarks/speed.py [--env Hopper-v4] [--threads 1] [--turns 5] [--reference CHECKOUT]
    python benchmarks/speed.py --start [--env Hopper-v4] [--turns 5]
    python benchmarks/speed.py --earlier CHECKOUT [--env Hopper-v4] [--threads 1] [--turns 10]

Every contestant (see contestants.py) runs in a process of its own, on as many cores as threads;
they take turns, so that a machine that drifts drifts for all. The table gives the median and the
range over the turns. Writes speed.csv next to this file, one row for each figure, in place of
those of the same task and threads. The reference is the public code of the paper, which is not
part of this project: give the path of its checkout to have it measured. With --start it is the
time from the command to the first update, with nothing in torch's cache of compiled code and with
everything there, on all cores. With --earlier it is a training step of MEow beside one of an
earlier version of this project, from its checkout: the two take turns on the same cores, in new
processes at each turn, since where a process happens to lie in memory makes it some percent
faster or slower for all of its life. speed_earlier.csv gets the median and the range of the
ratios, turn by turn, of now to then.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tables
import torch
from contestants import CONTESTANTS, REFERENCE

HERE = Path(__file__).parent
RESULTS = HERE / "speed.csv"
RATIOS = HERE / "speed_earlier.csv"
PACKAGES = "flows", "objectives", "envs", "agents"


class Contestant:
    """A process that measures when it is told to."""

    def __init__(
        self, name: str, env_id: str, threads: int, *options: str, checkout: Path | None = None
    ) -> None:
        self.name = name
        script = (checkout or HERE.parent) / "benchmarks" / "contestants.py"
        command = [sys.executable, script, name, env_id, str(threads), *options]
        paths = {"PYTHONPATH": str(_importable(checkout))} if checkout else {}
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **paths},
            text=True,
        )
        assert self._answer() == "ready"

    def turn(self) -> dict[str, float]:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        figures: dict[str, float] = json.loads(self._answer())
        return figures

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended; what it said is above.")
        return line.strip()


def measure(options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Milliseconds, one for each turn, by contestant and figure."""
    contestants = []
    for name in [options.who] if options.who else CONTESTANTS:
        if name != REFERENCE:
            contestants.append(Contestant(name, options.env, options.threads))
        elif options.reference:
            contestants.append(Contestant(name, options.env, options.threads, options.reference))
    figures: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.turns):
        for contestant in contestants:
            for figure, value in contestant.turn().items():
                figures.setdefault((contestant.name, figure), []).append(value)
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr)
    for contestant in contestants:
        contestant.stop()
    return figures


def _importable(checkout: Path) -> Path:
    """A folder from which Python imports the packages of a checkout as ``maxentflow``."""
    folder = Path(tempfile.mkdtemp())
    (folder / "maxentflow").mkdir()
    for package in PACKAGES:
        (folder / "maxentflow" / package).symlink_to(checkout.resolve() / package)
    return folder


def compare(options: argparse.Namespace) -> None:
    """Write how much longer a training step takes than in an earlier version."""
    for who in ("maxentflow MEow", "maxentflow MEow, compiled"):
        times = []
        for turn in range(options.turns):
            now = Contestant(who, options.env, options.threads)
            then = Contestant(who, options.env, options.threads, checkout=Path(options.earlier))
            pair = [now, then] if turn % 2 else [then, now]
            taken = {contestant: contestant.turn()["training step"] for contestant in pair}
            times.append((taken[now], taken[then]))
            for contestant in pair:
                contestant.stop()
            print(f"turn {turn + 1} of {options.turns}: {times[-1]}", file=sys.stderr)
        ours, earlier = np.array(times).T
        ratios = ours / earlier
        row = {
            "env": options.env,
            "threads": options.threads,
            "who": who,
            "earlier": Path(options.earlier).name,
            "turns": options.turns,
            "ratio": f"{np.median(ratios):.3f}",
            "least_ratio": f"{ratios.min():.3f}",
            "most_ratio": f"{ratios.max():.3f}",
            "median_ms": f"{np.median(ours):.3f}",
            "earlier_median_ms": f"{np.median(earlier):.3f}",
            "torch": torch.__version__,
            "processor": processor(),
        }
        print(row)
        tables.replace(RATIOS, [row], ("env", "threads", "who", "earlier"))


def start(options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Milliseconds from the shell to the end of a run of one compiled update."""
    words = ["train", "meow", "--paper", "--env", options.env, "--warmup-steps", "256"]
    words += ["--total-steps", "257", "--compile", "on", "--eval-every", "0"]
    figures: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.turns):
        with tempfile.TemporaryDirectory() as folder:
            script = (
                "from maxentflow.agents.cli import main, train; "
                f"train.conclude = lambda *_: None; main({words})"
            )
            for figure in ("cold start", "warm start"):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", script],
                    env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"},
                    cwd=folder,
                    check=True,
                )
                seconds = time.perf_counter() - began
                figures.setdefault(("maxentflow MEow", figure), []).append(1e3 * seconds)
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr)
    return figures


def write(options: argparse.Namespace, figures: dict[tuple[str, str], list[float]]) -> None:
    rows = []
    for (who, figure), values in figures.items():
        rows.append(
            {
                "env": options.env,
                "threads": options.threads,
                "who": who,
                "figure": figure,
                "median_ms": f"{np.median(values):.3f}",
                "least_ms": f"{min(values):.3f}",
                "most_ms": f"{max(values):.3f}",
                "per_second": f"{1e3 / np.median(values):.1f}",
                "torch": torch.__version__,
                "processor": processor(),
            }
        )
    tables.replace(RESULTS, rows, ("env", "threads", "who", "figure", "processor"))


def processor() -> str:
    """The processor's name, and the widest vectors it computes with."""
    names = [platform.processor() or platform.machine()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({torch.backends.cpu.get_cpu_capability()}), {len(names)} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Hopper-v4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--start", action="store_true", help="the time to the first update")
    parser.add_argument("--who", choices=CONTESTANTS, help="measure this one alone")
    parser.add_argument("--reference", help="a checkout of the paper's public code")
    parser.add_argument("--earlier", help="a checkout of an earlier version, named as its commit")
    options = parser.parse_args()
    if options.earlier:
        compare(options)
        return
    if options.start:
        options.threads = len(os.sched_getaffinity(0))
    figures = start(options) if options.start else measure(options)
    write(options, figures)
    for (who, figure), values in figures.items():
        print(
            f"{who:26} {figure:18} {np.median(values):7.2f} ms"
            f"   ({min(values):.2f} to {max(values):.2f})   {1e3 / np.median(values):7.1f} /s"
        )


if __name__ == "__main__":
    main()
