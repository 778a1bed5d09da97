"""Models by name, and the signatures of their results: results with equal signatures are comparable."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Generic

import torch

from xlm._io.fingerprints import fingerprint
from xlm._version import __version__
from xlm.inference.loading import Network, open_model, pack_where_faster
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.scoring.scorer import check_pair
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest

_SHOWN_DIGITS = 12

# Configuration keys that do not affect scores: settings of training, and lang_id, which only transformers reads.
_WITHOUT_EFFECT = ("dropout", "attention_dropout", "attn_implementation", "embed_init_std", "lang_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Everything that a log-probability depends on, except the text and conditions that affect only its last digits.

    The last digits also depend on batch sizes, the number of rows read ahead, the number of threads, and the processor
    or GPU.

    Attributes:
        model: Fingerprint of the configuration and of the weights in memory. A ``.pth`` file and the directory
            converted from it have the same fingerprint.
        tokenizer: Fingerprint of the vocabulary, the merges and every setting of the tokenizer.
        preset: The tokenizer's preset.
        lang: The language, or several joined by ``+``; for translations the direction, such as ``de-en``.
        protocol: ``sentence``, or ``stream`` with its window; ``generation`` or ``translation``.
        long: How texts longer than the model's positions are scored: the stride of the windows, or ``refuse``.
        dtype: Type of the weights.
        device: Type of the device.
        torch: Version of torch.
        xlm: Version of this library.
        unit: Unit of the logarithms of a table of scores; ``None`` for other results, whose units are fixed.
    """

    model: str
    tokenizer: str
    preset: str
    lang: str
    protocol: str
    long: str
    dtype: str
    device: str
    torch: str
    xlm: str
    unit: str | None = None

    def __str__(self) -> str:
        shown = {**asdict(self), "model": self.model[:_SHOWN_DIGITS], "tokenizer": self.tokenizer[:_SHOWN_DIGITS]}
        return "|".join(f"{name}:{value}" for name, value in shown.items() if value is not None)


def signature(
    model: XLMWithLMHeadModel | XLMEncoderDecoderModel,
    tokenizer: XLMTokenizer,
    *,
    lang: str,
    protocol: str = "sentence",
    long: str = "none",
    unit: str | None = None,
    digest: str | None = None,
) -> Signature:
    """Return the signature of results of a model and a tokenizer.

    Args:
        model: The model. Every weight is read once, unless ``digest`` is given.
        tokenizer: Its tokenizer.
        lang: As in ``Signature``.
        protocol: As in ``Signature``.
        long: As in ``Signature``.
        unit: As in ``Signature``.
        digest: ``model_digest`` of the model; for a packed model, ``model_digest`` of the model before
            ``for_inference``.

    Raises:
        InputError: The arguments are not a model and its tokenizer.
    """
    network = model.decoder if isinstance(model, XLMEncoderDecoderModel) else model
    check_pair(network, tokenizer)
    return Signature(
        model=model_digest(model) if digest is None else digest,
        tokenizer=tokenizer_digest(tokenizer),
        preset=tokenizer.preset,
        lang=lang,
        protocol=protocol,
        long=long,
        dtype=network.weights,
        device=model.device.type,
        torch=torch.__version__,
        xlm=__version__,
        unit=unit,
    )


def model_digest(model: XLMWithLMHeadModel | XLMEncoderDecoderModel) -> str:
    """Return the fingerprint of a model: its configuration, and each weight by its name, shape, type and bits."""
    weights = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            ).hexdigest(),
        }
        for name, tensor in model.state_dict().items()
    }
    return fingerprint("model", {"config": _fields_with_effect(model.config), "weights": weights})


def _fields_with_effect(config: XLMConfig) -> dict[str, object]:
    left_out = {*_WITHOUT_EFFECT, *(() if config.asm else ("asm_cutoffs", "asm_div_value"))}
    names = [field.name for field in fields(config) if field.name not in left_out]
    return {name: getattr(config, name) for name in names} | {"lang2id": dict(config.lang2id)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """The name of a model, with the options for opening it.

    Attributes:
        model: A model directory, a checkpoint of the original, the bundled model, or an id on the Hugging Face hub.
        lang: Name of the language of the texts; ``None`` if it is not known yet.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8``, or ``auto`` for the type in the file.
        device: Device to compute on; ``None`` for a GPU if there is one, else the CPU.
    """

    model: str
    lang: str | None = None
    preset: str | None = None
    codes: str | None = None
    dtype: str = "float32"
    device: str | None = None

    def tokenizer(self, *, offsets: bool = False) -> XLMTokenizer:
        """Open the tokenizer.

        Args:
            offsets: Whether the tokenizer must report the offsets of words.

        Raises:
            VocabularyError: The tokenizer's files are broken.
            CheckpointError: There is no such model.
            LanguageError: The tokenizer does not have the language, or cannot report its words' offsets.
        """
        tokenizer = XLMTokenizer.from_pretrained(self.model, preset=self.preset, codes=self.codes)
        if self.lang is not None:
            tokenizer("", lang=self.lang, return_offsets=offsets)
        return tokenizer

    def network(self, kind: type[Network]) -> Network:
        """Open the model, of a class, with the weights of its file.

        Raises:
            InputError: The device does not exist, or cannot compute in the type ``dtype``.
            CheckpointError: There is no such model, or it is of another kind.
        """
        default = "cuda" if torch.cuda.is_available() else "cpu"
        device = default if self.device is None else self.device
        return open_model(self.model, kind=kind, dtype=self.dtype, device=device)

    def fast(self, network: Network, *, few_rows: bool) -> Network:
        """Return the fastest form of a model that ``network`` opened; ``few_rows`` is as for ``pack_where_faster``."""
        return pack_where_faster(network, dtype=self.dtype, few_rows=few_rows)

    def open(
        self, *, offsets: bool = False, few_rows: bool = False, signed: bool = False
    ) -> OpenedModel[XLMWithLMHeadModel]:
        """Open the tokenizer and the language model; arguments and errors as for ``open_as``."""
        return self.open_as(XLMWithLMHeadModel, offsets=offsets, few_rows=few_rows, signed=signed)

    def open_as(
        self, kind: type[Network], *, offsets: bool = False, few_rows: bool = False, signed: bool = False
    ) -> OpenedModel[Network]:
        """Open the tokenizer and the model.

        Args:
            kind: Class of the model.
            offsets: As for ``tokenizer``.
            few_rows: As for ``fast``.
            signed: Whether to compute the digest for signatures, which reads every weight.

        Raises:
            XLMError: As for ``tokenizer`` and ``network``.
        """
        # Open the tokenizer first: that is fast, and most mistakes show there.
        tokenizer = self.tokenizer(offsets=offsets)
        network = self.network(kind)
        digest = model_digest(network) if signed else None
        return OpenedModel(self.fast(network, few_rows=few_rows), tokenizer, digest)


@dataclass(frozen=True, slots=True)
class OpenedModel(Generic[Network]):
    """A model in its fastest form, with its tokenizer.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        digest: ``model_digest`` of the model as it is in its file, if requested.
    """

    model: Network
    tokenizer: XLMTokenizer
    digest: str | None

    def signature(self, *, lang: str, long: str, protocol: str = "sentence", unit: str | None = None) -> Signature:
        """Return the signature of this model's results; arguments as for the function ``signature``."""
        return signature(
            self.model, self.tokenizer, lang=lang, protocol=protocol, long=long, unit=unit, digest=self.digest
        )
