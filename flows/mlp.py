"""The networks inside layers: multilayer perceptrons with the reference's ingredients."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from maxentflow.flows.layer import broadcast_batch

__all__ = [
    "MLP",
    "Activation",
    "Constant",
    "Dropout",
    "Initialization",
    "Linear",
    "Swish",
    "context_network",
    "make_activation",
]

Initialization = Literal["default", "zero", "orthogonal", "near_zero"]
"""How weight matrices start; biases start as PyTorch's.

``"near_zero"``: orthogonal, but for the last matrix, which is a hundredth of that, without a bias,
so that the network starts close to zero and learns from there.
"""

_NEAR_ZERO = 0.01

Activation = str | Callable[[int], nn.Module]
"""``"swish"`` (learnable slope), ``"relu"``, ``"silu"``, ``"tanh"``, ``"elu"``, ``"gelu"``, or a
function from a width to a module."""

_INT32 = torch.iinfo(torch.int32)
_WIDE = 32  # entries of a context for which two products are less work than one
_WEYL = 0x9E3779B9 - 2**32  # the golden ratio's fraction, as a signed integer


def initialize_weight(weight: Tensor, init: Initialization) -> None:
    """Fill one ``(out, in)`` weight matrix in place; ``"near_zero"`` as a network's last."""
    if init == "zero":
        nn.init.zeros_(weight)
    elif init == "orthogonal":
        nn.init.orthogonal_(weight)
    elif init == "near_zero":
        nn.init.orthogonal_(weight, _NEAR_ZERO)
    elif init == "default":
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    else:
        raise ValueError(
            f"init must be 'default', 'zero', 'orthogonal' or 'near_zero', got {init!r}."
        )


