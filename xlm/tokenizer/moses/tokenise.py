"""From raw text to words: the normalisation of ``normalise.py``, then Moses' tokenizer.

There are two dialects: that of the Perl scripts, and that of transformers, which uses sacremoses. For each rule that
differs between them, the flag ``perl`` selects the dialect.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from xlm.tokenizer.alignment import AlignedText, Piece
from xlm.tokenizer.lazy import lazy
from xlm.tokenizer.moses.data import CharacterClasses, classes_of, is_latin, prefixes_of, tests_of
from xlm.tokenizer.moses.normalise import (
    Rule,
    apply,
    apply_aligned,
    normalize_punctuation,
    remove_non_printing_char,
    replace_unicode_punctuation,
    romanian,
)

DIALECTS = ("sacremoses", "perl")
"""The two versions of Moses' rules."""


class Moses:
    """Divides a text into words by the rules of one language in one dialect.

    Args:
        dialect: ``"sacremoses"`` or ``"perl"``.
        language: The language of the rules; general rules apply to a language that Moses does not know.
    """

    def __init__(self, dialect: str, language: str) -> None:
        assert dialect in DIALECTS
        self.dialect, self.language = dialect, language
        self._perl = perl = dialect == "perl"
        self._normalization_of_punctuation = (
            *replace_unicode_punctuation(perl=perl),
            *normalize_punctuation(language, perl=perl),
        )
        self._normalization_of_characters = (
            *remove_non_printing_char(perl=perl),
            # transformers applies these rules to Romanian because of an English-Romanian model
            *(romanian() if language == "ro" and not perl else ()),
        )
        self._normalization = (*self._normalization_of_punctuation, *self._normalization_of_characters)
        self._normalization_of_ascii = tuple(rule for rule in self._normalization if rule.acts_on_ascii)
        self._prefixes = prefixes_of(language, perl=perl)
        self._latin_classes = classes_of(dialect, language, latin=True)
        self._is_alnum, self._is_lower = tests_of(dialect, language)

    def words(self, text: str) -> list[str]:
        """Return the words of a text, with punctuation as separate words."""
        normalization = self._normalization_of_ascii if text.isascii() else self._normalization
        if not self._perl:
            return self._tokenized(apply(normalization, text))
        words: list[str] = []
        for line in text.split("\n"):  # the scripts read one line at a time, with its newline
            words += self._tokenized(apply(normalization, f"{line}\n"))
        return words

    def _tokenized(self, text: str) -> list[str]:
        return apply(self._tokenization(text), text).split()

    def _tokenization(self, text: str) -> Sequence[Rule]:
        """Return the rules that divide a normalised text into words."""
        return self._latin_rules if is_latin(text) else self._all_rules

    @lazy
    def _all_classes(self) -> CharacterClasses:
        return classes_of(self.dialect, self.language)

    @lazy
    def _latin_rules(self) -> Sequence[Rule]:
        return self._tokenizer_rules(self._latin_classes)

    @lazy
    def _all_rules(self) -> Sequence[Rule]:
        return self._tokenizer_rules(self._all_classes)

    def normalize(self, text: str) -> str:
        """Return a text normalised but not divided into words, as transformers does for Chinese, Japanese and Thai."""
        # sacremoses strips the text between the two steps. So if the second step removes a character at an end of the
        # text, a space beside that character stays.
        return apply(self._normalization_of_characters, apply(self._normalization_of_punctuation, text).strip())

    def normalize_aligned(self, source: AlignedText) -> AlignedText:
        """Normalise an aligned text as ``normalize`` does a str."""
        result = apply_aligned(self._normalization_of_punctuation, source)
        start = len(result.text) - len(result.text.lstrip())
        end = len(result.text.rstrip())
        return apply_aligned(self._normalization_of_characters, result.slice(start, end))

    def aligned_words(self, source: AlignedText) -> list[AlignedText]:
        """Divide an aligned text into words as ``words`` does a str."""
        words: list[AlignedText] = []
        start = 0
        for line in source.text.split("\n") if self._perl else [source.text]:
            end = start + len(line)
            part = source.slice(start, end)
            if self._perl:
                part = AlignedText(f"{line}\n", [*part.spans, source.span(end, end)])
            part = apply_aligned(self._normalization, part)
            words += apply_aligned(self._tokenization(part.text), part).split()
            start = end + 1
        return words

    def is_abbreviation(self, word: str) -> bool:
        """Return whether a word is an abbreviation, which keeps its full stop either always or before a number."""
        return word in self._prefixes.always or word in self._prefixes.before_numbers

    def is_alnum(self, character: str) -> bool:
        """Return whether the rules take a character for a letter or a digit."""
        return bool(self._is_alnum(character))

    def is_lower(self, character: str) -> bool:
        """Return whether the rules take a character for a lower-case letter."""
        return bool(self._is_lower(character))

    def _has_alpha(self, text: str) -> bool:
        classes = self._latin_classes if is_latin(text) else self._all_classes
        return classes.has_alpha.search(text) is not None

    def full_stop_stays(self, prefix: str, following: str) -> bool:
        """Return whether a word keeps the full stop at its end.

        Args:
            prefix: The word without the full stop; not empty.
            following: The first character of the next word; empty if there is none.
        """
        if self._perl and not following:
            return False  # the Perl script always splits off a full stop at the end of a text
        return (
            prefix in self._prefixes.always
            or (prefix in self._prefixes.before_numbers and following in DIGITS)
            or ("." in prefix and self._has_alpha(prefix))
            or (following != "" and self.is_lower(following))
        )

    def _tokenizer_rules(self, classes: CharacterClasses) -> Sequence[Rule]:
        """Return the rules of the tokenizer, in order.

        Source: Moses, scripts/tokenizer/tokenizer.perl -no-escape.
        """
        number = classes.number
        one_space = Rule(r"\s\s+|[^\S ]", (" ",))
        no_space_at_ends = Rule("^ | $", ())
        return [
            one_space,
            no_space_at_ends,
            *_other_special_characters(self.language, classes, perl=self._perl),
            *_multi_dots(perl=self._perl),
            # Split off ",", except within numbers.
            Rule(f"([^{number}]),", (1, " , "), needs=","),
            Rule(f",([^{number}])", (" , ", 1), needs=","),
            Rule(f"([{number}]),$", (1, " , "), needs=","),
            *_apostrophes(self.language, classes, perl=self._perl),
            # Split a full stop off the end of a word, unless the word is an abbreviation or the sentence goes on.
            _full_stop_rule(self.full_stop_stays),
            one_space,
            no_space_at_ends,
            # Split off ".'" at the end of a sentence, which the rules above miss.
            Rule(r"\.' ?$", (" . ' ",), needs=".'"),
            # Replace the marker of several dots by the dots.
            Rule("(?:DOT)+MULTI", _dots_of, needs="DOTMULTI"),
        ]


