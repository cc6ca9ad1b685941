"""Task, agent and trainer from a description, and back from a run folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from maxentflow import envs
from maxentflow.agents import registry
from maxentflow.agents.agent import Agent
from maxentflow.agents.cli.description import Description
from maxentflow.agents.training import RunFolder, Trainer

__all__ = ["make_agent", "make_env", "make_trainer", "restored", "trained"]

_FIXED = ("agent", "env", "env_options")


def make_env(description: Description, num_envs: int, *, workers: bool = False) -> VectorEnv:
    """Copies of the task, with its keyword arguments.

    Raises:
        ValueError: an unknown task, or keyword arguments that it does not take.
    """
    options = description.env_options
    reserved = inspect.signature(envs.make).parameters.keys() | {"render_mode"}
    if taken := sorted(reserved & options.keys()):
        raise ValueError(f"{', '.join(taken)} cannot be among the options of a task.")
    if options:
        _try_options(description.env, options)
    return envs.make(description.env, num_envs, workers=workers, **options)


def make_agent(description: Description, env: VectorEnv, device: str) -> Agent:
    """The agent as it is before training, by the random numbers of the run's seed.

    Raises:
        ValueError: a setting is out of range or too large, the agent cannot act in the task, or
            the device cannot be used.
    """
    config = description.trainer_config
    _check_device(device)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)  # initial weights depend on it, in the last bits
    settings = vars(description.agent_config)
    try:
        return registry.make(description.agent, env, device=device, **settings)
    except RuntimeError as error:  # torch's, of sizes that do not fit into memory
        raise ValueError(
            f"Agent {description.agent!r} cannot be made: {_first_sentence(error)}."
        ) from error


def make_trainer(description: Description) -> Trainer:
    """The trainer of a run from its start.

    Raises:
        ValueError: as :func:`make_env` and :func:`make_agent`, or a size that is out of range.
    """
    config = description.trainer_config
    env = make_env(description, config.num_envs, workers=config.workers)
    agent = make_agent(description, env, config.device)
    return Trainer(agent, env, config)


def restored(description: Description, folder: RunFolder) -> Trainer:
    """The trainer of a run as it was at its last checkpoint; from its start where there is none.

    Raises:
        ValueError: the checkpoint is damaged or of another run, or the configuration was changed.
    """
    trainer = make_trainer(description)
    trainer.folder = folder
    state = folder.load_checkpoint()
    if state is not None:
        _check_settings(folder, state)
        _load(trainer.agent, lambda: trainer.restore(state), folder)
    return trainer


def trained(description: Description, folder: RunFolder, env: VectorEnv) -> Agent:
    """The agent of a run as it was at its last checkpoint, on the CPU.

    Raises:
        ValueError: there is no checkpoint, or as :func:`restored`.
    """
    state = folder.load_checkpoint()
    if state is None:
        raise ValueError(f"{folder} has no checkpoint yet.")
    agent = make_agent(description, env, "cpu")
    _check_settings(folder, state)
    _load(agent, lambda: agent.load_state_dict(state), folder)
    return agent


def _load(agent: Agent, load: Callable[[], None], folder: RunFolder) -> None:
    """Load a checkpoint; refuse a damaged one."""
    entries = _optimizer_entries(agent)
    try:
        load()
        for kept, before in zip(_optimizer_entries(agent), entries, strict=True):
            if missing := before - kept:
                raise KeyError(*sorted(missing))
        _check_optimizer_states(agent)
    except ValueError as error:
        raise ValueError(f"{folder.checkpoint_path}: {error}") from error
    except Exception as error:  # an entry that is missing or of another kind, in any of its parts
        raise ValueError(
            f"{folder.checkpoint_path} is not a checkpoint of this run, "
            f"{type(error).__name__}: {_first_sentence(error)}."
        ) from error


def _check_settings(folder: RunFolder, state: dict[str, Any]) -> None:
    """Refuse a configuration that is not the one which the checkpoint was made with.

    The trainer's settings may have changed: they shape no network.
    """
    now, then = folder.config(), state.get("settings")
    if not isinstance(then, dict) or not {*_FIXED, "agent_config"} <= then.keys():
        raise ValueError(f"{folder.checkpoint_path} is not a checkpoint of this run.")
    changed = [name for name in _FIXED if now[name] != then[name]]
    settings, saved = now["agent_config"], then["agent_config"]
    changed += [
        name for name in settings | saved if settings.get(name, ...) != saved.get(name, ...)
    ]
    if changed:
        raise ValueError(
            f"{folder.config_path} was changed: {', '.join(changed)} must be as in the "
            "checkpoint; begin a new run to have others."
        )


def _optimizer_entries(agent: Agent) -> list[set[str]]:
    """Names of the optimisers' hyperparameters."""
    return [set(group) for step in agent.steps for group in step.optimizer.param_groups]


def _check_optimizer_states(agent: Agent) -> None:
    """Refuse an optimiser that knows more of one parameter than of another."""
    for step in agent.steps:
        names = {tuple(sorted(state)) for state in step.optimizer.state.values()}
        if len(names) > 1:
            raise ValueError("An optimizer's state is incomplete.")


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each back end that is missing has its own
        raise ValueError(f"Device {device!r} cannot be used: {_first_sentence(error)}.") from error


def _try_options(env_id: str, options: dict[str, Any]) -> None:
    """Take a step of a task made with keyword arguments, some of which fail no earlier."""
    try:
        env = envs.make(env_id, **options)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
    except Exception as error:  # each task refuses its arguments in its own way
        raise ValueError(
            f"Task {env_id!r} cannot be used with {options}: {_first_sentence(error)}."
        ) from error


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0].removesuffix(".")
