"""Functions of tensors as CUDA graphs.

Not :class:`tensordict.nn.CudaGraphModule`, read in version 0.14:

* it waits for the GPU (``torch.cuda.synchronize``) before every launch; an update or an action
  here is launched while the GPU still works at the one before;
* it copies every argument at every launch, so that vectors that are written in place have to be
  closed over, which leaves no more than what stands below;
* it records in its second call, among updates that count, and without a GPU it runs the function
  unrecorded, so that no test on a CPU would see how it is used;
* making one takes tensordicts out of torch's pytree for the whole process.

Neither has been measured on a GPU against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["CudaGraph"]

Replay = Callable[[], object]
Capture = Callable[[Callable[[], Sequence[Tensor]]], tuple[Sequence[Tensor], Replay]]


class CudaGraph:
    """A function recorded once and then launched as a whole, without the CPU's part in it.

    What else the function reads and writes than its inputs must stay where it is. It may draw
    random numbers: a launch takes them from torch's generator as a call would.

    Args:
        function: of a list of tensors, on a GPU; it has been called before, so that everything in
            it is compiled.
        inputs: tensors such as it is going to be given; shapes are fixed.
        capture: records a call; torch's CUDA graphs by default.

    Example:
        >>> def repeat(function):  # in place of a GPU
        ...     outputs = function()
        ...     return outputs, lambda: [o.copy_(n) for o, n in zip(outputs, function())]
        >>> double = CudaGraph(lambda inputs: [2 * inputs[0]], [torch.ones(2)], capture=repeat)
        >>> double([torch.full((2,), 3.0)])
        [tensor([6., 6.])]
    """

    def __init__(
        self,
        function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        capture: Capture | None = None,
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        capture = _capture if capture is None else capture
        self._outputs, self._replay = capture(lambda: function(self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the function gives; does not wait for it."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._replay()
        return [output.clone() for output in self._outputs]


def _capture(function: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Replay]:
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            outputs = function()
    finally:
        torch.cuda.set_stream(stream)  # which a failed recording does not go back to
    return outputs, graph.replay
