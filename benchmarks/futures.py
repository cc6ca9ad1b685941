"""Several futures of a car at an intersection: a flow beside a Gaussian and a mixture.

    pip install "maxentflow[driving]"
    python benchmarks/futures.py record        # a Minari data set of highway-env's drivers
    python benchmarks/futures.py fit           # futures/fits.csv
    python benchmarks/futures.py report        # futures/*.png and a table

No car is controlled: all are highway-env's models of human drivers, with traits of their own. A
car that is about to cross is seen for two seconds, with its four nearest neighbours, and the
question is where it will be after one, two and three seconds. What decides that, the turn that it
takes and whether it yields, is not seen. Positions are measured with a noise of 0.1 m, so that no
density is infinite. All models have some 50,000 parameters and learn from the same batches; what
is kept of each is its best on validation scenes.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from maxentflow import flows
from maxentflow.agents.cli.figures import STYLES
from maxentflow.objectives import MaximumLikelihoodLoss

HERE = Path(__file__).parent / "futures"
FITS = HERE / "fits.csv"
DATASET = "maxentflow/intersection-futures-v0"
SCENES, SECONDS = 120, 60
NOISE = 0.1  # metres
NEIGHBOURS = 4
MIDDLE, NEAR = 11.0, 30.0  # metres from the centre, between which a car is about to cross
PAST, FUTURE = 2, 3  # seconds
SCALE = 10.0  # metres
OBS_DIM = 2 + 2 * PAST + 1 + 5 * NEIGHBOURS
ACTION_DIM = 2 * FUTURE
PARAMETERS = 50_000
STEPS, BATCH, LEARNING_RATE, CHECK = 4_000, 256, 1e-3, 100
SEEDS = range(3)
MISS = 2.0  # metres
MODELS = ("Gaussian", "mixture of 8", "affine", "spline", "maf-spline")


# The data


def record() -> None:
    """Write a data set: an episode is a car, its actions are futures."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    if DATASET in minari.list_local_datasets():
        raise SystemExit(f"{DATASET} was recorded before; delete it with: minari delete {DATASET}")
    buffers = []
    for scene in range(SCENES):
        for observations, actions in cars(scene):
            nothing = np.zeros(len(actions), bool)
            buffers.append(
                EpisodeBuffer(
                    observations=np.concatenate([observations, observations[-1:]]),
                    actions=actions,
                    rewards=np.zeros(len(actions), np.float32),
                    terminations=nothing,
                    truncations=np.arange(len(actions)) == len(actions) - 1,
                    infos={"scene": np.full(len(actions) + 1, scene)},
                )
            )
        print(f"scene {scene + 1} of {SCENES}, {len(buffers)} cars", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            DATASET,
            buffers,
            observation_space=Box(-np.inf, np.inf, (OBS_DIM,), np.float32),
            action_space=Box(-np.inf, np.inf, (ACTION_DIM,), np.float32),
            description="Cars of highway-env's intersection-v2 about to cross, and where they go.",
        )


