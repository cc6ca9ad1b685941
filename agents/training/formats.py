"""The formats that a policy is written in, each with what reads it again."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["NEEDED", "SUFFIXES", "WRITERS", "Format"]

Format = Literal["torch-export", "torchscript", "onnx"]
"""What a policy can be written as."""

SUFFIXES: dict[str, str] = {"torch-export": ".pt2", "torchscript": ".pt", "onnx": ".onnx"}
"""Of the file of each format."""

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages beside torch that a format needs."""

_Run = Callable[..., Tensor]


# Into memory: torch's own writers abort the process where a disk is full.
def _write_exported(policy: nn.Module, given: Sequence[Tensor], names: Any) -> tuple[bytes, _Run]:
    file = io.BytesIO()
    torch.export.save(_program(policy, given), file)
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


def _write_script(policy: nn.Module, given: Sequence[Tensor], names: Any) -> tuple[bytes, _Run]:
    # As it is, or else as its exported graph: TorchScript takes no autograd functions, and of a
    # graph no sizes that depend on the number of rows. Most policies have one of the two at most.
    learning = [entry for entry in policy.parameters() if entry.requires_grad]
    for entry in learning:
        entry.requires_grad_(False)
    try:
        refusal: Exception | None = None
        for function in (lambda: policy.forward, lambda: _program(policy, given).module()):
            try:
                traced = torch.jit.trace(function(), tuple(given), check_trace=False)
                file = io.BytesIO()
                torch.jit.save(traced, file)
                file.seek(0)
                loaded = torch.jit.load(file)
                loaded(*(entry[:1] for entry in given))
            except RuntimeError as error:
                refusal = error
            else:
                return file.getvalue(), loaded
    finally:
        for entry in learning:
            entry.requires_grad_(True)
    raise ValueError(
        "The policy cannot be exported to TorchScript; torch-export and onnx may do."
    ) from refusal


def _write_onnx(
    policy: nn.Module, given: Sequence[Tensor], names: Sequence[str]
) -> tuple[bytes, _Run]:
    import onnxruntime

    program = _program(policy, given)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what else it could do
    try:
        written: Any = torch.onnx.export(
            program,
            input_names=list(names),
            output_names=["action"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # of any kind, from deep within
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(f"The policy cannot be exported to ONNX: {reason}") from error
    content = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content)

    def run(*inputs: Tensor) -> Tensor:
        fed = {name: entry.numpy() for name, entry in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, fed)[0])

    return content, run


def _program(policy: nn.Module, given: Sequence[Tensor]) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    shapes: list[Any] = [{0: rows}]
    if len(given) > 1:
        shapes.append(tuple({0: rows} for _ in given[1:]))
    try:
        return torch.export.export(policy, tuple(given), dynamic_shapes=tuple(shapes))
    except Exception as error:  # of any kind, from deep within
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"The policy cannot be exported: {reason}.") from error


_Writer = Callable[[nn.Module, Sequence[Tensor], Sequence[str]], tuple[bytes, _Run]]
WRITERS: dict[str, _Writer] = {
    "torch-export": _write_exported,
    "torchscript": _write_script,
    "onnx": _write_onnx,
}
"""For each format, a function that gives a module, for example inputs with names, as the bytes of
a file, and what is read from these as a function."""
