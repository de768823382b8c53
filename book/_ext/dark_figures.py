"""Figures that follow the page's theme: each is two pictures, of which the theme shows one.

A notebook's figure carries its dark version in the metadata of its PNG (:mod:`fewstep.dark`).
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core import render
from sphinx.application import Sphinx


def pair(light: nodes.image, dark: nodes.image) -> list[nodes.image]:
    """Two pictures as the light and the dark version of one."""
    for image, theme in ((light, "only-light"), (dark, "only-dark")):
        image["classes"] += [theme]
        image["loading"] = "lazy"  # a browser then fetches the one that it shows
    return [light, dark]


class DarkFigures:
    """Renders a PNG with a dark version in its metadata; a plug-in of MyST-NB."""

    @staticmethod
    def handle_mime(renderer: Any, data: render.MimeData, inline: bool) -> list[nodes.image] | None:
        dark = data.output_metadata.get(data.mime_type, {}).get("dark")
        if dark is None:
            return None
        images = (renderer.render_image(dataclasses.replace(data, content=content)) for content in (data.content, dark))
        return pair(*(image for (image,) in images))


def size(png: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, from the header of a PNG."""
    return struct.unpack(">II", png[16:24]) if png[12:16] == b"IHDR" else None


def reserve_room(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Say how large lazy pictures are: a page whose text moves as they come loses the place that a link led to."""
    sources = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def sized(image: re.Match[str]) -> str:
        source = sources.get(image["name"])
        with open(source, "rb") if source else io.BytesIO() as file:
            found = size(file.read(24))
        return f'<img width="{found[0]}" height="{found[1]}"{image[1]}' if found else image[0]

    pattern = r'<img((?=[^>]*loading="lazy")[^>]*src="(?:[^">]*/)?(?P<name>[^">/]+)"[^>]*>)'
    context["body"] = re.sub(pattern, sized, context.get("body", ""))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", reserve_room)
    # MyST-NB finds plug-ins by the entry points of installed packages; this folder is none.
    found = render.load_mime_renders()
    if DarkFigures not in found:
        found.insert(0, DarkFigures)  # the list is cached
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
