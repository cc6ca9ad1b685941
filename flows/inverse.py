"""A layer with its two directions exchanged."""

from __future__ import annotations

from torch import Tensor

from maxentflow.flows.layer import Layer

__all__ = ["Inverse"]


class Inverse(Layer):
    """A layer that runs another backwards: its forward is the other's inverse.

    Chooses the fast direction of a layer that has only one: acting runs forward, learning runs
    inverse. It has no data-dependent initialisation.

    Args:
        layer: any :class:`~maxentflow.flows.Layer`; it is as linear as this one.

    Raises:
        ValueError: ``layer`` is no :class:`~maxentflow.flows.Layer`, or changes the size.

    Example:
        >>> layer = Inverse(AffineCoupling(2, 3)).eval()
        >>> x, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> torch.equal(layer(x, context)[0], layer.layer.inverse(x, context)[0])
        True
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        if not isinstance(layer, Layer):
            raise ValueError(f"Inverse turns a Layer round, got {type(layer).__name__}.")
        if layer.image_dim is not None:
            raise ValueError(
                f"Inverse turns layers round that keep the size; {type(layer).__name__} does not."
            )
        self.layer: Layer = layer
        self.dim = layer.dim
        self.context_dim = layer.context_dim
        self.is_linear = layer.is_linear
        self.is_volume_preserving = layer.is_volume_preserving
        self.forward_cost, self.inverse_cost = layer.inverse_cost, layer.forward_cost

    @property
    def is_stochastic(self) -> bool:
        return self.layer.is_stochastic

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({self.layer.label})"

    def keeps_box(self, bound: float) -> bool:
        return self.layer.keeps_box(bound)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layer.inverse(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layer(x, context)
