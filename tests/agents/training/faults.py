"""Disturb training runs at random moments, resume them, and compare their ends with quiet runs.

    python -m tests.agents.training.faults --moments 200 --seed 0

A run is a tiny ``maxentflow train``, in a child forked from this process, which has imported
everything. A moment is a call or a return of a Python function, by its number in the child, so
that the same seed disturbs the same places of the program. After each fault the run goes on with
``maxentflow train --resume``; it suffers up to four, and is then left alone to its end. There its
metrics, without the columns of a clock, and its complete state, with weights, optimizers, replay
and random numbers, must be those of the quiet run, bit for bit.
"""

import argparse
import contextlib
import ctypes
import importlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from unittest import mock

import torch

from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.cli import train as command
from maxentflow.agents.training import description, session
from maxentflow.agents.training import loop as training
from tests.agents.common import comparable, differences, metrics

TOTAL, EVERY = 160, 30
"""Steps of a run, and between its checkpoints."""
TRAIN = {
    "--env": "maxentflow/MultiGoal-v0",
    "--hidden": "8",
    "--compile": "off",
    "--total-steps": f"{TOTAL}",
    "--warmup-steps": "20",
    "--batch-size": "8",
    "--replay-size": "100",  # it wraps around
    "--utd-ratio": "0.2",
    "--checkpoint-every": f"{EVERY}",
    "--log-every": "20",
    "--eval-every": "80",
    "--eval-episodes": "1",
}
RUNS = {"one environment": [], "two workers": ["--num-envs", "2", "--workers"]}
KILLED = -signal.SIGKILL
EXITS = {  # by the name of a fault; 0 where the run was over before
    "SIGKILL": KILLED,
    "SIGKILL in a checkpoint": KILLED,
    "SIGKILL in half a file": KILLED,
    "SIGTERM": 143,
    "SIGTERM twice": 143,
    "SIGINT": 130,
    "SIGINT twice": 130,
    "SIGSTOP and SIGCONT": 0,
    "disk full": 2,
    "file too large": 2,
    "write permission revoked": 2,
    "worker killed": 2,
    "checkpoint truncated": KILLED,
    "checkpoint with a flipped bit": KILLED,
    "chunk truncated": KILLED,
    "chunk with a flipped bit": KILLED,
}
FAULTS_OF_A_RUN = 4
PROMISED = 10.0
"""Seconds from a signal to the end of the process."""
STUCK = 240
"""Seconds after which a child is given up."""


@dataclass
class Fault:
    """What happens to a run, and when.

    Attributes:
        name: in EXITS.
        at: the number of the call; of those within checkpoints where the name says so, of files
            that are written for half a file.
        then: calls from a signal to the second.
        share: a random number in [0, 1], for how much or where.
    """

    name: str
    at: int = 0
    then: int = 0
    share: float = 0.0


@dataclass
class Moment:
    """A fault, and what came of it: the run goes on from a step, and the steps to the one that it
    had reached are lost."""

    fault: Fault
    run: str
    number: int
    code: int
    fired: bool
    seconds: float
    step: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self):
        said = f"run {self.number} ({self.run}), {self.fault}, exit code {self.code}"
        return "\n  ".join([f"{said}, {self.lost} steps lost", *self.problems])


class Shared:
    """Numbers that a child writes and this process reads."""

    def __init__(self):
        self.began = RawValue("q", -1)  # step of the checkpoint that training goes on from
        self.step = RawValue("q", -1)
        self.calls_before = RawValue("q", 0)  # training begins
        self.calls = RawValue("q", 0)
        self.calls_of_checkpoints = RawValue("q", 0)
        self.files = RawValue("q", 0)
        self.fired = RawValue("d", 0.0)


class Countdown:
    """Does something at the n-th call or return of a Python function in this thread."""

    def __init__(self, at, do):
        self.count, self.at, self.do, self.process = 0, at, do, os.getpid()

    def __call__(self, frame, event, argument):
        self.count += 1
        if self.count == self.at and os.getpid() == self.process:
            self.do()

    @contextlib.contextmanager
    def counting(self):
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def child(words, place, fault, shared, log):
    """Train in a forked process, which the fault happens to."""
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
    happens, calls = effects(place, fault, shared), Countdown(0, lambda: None)
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (command, "conclude", lambda *_: None),
            (session.gc, "collect", lambda: None),  # which takes longer than the run
            (training, "_step", noting(training._step, shared)),
            (training, "training_loop", noting_begin(training.training_loop, shared, calls)),
            # A worker starts at once, where a fork server would import torch anew.
            (sys.modules["maxentflow.envs.make"], "start_method", lambda: "fork"),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        if fault is None:
            stack.enter_context(counted_checkpoints(calls, shared))
        elif fault.name == "SIGKILL in a checkpoint":
            stack.enter_context(within_checkpoints(Countdown(fault.at, happens)))
        elif fault.name == "SIGKILL in half a file":
            stack.enter_context(in_half_a_file(fault, happens))
        else:
            calls = Countdown(fault.at, happens)
        watches = fault is not None and calls.at == 0
        with contextlib.nullcontext() if watches else calls.counting():
            try:
                main(words)
            finally:
                shared.calls.value = calls.count
                if fault is None:
                    (place / "modules.txt").write_text("\n".join(sys.modules))


