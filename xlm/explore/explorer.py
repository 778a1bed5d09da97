"""A model as the page sees it: texts to numbers, prompts to continuations, all as plain values for JSON."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from xlm._io.arguments import check_choice
from xlm._version import __version__
from xlm.errors import InputError, LanguageError
from xlm.explore.requests import ContinueRequest, Limits, ScoreRequest, TextRequest, TooLargeError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.options import ScoringOptions
from xlm.scoring.sentence import Scorer, SentenceScore
from xlm.scoring.table import token_cells
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer, prompt_ids
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.tokenizer import XLMTokenizer

Json = dict[str, Any]


class Explorer:
    """Computes what the page asks for; one call at a time, from whatever thread.

    Args:
        model: A causal model.
        open_tokenizer: Opens the model's tokenizer with a preset, or with its own for ``None``.
        name: Of the model, to show.
        languages: To offer; ``None`` for those that the model names, or else its tokenizer.
        limits: How much a request may ask for.

    Raises:
        InputError: The model is bidirectional.
        LanguageError: No language is known, or one that the model does not have.
    """

    def __init__(
        self,
        model: XLMWithLMHeadModel,
        open_tokenizer: Callable[[str | None], XLMTokenizer],
        *,
        name: str,
        languages: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self._model, self._open_tokenizer, self._name = model, open_tokenizer, name
        first = open_tokenizer(None)
        self._preset = first.preset
        self._tokenizers = {first.preset: first}
        self.languages = tuple(languages or sorted(model.config.lang2id or first.lang2id or ()))
        if not self.languages:
            raise LanguageError(
                "neither the model nor its tokenizer names a language",
                where="languages",
                expected="at least one",
                remedy="name those to offer: --lang en",
            )
        for lang in self.languages:
            Scorer(model, first, lang=lang)
            first.encode("", lang=lang)

    def describe(self) -> Json:
        """What the page shows of the model and needs to know of its limits."""
        config = self._model.config
        return {
            "name": self._name,
            "version": __version__,
            "languages": list(self.languages),
            "presets": list(PRESETS),
            "preset": self._preset,
            "positions": config.max_position_embeddings,
            "vocabulary": config.vocab_size,
            "width": config.emb_dim,
            "layers": config.n_layers,
            "weights": self._model.weights,
            "limits": {
                "characters": self.limits.characters,
                "new_tokens": self.limits.new_tokens,
            },
        }

    def score(self, request: ScoreRequest) -> Json:
        """The numbers of ``xlm.score`` for a text, by word and token.

        Returns:
            ``words``, each with the space ``before`` it, its ``text`` and its ``tokens``; the space ``after`` the last
            word; ``end``, the closing token; ``logprob`` of all in nats, ``tokens`` and ``windows`` by number. A token
            has ``token``, ``logprob`` (nats), ``rank`` (from 1), ``entropy`` (nats), ``top``, pairs of a token and its
            log-probability, best first, and ``unknown``, whether it is ``<unk>``.

        Raises:
            InputError: A language or preset that there is not.
            TooLargeError: The text has too many tokens.
        """
        tokenizer = self._tokenizer(request)
        options = ScoringOptions(ranks=True, entropies=True, top=request.top)
        scorer = Scorer(self._model, tokenizer, lang=request.lang, options=options)
        count = len(scorer.encode(request.text, where="text")) - 2
        if count > self.limits.tokens:
            raise TooLargeError(
                "the text is too long for this page",
                where="text",
                found=f"{count:,} tokens",
                expected=f"at most {self.limits.tokens:,}",
                remedy="take a part of it; xlm score reads texts of any length",
            )
        (found,) = scorer.score_window([request.text])
        if isinstance(found, InputError):
            raise found
        return {
            "lang": request.lang,
            "preset": tokenizer.preset,
            **_by_word(found),
            "logprob": found.logprob,
            "tokens": len(found.tokens),
            "windows": found.windows,
        }

    def continuation(self, request: ContinueRequest) -> Iterator[Json]:
        """The tokens that continue a text, each computed when it is asked for.

        Yields:
            For each token ``id`` and ``text``, what to write behind all before; after the last one ``text``, ``stop``
            (why it ended: ``eos``, ``max_new_tokens`` or ``positions``), ``tokens``, ``logprob`` (nats) and ``seed``.

        Raises:
            InputError: A language, preset or knob that is wrong, or a prompt longer than the model's positions.
        """
        config, tokenizer = self._model.config, self._tokenizer(request)
        lang = request.lang if request.continuation_lang is None else request.continuation_lang
        self._check_language(lang)
        ids = prompt_ids(
            tokenizer,
            request.text,
            lang=request.lang,
            eos_token_id=config.eos_token_id,
            positions=config.max_position_embeddings,
            where="text",
        )
        options: Json = {"max_new_tokens": request.max_new_tokens}
        if request.do_sample:
            options |= {
                "do_sample": True,
                "temperature": request.temperature,
                "top_k": request.top_k,
                "top_p": request.top_p,
                # Short enough to be typed, and exact in JavaScript's numbers.
                "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            }
        tokens = self._model.stream(
            torch.tensor([ids], device=self._model.device),
            langs=Scorer(self._model, tokenizer, lang=request.lang).language,
            continuation_langs=Scorer(self._model, tokenizer, lang=lang).language,
            **options,
        )
        continued = IncrementalDetokenizer(tokenizer, request.text, ids, lang=lang)
        for token in tokens:
            yield {"id": token, "text": continued.add(token)}
        assert tokens.continuation is not None
        yield {
            "text": continued.rest(),
            "stop": tokens.continuation.stop,
            "tokens": len(tokens.continuation.tokens),
            "logprob": tokens.continuation.logprob,
            "seed": tokens.continuation.seed,
        }

    def _tokenizer(self, request: TextRequest) -> XLMTokenizer:
        self._check_language(request.lang)
        preset = self._preset if request.preset is None else request.preset
        check_choice("preset", PRESETS, preset=preset)
        if preset not in self._tokenizers:
            self._tokenizers[preset] = self._open_tokenizer(preset)
        return self._tokenizers[preset]

    def _check_language(self, lang: str) -> None:
        if lang not in self.languages:
            raise LanguageError(
                "the model does not have this language",
                where="lang",
                found=repr(lang[:40]),
                expected=" or ".join(self.languages),
            )


def _by_word(found: SentenceScore) -> Json:
    names = ("token", "logprob", "rank", "entropy", "top", "unknown")
    tokens = [{name: cells[name] for name in names} for cells in token_cells(found)]
    words = []
    place, count = 0, 0
    for word in found.words:  # their tokens follow each other
        of_word = tokens[count : count + word.tokens]
        words.append({"before": found.text[place : word.start], "text": word.text, "tokens": of_word})
        place, count = word.end, count + word.tokens
    return {"words": words, "after": found.text[place:], "end": tokens[-1]}
