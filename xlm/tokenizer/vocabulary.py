"""The vocabulary: tokens by id, and its two file formats.

Pieces have two notations. The original marks a piece that does *not* end a word (``wi@@ ki``). transformers, like this
library, marks a piece that does end a word (``wi ki</w>``). The special tokens are the same in both notations.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from pathlib import Path

from xlm._io.arguments import shown
from xlm._io.atomic import write_text
from xlm.errors import InputError, VocabularyError, warn_caller
from xlm.tokenizer.text_files import AGAIN, at_line, count_of, place_of_key, read_json_object, read_text, shortened

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)))
"""The tokens with the first ids of every XLM vocabulary. Source: ``xlm/data/dictionary.py`` of the original XLM."""

VOCABULARY_FILE = "vocab.json"
"""Name of the file of a vocabulary in a model directory."""

END_OF_WORD = "</w>"
_CONTINUES = "@@"
_PADDING = 128
"""Vocabularies are usually padded to a multiple of at most this number. If model and tokenizer differ by less in size,
there is no warning."""
_SURROGATE = re.compile("[\ud800-\udfff]").search
_SKIPPED_SHOWN = 5  # maximum number of skipped lines that the warning names


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens in the order of their ids, and their counts.

    Attributes:
        tokens: The tokens by id, in ``</w>`` notation; the first 14 are ``SPECIAL_TOKENS``.
        counts: How often each token occurred in the training corpus, by id; None if unknown.
        ids: The id of each token.

    Raises:
        VocabularyError: The special tokens are not the first ones, a token occurs twice or cannot be written as UTF-8,
            or ``tokens`` and ``counts`` differ in length.
    """

    tokens: tuple[str, ...]
    counts: tuple[int, ...] | None = field(default=None, compare=False)
    ids: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, tuple) or not isinstance(self.counts, (tuple, type(None))):
            raise VocabularyError(
                "the tokens and counts are not tuples",
                where="the vocabulary",
                found=f"{type(self.tokens).__name__} and {type(self.counts).__name__}",
            )
        _check_tokens(self.tokens, lambda index: f"the vocabulary, id {index}")
        ids = {token: index for index, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            index, token = next((i, token) for i, token in enumerate(self.tokens) if ids[token] != i)
            raise VocabularyError(
                "two ids have the same token",
                where=f"ids {index} and {ids[token]}",
                found=shown(token),
                expected="each token once",
                remedy=AGAIN,
            )
        if self.counts is not None and len(self.counts) != len(self.tokens):
            raise VocabularyError(
                "tokens and counts differ in length",
                where="the vocabulary",
                found=f"{len(self.counts)} counts",
                expected=len(self.tokens),
            )
        object.__setattr__(self, "ids", ids)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_json(cls, path: Path) -> Vocabulary:
        """Return the vocabulary in the ``vocab.json`` of a transformers directory, which maps each token to its id.

        Raises:
            VocabularyError: The file is not a JSON object from the tokens of an XLM vocabulary to their ids.
        """
        ids = read_json_object(path)
        tokens: list[str | None] = [None] * len(ids)
        for token, index in ids.items():
            expected = f"each id from 0 to {len(ids) - 1} once"
            if type(index) is not int or not 0 <= index < len(ids):
                found = f"{shown(token)} with id {shortened(json.dumps(index))}"
                where = place_of_key(path, token)
                raise VocabularyError(
                    "an id is out of range", where=where, found=found, expected=expected, remedy=AGAIN
                )
            if tokens[index] is not None:
                found = f"{shown(str(tokens[index]))} and {shown(token)} with id {index}"
                where = place_of_key(path, token)
                raise VocabularyError(
                    "two tokens have the same id", where=where, found=found, expected=expected, remedy=AGAIN
                )
            tokens[index] = token
        # There are as many ids as tokens and no id occurs twice, so every id has a token.
        result = tuple(token for token in tokens if token is not None)
        _check_tokens(result, lambda index: place_of_key(path, result[index]) if result else str(path))
        return cls(tokens=result)

    @classmethod
    def from_words(cls, path: Path) -> Vocabulary:
        """Return the vocabulary in a file of the original XLM: ``word count`` in each line, without special tokens.

        Like the original, skip a line that holds U+2028, that does not have two columns separated by any whitespace, or
        whose word is a special token or occurred before. A skipped line gets no id. One warning lists skipped lines.

        Raises:
            VocabularyError: A count is not a number, the file holds no words, or two words are the same token.

        Source: the original's ``Dictionary.read_vocab``.
        """
        counts = dict.fromkeys(SPECIAL_TOKENS, 0)
        numbers: list[int] = []  # the line number of each word
        skipped: list[str] = []
        remedy = "use the file that fastBPE getvocab wrote, such as vocab_ende"
        # With newline=None, a carriage return also ends a line, as in a file that Python opens in text mode.
        for number, line in enumerate(io.StringIO(read_text(path), newline=None), start=1):
            columns = line.split()
            if "\u2028" in line:
                skipped.append(f"line {number} (U+2028)")
            elif len(columns) != 2:
                skipped.append(f"line {number} (not 2 columns)")
            else:
                count = count_of(columns[1], path, number, remedy=remedy)
                if columns[0] in counts:
                    skipped.append(f"line {number} ({shown(columns[0])} again)")
                else:
                    counts[columns[0]] = count
                    numbers.append(number)
        if not numbers:
            raise VocabularyError(
                "the file holds no words with counts",
                where=at_line(path, 1),
                found=skipped[0],
                expected="WORD COUNT",
                remedy=remedy,
            )
        if skipped:
            warn_caller(
                f"{path}: {len(skipped)} of {len(skipped) + len(numbers)} lines are skipped, as the original skips "
                f"them: {', '.join(skipped[:_SKIPPED_SHOWN])}{', …' if len(skipped) > _SKIPPED_SHOWN else ''}"
            )
        tokens = _tokens_of([*counts], lambda index: at_line(path, numbers[index - len(SPECIAL_TOKENS)]))
        return cls(tokens=tokens, counts=tuple(counts.values()))

    @classmethod
    def from_dictionary(
        cls, words: Sequence[str], counts: Sequence[int] | None = None, *, where: object = "the dictionary"
    ) -> Vocabulary:
        """Return the vocabulary that the dictionary of an original checkpoint holds.

        Args:
            words: The words by id in ``@@`` notation, special tokens first.
            counts: The count of each word in the training corpus, by id; None if unknown.
            where: The name of the file in errors.

        Raises:
            VocabularyError: The special tokens are not the first words, or two words are equal.
        """
        _check_tokens(words, lambda index: f"{where}, id {index}")
        tokens = _tokens_of(words, lambda index: f"{where}, id {index}")
        return cls(tokens=tokens, counts=None if counts is None else tuple(counts))

    def words(self) -> tuple[str, ...]:
        """Return the words by id in ``@@`` notation, special tokens first, as ``from_dictionary`` reads them.

        Raises:
            VocabularyError: The ``@@`` notation cannot express a token.
        """
        words = [*SPECIAL_TOKENS, *map(_to_word, self.tokens[len(SPECIAL_TOKENS) :])]
        for index, (word, token) in enumerate(zip(words, self.tokens, strict=True)):
            if index >= len(SPECIAL_TOKENS) and (
                not word or "\n" in word or word in SPECIAL_TOKENS or _to_token(word) != token
            ):
                raise _unwritable(
                    index, token, f"a token that is not empty, has no newline and does not end in {_CONTINUES}"
                )
        return tuple(words)

    def to_json(self, path: Path) -> None:
        """Write ``vocab.json`` as transformers does.

        Raises:
            WriteError: The file cannot be written.
        """
        # This writes what json.dumps(self.ids, indent=2, sort_keys=True, ensure_ascii=False) returns, in a fifth of the
        # time.
        entries = (f"  {encode_basestring(token)}: {index}" for token, index in sorted(self.ids.items()))
        write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")

    def to_words(self, path: Path) -> None:
        """Write a vocabulary file of the original XLM: ``word count`` in each line, with 0 for an unknown count.

        Raises:
            VocabularyError: The ``@@`` notation cannot express a token.
            WriteError: The file cannot be written.
        """
        for index, token in enumerate(self.tokens[len(SPECIAL_TOKENS) :], start=len(SPECIAL_TOKENS)):
            is_first = index == len(SPECIAL_TOKENS)
            if not is_writable(token) or (
                is_first and token.startswith("\ufeff")
            ):  # U+FEFF at the start of a file would be read as a byte order mark
                raise _unwritable(index, token, "a token without whitespace that from_words reads back")
        counts = self.counts or (0,) * len(self.tokens)
        lines = [f"{word} {count}\n" for word, count in zip(self.words(), counts, strict=True)]
        write_text(path, "".join(lines[len(SPECIAL_TOKENS) :]))


def is_writable(token: str) -> bool:
    """Return whether a vocabulary file of the original XLM can hold a token, so that ``from_words`` reads it back."""
    word = _to_word(token)
    return not {word, token} & {*SPECIAL_TOKENS} and _to_token(word) == token and word.split() == [word]


def _unwritable(index: int, token: str, expected: str) -> VocabularyError:
    return VocabularyError(
        "the notation of the original XLM (@@) cannot express the token",
        where=f"the vocabulary, id {index}",
        found=shown(token),
        expected=expected,
    )


def _to_token(word: str) -> str:
    return word.removesuffix(_CONTINUES) if word.endswith(_CONTINUES) else word + END_OF_WORD


def _to_word(token: str) -> str:
    return token.removesuffix(END_OF_WORD) if token.endswith(END_OF_WORD) else token + _CONTINUES


def _tokens_of(words: Sequence[str], name_id: Callable[[int], str]) -> tuple[str, ...]:
    """Return the tokens of words, special tokens first; ``name_id`` returns the name of an id for errors."""
    first: dict[str, int] = {}
    for index, word in enumerate(words):
        token = word if index < len(SPECIAL_TOKENS) else _to_token(word)
        if (other := first.setdefault(token, index)) != index:
            same = words[other] == word
            raise VocabularyError(
                "a word occurs twice" if same else "two words are one token in the </w> notation",
                where=name_id(index),
                found=shown(word) if same else f"{shown(word)} and {shown(words[other])}, both {shown(token)}",
                expected=f"{shown(token)} only once"
                + ("" if other < len(SPECIAL_TOKENS) else f" (first: {name_id(other)})"),
                remedy="use the file that the model was trained with: removing a line changes all later ids",
            )
    return tuple(first)


def _check_tokens(tokens: Sequence[str], name_id: Callable[[int], str]) -> None:
    """Check that tokens can form a vocabulary; ``name_id`` returns the name of an id for errors."""
    for index, expected in enumerate(SPECIAL_TOKENS):
        if index >= len(tokens) or tokens[index] != expected:
            raise VocabularyError(
                "the vocabulary does not begin with the special tokens of XLM",
                where=name_id(max(min(index, len(tokens) - 1), 0)),
                found=f"id {index} is {shown(tokens[index])}" if index < len(tokens) else f"only {len(tokens)} tokens",
                expected=f"id {index} is {expected!r}",
                remedy="use the vocabulary of an XLM model",
            )
    if {*map(type, tokens)} == {str} and not _SURROGATE("".join(tokens)):
        return
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise VocabularyError("a token is not a str", where=name_id(index), found=shown(token), expected="str")
        # JSON can hold lone surrogates, but UTF-8 cannot.
        if _SURROGATE(token):
            raise VocabularyError(
                "a token cannot be written as UTF-8",
                where=name_id(index),
                found=f"id {index} is {token!a}",
                expected="no lone surrogates",
                remedy=AGAIN,
            )


def check_vocabulary_size(tokens: int, words: int) -> None:
    """Check that a tokenizer with a number of tokens can belong to a model with a number of words.

    Warns if the tokenizer has far fewer.

    Raises:
        InputError: The tokenizer has more.
    """
    if tokens + _PADDING <= words:
        warn_caller(
            f"the tokenizer has {tokens:,} tokens and the model {words:,} words, so the model's last words have no "
            "text; make sure that the tokenizer belongs to this model"
        )
    if tokens > words:
        raise InputError(
            "the tokenizer has tokens that are not in the model's vocabulary",
            where="tokenizer",
            found=f"{tokens} tokens",
            expected=f"at most {words}",
            remedy="use the tokenizer that belongs to this model",
        )
