"""Surprisals as a picture: a panel for each text, with a bar above each word."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm._io.arguments import check_choice, listed_choices, shown
from xlm._io.atomic import replacing
from xlm._io.dependencies import needing
from xlm.errors import InputError, warn_caller
from xlm.scoring.display import printable
from xlm.scoring.scorer import SentenceScore

if TYPE_CHECKING:
    from typing import TypeGuard

    from xlm.scoring.notebook_figure import NotebookFigure

UNITS = {"bits": math.log(2), "nats": 1.0}
"""Number of nats in one unit of surprisal."""

PICTURE_FORMATS = {
    "png": ("Software",),
    "svg": ("Date", "Creator"),
    "pdf": ("CreationDate", "Creator", "Producer"),
}
"""Formats of pictures, and the metadata that matplotlib adds to each: dates and versions."""

# The palette of Okabe and Ito, whose colours also differ for the colour-blind and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--")
_REGION = "#f3ead0"
_INCHES_OF_LINE, _INCHES_OF_WORD, _INCHES_OF_CHARACTER = 1.95, 0.15, 0.1
_DOTS_PER_INCH, _FONT_SIZE = 160, 9
_MAXIMUM_LINES = 150  # what a PNG file of matplotlib, which has less than 65,536 rows of dots, holds
# The following sizes are in characters: the words of a line stand next to each other as in print.
_LINE_WIDTH, _MINIMUM_LINE_WIDTH = 84, 40
_MINIMUM_WORD_WIDTH, _BAR_WIDTH, _MAXIMUM_BAR_WIDTH = 6, 2, 3.2
_MAXIMUM_WORD_LENGTH = 24
_LEGEND_CHARACTER, _LEGEND_GAP = 0.65, 5  # in a legend: a character, and a sample of the bar with the space around it


def check_matplotlib() -> None:
    """Raise ``DependencyError`` unless matplotlib is installed; call this before computing what is to be drawn."""
    with needing("matplotlib is not installed", where="the picture", install="'xlm[plot]'"):
        import matplotlib  # noqa: F401


def plot(
    results: SentenceScore | Sequence[SentenceScore],
    *,
    labels: Sequence[str] | None = None,
    regions: Mapping[str, tuple[int, int]] | None = None,
    unit: str = "bits",
    title: str | None = None,
) -> NotebookFigure:
    """Return a matplotlib figure with the surprisal of each word as a bar. Requires ``pip install 'xlm[plot]'``.

    A word that the vocabulary lacks something of has an asterisk beside its number, which says little about it.
    Notebooks show the figure. ``figure.savefig("name.pdf")`` writes it to a file, also as PNG or SVG.

    Args:
        results: A result of ``score``, or several to compare, one for each condition: one text in several languages or
            by several models, or texts with equal numbers of words. Their bars stand side by side above each place.
            Where the words at a place differ, all of them stand below it.
        labels: Name of each result in the legend; ``None`` for its language.
        regions: Parts of the text to mark, by name: character spans of the text of the first result, as for ``score``.
            The words that begin in a region are marked.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above the figure.

    Raises:
        InputError: ``results`` are not results of ``score`` with equal numbers of words, there is not one label for
            each, no word begins in a region, the unit is unknown, or there are too many words for a figure.
        DependencyError: matplotlib is not installed.
    """
    check_matplotlib()
    conditions = _checked_conditions([results] if isinstance(results, SentenceScore) else results)
    check_choice("unit", UNITS, unit=unit)
    names = [str(result.lang) for result in conditions] if labels is None else labels
    if not _are_strs(names) or len(names) != len(conditions):
        raise InputError(
            "the labels do not name the results",
            where="labels",
            found=repr(names)[:80],
            expected=f"a list of {len(conditions)} str",
        )
    if not isinstance(title, str | None):
        raise InputError("the title is not a str", where="title", found=type(title).__name__, expected="str")
    return _figure([conditions], unit, title, labels=names, regions=_words_of_regions(regions, conditions[0]))


def draw_surprisals(
    panels: Sequence[Sequence[SentenceScore]], path: Path, *, unit: str = "bits", title: str | None = None
) -> None:
    """Draw ``picture_of`` some panels into a PNG, SVG or PDF file. Equal results give equal files.

    Args:
        panels: As for ``picture_of``, like ``unit`` and ``title``.
        path: The file; its name ends in ``.png``, ``.svg`` or ``.pdf``, and its directory exists.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above all panels.

    Raises:
        XLMError: As for ``picture_of``; or the file name is not supported, or the file could not be written.
    """
    format = path.suffix.lower().removeprefix(".")
    if format not in PICTURE_FORMATS:
        raise InputError(
            "no such image format", where=path, found=path.suffix, expected=listed_choices([*PICTURE_FORMATS])
        )
    data = picture_of(panels, format=format, unit=unit, title=title)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def picture_of(
    panels: Sequence[Sequence[SentenceScore]],
    *,
    format: str,
    unit: str = "bits",
    title: str | None = None,
    most_lines: int = _MAXIMUM_LINES,
) -> bytes:
    """Return a picture of the surprisal of each word. Equal results give equal bytes.

    Args:
        panels: For each panel, results of one text, for example in several languages; their bars stand side by side.
        format: One of ``PICTURE_FORMATS``.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above all panels.
        most_lines: Maximum number of lines of words.

    Raises:
        InputError: The unit is unknown, there are no panels, a panel has results of several texts, or there are too
            many words.
        DependencyError: matplotlib is not installed.
    """
    check_matplotlib()
    check_choice("unit", UNITS, unit=unit)
    if not panels or any(len({result.text for result in results}) != 1 for results in panels):
        raise InputError(
            "the panels do not each show one text",
            where="panels",
            found=f"{len(panels)} panels",
            expected="at least one panel; all results in a panel are of the same text",
        )
    from matplotlib import rc_context

    data = io.BytesIO()
    # Write no random names of clip paths, no dates and no versions, so that equal results give equal files.
    with rc_context({"svg.hashsalt": "xlm", "hatch.linewidth": 0.6}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = _figure(panels, unit, title, most_lines=most_lines)
        figure.savefig(data, format=format, dpi=_DOTS_PER_INCH, metadata=dict.fromkeys(PICTURE_FORMATS[format]))
    if any("missing from" in str(warning.message) for warning in caught):
        warn_caller("some characters are drawn as boxes: matplotlib found no font with them")
    return data.getvalue()


def _figure(
    panels: Sequence[Sequence[SentenceScore]],
    unit: str,
    title: str | None,
    *,
    labels: Sequence[str] | None = None,
    regions: Mapping[str, range] | None = None,
    most_lines: int = _MAXIMUM_LINES,
) -> NotebookFigure:
    """Return the figure of some panels.

    Args:
        panels: For each panel, results with equal numbers of words.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above all panels.
        labels: Name of each result in a panel; ``None`` for its language.
        regions: Indices of the marked words in each panel, by name.
        most_lines: Maximum number of lines of words.
    """
    from xlm.scoring.notebook_figure import NotebookFigure

    lines = [
        (results, places[line], line)
        for results, places in zip(panels, map(_places, panels), strict=True)
        for line in _lines_of(places, len(results))
    ]
    if len(lines) > most_lines:
        raise InputError(
            "there are too many words for one picture",
            where="the picture",
            found=f"{len(lines):,} lines of words",
            expected=f"at most {most_lines}",
            remedy="draw fewer sentences at a time",
        )
    nats = UNITS[unit]
    highest = max((word.surprisal / nats for results in panels for r in results for word in r.words), default=0.0)
    widest = max(_MINIMUM_LINE_WIDTH, *[sum(_place_widths(places, len(results))) for results, places, _ in lines])
    inches = [
        # Words below one another, and a legend above the first line.
        _INCHES_OF_LINE
        + _INCHES_OF_WORD * (max(map(len, places), default=1) + (len(results) // 2 if not line.start else 0))
        for results, places, line in lines
    ]
    size = (widest * _INCHES_OF_CHARACTER + 0.8, sum(inches) + (0.5 if title else 0.1))
    figure = NotebookFigure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(printable(title), fontsize=12, fontweight="bold", parse_math=False)
    figure.supylabel(f"surprisal ({unit})", fontsize=9, color="#555555")
    subplots = figure.subplots(len(lines), squeeze=False, gridspec_kw={"height_ratios": inches})
    for axes, (results, places, line) in zip(subplots[:, 0], lines, strict=True):
        ends = list(accumulate(_place_widths(places, len(results)), initial=0))
        centres = [(start + end) / 2 for start, end in pairwise(ends)]
        for number, result in enumerate(results):
            width = min(_MAXIMUM_BAR_WIDTH, max(_MINIMUM_WORD_WIDTH / len(results), _BAR_WIDTH) * 0.8)
            positions = [centre + (number - (len(results) - 1) / 2) * width for centre in centres]
            words = result.words[line]
            heights = [word.surprisal / nats for word in words]
            style = {"color": _COLOURS[number % len(_COLOURS)], "hatch": _HATCHES[number % len(_HATCHES)]}
            bars = axes.bar(positions, heights, width * 0.94, **style, edgecolor="white", linewidth=0)
            font = 7.5 if len(results) == 1 else 6.5
            numbers = [f"{height:.1f}{'*' * word.unknown}" for height, word in zip(heights, words, strict=True)]
            upright = 90 if len(results) > 2 else 0
            axes.bar_label(bars, numbers, padding=2, fontsize=font, color="#444444", rotation=upright)
        axes.set_xticks(centres)
        # Labels of equally many rows, so that their baselines can be aligned. A word with dollar signs is no formula.
        rows = max(map(len, places), default=1)
        texts = ["\n".join([*map(_shown, place), *[""] * (rows - len(place))]) for place in places]
        axes.set_xticklabels(texts, fontsize=_FONT_SIZE, va="baseline", parse_math=False)
        axes.tick_params(axis="x", length=0, pad=_FONT_SIZE * 1.35 * rows)
        _style(axes, width=widest, height=highest * 1.25 or 1)
        for name, indices in (regions or {}).items():
            _mark(axes, name, ends, range(max(indices.start, line.start), min(indices.stop, line.stop)), line)
        if line.start == 0:
            _label(axes, results, labels, nats, unit, width=widest)
    return figure


def _checked_conditions(results: object) -> list[SentenceScore]:
    if not isinstance(results, list | tuple) or not results or not all(isinstance(r, SentenceScore) for r in results):
        raise InputError(
            "not results of score",
            where="results",
            found=shown(results),
            expected="a SentenceScore, or a list of at least one",
        )
    counts = [len(result.words) for result in results]
    if len(set(counts)) > 1:
        raise InputError(
            "the results have different numbers of words",
            where="results",
            found=", ".join(map(str, counts)),
            expected="equal numbers, so that each word of one stands at the place of a word of the other",
            remedy="plot them one by one",
        )
    return list(results)


def _are_strs(values: object) -> TypeGuard[Sequence[str]]:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _words_of_regions(regions: object, result: SentenceScore) -> dict[str, range]:
    """Return the indices of the words that begin in each region, by its name."""
    if regions is None:
        return {}
    if not isinstance(regions, Mapping) or not _are_strs([*regions]):
        raise InputError(
            "not regions", where="regions", found=shown(regions), expected="a dict of (start, end) by name"
        )
    words = {}
    for name, span in regions.items():
        is_span = isinstance(span, list | tuple) and len(span) == 2 and all(type(place) is int for place in span)
        inside = [n for n, word in enumerate(result.words) if is_span and span[0] <= word.start < span[1]]
        if not inside:
            raise InputError(
                "no word begins in a region",
                where=f"regions[{name!r}]",
                found=repr(span)[:80],
                expected="(start, end), indices of characters of the text",
            )
        words[name] = range(inside[0], inside[-1] + 1)
    return words


def _mark(axes: Any, name: str, ends: Sequence[float], words: range, line: slice) -> None:
    """Mark the words of a region that stand in a line, if there are any.

    Args:
        axes: The panel of the line.
        name: Name of the region.
        ends: The left edge of each word of the line, and the right edge of the last one.
        words: Indices of the words of the region that stand in the line.
        line: The words of the line.
    """
    if words:
        left, right = ends[words.start - line.start], ends[words.stop - line.start]
        axes.axvspan(left + 0.1, right - 0.1, color=_REGION, zorder=0, linewidth=0)  # neighbours do not touch
        axes.annotate(
            printable(name),
            ((left + right) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color="#555555",
            parse_math=False,
        )


def _places(results: Sequence[SentenceScore]) -> list[list[str]]:
    """Return the different words at each place of some results."""
    return [list(dict.fromkeys(words)) for words in zip(*[[w.text for w in r.words] for r in results], strict=True)]


def _place_widths(places: Sequence[Sequence[str]], bars: int) -> list[int]:
    """Return the width of each place and the space around it, in characters.

    Args:
        places: The words below each place.
        bars: Number of bars above each place.
    """
    least = max(_MINIMUM_WORD_WIDTH, bars * _BAR_WIDTH)
    return [max(least, min(max(map(len, words)), _MAXIMUM_WORD_LENGTH) + 2) for words in places]


def _lines_of(places: Sequence[Sequence[str]], bars: int) -> list[slice]:
    """Split some places into the fewest lines that hold them, of about equal width; arguments as above."""
    widths = _place_widths(places, bars)
    total = sum(widths)
    count = max(1, math.ceil(total / _LINE_WIDTH))
    lines, width = [slice(0, 0)], 0
    for index, own in enumerate(widths):
        if width and width + own / 2 > total / count and len(lines) < count:
            lines.append(slice(index, index))
            width = 0
        lines[-1] = slice(lines[-1].start, index + 1)
        width += own
    return lines


def _style(axes: Any, *, width: float, height: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor="#555555")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _label(
    axes: Any, results: Sequence[SentenceScore], names: Sequence[str] | None, nats: float, unit: str, *, width: float
) -> None:
    """Write the names of the results above a panel, with the total surprisal of each text."""
    names = [str(result.lang) for result in results] if names is None else names
    totals = [
        f"{-result.logprob / nats:.1f} {unit} in total{', * with <unk>' if result.unknown else ''}"
        for result in results
    ]
    labels = [f"{_shown(name)}: {total}" for name, total in zip(names, totals, strict=True)]
    if len(labels) == 1:
        axes.set_title(labels[0], loc="left", fontsize=8.5, color="#333333", parse_math=False)
        return
    legend = axes.legend(
        list(axes.containers),
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        ncols=max(1, int(width / (max(map(len, labels)) * _LEGEND_CHARACTER + _LEGEND_GAP))),
        fontsize=8.5,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _shown(word: str) -> str:
    """Return a word as it is drawn: shortened, with a replacement for each unprintable character."""
    text = printable(word)
    return text if len(text) <= _MAXIMUM_WORD_LENGTH else text[: _MAXIMUM_WORD_LENGTH - 1] + "…"