@lru_cache(maxsize=256)
def moses(dialect: str, language: str) -> Moses:
    """Return the rules of a language in a dialect, from a cache."""
    return Moses(dialect, language)


def _other_special_characters(language: str, classes: CharacterClasses, *, perl: bool) -> list[Rule]:
    """Return the rules that split off each sign (no letter or digit), except the signs that later rules handle."""
    inside, apart = "", ""
    if perl and language in ("fi", "sv"):  # here a word can contain a colon: USA:n, 20:een
        inside = apart = ":"
    elif perl and language == "tdt":  # here a word can contain an apostrophe
        apart = "'"
    elif perl and language == "ca":
        # Here a word can contain a middle dot: il·lusió. The Perl script is meant to split off all other middle dots.
        # But Perl reads the script as Latin-1, so its rule looks for two characters: the two UTF-8 bytes of the dot.
        inside, apart = "·", "Â·"
    rules = [Rule(rf"([^{classes.alnum}\s.'`,\-{inside}])", (" ", 1, " "))]
    if apart:  # split the sign off unless a lower-case letter follows
        rules.append(Rule(f"({apart})(?=$|[^{_lower_case_letters()}])", (" ", 1, " "), needs=apart))
    return rules


@lru_cache(maxsize=1)
def _lower_case_letters() -> str:
    """Return all lower-case letters (Unicode's category Ll), to be put between ``[`` and ``]`` in a pattern."""
    letters = map(chr, range(sys.maxunicode + 1))
    return "".join(letter for letter in letters if unicodedata.category(letter) == "Ll")


