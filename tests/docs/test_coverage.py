"""Every public name has a docstring with an example, and stands in the reference."""

import importlib
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))

import api

NO_EXAMPLE = {
    "Base": "abstract",
    "Layer": "abstract",
    "Elementwise": "abstract",
    "Temperature": "abstract",
    "DensityModel": "a protocol",
    "SoftValueModel": "a protocol",
    "Experience": "a protocol",
    "ClosedFormValue": "made by EnergyBasedFlow.value_module",
    "Evaluation": "made by evaluate",
    "Robustness": "made by robustness",
    "Rollouts": "in the example of Rollouts.sample",
    "Backtest": "in the example of Backtest.statistics",
    "Prices": "in the example of Prices.of",
    "historical": "needs skfolio",
    "CompilationError": "an exception",
    "NonFiniteError": "an exception",
    "TaskError": "an exception",
    "MeowConfig": "settings: see meow",
    "SacConfig": "settings: see sac",
    "Td3Config": "settings: see td3",
    "SoftQConfig": "settings: see soft_q",
    "PpoConfig": "settings: see ppo",
    "FlowSacConfig": "settings: see flow_sac",
    "SqlConfig": "settings: see sql",
    "DdpgConfig": "settings: see ddpg",
    "BcConfig": "settings: see bc",
    "DiscreteSacConfig": "settings: see discrete_sac",
    "DqnConfig": "settings: see dqn",
    "TrainerConfig": "settings: see Trainer",
    "Step": "in the example of Agent",
    "Rollout": "in the example of RolloutBuffer",
    "record_video": "writes a film",
    "Actors": "starts Ray: see tests/agents/cluster",
    "connected": "starts Ray: see tests/agents/cluster",
    "sweep": "starts Ray: see tests/agents/cluster",
    "Trial": "made by sweep",
}
"""Public names whose docstring needs no example, and why."""


def public() -> dict[str, object]:
    """Everything that is public, by its full name."""
    return {
        f"{package}.{name}": getattr(importlib.import_module(package), name)
        for package in api.PACKAGES
        for name in importlib.import_module(package).__all__
    }


CALLED = {name: entry for name, entry in public().items() if callable(entry)}


def docstring(entry):
    return (vars(entry).get("__doc__") if inspect.isclass(entry) else entry.__doc__) or ""


def test_everything_has_a_docstring():
    assert [name for name, entry in CALLED.items() if not docstring(entry)] == []


def test_docstrings_have_an_example_if_they_are_not_exempt():
    without = {name for name, entry in CALLED.items() if ">>>" not in docstring(entry)}
    assert {name.rpartition(".")[2] for name in without} == {*NO_EXAMPLE}


REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
_NAMES = re.compile(r"^\.\. api:: (?P<module>\S+)\n(?P<names>(?: +\S+\n|\n)+)", re.M)
_MODULE = re.compile(r"^\.\. py:module:: (\S+)$", re.M)


def documented() -> list[object]:
    """What the pages of the reference document."""
    entries: list[object] = []
    for page in REFERENCE.glob("*.rst"):
        text = page.read_text()
        entries += map(importlib.import_module, _MODULE.findall(text))
        for match in _NAMES.finditer(text):
            module = importlib.import_module(match["module"])
            names = [name for name in match["names"].split() if not name.startswith(":")]
            entries += [getattr(module, name) for name in names]
    return entries


def test_reference_has_every_public_name():
    known = {id(entry) for entry in documented()}
    assert [name for name, entry in public().items() if id(entry) not in known] == []


SHAPES = re.compile(r"shape|``\(|broadcast")


def takes_tensors(function: object) -> bool:
    notes = inspect.get_annotations(function)
    return any(re.search(r"\bTensor\b", str(note)) for note in notes.values())


def without_shapes(entry):
    """What takes or gives tensors and does not say in which shapes: the function itself or methods
    of the class; what a class derives from may say it."""
    if not inspect.isclass(entry):
        silent = takes_tensors(entry) and not SHAPES.search(entry.__doc__)
        return [entry.__name__] if silent else []
    own = [base for base in entry.__mro__ if base.__module__.startswith("maxentflow")]
    found = []
    for method, function in vars(entry).items():
        if not method.startswith("_") and inspect.isfunction(function) and takes_tensors(function):
            said = [getattr(getattr(base, method, None), "__doc__", "") or "" for base in own]
            said += [base.__doc__ or "" for base in own]
            if not SHAPES.search("".join(said)):
                found.append(method)
    return found


def test_shapes():
    found = {name: without_shapes(entry) for name, entry in CALLED.items()}
    assert {name: methods for name, methods in found.items() if methods} == {}
