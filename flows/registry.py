"""Build energy-based flows by the name of their architecture."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import nn

from maxentflow.flows.base import Base, StandardNormal
from maxentflow.flows.energy import EnergyBasedFlow
from maxentflow.flows.gaussian_mixture import GaussianMixture
from maxentflow.flows.layer import Layer
from maxentflow.flows.scale import StateScale
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.squash import SimplexSquash, TanhSquash
from maxentflow.flows.student_t import StudentT
from maxentflow.flows.temperature import Temperature
from maxentflow.flows.translation import StateTranslation
from maxentflow.flows.uniform import Uniform

__all__ = ["BASES", "SQUASHES", "build", "options", "register", "registered"]

Recipe = Callable[..., Sequence[Layer]]
"""``recipe(action_dim, obs_dim, **options) -> layers`` from latent to unsquashed action."""

_LARGEST = 10**9  # of a size that an option may ask for; torch knows no number beyond 64 bits
_RECIPES: dict[str, tuple[Recipe, dict[str, Any]]] = {}

BASES: dict[str, Callable[[int, int | None], Base]] = {
    "normal": lambda dim, context_dim: StandardNormal(dim),
    "mixture": GaussianMixture,
    "student-t": lambda dim, context_dim: StudentT(dim),
    "uniform": lambda dim, context_dim: Uniform(dim),
}
"""Base distributions that :func:`build` knows by name, of a size and a context's size."""

SQUASHES: dict[str, Callable[[int], Layer | None]] = {
    "tanh": TanhSquash,
    "simplex": lambda action_dim: SimplexSquash(action_dim - 1),
    "none": lambda action_dim: None,
}
"""Last layers that :func:`build` knows by name, of the size of the action."""


def register(name: str, **shared: Any) -> Callable[[Recipe], Recipe]:
    """Decorator that adds a recipe under ``name``.

    The recipe makes the layers between the state-conditioned scale and the squash, and is called
    with the sizes of latent and observation (``None`` for a flow that reads none). Its
    keyword-only arguments become options of :func:`build`.

    Args:
        name: what :func:`build` and the command line know it by.
        shared: further options with their defaults, which the recipe takes as ``**keywords``.

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
        >>> _ = _RECIPES.pop("reversed-additive")  # this was only an example
    """
    if name in _RECIPES:
        raise ValueError(f"A flow named {name!r} is registered already.")

    def add(recipe: Recipe) -> Recipe:
        _RECIPES[name] = recipe, shared
        return recipe

    return add


def registered() -> tuple[str, ...]:
    """Names that :func:`build` accepts.

    Example:
        >>> registered()[:3]
        ('additive', 'affine', 'spline')
    """
    return tuple(_RECIPES)


def options(name: str) -> dict[str, Any]:
    """The options of a recipe, with their defaults.

    Raises:
        ValueError: unknown name; the message gives near matches.

    Example:
        >>> options("spline")["bins"]
        8
    """
    recipe, shared = _recipe(name)
    parameters = inspect.signature(recipe).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {**own, **shared}


