"""Whole energy-based flows by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from maxentflow.flows.base import StandardNormal
from maxentflow.flows.coupling import AdditiveCoupling, AffineCoupling
from maxentflow.flows.energy import EnergyBasedFlow
from maxentflow.flows.layer import Layer
from maxentflow.flows.scale import StateScale
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.squash import TanhSquash

__all__ = ["build", "options", "register", "registered"]

Recipe = Callable[..., Sequence[Layer]]
"""``recipe(action_dim, obs_dim, **options) -> layers`` from latent to unsquashed action."""

_RECIPES: dict[str, Recipe] = {}


def register(name: str) -> Callable[[Recipe], Recipe]:
    """Decorator that adds a recipe under ``name``.

    The recipe makes the layers between the state-conditioned scale and the squash; its keyword
    arguments become options of :func:`build`.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> @register("reversed-additive")
        ... def reversed_additive(action_dim, obs_dim, *, hidden=(32,)):
        ...     return [
        ...         AdditiveCoupling(action_dim, obs_dim, hidden=hidden),
        ...         Permutation(action_dim),
        ...         AdditiveCoupling(action_dim, obs_dim, hidden=hidden),
        ...     ]
        >>> "reversed-additive" in registered()
        True
    """
    if name in _RECIPES:
        raise ValueError(f"A flow named {name!r} is registered already.")

    def add(recipe: Recipe) -> Recipe:
        _RECIPES[name] = recipe
        return recipe

    return add


def registered() -> tuple[str, ...]:
    """Names that :func:`build` accepts.

    Example:
        >>> registered()[:2]
        ('additive', 'affine')
    """
    return tuple(_RECIPES)


def options(name: str) -> dict[str, Any]:
    """The options of a recipe, with their defaults.

    Raises:
        ValueError: unknown name; the message gives near matches.

    Example:
        >>> options("additive")["hidden"]
        (64, 64)
    """
    if name not in _RECIPES:
        near = difflib.get_close_matches(name, _RECIPES, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Unknown flow {name!r}; registered: {', '.join(_RECIPES)}.{hint}")
    parameters = inspect.signature(_RECIPES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(
    name: str,
    action_dim: int,
    obs_dim: int,
    *,
    temperature: float,
    heads: int = 2,
    log_sigma: tuple[float, float] = (-5.0, -0.3),
    scale_hidden: Sequence[int] = (64, 64),
    shift_hidden: Sequence[int] = (256, 256),
    squash: bool = True,
    dropout_per_head: bool = True,
    **recipe_options: Any,
) -> EnergyBasedFlow:
    """Build a whole energy-based flow by the name of its architecture.

    Latent to action: a state-conditioned scale, the layers of the recipe, a tanh squash. The
    defaults are the reference configuration of Chao et al. 2024.

    Args:
        name: one of :func:`registered`.
        action_dim: size of the action, at least 1.
        obs_dim: size of the observation, at least 1.
        temperature: the entropy's weight, positive.
        heads: heads of the reward shift: 0 for none, 1 for LRS, 2 for SCDQ.
        log_sigma: lowest and highest log-sigma of the state-conditioned scale.
        scale_hidden: hidden widths of the scale's network.
        shift_hidden: hidden widths of the shift's networks.
        squash: end in a tanh, so that actions lie in (-1, 1).
        dropout_per_head: a dropout mask for each head, see :class:`EnergyBasedFlow`.
        recipe_options: options of the recipe, see :func:`options`.

    Raises:
        ValueError: an unknown name or option, or a value out of range.

    Example:
        >>> flow = build("affine", action_dim=1, obs_dim=3, temperature=0.25, heads=2)
        >>> flow.value(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    accepted = options(name)
    unknown = sorted(set(recipe_options) - set(accepted))
    if unknown:
        raise ValueError(
            f"Flow {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(accepted)}."
        )
    for option, value in recipe_options.items():
        if not _fits(value, accepted[option]):
            raise ValueError(
                f"Option {option!r} of flow {name!r} is {accepted[option]!r} by default, "
                f"got {value!r}."
            )
    if min(action_dim, obs_dim) < 1 or heads < 0:
        raise ValueError(
            "A flow needs action_dim >= 1, obs_dim >= 1 and heads >= 0, got "
            f"action_dim={action_dim}, obs_dim={obs_dim}, heads={heads}."
        )
    return EnergyBasedFlow(
        base=StandardNormal(action_dim),
        layers=[
            StateScale(action_dim, obs_dim, bounds=log_sigma, hidden=scale_hidden),
            *_RECIPES[name](action_dim, obs_dim, **recipe_options),
            *([TanhSquash(action_dim)] if squash else []),
        ],
        temperature=temperature,
        shift=RewardShift(obs_dim, heads, hidden=shift_hidden) if heads else None,
        dropout_per_head=dropout_per_head,
    )


def _fits(value: Any, default: Any) -> bool:
    """Whether an option's value is of its default's kind."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        numbers = (int,) if isinstance(default, int) else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value)
    return True


def _alternate(coupling: Callable[..., Layer], blocks: int) -> list[Layer]:
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}.")
    return [coupling(mask=mask) for _ in range(blocks) for mask in ("even", "odd")]


@register("additive")
def additive(
    action_dim: int,
    obs_dim: int,
    *,
    blocks: int = 2,
    hidden: Sequence[int] = (64, 64),
    activation: str = "swish",
    layer_norm: bool = True,
    dropout: float = 0.1,
) -> Sequence[Layer]:
    """NICE: blocks of two additive couplings with alternating masks."""
    return _alternate(
        lambda mask: AdditiveCoupling(
            action_dim,
            obs_dim,
            mask=mask,
            hidden=hidden,
            activation=activation,
            layer_norm=layer_norm,
            dropout=dropout,
        ),
        blocks,
    )


@register("affine")
def affine(
    action_dim: int,
    obs_dim: int,
    *,
    blocks: int = 2,
    hidden: Sequence[int] = (64, 64),
    activation: str = "swish",
    layer_norm: bool = True,
    dropout: float = 0.1,
    max_log_scale: float = 2.0,
) -> Sequence[Layer]:
    """RealNVP: blocks of two affine couplings with alternating masks."""
    return _alternate(
        lambda mask: AffineCoupling(
            action_dim,
            obs_dim,
            mask=mask,
            hidden=hidden,
            activation=activation,
            layer_norm=layer_norm,
            dropout=dropout,
            max_log_scale=max_log_scale,
        ),
        blocks,
    )
