"""``maxentflow package``: a trained policy as one file, with a model card."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from maxentflow.agents.cli import imports
from maxentflow.agents.cli.parsing import check_least, parse, quoted
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import Evaluation, RunFolder, evaluate, record_video
from maxentflow.agents.training.archive import check_new, pack
from maxentflow.agents.training.description import Description, make_env, read, trained
from maxentflow.agents.training.evaluation import AT_ONCE

__all__ = ["run"]


@dataclass
class _Package:
    """Write the weights, the configuration and the metrics of a run as one .zip file, with a model
    card in the format of the model hubs. Nothing in it is executed when it is used."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path | None = None
    """The file; the name of the run's folder and .zip by default."""
    episodes: int = 20
    """Episodes of the evaluation that the card reports."""
    seed: int = 0
    """Of the first episode; episode i starts from seed + i."""
    video: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Film an episode, for the card; without, the newest film in the run's folder is taken."""


def run(arguments: list[str]) -> None:
    """Evaluate, write, and say where."""
    options = parse(_Package, arguments, "package")
    check_least(options, episodes=1, seed=0)
    folder = RunFolder(options.run)
    out = options.out or Path(f"{folder.path.resolve().name}.zip")
    check_new(out.expanduser())
    description = read(folder)
    env = make_env(description, min(options.episodes, AT_ONCE))
    policy = trained(description, folder, env).policy
    result = evaluate(policy, env, episodes=options.episodes, seed=options.seed)
    close(env)
    with tempfile.TemporaryDirectory() as place:
        video = folder.newest_film()
        if options.video:
            video = Path(place) / "video.mp4"
            settings: dict[str, Any] = {"seed": options.seed, **description.env_kwargs}
            record_video(policy, description.env, video, **settings)
        card = _card(description, folder, result, options.seed, video)
        pack(folder, out, card=card, video=video)
    print(f"{out}: {description.agent} in {description.env}, mode: {result}")
    print(f"Next:\n  maxentflow evaluate{imports.words()} {quoted(out)}")


def _card(
    description: Description,
    folder: RunFolder,
    result: Evaluation,
    seed: int,
    video: Path | None,
) -> str:
    """A model card, with the metadata that model hubs read."""
    config = description.trainer_config
    mean, deviation = float(result.returns.mean()), float(result.returns.std())
    metric = {
        "type": "mean_reward",
        "name": "mean_reward",
        "value": f"{mean:.2f} +/- {deviation:.2f}",
    }
    about = {
        "library_name": "maxentflow",
        "tags": ["reinforcement-learning", "maximum-entropy", description.agent, description.env],
        "model-index": [
            {
                "name": description.agent,
                "results": [
                    {
                        "task": {
                            "type": "reinforcement-learning",
                            "name": "reinforcement-learning",
                        },
                        "dataset": {"type": description.env, "name": description.env},
                        "metrics": [metric],
                    }
                ],
            }
        ],
    }
    versions = "".join(f"| {name} | {version} |\n" for name, version in folder.versions().items())
    film = "\n[An episode](video.mp4)\n" if video is not None else ""
    return f"""---
{yaml.safe_dump(about, sort_keys=False)}---
# {description.agent} in {description.env}

Trained with maxentflow for {config.total_steps:,} environment steps at most, seed {config.seed}.
Mode of the policy: {result}, from seed {seed} on.
{film}
```bash
pip install "maxentflow[all]"
maxentflow evaluate ARCHIVE.zip --episodes {len(result.returns)} --seed {seed}
```

`config.yaml` has all settings, `metrics.csv` the course of training.

| package | version in training |
| --- | --- |
{versions}"""
