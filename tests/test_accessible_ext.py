"""What the book mends in the pages of other extensions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("bs4")
pytest.importorskip("sphinx")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))

import accessible


def test_the_space_before_a_link_is_not_part_of_it():
    title = '<p class="admonition-title">Solution to{}<a class="reference internal" href="#ex">{}Exercise 1</a></p>'
    assert accessible.space_solutions(title.format("", " ")) == title.format(" ", "")
    assert accessible.space_solutions(title.format(" ", "")) == title.format(" ", "")
