"""Translation checkpoints. Oracles: the recorded checkpoints of the original, bit for bit; live ``transformers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.small_models import small_config, small_model
from tests.model.test_seq2seq import small_translator
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.convert import convert
from xlm.checkpoint.load import open_checkpoint
from xlm.errors import CheckpointError, InputError, WriteError, XLMWarning
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.network import XLMModel
from xlm.model.seq2seq import XLMEncoderDecoderModel

RECORDED = ("encdec_plain", "encdec_sinusoidal_untied", "encdec_plain.train_mixed.checkpoint")


@pytest.mark.parametrize("name", RECORDED)
def test_to_a_directory_and_back_every_bit_is_the_same(reference: Path, tmp_path: Path, name: str) -> None:
    source = reference / f"unmt/{name}.pth"
    report = convert(source, tmp_path / "model")
    assert report.is_encoder_decoder
    assert ("the state of the optimiser is omitted" in report.notes) == name.endswith("checkpoint")
    convert(tmp_path / "model", tmp_path / "again.pth", to="original")
    before = torch.load(source, weights_only=False)
    after = torch.load(tmp_path / "again.pth")
    for half in ("encoder", "decoder"):
        names = {key.removeprefix("module."): tensor for key, tensor in before[half].items()}
        assert names.keys() == after[half].keys()
        assert all(torch.equal(tensor, after[half][key]) for key, tensor in names.items())
    for key in ("dico_id2word", "dico_word2id", "dico_counts", "epoch", "n_total_iter", "best_metrics"):
        assert before[key] == after[key]
    plain = {key for key, value in before["params"].items() if isinstance(value, str | int | float | list | dict)}
    assert all(after["params"][key] == before["params"][key] for key in plain)


def test_the_prefix_of_several_gpus_is_dropped(reference: Path, tmp_path: Path) -> None:
    source = reference / "unmt/encdec_plain.pth"
    data = torch.load(source, weights_only=False)
    for half in ("encoder", "decoder"):
        data[half] = {f"module.{name}": tensor for name, tensor in data[half].items()}
    torch.save(data, tmp_path / "several.pth")
    one, other = (XLMEncoderDecoderModel.from_pretrained(path) for path in (source, tmp_path / "several.pth"))
    assert _equal(one, other)


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.mark.parametrize("changes", [{}, {"share_inout_emb": False}, {"n_langs": 1, "lang2id": {}}, {"causal": False}])
def test_saved_and_opened_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small_translator(**changes)
    model.save_pretrained(tmp_path)
    again = XLMEncoderDecoderModel.from_pretrained(tmp_path)
    assert _equal(model, again)
    assert again.config == model.config.replace(embed_init_std=again.config.embed_init_std)
    assert not again.training
    names = load_file(tmp_path / "model.safetensors")
    assert "encoder.transformer.embeddings.weight" in names
    assert "decoder.transformer.layer_norm15.1.weight" in names
    half = XLMEncoderDecoderModel.from_pretrained(tmp_path, dtype="float16", dropout=0.3)
    assert half.dtype == torch.float16
    assert half.encoder.config.dropout == half.decoder.config.dropout == 0.3


def test_transformers_does_not_open_such_a_directory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small_translator().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="xlm-encoder-decoder"):
        transformers.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [XLMModel, XLMWithLMHeadModel])
def test_a_language_model_does_not_open_a_translation_model(tmp_path: Path, kind: type[XLMModel]) -> None:
    small_translator().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="translation model, not a language model"):
        kind.from_pretrained(tmp_path)


def test_a_translation_model_does_not_open_a_language_model(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="language model, not a translation model"):
        XLMEncoderDecoderModel.from_pretrained(tmp_path)


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    small_translator().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["decoder.transformer.encoder_attn.1.q_lin.weight"]
    tensors["encoder.transformer.encoder_attn.0.q_lin.weight"] = torch.zeros(24, 24)
    tensors["more"] = torch.zeros(1)
    tensors["encoder.transformer.layer_norm_emb.bias"][3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        XLMEncoderDecoderModel.from_pretrained(tmp_path)
    message = str(caught.value)
    for part in (
        "missing: decoder.transformer.encoder_attn.1.q_lin.weight",
        "encoder.transformer.encoder_attn.0.q_lin.weight",
        "more",
        "encoder.transformer.layer_norm_emb.bias (1 of 24 values)",
    ):
        assert part in message, message


def test_a_model_with_an_adapter_is_not_saved(tmp_path: Path) -> None:
    model = small_translator()
    model.decoder.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(WriteError, match=r"decoder\.adapter"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def _saved(directory: Path, **changes: Any) -> Path:
    small_model(**changes).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("halves", [(True, True), (True, False), (False, True)])
def test_halves_start_from_language_models(tmp_path: Path, halves: tuple[bool, bool]) -> None:
    lm = small_model(seed=4, causal=False)
    lm.save_pretrained(tmp_path)
    starts = [tmp_path if half else None for half in halves]
    torch.manual_seed(1)
    model = XLMEncoderDecoderModel.from_encoder_decoder_pretrained(*starts, dropout=0.25)
    assert not model.training
    assert model.config.dropout == 0.25
    for half, module in zip(halves, (model.encoder, model.decoder), strict=True):
        state = module.state_dict()
        assert all(torch.equal(tensor, state[name]) == half for name, tensor in lm.state_dict().items() if tensor.any())
    torch.manual_seed(1)
    assert _equal(model, XLMEncoderDecoderModel.from_encoder_decoder_pretrained(*starts))


def test_halves_start_from_a_translation_model(tmp_path: Path) -> None:
    model = small_translator(seed=2)
    model.save_pretrained(tmp_path)
    assert _equal(model, XLMEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path))


def test_one_file_for_both_halves_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_translator(seed=2).save_pretrained(tmp_path)
    opened: list[object] = []

    def counted(name: Any, **options: Any) -> Checkpoint:
        opened.append(name)
        return open_checkpoint(name, **options)

    monkeypatch.setattr("xlm.checkpoint.load.open_checkpoint", counted)
    XLMEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path)
    assert opened == [tmp_path]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n_heads": 4}, "n_heads = 3 and 4"),
        ({"gelu_activation": False}, "gelu_activation = True and False"),
        ({"sinusoidal_embeddings": True}, "sinusoidal_embeddings = False and True"),
        ({"lang2id": {"de": 0, "fr": 1}}, "lang2id"),
        ({"n_layers": 1}, "n_layers = 2 and 1"),
        ({"vocab_size": 50}, "vocab_size = 61 and 50"),
    ],
)
def test_halves_that_differ_are_refused(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    encoder, decoder = _saved(tmp_path / "encoder"), _saved(tmp_path / "decoder", **changes)
    with pytest.raises(CheckpointError, match=name):
        XLMEncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder)


def test_halves_with_other_words_are_refused(tmp_path: Path) -> None:
    paths = _saved(tmp_path / "encoder"), _saved(tmp_path / "decoder")
    for number, path in enumerate(paths):
        words = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
        words += [f"word{number if i == 50 else ''}{i}</w>" for i in range(14, small_config().vocab_size)]
        (path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    with pytest.raises(CheckpointError, match="vocabulary = 61 words and 61 other words"):
        XLMEncoderDecoderModel.from_encoder_decoder_pretrained(*paths)


def test_no_start_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?i)neither half"):
        XLMEncoderDecoderModel.from_encoder_decoder_pretrained(None, None)


class _Scored(XLMEncoderDecoderModel):
    """A translation model with a parameter of its own."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.full((3,), 0.5))
        self.register_buffer("halves", torch.ones(2), persistent=False)


def test_weights_that_a_subclass_adds_begin_as_it_makes_them(tmp_path: Path) -> None:
    model = small_translator(seed=2)
    model.save_pretrained(tmp_path)
    with pytest.warns(XLMWarning, match="lacks scale: these tensors of _Scored are untrained"):
        loaded = _Scored.from_pretrained(tmp_path, dtype="bfloat16")
    assert loaded.scale.tolist() == [0.5] * 3
    assert loaded.get_buffer("halves").tolist() == [1.0] * 2
    assert {tensor.dtype for tensor in (*loaded.parameters(), *loaded.buffers())} == {torch.bfloat16}
    name = "decoder.transformer.embeddings.word.weight"
    assert torch.equal(loaded.get_parameter(name), model.get_parameter(name).bfloat16())
