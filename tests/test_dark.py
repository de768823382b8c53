"""Dark versions of figures: everything can be seen, colours keep their meaning, the light figure stays what it was."""

from __future__ import annotations

import base64
import colorsys
import io
import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from fewstep import dark, figures

COLORS = sorted(
    {mark.color for mark in figures.MARKS.values()}
    | {figures.RED, figures.BROWN, figures.ORANGE, *figures.GRID_COLORS.values()}
    | {color for _, color, _ in figures.METHODS.values()}
    | set(figures.STYLE["axes.prop_cycle"].by_key()["color"])
)
CHROMATIC = [color for color in COLORS if max(to_rgb(color)) - min(to_rgb(color)) > 0.05]


@pytest.fixture(autouse=True)
def _style():
    """Matplotlib's own style, whatever other tests have set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
    plt.close("all")


def png(figure, **keywords):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", **keywords)
    return stream.getvalue()


def pixels(data):
    return plt.imread(io.BytesIO(data))[..., :3]


def some_figure():
    """A figure of its own style, with what the book's figures are made of; the axes keep their place."""
    figure = Figure(figsize=(4, 3), dpi=50)
    ax = figure.add_subplot()
    ax.plot([0, 1, 2], [0, 2, 1], color="black", marker="o", markerfacecolor="white", label="black")
    ax.plot([0, 2], [1, 1], color="#005585", linestyle="none", marker="s", markerfacecolor="none", label="blue")
    ax.fill_between([0, 1, 2], [0, 0, 0], [1, 2, 1], color="black", alpha=0.1)
    ax.contour(np.outer([0, 1, 2], [0, 1, 2]), levels=[0.5, 1.5], colors="0.75")
    ax.annotate("here", (1, 1), (1.5, 0.5), color="#332200", arrowprops={"color": "black"}, bbox={"facecolor": "white"})
    ax.set(title="Title", xlabel="x")
    ax.grid(color="#dddddd")
    ax.legend()
    figure.suptitle("Above")
    return figure, ax


def state(figure):
    """Every colour in a figure."""
    names = ("get_color", "get_facecolor", "get_edgecolor", "get_markerfacecolor", "get_markeredgecolor", "get_array")
    return [
        np.asarray(getattr(artist, name)()).tolist()
        for artist in figure.findobj()
        for name in names
        if hasattr(artist, name)
    ]


# --- colours -----


def test_contrast_is_what_wcag_defines():
    assert dark.contrast("black", "white") == pytest.approx(21)
    assert dark.contrast("#767676", "white") == pytest.approx(4.54, abs=0.005)  # the usual example of just enough
    assert dark.contrast("white", "#767676") == dark.contrast("#767676", "white")


@pytest.mark.parametrize("color", COLORS)
def test_every_color_of_the_figures_can_be_seen_and_read(color):
    label = 0.75 * np.array(to_rgb(color))  # as direct_labels writes it
    assert dark.contrast(dark.dark_color(color), dark.BACKGROUND) >= 3.9  # GREY mirrored
    for text in (color, label):
        assert dark.contrast(dark.dark_color(text, text=True), dark.BACKGROUND) >= 4.499


@pytest.mark.parametrize("color", CHROMATIC)
def test_colors_keep_their_hue(color):
    (before, *_), (after, *_) = (colorsys.rgb_to_hls(*to_rgb(c)) for c in (color, dark.dark_color(color)))
    assert after == pytest.approx(before, abs=1e-6)


def test_colors_stay_apart():
    for first, second in itertools.combinations(COLORS, 2):
        apart, was = (
            np.abs(np.subtract(*pair)).max()
            for pair in ((dark.dark_color(first), dark.dark_color(second)), (to_rgba(first), to_rgba(second)))
        )
        assert apart >= min(0.2, was), (first, second)


def test_greys_are_mirrored():
    greys = [dark.dark_color(str(level)) for level in np.linspace(0, 1, 21)]
    assert all(red == green == blue for red, green, blue, _ in greys)
    assert [grey[0] for grey in greys] == sorted((grey[0] for grey in greys), reverse=True)
    assert dark.dark_color("white") == pytest.approx(to_rgba(dark.BACKGROUND))
    assert dark.contrast(dark.dark_color("black"), dark.BACKGROUND) > 12
    for faint in ("#dddddd", "#cccccc", "0.85"):
        assert dark.contrast(dark.dark_color(faint), dark.BACKGROUND) == pytest.approx(dark.contrast(faint, "white"))


def test_a_pale_tint_stays_pale_and_alpha_stays():
    *tint, alpha = dark.dark_color((0.9, 0.95, 1.0, 0.3))
    assert alpha == 0.3
    assert dark.contrast(tint, dark.BACKGROUND) == pytest.approx(dark.contrast((0.9, 0.95, 1.0), "white"), rel=1e-3)
    assert dark.dark_color("none")[3] == 0


# --- figures -----


