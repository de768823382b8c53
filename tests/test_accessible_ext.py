"""What the book mends in the pages of other extensions."""

from __future__ import annotations

import pytest

pytest.importorskip("bs4")
pytest.importorskip("sphinx")

import accessible
from docutils import nodes
from docutils.utils import new_document


def test_the_blank_before_a_link_is_not_part_of_it():
    page = new_document("page")
    solution, other = nodes.reference("", " Exercise 1"), nodes.reference("", "no blank")
    page += nodes.paragraph("", "", nodes.Text("Solution to"), solution, other)
    for _ in range(2):
        accessible.move_blanks(None, page, "page")
        assert page.astext() == "Solution to Exercise 1no blank"
        assert [link.astext() for link in page.findall(nodes.reference)] == ["Exercise 1", "no blank"]
