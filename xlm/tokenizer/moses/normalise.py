"""Rewriting rules, and the normalisation of a text before Moses divides it into words.

A rule is a pattern and a replacement, which consists of literal text and group numbers. Applied to a ``str``, a
rule is one call of ``re.sub``. Applied to an ``AlignedText``, a rule also keeps track of the span of raw text that each
character came from.

The normalisation follows three Perl scripts of Moses, and for Romanian also two scripts by Sennrich. ``perl=True``
gives the results of the scripts. ``perl=False`` gives the results of transformers, which uses sacremoses in place of
normalize-punctuation.perl and its own ports of the other scripts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from xlm.tokenizer.alignment import AlignedText, Piece

Part = str | int
"""A part of a replacement: literal text, or the number of a group in the pattern."""


_LITERAL = re.compile(r"(?:[^\\.^$*+?{}\[\]|()]|\\\W)+").fullmatch


class Rule:
    """A substitution of every match of a pattern, from left to right. The pattern is compiled when it is first needed.

    Args:
        pattern: A regular expression.
        parts: The parts of the replacement, or a function that returns the replacement of a match as pieces.
        needs: A text that every match contains; searching for it is faster than matching. By default the pattern
            itself, if it is literal text.
        flags: Flags of ``re``.
        acts_on_ascii: Whether the pattern can match in a text of ASCII characters only.
    """

    def __init__(
        self,
        pattern: str,
        parts: Sequence[Part] | Callable[[re.Match[str]], list[Piece]],
        *,
        needs: str = "",
        flags: int = 0,
        acts_on_ascii: bool = True,
    ) -> None:
        self._pattern, self._flags, self._parts = pattern, flags, parts
        self._is_literal = _LITERAL(pattern) is not None
        self.needs = needs or (re.sub(r"\\(.)", r"\1", pattern) if self._is_literal else "")
        self.acts_on_ascii = acts_on_ascii and self.needs.isascii()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("rules cannot be pickled: each process makes its own, from the preset and the language")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self._pattern, self._flags)

    @cached_property
    def sub(self) -> Callable[[str], str]:
        """Returns a text with this rule applied."""
        parts = self._parts
        if not callable(parts) and self._is_literal and not any(isinstance(part, int) for part in parts):
            old, new = self.needs, "".join(map(str, parts))
            return lambda text: text.replace(old, new)
        substitute = self.pattern.sub
        if callable(parts):
            return lambda text: substitute(lambda match: "".join(piece[0] for piece in parts(match)), text)
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
    """Return the rule that replaces each character that is a key of a table by the value of that key."""
    characters = "".join(table)
    return Rule(
        f"[{characters}]",
        lambda match: [(table[match[0]], *match.span())],
        acts_on_ascii=any(map(str.isascii, characters)),
    )


def replacing_class(category: str, replacement: str, *, within: str) -> Rule:
    """Return the rule that replaces each character of a Unicode category, for which ``re`` has no syntax.

    Args:
        category: The beginning of the names of the categories, such as ``"C"``.
        replacement: The replacement of each character.
        within: A pattern that matches every character of the category and few others, so that the rule is fast.
    """

    def replaced(match: re.Match[str]) -> list[Piece]:
        return [
            (replacement if unicodedata.category(character).startswith(category) else character, index, index + 1)
            for index, character in enumerate(match[0], start=match.start())
        ]

    return Rule(within, replaced)


def _pieces_of(match: re.Match[str], parts: Sequence[Part]) -> list[Piece]:
    groups = [part for part in parts if isinstance(part, int)]
    if groups != sorted(groups):
        # The replacement reorders the groups, so each part gets the span of the whole match, which keeps spans in
        # order.
        return [(match[part] if isinstance(part, int) else part, *match.span()) for part in parts]
    pieces: list[Piece] = []
    done = match.start()
    for i, part in enumerate(parts):
        if isinstance(part, int):
            pieces.append((match[part], *match.span(part)))
            done = match.end(part)
        else:  # literal text gets the span of the text between the groups
            end = next((match.start(later) for later in parts[i + 1 :] if isinstance(later, int)), match.end())
            pieces.append((part, done, end))
            done = end
    return pieces


def apply(rules: Iterable[Rule], text: str) -> str:
    """Apply rules to a text, one after the other."""
    for rule in rules:
        if rule.needs in text:
            text = rule.sub(text)
    return text


def apply_aligned(rules: Iterable[Rule], text: AlignedText) -> AlignedText:
    """Apply rules to an aligned text, one after the other."""
    for rule in rules:
        if rule.needs in text.text:
            text = rule.aligned(text)
    return text


NBSP = "\u00a0"

# The Perl script and its port in transformers use this same table. It does not include the full stops 。 and ．: a
# separate rule replaces them together with the spaces after them.
_PUNCTUATION = {
    **dict(
        zip(
            "，、”“∶：？《》）！（；」「～’━〈〉【】％０１２３４５６７８９",
            ',,"":' + ':?"")!(;""~\'-<>[]%0123456789',
            strict=True,
        )
    ),
    "…": "...",
}

_ROMANIAN = dict(zip("ŞşŢţȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi", strict=True))


def replace_unicode_punctuation(*, perl: bool) -> list[Rule]:
    """Return the rules that turn full-width and typographic punctuation and digits into ASCII.

    No rule matches the result of another rule, so the order of the rules does not matter.

    Source: Moses, scripts/tokenizer/replace-unicode-punctuation.perl.
    """
    return [
        translating(_PUNCTUATION),
        # The script removes the ASCII spaces after the full stop; the port in transformers removes any whitespace.
        Rule("[。．] *" if perl else r"[。．]\s*", (". ",), acts_on_ascii=False),
    ]


def normalize_punctuation(language: str, *, perl: bool) -> list[Rule]:
    """Return the rules that unify quotes, dashes and the spaces beside punctuation.

    With ``perl``, only ASCII characters count as digits or spaces, because the Perl script reads bytes.

    Source: Moses, scripts/tokenizer/normalize-punctuation.perl.
    """
    flags = re.ASCII if perl else 0
    one_space = Rule("  +", (" ",), needs="  ")
    return [
        Rule("\r", ()),
        # Spaces beside brackets and punctuation.
        Rule(r"\(", (" (",)),
        Rule(r"\)", (") ",)),
        one_space,
        Rule(r"\) ([.!:?;,])", (")", 1), needs=") "),
        Rule(r"\( ", ("(",)),
        Rule(r" \)", (")",)),
        Rule(r"(\d) %", (1, "%"), needs=" %", flags=flags),
        Rule(" :", (":",)),
        Rule(" ;", (";",)),
        # Quotes that the script leaves unchanged only if its Penn Treebank style is on.
        Rule("`", ("'",)),
        Rule("''", (' " ',)),
        # Unicode punctuation
        Rule("„", ('"',)),
        Rule("“", ('"',)),
        Rule("”", ('"',)),
        Rule("–", ("-",)),
        Rule("—", (" - ",)),
        one_space,
        Rule("´", ("'",)),
        Rule("([a-zA-Z])‘([a-zA-Z])", (1, "'", 2), needs="‘"),
        Rule("([a-zA-Z])’([a-zA-Z])", (1, "'", 2), needs="’"),
        Rule("‘", ("'",)),
        Rule("‚", ("'",)),
        Rule("’", ('"',) if perl else ("'",)),
        Rule("''", ('"',)),
        Rule("´´", ('"',)),
        Rule("…", ("...",)),
        # French quotes.
        Rule(f"{NBSP}«{NBSP}", (' "',) if perl else ('"',)),
        Rule(f"«{NBSP}", ('"',)),
        Rule("«", ('"',)),
        Rule(f"{NBSP}»{NBSP}", ('" ',) if perl else ('"',)),
        Rule(f"{NBSP}»", ('"',)),
        Rule("»", ('"',)),
        # No-break spaces ("pseudo-spaces" in the script).
        Rule(f"{NBSP}%", ("%",)),
        Rule(f"nº{NBSP}", ("nº ",)),
        Rule(f"{NBSP}:", (":",)),
        Rule(f"{NBSP}ºC", (" ºC",)),
        Rule(f"{NBSP}cm", (" cm",)),
        Rule(rf"{NBSP}\?", ("?",)),
        Rule(f"{NBSP}!", ("!",)),
        Rule(f"{NBSP};", (";",)),
        Rule(f",{NBSP}", (", ",)),
        one_space,
        *_quotation_and_comma(language, perl=perl),
        Rule(
            rf"(\d){NBSP}(\d)",
            (1, "," if language in ("de", "es", "cz", "cs", "fr") else ".", 2),
            needs=NBSP,
            flags=flags,
        ),
    ]


def _quotation_and_comma(language: str, *, perl: bool) -> list[Rule]:
    if language == "en":
        return [Rule('"([,.]+)', (1, '"'), needs='"')]
    # The rule for German, Spanish and French: the Perl script applies it to all languages except English and Czech.
    if language in ("cs", "cz") if perl else language not in ("de", "es", "fr"):
        return []

    def full_stops_after(match: re.Match[str]) -> list[tuple[str, int, int]]:
        start, end = match.span()
        if match[2] is None:
            return [(match[0], start, end)]
        quote = match.start(2)
        return [(f'"{match[1]}', start, quote), (match[2], quote, end)]

    # The script's pattern is (\.+)"(\s*[^<]). The pattern here also matches a run of full stops that no quote follows,
    # and leaves it unchanged. The results are the same, but the search takes linear time.
    flags = re.ASCII if perl else 0
    return [
        Rule(',"', ('",',)),
        Rule(r'(\.+)(?:"(\s*[^<]))?', full_stops_after, needs='."', flags=flags),
    ]


def remove_non_printing_char(*, perl: bool) -> list[Rule]:
    """Return the rule that removes Unicode's category C: control, format, private-use, unassigned, surrogates.

    Tabs and newlines are in category C. The script replaces each character by a space; transformers deletes it, which
    joins the words on both sides of a tab or newline.

    Source: Moses, scripts/tokenizer/remove-non-printing-char.perl.
    """
    return [replacing_class("C", " " if perl else "", within=r"[^ -~\u00a1-\u00ac\u00ae-\u0377]+")]


def romanian() -> list[Rule]:
    """Return the rules that remove Romanian diacritics, whether they are written with commas or cedillas below.

    Source: Sennrich's wmt16-scripts, preprocess/normalise-romanian.py and remove-diacritics.py.
    """
    return [translating(_ROMANIAN)]
