"""The experiments of the MEow paper (Chao et al. 2024, arXiv:2405.13629).

    python benchmarks/paper.py list                     # the experiments, and what each asks
    python benchmarks/paper.py run shifts               # its runs that are missing, or their rest
    python benchmarks/paper.py run tasks --tasks Hopper-v4 --variants "meow;sac" --seeds 0
    python benchmarks/paper.py report shifts            # paper/shifts.csv and a figure

A run is kept in runs/paper/EXPERIMENT/TASK/VARIANT/seed-N; one that was interrupted goes on from
its last checkpoint, with the same command. --steps shortens runs that have not begun, --jobs has
several at a time, with a thread each. A report evaluates the last policy of each run that is
over, on 20 episodes of its mode and 20 of its samples, and writes rows in place of older ones;
rows of runs on another machine stay.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from tensordict import TensorDict
from torch import Tensor

from maxentflow import agents, envs, flows
from maxentflow.agents import RunFolder, Trainer, TrainerConfig, compiled, evaluate
from maxentflow.agents.cli import figures, runs
from maxentflow.agents.training.run_folder import read_metrics
from maxentflow.agents.training.statistics import bootstrap

HERE = Path(__file__).parent / "paper"
RUNS = Path("runs/paper")
EPISODES = 20
FIVE = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")
TWO = ("HalfCheetah-v4", "Hopper-v4")
FIXED = "--target-entropy None --temperature 0.25"


@dataclass(frozen=True)
class Experiment:
    """Training runs that differ by one thing.

    Attributes:
        question: what the paper claims.
        variants: label and the words of the command after ``maxentflow train``.
        tasks: gymnasium ids.
        steps: length of a run.
        seeds: of the runs.
    """

    question: str
    variants: dict[str, str]
    tasks: tuple[str, ...] = TWO
    steps: int = 150_000
    seeds: tuple[int, ...] = (0, 1, 2)


EXPERIMENTS = {
    "shifts": Experiment(
        "Learnable reward shifting, and two shifts (SCDQ), raise returns.",
        {
            "vanilla": "meow --paper --heads 0",
            "LRS": "meow --paper --heads 1",
            "LRS and SCDQ": "meow --paper --heads 2",
        },
    ),
    "architectures": Experiment(
        "Additive coupling layers learn better than affine ones.",
        {name: f"meow --paper --flow {name}" for name in flows.registered()},
        ("HalfCheetah-v4",),
    ),
    "forms": Experiment(
        "One flow is better than a critic and an actor, whichever of both is a flow.",
        {
            "network critic, Gaussian actor": f"sac {FIXED}",
            "flow critic, Gaussian actor": f"sac --critic-flow additive {FIXED}",
            "network critic, flow actor": f"flow-sac --flow additive {FIXED}",
            "flow critic, flow actor": f"flow-sac --flow additive --critic-flow additive {FIXED}",
            "one flow": "meow --paper --temperature 0.25",
        },
    ),
    "sac-shift": Experiment(
        "SAC gains nothing from reward shifting.",
        {"SAC": "sac", "SAC with LRS": "sac --reward-shift"},
    ),
    "tasks": Experiment(
        "MEow reaches or passes the baselines on five tasks (figure 3).",
        {
            "meow": "meow --paper",
            "meow, one setting": "meow",
            "sac": "sac",
            "td3": "td3",
            "ddpg": "ddpg",
            "ppo": "ppo",
            "sql": "sql",
            "flow-sac": "flow-sac",
        },
        FIVE,
        1_000_000,
    ),
}
PROBES = {
    "determinants": "Without a reward shift the linear determinant grows with the value.",
    "monte-carlo": "Monte-Carlo estimates of V err, more so with few samples and many dimensions.",
}


# Training


def folder(name: str, task: str, variant: str, seed: int) -> RunFolder:
    words = variant.replace(",", "").replace(" ", "-")
    return RunFolder(RUNS / name / task / words / f"seed-{seed}")


def is_over(run: RunFolder) -> bool:
    if not run.metrics_path.exists():
        return False
    rows = read_metrics(run)
    return bool(rows) and int(rows[-1]["step"]) >= run.config()["trainer_config"]["total_steps"]


def train(name: str, task: str, variant: str, seed: int, steps: int) -> None:
    run = folder(name, task, variant, seed)
    if is_over(run):
        return
    words = [sys.executable, "-m", "maxentflow.agents", "train"]
    if run.config_path.exists():
        words += ["--resume", str(run)]
    else:
        words += [*EXPERIMENTS[name].variants[variant].split(), "--env", task]
        words += ["--seed", str(seed), "--total-steps", str(steps), "--run-dir", str(run)]
    ended = subprocess.run(words, capture_output=True, text=True)
    print(f"{run}: {'done' if ended.returncode == 0 else ended.stderr.strip()}", flush=True)


def row(name: str, task: str, variant: str, seed: int) -> dict[str, Any]:
    """The last policy of a run."""
    run = folder(name, task, variant, seed)
    description = runs.read(run)
    env = runs.make_env(description, 10)
    policy = runs.trained(description, run, env).policy
    mode, samples = (
        evaluate(policy, env, episodes=EPISODES, deterministic=mode, seed=2_000_000)
        for mode in (True, False)
    )
    metrics = [each for each in read_metrics(run) if each["eval_return"]]
    return {
        "task": task,
        "variant": variant,
        "seed": seed,
        "steps": int(metrics[-1]["step"]),
        "mode": round(float(mode.returns.mean()), 1),
        "samples": round(float(samples.returns.mean()), 1),
        "minutes": round(float(metrics[-1]["seconds"]) / 60, 1),
    }


def report(name: str) -> None:
    """Rows of an experiment, a table of means with intervals, and the curves."""
    experiment = EXPERIMENTS[name]
    done = [
        (task, variant, seed)
        for task in experiment.tasks
        for variant in experiment.variants
        for seed in range(100)
        if is_over(folder(name, task, variant, seed))
    ]
    rows = merge(HERE / f"{name}.csv", [row(name, *each) for each in done], experiment)
    for task in experiment.tasks:
        for variant in experiment.variants:
            found = [each for each in rows if (each["task"], each["variant"]) == (task, variant)]
            if found:
                print(f"{task:16} {variant:32} {spread(found)}")
    by_task = {task: [each for each in done if each[0] == task] for task in experiment.tasks}
    for task, runs_of_task in by_task.items():
        if runs_of_task:
            labels = [variant for _, variant, _ in runs_of_task]
            shown = list(dict.fromkeys(labels))[: len(figures.STYLES)]  # in the order of the table
            kept = [each for each in runs_of_task if each[1] in shown]
            figures.learning_curves(
                [folder(name, *each) for each in kept],
                HERE / f"{name}-{task}.png",
                [variant for _, variant, _ in kept],
            )


def merge(path: Path, new: list[dict[str, Any]], experiment: Experiment) -> list[dict[str, Any]]:
    """Write rows, with those of the file that are of other runs, in the experiment's order."""
    run = lambda each: (each["task"], each["variant"], int(each["seed"]))  # noqa: E731
    replaced, kept = {run(each) for each in new}, []
    if path.exists():
        with path.open() as file:
            kept = [each for each in csv.DictReader(file) if run(each) not in replaced]
    tasks, variants = list(experiment.tasks), list(experiment.variants)
    rows = sorted(
        [*kept, *new],
        key=lambda each: (
            tasks.index(each["task"]),
            variants.index(each["variant"]),
            int(each["seed"]),
        ),
    )
    write(path, rows)
    return rows


