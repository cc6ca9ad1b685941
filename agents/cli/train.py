"""``maxentflow train``: begin runs, or continue them."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import tyro

from maxentflow import envs
from maxentflow.agents import cluster, compiled, registry
from maxentflow.agents.cli import imports
from maxentflow.agents.cli.conclusion import conclude
from maxentflow.agents.cli.parsing import parse, quoted, value_of
from maxentflow.agents.learner import CompilationError
from maxentflow.agents.task_errors import SignalExit, TaskError
from maxentflow.agents.training import RunFolder, Trainer, TrainerConfig, train
from maxentflow.agents.training.description import (
    Description,
    create,
    make_parts,
    make_trainer,
    read,
    restored,
)

__all__ = ["run"]


@dataclass
class _Run:
    description: Description
    trainer: Trainer
    folder: RunFolder
    address: str | None = None


@dataclass
class _New:
    run: Annotated[Description, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the run, or of a folder for each of --seeds; runs/TASK-AGENT-SEED by default."""
    seeds: str | None = None
    """Train runs of these seeds, such as 0,1,2, as one batched program, in place of --seed; each
    has a folder of its own."""
    paper: bool = False
    """Begin from the settings of the algorithm's paper, tuned for its tasks."""
    address: str | None = None
    """The Ray cluster of --actors, auto for the one of this machine; by default one is started."""
    progress: bool = True
    """Show a bar on a terminal, and a line at each log step elsewhere."""


@dataclass
class _Resume:
    """Continue a run from its last checkpoint; its metrics go on as if it had never stopped.

    Several that differ by seed alone, and are at the same step, go on as one batched program."""

    resume: tuple[Path, ...]
    """The run's folder, or several."""
    total_steps: int | None = None
    """New length of the run; its own by default."""
    address: str | None = None
    """The Ray cluster of a run with actors; by default one is started."""
    progress: bool = True
    """Show a bar on a terminal, and a line at each log step elsewhere."""


def run(arguments: list[str]) -> None:
    """Train, then say what it came to."""
    resumes = any(word.partition("=")[0] == "--resume" for word in arguments)
    _train(_continued(arguments) if resumes else _begun(arguments))


def _begun(arguments: list[str]) -> list[_Run]:
    """New runs, each with a folder."""
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(registry.registered())
        raise ValueError(f"An agent is missing, as in train meow --env Hopper-v4; known: {known}.")
    name, *rest = arguments
    env_id = value_of("--env", rest)
    paper = "--paper" in rest
    trainer_config = TrainerConfig.for_task(env_id, name, paper=paper)
    agent_config = registry.config(name, env_id, paper=paper)
    new = Description(name, agent_config, tyro.MISSING, trainer_config)
    if env_id is None and not {"-h", "--help"} & set(rest):
        raise ValueError(f"A task is missing; give its id, as in train {name} --env Hopper-v4.")
    about = f"Train {name}; the defaults shown are those for {env_id or 'any task'}."
    options = parse(
        _New,
        rest,
        f"train {name}",
        about=about,
        examples=_examples(name, env_id),
        default=_New(new),
    )
    if options.seeds is not None and value_of("--seed", rest) is not None:
        raise ValueError("Give --seed or --seeds, not both.")
    config = options.run.trainer_config
    runs = []
    for seed in [config.seed] if options.seeds is None else _numbers(options.seeds):
        description = replace(options.run, trainer_config=replace(config, seed=seed))
        path = options.run_dir or _free_path(description)
        if options.run_dir is not None and options.seeds is not None:
            path = options.run_dir / f"seed-{seed}"
        folder = RunFolder(path)
        trainer = make_trainer(description, folder, progress=options.progress)
        runs.append(_Run(description, trainer, folder, options.address))
    # A folder that is taken is refused before any is made.
    for each in sorted(runs, key=lambda run: not run.folder.config_path.exists()):
        create(each.folder, each.description, each.trainer.agent, imports.named)
    return runs


def _examples(name: str, env_id: str | None) -> list[str]:
    takes = registry.summaries()[name].actions
    task = env_id or ("Hopper-v4" if "continuous" in takes else "CartPole-v1")
    first = f"train {name} --env {task}"
    if "dataset" in vars(registry.config(name)):
        first += " --dataset hopper/sac-v0"
    return [f"{first} --seed 1 --total-steps 300000", f"{first} --seeds 0,1,2 --threads 1"]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be whole numbers and commas, got {text!r}.") from None
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--seeds names a seed twice: {text}.")
    return numbers


