"""The command line: ``maxentflow train | evaluate | plot``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import tyro

from maxentflow import envs
from maxentflow.agents import agent as agents
from maxentflow.agents import figures
from maxentflow.agents.agent import Agent
from maxentflow.agents.evaluation import evaluate, record_video
from maxentflow.agents.learner import constants, step_sizes
from maxentflow.agents.loop import BatchingError, NonFiniteError, train
from maxentflow.agents.run_folder import RunFolder
from maxentflow.agents.trainer import Trainer, TrainerConfig

__all__ = ["main"]

_USAGE = """\
usage: maxentflow COMMAND ...

commands:
  train AGENT [options]      train {agents}, e.g. maxentflow train meow --env Hopper-v4
  train --resume RUN ...     continue exactly where the last checkpoint is
  evaluate RUN [options]     run episodes with a trained policy, or film one
  plot RUN [RUN ...]         learning curves, with the published ones

Options: train AGENT --help, train --resume --help, evaluate --help, plot --help.
"""

_RUN_DIR_HELP = (
    "Folder of the run, or of a folder for each of --seeds; runs/TASK-AGENT-SEED by default."
)
_SEEDS_HELP = (
    "Train runs of these seeds, such as 0,1,2, as one batched program, in place of --seed; each "
    "has a folder of its own."
)

Job = Callable[[], None]
"""What is left to do once everything has been checked."""


@dataclass
class _Resume:
    """Continue a run from its last checkpoint; its metrics go on as if it had never stopped.

    Several that differ by seed alone, and are at the same step, go on as one batched program."""

    resume: tuple[Path, ...]
    """The run's folder, or several."""
    total_steps: int | None = None
    """New length of the run; its own by default."""


@dataclass
class _Evaluate:
    """Run whole episodes with a trained policy."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    episodes: int = 10
    """How many."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample actions instead of taking the mode."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""
    video: Path | None = None
    """Also film one episode into this mp4."""


