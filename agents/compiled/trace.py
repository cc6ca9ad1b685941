"""Trace functions as graphs whose state and random numbers are arguments, and compile them.

Every private name of torch that this package uses stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

__all__ = ["PureFunction", "compile_function", "stored", "trace", "versions"]

_aten = torch.ops.aten
# The same operators, called in a third of the time.
_FUNCTIONS: dict[Any, Callable[..., Tensor]] = {
    _aten.randint.low: torch.randint,
    _aten.rand.default: torch.rand,
    _aten.randn.default: torch.randn,
}
_SEQUENCES = _aten.arange.default, _aten.arange.start, _aten.arange.start_step
_TALL = 4  # how many times as long as wide a matrix is that threads share by its rows
_WORTH_SHARING = 4096  # entries for each thread; fewer are done before the others are awake
_NOT_UNROLLED = 16  # a shorter reduction is written out, and repeated like anything else
_ROUNDING = 1e-3  # of a norm; single precision is nearer, where little cancels by a factor of 100
_LEAST = 1e-3  # a norm for what is zero but for rounding


@dataclass(frozen=True)
class PureFunction:
    """A function with its parameters and its random numbers as arguments.

    Attributes:
        graph: takes the tensors of the state, the inputs and the random numbers, in this order;
            gives a tuple.
        draws: functions that draw the random numbers, in the order of the original; on a CPU, rows
            of integers that follow each other are one draw.
    """

    graph: GraphModule
    draws: tuple[Callable[[], Tensor], ...]

    def draw(self) -> list[Tensor]:
        """The random numbers that the original would draw now, from the same generator."""
        return [draw() for draw in self.draws]


def trace(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
) -> PureFunction:
    """Trace a function of tensors that also reads tensors of its own and draws random numbers.

    What it reads of the storages of ``state``, whole tensors or parts of them, becomes a view of
    an argument; other tensors that it reads are constants. Gradients that the function takes are
    part of the trace. It is run once, which must change nothing but torch's generators; these are
    put back.

    Args:
        function: gives a tuple of tensors.
        inputs: arguments such as the function is going to be given; shapes are fixed.
        state: contiguous tensors, each with a storage of its own.

    Raises:
        NotImplementedError: a random number's distribution depends on other tensors, or a
            generator of its own draws it; a tensor that it reads is on another device.
        ValueError: two tensors of the state share a storage.

    Example:
        >>> weight = torch.ones(3)
        >>> traced = trace(lambda x: (weight[:2] * x + torch.rand(2),), [torch.ones(2)], [weight])
        >>> traced.graph(torch.full((3,), 5.0), torch.ones(2), torch.zeros(2))
        (tensor([5., 5.]),)
        >>> [draw.shape for draw in traced.draw()]
        [torch.Size([2])]
    """
    devices = {t.device for t in (*inputs, *state) if t.device.type == "cuda"}
    device = next(iter((*inputs, *state)), torch.empty(0)).device
    # Backward passes on a GPU otherwise run in a thread that is not traced.
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with torch.random.fork_rng(list(devices)), one_thread:
        traced = _graph_of(function, inputs)
        _check_constants(traced, device)
        draws = _lift(traced, state, device)
        given = [tensor.detach() for tensor in state]
        drawn = [draw() for draw in draws]
        for tensor in drawn:
            if tensor.device != device:
                raise NotImplementedError(
                    f"It draws random numbers on {tensor.device}, the rest is on {device}."
                )
        decompositions: dict[Any, Callable[..., Any]] = {
            _aten.squeeze.dim: _squeeze,
            _aten.copy.default: _copy,
            _aten.native_layer_norm.default: _layer_norm,
            _aten.addmm.default: _biased_product,
            _aten.baddbmm.default: _biased_product,
            _aten.mm.default: _product,
            _aten.index_add.default: _sum_at,
        }
        graph = _graph_of(functionalize(traced), (*given, *inputs, *drawn), decompositions)
    _fold_sequences(graph)
    return PureFunction(graph, tuple(draws))


def compile_function(
    function: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """A function of tensors as compiled code, for tensors of the shapes of some examples.

    Nothing of its arguments is looked at when it is called. What is compiled is a graph, so that
    every call does the same; what the function reads beside its arguments is a constant. The code
    is run once, to see that it gives what the function gives.

    Args:
        function: does not draw random numbers; it may write into its arguments, and does so to
            the examples.
        examples: arguments that do not require gradients.

    Raises:
        RuntimeError: there is no compiler, the function cannot be compiled, or the code gives
            something else.

    Example:
        >>> double = compile_function(lambda x: [2 * x], [torch.ones(3)])
        >>> double(torch.full((3,), 5.0))
        [tensor([10., 10., 10.])]
    """
    expected_arguments, arguments = ([e.clone() for e in examples] for _ in range(2))
    graph = _graph_of(function, examples)
    expected = graph(*expected_arguments)
    for node in graph.graph.nodes:
        node.meta.clear()  # what tracing knows of shapes; the compiler finds out by itself
    on_cpu = not any(example.is_cuda for example in examples)
    from torch._inductor import standalone_compile

    code = standalone_compile(
        graph,
        list(examples),
        dynamic_shapes="from_example_inputs",
        options={
            "config_patches": {
                # One C++ function calls the kernels: less between them, and compiled as one file.
                "cpp_wrapper": on_cpu,
                "cpp.min_chunk_size": _WORTH_SHARING,
            }
        },
    )
    # A GPU's kernels are also tuned in a first call, which cannot be recorded.
    found = code(*arguments)
    size = max((float(output.double().norm()) for output in expected), default=0.0)
    _check_agreement(found, expected, max(1e-2 * size, _LEAST))
    _check_agreement(arguments, expected_arguments, _LEAST)
    return code


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was written into.

    Example:
        >>> x = torch.zeros(2)
        >>> before = versions([x])
        >>> _ = x.add_(1)
        >>> versions([x]) == before
        False
    """
    return [tensor._version for tensor in tensors]


