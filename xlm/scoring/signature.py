"""Everything that a result depends on, on one line: results with equal signatures are comparable."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields

import torch

from xlm._io.fingerprints import fingerprint
from xlm._version import __version__
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.scorer import check_pair
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest

_SHOWN_DIGITS = 12

# Settings of training, and the language that only transformers' own generate reads.
_WITHOUT_EFFECT = ("dropout", "attention_dropout", "embed_init_std", "lang_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Everything that a log-probability depends on, except the text and what changes only its last digits.

    The latter are batch sizes, reading ahead, the number of threads, and the processor or GPU.

    Attributes:
        model: Fingerprint of configuration and weights as they are in memory: a ``.pth`` and the directory that was
            converted from it have the same.
        tokenizer: Fingerprint of the vocabulary, the merges and every setting of the tokenizer.
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
    """Return the signature of results of a model and a tokenizer; reads every weight once unless given their digest.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        lang: As in ``Signature``.
        protocol: As in ``Signature``.
        long: As in ``Signature``.
        digest: ``model_digest`` of the model; of the one that ``for_inference`` was called on, where that made this.

    Raises:
        InputError: These are not a model and its tokenizer.
    """
    check_pair(model, tokenizer)
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
    return fingerprint("model", {"config": _numbers_depend_on(model.config), "weights": weights})


def _numbers_depend_on(config: XLMConfig) -> dict[str, object]:
    left_out = {*_WITHOUT_EFFECT, *(() if config.asm else ("asm_cutoffs", "asm_div_value"))}
    names = [field.name for field in fields(config) if field.name not in left_out]
    return {name: getattr(config, name) for name in names} | {"lang2id": dict(config.lang2id)}
