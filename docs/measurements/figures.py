"""The figures of these pages, from the CSVs in benchmarks/.

python docs/measurements/figures.py
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks"
OURS, PEERS = "#0072B2", "#BBBBBB"
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

LOOPS = {
    "maxentflow MEow, compiled": "MEow, compiled",
    "SBX SAC": "SBX SAC (JAX)",
    "stable-baselines3 SAC": "stable-baselines3 SAC",
    "maxentflow MEow": "MEow, uncompiled",
    "TorchRL SAC": "TorchRL's SAC recipe",
    "reference MEow": "the paper's MEow code",
}
PARTS = ("update", "act", "sample", "store", "physics")
LIBRARIES = {
    "maxentflow": ("maxentflow", "o", COLORS[0]),
    "zuko": ("zuko", "s", COLORS[1]),
    "normflows": ("normflows", "^", COLORS[2]),
}
DENSITIES = ("eight-gaussians", "two-moons", "checkerboard", "pinwheel", "two-spirals")
EXPERIMENTS = {
    "HalfCheetah-v4": {
        "meow": "MEow, loss alone compiled",
        "meow-one-graph": "MEow, update as one graph",
        "meow-batched": "MEow, seeds as one program",
        "meow-affine": "MEow, affine coupling",
        "meow-newest": "MEow, newest weights",
        "meow-newest-one-mask": "MEow, newest weights, one mask",
        "meow-8-envs": "MEow, 8 environments",
        "meow-32-envs": "MEow, 32 environments",
        "sac": "SAC",
    },
    "Hopper-v4": {
        "meow": "MEow, loss alone compiled",
        "meow-one-graph": "MEow, update as one graph",
        "meow-newest": "MEow, newest weights",
    },
}
PUBLISHED = {"HalfCheetah-v4": 6_000, "Hopper-v4": 3_050}  # MEow at as many steps
FAMILIES = (
    "additive",
    "affine",
    "spline",
    "mixture-cdf",
    "maf",
    "iaf",
    "maf-spline",
    "glow",
    "residual",
)


def read(name: str) -> list[dict[str, str]]:
    with open(BENCHMARKS / name, newline="") as file:
        return list(csv.DictReader(file))


def save(figure: Any, name: str) -> None:
    figure.savefig(HERE / name, dpi=100)
    plt.close(figure)


def twin() -> None:
    """Returns on HalfCheetah-v4 with one flow and with two, a line for each seed."""
    rows = read("twin.csv")
    figure, axes = plt.subplots(figsize=(4.4, 2.8), layout="constrained")
    for count, label, color in (("1", "one flow", "#777777"), ("2", "two flows", OURS)):
        for seed in dict.fromkeys(row["seed"] for row in rows):
            points = [row for row in rows if (row["flows"], row["seed"]) == (count, seed)]
            steps = [int(row["step"]) / 1_000 for row in points]
            returns = [float(row["eval_return"]) for row in points]
            axes.plot(steps, returns, color=color, linewidth=1.3, label=label)
            label = None
    axes.set(title="HalfCheetah-v4", xlabel="thousand steps", ylabel="return of the mode")
    axes.legend(frameon=False, fontsize=8)
    plain(axes)
    save(figure, "twin.png")


def entropy() -> None:
    """Hopper-v4 by target entropy and critic: returns, and V of first states over the discounted
    returns from them."""
    settings = {
        ("-1", "mean", ""): ("-1 nats, mean of both flows", "#777777"),
        ("-1", "second", ""): ("-1 nats, second flow", "#DDAA33"),
        ("0", "mean", ""): ("0 nats, mean of both flows", "#BB5566"),
        ("0", "second", ""): ("0 nats, second flow", "#66CCEE"),
        ("-0.25", "second", ""): ("-0.25 nats, second flow", OURS),
    }
    figure, (left, right) = changes("Hopper-v4", settings, lambda value, of: value / of)
    right.axhline(1, color="#BBBBBB", linewidth=0.8, zorder=0)
    right.set(ylabel="V / discounted return", yscale="log")
    left.legend(frameon=False, fontsize=8)
    save(figure, "entropy.png")


def decay() -> None:
    """Ant-v4 by weight decay: returns, and V of first states beside the discounted returns."""
    settings = {
        ("-0.25", "second", ""): ("none", "#777777"),
        ("-0.25", "second", "weight decay 0.3"): ("0.3", OURS),
        ("-0.25", "second", "weight decay 1"): ("1", "#DDAA33"),
        ("-0.25", "second", "weight decay 4"): ("4", "#BB5566"),
    }
    figure, (left, right) = changes("Ant-v4", settings, lambda value, of: value - of, marker="o")
    right.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
    right.set(ylabel="V - discounted return")
    left.legend(title="weight decay", frameon=False, fontsize=8)
    save(figure, "decay.png")


def falling() -> None:
    """How the weight decay falls: returns of seeds 0 to 2, and their means."""
    forms = {
        "": ("stays", "#BB5566"),
        ", falling": ("as 1 / n", "#DDAA33"),
        ", falling as the root": ("as 1 / sqrt(n)", OURS),
    }
    decays = {"HalfCheetah-v4": "0.75", "Hopper-v4": "0.375", "Ant-v4": "1"}
    rows = read("untuned_changes.csv")
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.8), layout="constrained")
    for axes, (task, decay) in zip(panels, decays.items(), strict=True):
        for form, (name, color) in forms.items():
            curves: dict[str, dict[int, float]] = {}
            for row in rows:
                if (row["task"], row["change"]) == (task, f"weight decay {decay}{form}"):
                    curve = curves.setdefault(row["seed"], {})
                    curve[int(row["step"]) // 1_000] = float(row["eval_return"])
            whole = [
                curve
                for seed, curve in curves.items()
                if seed in ("0", "1", "2") and max(curve) == 100
            ]
            for curve in whole:
                axes.plot(
                    *zip(*sorted(curve.items()), strict=True), color=color, alpha=0.3, lw=0.8
                )
            steps = range(10, 101, 10)
            means = [float(np.mean([curve[step] for curve in whole])) for step in steps]
            axes.plot(steps, means, color=color, lw=1.8, label=name)
        axes.set(title=task, xlabel="thousand steps")
        plain(axes)
    panels[0].set_ylabel("return of the mode")
    panels[0].legend(frameon=False, fontsize=8)
    save(figure, "falling.png")


def changes(
    task: str,
    settings: Mapping[tuple[str, str, str], tuple[str, str]],
    bias: Callable[[float, float], float],
    marker: str = "",
) -> tuple[Any, Any]:
    """Runs by target entropy, target and change: returns, and how V differs from the discounted
    return."""
    columns = ("target_entropy", "target", "change")
    rows = [row for row in read("untuned_changes.csv") if row["task"] == task]
    figure, both = plt.subplots(1, 2, figsize=(8.4, 3.0), layout="constrained")
    for setting, (name, color) in settings.items():
        chosen = [row for row in rows if tuple(row[column] for column in columns) == setting]
        label: str | None = name
        for seed in dict.fromkeys(row["seed"] for row in chosen):
            points = [row for row in chosen if row["seed"] == seed]
            steps = [int(row["step"]) / 1_000 for row in points]
            returns, values, discounted = (
                [float(row[f"eval_{column}"]) for row in points]
                for column in ("return", "value", "discounted_return")
            )
            biases = list(map(bias, values, discounted))
            style = {"color": color, "linewidth": 1.3, "marker": marker, "markersize": 3}
            for axes, numbers in zip(both, (returns, biases), strict=True):
                axes.plot(steps, numbers, label=label, **style)
            label = None
    both[0].set_ylabel("return of the mode")
    for axes in both:
        axes.set_xlabel("thousand steps")
        plain(axes)
    return figure, both


def plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def speeds() -> list[dict[str, str]]:
    """What was measured on the Xeon, where everything was."""
    return [row for row in read("speed.csv") if "Xeon" in row["processor"]]


def steps() -> None:
    """Milliseconds of a training step, by library and task."""
    rows = [row for row in speeds() if row["figure"] == "training step"]
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained", sharey=True)
    places = np.arange(len(LOOPS))[::-1]
    for axes, env in zip(panels, ("Hopper-v4", "Humanoid-v4"), strict=True):
        found = {
            row["who"]: float(row["median_ms"])
            for row in rows
            if row["env"] == env and row["threads"] == "1"
        }
        values = [found[who] for who in LOOPS]
        colors = [OURS if who.startswith("maxentflow") else PEERS for who in LOOPS]
        held = axes.barh(places, values, color=colors)
        axes.bar_label(held, [f"{value:.1f}" for value in values], padding=3)
        axes.set(title=f"{env}, one thread", xlabel="ms a training step (lower is better)")
        axes.set(yticks=places, yticklabels=LOOPS.values())
        axes.margins(x=0.12)
        plain(axes)
    save(figure, "steps.png")


def parts() -> None:
    """Where the time of a compiled training step goes."""
    rows = [row for row in speeds() if row["who"] == "maxentflow MEow, compiled"]
    cases = [(env, threads) for env in ("Hopper-v4", "Humanoid-v4") for threads in ("1", "2")]
    figure, axes = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    left = np.zeros(len(cases))
    for color, part in zip(COLORS, PARTS, strict=False):
        values = np.array(
            [
                next(
                    float(row["median_ms"])
                    for row in rows
                    if (row["env"], row["threads"], row["figure"]) == (*case, part)
                )
                for case in cases
            ]
        )
        axes.barh(range(len(cases)), values, left=left, color=color, label=part)
        left += values
    labels = [f"{env}, {threads} thread{'s' * (threads == '2')}" for env, threads in cases]
    axes.set(yticks=range(len(cases)), yticklabels=labels, xlabel="ms of a training step")
    axes.invert_yaxis()
    axes.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plain(axes)
    save(figure, "parts.png")


def density() -> None:
    """Held-out log-likelihood by architecture and library, less the best of each density."""
    figure, panels = plt.subplots(1, 5, figsize=(11.5, 3.6), layout="constrained", sharey=True)
    fits = pooled()
    for axes, name in zip(panels, DENSITIES, strict=True):
        for index, (library, (label, marker, color)) in enumerate(LIBRARIES.items()):
            shown = [
                (fits[library, family, name], place)
                for place, family in enumerate(FAMILIES)
                if (library, family, name) in fits
            ]
            values, places = zip(*shown, strict=True)
            shift = 0.2 * (index - 1)
            axes.plot(
                values, np.array(places) + shift, marker, color=color, markersize=5, label=label
            )
        axes.set(title=name, yticks=range(len(FAMILIES)), yticklabels=FAMILIES)
        axes.grid(axis="x", alpha=0.3)
        plain(axes)
    panels[0].invert_yaxis()
    figure.supxlabel("held-out log-likelihood in nats (higher is better)", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save(figure, "density.png")


def pooled() -> dict[tuple[str, str, str], float]:
    """The means of all seeds; of a case with a fresh sample of seeds, of that alone."""
    groups: dict[tuple[str, str, str], dict[int, tuple[int, float]]] = {}
    for row in read("density.csv"):
        if row["conditional"] == "False":
            case = row["library"], row["family"], row["density"]
            fit = int(row["seeds"]), float(row["log_likelihood"])
            groups.setdefault(case, {})[int(row["first_seed"])] = fit
    return {case: mean([of[16]] if 16 in of else of.values()) for case, of in groups.items()}


def mean(fits: Any) -> float:
    counts, values = np.array(list(fits)).T
    return float((counts * values).sum() / counts.sum())


def returns() -> None:
    """Every seed's return, by experiment."""
    rows = read("learning/summary.csv")
    figure, panels = plt.subplots(
        1, 2, figsize=(10.5, 3.6), layout="constrained", width_ratios=(3, 2)
    )
    for axes, (env, experiments) in zip(panels, EXPERIMENTS.items(), strict=True):
        for place, key in enumerate(experiments):
            values = [
                float(row["mean_return"]) for row in rows if row["experiment"] == f"{env}-{key}"
            ]
            axes.plot(values, len(values) * [place], "o", color=OURS, alpha=0.7)
            axes.plot(np.mean(values), place, "|", color="black", markersize=14)
        axes.axvline(PUBLISHED[env], color="#D55E00", linestyle="--", label="MEow, published")
        axes.set(yticks=range(len(experiments)), yticklabels=experiments.values(), title=env)
        axes.set(xlabel="return (dots: seeds, bar: mean)", xlim=(0, 1.2 * PUBLISHED[env]))
        axes.invert_yaxis()
        axes.legend(frameon=False, loc="upper left", fontsize="small")
        axes.grid(axis="x", alpha=0.3)
        plain(axes)
    save(figure, "returns.png")