def stored(x: Tensor) -> Tensor:
    """A tensor as it is, which compiled code for the CPU computes once, ahead of where it is read.

    The result of a reduction is stored; anything simpler is computed again wherever it is read, be
    it one number for all the entries of a large tensor.
    """
    return x if x.is_cuda else x.unsqueeze(-1).expand(*x.shape, _NOT_UNROLLED).amax(-1)


def _graph_of(
    function: Callable[..., Any],
    arguments: Sequence[Tensor],
    decompositions: dict[Any, Callable[..., Any]] | None = None,
) -> GraphModule:
    """``make_fx``, which describes every result by a fake tensor, of one mode.

    Without a mode at hand it makes one for each, which takes a third of the time to trace.
    """
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        return cast(GraphModule, make_fx(function, decompositions)(*arguments))


def _check_agreement(found: Sequence[Tensor], expected: Sequence[Tensor], least: float) -> None:
    """See that tensors agree to a part of their norms, or of a least one."""
    for one, other in zip(found, expected, strict=True):
        one, other = (tensor.double().nan_to_num(0.0, 0.0, 0.0) for tensor in (one, other))
        distance, norm = float((one - other).norm()), max(float(other.norm()), least)
        if distance > _ROUNDING * norm:
            raise RuntimeError(
                f"compiled code differs from the function by {distance / norm:.1e} in a result "
                f"of shape {tuple(one.shape)}"
            )


def _check_constants(traced: GraphModule, device: torch.device) -> None:
    """A recorded launch cannot copy from another device."""
    for node in traced.graph.find_nodes(op="get_attr"):
        constant = getattr(traced, node.target)
        if isinstance(constant, Tensor) and constant.device != device:
            raise NotImplementedError(
                f"It reads a tensor of shape {tuple(constant.shape)} on {constant.device}, the "
                f"rest is on {device}."
            )


