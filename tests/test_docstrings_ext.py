"""What the API reference makes of a docstring: a constant's sentence stays one, and no raw signature is left."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

EXTENSIONS = Path(__file__).resolve().parents[1] / "book" / "_ext"
MODULE = '''
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LIMIT = 1
"""The largest number: what is larger is refused."""


class Pair(NamedTuple):
    """Two numbers.

    Attributes:
        one: the first.
    """

    one: int


@dataclass
class Named:
    """A name."""

    options: Mapping[str, int] = field(default_factory=dict)
'''


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    (folder / "documented.py").write_text(MODULE)
    (folder / "index.rst").write_text("API\n===\n\n.. automodule:: documented\n   :members:\n   :undoc-members:\n")
    (folder / "conf.py").write_text(
        f"import sys\nsys.path[:0] = [{str(folder)!r}, {str(EXTENSIONS)!r}]\n"
        "extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'docstrings']\nnapoleon_use_ivar = True\n"
    )
    out = folder / "_build"
    path = list(sys.path)
    with docutils_namespace():
        Sphinx(str(folder), str(folder), str(out), str(out), "text", status=None, warning=io.StringIO()).build()
    sys.path[:] = path
    return re.sub(r"\s+", " ", (out / "index.txt").read_text())


def test_a_constant_keeps_its_sentence(text):
    assert "The largest number: what is larger is refused." in text and "Type:" not in text


def test_the_fields_of_a_named_tuple_are_said_once(text):
    assert "the first" in text and "Alias for field number" not in text


def test_a_default_made_anew_leaves_the_signature_readable(text):
    assert re.search(r"options: (collections\.abc\.)?Mapping\[str, int\] = \.\.\.", text) and "<factory>" not in text
