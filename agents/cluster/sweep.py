"""Train many runs that differ in some settings, by Ray Tune."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from maxentflow.agents import compiled
from maxentflow.agents.cluster.connection import connected, ray
from maxentflow.agents.cluster.spec import Spec
from maxentflow.agents.training import Callback, RunFolder, train
from maxentflow.agents.training.description import create, make_parts, make_trainer, restored
from maxentflow.agents.training.run_folder import read_metrics
from maxentflow.agents.training.session import Interruption, signals

__all__ = ["Trial", "sweep"]

_STATE = ".tune"  # the folder of Tune's own state
_RETRIES = 3  # of a trial whose process or machine is lost


@dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    Attributes:
        folder: of the run.
        settings: those that differ from trial to trial, and the seed.
        steps: taken.
        returns: of its evaluations.
        state: ``"complete"``, ``"stopped early"`` or why it failed.
    """

    folder: RunFolder
    settings: Mapping[str, Any]
    steps: int
    returns: Sequence[float]
    state: str


def sweep(
    spec: Spec,
    out: Path,
    *,
    address: str | None = None,
    resume: bool = False,
    parallel: int | None = None,
    imports: Sequence[str] = (),
) -> list[Trial]:
    """Train the trials of a sweep, each in a run folder of its own, and say what they came to.

    A trial whose process is lost goes on from its last checkpoint. The folder must be one that all
    machines of the cluster see.

    Args:
        spec: what to train.
        out: where the run folders are to be.
        address: of a Ray cluster, see :func:`connected`.
        resume: go on with the sweep of that folder, or begin it if it has no trial yet.
        parallel: trials at a time; by default as many as the cluster has cores for, each takes as
            many as it has threads.
        imports: modules that register the flow, the agent or the task.

    Raises:
        ValueError: there is a sweep in the folder, or none to go on with, or no cluster.
        KeyboardInterrupt: on Ctrl-C; the sweep can go on, each trial from its last checkpoint.
        SystemExit: on SIGTERM or SIGHUP, likewise.
    """
    ray()
    tune = importlib.import_module("ray.tune")
    state = (out / _STATE).resolve()
    if not resume and state.exists():
        raise ValueError(f"{out} holds a sweep already; go on with it, or choose another folder.")
    if resume and not (state.exists() or (out / "sweep.yaml").exists()):
        raise ValueError(f"{out} holds no sweep to go on with.")
    if resume and not any(state.glob("experiment_state-*.json")):
        # It ended before its first trial.
        shutil.rmtree(state, ignore_errors=True)
        resume = False
    first = spec.description(next(spec.grid()))
    make_parts(first)[1].close()  # what cannot be made is refused before anything begins
    out.mkdir(parents=True, exist_ok=True)
    threads = first.trainer_config.threads
    trial = partial(
        _train, spec=spec, out=out.resolve(), imports=list(imports), path=list(sys.path)
    )
    trainable = tune.with_resources(_named(trial), {"cpu": threads})
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # see _stops_at_signals
    with connected(address, num_cpus=threads * (parallel or 1)):
        if resume:
            tuner = tune.Tuner.restore(
                str(state), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={} if spec.algorithm == "optuna" else _space(spec, tune),
                tune_config=_plan(spec, tune, first.trainer_config.total_steps, parallel),
                run_config=tune.RunConfig(
                    name=state.name,
                    storage_path=str(state.parent),
                    failure_config=tune.FailureConfig(max_failures=_RETRIES),
                    verbose=0,
                ),
            )
        with _stops_at_signals():
            results = tuner.fit()
    trials = [_trial(out, result) for result in results]
    return sorted(trials, key=lambda trial: (len(trial.folder.path.name), trial.folder.path.name))


@contextmanager
def _stops_at_signals() -> Iterator[None]:
    """A context in which Ctrl-C, SIGTERM and SIGHUP end Tune's loop between two steps.

    An exception that is raised in the middle of Ray's code may be lost.
    """
    interruption = Interruption()

    def note(number: int, frame: object) -> None:
        interruption.note(number, frame)
        stop = signal.getsignal(getattr(signal, "SIGUSR1", signal.SIGTERM))
        if stop is not note and callable(stop):  # Tune's, while its loop runs
            stop(number, None)
        else:
            interruption.raise_if_set()

    with signals(note):
        yield
    interruption.raise_if_set()


def _named(function: Any) -> Any:
    """A function of the one argument that Tune asks for."""

    def trial(config: dict[str, Any]) -> None:
        function(config)

    return trial


