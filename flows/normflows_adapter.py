"""Adapter for the layers of normflows; all private names of normflows are used here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import normflows.flows as nf
import torch
from normflows.flows.residual import batch_jacobian
from normflows.nets.lipschitz import InducedNormLinear
from torch import Tensor, nn

from maxentflow.flows.act_norm import mean_and_deviation
from maxentflow.flows.layer import Layer, broadcast_batch, passes, required_context

__all__ = ["NormflowsLayer"]

# Layers of normflows whose log-determinant does not depend on the variable, whatever the options.
_LINEAR = (
    nf.Permute,
    nf.LULinearPermute,
    nf.InvertibleAffine,
    nf.Invertible1x1Conv,
    nf.AffineConstFlow,
    nf.CCAffineConst,
    nf.PeriodicShift,
)

_COUPLED_SPLINES = (
    nf.CoupledRationalQuadraticSpline,
    nf.CircularCoupledRationalQuadraticSpline,
)

_AUTOREGRESSIVE_SPLINES = (
    nf.AutoregressiveRationalQuadraticSpline,
    nf.CircularAutoregressiveRationalQuadraticSpline,
)

_REFUSED = {
    nf.Reverse: "hides the layer that it turns round; adapt that one and put it in Inverse",
    nf.Composite: "adds log-determinants up in single precision; adapt its layers one by one",
    nf.Split: "changes the shape of the variable",
    nf.Squeeze: "changes the shape of the variable",
    nf.AffineCoupling: "maps a pair of tensors; adapt the AffineCouplingBlock around it",
    nf.Planar: "has no inverse, but for one in single precision with act='leaky_relu'",
    nf.PeriodicWrap: "is not one-to-one: its inverse wraps and its forward does not",
    nf.MetropolisHastings: "is a random transition and has no inverse",
    nf.HamiltonianMonteCarlo: "is a random transition and has no inverse",
}


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class NormflowsLayer(Layer):
    """Makes a normflows layer a :class:`~maxentflow.flows.Layer`.

    normflows' layers take one batch dimension and, most of them, no context; this flattens the
    batch and passes the context on to those that read one. Our own layers need no adapter in the
    other direction: they run inside :class:`normflows.ConditionalNormalizingFlow` as they are.

    Three kinds are made exact here:

    * ``ActNorm``, alone or in a ``GlowBlock``, would set itself from whatever batch its first call
      sees. Adapted, it starts as it is, and only :meth:`initialize` sets it.
    * The circular splines and ``PeriodicShift`` map a box onto itself, and are not one-to-one
      outside. They go with :class:`~maxentflow.flows.Uniform`, or after a squash with bound 1.
    * ``Residual`` finds its inverse to rounding instead of 3e-3, and remains a contraction without
      ``normflows.utils.update_lipschitz``. It must be built with ``brute_force=True``.

    Args:
        flow: a layer with ``forward`` and ``inverse``. One of your own reads the context if its
            ``forward`` has an argument of that name.
        event_shape: the shape in which ``flow`` sees one variable, for layers of images; by
            default ``(dim, 1, 1)`` for ``GlowBlock`` and ``Invertible1x1Conv``, else ``(dim,)``.
        is_linear: whether the log-determinant is a function of the context alone. By default true
            for the layers of normflows known to be linear, false for others: a linear layer of
            your own is declared with ``is_linear=True``. False is always correct; true moves the
            determinant from Q into V, and is wrong if it depends on the variable.

    Raises:
        ValueError: ``flow`` is not a normflows layer, has no inverse or no exact log-determinant,
            or (in both directions) a variable is outside the box of a periodic layer.
        RuntimeError: the network of a ``Residual`` is no contraction (in its iterative direction).

    Example:
        >>> layer = NormflowsLayer(normflows.flows.LULinearPermute(2))
        >>> z = torch.randn(4, 5, 2)
        >>> x, log_det = layer(z)
        >>> torch.allclose(layer.inverse(x)[0], z, atol=1e-5), log_det.shape, layer.is_linear
        (True, torch.Size([4, 5]), True)
    """

    def __init__(
        self,
        flow: nf.Flow,
        *,
        event_shape: Sequence[int] | None = None,
        is_linear: bool | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(flow, nf.Flow) or isinstance(flow, Layer):
            raise ValueError(
                f"NormflowsLayer adapts layers of normflows, got {type(flow).__name__}."
            )
        reason = _reason_to_refuse(flow)
        if reason is not None:
            raise ValueError(f"{type(flow).__name__} {reason}.")
        for norm in _act_norms(flow):
            norm.data_dep_init_done.fill_(1)
        self.flow = flow
        self.event_shape = _event_shape(flow) if event_shape is None else tuple(event_shape)
        if self.event_shape is not None:
            self.dim = math.prod(self.event_shape)
        self.context_dim = _context_dim(flow)
        self._context_name = _context_name(flow, self.context_dim)
        self.is_linear = _is_linear(flow) if is_linear is None else is_linear
        self.is_volume_preserving = self.is_linear and _is_volume_preserving(flow)
        self.forward_cost, self.inverse_cost = _costs(flow)

    @property
    def label(self) -> str:
        return f"{type(self).__name__}({type(self.flow).__name__})"

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Let each ``ActNorm`` set itself from a batch of variables, shape ``(*batch, dim)``.

        Raises:
            ValueError: there is an ``ActNorm``, and an entry does not vary in the batch.
        """
        norms = _act_norms(self.flow)
        if not norms:
            return
        mean_and_deviation(x)  # refuses a batch that does not vary
        # normflows gives them new storage, which an optimiser over flat parameters does not hold.
        storage = [(tensor, tensor.data) for norm in norms for tensor in (norm.s, norm.t)]
        for norm in norms:
            norm.data_dep_init_done.fill_(0)
        self.inverse(x)
        for tensor, data in storage:
            tensor.data = data.copy_(tensor)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(_directions(self.flow)[0], z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(_directions(self.flow)[1], x, context)

    def _run(
        self, direction: Callable[..., Any], x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.context_dim is not None:
            context = required_context(self, context)
        if context is not None:
            x, context = broadcast_batch(x, context)
        rows = _in_box(self.flow, x.reshape(-1, *(self.event_shape or x.shape[-1:])))
        given: dict[str, Tensor] = {}
        if self._context_name is not None and context is not None:
            given[self._context_name] = context.reshape(-1, context.shape[-1])
        y, log_det = direction(rows, **given)
        # Permute returns its zeros in single precision, constants have no batch dimension.
        return y.reshape(x.shape), log_det.to(y).expand(len(rows)).reshape(x.shape[:-1])


def _reason_to_refuse(flow: nf.Flow) -> str | None:
    for kind, reason in _REFUSED.items():
        if isinstance(flow, kind):
            return reason
    if type(flow).inverse is nf.Flow.inverse:
        return "has no inverse; an energy needs one"
    if isinstance(flow, nf.Residual) and not flow.iresblock.brute_force:
        return (
            "estimates its log-determinant at random, with exact_trace too; only brute_force=True "
            "is exact, for variables of size 2"
        )
    if isinstance(flow, _COUPLED_SPLINES) and flow.prqct.tails is None:
        return "with tails=None maps the unit interval only"
    for module in flow.modules():
        if isinstance(module, _BATCH_NORMS):
            return (
                f"contains a {type(module).__name__}: rows would depend on the rest of the batch"
            )
    return None


def _act_norms(flow: nf.Flow) -> list[nf.ActNorm]:
    return [module for module in flow.modules() if isinstance(module, nf.ActNorm)]


def _is_linear(flow: nf.Flow) -> bool:
    if isinstance(flow, nf.GlowBlock):
        return all(_is_linear(part) for part in flow.flows)
    return isinstance(flow, _LINEAR) or _is_volume_preserving(flow)


def _is_volume_preserving(flow: nf.Flow) -> bool:
    if isinstance(flow, nf.MaskedAffineFlow):
        return flow.s is torch.zeros_like
    if isinstance(flow, nf.AffineCouplingBlock):
        return not flow.flows[1].scale
    return isinstance(flow, (nf.Permute, nf.PeriodicShift))


def _costs(flow: nf.Flow) -> tuple[str, str]:
    """Of forward and inverse; normflows' affine and spline autoregressions are opposite."""
    if isinstance(flow, nf.Residual):
        return ("iterative", "1 pass") if flow.reverse else ("1 pass", "iterative")
    if isinstance(flow, nf.MaskedAffineAutoregressive):
        return "1 pass", passes(flow.features)
    if isinstance(flow, _AUTOREGRESSIVE_SPLINES):
        return passes(flow.mprqat.autoregressive_net.initial_layer.in_features), "1 pass"
    return "1 pass", "1 pass"


def _event_shape(flow: nf.Flow) -> tuple[int, ...] | None:
    """The shape of one variable, where the layer knows it."""
    if isinstance(flow, nf.GlowBlock):
        return tuple(flow.flows[-1].s.shape[1:])
    if isinstance(flow, nf.Invertible1x1Conv):
        return (flow.num_channels, 1, 1)
    return (2,) if isinstance(flow, nf.Residual) else None


def _context_dim(flow: nf.Flow) -> int | None:
    if isinstance(flow, nf.CCAffineConst):
        return flow.s_cc.shape[0]
    for module in flow.modules():
        if isinstance(getattr(module, "context_layer", None), nn.Linear):
            return module.context_layer.in_features
        if getattr(module, "context_features", None) is not None:
            return module.context_features
    return None


def _context_name(flow: nf.Flow, context_dim: int | None) -> str | None:
    """The argument in which the layer takes the context, if it reads one.

    normflows' own layers accept a context that networks built without one then fail on.
    """
    if isinstance(flow, nf.CCAffineConst):
        return "y"
    theirs = flow.forward.__module__.startswith("normflows.")
    takes_context = "context" in inspect.signature(flow.forward).parameters
    return "context" if takes_context and (context_dim is not None or not theirs) else None


def _in_box(flow: nf.Flow, rows: Tensor) -> Tensor:
    """The rows, without what rounding adds to them outside the box of a periodic layer.

    Outside it ``PeriodicShift`` wraps, and the circular splines of normflows 1.7.3 return zero.
    """
    box = rows.new_full(rows.shape[1:], math.inf)
    if isinstance(flow, nf.PeriodicShift):
        box[flow.ind] = flow.bound
    elif isinstance(flow, nf.CircularAutoregressiveRationalQuadraticSpline):
        box[:] = flow.mprqat.tail_bound
    elif isinstance(flow, _COUPLED_SPLINES) and isinstance(flow.prqct.tails, list):
        spline = flow.prqct
        box[spline.transform_features] = spline.tail_bound
        box[spline.identity_features] = spline.unconditional_transform.tail_bound
    else:
        return rows
    if bool((rows.abs() > box * (1 + 1e-5)).any()):
        raise ValueError(
            f"{type(flow).__name__} maps the box with half sides {box.tolist()} onto itself, got "
            f"entries of magnitudes up to {rows.detach().abs().amax(0).tolist()}."
        )
    return rows.clamp(min=-box, max=box)


def _directions(flow: nf.Flow) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and inverse."""
    if not isinstance(flow, nf.Residual):
        return flow.forward, flow.inverse
    _update_norms(flow)
    one_pass = flow.inverse if flow.reverse else flow.forward

    def iterative(rows: Tensor) -> tuple[Tensor, Tensor]:
        x = _contraction_root(flow.iresblock.nnet, rows)
        # normflows marks what it is given as requiring gradients: let that be a view.
        return x, -one_pass(x.view_as(x))[1]

    return (iterative, one_pass) if flow.reverse else (one_pass, iterative)


@torch.no_grad()
def _update_norms(flow: nf.Residual) -> None:
    """Make the norms by which the network divides its weights those of the weights of today.

    normflows estimates them by power iteration, from below, and only where it is asked to. New
    tensors, since the graphs of earlier calls hold the old ones.
    """
    for module in flow.modules():
        if isinstance(module, InducedNormLinear):
            u, _, v = torch.linalg.svd(module.weight, full_matrices=False)
            module.u, module.v = u[:, 0].clone(), v[0].clone()


def _contraction_root(net: nn.Module, z: Tensor) -> Tensor:
    """The x with x + net(x) = z; normflows stops as soon as it moves by less than 3e-3."""
    tolerance = 8 * torch.finfo(z.dtype).eps
    with torch.no_grad():
        x = z
        for _ in range(10_000):
            x, previous = z - net(x), x
            size = 1 + x.abs().amax(-1, keepdim=True)
            if bool(((x - previous).abs() < tolerance * size).all()):
                break
        else:
            raise RuntimeError("The network of a Residual must be a contraction; this is none.")
    with torch.enable_grad():
        x = x.requires_grad_()
        g = net(x)
        jacobian = batch_jacobian(g, x).detach()
    # One Newton step, whose derivatives are those of the root.
    x = x.detach()
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return x - torch.linalg.solve(identity + jacobian, x + g - z)
