"""A run of an agent, whichever it is."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from maxentflow import envs
from maxentflow.agents.agent import Agent, act_with
from maxentflow.agents.learner import EagerLearner, Learner, random_state
from maxentflow.agents.training import experience as experiences
from maxentflow.agents.training.alarms import Alarms
from maxentflow.agents.training.callbacks import Callback
from maxentflow.agents.training.collector import Collector
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.episodes import EpisodeStatistics
from maxentflow.agents.training.evaluation import (
    AT_ONCE,
    Evaluation,
    evaluate,
    record_video,
)
from maxentflow.agents.training.experience import Experience
from maxentflow.agents.training.loggers import Metrics, check_logger
from maxentflow.agents.training.loop import Run, drive
from maxentflow.agents.training.progress import Progress
from maxentflow.agents.training.run_folder import RunFolder
from maxentflow.agents.training.session import session
from maxentflow.agents.training.simulator import Simulator, simulator

__all__ = ["Trainer", "train"]

_EVALUATION_SEED = 1_000_000


class Trainer:
    """Trains an agent in an environment: act, step, store, update, evaluate, log, save.

    Knows nothing of the algorithm: it needs ``agent.act(observation)`` and
    ``agent.update(batch)``. The random numbers of the run go on from torch's generators as they
    are when the trainer is made.

    Args:
        agent: what to train.
        env: a vector environment of :func:`maxentflow.envs.make`, or a TorchRL environment; it is
            reset by the trainer.
        config: lengths, sizes and intervals.
        folder: where metrics and checkpoints go, after :meth:`RunFolder.create`; nothing is
            written without one.
        experience: where steps go and batches come from; by default a replay, or the rollout that
            an on-policy agent asks for.
        eval_env: environments to evaluate in; by default more of those given.
        collector: what acts and steps environments elsewhere where the configuration asks for
            actors, such as :class:`maxentflow.agents.cluster.Actors`; it may be set until
            :meth:`run`.
        callbacks: called after steps, rows of the metrics and evaluations, and at the end.
        progress: show a bar on a terminal, and a line at each log step elsewhere.

    Raises:
        KeyboardInterrupt: from :meth:`run`, on Ctrl-C, after the step in progress is finished and
            its state saved; on a second Ctrl-C at once.
        SystemExit: from :meth:`run`, on SIGTERM or SIGHUP, with the state saved likewise; on a
            second one at once.
        NonFiniteError: from :meth:`run`, an action, an observation, a reward, a loss or a gradient
            is not finite; the message names it and the step, and the state is saved beside the
            last checkpoint.
        ValueError: the agent is on another device than the configuration says, or for other
            observations or actions than the environment's; the environment has another number of
            copies, does not reset in the step in which an episode ends, or cannot be copied for
            evaluations; from :meth:`restore`, a state of another agent or environment.

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
        env: VectorEnv | EnvBase,
        config: TrainerConfig,
        folder: RunFolder | None = None,
        *,
        experience: Experience | None = None,
        eval_env: VectorEnv | EnvBase | None = None,
        collector: Collector | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        for name, given, kind in (("agent", agent, Agent), ("config", config, TrainerConfig)):
            if not isinstance(given, kind):
                raise ValueError(f"{name} must be of type {kind.__name__}, got {given!r}.")
        if folder is not None and not isinstance(folder, RunFolder):
            raise ValueError(f"folder must be of RunFolder.create, got {folder!r}.")
        devices = {parameter.device.type for parameter in agent.loss.parameters()}
        if devices != {torch.device(config.device).type}:
            raise ValueError(
                f"The agent is on {' and '.join(sorted(devices))}, the configuration says "
                f"{config.device!r}; make the agent with device={config.device!r}."
            )
        steps = simulator(env, config.device, config.max_episode_steps)
        if steps.num_envs != config.num_envs:
            raise ValueError(
                f"The environment has {steps.num_envs} copies, the configuration says num_envs="
                f"{config.num_envs}."
            )
        _check_fits(agent, steps, config.device)
        if eval_env is None and config.eval_every:
            copies = min(config.eval_episodes, AT_ONCE)
            is_torchrl = isinstance(env, EnvBase)
            eval_env = (envs.like_batched if is_torchrl else envs.like)(env, copies)
        if folder is not None:
            check_logger(config.logger)
            if config.eval_video_every:
                _check_films(eval_env)
        self.agent = agent
        self.env = env
        self.config = config
        self.folder = folder
        self.collector = collector
        place = None if folder is None else folder.path
        self.experience = experience or experiences.experience(agent, steps, config, place)
        self._eval_env = eval_env
        self._callbacks = list(callbacks)
        if wrong := [each for each in self._callbacks if not isinstance(each, Callback)]:
            raise ValueError(
                f"A callback is a maxentflow.agents.training.Callback, got {wrong[0]!r}."
            )
        self._stops = False  # a callback has said so
        self._progress = progress
        self._run = Run(
            config=config,
            agent=agent,
            simulator=steps,
            experience=self.experience,
            statistics=EpisodeStatistics(config.num_envs),
            log=self._log,
            save=self.save,
            save_stopped=self._save_stopped,
            interrupted=lambda: False,
        )
        self._running = False
        self._seconds = 0.0  # of earlier calls of run
        self._best = -math.inf  # mean return of an evaluation
        self._filmed = 0  # step of the last film
        self._clock = _Clock(0)
        self._alarms = Alarms(math.prod(steps.action.shape), self._gamma)
        self._metrics: Metrics | None = None
        self._shown: Progress | None = None

    @property
    def step(self) -> int:
        """Environment steps taken."""
        return self._run.step

    @property
    def episodes(self) -> int:
        """Episodes ended."""
        return self._run.statistics.episodes

    @property
    def updates(self) -> int:
        """Updates of the agent."""
        return self.agent.updates

    def run(self, learner: Learner | None = None) -> None:
        """Train from the present step to ``total_steps``.

        Args:
            learner: what acts and learns for the agent, such as
                ``compiled.learner([agent], compile=True)``; the agent itself by default.
        """
        train([self], learner)

    def evaluate(self, *, deterministic: bool = True) -> Evaluation:
        """Evaluate the policy on whole episodes, from seeds that training does not use.

        Raises:
            ValueError: the trainer has no environments to evaluate in.
        """
        if self._eval_env is None:
            raise ValueError("There is nothing to evaluate in: give the trainer eval_env.")
        return evaluate(
            self.agent.policy,
            self._eval_env,
            episodes=self.config.eval_episodes,
            deterministic=deterministic,
            seed=_EVALUATION_SEED + self.config.seed,
            gamma=1.0 if self._gamma is None else self._gamma,
            device=self.config.device,
        )

    def save(self) -> Path | None:
        """Write the run's checkpoint, if it has a folder; give the file.

        Raises:
            ValueError: the environment's state cannot be saved.
        """
        if self.folder is None:
            return None
        return self.folder.save_checkpoint(self._state(), self.experience)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers, strings, lists of them.

        Raises:
            ValueError: the run has not begun, or the environment's state cannot be saved.
        """
        return {**self._state(), "experience": copy.deepcopy(self.experience.state_dict())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of :meth:`state` or of the folder's checkpoint.

        Raises:
            ValueError: it is of another agent, environment or experience.
        """
        run = self._run
        try:
            self.agent.load_state_dict(state)
            run.observation = run.simulator.restore(state["simulator"])
            if "files" in state["experience"] and self.folder is not None:
                load = self.experience.load  # type: ignore[attr-defined]
                load(state["experience"], self.folder.replay_path)
            else:
                self.experience.load_state_dict(state["experience"])
            run.statistics.load_state_dict(state["statistics"])
            if not run.simulator.is_exact:
                end = getattr(self.experience, "end_episodes", None)
                if end is not None:
                    end()
                run.statistics.end_episodes()
            run.step = _number(state, "step", int, least=0)
            self._seconds = _number(state, "seconds", (int, float), least=0)
            self._filmed = run.step
            self._best = _number({"best_return": -math.inf, **state}, "best_return", (int, float))
            report = state["report"]
            run.report = None if report is None else TensorDict(report)
            example = state["example"]
            if not isinstance(example, dict | None):
                raise ValueError(f"The checkpoint's example is {example!r}.")
            run.example = None if example is None else TensorDict(example).auto_batch_size_(1)
            run.random_state = state["random_state"][0], list(state["random_state"][1])
            torch.Generator().set_state(run.random_state[0])  # raises, if it is no state
        except (LookupError, TypeError, AttributeError, OSError, RuntimeError) as error:
            raise ValueError(f"The checkpoint is not one of this run: {error!r}.") from error

    def _state(self) -> dict[str, Any]:
        run = self._run
        if run.observation is None:
            raise ValueError("A run has no state before it has begun.")
        state = random_state() if self._running else run.random_state
        return {
            **copy.deepcopy(self.agent.state_dict()),  # the agent may learn on
            "step": run.step,
            "seconds": self._seconds + (self._clock.seconds() if self._running else 0.0),
            "best_return": self._best,
            "simulator": run.simulator.state(),
            "statistics": run.statistics.state_dict(),
            "report": None if run.report is None else run.report.to_dict(),
            "example": None if run.example is None else run.example.to_dict(),
            "random_state": [state[0], list(state[1])],
        }

    def _save_stopped(self) -> Path | None:
        if self.folder is None or self._run.observation is None:
            return None
        return self.folder.save_stopped(self.state())

    def _begin(self, interrupted: Callable[[], object]) -> None:
        if self.config.actors and self.collector is None:
            raise ValueError(
                f"actors={self.config.actors} needs a collector, such as agents.cluster.Actors."
            )
        self._run.collector = self.collector
        if self.folder is not None:
            if isinstance(self.env, VectorEnv) and not envs.is_resumable(self.env):
                raise ValueError(
                    "The state of this environment cannot be saved: give the trainer no run "
                    "folder, or an environment of maxentflow.envs.make."
                )
            self.folder.begin()
            self._metrics = Metrics(self.folder, self._columns(), self.step, self.config.logger)
        if reason := self._learns_nothing():
            tqdm.write(f"Warning: nothing will be learned: {reason}.", file=sys.stderr)
        self._shown = Progress(
            f"seed {self.config.seed}",
            self.step,
            self.config.total_steps,
            silent=not self._progress,
        )
        self._stops = False
        self._run.interrupted = lambda: self._stops or interrupted()
        self._run.after_step = (lambda: self._call("on_step")) if self._callbacks else None
        self._clock = _Clock(self.step)
        self._running = True

    def _learns_nothing(self) -> str | None:
        """Why a run from a replay ends before its first update, if it does."""
        config = self.config
        if not isinstance(self.experience, experiences.ReplayBuffer) or self.updates:
            return None
        for name in ("warmup_steps", "batch_size"):
            if getattr(config, name) > config.total_steps:
                return f"{name}={getattr(config, name)} is longer than the run"
        if config.utd_ratio * config.total_steps < 1:
            return f"utd_ratio={config.utd_ratio:g} gives no update in {config.total_steps} steps"
        return None

    def _end(self) -> None:
        with ExitStack() as ends:  # in the opposite order
            if self.folder is not None:
                ends.callback(self.folder.end)
            if not self._running:
                return
            ends.callback(self._close)
            for callback in reversed(self._callbacks):
                ends.callback(callback.on_end, self)

    def _close(self) -> None:
        self._running = False
        self._seconds += self._clock.seconds()
        for part in (self._metrics, self._shown):
            if part is not None:
                part.close()
        self._metrics = self._shown = None

    def _call(self, event: str, *about: Any) -> None:
        for callback in self._callbacks:
            answer = getattr(callback, event)(self, *about)
            self._stops |= isinstance(answer, bool | np.bool_) and bool(answer)
            groups = (group for step in self.agent.steps for group in step.optimizer.param_groups)
            for rate in (group["lr"] for group in groups):
                if not 0 <= rate < math.inf:
                    raise ValueError(
                        f"{type(callback).__name__} set a learning rate of {rate}; it must be at "
                        "least 0, finite."
                    )

    def _columns(self) -> list[str]:
        return [
            "step",
            "seconds",
            "steps_per_second",
            "eval_return",
            "eval_return_std",
            "eval_length",
            *([] if self._gamma is None else ["eval_value", "eval_discounted_return"]),
            "train_return",
            "train_length",
            "episodes",
            "updates",
            *map(str, self.agent.loss.out_keys),
            *([] if self.collector is None else self.collector.columns),
        ]

    @property
    def _gamma(self) -> float | None:
        """The discount of an agent whose values can be compared with returns."""
        agent = self.agent
        return None if agent.critic is None else getattr(agent.config, "gamma", None)

    @torch.no_grad()
    def _calibration(self, result: Evaluation) -> dict[str, float]:
        """What the agent expects of the episodes of an evaluation, and what they earned."""
        assert result.first_observations is not None
        assert result.discounted_returns is not None
        beginnings = torch.from_numpy(result.first_observations).to(self.config.device)
        return {
            "eval_value": self.agent.critic.value(beginnings).amin(-1).mean().item(),
            "eval_discounted_return": float(result.discounted_returns.mean()),
        }

    def _film(self) -> None:
        """Film the first episode of an evaluation, where it is the turn."""
        every = self.config.eval_video_every
        if not every or self.folder is None or self.step // every == self._filmed // every:
            return
        self._filmed = self.step
        self.folder.videos_path.mkdir(exist_ok=True)
        recipe: Any = self._eval_env.recipe  # type: ignore[union-attr]
        try:
            record_video(
                self.agent.policy,
                recipe.task,
                self.folder.videos_path / f"step_{self.step}.mp4",
                seed=_EVALUATION_SEED + self.config.seed,
                **recipe.options,
            )
        except ValueError as error:  # a run does not end for a film
            tqdm.write(f"Warning: no film at step {self.step}: {error}", file=sys.stderr)

    def _log(self, evaluates: bool) -> None:
        row: dict[str, float] = {
            "step": self.step,
            "episodes": self.episodes,
            "updates": self.updates,
            **self._run.statistics.take(),
            **({} if self.collector is None else self.collector.report()),
        }
        if self._run.report is not None:
            # A loss may report one number for each sample.
            reported = self._run.report.items()
            row |= {str(name): entry.float().mean().item() for name, entry in reported}
        if evaluates:
            result = self.evaluate()
            self._call("on_evaluation", result)
            self._film()
            mean = float(result.returns.mean())
            if mean > self._best:
                self._best = mean
                if self.folder is not None:
                    self.folder.save_best(self.agent, self.step, mean)
            row |= {
                "eval_return": mean,
                "eval_return_std": float(result.returns.std()),
                "eval_length": float(result.lengths.mean()),
            }
            if self._gamma is not None:
                row |= self._calibration(result)
        row["steps_per_second"] = self._clock.steps_per_second(self.step)
        row["seconds"] = self._seconds + self._clock.seconds()
        if self._metrics is not None:
            self._metrics.write(row)
        for alarm in self._alarms.raised(row, self._run.statistics.largest_reward):
            tqdm.write(f"Warning: {alarm}", file=sys.stderr)
        if self._shown is not None:
            self._shown.tell(row)
        self._call("on_log", row)


