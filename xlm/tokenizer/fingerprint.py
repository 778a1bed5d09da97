"""One digest of everything that a tokenizer's ids depend on."""

from __future__ import annotations

import dataclasses

from xlm._io.fingerprints import fingerprint
from xlm.tokenizer.tokenizer import XLMTokenizer


def tokenizer_digest(tokenizer: XLMTokenizer) -> str:
    """Return the fingerprint of a tokenizer: its tokens and its merges in order, and every setting by its name.

    Scores and prepared text name it. Two tokenizers that give a text different ids have different ones.
    """
    names = [field.name for field in dataclasses.fields(XLMTokenizer) if field.init]
    return fingerprint(
        "tokenizer",
        {name: getattr(tokenizer, name) for name in names}
        | {
            "vocabulary": tokenizer.vocabulary.tokens,
            "added_tokens": [dataclasses.asdict(token) for token in tokenizer.added_tokens],
        },
    )
