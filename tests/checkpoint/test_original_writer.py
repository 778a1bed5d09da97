"""``--to original`` writes what the original loads, or nothing.

Oracle: what the original's ``TransformerModel`` makes of ``params``, and what its ``Dictionary`` and its training
program check, written down again here in a few lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.original_files import demo_data, save
from tests.checkpoint.test_convert import left_in
from xlm import XLMConfig, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.json_codec import pack_integers
from xlm.errors import CheckpointError
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS

SMALL = XLMConfig(vocab_size=60, emb_dim=16, n_layers=1, n_heads=2, n_langs=2, lang2id={"de": 0, "en": 1})


def directory_of(config: XLMConfig, directory: Path) -> Path:
    torch.manual_seed(0)
    XLMWithLMHeadModel(config).save_pretrained(directory)
    words = [*SPECIAL_TOKENS, *(f"w{index}</w>" for index in range(14, config.vocab_size))]
    (directory / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    return directory


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def shapes_in_the_original(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of its model."""
    width, words = params["emb_dim"], params["n_words"]

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {
        "position_embeddings.weight": (512, width),
        "embeddings.weight": (words, width),
        **norm("layer_norm_emb"),
    }
    if params["n_langs"] > 1 and params["use_lang_emb"]:
        shapes["lang_embeddings.weight"] = (params["n_langs"], width)
    for layer in range(params["n_layers"]):
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= linear(f"attentions.{layer}.{name}", width, width)
        shapes |= norm(f"layer_norm1.{layer}") | norm(f"layer_norm2.{layer}")
        shapes |= linear(f"ffns.{layer}.lin1", 4 * width, width) | linear(f"ffns.{layer}.lin2", width, 4 * width)
    if params["asm"] is False:
        return shapes | linear("pred_layer.proj", words, width)
    head = torch.nn.AdaptiveLogSoftmaxWithLoss(
        width, words, cutoffs=params["asm_cutoffs"], div_value=params["asm_div_value"], head_bias=True
    )
    shapes |= {f"pred_layer.proj.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    # Sharing sets a weight that such a head does not have, and a file without it does not load.
    return shapes | ({"pred_layer.proj.weight": (words, width)} if params["share_inout_emb"] else {})


def assert_the_original_loads(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = torch.load(path)
    params, words, counts = data["params"], data["dico_id2word"], data["dico_counts"]
    assert {name: tuple(tensor.shape) for name, tensor in data["model"].items()} == shapes_in_the_original(params)
    ids = [data["dico_word2id"][word] for word in ("<s>", "</s>", "<pad>", "<unk>", "<special1>")]
    names = ("bos_index", "eos_index", "pad_index", "unk_index", "mask_index")
    assert ids == [params[name] for name in names] == [0, 1, 2, 3, 5]
    assert [words[4 + index] for index in range(10)] == [f"<special{index}>" for index in range(10)]
    assert len(words) == len(data["dico_word2id"]) == len(counts) == params["n_words"]
    last = 10**18
    for index in range(14, len(words) - 1):
        assert counts[words[index]] <= last
        last = counts[words[index]]
    assert len(params["id2lang"]) == len(params["lang2id"]) == params["n_langs"]
    assert params["lgs"].split("-") == params["langs"]
    assert params["id2lang"] == dict(enumerate(sorted(params["langs"])))
    assert params["lang2id"] == {name: index for index, name in params["id2lang"].items()}
    assert params["emb_dim"] % params["n_heads"] == 0
    assert not (params["asm"] and params["share_inout_emb"])
    return data


LOADS = {
    "plain": SMALL,
    "untied": SMALL.replace(share_inout_emb=False),
    "adaptive softmax": SMALL.replace(asm=True, asm_cutoffs=(20, 40), share_inout_emb=False),
    "adaptive softmax that says nothing on sharing": SMALL.replace(asm=True, asm_cutoffs=(20, 40)),
    "one language": SMALL.replace(n_langs=1, lang2id={"fr": 0}),
    "twelve languages without names": SMALL.replace(n_langs=12, lang2id={}),
    "no language embeddings": SMALL.replace(use_lang_emb=False),
    "sinusoidal, ReLU": SMALL.replace(sinusoidal_embeddings=True, gelu_activation=False),
    "bidirectional": SMALL.replace(causal=False),
}


@pytest.mark.parametrize("config", LOADS.values(), ids=LOADS.keys())
def test_the_original_loads_it(config: XLMConfig, tmp_path: Path) -> None:
    convert(directory_of(config, tmp_path / "model"), tmp_path / "x.pth", to="original")
    assert_the_original_loads(tmp_path / "x.pth")
    ours, again = (XLMWithLMHeadModel.from_pretrained(tmp_path / name) for name in ("model", "x.pth"))
    ids = torch.arange(14, 30)[None]
    with torch.inference_mode():
        assert torch.equal(ours(ids, langs=0).logits, again(ids, langs=0).logits)


def test_the_order_of_languages_without_embeddings_means_nothing(tmp_path: Path) -> None:
    config = SMALL.replace(use_lang_emb=False, lang2id={"en": 0, "de": 1})
    convert(directory_of(config, tmp_path / "model"), tmp_path / "x.pth", to="original")
    assert torch.load(tmp_path / "x.pth")["params"]["lang2id"] == {"en": 0, "de": 1}


REFUSED: dict[str, tuple[XLMConfig, str]] = {
    "few positions": (SMALL.replace(max_position_embeddings=256), "max_position_embeddings = 256.*= 512"),
    "many positions": (SMALL.replace(max_position_embeddings=600), "max_position_embeddings = 600.*= 512"),
    "epsilon": (SMALL.replace(layer_norm_eps=1e-6), "layer_norm_eps = 1e-06.*= 1e-12"),
    "<s>": (SMALL.replace(bos_token_id=1), "bos_token_id = 1.*= 0"),
    "</s>": (SMALL.replace(eos_token_id=0), "eos_token_id = 0.*= 1"),
    "<pad>": (SMALL.replace(pad_token_id=59), "pad_token_id = 59.*= 2"),
    "<unk>": (SMALL.replace(unk_token_id=4), "unk_token_id = 4.*= 3"),
    "<mask>": (SMALL.replace(mask_token_id=4), "mask_token_id = 4.*= 5"),
    "order of languages": (SMALL.replace(lang2id={"en": 0, "de": 1}), "languages = .'en', 'de'.*sorted names"),
    "hyphen": (SMALL.replace(lang2id={"pt": 0, "pt-br": 1}), "languages = .*pt-br.*without hyphens"),
    "no name": (SMALL.replace(lang2id={"": 0, "en": 1}), "languages"),
    "clusters of one width": (SMALL.replace(asm=True, asm_cutoffs=(20,), asm_div_value=1.0), "asm_div_value = 1.0"),
}


@pytest.mark.parametrize(("config", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_original_has_fixed_is_refused(config: XLMConfig, words: str, tmp_path: Path) -> None:
    directory_of(config, tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"(?s)cannot represent.*{words}.*fixed in its code"):
        convert(tmp_path / "model", tmp_path / "x.pth", to="original")
    assert left_in(tmp_path) == ["model"]


def test_all_are_named_at_once(tmp_path: Path) -> None:
    directory_of(SMALL.replace(max_position_embeddings=256, layer_norm_eps=1e-6), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"(?s)max_position_embeddings = 256; layer_norm_eps = 1e-06"):
        convert(tmp_path / "model", tmp_path / "x.pth", to="original")


def test_words_in_another_order_than_their_counts_are_refused(tmp_path: Path) -> None:
    counts = [0] * 14 + [1, *range(46, 1, -1)]
    edit(
        directory_of(SMALL, tmp_path / "model"),
        lambda values: values["xlm"].update(original={"params": {}, "training": {}, "counts": pack_integers(counts)}),
    )
    with pytest.raises(CheckpointError, match="order of the words"):
        convert(tmp_path / "model", tmp_path / "x.pth", to="original")


CHANGES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "activation": {"gelu_activation": False},
    "language for generate": {"lang_id": 0},
    "languages": {"lang2id": {"de": 0, "fr": 1}},
    "direction": {"causal": False},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_the_configuration_wins_over_the_recorded_parameters(changes: dict[str, Any], tmp_path: Path) -> None:
    """A directory that was edited since its conversion is written as it is, not as it was."""
    demo_data(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there")

    def change(values: dict[str, Any]) -> None:
        values |= changes

    edit(tmp_path / "there", change)
    edited = XLMWithLMHeadModel.from_pretrained(tmp_path / "there").config
    assert edited != XLMWithLMHeadModel.from_pretrained(tmp_path / "demo.pth").config
    convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    assert_the_original_loads(tmp_path / "back.pth")
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "back.pth").config == edited
    convert(tmp_path / "back.pth", tmp_path / "there again")
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "there again").config == edited


def test_parameters_of_a_fork_are_kept_and_updated(tmp_path: Path) -> None:
    data = demo_data(tmp_path, as_original=True)
    data["params"] |= {"layer_norm_eps": 1e-6, "pre_norm": False, "layerdrop": 0.0}
    convert(save(data, tmp_path / "fork.pth"), tmp_path / "there")
    with pytest.raises(CheckpointError, match="layer_norm_eps = 1e-06"):
        convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    edit(tmp_path / "there", lambda values: values.update(layer_norm_eps=1e-12))
    convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    params = torch.load(tmp_path / "back.pth")["params"]
    assert (params["layer_norm_eps"], params["pre_norm"], params["layerdrop"]) == (1e-12, False, 0.0)
