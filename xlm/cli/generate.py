"""``xlm generate``: prompts to their continuations."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from xlm.cli._lines import naming_line, place, read_lines, write_line
from xlm.cli._options import TEXT, computing, made_fast, model_and_text, open_model
from xlm.errors import XLMError
from xlm.tokenizer.continued import ContinuedText, prompt_ids

if TYPE_CHECKING:
    from xlm.model.decoding.result import Continuation
    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


@click.command(name="generate", short_help="Continue each line of a text.")
@model_and_text
@computing
@click.option("--prompt", type=TEXT, help="The prompt, instead of FILE; may be empty.")
@click.option("--continuation-lang", metavar="L", help="Language of what is generated.  [default: that of --lang]")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, help="The most tokens to produce."
)
@click.option("--min-new-tokens", type=click.IntRange(0), default=0, help="Tokens before which no sentence ends.")
@click.option(
    "--num-return-sequences",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Continuations of each prompt: samples, or the best of --num-beams.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the samples.  [default: another one each time]")
@click.option("--greedy", is_flag=True, help="Take the best token at each step instead of drawing one.")
@click.option("--num-beams", type=click.IntRange(1), default=1, help="Search with so many beams instead of drawing.")
@click.option("--temperature", type=float, help="Divides the scores before drawing.  [default: 1]")
@click.option("--top-k", type=click.IntRange(1), help="Draw from the k best tokens only.  [default: all]")
@click.option(
    "--top-p", type=float, help="Draw from the best tokens only, up to this sum of probabilities.  [default: 0.9]"
)
@click.option("--min-p", type=float, help="Draw only what is at least this share as probable as the best.")
@click.option(
    "--repetition-penalty", type=float, default=1.0, help="Above 1: what stands there already gets less likely."
)
@click.option("--length-penalty", type=float, default=1.0, help="Beams are ranked by log-probability / tokens ** this.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Prompts of FILE to run at a time."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="text: each prompt with its continuation, as one writes it, one line each. jsonl: one object a line.",
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Write each word as it comes, for one sequence of each prompt.  [default: for --prompt on a terminal]",
)
def command(
    model: str,
    file: BinaryIO,
    lang: str,
    preset: str | None,
    codes: str | None,
    dtype: str,
    device: str,
    prompt: str | None,
    continuation_lang: str | None,
    seed: int | None,
    greedy: bool,
    batch_size: int,
    form: str,
    stream: bool | None,
    **options: Any,
) -> None:
    r"""Continues --prompt, or each line of FILE or of standard input, with what MODEL would say next.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILE is UTF-8 text, one prompt a line. The model is given </s> and the prompt, and stops at
    </s>, after --max-new-tokens, or when it has no position left. Tokens are drawn at random, from the best ones
    that together have 90% of the probability, unless --greedy or --num-beams says otherwise. A line's samples
    depend on the seed and its place in the file, not on --batch-size but for the last digits of what is drawn from,
    which --dtype int8 can magnify to a hundredth of a nat or more.

    \b
    With --format jsonl:
        line (from 1), prompt, text (prompt and continuation), tokens and ids (of the continuation), logprobs
        (nats, of each), logprob (their sum), stop (eos, max_new_tokens or positions), seed (gives the same as the
        --seed of this prompt alone), score (what beams are ranked by)

    \b
    Example:
        xlm generate xlm-clm-ende-small --lang en --prompt "Wikipedia was used to" --seed 1
        xlm generate MODEL --lang en prompts.txt --num-beams 4 --format jsonl
    """
    beams = options["num_beams"]
    sampling = {name: options.pop(name) for name in _SAMPLING}
    _check_usage(file, prompt, greedy=greedy, stream=stream, form=form, sampling=sampling, seed=seed, **options)
    if not greedy and beams == 1:
        sampling["top_p"] = 0.9 if sampling["top_p"] is None else sampling["top_p"]
        options |= {"do_sample": True, **{name: value for name, value in sampling.items() if value is not None}}
    if stream is None:
        single = beams == options["num_return_sequences"] == 1
        stream = prompt is not None and single and form == "text" and sys.stdout.isatty()
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # The tokenizer first: it is read in no time, and most mistakes show there.
    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)

    network = made_fast(open_model(model, dtype=dtype, device=device), dtype=dtype, few_rows=True)
    run = _Run(
        network,
        tokenizer,
        lang=lang,
        continuation_lang=lang if continuation_lang is None else continuation_lang,
        seed=seed,
        form=form,
        options=options,
    )
    prompts = run.prompts(file) if prompt is None else iter([run.prompt(1, prompt)])
    if stream:
        for each in prompts:
            run.stream(each)
    else:
        for batch in _batches(prompts, batch_size):
            run.write(batch)
    stops = ", ".join(f"{count} at {stop}" for stop, count in run.stops.most_common())
    click.echo(f"stopped: {stops or 'nothing to continue'}", err=True)


def _check_usage(
    file: BinaryIO,
    prompt: str | None,
    *,
    greedy: bool,
    stream: bool | None,
    form: str,
    sampling: dict[str, Any],
    seed: int | None,
    num_beams: int,
    num_return_sequences: int,
    **_: object,
) -> None:
    if prompt is not None and getattr(file, "name", "-") not in ("-", "<stdin>"):
        raise click.UsageError("--prompt and FILE both give prompts")
    if greedy and num_beams > 1:
        raise click.UsageError("--greedy and --num-beams are two ways of choosing")
    if prompt is not None and "\n" in prompt and form == "text":
        raise click.UsageError("--prompt holds a line feed, and text is one line each: --format jsonl keeps it")
    choices = {**sampling, "seed": seed}
    given = [f"--{name.replace('_', '-')}" for name, value in choices.items() if value is not None]
    if given and (greedy or num_beams > 1):
        raise click.UsageError(f"{', '.join(given)}: nothing is drawn with {'--greedy' if greedy else '--num-beams'}")
    if num_return_sequences > num_beams and (greedy or num_beams > 1):
        raise click.UsageError(f"--num-return-sequences: there are only {num_beams} to return")
    if stream and (num_beams > 1 or num_return_sequences > 1 or form != "text"):
        raise click.UsageError("--stream writes one sequence as text: not beams, several sequences or jsonl")


@dataclass(frozen=True, slots=True)
class _Prompt:
    line: int
    text: str
    ids: list[int]


class _Run:
    """The model, and how its continuations are asked for and written."""

    def __init__(
        self,
        network: XLMWithLMHeadModel,
        tokenizer: XLMTokenizer,
        *,
        lang: str,
        continuation_lang: str,
        seed: int | None,
        form: str,
        options: dict[str, Any],
    ) -> None:
        from xlm.model.decoding.options import DecodingOptions, derived_seed

        self.stops: Counter[str] = Counter()
        self._network, self._tokenizer, self._lang, self._form = network, tokenizer, lang, form
        self._continuation_lang = continuation_lang
        self._options = {
            **options,
            "langs": self._language(lang),
            "continuation_langs": self._language(continuation_lang),
        }
        (first,) = DecodingOptions(seed=seed).row_seeds(1)
        # One for each row of the results, over all batches.
        self._seeds = itertools.chain([first], (derived_seed(first, row) for row in itertools.count(1)))

    def _language(self, lang: str) -> str | int | None:
        config = self._network.config
        if not config.has_language_embeddings:
            return None
        # The model's file may name no languages where the tokenizer's does.
        return config.language_id(lang if config.lang2id else (self._tokenizer.lang2id or {}).get(lang, lang))

    def prompts(self, file: BinaryIO) -> Iterator[_Prompt]:
        for number, line in read_lines(file):
            with naming_line(file, number):
                yield self.prompt(number, line, where=place(file, number))

    def prompt(self, number: int, text: str, *, where: str = "--prompt") -> _Prompt:
        config = self._network.config
        ids = prompt_ids(
            self._tokenizer,
            text,
            lang=self._lang,
            eos_token_id=config.eos_token_id,
            positions=config.max_position_embeddings,
            where=where,
        )
        return _Prompt(number, text, ids)

    def write(self, batch: list[_Prompt]) -> None:
        """Continues prompts, and writes one line for each continuation."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        input_ids = pad_sequence([torch.tensor(prompt.ids) for prompt in batch], batch_first=True)
        lengths = torch.tensor([len(prompt.ids) for prompt in batch])
        rows = len(batch) * self._options["num_return_sequences"]
        seeds = list(itertools.islice(self._seeds, rows))
        for found in self._network.continuations(input_ids, lengths=lengths, seed=seeds, **self._options):
            self.stops[found.stop] += 1
            prompt = batch[found.prompt]
            text = prompt.text + self._continued(prompt).whole(found.tokens)
            write_line(text if self._form == "text" else self._json(prompt, text, found))

    def stream(self, prompt: _Prompt) -> None:
        """Continues one prompt, and writes each word when it has come."""
        import torch

        options = {name: value for name, value in self._options.items() if name != "num_return_sequences"}
        tokens = self._network.stream(torch.tensor([prompt.ids]), seed=next(self._seeds), **options)
        continued = self._continued(prompt)
        _write(prompt.text)
        for token in tokens:
            _write(continued.add(token))
        _write(continued.rest() + "\n")
        assert tokens.continuation is not None
        self.stops[tokens.continuation.stop] += 1

    def _continued(self, prompt: _Prompt) -> ContinuedText:
        return ContinuedText(self._tokenizer, prompt.text, prompt.ids, lang=self._continuation_lang)

    def _json(self, prompt: _Prompt, text: str, found: Continuation) -> str:
        cells = {
            "line": prompt.line,
            "prompt": prompt.text,
            "text": text,
            "tokens": self._tokenizer.convert_ids_to_tokens(found.tokens),
            "ids": found.tokens,
            "logprobs": [round(logprob, 6) for logprob in found.logprobs],
            "logprob": round(found.logprob, 6),
            "stop": found.stop,
            "seed": found.seed,
            "score": None if found.score is None else round(found.score, 6),
        }
        return json.dumps(cells, ensure_ascii=False, allow_nan=False)


def _batches(prompts: Iterable[_Prompt], size: int) -> Iterator[list[_Prompt]]:
    """Prompts in lists; an error comes after the list of those that stand before it."""
    batch: list[_Prompt] = []
    error: XLMError | None = None
    try:
        for prompt in prompts:
            batch.append(prompt)
            if len(batch) == size:
                yield batch
                batch = []
    except XLMError as caught:
        error = caught
    if batch:
        yield batch
    if error is not None:
        raise error


def _write(text: str) -> None:
    click.echo(text.encode("utf-8"), nl=False)
    sys.stdout.flush()
