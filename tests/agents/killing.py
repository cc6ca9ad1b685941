"""Run the command line and die at a chosen moment.

Executed by path in a child process, with two globals set: ``arguments`` of the command line, and
``moment``, a pair of what to die at and how many of it to let pass.
"""

import csv
import io
import os
import signal

import torch

from maxentflow.agents import Agent, Trainer, cli

what, passing = moment  # noqa: F821
countdown = iter(range(passing, -1, -1))


def now():
    return next(countdown) == 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before_update(self, batch):
    if now():
        die()
    return update(self, batch)


def interrupt_in_update(self, batch):
    """Ctrl-C while the target is moved, the optimiser's step being done."""
    if now():
        step = self.target_updater.step

        def interrupted():
            self.target_updater.step = step
            os.kill(os.getpid(), signal.SIGINT)
            step()

        self.target_updater.step = interrupted
    return update(self, batch)


def interrupt_in_log(self, evaluates):
    if now():
        os.kill(os.getpid(), signal.SIGINT)
    return log(self, evaluates)


def half_a_checkpoint(state, file):
    buffer = io.BytesIO()
    save(state, buffer)
    content = buffer.getvalue()
    if now():
        file.write(content[: len(content) // 2])
        file.flush()
        die()
    file.write(content)


def after_replacing(source, destination):
    replace(source, destination)
    if os.path.basename(destination) == "latest.pt" and now():
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


update, log = Agent.update, Trainer.log
save, replace, writer = torch.save, os.replace, csv.writer
if what == "update":
    Agent.update = before_update
elif what == "interrupted update":
    Agent.update = interrupt_in_update
elif what == "interrupted log":
    Trainer.log = interrupt_in_log
elif what == "half a checkpoint":
    torch.save = half_a_checkpoint
elif what == "checkpoint":
    os.replace = after_replacing
elif what == "half a row":
    csv.writer = HalfARow
else:
    raise ValueError(what)

torch.set_num_threads(1)
cli._run = cli.train
cli.main(arguments)  # noqa: F821
