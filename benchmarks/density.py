"""Every architecture as a density model, beside zuko's and normflows' of the same family and size.

    python benchmarks/density.py fit [DENSITY ...]  # held-out log-likelihoods, density.csv
    python benchmarks/density.py time               # steps and samples, density_speed.csv
    python benchmarks/density.py report             # the tables, and density.png

All models see the same points in the same order, in batches of 256, with Adam whose step size
falls from 2e-3 to 0 by a cosine; the seeds of a model are its initial weights. Where four of them
leave a standard error above 0.02 nats between ours and the better peer, all libraries have twelve
more; where the better peer is then ahead by more than that, a sample of its own decides, of
thirty-two seeds, since some of many are ahead by luck. What is in the CSVs already is not measured
again, so that several processes can each take some of the densities.
"""

import ctypes
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import densities
import density_peers
import matplotlib.pyplot as plt
import numpy as np
import tables
import torch
from torch import Generator, Tensor, nn

from maxentflow import flows

HERE = Path(__file__).parent
FITS, SPEED, FIGURE = HERE / "density.csv", HERE / "density_speed.csv", HERE / "density.png"
GRIDS = Path("runs/benchmarks/density")
LIBRARIES = ("maxentflow", "zuko", "normflows")
STEPS, BATCH, LEARNING_RATE = 1_500, 256, 2e-3
SEEDS, MORE_SEEDS, FRESH_SEEDS = range(4), range(4, 16), range(16, 48)
MARGIN = 0.02  # nats by which a peer may be ahead; a larger standard error asks for more seeds
HELD_OUT = 20_000
CONTEXT_DIM = 2
TRANSFORMS = 4
LAST = flows.registered()[-1]  # where it is there, a density's rows are complete
NETWORK = {
    "hidden": (64, 64),
    "activation": "relu",
    "layer_norm": False,
    "dropout": 0.0,
    "init": "default",
    # In place of the limits for agents; zuko's log-scales end at 6.9.
    "max_log_scale": 7.0,
    "min_bin": 0.01,
    "min_slope": 1e-3,
    "spread": 2.0,
    # normflows has 0.97 for each of three matrices, with norms from below. Ours is for all three,
    # with norms up to 3.5% too high.
    "lipschitz": 0.97,
    # What all models have: next to the data the first entry is kept, and no linear map depends on
    # the context.
    "last_mask": "even",
    "conditional_linear": False,
}
# Bounds of the scale next to the base, which peers lack; None where all layers scale themselves.
LOG_SIGMA = {"additive": (-1.0, 1.0), "affine": None, "maf": None, "iaf": None, "glow": None}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


Cell = tuple[str, str, str]  # family, density, whether it is conditional
Case = tuple[str, str, str, str]  # a library and a cell


class Fit(NamedTuple):
    """The mean of the held-out log-likelihoods over the seeds, its standard error."""

    mean: float
    error: float
    seeds: int
    parameters: int


class Ours(nn.Module):
    """See ``density_peers.Peer``."""

    def __init__(self, family: str, context_dim: int) -> None:
        super().__init__()
        network = {k: v for k, v in NETWORK.items() if k in flows.options(family)}
        self.module = flows.build(
            family,
            2,
            context_dim or None,
            temperature=1.0,
            heads=0,
            log_sigma=LOG_SIGMA.get(family, (-2.0, 2.0)),
            squash="none",
            **network,
        )

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.module.log_prob(x, context)

    forward = log_prob

    @torch.no_grad()
    def sample(self, count: int, context: Tensor | None = None) -> Tensor:
        return self.module.sample(context, () if context is not None else (count,))[0]


