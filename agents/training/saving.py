"""Save an agent as one file, and load one from a file or from a run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv

from maxentflow.agents.agent import Agent, nan_in
from maxentflow.agents.training.archive import check_new, opened, pack
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.description import make_env, read, trained
from maxentflow.agents.training.run_folder import RunFolder
from maxentflow.envs import task_id

__all__ = ["load", "save"]


def save(agent: Agent, env: VectorEnv, path: str | os.PathLike[str]) -> None:
    """Write an agent as it is now as one file, which :func:`~maxentflow.agents.training.load` and
    the commands take.

    A :class:`RunFolder` given to the trainer keeps the whole run instead.

    Args:
        agent: made by :func:`~maxentflow.agents.make` or a function of its own such as
            :func:`~maxentflow.agents.sac`.
        env: the environment that it was made for.
        path: a new .zip file.

    Raises:
        ValueError: the file exists or cannot be written, a weight is NaN, agent or task have
            parts that cannot be made again from their settings, or the agent is for another task.

    Example:
        >>> from maxentflow import agents, envs
        >>> env = envs.make("Pendulum-v1")
        >>> agent = agents.make("sac", env, hidden=(8, 8))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     save(agent, env, f"{place}/sac.zip")
        ...     again = agents.load(f"{place}/sac.zip")
        >>> observation, _ = env.reset(seed=0)
        >>> bool((again.predict(observation) == agent.predict(observation)).all())
        True
    """
    path = Path(path).expanduser()
    check_new(path)
    state = agent.state_dict()
    if (entry := next(nan_in(state, "agent"), None)) is not None:
        raise ValueError(f"The {entry} has numbers that are not finite.")
    recipe, spec = getattr(env, "recipe", None), getattr(env, "spec", None)
    # What a function makes may differ from the task whose name it has.
    name = task_id(env) if recipe is None or isinstance(recipe.task, str) else None
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        folder.create(agent, TrainerConfig(), name, None if spec is None else spec.kwargs)
        if custom := folder.config()["custom"]:
            raise ValueError(
                f"Parts of your own ({', '.join(custom)}) cannot be made again from a file; keep "
                "agent.state_dict() with torch.save, and load it into an agent made as this one."
            )
        whole = RunFolder.at(folder.save_stopped({**state, "step": agent.updates}))
        try:
            _loaded(whole)
        except ValueError as error:
            raise ValueError(f"The agent was not made for {name}: {error}") from error
        pack(whole, path, card=f"# {agent.name} in {name}\n\nSaved in Python.\n")


def load(run: str | os.PathLike[str], *, best: bool = False) -> Agent:
    """The agent of a run, as it was at its last checkpoint, on the CPU.

    Torch's generators and number of threads are as before.

    Args:
        run: the run's folder, or an archive of ``maxentflow package``.
        best: take the policy with the highest return of an evaluation, in place of the newest.

    Raises:
        ValueError: there is no run, it has no checkpoint yet, one of its files cannot be read, or
            it was trained with parts that its configuration does not hold.

    Example:
        >>> import tempfile
        >>> from maxentflow import agents, envs
        >>> env = envs.make("Pendulum-v1")
        >>> agent = agents.make("sac", env, hidden=(8, 8))
        >>> config = TrainerConfig(total_steps=40, warmup_steps=32, batch_size=16, eval_every=0)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = RunFolder(f"{place}/run")
        ...     folder.create(agent, config, "Pendulum-v1")
        ...     Trainer(agent, env, config, folder, progress=False).run()
        ...     again = load(folder.path)
        >>> observation, _ = env.reset(seed=0)
        >>> bool((again.predict(observation) == agent.predict(observation)).all())
        True
    """
    with opened(run) as folder:
        return _loaded(folder, best=best)


def _loaded(folder: RunFolder, *, best: bool = False) -> Agent:
    """The agent of a run; torch's generators and number of threads are as before."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            description = read(folder)
            return trained(description, folder, make_env(description, 1), best=best)
    finally:
        torch.set_num_threads(threads)
