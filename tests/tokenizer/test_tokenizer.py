"""The tokenizer's own behaviour: what it refuses and with which words, and that it does without torch.

Oracle: the contract; what is equal to transformers is in ``test_against_transformers.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import InputError, LanguageError, VocabularyError, XLMError
from xlm.tokenizer.bpe import BPE, write_codes
from xlm.tokenizer.fast.batch_bpe import BatchWords
from xlm.tokenizer.moses.data import CharacterClasses
from xlm.tokenizer.moses.normalise import Rule
from xlm.tokenizer.moses.tokenise import Moses
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import Vocabulary

LANG2ID = {"de": 0, "en": 1}


@pytest.fixture(scope="module")
def tokenizer() -> XLMTokenizer:
    return XLMTokenizer(VOCABULARY, MERGES, lang2id=LANG2ID)


def test_without_a_language_special_tokens_in_the_text_count_and_with_one_all_text_is_text(
    tokenizer: XLMTokenizer,
) -> None:
    assert tokenizer.tokenize(" the<special1> dog</s>") == ["the</w>", "<special1>", "dog</w>", "</s>"]
    pieces = tokenizer.tokenize("the </s>", lang="en")
    assert pieces[:2] == ["the</w>", "<</w>"]
    assert not set(tokenizer.all_special_tokens) & set(pieces)


def test_encode_puts_the_chosen_tokens_around_the_text() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, bos_token="</s>", sep_token="<special2>")
    the = VOCABULARY.ids["the</w>"]
    assert tokenizer.encode("the") == [1, the, 6]
    assert tokenizer.encode("the", add_special_tokens=False) == [the]
    assert tokenizer.encode("") == [1, 6]
    assert tokenizer("the").input_ids == [1, the, 6]
    assert tokenizer(("the", "")) == {"input_ids": [[1, the, 6], [1, 6]], "attention_mask": [[1, 1, 1], [1, 1]]}


def test_the_language_changes_the_rules(tokenizer: XLMTokenizer) -> None:
    assert tokenizer.tokenize("the dog's", lang="en") != tokenizer.tokenize("the dog's", lang="de")
    assert tokenizer("the dog's", lang="de").input_ids == tokenizer.encode("the dog's", lang="de")


def test_a_language_of_another_model_is_refused(tokenizer: XLMTokenizer) -> None:
    for call in (tokenizer.tokenize, tokenizer.encode, tokenizer):
        with pytest.raises(LanguageError, match="'de' or 'en'"):
            call("text", lang="fr")
    with pytest.raises(LanguageError, match="'de' or 'en'"):
        tokenizer.decode([15], lang="fr")
    assert tokenizer.decode([15], lang="de") == tokenizer.decode(15)
    anything = XLMTokenizer(VOCABULARY, MERGES)
    assert anything.tokenize("text", lang="fr")
    assert anything.lang2id is None
    assert anything.id2lang is None
    assert tokenizer.id2lang == {0: "de", 1: "en"}


@pytest.mark.parametrize("text", [None, 1, b"text", ["a"], ("a",)])
def test_what_is_no_text_is_refused(tokenizer: XLMTokenizer, text: Any) -> None:
    with pytest.raises(InputError, match="str"):
        tokenizer.encode(text)
    with pytest.raises(InputError, match="str"):
        tokenizer([text])
    with pytest.raises(InputError, match="str"):
        tokenizer.encode("text", lang=1)  # type: ignore[arg-type]


def test_calls_that_make_no_tensor_are_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="padding=True"):
        tokenizer(["the", "the dog"], return_tensors="np")
    with pytest.raises(InputError, match="'longest'"):
        tokenizer("the", padding="shortest")
    with pytest.raises(InputError, match="'pt', 'np' or None"):
        tokenizer("the", return_tensors="tf")
    nothing: tuple[Any, ...] = ([], None, 5)
    for texts in nothing:
        with pytest.raises(InputError, match="text"):
            tokenizer(texts)


@pytest.mark.parametrize(
    "ids", [-1, len(VOCABULARY), True, 1.0, None, "1", [0, -1], [0, len(VOCABULARY)], [1.0], [[1]], np.array([0.5])]
)
def test_what_is_no_id_is_refused(tokenizer: XLMTokenizer, ids: Any) -> None:
    for call in (tokenizer.convert_ids_to_tokens, tokenizer.decode):
        with pytest.raises(InputError, match=rf"0 to {len(VOCABULARY) - 1}"):
            call(ids)


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, torch.tensor, np.int32])
def test_ids_come_in_any_container(tokenizer: XLMTokenizer, make: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(make([1, 5])) == ["</s>", "<special1>"]
    for one in (1, np.int64(1), torch.tensor(1)):
        assert tokenizer.convert_ids_to_tokens(one) == "</s>"


def test_what_is_no_token_is_refused(tokenizer: XLMTokenizer) -> None:
    for tokens in ([1], [["a"]], [None]):
        with pytest.raises(InputError, match="str"):
            tokenizer.convert_tokens_to_ids(tokens)  # type: ignore[arg-type]


@given(text=st.text(st.characters(exclude_categories=())))
def test_anything_that_is_a_str_becomes_ids_of_the_vocabulary(tokenizer: XLMTokenizer, text: str) -> None:
    for lang in (None, "de"):
        ids = tokenizer.encode(text, lang=lang)
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.sep_token_id
        assert all(0 <= index < len(tokenizer) for index in ids)


def test_long_input(tokenizer: XLMTokenizer) -> None:
    assert tokenizer.encode("the " * 10_000) == [0, *[VOCABULARY.ids["the</w>"]] * 10_000, 1]
    assert "".join(tokenizer.tokenize("the" * 10_000)) == "the" * 10_000 + "</w>"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"preset": "moses"}, "preset"),
        ({"do_lowercase_and_remove_accent": "no"}, "do_lowercase_and_remove_accent"),
        ({"model_max_length": 0}, "model_max_length"),
        ({"model_max_length": "512"}, "model_max_length"),
        ({"lang2id": {"de": 0, "en": 0}}, "lang2id"),
        ({"lang2id": {"de": "0"}}, "lang2id"),
        ({"lang2id": ["de"]}, "lang2id"),
        ({"lang2id": {"": 0}}, "lang2id"),
        ({"lang2id": {"\ud800": 0}}, "lang2id"),
        ({"additional_special_tokens": "<s>"}, "additional_special_tokens"),
        ({"additional_special_tokens": ["<new>"]}, "additional_special_tokens"),
        ({"additional_special_tokens": [{}]}, "additional_special_tokens"),
        ({"pad_token": "<new>"}, "pad_token"),
        ({"bos_token": "<new>"}, "bos_token"),
        ({"preset_without_lang": "original"}, "preset_without_lang"),
        ({"preset": None}, "preset"),
        ({"preset": ["original"]}, "preset"),
        ({"preset": {}}, "preset"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(XLMError, match=f"where: {where}\n"):
        XLMTokenizer(VOCABULARY, MERGES, **settings)


def test_no_merges_are_refused() -> None:
    with pytest.raises(VocabularyError, match="merges"):
        XLMTokenizer(VOCABULARY, ())


def test_it_cannot_be_changed_by_accident(tokenizer: XLMTokenizer) -> None:
    # transformers lets one set bos_token and then uses it; here that must not pass silently without effect
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokenizer.bos_token = "</s>"  # type: ignore[misc]
    languages = dict(LANG2ID)
    mine = XLMTokenizer(VOCABULARY, MERGES, lang2id=languages)
    languages["fr"] = 2
    assert mine.lang2id == LANG2ID


def test_what_cannot_be_cut_or_paired_is_refused(tokenizer: XLMTokenizer) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"truncation": "left"}, "truncation"),
        ({"truncation": True, "max_length": -1}, "max_length"),
        ({"truncation": True, "max_length": 0}, "max_length"),
        ({"padding": "max_length", "max_length": 2.0}, "max_length"),
        ({"text_pair": ["the"]}, "text_pair"),
        ({"text_pair": "the"}, "text_pair"),
        ({"text_pair": 2}, "text_pair"),
        ({"text_pair": ["the", "dog"], "return_offsets": True}, "return_offsets"),
        ({"truncation": True, "return_offsets": True}, "return_offsets"),
    )
    for arguments, where in wrong:
        with pytest.raises(InputError, match=f"where: {where}\n"):
            tokenizer(["the dog", "a"], **arguments)


def test_detokenized_text_reads_as_written(tokenizer: XLMTokenizer) -> None:
    vocabulary = Vocabulary(tokens=(*VOCABULARY.tokens, *(f"{sign}</w>" for sign in "?[{")))
    mine = XLMTokenizer(vocabulary, MERGES, do_lowercase_and_remove_accent=False)
    for lang, text in (
        ("en", 'The dog, "running" (two) children\'s.'),
        ("de", 'Der Hund, "Nein" (vielleicht) 1,5 - Kinder!'),
    ):
        ids = mine.encode(text, lang=lang)
        assert mine.decode(ids, skip_special_tokens=True, lang=lang, detokenize=True) == text
        assert mine.decode(ids, skip_special_tokens=True, lang=lang) != text


def test_batches(tokenizer: XLMTokenizer) -> None:
    texts = [f"the dog {i} <s> runs" for i in range(4500)]
    for lang in (None, "de"):
        expected = [tokenizer.encode(text, lang=lang) for text in texts]
        for workers in (1, 2):
            assert tokenizer.encode_batch(iter(texts), lang=lang, workers=workers) == expected
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode_batch(["the"], add_special_tokens=False) == [[VOCABULARY.ids["the</w>"]]]
    no_batch: tuple[Any, ...] = ("the", None, 5)
    for texts in no_batch:
        for call in (tokenizer.encode_batch, tokenizer.encode_stream, tokenizer.tokenize_batch):
            with pytest.raises(InputError, match="batch"):
                call(texts)
    wrong: tuple[Any, ...] = (0, True, 1.5, None)
    for number in wrong:
        with pytest.raises(InputError, match="workers"):
            tokenizer.encode_batch(["the"], workers=number)


@pytest.mark.parametrize(
    "option",
    [
        *("stride", "return_offsets_mapping", "return_token_type_ids"),
        *("return_special_tokens_mask", "is_split_into_words", "return_overflowing_tokens"),
    ],
)
def test_options_of_transformers_that_are_not_supported_are_refused(tokenizer: XLMTokenizer, option: str) -> None:
    options: dict[str, Any] = {option: 2}
    for call in (tokenizer, tokenizer.encode):
        with pytest.raises(TypeError, match=option):
            call("the dog", **options)


@pytest.mark.parametrize("preset", ["transformers", "transformers-v4", "original"])
def test_threads_share_it(preset: str) -> None:
    texts = [f'the dog {i} is, "running" ({i}).' for i in range(300)]
    expected = XLMTokenizer(VOCABULARY, MERGES, preset=preset).encode_batch(texts, lang="en")
    for _ in range(5):
        fresh = XLMTokenizer(VOCABULARY, MERGES, preset=preset)
        cold = Barrier(8)  # all of them find nothing remembered

        def work(number: int, tokenizer: XLMTokenizer = fresh, start: Barrier = cold) -> list[list[int]]:
            start.wait(60)
            if number % 2:
                return tokenizer.encode_batch(texts, lang="en")
            return [tokenizer.encode(text, lang="en") for text in texts]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [expected] * 8


@pytest.fixture
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_with_different_languages_and_letters_share_it(quick_switches: None) -> None:
    rng = random.Random(5)
    letters = [*map(chr, range(0x4E00, 0x4E00 + 3000))]
    # Each thread has letters of its own, more of them with each call.
    words = [
        ["".join(rng.choices(letters[number : i + 9 : 6], k=rng.randint(1, 6))) for i in range(2900)]
        for number in range(6)
    ]
    bpe = BPE([*itertools.pairwise(letters)])
    expected = [[piece for word in some for piece in bpe.split(word)] for some in words]
    for _ in range(40):
        shared = BatchWords(bpe, of_word=bpe.split, of_pieces=iter, dtype="object")
        cold = Barrier(6)

        def work(number: int, shared: BatchWords[str] = shared, start: Barrier = cold) -> list[str]:
            start.wait(60)
            parts = (words[number][i : i + 290] for i in range(0, 2900, 290))
            return [*itertools.chain.from_iterable(shared(part)[0] for part in parts)]

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == expected


def test_no_thread_waits_while_another_makes_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker process that is forked then would wait forever.
    makes, goes_on, make = Event(), Event(), Moses._tokenizer_rules

    def slow(self: Moses, classes: CharacterClasses) -> Sequence[Rule]:
        if self.language == "slow":
            makes.set()
            goes_on.wait(60)
        return make(self, classes)

    monkeypatch.setattr(Moses, "_tokenizer_rules", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Moses("perl", "slow").words, "a.")
        assert makes.wait(60)
        second = pool.submit(Moses("perl", "quick").words, "a.")
        try:
            assert second.result(20) == ["a", "."]
        finally:
            goes_on.set()
        assert first.result(60) == ["a", "."]


def test_copies_are_equal_and_work(tokenizer: XLMTokenizer) -> None:
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin == tokenizer
        assert hash(twin) == hash(tokenizer)
        assert twin.encode("the dogs <s>") == tokenizer.encode("the dogs <s>")
        assert twin.encode_batch(["the dogs", "(a)"], lang="de", workers=2) == tokenizer.encode_batch(
            ["the dogs", "(a)"], lang="de"
        )
    assert dataclasses.replace(tokenizer, bos_token="</s>") != tokenizer


def test_many_languages_in_turn_are_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, preset="original")
    languages = [f"l{number}" for number in range(20)]
    first = [tokenizer.encode("the dogs", lang=lang) for lang in languages]

    def again(self: BPE, word: str) -> None:
        raise AssertionError(word)

    monkeypatch.setattr(BPE, "split", again)
    assert [tokenizer.encode("the dogs", lang=lang) for lang in languages] == first


def test_what_is_remembered_is_not_pickled() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES)
    fresh = len(pickle.dumps(tokenizer))
    texts = [f"dog{i} run{i}" for i in range(2000)]
    tokenizer.encode_batch(texts, lang="en")
    for text in texts:
        tokenizer.encode(text, lang="de")
        tokenizer(text, return_offsets=True)
    assert len(pickle.dumps(tokenizer)) == fresh


def test_repr_says_what_it_is(tokenizer: XLMTokenizer) -> None:
    text = repr(tokenizer)
    for part in ("'transformers'", "lower-cased", f"{len(VOCABULARY)} tokens", "80 merges", "de=0, en=1", "<s> … </s>"):
        assert part in text
    assert len(text) < 200


def test_from_codes_reads_the_two_files_of_the_original(tmp_path: Path) -> None:
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    tokenizer = XLMTokenizer.from_codes(tmp_path / "codes", str(tmp_path / "vocab"), lang2id=LANG2ID, bos_token="</s>")
    assert tokenizer.vocabulary.tokens == VOCABULARY.tokens
    assert tokenizer.merges == MERGES
    assert tokenizer.encode("the dog", lang="en")[0] == 1
    assert (tokenizer.preset, tokenizer.do_lowercase_and_remove_accent) == ("original", False)
    with pytest.raises(VocabularyError, match="vocab, line 1"):
        XLMTokenizer.from_codes(tmp_path / "vocab", tmp_path / "vocab")


def test_the_tokenizer_imports_no_torch_and_only_the_data_of_sacremoses(tmp_path: Path) -> None:
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    script = f"""
import sys, xlm
tokenizer = xlm.XLMTokenizer.from_codes({str(tmp_path / "codes")!r}, {str(tmp_path / "vocab")!r})
tokenizer.save_pretrained({str(tmp_path / "saved")!r})
tokenizer = xlm.XLMTokenizer.from_pretrained({str(tmp_path / "saved")!r})
ids = tokenizer(["the dog", "the"], lang="en", padding=True).input_ids
for detokenize in (False, True):
    assert tokenizer.decode(ids[0], skip_special_tokens=True, detokenize=detokenize) == "the dog"
