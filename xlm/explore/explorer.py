"""Scores and continuations for the page, as plain values for JSON."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from xlm._io.arguments import check_choice
from xlm._version import __version__
from xlm.corpus.formats import checked_text
from xlm.corpus.rows import Row
from xlm.errors import LanguageError, XLMError
from xlm.explore.requests import (
    ContinueRequest,
    ExportRequest,
    Limits,
    LinesRequest,
    ScoreRequest,
    TextRequest,
    TooLargeError,
)
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.figure import picture_of
from xlm.scoring.layout import Layout, Output, TextScore
from xlm.scoring.options import ScoringOptions
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import ScoreTable, token_cells
from xlm.scoring.text import Text
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
        """Return the scores of a text by line, word and token; each line is a sentence.

        The numbers are those of ``xlm.score`` or, with ``documents``, of ``xlm.score_documents``. The prefix precedes
        each line or, with ``documents``, the first line of each document.

        Returns:
            ``lines``, each with its ``words``, the space ``after`` the last word, and ``end``, the closing token, which
            is ``None`` for a line without words; the total ``logprob`` in nats; the total number of ``tokens``; the
            largest number of ``windows`` of a line; the numbers of the lines that plainly hold ``several`` sentences. A
            word has the space ``before`` it, its ``text`` and its
            ``tokens``. A token has ``token``, ``logprob`` (nats), ``rank`` (from 1), ``entropy`` (nats), ``top`` (pairs
            of a token and its log-probability, best first) and ``unknown`` (whether it is ``<unk>``).

        Raises:
            InputError: The preset is unknown.
            LanguageError: The model lacks the language.
            TooLargeError: The text has too many tokens.
        """
        scorer = self._scorer(request)
        scored = self._with_words(request, ScoringOptions(ranks=True, entropies=True, top=request.top))
        return {
            "lang": request.lang,
            "preset": self._tokenizer(request).preset,
            "lines": [
                _line(scored[n]) if n in scored else {"words": [], "after": line, "end": None}
                for n, line in enumerate(request.text.split("\n"), start=1)
            ],
            "logprob": math.fsum(result.logprob for result in scored.values()),
            "tokens": sum(len(result.tokens) for result in scored.values()),
            "windows": max((result.windows for result in scored.values()), default=1),
            "several": [n for n, result in scored.items() if scorer.holds_sentences(Text(result.text, result.lang))],
        }

    def table(self, request: ExportRequest) -> bytes:
        """Return the table that ``xlm score --by word`` writes of a text, TSV in UTF-8.

        With ``documents``, it is that of ``--documents``. Errors are as for ``score``, but a line that is not Unicode
        text has a row that says so.
        """
        checked = [checked_text(line, "text") for line in request.text.split("\n")]
        rows = [
            Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(checked, start=1)
        ]
        table = ScoreTable(unit="word", format="tsv", log_unit=request.unit)
        texts = self._scored(request, rows, ScoringOptions(), table.cells_of)
        lines = [table.line(cells) for text in texts for _, cells in table.rows(text)]
        return (table.header + "".join(lines)).encode()

    def picture(self, request: ExportRequest) -> bytes:
        """Return the picture of a text that ``xlm plot`` draws, with a panel for each line, as PNG.

        Raises:
            InputError: The preset is unknown, no line has words, or the words are too many for a picture.
            LanguageError: The model lacks the language.
            TooLargeError: The text has too many tokens.
            DependencyError: matplotlib is not installed.
        """
        panels = [[result] for result in self._with_words(request, ScoringOptions()).values()]
        return picture_of(panels, format="png", unit=request.unit, most_lines=self.limits.picture_lines)

    def continuation(self, request: ContinueRequest) -> Iterator[Json]:
        """Yield the tokens that continue prefix and text, each computed on demand.

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
        prompt = f"{request.prefix} {request.text}" if request.prefix else request.text
        ids = prompt_ids(
            tokenizer,
            prompt,
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
        detokenizer = IncrementalDetokenizer(tokenizer, prompt, ids, lang=lang)
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

    def _with_words(self, request: LinesRequest, options: ScoringOptions) -> dict[int, SentenceScore]:
        """Return the scores of each line that has words, by its number from 1; errors are as for ``_scored``."""
        lines = enumerate(request.text.split("\n"), start=1)
        rows = [
            Row(file="", number=n, text=line, problem=None) for n, line in lines if request.documents or line.strip()
        ]
        texts = self._scored(request, rows, options, lambda result: [{}])
        return {text.rows[0][0].number: text.result for text in texts if isinstance(text.result, SentenceScore)}

    def _scored(
        self, request: LinesRequest, rows: Sequence[Row], options: ScoringOptions, output: Output
    ) -> list[TextScore]:
        """Return the scores of lines, except for the lines between documents.

        Args:
            request: The request.
            rows: Lines of its text. One with a problem has no scores.
            options: The options.
            output: As for ``Layout.scores``.

        Raises:
            TooLargeError: There are too many tokens.
            XLMError: A line cannot be scored.
        """
        scorer = self._scorer(request, options)
        # The first line of a document is the first of all, or stands behind a blank one.
        before = ["", *request.text.split("\n")]
        prefixes = {
            row.number: request.prefix if not (request.documents and before[row.number - 1].strip()) else ""
            for row in rows
        }
        encoded = [scorer.encode(text, where="text") for text in (request.prefix, *(row.text or "" for row in rows))]
        of_prefix, *of_lines = [len(ids) - 2 for ids in encoded]
        count = sum(of_lines) + of_prefix * sum(map(bool, prefixes.values()))
        if count > self.limits.tokens:
            raise TooLargeError(
                "the text is too long", where="text", found=f"{count:,} tokens", limit=self.limits.tokens
            )

        languages = dict(enumerate(request.languages.split("\n"), start=1))
        rows = [
            row._replace(cells={"prefix": prefixes[row.number], "languages": languages.get(row.number)}) for row in rows
        ]
        layout = Layout(lang=request.lang, documents=request.documents, prefix="prefix", languages="languages")
        texts = list(layout.scores(scorer, list(layout.groups(rows)), output))
        for text in texts:
            if isinstance(text.result, XLMError):
                text.result.where = f"line {text.rows[0][0].number}"
                raise text.result
        return texts

    def _scorer(self, request: TextRequest, options: ScoringOptions | None = None) -> Scorer:
        tokenizer = self._tokenizer(request)
        return Scorer(self._model, tokenizer, lang=request.lang, options=options, warns_of_sentences=False)

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


def _line(result: SentenceScore) -> Json:
    names = ("token", "logprob", "rank", "entropy", "top", "unknown")
    tokens = [{name: cells[name] for name in names} for cells in token_cells(result)]
    words = []
    end, count = 0, 0  # where the words so far end in the text, and the number of their tokens
    for word in result.words:
        word_tokens = tokens[count : count + word.tokens]
        words.append({"before": result.text[end : word.start], "text": word.text, "tokens": word_tokens})
        end, count = word.end, count + word.tokens
    return {"words": words, "after": result.text[end:], "end": tokens[-1]}
