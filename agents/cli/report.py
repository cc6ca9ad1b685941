"""``maxentflow report``: one HTML page about runs, with nothing outside it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from maxentflow.agents.agent import Agent
from maxentflow.agents.cli import figures, page
from maxentflow.agents.cli.curves import check_once, is_evaluated, read_curves
from maxentflow.agents.cli.parsing import check_least, parse
from maxentflow.agents.cli.runs import COLUMNS, line_of
from maxentflow.agents.cli.show import shown_settings
from maxentflow.agents.task_errors import TaskError, close
from maxentflow.agents.training import RunFolder, collect, diagnose, record_video
from maxentflow.agents.training.description import Description, make_env, read, trained
from maxentflow.agents.training.files import check_place, write_atomically
from maxentflow.agents.training.health import Finding, health
from maxentflow.agents.training.run_folder import read_metrics

__all__ = ["run"]

_EPISODES = 2  # whose actions are looked at
_NOT_DRAWN = "step", "seconds", "steps_per_second", "episodes", "updates"


@dataclass
class _Report:
    """Write one HTML page about runs: learning curves, and for each run a health check, its
    metrics, its settings and a film. The page needs no other file and no network."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path = Path("report.html")
    """The page."""
    video: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Film an episode of each; without, the newest film in its folder is shown."""
    seed: int = 0
    """Of the episodes that are looked at."""


def run(arguments: list[str]) -> None:
    """Look at the runs, and write the page."""
    options = parse(_Report, arguments, "report")
    check_least(options, seed=0)
    if not options.runs:
        raise ValueError("report needs a run folder.")
    check_place(options.out, "page", ".html")
    folders = [RunFolder(path) for path in options.runs]
    check_once(folders)
    refused = 0
    with tempfile.TemporaryDirectory() as place:
        parts = [
            page.table(COLUMNS, map(line_of, folders)),
            _curves(folders, Path(place) / "curves.png"),
        ]
        for index, folder in enumerate(folders):
            parts.append(f"<h2>{escape(str(folder))}</h2>")
            try:
                parts.append(_about(folder, Path(place) / str(index), options))
            except (ValueError, FloatingPointError, TaskError) as error:
                refused += 1
                if refused == len(folders):  # nothing is left for a page
                    raise
                print(f"maxentflow: {error}", file=sys.stderr)
                parts.append(f'<p class="look">{escape(str(error))}</p>')
    text = page.page("maxentflow report", parts)
    try:
        write_atomically(options.out, text.encode())
    except OSError as error:
        raise ValueError(f"Cannot write {options.out}: {error.strerror}.") from error
    print(f"Page: {options.out}")


def _curves(folders: Sequence[RunFolder], path: Path) -> str:
    having = [folder for folder in folders if is_evaluated(folder)]
    if not having:
        return "<p>No run has been evaluated yet.</p>"
    try:
        figures.learning_curves(read_curves(having), path)
    except ValueError as error:  # such as two runs of a seed, which are no curve together
        return f"<h2>Returns of evaluations</h2><p>{escape(str(error))}</p>"
    return f"<h2>Returns of evaluations</h2>{page.image(path, 'Learning curves')}"


def _about(folder: RunFolder, place: Path, options: _Report) -> str:
    """All about one run."""
    place.mkdir()
    rows = _rows(folder)
    parts = []
    description = read(folder)
    env = make_env(description, 1)
    agent = trained(description, folder, env)
    close(env)
    parts.append(_health(_findings(description, agent, rows, options.seed)))
    columns = sorted({name for row in rows for name in row} - set(_NOT_DRAWN))
    if columns:
        figures.metrics(rows, columns, place / "metrics.png")
        parts.append(f"<h3>Metrics</h3>{page.image(place / 'metrics.png', 'Metrics over steps')}")
    film = _film(description, agent, folder, place, options)
    if film is not None:
        parts.append(f"<h3>An episode</h3>{page.video(film)}")
    title, settings = shown_settings(folder)
    parts.append(f"<h3>{title.capitalize()}</h3>")
    parts.append(page.table(("setting", "value"), settings.items()))
    parts.append(
        f"<h3>Versions</h3>{page.table(('package', 'version'), folder.versions().items())}"
    )
    return "".join(parts)


def _findings(
    description: Description, agent: Agent, rows: Sequence[Mapping[str, float]], seed: int
) -> list[Finding]:
    settings: dict[str, Any] = {"deterministic": True, "seed": seed, **description.env_kwargs}
    episodes = collect(agent.policy, description.env, episodes=_EPISODES, **settings)
    actions = np.concatenate([each["action"].numpy() for each in episodes])
    found = health(rows, agent, actions)
    if hasattr(agent.critic, "q_and_value"):
        env = make_env(description, _EPISODES)
        result = diagnose(agent, env, episodes=_EPISODES, seed=seed)
        close(env)
        numbers = result.numbers
        text = f"V is {numbers['value']:.4g}, soft returns are {numbers['soft_return']:.4g}. "
        text += " ".join(result.warnings)
        found.append(Finding("overestimation", not result.warnings, text))
    return found


def _health(findings: Iterable[Finding]) -> str:
    lines = "".join(
        f'<tr><td class="{"well" if each.is_well else "look"}">{escape(each.name)}</td>'
        f"<td>{escape(each.text)}</td></tr>"
        for each in findings
    )
    return f"<h3>Health</h3><table>{lines}</table>"


def _film(
    description: Description, agent: Agent, folder: RunFolder, place: Path, options: _Report
) -> Path | None:
    if options.video:
        settings: dict[str, Any] = {"seed": options.seed, **description.env_kwargs}
        record_video(agent.policy, description.env, place / "film.mp4", **settings)
        return place / "film.mp4"
    return folder.newest_film()


def _rows(folder: RunFolder) -> list[dict[str, float]]:
    try:
        return [
            {"step": float(row["step"])}
            | {name: float(text) for name, text in row.items() if text}
            for row in read_metrics(folder)
        ]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder.metrics_path} is not the metrics of a run.") from error
