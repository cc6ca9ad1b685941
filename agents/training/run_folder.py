"""A run's folder: configuration, metrics, checkpoints, figures."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import yaml

from maxentflow.agents.agent import Agent
from maxentflow.agents.training.config import LEARNING_SETTINGS, TrainerConfig
from maxentflow.agents.training.experience import Experience
from maxentflow.agents.training.files import load, load_yaml, save_atomically, write_atomically

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

__all__ = ["ChangedConfigError", "RunFolder", "plain", "read_metrics"]

_PACKAGES = ("maxentflow", "torch", "torchrl", "tensordict", "normflows", "gymnasium", "mujoco")
_ENTRIES = ("agent", "env", "env_kwargs", "agent_config", "custom", "trainer_config", "compile")
_KINDS = {"env_kwargs": dict, "agent_config": dict, "custom": list, "trainer_config": dict}


_OF_THE_TRAINER = "seed", *LEARNING_SETTINGS


class ChangedConfigError(ValueError):
    """``config.yaml`` has another agent, another task or other settings than a checkpoint."""


class RunFolder:
    """Paths of a run, and reading and writing what lies there.

    ============================ ==================================================
    ``config.yaml``              all that is needed to repeat the run, with versions
    ``metrics.csv``              one row per log step
    ``tensorboard/``             the same for TensorBoard
    ``checkpoints/latest.pt``    the complete state, but for the replay
    ``checkpoints/previous.pt``  that of the checkpoint before, should the latest be damaged
    ``checkpoints/replay/``      the replay of both, in chunks that are written once
    ``checkpoints/best.pt``      the policy with the highest return of an evaluation so far
    ``figures/``                 pictures
    ``videos/``                  films of evaluations
    ``lock``                     held by the process that trains
    ============================ ==================================================

    Args:
        path: the folder; :meth:`create` makes it.

    Example:
        >>> import tempfile
        >>> from maxentflow import agents, envs
        >>> env = envs.make("maxentflow/MultiGoal-v0")
        >>> agent = agents.make("meow", env)
        >>> config = TrainerConfig(total_steps=40, warmup_steps=32, batch_size=16, eval_every=0)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = RunFolder(f"{place}/run")
        ...     folder.create(agent, config, envs.task_id(env))
        ...     agents.Trainer(agent, env, config, folder, progress=False).run()
        ...     folder.load_checkpoint()["step"]
        40
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.csv"
        self.checkpoint_path = self.path / "checkpoints" / "latest.pt"
        self.previous_path = self.checkpoint_path.with_name("previous.pt")
        self.replay_path = self.path / "checkpoints" / "replay"
        self.tensorboard_path = self.path / "tensorboard"
        self.figures_path = self.path / "figures"
        self.videos_path = self.path / "videos"
        self._distrusts_latest = False  # it was found to be of no use; the one before is kept
        self._files: list[str] | None = None  # of the replay at the latest checkpoint
        self._lock: Any = None

    @classmethod
    def at(cls, checkpoint: Path) -> RunFolder:
        """A run as it was at one of the files in its ``checkpoints``, such as ``stopped_N.pt``: to
        use the policy, not to go on from there."""
        folder = cls(checkpoint.parent.parent)
        folder.checkpoint_path = folder.previous_path = checkpoint
        return folder

    def __str__(self) -> str:
        return str(self.path)

    def create(
        self,
        agent: Agent,
        config: TrainerConfig,
        env_id: str | None,
        env_kwargs: Mapping[str, Any] | None = None,
        *,
        compile: str = "auto",
        imports: Sequence[str] = (),
    ) -> None:
        """Make the folder and write the run's configuration.

        Args:
            agent: what is trained.
            config: how.
            env_id: the task's gymnasium id, if it has one.
            env_kwargs: keyword arguments of the environment.
            compile: whether ``maxentflow train`` is to compile: ``"auto"``, ``"on"`` or ``"off"``.
            imports: modules that register the flow, the agent or the task; who uses the run has to
                import them first.

        Raises:
            ValueError: there is a run already, or the folder cannot be made.
        """
        if self.config_path.exists():
            raise ValueError(
                f"{self.path} holds a run already; continue it with --resume {self.path}, "
                "or choose another --run-dir."
            )
        settings = agent.config
        custom = list(agent.custom)
        if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
            settings, custom = None, [*custom, "agent"]
        if env_id is None:
            custom.append("environment")
        options = plain(dict(env_kwargs or {}))
        try:
            yaml.safe_dump(options)
        except yaml.YAMLError:
            options, custom = {}, [*custom, "environment"]
        content = {
            "agent": agent.name,
            "env": env_id,
            "env_kwargs": options,
            "agent_config": {} if settings is None else plain(dataclasses.asdict(settings)),
            "custom": custom,
            "trainer_config": plain(dataclasses.asdict(config)),
            "compile": compile,
            "imports": list(imports),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        folders = self.figures_path, self.replay_path, *self.replay_path.parents
        new = [folder for folder in folders if not os.path.lexists(folder)]
        try:
            self.replay_path.mkdir(parents=True, exist_ok=True)
            self.figures_path.mkdir(exist_ok=True)
            self._write_config(content)
        except OSError as error:
            for folder in new:
                with suppress(OSError):
                    folder.rmdir()
            raise ValueError(
                f"Cannot make the run folder {self.path}: {error.strerror}."
            ) from error

    def config(self) -> dict[str, Any]:
        """The configuration as written.

        Raises:
            ValueError: no run here, or its configuration cannot be read.
        """
        content = self._read_config()
        wrong = [f"it lacks {name}" for name in _ENTRIES if name not in content] or [
            f"{name} is no {kind.__name__}"
            for name, kind in _KINDS.items()
            if not isinstance(content[name], kind)
        ]
        if wrong:
            raise ValueError(f"{self.config_path} is not a run's configuration: {wrong[0]}.")
        return {name: content[name] for name in _ENTRIES}

    def imports(self) -> list[str]:
        """Modules that register the run's flow, agent or task.

        Raises:
            ValueError: no run here, or its configuration cannot be read.
        """
        names = self._read_config().get("imports", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{self.config_path} is not a run's configuration.")
        return names

    def versions(self) -> dict[str, str]:
        """Versions of Python and of packages that the run was begun with.

        Raises:
            ValueError: no run here, or its configuration cannot be read.
        """
        versions = self._read_config().get("versions")
        return versions if isinstance(versions, dict) else {}

    def set_total_steps(self, total_steps: int) -> None:
        """Write a new length of the run into its configuration.

        Raises:
            ValueError: the file cannot be read or written.
        """
        content = self._read_config()
        content["trainer_config"]["total_steps"] = total_steps
        try:
            self._write_config(content)
        except OSError as error:
            raise ValueError(f"Cannot write to {self}: {error.strerror}.") from error

    def save_checkpoint(self, state: dict[str, Any], experience: Experience) -> Path:
        """Write the latest checkpoint atomically: a reader sees the one before or this one, whole.

        The one before is kept, and the one before that until this one is written. It notes the
        agent, the task and their settings, as ``config.yaml`` has them.

        Args:
            state: of the run, without its experience.
            experience: what the run learns from. If it has a method ``save``, such as
                :meth:`ReplayBuffer.save`, it writes itself into a folder of its own.

        Raises:
            OSError: it cannot be written; the two checkpoints before are as they were.
        """
        state = {**state, "settings": self._settings}
        if self._files is None and not self._distrusts_latest:  # the first of this process
            self._files = _files_of(self.checkpoint_path)
        keep: Path | None = self.previous_path
        files_before = self._files
        if files_before is None:  # the latest is missing or damaged
            files_before, keep = _files_of(self.previous_path) or [], None
        save = getattr(experience, "save", None)
        if save is None:
            return self._save({**state, "experience": experience.state_dict()}, "latest.pt", keep)
        self.replay_path.mkdir(parents=True, exist_ok=True)
        saved = save(self.replay_path)
        path = self._save({**state, "experience": saved}, "latest.pt", keep)
        self._files = list(saved["files"])
        for entry in self.replay_path.iterdir():
            if entry.name in {*self._files, *files_before}:
                continue
            if entry.is_dir():  # overwritten since, or from before a resume
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return path

    def newest_film(self) -> Path | None:
        """The last film of an evaluation, if there is one."""
        films = self.videos_path.glob("step_*.mp4")
        return max(films, key=lambda film: film.stat().st_mtime, default=None)

    def save_best(self, agent: Agent, step: int, result: float) -> Path:
        """Write the policy, in place of the best before.

        Args:
            agent: whose policy it is.
            step: of the run.
            result: mean return of its evaluation.

        Raises:
            OSError: it cannot be written; the policy before is as it was.
        """
        state = {"agent": agent.name, "step": step, "return": result}
        return self._save({**state, "policy": agent.policy.state_dict()}, "best.pt")

    def load_best(self) -> dict[str, Any]:
        """What :meth:`save_best` has written last: ``"policy"``, ``"step"`` and ``"return"``.

        Raises:
            ValueError: there is none yet, or it cannot be read.
        """
        path = self.checkpoint_path.with_name("best.pt")
        if not path.exists():
            raise ValueError(f"{self} has no best policy yet: it has not been evaluated.")
        try:
            state = load(path)
            return {name: state[name] for name in ("agent", "policy", "step", "return")}
        except Exception as error:  # anything may be in it
            raise ValueError(f"{path} is not a readable policy of maxentflow.") from error

    def save_stopped(self, state: dict[str, Any]) -> Path:
        """Write the whole state of a run that was stopped beside its latest checkpoint."""
        return self._save({**state, "settings": self._settings}, f"stopped_{state['step']}.pt")

    def load_checkpoint(self, *, previous: bool = False) -> dict[str, Any] | None:
        """The state at the latest checkpoint, or ``None`` if the run has not come to one.

        What its experience has written lies in :attr:`replay_path`.

        Args:
            previous: the checkpoint before that.

        Raises:
            ValueError: it cannot be read.
            ChangedConfigError: ``config.yaml`` has another agent, another task or other settings
                of theirs than it was saved with.
        """
        path = self.previous_path if previous else self.checkpoint_path
        if not path.exists():
            return None
        try:
            state = dict(load(path))  # of a tensor it is none
            saved = dict(state["settings"])
            _ = state["agent"], state["step"]
        except Exception as error:  # anything may be in it
            raise ValueError(f"{path} is not a readable checkpoint of maxentflow.") from error
        now = self._fixed()
        changed = [name for name in saved | now if saved.get(name, ...) != now.get(name, ...)]
        if changed:
            raise ChangedConfigError(
                f"{self.config_path} was changed: {', '.join(changed)} must be as in the "
                "checkpoint; change it back, or begin a new run."
            )
        return state

    def use_newest(
        self, use: Callable[[dict[str, Any], Path], object]
    ) -> tuple[Path | None, list[ValueError]]:
        """Give the newest checkpoint that is of use to who uses it.

        Args:
            use: takes a state and its file; it raises ValueError if the state is of no use.

        Returns:
            The file, ``None`` if the run has not come to one, and why newer ones were not used.

        Raises:
            ValueError: there are checkpoints, and none is of use; it says why of the newest.
            ChangedConfigError: see :meth:`load_checkpoint`.
        """
        refusals: list[ValueError] = []
        for path, previous in ((self.checkpoint_path, False), (self.previous_path, True)):
            try:
                state = self.load_checkpoint(previous=previous)
                if state is None:
                    if not previous and self.previous_path.exists():
                        refusals.append(ValueError(f"{path} is missing."))
                    continue
                use(state, path)
            except ChangedConfigError:
                raise
            except ValueError as error:
                refusals.append(error)
                continue
            self._distrusts_latest = previous
            return path, refusals
        if refusals:
            raise refusals[0]
        return None, []

    def begin(self) -> None:
        """Take the folder for a run, and note the configuration that it goes on with; nothing
        where it is taken already by this object.

        Raises:
            ValueError: another process trains in it, it cannot be written to, or its configuration
                cannot be read.
        """
        self.config()
        if self._lock is not None:
            return
        self.check_files()
        try:
            lock = open(self.path / "lock", "a")  # noqa: SIM115 (end closes it)
        except OSError as error:
            raise ValueError(f"Cannot write to {self}: {error.strerror}.") from error
        try:
            if fcntl is not None:
                _lock(lock)
        except BlockingIOError as error:
            lock.close()
            raise ValueError(f"{self} is being trained in by another process.") from error
        except OSError:  # a disk without locks
            pass
        self._lock = lock
        _ = self._settings

    def check_files(self) -> None:
        """Refuse folders where a run writes files: what it learns could not be kept.

        Raises:
            ValueError: there is one.
        """
        for path in (self.metrics_path, self.checkpoint_path, self.previous_path):
            if path.is_dir():
                raise ValueError(f"{path} is a folder, and a run writes a file there.")

    def is_locked(self) -> bool:
        """Whether a process trains in it; never on a system or a disk without locks."""
        path = self.path / "lock"
        if self._lock is not None:
            return True
        if fcntl is None or not path.exists():
            return False
        try:
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def end(self) -> None:
        """Leave the folder to other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return self._fixed()  # what is edited while a run goes on is not noted

    def _fixed(self) -> dict[str, Any]:
        if not self.config_path.exists():
            return {}
        content = self.config()
        fixed = {name: content[name] for name in ("agent", "env", "env_kwargs")}
        trainer_config = content["trainer_config"] or {}
        fixed |= {name: trainer_config.get(name) for name in _OF_THE_TRAINER}
        return content["agent_config"] | fixed

    def _save(self, state: dict[str, Any], name: str, keep: Path | None = None) -> Path:
        path = self.checkpoint_path.with_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(state, path, keep)
        return path

    def _read_config(self) -> dict[str, Any]:
        if not self.config_path.exists():
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml.")
        try:
            content = load_yaml(self.config_path)
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"{self.config_path} is not a run's configuration.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.config_path} is not a run's configuration.")
        return content

    def _write_config(self, content: dict[str, Any]) -> None:
        write_atomically(self.config_path, yaml.safe_dump(content, sort_keys=False).encode())


def _files_of(path: Path) -> list[str] | None:
    """The files of the replay at a checkpoint, as far as it says; ``None`` if it is not whole."""
    try:
        return list(load(path)["experience"]["files"])
    except ValueError:
        return None
    except (KeyError, TypeError):
        return []


def _lock(file: IO[str]) -> None:
    """Lock a file that others may look at for a moment, see :meth:`RunFolder.is_locked`."""
    for _ in range(9):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_metrics(folder: RunFolder) -> list[dict[str, str]]:
    """The whole rows of ``metrics.csv``; a last line cut short is left out.

    Raises:
        ValueError: the file is no table.
    """
    if not folder.metrics_path.exists():
        return []
    try:
        text = folder.metrics_path.read_text()
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{folder.metrics_path} cannot be read.") from error
    lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        if "\0" in text:
            raise csv.Error("a character that no table has")
        head, *rows = list(csv.reader(lines)) or [[]]
    except csv.Error as error:
        raise ValueError(f"{folder.metrics_path} is no table.") from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise ValueError(
                f"{folder.metrics_path} is no table: line {number} has {len(row)} cells, not "
                f"{len(head)}."
            )
    return [dict(zip(head, row, strict=True)) for row in rows]


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # MuJoCo is an extra
            continue
    return versions


def plain(value: Any) -> Any:
    """Tuples as lists, which is all that YAML's safe form lacks."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
