"""Growing a model: more words, languages or positions.

Modules stay the same objects, and get new parameters. An optimiser that was made before holds the old parameters, so
make a new one. Rows that the model had keep their values, so that results do not change. The functions take several
models, the halves of a translation model, and change none of them unless they can change all.

Shapes: D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_count, check_flags, language_names
from xlm.errors import ConfigError, LanguageError
from xlm.model.head import LinearHead
from xlm.model.initialisation import LearnedEmbedding, sinusoidal_positions
from xlm.model.sharded import is_sharded

if TYPE_CHECKING:
    from xlm.model.config import XLMConfig
    from xlm.model.network import XLMModel

_AFTER = "grow the model before it is sharded, packed, quantized or given adapters"

NewRows = Callable[[int], Tensor]
"""Returns a number of new rows."""


@torch.no_grad()
def resize_words(
    models: Sequence[XLMModel], words: int | None, *, pad_to_multiple_of: int | None, mean_resizing: bool
) -> None:
    """Change the number of words; see ``XLMModel.resize_token_embeddings``."""
    check_flags(mean_resizing=mean_resizing)
    words = models[0].config.vocab_size if words is None else words
    check_count(new_num_tokens=words)
    if pad_to_multiple_of is not None:
        check_count(pad_to_multiple_of=pad_to_multiple_of)
        words = -(-words // pad_to_multiple_of) * pad_to_multiple_of
    configs = [model.config.replace(vocab_size=words) for model in models]
    tables = [_table(model, "word") for model in models]
    heads = [_resizable_head(model) for model in models]
    for model, config, table, head in zip(models, configs, tables, heads, strict=True):
        _set_rows(table, words, _mean(table.weight) if mean_resizing else _drawn(table))
        if head is not None:
            weight, bias, bound = head.weight, head.bias, config.emb_dim**-0.5
            if weight is not None:
                drawn = partial(_uniform, weight, bound)
                head.weight = _resized(weight, words, _mean(weight) if mean_resizing else drawn)
            # As in transformers, new words have the mean bias if the head has its own weight, and else no bias.
            head.bias = _resized(bias, words, bias.new_zeros if weight is None or not mean_resizing else _mean(bias))
        _set_config(model, config)


def _resizable_head(model: XLMModel) -> LinearHead | None:
    """Return the head of a model, ``None`` if it has none."""
    head: object = getattr(model, "head", None)
    if model.config.asm:
        raise ConfigError(
            "an adaptive softmax cannot be resized",
            where=type(model).__name__,
            found="asm = True, whose clusters depend on the number of words",
            remedy="use a model with a linear head",
        )
    if head is None or type(head) is LinearHead:
        return head
    raise ConfigError(
        "the head cannot be resized",
        where="model.head",
        found=type(head).__name__,
        expected="the model's own linear head",
        remedy=f"resize before you replace the head; {_AFTER}",
    )


@torch.no_grad()
def resize_positions(models: Sequence[XLMModel], positions: int) -> None:
    """Change the number of positions; see ``XLMModel.resize_position_embeddings``."""
    check_count(new_num_position_embeddings=positions)
    tables = [_table(model, "position") for model in models]
    for model, table in zip(models, tables, strict=True):
        config, old = model.config.replace(max_position_embeddings=positions), len(table.weight)
        fixed = partial(_fixed_positions, old, config.emb_dim)
        _set_rows(table, positions, fixed if config.sinusoidal_embeddings else _drawn(table))
        _set_config(model, config)


@torch.no_grad()
def add_languages(models: Sequence[XLMModel], names: str | Sequence[str], *, like: str | None) -> dict[str, int]:
    """Add languages; see ``XLMModel.add_languages``."""
    new = language_names(names)
    configs = [_with_languages(model.config, new) for model in models]
    copied = None if like is None else models[0].config.language_id(like)
    tables = [
        _table(model, "language") if model.transformer.embeddings.language is not None else None for model in models
    ]
    for model, config, table in zip(models, configs, tables, strict=True):
        embeddings = model.transformer.embeddings
        if table is not None:
            _set_rows(table, config.n_langs, _mean(table.weight if copied is None else table.weight[copied, None]))
        elif config.has_language_embeddings:  # it had one language, which needed no embedding
            word = embeddings.word
            std = word.std if isinstance(word, LearnedEmbedding) else config.emb_dim**-0.5
            embeddings.language = LearnedEmbedding(config.n_langs, config.emb_dim, std=std).to(word.weight)
            embeddings.language.weight.zero_()
        _set_config(model, config)
    return {name: configs[0].lang2id[name] for name in new}


def _with_languages(config: XLMConfig, new: Sequence[str]) -> XLMConfig:
    """Return a configuration with more languages."""
    if again := [name for position, name in enumerate(new) if name in config.lang2id or name in new[:position]]:
        raise LanguageError("the model has this language already", where="names", found=", ".join(again))
    if len(config.lang2id) != config.n_langs:
        raise LanguageError(
            "the languages of the model have no names",
            where="config.lang2id",
            found=f"{config.n_langs} languages without names",
            remedy="name them first: load the model with a config.json that has lang2id",
        )
    lang2id = {**config.lang2id, **{name: config.n_langs + number for number, name in enumerate(new)}}
    return config.replace(lang2id=lang2id, n_langs=len(lang2id))


def _table(model: XLMModel, name: str) -> nn.Embedding:
    """Return a table of a model's embeddings that can be resized."""
    table: object = getattr(model.transformer.embeddings, name)
    if not isinstance(table, nn.Embedding) or is_sharded(table.weight):
        raise ConfigError(
            "the embeddings cannot be resized",
            where=f"model.transformer.embeddings.{name}",
            found="a sharded table" if isinstance(table, nn.Embedding) else type(table).__name__,
            expected="an embedding table of torch",
            remedy=_AFTER,
        )
    return table


def _mean(weight: Tensor) -> NewRows:
    """Return a function that returns new rows with the mean of the rows of a weight, summed in float32."""
    mean = weight.to(torch.promote_types(weight.dtype, torch.float32)).mean(0).to(weight.dtype)
    return lambda rows: mean.expand(rows, *mean.shape)


def _drawn(table: nn.Embedding) -> NewRows:
    """Return a function that returns new rows as the constructor draws them."""
    std = table.std if isinstance(table, LearnedEmbedding) else table.embedding_dim**-0.5
    return lambda rows: table.weight.new_empty(rows, table.embedding_dim).normal_(std=std)


def _fixed_positions(old: int, width: int, rows: int) -> Tensor:
    return sinusoidal_positions(old + rows, width)[old:]


def _uniform(weight: Tensor, bound: float, rows: int) -> Tensor:
    return weight.new_empty(rows, weight.shape[1]).uniform_(-bound, bound)


def _set_rows(table: nn.Embedding, rows: int, new_rows: NewRows) -> None:
    table.weight = _resized(table.weight, rows, new_rows)
    table.num_embeddings = rows


def _resized(weight: Tensor, rows: int, new_rows: NewRows) -> nn.Parameter:
    """Return a parameter with the first rows of a weight, and new rows behind them if it has more."""
    kept = weight.detach()[:rows]
    added = rows - len(kept)
    result = torch.cat([kept, new_rows(added).to(kept)]) if added else kept.clone()
    return nn.Parameter(result, requires_grad=weight.requires_grad)


def _set_config(model: XLMModel, config: XLMConfig) -> None:
    model.__dict__["config"] = config  # an ordinary assignment is refused, since it would change nothing else