def effects(place, fault, shared):
    """A function that makes the fault happen in this process."""

    def now():
        shared.fired.value = time.monotonic()

    def send(name):
        number = getattr(signal, name)
        now()
        if fault.name.endswith("twice"):
            sys.setprofile(Countdown(max(1, fault.then), lambda: os.kill(os.getpid(), number)))
        os.kill(os.getpid(), number)

    def fill():
        now()
        free = shutil.disk_usage(place).free - int(fault.share * 50_000)
        with open(place / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free, 1))

    def limit():
        now()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.share * 30_000), hard))

    def revoke():
        now()
        for path in [place / "run", *(place / "run").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:  # root writes where it may not
            os.seteuid(65534)

    def kill_worker():
        workers = multiprocessing.active_children()
        if workers:
            now()
            os.kill(workers[int(fault.share * len(workers))].pid, signal.SIGKILL)

    first = (fault.name if fault else "").partition(" ")[0]
    others = {"disk": fill, "file": limit, "write": revoke, "worker": kill_worker}
    if first in others:
        return others[first]
    return lambda: send(first if first.startswith("SIG") else "SIGKILL")


def noting(step, shared):
    def noted(run):
        yield from step(run)
        shared.step.value = run.step

    return noted


def noting_begin(loop, shared, calls):
    def noted(run):
        shared.calls_before.value = calls.count
        shared.began.value = shared.step.value = run.step
        yield from loop(run)

    return noted


def counted_checkpoints(calls, shared):
    save, write = RunFolder.save_checkpoint, torch.save

    def save_checkpoint(*arguments):
        before = calls.count
        path = save(*arguments)
        shared.calls_of_checkpoints.value += calls.count - before
        return path

    def counted(*arguments):
        shared.files.value += 1
        return write(*arguments)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(RunFolder, "save_checkpoint", save_checkpoint))
    stack.enter_context(mock.patch.object(torch, "save", counted))
    return stack


def within_checkpoints(calls):
    save = RunFolder.save_checkpoint

    def save_checkpoint(*arguments):
        with calls.counting():
            return save(*arguments)

    return mock.patch.object(RunFolder, "save_checkpoint", save_checkpoint)


def in_half_a_file(fault, die):
    write, files = torch.save, iter(range(fault.at, -1, -1))

    def half(state, file):
        buffer = io.BytesIO()
        write(state, buffer)
        content = buffer.getvalue()
        if next(files, None) == 0:
            file.write(content[: int(fault.share * len(content))])
            file.flush()
            die()
        file.write(content)

    return mock.patch.object(torch, "save", half)


