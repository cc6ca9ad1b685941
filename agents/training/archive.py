"""A trained policy as one file, to share it and to run it elsewhere."""

from __future__ import annotations

import lzma
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maxentflow.agents.training.files import check_place
from maxentflow.agents.training.run_folder import RunFolder
from maxentflow.envs.tasks import TORCHRL

__all__ = ["check_new", "opened", "pack"]

CARD = "README.md"
VIDEO = "video.mp4"
_NEEDED = "config.yaml", "checkpoints/latest.pt"
_NAMES = *_NEEDED, "checkpoints/best.pt", "metrics.csv", CARD, VIDEO
_DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError
_FOLDERS = ("checkpoints/",)  # entries that some programs add
_LARGEST = 4 * 2**30  # bytes of all files, unpacked


def pack(
    folder: RunFolder, path: str | os.PathLike[str], *, card: str, video: Path | None = None
) -> None:
    """Write configuration, weights and metrics of a run as one archive.

    The replay is left out: the archive can be evaluated, not trained on.

    Args:
        folder: of the run.
        path: a new .zip file.
        card: what a reader should know, in Markdown.
        video: a film that goes with it.

    Raises:
        ValueError: the run has no checkpoint yet, there is such a file, or it cannot be written.
    """
    path = Path(path).expanduser()
    check_new(path)
    newest, _ = folder.use_newest(lambda state, path: None)
    if newest is None:
        raise ValueError(f"{folder} has no checkpoint yet.")
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        with zipfile.ZipFile(unfinished, "x", zipfile.ZIP_DEFLATED) as archive:
            archive.write(newest, "checkpoints/latest.pt")
            for name in ("config.yaml", "checkpoints/best.pt", "metrics.csv"):
                if (folder.path / name).is_file():
                    archive.write(folder.path / name, name)
            archive.writestr(CARD, card)
            if video is not None:
                archive.write(video, VIDEO)
        os.replace(unfinished, path)
    except OSError as error:
        raise ValueError(f"Cannot write to {path}: {error.strerror or error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def check_new(path: Path) -> None:
    """Refuse a path that no new archive can have.

    Raises:
        ValueError: it is no .zip file, there is one already, or its folder is missing.
    """
    check_place(path, "archive", ".zip")
    if path.exists():
        raise ValueError(f"There is a file {path} already.")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[RunFolder]:
    """A run folder, one as it was at a checkpoint of it, or an archive as one for as long as the
    context lasts.

    Nothing in an archive is executed, and nothing is written outside a temporary folder.

    Raises:
        ValueError: the file is no archive of a run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        yield RunFolder(path)
        return
    if path.suffix == ".pt":
        yield RunFolder.at(path)
        return
    with tempfile.TemporaryDirectory() as place:
        try:
            _unpack(path, Path(place))
            _check_task(RunFolder(place))
            yield RunFolder(place)
        except ValueError as error:  # in the user's words
            raise ValueError(str(error).replace(place, str(path))) from error


def _check_task(folder: RunFolder) -> None:
    """Refuse a task that gymnasium would import a module for: it may be anybody's choice."""
    module, colon, _ = str(folder.config()["env"] or "").partition(":")
    if colon and f"{module}:" != TORCHRL and module not in sys.modules:
        raise ValueError(
            f"{folder} needs the module {module!r}, which makes its task: if you trust it, give "
            f"--import {module}, or import it before."
        )


def _unpack(path: Path, place: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename not in _FOLDERS]
            names = [entry.filename for entry in entries]
            others = [name for name in names if name not in _NAMES]
            missing = [name for name in _NEEDED if name not in names]
            if others or missing:
                what = f"it holds {others[0]!r}" if others else f"it lacks {missing[0]!r}"
                raise ValueError(f"{path} is no archive of a run: {what}.")
            if sum(entry.file_size for entry in entries) > _LARGEST:
                raise ValueError(f"{path} is no archive of a run: it is larger than 4 GiB.")
            for name in names:
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(archive.read(name))  # compares checksums
    except (*_DAMAGE, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no archive of a run: {error}.") from error
