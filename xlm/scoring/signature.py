"""What a figure was made with, on one line, so that two figures can be told to be comparable."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import torch

from xlm._version import __version__
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer

_SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a log-probability depends on, but for the text and for what changes its last digits only.

    Those are the sizes of batches, what is read ahead, the number of threads and the processor or GPU.

    Attributes:
        model: SHA-256 of the weights as they are in memory, in hexadecimal: a ``.pth`` and the directory that was
            converted from it have the same.
        tokenizer: SHA-256 of the vocabulary, the merges and the settings of the tokenizer.
        preset: The tokenizer's preset.
        lang: The language, or several with ``+`` between them.
        protocol: ``sentence``, or ``stream`` with its window.
        long: What is done with texts longer than the model's positions: the stride of the windows, or ``refuse``.
        dtype: Type of the weights.
        device: Kind of device.
        torch: Version of torch.
        xlm: Version of this library.
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

    def __str__(self) -> str:
        shown = {**asdict(self), "model": self.model[:_SHOWN_DIGITS], "tokenizer": self.tokenizer[:_SHOWN_DIGITS]}
        return "|".join(f"{name}:{value}" for name, value in shown.items())


def signature(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    *,
    lang: str,
    protocol: str = "sentence",
    long: str = "none",
    digest: str | None = None,
) -> Signature:
    """The signature of figures made with a model and a tokenizer; reads every weight once, unless told their digest.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        lang: As in ``Signature``.
        protocol: As in ``Signature``.
        long: As in ``Signature``.
        digest: ``model_digest`` of the model; of the one that ``for_inference`` was called on, where that made this.
    """
    return Signature(
        model=model_digest(model) if digest is None else digest,
        tokenizer=tokenizer_digest(tokenizer),
        preset=tokenizer.preset,
        lang=lang,
        protocol=protocol,
        long=long,
        dtype=model.weights,
        device=model.device.type,
        torch=torch.__version__,
        xlm=__version__,
    )


def model_digest(model: XLMWithLMHeadModel) -> str:
    """SHA-256 of a model's configuration and weights, in hexadecimal; each weight by its name, shape, type and bits."""
    digest = hashlib.sha256(repr(_architecture(model)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _architecture(model: XLMWithLMHeadModel) -> tuple[object, ...]:
    # What changes the numbers without changing a weight's name or shape.
    c = model.config
    return (
        c.n_heads,
        c.gelu_activation,
        c.causal,
        c.eos_token_id,  # stands between the texts of a stream
        c.layer_norm_eps,
        c.asm_cutoffs,
        c.use_lang_emb,
        sorted(c.lang2id.items()),
    )


def tokenizer_digest(tokenizer: XLMTokenizer) -> str:
    """SHA-256 of what a tokenizer's ids depend on, in hexadecimal."""
    digest = hashlib.sha256(repr(tokenizer).encode())
    for token in tokenizer.vocabulary.tokens:
        digest.update(token.encode("utf-8", "surrogatepass") + b"\n")
    for pair in tokenizer.merges:
        digest.update(" ".join(pair).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
