"""Models for inference on the CPU, with fused and packed matrices.

What each type of the matrices costs in accuracy:

- ``float32``: nothing. Results are the same up to the order of sums.
- ``float16``: the weights are rounded.
- ``bfloat16``: the weights are rounded. On processors with bfloat16 instructions, for more than ``FEW_ROWS`` rows, the
  inputs of the layers' matrices are rounded too, and so are the outputs before the bias. The head's inputs and outputs
  are not rounded.
- ``int8``: weights are rounded to 8 bits with one scale per output, inputs to 8 bits (7 without VNNI instructions) with
  one scale per row. A difference in the last digits can round an input to a neighbouring level, so a row's result in a
  batch can differ from its result alone.

With every type, the last digits of a result depend on the batch.

Embeddings, norms, attention, biases and an adaptive head are computed in float32 whatever the type.

Shapes: K input width, M output width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from xlm._io.arguments import check_choice
from xlm.errors import InputError
from xlm.inference.packed_linear import ROUNDINGS, packed_linear
from xlm.model.attention import Attention, CrossAttention
from xlm.model.head import LinearHead, LogitBlock, row_blocks
from xlm.model.initialisation import plain_class
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMDecoder, XLMEncoderDecoderModel
from xlm.model.transformer import Layer, Transformer, TransformerInputs, TransformerOutput

if TYPE_CHECKING:
    from typing_extensions import Self

_Module = TypeVar("_Module", bound=nn.Module)

_SHOWN_PROBLEMS = 4
_DUNDERS_IN_USE = {"__call__", "__getattr__", "__getattribute__"}
_HARMLESS_OVERRIDES = {"extra_repr", "reset_parameters", "check_inputs", "from_pretrained"}


def prepare_for_inference(model: XLMWithLMHeadModel, weights: str | None = None) -> InferenceModel:
    """Return a packed copy of a model; see ``XLMWithLMHeadModel.for_inference``."""
    weights = _checked_weights(model, weights, plain=XLMWithLMHeadModel)
    return InferenceModel(model, weights)


def prepare_encoder_decoder_for_inference(
    model: XLMEncoderDecoderModel, weights: str | None = None
) -> InferenceEncoderDecoderModel:
    """Return a packed copy of a translation model; see ``XLMEncoderDecoderModel.for_inference``."""
    weights = _checked_weights(model, weights, plain=XLMEncoderDecoderModel)
    return InferenceEncoderDecoderModel(model, weights)


def _checked_weights(
    model: XLMWithLMHeadModel | XLMEncoderDecoderModel,
    weights: str | None,
    *,
    plain: type[XLMWithLMHeadModel | XLMEncoderDecoderModel],
) -> str:
    """Return the type of the packed matrices, or raise ``InputError`` if the model cannot be packed."""
    weights = model.weights if weights is None else weights
    check_choice("type of packed weights", ROUNDINGS, weights=weights)
    if model.device.type != "cpu":
        raise InputError(
            "the model to pack is not on the CPU",
            where="for_inference",
            found=f"a model on {model.device}",
            expected="a model on the CPU",
            remedy="use the model without for_inference, or call model.to('cpu') first",
        )
    with torch.device("meta"):
        _check_plain(model, plain(model.config))
    return weights


class _InferenceOnly(nn.Module):
    """Base of the packed models: refuses to be trained, moved, saved or loaded into."""

    def train(self, mode: bool = True) -> Self:
        """Accept only ``mode=False``: a packed model cannot be trained."""
        if mode:
            _refuse("train")
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Accept only ``requires_grad=False``: a packed model has no gradients."""
        if requires_grad:
            _refuse("requires_grad_")
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("moving to another device or type")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: load into the original model instead, and pack it again."""
        _refuse("load_state_dict")

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: packed matrices are not tensors."""
        _refuse("state_dict")

    def save_pretrained(self, directory: object) -> NoReturn:
        """Refuse: save the original model instead."""
        _refuse("save_pretrained")

    def for_inference(self, weights: str | None = None) -> NoReturn:
        """Refuse: the model is already packed."""
        _refuse("for_inference")