def build(
    name: str,
    action_dim: int,
    obs_dim: int | None,
    *,
    temperature: float | Temperature,
    heads: int = 2,
    normalized: bool = False,
    log_sigma: tuple[float, float] | None = (-5.0, -0.3),
    scale: Mapping[str, Any] | None = None,
    translation: Mapping[str, Any] | None = None,
    shift: Mapping[str, Any] | None = None,
    base: str | Base = "normal",
    squash: str | Layer = "tanh",
    dropout_per_head: bool = True,
    encoder: nn.Module | None = None,
    **recipe_options: Any,
) -> EnergyBasedFlow:
    """Build a whole energy-based flow by the name of its architecture.

    Latent to action: a state-conditioned scale, the layers of the recipe, perhaps a translation,
    a squash. With
    ``"additive"`` the defaults are the reference configuration of Chao et al. 2024.

    Args:
        name: one of :func:`registered`.
        action_dim: size of the action, at least 1.
        obs_dim: size of the observation, at least 1; ``None`` for a density without one, which
            takes ``heads=0``.
        temperature: the entropy's weight, positive; or a
            :class:`~maxentflow.flows.Temperature` that changes.
        normalized: count all but the shift in Q, see :class:`EnergyBasedFlow`.
        heads: heads of the reward shift: 0 for none, 1 for LRS, 2 for SCDQ.
        log_sigma: lowest and highest log-sigma of the state-conditioned scale; ``None`` for no
            scale, where layers of the recipe have one (``"glow"``).
        scale: options of :class:`~maxentflow.flows.StateScale`, such as ``initial`` and
            ``hidden``.
        translation: options of a :class:`~maxentflow.flows.StateTranslation` before the squash,
            which may be none; no such layer by default.
        shift: options of :class:`~maxentflow.flows.RewardShift`, such as ``hidden``.
        base: ``"normal"``, ``"mixture"``, ``"student-t"``, ``"uniform"``, or a base.
            The uniform is zero outside a box: it goes without a scale, with layers that map the
            box onto itself (recipes of splines with ``bound=1.0``) and ``squash="none"``.
        squash: ``"tanh"``, so that actions lie in (-1, 1); ``"simplex"``, so that they are shares
            of a whole; ``"none"``; or a layer.
        dropout_per_head: a dropout mask for each head, see :class:`EnergyBasedFlow`.
        encoder: of observations, see :class:`EnergyBasedFlow`.
        recipe_options: options of the recipe, see :func:`options`.

    Raises:
        ValueError: an unknown name or option, or a value out of range.

    Example:
        >>> flow = build("affine", action_dim=1, obs_dim=3, temperature=0.25, heads=2)
        >>> flow.value(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
        >>> density = build("spline", 2, None, temperature=1.0, heads=0, squash="none")
        >>> density.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    recipe, shared = _recipe(name)
    check_options(name, recipe_options)
    if action_dim < 1 or heads < 0 or (obs_dim is not None and obs_dim < 1):
        raise ValueError(
            "A flow needs action_dim >= 1, obs_dim >= 1 and heads >= 0, got "
            f"action_dim={action_dim}, obs_dim={obs_dim}, heads={heads}."
        )
    if obs_dim is None and heads:
        raise ValueError(
            f"A flow without observations has no shift: heads must be 0, got {heads}."
        )
    last = _by_name("squash", squash, SQUASHES, action_dim)
    dim = action_dim if last is None or last.image_dim is None else last.dim
    prior = _by_name("base", base, BASES, dim, obs_dim)
    layers: list[Layer] = []
    if log_sigma is not None and prior.bound is None:
        layers.append(StateScale(dim, obs_dim, bounds=log_sigma, **(scale or {})))
    layers += recipe(dim, obs_dim, **{**shared, **recipe_options})
    if translation is not None and prior.bound is None:
        layers.append(StateTranslation(dim, obs_dim, **translation))
    if last is not None:
        layers.append(last)
    if prior.bound is not None and not all(layer.keeps_box(prior.bound) for layer in layers):
        raise ValueError(
            f"A {type(prior).__name__} base goes with layers that map its box onto itself, "
            f"recipes of splines with bound={prior.bound}, and with squash='none'; flow {name!r} "
            "as given does not."
        )
    flow = EnergyBasedFlow(
        base=prior,
        layers=layers,
        temperature=temperature,
        shift=RewardShift(obs_dim, heads, **(shift or {})) if obs_dim and heads else None,
        dropout_per_head=dropout_per_head,
        normalized=normalized,
        encoder=encoder,
    )
    if flow.action_dim != action_dim:
        raise ValueError(
            f"The squash makes actions of size {flow.action_dim}, but action_dim is {action_dim}."
        )
    return flow


def _unknown(kind: str, name: str, known: Collection[str]) -> ValueError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"Unknown {kind} {name!r}; registered: {', '.join(known)}.{hint}")


def _recipe(name: str) -> tuple[Recipe, dict[str, Any]]:
    if name not in _RECIPES:
        raise _unknown("flow", name, _RECIPES)
    return _RECIPES[name]


def _by_name(kind: str, choice: Any, known: Mapping[str, Any], *sizes: int | None) -> Any:
    """The part itself if it is one, or the part of that name made to size."""
    if not isinstance(choice, str):
        return choice
    if choice not in known:
        raise _unknown(kind, choice, known)
    return known[choice](*sizes)


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Refuse what is not an option of a recipe, and values that are not of its default's kind.

    Raises:
        ValueError: naming the options there are, or the default.
    """
    accepted = options(name)
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise ValueError(
            f"Flow {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(accepted)}."
        )
    for option, value in given.items():
        if not _fits(value, accepted[option]):
            raise ValueError(
                f"Option {option!r} of flow {name!r} is {accepted[option]!r} by default, "
                f"got {value!r}."
            )
        if any(isinstance(size, int) and size >= _LARGEST for size in _entries(value)):
            raise ValueError(
                f"Option {option!r} of flow {name!r} must be below 10^9, got {value!r}."
            )


def _entries(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


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
