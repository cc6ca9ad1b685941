"""A run of an off-policy agent, whichever it is."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from maxentflow import envs
from maxentflow.agents.agent import Agent, space_sizes
from maxentflow.agents.evaluation import Evaluation, evaluate
from maxentflow.agents.loop import NonFiniteError, train
from maxentflow.agents.presets import preset
from maxentflow.agents.replay import Replay
from maxentflow.agents.run_folder import Metrics, RunFolder

__all__ = ["NonFiniteError", "Trainer", "TrainerConfig"]

_EVALUATION_SEED = 1_000_000
_WORTH_COMPILING = 10_000  # updates; more than a minute saved for less than one spent
_ROUNDING = 1e-6  # of sums of update-to-data ratios


@dataclass
class TrainerConfig:
    """Settings of a run that no algorithm owns. Steps are environment steps."""

    env: str = "maxentflow/MultiGoal-v0"
    """A gymnasium id."""
    seed: int = 0
    """Seed of the environments; the command line seeds torch with it too."""
    total_steps: int = 1_000_000
    """Length of the run."""
    warmup_steps: int = 5_000
    """Uniformly random steps before the first update."""
    max_episode_steps: int | None = None
    """Truncate episodes of training after so many steps, if the task itself does not before."""
    num_envs: int = 1
    """Copies of the environment, stepped together."""
    workers: bool = False
    """Step each copy in a process of its own."""
    utd_ratio: float = 1.0
    """Updates for each step of an environment (update-to-data ratio)."""
    batch_size: int = 256
    """Transitions in an update."""
    replay_size: int = 1_000_000
    """Transitions that are kept."""
    eval_every: int = 10_000
    """Steps between evaluations; 0 for none."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    log_every: int = 1_000
    """Steps between rows of the metrics."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints; 0 for one at the end only."""
    threads: int = 1
    """Threads that torch computes with; small networks gain little from more."""
    device: str = "cpu"
    """Where networks and replay are."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the update, which takes half a minute; auto does where the run is long enough."""

    def __post_init__(self) -> None:
        positive = (
            "total_steps",
            "max_episode_steps",
            "num_envs",
            "batch_size",
            "replay_size",
            "eval_episodes",
            "log_every",
            "threads",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("seed", "warmup_steps", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 < self.utd_ratio < float("inf"):
            raise ValueError(f"utd_ratio must be positive and finite, got {self.utd_ratio}.")
        if self.compile not in ("auto", "on", "off"):
            raise ValueError(f"compile must be 'auto', 'on' or 'off', got {self.compile!r}.")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        if self.replay_size < self.batch_size:
            raise ValueError(
                f"replay_size must be at least batch_size ({self.batch_size}), "
                f"got {self.replay_size}."
            )

    def compiles(self) -> bool:
        """Whether the update is to be compiled: if asked to, or if it saves more than it costs."""
        updates = (self.total_steps - self.warmup_steps) * self.utd_ratio
        return self.compile == "on" or (self.compile == "auto" and updates >= _WORTH_COMPILING)

    @classmethod
    def for_task(cls, env_id: str) -> TrainerConfig:
        """The length, warm-up and truncation that suit a gymnasium id, the paper's where it has
        them."""
        task = preset(env_id)
        return cls(
            env=env_id,
            total_steps=task.total_steps,
            warmup_steps=task.warmup_steps,
            max_episode_steps=task.max_episode_steps,
            eval_every=min(10_000, task.total_steps // 8),
            log_every=min(1_000, task.total_steps // 40),
        )


class Trainer:
    """Trains an agent in an environment: act, step, store, sample, update, evaluate, log, save.

    Knows nothing of the algorithm: it needs a policy to act with and ``agent.update(batch)``.

    Args:
        agent: what to train.
        env: a vector environment of :func:`maxentflow.envs.make`, reset by the trainer.
        config: lengths, sizes and intervals.
        folder: where metrics and checkpoints go, after :meth:`RunFolder.create`; nothing is
            written without one.
        progress: show a bar when the output is a terminal.

    Raises:
        KeyboardInterrupt: from :meth:`run`, on Ctrl-C, after the step in progress is finished and
            its state saved.
        NonFiniteError: from :meth:`run`, an action, an observation, a reward or a loss is not
            finite; the message names it and the step, and the state is saved beside the last
            checkpoint.
        ValueError: the agent is on another device than the configuration says, or the environment
            has another number of copies; from :meth:`restore`, a checkpoint of another agent or
            environment.

    Example:
        >>> from maxentflow import agents, envs
        >>> env = envs.make("maxentflow/MultiGoal-v0")
        >>> config = TrainerConfig(total_steps=64, warmup_steps=32, batch_size=16, eval_every=0)
        >>> trainer = Trainer(agents.make("meow", env), env, config, progress=False)
        >>> trainer.run()
        >>> trainer.step, trainer.updates
        (64, 32)
    """

    def __init__(
        self,
        agent: Agent,
        env: SyncVectorEnv | AsyncVectorEnv,
        config: TrainerConfig,
        folder: RunFolder | None = None,
        *,
        progress: bool = True,
    ) -> None:
        devices = {parameter.device.type for parameter in agent.loss.parameters()}
        if devices != {torch.device(config.device).type}:
            raise ValueError(
                f"The agent is on {' and '.join(sorted(devices))}, the configuration says "
                f"{config.device!r}; make the agent with device={config.device!r}."
            )
        if env.num_envs != config.num_envs:
            raise ValueError(
                f"The environment has {env.num_envs} copies, the configuration says num_envs="
                f"{config.num_envs}."
            )
        self.agent = agent
        self.env = env
        self.config = config
        self.folder = folder
        self.step = 0
        self.updates = 0
        self.episodes = 0
        self._progress = progress
        self._owed = 0.0  # updates
        self._seconds = 0.0
        self._observation: NDArray[np.float32] | None = None
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._finished: list[tuple[float, int]] = []
        self._report: TensorDictBase | None = None
        self._eval_env: SyncVectorEnv | AsyncVectorEnv | None = None
        self._metrics: Metrics | None = None
        self.alone = True  # torch's generators are this run's
        self._generators = _generators()
        self._began = self._logged = 0.0
        self._logged_step = 0
        self._write_back: Callable[[], object] = lambda: None  # what brings the agent up to date
        self.replay = Replay(
            config.replay_size,
            env.num_envs,
            *space_sizes(env, agent.name),
            device=config.device,
        )

    def run(self) -> None:
        """Train from the present step to ``total_steps``."""
        train([self], progress=self._progress)

    def begin(self) -> None:
        """Reset the environment, where a run is not resumed, and start the clock."""
        if self._observation is None:
            self._observation, _ = self.env.reset(seed=self.config.seed)
            self.replay.start(self._observation)
        if self.folder is not None:
            self._metrics = Metrics(self.folder, self._columns(), self.step)
        self._began = self._logged = time.perf_counter()
        self._logged_step = self.step

    def end(self) -> None:
        """Bring the agent up to date, and close what :meth:`begin` and evaluations have opened."""
        self._write_back()
        if self.alone:
            self._generators = _generators()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._eval_env is not None:
            self._eval_env.close()
            self._eval_env = None

    def join(self, write_back: Callable[[], object]) -> None:
        """Be one of several runs, each with generators of its own.

        Args:
            write_back: brings the agent up to date.
        """
        self.alone, self._write_back = False, write_back

    def leave(self) -> None:
        """Be the only run, if it was one of several: torch's generators become its own again."""
        if not self.alone:
            self._write_back()
            _set_generators(self._generators)
        self.alone, self._write_back = True, lambda: None

    @contextmanager
    def randomness(self) -> Iterator[None]:
        """A context in which torch's generators are this run's own, as they were left there."""
        if self.alone:
            yield
            return
        others = _generators()
        _set_generators(self._generators)
        try:
            yield
        finally:
            self._generators = _generators()
            _set_generators(others)

    def observation(self) -> Tensor:
        """What the agent sees now, shape ``(num_envs, obs_dim)``."""
        return self.replay.present()

    def warms_up(self) -> bool:
        """Whether the next action is a random one."""
        return self.step < self.config.warmup_steps

    def act(self) -> NDArray[np.float32]:
        """The next actions, shape ``(num_envs, action_dim)``."""
        if self.warms_up():
            shape = self.env.action_space.shape
            assert shape is not None
            return torch.rand(shape).mul_(2).sub_(1).numpy()
        return self.checked(self.agent.act(self.observation()))

    def checked(self, action: Tensor) -> NDArray[np.float32]:
        """Actions, if they are finite."""
        array = action.cpu().numpy()
        self._check_finite("action", array)
        return array

    def send(self, action: NDArray[np.float32]) -> None:
        """Have the environment take a step, if it has processes of its own to do it in."""
        self._action = action
        if isinstance(self.env, AsyncVectorEnv):
            self.env.step_async(action)

    def receive(self) -> None:
        """Store what the step sent last has led to."""
        if isinstance(self.env, AsyncVectorEnv):
            outcome = self.env.step_wait()
        else:
            outcome = self.env.step(self._action)
        after, reward, terminated, truncated, info = outcome
        ended = terminated | truncated
        final = after
        if ended.any():
            final = after.copy()
            final[ended] = np.stack(list(info["final_obs"][ended]))
        self._check_finite("observation", final)
        reward32 = reward.astype(np.float32)
        self._check_finite("reward", reward32)
        self._returns += reward
        self._lengths += 1
        if self.config.max_episode_steps is not None:
            cut = (self._lengths >= self.config.max_episode_steps) & ~ended
            if cut.any():
                ended |= cut
                after, _ = self.env.reset(options={"reset_mask": cut})
        for index in np.flatnonzero(ended):
            self._finished.append((float(self._returns[index]), int(self._lengths[index])))
            self.episodes += 1
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        self._observation = after
        self.replay.add(self._action, reward32, terminated, ended, final, after)
        self.step += self.config.num_envs

    def learns(self) -> bool:
        """Whether the warm-up is over and there is enough for a batch."""
        return self.step > self.config.warmup_steps and len(self.replay) >= self.config.batch_size

    def updates_due(self) -> int:
        """How many updates the step just taken calls for."""
        self._owed += self.config.num_envs * self.config.utd_ratio
        due = int(self._owed + _ROUNDING)
        self._owed -= due
        return due

    def sample(self) -> TensorDict:
        """A batch of transitions."""
        return self.replay.sample(self.config.batch_size)

    def update(self) -> None:
        """Update the agent once."""
        try:
            self._report = self.agent.update(self.sample())
        except FloatingPointError as error:
            self._stop(str(error))
        self.updates += 1

    def note(self, report: TensorDictBase) -> None:
        """Take the report of an update made elsewhere."""
        try:
            self.agent.note(report)
        except FloatingPointError as error:
            self._stop(str(error))
        self._report = report
        self.updates += 1

    def due(self, interval: int) -> bool:
        """Whether a multiple of the interval, or the end, lies in the steps just taken."""
        if interval == 0:
            return False
        over = self.step >= self.config.total_steps
        return over or self.step % interval < self.config.num_envs

    def log(self, evaluates: bool) -> dict[str, float]:
        """Write a row of the metrics, with an evaluation if asked to; give the row."""
        self._check_losses()
        self._write_back()
        row = self._row(self._evaluate() if evaluates else None)
        now = time.perf_counter()
        row["seconds"] = self._seconds + now - self._began
        row["steps_per_second"] = (self.step - self._logged_step) / (now - self._logged)
        self._logged, self._logged_step = now, self.step
        if self._metrics is not None:
            self._metrics.write(row)
        return row

    def save(self) -> None:
        """Write the run's checkpoint, if it has a folder."""
        self._check_losses()
        if self.folder is not None:
            state = self.state()
            state["seconds"] += time.perf_counter() - self._began
            self.folder.save_checkpoint(state)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers, strings, lists of them."""
        assert self._observation is not None
        self._write_back()
        generators = _generators() if self.alone else self._generators
        parts = {
            "policy": self.agent.policy.state_dict(),
            "loss": self.agent.loss.state_dict(),
            "optimizer": self.agent.optimizer.state_dict(),
            "target_updater": self.agent.target_updater.state_dict(),
        }
        return {
            "agent": self.agent.name,
            **copy.deepcopy(parts),  # the agent may learn on
            "replay": self.replay.state_dict(),
            "step": self.step,
            "updates": self.updates,
            "owed": self._owed,
            "episodes": self.episodes,
            "seconds": self._seconds,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "finished": list(self._finished),
            "report": None if self._report is None else self._report.to_dict(),
            "environments": envs.states(self.env),
            "torch_generator": generators[0],
            "cuda_generators": generators[1],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state of :meth:`state`, in this or another process."""
        self._write_back = lambda: None  # what it did with others is no longer its own
        self.restore_agent(state)
        self._observation = envs.restore(self.env, state["environments"])
        self.agent.target_updater.load_state_dict(state["target_updater"])
        self.replay.load_state_dict(state["replay"])
        self.step, self.updates, self.episodes = state["step"], state["updates"], state["episodes"]
        self._owed, self._seconds = state["owed"], state["seconds"]
        self._returns = np.array(state["returns"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._finished = list(state["finished"])
        self._report = None if state["report"] is None else TensorDict(state["report"])
        self._generators = state["torch_generator"], state["cuda_generators"]
        _set_generators(self._generators)

    def restore_agent(self, state: dict[str, Any]) -> None:
        """Take the networks and the optimiser from a state, and nothing of the loop."""
        if state.get("agent") != self.agent.name:
            raise ValueError(
                f"The checkpoint is of agent {state.get('agent')!r}, this is {self.agent.name!r}."
            )
        try:
            # TorchRL's losses do not mind missing parameters.
            if _shapes(state["loss"]) != _shapes(self.agent.loss.state_dict()):
                raise ValueError("names or shapes differ")
            self.agent.policy.load_state_dict(state["policy"])
            self.agent.loss.load_state_dict(state["loss"])
            self.agent.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError("The checkpoint's networks are not those of this run.") from error

    def _evaluate(self) -> Evaluation:
        config = self.config
        if self._eval_env is None:
            self._eval_env = envs.make(config.env, min(config.eval_episodes, 10))
        return evaluate(
            self.agent.policy,
            config.env,
            episodes=config.eval_episodes,
            seed=_EVALUATION_SEED + config.seed,
            env=self._eval_env,
            device=config.device,
        )

    def _columns(self) -> list[str]:
        return [
            "step",
            "seconds",
            "steps_per_second",
            "eval_return",
            "eval_return_std",
            "eval_length",
            "train_return",
            "train_length",
            "episodes",
            "updates",
            *map(str, self.agent.loss.out_keys),
        ]

    def _row(self, evaluation: Evaluation | None) -> dict[str, float]:
        row: dict[str, float] = {
            "step": self.step,
            "episodes": self.episodes,
            "updates": self.updates,
        }
        if self._report is not None:
            row |= {key: self._report[key].item() for key in self.agent.loss.out_keys}
        if self._finished:
            returns, lengths = zip(*self._finished, strict=True)
            row |= {
                "train_return": float(np.mean(returns)),
                "train_length": float(np.mean(lengths)),
            }
            self._finished = []
        if evaluation is not None:
            row |= {
                "eval_return": float(evaluation.returns.mean()),
                "eval_return_std": float(evaluation.returns.std()),
                "eval_length": float(evaluation.lengths.mean()),
            }
        return row

    def _check_losses(self) -> None:
        try:
            self.agent.check()
        except FloatingPointError as error:
            self._stop(str(error))

    def _check_finite(self, name: str, array: NDArray[Any]) -> None:
        if not np.isfinite(array).all():
            self._stop(f"{name} is {array[~np.isfinite(array)][0]}")

    def save_stopped(self) -> Path | None:
        """Write the state of a run that was stopped beside its checkpoint; give the file."""
        if self.folder is None or self._observation is None:
            return None
        return self.folder.save_checkpoint(self.state(), f"stopped_{self.step}.pt")

    def _stop(self, what: str) -> NoReturn:
        path = self.save_stopped()
        saved = "" if path is None else f"; the state is in {path}"
        raise NonFiniteError(f"Stopped after {self.step} steps: {what}{saved}.")


def _generators() -> tuple[Tensor, list[Tensor]]:
    """The states of torch's generators."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def _set_generators(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


def _shapes(state: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: entry.shape for name, entry in state.items() if isinstance(entry, torch.Tensor)}