def _free_path(description: Description) -> Path:
    name = description.env
    is_torchrl = envs.is_torchrl(name)
    task = name.partition(":")[2].replace("/", "-") if is_torchrl else name.rpartition("/")[2]
    first = Path("runs") / f"{task}-{description.agent}-{description.trainer_config.seed}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], others) if not path.exists())


def _continued(arguments: list[str]) -> list[_Run]:
    """Runs as they were at their last checkpoints."""
    named = None if arguments[0].startswith("-") else arguments[0]
    options = parse(_Resume, arguments[named is not None :], "train")
    if not options.resume:
        raise ValueError("--resume needs a run folder.")
    if len({path.resolve() for path in options.resume}) < len(options.resume):
        raise ValueError(f"--resume names a run twice: {' '.join(map(str, options.resume))}.")
    runs = []
    for folder in map(RunFolder, options.resume):
        description = read(folder)
        if named not in (None, description.agent):
            raise ValueError(f"{folder} is a run of {description.agent!r}, not of {named!r}.")
        if options.total_steps is not None:
            config = replace(description.trainer_config, total_steps=options.total_steps)
            description = replace(description, trainer_config=config)
        trainer = restored(description, folder, progress=options.progress)
        if trainer.step >= trainer.config.total_steps:
            raise ValueError(
                f"{folder} has {trainer.step} steps already; give a larger --total-steps to go on."
            )
        runs.append(_Run(description, trainer, folder, options.address))
    for each in runs:
        each.folder.begin()  # before anything is written
    if options.total_steps is not None:
        for each in runs:
            each.folder.set_total_steps(options.total_steps)
    return runs


@contextmanager
def _collectors(runs: list[_Run]) -> Iterator[None]:
    """Actors for the runs that ask for some."""
    wanted = [each for each in runs if each.trainer.config.actors]
    if not wanted:
        yield
        return
    cores = sum(each.trainer.config.actors for each in wanted)
    with ExitStack() as stack:
        stack.enter_context(cluster.connected(wanted[0].address, num_cpus=cores))
        for each in wanted:
            make = partial(_parts, each.description, list(imports.named))
            actors = cluster.Actors(make, each.trainer.config)
            each.trainer.collector = stack.enter_context(actors)
        yield


def _parts(description: Description, modules: list[str]) -> Any:
    """Agent and environments, in the process of an actor."""
    for name in modules:
        importlib.import_module(name)
    return make_parts(description, device="cpu")


def _train(runs: list[_Run]) -> None:
    for each in runs:
        print(f"Run folder: {each.folder}", flush=True)
    trainers = [each.trainer for each in runs]
    folders = " ".join(quoted(each.folder.path) for each in runs)
    again = f"maxentflow train{imports.words()} --resume {folders}"
    go_on = f"continue from the last checkpoint with {again}"
    try:
        wanted = any(each.description.compiles(each.trainer.agent) for each in runs)
        learner = compiled.learner([each.agent for each in trainers], compile=wanted)
        with _collectors(runs):
            train(trainers, learner)
    except CompilationError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; {go_on}.") from None
    except SignalExit as end:  # with everything saved
        end.add_note(f"\nTerminated; {go_on}.")
        raise
    except TaskError as error:
        raise ValueError(f"{str(error).removesuffix('.')}; {go_on}.") from error
    except RuntimeError as error:
        if not re.search("can't allocate|out of memory", str(error)):
            raise
        raise ValueError(
            f"Stopped after {trainers[0].step} steps: an update needs more memory than there is; "
            f"with smaller settings begin anew, or {go_on}."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Stopped after {trainers[0].step} steps: {reason}; {go_on}.") from error
    for each in runs:
        if len(runs) > 1:
            print(f"Seed {each.trainer.config.seed}:")
        conclude(each.description, each.trainer, each.folder)
    first = runs[0]
    folder, task = quoted(first.folder.path), shlex.quote(str(first.description.env))
    shown = first.trainer.config.logger == "tensorboard"
    print(
        "Next:\n"
        f"  maxentflow evaluate{imports.words()} {folder} --episodes 20 --stochastic\n"
        f"  {again} --total-steps {2 * first.trainer.step}\n"
        f"  maxentflow train{imports.words()} {first.description.agent} --env {task} --help\n"
        f"  {'tensorboard --logdir' if shown else 'maxentflow show'} {folder}"
    )
