"""Five densities in the plane that flows are shown on, plain and conditional.

    >>> sample("two-moons", 3, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 2])

The shapes are those of FFJORD's toy experiments (Grathwohl et al. 2019, arXiv:1810.01367), the
pinwheel first drawn by Johnson et al. 2016 (arXiv:1603.06277). All are centred at the origin and
all but a few in ten thousand points lie in [-4, 4]^2.
"""

import math

import torch
from torch import Generator, Tensor

__all__ = ["DENSITIES", "sample", "sample_conditional"]


def sample(name: str, count: int, generator: Generator) -> Tensor:
    """Independent points of a density, ``(count, 2)``, on the generator's device.

    Raises:
        KeyError: ``name`` is not in ``DENSITIES``.
    """
    return _SAMPLERS[name](count, generator)


def sample_conditional(name: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Points of a density that is turned by an angle of its own for each, and the angles.

    The angles are uniform. A square that is turned reaches as far as its corners, to 4 sqrt(2).

    Returns:
        Points, ``(count, 2)``, and contexts, ``(count, 2)``: cosine and sine of each angle.

    Raises:
        KeyError: ``name`` is not in ``DENSITIES``.
    """
    points = sample(name, count, generator)
    angle = 2 * math.pi * _uniform(count, generator)
    return _turn(points, angle), _on_circle(angle)


def _eight_gaussians(count: int, generator: Generator) -> Tensor:
    angle = math.pi / 4 * _index(8, count, generator)
    return (4 * _on_circle(angle) + 0.5 * _normal(count, generator)) / math.sqrt(2)


def _two_moons(count: int, generator: Generator) -> Tensor:
    lower = _index(2, count, generator)
    arc = _on_circle(math.pi * (_uniform(count, generator) + lower))
    # The lower arc reaches into the upper one; between their centres is the origin.
    centre = (lower - 0.5)[:, None] * torch.tensor([1.0, 0.5], device=generator.device)
    return 2 * (arc + centre + 0.1 * _normal(count, generator))


def _checkerboard(count: int, generator: Generator) -> Tensor:
    column = _index(4, count, generator)
    row = 2 * _index(2, count, generator) + column % 2
    within = torch.rand(count, 2, generator=generator, device=generator.device)
    return 2 * (torch.stack((column, row), dim=-1) + within) - 4


def _pinwheel(count: int, generator: Generator) -> Tensor:
    spread = torch.tensor([0.3, 0.1], device=generator.device)
    blade = spread * _normal(count, generator)
    blade[:, 0] += 1
    angle = 2 * math.pi / 5 * _index(5, count, generator) + 0.25 * blade[:, 0].exp()
    return 2 * _turn(blade, angle)


def _two_spirals(count: int, generator: Generator) -> Tensor:
    angle = 3 * math.pi * _uniform(count, generator).sqrt()
    other = math.pi * _index(2, count, generator)
    arm = (angle / 3)[:, None] * _on_circle(angle + other)
    return arm + 0.1 * _normal(count, generator)


_SAMPLERS = {
    "eight-gaussians": _eight_gaussians,
    "two-moons": _two_moons,
    "checkerboard": _checkerboard,
    "pinwheel": _pinwheel,
    "two-spirals": _two_spirals,
}
DENSITIES = tuple(_SAMPLERS)


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _normal(count: int, generator: Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, device=generator.device)


def _index(choices: int, count: int, generator: Generator) -> Tensor:
    return torch.randint(choices, (count,), generator=generator, device=generator.device).float()


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def _turn(points: Tensor, angle: Tensor) -> Tensor:
    """Counterclockwise about the origin."""
    x, y = points.unbind(dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1)
