"""Models of this library in the format of CTranslate2.

The format has no languages: the embedding of a language is added to the positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xlm.model.config import XLMConfig
from xlm.model.head import LinearHead
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.transformer import Layer


def write_language_model(model: XLMWithLMHeadModel, language: int, directory: Path) -> None:
    """Write a language model for one language.

    Args:
        model: The model, in float32.
        language: Id of the language.
        directory: A new directory.
    """
    from ctranslate2.specs import Activation, TransformerDecoderModelSpec

    config: XLMConfig = model.config
    spec = TransformerDecoderModelSpec.from_config(
        config.n_layers,
        config.n_heads,
        pre_norm=False,
        activation=Activation.GELU if config.gelu_activation else Activation.RELU,
        layernorm_embedding=True,
    )
    _copy_half(spec.decoder, spec.decoder.embeddings, model, language)
    _copy_head(spec.decoder, model)
    spec.register_vocabulary([str(index) for index in range(config.vocab_size)])
    _set_special_tokens(spec.config, config)
    spec.validate()
    directory.mkdir()
    spec.save(str(directory))


def write_translation_model(model: XLMEncoderDecoderModel, source: int, target: int, directory: Path) -> None:
    """Write a translation model for one pair of languages.

    Args:
        model: The model, in float32.
        source: Id of the source language.
        target: Id of the target language.
        directory: A new directory.
    """
    from ctranslate2.specs import Activation, TransformerSpec

    config = model.config
    spec = TransformerSpec.from_config(
        (config.n_layers, config.n_layers),
        config.n_heads,
        pre_norm=False,
        activation=Activation.GELU if config.gelu_activation else Activation.RELU,
        layernorm_embedding=True,
    )
    _copy_half(spec.encoder, spec.encoder.embeddings[0], model.encoder, source)
    _copy_half(spec.decoder, spec.decoder.embeddings, model.decoder, target)
    _copy_head(spec.decoder, model.decoder)
    words = [str(index) for index in range(config.vocab_size)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    _set_special_tokens(spec.config, config)
    spec.config.decoder_start_token = str(config.eos_token_id)
    spec.validate()
    directory.mkdir()
    spec.save(str(directory))


def _set_special_tokens(spec: Any, config: XLMConfig) -> None:
    spec.unk_token = str(config.unk_token_id)
    spec.bos_token = spec.eos_token = str(config.eos_token_id)


def _copy_head(spec: Any, half: XLMWithLMHeadModel) -> None:
    """Copy a linear head to the specification of a decoder."""
    head = half.head
    assert isinstance(head, LinearHead)
    spec.projection.weight = head.projection.detach().numpy()
    spec.projection.bias = head.bias.detach().numpy()


def _copy_half(spec: Any, embeddings_spec: Any, half: XLMWithLMHeadModel, language: int) -> None:
    """Copy embeddings and layers to the specification of an encoder or a decoder, for one language."""
    transformer = half.transformer
    embeddings = transformer.embeddings
    spec.scale_embeddings = 1.0
    embeddings_spec.weight = embeddings.word.weight.detach().numpy()
    positions = embeddings.position.weight.detach()
    if embeddings.language is not None:
        positions = positions + embeddings.language.weight.detach()[language]
    spec.position_encodings.encodings = positions.numpy()
    _copy_norm(spec.layernorm_embedding, embeddings.norm)
    for target, layer in zip(spec.layer, transformer.layers, strict=True):
        assert isinstance(layer, Layer)
        attention, cross = layer.attention, layer.cross_attention
        _copy_linear(target.self_attention.linear[0], attention.query, attention.key, attention.value)
        _copy_linear(target.self_attention.linear[1], attention.output)
        _copy_norm(target.self_attention.layer_norm, layer.attention_norm)
        if cross is not None:
            _copy_linear(target.attention.linear[0], cross.query)
            _copy_linear(target.attention.linear[1], cross.key, cross.value)
            _copy_linear(target.attention.linear[2], cross.output)
            _copy_norm(target.attention.layer_norm, layer.cross_attention_norm)
        _copy_linear(target.ffn.linear_0, layer.ffn.up)
        _copy_linear(target.ffn.linear_1, layer.ffn.down)
        _copy_norm(target.ffn.layer_norm, layer.ffn_norm)


def _copy_linear(spec: Any, *linears: Any) -> None:
    spec.weight = torch.cat([linear.weight.detach() for linear in linears]).numpy()
    spec.bias = torch.cat([linear.bias.detach() for linear in linears]).numpy()


def _copy_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