def _space(spec: Spec, tune: Any) -> dict[str, Any]:
    """The search as Tune has it: seeds and, of a grid, all values are combined."""
    space = {"seed": tune.grid_search(spec.seeds)}
    for name, by in spec.search.items():
        if isinstance(by, list):
            space[name] = (tune.grid_search if spec.algorithm == "grid" else tune.choice)(by)
        elif by.is_whole:
            space[name] = (tune.lograndint if by.log else tune.randint)(by.low, by.high + 1)
        else:
            space[name] = (tune.loguniform if by.log else tune.uniform)(by.low, by.high)
    return space


def _plan(spec: Spec, tune: Any, total_steps: int, parallel: int | None) -> Any:
    """What draws the trials, and what stops them."""
    goal = {"metric": "return", "mode": "max"}
    scheduler = None
    if spec.early_stopping:
        asha = importlib.import_module("ray.tune.schedulers").ASHAScheduler
        scheduler = asha(
            time_attr="step",
            max_t=total_steps,
            grace_period=spec.grace_steps or max(1, total_steps // 8),
            reduction_factor=spec.reduction_factor,
        )
    if spec.algorithm == "optuna":
        search: Any = _optuna(spec)
    else:
        basic = importlib.import_module("ray.tune.search.basic_variant").BasicVariantGenerator
        search = basic(constant_grid_search=True, random_state=spec.seeds[0])
    return tune.TuneConfig(
        **goal,
        search_alg=search,
        scheduler=scheduler,
        num_samples=1 if spec.algorithm == "grid" else spec.trials,
        max_concurrent_trials=parallel,
        trial_name_creator=lambda trial: _name(trial.trial_id),
        trial_dirname_creator=lambda trial: _name(trial.trial_id),
    )


def _optuna(spec: Spec) -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ValueError(
            'This needs Optuna: pip install "maxentflow[cluster]" brings it.'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = optuna.distributions
    space: dict[str, Any] = {"seed": distributions.CategoricalDistribution(spec.seeds)}
    for name, by in spec.search.items():
        if isinstance(by, list):
            space[name] = distributions.CategoricalDistribution(by)
        elif by.is_whole:
            space[name] = distributions.IntDistribution(by.low, by.high, log=by.log)
        else:
            space[name] = distributions.FloatDistribution(by.low, by.high, log=by.log)
    search = importlib.import_module("ray.tune.search.optuna").OptunaSearch
    sampler = optuna.samplers.TPESampler(seed=spec.seeds[0])
    return search(space=space, metric="return", mode="max", sampler=sampler)


class _Report(Callback):
    """Tells Tune of evaluations, after their rows are written; of the last one when everything is
    saved, since Tune may end the process then."""

    def __init__(self) -> None:
        self._untold: dict[str, float] | None = None

    def on_log(self, trainer: Any, row: Mapping[str, float]) -> None:
        if "eval_return" in row:
            self._untold = {"return": row["eval_return"], "step": trainer.step}
        if trainer.step < trainer.config.total_steps:
            self._tell()

    def on_end(self, trainer: Any) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._untold is not None:
            importlib.import_module("ray.tune").report(self._untold)
            self._untold = None


def _train(
    config: dict[str, Any], spec: Spec, out: Path, imports: Sequence[str], path: Sequence[str]
) -> None:
    """A trial, in a process of its own: begin its run, or go on with it."""
    sys.path += [entry for entry in path if entry not in sys.path]
    for name in imports:
        importlib.import_module(name)
    context = importlib.import_module("ray.tune").get_context()
    folder = RunFolder(out / _name(context.get_trial_id()))
    description = spec.description(config)
    if folder.config_path.exists():
        trainer = restored(description, folder, [_Report()])
    else:
        trainer = make_trainer(description, folder, [_Report()])
        create(folder, description, trainer.agent, imports)
    wanted = description.compiles(trainer.agent)
    train([trainer], compiled.learner([trainer.agent], compile=wanted))


def _name(trial_id: str) -> str:
    """The folder of a trial: by its number, where Tune numbers them."""
    before, _, number = trial_id.rpartition("_")
    return f"trial-{int(number)}" if before else f"trial-{trial_id}"


def _trial(out: Path, result: Any) -> Trial:
    folder = RunFolder(out / Path(result.path).name)
    rows = [row for row in read_metrics(folder) if row.get("eval_return")]
    steps = int(rows[-1]["step"]) if rows else 0
    total = folder.config()["trainer_config"]["total_steps"] if rows else 0
    if result.error is not None:
        said = str(result.error).strip().splitlines()
        state = f"failed: {said[-1] if said else type(result.error).__name__}"
    else:
        state = "complete" if steps >= total else "stopped early"
    returns = [float(row["eval_return"]) for row in rows]
    return Trial(folder, result.config, steps, returns, state)
