"""The site, built once, and a browser to look at it."""

import functools
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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fresh-env", "--keep-going"]
    command += ["--tag", "without_code"]  # of the pages that hold nothing but source code
    command += ["--builder", "html", "--doctree-dir", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, str(DOCS), str(folder / "html")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return Site(folder / "html", built.stderr.splitlines())


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
