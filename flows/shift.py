"""Learnable reward shifting: a bias of Q and V that leaves the policy as it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maxentflow.flows.batched_mlp import BatchedMLP
from maxentflow.flows.mlp import Activation, Initialization

__all__ = ["RewardShift"]


class RewardShift(nn.Module):
    r"""The shifts :math:`b_h(s)` of learnable reward shifting, all heads as one batched network.

    An energy-based flow adds :math:`\alpha b_h(s)` to both Q and V, which leaves the policy
    :math:`\exp((Q - V) / \alpha)` unchanged. One head is LRS; two are SCDQ, whose target takes the
    minimum (Chao et al. 2024, arXiv:2405.13629, section 3.3).

    Args:
        context_dim: size of the observation, at least 1.
        heads: number of shifts, at least 1.
        hidden: widths of the hidden layers.
        activation: as in :class:`~maxentflow.flows.MLP`.
        layer_norm: normalise before each activation.
        init: initialisation of the weights, zero as in the reference.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> shift = RewardShift(3, heads=2)
        >>> shift(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        context_dim: int,
        heads: int = 2,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "swish",
        layer_norm: bool = False,
        init: Initialization = "zero",
    ) -> None:
        super().__init__()
        if min((context_dim, heads, *hidden)) < 1:
            raise ValueError(
                "RewardShift needs sizes of at least 1, got "
                f"context_dim={context_dim}, heads={heads}, hidden={tuple(hidden)}."
            )
        self.context_dim = context_dim
        self.heads = heads
        self.net = BatchedMLP(
            heads,
            context_dim,
            1,
            hidden=hidden,
            activation=activation,
            layer_norm=layer_norm,
            init=init,
        )

    def forward(self, context: Tensor) -> Tensor:
        """The shifts, shape ``(*batch, heads)``, of a context ``(*batch, context_dim)``."""
        return self.net(context).squeeze(-2)