def cars(scene: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What is seen and what comes after, of every car that crosses in a scene."""
    tracks, random = tracks_of(scene), np.random.default_rng(scene)
    noisy = {
        car: {
            t: state + NOISE * np.append(random.normal(size=2), [0, 0])
            for t, state in track.items()
        }
        for car, track in tracks.items()
    }
    found = []
    for car, track in noisy.items():
        times = [
            t
            for t in track
            if all(t + k in track for k in range(-PAST, FUTURE + 1)) and is_near(track[t])
        ]
        if times:
            pairs = [seen_and_to_come(noisy, car, t) for t in times]
            seen, to_come = (np.array(each, np.float32) for each in zip(*pairs, strict=True))
            found.append((seen, to_come))
    return found


def tracks_of(scene: int) -> dict[int, dict[int, NDArray[np.float64]]]:
    """Position and velocity ``(4,)`` of every car at every second, without a controlled one."""
    import gymnasium as gym
    import highway_env  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gym.make(
            "intersection-v2", config={"simulation_frequency": 5, "duration": SECONDS + 1}
        ).unwrapped
        env.reset(seed=scene)
    env.road.vehicles.remove(env.vehicle)
    tracks: dict[int, dict[int, NDArray[np.float64]]] = {}
    kept = []  # so that no identity is used twice
    for t in range(SECONDS):
        env.step(1)
        kept.extend(env.road.vehicles)
        for car in env.road.vehicles:
            if not car.crashed and car.speed > -0.5:  # the models back off now and then, fast
                state = np.concatenate([car.position, car.velocity])
                tracks.setdefault(id(car), {})[t] = state
    env.close()
    return tracks


def is_near(state: NDArray[np.float64]) -> bool:
    """Whether a car drives towards the middle, is not far from it and not yet in it."""
    distance = np.abs(state[:2]).max()
    return bool(MIDDLE < distance < NEAR and state[:2] @ state[2:] <= 0)


def seen_and_to_come(
    tracks: dict[int, dict[int, NDArray[np.float64]]], car: int, t: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in the frame of the car: forwards and to the right, since y points down."""
    here = tracks[car][t]
    # A car that waits has no direction of motion: it stands on one of the four arms.
    forwards = -here[:2] * (np.abs(here[:2]) == np.abs(here[:2]).max())
    forwards = forwards / np.hypot(*forwards)
    frame = np.stack([forwards, [-forwards[1], forwards[0]]], -1)
    present = [track[t] for other, track in tracks.items() if other != car and t in track]
    others = [state - here * [1, 1, 0, 0] for state in present]
    others.sort(key=lambda other: np.hypot(*other[:2]))
    nearest = np.zeros((NEIGHBOURS, 5))
    for row, other in zip(nearest, others, strict=False):
        row[:] = 1.0, *(other[:2] @ frame / SCALE), *(other[2:] @ frame / SCALE)
    past = [(tracks[car][t - k][:2] - here[:2]) @ frame / SCALE for k in range(1, PAST + 1)]
    has_priority = abs(forwards[0]) > 0.5  # of the horizontal road
    seen = np.concatenate(
        [here[:2] @ frame / SCALE, *past, [float(has_priority)], nearest.ravel()]
    )
    to_come = [(tracks[car][t + k][:2] - here[:2]) @ frame / SCALE for k in range(1, FUTURE + 1)]
    return seen, np.concatenate(to_come)


class Split(NamedTuple):
    """Observations and futures."""

    seen: Tensor
    to_come: Tensor


def load() -> tuple[Split, Split, Split]:
    """Training, validation and test, by scene: 70%, 10% and 20%."""
    import minari

    parts: list[list[Any]] = [[], [], []]
    for episode in minari.load_dataset(DATASET).iterate_episodes():
        scene = int(episode.infos["scene"][0])
        parts[0 if scene % 10 < 7 else 1 if scene % 10 == 7 else 2].append(episode)
    return tuple(  # type: ignore[return-value]
        Split(
            torch.from_numpy(np.concatenate([each.observations[:-1] for each in part])),
            torch.from_numpy(np.concatenate([each.actions for each in part])),
        )
        for part in parts
    )


# The models


class Mixture(nn.Module):
    """A mixture of Gaussians with full covariances, by a network; one component is a Gaussian."""

    def __init__(self, components: int, width: int) -> None:
        super().__init__()
        self.components = components
        entries = ACTION_DIM * (ACTION_DIM + 1) // 2
        self.network = nn.Sequential(
            nn.Linear(OBS_DIM, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, components * (1 + ACTION_DIM + entries)),
        )

    def distribution(self, seen: Tensor) -> MixtureSameFamily:
        raw = self.network(seen).unflatten(-1, (self.components, -1))
        logits, mean, entries = raw.split([1, ACTION_DIM, raw.shape[-1] - 1 - ACTION_DIM], -1)
        rows, columns = torch.tril_indices(ACTION_DIM, ACTION_DIM)
        factor = raw.new_zeros(*mean.shape, ACTION_DIM)
        factor[..., rows, columns] = torch.where(
            rows == columns, nn.functional.softplus(entries) + 1e-4, entries
        )
        return MixtureSameFamily(
            Categorical(logits=logits.squeeze(-1)), MultivariateNormal(mean, scale_tril=factor)
        )

    def log_prob(self, to_come: Tensor, seen: Tensor) -> Tensor:
        return self.distribution(seen).log_prob(to_come)

    def sample(self, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.distribution(seen).sample(shape)


class Flow(nn.Module):
    """One of the package's architectures."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        options = {"hidden": (width, width), "activation": "silu", "dropout": 0.0}
        options |= {
            "blocks": 2,
            "bins": 16,
            "max_log_scale": 3.0,
            "min_bin": 0.01,
            "min_slope": 1e-2,
        }
        known = flows.options(name)
        self.flow = flows.build(
            name,
            ACTION_DIM,
            OBS_DIM,
            temperature=1.0,
            heads=0,
            squash="none",
            log_sigma=(-5.0, 2.0),
            scale={"hidden": (width, width), "initial": 0.0},
            translation={"hidden": (width, width)},
            **{key: value for key, value in options.items() if key in known},
        )

    def log_prob(self, to_come: Tensor, seen: Tensor) -> Tensor:
        return self.flow.log_prob(to_come, seen)

    def sample(self, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.flow.sample(seen, shape)[0]


def build(name: str) -> Any:
    """A model whose width brings it nearest to the number of parameters."""
    make: Callable[[int], Any]
    if name in flows.registered():
        make = lambda width: Flow(name, width)  # noqa: E731
    else:
        make = lambda width: Mixture(1 if name == "Gaussian" else 8, width)  # noqa: E731
    widths = range(8, 257, 4)
    sizes = [sum(p.numel() for p in make(width).parameters()) for width in widths]
    return make(widths[int(np.argmin(np.abs(np.array(sizes) - PARAMETERS)))])


def learn(model: Any, training: Split, validation: Split, seed: int) -> Any:
    """The model as it was best on the validation scenes."""
    loss = MaximumLikelihoodLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(seed)
    best, kept = math.inf, copy.deepcopy(model.state_dict())
    for step in range(STEPS):
        index = torch.randint(len(training.seen), (BATCH,), generator=generator)
        batch = TensorDict(
            observation=training.seen[index], action=training.to_come[index], batch_size=[BATCH]
        )
        optimizer.zero_grad()
        loss(batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % CHECK == 0:
            with torch.no_grad():
                now = -float(model.log_prob(validation.to_come, validation.seen).mean())
            if now < best:
                best, kept = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model


# What they are judged by


@torch.no_grad()
def judge(model: Any, test: Split) -> dict[str, float]:
    """Figures on test scenes; distances in metres."""
    log_prob = model.log_prob(test.to_come, test.seen)
    samples = model.sample(test.seen, (200,))  # (200, n, 6)
    gaps = (samples - test.to_come).unflatten(-1, (FUTURE, 2)).norm(dim=-1) * SCALE
    average, final = gaps.mean(-1), gaps[..., -1]
    own = torch.stack([model.log_prob(each, test.seen) for each in samples])
    level = (own > log_prob).float().mean(0)  # mass of the region that just holds the truth
    return {
        "log_likelihood": float(log_prob.mean()),
        "minade_1": float(average[0].mean()),
        "minfde_1": float(final[0].mean()),
        "minade_6": float(average[:6].amin(0).mean()),
        "minfde_6": float(final[:6].amin(0).mean()),
        "miss_rate_6": float((final[:6].amin(0) > MISS).float().mean()),
        "covered_by_50": float((level <= 0.5).float().mean()),
        "covered_by_90": float((level <= 0.9).float().mean()),
    }


def fit() -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    training, validation, test = load()
    print(f"{len(training.seen)}, {len(validation.seen)} and {len(test.seen)} futures")
    done = {(row["model"], int(row["seed"])) for row in tables.read(FITS)}
    for seed in SEEDS:
        for name in MODELS:
            if (name, seed) in done:
                continue
            torch.manual_seed(seed)
            model = learn(build(name), training, validation, seed)
            figures = {key: round(value, 4) for key, value in judge(model, test).items()}
            parameters = sum(p.numel() for p in model.parameters())
            tables.append(FITS, {"model": name, "seed": seed, "parameters": parameters, **figures})
            print(name, seed, figures, flush=True)
            if seed == 0:
                Path("runs/futures").mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), f"runs/futures/{name.replace(' ', '-')}.pt")


# The report


def report() -> None:
    rows = tables.read(FITS)
    names = [name for name in rows[0] if name not in ("model", "seed", "parameters")]
    print("| model | parameters | " + " | ".join(names) + " |")
    print("| --- " * (2 + len(names)) + "|")
    for name in MODELS:
        found = [row for row in rows if row["model"] == name]
        if not found:
            continue
        cells = []
        for key in names:
            values = [float(row[key]) for row in found]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {name} | {found[0]['parameters']} | " + " | ".join(cells) + " |")
    draw()


@torch.no_grad()
def draw() -> None:
    """Sampled futures of the first seed's models in three situations."""
    _, _, test = load()
    shown = ("Gaussian", "mixture of 8", "maf-spline")
    ahead = test.to_come[:, -2:] * SCALE
    turns = [ahead[:, 1] < -6.0, ahead[:, 1].abs() < 1.0, ahead[:, 1] > 4.0]
    distance, before = -test.seen[:, 0] * SCALE, test.seen[:, 2] * SCALE
    moves = (ahead[:, 0] > 6.0) & (distance < 18.0) & (before < -5.0)
    chosen = [int((turn & moves).nonzero()[0]) for turn in turns]
    figure = Figure(figsize=(9.6, 9.0), layout="constrained")
    grid = figure.subplots(3, 3, sharex=True, sharey=True)
    for column, name in zip(grid.T, shown, strict=True):
        model = build(name)
        model.load_state_dict(torch.load(f"runs/futures/{name.replace(' ', '-')}.pt"))
        torch.manual_seed(0)
        for axes, index in zip(column, chosen, strict=True):
            samples = model.sample(test.seen[index], (60,)).unflatten(-1, (FUTURE, 2)) * SCALE
            draw_scene(axes, test.seen[index] * SCALE, samples, test.to_come[index] * SCALE)
        column[0].set_title(name)
    figure.supxlabel("metres to the right")
    figure.supylabel("metres forwards")
    figure.savefig(HERE / "futures.png", dpi=110)


def draw_scene(axes: Any, seen: Tensor, samples: Tensor, to_come: Tensor) -> None:
    """Forwards is up."""
    here = torch.zeros(1, 2)
    for sample in samples:
        path = torch.cat([here, sample])
        axes.plot(path[:, 1], path[:, 0], color=STYLES[0].color, alpha=0.25, linewidth=0.8)
    past = torch.cat([seen[2 : 2 + 2 * PAST].view(PAST, 2).flip(0), here])
    axes.plot(past[:, 1], past[:, 0], "k-", linewidth=2)
    path = torch.cat([here, to_come.view(FUTURE, 2)])
    axes.plot(path[:, 1], path[:, 0], "--", color=STYLES[1].color, marker="o", markersize=3)
    for present, x, y, *_ in seen[3 + 2 * PAST :].view(NEIGHBOURS, 5):
        if present > 0:
            axes.plot(y, x, "s", color="0.5", markersize=6)
    axes.set(xlim=(-30, 30), ylim=(-15, 35), aspect="equal")
    axes.grid(alpha=0.2)


if __name__ == "__main__":
    commands = {"record": record, "fit": fit, "report": report}
    commands[sys.argv[1] if sys.argv[1:] else "report"]()
