"""Figures of the concept pages.

python docs/concepts/figures.py            # all of them, a few minutes
python docs/concepts/figures.py energy     # one
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from PIL import Image
from tensordict import TensorDict
from torch import Tensor, nn

from maxentflow import flows, objectives

# Every transition is terminated, so that the target network is not used.
warnings.filterwarnings("ignore", "No target network updater")

FOLDER = Path(__file__).parent
BLUE, ORANGE, GREEN, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#222222"
INSIDE, TICKS = (-0.985, 0.985), [-0.5, 0.0, 0.5]  # beyond, the slope of tanh is steep

plt.rcParams.update(
    {"figure.dpi": 100, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
)

OPTIONS = {"blocks": 4, "log_sigma": (-2.0, 1.0), "dropout": 0.0}
SMALL = {
    "hidden": (16,),
    "scale": {"hidden": (16,)},
    "shift": {"hidden": (16,)},
    "last_mask": "odd",
}


def two_bumps(action: Tensor) -> Tensor:
    """A reward of an action in [-1, 1] with two good actions, shape ``(*batch,)`` of its input."""
    left = torch.exp(-0.5 * ((action + 0.5) / 0.15) ** 2)
    right = 0.8 * torch.exp(-0.5 * ((action - 0.4) / 0.2) ** 2)
    return left + right


def fit_one_step(
    flow: flows.EnergyBasedFlow, reward: Callable[[Tensor], Tensor], updates: int, size: int
) -> None:
    """Train MEow on a task of one step and one state, on random actions and on its own."""
    loss = objectives.SoftBellmanLoss(flow)
    loss.make_value_estimator(gamma=0.99)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        observation = torch.zeros(size, 1)
        action = 2 * torch.rand(size, flow.action_dim) - 1
        with torch.no_grad():
            action[::2] = flow.eval().sample(observation[::2])[0]
        ends = torch.ones(size, 1, dtype=torch.bool)
        following = TensorDict(
            observation=observation,
            reward=reward(action).reshape(size, 1),
            done=ends,
            terminated=ends,
        )
        batch = TensorDict(
            observation=observation, action=action, next=following, batch_size=[size]
        )
        optimizer.zero_grad()
        loss(batch)["loss"].backward()
        optimizer.step()
        schedule.step()
    flow.eval()


def energy() -> None:
    """Q, V and the policy of one flow over the actions of one state."""
    torch.manual_seed(0)
    temperature = 0.2
    flow = flows.build("spline", 1, 1, temperature=temperature, heads=1, **OPTIONS, **SMALL)
    fit_one_step(flow, two_bumps, updates=800, size=256)
    action = torch.linspace(-1, 1, 20_001).unsqueeze(-1)
    with torch.no_grad():
        q, v = (part.squeeze(-1) for part in flow.q_and_value(action, torch.zeros(20_001, 1)))
    density = ((q - v) / temperature).exp()
    area = torch.trapezoid(density, action.squeeze(-1)).item()

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(action, two_bumps(action), color=ORANGE, lw=4, alpha=0.5, label="reward")
    left.plot(action, q, color=BLUE, label="Q(s, a)")
    left.plot(action, v, color=BLACK, ls="--", label="V(s), closed form")
    left.set(xlabel="action", ylabel="units of reward", title="one network: Q and V")
    left.set(xlim=INSIDE, ylim=(-0.2, 1.3), xticks=TICKS)
    left.legend(frameon=False, fontsize=8, loc="upper right")
    right.fill_between(action.squeeze(-1), density, color=GREEN, alpha=0.3)
    right.plot(action, density, color=GREEN)
    right.set(
        xlabel="action",
        ylabel="density",
        xlim=INSIDE,
        xticks=TICKS,
        title=f"policy exp((Q - V) / $\\alpha$), area {area:.3f}",
    )
    save(figure, "energy")


def temperature() -> None:
    """The policy of one Q at three temperatures, and what the soft value is made of."""
    action = torch.linspace(-1, 1, 4_001, dtype=torch.float64)
    q = two_bumps(action)
    width = action[1] - action[0]

    def soft(alpha: float) -> tuple[Tensor, Tensor]:
        value = alpha * ((q / alpha).logsumexp(0) + width.log())
        return value, ((q - value) / alpha).exp()

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for alpha, color in ((0.05, BLUE), (0.2, GREEN), (1.0, ORANGE)):
        left.plot(action, soft(alpha)[1], color=color, label=f"$\\alpha$ = {alpha}")
    left.set(xlabel="action", ylabel="policy density", title="the same Q, three temperatures")
    left.legend(frameon=False)
    alphas = torch.logspace(-2.5, 1, 80).tolist()
    values = torch.stack([soft(alpha)[0] for alpha in alphas])
    rewards = torch.stack([(soft(alpha)[1] * q).sum() * width for alpha in alphas])
    right.semilogx(alphas, values, color=BLACK, label="V = E[Q] + $\\alpha$ H")
    right.semilogx(alphas, rewards, color=BLUE, label="E[Q]")
    right.semilogx(alphas, values - rewards, color=RED, label="$\\alpha$ H")
    right.axhline(q.max(), color="0.6", ls=":", label="max Q")
    right.set(
        xlabel="temperature $\\alpha$",
        ylabel="units of reward",
        ylim=(-0.6, 2),
        title="soft value",
    )
    right.legend(frameon=False, fontsize=8)
    save(figure, "temperature")


def shift() -> None:
    """Two heads: Q and V move together, the policy stays."""
    torch.manual_seed(0)
    temperature = 0.2
    flow = flows.build("spline", 1, 1, temperature=temperature, heads=2, **OPTIONS, **SMALL)
    fit_one_step(flow, two_bumps, updates=800, size=256)
    flow.shift = SetShift([0.0, 2.5])
    action = torch.linspace(-1, 1, 401).unsqueeze(-1)
    observation = torch.zeros(401, 1)
    with torch.no_grad():
        q, v = flow.q_and_value(action, observation)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for head, color in enumerate((BLUE, RED)):
        left.plot(action, q[:, head], color=color, label=f"$Q_{head + 1}$")
        left.plot(action, v[:, head], color=color, ls="--", label=f"$V_{head + 1}$")
        density = ((q - v)[:, head] / temperature).exp()
        style = {"lw": 4, "alpha": 0.4} if head == 0 else {}
        right.plot(action, density, color=color, label=f"from head {head + 1}", **style)
    left.set(xlabel="action", ylabel="units of reward", title="the shift moves Q and V alike")
    left.set(xlim=INSIDE, ylim=(-1.1, 1.1), xticks=TICKS)
    right.set(xlim=INSIDE, xticks=TICKS)
    left.legend(frameon=False, fontsize=8, ncol=2)
    right.set(xlabel="action", ylabel="density", title="the policy is the same")
    right.legend(frameon=False)
    save(figure, "shift")


class SetShift(nn.Module):
    """Constant shifts in place of learned ones."""

    def __init__(self, shifts: list[float]) -> None:
        super().__init__()
        self.register_buffer("shifts", torch.tensor(shifts))

    def forward(self, observation: Tensor) -> Tensor:
        return self.shifts.expand(*observation.shape[:-1], -1)


def mode() -> None:
    """The deterministic action beside the most likely one, for three flows."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axes, (title, layers, bound) in zip(panels, mode_cases(), strict=True):
        flow = flows.EnergyBasedFlow(flows.StandardNormal(1), layers, temperature=1.0).eval()
        action = torch.linspace(-bound, bound, 4_001)[1:-1].unsqueeze(-1)
        with torch.no_grad():
            density = flow.log_prob(action).exp()
            deterministic = flow.mode().item()
        likeliest = action[density.argmax()].item()
        axes.plot(action, density, color=GREEN)
        axes.axvline(deterministic, color=BLUE, ls="--", label=f"mode(): {deterministic:.2f}")
        axes.plot(likeliest, density.max(), "o", color=RED, label=f"argmax: {likeliest:.2f}")
        axes.set(xlabel="action", title=title, ylim=(0, 1.5 * density.max().item()))
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    panels[0].set_ylabel("density")
    save(figure, "mode")