def hidden_init(init: Initialization) -> Initialization:
    """How the matrices of a network start, but for the last."""
    return "orthogonal" if init == "near_zero" else init


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` whose ``reset_parameters`` keeps the chosen initialisation.

    Of inputs that are always zero but for ``fan_in`` of them, PyTorch's bounds for so many are
    used.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        init: Initialization = "default",
        fan_in: int | None = None,
    ) -> None:
        self.init = init
        self.fan_in = fan_in or in_features
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        initialize_weight(self.weight, self.init)
        if self.init == "near_zero":
            nn.init.zeros_(self.bias)
        if self.fan_in != self.in_features:
            scale = math.sqrt(self.in_features / self.fan_in)
            with torch.no_grad():
                self.bias.mul_(scale)
                if self.init == "default":
                    self.weight.mul_(scale)


class Swish(nn.Module):
    r"""Swish with a learnable slope per unit, :math:`x \sigma(\beta x)`
    (Ramachandran et al. 2017, arXiv:1710.05941).

    Args:
        shape: shape of :math:`\beta`, broadcast against the input; starts at 1.

    Example:
        >>> Swish(2)(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7311], grad_fn=<MulBackward0>)
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.beta)

    def forward(self, x: Tensor) -> Tensor:
        return (self.beta * x).sigmoid_() * x


class Dropout(nn.Dropout):
    """Dropout whose mask is a hash of the entries' positions, seeded anew for each mask.

    Drawing a random number for each entry, one after the other, is what makes dropout slow on a
    CPU. Here two are drawn for a whole mask; the rest is integer arithmetic on many entries at
    once, which fuses with its surroundings when compiled. The probability is rounded to a multiple
    of 2**-16, and kept units are scaled by the rounded probability's own inverse, so that the
    expectation stays exact. Any shape goes in, and comes out.

    Args:
        p: probability of dropping a unit, in [0, 1).

    Raises:
        ValueError: ``p`` is outside [0, 1).

    Example:
        >>> kept = Dropout(0.5)(torch.ones(1000)).count_nonzero().item()
        >>> 400 < kept < 600
        True
    """

    def __init__(self, p: float) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {p}.")
        super().__init__(p)
        threshold = min(round(p * 2**16), 2**16 - 1)  # of 2**16, how many are dropped
        self._active = threshold > 0
        self._last_dropped = (threshold << 16) - 2**31 - 1
        self._scale = 2**16 / (2**16 - threshold)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self._active):
            return x
        width = x.shape[-1] if x.ndim else 1
        bits = _random_int32(x.numel() // max(width, 1), width, x.device).view(x.shape)
        # 0 or 1 by clamping to two neighbouring integers: several times faster than a comparison,
        # whose booleans are slow to convert.
        keep = bits.clamp_(self._last_dropped, self._last_dropped + 1).sub_(self._last_dropped)
        return x * keep.to(x.dtype).mul_(self._scale)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _random_int32(rows: int, columns: int, device: torch.device) -> Tensor:
    """Integers whose upper 16 bits are uniform: a hash of 0, 1, 2, ...

    A Weyl sequence through multiplications and exclusive ors, with the constants of Wellons'
    "lowbias32"; one random number shifts the sequence, another enters halfway.
    """
    start, key = torch.randint(
        _INT32.min, _INT32.max, (2,), dtype=torch.int32, device=device
    ).unbind()
    kept = device.type == "cpu" and not is_compiling()  # memory of a CUDA graph may be reused
    multiples = _kept_multiples if kept else _multiples
    within = multiples(_WEYL, columns, device)
    before = multiples(_WEYL * columns, rows, device)
    bits = (before + start).unsqueeze(-1) + within
    bits = bits.bitwise_xor_(bits >> 16).mul_(0x7FEB352D).bitwise_xor_(key)
    return bits.bitwise_xor_(bits >> 15).mul_(0x846CA68B - 2**32)


def _multiples(step: int, count: int, device: torch.device) -> Tensor:
    """``0, step, 2 * step, ...`` modulo 2**32, as int32.

    Computed in 64 bits and then cut, since Inductor writes multiples of an index as signed C++
    integers: where these overflow, the C++ compiler may assume that the loop ends before, and
    what it makes of that writes outside its buffers. The mask keeps Inductor from taking the cut
    into the index.
    """
    multiples = torch.arange(count, device=device).mul_(step)
    return multiples.bitwise_and_(2**32 - 1).to(torch.int32)


_kept_multiples = functools.lru_cache(maxsize=16)(_multiples)
"""The same, kept: computing them anew would be 1.5% of an uncompiled update."""


_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "swish": Swish,
    # In place, since only a linear layer or a LayerNorm comes before it, and neither needs what it
    # gave: with thousands of rows, fresh memory costs several times the arithmetic.
    "relu": lambda *shape: nn.ReLU(inplace=True),
    "silu": lambda *shape: nn.SiLU(),
    "tanh": lambda *shape: nn.Tanh(),
    "elu": lambda *shape: nn.ELU(),
    "gelu": lambda *shape: nn.GELU(),
}


def make_activation(activation: Activation, *shape: int) -> nn.Module:
    """The activation for a layer whose units have a shape, the width last.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(activation, str):
        return activation(shape[-1])
    if activation not in _ACTIVATIONS:
        raise ValueError(f"Unknown activation {activation!r}; known: {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[activation](*shape)


class MLP(nn.Sequential):
    """A multilayer perceptron: per hidden layer Linear, LayerNorm, activation, dropout.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        hidden: widths of the hidden layers.
        activation: a name or a function from a width to a module, see :data:`Activation`.
        layer_norm: normalise before each activation.
        dropout: probability of dropping a hidden unit, in training mode.
        init: initialisation of every weight matrix; biases are PyTorch's default.
        fan_in: how many entries of the input are not always zero; all by default. The first layer
            is initialised for so many.

    Raises:
        ValueError: an unknown activation or initialisation, a width below 1, a dropout outside
            [0, 1).

    Example:
        >>> net = MLP(3, 2, hidden=(64, 64), layer_norm=True, init="orthogonal")
        >>> net(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "swish",
        layer_norm: bool = False,
        dropout: float = 0.0,
        init: Initialization = "default",
        fan_in: int | None = None,
    ) -> None:
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        if min((in_features, out_features, *hidden)) < 1:
            raise ValueError(
                "An MLP needs sizes of at least 1, got "
                f"in_features={in_features}, hidden={tuple(hidden)}, out_features={out_features}."
            )
        modules: list[nn.Module] = []
        width_in = in_features
        for width in hidden:
            first = None if modules else fan_in
            modules.append(Linear(width_in, width, hidden_init(init), first))
            if layer_norm:
                modules.append(nn.LayerNorm(width))
            modules.append(make_activation(activation, width))
            if dropout:
                modules.append(Dropout(dropout))
            width_in = width
        modules.append(Linear(width_in, out_features, init, None if modules else fan_in))
        super().__init__(*modules)

    @property
    def first(self) -> Linear:
        """The layer that the input meets."""
        return cast(Linear, self[0])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The output for inputs ``x``, or for ``x`` beside a context that broadcasts against it.

        A wide context is multiplied by its part of the first matrix on its own, once for all that
        it stands beside, and without a gradient where it needs none.
        """
        if context is None:
            return super().forward(x)
        if context.shape[-1] < _WIDE:
            return super().forward(torch.cat(broadcast_batch(x, context), dim=-1))
        own, shared = self.first.weight.split((x.shape[-1], context.shape[-1]), dim=1)
        x = F.linear(x, own) + F.linear(context, shared, self.first.bias)
        for module in itertools.islice(self, 1, None):
            x = module(x)
        return x


class Constant(nn.Module):
    """The network of a layer that has no context: its output is a parameter, zero at first.

    Args:
        out_features: size of the output.

    Example:
        >>> Constant(2)()
        Parameter containing:
        tensor([0., 0.], requires_grad=True)
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.value)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.value


def context_network(context_dim: int | None, out_features: int, **mlp: Any) -> MLP | Constant:
    """A network of the context alone: an :class:`MLP`, or a constant where there is no context.

    Example:
        >>> context_network(3, 2, hidden=(16,))(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
        >>> context_network(None, 2, hidden=(16,))(None).shape
        torch.Size([2])
    """
    if context_dim is None:
        return Constant(out_features)
    return MLP(context_dim, out_features, **mlp)
