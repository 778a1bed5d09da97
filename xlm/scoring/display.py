"""Results as a person sees them in a notebook: words with the colour of their surprisal."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.scoring.scorer import SentenceScore

_MOST_SHOWN = 20  # results of a list
_STRONGEST = 20 * math.log(2)  # surprisal of the strongest colour, in nats: as in xlm explore
_HIGHEST_ALPHA = 0.55  # on a page of #111 with text of #ddd, the contrast is above 4.5


class ResultList(list[Any]):
    """List of results, or of lists of them, which notebooks show with coloured words."""

    def _repr_html_(self) -> str:
        shown = "".join(f'<div style="margin-bottom: 0.8em">{each._repr_html_()}</div>' for each in self[:_MOST_SHOWN])
        more = len(self) - _MOST_SHOWN
        return shown + (f"<div>… and {more:,} more</div>" if more > 0 else "")


def words_as_html(result: SentenceScore) -> str:
    """Return a text as HTML, each word with the colour of its surprisal, and numbers that show under the pointer.

    The colour is transparent, so that text can be read on a light and on a dark page. A word with ``<unk>`` is
    underlined. No character of the text is interpreted as markup.
    """
    parts, end, count = [], 0, 0  # where the words so far end in the text, and the number of their tokens
    for word in result.words:
        note = "unknown to the model" if word.unknown else f"{word.tokens} token{'' if word.tokens == 1 else 's'}"
        parts += [_escaped(result.text[end : word.start]), _coloured(word.text, word.surprisal, note, word.unknown)]
        end, count = word.end, count + word.tokens
    parts.append(_escaped(result.text[end:]))
    for token, logprob in zip(result.tokens[count:], result.logprobs[count:], strict=True):
        parts += [" ", _coloured(token, -logprob, "the end of the text")]
    language = result.lang if isinstance(result.lang, str | None) else ", ".join(dict.fromkeys(result.lang))
    notes = [f"{_escaped(str(language))}: {_amount(0.0 - result.logprob)} in total"]
    notes.append(f"strongest colour: {_STRONGEST / math.log(2):.0f} bits or more")
    if result.unknown:
        notes.append("underlined: unknown to the model")
    return (
        f'<div style="white-space: pre-wrap; line-height: 1.8" dir="auto">{"".join(parts)}</div>'
        f'<div style="opacity: 0.7; font-size: 85%">{" · ".join(notes)}</div>'
    )


def printable(text: str) -> str:
    """Return a text with a replacement for each character that does not print, such as a control character."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _coloured(word: str, surprisal: float, note: str, is_unknown: bool = False) -> str:
    alpha = _HIGHEST_ALPHA * min(max(surprisal / _STRONGEST, 0), 1)
    style = f"background: rgba(230, 120, 40, {alpha:.3f}); border-radius: 3px; padding: 2px"
    style += "; text-decoration: underline dotted" * is_unknown
    return f'<span style="{style}" title="{_amount(surprisal)}, {note}">{_escaped(word)}</span>'


def _amount(nats: float) -> str:
    return f"{nats:.2f} nats ({nats / math.log(2):.2f} bits)"


def _escaped(text: str) -> str:
    return html.escape("".join(c if c.isspace() else printable(c) for c in text))
