"""A model made ready for inference on the CPU: fused and packed matrices in place of the layers' own.

What the types of the matrices cost:

- ``float32``: nothing; the same numbers up to the order of sums.
- ``float16``: the rounding of the weights.
- ``bfloat16``: the same. On processors that multiply bfloat16 also, in the layers but not in the head and only where
  more than ``FEW_ROWS`` rows come together, the rounding of a matrix's input and of its output before the bias.
- ``int8``: weights rounded to 8 bits with one scale an output, inputs to 8 bits (7 without VNNI instructions) with one
  scale a row. Last digits that differ between batches, as they do in every type, can take an input to its next level,
  so that now and then a number of a row differs by one such step from what it is alone.

All else, the embeddings, norms, attention, biases and an adaptive head, is computed in float32 whatever the type.

Shapes: K input width, M output width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from xlm.errors import InputError
from xlm.model.attention import Attention
from xlm.model.head import LinearHead, LogitBlock, row_blocks
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.packed_linear import ROUNDINGS, packed_linear
from xlm.model.plain import check_plain
from xlm.model.transformer import Layer, Transformer, TransformerInputs, TransformerOutput

_Module = TypeVar("_Module", bound=nn.Module)


def prepare_for_inference(model: XLMWithLMHeadModel, weights: str | None = None) -> XLMWithLMHeadModel:
    """Return a model with the same numbers, faster, that only infers; see ``XLMWithLMHeadModel.for_inference``.

    Raises:
        InputError: An unknown type, weights that are not on the CPU, or layers that packing would leave out.
    """
    weights = model.weights if weights is None else weights
    if not isinstance(weights, str) or weights not in ROUNDINGS:
        raise InputError("weights cannot be kept so", where="weights", found=weights, expected=" or ".join(ROUNDINGS))
    if model.device.type != "cpu":
        raise InputError(
            "matrices are packed for the CPU only",
            where="for_inference",
            found=f"a model on {model.device}",
            expected="a model on the CPU",
            remedy="use the model as it is, or model.to('cpu') before",
        )
    with torch.device("meta"):
        check_plain(model, XLMWithLMHeadModel(model.config))
    return InferenceModel(model, weights)


class InferenceModel(XLMWithLMHeadModel):
    """An ``XLMWithLMHeadModel`` that cannot train, move, or be saved or loaded over; it can be copied and pickled.

    The word embeddings, and in float32 the head's weights, are in the same memory as the other model's; all else is a
    copy. Make a new one after the other has changed: numbers would mix old weights and new.

    Args:
        model: Whose weights to take.
        weights: Type to keep the matrices in.
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
        theirs = model.transformer
        self.transformer.causal = theirs.causal
        ours = self.transformer.embeddings
        # The table is large and few of its rows are read, so its memory and its type stay, but for a wider one:
        # float32 added to a narrower one is float32. A parameter of its own, since each model sets its own modes.
        table_VD = theirs.embeddings.word.weight.detach()
        ours.word = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table_VD.float() if table_VD.dtype == torch.float64 else table_VD,
            freeze=True,
            padding_idx=model.config.pad_token_id,
            max_norm=theirs.embeddings.word.max_norm,
            norm_type=theirs.embeddings.word.norm_type,
        )
        ours.position, ours.norm = _float32(theirs.embeddings.position), _float32(theirs.embeddings.norm)
        ours.language = None if theirs.embeddings.language is None else _float32(theirs.embeddings.language)
        for layer, source in zip(self.transformer.layers, theirs.layers, strict=True):
            assert isinstance(layer, Layer)
            assert isinstance(source, Layer)
            layer.attention = _PackedAttention(source.attention, weights)
            layer.ffn.activation = source.ffn.activation
            layer.ffn.up = _pack(weights, source.ffn.up)
            layer.ffn.down = _pack(weights, source.ffn.down)
            layer.attention_norm, layer.ffn_norm = _float32(source.attention_norm), _float32(source.ffn_norm)
        if isinstance(model.head, LinearHead):
            self.head = _PackedHead(model.head, theirs.embeddings.word.weight, weights)
        else:
            self.head = _float32(model.head)
        self.eval()

    @property
    def weights(self) -> str:
        """Name of the type that the matrices are kept in."""
        return self._weights

    def logits(self, hidden: Tensor) -> Tensor:
        """As ``XLMWithLMHeadModel.logits``, without gradients."""
        with _in_float32():
            return super().logits(hidden)

    def train(self, mode: bool = True) -> InferenceModel:
        """Only leaves training mode."""
        if mode:
            _refuse("train")
        super().train(False)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> InferenceModel:
        """Only leaves gradients off."""
        if requires_grad:
            _refuse("requires_grad_")
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("a move to another device or type")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: load into the model that this was made from, and make another."""
        _refuse("load_state_dict")

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the packed matrices have no tensors to name."""
        _refuse("state_dict")

    def save_pretrained(self, directory: object) -> NoReturn:
        """Refused: save the model that this was made from."""
        _refuse("save_pretrained")

    def for_inference(self, weights: str | None = None) -> NoReturn:
        """Refused: this is one already."""
        _refuse("for_inference")


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"{what} is not for a model made ready for inference",
        where=what,
        found="what for_inference returned",
        expected="the model it was called on",
    )


@contextmanager
def _in_float32() -> Iterator[None]:
    """Without gradients, and whatever autocast the caller is under: packed matrices take float32 alone."""
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
    def __init__(self, head: LinearHead, word_embeddings_VD: Tensor, weights: str) -> None:
        nn.Module.__init__(self)
        weight_VD = word_embeddings_VD if head.weight is None else head.weight
        # Scores of some tens that differ in the third digit decide on tokens: they are not rounded to bfloat16.
        self.packed = packed_linear(weights, weight_VD, head.bias, rounds_rows=False)

    def forward(self, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        with _in_float32():
            logits: Tensor = self.packed(hidden)
        return logits

    def logit_blocks(
        self, hidden_ND: Tensor, word_embeddings_VD: Tensor, *, elements: int | None = None
    ) -> Iterator[LogitBlock]:
        width = self.packed.width
        for rows in row_blocks(len(hidden_ND), width, elements, whole=width == self.packed.outputs):
            pieces = self.packed.pieces(hidden_ND[rows])
            while piece := self._next(pieces):
                yield LogitBlock(rows, *piece)

    @staticmethod
    def _next(pieces: Iterator[tuple[int, Tensor]]) -> tuple[int, Tensor] | None:
        with _in_float32():  # not around a yield, which would leave the caller in it
            return next(pieces, None)


def _pack(weights: str, *linears: Any) -> nn.Module:
    """One map whose output is that of several side by side."""
    return packed_linear(
        weights, torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    )


def _float32(module: _Module) -> _Module:
    return copy.deepcopy(module).float().requires_grad_(False)
