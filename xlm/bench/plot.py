"""A benchmark's figures as a picture."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from xlm._atomic import replacing
from xlm.bench.report import BenchReport, Figure
from xlm.errors import DependencyError

_PER_BAR, _PER_AXES = 0.5, 0.7  # inches
_LABEL_WIDTH = 44  # characters


def plot(report: BenchReport, path: Path) -> None:
    """Draws the medians of a report as bars with the spread over the rounds, one group a unit, zeros left out.

    Args:
        report: The figures.
        path: The PNG file.

    Raises:
        DependencyError: matplotlib is not installed.
        WriteError: The file could not be written.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise DependencyError(
            "matplotlib is not installed", where="--plot", remedy="pip install 'xlm[plot]'"
        ) from error
    groups: dict[str, list[Figure]] = {}
    for figure in report.figures:
        if figure.median > 0:
            groups.setdefault(figure.unit, []).append(figure)
    heights = [_PER_BAR * len(figures) + _PER_AXES for figures in groups.values()]
    canvas = Canvas(figsize=(10, sum(heights) + 1.2), layout="constrained")
    canvas.suptitle(report.title, fontsize=12, fontweight="bold")
    all_axes = canvas.subplots(len(groups), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (unit, figures) in zip(all_axes, groups.items(), strict=True):
        medians = [figure.median for figure in figures]
        below = [figure.median - min(figure.values) for figure in figures]
        above = [max(figure.values) - figure.median for figure in figures]
        colours = ["#1f6feb" if figure.name.startswith("xlm") else "#9aa4af" for figure in figures]
        labels = [textwrap.fill(figure.name, _LABEL_WIDTH) for figure in figures]
        bars = axes.barh(labels, medians, xerr=(below, above), color=colours, capsize=3)
        axes.bar_label(bars, labels=[f"{median:.3g} {unit}" for median in medians], padding=6)
        axes.invert_yaxis()
        axes.margins(x=0.35)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.xaxis.set_visible(False)
    canvas.supxlabel("\n".join(f"{key}: {value}" for key, value in report.machine.items()), fontsize=8)
    image = io.BytesIO()
    canvas.savefig(image, format="png", dpi=120)
    with replacing(path) as temporary:
        temporary.write_bytes(image.getvalue())
