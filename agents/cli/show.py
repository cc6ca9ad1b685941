"""``maxentflow show``: what a run is, and how it goes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from maxentflow.agents import registry
from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.cli.runs import state_of
from maxentflow.agents.training.archive import opened
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.run_folder import RunFolder, plain, read_metrics

__all__ = ["run", "shown_settings", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


@dataclass
class _Show:
    """Show a run: settings that differ from the defaults, versions, last metrics, and the returns
    of its evaluations as a line of bars."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or an archive of one."""


def run(arguments: list[str]) -> None:
    """Print what is known of a run."""
    path = parse(_Show, arguments, "show").run.expanduser()
    with opened(path) as folder:
        _show(path, folder)


def _show(path: Path, folder: RunFolder) -> None:
    content = folder.config()
    print(f"{path}: {content['agent']} in {content['env'] or 'a task'}, {state_of(folder)}")
    _table(*shown_settings(folder))
    if content["custom"]:
        _table("parts of one's own", dict.fromkeys(content["custom"], ""))
    _table("versions", folder.versions())
    rows = read_metrics(folder)
    try:
        if rows:
            last = {key: _number(text) for key, text in rows[-1].items() if text}
            _table("last metrics", last)
        returns = [float(row["eval_return"]) for row in rows if row.get("eval_return")]
    except ValueError as error:
        raise ValueError(f"{folder.metrics_path} is not the metrics of a run.") from error
    finite = [value for value in returns if math.isfinite(value)]
    if finite:
        many = "an evaluation" if len(returns) == 1 else f"{len(returns)} evaluations"
        print(f"\nreturns of {many}, {min(finite):.4g} to {max(finite):.4g}")
        print(f"  {sparkline(finite)}")


def shown_settings(folder: RunFolder) -> tuple[str, dict[str, Any]]:
    """A title, and the settings of a run that differ from the defaults of its agent and task; all
    of them where these are not known here.

    Raises:
        ValueError: the run's configuration cannot be read.
    """
    content = folder.config()
    own = content["agent_config"] | content["trainer_config"] | content["env_kwargs"]
    usual = _usual(content)
    if usual is None:
        return "settings", own
    different = {key: value for key, value in own.items() if usual.get(key, ...) != value}
    return "settings other than the defaults", different


def _usual(content: dict[str, Any]) -> dict[str, Any] | None:
    """The defaults of the run's agent and task, as plain values; ``None`` where it has parts that
    are not known here."""
    name, task = content["agent"], content["env"]
    if content["custom"] or name not in registry.registered():
        return None
    config, trainer = registry.config(name, task), TrainerConfig.for_task(task, name)
    return plain(dataclasses.asdict(config)) | plain(dataclasses.asdict(trainer))


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """Numbers as bars; of more than fit, the mean of neighbours.

    Example:
        >>> sparkline([0.0, 1.0, 2.0])
        '▁▅█'
    """
    count = min(len(values), width)
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    lowest, span = min(means), max(means) - min(means)
    heights = [0.5 if span == 0 else (mean - lowest) / span for mean in means]
    return "".join(_BARS[min(int(height * len(_BARS)), len(_BARS) - 1)] for height in heights)


def _number(text: str) -> str:
    number = float(text)
    return f"{int(number):,}" if number.is_integer() else f"{number:.4g}"


def _table(title: str, entries: dict[str, Any]) -> None:
    print(f"\n{title}")
    width = max(map(len, entries), default=0)
    for key, value in entries.items():
        print(f"  {key:{width}}  {value}")
    if not entries:
        print("  none")