def _lift(
    traced: GraphModule, state: Sequence[Tensor], device: torch.device
) -> list[Callable[[], Tensor]]:
    """Make arguments of the state and of the random numbers; give what draws the latter."""
    graph = traced.graph
    with graph.inserting_before(next(iter(graph.nodes))):
        owners = {
            _storage(tensor): (graph.placeholder(f"state_{index}"), tensor)
            for index, tensor in enumerate(state)
        }
    if len(owners) < len(state):
        raise ValueError("Tensors of a state must each have a storage of their own.")
    for node in graph.find_nodes(op="get_attr"):
        constant = getattr(traced, node.target)
        if isinstance(constant, Tensor) and _storage(constant) in owners:
            argument, tensor = owners[_storage(constant)]
            with graph.inserting_before(node):
                view = _view(graph, argument, tensor, constant)
            node.replace_all_uses_with(view)
            graph.erase_node(node)
    runs = _runs_of_draws(graph, device)
    draws = [_drawing(run, device) for run in runs]
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        arguments = [graph.placeholder(f"draw_{index}") for index in range(len(runs))]
    for run, argument in zip(runs, arguments, strict=True):
        start = 0
        for node in run:
            with graph.inserting_before(node):
                if _is_in_place(node):
                    drawn = graph.call_function(_aten.copy_.default, (node.args[0], argument))
                elif len(run) == 1:
                    drawn = graph.call_function(_aten.clone.default, (argument,))
                else:
                    start, span = start + _count(node), (start, start + _count(node))
                    part = graph.call_function(_aten.slice.Tensor, (argument, 0, *span))
                    drawn = graph.call_function(_aten.clone.default, (part,))
            node.replace_all_uses_with(drawn)
            graph.erase_node(node)
    traced.recompile()
    return draws


def _runs_of_draws(graph: torch.fx.Graph, device: torch.device) -> list[list[Node]]:
    """The nodes that draw random numbers; those that one draw can stand for are together."""
    runs: list[list[Node]] = []
    for node in filter(_is_random, graph.nodes):
        if runs and device.type == "cpu" and _can_follow(runs[-1][-1], node):
            runs[-1].append(node)
        else:
            runs.append([node])
    return runs


