"""``save_pretrained`` writes what ``from_pretrained`` opens, or nothing.

Oracle: the model in memory, whose logits the saved one must have; and the file system after a refusal.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoint.test_convert import left_in
from tests.model.small_models import random_ids, small_config, small_model
from xlm import XLMError, XLMWithLMHeadModel
from xlm.errors import WriteError
from xlm.model.head import LinearHead, LogitBlock
from xlm.model.transformer import FeedForward


class Scaled(LinearHead):
    """Has the weights of the head that it replaces, and other scores."""

    def logit_blocks(self, *arguments: Any, **options: Any) -> Iterator[LogitBlock]:
        for block in super().logit_blocks(*arguments, **options):
            yield block._replace(logits=2 * block.logits)


class Gated(FeedForward):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD) * 0.5


class Lora(nn.Module):
    """What peft puts in the place of a layer: the layer itself, and two narrow ones."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(24, 2, bias=False)
        self.lora_B = nn.Linear(2, 24, bias=False)


class Quantized(Tensor):
    """A subclass of tensors, as torchao's and DTensor are."""


def untie(model: Any) -> None:
    model.head.weight = nn.Parameter(model.transformer.embeddings.word.weight.detach() + 1)


def replace_head(model: Any) -> None:
    head = Scaled(model.config)
    head.load_state_dict(model.head.state_dict())
    model.head = head


def replace_ffn(model: Any) -> None:
    ffn = Gated(model.config)
    ffn.load_state_dict(model.transformer.layers[1].ffn.state_dict())
    model.transformer.layers[1].ffn = ffn


def add_lora(model: Any) -> None:
    attention = model.transformer.layers[0].attention
    attention.query = Lora(attention.query)