def _number(state: Mapping[str, Any], name: str, kind: Any, least: float = -math.inf) -> Any:
    number: Any = state[name]
    if not isinstance(number, kind) or not number >= least:
        raise ValueError(f"The checkpoint's {name} is {number!r}.")
    return number


def _check_fits(agent: Agent, steps: Simulator, device: str) -> None:
    """Refuse an agent of another environment; torch's generators are as before."""
    seen = torch.zeros(1, *steps.observation.shape, dtype=steps.observation.dtype, device=device)
    with (
        torch.no_grad(),
        torch.random.fork_rng(range(torch.cuda.device_count())),
        set_exploration_type(ExplorationType.DETERMINISTIC),
    ):
        action = act_with(agent.policy, seen, f"The policy of {agent.name!r}")["action"]
    ours, theirs = tuple(action.shape[1:]), tuple(steps.action.shape)
    if ours != theirs:
        raise ValueError(
            f"The actions of {agent.name!r} have shape {ours}, those of the environment {theirs}."
        )


def _check_films(env: VectorEnv | EnvBase | None) -> None:
    """Refuse evaluations that cannot be filmed."""
    recipe = getattr(env, "recipe", None) if isinstance(env, VectorEnv) else None
    if recipe is None or isinstance(recipe.task, gym.Env):
        raise ValueError(
            "eval_video_every needs evaluations in an environment of maxentflow.envs.make, by its "
            "id or by a function that makes it."
        )
    assert isinstance(env, VectorEnv)
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ValueError(f"{envs.task_id(env) or recipe.task} has no rgb_array to film.")