def _squeeze(x: Tensor, dim: int) -> Tensor:
    """``aten.squeeze``, which under vmap does not take the last dimension of a scalar."""
    return NotImplemented if x.ndim else x.clone()


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``aten.copy``, for which vmap has no rule of its own and warns in every call."""
    return source.to(x, non_blocking=non_blocking).expand(x.shape).clone()


def _biased_product(bias: Tensor, left: Tensor, right: Tensor, **factors: float) -> Tensor:
    """``aten.addmm`` and ``aten.baddbmm``, with the sum left to whatever reads it.

    BLAS adds to what is there, so that the bias would first be copied into every row.
    """
    if factors or left.device.type != "cpu":
        return NotImplemented
    if left.ndim == 2:
        product = _product(left, right)
        if product is NotImplemented:  # in a batch, or the compiler puts the sum back
            product = torch.bmm(left.unsqueeze(0), right.unsqueeze(0)).squeeze(0)
        return product + bias
    return torch.bmm(left, right) + bias


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``aten.mm`` of a tall or a long matrix, as a batch with a product for each thread.

    BLAS shares small products badly. With rows shared like this, a thread also finds in its cache
    what it wrote before.
    """
    (rows, inner), columns = left.shape, right.shape[-1]
    parts = torch.get_num_threads()
    if parts == 1 or left.device.type != "cpu":
        return NotImplemented
    if rows >= _TALL * inner and rows % parts == 0:
        tall = left.reshape(parts, rows // parts, inner)
        return torch.bmm(tall, right.expand(parts, inner, columns)).view(rows, columns)
    if inner >= _TALL * max(rows, columns) and inner % parts == 0:
        slices = left.mT.reshape(parts, inner // parts, rows).mT
        return torch.bmm(slices, right.reshape(parts, inner // parts, columns)).sum(0)
    return NotImplemented


def _sum_at(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """``aten.index_add``, the gradient of ``index_select``, of a few entries.

    For several threads torch 2.13 adds atomically, and where it also transposes, at indices of
    another axis, outside the tensor.
    """
    if x.device.type != "cpu" or torch.get_num_threads() == 1:
        return NotImplemented
    hits = torch.arange(x.shape[dim], device=x.device).unsqueeze(-1) == index
    parts = source.movedim(dim, -1).unsqueeze(-2)
    return x + alpha * torch.where(hits, parts, 0).sum(-1).movedim(-1, dim)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``aten.native_layer_norm``, with one root for each row and not for each entry."""
    dims = list(range(-len(shape), 0))
    mean = x.mean(dims, keepdim=True)
    centered = x - mean
    inverse_deviation = stored((centered.square().mean(dims, keepdim=True) + eps).rsqrt())
    normalized = centered * inverse_deviation
    if weight is not None:
        normalized = normalized * weight
    if bias is not None:
        normalized = normalized + bias
    return normalized, mean, inverse_deviation


def _fold_sequences(traced: GraphModule) -> None:
    """Make constants of sequences of integers, and of what follows from these alone.

    Compiled code otherwise computes them anew, entry by entry, wherever it reads them.
    """
    values: dict[Node, Tensor] = {}
    for node in traced.graph.nodes:
        parents = node.all_input_nodes
        follows = parents and node.op == "call_function" and all(p in values for p in parents)
        if node.target in _SEQUENCES or follows:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    for index, (node, value) in enumerate(values.items()):
        if not all(user in values for user in node.users):
            name = f"sequence_{index}"
            traced.register_buffer(name, value)
            with traced.graph.inserting_before(node):
                constant = traced.graph.get_attr(name)
            node.replace_all_uses_with(constant)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _view(graph: torch.fx.Graph, argument: Node, whole: Tensor, part: Tensor) -> Node:
    offset = part.storage_offset() - whole.storage_offset()
    if part.is_contiguous():
        flat = graph.call_function(_aten.view.default, (argument, [-1]))
        piece = graph.call_function(_aten.slice.Tensor, (flat, 0, offset, offset + part.numel()))
        return graph.call_function(_aten.view.default, (piece, list(part.shape)))
    # Strides count from the start of the storage, which an argument may share: hence a copy.
    copy = graph.call_function(_aten.clone.default, (argument,))
    return graph.call_function(
        _aten.as_strided.default, (copy, list(part.shape), list(part.stride()), offset)
    )


def _is_random(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in tags


def _is_in_place(node: Node) -> bool:
    operator: Any = node.target
    return bool(operator._schema.name.endswith("_"))


def _can_follow(before: Node, node: Node) -> bool:
    """Whether both draw rows of integers from one range, as one draw of a longer row would.

    A CPU's generator gives such integers one after the other.
    """
    return (
        node.target is before.target is _aten.randint.low
        and node.args[:2] == before.args[:2]
        and node.kwargs == before.kwargs
        and all(len(cast(Sequence[int], each.args[2])) == 1 for each in (before, node))
    )


def _count(node: Node) -> int:
    """How many integers a draw that others can follow has."""
    (count,) = cast(Sequence[int], node.args[2])
    return count


def _drawing(run: Sequence[Node], device: torch.device) -> Callable[[], Tensor]:
    """What repeats a draw, or several at once that follow each other."""
    node = run[0]
    operator: Any = node.target
    first, *rest = node.args
    if any(isinstance(entry, Node) for entry in (*rest, *node.kwargs.values())):
        raise NotImplementedError(f"{operator} draws from a distribution that is computed.")
    function = _FUNCTIONS.get(operator, operator)
    if len(run) > 1:
        return partial(function, *node.args[:2], [sum(map(_count, run))], **node.kwargs)
    if not isinstance(first, Node):
        return partial(function, *node.args, **node.kwargs)
    if not (_is_in_place(node) or operator._schema.name.endswith("_like")):
        raise NotImplementedError(f"{operator} draws from a distribution that is computed.")
    meta = node.meta["tensor_meta"]

    def draw() -> Tensor:
        # The same operator, on an empty tensor where it only reads a shape.
        empty = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)
        return operator(empty, *rest, **node.kwargs)

    return draw