class InferenceModel(_InferenceOnly, XLMWithLMHeadModel):
    """A packed ``XLMWithLMHeadModel``, or half of a translation model. It can be copied and pickled.

    Args:
        model: The model to pack.
        weights: Type of the packed matrices.
        has_head: Whether to pack the head. Without it, the model returns hidden states only.
    """

    def __init__(self, model: XLMWithLMHeadModel, weights: str, *, has_head: bool = True) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        self.provenance = model.provenance
        self.check_inputs = model.check_inputs
        self._weights = weights
        self._warned_about_langs = model._warned_about_langs
        with torch.device("meta"):
            self.transformer = _PackedTransformer(model.config, has_source=isinstance(model, XLMDecoder))
        transformer = model.transformer
        self.transformer.causal = transformer.causal
        embeddings = self.transformer.embeddings
        # The table is large and few of its rows are read, so it is shared and keeps its type. In float64 it is copied,
        # because the sum of the embeddings must be float32. The parameter is new, with its own ``requires_grad``.
        table_VD = transformer.embeddings.word.weight.detach()
        embeddings.word = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            table_VD.float() if table_VD.dtype == torch.float64 else table_VD,
            freeze=True,
            padding_idx=model.config.pad_token_id,
            max_norm=transformer.embeddings.word.max_norm,
            norm_type=transformer.embeddings.word.norm_type,
        )
        self.transformer.remember_table()
        embeddings.position = _float32(transformer.embeddings.position)
        embeddings.norm = _float32(transformer.embeddings.norm)
        language = transformer.embeddings.language
        embeddings.language = None if language is None else _float32(language)
        for layer, plain in zip(self.transformer.layers, transformer.layers, strict=True):
            assert isinstance(layer, Layer)
            assert isinstance(plain, Layer)
            layer.attention = _PackedAttention(plain.attention, weights)
            if plain.cross_attention is not None and plain.cross_attention_norm is not None:
                layer.cross_attention = _PackedCrossAttention(plain.cross_attention, weights)
                layer.cross_attention_norm = _float32(plain.cross_attention_norm)
            layer.ffn.activation = plain.ffn.activation
            layer.ffn.up = _pack(weights, plain.ffn.up)
            layer.ffn.down = _pack(weights, plain.ffn.down)
            layer.attention_norm, layer.ffn_norm = _float32(plain.attention_norm), _float32(plain.ffn_norm)
        if not has_head:
            self.head = _NoHead()  # type: ignore[assignment]
        elif isinstance(model.head, LinearHead):
            self.head = _PackedHead(model.head, weights)
        else:
            self.head = _float32(model.head)
        self.eval()

    @property
    def weights(self) -> str:
        """Name of the type of the packed matrices."""
        return self._weights

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token, without gradients."""
        with _in_float32():
            return super().logits(hidden)


class InferenceEncoderDecoderModel(_InferenceOnly, XLMEncoderDecoderModel):
    """A packed ``XLMEncoderDecoderModel``. It can be copied and pickled.

    Args:
        model: The model to pack.
        weights: Type of the packed matrices.
    """

    def __init__(self, model: XLMEncoderDecoderModel, weights: str) -> None:
        nn.Module.__init__(self)
        self.encoder = InferenceModel(model.encoder, weights, has_head=False)
        self.decoder = InferenceModel(model.decoder, weights)
        self.provenance = model.provenance
        self.eval()


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"{what} is not possible on a packed model",
        where=what,
        found="the result of for_inference",
        expected="the model that for_inference was called on",
    )


@contextmanager
def _in_float32() -> Iterator[None]:
    """Turn off gradients and autocast: packed matrices accept float32 only."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


class _PackedTransformer(Transformer):
    """Packed layers beside word embeddings that belong to the model that was packed."""

    def remember_table(self) -> None:
        """Remember in which state the word embeddings are now."""
        self._table_version = _version(self.embeddings.word.weight)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.remember_table()  # a copy has a table of its own, whose changes are counted from 0

    def forward(self, inputs: TransformerInputs, **options: Any) -> TransformerOutput:
        word = self.embeddings.word
        # With max_norm, reading the table changes it.
        counted = word.max_norm is None and not torch.compiler.is_compiling()
        if counted and _version(word.weight) != self._table_version:
            raise InputError(
                "the model that was packed has changed since",
                where="for_inference",
                found="word embeddings with new values, and layers packed with the old ones",
                expected="the weights that were packed",
                remedy="call for_inference again after each change, or pack a copy of the model",
            )
        with _in_float32():
            return super().forward(inputs, **options)


def _version(weight: Tensor) -> int:
    """Return how often a tensor has been changed in place; 0 for tensors of inference mode, which do not count it."""
    return 0 if weight.is_inference() else weight._version


class _PackedAttention(Attention):
    def __init__(self, attention: Attention, weights: str) -> None:
        nn.Module.__init__(self)
        self.n_heads, self.dropout, self.implementation = attention.n_heads, 0.0, attention.implementation
        self.query_key_value = _pack(weights, attention.query, attention.key, attention.value)
        self.output = _pack(weights, attention.output)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BTD, key_BTD, value_BTD = self.query_key_value(x_BTD).chunk(3, dim=-1)
        return query_BTD, key_BTD, value_BTD


