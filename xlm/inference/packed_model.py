"""A model for inference on the CPU, with fused and packed matrices.

What each type of the matrices costs in accuracy:

- ``float32``: nothing. Results are the same up to the order of sums.
- ``float16``: the weights are rounded.
- ``bfloat16``: the weights are rounded. Processors that multiply bfloat16 also round a matrix's input, and its output
  before the bias; in the layers only, not in the head, and only for more than ``FEW_ROWS`` rows.
- ``int8``: weights are rounded to 8 bits with one scale an output, inputs to 8 bits (7 without VNNI instructions) with
  one scale a row. In every type the last digits depend on the batch. Here they can move an input to the next of its
  levels, so that results occasionally differ from those of the row alone by one such step.

Embeddings, norms, attention, biases and an adaptive head are computed in float32 whatever the type.

Shapes: K input width, M output width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_choice
from xlm.errors import InputError
from xlm.inference.packed_linear import ROUNDINGS, packed_linear
from xlm.inference.plain import check_plain
from xlm.model.attention import Attention
from xlm.model.head import LinearHead, LogitBlock, row_blocks
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.transformer import Layer, Transformer, TransformerInputs, TransformerOutput

_Module = TypeVar("_Module", bound=nn.Module)


def prepare_for_inference(model: XLMWithLMHeadModel, weights: str | None = None) -> XLMWithLMHeadModel:
    """Return the same model with packed matrices; see ``XLMWithLMHeadModel.for_inference``.

    Raises:
        InputError: An unknown type, weights that are not on the CPU, or layers that packing would leave out.
    """
    weights = model.weights if weights is None else weights
    check_choice("type of packed weights", ROUNDINGS, weights=weights)
    if model.device.type != "cpu":
        raise InputError(
            "only models on the CPU can be packed",
            where="for_inference",
            found=f"a model on {model.device}",
            expected="a model on the CPU",
            remedy="use the model as it is, or call model.to('cpu') first",
        )
    with torch.device("meta"):
        check_plain(model, XLMWithLMHeadModel(model.config))
    return InferenceModel(model, weights)


class InferenceModel(XLMWithLMHeadModel):
    """A packed ``XLMWithLMHeadModel``. It can be copied and pickled, but not trained, moved, saved or loaded into.

    It shares the memory of the model's word embeddings, and in float32 that of the head's weight; all else is a copy.
    After the model has changed, results would mix old and new weights: make a new one.

    Args:
        model: The model to pack.
        weights: Type of the packed matrices.
    """

    def __init__(self, model: XLMWithLMHeadModel, weights: str) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        self.provenance = model.provenance
        self.check_inputs = model.check_inputs
        self._weights = weights
        self._warned_about_langs = model._warned_about_langs
        with torch.device("meta"):
            self.transformer = _PackedTransformer(model.config)
        transformer = model.transformer
        self.transformer.causal = transformer.causal
        embeddings = self.transformer.embeddings
        # The table is large and few of its rows are read, so it keeps its memory and its type, unless that is wider
        # than float32: a narrower one added to float32 is float32. The parameter is a new one, with its own modes.
        table_VD = transformer.embeddings.word.weight.detach()
        embeddings.word = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table_VD.float() if table_VD.dtype == torch.float64 else table_VD,
            freeze=True,
            padding_idx=model.config.pad_token_id,
            max_norm=transformer.embeddings.word.max_norm,
            norm_type=transformer.embeddings.word.norm_type,
        )
        embeddings.position = _float32(transformer.embeddings.position)
        embeddings.norm = _float32(transformer.embeddings.norm)
        language = transformer.embeddings.language
        embeddings.language = None if language is None else _float32(language)
        for layer, source in zip(self.transformer.layers, transformer.layers, strict=True):
            assert isinstance(layer, Layer)
            assert isinstance(source, Layer)
            layer.attention = _PackedAttention(source.attention, weights)
            layer.ffn.activation = source.ffn.activation
            layer.ffn.up = _pack(weights, source.ffn.up)
            layer.ffn.down = _pack(weights, source.ffn.down)
            layer.attention_norm, layer.ffn_norm = _float32(source.attention_norm), _float32(source.ffn_norm)
        if isinstance(model.head, LinearHead):
            self.head = _PackedHead(model.head, weights)
        else:
            self.head = _float32(model.head)
        self.eval()

    @property
    def weights(self) -> str:
        """Name of the type that the matrices are kept in."""
        return self._weights

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the output of the head, without gradients."""
        with _in_float32():
            return super().logits(hidden)

    def train(self, mode: bool = True) -> InferenceModel:
        """Leave training mode; entering it is refused."""
        if mode:
            _refuse("train")
        super().train(False)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> InferenceModel:
        """Leave gradients off; turning them on is refused."""
        if requires_grad:
            _refuse("requires_grad_")
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("a move to another device or type")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: load into the model that this one was made from, and make a new one."""
        _refuse("load_state_dict")

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: packed matrices are no tensors."""
        _refuse("state_dict")

    def save_pretrained(self, directory: object) -> NoReturn:
        """Refuse: save the model that this one was made from."""
        _refuse("save_pretrained")

    def for_inference(self, weights: str | None = None) -> NoReturn:
        """Refuse: this model is packed already."""
        _refuse("for_inference")


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"{what} is not possible on a packed model",
        where=what,
        found="what for_inference returned",
        expected="the model it was called on",
    )


@contextmanager
def _in_float32() -> Iterator[None]:
    """Turn gradients and autocast off: packed matrices take float32 only."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


class _PackedTransformer(Transformer):
    def forward(self, inputs: TransformerInputs, **options: Any) -> TransformerOutput:
        with _in_float32():
            return super().forward(inputs, **options)


class _PackedAttention(Attention):
    def __init__(self, attention: Attention, weights: str) -> None:
        nn.Module.__init__(self)
        self.n_heads, self.dropout = attention.n_heads, 0.0
        self.query_key_value = _pack(weights, attention.query, attention.key, attention.value)
        self.output = _pack(weights, attention.output)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BTD, key_BTD, value_BTD = self.query_key_value(x_BTD).chunk(3, dim=-1)
        return query_BTD, key_BTD, value_BTD


class _PackedHead(LinearHead):
    def __init__(self, head: LinearHead, weights: str) -> None:
        nn.Module.__init__(self)
        # Scores up to some tens that differ in the third digit decide on tokens: they are not rounded to bfloat16.
        self.packed = packed_linear(weights, head.projection, head.bias, rounds_rows=False)

    def tie_to(self, transformer: Transformer) -> None:
        """Do nothing: the weight is packed."""

    def forward(self, hidden: Tensor) -> Tensor:
        with _in_float32():
            logits: Tensor = self.packed(hidden)
        return logits

    def logit_blocks(self, hidden_ND: Tensor, *, elements: int | None = None) -> Iterator[LogitBlock]:
        width = self.packed.width
        for rows in row_blocks(len(hidden_ND), width, elements, whole=width == self.packed.outputs):
            pieces = self.packed.pieces(hidden_ND[rows])
            while piece := self._next(pieces):
                yield LogitBlock(rows, *piece)

    @staticmethod
    def _next(pieces: Iterator[tuple[int, Tensor]]) -> tuple[int, Tensor] | None:
        with _in_float32():  # not around the yield, where it would apply to the caller
            return next(pieces, None)


def _pack(weights: str, *linears: Any) -> nn.Module:
    """Return one packed map with the outputs of several linear maps side by side."""
    return packed_linear(
        weights, torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    )


def _float32(module: _Module) -> _Module:
    return copy.deepcopy(module).float().requires_grad_(False)
