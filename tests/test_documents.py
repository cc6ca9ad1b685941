"""The Python and the commands of README and docs run, shortened, and so do the examples."""

import glob
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import count
from pathlib import Path

import pytest

from maxentflow import agents, envs, flows, objectives
from maxentflow.agents import registry as agent_registry
from maxentflow.agents.cli import main
from maxentflow.agents.cli.completion import options_of
from maxentflow.flows import registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(
    path
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "tutorials"} & {*path.relative_to(ROOT).parts}
)

_BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[\w+-]*) *\n(?P<code>.*?)^(?P=fence) *$", re.M | re.S
)
_PROGRAMS = ("maxentflow", "make", "python", "pip", "tensorboard")

SHORTER = (
    (r"\btotal_steps=\d[\d_]{3,}", "total_steps=60"),
    (r"\bwarmup_steps=\d[\d_]{3,}", "warmup_steps=20"),
    (r"\brange\(\d{3,}\)", "range(3)"),
    (r"\bcompile=True\b", "compile=False"),  # half a minute of a C++ compiler
    (r'agents.make\("meow", env\)', 'agents.make("meow", env, twin=False)'),
)
"""What is changed in Python before it runs."""
LONGEST = 120
"""Seconds for a page, so that one that waits for what shortening took away fails."""

TRAIN = """--total-steps 8 --warmup-steps 4 --batch-size 4 --replay-size 100 --eval-every 8
    --eval-episodes 1 --log-every 4 --checkpoint-every 4 --compile off"""
