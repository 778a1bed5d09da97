"""Results as a person sees them in a notebook: words with the colour of their surprisal."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xlm.scoring.scorer import SentenceScore

_STRONGEST = 20 * math.log(2)  # surprisal of the strongest colour, in nats: as in xlm explore
_HIGHEST_ALPHA = 0.75


def words_as_html(result: SentenceScore) -> str:
    """Return a text as HTML, each word with the colour of its surprisal, and numbers that show under the pointer.

    The colour is transparent, so that text can be read on a light and on a dark page. No character of the text is
    interpreted as markup.
    """
    parts, end, count = [], 0, 0  # where the words so far end in the text, and the number of their tokens
    for word in result.words:
        note = "unknown to the model" if word.unknown else f"{word.tokens} token{'' if word.tokens == 1 else 's'}"
        parts += [_escaped(result.text[end : word.start]), _coloured(word.text, word.surprisal, note)]
        end, count = word.end, count + word.tokens
    parts.append(_escaped(result.text[end:]))
    for token, logprob in zip(result.tokens[count:], result.logprobs[count:], strict=True):
        parts += [" ", _coloured(token, -logprob, "the end of the text")]
    total = f"{_escaped(str(result.lang))}: {_amount(0.0 - result.logprob)} in total"
    return (
        f'<div style="white-space: pre-wrap; line-height: 1.8" dir="auto">{"".join(parts)}</div>'
        f'<div style="opacity: 0.7; font-size: 85%">{total}</div>'
    )


def printable(text: str) -> str:
    """Return a text with a replacement for each character that does not print, such as a control character."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _coloured(word: str, surprisal: float, note: str) -> str:
    alpha = _HIGHEST_ALPHA * min(max(surprisal / _STRONGEST, 0), 1)
    style = f"background: rgba(230, 120, 40, {alpha:.3f}); border-radius: 3px; padding: 2px"
    return f'<span style="{style}" title="{_amount(surprisal)}, {note}">{_escaped(word)}</span>'


def _amount(nats: float) -> str:
    return f"{nats:.2f} nats ({nats / math.log(2):.2f} bits)"


def _escaped(text: str) -> str:
    return html.escape("".join(c if c.isspace() else printable(c) for c in text))
