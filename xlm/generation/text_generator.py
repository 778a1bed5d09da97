"""Continuations of text prompts, with a model, a tokenizer and one set of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from xlm.errors import InputError, XLMError
from xlm.model.decoding.options import DecodingOptions, derived_seed
from xlm.model.decoding.result import Continuation
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer, prompt_ids
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import check_vocabulary_size

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_TOP_P = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt as text and as ids.

    Attributes:
        line: Number of the prompt in its file, from 1.
        text: The text, unchanged.
        ids: The input ids of the model.
    """

    line: int
    text: str
    ids: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedText:
    """A prompt with one of its continuations.

    Attributes:
        prompt: The prompt.
        text: Prompt and continuation as readable text.
        tokens: Tokens of the continuation.
        continuation: Ids, log-probabilities and other results.
    """

    prompt: Prompt
    text: str
    tokens: list[str]
    continuation: Continuation

    def cells(self) -> dict[str, Any]:
        """Return the columns of the output; log-probabilities are rounded to six decimals."""
        continuation = self.continuation
        return {
            "line": self.prompt.line,
            "prompt": self.prompt.text,
            "text": self.text,
            "tokens": self.tokens,
            "ids": continuation.tokens,
            "logprobs": [round(logprob, 6) for logprob in continuation.logprobs],
            "logprob": round(continuation.logprob, 6),
            "stop": continuation.stop,
            "seed": continuation.seed,
            "score": None if continuation.score is None else round(continuation.score, 6),
        }


