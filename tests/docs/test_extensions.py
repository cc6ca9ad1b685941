"""The examples of the site's own extensions run."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"
sys.path.insert(0, str(EXTENSIONS))


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXTENSIONS.glob("*.py"))])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