def architectures() -> None:
    """MEow with each architecture on two small tasks: every seed."""
    rows = read("architectures.csv")
    panels_of: Sequence[tuple[str, str, str, float]] = (
        ("maxentflow/MultiGoal-v0", "reached", "MultiGoal: episodes that end at a goal", 100),
        ("maxentflow/MultiGoal-v0", "least_goal", "MultiGoal: at the least frequent goal", 100),
        ("Pendulum-v1", "return", "Pendulum-v1: return after 5,000 steps", 1),
    )
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained", sharey=True)
    for axes, (task, column, title, factor) in zip(panels, panels_of, strict=True):
        for place, family in enumerate(FAMILIES):
            values = [
                factor * float(row[column])
                for row in rows
                if (row["task"], row["flow"]) == (task, family)
            ]
            axes.plot(values, len(values) * [place], "o", color=OURS, alpha=0.6)
        axes.set_title(title, fontsize="medium")
        axes.set(yticks=range(len(FAMILIES)), yticklabels=FAMILIES)
        axes.set_xlabel("%" if factor == 100 else "return (-200 is usually called solved)")
        axes.grid(axis="x", alpha=0.3)
        plain(axes)
    panels[1].axvline(25, color="#D55E00", linestyle="--", label="even")
    panels[1].legend(frameon=False, fontsize="small")
    panels[0].invert_yaxis()
    save(figure, "architectures.png")


