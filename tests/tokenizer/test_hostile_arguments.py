"""Every argument of every public method of the tokenizer, with values of wrong types and kinds.

Oracle: an ``XLMError`` that fits on a screen, or a result; never another exception.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import XLMError
from xlm.tokenizer.added_tokens import AddedToken
from xlm.tokenizer.bpe import write_codes
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1 << 70, -(1 << 70), 1.5, float("nan"), 1j, ...),
    *("", "\ud800", "a\0b", "the" * 1000, b"x", bytearray(b"x"), memoryview(b"x"), Path("x")),
    *([], (), {}, set(), [None], [5], [["x"]], ["\ud800"], [b"x"], {"a": 1}, {1: 2}),
    *([("a",)], [("a", 5)], [["a", "b"]]),
    *(np.array([1, 2]), np.array(1), np.array([[1]]), np.array([]), np.float32(1), np.bool_(True)),
    *(torch.tensor([1]), torch.tensor(1.5), torch.tensor([]), torch.zeros(2, 2)),
    *(object(), object, len, SimpleNamespace(), AddedToken(content=[]), [AddedToken(content=5)]),  # type: ignore[arg-type]
]  # fmt: skip
SETTINGS = [field.name for field in dataclasses.fields(XLMTokenizer) if field.init and field.kw_only]

Call = Callable[[Any, XLMTokenizer, Path], object]
CALLS: dict[str, Call] = {
    "tokenize text": lambda value, tokenizer, _: tokenizer.tokenize(value, lang="en"),
    "tokenize lang": lambda value, tokenizer, _: tokenizer.tokenize("the", lang=value),
    "tokenize_batch texts": lambda value, tokenizer, _: tokenizer.tokenize_batch(value, lang="en"),
    "encode text": lambda value, tokenizer, _: tokenizer.encode(value, lang="en"),
    "call text": lambda value, tokenizer, _: tokenizer(value, lang="en"),
    "call with padding to a length": lambda value, tokenizer, _: tokenizer(
        ["the", "a dog"], lang="en", padding="max_length", max_length=value
    ),
    "decode token_ids": lambda value, tokenizer, _: tokenizer.decode(value),
    "decode skip_special_tokens": lambda value, tokenizer, _: tokenizer.decode([1], value),
    "decode lang": lambda value, tokenizer, _: tokenizer.decode([1], lang=value),
    "decode detokenize": lambda value, tokenizer, _: tokenizer.decode([1], detokenize=value),
    "convert_tokens_to_ids": lambda value, tokenizer, _: tokenizer.convert_tokens_to_ids(value),
    "convert_ids_to_tokens": lambda value, tokenizer, _: tokenizer.convert_ids_to_tokens(value),
    "convert_tokens_to_string": lambda value, tokenizer, _: tokenizer.convert_tokens_to_string(value),
    "encode_batch texts": lambda value, tokenizer, _: tokenizer.encode_batch(value, lang="en"),
    "save_pretrained": lambda value, tokenizer, _: tokenizer.save_pretrained(value),
    "from_pretrained name": lambda value, _, files: XLMTokenizer.from_pretrained(value),
    "from_codes codes": lambda value, _, files: XLMTokenizer.from_codes(value, files / "vocab"),
    "from_codes vocab": lambda value, _, files: XLMTokenizer.from_codes(files / "codes", value),
    "vocabulary": lambda value, _, files: XLMTokenizer(value, MERGES),
    "merges": lambda value, _, files: XLMTokenizer(VOCABULARY, value),
    "tokens": lambda value, _, files: Vocabulary(tokens=value),
    "token": lambda value, _, files: Vocabulary(tokens=(*SPECIAL_TOKENS, value)),
    "counts": lambda value, _, files: Vocabulary(tokens=SPECIAL_TOKENS, counts=value),
}


def with_keyword(name: str, call: Callable[..., object]) -> Call:
    return lambda value, tokenizer, files: call(tokenizer, files, **{name: value})


for name in ("text_pair", "add_special_tokens", "truncation", "max_length"):
    CALLS[f"encode {name}"] = with_keyword(
        name, lambda tokenizer, _, **given: tokenizer.encode("the", lang="en", **given)
    )
for name in (
    *("text_pair", "add_special_tokens", "truncation", "max_length", "padding", "return_tensors", "return_offsets"),
):
    CALLS[f"call {name}"] = with_keyword(
        name, lambda tokenizer, _, **given: (tokenizer("the", lang="en", **given), tokenizer(["a"], lang="en", **given))
    )
for name in ("workers", "add_special_tokens", "lang"):
    CALLS[f"encode_batch {name}"] = with_keyword(
        name, lambda tokenizer, _, **given: tokenizer.encode_batch(["the"], **{"lang": "en", **given})
    )
for name in (*SETTINGS, "unheard_of"):
    CALLS[f"from_codes {name}"] = with_keyword(
        name, lambda _, files, **given: XLMTokenizer.from_codes(files / "codes", files / "vocab", **given)
    )
    CALLS[f"from_pretrained {name}"] = with_keyword(
        name, lambda _, files, **given: XLMTokenizer.from_pretrained(files, **given)
    )
for name in ("codes", "revision", "cache_dir", "local_files_only", "token"):
    CALLS[f"from_pretrained {name}"] = with_keyword(
        name,
        lambda _, files, **given: XLMTokenizer.from_pretrained(
            files if "codes" in given else "someone/model", **{"local_files_only": True, **given}
        ),
    )


@pytest.mark.filterwarnings("ignore::xlm.XLMWarning")
@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_this_library_or_a_result(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1})
    tokenizer.save_pretrained(tmp_path)
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    monkeypatch.chdir(tmp_path)
    refused = longest = 0
    for value in HOSTILE:
        try:
            CALLS[name](value, tokenizer, tmp_path)
        except XLMError as error:
            refused += 1
            longest = max(longest, len(str(error)))
    assert longest < 4000
    assert refused > len(HOSTILE) / 3


def test_the_special_tokens_have_names_and_ids() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES)
    found = {
        name: (getattr(tokenizer, f"{name}_token"), getattr(tokenizer, f"{name}_token_id"))
        for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    }
    assert found == {
        **{"bos": ("<s>", 0), "eos": ("</s>", 1), "unk": ("<unk>", 3), "sep": ("</s>", 1)},
        **{"pad": ("<pad>", 2), "cls": ("</s>", 1), "mask": ("<special1>", 5)},
    }
