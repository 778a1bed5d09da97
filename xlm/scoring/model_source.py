"""A model by its name: the one way from a name and options to an opened model with its tokenizer and signature."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from xlm.inference.loading import open_model, pack_where_faster
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.signature import Signature, model_digest, signature
from xlm.tokenizer.tokenizer import XLMTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """A model by its name, with how to open it.

    Attributes:
        model: A model directory, a checkpoint of the original, the bundled model, or an id on the Hugging Face hub.
        lang: Name of the language of the texts; ``None`` if it is not known yet.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8``, or ``auto`` for what the file holds.
        device: Where to compute; ``None`` for a GPU where there is one, else the CPU.
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
            offsets: Whether it must be able to say where its words come from.

        Raises:
            VocabularyError: Its files are broken.
            CheckpointError: There is no such model.
            LanguageError: It does not have the language, or cannot say where the words come from.
        """
        tokenizer = XLMTokenizer.from_pretrained(self.model, preset=self.preset, codes=self.codes)
        if self.lang is not None:
            tokenizer("", lang=self.lang, return_offsets=offsets)
        return tokenizer

    def network(self) -> XLMWithLMHeadModel:
        """Open the model as its file has it.

        Raises:
            InputError: There is no such device, or it cannot compute in that type.
            CheckpointError: There is no such model.
        """
        default = "cuda" if torch.cuda.is_available() else "cpu"
        return open_model(self.model, dtype=self.dtype, device=default if self.device is None else self.device)

    def fast(self, network: XLMWithLMHeadModel, *, few_rows: bool) -> XLMWithLMHeadModel:
        """Return an opened model in the form that computes fastest; arguments as for ``pack_where_faster``."""
        return pack_where_faster(network, dtype=self.dtype, few_rows=few_rows)

    def open(self, *, offsets: bool = False, few_rows: bool = False, signed: bool = False) -> OpenedModel:
        """Open the tokenizer and the model.

        Args:
            offsets: As for ``tokenizer``.
            few_rows: As for ``fast``.
            signed: Whether signatures are needed: their digest reads every weight.

        Raises:
            XLMError: As for ``tokenizer`` and ``network``.
        """
        # The tokenizer first: it is read in no time, and most mistakes show there.
        tokenizer = self.tokenizer(offsets=offsets)
        network = self.network()
        digest = model_digest(network) if signed else None
        return OpenedModel(self.fast(network, few_rows=few_rows), tokenizer, digest)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model in its fastest form, with its tokenizer.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        digest: ``model_digest`` of the model as its file has it, if it was asked for.
    """

    model: XLMWithLMHeadModel
    tokenizer: XLMTokenizer
    digest: str | None

    def signature(self, *, lang: str, long: str, protocol: str = "sentence") -> Signature:
        """Return the signature of results of this model; arguments as for ``signature``."""
        return signature(self.model, self.tokenizer, lang=lang, protocol=protocol, long=long, digest=self.digest)
