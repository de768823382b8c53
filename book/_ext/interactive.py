"""Figures that move: what a figure shows, as data in the page, and the scripts that draw it.

::

    ```{interactive} trajectories
    ```

with the name of a file of ``static/explore`` and what it draws from, :data:`DATA`. The script puts its picture in the
place of the image of the figure that the page has under the name ``fig-explore-trajectories``, above its caption;
without scripts, on paper and in the PDF the image stays. Data and scripts come with the page, so that it needs no
server; a page without such a figure loads neither.
"""

from __future__ import annotations

import json
from typing import Any

from docutils import nodes
from record_pages import Records, rows_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from fewstep import explore, results
from fewstep.errors import UserError, unknown


class InteractiveDirective(SphinxDirective, Records):
    """Data and scripts of one interactive figure."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        figure = self.arguments[0]
        try:
            if figure not in DATA:
                raise unknown("figure", figure, DATA)
            names, data = DATA[figure]
            found = data(self)
        except UserError as error:
            raise self.fail(f"interactive {figure}", error, self.lineno) from None
        # "</" inside a string would end the script.
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        up = "../" * self.env.docname.count("/")
        loaded = self.env.temp_data.setdefault("interactive", set())
        parts = [f'<script type="application/json" id="explore-{figure}">{text}</script>'] if text != "null" else []
        for name in ("explore.css", "core.js", *names):
            if name not in loaded:
                path = f"{up}_static/explore/{name}"
                parts.append(
                    f'<link rel="stylesheet" href="{path}">'
                    if name.endswith(".css")
                    else f'<script defer src="{path}"></script>'
                )
                loaded.add(name)
        drawn = nodes.raw("", "\n".join(parts), format="html")
        if figure != "quality":
            return [drawn]
        records = self.records("digits", "frechet")
        return [drawn, *self.origins(records, rows_of(records, self.root))]

    def tables(self) -> dict[str, Any]:
        """Plans and problem."""
        return explore.tables()

    def quality(self) -> dict[str, Any]:
        """Measured distances of the digits."""
        floor = results.table(self.records("digits", "baseline"), cell="halves", metric="frechet_distance")
        return explore.quality(self.records("digits", "frechet"), floor[0]["value"])

    def nothing(self) -> None:
        """A figure that draws from another one's data."""


DATA = {
    "trajectories": (["trajectories.js"], InteractiveDirective.tables),
    "matrices": (["matrices.js"], InteractiveDirective.nothing),
    "quality": (["quality.js"], InteractiveDirective.quality),
}
"""Figure → scripts, and what it draws from."""


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("interactive", InteractiveDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
