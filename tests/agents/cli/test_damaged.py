"""Any damage to any file of a run: a command works, or refuses in one sentence, and never with a
traceback."""

import contextlib
import csv
import io
import shutil

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.training.files import save_atomically

from ..common import differences
from .test_any_input import CASES, cases
from .tiny import without_progress, words

GOES_ON = ["train", "--resume", "RUN", "--total-steps", "70"]
COMMANDS = (
    GOES_ON,
    ["evaluate", "RUN", "--episodes", "1", "--max-steps", "5"],
    ["evaluate", "RUN", "--best", "--episodes", "1", "--max-steps", "5"],
    ["plot", "RUN", "--out", "plot.png"],
    ["show", "RUN"],
    ["runs", "."],
    ["diagnose", "RUN", "--episodes", "1", "--out", "diagnosis.png"],
    ["package", "RUN", "--episodes", "1", "--out", "run.zip"],
    ["report", "RUN", "--out", "page.html"],
    ["export", "RUN", "--out", "policy.pt", "--format", "torchscript"],
)
JUNK = (None, [], {}, "x", "", -1, 3, 2**70, 1e300, float("nan"), float("inf"), True, [[1], "y"])
FILES = "config.yaml", "metrics.csv", "latest.pt", "previous.pt", "best.pt", "replay"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, probe):
    folder = tmp_path_factory.mktemp("damaged") / "whole"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(words(folder, "sac"))
    return folder


def learned(state):
    """Networks, optimisers and random numbers."""
    return {name: state[name] for name in ("step", "policy", "loss", "optimizers", "random_state")}


def leaves(value, way=()):
    """Ways to all entries of nested dicts and lists."""
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, entry in entries:
        yield (*way, key)
        yield from leaves(entry, (*way, key))


def change(data, content):
    """Replace or remove an entry."""
    *way, last = data.draw(st.sampled_from(list(leaves(content))))
    place = content
    for key in way:
        place = place[key]
    now = place[last]
    kinds = ["junk", "remove"]
    if isinstance(now, torch.Tensor):
        kinds += ["reshape", "nan", "double"]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "remove":
        del place[last]
    elif kind == "reshape":
        place[last] = torch.zeros(3, 2)
    elif kind == "nan":
        place[last] = torch.full(now.shape, torch.nan)
    elif kind == "double":
        place[last] = now.double()
    else:
        place[last] = data.draw(st.sampled_from(JUNK))


def damage_bytes(data, path):
    kinds = ["cut", "flip", "insert", "empty", "remove", "folder", "link"]
    kind = data.draw(st.sampled_from(kinds))
    content = path.read_bytes()
    at = data.draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "cut":
        path.write_bytes(content[:at])
    elif kind == "flip":
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
    elif kind == "insert":
        path.write_bytes(content[:at] + data.draw(st.binary(min_size=1)) + content[at:])
    else:
        path.unlink()
        if kind == "empty":
            path.touch()
        elif kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(path.with_name("nowhere"))


def damage_entries(data, path):
    """One that no checksum can tell: somebody wrote the file anew."""
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        change(data, content)
        save_atomically(content, path)
    elif path.suffix == ".yaml":
        content = yaml.safe_load(path.read_text())
        change(data, content)
        path.write_text(yaml.safe_dump(content))
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.open()))
        row = data.draw(st.sampled_from(rows))
        cell = data.draw(st.integers(0, len(row) - 1))
        row[cell] = str(data.draw(st.sampled_from(JUNK)))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        damage_bytes(data, path)


@pytest.fixture(scope="module")
def gone_on(whole, tmp_path_factory):
    """The last state of the undamaged run, after the command that goes on."""
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "gone on")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main([word.replace("RUN", str(folder)) for word in GOES_ON])
    return RunFolder(folder).load_checkpoint()


@cases(max(CASES // 12, 1))
@given(st.data(), st.sampled_from(COMMANDS), st.sampled_from(FILES), st.booleans())
def test_damaged(whole, gone_on, tmp_path_factory, data, command, name, whole_entry):
    """A run that goes on in spite of damaged bytes of its states ends in the same numbers."""
    place = tmp_path_factory.mktemp("damaged")
    folder = shutil.copytree(whole, place / "run")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    path = next(path for path in found if name in path.parts or path.name == name)
    (damage_entries if whole_entry else damage_bytes)(data, path)
    error = io.StringIO()
    code = 0
    said = [word.replace("RUN", "run") for word in command]
    with (
        contextlib.chdir(place),
        contextlib.redirect_stderr(error),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            main(said)
        except SystemExit as stop:
            code = stop.code or 0
    if code == 0 and command is GOES_ON and name != "config.yaml" and not whole_entry:
        ended = RunFolder(folder).load_checkpoint()
        assert not differences(learned(gone_on), learned(ended)), (path, said)
    shutil.rmtree(place)
    told = without_progress(error.getvalue())
    assert code in (0, 2), (said, told)
    if code == 2:
        assert told.splitlines()[-1].startswith("maxentflow: "), (said, told)
    assert all(len(line) < 600 for line in told.splitlines()), (said, told)
    assert "Traceback" not in told, (said, told)
