"""``xlm generate``: continue prompts."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import earlier_run, engines, inputs, resuming, run_on_ray, uses_ray, worker_model
from xlm.cli._inputs import UntilError, naming_line, open_corpus
from xlm.cli._options import (
    TEXT,
    Command,
    compute_options,
    file_argument,
    model_argument,
    option,
    section,
    text_options,
)
from xlm.cli._output import show_stops, write_json, write_text

if TYPE_CHECKING:
    from xlm.corpus.rows import Corpus
    from xlm.generation.text_generator import Prompt, TextGenerator

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_DECODING = (
    "greedy",
    *_SAMPLING,
    "max_new_tokens",
    "min_new_tokens",
    "num_return_sequences",
    "num_beams",
    "repetition_penalty",
    "length_penalty",
)
_COUNT = click.IntRange(1)


@click.command(cls=Command, short_help="Continue prompts")
@model_argument
@file_argument
@section("Input", option("--prompt", "Prompt to continue, instead of FILE; may be empty", type=TEXT, metavar="TEXT"))
@text_options
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
def command(model: str, file: Any, lang: str, **options: Any) -> None:
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
        tokens, ids and logprobs (of the continuation, in nats),
        logprob (the sum of logprobs), stop (eos, max_new_tokens or positions),
        seed (as --seed with this prompt alone, it gives the same continuation),
        score (of the beam)

    \b
    Examples:
        xlm generate xlm-clm-ende-small --lang en --prompt "The old man" --seed 1
        xlm generate MODEL --lang en prompts.txt --num-beams 4 --format jsonl
    """
    _check_usage(file, options)
    decoding = {name: options[name] for name in _DECODING}
    if uses_ray(only_ray=("resume", "progress"), only_local=("prompt", "stream", "device", "cuda_graphs")):
        _on_ray(model, file, lang=lang, decoding=decoding, options=options)
        return
    prompt, form, stream = options["prompt"], options["form"], options["stream"]
    if stream is None:
        single = decoding["num_beams"] == decoding["num_return_sequences"] == 1
        stream = prompt is not None and single and form == "text" and sys.stdout.isatty()
    corpus = None
    if prompt is None:
        corpus = open_corpus([file], format=options["input_format"], column=options["column"])
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # Open the tokenizer first: it loads quickly, and most mistakes show there.
    tokenizer = XLMTokenizer.from_pretrained(model, preset=options["preset"], codes=options["codes"])
    from xlm._io.grouping import grouped
    from xlm.generation.text_generator import TextGenerator, decoding_options
    from xlm.inference.loading import load_for_inference

    decoding = decoding_options(cuda_graphs=options["cuda_graphs"], **decoding)
    network = load_for_inference(model, dtype=options["dtype"], device=options["device"], few_rows=True)
    generator = TextGenerator(
        network, tokenizer, lang=lang, continuation_lang=options["continuation_lang"], options=decoding
    )
    run = _Run(generator, seed=options["seed"], form=form)
    with nullcontext() if corpus is None else closing(corpus):
        prompts = iter([generator.prompt(1, prompt or "", where="--prompt")]) if corpus is None else run.prompts(corpus)
        if stream:
            for each in prompts:
                run.stream(each)
        else:
            until_error = UntilError(prompts)
            for batch in grouped(until_error, most=options["batch_size"], characters=1, length=lambda _: 0):
                run.write(batch)
            until_error.raise_error()
    show_stops(run.stops, inputs="prompts to continue")


def _on_ray(model: str, name: str, *, lang: str, decoding: dict[str, Any], options: dict[str, Any]) -> None:
    files = inputs([name], options)
    from xlm.distributed.tasks import GenerateTask

    seed = options["seed"]
    if seed is None:
        seed = earlier_run(options).get("seed", secrets.randbits(63))
    task = GenerateTask(
        model=worker_model(model, lang=lang, options=options),
        seed=seed,
        format=options["form"],
        files=len(files) > 1,
        options=decoding,
        continuation_lang=options["continuation_lang"],
        read_at_once=options["batch_size"],
    )
    total = run_on_ray(task, files, options)
    show_stops(total["counts"], inputs="prompts to continue")


def _check_usage(file: Any, options: dict[str, Any]) -> None:
    prompt, form, greedy, num_beams = (options[name] for name in ("prompt", "form", "greedy", "num_beams"))
    sequences = options["num_return_sequences"]
    searching = "--greedy" if greedy else "--num-beams" if num_beams > 1 else None
    flags = [f"--{name.replace('_', '-')}" for name in (*_SAMPLING, "seed") if options[name] is not None]
    if options["cuda_graphs"] and not options["device"].startswith("cuda"):
        raise click.UsageError("--cuda-graphs requires --device cuda")
    if prompt is not None and (str(file) != "-" or options["input_format"] or options["column"]):
        raise click.UsageError("give either --prompt or FILE, not both")
    if greedy and num_beams > 1:
        raise click.UsageError("give either --greedy or --num-beams, not both")
    if prompt is not None and "\n" in prompt and form == "text":
        raise click.UsageError("--prompt contains a line feed, which only --format jsonl can write")
    if searching and flags:
        raise click.UsageError(f"{', '.join(flags)}: only with sampling; found {searching}")
    if searching and sequences > num_beams:
        raise click.UsageError(
            f"--num-return-sequences: expected at most {num_beams} with {searching}, found {sequences}"
        )
    if options["stream"]:
        for flag, given in (
            ("--num-beams", num_beams > 1),
            ("--num-return-sequences", sequences > 1),
            ("--format jsonl", form == "jsonl"),
        ):
            if given:
                raise click.UsageError(f"--stream writes one sequence as text, so it excludes {flag}")


class _Run:
    """A run of the command: it reads prompts, writes their continuations, and counts them by why they ended."""

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
