"""``from_pretrained`` of subclasses, and attempts to change a model's configuration.

Oracle: the logits of the saved model; the weights from the subclass's ``__init__``.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_models import random_ids, small_model
from xlm.errors import ConfigError, InputError, XLMError, XLMWarning
from xlm.inference.packed_model import InferenceModel
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.transformer import Layer

D = 24


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    small_model(seed=1).save_pretrained(path)
    return path


class Named(XLMWithLMHeadModel):
    def name(self) -> str:
        return "named"


class WithOptions(XLMWithLMHeadModel):
    def __init__(self, config: XLMConfig, classes: int = 3, **options: Any) -> None:
        super().__init__(config)
        self.classes = classes


class Tagger(XLMWithLMHeadModel):
    """A subclass with additional weights, which no file of a language model contains."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.tags = nn.Linear(config.emb_dim, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        nn.init.constant_(self.tags.bias, 7.0)

    def tag(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.tags(self.hidden(ids, langs="en")) * self.scale
        return scores


class Buffered(XLMWithLMHeadModel):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.register_buffer("ones", torch.ones(5), persistent=False)


class Demanding(XLMWithLMHeadModel):
    def __init__(self, config: XLMConfig, classes: int) -> None:
        super().__init__(config)
        self.classes = classes


class Headless(XLMWithLMHeadModel):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.head = nn.Identity()  # type: ignore[assignment]


class Wider(XLMWithLMHeadModel):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config.replace(vocab_size=config.vocab_size + 1))


@pytest.mark.parametrize("kind", [XLMWithLMHeadModel, Named, WithOptions, Buffered])
@torch.no_grad()
def test_a_subclass_gets_itself(kind: type[XLMWithLMHeadModel], directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = kind.from_pretrained(directory)
    ids = random_ids(2, 5)
    assert type(model) is kind
    assert not model.training
    assert torch.equal(model(ids, langs="en").logits, small_model(seed=1)(ids, langs="en").logits)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    half = kind.from_pretrained(directory, dtype="bfloat16", causal=False)
    assert (type(half), half.dtype, half.config.causal) == (kind, torch.bfloat16, False)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(copy.deepcopy(model)) is kind


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
@torch.no_grad()
def test_weights_that_a_subclass_adds_begin_as_it_makes_them(directory: Path, dtype: str) -> None:
    with pytest.warns(XLMWarning, match=r"lacks scale, tags\.bias, tags\.weight: .* of Tagger are untrained") as caught:
        model = Tagger.from_pretrained(directory, dtype=dtype)
    assert caught[0].filename == __file__
    assert model.tags.bias.tolist() == [7.0] * 4
    assert model.scale.tolist() == [0.5] * 4
    assert 0 < model.tags.weight.abs().max() <= D**-0.5
    assert {parameter.dtype for parameter in model.parameters()} == {model.dtype}
    assert model.tag(random_ids(2, 5)).shape == (2, 5, 4)
    if dtype == "float32":
        ids = random_ids(2, 5)
        assert torch.equal(model(ids, langs="en").logits, small_model(seed=1)(ids, langs="en").logits)


@pytest.mark.parametrize(
    ("kind", "where", "found"),
    [
        (Demanding, "Demanding.__init__", "missing a required argument: 'classes'"),
        (InferenceModel, "InferenceModel.__init__", "missing a required argument: 'weights'"),
        (Headless, "", "head.bias"),
        (Wider, "", "transformer.embeddings.word.weight"),
    ],
)
def test_a_subclass_that_cannot_be_made_or_filled(
    kind: type[XLMWithLMHeadModel], where: str, found: str, directory: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        kind.from_pretrained(directory)
    assert str(caught.value.where) == (where or str(directory))
    assert found in str(caught.value.found)
    assert kind.__name__ in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"attention_dropout": 0.3}, {"dropout": 0.5, "causal": False}])
@torch.no_grad()
def test_dropout_of_from_pretrained_reaches_every_layer(directory: Path, changes: dict[str, Any]) -> None:
    model = XLMWithLMHeadModel.from_pretrained(directory, **changes)
    assert model.config == small_model().config.replace(embed_init_std=D**-0.5, **changes)
    transformer, config = model.transformer, model.config
    assert transformer.causal == config.causal
    assert transformer.embeddings.dropout == config.dropout
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        assert (layer.dropout, layer.attention.dropout) == (config.dropout, config.attention_dropout)


@torch.no_grad()
def test_without_dropout_training_computes_as_evaluation(directory: Path) -> None:
    ids = random_ids(2, 5)
    model = XLMWithLMHeadModel.from_pretrained(directory, dropout=0.0, attention_dropout=0.0)
    assert torch.equal(model.train()(ids, langs="en").logits, model.eval()(ids, langs="en").logits)
    other = XLMWithLMHeadModel.from_pretrained(directory)
    assert not torch.equal(other.train()(ids, langs="en").logits, other.eval()(ids, langs="en").logits)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "0.1", True, [0.1]])
def test_a_dropout_that_cannot_be(directory: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        XLMWithLMHeadModel.from_pretrained(directory, **{name: value})
    assert caught.value.where == name


def test_a_model_keeps_its_configuration() -> None:
    model = small_model()
    config = model.config
    for each in (model, model.for_inference(), copy.deepcopy(model)):
        with pytest.raises(
            ConfigError, match=r"from_pretrained takes causal=, dropout= and attention_dropout="
        ) as caught:
            each.config = config.replace(causal=False)
        assert caught.value.where == "model.config"
        assert each.config == config
    model.config = config  # says nothing new


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_keeps_it_too(copied: Any) -> None:
    model = copied(small_model())
    assert model.config == small_model().config
    with pytest.raises(ConfigError):
        model.config = model.config.replace(dropout=0.5)


@pytest.mark.parametrize("config", [None, {}, "config", small_model])
def test_what_is_no_configuration_makes_no_model(config: Any) -> None:
    with pytest.raises(ConfigError, match="XLMConfig") as caught:
        Named(config)
    assert caught.value.where == "Named"


def test_a_field_of_a_configuration_cannot_be_set() -> None:
    config = small_model().config
    changes: list[Callable[[], object]] = [lambda: setattr(config, "causal", False), lambda: delattr(config, "causal")]
    for change in changes:
        with pytest.raises(ConfigError, match=r"config\.replace\(causal=\.\.\.\)") as caught:
            change()
        assert (caught.value.where, caught.value.found) == ("XLMConfig.causal", "causal = True")
        assert isinstance(caught.value, AttributeError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match="no such attribute") as caught:
        config.hidden_size = 3  # type: ignore[attr-defined]
    assert "emb_dim" in str(caught.value.expected)


WRONG_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "name_or_path": (None, 5, b"model", ["model"], object(), "", "\0"),
    "dtype": (5, "float8", torch.int64, [], torch.zeros(2)),
    "device": ("nowhere", -1, 1.5, [], object(), "cpu:x"),
    "causal": ("yes", 1, 0.0, [], torch.zeros(2)),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_arguments_of_from_pretrained(directory: Path, name: str) -> None:
    for value in WRONG_ARGUMENTS[name]:
        arguments = {"name_or_path": directory, name: value}
        with pytest.raises(XLMError) as caught:
            XLMWithLMHeadModel.from_pretrained(arguments.pop("name_or_path"), **arguments)
        assert caught.value.where


def test_the_error_of_a_device_is_an_input_error(directory: Path) -> None:
    with pytest.raises(InputError, match="No such device"):
        XLMWithLMHeadModel.from_pretrained(directory, device="nowhere")
