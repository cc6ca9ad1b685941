"""The contract of an invertible layer."""

from __future__ import annotations

import torch
from normflows.flows import Flow
from torch import Tensor, nn

__all__ = ["Layer", "broadcast_batch", "own_context", "passes", "required_context"]


class Layer(Flow):
    r"""An invertible map of the last dimension, optionally conditioned on a context.

    A subclass implements two methods, for any number of batch dimensions:

    * ``forward(z, context=None) -> (x, log_det)``: latent to variable, with
      :math:`\log|\det \partial x / \partial z|`;
    * ``inverse(x, context=None) -> (z, log_det)``: variable to latent, with
      :math:`\log|\det \partial z / \partial x|`.

    The variable has shape ``(*batch, dim)``, the context ``(*batch, context_dim)``, the
    log-determinant ``(*batch,)``; batch dimensions broadcast, so that one context may serve many
    variables. Shapes are checked by the flow that holds the layer, not by the layer.

    Attributes:
        dim: size of the latent, or ``None`` if any size will do.
        image_dim: size of the variable where it is not that of the latent, else ``None``.
        context_dim: size of the context, or ``None`` if the layer does not read one.
        is_linear: the log-determinant is a function of the context alone. An energy-based flow
            counts a linear layer in the soft value V and any other in Q
            (Chao et al. 2024, arXiv:2405.13629, eq. 12 and 13).
        is_volume_preserving: the log-determinant is zero, so that V need not run the layer.
        is_squash: as the last layer of a flow, it maps the real line into the actions' bounds, so
            that an action at their ends does not tell in single precision where it came from.
        is_stochastic: two calls in training mode may differ, as they do with dropout; an
            energy-based flow then gives each head a pass of its own. True by default where the
            layer contains torch's dropout with a positive probability; a layer with random
            numbers of another kind says so itself, by a class attribute or a property.
        forward_cost: what ``forward`` takes: ``"1 pass"``, ``"n passes"``, or ``"iterative"`` if
            it repeats until a tolerance is met.
        inverse_cost: what ``inverse`` takes.
        label: what :func:`~maxentflow.flows.describe` calls the layer, by default its class.
    """

    dim: int | None = None
    image_dim: int | None = None
    context_dim: int | None = None
    is_linear: bool = False
    is_volume_preserving: bool = False
    is_squash: bool = False
    forward_cost: str = "1 pass"
    inverse_cost: str = "1 pass"

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} does not define forward.")

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} does not define inverse.")

    @property
    def is_stochastic(self) -> bool:
        return any(
            isinstance(module, (nn.Dropout, nn.AlphaDropout)) and module.p > 0
            for module in self.modules()
        )

    @property
    def label(self) -> str:
        return type(self).__name__

    def keeps_box(self, bound: float) -> bool:
        r"""Whether the layer maps :math:`[-b, b]^d` onto itself, as a bounded base asks for.

        False unless the layer says otherwise: a permutation does, and so do splines on an interval
        no longer than the box's sides.
        """
        return False

    def initialize(self, x: Tensor) -> None:
        """Set parameters from a first batch of variables, shape ``(*batch, dim)``.

        Nothing, except for layers with data-dependent initialisation. Called by
        :meth:`EnergyBasedFlow.initialize`, never by itself.
        """


def passes(count: int) -> str:
    """The ``forward_cost`` or ``inverse_cost`` of running a network ``count`` times."""
    return "1 pass" if count == 1 else f"{count} passes"


def required_context(part: nn.Module, context: Tensor | None) -> Tensor:
    """The context, which this part of a flow cannot do without.

    Raises:
        ValueError: it is ``None``.
    """
    if context is None:
        raise ValueError(f"{type(part).__name__} needs a context, got None.")
    return context


def own_context(part: nn.Module, context: Tensor | None) -> Tensor | None:
    """The context for a part of a flow that reads one, ``None`` for one that does not.

    Raises:
        ValueError: the part reads a context, and it is ``None``.
    """
    return None if part.context_dim is None else required_context(part, context)


def broadcast_batch(x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Expand the batch dimensions, all but the last, of two tensors to a common shape."""
    batch, other = x.shape[:-1], context.shape[:-1]
    if batch == other:
        return x, context
    if len(batch) > len(other) and batch[len(batch) - len(other) :] == other:
        return x, context.expand(*batch, -1)  # the usual case, without the slow general rule
    batch = torch.broadcast_shapes(batch, other)
    return x.expand(*batch, -1), context.expand(*batch, -1)
