"""Execute the notebooks of this folder and rewrite their outputs.

python examples/execute.py            # all of them, in full; what is refused is not written
python examples/execute.py 07 11      # those whose names begin so
python examples/execute.py --short    # with SHORT = True, as the tests do; writes nothing
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from copy import deepcopy
from multiprocessing.connection import Connection
from pathlib import Path

try:
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import NotebookNode
except ImportError as error:
    raise SystemExit(
        f"Executing notebooks needs {error.name}: pip install nbclient nbformat ipykernel"
    ) from None

FOLDER = Path(__file__).resolve().parent
LARGEST = 1_000_000
"""Bytes of a notebook with its outputs."""
PRELOADED = (
    "torch",
    "torchrl.collectors",
    "torchrl.data",
    "torchrl.envs",
    "torchrl.objectives",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "scipy.stats",
    "normflows",
    "maxentflow.flows",
    "maxentflow.objectives",
    "maxentflow.envs",
    "maxentflow.agents.training",
)
"""What notebooks import; their short forms start as forks of one process that has it."""

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_SHORT = re.compile(r"^SHORT = False\b", re.MULTILINE)
_LOCAL = {
    "an absolute path": r"(?<![\w.:/])/(?:home|mnt|opt|private|root|tmp|usr|var|work|Users)/\w",
    "a Windows path": r"\b[A-Z]:\\\w",
    "a date": r"\b20\d\d-\d\d-\d\d\b",
    "a time of day": r"\b\d\d:\d\d:\d\d\b",
    "a progress bar": r"\d%\|",
    "an address in memory": r"\b0x[0-9a-f]{8,}\b",
}
_SAYS = ("print", "display", "show")


def notebooks(beginnings: Sequence[str] = ()) -> list[Path]:
    """The notebooks of this folder, in order.

    Args:
        beginnings: of the names wanted; all without any.

    Raises:
        ValueError: nothing begins like that.
    """
    paths = sorted(FOLDER.glob("*.ipynb"))
    for beginning in beginnings:
        if not any(path.name.startswith(beginning) for path in paths):
            names = ", ".join(path.stem for path in paths)
            raise ValueError(f"No notebook begins with {beginning!r}; there are {names}.")
    return [path for path in paths if not beginnings or path.name.startswith(tuple(beginnings))]


def execute(notebook: NotebookNode, folder: Path = FOLDER) -> NotebookNode:
    """A notebook with the outputs of a fresh kernel, and nothing of this machine in its metadata.

    Raises:
        CellExecutionError: a cell failed.
    """
    executed = deepcopy(notebook)
    client = NotebookClient(
        executed,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],
    )
    # One thread: sums are then taken in the same order, and numbers are the same, everywhere.
    client.execute(
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    )
    strip(executed)
    return executed


def strip(notebook: NotebookNode) -> None:
    """Leave the tags of cells, and the name of the kernel, as the only metadata."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


def problems(notebook: NotebookNode) -> Iterator[str]:
    """What keeps a notebook from being committed, a sentence each."""
    first, parameters, *_, last = notebook.cells
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "The first cell is not a title."
    if parameters.metadata.get("tags") != ["parameters"] or not _SHORT.search(parameters.source):
        yield "The second cell is not tagged 'parameters' or does not set SHORT = False."
    if last.cell_type != "markdown" or "## Exercises" not in last.source:
        yield "The last cell has no '## Exercises'."
    if notebook.metadata != _METADATA or any(set(c.metadata) - {"tags"} for c in notebook.cells):
        yield "There is metadata beside the kernel's name and the tags of cells."
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST:
        yield f"It has {size:,} bytes, more than {LARGEST:,}."
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        where = f"Code cell {number}, which begins {cell.source.splitlines()[0]!r},"
        if cell.execution_count != number:
            yield f"{where} was not executed in its turn."
        if _says_something(cell.source) and not cell.outputs:
            yield f"{where} prints or draws, and has no output."
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                said = output.get("text") or f"{output.get('ename')}: {output.get('evalue')}"
                yield f"{where} writes to standard error: {said.strip().splitlines()[-1]}"
            for what, found in _of_this_machine(output):
                yield f"{where} shows {what}: {found!r}."


