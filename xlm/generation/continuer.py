"""Prompts of text to continuations of text, with a model, a tokenizer and one set of options."""

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

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_TOP_P = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt in both forms.

    Attributes:
        line: Its number in its file, from 1.
        text: As it was given.
        ids: As the model is given it.
    """

    line: int
    text: str
    ids: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """A prompt with one of its continuations.

    Attributes:
        prompt: The prompt.
        text: Both, as one writes them.
        tokens: Those of the continuation.
        found: The continuation itself.
    """

    prompt: Prompt
    text: str
    tokens: list[str]
    found: Continuation

    def cells(self) -> dict[str, Any]:
        """What is written of it: log-probabilities with six decimals, all else as it is."""
        return {
            "line": self.prompt.line,
            "prompt": self.prompt.text,
            "text": self.text,
            "tokens": self.tokens,
            "ids": self.found.tokens,
            "logprobs": [round(logprob, 6) for logprob in self.found.logprobs],
            "logprob": round(self.found.logprob, 6),
            "stop": self.found.stop,
            "seed": self.found.seed,
            "score": None if self.found.score is None else round(self.found.score, 6),
        }


class Continuer:
    """Continues prompts.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        lang: Language of the prompts.
        continuation_lang: Language of what is generated; ``None`` for that of the prompts.
        options: Of ``XLMWithLMHeadModel.generate``, by name; no languages and no seed.

    Raises:
        InputError: A wrong option.
        LanguageError: A language that the model does not have.
    """

    def __init__(
        self,
        network: XLMWithLMHeadModel,
        tokenizer: XLMTokenizer,
        *,
        lang: str,
        continuation_lang: str | None = None,
        options: Mapping[str, Any],
    ) -> None:
        DecodingOptions.checked(network.config, **options)
        self._network, self._tokenizer, self._lang = network, tokenizer, lang
        self._continuation_lang = lang if continuation_lang is None else continuation_lang
        self.sequences: int = options.get("num_return_sequences", 1)
        self._options = {
            **options,
            "langs": self._language(lang),
            "continuation_langs": self._language(self._continuation_lang),
        }

    def _language(self, lang: str) -> str | int | None:
        config = self._network.config
        if not config.has_language_embeddings:
            return None
        # The model's file may name no languages where the tokenizer's does.
        return config.language_id(lang if config.lang2id else (self._tokenizer.lang2id or {}).get(lang, lang))

    def prompt(self, line: int, text: str, *, where: str) -> Prompt:
        """A prompt that the model can take.

        Args:
            line: Its number, from 1.
            text: Any text.
            where: Its name in errors.

        Raises:
            InputError: It is longer than the model's positions.
            LanguageError: The tokenizer does not have the language.
        """
        config = self._network.config
        ids = prompt_ids(
            self._tokenizer,
            text,
            lang=self._lang,
            eos_token_id=config.eos_token_id,
            positions=config.max_position_embeddings,
            where=where,
        )
        return Prompt(line=line, text=text, ids=ids)

    def continued(self, prompts: Sequence[Prompt], *, seed: int) -> list[Continued]:
        """Each prompt with each of its continuations, in order; they are run together.

        Args:
            prompts: One or more. The draws of each depend on the seed and its line only.
            seed: Of all lines.

        Raises:
            XLMError: The model's scores are not finite.
        """
        input_ids = pad_sequence([torch.tensor(prompt.ids) for prompt in prompts], batch_first=True)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
        seeds = [row_seed for prompt in prompts for row_seed in self.seeds(prompt.line, seed=seed)]
        results = self._network.continuations(input_ids, lengths=lengths, seed=seeds, **self._options)
        return [self._continued(prompts[found.prompt], found) for found in results]

    def continued_each(self, prompts: Sequence[Prompt], *, seed: int) -> list[list[Continued] | XLMError]:
        """The continuations of each prompt; where the model's scores are not finite, the error that says so.

        They are run together, and only when that fails each by itself. Arguments as for ``continued``, but there may
        be no prompts.
        """
        if not prompts:
            return []
        try:
            together = self.continued(prompts, seed=seed)
        except XLMError as error:
            if len(prompts) == 1:
                return [error]
            return [each for prompt in prompts for each in self.continued_each([prompt], seed=seed)]
        found: list[list[Continued] | XLMError] = []
        for first in range(0, len(together), self.sequences):
            found.append(together[first : first + self.sequences])
        return found

    def seeds(self, line: int, *, seed: int) -> list[int]:
        """The seeds of the continuations of a line, of which the very first one is the seed of all."""
        first = (line - 1) * self.sequences
        return [derived_seed(seed, row) if row else seed for row in range(first, first + self.sequences)]

    def _continued(self, prompt: Prompt, found: Continuation) -> Continued:
        text = prompt.text + self._written(prompt).whole(found.tokens)
        tokens = self._tokenizer.convert_ids_to_tokens(found.tokens)
        return Continued(prompt=prompt, text=text, tokens=[*tokens], found=found)

    def stream(self, prompt: Prompt, *, seed: int) -> Iterator[str | Continuation]:
        """One continuation of a prompt: the text of both, word by word, and at the end the continuation itself.

        Args:
            prompt: The prompt.
            seed: As for ``continued``.
        """
        options = {name: value for name, value in self._options.items() if name != "num_return_sequences"}
        tokens = self._network.stream(torch.tensor([prompt.ids]), seed=self.seeds(prompt.line, seed=seed)[0], **options)
        written = self._written(prompt)
        yield prompt.text
        for token in tokens:
            yield written.add(token)
        yield written.rest()
        assert tokens.continuation is not None
        yield tokens.continuation

    def _written(self, prompt: Prompt) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(self._tokenizer, prompt.text, prompt.ids, lang=self._continuation_lang)


def decoding_options(*, greedy: bool, num_beams: int, **options: Any) -> dict[str, Any]:
    """Options of ``generate`` in which drawing, from the best 90% of the probability, is the default.

    Args:
        greedy: Take the best token at each step instead.
        num_beams: More than 1 searches with beams instead.
        **options: Other options of ``generate``; ``None`` for what was not given.

    Returns:
        What to give to ``Continuer``.
    """
    sampling = {name: options.pop(name, None) for name in _SAMPLING}
    if not greedy and num_beams == 1:
        sampling["top_p"] = _TOP_P if sampling["top_p"] is None else sampling["top_p"]
        options["do_sample"] = True
        options |= {name: value for name, value in sampling.items() if value is not None}
    return {**options, "num_beams": num_beams}


def check_one_line(text: str, form: str, *, where: str | None = None) -> None:
    """Refuse a prompt that the output cannot hold.

    Args:
        text: The prompt.
        form: Of the output, ``"text"`` or ``"jsonl"``.
        where: The prompt's name in the error.

    Raises:
        InputError: It holds a line feed, and the output is text.
    """
    if form == "text" and "\n" in text:
        raise InputError("the prompt holds a line feed, and text is one line each", where=where)


def refused_prompt(error: XLMError) -> str:
    """Why there is no continuation, as one line of a status."""
    return error.in_short
