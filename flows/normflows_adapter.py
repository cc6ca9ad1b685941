"""normflows' layers inside our flows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import normflows.flows as nf
from torch import Tensor

from maxentflow.flows.layer import Layer, broadcast_batch

__all__ = ["NormflowsLayer"]

# Layers of normflows whose log-determinant does not depend on the variable.
_LINEAR = (nf.Permute, nf.LULinearPermute, nf.AffineConstFlow, nf.InvertibleAffine)


class NormflowsLayer(Layer):
    """Makes a normflows layer a :class:`~maxentflow.flows.Layer`.

    normflows' layers take one batch dimension and, most of them, no context; this flattens the
    batch and passes the context on to those that read one. Our own layers need no adapter in the
    other direction: they run inside :class:`normflows.ConditionalNormalizingFlow` as they are.

    Args:
        flow: a layer with ``forward`` and ``inverse``.
        is_linear: whether its log-determinant is a function of the context alone. By default
            true for the layers of normflows known to be linear, false for others. False is always
            correct; true moves the determinant from Q into V, and is wrong if it depends on the
            variable.

    Raises:
        ValueError: ``flow`` is not a normflows layer, or has no inverse.

    Example:
        >>> layer = NormflowsLayer(normflows.flows.LULinearPermute(2))
        >>> z = torch.randn(4, 5, 2)
        >>> x, log_det = layer(z)
        >>> torch.allclose(layer.inverse(x)[0], z, atol=1e-5), log_det.shape, layer.is_linear
        (True, torch.Size([4, 5]), True)
    """

    def __init__(self, flow: nf.Flow, *, is_linear: bool | None = None) -> None:
        super().__init__()
        if not isinstance(flow, nf.Flow):
            raise ValueError(
                f"NormflowsLayer adapts layers of normflows, got {type(flow).__name__}."
            )
        if type(flow).inverse is nf.Flow.inverse or isinstance(flow, nf.Planar):
            raise ValueError(f"{type(flow).__name__} has no inverse; an energy needs one.")
        self.flow = flow
        self.is_linear = isinstance(flow, _LINEAR) if is_linear is None else is_linear
        self._reads_context = "context" in inspect.signature(flow.forward).parameters and any(
            getattr(module, "context_features", None) or hasattr(module, "context_layer")
            for module in flow.modules()
        )

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(self.flow.forward, z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(self.flow.inverse, x, context)

    def _run(
        self, direction: Callable[..., Any], x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if context is not None:
            x, context = broadcast_batch(x, context)
        batch, dim = x.shape[:-1], x.shape[-1]
        rows = x.reshape(-1, dim)
        if self._reads_context and context is not None:
            y, log_det = direction(rows, context=context.reshape(rows.shape[0], -1))
        else:
            y, log_det = direction(rows)
        return y.reshape(*batch, dim), log_det.expand(rows.shape[0]).reshape(batch)
