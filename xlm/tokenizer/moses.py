"""From raw text to words: the steps of Moses, each named after its script, as transformers 5.x applies them.

sacremoses does the two large ones. It differs from today's Perl scripts on a few lines in a thousand; here it is what
is wanted, since it is what transformers runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from xlm.errors import LanguageError

UNSUPPORTED_LANGUAGES = ("ja", "th", "zh")
"""Languages whose words Moses cannot divide; transformers asks KyTea, PyThaiNLP and rjieba."""

# The characters of replace-unicode-punctuation.perl, but for the two full stops, which also take the space after them.
_PUNCTUATION = str.maketrans(
    dict(
        zip(
            "，、∶：？《》）！（；」「”“～’━〈〉【】％０１２３４５６７８９",
            ',,::?"")!(;""""~\'-<>[]%0123456789',
            strict=True,
        )
    )
    | {"…": "..."}
)
_WIDE_FULL_STOP = re.compile(r"[。．]\s*")

_CEDILLA_TO_COMMA = str.maketrans("ŞşŢţ", "ȘșȚț")
_ROMANIAN_WITHOUT_DIACRITICS = str.maketrans("ȘșȚțĂăÂâÎî", "SsTtAaAaIi")


def split_words(text: str, language: str, *, do_lowercase_and_remove_accent: bool) -> list[str]:
    """Returns the words of a text, as ``XLMTokenizer._tokenize`` of transformers 5.x finds them before its BPE.

    Args:
        text: Any text.
        language: The language whose rules to apply; the ones Moses does not know get its general rules.
        do_lowercase_and_remove_accent: Whether to lower-case the words and strip their accents.

    Raises:
        LanguageError: The language needs a word divider of its own, which is not supported yet.
    """
    if language in UNSUPPORTED_LANGUAGES:
        raise LanguageError(
            "The words of this language cannot be divided yet",
            where="lang",
            found=language,
            expected=f"a language other than {', '.join(UNSUPPORTED_LANGUAGES)}",
            remedy="divide the text into words first; without lang, the English rules apply to them",
        )
    text = replace_unicode_punctuation(text)
    text = normalize_punctuation(text, language)
    text = remove_non_printing_char(text)
    if language == "ro":
        text = remove_diacritics(normalise_romanian(text))
    words = tokenize(text, language)
    return lowercase_and_remove_accent(words) if do_lowercase_and_remove_accent else words


def replace_unicode_punctuation(text: str) -> str:
    """Returns the text with full-width and typographic punctuation and digits made ASCII.

    Source: Moses, scripts/tokenizer/replace-unicode-punctuation.perl.
    """
    # No replacement is itself replaced or is a space, so that the order of the script's rules does not matter.
    return _WIDE_FULL_STOP.sub(". ", text.translate(_PUNCTUATION))


def normalize_punctuation(text: str, language: str) -> str:
    """Returns the text with quotes, dashes, and spaces beside punctuation made uniform.

    Source: Moses, scripts/tokenizer/normalize-punctuation.perl, through sacremoses.
    """
    normalized: str = _punctuation_normalizer(language).normalize(text)
    return normalized


def remove_non_printing_char(text: str) -> str:
    """Returns the text without control, format, private, unassigned characters and surrogates (Unicode's class C).

    Tabs and newlines are among them: what stands on either side of one becomes one word.

    Source: Moses, scripts/tokenizer/remove-non-printing-char.perl.
    """
    if text.isprintable():  # then nothing of class C is in it, which is the usual case
        return text
    return "".join(character for character in text if not unicodedata.category(character).startswith("C"))


def normalise_romanian(text: str) -> str:
    """Returns the text with s and t with a cedilla written with the comma below that Romanian has.

    Source: Sennrich's wmt16-scripts, preprocess/normalise-romanian.py.
    """
    return text.translate(_CEDILLA_TO_COMMA)


def remove_diacritics(text: str) -> str:
    """Returns the text without the diacritics of Romanian.

    Source: Sennrich's wmt16-scripts, preprocess/remove-diacritics.py.
    """
    return text.translate(_ROMANIAN_WITHOUT_DIACRITICS)


def tokenize(text: str, language: str) -> list[str]:
    """Returns the words of a normalised text, punctuation divided from them.

    Source: Moses, scripts/tokenizer/tokenizer.perl -no-escape, through sacremoses.
    """
    words: list[str] = _tokenizer(language).tokenize(text, return_str=False, escape=False)
    return words


def lowercase_and_remove_accent(words: Sequence[str]) -> list[str]:
    """Returns the words in lower case and without combining marks; a word of nothing but marks is dropped.

    Source: the original, tools/lowercase_and_remove_accent.py.
    """
    folded = (_fold(word) for word in words)
    return [word for word in folded if word]


def _fold(word: str) -> str:
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


# Rules compiled for a language, made once; sacremoses itself takes 0.4 s to import, so only where it is used.
@lru_cache(maxsize=32)
def _punctuation_normalizer(language: str) -> Any:
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer(lang=language)


@lru_cache(maxsize=32)
def _tokenizer(language: str) -> Any:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)
