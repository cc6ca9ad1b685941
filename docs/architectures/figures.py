"""The figures, costs and printed parts of the pages on architectures.

    python docs/architectures/figures.py fit [NAME ...]   # NAME.png, a minute each
    python docs/architectures/figures.py time             # costs.csv and costs.png
    python docs/architectures/figures.py pages [--check]  # the parts of the pages that are printed

Every recipe is fitted to three densities in the plane, 1,500 steps of Adam at batch 256 from seed
0, with the limits of a density model. The numbers are mean log-likelihoods of 20,000 held-out
points in nats.
"""

import contextlib
import csv
import io
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from maxentflow import flows

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
import densities  # noqa: E402

TARGETS = ("eight-gaussians", "checkerboard", "two-spirals")
STEPS, BATCH, HELD_OUT = 1_500, 256, 20_000
PIXELS = 100
DENSITY = {
    "layer_norm": False,
    "dropout": 0.0,
    "max_log_scale": 2.0,
    "min_bin": 0.01,
    "min_slope": 1e-3,
    "spread": 2.0,
    "lipschitz": 0.97,
}
# Bounds of the scale next to the base; None where all layers scale.
LOG_SIGMA = {"additive": (-1.0, 1.0), "affine": None, "maf": None, "iaf": None, "glow": None}
OBS_DIM, ACTION_DIM = 17, 6  # of HalfCheetah-v4
COSTS = HERE / "costs.csv"


def fitted(name: str, target: str) -> flows.EnergyBasedFlow:
    torch.manual_seed(0)
    flow = flows.build(
        name,
        2,
        None,
        temperature=1.0,
        heads=0,
        squash="none",
        log_sigma=LOG_SIGMA.get(name, (-2.0, 2.0)),
        **{key: value for key, value in DENSITY.items() if key in flows.options(name)},
    )
    generator = Generator().manual_seed(0)
    flow.initialize(densities.sample(target, BATCH, generator))
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        loss = -flow.log_prob(densities.sample(target, BATCH, generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


@torch.no_grad()
def figure(name: str) -> None:
    """Learned densities below the points that they were fitted to."""
    axis = torch.linspace(-4, 4, PIXELS)
    grid = torch.cartesian_prod(axis, axis)
    drawn, panels = plt.subplots(2, 3, figsize=(6.6, 4.7), layout="constrained")
    for (above, below), target in zip(panels.T, TARGETS, strict=True):
        held_out = densities.sample(target, HELD_OUT, Generator().manual_seed(1))
        counts, *_ = np.histogram2d(*held_out.T.numpy(), bins=PIXELS // 2, range=2 * [(-4, 4)])
        with torch.enable_grad():
            flow = fitted(name, target)
        show(above, counts.T)
        show(below, flow.log_prob(grid).exp().reshape(PIXELS, PIXELS).T.numpy())
        above.set_title(target)
        below.set_title(f"{flow.log_prob(held_out).double().mean():.2f} nats", fontsize="small")
    for panel, label in zip(panels[:, 0], ("target", name), strict=True):
        panel.set_ylabel(label)
    save(drawn, HERE / f"{name}.png")


def show(panel: Any, image: np.ndarray) -> None:
    highest = np.quantile(image, 0.995)
    panel.imshow(image, origin="lower", extent=(-4, 4, -4, 4), cmap="viridis", vmax=highest)
    panel.set(xticks=[], yticks=[])


def save(drawn: Any, path: Path) -> None:
    """As a PNG of 64 colours."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=90)
    plt.close(drawn)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(path.name, path.stat().st_size // 1000, "kB")


def measure() -> None:
    """The two directions of each recipe with its defaults, one observation and 256 of them."""
    rows = []
    for name in flows.registered():
        torch.manual_seed(0)
        flow = flows.build(name, ACTION_DIM, OBS_DIM, temperature=0.25).eval()
        row: dict[str, object] = {"flow": name}
        for batch in (1, 256):
            observation = torch.randn(batch, OBS_DIM)
            action = torch.rand(batch, ACTION_DIM) * 1.8 - 0.9
            with torch.no_grad():
                row[f"sample_ms_at_{batch}"] = fastest(flow.sample, observation)
                row[f"q_and_value_ms_at_{batch}"] = fastest(flow.q_and_value, action, observation)
        rows.append(row)
        print(row)
    with open(COSTS, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    costs_figure()


def fastest(work: Callable[..., object], *arguments: Tensor) -> float:
    """Milliseconds of a processor in a call, the least of twenty rounds of five."""
    rounds = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(5):
            work(*arguments)
        rounds.append((time.process_time() - start) / 5)
    return round(1e3 * min(rounds), 2)


def costs_figure() -> None:
    with open(COSTS, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["flow"] for row in rows][::-1]
    places = np.arange(len(names))
    drawn, axes = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    bars = (
        ("sample_ms_at_1", "to action: sample, 1 observation", "#E69F00", 0.2),
        ("q_and_value_ms_at_256", "to latent: q_and_value, batch 256", "#0072B2", -0.2),
    )
    for column, label, color, offset in bars:
        values = [float(row[column]) for row in rows][::-1]
        held = axes.barh(places + offset, values, height=0.38, color=color, label=label)
        axes.bar_label(held, [f"{value:.1f}" for value in values], padding=2, fontsize="small")
    axes.set(
        yticks=places,
        yticklabels=names,
        xlabel="milliseconds of one core",
    )
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(drawn, HERE / "costs.png")


def printed(name: str) -> dict[str, str]:
    """The printed parts of a page: options with their defaults, and what describe says."""
    options = "\n".join(f"| `{key}` | `{value!r}` |" for key, value in flows.options(name).items())
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        flows.describe(flows.build(name, ACTION_DIM, OBS_DIM, temperature=0.25))
    return {
        "options": f"| option | default |\n| --- | --- |\n{options}",
        "describe": f"```text\n{said.getvalue().rstrip()}\n```",
    }


def filled(name: str) -> str:
    """The page with its printed parts as they are now."""
    text = (HERE / f"{name}.md").read_text()
    for part, content in printed(name).items():
        begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        assert pattern.search(text), f"{name}.md has no part {part!r}."
        text = pattern.sub(lambda _, c=content, b=begin, e=end: f"{b}\n\n{c}\n\n{e}", text)
    return text


def pages(check: bool) -> None:
    """Write the printed parts into the pages, or fail where they are not what is there."""
    stale = [n for n in flows.registered() if filled(n) != (HERE / f"{n}.md").read_text()]
    if check and stale:
        sys.exit(f"Run python {Path(__file__).name} pages: {', '.join(stale)} is out of date.")
    for name in stale:
        (HERE / f"{name}.md").write_text(filled(name))


def main() -> None:
    torch.set_num_threads(1)
    command, *words = sys.argv[1:] or ["pages"]
    if command == "fit":
        for name in words or flows.registered():
            figure(name)
    elif command == "time":
        measure()
    else:
        pages(check="--check" in words)


if __name__ == "__main__":
    main()
