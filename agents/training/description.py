"""What a run is of: to ``config.yaml``, and from there to task, agent and trainer.

What cannot be used or loaded is refused with a ValueError of one sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
import tyro
from gymnasium.vector import VectorEnv

from maxentflow import envs
from maxentflow.agents import registry
from maxentflow.agents.agent import Agent
from maxentflow.agents.settings import typed
from maxentflow.agents.training.callbacks import Callback
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.run_folder import ChangedConfigError, RunFolder
from maxentflow.agents.training.session import use_threads
from maxentflow.agents.training.trainer import Trainer

__all__ = [
    "Description",
    "create",
    "described",
    "make_env",
    "make_parts",
    "make_trainer",
    "read",
    "restored",
    "settings",
    "trained",
]

_SHOWN = 12  # settings that a refusal names where none is like the one given

_WORTH_COMPILING = 10_000  # updates; more than a minute saved for less than one spent


@dataclass(frozen=True)
class Description:
    """A run in words and numbers."""

    agent: tyro.conf.Suppress[tyro.conf.Fixed[str]]
    """A registered name."""
    agent_config: Any
    """Settings of the agent."""
    env: str
    """A gymnasium id, or a name of TorchRL's such as torchrl:DMControl/cheetah/run."""
    trainer_config: TrainerConfig
    """Settings of the trainer."""
    env_kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Keyword arguments of the task by name and value, such as --env-kwargs gravity 9.81."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the update, which takes half a minute; auto does where the run is long enough."""

    def compiles(self, agent: Agent) -> bool:
        """Whether the updates of a whole run of its agent are to be compiled."""
        config, rollout = self.trainer_config, agent.rollout
        updates = (config.total_steps - config.warmup_steps) * config.utd_ratio
        if rollout is not None:
            steps = -(-rollout.steps // config.num_envs) * config.num_envs
            minibatches = rollout.epochs * (steps // rollout.minibatch_size)
            updates = config.total_steps // steps * minibatches
        return self.compile == "on" or (self.compile == "auto" and updates >= _WORTH_COMPILING)


def read(folder: RunFolder) -> Description:
    """The description in a run folder."""
    content = folder.config()
    # Not imported here: a configuration that somebody else wrote must not run code.
    for name in folder.imports():
        if name not in sys.modules:
            raise ValueError(
                f"{folder} needs the module {name!r}, which registers parts of it: give "
                f"--import {name}, or import it before."
            )
    if custom := content["custom"]:
        raise ValueError(
            f"{folder} was trained with parts of your own ({', '.join(map(str, custom))}), which "
            "config.yaml does not hold: in Python, make agent, environment and configuration as "
            f"you did, then folder = RunFolder({str(folder)!r}), trainer = Trainer(agent, env, "
            "config, folder) and trainer.restore(folder.load_checkpoint())."
        )
    try:
        plain = {name: content[name] for name in ("agent", "env", "compile")}
        name, env, compiled = settings(Description, plain).values()
        agent_settings = settings(registry.config_type(name), content["agent_config"])
        agent = registry.config(name, env, **agent_settings)
        trainer = TrainerConfig(**settings(TrainerConfig, content["trainer_config"]))
    except ValueError as error:
        raise ValueError(f"{folder.config_path} is not a run's configuration: {error}") from error
    return Description(name, agent, env, trainer, content["env_kwargs"], compiled)


def settings(kind: type, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass from plain values, with lists as tuples where annotations say so.

    Raises:
        ValueError: an entry is no field of it, or its value is of another type.

    Example:
        >>> from maxentflow.agents import MeowConfig
        >>> settings(MeowConfig, {"heads": 1, "log_sigma": [-2.0, 0.0]})
        {'heads': 1, 'log_sigma': (-2.0, 0.0)}
    """
    hints = get_type_hints(kind)
    known = [entry.name for entry in dataclasses.fields(kind)]
    taken = {}
    for name, value in entries.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known[:_SHOWN]
            more = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
            raise ValueError(f"there is no setting {name!r}; known: {', '.join(near)}{more}.")
        taken[name] = typed(name, value, hints[name])
    return taken


def described(
    agent: str, env: str, entries: Mapping[str, Any], *, paper: bool = False
) -> Description:
    """A run by its settings, whether they are the agent's, the trainer's or its own.

    Args:
        agent: a registered name.
        env: the task.
        entries: settings by name; the rest has the defaults for the task.
        paper: begin from the settings of the algorithm's paper.

    Raises:
        ValueError: a setting is unknown, of another type or out of range.

    Example:
        >>> run = described("sac", "Pendulum-v1", {"tau": 0.01, "batch_size": 64})
        >>> run.agent_config.tau, run.trainer_config.batch_size
        (0.01, 64)
    """
    own = ("env_kwargs", "compile")
    of_trainer = {entry.name for entry in dataclasses.fields(TrainerConfig)}
    parts: dict[Any, dict[str, Any]] = {"own": {}, "trainer": {}, "agent": {}}
    for name, value in entries.items():
        part = "own" if name in own else "trainer" if name in of_trainer else "agent"
        parts[part][name] = value
    trainer = TrainerConfig.for_task(env, agent, paper=paper)
    return Description(
        agent,
        registry.config(
            agent, env, paper=paper, **settings(registry.config_type(agent), parts["agent"])
        ),
        env,
        dataclasses.replace(trainer, **settings(TrainerConfig, parts["trainer"])),
        **settings(Description, parts["own"]),
    )


def make_env(description: Description, num_envs: int, *, workers: bool = False) -> Any:
    """Copies of the task, with its keyword arguments, as gymnasium's or TorchRL's environment."""
    options: dict[str, Any] = description.env_kwargs
    if taken := {"render_mode", "seed", "num_envs"} & set(options):
        raise ValueError(f"env_kwargs cannot have {min(taken)}, which is set by other means.")
    if envs.is_torchrl(description.env):
        options = {"device": description.trainer_config.device, **options}
        return envs.make_batched(description.env, num_envs, workers=workers, **options)
    if options:
        with _refused(f"Task {description.env!r} cannot be used with {options}"):
            env = envs.make_single(description.env, seed=None, render_mode=None, **options)
            env.reset(seed=0)
            env.step(env.action_space.sample())  # some arguments fail no earlier
            env.close()
    return envs.make(description.env, num_envs, workers=workers, **options)


def make_parts(description: Description, *, device: str | None = None) -> tuple[Agent, Any]:
    """The agent of a run at its start, and its environments.

    Args:
        description: of the run.
        device: where the agent's networks are; the run's own by default.
    """
    config = description.trainer_config
    env = make_env(description, config.num_envs, workers=config.workers)
    return _make_agent(description, env, device or config.device), env


def make_trainer(
    description: Description,
    folder: RunFolder,
    callbacks: Sequence[Callback] = (),
    *,
    progress: bool = True,
) -> Trainer:
    """The trainer of a run from its start."""
    agent, env = make_parts(description)
    config = description.trainer_config
    return Trainer(agent, env, config, folder, callbacks=callbacks, progress=progress)


def create(
    folder: RunFolder, description: Description, agent: Agent, imports: Sequence[str] = ()
) -> None:
    """Make the folder of a run, see :meth:`RunFolder.create`."""
    folder.create(
        agent,
        description.trainer_config,
        description.env,
        description.env_kwargs,
        compile=description.compile,
        imports=imports,
    )


def restored(
    description: Description,
    folder: RunFolder,
    callbacks: Sequence[Callback] = (),
    *,
    progress: bool = True,
) -> Trainer:
    """The trainer of a run as it was at its last checkpoint, or from its start without one."""
    folder.check_files()
    trainer = make_trainer(description, folder, callbacks, progress=progress)
    try:
        _use_newest(folder, trainer.restore)
    except ChangedConfigError:
        raise
    except ValueError as error:
        checkpoints = folder.checkpoint_path.parent
        raise ValueError(
            f"{error} No other checkpoint can be used; remove {checkpoints} to begin the run "
            "again."
        ) from error
    return trainer


def trained(
    description: Description, folder: RunFolder, env: VectorEnv, *, best: bool = False
) -> Agent:
    """The agent of a run as it was at its last checkpoint, on the CPU; with ``best`` its policy is
    the one with the highest return of an evaluation."""
    agent = _make_agent(description, env, "cpu")
    if not _use_newest(folder, agent.load_state_dict):
        raise ValueError(f"{folder} has no checkpoint yet.")
    if best:
        with _refused(str(folder)):
            agent.policy.load_state_dict(folder.load_best()["policy"])
    return agent


def _use_newest(folder: RunFolder, use: Callable[[dict[str, Any]], object]) -> bool:
    """Take back the newest checkpoint that is whole, and say if it is not the latest; whether
    there is one.

    Raises:
        ValueError: there are checkpoints, and none can be used; it says why of the newest.
    """
    step = None

    def take(state: dict[str, Any], path: Path) -> None:
        nonlocal step
        with _refused(str(path)):
            use(state)
        step = state["step"]

    path, refusals = folder.use_newest(take)
    for refusal in refusals:
        print(f"{refusal} {path}, of step {step}, is used.", file=sys.stderr)
    return path is not None


def _make_agent(description: Description, env: VectorEnv, device: str) -> Agent:
    name, config = description.agent, description.trainer_config
    with _refused(f"Device {device!r} cannot be used"):
        torch.zeros(1, device=device).item()
    torch.manual_seed(config.seed)
    use_threads(config.threads)  # initial weights depend on it, in the last bits
    with _refused(f"Agent {name!r} cannot be made", RuntimeError):  # sizes beyond the memory
        return registry.make(name, env, device=device, **vars(description.agent_config))


@contextmanager
def _refused(what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn a library's exception into a ValueError of one sentence."""
    try:
        yield
    except kind as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].removesuffix(".")
        raise ValueError(f"{what}: {reason or type(error).__name__}.") from error
