"""Recognises a text that plainly holds several sentences, which should be scored one by one."""

from __future__ import annotations

import re

from xlm.tokenizer.moses.tokenise import Moses

_END = re.compile(r"[.!?][\"'”’»)\]]*\s+[\"'“„‘«(\[¿¡]*(\w)")
"""The end of a sentence, and the first letter or digit behind it."""


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
