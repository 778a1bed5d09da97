"""The continuation of a prompt as readable text, token by token."""

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
    """Return the ids of a prompt: an opening ``</s>``, as in training, then the text without a closing ``</s>``.

    Args:
        tokenizer: The tokenizer of the model.
        text: The text of the prompt; may be empty.
        lang: The language of the prompt.
        eos_token_id: The id of ``</s>`` in the model.
        positions: The number of positions of the model.
        where: The name of the prompt in errors.

    Raises:
        InputError: The prompt has more tokens than the model has positions.
        LanguageError: The tokenizer does not have the language.
    """
    ids = [eos_token_id, *tokenizer.encode(text, lang=lang, add_special_tokens=False)]
    if len(ids) > positions:
        raise InputError(
            "the prompt is longer than the model's positions",
            where=where,
            found=f"{len(ids)} tokens with the opening </s>: {text[:40]!r}…",
            expected=f"at most {positions}",
            remedy="pass a shorter prompt, such as the last sentence",
        )
    return ids


class IncrementalDetokenizer:
    """Turns the tokens of a continuation into text that can be written after the prompt.

    Prompt and continuation are detokenised as one text. Moses' rules change only the spaces of that text, so the
    continuation starts after as many characters, not counting spaces, as the prompt has.

    Args:
        tokenizer: The tokenizer of the model.
        prompt: The text of the prompt.
        prompt_ids: The ids of the prompt.
        lang: The language whose rules join words and punctuation.
    """

    def __init__(self, tokenizer: XLMTokenizer, prompt: str, prompt_ids: Sequence[int], *, lang: str) -> None:
        self._tokenizer = tokenizer
        self._prompt_ids = list(prompt_ids)
        self._lang = lang
        self._needs_no_space = not prompt.strip() or prompt[-1].isspace()
        self._written = _count_characters(self._text([]))
        self._ids: list[int] = []

    def add(self, index: int) -> str:
        """Add a token by its id, and return the new text to write, which is empty until a word is complete."""
        self._ids.append(index)
        return self.rest() if self._tokenizer.vocabulary.tokens[index].endswith(END_OF_WORD) else ""

    def rest(self) -> str:
        """Return all text that earlier calls have not returned, even if its last word is not complete."""
        text = self._text(self._ids)
        new = text[_index_after(text, self._written) :]
        if new and self._needs_no_space:
            new = new.lstrip()
            self._needs_no_space = False
        self._written += _count_characters(new)
        return new

    def whole(self, ids: Sequence[int]) -> str:
        """Return the text to write after the prompt, given the ids of a complete continuation."""
        self._ids = list(ids)
        return self.rest()

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            [*self._prompt_ids, *ids], skip_special_tokens=True, lang=self._lang, detokenize=True
        )


def _count_characters(text: str) -> int:
    """Return the number of characters of a text that are not spaces."""
    return sum(not character.isspace() for character in text)


def _index_after(text: str, characters: int) -> int:
    """Return the index in a text that follows its first ``characters`` characters, not counting spaces."""
    for index, character in enumerate(text):
        if characters == 0:
            return index
        characters -= not character.isspace()
    return len(text)