def spread(rows: list[dict[str, Any]]) -> str:
    """Mean returns of both ways to act, with an interval over seeds where there are three."""
    parts = []
    for way in ("mode", "samples"):
        returns = [float(each[way]) for each in rows]
        low, high = bootstrap([returns], lambda scores: float(np.mean(scores[0])))
        interval = "" if np.isnan(low) else f" [{low:,.0f}, {high:,.0f}]"
        parts.append(f"{way} {np.mean(returns):8,.0f}{interval}")
    return f"{'   '.join(parts)}   {len(rows)} seeds, {int(rows[0]['steps']):,} steps"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Determinants


class Determinants:
    """Follows the determinants of an agent's flow at the observations that it acts on.

    Args:
        agent: which acts.
        every: environment steps between two entries.
    """

    def __init__(self, agent: agents.Agent, every: int) -> None:
        self._flow: Any = agent.behavior.flow  # type: ignore[union-attr]
        self._every = every
        self._seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=256)
        self._steps = 0
        self.rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def observe(self, transitions: Any) -> None:
        self._seen.append((transitions["observation"].clone(), transitions["action"].clone()))
        self._steps += len(transitions)
        if self._steps % self._every == 0:
            observation, action = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
            linear = non_linear = torch.zeros(len(action))
            for layer in reversed(self._flow.layers):
                action, log_det = layer.inverse(action, observation)
                if layer.is_linear:
                    linear = linear + log_det
                else:
                    non_linear = non_linear + log_det
            value = self._flow.value(observation).amin(-1)
            self.rows.append(
                {
                    "step": self._steps,
                    "log_det_linear": round(float(linear.mean()), 3),
                    "log_det_non_linear": round(float(non_linear.mean()), 3),
                    "value": round(float(value.mean()), 2),
                }
            )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing."""


def determinants(steps: int) -> None:
    """Log-determinants of linear and of other layers over training, without and with LRS."""
    rows = []
    variants: dict[str, dict[str, Any]] = {
        "vanilla": {"heads": 0},
        "vanilla, wide bounds": {"heads": 0, "log_sigma": (-60.0, 60.0)},
        "LRS": {"heads": 1},
    }
    for label, settings in variants.items():
        torch.manual_seed(0)
        env = envs.make("Hopper-v4")
        made = agents.make("meow", env, paper=True, **settings)
        probe = Determinants(made, every=1_000)
        made.state = {**made.state, "probe": probe}
        config = TrainerConfig(total_steps=steps, warmup_steps=5_000, eval_every=0)
        Trainer(made, env, config).run(compiled.learner([made], compile=True))
        rows += [{"variant": label, **each} for each in probe.rows]
    write(HERE / "determinants.csv", rows)
    figure = Figure(figsize=(11.4, 3.2), layout="constrained")
    names = {
        "log_det_linear": "linear layers, log |det J| to the latent",
        "log_det_non_linear": "other layers, log |det J| to the latent",
        "value": "V",
    }
    for axes, (column, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for style, label in zip(figures.STYLES, variants, strict=False):
            points = [(each["step"], each[column]) for each in rows if each["variant"] == label]
            axes.plot(*np.array(points).T, color=style.color, linestyle=style.line, label=label)
        axes.set(title=title, xlabel="environment steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(HERE / "determinants.png", dpi=120)


# Monte-Carlo values


def estimates(
    flow: Any, observation: Tensor, samples: int, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Estimates of V of some observations, ``(repeats, observations)``, with nothing learned.

    SAC's is the mean of Q - alpha log pi over samples of a tanh-Gaussian with the flow's own
    means and standard deviations before the squash; with the flow as its actor the same is exact,
    whatever the sample. SQL's is a sum over uniform actions.
    """
    alpha, size = flow.temperature, flow.action_dim
    _, _, raw = flow.sample_raw(observation, (2_000,))
    normal = torch.distributions.Normal(raw.mean(0), raw.std(0))
    found: dict[str, list[Tensor]] = {"sac": [], "sql": []}
    for _ in range(repeats):
        u = normal.sample((samples,))
        log_prob = normal.log_prob(u).sum(-1) - flow.squash(u)[1]
        q = flow.raw_q_and_value(u, observation)[0].amin(-1)
        found["sac"].append((q - alpha * log_prob).mean(0))
        action = 2 * torch.rand(samples, len(observation), size) - 1
        q = flow.q_value(action, observation).amin(-1)
        volume = size * np.log(2) - np.log(samples)
        found["sql"].append(alpha * ((q / alpha).logsumexp(0) + volume))
    return {name: torch.stack(each).double().numpy() for name, each in found.items()}


