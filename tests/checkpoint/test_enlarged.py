"""Directories whose vocabulary was changed by ``resize_token_embeddings`` of ``transformers``. Oracle: its logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.test_against_transformers import both_logits
from tests.demo_files import write_demo_files
from xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel, score
from xlm.checkpoint.convert import convert
from xlm.errors import CheckpointError
from xlm.parity import LOGITS_BOUND

transformers = pytest.importorskip("transformers")

WORDS = 123
"""In the demo's vocabulary."""


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "model", codes=tmp_path / "codes")
    return tmp_path / "model"


def resize(directory: Path, words: int, target: Path, **options: Any) -> Any:
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(directory).eval()
    theirs.resize_token_embeddings(words, **options)
    theirs.save_pretrained(target)
    return theirs


def assert_same_logits(directory: Path, theirs: Any, words: int) -> XLMWithLMHeadModel:
    ours = XLMWithLMHeadModel.from_pretrained(directory)
    assert ours.config.vocab_size == words
    found, expected = both_logits(ours, theirs)
    assert found.shape[-1] == words
    torch.testing.assert_close(found, expected, rtol=0, atol=LOGITS_BOUND * float(expected.abs().max()))
    return ours


@pytest.mark.parametrize(
    ("words", "options"), [(125, {}), (125, {"pad_to_multiple_of": 64}), (124, {"mean_resizing": False}), (100, {})]
)
def test_a_converted_directory_opens_after_it(
    words: int, options: dict[str, Any], converted: Path, tmp_path: Path
) -> None:
    theirs = resize(converted, words, tmp_path / "resized", **options)
    words = 128 if "pad_to_multiple_of" in options else words
    ours = assert_same_logits(tmp_path / "resized", theirs, words)
    # And so on: saved again by us, and converted, it is still the same model.
    ours.save_pretrained(tmp_path / "again")
    assert_same_logits(tmp_path / "again", theirs, words)
    convert(tmp_path / "again", tmp_path / "third")
    assert_same_logits(tmp_path / "third", theirs, words)


@pytest.mark.parametrize("share_inout_emb", [True, False])
def test_a_saved_model_opens_after_it(share_inout_emb: bool, tmp_path: Path) -> None:
    config = XLMConfig(vocab_size=90, emb_dim=16, n_layers=1, n_heads=2, n_langs=2, share_inout_emb=share_inout_emb)
    XLMWithLMHeadModel(config).save_pretrained(tmp_path / "model")
    theirs = resize(tmp_path / "model", 97, tmp_path / "resized")
    assert_same_logits(tmp_path / "resized", theirs, 97)


def with_tokenizer(source: Path, target: Path) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (target / name).write_bytes((source / name).read_bytes())


def test_it_scores_with_the_tokenizer_it_had(converted: Path, tmp_path: Path) -> None:
    theirs = resize(converted, 125, tmp_path / "resized")
    with_tokenizer(converted, tmp_path / "resized")
    ours = XLMWithLMHeadModel.from_pretrained(tmp_path / "resized")
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "resized")
    text = "The small dog is sleeping ."
    result = score(ours, tokenizer, [text], lang="en")[0]
    ids = torch.tensor([tokenizer.encode(text, lang="en")])
    with torch.inference_mode():
        logprobs = theirs(input_ids=ids, langs=torch.ones_like(ids)).logits[0].log_softmax(-1)
    expected = logprobs[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(result.logprobs), expected, rtol=0, atol=1e-4)
    report = convert(tmp_path / "resized", tmp_path / "again")
    assert any("123 words for 125 embeddings" in note for note in report.notes)
    XLMTokenizer.from_pretrained(tmp_path / "again")


@pytest.mark.parametrize("old", [False, True], ids=["added_tokens_decoder", "added_tokens.json"])
@pytest.mark.parametrize("pad_to_multiple_of", [None, 64])
def test_it_scores_with_a_tokenizer_that_was_enlarged_too(
    pad_to_multiple_of: int | None, old: bool, converted: Path, tmp_path: Path
) -> None:
    peer = transformers.XLMTokenizer.from_pretrained(converted)
    assert peer.add_tokens(["dogfood", "grass"]) == 2
    theirs = resize(converted, len(peer), tmp_path / "resized", pad_to_multiple_of=pad_to_multiple_of)
    peer.save_pretrained(tmp_path / "resized")
    assert len(json.loads((tmp_path / "resized" / "vocab.json").read_text())) == WORDS
    if old:
        path = tmp_path / "resized" / "tokenizer_config.json"
        values = json.loads(path.read_text())
        del values["added_tokens_decoder"]
        path.write_text(json.dumps(values))
        (tmp_path / "resized" / "added_tokens.json").write_text(json.dumps({"dogfood": 123, "grass": 124}))
    assert_the_pair_works(tmp_path / "resized", theirs, peer)
    convert(tmp_path / "resized", tmp_path / "again")
    assert_the_pair_works(tmp_path / "again", theirs, transformers.XLMTokenizer.from_pretrained(tmp_path / "again"))
    if pad_to_multiple_of is None:
        convert(tmp_path / "resized", tmp_path / "back.pth", to="original")
        words = torch.load(tmp_path / "back.pth")["dico_id2word"]
        assert (words[123], words[124]) == ("dogfood@@", "grass@@")


def assert_the_pair_works(directory: Path, theirs: Any, peer: Any) -> None:
    ours = assert_same_logits(directory, theirs, theirs.config.vocab_size)
    tokenizer = XLMTokenizer.from_pretrained(directory, preset="transformers")
    assert (len(tokenizer), tokenizer.convert_tokens_to_ids("grass")) == (125, 124)
    text = "The small dogfood is on the grass ."
    ids = tokenizer.encode(text)
    assert ids == peer.encode(text)
    assert {123, 124} < {*ids}
    assert tokenizer.decode(ids) == peer.decode(ids)
    assert len(score(ours, tokenizer, [text], lang="en")[0].logprobs) == len(tokenizer.encode(text, lang="en")) - 1


def test_words_that_were_named_go_back_to_the_original(converted: Path, tmp_path: Path) -> None:
    """Once vocab.json names the new words, the original's format has a place for them: last, never counted."""
    resize(converted, 125, tmp_path / "resized")
    with_tokenizer(converted, tmp_path / "resized")
    with pytest.raises(CheckpointError, match=r"(?s)cannot represent.*words = 123.*125, one for each embedding"):
        convert(tmp_path / "resized", tmp_path / "back.pth", to="original")
    assert not (tmp_path / "back.pth").exists()
    path = tmp_path / "resized" / "vocab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "foo</w>": 123, "bar": 124}))
    convert(tmp_path / "resized", tmp_path / "back.pth", to="original")
    before, after = torch.load(tmp_path / "demo.pth", weights_only=False), torch.load(tmp_path / "back.pth")
    assert after["dico_id2word"] == before["dico_id2word"] | {123: "foo", 124: "bar@@"}
    assert after["dico_counts"] == before["dico_counts"] | {"foo": 0, "bar@@": 0}
    assert (after["params"]["n_words"], before["params"]["n_words"]) == (125, WORDS)
    assert torch.equal(after["model"]["embeddings.weight"][:WORDS], before["model"]["embeddings.weight"])
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "back.pth").config.vocab_size == 125
