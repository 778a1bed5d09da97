"""Tokens and ids as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer


def written_lines(tokenizer: XLMTokenizer, texts: Sequence[str], *, lang: str, output: str) -> list[str]:
    """Return one line for each text, without its newline.

    Args:
        tokenizer: The tokenizer.
        texts: Some thousand texts.
        lang: Their language.
        output: ``"tokens"`` for pieces in ``</w>`` notation, ``"ids"`` for ids with the special tokens.

    Raises:
        InputError: A text cannot be encoded.
        LanguageError: The tokenizer does not have the language.
    """
    if output == "tokens":
        return [" ".join(tokens) for tokens in tokenizer.tokenize_batch(texts, lang)]
    return [" ".join(map(str, ids)) for ids in tokenizer.encode_batch(texts, lang=lang)]