class TextGenerator:
    """Continues text prompts.

    Attributes:
        sequences: Number of continuations per prompt.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        lang: Language of the prompts.
        continuation_lang: Language of the continuations; ``None`` means the language of the prompts.
        options: Options of ``XLMWithLMHeadModel.generate`` by name, without languages and seed.

    Raises:
        InputError: An option has a value that is not allowed, or the tokenizer has tokens that the model lacks.
        LanguageError: The model does not have a language.
    """

    def __init__(
        self,
        model: XLMWithLMHeadModel,
        tokenizer: XLMTokenizer,
        *,
        lang: str,
        continuation_lang: str | None = None,
        options: Mapping[str, Any],
    ) -> None:
        check_vocabulary_size(tokenizer.vocab_size, model.config.vocab_size)
        DecodingOptions.checked(model.config, **options)
        self.sequences: int = options.get("num_return_sequences", 1)
        self._model, self._tokenizer, self._lang = model, tokenizer, lang
        self._continuation_lang = lang if continuation_lang is None else continuation_lang
        self._options = {
            **options,
            "langs": self._language(lang),
            "continuation_langs": self._language(self._continuation_lang),
        }

    def _language(self, lang: str) -> str | int | None:
        config = self._model.config
        if not config.has_language_embeddings:
            return None
        # If the model's file does not name its languages, use the names in the tokenizer's file.
        return config.language_id(lang if config.lang2id else (self._tokenizer.lang2id or {}).get(lang, lang))

    def prompt(self, line: int, text: str, *, where: str) -> Prompt:
        """Encode a text as a prompt.

        Args:
            line: Number of the prompt, from 1.
            text: Any text.
            where: Name of the prompt in error messages.

        Raises:
            InputError: The text has more tokens than the model has positions.
            LanguageError: The tokenizer does not have the language.
        """
        config = self._model.config
        ids = prompt_ids(
            self._tokenizer,
            text,
            lang=self._lang,
            eos_token_id=config.eos_token_id,
            positions=config.max_position_embeddings,
            where=where,
        )
        return Prompt(line=line, text=text, ids=ids)

    def generate(self, prompts: Sequence[Prompt], *, seed: int) -> list[GeneratedText]:
        """Return each prompt with each of its continuations, in order, computed in one batch.

        Args:
            prompts: One or more prompts. The samples of a prompt depend only on the seed and on its line.
            seed: Seed shared by all lines.

        Raises:
            XLMError: The model's scores are not finite.
        """
        input_ids = pad_sequence([torch.tensor(prompt.ids) for prompt in prompts], batch_first=True)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
        seeds = [row_seed for prompt in prompts for row_seed in self.seeds(prompt.line, seed=seed)]
        results = self._model.continuations(input_ids, lengths=lengths, seed=seeds, **self._options)
        return [self._generated(prompts[result.prompt], result) for result in results]

    def generate_each(self, prompts: Sequence[Prompt], *, seed: int) -> list[list[GeneratedText] | XLMError]:
        """Return the continuations of each prompt, or an error if the model's scores are not finite.

        The prompts run in one batch. If the batch fails, they run one by one. Arguments are as for ``generate``, but
        ``prompts`` may be empty.
        """
        if not prompts:
            return []
        try:
            results = self.generate(prompts, seed=seed)
        except XLMError as error:
            if len(prompts) == 1:
                return [error]
            return [each for prompt in prompts for each in self.generate_each([prompt], seed=seed)]
        return [results[first : first + self.sequences] for first in range(0, len(results), self.sequences)]

    def seeds(self, line: int, *, seed: int) -> list[int]:
        """Return the seeds of the continuations of a line; the first seed of line 1 is ``seed`` itself."""
        first = (line - 1) * self.sequences
        return [derived_seed(seed, row) if row else seed for row in range(first, first + self.sequences)]

    def stream(self, prompt: Prompt, *, seed: int) -> Iterator[str | Continuation]:
        """Yield the text of a prompt, then one continuation word by word, and finally the ``Continuation``.

        Args:
            prompt: The prompt.
            seed: As for ``generate``.
        """
        options = {name: value for name, value in self._options.items() if name != "num_return_sequences"}
        tokens = self._model.stream(torch.tensor([prompt.ids]), seed=self.seeds(prompt.line, seed=seed)[0], **options)
        text = self._continued_text(prompt)
        yield prompt.text
        for token in tokens:
            yield text.add(token)
        yield text.rest()
        assert tokens.continuation is not None
        yield tokens.continuation

    def _generated(self, prompt: Prompt, continuation: Continuation) -> GeneratedText:
        text = prompt.text + self._continued_text(prompt).whole(continuation.tokens)
        tokens = self._tokenizer.convert_ids_to_tokens(continuation.tokens)
        return GeneratedText(prompt=prompt, text=text, tokens=[*tokens], continuation=continuation)

    def _continued_text(self, prompt: Prompt) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(self._tokenizer, prompt.text, prompt.ids, lang=self._continuation_lang)


def decoding_options(*, greedy: bool, num_beams: int, **options: Any) -> dict[str, Any]:
    """Return options for ``generate``; by default, they select sampling with ``top_p=0.9``.

    Args:
        greedy: Whether to take the most likely token at each step instead of sampling.
        num_beams: Number of beams; more than 1 selects beam search instead of sampling.
        **options: Other options of ``generate``; ``None`` for the default.

    Returns:
        Options for ``TextGenerator``.
    """
    sampling = {name: options.pop(name, None) for name in _SAMPLING}
    if not greedy and num_beams == 1:
        sampling["top_p"] = _TOP_P if sampling["top_p"] is None else sampling["top_p"]
        options["do_sample"] = True
        options |= {name: value for name, value in sampling.items() if value is not None}
    return {**options, "num_beams": num_beams}


def check_one_line(text: str, format: str, *, where: str | None = None) -> None:
    """Refuse a prompt with a line feed if the output is text, which has one line per continuation.

    Args:
        text: The prompt.
        format: Format of the output, ``"text"`` or ``"jsonl"``.
        where: Name of the prompt in the error message.

    Raises:
        InputError: The prompt contains a line feed, and the format is ``"text"``.
    """
    if format == "text" and "\n" in text:
        raise InputError("the prompt contains a line feed, but text output has one line per continuation", where=where)
