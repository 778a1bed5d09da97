"""Signatures. Oracle: what must change a figure changes its signature, and what cannot leaves it alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.scoring.small import make_model, open_tokenizer
from xlm.scoring.signature import model_digest, signature
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest


@pytest.mark.parametrize(
    "changes",
    [
        {"n_heads": 4},
        {"gelu_activation": False},
        {"causal": False},
        {"lang2id": {"de": 1, "en": 0}},
        {"eos_token_id": 7},
        {"pad_token_id": 7},
        {"unk_token_id": 7},
        {"layer_norm_eps": 1e-6},
    ],
)
def test_what_changes_the_numbers_changes_the_digest(changes: dict[str, Any]) -> None:
    model, other = make_model(50), make_model(50, **changes)
    other.load_state_dict(model.state_dict())
    assert model_digest(model) == model_digest(make_model(50))
    assert model_digest(model) != model_digest(other)


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.0}, {"attention_dropout": 0.5}, {"embed_init_std": 1.0}, {"lang_id": 1}]
)
def test_what_changes_no_number_leaves_the_digest_alone(changes: dict[str, Any]) -> None:
    model, other = make_model(50), make_model(50, **changes)
    other.load_state_dict(model.state_dict())
    assert model_digest(model) == model_digest(other)


def test_every_weight_counts_and_its_type() -> None:
    model = make_model(50)
    seen = {model_digest(model), model_digest(make_model(50).bfloat16())}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        seen.add(model_digest(model))
    assert len(seen) == 2 + len(list(model.parameters()))


def test_the_directory_of_a_converted_model_has_the_same(tmp_path: Path) -> None:
    model = make_model(50)
    model.save_pretrained(tmp_path)
    assert model_digest(type(model).from_pretrained(tmp_path)) == model_digest(model)


def test_what_changes_ids_changes_the_tokenizer_digest(demo_files: Path, tokenizer: XLMTokenizer) -> None:
    others: list[dict[str, Any]] = [
        {"preset": "transformers"},
        {"bos_token": "<s>"},
        {"do_lowercase_and_remove_accent": True},
        {"mask_token": "<special2>"},
        {"additional_special_tokens": ()},
    ]
    digests = {tokenizer_digest(open_tokenizer(demo_files, **settings)) for settings in others}
    assert len(digests | {tokenizer_digest(tokenizer)}) == 6
    assert tokenizer_digest(tokenizer) == tokenizer_digest(open_tokenizer(demo_files))


def test_one_line_names_everything(tokenizer: XLMTokenizer) -> None:
    made = signature(make_model(tokenizer.vocab_size), tokenizer, lang="en", protocol="stream 64", long="none")
    assert re.fullmatch(
        r"model:[0-9a-f]{12}\|tokenizer:[0-9a-f]{12}\|preset:original\|lang:en\|protocol:stream 64\|long:none"
        r"\|dtype:float32\|device:cpu\|torch:[^|]+\|xlm:[^|]+",
        str(made),
    )
    assert len(made.model) == len(made.tokenizer) == 64