def environments() -> None:
    """Steps a second by the number of environments, and of seeds."""
    rows = read("environments.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
    settings = (
        ("0.0625", "False", "ratio 1/16, in the process", COLORS[0], "-"),
        ("0.0625", "True", "ratio 1/16, a process each", COLORS[0], "--"),
        ("1.0", "False", "ratio 1, in the process", COLORS[1], "-"),
        ("1.0", "True", "ratio 1, a process each", COLORS[1], "--"),
    )
    several, alone = rows[:24], rows[24:]  # the second part: seeds as one program
    for ratio, workers, label, color, style in settings:
        curve = {
            int(row["num_envs"]): float(row["steps_per_second"])
            for row in several
            if (row["utd_ratio"], row["workers"], row["threads"]) == (ratio, workers, "2")
        }
        left.plot(list(curve), list(curve.values()), style, marker="o", color=color, label=label)
    left.set(xscale="log", yscale="log", xlabel="environments", ylabel="steps a second")
    for axis, ticks in ((left.xaxis, [1, 2, 4, 8, 16, 32]), (left.yaxis, [200, 500, 1000, 2000])):
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.set_ticks([], minor=True)
    left.legend(frameon=False, fontsize="small")
    for threads, color in (("1", COLORS[2]), ("2", COLORS[3])):
        curve = {
            int(row["seeds"]): float(row["steps_per_second"])
            for row in alone
            if row["threads"] == threads
        }
        label = f"{threads} thread{'s' * (threads == '2')}"
        right.plot(list(curve), list(curve.values()), marker="o", color=color, label=label)
    right.set(xlabel="seeds as one program", ylabel="steps a second, all seeds", ylim=(0, None))
    right.set(xticks=[1, 2, 3, 4, 5])
    right.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        plain(axes)
    save(figure, "environments.png")


if __name__ == "__main__":
    for draw in (
        steps,
        parts,
        density,
        returns,
        architectures,
        environments,
        twin,
        entropy,
        decay,
        falling,
    ):
        draw()
