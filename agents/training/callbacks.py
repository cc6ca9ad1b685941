"""What a trainer calls while it runs: early stopping, schedules, logging of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maxentflow.agents.training.evaluation import Evaluation

__all__ = ["Callback", "Schedule", "StopAtReturn"]


class Callback:
    """Called by a :class:`~maxentflow.agents.Trainer`, which it is given; override what you need.

    A method that returns ``True`` ends the run after this step, of several seeds in step with each
    other after the next one, with everything saved. Settings that may change while an update is
    compiled, such as a learning rate, may be changed here. Random numbers that are drawn from
    torch here, as by a policy's samples, are missing in the run: fork the generators
    (:func:`torch.random.fork_rng`) to leave it as it is.

    Example:
        >>> import torch
        >>> from maxentflow import agents, envs
        >>> class Halve(Callback):
        ...     def on_log(self, trainer, row):
        ...         for group in trainer.agent.steps[0].optimizer.param_groups:
        ...             group["lr"] /= 2
        >>> env = envs.make("maxentflow/MultiGoal-v0")
        >>> agent = agents.make("meow", env, learning_rate=1e-3)
        >>> config = agents.TrainerConfig(
        ...     total_steps=64, warmup_steps=32, batch_size=16, log_every=32, eval_every=0
        ... )
        >>> agents.Trainer(agent, env, config, callbacks=[Halve()], progress=False).run()
        >>> agent.steps[0].optimizer.param_groups[0]["lr"]
        0.00025
    """

    def on_step(self, trainer: Any) -> bool | None:
        """After a step of the environments and the updates that it brought."""

    def on_log(self, trainer: Any, row: Mapping[str, float]) -> bool | None:
        """After a row of the metrics, which has the evaluation's numbers where there was one."""

    def on_evaluation(self, trainer: Any, result: Evaluation) -> bool | None:
        """After an evaluation, before its row is written."""

    def on_end(self, trainer: Any) -> None:
        """After the last step, however the run ends."""


class Schedule(Callback):
    """Sets a number of the agent as a function of how far the run is.

    Where the update is compiled, learning rates follow, and other settings go on uncompiled; see
    :class:`~maxentflow.agents.compiled.CompiledUpdate`.

    Args:
        put: takes the trainer and the number, and puts it where it belongs.
        value: of the share of the run's steps that are taken, in [0, 1].
        every: steps from one setting to the next; the first is after the first step of a run, and
            of one that is resumed.

    Raises:
        ValueError: ``every`` is no whole number, or below 1.

    Example:
        >>> from maxentflow import agents, envs
        >>> def learning_rate(trainer, number):
        ...     for group in trainer.agent.steps[0].optimizer.param_groups:
        ...         group["lr"] = number
        >>> env = envs.make("maxentflow/MultiGoal-v0")
        >>> agent = agents.make("meow", env)
        >>> config = agents.TrainerConfig(
        ...     total_steps=64, warmup_steps=32, batch_size=16, eval_every=0
        ... )
        >>> decay = Schedule(learning_rate, lambda share: 1e-3 * (1 - share), every=16)
        >>> agents.Trainer(agent, env, config, callbacks=[decay], progress=False).run()
        >>> agent.steps[0].optimizer.param_groups[0]["lr"]
        0.0
    """

    def __init__(
        self,
        put: Callable[[Any, float], object],
        value: Callable[[float], float],
        every: int = 1_000,
    ) -> None:
        if not isinstance(every, int | np.integer) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}.")
        self._put, self._value, self._every = put, value, every
        self._has_begun = False

    def on_step(self, trainer: Any) -> None:
        step, total = trainer.step, trainer.config.total_steps
        if trainer.config.is_due(step, self._every) or not self._has_begun:
            self._has_begun = True
            self._put(trainer, self._value(min(step / total, 1.0)))

    def on_end(self, trainer: Any) -> None:
        self._has_begun = False


class StopAtReturn(Callback):
    """Ends a run when an evaluation reaches a return.

    Args:
        threshold: the mean return of an evaluation's episodes.

    Raises:
        ValueError: it is not finite.

    Example:
        >>> StopAtReturn(-200.0).threshold
        -200.0
    """

    def __init__(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite, got {threshold}.")
        self.threshold = threshold

    def on_evaluation(self, trainer: Any, result: Evaluation) -> bool:
        return float(result.returns.mean()) >= self.threshold
