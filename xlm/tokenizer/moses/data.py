"""The data of Moses' rules: character classes and abbreviations.

There are two dialects of the rules, that of the Perl scripts and that of sacremoses, and each has its own character
classes. The classes of Perl follow Unicode. The classes of sacremoses come from an older version of Unicode, lack most
ideographs, and add the signs of Indic scripts that remove a vowel. Both dialects use the abbreviations of sacremoses.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from types import ModuleType

from xlm.errors import DependencyError
from xlm.tokenizer.lazy import lazy


@lru_cache(maxsize=8)
def data_module(name: str) -> ModuleType:
    """Return a data module of sacremoses without the slow import of sacremoses itself.

    Raises:
        DependencyError: sacremoses is not installed, or its version lacks the module.
    """
    package = importlib.util.find_spec("sacremoses")
    folders = None if package is None else package.submodule_search_locations
    spec = None if folders is None else PathFinder.find_spec(f"sacremoses.{name}", folders)
    if spec is None or spec.loader is None:
        raise DependencyError(
            "the data of Moses' rules is missing",
            where="sacremoses",
            found="not installed" if package is None else f"a version without {name}",
            expected="sacremoses 0.2",
            remedy="pip install 'sacremoses>=0.2,<0.3'",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Characters that the regex library classifies differently from Perl 5.36, which has Unicode 14: newer letters, newer
# lower-case letters, and a letter that is no longer lower case.
_NEW_LETTERS = r"\u0363-\u036f\u0c04\u0f82\u0f83\u1dd3-\u1de6\U00011080\U00011081"
_NEW_LOWER, _OLD_LOWER = r"\u10fc\ua7f2-\ua7f4\uab69", r"\u0295"

# The writing systems that sacremoses counts as letters, by language.
_SCRIPTS = {"ko": ("Hangul",), "zh": ("Han",), "ja": ("Hiragana", "Katakana", "Han")}


FIRST_BEYOND = 0x250
"""The first code point after those of Latin text."""

_LATIN = re.compile(r"[\0-\u024f\u2000-\u206f\u20a0-\u20cf]*")
_LATIN_CHARACTERS = re.compile(r"[\0-\u024f]+")


def is_latin(text: str) -> bool:
    """Return whether a text has only characters below ``FIRST_BEYOND``, punctuation and signs of currencies.

    No other characters of such a text are in any class of characters.
    """
    return _LATIN.fullmatch(text) is not None


@dataclass(frozen=True)
class CharacterClasses:
    r"""Character classes for regular expressions. Each str is the text between ``[`` and ``]``.

    Attributes:
        alnum: ``\p{IsAlnum}``: letters, their marks, decimal digits.
        alpha: ``\p{IsAlpha}``: letters and their marks.
        number: ``\p{IsN}``: digits and all other numerals.
        lower: ``\p{IsLower}``: lower-case letters.
    """

    alnum: str
    alpha: str
    number: str
    lower: str

    @lazy
    def has_alpha(self) -> re.Pattern[str]:
        """Finds a character of ``alpha``."""
        return re.compile(f"[{self.alpha}]")


@lru_cache(maxsize=8)
def _sacremoses_characters(language: str) -> CharacterClasses:
    """Return all characters of each class, rather than a body for a regular expression."""
    properties = data_module("_data_perluniprops").PERLUNIPROPS
    indic = data_module("indic")  # signs of Indic scripts (viramas and nuktas) that IsAlnum and IsAlpha lack
    more = "".join([*indic.VIRAMAS, *indic.NUKTAS, *(properties[name] for name in _SCRIPTS.get(language, ()))])
    return CharacterClasses(
        alnum=properties["IsAlnum"] + more,
        alpha=properties["IsAlpha"] + more,
        number=properties["IsN"],
        lower=properties["IsLower"],
    )


_PERL_CLASSES = CharacterClasses(
    alnum=rf"(?V1)[[\p{{Alphabetic}}\p{{Nd}}]--[{_NEW_LETTERS}]]",
    alpha=rf"(?V1)[[\p{{Alphabetic}}]--[{_NEW_LETTERS}]]",
    number=rf"(?V1)[[\p{{N}}]--[{_NEW_LETTERS}]]",
    lower=rf"(?V1)[[\p{{Lowercase}}{_OLD_LOWER}]--[{_NEW_LOWER}]]",
)
"""Patterns of the library regex for a character of each class. Unlike unicodedata, it knows the property Alphabetic."""


@lru_cache(maxsize=2)
def _perl_classes(*, latin: bool) -> CharacterClasses:
    import regex  # a dependency of sacremoses

    # All other code points are unassigned or for private use, so they are no letters or numerals.
    codes = range(FIRST_BEYOND) if latin else (*range(0x40000), *range(0xE0000, 0xF0000))
    everything = "".join(map(chr, codes))

    def body(pattern: str) -> str:
        matches = regex.finditer(f"{pattern}+", everything)
        return _ranges((ord(match[0][0]), ord(match[0][-1])) for match in matches)

    return CharacterClasses(*map(body, dataclasses.astuple(_PERL_CLASSES)))


def tests_of(dialect: str, language: str) -> tuple[Callable[[str], object], Callable[[str], object]]:
    """Return functions that tell whether a character is in ``alnum`` and in ``lower``, without making whole classes.

    Args:
        dialect: As for ``classes_of``.
        language: As for ``classes_of``.
    """
    if dialect == "perl":
        import regex

        return regex.compile(_PERL_CLASSES.alnum).match, regex.compile(_PERL_CLASSES.lower).match
    characters = _sacremoses_characters(language)
    return characters.alnum.__contains__, characters.lower.__contains__


def classes_of(dialect: str, language: str, *, latin: bool = False) -> CharacterClasses:
    """Return the character classes of a dialect for a language.

    Args:
        dialect: ``"sacremoses"`` or ``"perl"``.
        language: The language; for Chinese, Japanese and Korean, sacremoses has additional letters.
        latin: Whether to return only the characters that a text can have for which ``is_latin`` is true. Patterns with
            these small classes compile in a tenth of the time.
    """
    if dialect == "perl":
        return _perl_classes(latin=latin)
    return _sacremoses_classes(language if language in _SCRIPTS else "", latin=latin)


@lru_cache(maxsize=8)
def _sacremoses_classes(language: str, *, latin: bool) -> CharacterClasses:
    def body(characters: str) -> str:
        return body_of("".join(_LATIN_CHARACTERS.findall(characters)) if latin else characters)

    return CharacterClasses(*map(body, dataclasses.astuple(_sacremoses_characters(language))))


def body_of(characters: Iterable[str]) -> str:
    """Return a character class as the text between ``[`` and ``]``, in ranges, which are faster than single characters.

    Args:
        characters: The characters of the class.
    """
    runs: list[list[int]] = []
    for code in sorted(set(map(ord, characters))):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return _ranges((first, last) for first, last in runs)


def _ranges(runs: Iterable[tuple[int, int]]) -> str:
    # re parses characters faster than their escapes, which only ASCII signs need.
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in runs)


LANGUAGE_NAMES = dict(
    re.findall(
        r"(\w+) (\w+)",
        "assamese as, bengali bn, catalan ca, czech cs, german de, greek el, english en, spanish es, estonian et, "
        "finnish fi, french fr, irish ga, gujarati gu, hindi hi, hungarian hu, icelandic is, italian it, kannada kn, "
        "lithuanian lt, latvian lv, malayalam ml, manipuri mni, marathi mr, dutch nl, oriya or, punjabi pa, polish pl, "
        "portuguese pt, romanian ro, russian ru, slovak sk, slovenian sl, swedish sv, tamil ta, telugu te, tetum tdt, "
        "cantonese yue, chinese zh",
    )
)
"""Maps the English name of each language with a list of abbreviations to its code; sacremoses accepts both."""

_NUMERIC = re.compile(r"(.*)\s+#NUMERIC_ONLY#")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The abbreviations of a language.

    Attributes:
        always: Abbreviations that keep their full stop no matter what follows.
        before_numbers: Abbreviations that keep their full stop only before a digit.
    """

    always: frozenset[str]
    before_numbers: frozenset[str]


