"""A figure's second version, for a dark page: the same artists in colours that can be told from a dark background.

Greys are mirrored: what was black on white becomes light on dark, and a faint line stays faint. Colours keep their hue
and are lightened where they would be too dark to see. Images and colour maps keep their colours, and so does all that
is drawn in a panel of them.
"""

from __future__ import annotations

import colorsys
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

__all__ = ["BACKGROUND", "contrast", "dark_color", "darkened", "in_both", "show_both"]

BACKGROUND = "#121212"
"""What the book's theme draws dark pages on."""
INK = "#ced6dd"
"""The theme's text on it; no grey becomes lighter."""
TEXT, LINES = 4.5, 4.0
"""Least contrasts of text and of what is drawn in a colour; WCAG 2 asks for 4.5 and 3, but lines here are thin."""
GREY = 0.05
"""Largest difference between the channels of a colour without a hue."""
PALE = 1.5
"""Contrast to white below which a colour is a tint of the paper and is mirrored as greys are."""


def _luminance(color: Any) -> float:
    """Relative luminance as WCAG 2 defines it."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(first: Any, second: Any) -> float:
    """Contrast of two opaque colours as WCAG 2 defines it, from 1 to 21."""
    low, high = sorted(map(_luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def dark_color(color: Any, text: bool = False) -> tuple[float, float, float, float]:
    """What a colour on white becomes on :data:`BACKGROUND`; its alpha stays.

    Args:
        color: any that Matplotlib knows.
        text: whether letters are drawn in it, which need more contrast.
    """
    *rgb, alpha = to_rgba(color)
    on_white, least = contrast(rgb, "white"), TEXT if text else LINES
    if max(rgb) - min(rgb) < GREY:
        wanted = min(max(on_white, least) if text else on_white, contrast(INK, BACKGROUND))
        luminance = wanted * (_luminance(BACKGROUND) + 0.05) - 0.05
        grey = 12.92 * luminance if luminance <= 0.0031308 else 1.055 * luminance ** (1 / 2.4) - 0.055
        return grey, grey, grey, alpha
    if on_white < PALE and not text:
        return *_of_contrast(rgb, on_white), alpha
    if contrast(rgb, BACKGROUND) < least:
        rgb = list(_of_contrast(rgb, least))
    red, green, blue = rgb
    return red, green, blue, alpha


def _of_contrast(rgb: list[float], wanted: float) -> tuple[float, float, float]:
    """The colour of this hue and saturation that has a contrast to the dark background."""
    hue, _, saturation = colorsys.rgb_to_hls(*rgb)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        color = colorsys.hls_to_rgb(hue, middle, saturation)
        # Colours darker than the background have a contrast to it, too.
        enough = _luminance(color) > _luminance(BACKGROUND) and contrast(color, BACKGROUND) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return colorsys.hls_to_rgb(hue, high, saturation)


# --- figures -------------------------------------------------------------------------------------------------------


@contextmanager
def darkened(figure: Figure) -> Iterator[Figure]:
    """A figure that was drawn before, in its dark version as long as the context is open."""
    # A second run of the layout would move things a little: the two versions would not lie on each other.
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    figure.draw_without_rendering()  # ticks may not be there yet
    artists = list(_turning(figure, None))
    before = [{name: value for name, value in vars(artist).items() if _of_color(name)} for artist in artists]
    try:
        for artist in artists:
            _turn(artist)
        yield figure
    finally:
        for artist, values in zip(artists, before, strict=True):
            vars(artist).update(values)
            artist.stale = True
        figure.set_layout_engine(engine)


def in_both(figure: Figure, save: Callable[[Figure], Any]) -> tuple[Any, Any]:
    """What ``save`` makes of a figure as it is and of its dark version."""
    light = save(figure)
    with darkened(figure):
        return light, save(figure)


def _of_color(attribute: str) -> bool:
    return "color" in attribute or attribute == "_A"  # _A: the numbers that a colour map makes colours of


def _mapped(artist: Artist) -> bool:
    """Whether its colours stand for numbers, or are an image's."""
    plain = isinstance(artist, ContourSet) and artist.colors is not None
    return isinstance(artist, ScalarMappable) and artist.get_array() is not None and not plain


def _turning(artist: Artist, panel: Axes | None) -> Iterator[Artist]:
    """The artists below one whose colours turn; ``panel`` is the axes that they are in, if it keeps its colours."""
    if isinstance(artist, Axes):
        panel = artist if any(_mapped(child) for child in artist.get_children()) else None
    kept = [] if panel is None else [panel.patch, *panel.lines, *panel.patches, *panel.collections, *panel.images]
    for child in artist.get_children():
        if child in kept or (panel is not None and isinstance(artist, Tick) and child is artist.gridline):
            continue
        if isinstance(child, Text):
            if panel is None or not _lies_in(child, panel):
                arrow = child.arrow_patch if isinstance(child, Annotation) else None
                yield from filter(None, (child, child.get_bbox_patch(), arrow))
            continue
        if isinstance(child, Line2D | Patch | Collection):
            yield child
        yield from _turning(child, panel)


def _lies_in(text: Text, panel: Axes) -> bool:
    box = text.get_window_extent()
    return bool(panel.bbox.contains((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))


def _turn(artist: Artist) -> None:
    if isinstance(artist, Text):
        artist.set_color(dark_color(artist.get_color(), text=True))
    elif isinstance(artist, Line2D):
        colors = artist.get_color(), artist.get_markerfacecolor(), artist.get_markeredgecolor()
        line, face, edge = map(dark_color, colors)
        artist.set(color=line, markerfacecolor=face, markeredgecolor=edge)
    elif isinstance(artist, Patch):
        face, edge = map(dark_color, (artist.get_facecolor(), artist.get_edgecolor()))
        artist.set(facecolor=face, edgecolor=edge)
    elif isinstance(artist, Collection):
        faces, edges = (
            [dark_color(color) for color in colors] for colors in (artist.get_facecolor(), artist.get_edgecolor())
        )
        artist.set(array=None, facecolor=faces, edgecolor=edges)


# --- notebooks -----------------------------------------------------------------------------------------------------


def show_both() -> None:
    """In a notebook, put a figure's dark version into the metadata of its PNG, from which the book takes it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    # IPython chooses how it shows figures when this is imported, which a first figure would do only later.
    importlib.import_module("matplotlib_inline.backend_inline")
    png = shell.display_formatter.formatters["image/png"]
    draw = png.type_printers.get(Figure)
    if draw is not None and not isinstance(draw, _Both):
        png.for_type(Figure, _Both(draw))


class _Both:
    """Draws a figure as ``draw`` does, and its dark version as metadata."""

    def __init__(self, draw: Callable[[Figure], Any]) -> None:
        self.draw = draw

    def __call__(self, figure: Figure) -> Any:
        light, dark = in_both(figure, self.draw)
        # Anything else is the None of an empty figure, or has metadata of its own, as in IPython's format for retina.
        return (light, {"dark": dark}) if isinstance(light, str) else light