def put(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        with torch.no_grad():
            model.transformer.layers[0].ffn.up.weight[1, 2] = value

    return change


def enlarge_words_only(model: Any) -> None:
    model.transformer.embeddings.word.weight = nn.Parameter(torch.randn(65, 24))


def subclassed(model: Any) -> None:
    norm = model.transformer.layers[0].ffn_norm
    norm.weight = nn.Parameter(norm.weight.detach().as_subclass(Quantized))


BAD: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "untied head": (untie, ["not equal to the word embeddings", "head.weight"]),
    "replaced head": (replace_head, ["head (tests.checkpoint.test_save.Scaled instead of LinearHead)"]),
    "replaced layer": (replace_ffn, ["transformer.layers.1.ffn (", "Gated instead of FeedForward)"]),
    "no head": (lambda m: setattr(m, "head", nn.Identity()), ["missing: head.bias", "Identity instead of"]),
    "deleted layer": (lambda m: m.transformer.layers.__delitem__(1), ["1 of the 2 layers"]),
    "layer more": (lambda m: m.transformer.layers.append(m.transformer.layers[0]), ["extra: transformer.layers.2."]),
    "extra module": (lambda m: setattr(m, "classifier", nn.Linear(24, 2)), ["extra: classifier.weight"]),
    "extra buffer": (lambda m: m.register_buffer("seen", torch.zeros(2)), ["extra: seen"]),
    "adapter": (add_lora, ["extra: ", "query.lora_A.weight", "Lora instead of Linear)"]),
    "NaN": (put(float("nan")), ["not finite: transformer.layers.0.ffn.up.weight (1 of 2304 values)"]),
    "infinity": (put(float("inf")), ["not finite: transformer.layers.0.ffn.up.weight"]),
    "words only": (enlarge_words_only, ["head.bias (61,) instead of (65,)"]),
    "bias only": (
        lambda m: setattr(m.head, "bias", nn.Parameter(torch.zeros(65))),
        ["head.bias (65,) instead of (61,)"],
    ),
    "another width": (
        lambda m: setattr(m.transformer.embeddings, "position", nn.Embedding(16, 23)),
        ["transformer.embeddings.position.weight (16, 23) instead of (16, 24)"],
    ),
    "parametrized": (
        lambda m: nn.utils.parametrizations.weight_norm(m.transformer.layers[0].ffn.up),
        ["parametrizations.weight.original0"],
    ),
    "no memory": (lambda m: m.to("meta"), ["not a plain tensor", "meta"]),
    "whole numbers": (
        lambda m: setattr(m.head, "bias", nn.Parameter(torch.zeros(61).long(), requires_grad=False)),
        ["not floating point: head.bias (torch.int64)"],
    ),
    "subclass of tensors": (subclassed, ["transformer.layers.0.ffn_norm.weight (Quantized)", "before quantizing"]),
    "words without an end of sentence": (
        lambda m: setattr(m.transformer.embeddings, "word", nn.Embedding(4, 24)),
        ["mask_token_id"],
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_what_could_not_be_opened_is_not_written(
    change: Callable[[Any], object], words: list[str], tmp_path: Path
) -> None:
    small_model().save_pretrained(tmp_path / "there")
    before = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    model = small_model()
    change(model)
    for name in ("there", "new"):
        with pytest.raises(XLMError) as error:
            model.save_pretrained(tmp_path / name)
        for word in words:
            assert word in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before
    assert left_in(tmp_path) == ["there"]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    model = small_model()
    for change in (untie, put(float("nan")), lambda m: setattr(m, "classifier", nn.Linear(24, 2))):
        change(model)
    with pytest.raises(WriteError) as error:
        model.save_pretrained(tmp_path / "new")
    assert all(word in str(error.value) for word in ("not finite", "extra: classifier.weight", "merge adapters"))


def test_without_assertions_too(tmp_path: Path) -> None:
    code = (
        "import torch, xlm\n"
        "model = xlm.XLMWithLMHeadModel(xlm.XLMConfig(vocab_size=20, emb_dim=8, n_layers=1, n_heads=1))\n"
        "model.classifier = torch.nn.Linear(8, 2)\n"
        "try:\n    model.save_pretrained('new')\nexcept xlm.XLMError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "extra: classifier.weight" in done.stdout, done.stderr
    assert left_in(tmp_path) == []


def enlarge(model: Any, words: int) -> None:
    """What a user does to add words."""
    words_before = len(model.transformer.embeddings.word.weight)
    more = torch.randn(words - words_before, 24, generator=torch.Generator().manual_seed(3))
    model.transformer.embeddings.word.weight = nn.Parameter(
        torch.cat([model.transformer.embeddings.word.weight.detach(), more])
    )
    model.head.bias = nn.Parameter(torch.cat([model.head.bias.detach(), more[:, 0]]))
    if model.head.weight is not None:
        model.head.weight = nn.Parameter(torch.cat([model.head.weight.detach(), more]))


@pytest.mark.parametrize("share_inout_emb", [True, False])
@pytest.mark.parametrize("words", [65, 64, 50])
def test_a_vocabulary_of_another_size_is_saved_and_opened(words: int, share_inout_emb: bool, tmp_path: Path) -> None:
    model = small_model(share_inout_emb=share_inout_emb)
    if words > 61:
        enlarge(model, words)
    else:
        for name in ("transformer.embeddings.word.weight", "head.bias", "head.weight"):
            module, _, parameter = name.rpartition(".")
            if (whole := getattr(model.get_submodule(module), parameter)) is not None:
                setattr(model.get_submodule(module), parameter, nn.Parameter(whole.detach()[:words].clone()))
    model.save_pretrained(tmp_path)
    again = XLMWithLMHeadModel.from_pretrained(tmp_path)
    assert again.config == small_config(share_inout_emb=share_inout_emb, vocab_size=words, embed_init_std=24**-0.5)
    ids = random_ids(2, 9, high=words - 11)
    with torch.inference_mode():
        assert torch.equal(again(ids, langs=1).logits, model(ids, langs=1).logits)
        assert again(torch.tensor([[words - 1]]), langs=1).logits.shape == (1, 1, words)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


@pytest.mark.parametrize("directory", [7, None, b"x", ["x"], small_config(), "a\0b", "\ud800"])
def test_no_directory(directory: Any) -> None:
    with pytest.raises(XLMError, match=r"Not a path|not a valid file name"):
        small_model().save_pretrained(directory)


class Subclass(XLMWithLMHeadModel):
    """With a forward of its own, and parts that hold no weights."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return super().forward(*arguments, **keywords)


class SameForward(nn.Linear):
    """Has nothing of its own but a name."""


def test_what_changes_no_number_is_saved(tmp_path: Path) -> None:
    model = Subclass(small_config())
    model.loss = nn.CrossEntropyLoss()
    model.get_submodule("transformer.layers.0.ffn.up").__class__ = SameForward
    model.transformer.embeddings.word.weight.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    model.half().save_pretrained(tmp_path)
    again = XLMWithLMHeadModel.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_head_that_shares_the_embeddings_by_hand_is_saved_tied(tmp_path: Path) -> None:
    model = small_model()
    model.head.weight = model.transformer.embeddings.word.weight
    model.save_pretrained(tmp_path)
    assert XLMWithLMHeadModel.from_pretrained(tmp_path).head.weight is None
