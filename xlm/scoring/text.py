"""A text to score: its words and regions, what precedes it, and the language of each word."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from xlm.corpus.read_ahead import length_of
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.alignment import Span
from xlm.tokenizer.tokenizer import XLMTokenizer

_WORD = re.compile(r"\S+")
_ABSENT = object()


class Text(NamedTuple):
    """A text to score.

    Attributes:
        text: The raw text.
        lang: Name of its language, or a name for each word, those of the prefix first.
        prefix: What the text is conditioned on. If it is not empty, one blank joins it with the text.
        given_words: The words, which the text joins with blanks; ``None`` for the words between whitespace.
        regions: Spans of characters of the text.
    """

    text: str
    lang: str | Sequence[str]
    prefix: str = ""
    given_words: Sequence[str] | None = None
    regions: Sequence[Span] = ()

    @property
    def start(self) -> int:
        """Index of the first character of the text behind its prefix."""
        return len(self.prefix) + 1 if self.prefix else 0

    @property
    def with_prefix(self) -> str:
        """The prefix and the text."""
        return f"{self.prefix} {self.text}" if self.prefix else self.text

    @property
    def words(self) -> list[Span]:
        """The span of each word of the text."""
        if self.given_words is None:
            return [match.span() for match in _WORD.finditer(self.text)]
        starts = [0, *itertools.accumulate(len(word) + 1 for word in self.given_words)]
        return [(start, start + len(word)) for start, word in zip(starts, self.given_words, strict=False)]

    def check(self, where: str) -> None:
        """Check the types, and that words and regions are those of the text.

        Args:
            where: Name of the text in error messages.

        Raises:
            InputError: A part is of another type, the text does not join the words, or a region lies outside the text.
        """
        for name, value in (("text", self.text), ("prefix", self.prefix)):
            if not isinstance(value, str):
                raise InputError(f"a {name} is not a str", where=where, found=type(value).__name__, expected="str")
        if self.given_words is not None:
            _check_strings(self.given_words, where, "words")
            if " ".join(self.given_words) != self.text:
                raise InputError(
                    "a text does not consist of its words",
                    where=where,
                    found=f"{self.text[:40]!r}",
                    expected="its words, joined by one blank each",
                    remedy='texts=[" ".join(each) for each in words]',
                )
        if not isinstance(self.lang, str | None):
            _check_strings(self.lang, where, "languages")
        if not isinstance(self.regions, Sequence) or not all(map(self._has, self.regions)):
            raise InputError(
                "a region is not a span of the text",
                where=where,
                found=repr(self.regions)[:80],
                expected=f"pairs (start, end) with 0 <= start <= end <= {len(self.text)}",
            )

    def _has(self, region: Any) -> bool:
        if not isinstance(region, Sequence) or [isinstance(place, Integral) for place in region] != [True, True]:
            return False
        return bool(0 <= region[0] <= region[1] <= len(self.text))

    def runs(self, where: str = "text") -> list[tuple[str, int, int]]:
        """Return the maximal stretches of words of one language that make up the prefix and the text.

        Each is tokenised by itself: its language, its first character and one past its last.

        Args:
            where: Name of the text in error messages.

        Raises:
            LanguageError: The number of languages is not that of the words.
        """
        if isinstance(self.lang, str | None):
            return [(self.lang, 0, len(self.with_prefix))]
        words = [match.start() for match in _WORD.finditer(self.prefix)]
        words += [self.start + start for start, _ in self.words]
        if not words or len(self.lang) != len(words):
            raise LanguageError(
                "each word needs a language",
                where=where,
                found=f"{len(self.lang)} languages for {len(words)} words",
                expected="one language for each word, those of the prefix included; at least one word",
            )
        changes = [i for i, lang in enumerate(self.lang) if i and lang != self.lang[i - 1]]
        starts = [0, *(words[i] for i in changes)]
        langs = [self.lang[i] for i in (0, *changes)]
        return list(zip(langs, starts, [*starts[1:], len(self.with_prefix)], strict=True))

    def token_spans(self, tokenizer: XLMTokenizer) -> list[Span]:
        """Return the span of each token in the text; tokens of the prefix have a negative start.

        If a rule of the tokenizer rewrites whitespace together with the text behind it, the span begins at that text.
        Unlike the tokenizer's offsets, the first span does not include words that the tokenizer drops.

        Raises:
            LanguageError: The library that splits the language into words does not report their offsets.
        """
        whole = self.with_prefix
        spans: list[Span] = []
        for lang, first, last in self.runs():
            own = tokenizer.spans(whole[first:last], lang=lang)
            if first:
                own = [(first + start, first + end) for start, end in own]
            if own:
                own[0] = _behind_dropped_words(whole, *own[0], tokenizer, lang)
            spans += own
        spans = [(_without_space(whole, *span), span[1]) if whole[span[0]].isspace() else span for span in spans]
        return [(start - self.start, end - self.start) for start, end in spans] if self.start else spans


def _behind_dropped_words(text: str, start: int, end: int, tokenizer: XLMTokenizer, lang: str) -> Span:
    """Return the span of the first token of a run, without the words before it of which the tokenizer keeps nothing."""
    for word in _WORD.finditer(text, start, end):
        if word.end() == end or tokenizer.encode(word.group(), lang=lang, add_special_tokens=False):
            return word.start(), end
    return start, end


def _without_space(text: str, start: int, end: int) -> int:
    return end - len(text[start:end].lstrip()) if text[start:end].strip() else start


def _check_strings(values: Any, where: str, what: str) -> None:
    if not isinstance(values, Sequence) or not all(isinstance(value, str) for value in values):
        raise InputError(f"the {what} are not a list of str", where=where, found=repr(values)[:80])


def length_with_prefix(text: Text) -> int:
    """Return the number of characters of a text and its prefix; as for ``length_of``, 0 for what is not a str."""
    return length_of(text.text) + length_of(text.prefix)


def texts_with(
    texts: Iterable[str],
    *,
    lang: str | Iterable[str | Sequence[str]],
    words: Iterable[Sequence[str]] | None = None,
    regions: Iterable[Sequence[Span]] | None = None,
    prefixes: Iterable[str] | None = None,
) -> Iterator[Text]:
    """Yield each text with what belongs to it; the arguments are as for ``score``.

    Raises:
        InputError: As for ``with_entries``.
    """
    own: dict[str, Any] = {"lang": None if isinstance(lang, str | None) else lang, "words": words}
    own |= {"regions": regions, "prefixes": prefixes}
    for text, entries in with_entries(texts, what="texts", **own):
        yield Text(
            text,
            entries.get("lang", lang),
            prefix=entries.get("prefixes", ""),
            given_words=entries.get("words"),
            regions=entries.get("regions", ()),
        )


def with_entries(items: Iterable[Any], *, what: str, **arguments: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each item with the entry that each argument has for it.

    Args:
        items: The items.
        what: What they are, for messages.
        **arguments: For each item one entry; ``None`` is left out.

    Raises:
        InputError: An argument is not a list, or has fewer or more entries than there are items.
    """
    given = {name: values for name, values in arguments.items() if values is not None}
    if not given:
        for item in items:
            yield item, given
        return
    for name, values in given.items():
        if isinstance(values, str | bytes) or not hasattr(type(values), "__iter__") or getattr(values, "ndim", 1) != 1:
            raise InputError(f"not one entry for each of the {what}", where=name, found=type(values).__name__)
    for i, row in enumerate(itertools.zip_longest(items, *given.values(), fillvalue=_ABSENT)):
        entries = dict(zip([what, *given], row, strict=True))
        if short := [name for name, entry in entries.items() if entry is _ABSENT]:
            raise InputError(
                "the arguments differ in length",
                where=", ".join(short),
                found=f"{i} entries",
                expected=f"as many as {', '.join(name for name in entries if name not in short)}",
            )
        yield entries.pop(what), entries
