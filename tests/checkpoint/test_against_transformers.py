"""Oracle: live transformers 5.x, opening what we wrote and writing what we open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.demo_files import write_demo_files
from xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.parity import LOGITS_BOUND
from xlm.parity.peer import against_transformers

transformers = pytest.importorskip("transformers")

SMALL = XLMConfig(vocab_size=90, emb_dim=16, n_layers=2, n_heads=2, n_langs=2, lang2id={"de": 0, "en": 1})
CONFIGS = {
    "plain": SMALL,
    "bidirectional": SMALL.replace(causal=False),
    "monolingual": SMALL.replace(n_langs=1, lang2id={}),
    "no language embeddings": SMALL.replace(use_lang_emb=False),
    "ReLU, sinusoidal": SMALL.replace(gelu_activation=False, sinusoidal_embeddings=True),
    "untied": SMALL.replace(share_inout_emb=False),
    "adaptive softmax": SMALL.replace(asm=True, share_inout_emb=False, asm_cutoffs=(30, 60), asm_div_value=2.0),
}
SENTENCES = {"en": "The small dog is sleeping .", "de": "Der kleine Hund schläft ."}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_we_write_opens_there_with_the_same_logits(config: XLMConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    XLMWithLMHeadModel(config).save_pretrained(tmp_path)
    report = against_transformers(tmp_path)
    assert report.holds, str(report)
    assert {comparison.name for comparison in report.comparisons} == {"weights it misses or adds", "logits"}


def both_logits(ours: XLMWithLMHeadModel, theirs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, ours.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    langs = torch.tensor([[0], [1]]).expand(2, 9) if ours.config.has_language_embeddings else None
    with torch.inference_mode():
        return ours(ids, langs=langs).logits, theirs(input_ids=ids, langs=langs).logits


@pytest.mark.parametrize("n_langs", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_what_they_write_opens_here_with_the_same_logits(causal: bool, n_langs: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.XLMConfig(
        vocab_size=90, emb_dim=16, n_layers=2, n_heads=2, n_langs=n_langs, causal=causal, max_position_embeddings=32
    )
    theirs = transformers.XLMWithLMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = XLMWithLMHeadModel.from_pretrained(tmp_path / "theirs", causal=causal)
    found, expected = both_logits(ours, theirs)
    torch.testing.assert_close(found, expected, rtol=0, atol=LOGITS_BOUND * float(expected.abs().max()))


def test_what_they_save_again_of_ours_stays_ours(tmp_path: Path) -> None:
    """A round through their save_pretrained, in sharded form, keeps weights and our own key."""
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(SMALL).eval()
    model.save_pretrained(tmp_path / "ours")
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    again = XLMWithLMHeadModel.from_pretrained(tmp_path / "theirs")
    assert again.config == model.config.replace(embed_init_std=0.25)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_converted_directory_opens_there_with_its_tokenizer(tmp_path: Path) -> None:
    write_demo_files(tmp_path)
    convert(tmp_path / "demo.pth", tmp_path / "model", codes=tmp_path / "codes")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = XLMTokenizer.from_pretrained(tmp_path / "model")
    assert type(theirs).__name__ == "XLMTokenizer"
    assert theirs.encode(SENTENCES["en"]) == ours.encode(SENTENCES["en"])
    for lang, text in SENTENCES.items():
        tokens = theirs._tokenize(text, lang=lang)
        assert ours.tokenize(text, lang=lang) == tokens
        assert ours.encode(text, lang=lang) == [1, *theirs.convert_tokens_to_ids(tokens), 1]
    report = against_transformers(tmp_path / "model", texts=list(SENTENCES.values()), lang="de")
    assert report.holds, str(report)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.causal, config.mask_token_id, config.lang_id) == (True, 5, 1)
    assert config.lang2id == {"de": 0, "en": 1}


@pytest.mark.slow
def test_published_size_both_ways(reference: Path, tmp_path: Path) -> None:
    """Our random weights exported and opened there; theirs saved with the published configuration and opened here."""
    torch.manual_seed(0)
    XLMWithLMHeadModel(XLMConfig.clm_ende_1024()).save_pretrained(tmp_path / "ours")
    report = against_transformers(tmp_path / "ours")
    assert report.holds, str(report)
    published = transformers.XLMConfig.from_pretrained(reference / "published/xlm-clm-ende-1024", causal=True)
    theirs = transformers.XLMWithLMHeadModel(published).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    found, expected = both_logits(XLMWithLMHeadModel.from_pretrained(tmp_path / "theirs"), theirs)
    torch.testing.assert_close(found, expected, rtol=0, atol=LOGITS_BOUND * float(expected.abs().max()))
