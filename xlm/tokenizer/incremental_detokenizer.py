"""A prompt and its continuation as one readable text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xlm.errors import InputError
from xlm.tokenizer.vocabulary import END_OF_WORD

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer


def prompt_ids(
    tokenizer: XLMTokenizer, text: str, *, lang: str, eos_token_id: int, positions: int, where: str
) -> list[int]:
    """The ids of a prompt as the model met sentences: behind ``</s>``, and not ended by another.

    Args:
        tokenizer: Of the model.
        text: The text of the prompt; may be empty.
        lang: Its language.
        eos_token_id: The model's ``</s>``.
        positions: How many tokens the model can take.
        where: The prompt's name in errors.

    Raises:
        InputError: It is longer than that.
        LanguageError: The tokenizer does not have the language.
    """
    ids = [eos_token_id, *tokenizer.encode(text, lang=lang, add_special_tokens=False)]
    if len(ids) > positions:
        raise InputError(
            "a prompt is longer than the model's positions",
            where=where,
            found=f"{len(ids)} tokens with the opening one: {text[:40]!r}…",
            expected=f"at most {positions}",
            remedy="give the last sentence of it only",
        )
    return ids


class ContinuedText:
    """What to write behind a prompt, whose own characters stay as they were given.

    The words of both are joined by the rules of Moses, which move spaces only. So what belongs to the continuation is
    what stands behind as many characters, spaces aside, as the prompt's words have.

    Args:
        tokenizer: Of the model.
        prompt: The text of the prompt.
        prompt_ids: Its ids.
        lang: The language whose rules join words and punctuation.
    """

    def __init__(self, tokenizer: XLMTokenizer, prompt: str, prompt_ids: Sequence[int], *, lang: str) -> None:
        self._tokenizer = tokenizer
        self._prompt_ids = list(prompt_ids)
        self._lang = lang
        self._needs_no_space = not prompt.strip() or prompt[-1].isspace()
        self._written = _length(self._text([]))  # characters without spaces
        self._ids: list[int] = []

    def add(self, index: int) -> str:
        """What to write when this token has come: nothing before its word is complete."""
        self._ids.append(index)
        return self.rest() if self._tokenizer.vocabulary.tokens[index].endswith(END_OF_WORD) else ""

    def rest(self) -> str:
        """What to write so that all tokens have been written."""
        text = self._text(self._ids)
        new = text[_place(text, self._written) :]
        if new and self._needs_no_space:
            new = new.lstrip()
            self._needs_no_space = False
        self._written += _length(new)
        return new

    def whole(self, ids: Sequence[int]) -> str:
        """What to write behind the prompt for all tokens of a continuation."""
        self._ids = list(ids)
        return self.rest()

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            [*self._prompt_ids, *ids], skip_special_tokens=True, lang=self._lang, detokenize=True
        )


def _length(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _place(text: str, characters: int) -> int:
    """Where so many characters of a text, spaces aside, have ended."""
    for place, character in enumerate(text):
        if characters == 0:
            return place
        characters -= not character.isspace()
    return len(text)
