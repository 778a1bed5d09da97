"""Ids and tokens to text, and to each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex, overload

from xlm.errors import InputError
from xlm.tokenizer.detokenizer import detokenized
from xlm.tokenizer.ids import Ids, checked_ids
from xlm.tokenizer.settings import TokenizerSettings, check_flag
from xlm.tokenizer.text_files import shown
from xlm.tokenizer.vocabulary import END_OF_WORD


class Decoder(TokenizerSettings):
    """Decodes ids."""

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        *,
        lang: str | None = None,
        detokenize: bool = False,
    ) -> str:
        """Returns the text that ids stand for, its words separated by one space as Moses left them.

        Args:
            token_ids: One id, or a sequence, array or tensor (T,) of them.
            skip_special_tokens: Whether to leave out special tokens.
            lang: The language of the text, which must be one of the model's.
            detokenize: Whether to join words and punctuation as one writes them, by the rules of Moses for the
                language, those of English if it is not given; special tokens count as words.

        Raises:
            InputError: Something that is not an id of the vocabulary.
            LanguageError: The model does not have the language.
        """
        check_flag("detokenize", detokenize)
        if lang is not None:
            self._check_language(lang)
        tokens = self.convert_ids_to_tokens(token_ids, skip_special_tokens)
        text = self.convert_tokens_to_string([tokens] if isinstance(tokens, str) else tokens)
        return detokenized(text.split(), lang or "en") if detokenize else text

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]  # a str is iterable too

    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Returns the id of each token, that of ``unk_token`` for those that the vocabulary lacks.

        Raises:
            InputError: Something that is not a str.
        """
        if isinstance(tokens, str):
            return self.vocabulary.ids.get(tokens, self.unk_token_id)
        return [self.vocabulary.ids.get(token, self.unk_token_id) for token in _checked_tokens(tokens)]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = False
    ) -> str | list[str]: ...

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """Returns the token of each id; a str for a single id, which is never left out.

        Args:
            ids: One id, or a sequence, array or tensor (T,) of them.
            skip_special_tokens: Whether to leave out special tokens.

        Raises:
            InputError: Something that is not an id of the vocabulary (transformers gives ``<unk>``).
        """
        tokens = self.vocabulary.tokens
        check_flag("skip_special_tokens", skip_special_tokens)
        checked = checked_ids(ids, vocab_size=len(tokens))
        if isinstance(checked, int):
            return tokens[checked]
        left_out = frozenset(self.all_special_ids) if skip_special_tokens else frozenset()
        return [tokens[index] for index in checked if index not in left_out]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Returns the text that tokens stand for, its words separated by one space.

        Raises:
            InputError: Something that is not a str.
        """
        return "".join(_checked_tokens(tokens)).replace(END_OF_WORD, " ").strip()


def _checked_tokens(tokens: Iterable[str]) -> list[str]:
    try:
        checked = [*iter(tokens)]
    except TypeError as error:
        raise InputError(
            "these are not tokens", where="tokens", found=type(tokens).__name__, expected="a list of str"
        ) from error
    for token in checked:
        if not isinstance(token, str):
            raise InputError("A token is not a str", where="tokens", found=shown(token), expected="str")
    return checked
