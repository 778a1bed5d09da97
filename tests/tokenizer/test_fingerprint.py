"""The fingerprint of a tokenizer.

Oracle: what changes the ids of some text changes the fingerprint; the encoding, spelled out by hand; another process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm._io.fingerprints import fingerprint, line_of
from xlm.errors import XLMError
from xlm.tokenizer.added_tokens import AddedToken
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

BASE = XLMTokenizer(
    VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}, additional_special_tokens=("<special0>", "<special2>")
)
SWAPPED = (*VOCABULARY.tokens[:14], VOCABULARY.tokens[15], VOCABULARY.tokens[14], *VOCABULARY.tokens[16:])


def added(**options: bool) -> dict[str, Any]:
    return {"added_tokens": [AddedToken(content="do", **options)]}


CHANGES: list[dict[str, Any]] = [
    {"vocabulary": Vocabulary(tokens=SWAPPED)},
    {"vocabulary": Vocabulary(tokens=(*VOCABULARY.tokens, "z"))},
    {"merges": MERGES[:-1]},
    {"merges": (MERGES[1], MERGES[0], *MERGES[2:])},
    {"preset": "transformers-v4"},
    {"preset": "original"},
    {"preset": "original", "preset_without_lang": "transformers"},
    {"preset": "original", "preset_without_lang": "transformers-v4"},
    {"do_lowercase_and_remove_accent": False},
    {"lang2id": {"de": 1, "en": 0}},
    {"lang2id": {"de": 0}},
    {"lang2id": {}},
    {"lang2id": None},
    *({name: "<special5>"} for name in ("bos_token", "sep_token", "cls_token", "pad_token", "unk_token", "mask_token")),
    {"additional_special_tokens": ()},
    {"additional_special_tokens": ("<special0>",)},
    {"additional_special_tokens": ("<special0>", "<special3>")},
    added(),
    *(added(**{name: True}) for name in ("lstrip", "rstrip", "single_word", "special")),
    added(normalized=False),
    {"added_tokens": ["do", "the</w>"]},
    {"model_max_length": 20},
]
TEXTS = (
    *(TEXT, "a do dog DOg zq", "<special0> the <special1> dog <special2><special3> do <special5>"),
    *("The</w> DO the</w>", "a b", "Ä. 5,3 'n'", "<pad><unk> </s> <s>"),
)


def results(tokenizer: XLMTokenizer) -> list[object]:
    """Return whatever ids depend on, or the name of the error, for each text."""

    def result(text: str, **options: Any) -> object:
        try:
            return tokenizer([text, "the"], **options)
        except XLMError as error:
            return type(error).__name__

    options: tuple[dict[str, Any], ...] = (
        *({}, {"lang": "en"}, {"lang": "de"}, {"truncation": True}),
        *({"lang": "en", "padding": True}, {"lang": "de", "truncation": True}),
    )
    return [result(text, **each) for text in TEXTS for each in options]


def test_the_changes_change_every_setting() -> None:
    settings = {field.name for field in dataclasses.fields(XLMTokenizer) if field.init}
    assert {name for change in CHANGES for name in change} == settings - {"padding_side"}  # no id depends on it
    options = {field.name for field in dataclasses.fields(AddedToken)}
    assert {name for name in options if name != "content"} <= {
        *("lstrip", "rstrip", "single_word", "special", "normalized")
    }


def test_what_changes_ids_changes_the_fingerprint() -> None:
    tokenizers = [BASE, *(dataclasses.replace(BASE, **change) for change in CHANGES)]
    found = [(tokenizer_digest(tokenizer), results(tokenizer)) for tokenizer in tokenizers]
    assert len({digest for digest, _ in found}) == len(tokenizers)
    different = {str(result) for _, result in found}
    assert len(different) > len(tokenizers) / 2  # most changes change ids of these texts


@given(changes=st.lists(st.sampled_from(CHANGES), max_size=4), others=st.lists(st.sampled_from(CHANGES), max_size=4))
def test_changes_in_any_combination(changes: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    def made(changes: list[dict[str, Any]]) -> XLMTokenizer:
        values = {name: value for change in changes for name, value in change.items()}
        return dataclasses.replace(BASE, **values)

    one, other = made(changes), made(others)
    assert (tokenizer_digest(one) == tokenizer_digest(other)) == (one == other)
    if results(one) != results(other):
        assert tokenizer_digest(one) != tokenizer_digest(other)


def test_what_stands_where_is_not_confused() -> None:
    def digest(tokens: tuple[str, ...], *merges: tuple[str, str]) -> str:
        return tokenizer_digest(XLMTokenizer(Vocabulary(tokens=(*SPECIAL_TOKENS, *tokens)), merges))

    made = [
        digest(("a", "b"), ("a", "b")),
        digest(("a\nb",), ("a", "b")),
        digest(("a",), ("b a", "b")),
        digest(("a",), ("b", "a b")),
        digest(("a",), ("b", "a"), ("b", "c")),
        digest(("a", "b a"), ("b", "c")),
    ]
    assert len({*made}) == len(made)


def test_it_comes_back_with_the_files_and_in_another_process(tmp_path: Path) -> None:
    tokenizer = dataclasses.replace(BASE, **added(lstrip=True))
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(XLMTokenizer.from_pretrained(tmp_path)) == tokenizer_digest(tokenizer)
    program = (
        "import sys; from xlm.tokenizer.tokenizer import tokenizer_digest; from xlm import XLMTokenizer; "
        "print(tokenizer_digest(XLMTokenizer.from_pretrained(sys.argv[1])))"
    )
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert run.stdout.strip() == tokenizer_digest(tokenizer)


def test_the_encoding_is_the_documented_one() -> None:
    line = b'{"fields":{"a":[1,2.5,null,true],"b":"\\u00e9\\ud800"},"format":2,"kind":"k"}\n'
    fields = {"b": "é\ud800", "a": (1, 2.5, None, True)}
    assert fingerprint("k", fields) == hashlib.sha256(line).hexdigest()
    small = XLMTokenizer(Vocabulary(tokens=(*SPECIAL_TOKENS, "a")), (("a", "b"),))
    assert (
        tokenizer_digest(small) == "483092064d967e72cccd00835710905feceefe0e181921439a135ad916de8614"
    )  # in whatever process and version


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        line_of([value])
