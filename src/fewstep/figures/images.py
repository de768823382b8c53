"""Images side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from ..dark import show_both

__all__ = ["image_grid"]


def image_grid(ax: Axes | None, images: Tensor, columns: int | None = None) -> Axes:
    """Show images side by side, row by row, with no axes around them.

    Args:
        ax: where; None makes a figure of its own.
        images: (N, 1, H, W) or (N, 3, H, W), in [-1, 1]; values outside are clamped.
        columns: images per row; by default all in one row up to 16.

    Returns:
        The axes.
    """
    show_both()
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    n, height, width, _ = pixels.shape
    columns = min(n, 16) if columns is None else columns
    rows, gap = -(-n // columns), 1
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))  # transparent between images
    for i in range(n):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width, :3] = pixels[i]
        canvas[top : top + height, left : left + width, 3] = 1
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 7.0 * canvas.shape[0] / canvas.shape[1]))
    # Pixels stay pixels: 8 x 8 images would otherwise be blurred into something nobody sampled.
    ax.imshow(canvas, interpolation="nearest")
    ax.set_axis_off()
    return ax