def run_short(path: Path, *, timeout: float = 120.0) -> tuple[list[str], float]:
    """Run a notebook's short form in a process of its own.

    Args:
        path: of the notebook; it is not written.
        timeout: seconds until it is ended.

    Returns:
        What a reader would be surprised by, a sentence each, and the processor's seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_and_send, args=(path, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            return [f"It was not done after {timeout:.0f} seconds."], timeout
        return receiver.recv()
    except EOFError:
        child.join()
        return [f"Its process ended with exit code {child.exitcode}."], 0.0
    finally:
        child.join(5)
        child.kill()
        child.join()


def _run_and_send(path: Path, sender: Connection) -> None:
    with tempfile.TemporaryFile("w+") as past:
        for stream in (1, 2):  # what is written past Python's own streams, as a logger may
            os.dup2(past.fileno(), stream)
        began = time.process_time()
        found = _run_cells(path)
        seconds = time.process_time() - began
        past.seek(0)
        if not found and (said := past.read().strip()):
            found = [f"It writes past Python's streams:\n\n{said}"]
    sender.send((found, seconds))


def _run_cells(path: Path) -> list[str]:
    """Run the cells with IPython, without the second or two that a kernel takes to start."""
    import matplotlib

    os.chdir(path.parent)
    shell = InteractiveShell.instance(history_load_length=0)
    shell.history_manager.enabled = False
    shell.colors = "nocolor"
    matplotlib.use("module://matplotlib_inline.backend_inline")  # figures are drawn, as in a page
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            continue
        source = cell.source
        tags = cell.metadata.get("tags", ())
        if "parameters" in tags:
            source = _SHORT.sub("SHORT = True", source)
        with capture_output() as captured:
            result = shell.run_cell(source, store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            said = "".join(traceback.format_exception(error))
            return [f"This cell fails:\n\n{source}\n\n{said}"]
        if captured.stderr.strip() and "warns" not in tags:
            return [f"This cell warns:\n\n{source}\n\n{captured.stderr}"]
    return []


def _says_something(source: str) -> bool:
    """Whether a cell prints or draws where it stands, outside of functions that it defines."""
    tree = ast.parse("\n".join(re.sub(r"^[%!].*", "", line) for line in source.splitlines()))
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name in _SAYS:
                return True
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
    return False


def _of_this_machine(output: NotebookNode) -> Iterator[tuple[str, str]]:
    """What an output shows of where and when it was made."""
    shown = [output.get("text", ""), *output.get("data", {}).items()]
    texts = [entry if isinstance(entry, str) else entry[1] for entry in shown]
    kinds = ["text/plain", *output.get("data", {})]
    patterns = {**_LOCAL, "a machine's name": rf"\b{re.escape(socket.gethostname())}\b"}
    for kind, text in zip(kinds, texts, strict=True):
        if "widget" in kind:
            yield "a widget", kind
        if not kind.startswith("text/"):
            continue
        for what, pattern in patterns.items():
            if match := re.search(pattern, text):
                yield what, match.group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute notebooks and say what each came to; the number of those refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 07; all by default")
    parser.add_argument("--short", action="store_true", help="run short forms, write nothing")
    options = parser.parse_args(arguments)
    try:
        paths = notebooks(options.names)
    except ValueError as error:
        parser.error(str(error))
    refused = 0
    for path in paths:
        print(f"{path.name}: ", end="", flush=True)
        if options.short:
            found, seconds = run_short(path)
            verdict = f"runs, {seconds:.1f} s"
        else:
            found, verdict = _rewrite(path), "executed"
        print("\n  ".join(["refused", *found]) if found else verdict, flush=True)
        refused += bool(found)
    return refused


def _rewrite(path: Path) -> list[str]:
    """Execute a notebook in full and write it, unless there are problems; give them."""
    try:
        executed = execute(nbformat.read(path, 4), path.parent)
    except CellExecutionError as error:
        return [str(error)]
    found = list(problems(executed))
    if not found:
        nbformat.write(executed, path)
    return found


if __name__ == "__main__":
    sys.exit(main())