class _Clock:
    """The time since a run went on, and how fast it is."""

    def __init__(self, step: int) -> None:
        self._began = self._last = time.perf_counter()
        self._last_step = step

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def steps_per_second(self, step: int) -> float:
        """Since the last call."""
        now = time.perf_counter()
        speed = (step - self._last_step) / (now - self._last)
        self._last, self._last_step = now, step
        return speed


def train(trainers: Sequence[Trainer], learner: Learner | None = None) -> None:
    """Run trainers that differ by seed alone to their end, in step with each other.

    Each draws the random numbers that it would draw alone.

    Args:
        trainers: at the same step.
        learner: what acts and learns for their agents, such as ``compiled.learner(agents)``,
            which makes them one batched program; by default one agent after the other.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the step in progress is finished and every state
            saved; on a second Ctrl-C at once.
        SystemExit: on SIGTERM or SIGHUP, with the states saved likewise; on a second one at once;
            while updates are compiled the first one stops it at once, with the states saved.
        NonFiniteError: from one of the runs; the states of the others are saved too.
        TaskError: an environment raised an exception; the states are saved likewise.
        ValueError: there are no trainers, or they differ by more than the seed; nothing has been
            done then.

    Example:
        >>> from maxentflow import agents, envs
        >>> def trainer(seed):
        ...     torch.manual_seed(seed)
        ...     env = envs.make("maxentflow/MultiGoal-v0")
        ...     config = agents.TrainerConfig(
        ...         seed=seed, total_steps=64, warmup_steps=32, batch_size=16, eval_every=0
        ...     )
        ...     return agents.Trainer(agents.make("meow", env), env, config, progress=False)
        >>> pair = [trainer(0), trainer(1)]
        >>> train(pair)
        >>> [(each.step, each.updates) for each in pair]
        [(64, 32), (64, 32)]
    """
    if not trainers:
        raise ValueError("train needs at least one trainer.")
    lead = trainers[0]
    for other in trainers[1:]:
        if differing := _differing(lead, other):
            raise ValueError(
                f"Trainers in step with each other must differ by seed alone, not by {differing}."
            )
    learner = learner or EagerLearner([trainer.agent for trainer in trainers])
    with session(lead.config.threads) as interruption:
        try:
            for trainer in trainers:
                trainer._begin(lambda: bool(interruption))
            runs = [trainer._run for trainer in trainers]
            if any(run.after_step for run in runs):  # they ask for the same at the same time
                for run in runs:
                    run.after_step = run.after_step or (lambda: None)
            drive(runs, learner, interruption.compiling)
        finally:
            with ExitStack() as ends:  # each of them, should a callback raise
                for trainer in trainers:
                    ends.callback(trainer._end)
    interruption.raise_if_set()


def _differing(one: Trainer, other: Trainer) -> str:
    """What two trainers differ by beside the seed, in words; empty for nothing."""
    kinds = [type(each.agent.config).__name__ for each in (one, other)]
    pairs = {
        "task": (envs.task_id(one.env), envs.task_id(other.env)),
        "step": (one.step, other.step),
        "updates": (one.updates, other.updates),
        "agent": (one.agent.name, other.agent.name),
        "settings": (kinds[0], kinds[1]),
    }
    configs = [(one.config, other.config)]
    if kinds[0] == kinds[1]:
        configs.append((one.agent.config, other.agent.config))
    for mine, others in configs:
        values = vars(mine) if mine is not None else {}
        pairs |= {name: (value, vars(others)[name]) for name, value in values.items()}
    del pairs["seed"]
    return ", ".join(f"{name} ({a} and {b})" for name, (a, b) in pairs.items() if a != b)