"""Appended to a training run, where the last of an option's values counts. Compiling takes half a
minute."""
PPO = "--rollout-steps 8 --minibatch-size 4 --epochs 1 --warmup-steps 0"
MORE = count(12, 4)
"""Lengths for runs that are resumed, each above those before."""
EVALUATE = "--episodes 1 --max-steps 4"
FEWER = {"0,1,2,3,4": "0,1", "onnx": "torchscript", "pendulum.onnx": "pendulum.pt"}
"""Seeds; and ONNX's exporter, which takes five seconds to import, has tests of its own."""
LEFT_OUT = ("--workers",)
"""A process for each environment, each of which imports torch: tests/envs/test_workers.py."""


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in some languages."""
    return [
        match["code"]
        for match in _BLOCK.finditer(page.read_text())
        if match["language"] in languages
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """The commands in a page's blocks, as the words that a shell makes of them."""
    for block in blocks(page, "", "bash", "sh", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").removeprefix(".venv/bin/")
            if line.split(" ")[0] in _PROGRAMS:
                yield shlex.split(line, comments=True)


def names(has: Callable[[Path], Sequence[object]]) -> list[str]:
    """The pages that have something, by their place in the repository."""
    return [str(path.relative_to(ROOT)) for path in PAGES if has(path)]


SLOW_COMMANDS = {
    "docs/howto/compile.md",
    "docs/howto/robustness.md",
    "docs/howto/simulators.md",
    "docs/tasks/portfolio.md",
    "docs/tasks/two_paths.md",
    "docs/algorithms/flow_sac.md",
    "docs/algorithms/meow.md",
    "docs/algorithms/sac.md",
    "docs/concepts/deterministic_action.md",
    "docs/howto/diagnose.md",
    "docs/howto/many_seeds.md",
    "docs/howto/compare.md",
    "docs/howto/many_environments.md",
    "docs/howto/resume.md",
    "docs/howto/video.md",
    "docs/measurements/untuned.md",
    "docs/tasks/intersection.md",
    "docs/howto/export.md",
    "docs/howto/sharing.md",
    "docs/howto/cluster.md",
    "docs/howto/sweep.md",
}
SLOW_PYTHON = {
    "docs/howto/cloning.md",
    "docs/howto/diagnose.md",
    "docs/howto/simulators.md",
    "docs/howto/video.md",
    "docs/howto/compare.md",
    "docs/howto/compile.md",
    "docs/howto/export.md",
    "docs/howto/many_environments.md",
    "docs/howto/many_seeds.md",
    "docs/howto/own_agent.md",
    "docs/howto/own_architecture.md",
    "docs/howto/own_experience.md",
    "docs/howto/own_logger.md",
    "docs/howto/own_task.md",
    "docs/howto/resume.md",
}
"""Pages that take several seconds."""


def slow_of(pages: Sequence[str], slow: Set[str]) -> list[object]:
    """The pages, with those that are slow marked so."""
    return [pytest.param(page, marks=pytest.mark.slow) if page in slow else page for page in pages]


@pytest.fixture(autouse=True)
def ends(no_collections: None) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone after it."""
    for name in agent_registry.registered():
        agent_registry.config_type(name)
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))
    monkeypatch.setattr(agent_registry, "_AGENTS", dict(agent_registry._AGENTS))


@pytest.mark.parametrize("page", slow_of(names(lambda path: blocks(path, "python")), SLOW_PYTHON))
@pytest.mark.usefixtures("own_registries")
def test_python_runs(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {
        "agents": agents,
        "envs": envs,
        "flows": flows,
        "objectives": objectives,
        "__name__": "page",
    }
    for block in blocks(ROOT / page, "python"):
        for long, short in SHORTER:
            block = re.sub(long, short, block)
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        assert "reversed" in names["flows"].registered()
        assert names["log_prob"].allclose(((names["q"] - names["v"]) / 0.25)[:, 0], atol=1e-4)


@pytest.mark.parametrize("page", slow_of(names(lambda path: [*commands(path)]), SLOW_COMMANDS))
@pytest.mark.usefixtures("own_registries")
def test_commands_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)  # evaluates
    for program, *words in commands(ROOT / page):
        _RUNNERS[program](words)


def _maxentflow(words: list[str]) -> None:
    if not words or {"-h", "--help"} & {*words}:
        _run(words)
        return
    command = words[0]
    if command == "sweep":  # tests/agents/cluster trains
        known = options_of("sweep")
        assert {word for word in words if word.startswith("--")} <= {*known}
        return
    words = [FEWER.get(word, word) for word in words if word not in LEFT_OUT]
    if command != "train" or "--resume" in words:
        for run in (word for word in words if word.startswith("runs/")):
            _have_run(run)
    words = [path for word in words for path in sorted(glob.glob(word)) or [word]]
    if command == "train" and "--resume" in words:
        words += ["--total-steps", str(next(MORE))]
    elif command == "train":
        words += f"{TRAIN} {PPO if words[1] == 'ppo' else ''}".split()
        if words[1] == "meow":
            words += ["--no-twin", "--flow-options", "blocks", "1"]  # less to export and compute
    elif command == "evaluate":
        words += EVALUATE.split()
    _run(words)


def _run(words: list[str]) -> None:
    try:
        main(words)
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"maxentflow {shlex.join(words)} ends with {stop.code}")


def _have_run(name: str) -> None:
    """Make the run that a command reads, if no command before it has: TASK-AGENT-SEED."""
    if glob.glob(name):
        return
    agent = "|".join(agents.registered())
    match = re.fullmatch(rf"runs/(?P<task>.+?)-(?P<agent>{agent})(?P<seed>[-/].*)?", name)
    assert match, f"No command makes {name}."
    task = "maxentflow/MultiGoal-v0" if match["task"] == "MultiGoal-v0" else match["task"]
    folder = name.replace("*", "0")
    _maxentflow(["train", match["agent"], "--env", task, "--run-dir", folder])


def _make(words: list[str]) -> None:
    """Only the target is looked up: made, tests would run themselves."""
    targets = [word for word in words if "=" not in word]
    subprocess.run(
        ["make", "--dry-run", "-C", str(ROOT), *targets], check=True, stdout=subprocess.DEVNULL
    )


def _python(words: list[str]) -> None:
    """Only the script and its options are looked up: these take minutes to hours."""
    if words[0] == "-m":
        return
    source = (ROOT / words[0]).read_text()
    if "from study import" in source:  # which has the command line
        source += (ROOT / "benchmarks" / "study.py").read_text()
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in source or option[2:].replace("-", "_") in source, f"{words[0]}: {option}"


def _pip(words: list[str]) -> None:
    """Only the extras are looked up: to install needs a network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:maxentflow|\.)\[(.*?)\]", " ".join(words)):
        assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def _tensorboard(words: list[str]) -> None:
    """Only looked for: it serves until it is stopped."""
    assert shutil.which("tensorboard", path=Path(sys.executable).parent)


_RUNNERS = {
    "maxentflow": _maxentflow,
    "make": _make,
    "python": _python,
    "pip": _pip,
    "tensorboard": _tensorboard,
}


def test_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["own_agent.py", "60"])
    runpy.run_path(str(ROOT / "examples" / "own_agent.py"), run_name="__main__")
    assert "Pendulum-v1: return" in capsys.readouterr().out


def test_the_start_page_names_every_extra() -> None:
    """All that a user installs, but for what development needs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "start.md").read_text(), re.M)
    assert set(table) == set(extras) - {"dev", "bench"}


def test_links_in_documents_lead_somewhere() -> None:
    for document in (*PAGES, *ROOT.glob("benchmarks/*.md")):
        text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
