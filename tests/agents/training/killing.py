"""Train and die at a chosen moment.

Executed by path in a child process, with three globals set: ``folder`` of the run, ``run``, the
arguments of make_trainer, and ``moment``, a pair of what to die at and how many of it to let pass.
"""

import csv
import gc
import io
import os
import signal

import torch

from maxentflow.agents import Agent, Trainer
from maxentflow.agents.training import session
from tests.agents.common import resumed

what, passing = moment  # noqa: F821
countdown = iter(range(passing, -1, -1))


def now():
    return next(countdown, None) == 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before_update(self, batch):
    if now():
        die()
    return update(self, batch)


def signal_in_update(numbers):
    """Signals while the targets are moved, the optimisers' steps being done."""

    def send(self, batch):
        if now():
            step = self.target_updater.step

            def interrupted():
                self.target_updater.step = step
                for number in numbers:
                    os.kill(os.getpid(), number)
                step()

            self.target_updater.step = interrupted
        return update(self, batch)

    return send


def signal_in_log(self, evaluates):
    if now():
        os.kill(os.getpid(), signal.SIGINT)
    return log(self, evaluates)


def half_a_file(state, file):
    """A checkpoint, or a chunk of the replay, whichever is the next."""
    buffer = io.BytesIO()
    save(state, buffer)
    content = buffer.getvalue()
    wanted = "reward" in state if "chunk" in what else "simulator" in state
    if wanted and now():
        file.write(content[: len(content) // 2])
        file.flush()
        die()
    file.write(content)


def after_replacing(source, destination):
    replace(source, destination)
    name = "latest.pt" if what == "checkpoint" else "-"
    if name in os.path.basename(destination) and now():
        die()


class HalfARow:
    def __init__(self, file, **options):
        self.file, self.options = file, options

    def writerow(self, cells):
        line = io.StringIO()
        writer(line, **self.options).writerow(cells)
        if now():
            self.file.write(line.getvalue()[: len(line.getvalue()) // 2])
            self.file.flush()
            die()
        self.file.write(line.getvalue())


update, log = Agent.update, Trainer._log
save, replace, writer = torch.save, os.replace, csv.writer
if what == "update":
    Agent.update = before_update
elif what == "Ctrl-C":
    Agent.update = signal_in_update([signal.SIGINT])
elif what == "Ctrl-C twice":
    Agent.update = signal_in_update([signal.SIGINT, signal.SIGINT])
elif what == "SIGTERM":
    Agent.update = signal_in_update([signal.SIGTERM])
elif what == "SIGHUP":
    Agent.update = signal_in_update([signal.SIGHUP])
elif what == "SIGTERM from timeout(1)":  # which sends it to the process, and to its group
    Agent.update = signal_in_update([signal.SIGTERM, signal.SIGTERM])
elif what == "SIGTERM twice":
    session._ONE_SIGNAL = 0.0
    Agent.update = signal_in_update([signal.SIGTERM, signal.SIGTERM])
elif what == "Ctrl-C, then SIGTERM":
    Agent.update = signal_in_update([signal.SIGINT, signal.SIGTERM])
elif what == "Ctrl-C in a log":
    Trainer._log = signal_in_log
elif what in ("half a checkpoint", "half a chunk"):
    torch.save = half_a_file
elif what in ("checkpoint", "chunk"):
    os.replace = after_replacing
elif what == "half a row":
    csv.writer = HalfARow
else:
    raise ValueError(what)

gc.collect = lambda: None  # which takes longer than the run
torch.set_num_threads(1)
try:
    resumed(folder, **run).run()  # noqa: F821
except KeyboardInterrupt:
    raise SystemExit(130) from None
