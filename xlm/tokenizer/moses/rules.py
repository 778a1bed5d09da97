"""Rewriting rules as data: each is written once, and rewrites a plain text or one that knows where it came from.

A rule is a pattern and what to put in its place: literal text and numbers of groups. Applied to a ``str`` it is one
``re.sub``; applied to an ``AlignedText`` it also carries along, for each character, the span of raw text it came from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from xlm.tokenizer.alignment import AlignedText, Piece

Part = str | int
"""Part of what a rule writes: literal text, or the number of a group."""


class Rule:
    """A substitution wherever its pattern matches, from left to right.

    Args:
        pattern: A regular expression.
        parts: What to write in place of a match; or a function from a match to its pieces, for what parts cannot say.
        needs: A text that every match holds: looking for it is faster than the pattern. By default the pattern, if it
            is literal text.
        flags: Of ``re``.
        acts_on_ascii: Whether the pattern can match in a text of ASCII alone.
    """

    __slots__ = ("_parts", "acts_on_ascii", "needs", "pattern", "sub")

    def __init__(
        self,
        pattern: str,
        parts: Sequence[Part] | Callable[[re.Match[str]], list[Piece]],
        *,
        needs: str = "",
        flags: int = 0,
        acts_on_ascii: bool = True,
    ) -> None:
        self.pattern = re.compile(pattern, flags)
        literal = re.sub(r"\\(.)", r"\1", pattern) if _is_literal(self.pattern) else ""
        self.needs = needs or literal
        self.acts_on_ascii = acts_on_ascii and self.needs.isascii()
        self._parts = parts
        self.sub = self._substitution()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("rules cannot be pickled: each process makes its own, from the preset and the language")

    def _substitution(self) -> Callable[[str], str]:
        parts, substitute = self._parts, self.pattern.sub
        if callable(parts):
            return lambda text: substitute(lambda match: "".join(piece[0] for piece in parts(match)), text)
        if len(parts) <= 1 and all(isinstance(part, str) for part in parts) and _is_literal(self.pattern):
            old, new = self.needs, "".join(map(str, parts))
            return lambda text: text.replace(old, new)
        template = "".join(part.replace("\\", r"\\") if isinstance(part, str) else rf"\g<{part}>" for part in parts)
        return lambda text: substitute(template, text)

    def aligned(self, source: AlignedText) -> AlignedText:
        """Return an aligned text with this rule applied."""
        pieces: list[Piece] = []
        done = 0
        for match in self.pattern.finditer(source.text):
            pieces.append((source.text[done : match.start()], done, match.start()))
            pieces += self._parts(match) if callable(self._parts) else _pieces_of(match, self._parts)
            done = match.end()
        if not pieces:
            return source
        pieces.append((source.text[done:], done, len(source.text)))
        return source.from_pieces(pieces)


def translating(table: dict[str, str]) -> Rule:
    """Return the rule that replaces each character of a table by what the table holds for it."""
    characters = "".join(table)
    return Rule(
        f"[{characters}]",
        lambda match: [(table[match[0]], *match.span())],
        acts_on_ascii=any(map(str.isascii, characters)),
    )


def replacing_class(category: str, replacement: str, *, within: str) -> Rule:
    """Return the rule that replaces each character of a Unicode class, which ``re`` cannot name.

    Args:
        category: The beginning of the names of the class's categories, such as ``"C"``.
        replacement: What to write for a character of the class.
        within: A pattern that matches every character of the class; the fewer others, the faster.
    """

    def replaced(match: re.Match[str]) -> list[Piece]:
        return [
            (replacement if unicodedata.category(character).startswith(category) else character, place, place + 1)
            for place, character in enumerate(match[0], start=match.start())
        ]

    return Rule(within, replaced)


def _is_literal(pattern: re.Pattern[str]) -> bool:
    return re.fullmatch(r"(?:[^\\.^$*+?{}\[\]|()]|\\\W)+", pattern.pattern) is not None


def _pieces_of(match: re.Match[str], parts: Sequence[Part]) -> list[Piece]:
    groups = [part for part in parts if isinstance(part, int)]
    if groups != sorted(groups):
        # Groups in another order: each part takes the span of all, so that spans stay in the order of the text.
        return [(match[part] if isinstance(part, int) else part, *match.span()) for part in parts]
    pieces: list[Piece] = []
    done = match.start()
    for i, part in enumerate(parts):
        if isinstance(part, int):
            pieces.append((match[part], *match.span(part)))
            done = match.end(part)
        else:  # literal text takes the span of what was between the groups
            end = next((match.start(later) for later in parts[i + 1 :] if isinstance(later, int)), match.end())
            pieces.append((part, done, end))
            done = end
    return pieces


def apply(rules: Iterable[Rule], text: str) -> str:
    """Return a text with rules applied, one after the other."""
    for rule in rules:
        if rule.needs in text:
            text = rule.sub(text)
    return text


def apply_aligned(rules: Iterable[Rule], text: AlignedText) -> AlignedText:
    """Return an aligned text with rules applied, one after the other."""
    for rule in rules:
        if rule.needs in text.text:
            text = rule.aligned(text)
    return text
