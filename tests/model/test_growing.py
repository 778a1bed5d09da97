"""More words, languages and positions.

Oracle: ``resize_token_embeddings`` and the logits of transformers, on the files that both libraries write; the model
before it grew; the original's loader refuses what it cannot hold.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import requested
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm import XLMConfig, XLMEncoderDecoderModel, XLMModel, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.errors import ConfigError, InputError, LanguageError, XLMError

V = len(VOCABULARY)
IDS = torch.tensor([[1, 20, 30, 40, 1], [1, 21, 31, 1, 2]])
LANGS = torch.ones_like(IDS)


def small(**changes: Any) -> XLMWithLMHeadModel:
    torch.manual_seed(0)
    values: dict[str, Any] = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "n_langs": 2, "lang2id": {"de": 0, "en": 1}}
    return XLMWithLMHeadModel(XLMConfig(vocab_size=V, **{**values, **changes})).eval()


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(ids, langs=torch.ones_like(ids)).logits
    return result


def pair(directory: Path) -> Path:
    """Write a tokenizer and return its directory."""
    XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}).save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of transformers
@pytest.mark.parametrize("words", [V + 5, V - 3, V, None])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_words_as_in_transformers(is_tied: bool, multiple: int | None, words: int | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = small(share_inout_emb=is_tied)
    ours.save_pretrained(tmp_path)
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(tmp_path).eval()
    spread = float(ours.get_input_embeddings().weight.std())
    theirs.resize_token_embeddings(words, pad_to_multiple_of=multiple)
    table = ours.resize_token_embeddings(words, pad_to_multiple_of=multiple)
    expected = theirs.get_input_embeddings()
    assert table is ours.get_input_embeddings() is ours.transformer.embeddings.word
    assert table.weight.shape == expected.weight.shape == (ours.config.vocab_size, 16)
    assert (table.num_embeddings, table.padding_idx) == (expected.num_embeddings, expected.padding_idx)
    # transformers draws new rows around the mean, with a spread of sqrt(1e-9) of that of the others
    torch.testing.assert_close(table.weight, expected.weight, rtol=0, atol=10 * 1e-9**0.5 * spread)
    torch.testing.assert_close(ours.head.bias, theirs.pred_layer.proj.bias, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(ours), theirs(IDS, langs=LANGS).logits, rtol=0, atol=1e-3)
    for count in (min(V, len(table.weight)),):  # the words that both have
        torch.testing.assert_close(logits(ours)[..., :count], logits(small(share_inout_emb=is_tied))[..., :count])


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_grown_pair_is_saved_converted_and_opened(is_tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = small(share_inout_emb=is_tied), XLMTokenizer.from_pretrained(pair(tmp_path / "pair"))
    assert tokenizer.add_tokens(["<speaker1>", "dogfood", "the</w>"]) == 2
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "pair")
    tokenizer.save_pretrained(tmp_path / "pair")
    ids = tokenizer.encode("the <speaker1> dog, dogfood")
    assert {V, V + 1} <= {*ids}
    again = XLMWithLMHeadModel.from_pretrained(tmp_path / "pair")
    assert torch.equal(logits(again), logits(model))
    for directory in (tmp_path / "pair", convert_to(tmp_path / "pair", tmp_path / "converted")):
        peer, theirs = (
            kind.from_pretrained(directory) for kind in (transformers.XLMTokenizer, transformers.XLMWithLMHeadModel)
        )
        assert peer.encode("the <speaker1> dog, dogfood") == ids
        assert len(peer) == V + 2
        rows = torch.tensor([ids])
        torch.testing.assert_close(
            logits(model, rows), theirs.eval()(rows, langs=torch.ones_like(rows)).logits, rtol=0, atol=1e-5
        )
    convert(tmp_path / "pair", tmp_path / "back.pth", to="original")
    assert torch.equal(logits(XLMWithLMHeadModel.from_pretrained(tmp_path / "back.pth")), logits(model))
    assert torch.load(tmp_path / "back.pth")["dico_id2word"][V + 1] == "dogfood@@"


def convert_to(source: Path, target: Path) -> Path:
    convert(source, target)
    return target


def test_growing_keeps_what_a_parameter_is() -> None:
    model = small().to(torch.bfloat16)
    model.transformer.embeddings.word.weight.requires_grad_(False)
    before = dict(model.named_modules())
    model.resize_token_embeddings(V + 3, mean_resizing=False)
    model.resize_position_embeddings(600)
    model.add_languages(["fr"])
    assert dict(model.named_modules()) == before
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["transformer.embeddings.word.weight"]
    new = model.get_input_embeddings().weight[V:].float()
    assert 0.5 < float(new.std()) / 16**-0.5 < 2
    assert model.config == dataclasses.replace(
        small().config, vocab_size=V + 3, max_position_embeddings=600, n_langs=3, lang2id={"de": 0, "en": 1, "fr": 2}
    )


def test_an_optimiser_made_afterwards_trains_the_new_rows() -> None:
    model = small(dropout=0.0, attention_dropout=0.0).train()
    model.resize_token_embeddings(V + 2)
    model.add_languages(["fr"])
    before = model.get_input_embeddings().weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.tensor([[1, V, V + 1, 1]])
    torch.autograd.backward(requested(model(ids, langs="fr", labels=ids).loss))
    optimiser.step()
    changed = (model.get_input_embeddings().weight != before).any(1)
    assert changed[V:].all()
    assert model.transformer.embeddings.language is not None
    assert requested(model.transformer.embeddings.language.weight.grad)[2].abs().sum() > 0


@pytest.mark.parametrize("is_sinusoidal", [True, False])
def test_longer_positions(is_sinusoidal: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = small(sinusoidal_embeddings=is_sinusoidal, max_position_embeddings=8)
    expected = logits(model)
    model.resize_position_embeddings(12)
    assert torch.equal(logits(model), expected)
    longer = torch.arange(14, 26)[None]
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(XLMWithLMHeadModel.from_pretrained(tmp_path / "model"), longer), logits(model, longer))
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(
        theirs(longer, langs=torch.ones_like(longer)).logits, logits(model, longer), rtol=0, atol=1e-5
    )
    if is_sinusoidal:
        whole = small(sinusoidal_embeddings=True, max_position_embeddings=12)
        assert torch.equal(whole.transformer.embeddings.position.weight, model.transformer.embeddings.position.weight)
    model.resize_position_embeddings(8)
    with pytest.raises(InputError, match="at most 8"):
        logits(model, longer)
    pair(tmp_path / "model")
    with pytest.raises(XLMError, match=r"(?s)max_position_embeddings.*12.*512"):
        convert(tmp_path / "model", tmp_path / "back.pth", to="original")


def test_more_languages(tmp_path: Path) -> None:
    model, tokenizer = small(), XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1})
    expected = logits(model)
    assert model.add_languages(["fr", "nl"], like="en") == tokenizer.add_languages(["fr", "nl"]) == {"fr": 2, "nl": 3}
    assert torch.equal(logits(model), expected)
    with torch.no_grad():
        assert torch.equal(model(IDS, langs="fr").logits, expected)
    assert model.add_languages("at") == tokenizer.add_languages("at") == {"at": 4}
    assert model.transformer.embeddings.language is not None
    table = model.transformer.embeddings.language.weight
    torch.testing.assert_close(table[4], table[:4].mean(0))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    again = XLMTokenizer.from_pretrained(tmp_path / "model")
    assert again.lang2id == dict(XLMWithLMHeadModel.from_pretrained(tmp_path / "model").config.lang2id)
    assert again.encode("le", lang="fr")
    with pytest.raises(XLMError, match=r"(?s)languages.*sorted"):
        convert(tmp_path / "model", tmp_path / "back.pth", to="original")


def test_the_first_further_language_of_a_model_with_one() -> None:
    model = small(n_langs=1, lang2id={"en": 0})
    with torch.no_grad():
        expected = model(IDS).logits
    assert model.add_languages(["de"]) == {"de": 1}
    with torch.no_grad():
        assert torch.equal(model(IDS, langs="en").logits, expected)
        assert torch.equal(model(IDS, langs="de").logits, expected)
    assert [parameter.shape for name, parameter in model.named_parameters() if "language" in name] == [(2, 16)]


def test_the_other_models_grow_too(tmp_path: Path) -> None:
    config = small().config
    translator = XLMEncoderDecoderModel(config).eval()
    translator.resize_token_embeddings(V + 4)
    translator.resize_position_embeddings(520)
    assert translator.add_languages(["fr"]) == {"fr": 2}
    translator.save_pretrained(tmp_path / "translator")
    again = XLMEncoderDecoderModel.from_pretrained(tmp_path / "translator")
    assert (again.config.vocab_size, again.config.max_position_embeddings, again.config.n_langs) == (V + 4, 520, 3)
    assert all(torch.equal(tensor, translator.state_dict()[name]) for name, tensor in again.state_dict().items())
    network = XLMModel(config)
    assert network.resize_token_embeddings(V + 1).weight.shape == (V + 1, 16)


def test_what_cannot_grow_is_refused() -> None:
    adaptive = small(asm=True, asm_cutoffs=(50, 100))
    with pytest.raises(ConfigError, match="adaptive softmax"):
        adaptive.resize_token_embeddings(V + 1)
    replaced = small()
    replaced.head = torch.nn.Linear(16, V)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"(?s)model\.head.*Linear"):
        replaced.resize_token_embeddings(V + 1)
    assert replaced.config.vocab_size == V
    with pytest.raises(ConfigError, match="before it is sharded, packed"):
        small().for_inference().resize_token_embeddings(V + 1)
    model = small()
    wrong: tuple[Any, ...] = (0, -1, 2.5, True, "9")
    for number in wrong:
        with pytest.raises(InputError, match="new_num"):
            model.resize_token_embeddings(number)
        with pytest.raises(InputError, match="new_num"):
            model.resize_position_embeddings(number)
    with pytest.raises(ConfigError, match="mask_token_id"):
        model.resize_token_embeddings(4)
    with pytest.raises(LanguageError, match="already"):
        model.add_languages(["fr", "en"])
    with pytest.raises(LanguageError, match="xx"):
        model.add_languages(["fr"], like="xx")
    names: tuple[Any, ...] = ([], [5], [""], ["a\n"], 5, None)
    for name in names:
        with pytest.raises(InputError, match="names"):
            model.add_languages(name)
    with pytest.raises(LanguageError, match="lang2id"):
        small(lang2id={}).add_languages(["fr"])
    assert model.config == small().config


def test_both_halves_of_a_translation_model_grow_or_neither() -> None:
    translator = XLMEncoderDecoderModel(small().config)
    translator.decoder.head = torch.nn.Linear(16, V)  # type: ignore[assignment]
    for name in ("position", "language"):
        setattr(translator.decoder.transformer.embeddings, name, torch.nn.Identity())
    before = {name: tensor.shape for name, tensor in translator.state_dict().items()}
    calls: tuple[Any, ...] = (
        lambda: translator.resize_token_embeddings(V + 1),
        lambda: translator.resize_position_embeddings(520),
        lambda: translator.add_languages("fr"),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="cannot be resized"):
            call()
    assert {name: tensor.shape for name, tensor in translator.state_dict().items()} == before
    assert translator.encoder.config.replace(causal=True) == translator.config == small().config


def test_what_a_tokenizer_refuses() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, lang2id={"en": 0})
    with pytest.raises(InputError, match="new_tokens"):
        tokenizer.add_tokens(["a", 5])  # type: ignore[list-item]
    with pytest.raises(XLMError, match="UTF-8"):
        tokenizer.add_tokens(["fine", "\ud800"])
    with pytest.raises(LanguageError, match="already"):
        tokenizer.add_languages(["fr", "en"])
    names: tuple[Any, ...] = ([""], 5)
    for name in names:
        with pytest.raises(InputError, match="names"):
            tokenizer.add_languages(name)
    assert (len(tokenizer), tokenizer.lang2id, tokenizer.added_tokens) == (V, {"en": 0}, ())


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_as_in_transformers(special: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours, peer = (kind.from_pretrained(pair(tmp_path)) for kind in (XLMTokenizer, transformers.XLMTokenizer))
    for tokens in (["<s1>", "dogfood", "the</w>", "<s>", "dogfood"], "<extra>"):
        assert ours.add_tokens(tokens, special_tokens=special) == peer.add_tokens(tokens, special_tokens=special)
        assert (len(ours), ours.all_special_tokens) == (len(peer), peer.all_special_tokens)
    for text in ("the <s1> dogfood Dogfood the</w> x<extra> y", "<s1>the", "dog"):
        ids = ours.encode(text)
        assert ids == peer.encode(text)
        for skip in (False, True):
            assert ours.decode(ids, skip) == peer.decode(ids, skip_special_tokens=skip)
    ours.save_pretrained(tmp_path)
    assert XLMTokenizer.from_pretrained(tmp_path) == ours
