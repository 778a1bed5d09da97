"""A model as ``transformers`` opens it with the settings of the published configurations, and ways to run it there.

What ``compare_with_transformers.py`` measures with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.errors import InputError

_ROWS = 16
_PUBLISHED_MASK_TOKEN_ID = 0
_END = 1
_START = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How transformers is run; the defaults of this class are what is right.

    Attributes:
        name: What the row of the table is called.
        text: Which of ``Peer.encoders`` divides the text.
        first: Id of the opening token.
        language: ``"right"``, ``"none"``, or ``"lang_id"``: the configuration's, whatever the text.
        causal: Whether attention looks at earlier tokens only.
        way: ``"forward"``: the logits before a token; ``"generate"``: those that ``generate`` takes, behind an appended
            mask token; ``"labels"``: the loss that ``labels=input_ids`` gives.
    """

    name: str
    text: str = "training"
    first: int = _END
    language: str = "right"
    causal: bool = True
    way: str = "forward"


RIGHT = Setting(name="transformers, everything put right")
SETTINGS = (
    RIGHT,
    Setting(name="attention is bidirectional", causal=False),
    Setting(name="text is lower-cased, accents are stripped", text="lower-cased"),
    Setting(name="text is split by English rules", text="English rules"),
    Setting(name="texts begin with <s>, which is untrained", first=_START),
    Setting(name="no language is given", language="none"),
    Setting(name="generate() appends <s> to what it predicts from", way="generate"),
    Setting(name="generate() takes lang_id for the language", language="lang_id"),
    Setting(name="labels=input_ids is not shifted", way="labels"),
    Setting(name="all of them in a forward, the language given", text="as it comes", first=_START, causal=False),
    Setting(
        name="all of them in generate()",
        text="as it comes",
        first=_START,
        language="lang_id",
        causal=False,
        way="generate",
    ),
)
"""The rows of the table, those of ``xlm.score`` aside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one way of running gives to the texts of one language.

    Attributes:
        tokens: How many were predicted.
        logprob: Nats, of all of them together.
        characters: Of the raw texts, with one for the end of each.
    """

    tokens: int
    logprob: float
    characters: int

    @property
    def perplexity(self) -> float:
        """By token."""
        return math.exp(-self.logprob / self.tokens)

    @property
    def bits_per_character(self) -> float:
        """Of the raw text, so that other tokens do not make other units."""
        return -self.logprob / math.log(2) / self.characters


class Peer:
    """A model as ``transformers`` opens it, with the settings of the published configurations.

    Args:
        directory: In the layout of ``transformers``; made by ``write_as_published``.
        tokenizer: That of the training.
    """

    def __init__(self, directory: Path, tokenizer: XLMTokenizer) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self._directory = directory
        as_it_comes = transformers.XLMTokenizer.from_pretrained(directory)
        cased = transformers.XLMTokenizer.from_pretrained(directory, do_lowercase_and_remove_accent=False)

        def told(theirs: Any, text: str, lang: str) -> list[int]:
            ids: list[int] = theirs.convert_tokens_to_ids(theirs._tokenize(text, lang=lang))
            return ids

        def untold(theirs: Any, text: str, lang: str) -> list[int]:
            ids: list[int] = theirs.encode(text, add_special_tokens=False)
            return ids

        self.encoders: dict[str, Callable[[str, str], list[int]]] = {
            "training": lambda text, lang: tokenizer.encode(text, lang=lang, add_special_tokens=False),
            "cased, told the language": partial(told, cased),
            "lower-cased": partial(told, as_it_comes),
            "English rules": partial(untold, cased),
            "as it comes": partial(untold, as_it_comes),
        }
        self._models = {
            causal: transformers.XLMWithLMHeadModel.from_pretrained(
                directory, dtype=torch.float32, **({"causal": True} if causal else {})
            ).eval()
            for causal in (True, False)
        }

    def figure(self, setting: Setting, texts: Sequence[str], lang: str) -> Figure:
        """Runs one row of the table on the texts of a language.

        Raises:
            InputError: A text is too long for the model's positions.
        """
        model = self._models[setting.causal]
        rows = [[setting.first, *self.encoders[setting.text](text, lang), _END] for text in texts]
        longest = model.config.max_position_embeddings
        for text, row in zip(texts, rows, strict=True):
            if len(row) >= longest:
                raise InputError(
                    "a text is too long",
                    where=f"the texts in {lang}",
                    found=f"{len(row) - 2} tokens as transformers divides it: {text[:40]!r}…",
                    expected=f"at most {longest - 3}",
                )
        languages = {"right": model.config.lang2id[lang], "none": None, "lang_id": model.config.lang_id}
        measure = {"forward": _forward, "generate": _generate, "labels": _labels}[setting.way]
        with torch.inference_mode():
            logprobs = measure(model, rows, languages[setting.language])
        return Figure(tokens=len(logprobs), logprob=math.fsum(logprobs), characters=characters_of(texts))


def _batches(rows: Sequence[list[int]]) -> Iterable[Tensor]:
    """Rows of one length together: no padding, so nothing to be said about how it is masked."""
    by_length: dict[int, list[list[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    for same in by_length.values():
        for start in range(0, len(same), _ROWS):
            yield torch.tensor(same[start : start + _ROWS])


def _of_targets(logits_BTV: Tensor, targets_BT: Tensor) -> list[float]:
    scores_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)
    found: list[float] = scores_BT.flatten().tolist()
    return found


def _languages(ids_BT: Tensor, language: int | None) -> Tensor | None:
    return None if language is None else torch.full_like(ids_BT, language)


def _forward(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    found = []
    for ids_BT in _batches(rows):
        logits_BTV = model(ids_BT, langs=_languages(ids_BT, language)).logits
        found += _of_targets(logits_BTV[:, :-1], ids_BT[:, 1:])
    return found


def _generate(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    """What one step of ``generate`` gives to each token, with transformers' own preparation of its input."""
    prefixes = [row[: end + 1] for row in rows for end in range(1, len(row))]  # the last id is the one to predict
    of_configuration = model.config.lang_id
    model.config.lang_id = language
    found = []
    try:
        for ids_BT in _batches(prefixes):
            inputs = model.prepare_inputs_for_generation(ids_BT[:, :-1])
            found += _of_targets(model(**inputs).logits[:, -1:], ids_BT[:, -1:])
    finally:
        model.config.lang_id = of_configuration
    return found


def _labels(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    found = []
    for ids_BT in _batches(rows):
        loss = float(model(ids_BT, langs=_languages(ids_BT, language), labels=ids_BT).loss)
        found += [-loss] * ids_BT.numel()
    return found


def characters_of(texts: Sequence[str]) -> int:
    """Of raw texts, with one for the end of each."""
    return sum(map(len, texts)) + len(texts)


def write_as_published(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, directory: Path) -> None:
    """Writes a model in the layout of ``transformers``, with the settings that the published models have there.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        directory: What is made.
    """
    model.save_pretrained(directory)
    replace(tokenizer, preset="transformers", do_lowercase_and_remove_accent=True, bos_token="<s>").save_pretrained(
        directory
    )
    path = directory / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"causal": False, "mask_token_id": _PUBLISHED_MASK_TOKEN_ID, "lang_id": 0}
    del settings["xlm"]  # it says that the model is causal after all
    path.write_text(json.dumps(settings), encoding="utf-8")
