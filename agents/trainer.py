"""The training loop: one for every off-policy agent."""

from __future__ import annotations

import ctypes
import gc
import platform
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from tqdm import tqdm

from maxentflow import envs
from maxentflow.agents.agent import Agent, CompilationError, space_sizes
from maxentflow.agents.evaluation import Evaluation, evaluate
from maxentflow.agents.presets import preset
from maxentflow.agents.replay import Replay
from maxentflow.agents.run_folder import Metrics, RunFolder

__all__ = ["NonFiniteError", "Trainer", "TrainerConfig"]

_EVALUATION_SEED = 1_000_000
_WORTH_COMPILING = 30_000  # updates; about two minutes saved for one minute spent
_ROUNDING = 1e-6  # of sums of update-to-data ratios
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class NonFiniteError(FloatingPointError):
    """An observation, a reward or a loss was not finite."""


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
    """Compile the update, which takes about a minute; auto does where the run is long enough."""

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
        folder: where metrics and checkpoints go; nothing is written without one.
        progress: show a bar when the output is a terminal.

    Raises:
        KeyboardInterrupt: from :meth:`run`, on Ctrl-C, after the step in progress is finished and
            its state saved.
        NonFiniteError: from :meth:`run`, an action, an observation, a reward or a loss is not
            finite; the message names it and the step, and the state is saved beside the last
            checkpoint.
        ValueError: the agent is on another device than the configuration says; from
            :meth:`restore`, a checkpoint of another agent or environment.

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
        self.replay = Replay(
            config.replay_size,
            env.num_envs,
            *space_sizes(env, agent.name),
            device=config.device,
        )

    def run(self) -> None:
        """Train from the present step to ``total_steps``."""
        config = self.config
        torch.set_num_threads(config.threads)
        if self._observation is None:
            self._observation, _ = self.env.reset(seed=config.seed)
            self.replay.start(self._observation)
        metrics = self._open_metrics()
        bar = tqdm(
            total=config.total_steps,
            initial=self.step,
            disable=None if self._progress else True,
            unit="step",
            dynamic_ncols=True,
        )
        began = logged = time.perf_counter()
        logged_step = self.step
        compiled = not config.compiles()
        _keep_freed_memory()
        gc.collect()
        gc.freeze()  # what exists now lives to the end; the collector need not walk it again
        interrupted = _Interrupt()
        try:
            while self.step < config.total_steps and not interrupted:
                self._step_environment(self._act())
                self.step += config.num_envs
                if self.step > config.warmup_steps and len(self.replay) >= config.batch_size:
                    if not compiled:
                        self._compile(bar)
                        compiled = True
                    self._owed += config.num_envs * config.utd_ratio
                    while self._owed > 1 - _ROUNDING:
                        self._update(self.replay.sample(config.batch_size))
                        self._owed -= 1
                evaluation = self._evaluate() if self._due(config.eval_every) else None
                if evaluation is not None or self._due(config.log_every):
                    now = time.perf_counter()
                    row = self._row(evaluation)
                    row["seconds"] = self._seconds + now - began
                    row["steps_per_second"] = (self.step - logged_step) / (now - logged)
                    logged, logged_step = now, self.step
                    if metrics is not None:
                        metrics.write(row)
                    bar.set_postfix(_postfix(row))
                bar.update(config.num_envs)
                if self._due(config.checkpoint_every or config.total_steps) or interrupted:
                    self._save(began)
        finally:
            interrupted.restore()
            gc.unfreeze()
            bar.close()
            if metrics is not None:
                metrics.close()
            if self._eval_env is not None:
                self._eval_env.close()
                self._eval_env = None
        if interrupted:
            raise KeyboardInterrupt

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers, strings, lists of them."""
        assert self._observation is not None
        return {
            "agent": self.agent.name,
            "policy": self.agent.policy.state_dict(),
            "loss": self.agent.loss.state_dict(),
            "optimizer": self.agent.optimizer.state_dict(),
            "target_updater": self.agent.target_updater.state_dict(),
            "replay": self.replay.state_dict(),
            "step": self.step,
            "updates": self.updates,
            "owed": self._owed,
            "episodes": self.episodes,
            "seconds": self._seconds,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "finished": self._finished,
            "report": None if self._report is None else self._report.to_dict(),
            "environments": envs.states(self.env),
            "torch_generator": torch.get_rng_state(),
            "cuda_generators": torch.cuda.get_rng_state_all(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state of :meth:`state`, in this or another process."""
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
        torch.set_rng_state(state["torch_generator"])
        if state["cuda_generators"]:
            torch.cuda.set_rng_state_all(state["cuda_generators"])

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

    def _act(self) -> NDArray[np.float32]:
        if self.step < self.config.warmup_steps:
            shape = self.env.action_space.shape
            assert shape is not None
            return torch.rand(shape).mul_(2).sub_(1).numpy()
        observation = torch.from_numpy(self._observation).to(self.config.device)
        action = self.agent.act(observation).cpu().numpy()
        self._check_finite("action", action)
        return action

    def _step_environment(self, action: NDArray[np.float32]) -> None:
        after, reward, terminated, truncated, info = self.env.step(action)
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
        self.replay.add(action, reward32, terminated, ended, final, after)

    def _compile(self, bar: tqdm[NoReturn]) -> None:
        bar.set_description("compiling")
        generator = torch.get_rng_state()
        try:
            batch = self.replay.sample(self.config.batch_size)
            self.agent.compile(batch, torch.from_numpy(self._observation).to(self.config.device))
        except CompilationError as error:
            tqdm.write(f"{error} The run goes on without; it learns the same, slower.", sys.stderr)
        torch.set_rng_state(generator)
        bar.set_description(None)

    def _update(self, batch: TensorDictBase) -> None:
        try:
            self._report = self.agent.update(batch)
        except FloatingPointError as error:
            self._stop(str(error))
        self.updates += 1

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

    def _due(self, interval: int) -> bool:
        """Whether a multiple of the interval, or the end, lies in the steps just taken."""
        if interval == 0:
            return False
        over = self.step >= self.config.total_steps
        return over or self.step % interval < self.config.num_envs

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

    def _open_metrics(self) -> Metrics | None:
        if self.folder is None:
            return None
        return Metrics(self.folder, self._columns(), self.step)

    def _save(self, began: float) -> None:
        if self.folder is not None:
            state = self.state()
            state["seconds"] += time.perf_counter() - began
            self.folder.save_checkpoint(state)

    def _check_finite(self, name: str, array: NDArray[Any]) -> None:
        if not np.isfinite(array).all():
            self._stop(f"{name} is {array[~np.isfinite(array)][0]}")

    def _stop(self, what: str) -> NoReturn:
        saved = ""
        if self.folder is not None and self._observation is not None:
            path = self.folder.save_checkpoint(self.state(), f"stopped_{self.step}.pt")
            saved = f"; the state is in {path}"
        raise NonFiniteError(f"Stopped after {self.step} steps: {what}{saved}.")


class _Interrupt:
    """Ctrl-C as a flag, true once it was pressed, so that a step is never left half done."""

    def __init__(self) -> None:
        self._pressed = False
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._press)

    def __bool__(self) -> bool:
        return self._pressed

    def _press(self, *_: object) -> None:
        self._pressed = True

    def restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


def _keep_freed_memory() -> None:
    """Have glibc hold on to freed blocks, which the next update asks for again.

    Otherwise each update returns megabytes to the kernel and faults the same pages back in, about
    a tenth of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 2**30)


def _shapes(state: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: entry.shape for name, entry in state.items() if isinstance(entry, torch.Tensor)}


def _postfix(row: dict[str, float]) -> dict[str, str]:
    shown = {
        "return": row.get("eval_return", row.get("train_return")),
        "loss": next((value for key, value in row.items() if key.startswith("loss")), None),
    }
    return {name: f"{value:.4g}" for name, value in shown.items() if value is not None}