def test_everything_in_a_figure_turns():
    figure, ax = some_figure()
    figure.draw_without_rendering()
    with dark.darkened(figure):
        assert figure.get_facecolor() == ax.get_facecolor() == pytest.approx(to_rgba(dark.BACKGROUND))
        texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
        assert {"Title", "x", "here", "black", "Above", "1.0"} <= {text.get_text() for text in texts}
        assert all(dark.contrast(text.get_color(), dark.BACKGROUND) >= 4.499 for text in texts)
        (hollow, blue), (fill, contour) = ax.lines, ax.collections
        assert dark.contrast(hollow.get_color(), dark.BACKGROUND) > 12
        assert hollow.get_markerfacecolor() == pytest.approx(to_rgba(dark.BACKGROUND))
        assert to_rgba(blue.get_markerfacecolor())[3] == 0
        assert dark.contrast(blue.get_markeredgecolor(), dark.BACKGROUND) >= 3.9
        assert fill.get_facecolor()[0] == pytest.approx([*dark.dark_color("black")[:3], 0.1])
        figure.draw_without_rendering()  # where a collection with a colour map would take its colours from that again
        assert contour.get_edgecolor()[0] == pytest.approx(dark.dark_color("0.75"))
        (note,) = ax.texts
        assert note.get_bbox_patch().get_facecolor()[:3] == pytest.approx(to_rgb(dark.BACKGROUND))
        assert note.arrow_patch.get_facecolor()[0] > 0.7
        assert ax.spines["left"].get_edgecolor()[0] > 0.7
        assert ax.xaxis.get_gridlines()[0].get_color() == pytest.approx(dark.dark_color("#dddddd"))
        assert ax.xaxis.get_ticklines()[0].get_markeredgecolor()[0] > 0.7


def test_afterwards_the_figure_is_what_it_was():
    figure, _ = some_figure()
    first, before = png(figure), state(figure)
    with dark.darkened(figure):
        assert png(figure) != first and state(figure) != before
    assert state(figure) == before and png(figure) == first


def test_a_figure_is_light_again_after_a_failure():
    figure, _ = some_figure()
    figure.draw_without_rendering()
    before = state(figure)
    with pytest.raises(OSError), dark.darkened(figure):
        raise OSError
    assert state(figure) == before


def test_images_and_what_lies_on_them_stay():
    figure = Figure(figsize=(6, 3))
    image, plain = figure.subplots(1, 2)
    data = np.arange(16.0).reshape(4, 4)
    drawn = image.imshow(data, cmap="RdBu_r")
    (path,) = image.plot([0, 3], [0, 3], color="black")
    inside = image.text(1, 1, "on the image", color="black")
    beside = image.annotate("beside", (3, 3), (3.8, 3), color="black", annotation_clip=False)
    title = image.set_title("Title")
    other = plain.text(0.5, 0.5, "plain", color="black")
    bar = figure.colorbar(drawn, ax=image)
    figure.draw_without_rendering()
    colors = drawn.to_rgba(data)
    with dark.darkened(figure):
        figure.draw_without_rendering()
        assert np.array_equal(drawn.get_array(), data) and np.array_equal(drawn.to_rgba(data), colors)
        assert bar.solids.get_array() is not None
        assert path.get_color() == inside.get_color() == "black" and image.get_facecolor() == to_rgba("white")
        light = dark.dark_color("black")
        labels = [beside, title, other, *bar.ax.get_yticklabels(), *image.get_xticklabels()]
        assert all(text.get_color() == pytest.approx(light) for text in labels)


def test_both_versions_lie_on_each_other():
    """Constrained layout, run twice, moves things: the dark version takes the layout of the light one."""
    plt.rcParams.update(figures.STYLE)
    figure, axes = plt.subplots(1, 2)
    for ax in axes:
        ax.plot([1, 20], [3, 1], label="a line with a long name")
        figures.direct_labels(ax)
    box = []

    def save(drawn):
        box.append([ax.bbox.bounds for ax in drawn.axes])
        return png(drawn, bbox_inches="tight")

    engine = figure.get_layout_engine()
    light, night = map(pixels, dark.in_both(figure, save))
    assert figure.get_layout_engine() is engine
    assert light.shape == night.shape
    border = np.concatenate([night[0], night[-1], night[:, 0], night[:, -1]])
    assert np.abs(border - to_rgb(dark.BACKGROUND)).max() < 0.005
    assert light[0].min() == 1.0 and light.mean() > 0.8 > 0.2 > night.mean()
    # What is paper in one is page in the other, but for the smoothed edges of letters and lines.
    paper, page = (light.min(axis=2) == 1.0, np.abs(night - to_rgb(dark.BACKGROUND)).max(axis=2) < 0.005)
    assert (paper == page).mean() > 0.99


# --- notebooks -----


def run(*cells):
    """The outputs of a notebook's last cell."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return notebook.cells[-1].outputs


def test_a_notebook_carries_the_dark_version():
    """Whether the style is set before a figure or by the function that draws it; the light PNG is what it would be."""
    draw = "import matplotlib.pyplot as plt\nax = plt.subplots()[1]\nax.plot([0, 1]);"
    style = "from fewstep import figures\n"
    (plain,) = run(style + "import matplotlib.pyplot as plt\nplt.rcParams.update(figures.STYLE)", draw)
    assert "dark" not in plain.metadata.get("image/png", {})
    for cells in ([style + "figures.use_style()\nfigures.use_style()\n" + draw], [style + "figures.use_style()", draw]):
        (both,) = run(*cells)
        assert both.data["image/png"].strip() == plain.data["image/png"].strip()
        light, night = (
            pixels(base64.b64decode(data)) for data in (both.data["image/png"], both.metadata["image/png"]["dark"])
        )
        assert light.shape == night.shape
        assert night[0] == pytest.approx(np.broadcast_to(to_rgb(dark.BACKGROUND), night[0].shape), abs=0.005)


@pytest.mark.parametrize("drawn", [None, ("data", {"width": 350})])
def test_what_ipython_draws_otherwise_stays(drawn):
    """Nothing of an empty figure; in its format for retina a picture with metadata of its own."""
    assert dark._Both(lambda figure: drawn)(Figure()) == drawn
