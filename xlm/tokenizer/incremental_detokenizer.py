"""A prompt's continuation as readable text, token by token."""

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
    """Return the ids of a prompt as the model was trained on sentences: after ``</s>``, and without a closing one.

    Args:
        tokenizer: Of the model.
        text: The text of the prompt; may be empty.
        lang: Its language.
        eos_token_id: The model's ``</s>``.
        positions: The number of the model's positions.
        where: The prompt's name in errors.

    Raises:
        InputError: The prompt is longer than that.
        LanguageError: The tokenizer does not have the language.
    """
    ids = [eos_token_id, *tokenizer.encode(text, lang=lang, add_special_tokens=False)]
    if len(ids) > positions:
        raise InputError(
            "the prompt is longer than the model's positions",
            where=where,
            found=f"{len(ids)} tokens with the opening </s>: {text[:40]!r}…",
            expected=f"at most {positions}",
            remedy="pass only its last sentence",
        )
    return ids


class IncrementalDetokenizer:
    """Turns the tokens of a continuation into text to write after the prompt, whose own characters stay as they are.

    Moses' rules join the words of the prompt and the continuation, and change only spaces. So the continuation begins
    after as many characters, not counting spaces, as the prompt's words have.

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
        """Return the text to write after one more token; nothing until its word is complete."""
        self._ids.append(index)
        return self.rest() if self._tokenizer.vocabulary.tokens[index].endswith(END_OF_WORD) else ""

    def rest(self) -> str:
        """Return the text to write for the tokens not yet written."""
        text = self._text(self._ids)
        new = text[_place(text, self._written) :]
        if new and self._needs_no_space:
            new = new.lstrip()
            self._needs_no_space = False
        self._written += _length(new)
        return new

    def whole(self, ids: Sequence[int]) -> str:
        """Return the text to write after the prompt for all tokens of a continuation."""
        self._ids = list(ids)
        return self.rest()

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            [*self._prompt_ids, *ids], skip_special_tokens=True, lang=self._lang, detokenize=True
        )


def _length(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _place(text: str, characters: int) -> int:
    """Return the place in a text after so many characters that are not spaces."""
    for place, character in enumerate(text):
        if characters == 0:
            return place
        characters -= not character.isspace()
    return len(text)
