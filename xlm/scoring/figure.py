"""Surprisals as a picture: one panel a text, one bar a word, the words on the axis."""

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
from xlm.scoring.sentence import SentenceScore

UNITS = {"bits": math.log(2), "nats": 1.0}
"""Nats of one unit."""

# Of Okabe and Ito: told apart by the colour-blind, and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--")
_INCHES_OF_LINE, _INCHES_OF_CHARACTER = 2.1, 0.1
# In characters: a line's words stand beside each other as in print, each bar above its word.
_CHARACTERS_OF_LINE, _NARROWEST_LINE = 84, 40
_NARROWEST_ROOM, _WIDEST_BAR = 6, 3.2
_SHOWN_OF_WORD = 24


def check_matplotlib() -> None:
    """Raise ``DependencyError`` unless matplotlib is installed; for callers with long work before the drawing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "matplotlib is not installed", where="the picture", remedy="pip install 'xlm[plot]'"
        ) from error


def draw_surprisals(
    panels: Sequence[Sequence[SentenceScore]], path: Path, *, unit: str = "bits", title: str | None = None
) -> None:
    """Draw the surprisal of each word into a PNG or SVG file; equal numbers give equal files.

    Args:
        panels: For each panel, the results of one text, such as in several languages; their bars stand side by side.
        path: The file; its name ends in ``.png`` or ``.svg``, its directory exists.
        unit: ``"bits"`` or ``"nats"``.
        title: Title above all panels.

    Raises:
        InputError: Another name or unit, no panels, or a panel of several texts.
        DependencyError: matplotlib is not installed.
        WriteError: The file could not be written.
    """
    check_matplotlib()
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise InputError("no such picture format", where=path, found=path.suffix, expected=".png or .svg")
    check_choice("unit", UNITS, unit=unit)
    if not panels or any(len({result.text for result in results}) != 1 for results in panels):
        raise InputError(
            "a panel does not show exactly one text",
            where="panels",
            found=f"{len(panels)} panels",
            expected="at least one, each of results of the same text",
        )
    from matplotlib import rc_context

    # Without random names of clip paths, dates or versions in the file.
    with rc_context({"svg.hashsalt": "xlm", "hatch.linewidth": 0.6}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas = _canvas(panels, unit, title)
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        with replacing(path) as temporary:
            canvas.savefig(temporary, format=form, dpi=160, metadata=metadata)
    if any("missing from" in str(warning.message) for warning in caught):
        warn_caller("some characters are drawn as boxes: matplotlib found no font with them")


def _canvas(panels: Sequence[Sequence[SentenceScore]], unit: str, title: str | None) -> Any:
    from matplotlib.figure import Figure

    lines = [(results, line) for results in panels for line in _lines_of([word.text for word in results[0].words])]
    nats = UNITS[unit]
    highest = max((word.surprisal / nats for results in panels for r in results for word in r.words), default=0.0)
    widest = max(
        _NARROWEST_LINE, *(sum(_room(word.text) for word in results[0].words[line]) for results, line in lines)
    )
    size = (widest * _INCHES_OF_CHARACTER + 0.8, len(lines) * _INCHES_OF_LINE + (0.5 if title else 0.1))
    canvas = Figure(figsize=size, layout="constrained")
    if title:
        canvas.suptitle(_printable(title), fontsize=12, fontweight="bold", parse_math=False)
    canvas.supylabel(f"surprisal ({unit})", fontsize=9, color="#555555")
    for axes, (results, line) in zip(canvas.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
        words = results[0].words[line]
        rooms = [_room(word.text) for word in words]
        centres = [end - room / 2 for end, room in zip(accumulate(rooms), rooms, strict=True)]
        for number, result in enumerate(results):
            width = min(_WIDEST_BAR, _NARROWEST_ROOM / len(results) * 0.8)
            places = [centre + (number - (len(results) - 1) / 2) * width for centre in centres]
            heights = [word.surprisal / nats for word in result.words[line]]
            look = {"color": _COLOURS[number % len(_COLOURS)], "hatch": _HATCHES[number % len(_HATCHES)]}
            bars = axes.bar(places, heights, width * 0.94, **look, edgecolor="white", linewidth=0)
            font = 7.5 if len(results) == 1 else 5.5
            axes.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2, fontsize=font, color="#444444")
        axes.set_xticks(centres)
        # No word is a formula, whatever dollars are in it.
        axes.set_xticklabels([_shown(word.text) for word in words], fontsize=9, parse_math=False)
        _dress(axes, width=widest, height=highest * 1.15 or 1)
        if line.start == 0:
            _name(axes, results, nats, unit)
    return canvas


def _room(word: str) -> int:
    """Return the width of a word, with its space, in characters."""
    return max(_NARROWEST_ROOM, min(len(word), _SHOWN_OF_WORD) + 2)


def _lines_of(words: Sequence[str]) -> list[slice]:
    """Return the words of each line: as few lines as hold them, of about one length."""
    total = sum(map(_room, words))
    most = max(1, math.ceil(total / _CHARACTERS_OF_LINE))
    lines, filled = [slice(0, 0)], 0
    for number, word in enumerate(words):
        if filled and filled + _room(word) / 2 > total / most and len(lines) < most:
            lines.append(slice(number, number))
            filled = 0
        lines[-1] = slice(lines[-1].start, number + 1)
        filled += _room(word)
    return lines


def _dress(axes: Any, *, width: float, height: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor="#555555")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _name(axes: Any, results: Sequence[SentenceScore], nats: float, unit: str) -> None:
    """Write above a panel which language is which, and the total of its text."""
    labels = [f"{result.lang}: {-result.logprob / nats:.1f} {unit} in all" for result in results]
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
    """Return a word as it is drawn: cut, with a replacement character for what cannot be printed."""
    visible = _printable(word)
    return visible if len(visible) <= _SHOWN_OF_WORD else visible[: _SHOWN_OF_WORD - 1] + "…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