class _PackedCrossAttention(CrossAttention):
    def __init__(self, attention: CrossAttention, weights: str) -> None:
        nn.Module.__init__(self)
        self.n_heads, self.dropout, self.implementation = attention.n_heads, 0.0, attention.implementation
        self.query = _pack(weights, attention.query)
        self.key_value = _pack(weights, attention.key, attention.value)
        self.output = _pack(weights, attention.output)

    def project_source(self, hidden_GSD: Tensor) -> tuple[Tensor, Tensor]:
        key_GSD, value_GSD = self.key_value(hidden_GSD).chunk(2, dim=-1)
        return key_GSD, value_GSD


class _NoHead(nn.Module):
    def forward(self, hidden: Tensor) -> NoReturn:
        raise InputError(
            "the encoder of a packed translation model has no head",
            where="encoder",
            found="the encoder of the result of for_inference",
            expected="the encoder of the model that for_inference was called on",
        )


class _PackedHead(LinearHead):
    def __init__(self, head: LinearHead, weights: str) -> None:
        nn.Module.__init__(self)
        # Do not round inputs and scores to bfloat16: that could change which token is the best.
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
        with _in_float32():  # the mode ends before a piece is yielded to the caller
            return next(pieces, None)


def _pack(weights: str, *linears: nn.Linear) -> Any:
    """Return one packed layer, to put where an ``nn.Linear`` was, with the outputs of all layers side by side."""
    return packed_linear(
        weights, torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    )


def _float32(module: _Module) -> _Module:
    return copy.deepcopy(module).float().requires_grad_(False)


def _check_plain(model: nn.Module, plain: nn.Module) -> None:
    """Raise ``InputError`` unless a model has the same modules as a new model with its configuration.

    The weights may have any values, and modules may be of subclasses that override nothing.
    """
    problems = _problems(model, plain)
    if not problems:
        return
    shown = [f"{path or 'the model itself'}: {text}" for path, text in problems.items()][:_SHOWN_PROBLEMS]
    more = len(problems) - len(shown)
    raise InputError(
        "the model cannot be packed: it does not consist of plain layers",
        where=", ".join(path or type(model).__name__ for path in list(problems)[:_SHOWN_PROBLEMS]),
        found="; ".join(shown) + (f"; and {more} more" if more else ""),
        expected="the layers of the configuration, without hooks, adapters or overridden methods",
        remedy="merge adapters (merge_and_unload()) and remove hooks and parametrizations, or do not use for_inference",
    )


def _problems(model: nn.Module, plain: nn.Module) -> dict[str, str]:
    """Return a description of each wrong module, by its path; modules inside a wrong one are omitted."""
    expected = dict(plain.named_modules(remove_duplicate=False))
    actual = dict(model.named_modules(remove_duplicate=False))
    problems: dict[str, str] = {}
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        problems["torch.nn"] = "global forward hooks"
    for path, module in actual.items():
        if not _inside(path, problems):
            text = _difference(module, expected[path]) if path in expected else f"an additional {_name(module)}"
            problems |= {path: text} if text else {}
    missing = [path for path in expected if path not in actual and not _inside(path, problems)]
    return problems | {path: "missing" for path in missing if not _inside(path, missing)}


def _inside(path: str, others: dict[str, str] | list[str]) -> bool:
    return any(other and path.startswith(f"{other}.") for other in others)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _difference(module: nn.Module, plain: nn.Module) -> str:
    """Return how a module differs from the plain module; an empty string if it does not differ."""
    base = plain_class(plain)
    if not isinstance(module, base):
        return f"{_name(module)} in place of {base.__name__}"
    if overridden := _overridden(type(module), base):
        return f"{_name(module)}, which overrides {', '.join(overridden)}"
    if patched := [name for name in vars(module) if callable(getattr(base, name, None))]:
        return f"{_name(module)} with its own {', '.join(patched)}"
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks:
        names = (getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks)
        return f"{_name(module)} with forward hooks ({', '.join(names)})"
    weights, plain_weights = ([n for n, w in m._parameters.items() if w is not None] for m in (module, plain))
    if weights != plain_weights:
        return f"{_name(module)} with the weights {weights} in place of {plain_weights}"
    if foreign := {type(w).__name__ for w in module.parameters(recurse=False)} - {"Parameter"}:
        return f"{_name(module)} with weights of type {', '.join(foreign)}"
    return ""


def _overridden(cls: type, base: type) -> list[str]:
    """Return the names of those attributes of a base class that a subclass overrides and that can affect results."""
    return [
        name
        for name in (dir(base) if cls is not base else ())
        if (name in _DUNDERS_IN_USE or not name.startswith("__"))
        and name not in _HARMLESS_OVERRIDES
        and inspect.getattr_static(cls, name) is not inspect.getattr_static(base, name)
    ]