@lru_cache(maxsize=256)
def prefixes_of(language: str, *, perl: bool) -> Prefixes:
    """Return the abbreviations of a language, or the English abbreviations if Moses does not know the language.

    Args:
        language: The code of the language; for sacremoses, also its English name.
        perl: Whether to read the lists as the Perl script does, which keeps spaces at the end of a line, instead of as
            sacremoses does, which drops them.
    """
    lists = data_module("_data_nonbreaking_prefixes").NONBREAKING_PREFIXES
    code = language if perl else LANGUAGE_NAMES.get(language, language)
    text = lists[f"nonbreaking_prefix.{code if code in LANGUAGE_NAMES.values() else 'en'}"]
    lines = text.split("\n") if perl else [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if perl:  # if two lines have the same prefix, the later one counts
        is_always = {(match[1] if (match := _NUMERIC.search(line)) else line): match is None for line in lines}
        return Prefixes(
            always=frozenset(prefix for prefix, always in is_always.items() if always),
            before_numbers=frozenset(prefix for prefix, always in is_always.items() if not always),
        )
    numeric = {line.rpartition(" ")[0] for line in lines if re.search(r"\s#NUMERIC_ONLY#", line)}
    return Prefixes(always=frozenset(lines) - numeric, before_numbers=frozenset(numeric))
