"""A run survives whatever happens to it: see faults.py, which repeats a seed outside of a test."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from maxentflow.agents import RunFolder
from maxentflow.agents.training.run_folder import read_metrics
from tests.agents.common import comparable, differences

from . import faults
from .children import in_child

pytestmark = pytest.mark.xdist_group("resume")  # which has a server of children


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "seed"), [(2, 0), (200, random.SystemRandom().randrange(10**6))], ids=["2", "200"]
)
def test_disturbed_runs_end_as_quiet_ones(count, seed):
    moments, reason = in_child(faults.disturb, count, seed)
    if reason is not None:
        print(f"The disk is not filled: {reason}.")
    failed = [str(moment) for moment in moments if moment.problems]
    assert not failed, "\n".join([f"seed {seed}", *failed, faults.table(moments)])
    happened = [moment.fault.name for moment in moments if moment.fired]
    assert len(happened) == count
    if count > 2 * len(faults.EXITS):
        every = set(faults.EXITS) - (set() if reason is None else {"disk full"})
        assert set(happened) == every


@pytest.mark.slow
def test_a_signal_while_updates_are_compiled_costs_no_step(tmp_path):
    """Torch's own compiler is at work, with nothing in its cache."""

    def train(name, *more):
        words = ["-m", "maxentflow.agents", "train", *more, "--no-progress"]
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"{name}-cache")}
        return subprocess.Popen([sys.executable, *words], env={**os.environ, **cache})

    options = {**faults.TRAIN, "--compile": "on", "--total-steps": "60", "--threads": "1"}
    options |= {"--log-every": "20", "--eval-every": "0", "--checkpoint-every": "50"}
    command = ["sac", *(word for pair in options.items() for word in pair)]
    quiet = RunFolder(tmp_path / "quiet")
    assert train("quiet", *command, "--run-dir", str(quiet)).wait() == 0
    first, second = (float(row["seconds"]) for row in read_metrics(quiet)[:2])
    assert second - first > 5.0  # it was compiled in between
    for share in (0.1, 0.6):
        stopped = RunFolder(tmp_path / f"stopped-at-{share}")
        child = train(stopped.path.name, *command, "--run-dir", str(stopped))
        while not stopped.metrics_path.exists() or not read_metrics(stopped):
            time.sleep(0.05)
        time.sleep(share * (second - first))
        child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert child.wait() == 143
        assert time.monotonic() - began < faults.PROMISED
        saved = stopped.load_checkpoint()
        assert (saved["step"], saved["updates"]) == (25, 1)
        assert train("quiet", "--resume", str(stopped)).wait() == 0
        ours, theirs = (comparable(folder.load_checkpoint()) for folder in (stopped, quiet))
        for state in (ours, theirs):
            del state["experience"]["files"]  # each holds the steps between two checkpoints
        assert not differences(ours, theirs)