@dataclass
class _Plot:
    """Draw the evaluations of runs; those that differ by seed alone become one curve."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("curves.png")
    """Where to write the figure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; bad input ends in one sentence and exit code 2."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        job = _prepare(arguments)
    except ValueError as error:
        _fail(str(error))
    try:
        job()
    except (BatchingError, NonFiniteError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("\nInterrupted; the run folder's last checkpoint holds everything.", file=sys.stderr)
        sys.exit(130)


def _prepare(arguments: list[str]) -> Job:
    commands = {"train": _train, "evaluate": _evaluate, "plot": _plot}
    if not arguments or arguments[0] in ("-h", "--help"):
        return _print_usage
    command, *rest = arguments
    if command not in commands:
        raise agents.unknown_name("command", command, commands)
    return commands[command](rest)


def _print_usage() -> None:
    print(_USAGE.format(agents=" or ".join(agents.registered())), end="")


def _train(arguments: list[str]) -> Job:
    if any(word == "--resume" or word.startswith("--resume=") for word in arguments):
        named = arguments[0] if not arguments[0].startswith("-") else None
        return _resume(_parse(_Resume, arguments[named is not None :], "train"), named)
    if not arguments or arguments[0] in ("-h", "--help"):
        return _print_usage
    name, *rest = arguments
    env_id = _value_of("--env", rest) or TrainerConfig().env
    agent_defaults = agents.config(name, env_id)

    options_type = dataclasses.make_dataclass(
        "Train",
        [
            ("agent", type(agent_defaults)),
            ("trainer", TrainerConfig),
            ("run_dir", Annotated[Path | None, tyro.conf.arg(help=_RUN_DIR_HELP)]),
            ("seeds", Annotated[str | None, tyro.conf.arg(help=_SEEDS_HELP)]),
        ],
    )
    options_type.__doc__ = f"Train {name}; the defaults shown are those for {env_id}."
    defaults = options_type(agent_defaults, TrainerConfig.for_task(env_id), None, None)
    options = _parse(options_type, rest, f"train {name}", defaults)
    seeds, run_dir = [options.trainer.seed], options.run_dir
    if options.seeds is not None:
        if _value_of("--seed", rest) is not None:
            raise ValueError("Give --seed or --seeds, not both.")
        seeds = _numbers(options.seeds)
    configs = [dataclasses.replace(options.trainer, seed=seed) for seed in seeds]
    trainers = [_assemble(name, options.agent, config) for config in configs]
    for trainer, config in zip(trainers, configs, strict=True):
        path = run_dir or _free_folder(name, config)
        if run_dir is not None and options.seeds is not None:
            path = run_dir / f"seed-{config.seed}"
        trainer.folder = RunFolder(path)
        trainer.folder.create(name, options.agent, config)
    return lambda: _run(trainers)


def _numbers(text: str) -> list[int]:
    """The seeds of a list such as 0,1,2."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be whole numbers and commas, got {text!r}.") from None
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--seeds names a seed twice: {text}.")
    return numbers


def _resume(options: _Resume, named: str | None) -> Job:
    if not options.resume:
        raise ValueError("--resume needs a run folder.")
    if len({path.resolve() for path in options.resume}) < len(options.resume):
        raise ValueError(f"--resume names a run twice: {' '.join(map(str, options.resume))}.")
    trainers = [_continued(RunFolder(path), options, named) for path in options.resume]
    return lambda: _run(trainers)


def _continued(folder: RunFolder, options: _Resume, named: str | None) -> Trainer:
    """A run as it was at its last checkpoint."""
    name, agent_config, trainer_config = _configuration(folder)
    if named is not None and named != name:
        raise ValueError(f"{folder} is a run of {name!r}, not of {named!r}.")
    if options.total_steps is not None:
        trainer_config = dataclasses.replace(trainer_config, total_steps=options.total_steps)
    trainer = _assemble(name, agent_config, trainer_config)
    trainer.folder = folder
    state = folder.load_checkpoint()
    if state is not None:
        configured = _kept_settings(trainer.agent)
        trainer.restore(state)
        if _kept_settings(trainer.agent) != configured:
            raise ValueError(
                f"{folder.config_path} was changed: a discount and step sizes are those of the "
                "checkpoint; begin a new run to have others."
            )
    if trainer.step >= trainer_config.total_steps:
        raise ValueError(
            f"{folder} is complete at {trainer.step} steps; give a larger --total-steps to go on."
        )
    return trainer


def _kept_settings(agent: Agent) -> list[float]:
    """Settings that are part of an agent's state, which a checkpoint brings back."""
    discounts = [
        float(buffer)
        for name, buffer in constants(agent).items()
        if name.rpartition(".")[2] == "gamma"
    ]
    return discounts + step_sizes(agent)


def _evaluate(arguments: list[str]) -> Job:
    options = _parse(_Evaluate, arguments, "evaluate")
    if options.episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {options.episodes}.")
    if options.seed < 0:
        raise ValueError(f"seed must not be negative, got {options.seed}.")
    agent, trainer_config = _trained(RunFolder(options.run))

    def job() -> None:
        deterministic = not options.stochastic
        result = evaluate(
            agent.policy,
            trainer_config.env,
            episodes=options.episodes,
            deterministic=deterministic,
            seed=options.seed,
        )
        print(f"{trainer_config.env}, {'mode' if deterministic else 'samples'}: {result}")
        if options.video is not None:
            try:
                record_video(
                    agent.policy,
                    trainer_config.env,
                    options.video,
                    deterministic=deterministic,
                    seed=options.seed,
                )
            except ValueError as error:
                _fail(str(error))
            print(f"Video: {options.video}")

    return job


def _plot(arguments: list[str]) -> Job:
    options = _parse(_Plot, arguments, "plot")
    if not options.runs:
        raise ValueError("plot needs at least one run folder.")
    figures.learning_curves([RunFolder(path) for path in options.runs], options.out)
    return lambda: print(f"Figure: {options.out}")


def _run(trainers: Sequence[Trainer]) -> None:
    for trainer in trainers:
        print(f"Run folder: {trainer.folder}", flush=True)
    train(trainers)
    for trainer in trainers:
        if len(trainers) > 1:
            print(f"Seed {trainer.config.seed}:")
        _conclude(trainer)
    print(
        "Next:\n"
        f"  maxentflow evaluate {trainers[0].folder} --episodes 20 --stochastic\n"
        f"  maxentflow train {trainers[0].agent.name} --env Hopper-v4 --total-steps 300000\n"
        "  maxentflow train meow --flow affine\n"
        f"  tensorboard --logdir {trainers[0].folder}"
    )


def _conclude(trainer: Trainer) -> None:
    """Say and draw what a run has come to."""
    config, folder = trainer.config, trainer.folder
    assert folder is not None
    result = evaluate(
        trainer.agent.policy, config.env, episodes=config.eval_episodes, device=config.device
    )
    print(f"{config.env} after {trainer.step} steps, mode: {result}")
    if config.env.startswith("maxentflow/MultiGoal"):
        path = folder.figures_path / "multigoal.png"
        rollouts = figures.multigoal(trainer.agent, path)
        reached = ", ".join(
            f"({goal[0]:+.0f}, {goal[1]:+.0f}) {(rollouts.goals == index).mean():.0%}"
            for index, goal in enumerate(envs.GOALS)
        )
        print(f"Sampled episodes that end at each goal: {reached}")
        print(f"Figure: {path}")
    with contextlib.suppress(ValueError):  # a short run may have no evaluation to draw
        path = folder.figures_path / "returns.png"
        figures.learning_curves([folder], path)
        print(f"Figure: {path}")


def _assemble(name: str, agent_config: Any, trainer_config: TrainerConfig) -> Trainer:
    torch.manual_seed(trainer_config.seed)
    torch.set_num_threads(trainer_config.threads)  # initial weights depend on it, in the last bits
    if trainer_config.device != "cpu":
        _check_device(trainer_config.device)
    env = envs.make(trainer_config.env, trainer_config.num_envs, workers=trainer_config.workers)
    agent = agents.make(name, env, device=trainer_config.device, **vars(agent_config))
    return Trainer(agent, env, trainer_config)


def _configuration(folder: RunFolder) -> tuple[str, Any, TrainerConfig]:
    content = folder.config()
    name = content["agent"]
    try:
        trainer_config = TrainerConfig(**content["trainer_config"])
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["agent_config"].items()
        }
        return name, agents.config(name, trainer_config.env, **settings), trainer_config
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{folder.config_path} is not a run's configuration: {error}.") from error


