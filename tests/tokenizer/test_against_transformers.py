"""Token ids. Oracle: transformers, as recorded on real text (``../shared``), and live on texts made by hypothesis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.small import VOCABULARY
from tests.tokenizer.texts import TEXTS
from xlm.errors import InputError, XLMWarning
from xlm.tokenizer.tokenizer import XLMTokenizer

PUBLISHED = "published/xlm-clm-ende-1024"
CASED = {"do_lowercase_and_remove_accent": False}
VARIANTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "transformers": ({}, None),
    "transformers-cased": (CASED, None),
    "transformers-v4": ({"preset": "transformers-v4"}, None),
    "transformers-lang-de": ({}, "de"),
    "transformers-cased-lang-de": (CASED, "de"),
}


def differing_lines(reference: Path, variant: str) -> tuple[int, list[str]]:
    """Returns how many lines were compared, and those whose ids differ."""
    options, lang = VARIANTS[variant]
    tokenizer = XLMTokenizer.from_pretrained(reference / PUBLISHED, **options)
    compared, differing = 0, []
    for recorded in sorted((reference / "tokenizer/transformers").glob(f"*.{variant}.ids")):
        name = recorded.name.removesuffix(f".{variant}.ids")
        texts = (reference / f"tokenizer/text/{name}.txt").read_bytes().decode("utf-8").split("\n")
        pairs = list(zip(texts, recorded.read_text().split("\n"), strict=True))[:-1]
        for text, expected in pairs:
            # lang= was recorded from _tokenize, which adds no special tokens
            ids = tokenizer.encode(text, lang=lang, add_special_tokens=lang is None)
            compared += 1
            if " ".join(map(str, ids)) != expected:
                differing.append(f"{name}: {text!r}")
    return compared, differing


@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_ids(reference: Path, variant: str) -> None:
    compared, differing = differing_lines(reference, variant)
    assert compared > 10_000
    assert differing == []


live = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@live
@given(text=TEXTS)
def test_live_without_a_language(both: tuple[XLMTokenizer, Any], text: str) -> None:
    ours, peer = both
    assert ours.tokenize(text) == peer.tokenize(text)
    assert ours.encode(text) == peer.encode(text)
    assert ours.encode(text, add_special_tokens=False) == peer.encode(text, add_special_tokens=False)
    ids = ours.encode(text)
    for skip in (False, True):
        assert ours.decode(ids, skip) == peer.decode(ids, skip_special_tokens=skip)


@live
@example(text="Ţară şi Înţelepciune, Școala Ţării", lang="ro")
@example(text='„Nein.", sagte er: "1\u00a0000"', lang="de")
@example(text="l'eau d'été, aujourd'hui", lang="fr")
@given(text=TEXTS, lang=st.sampled_from(["en", "de", "fr", "it", "ro", "fi", "ko", "cs", "xx"]))
def test_live_with_a_language(both: tuple[XLMTokenizer, Any], text: str, lang: str) -> None:
    ours, peer = both
    assert ours.tokenize(text, lang=lang) == peer._tokenize(text, lang=lang)


@pytest.mark.slow
@settings(live, max_examples=20_000)
@given(text=TEXTS, lang=st.sampled_from([None, "en", "de", "fr", "ro"]))
def test_live_at_length(both: tuple[XLMTokenizer, Any], text: str, lang: str | None) -> None:
    ours, peer = both
    assert ours.tokenize(text, lang) == (peer.tokenize(text) if lang is None else peer._tokenize(text, lang=lang))


def test_live_names_and_values(both: tuple[XLMTokenizer, Any]) -> None:
    ours, peer = both
    for name in ("bos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(peer, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(peer, f"{name}_token_id")
    assert ours.all_special_tokens == peer.all_special_tokens
    assert ours.all_special_ids == peer.all_special_ids
    assert (ours.vocab_size, len(ours), ours.get_vocab()) == (peer.vocab_size, len(peer), peer.get_vocab())
    tokens = ["the</w>", "unheard", "<special1>"]
    ids = peer.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids(tokens) == ids
    assert ours.convert_tokens_to_ids("the</w>") == ids[0]
    assert ours.convert_ids_to_tokens(ids) == peer.convert_ids_to_tokens(ids) == ["the</w>", "<unk>", "<special1>"]
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["the</w>"]
    assert ours.convert_ids_to_tokens(5) == peer.convert_ids_to_tokens(5)
    assert ours.convert_tokens_to_string(tokens) == peer.convert_tokens_to_string(tokens)


@pytest.mark.parametrize("texts", ["the dogs", ["the dogs", "a child is running", ""]])
def test_live_calls(both: tuple[XLMTokenizer, Any], texts: str | list[str]) -> None:
    ours, peer = both
    for options in ({}, {"padding": True}, {"padding": "longest", "add_special_tokens": False}):
        assert dict(ours(texts, **options)) == dict(peer(texts, **options))
    for kind in ("np", "pt"):
        mine, theirs = ours(texts, padding=True, return_tensors=kind), peer(texts, padding=True, return_tensors=kind)
        assert type(mine.input_ids) is type(theirs.input_ids)
        for name in ("input_ids", "attention_mask"):
            assert mine[name].dtype == theirs[name].dtype
            assert mine[name].tolist() == theirs[name].tolist()


@live
@given(ids=st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30), skip=st.booleans())
def test_live_decode_of_any_ids(both: tuple[XLMTokenizer, Any], ids: list[int], skip: bool) -> None:
    ours, peer = both
    assert ours.decode(ids, skip) == peer.decode(ids, skip_special_tokens=skip)
    assert ours.convert_ids_to_tokens(ids, skip) == peer.convert_ids_to_tokens(ids, skip_special_tokens=skip)


@pytest.mark.filterwarnings("ignore:`max_length` is ignored:UserWarning")  # what both say of it
@pytest.mark.filterwarnings("ignore:max_length=.* without truncation:xlm.XLMWarning")
@live
@given(
    texts=TEXTS | st.lists(TEXTS, min_size=1, max_size=3),
    pair=st.none() | TEXTS,
    truncation=st.sampled_from([None, False, True, "longest_first", "only_first", "only_second"]),
    padding=st.sampled_from([False, True, "longest", "max_length"]),
    max_length=st.none() | st.integers(1, 30),
    add_special_tokens=st.booleans(),
    return_tensors=st.sampled_from([None, "np", "pt"]),
)
def test_live_pairs_truncation_and_padding(both: tuple[XLMTokenizer, Any], **arguments: Any) -> None:
    ours, peer = both
    texts, pair = arguments.pop("texts"), arguments.pop("pair")
    if isinstance(texts, list):
        # transformers makes lists of arrays of rows of different lengths, which is refused here
        arguments["return_tensors"] = arguments["return_tensors"] if arguments["padding"] == "longest" else None
        pair = None if pair is None else [pair] * len(texts)
    mine, theirs = ours(texts, pair, **arguments), peer(texts, pair, **arguments)
    for name in theirs:
        assert type(mine[name]) is type(theirs[name])
        assert (
            mine[name] == theirs[name] if isinstance(mine[name], list) else mine[name].tolist() == theirs[name].tolist()
        )
    if arguments["truncation"] is None and arguments["padding"] is not False:
        return
    if not isinstance(texts, list):
        del arguments["padding"], arguments["return_tensors"]
        assert ours.encode(texts, pair, **arguments) == peer.encode(texts, pair, **arguments)


def test_a_length_alone_cuts_and_says_so(both: tuple[XLMTokenizer, Any]) -> None:
    ours, peer = both
    calls: tuple[tuple[Any, Any], ...] = (
        ("the dogs are running", None),
        ("the dogs are running", "a child"),
        (["the dogs are running", "a"], None),
        (["the dogs are running", "a"], ["a child", "the dogs are running"]),
    )
    for texts, pair in calls:
        with pytest.warns(XLMWarning, match=r"max_length=4 without truncation.*truncation=True") as caught:
            cut = ours(texts, pair, max_length=4)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert cut.input_ids == peer(texts, pair, max_length=4)["input_ids"]
        assert ours(texts, pair, max_length=4, truncation=False) == ours(texts, pair)
        if isinstance(texts, str):
            with pytest.warns(XLMWarning, match="max_length=4 without truncation"):
                assert ours.encode(texts, pair, max_length=4) == cut.input_ids
    with pytest.warns(XLMWarning), pytest.raises(InputError, match="truncated texts"):
        ours("the dogs", max_length=4, return_offsets=True)


def test_the_recorded_case_of_a_length_alone(reference: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(reference / PUBLISHED)
    with pytest.warns(XLMWarning, match="max_length=4"):
        assert tokenizer.encode("A dog.", max_length=4) == [0, 23, 4302, 1]