print(sorted({{"torch", "transformers", "safetensors", "numpy", "sacremoses", "joblib"}} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("[]\n", "")


ORIGINAL = XLMTokenizer(VOCABULARY, MERGES, preset="original", lang2id=LANG2ID)


def test_the_preset_brings_its_settings_unless_they_are_given() -> None:
    assert (ORIGINAL.bos_token, ORIGINAL.do_lowercase_and_remove_accent) == ("</s>", False)
    mine = XLMTokenizer(VOCABULARY, MERGES, preset="original", bos_token="<s>", do_lowercase_and_remove_accent=True)
    assert (mine.bos_token, mine.do_lowercase_and_remove_accent) == ("<s>", True)
    for preset in ("transformers", "transformers-v4"):
        theirs = XLMTokenizer(VOCABULARY, MERGES, preset=preset)
        assert (theirs.bos_token, theirs.do_lowercase_and_remove_accent) == ("<s>", True)


def test_the_original_needs_a_language() -> None:
    for call in (ORIGINAL.tokenize, ORIGINAL.encode, ORIGINAL):
        with pytest.raises(LanguageError, match=r"(?s)missing.*'de' or 'en'.*lang=.*preset='transformers'"):
            call("the dog")
    assert ORIGINAL.encode("the </s>", lang="en")[-2:] != [1, 1]  # what looks like a special token is text


def test_what_holds_without_a_language_can_be_said(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = dataclasses.replace(ORIGINAL, preset_without_lang="transformers")
    plain = dataclasses.replace(ORIGINAL, preset="transformers")
    for _ in range(2):
        assert tokenizer.encode("the dog's <special1>") == plain.encode("the dog's <special1>")
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
    assert tokenizer.encode("the dog", lang="de") == ORIGINAL.encode("the dog", lang="de")


@pytest.mark.parametrize("lang", ["zh", "ja", "th"])
def test_languages_that_moses_cannot_divide(lang: str) -> None:
    with pytest.raises(LanguageError, match="preset='transformers'"):
        XLMTokenizer(VOCABULARY, MERGES, preset="original").encode("the", lang=lang)


def test_capital_letters_can_hide_special_tokens_from_transformers_4_only() -> None:
    v4, v5 = (XLMTokenizer(VOCABULARY, MERGES, preset=name) for name in ("transformers-v4", "transformers"))
    assert v4.tokenize("the <S>") == ["the</w>", "<s>"]
    assert v5.tokenize("the <S>") == ["the</w>", "<</w>", "s</w>", "></w>"]
    assert v4.tokenize("the <S>", lang="en") == v5.tokenize("the <S>", lang="en")