class Harness:
    """Makes runs in a place, disturbs them, and compares them with quiet ones.

    Args:
        place: an empty folder; a small disk, if one can be mounted there.
        seed: of all random numbers.
    """

    def __init__(self, place, seed):
        self.place, self.seed = Path(place), seed
        self.log = b""  # what the last child wrote
        self.reason = mount_small_disk(self.place)  # why there is no small disk
        self.quiet = {}
        # Orphans of a child become children of this process, which waits for their end.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

    def names(self):
        """The faults that can be made here."""
        return [name for name in EXITS if self.reason is None or name != "disk full"]

    def moments(self, count):
        """Disturb until as many faults have happened; give what came of each, also of those that
        were too late for their run."""
        chance = random.Random(self.seed)
        deck, moments, number = [], [], 0
        while (missing := count - sum(moment.fired for moment in moments)) > 0:
            if len(deck) < FAULTS_OF_A_RUN:
                deck += chance.sample(self.names(), len(self.names()))
            faults = deck[: min(FAULTS_OF_A_RUN, missing)]
            these = self.run(number, faults)
            del deck[: len(these)]
            moments += these
            number += 1
        return moments

    def run(self, number, faults):
        """A run that suffers faults, to its end."""
        chance = random.Random(f"{self.seed} {number}")
        workers = "worker killed" in faults or number % 4 == 3
        name = "two workers" if workers else "one environment"
        quiet = self.quiet_run(name)
        place = self.place / f"run-{number}"
        place.mkdir()
        moments = []
        for fault in faults:
            moment = self.disturb(number, name, self.chosen(chance, fault, quiet), chance)
            moments.append(moment)
            if moment.step >= TOTAL:
                break
        last, code = moments[-1].problems, 0
        if moments[-1].step < TOTAL:
            _, code, _ = self.stretch(name, place)
        if code:
            last.append(f"The run does not go on: exit code {code}.\n{self.said()}")
        elif found := self.unlike(place / "run", quiet):
            last.append(f"The end differs from the quiet run's: {found}.")
        if not last:
            shutil.rmtree(place)
        return moments

    def chosen(self, chance, name, quiet):
        """A random moment of a run for a fault."""
        calls = quiet.shared.calls.value
        if name == "SIGKILL in a checkpoint":
            return Fault(name, at=chance.randint(1, quiet.shared.calls_of_checkpoints.value // 2))
        if name == "SIGKILL in half a file":
            return Fault(name, chance.randrange(quiet.shared.files.value // 2), 0, chance.random())
        before = quiet.shared.calls_before.value
        at = before + chance.randint(1, int(0.7 * (calls - before)))
        if chance.random() < 0.15:  # while a run is prepared
            at = chance.randint(1, before)
        return Fault(name, at, chance.randint(1, calls // 100), chance.random())

    def quiet_run(self, name):
        """A run that nothing disturbs, made when it is first asked for."""
        if name not in self.quiet:
            place = self.place / name.replace(" ", "-")
            place.mkdir()
            shared, code, _ = self.stretch(name, place)
            assert code == 0, self.said()
            for module in (place / "modules.txt").read_text().splitlines():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            self.quiet[name] = Quiet(shared, metrics(place / "run"), final_state(place / "run"))
        return self.quiet[name]

    def stretch(self, name, place, fault=None):
        """Begin a run, or go on with it, in a child; what it wrote, its exit code, its end."""
        folder, shared = place / "run", Shared()
        words = ["train", "--resume", str(folder)]
        if not (folder / "config.yaml").exists():
            options = [word for option in TRAIN.items() for word in option]
            words = ["train", "sac", *options, *RUNS[name], "--run-dir", str(folder)]
        log, into = (
            os.pipe()
        )  # no file, which may be limited, nor on the small disk, which is filled
        process = multiprocessing.get_context("fork").Process(
            target=child, args=(words, place, fault, shared, into)
        )
        process.start()
        os.close(into)
        reader = threading.Thread(target=self.read, args=(log,))
        reader.start()
        try:
            with alarm(STUCK):
                while wait_for(process.pid) == os.CLD_STOPPED:
                    os.kill(process.pid, signal.SIGCONT)
                end = time.monotonic()
                process.join()
                with contextlib.suppress(ChildProcessError):
                    while True:
                        os.waitpid(-1, 0)  # workers, which end with it
        except TimeoutError:
            process.kill()
            return shared, "none: it is stuck, or a worker is", time.monotonic()
        finally:
            reader.join(timeout=1)
        return shared, process.exitcode, end

    def read(self, log):
        """Take what a child and its workers write, to their end."""
        with open(log, "rb") as file:
            self.log = file.read()

    def said(self):
        """The end of what the last child wrote."""
        return self.log.decode()[-3000:]

    def disturb(self, number, name, fault, chance):
        """Let a fault happen, then see that the run can go on with what it may lose at most."""
        place = self.place / f"run-{number}"
        folder = RunFolder(place / "run")
        shared, code, end = self.stretch(name, place, fault)
        log = self.said()
        fired = shared.fired.value > 0
        seconds = end - shared.fired.value if fired else 0.0
        reached = shared.step.value if shared.began.value >= 0 else None
        moment = Moment(fault, name, number, code, fired, seconds)
        problem = moment.problems.append
        accepted = {EXITS[fault.name] if fired else 0}
        if fired and fault.name.startswith("SIGTERM"):
            accepted.add(-signal.SIGTERM)  # outside of training, where nothing is to be saved
        if fired and code == 0:  # it came too late to matter
            accepted.add(0)
        if code not in accepted:
            problem(f"The exit code is not {EXITS[fault.name]}.\n{log}")
        if code == 2:  # TensorBoard's thread has a traceback of its own on a full disk
            is_said = log.splitlines()[-1].startswith("maxentflow: ")
        else:
            is_said = code == KILLED or "Traceback" not in log
        if not is_said:
            problem(f"It does not end in a sentence.\n{log}")
        if fault.name.startswith(("SIGTERM", "SIGINT")) and seconds > PROMISED:
            problem(f"It took {seconds:.1f} s from the signal to the end.")
        self.repair(place)
        if not folder.config_path.exists():
            return moment
        moment.step = newest = self.usable(folder, problem)
        if reached is not None:
            moment.lost = reached - newest
        if fault.name in ("SIGTERM", "SIGINT") and code in (143, 130) and moment.lost:
            problem("A step was not saved.")
        if code == 0 and newest != TOTAL:
            problem(f"The run says that it is complete at step {newest}.")
        if fault.name.startswith(("checkpoint", "chunk")) and newest:
            moment.fired = self.damage(folder, fault)
            moment.step = self.usable(folder, problem)
            moment.lost = newest - moment.step
        if moment.lost > EVERY:
            problem("More than a checkpoint interval is lost.")
        return moment

    def damage(self, folder, fault):
        """Truncate or flip a bit of the newest checkpoint or chunk; whether there is one."""
        path = folder.checkpoint_path
        if fault.name.startswith("chunk"):
            chunks = list(folder.replay_path.glob("*.pt"))
            if not chunks:
                return False
            path = max(chunks)
        content = bytearray(path.read_bytes())
        where = int(fault.share * len(content))
        if "truncated" in fault.name:
            content = content[:where]
        else:
            content[where] ^= 1 << fault.at % 8
        path.write_bytes(content)
        return True

    def usable(self, folder, problem):
        """The step of the checkpoint that the run can go on from; the only one is removed, as the
        refusal says, if it is damaged."""
        of = replace_workers(description.read(folder))
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return description.restored(of, folder).step
        except ValueError as error:
            checkpoints = folder.checkpoint_path.parent
            if not str(error).endswith(f"remove {checkpoints} to begin the run again."):
                problem(f"No checkpoint can be used: {error}")
            shutil.rmtree(checkpoints)
            return 0

    def repair(self, place):
        """Give back space and permission."""
        (place / "filler").unlink(missing_ok=True)
        for path in [place / "run", *(place / "run").rglob("*")]:
            if path.exists():
                path.chmod(0o755 if path.is_dir() else 0o644)

    def unlike(self, run, quiet):
        """Where the end of a run differs from that of the quiet one."""
        if metrics(run) != quiet.metrics:
            return "metrics.csv"
        return ", ".join(differences(final_state(run), quiet.state))


@dataclass
class Quiet:
    """A run that nothing disturbed: how many calls it makes, and how it ends."""

    shared: Shared
    metrics: list
    state: dict


def mount_small_disk(place):
    """Mount one of 16 MB on a folder, for this process alone; why it cannot be done, if so."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = 1 << 14 | 1 << 18  # MS_REC | MS_PRIVATE
    for done in (
        lambda: libc.unshare(0x00020000),  # CLONE_NEWNS
        lambda: libc.mount(b"none", b"/", None, private, None),
        lambda: libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=16m"),
    ):
        if done():
            return f"no disk can be mounted: {os.strerror(ctypes.get_errno())}"
    return None


def replace_workers(of):
    """The same run without workers, which changes nothing but time."""
    return replace(of, trainer_config=replace(of.trainer_config, workers=False))


def final_state(run):
    """The complete state at the end of a run, with its replay, and the best policy."""
    folder = RunFolder(run)
    trainer = description.make_trainer(replace_workers(description.read(folder)), folder)
    trainer.restore(folder.load_checkpoint())
    return {**comparable(trainer.state()), "best": folder.load_best()}


def wait_for(process):
    """Wait until a process has ended or is stopped; which of both."""
    how = os.WEXITED | os.WSTOPPED | os.WNOWAIT
    return os.waitid(os.P_PID, process, how).si_code


@contextlib.contextmanager
def alarm(seconds):
    """Raise TimeoutError in what takes longer."""

    def stuck(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(moments):
    """What came of the moments, a line for each fault."""
    codes = f"{'exit codes':<20}"
    heads = "moments", "happened", codes, "steps lost at most", "s at most", "failed"
    lines = ["  ".join([f"{'fault':<30}", *heads])]
    for name in EXITS:
        of = [moment for moment in moments if moment.fault.name == name]
        if not of:
            continue
        codes = Counter(moment.code for moment in of)
        shown = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items(), key=str))
        lines.append(
            f"{name:<30} {len(of):>7}  {sum(m.fired for m in of):>8}  {shown:<20}"
            f"  {max(m.lost for m in of):>18}  {max(m.seconds for m in of):>9.2f}"
            f"  {sum(bool(m.problems) for m in of):>6}"
        )
    return "\n".join(lines)


def disturb(count, seed):
    """Disturb runs a number of times; give what came of it, and why no disk was filled, if so."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults") as place:
        harness = Harness(place, seed)
        try:
            moments, reason = harness.moments(count), harness.reason
        finally:
            if harness.reason is None:
                ctypes.CDLL(None).umount2(os.fsencode(place), 2)
    return moments, reason


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    moments, reason = disturb(options.moments, options.seed)
    if reason is not None:
        print(f"Left out: disk full, since {reason}.")
    failed = [moment for moment in moments if moment.problems]
    print(*failed, table(moments), sep="\n")
    print(f"{len(moments)} moments, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    sys.exit(bool(failed))
