"""Surprisals as a picture: a panel for each text, with a bar above each word."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from xlm._io.arguments import check_choice
from xlm._io.atomic import replacing
from xlm.errors import DependencyError, InputError, warn_caller
from xlm.scoring.scorer import SentenceScore

UNITS = {"bits": math.log(2), "nats": 1.0}
"""Number of nats in one unit of surprisal."""

# The palette of Okabe and Ito, whose colours also differ for the colour-blind and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--")
_INCHES_OF_LINE, _INCHES_OF_CHARACTER = 2.1, 0.1
# The following sizes are in characters: the words of a line stand next to each other as in print.
_LINE_WIDTH, _MINIMUM_LINE_WIDTH = 84, 40
_MINIMUM_WORD_WIDTH, _MAXIMUM_BAR_WIDTH = 6, 3.2
_MAXIMUM_WORD_LENGTH = 24


def check_matplotlib() -> None:
    """Raise ``DependencyError`` unless matplotlib is installed; call this before computing what is to be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "matplotlib is not installed", where="the picture", remedy="pip install 'xlm[plot]'"
        ) from error


def draw_surprisals(
    panels: Sequence[Sequence[SentenceScore]], path: Path, *, unit: str = "bits", title: str | None = None
) -> None:
    """Draw the surprisal of each word into a PNG or SVG file. Equal results give equal files.

    Args:
        panels: For each panel, results of one text, for example in several languages; their bars stand side by side.
        path: The file; its name ends in ``.png`` or ``.svg``, and its directory exists.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above all panels.

    Raises:
        InputError: The file name or the unit is not supported, there are no panels, or a panel has results of several
            texts.
        DependencyError: matplotlib is not installed.
        WriteError: The file could not be written.
    """
    check_matplotlib()
    format = path.suffix.lower().removeprefix(".")
    if format not in ("png", "svg"):
        raise InputError("no such image format", where=path, found=path.suffix, expected=".png or .svg")
    check_choice("unit", UNITS, unit=unit)
    if not panels or any(len({result.text for result in results}) != 1 for results in panels):
        raise InputError(
            "the panels do not each show one text",
            where="panels",
            found=f"{len(panels)} panels",
            expected="at least one panel; all results in a panel are of the same text",
        )
    from matplotlib import rc_context

    # Write no random names of clip paths, no dates and no versions, so that equal results give equal files.
    with rc_context({"svg.hashsalt": "xlm", "hatch.linewidth": 0.6}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas = _canvas(panels, unit, title)
        metadata = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
        with replacing(path) as temporary:
            canvas.savefig(temporary, format=format, dpi=160, metadata=metadata)
    if any("missing from" in str(warning.message) for warning in caught):
        warn_caller("some characters are drawn as boxes: matplotlib found no font with them")


def _canvas(panels: Sequence[Sequence[SentenceScore]], unit: str, title: str | None) -> Any:
    from matplotlib.figure import Figure

    lines = [(results, line) for results in panels for line in _lines_of([word.text for word in results[0].words])]
    nats = UNITS[unit]
    highest = max((word.surprisal / nats for results in panels for r in results for word in r.words), default=0.0)
    line_widths = [sum(_word_width(word.text) for word in results[0].words[line]) for results, line in lines]
    widest = max(_MINIMUM_LINE_WIDTH, *line_widths)
    size = (widest * _INCHES_OF_CHARACTER + 0.8, len(lines) * _INCHES_OF_LINE + (0.5 if title else 0.1))
    canvas = Figure(figsize=size, layout="constrained")
    if title:
        canvas.suptitle(_printable(title), fontsize=12, fontweight="bold", parse_math=False)
    canvas.supylabel(f"surprisal ({unit})", fontsize=9, color="#555555")
    for axes, (results, line) in zip(canvas.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
        words = results[0].words[line]
        word_widths = [_word_width(word.text) for word in words]
        centres = [end - width / 2 for end, width in zip(accumulate(word_widths), word_widths, strict=True)]
        for number, result in enumerate(results):
            width = min(_MAXIMUM_BAR_WIDTH, _MINIMUM_WORD_WIDTH / len(results) * 0.8)
            positions = [centre + (number - (len(results) - 1) / 2) * width for centre in centres]
            heights = [word.surprisal / nats for word in result.words[line]]
            style = {"color": _COLOURS[number % len(_COLOURS)], "hatch": _HATCHES[number % len(_HATCHES)]}
            bars = axes.bar(positions, heights, width * 0.94, **style, edgecolor="white", linewidth=0)
            font = 7.5 if len(results) == 1 else 5.5
            axes.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2, fontsize=font, color="#444444")
        axes.set_xticks(centres)
        # Do not draw a word with dollar signs as a formula.
        axes.set_xticklabels([_shown(word.text) for word in words], fontsize=9, parse_math=False)
        _style(axes, width=widest, height=highest * 1.15 or 1)
        if line.start == 0:
            _label(axes, results, nats, unit)
    return canvas


def _word_width(word: str) -> int:
    """Return the width of a word and the space around it, in characters."""
    return max(_MINIMUM_WORD_WIDTH, min(len(word), _MAXIMUM_WORD_LENGTH) + 2)


def _lines_of(words: Sequence[str]) -> list[slice]:
    """Split words into the fewest lines that hold them, of about equal width."""
    total = sum(map(_word_width, words))
    count = max(1, math.ceil(total / _LINE_WIDTH))
    lines, width = [slice(0, 0)], 0
    for index, word in enumerate(words):
        if width and width + _word_width(word) / 2 > total / count and len(lines) < count:
            lines.append(slice(index, index))
            width = 0
        lines[-1] = slice(lines[-1].start, index + 1)
        width += _word_width(word)
    return lines


def _style(axes: Any, *, width: float, height: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor="#555555")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _label(axes: Any, results: Sequence[SentenceScore], nats: float, unit: str) -> None:
    """Write the languages above a panel, with the total surprisal of the text in each."""
    labels = [f"{result.lang}: {-result.logprob / nats:.1f} {unit} in total" for result in results]
    if len(labels) == 1:
        axes.set_title(labels[0], loc="left", fontsize=8.5, color="#333333", parse_math=False)
        return
    axes.legend(
        list(axes.containers),
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        ncols=len(labels),
        fontsize=8.5,
        frameon=False,
    )


def _shown(word: str) -> str:
    """Return a word as it is drawn: shortened, with a replacement for each unprintable character."""
    printable = _printable(word)
    return printable if len(printable) <= _MAXIMUM_WORD_LENGTH else printable[: _MAXIMUM_WORD_LENGTH - 1] + "…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
