"""The wheel, what importing costs, and who may import whom."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "objectives", "envs", "agents")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clean checkout has, but for benchmarks and tests."""
    copy = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(("benchmarks/", "tests/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "src", copy / "src", symlinks=True, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an empty environment with the wheel; third-party packages are this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    # A .pth line adds a folder without reading the .pth files in it, editable installs included.
    Path(purelib, "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_wheel_brings_the_four_packages(installed: Path, tmp_path: Path) -> None:
    code = "\n".join(
        [
            "import importlib, pathlib, sys",
            f"for name in {PACKAGES}:",
            "    module = importlib.import_module(f'maxentflow.{name}')",
            "    path = pathlib.Path(module.__file__)",
            "    assert path.is_relative_to(sys.prefix), path",
            "    assert (path.parent / 'py.typed').exists()",
            "from maxentflow.agents.cli.figures import published",
            "assert published('Hopper-v4', 'meow') is not None",
        ]
    )
    run(installed, "-c", code, cwd=tmp_path)
    script = installed.with_name("maxentflow")
    assert "usage: maxentflow" in run(script, "--help", cwd=tmp_path)


@pytest.mark.slow
def test_what_is_uploaded_passes_its_check(source: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source)
    sdist, wheel = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    assert (sdist.suffix, wheel.suffix) == (".gz", ".whl")
    checked = run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    assert checked.count("PASSED") == 2


@pytest.mark.slow
def test_tools_that_only_read_the_tree_find_the_packages(tmp_path: Path) -> None:
    """Mypy, from an environment without the package, as an IDE does."""
    script = tmp_path / "script.py"
    script.write_text("from maxentflow import flows\nreveal_type(flows.MLP(1, 2))\n")
    python = tmp_path / "environment"
    venv.create(python, with_pip=False)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports"),
            *("--follow-imports=silent", "--python-executable", python / "bin" / "python"),
            script,
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert 'Revealed type is "maxentflow.flows.mlp.MLP"' in done.stdout, done.stdout


@pytest.mark.slow
def test_only_flows_need_no_extra() -> None:
    """The base requirements are all that flows imports of what is not Python's own."""
    code = "; ".join(
        [
            "import sys",
            *(f"sys.modules[{name!r}] = None" for name in ("torchrl", "gymnasium", "mujoco")),
            *(f"sys.modules[{name!r}] = None" for name in ("imageio", "tyro", "scipy")),
            "import maxentflow.flows as flows",
            "print(flows.build('affine', 2, 3, temperature=0.1).action_dim)",
        ]
    )
    assert run(sys.executable, "-c", code).strip() == "2"


WRONG_IMPORTS = {
    "flows/__init__.py": (
        "import maxentflow.envs\n",
        "maxentflow.flows is not allowed to import maxentflow.envs",
    ),
    "agents/agent.py": (
        "import maxentflow.agents.compiled\n",
        "maxentflow.agents.agent is not allowed to import maxentflow.agents.compiled",
    ),
    "agents/training/__init__.py": (
        "import maxentflow.agents.compiled\n",
        "maxentflow.agents.training is not allowed to import maxentflow.agents.compiled",
    ),
    "agents/training/loop.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from maxentflow.agents.training import trainer\n",
        "No circles among the modules of a package BROKEN",
    ),
}


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    assert "3 kept, 0 broken" in run(linter, "--no-cache")


@pytest.mark.parametrize("name", WRONG_IMPORTS)
def test_import_contracts_can_break(tmp_path: Path, name: str) -> None:
    added, complaint = WRONG_IMPORTS[name]
    for source in (ROOT / "src" / "maxentflow").glob("*/**/*.py"):
        copy = tmp_path / source.relative_to(ROOT / "src")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    spoilt = tmp_path / "maxentflow" / name
    spoilt.write_text(spoilt.read_text() + added)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": str(linter.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert complaint in " ".join(done.stdout.split())