@torch.no_grad()
def errors(agent: agents.Agent, task: str) -> list[dict[str, Any]]:
    """Errors of both estimates against the closed form, at states that the policy visits."""
    env = envs.make(task, seed=0)
    observation, states = torch.as_tensor(env.reset(seed=0)[0]), []
    for _ in range(200):
        states.append(observation)
        acted = agent.policy(TensorDict(observation=observation, batch_size=[1]))
        observation = torch.as_tensor(env.step(acted["action"].numpy())[0])
    seen = torch.cat(states[::10])
    flow = agent.policy.flow
    exact = flow.value(seen).amin(-1).double().numpy()
    rows = []
    for samples in (1, 4, 16, 64, 256, 1024):
        for name, found in estimates(flow, seen, samples, repeats=20).items():
            error = np.abs(found - exact).mean(1) / flow.temperature
            mean = float(error.mean())
            half = float(stats.sem(error) * stats.t.ppf(0.975, len(error) - 1))
            rows.append(
                {
                    "task": task,
                    "action_dim": flow.action_dim,
                    "estimate": name,
                    "samples": samples,
                    "error_in_alpha": round(mean, 4),
                    "half_interval": round(half, 4),
                    "bias_in_alpha": round(float((found - exact).mean() / flow.temperature), 4),
                }
            )
    return rows