def _multi_dots(*, perl: bool) -> list[Rule]:
    """Return the rules that replace several dots in a row by a marker: DOT for each dot, then MULTI."""

    def marked(match: re.Match[str]) -> list[Piece]:
        start, end = match.span()
        dots: list[Piece] = [("DOT", index, index + 1) for index in range(start, end)]
        after: list[Piece] = [] if end == len(match.string) else [(" ", end - 1, end)]
        return [(" ", start, start + 1), *dots, ("MULTI", end - 1, end), *after]

    rules = [Rule(r"\.\.+", marked, needs="..")]
    if perl:
        # As in the script's loop, this rule also matches the text "DOTMULTI." if the raw text contains it.

        def longer(match: re.Match[str]) -> list[Piece]:
            start, end = match.span()
            after: list[Piece] = [] if end == len(match.string) else [(" ", end - 1, end)]
            return [("DOT", end - 1, end), ("DOTMULTI", start, end - 1), *after]

        rules.append(Rule(r"DOTMULTI\.", longer, needs="DOTMULTI."))
    return rules


def _dots_of(match: re.Match[str]) -> list[Piece]:
    start, end = match.span()
    last = end - len("DOTMULTI")
    return [*((".", index, index + 3) for index in range(start, last, 3)), (".", last, end)]


def _apostrophes(language: str, classes: CharacterClasses, *, perl: bool) -> list[Rule]:
    alpha, number = classes.alpha, classes.number
    neither = Rule(f"([^{alpha}])'([^{alpha}])", (1, " ' ", 2), needs="'")
    before_letter = Rule(f"([^{alpha}])'([{alpha}])", (1, " ' ", 2), needs="'")
    after_letter = Rule(f"([{alpha}])'([^{alpha}])", (1, " ' ", 2), needs="'")
    between = f"([{alpha}])'([{alpha}])"
    if language == "en":  # split contractions before the apostrophe; after a number, only before an s
        return [
            neither,
            Rule(f"([^{alpha}{number}])'([{alpha}])", (1, " ' ", 2), needs="'"),
            after_letter,
            Rule(between, (1, " '", 2), needs="'"),
            Rule(f"([{number}])'(s)", (1, " '", 2), needs="'"),
        ]
    if language in ("fr", "it") or (perl and language in ("ga", "ca")):  # split after the apostrophe
        return [neither, before_letter, after_letter, Rule(between, (1, "' ", 2), needs="'")]
    if perl and language in ("so", "tdt"):  # do not split at an apostrophe between letters: it is a glottal stop
        return [neither, before_letter, after_letter]
    return [Rule("'", (" ' ",))]


def _full_stop_rule(stays: Callable[[str, str], bool]) -> Rule:
    def divided(match: re.Match[str]) -> list[Piece]:
        text, start = match.string, match.start()
        prefix = text[text.rfind(" ", 0, start) + 1 : start]
        return [("." if not prefix or stays(prefix, match[1] or "") else " .", start, start + 1)]

    return Rule(r"\.(?:(?=\s+(\S?))|$)", divided, needs=".")


DIGITS = frozenset("0123456789")
"""The digits that count as a number after an abbreviation."""
