"""Settings from plain values, checked against annotations."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml

from maxentflow import agents
from maxentflow.agents import TrainerConfig, registry
from maxentflow.agents.training.description import settings

from ..common import SMALL, task


@dataclass
class Settings:
    shared: ClassVar[int] = 3
    number: float = 0.0
    count: Annotated[int, "how many"] = 0
    flag: bool = False
    limit: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    sizes: tuple[int, ...] = ()
    kind: Literal["one", "two"] = "one"
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    anything: Any = None


ACCEPTED = [
    ("number", 1, 1),
    ("number", 0.5, 0.5),
    ("count", 7, 7),
    ("flag", True, True),
    ("limit", None, None),
    ("limit", 2, 2),
    ("pair", [1, 2.5], (1, 2.5)),
    ("sizes", [], ()),
    ("sizes", [1, 2, 3], (1, 2, 3)),
    ("kind", "two", "two"),
    ("options", {"a": True, "b": 1, "c": 0.5, "d": "e"}, {"a": True, "b": 1, "c": 0.5, "d": "e"}),
    ("names", ["a"], ["a"]),
    ("anything", {"a": [None]}, {"a": [None]}),
]
REFUSED = [
    ("number", None, "number must be float, got None."),
    ("number", True, "number must be float, got True."),
    ("number", "1e-3", "number must be float, got '1e-3'."),
    ("count", 1.5, "count must be int, got 1.5."),
    ("count", True, "count must be int, got True."),
    ("flag", 1, "flag must be bool, got 1."),
    ("limit", "none", "limit must be float | None, got 'none'."),
    ("pair", [1.0], r"pair must be tuple\[float, float\], got \[1.0\]."),
    ("pair", 1.0, "pair must be tuple"),
    ("sizes", ["a"], r"sizes must be tuple\[int, ...\], got \['a'\]."),
    ("kind", "three", r"kind must be Literal\['one', 'two'\], got 'three'."),
    ("options", {"a": None}, "options must be dict"),
    ("options", {1: 2}, "options must be dict"),
    ("names", [1], "names must be list"),
    ("shared", 4, "there is no setting 'shared'; known: number, count"),
    ("colour", 4, "there is no setting 'colour'; known: number, count"),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_accepted(name, value, expected):
    (taken,) = settings(Settings, {name: value}).values()
    assert taken == expected
    assert type(taken) is type(expected)


@pytest.mark.parametrize(("name", "value", "says"), REFUSED)
def test_refused(name, value, says):
    with pytest.raises(ValueError, match=says):
        settings(Settings, {name: value})


@pytest.mark.parametrize("name", agents.registered())
def test_every_agents_settings_come_back(name, tmp_path):
    """As they are written to config.yaml."""
    from maxentflow import envs

    env_id = task(name)
    env = envs.make(env_id)
    folder = agents.RunFolder(tmp_path / "run")
    agent = agents.make(name, env, **SMALL[name])
    folder.create(agent, TrainerConfig.for_task(env_id, name), env_id)
    content = yaml.safe_load(folder.config_path.read_text())
    kind = registry.config_type(name)
    assert kind(**settings(kind, content["agent_config"])) == agent.config
    trainer = settings(TrainerConfig, content["trainer_config"])
    assert TrainerConfig(**trainer) == TrainerConfig.for_task(env_id, name)
