"""``xlm generate``: continue prompts."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import (
    RAY_OPTIONS,
    earlier_run,
    engines,
    inputs,
    resuming,
    uses_ray,
    work_on_ray,
    worker_model,
)
from xlm.cli._inputs import UntilError, naming_line, open_corpus
from xlm.cli._options import (
    TEXT,
    Command,
    compute_options,
    file_argument,
    input_options,
    lang_option,
    model_argument,
    option,
    section,
    tokenizer_options,
)
from xlm.cli._output import write_json, write_text

if TYPE_CHECKING:
    from xlm.corpus.rows import Corpus
    from xlm.generation.text_generator import Prompt, TextGenerator

_ONLY_RAY = ("resume", "progress")
_OF_RAY = ("engine", *RAY_OPTIONS, *_ONLY_RAY)
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_COUNT = click.IntRange(1)


@click.command(cls=Command, short_help="Continue prompts")
@model_argument
@file_argument
@lang_option
@section("Input", option("--prompt", "Prompt to continue, instead of FILE; may be empty", type=TEXT, metavar="TEXT"))
@tokenizer_options
@input_options
@section(
    "Output",
    option(
        "--format",
        "text: the prompt with its continuation, one line each; jsonl: one JSON object a line",
        dest="form",
        type=click.Choice(["text", "jsonl"]),
        default="text",
    ),
    option(
        "--stream/--no-stream",
        "Write each word as it is generated; for one sequence of each prompt",
        default=None,
        show_default="with --prompt on a terminal",
    ),
)
@section(
    "Generation",
    option("--max-new-tokens", "Maximum tokens to generate", type=_COUNT, default=64),
    option("--greedy", "Choose the most likely token at each step instead of sampling", is_flag=True),
    option("--num-beams", "Beams of beam search, instead of sampling", type=_COUNT, default=1),
    option(
        "--num-return-sequences",
        "Continuations of each prompt: samples, or the best of --num-beams",
        type=_COUNT,
        default=1,
    ),
    option("--seed", "Seed of the samples", type=click.IntRange(0, 2**63 - 1), show_default="a new one for each run"),
    option("--temperature", "Divisor of the logits before sampling", type=float, show_default="1"),
    option("--top-k", "Sample from the K most likely tokens", type=_COUNT, show_default="all"),
    option(
        "--top-p", "Sample from the most likely tokens, up to this sum of probabilities", type=float, show_default="0.9"
    ),
    option(
        "--min-p",
        "Sample from tokens at least this many times as likely as the most likely one",
        type=float,
        show_default="0",
    ),
    option(
        "--repetition-penalty",
        "Penalty for tokens that are in the text already; above 1 makes them less likely",
        type=float,
        default=1.0,
    ),
    option(
        "--length-penalty",
        "Exponent of the length in the score of a beam, log-probability / tokens ** X",
        type=float,
        default=1.0,
    ),
    option("--min-new-tokens", "Minimum tokens before a continuation may end", type=click.IntRange(0), default=0),
    option("--continuation-lang", "Language of the continuation", metavar="LANG", show_default="that of --lang"),
)
@compute_options
@section(
    "Performance",
    option("--batch-size", "Prompts of FILE in a batch", type=_COUNT, default=16),
    option("--cuda-graphs", "Record a step on a CUDA device once and replay it; not yet tested on a GPU", is_flag=True),
)
@engines(*resuming)
def command(
    model: str,
    file: Any,
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
    cuda_graphs: bool,
    **options: Any,
) -> None:
    r"""Continue --prompt, or each line of FILE or of standard input.

    The model reads </s> and the prompt. It stops at </s>, after --max-new-tokens, or at its last position. By default,
    each token is sampled from the most likely ones that together have 90% of the probability. The samples of a line
    depend on the seed and on the number of the line, and not on --batch-size (except through floating-point rounding,
    which --dtype int8 can magnify to a hundredth of a nat or more).

    With --engine ray, a prompt that cannot be continued gives an empty line, or with --format jsonl an object whose
    "status" gives the reason; without it, the command stops at such a prompt. If FILE stands for several files, objects
    name their "file", and each file but the first has a seed of its own, derived from --seed and the file's position.

    \b
    Keys with --format jsonl:
        line (from 1), prompt, text (prompt and continuation),
        tokens, ids and logprobs (of the continuation, in nats), logprob (their sum),
        stop (eos, max_new_tokens or positions),
        seed (reproduces this continuation as the --seed of this prompt alone), score (of the beam)

    \b
    Example:
        xlm generate xlm-clm-ende-small --lang en --prompt "Wikipedia was used to" --seed 1
        xlm generate MODEL --lang en prompts.txt --num-beams 4 --format jsonl
    """
    if cuda_graphs and not device.startswith("cuda"):
        raise click.UsageError("--cuda-graphs requires --device cuda")
    of_ray = {name: options.pop(name) for name in _OF_RAY}
    of_file = {name: options.pop(name) for name in ("input_format", "column")}
    beams = options["num_beams"]
    sampling = {name: options.pop(name) for name in _SAMPLING}
    _check_usage(
        file, prompt, greedy=greedy, stream=stream, form=form, sampling=sampling, seed=seed, of_file=of_file, **options
    )
    if uses_ray(only_ray=_ONLY_RAY, only_local=("prompt", "stream", "device", "cuda_graphs")):
        _on_ray(
            model,
            file,
            lang=lang,
            seed=seed,
            of_ray=of_ray | of_file | {"preset": preset, "codes": codes, "dtype": dtype},
            options={"greedy": greedy, **sampling, **options},
            continuation_lang=continuation_lang,
            batch_size=batch_size,
            form=form,
        )
        return
    if stream is None:
        single = beams == options["num_return_sequences"] == 1
        stream = prompt is not None and single and form == "text" and sys.stdout.isatty()
    corpus = (
        None if prompt is not None else open_corpus([file], format=of_file["input_format"], column=of_file["column"])
    )
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # The tokenizer first, because it loads quickly and reveals most mistakes.
    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    from xlm.generation.text_generator import TextGenerator, decoding_options
    from xlm.inference.loading import load_for_inference
    from xlm.tokenizer.batches import grouped

    options = decoding_options(greedy=greedy, cuda_graphs=cuda_graphs, **sampling, **options)
    network = load_for_inference(model, dtype=dtype, device=device, few_rows=True)
    generator = TextGenerator(network, tokenizer, lang=lang, continuation_lang=continuation_lang, options=options)
    run = _Run(generator, seed=seed, form=form)
    with nullcontext() if corpus is None else closing(corpus):
        prompts = iter([generator.prompt(1, prompt or "", where="--prompt")]) if corpus is None else run.prompts(corpus)
        if stream:
            for each in prompts:
                run.stream(each)
        else:
            until_error = UntilError(prompts)
            for batch in grouped(until_error, most=batch_size, characters=1, length=lambda _: 0):
                run.write(batch)
            until_error.raise_error()
    _show_stops(run.stops)


def _on_ray(
    model: str, name: str, *, lang: str, seed: int | None, of_ray: dict[str, Any], form: str, **of_work: Any
) -> None:
    input_format, column = of_ray["input_format"], of_ray["column"]
    files = inputs([name], form=input_format, column=column)
    from xlm.distributed.generate_work import GenerateWork

    if seed is None:
        seed = earlier_run(of_ray).get("seed", secrets.randbits(63))
    opened = worker_model(model, lang=lang, options=of_ray)
    work = GenerateWork(opened=opened, seed=seed, form=form, files=len(files) > 1, **of_work)
    summary = work_on_ray(work, files, work.identity(), form=input_format, column=column, options=of_ray)
    _show_stops(Counter(summary.counts))


def _show_stops(stops: Counter[str]) -> None:
    counts = ", ".join(f"{count} at {stop}" for stop, count in stops.most_common())
    click.echo(f"stopped: {counts or 'nothing to continue'}", err=True)


def _check_usage(
    file: Any,
    prompt: str | None,
    *,
    greedy: bool,
    stream: bool | None,
    form: str,
    sampling: dict[str, Any],
    seed: int | None,
    of_file: dict[str, Any],
    num_beams: int,
    num_return_sequences: int,
    **_: object,
) -> None:
    if prompt is not None and (str(file) != "-" or any(of_file.values())):
        raise click.UsageError("give either --prompt or FILE")
    if greedy and num_beams > 1:
        raise click.UsageError("give either --greedy or --num-beams")
    if prompt is not None and "\n" in prompt and form == "text":
        raise click.UsageError("--prompt contains a line feed, which only --format jsonl can write")
    choices = {**sampling, "seed": seed}
    flags = [f"--{name.replace('_', '-')}" for name, value in choices.items() if value is not None]
    if flags and (greedy or num_beams > 1):
        raise click.UsageError(
            f"{', '.join(flags)}: requires sampling; found {'--greedy' if greedy else '--num-beams'}"
        )
    if num_return_sequences > num_beams and (greedy or num_beams > 1):
        raise click.UsageError(f"--num-return-sequences: expected at most {num_beams}, found {num_return_sequences}")
    if stream and (num_beams > 1 or num_return_sequences > 1 or form != "text"):
        raise click.UsageError("--stream requires one sequence as text: no beams, no several sequences, no jsonl")


class _Run:
    """Prompts read, and their continuations written and counted by stop."""

    def __init__(self, generator: TextGenerator, *, seed: int | None, form: str) -> None:
        from xlm.model.decoding.options import DecodingOptions

        self.stops: Counter[str] = Counter()
        self._generator, self._form = generator, form
        (self._seed,) = DecodingOptions(seed=seed).row_seeds(1)

    def prompts(self, corpus: Corpus) -> Iterator[Prompt]:
        from xlm.generation.text_generator import check_one_line

        for number, text in enumerate(corpus.texts(), start=1):
            line = corpus.place(number)
            check_one_line(text, self._form, where=line)
            with naming_line(line):
                yield self._generator.prompt(number, text, where=line)

    def write(self, batch: list[Prompt]) -> None:
        """Continue prompts, and write one line for each continuation."""
        for generated in self._generator.generate(batch, seed=self._seed):
            self.stops[generated.continuation.stop] += 1
            if self._form == "text":
                write_text(f"{generated.text}\n")
            else:
                write_json(generated.cells())

    def stream(self, prompt: Prompt) -> None:
        """Continue one prompt, and write each word as soon as it is complete."""
        for part in self._generator.stream(prompt, seed=self._seed):
            if isinstance(part, str):
                write_text(part)
            else:
                self.stops[part.stop] += 1
        write_text("\n")