def monte_carlo(steps: int) -> None:
    """Errors of Monte-Carlo soft values of trained flows, for several sizes of actions."""
    rows = []
    for task in ("Pendulum-v1", "Hopper-v4", "HalfCheetah-v4", "Humanoid-v4"):
        torch.manual_seed(0)
        env = envs.make(task)
        made = agents.make("meow", env, paper=True, heads=1)
        config = TrainerConfig(
            total_steps=steps, warmup_steps=steps // 4, eval_every=0, replay_size=steps
        )
        Trainer(made, env, config).run(compiled.learner([made], compile=True))
        rows += errors(made, task)
    write(HERE / "monte-carlo.csv", rows)
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    titles = {"sac": "SAC's estimate, Gaussian samples", "sql": "SQL's estimate, uniform samples"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        sizes = sorted({each["action_dim"] for each in rows})
        for style, size in zip(figures.STYLES, sizes, strict=False):
            points = np.array(
                [
                    (each["samples"], each["error_in_alpha"], each["half_interval"])
                    for each in rows
                    if (each["estimate"], each["action_dim"]) == (name, size)
                ]
            )
            axes.errorbar(
                *points.T,
                color=style.color,
                linestyle=style.line,
                capsize=2,
                label=f"{size} entries",
            )
        axes.set(title=title, xlabel="samples", ylabel="|error of V| / alpha")
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(HERE / "monte-carlo.png", dpi=120)


def main() -> None:
    names = [*PROBES, *EXPERIMENTS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["list", "run", "report"])
    parser.add_argument("name", nargs="?", choices=names)
    parser.add_argument("--tasks")
    parser.add_argument(
        "--variants", help="labels of the experiment, with semicolons between them"
    )
    parser.add_argument("--seeds")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.command == "list":
        for name, question in PROBES.items():
            print(f"{name:14} {question}")
        for name, each in EXPERIMENTS.items():
            print(f"{name:14} {each.question} ({len(each.variants)} variants)")
        return
    if given.name is None:
        parser.error(f"name one of {', '.join(names)}")
    HERE.mkdir(exist_ok=True)
    if given.name == "determinants":
        determinants(given.steps or 150_000)
    elif given.name == "monte-carlo":
        monte_carlo(given.steps or 20_000)
    elif given.command == "report":
        report(given.name)
    else:
        experiment = EXPERIMENTS[given.name]
        variants = given.variants.split(";") if given.variants else list(experiment.variants)
        unknown = sorted(set(variants) - set(experiment.variants))
        if unknown:
            parser.error(f"{', '.join(unknown)}: not of {'; '.join(experiment.variants)}")
        tasks = given.tasks.split(",") if given.tasks else experiment.tasks
        seeds = map(int, given.seeds.split(",")) if given.seeds else experiment.seeds
        with ThreadPoolExecutor(given.jobs) as pool:
            for seed in seeds:
                for task in tasks:
                    for variant in variants:
                        steps = given.steps or experiment.steps
                        pool.submit(train, given.name, task, variant, seed, steps)


if __name__ == "__main__":
    main()