def _trained(folder: RunFolder) -> tuple[Agent, TrainerConfig]:
    name, agent_config, trainer_config = _configuration(folder)
    state = folder.load_checkpoint()
    if state is None:
        raise ValueError(f"{folder} has no checkpoint yet.")
    trainer_config = dataclasses.replace(trainer_config, device="cpu")
    trainer = _assemble(name, agent_config, trainer_config)
    trainer.restore_agent(state)
    return trainer.agent, trainer_config


def _free_folder(agent: str, config: TrainerConfig) -> Path:
    task = config.env.rpartition("/")[2]
    first = Path("runs") / f"{task}-{agent}-{config.seed}"
    path, count = first, 1
    while path.exists():
        count += 1
        path = first.with_name(f"{first.name}-{count}")
    return path


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Device {device!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """What an option was given, the last time if it is there several times."""
    value = None
    for position, word in enumerate(arguments):
        if word == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _parse(kind: Any, arguments: list[str], command: str, default: Any = None) -> Any:
    """tyro's parse, with its boxed complaints made one sentence."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=arguments,
                prog=f"maxentflow {command}",
                config=(tyro.conf.OmitArgPrefixes,),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_sentence(complaint.getvalue())) from None


def _one_sentence(box: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m|-{3,}", "", box.translate(_NO_BOX))
    text = " ".join(plain.split())
    text = re.split(r" For full helptext| Argument helptext", text)[0]
    text = re.sub(rf"^(({_TITLES}|Error parsing \w+:)\s+)+", "", text)
    return re.sub(r" Perhaps you meant: (--[\w-]+).*", r". Did you mean \1?", text)


_TITLES = r"(Value|Parsing) error|Missing argument|Required options|Unrecognized options(?!:)"
_NO_BOX = {ord(character): " " for character in "╭╮╰╯─│┌┐└┘"}


def _fail(message: str) -> NoReturn:
    print(f"maxentflow: {message}", file=sys.stderr)
    sys.exit(2)
