"""The site builds without a warning, and reads nothing from elsewhere."""

import re
import subprocess
import sys

import pytest

from .conftest import DOCS

pytestmark = pytest.mark.xdist_group("site")

_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(\w+:)?//|<link\b[^>]*\bhref=\"(\w+:)?//"
)


@pytest.mark.slow
def test_no_warnings(site):
    assert site.warnings == []


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    loading = {
        path.name: found.group()
        for path in site.folder.rglob("*.html")
        if (found := _LOADED.search(path.read_text()))
    }
    loading |= {
        path.name: found.group()
        for path in site.folder.rglob("*.css")
        if (found := re.search(r"(?:url\(|@import )[\"']?(?:\w+:)?//", path.read_text()))
    }
    assert loading == {}


@pytest.mark.slow
def test_every_notebook_is_a_page(site):
    names = {path.stem for path in (DOCS.parent / "examples").glob("*.ipynb")}
    assert {path.stem for path in (site.folder / "tutorials").glob("*.html")} == names
    gallery = (site.folder / "tutorials.html").read_text()
    assert all(f'href="tutorials/{name}.html"' in gallery for name in names)


@pytest.mark.slow
def test_pages_of_architectures_are_as_their_script_writes_them():
    script = DOCS / "architectures" / "figures.py"
    done = subprocess.run([sys.executable, script, "pages", "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