def mode_cases() -> list[tuple[str, list[flows.Layer], float]]:
    torch.manual_seed(3)
    shifted = Shift(0.4)
    wide = flows.StateScale(1, bounds=(0.0, 0.4))
    bent = flows.SplineCoupling(1, mask=[0], bound=3.0, bins=4)
    with torch.no_grad():
        for parameter in bent.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return [
        ("additive, no squash", [flows.StateScale(1, bounds=(-1.4, -1.0)), shifted], 2.0),
        ("additive, tanh, wide", [wide, shifted, flows.TanhSquash(1)], 1.0),
        ("spline, no squash", [bent], 4.0),
    ]


class Shift(flows.Layer):
    """A constant translation: an additive coupling of one dimension, with its output fixed."""

    is_linear = True
    is_volume_preserving = True

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z + self.by, z.new_zeros(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self.by, x.new_zeros(x.shape[:-1])


def multimodality() -> None:
    """A task of one step with four good actions: exact policy, Gaussian, two flows."""
    temperature = 0.2
    goals = 0.6 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])

    def reward(action: Tensor) -> Tensor:
        distance = (action.unsqueeze(-2) - goals).square().sum(-1)
        return torch.exp(-distance / (2 * 0.2**2)).sum(-1)

    grid = torch.linspace(-0.995, 0.995, 100)
    points = torch.cartesian_prod(grid, grid)
    energy = reward(points) / temperature
    cell = (grid[1] - grid[0]) ** 2
    exact = (energy - energy.logsumexp(0)).exp() / cell

    densities = {
        "exact: exp(Q / $\\alpha$)": exact,
        "Gaussian, tanh": gaussian(reward, points, temperature),
    }
    for name in ("additive", "spline"):
        torch.manual_seed(0)
        flow = flows.build(name, 2, 1, temperature=temperature, heads=1, **OPTIONS)
        fit_one_step(flow, reward, updates=1_500, size=256)
        with torch.no_grad():
            densities[f"flow: {name}"] = flow.log_prob(points, torch.zeros(len(points), 1)).exp()
    figure, panels = plt.subplots(1, 4, figsize=(9.6, 2.8), layout="constrained", sharey=True)
    for axes, (title, density) in zip(panels, densities.items(), strict=True):
        divergence = (exact * (exact.log() - density.log())).sum().item() * cell.item()
        image = density.reshape(100, 100).T
        axes.imshow(image, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis", vmin=0)
        axes.plot(*goals.T, "+", color="white", ms=8)
        axes.set(title=title, xlabel=f"KL(exact, this) = {abs(divergence):.2f} nats")
    panels[0].set_ylabel("second entry of the action")
    save(figure, "multimodality")


def gaussian(reward: Callable[[Tensor], Tensor], points: Tensor, temperature: float) -> Tensor:
    """SAC's actor on the exact Q: the tanh-Gaussian of least alpha log pi - Q."""
    torch.manual_seed(0)
    mean = (0.1 * torch.randn(2)).requires_grad_()
    log_scale = torch.full((2,), -1.0, requires_grad=True)
    squash = flows.TanhSquash(2)
    optimizer = torch.optim.Adam([mean, log_scale], lr=1e-2)

    def log_density(latent: Tensor, log_det: Tensor) -> Tensor:
        z = (latent - mean) * (-log_scale).exp()
        normalizer = log_scale.sum() + math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - normalizer + log_det

    for _ in range(2_000):
        latent = mean + log_scale.exp() * torch.randn(256, 2)
        action, log_det = squash(latent)
        loss = (temperature * log_density(latent, -log_det) - reward(action)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return log_density(*squash.inverse(points)).exp()


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.png")
    plt.close(figure)
    with Image.open(FOLDER / f"{name}.png") as image:  # a palette makes the file a third as large
        small = image.convert("RGB").quantize(128)
    small.save(FOLDER / f"{name}.png", optimize=True)


FIGURES = {each.__name__: each for each in (energy, temperature, shift, mode, multimodality)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
