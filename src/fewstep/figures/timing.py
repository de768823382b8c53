"""What a measurement costs in time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..cost import amdahl, linear
from .axes import calls_axis, new_figure
from .rows import Records, rows_of
from .style import BLACK, GREY

__all__ = ["cost"]


def cost(records: Records, images: int = 1_000_000, most: int = 64) -> Figure:
    """Time against the number of images and against the number of workers, continued by the laws fitted to it.

    The laws are :func:`fewstep.cost.linear` and :func:`fewstep.cost.amdahl`.

    Args:
        records: of the experiment ``cost``.
        images: up to which number the line of the left panel goes.
        most: up to how many workers the line of the right panel goes.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = new_figure(1, 2)
    left, right = axes[0]
    rows = sorted(rows_of(records, metric="seconds", of="draw", clock="wall"), key=lambda row: row["samples"])
    n, seconds = np.array([row["samples"] for row in rows]), [row["value"] for row in rows]
    intercept, slope = linear(n, seconds)
    span = np.geomspace(n[0], images, 50)
    left.plot(span, intercept + slope * span, color=GREY, linestyle="--", label="fitted line, continued")
    left.plot(n, seconds, color=BLACK, marker="o", linestyle="none", label="measured, one worker")
    left.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    left.legend()

    rows = sorted(rows_of(records, metric="seconds", of="workers", clock="wall"), key=lambda row: row["workers"])
    times = {row["workers"]: row["value"] for row in rows}
    share = amdahl(times)
    workers = np.geomspace(1, most, 50)
    right.plot(workers, share.seconds(1) / workers, color=GREY, linestyle=":", label="no serial part")
    right.plot(workers, share.seconds(workers), color=GREY, linestyle="--", label="$T_s + T_p/w$, continued")
    right.plot([*times], [*times.values()], color=BLACK, marker="o", linestyle="none", label="measured")
    right.set(ylabel=f"seconds for {rows[0]['samples']:,} images")
    calls_axis(right, [2**k for k in range(most.bit_length())])
    right.set(xlabel="workers", yscale="log")
    right.legend()
    return figure