def build(library: str, family: str, context_dim: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if library == "maxentflow":
        return Ours(family, context_dim)
    return density_peers.build(library, family, 2, context_dim, transforms=TRANSFORMS)


def draw(density: str, context_dim: int, count: int, generator: Generator) -> tuple:
    if context_dim:
        return densities.sample_conditional(density, count, generator)
    return densities.sample(density, count, generator), None


def stepper(
    log_prob: Callable[..., Tensor], optimizer: torch.optim.Optimizer
) -> Callable[..., None]:
    """Maximises the mean over a batch, the last dimension, of log-densities, summed otherwise."""

    def step(x: Tensor, context: Tensor | None) -> None:
        loss = -log_prob(x, context).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def fit(
    library: str, family: str, density: str, conditional: str, seeds: range
) -> dict[str, object] | None:
    context_dim = CONTEXT_DIM if conditional == "True" else 0
    models = [build(library, family, context_dim, seed) for seed in seeds]
    if models[0] is None:
        return None
    generator = Generator().manual_seed(0)
    batches = [draw(density, context_dim, BATCH, generator) for _ in range(1 + STEPS)]
    for model in models:
        if library == "maxentflow":
            model.module.initialize(*batches[0])
        model.log_prob(*batches[0])  # where normflows' ActNorm starts from the data
    if library == "maxentflow" and family != "residual":  # which counts its inverse's steps
        train_together(models, batches[1:])
    else:
        for model in models:
            optimizer = torch.optim.Adam(model.module.parameters(), lr=LEARNING_RATE)
            maximise(model.log_prob, optimizer, batches[1:])
    held_out = draw(density, context_dim, HELD_OUT, Generator().manual_seed(1))
    means, not_finite = [], 0
    for model in models:
        model.module.eval()
        with torch.set_grad_enabled(family == "residual"):  # which normflows differentiates inside
            log_prob = model.log_prob(*held_out).detach()
        means.append(log_prob.double().mean().item())
        not_finite += int((~log_prob.isfinite()).sum())
    if library == "maxentflow" and not context_dim and 0 in seeds:
        save_grid(models[0], GRIDS / f"{family}-{density}.npy")
    return {
        "density": density,
        "conditional": conditional,
        "family": family,
        "library": library,
        "first_seed": seeds[0],
        "seeds": len(seeds),
        "log_likelihood": round(float(np.mean(means)), 4),
        "standard_error": round(float(np.std(means, ddof=1) / math.sqrt(len(means))), 4),
        "not_finite": not_finite,
        "parameters": sum(p.numel() for p in models[0].module.parameters()),
    }


def maximise(
    log_prob: Callable[..., Tensor], optimizer: torch.optim.Optimizer, batches: Sequence[tuple]
) -> None:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    step = stepper(log_prob, optimizer)
    for batch in batches:
        step(*batch)
        schedule.step()


def train_together(models: Sequence[Ours], batches: Sequence[tuple]) -> None:
    """Models that differ by their parameters alone, as one batched program."""
    parameters, buffers = torch.func.stack_module_state(list(models))
    buffers = {name: buffer[0] for name, buffer in buffers.items()}

    def log_prob(parameters: dict[str, Tensor], x: Tensor, context: Tensor | None) -> Tensor:
        return torch.func.functional_call(models[0], (parameters, buffers), (x, context))

    each = torch.func.vmap(log_prob, in_dims=(0, None, None))
    optimizer = torch.optim.Adam(parameters.values(), lr=LEARNING_RATE)
    maximise(partial(each, parameters), optimizer, batches)
    for index, model in enumerate(models):
        own = {name: stack[index] for name, stack in parameters.items()}
        model.load_state_dict(own, strict=False)


@torch.no_grad()
def save_grid(model: Any, path: Path) -> None:
    axis = torch.linspace(-4, 4, 128)
    points = torch.cartesian_prod(axis, axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, model.log_prob(points).exp().reshape(128, 128).T.numpy())


def measure(family: str) -> list[dict[str, object]]:
    """Milliseconds of a training step, the least of several rounds; samples per second.

    The libraries take turns, so that a machine that drifts drifts for all.
    """
    models = {library: build(library, family, 0) for library in LIBRARIES}
    models = {library: model for library, model in models.items() if model is not None}
    rows = {library: {"family": family, "library": library} for library in models}
    for batch, count in ((256, 30), (4096, 8)):
        x = torch.randn(batch, 2)
        steps = {}
        for library, model in models.items():
            model.log_prob(x)
            step = stepper(model.log_prob, torch.optim.Adam(model.module.parameters()))
            steps[library] = partial(step, x, None)
        for library, seconds in fastest(steps, count, 20).items():
            rows[library][f"ms_at_{batch}"] = round(1e3 * seconds, 2)
    for model in models.values():
        model.module.eval()
    count = 4096
    draws = {library: partial(model.sample, count) for library, model in models.items()}
    for library, seconds in fastest(draws, 3, 6).items():
        rows[library]["samples_per_second"] = round(count / seconds)
    return list(rows.values())


def fastest(works: dict[str, Callable[[], object]], count: int, rounds: int) -> dict[str, float]:
    """Seconds of each, the least over rounds of turns, after a first that does not count."""
    turns = [{name: clock(work, count) for name, work in works.items()} for _ in range(rounds + 1)]
    return {name: min(turn[name] for turn in turns[1:]) for name in works}


def clock(work: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


def append(path: Path, row: dict[str, object]) -> None:
    tables.append(path, row)
    print(*row.values(), flush=True)


def fit_all(names: Sequence[str]) -> None:
    cells = list(itertools.product(flows.registered(), names, ("False", "True")))
    fit_cells(cells, SEEDS)
    first = fitted(SEEDS)
    fit_cells([cell for cell in cells if lead_of_peers(first, cell)[1] > MARGIN], MORE_SEEDS)
    first = fitted(SEEDS, MORE_SEEDS)
    fit_cells([cell for cell in cells if lead_of_peers(first, cell)[0] > MARGIN], FRESH_SEEDS)


def fit_cells(cells: Sequence[Cell], seeds: range) -> None:
    done = fitted(seeds)
    for library, cell in itertools.product(LIBRARIES, cells):
        if (library, *cell) not in done and (row := fit(library, *cell, seeds)):
            append(FITS, row)


def decided() -> dict[Case, Fit]:
    """What the table shows: of a case with a fresh sample, that alone."""
    return fitted(SEEDS, MORE_SEEDS) | fitted(FRESH_SEEDS)


def fitted(*groups: range) -> dict[Case, Fit]:
    """The rows of density.csv of some groups of seeds, those of a case as one."""
    rows: dict[Case, list[dict[str, str]]] = defaultdict(list)
    for row in tables.read(FITS):
        if int(row["first_seed"]) in {seeds[0] for seeds in groups}:
            rows[row["library"], row["family"], row["density"], row["conditional"]].append(row)
    return {case: pool(those) for case, those in rows.items()}


def pool(rows: Sequence[dict[str, str]]) -> Fit:
    """The mean of all seeds, with its standard error, of the means of groups and theirs."""
    counts, means, errors = (
        np.array([float(row[column]) for row in rows])
        for column in ("seeds", "log_likelihood", "standard_error")
    )
    count = counts.sum()
    mean = (counts * means).sum() / count
    squares = counts * (counts - 1) * errors**2 + counts * (means - mean) ** 2
    error = math.sqrt(squares.sum() / (count - 1) / count)
    return Fit(float(mean), error, int(count), int(rows[0]["parameters"]))


def time_all() -> None:
    # Keep freed memory: at 4,096 rows its return to the system takes longer than the arithmetic.
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
    done = {row["family"] for row in tables.read(SPEED)}
    for family in flows.registered():
        if family not in done:
            for row in measure(family):
                append(SPEED, row)


def report() -> None:
    fits = decided()
    for conditional in ("False", "True"):
        names = [d for d in densities.DENSITIES if ("maxentflow", LAST, d, conditional) in fits]
        print(f"\nconditional: {conditional}; nats, ours / zuko / normflows")
        print(f"| family | {' | '.join(names)} |")
        print(f"| --- |{' --- |' * len(names)}")
        stars: list[str] = []
        for family in flows.registered():
            cells = []
            for density in names:
                cell = family, density, conditional
                by, error = lead_of_peers(fits, cell)
                found = [fits.get((library, *cell)) for library in LIBRARIES]
                cells.append(" / ".join(map(shown, found)))
                if by > -math.inf:
                    stars.append("*" * ((by > MARGIN) + (by - 2 * error > MARGIN)))
                    cells[-1] += stars[-1]
            print(f"| {family} | {' | '.join(cells)} |")
        print(
            f"{stars.count('')} of {len(stars)} are above the better peer or at most {MARGIN} "
            f"below; {stars.count('**')} (**) are further below by twice the standard error"
        )
    speed = {(row["library"], row["family"]): row for row in tables.read(SPEED)}
    parameters = {
        (library, family): f"{fit.parameters:,}"
        for (library, family, _, conditional), fit in fits.items()
        if conditional == "False"
    }
    print("\n| family | parameters | ms at 256 | ms at 4,096 | thousand samples per second |")
    print("| --- | --- | --- | --- | --- |")
    for family in flows.registered():
        rows = [speed.get((library, family)) for library in LIBRARIES]
        cells = [" / ".join(parameters.get((library, family), "") for library in LIBRARIES)]
        cells += [
            " / ".join(row[column] if row else "" for row in rows)
            for column in ("ms_at_256", "ms_at_4096")
        ]
        samples = " / ".join(
            f"{int(row['samples_per_second']) / 1e3:.0f}" if row else "" for row in rows
        )
        print(f"| {family} | {' | '.join(cells)} | {samples} |")
    figure()


def lead_of_peers(fits: dict[Case, Fit], cell: Cell) -> tuple[float, float]:
    """By how much the better peer is ahead, with its standard error; -inf without a peer."""
    ours, *peers = (fits.get((library, *cell)) for library in LIBRARIES)
    others = [peer for peer in peers if peer]
    if not (ours and others):
        return -math.inf, 0.0
    best = max(others, key=lambda peer: peer.mean)
    return best.mean - ours.mean, math.hypot(best.error, ours.error)


def shown(fit: Fit | None) -> str:
    """A mean with its standard error in hundredths."""
    return f"{fit.mean:.2f}({100 * fit.error:.0f})" if fit else ""


def figure() -> None:
    names = flows.registered()
    size = (1.6 * len(names), 1.7 * len(densities.DENSITIES))
    _, axes = plt.subplots(
        len(densities.DENSITIES), len(names), figsize=size, layout="constrained"
    )
    for row, density in zip(axes, densities.DENSITIES, strict=True):
        for ax, name in zip(row, names, strict=True):
            ax.imshow(np.load(GRIDS / f"{name}-{density}.npy"), origin="lower", cmap="magma")
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize=9)
    for row, density in zip(axes, densities.DENSITIES, strict=True):
        row[0].set_ylabel(density, fontsize=9)
    plt.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *names = sys.argv[1:] or ["report"]
    if command == "fit":
        fit_all(names or densities.DENSITIES)
    elif command == "time":
        time_all()
    else:
        report()
