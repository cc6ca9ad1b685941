"""State-conditioned translation: the linear layer that carries a policy's mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from maxentflow.flows.layer import Layer, own_context
from maxentflow.flows.mlp import context_network

__all__ = ["StateTranslation"]


class StateTranslation(Layer):
    r"""A translation that depends on the context alone, :math:`x = z + \mu(s)`.

    Linear and volume preserving: it is counted nowhere. Next to the squash it is the mean of the
    policy, to which the layers before it add shape; a coupling's own translation also depends on
    the entries that pass through, which is more to learn where a mean would do.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for one translation for all.
        hidden: widths of the network's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.MLP`; by default layer norm, and weights
            that start near zero.

    Example:
        >>> layer = StateTranslation(2, 3)
        >>> x, log_det = layer(torch.zeros(4, 2), torch.zeros(4, 3))
        >>> x.shape, log_det
        (torch.Size([4, 2]), tensor([0., 0., 0., 0.]))
    """

    is_linear = True
    is_volume_preserving = True

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        **mlp: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim
        options = {"layer_norm": True, "init": "near_zero", **mlp}
        self.net = context_network(context_dim, dim, hidden=hidden, **options)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = z + self.net(own_context(self, context))
        return x, x.new_zeros(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = x - self.net(own_context(self, context))
        return z, z.new_zeros(z.shape[:-1])
