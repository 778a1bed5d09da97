"""XLMConfig: valid and invalid values.

Oracle: the rules in its docstring, and the parameter count of the published model (142,422,203).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tests.model.small_models import small_config
from xlm.errors import ConfigError, LanguageError
from xlm.model.config import FrozenConfigError, XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

WRONG = [
    ("vocab_size", "61", "int"),
    ("emb_dim", True, "int"),
    ("n_layers", -1, "at least 1"),
    ("n_heads", 5, "a divisor of emb_dim = 24"),
    ("n_heads", 0, "at least 1"),
    ("max_position_embeddings", 0, "at least 1"),
    ("max_position_embeddings", 16.0, "int"),
    ("lang2id", {"de": 0}, "2 names with the ids 0 to 1"),
    ("lang2id", {"de": 0, "en": 2}, "2 names with the ids 0 to 1"),
    ("lang2id", {"de": 0, "en": "1"}, "Mapping[str, int]"),
    ("lang2id", None, "Mapping[str, int]"),
    ("lang_id", 2, "an id from 0 to 1"),
    ("use_lang_emb", 1, "bool"),
    ("dropout", 1.0, "from 0 to below 1"),
    ("dropout", None, "float"),
    ("attention_dropout", -0.1, "from 0 to below 1"),
    ("attention_dropout", float("nan"), "float"),
    ("layer_norm_eps", 0.0, "above 0"),
    ("layer_norm_eps", float("inf"), "float"),
    ("embed_init_std", 0.0, "above 0, or None"),
    ("embed_init_std", float("inf"), "float | None"),
    ("pad_token_id", 61, "an id from 0 to 60"),
    ("mask_token_id", -1, "an id from 0 to 60"),
]
WRONG_ADAPTIVE = [
    ("asm_cutoffs", (), "ascending, above 0 and below vocab_size = 61"),
    ("asm_cutoffs", (40, 20), "ascending"),
    ("asm_cutoffs", (20, 61), "ascending"),
    ("asm_cutoffs", (0, 20), "ascending"),
    ("asm_cutoffs", (20.0,), "tuple[int, ...]"),
    ("asm_cutoffs", None, "tuple[int, ...]"),
    ("asm_div_value", 0.5, "from 1 to"),
]


@pytest.mark.parametrize(("key", "value", "rule"), WRONG)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(key: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small_config(**{key: value})
    _names(caught.value, key, value, rule)


@pytest.mark.parametrize(("key", "value", "rule"), WRONG_ADAPTIVE)
def test_a_wrong_value_of_the_adaptive_softmax_is_named(key: str, value: object, rule: str) -> None:
    values: dict[str, Any] = {"asm": True, "asm_cutoffs": (20, 40), key: value}
    with pytest.raises(ConfigError) as caught:
        small_config(**values)
    _names(caught.value, key, value, rule)


def _names(error: ConfigError, key: str, value: object, rule: str) -> None:
    assert error.where == key
    assert str(error.found).startswith(f"{key} = ")
    assert repr(value) in str(error.found)
    assert str(error.expected).startswith(f"{key}: ")
    assert rule in str(error.expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": "61", "dropout": None, "lang2id": []},
        {"n_layers": 0, "n_heads": 7, "pad_token_id": 99, "lang_id": 3},
        {"emb_dim": 0, "embed_init_std": -1.0},
    ],
)
def test_all_problems_come_in_one_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        small_config(**wrong)
    assert sorted(str(caught.value.where).split("; ")) == sorted(wrong)
    for key, value in wrong.items():
        assert f"{key} = {value!r}" in str(caught.value)


def test_a_config_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="configuration is invalid"):
        small_config(n_heads=5)


def test_cutoffs_are_not_judged_without_adaptive_softmax() -> None:
    assert small_config(asm=False, asm_cutoffs=(40, 20)).asm_cutoffs == (40, 20)


def test_the_published_model_has_142_422_203_parameters() -> None:
    with torch.device("meta"):
        model = XLMWithLMHeadModel(XLMConfig.clm_ende_1024())
    assert sum(parameter.numel() for parameter in model.parameters()) == 142_422_203


def test_the_published_model_is_causal_with_tied_weights_and_two_languages() -> None:
    config = XLMConfig.clm_ende_1024()
    assert (config.causal, config.tied, config.has_language_embeddings) == (True, True, True)
    assert (config.head_dim, dict(config.lang2id)) == (128, {"de": 0, "en": 1})
    assert XLMConfig.clm_ende_1024(n_layers=1, causal=False) == config.replace(n_layers=1, causal=False)


@pytest.mark.parametrize(
    ("changes", "tied", "has_language_embeddings"),
    [
        ({}, True, True),
        ({"share_inout_emb": False}, False, True),
        ({"asm": True, "asm_cutoffs": (20,)}, False, True),
        ({"use_lang_emb": False}, True, False),
        ({"n_langs": 1}, True, False),
    ],
)
def test_derived_properties(changes: dict[str, Any], tied: bool, has_language_embeddings: bool) -> None:
    config = small_config(**changes)
    assert (config.tied, config.has_language_embeddings) == (tied, has_language_embeddings)


def test_language_id_takes_names_and_ids() -> None:
    config = small_config()
    assert [config.language_id(language) for language in ("de", "en", 0, 1)] == [0, 1, 0, 1]
    assert config.id2lang == {0: "de", 1: "en"}


@pytest.mark.parametrize("language", ["fr", "", "0", 2, -1, True, 1.0, None])
def test_an_unknown_language_is_refused_with_the_known_ones(language: Any) -> None:
    with pytest.raises(LanguageError) as caught:
        small_config().language_id(language)
    assert caught.value.found == repr(language)
    assert caught.value.expected == "de (0), en (1)"


def test_a_model_whose_languages_have_no_names_asks_for_an_id() -> None:
    with pytest.raises(LanguageError, match="an id from 0 to 1"):
        small_config(lang2id={}).language_id("en")


def test_frozen() -> None:
    config = small_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layers = 3  # type: ignore[misc]
    changes: list[Callable[[Any], object]] = [
        lambda names: names.__setitem__("fr", 2),
        lambda names: names.__delitem__("de"),
        lambda names: names.__ior__({"fr": 2}),
        lambda names: names.clear(),
        lambda names: names.pop("de"),
        lambda names: names.popitem(),
        lambda names: names.setdefault("fr", 2),
        lambda names: names.update(fr=2),
    ]
    mutators = {name for name in dir(dict) if name not in dir(Mapping)} - {"copy", "fromkeys", "__or__", "__ror__"}
    assert len(changes) == len(mutators - {"__reversed__"}), mutators  # every method by which a dict can change
    for change in changes:
        with pytest.raises(FrozenConfigError, match=r"config\.replace\(lang2id=\.\.\.\)") as caught:
            change(config.lang2id)
        assert isinstance(caught.value, TypeError)
    assert config.lang2id == {"de": 0, "en": 1}


def test_what_it_was_made_from_can_change_without_changing_it() -> None:
    names, cutoffs = {"de": 0, "en": 1}, [20, 40]
    config = small_config(lang2id=names, asm=True, asm_cutoffs=cutoffs)
    names["fr"] = 2
    cutoffs.append(3)
    assert (dict(config.lang2id), config.asm_cutoffs) == ({"de": 0, "en": 1}, (20, 40))


def test_replace_changes_and_checks() -> None:
    config = small_config()
    assert config.replace() == config
    assert config.replace(n_heads=4).n_heads == 4
    assert config.n_heads == 3
    with pytest.raises(ConfigError):
        config.replace(n_heads=5)
    with pytest.raises(TypeError, match="heads"):
        config.replace(heads=4)


def test_it_is_a_plain_dataclass() -> None:
    config = small_config(asm=True, asm_cutoffs=(20, 40), embed_init_std=0.5)
    values = dataclasses.asdict(config)
    assert set(values) == {f.name for f in dataclasses.fields(XLMConfig)}
    assert values["lang2id"] == {"de": 0, "en": 1}
    assert XLMConfig(**values) == config
    assert dataclasses.replace(config, dropout=0.5) == config.replace(dropout=0.5)
    assert len({config, small_config(asm=True, asm_cutoffs=[20, 40], embed_init_std=0.5), small_config()}) == 2


def test_to_dict_is_plain_and_new() -> None:
    config = small_config(asm=True, asm_cutoffs=(20, 40))
    values = config.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert XLMConfig(**values) == config
    assert {type(value) for value in values.values()} == {int, float, bool, str, dict, list, type(None)}
    values["lang2id"]["fr"] = 2
    values["asm_cutoffs"].append(50)
    assert (config.lang2id, config.asm_cutoffs) == ({"de": 0, "en": 1}, (20, 40))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_copies_are_equal(copied: Any) -> None:
    config = small_config(asm=True, asm_cutoffs=(20, 40), dropout=0.25)
    assert copied(config) == config
    assert copied(config) != config.replace(dropout=0.5)
    with pytest.raises(FrozenConfigError):
        copied(config).lang2id["fr"] = 2
