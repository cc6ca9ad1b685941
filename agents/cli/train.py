"""``maxentflow train``: begin runs, or continue them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from maxentflow.agents import compiled, registry
from maxentflow.agents.cli.assemble import make_trainer, restored
from maxentflow.agents.cli.conclusion import conclude
from maxentflow.agents.cli.description import Compile, Description, Options, read
from maxentflow.agents.cli.dispatch import usage
from maxentflow.agents.cli.parsing import parse, value_of
from maxentflow.agents.learner import CompilationError
from maxentflow.agents.training import RunFolder, Trainer, TrainerConfig, train

__all__ = ["run"]


@dataclass
class _Run:
    description: Description
    trainer: Trainer
    folder: RunFolder


@dataclass
class _Resume:
    """Continue a run from its last checkpoint; its metrics go on as if it had never stopped.

    Several that differ by seed alone, and are at the same step, go on as one batched program."""

    resume: tuple[Path, ...]
    """The run's folder, or several."""
    total_steps: int | None = None
    """New length of the run; its own by default."""


def run(arguments: list[str]) -> None:
    """Train, then say what it came to.

    Raises:
        ValueError: something is wrong with the arguments, or the run cannot go on.
    """
    if any(word == "--resume" or word.startswith("--resume=") for word in arguments):
        _train(_continued(arguments))
    elif not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
    else:
        _train(_begun(arguments))


def _begun(arguments: list[str]) -> list[_Run]:
    """New runs, each with a folder."""
    name, *rest = arguments
    env_id = value_of("--env", rest)
    options_type = _options(name, env_id)
    if env_id is None and not {"-h", "--help"} & set(rest):
        raise ValueError(f"A task is missing; give its id, as in train {name} --env Hopper-v4.")
    options = parse(options_type, rest, f"train {name}")
    if options.seeds is not None and value_of("--seed", rest) is not None:
        raise ValueError("Give --seed or --seeds, not both.")
    seeds = [options.trainer.seed] if options.seeds is None else _numbers(options.seeds)
    runs = []
    for seed in seeds:
        description = Description(
            agent=name,
            agent_config=options.agent,
            env=options.env,
            env_options=options.env_options,
            trainer_config=dataclasses.replace(options.trainer, seed=seed),
            compile=options.compile,
        )
        path = options.run_dir or _free_path(description)
        if options.run_dir is not None and options.seeds is not None:
            path = options.run_dir / f"seed-{seed}"
        runs.append(_Run(description, make_trainer(description), RunFolder(path)))
    # A folder that is taken is refused before any is made.
    for each in sorted(runs, key=lambda run: not run.folder.config_path.exists()):
        _create_folder(each)
    return runs


def _options(name: str, env_id: str | None) -> type[Any]:
    """The options of an agent, with the defaults for a task."""
    settings = registry.config(name, env_id)
    trainer_config = TrainerConfig.for_task(env_id, name)
    options = dataclasses.make_dataclass(
        "Options",
        [
            ("env", Annotated[str, _help("A gymnasium id.")]),
            (
                "env_options",
                Annotated[Options, _help("Keyword arguments of the task by name and value.")],
                field(default_factory=dict),
            ),
            ("agent", type(settings), field(default_factory=lambda: settings)),
            ("trainer", TrainerConfig, field(default_factory=lambda: trainer_config)),
            (
                "compile",
                Annotated[
                    Compile,
                    _help(
                        "Compile the update, which takes half a minute; auto does where the run "
                        "is long enough."
                    ),
                ],
                field(default="auto"),
            ),
            (
                "run_dir",
                Annotated[
                    Path | None,
                    _help(
                        "Folder of the run, or of a folder for each of --seeds; "
                        "runs/TASK-AGENT-SEED by default."
                    ),
                ],
                field(default=None),
            ),
            (
                "seeds",
                Annotated[
                    str | None,
                    _help(
                        "Train runs of these seeds, such as 0,1,2, as one batched program, in "
                        "place of --seed; each has a folder of its own."
                    ),
                ],
                field(default=None),
            ),
        ],
    )
    shown = "any task" if env_id is None else env_id
    options.__doc__ = f"Train {name}; the defaults shown are those for {shown}."
    return options


def _help(text: str) -> Any:
    return tyro.conf.arg(help=text)


def _numbers(text: str) -> list[int]:
    """The seeds of a list such as 0,1,2."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be whole numbers and commas, got {text!r}.") from None
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--seeds names a seed twice: {text}.")
    return numbers


def _free_path(description: Description) -> Path:
    task = description.env.rpartition("/")[2]
    first = Path("runs") / f"{task}-{description.agent}-{description.trainer_config.seed}"
    path, count = first, 1
    while path.exists():
        count += 1
        path = first.with_name(f"{first.name}-{count}")
    return path


def _create_folder(run: _Run) -> None:
    description, trainer = run.description, run.trainer
    run.folder.create(
        trainer.agent,
        trainer.config,
        description.env,
        description.env_options,
        compile=description.compile,
    )
    trainer.folder = run.folder


def _continued(arguments: list[str]) -> list[_Run]:
    """Runs as they were at their last checkpoints."""
    named = arguments[0] if not arguments[0].startswith("-") else None
    options = parse(_Resume, arguments[named is not None :], "train")
    if not options.resume:
        raise ValueError("--resume needs a run folder.")
    if len({path.resolve() for path in options.resume}) < len(options.resume):
        raise ValueError(f"--resume names a run twice: {' '.join(map(str, options.resume))}.")
    runs = [_restored(RunFolder(path), options.total_steps, named) for path in options.resume]
    if options.total_steps is not None:
        for each in runs:
            each.folder.set_total_steps(options.total_steps)
    return runs


def _restored(folder: RunFolder, total_steps: int | None, named: str | None) -> _Run:
    description = read(folder)
    if named is not None and named != description.agent:
        raise ValueError(f"{folder} is a run of {description.agent!r}, not of {named!r}.")
    if total_steps is not None:
        longer = dataclasses.replace(description.trainer_config, total_steps=total_steps)
        description = dataclasses.replace(description, trainer_config=longer)
    trainer = restored(description, folder)
    if trainer.step >= trainer.config.total_steps:
        raise ValueError(
            f"{folder} is complete at {trainer.step} steps; give a larger --total-steps to go on."
        )
    return _Run(description, trainer, folder)


def _train(runs: Sequence[_Run]) -> None:
    for each in runs:
        print(f"Run folder: {each.folder}", flush=True)
    trainers = [each.trainer for each in runs]
    agents = [trainer.agent for trainer in trainers]
    folders = " ".join(str(each.folder) for each in runs)
    go_on = f"continue from the last checkpoint with maxentflow train --resume {folders}"
    try:
        wanted = any(each.description.compiles(each.trainer.agent) for each in runs)
        train(trainers, compiled.learner(agents, compile=wanted))
    except CompilationError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted; {go_on}.") from None
    except SystemExit:  # of SIGTERM, with everything saved
        print(f"\nTerminated; {go_on}.", file=sys.stderr)
        raise
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Stopped after {trainers[0].step} steps: {reason}; {go_on}.") from error
    for each in runs:
        if len(runs) > 1:
            print(f"Seed {each.trainer.config.seed}:")
        conclude(each.description, each.trainer, each.folder)
    first = runs[0]
    print(
        "Next:\n"
        f"  maxentflow evaluate {first.folder} --episodes 20 --stochastic\n"
        f"  maxentflow train --resume {folders} --total-steps {2 * first.trainer.step}\n"
        f"  maxentflow train {first.description.agent} --env {first.description.env} --help\n"
        f"  tensorboard --logdir {first.folder}"
    )
