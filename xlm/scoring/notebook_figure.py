"""A matplotlib figure that notebooks show."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """Figure that a notebook shows once, whether or not ``matplotlib.pyplot`` is imported.

    A figure of ``pyplot`` would be shown twice: as the value of the cell, and at its end. A plain ``Figure`` is shown
    only if ``pyplot`` is imported.
    """

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()
