"""Sentences of a text: whether it plainly holds several, and where they are."""

from __future__ import annotations

import re

from xlm._io.dependencies import needing
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.alignment import Span
from xlm.tokenizer.moses.tokenise import Moses

_END = re.compile(r"[.!?][\"'”’»)\]]*\s+[\"'“„‘«(\[¿¡]*(\w)")
"""The end of a sentence, and the first letter or digit behind it."""

_NO_BLANK = re.compile(r"[^\S\n]|[\ud800-\udfff]")
"""Whitespace, or half a surrogate pair, that makes sentencex fail."""


def holds_sentences(text: str, rules: Moses) -> bool:
    """Return whether punctuation that ends a sentence is followed by a capital letter, except after abbreviations.

    A full stop after an initial, a number or a word with another full stop (``J.``, ``3.``, ``U.S.``) does not count.

    Args:
        text: The text.
        rules: Moses' rules of its language, which know abbreviations.
    """
    for end in _END.finditer(text):
        if not end[1].isupper():
            continue
        if end[0][0] != ".":
            return True
        word = re.split(r"[^\w.]", text[: end.start()])[-1]
        if len(word) > 1 and not word.isdigit() and "." not in word and not rules.is_abbreviation(word):
            return True
    return False


def sentence_spans(text: str, *, lang: str) -> list[Span]:
    """Return the characters of each sentence of a text, without the whitespace around it.

    The sentences are those of the library sentencex. Together they hold all of the text but whitespace.

    Args:
        text: Prose of one or more sentences.
        lang: Its language, as an ISO 639 code such as ``"en"``.

    Returns:
        For each sentence, the index of its first character and one past that of its last one.

    Raises:
        InputError: The text is not a str.
        LanguageError: The language is not an ASCII str.
        DependencyError: sentencex is not installed.
    """
    if not isinstance(text, str):
        raise InputError("a text is not a str", where="text", found=type(text).__name__, expected="str")
    if not isinstance(lang, str) or not lang.isascii():
        raise LanguageError("not a language", where="lang", found=repr(lang), expected="a code such as 'en'")
    what = "splitting a text into sentences needs sentencex"
    with needing(what, where="sentencex", install="'xlm[sentences]'"):
        from sentencex import segment
    spans: list[Span] = []
    end = 0
    for sentence in segment(lang, _NO_BLANK.sub(" ", text)):
        start, end = end, end + len(sentence)
        if stripped := sentence.strip():
            first = start + len(sentence) - len(sentence.lstrip())
            spans.append((first, first + len(stripped)))
    return spans
