"""The site, built once, and a browser to look at it."""

import functools
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Site:
    """A built site."""

    folder: Path
    warnings: list[str]

    def pages(self) -> list[str]:
        """Paths of the pages."""
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.html")
        )


@dataclass(frozen=True)
class Reading:
    """What Sphinx makes of the pages before it writes any."""

    warnings: list[str]
    documented: set[str]
    """Full names of what the reference has, aliases included."""


def build(builder: str, folder: Path) -> list[str]:
    """Build the site; give the lines of standard error."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fresh-env", "--keep-going"]
    command += ["--tag", "without_code"]  # of the pages that hold nothing but source code
    command += ["--builder", builder, "--doctree-dir", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, str(DOCS), str(folder / builder)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return built.stderr.splitlines()


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """By the builder that resolves every reference and writes no page: half of the time."""
    folder = tmp_path_factory.mktemp("reading")
    warnings = build("dummy", folder)
    environment = pickle.loads((folder / "doctrees" / "environment.pickle").read_bytes())
    python = environment.domaindata["py"]
    return Reading(warnings, {*python["objects"], *python["modules"]})


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    return Site(folder / "html", build("html", folder))


@pytest.fixture(scope="session")
def url(site: Site):
    """Where the site is served."""
    handler = functools.partial(_Quiet, directory=str(site.folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass
