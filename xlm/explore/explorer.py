"""Scores and continuations for the page, as plain values for JSON."""

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
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import token_cells
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer, prompt_ids
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.tokenizer import XLMTokenizer

Json = dict[str, Any]


class Explorer:
    """The model that the page shows; answers one call at a time, from any thread.

    Args:
        model: A causal model.
        open_tokenizer: Function that opens the model's tokenizer with a preset; ``None`` means the saved preset.
        name: Name of the model.
        languages: Languages to offer; ``None`` for those of the model or, if it names none, of its tokenizer.
        limits: Limits of a request.

    Raises:
        InputError: The model is bidirectional.
        LanguageError: No language is known, or the model lacks one of ``languages``.
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
                remedy="name the languages to offer: --lang en",
            )
        for lang in self.languages:
            Scorer(model, first, lang=lang)
            first.encode("", lang=lang)

    def describe(self) -> Json:
        """Return the description of the model, and the limits that the page needs."""
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
        """Return the scores of a text by word and token, as ``xlm.score`` computes them.

        Returns:
            ``words``, each with the space ``before`` it, its ``text`` and its ``tokens``; the space ``after`` the last
            word; ``end``, the closing token; the total ``logprob`` in nats; the numbers of ``tokens`` and ``windows``.
            A token has ``token``, ``logprob`` (nats), ``rank`` (from 1), ``entropy`` (nats), ``top`` (pairs of a token
            and its log-probability, best first) and ``unknown`` (whether it is ``<unk>``).

        Raises:
            InputError: The preset is unknown.
            LanguageError: The model lacks the language.
            TooLargeError: The text has too many tokens.
        """
        tokenizer = self._tokenizer(request)
        options = ScoringOptions(ranks=True, entropies=True, top=request.top)
        scorer = Scorer(self._model, tokenizer, lang=request.lang, options=options)
        count = len(scorer.encode(request.text, where="text")) - 2
        if count > self.limits.tokens:
            raise TooLargeError(
                "the text is too long", where="text", found=f"{count:,} tokens", limit=self.limits.tokens
            )
        (result,) = scorer.score_window([request.text])
        if isinstance(result, InputError):
            raise result
        return {
            "lang": request.lang,
            "preset": tokenizer.preset,
            **_by_word(result),
            "logprob": result.logprob,
            "tokens": len(result.tokens),
            "windows": result.windows,
        }

    def continuation(self, request: ContinueRequest) -> Iterator[Json]:
        """Yield the tokens that continue a text, each computed on demand.

        Yields:
            For each token, its ``id`` and the ``text`` that it adds. After the last token, the remaining ``text``,
            ``stop`` (``eos``, ``max_new_tokens`` or ``positions``), ``tokens`` (their number), ``logprob`` (nats) and
            ``seed``.

        Raises:
            InputError: The preset is unknown, an option is wrong, or the text exceeds the model's positions.
            LanguageError: The model lacks a language.
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
                # A seed below 2**32 is short enough to type, and exact as a number in JavaScript.
                "seed": secrets.randbelow(2**32) if request.seed is None else request.seed,
            }
        tokens = self._model.stream(
            torch.tensor([ids], device=self._model.device),
            langs=Scorer(self._model, tokenizer, lang=request.lang).language,
            continuation_langs=Scorer(self._model, tokenizer, lang=lang).language,
            **options,
        )
        detokenizer = IncrementalDetokenizer(tokenizer, request.text, ids, lang=lang)
        for token in tokens:
            yield {"id": token, "text": detokenizer.add(token)}
        continuation = tokens.continuation
        assert continuation is not None
        yield {
            "text": detokenizer.rest(),
            "stop": continuation.stop,
            "tokens": len(continuation.tokens),
            "logprob": continuation.logprob,
            "seed": continuation.seed,
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


def _by_word(result: SentenceScore) -> Json:
    names = ("token", "logprob", "rank", "entropy", "top", "unknown")
    tokens = [{name: cells[name] for name in names} for cells in token_cells(result)]
    words = []
    end, count = 0, 0  # where the words so far end in the text, and the number of their tokens
    for word in result.words:
        word_tokens = tokens[count : count + word.tokens]
        words.append({"before": result.text[end : word.start], "text": word.text, "tokens": word_tokens})
        end, count = word.end, count + word.tokens
    return {"words": words, "after": result.text[end:], "end": tokens[-1]}
