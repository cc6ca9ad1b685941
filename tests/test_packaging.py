"""The wheel, what importing costs, and who may import whom."""

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
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an empty environment with the wheel; third-party packages are this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(("benchmarks/", "tests/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, copy)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    # A .pth line adds a folder without reading the .pth files in it, editable installs included.
    Path(purelib, "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_wheel_brings_the_four_packages(installed: Path, tmp_path: Path) -> None:
    code = "\n".join(
        [
            "import importlib, pathlib, sys",
            f"for name in {PACKAGES}:",
            "    module = importlib.import_module(f'maxentflow.{name}')",
            "    path = pathlib.Path(module.__file__)",
            "    assert path.is_relative_to(sys.prefix), path",
            "    assert (path.parent / 'py.typed').exists()",
            "from maxentflow.agents.figures import published",
            "assert published('Hopper-v4', 'meow') is not None",
        ]
    )
    run(installed, "-c", code, cwd=tmp_path)
    script = installed.with_name("maxentflow")
    assert "usage: maxentflow" in run(script, "--help", cwd=tmp_path)


def test_flows_load_neither_torchrl_nor_simulators() -> None:
    code = (
        "import sys, maxentflow.flows; "
        "print([n for n in ('torchrl', 'gymnasium', 'mujoco') if n in sys.modules])"
    )
    assert run(sys.executable, "-c", code).strip() == "[]"


def test_import_contract_holds_and_can_break(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    assert "1 kept, 0 broken" in run(linter, "--no-cache")
    broken = tmp_path / "maxentflow"
    for package in PACKAGES:
        (broken / package).mkdir(parents=True)
        (broken / package / "__init__.py").write_text("")
    (broken / "flows" / "__init__.py").write_text("import maxentflow.envs\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": str(linter.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "maxentflow.flows is not allowed to import maxentflow.envs" in done.stdout
