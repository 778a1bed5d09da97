"""``xlm generate``: prompts to their continuations."""

from __future__ import annotations

import json
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import (
    RAY_OPTIONS,
    earlier_run,
    engines,
    inputs,
    resuming,
    run_on_ray,
    uses_ray,
    worker_model,
)
from xlm.cli._lines import naming_line, write_line
from xlm.cli._options import TEXT, computing, model_and_text, open_corpus
from xlm.errors import XLMError

if TYPE_CHECKING:
    from xlm.corpus.rows import Corpus
    from xlm.generation.text_generator import Prompt, TextGenerator

_ONLY_RAY = ("resume", "progress")
_OF_RAY = ("engine", *RAY_OPTIONS, *_ONLY_RAY)
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
@click.option(
    "--cuda-graphs", is_flag=True, help="On a CUDA device, record a step once and replay it; not yet tried on a GPU."
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
    r"""Continues --prompt, or each line of FILE or of standard input, with what MODEL would say next.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILE is what xlm score reads: UTF-8 text, one prompt a line, or by its name JSON lines, CSV, TSV
    or Parquet, all but the last also compressed (.gz). The model is given </s> and the prompt, and stops at
    </s>, after --max-new-tokens, or when it has no position left. Tokens are drawn at random, from the best ones
    that together have 90% of the probability, unless --greedy or --num-beams says otherwise. A line's samples
    depend on the seed and its place in the file, not on --batch-size but for the last digits of what is drawn from,
    which --dtype int8 can magnify to a hundredth of a nat or more.

    With --engine ray, a cluster does the work. A prompt that cannot be continued is an empty line, or with --format
    jsonl an object whose "status" says why; without it, such a prompt ends the work. Where FILE stands for several
    files, objects say of which "file" they are, and each file but the first has a seed of its own, which depends on
    --seed and its place among them.

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
    if cuda_graphs and not device.startswith("cuda"):
        raise click.UsageError("--cuda-graphs is for --device cuda")
    of_ray = {name: options.pop(name) for name in _OF_RAY}
    of_file = {name: options.pop(name) for name in ("input_format", "column")}
    beams = options["num_beams"]
    sampling = {name: options.pop(name) for name in _SAMPLING}
    _check_usage(
        file,
        prompt,
        greedy=greedy,
        stream=stream,
        form=form,
        sampling=sampling,
        seed=seed,
        of_file=of_file,
        **options,
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
            read_at_once=batch_size,
            form=form,
        )
        return
    if stream is None:
        single = beams == options["num_return_sequences"] == 1
        stream = prompt is not None and single and form == "text" and sys.stdout.isatty()
    corpus = None if prompt is not None else open_corpus([file], form=of_file["input_format"], column=of_file["column"])
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # The tokenizer first: it is read in no time, and most mistakes show there.
    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    from xlm.generation.text_generator import TextGenerator, decoding_options
    from xlm.inference.loading import load_for_inference

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
            for batch in _batches(prompts, batch_size):
                run.write(batch)
    _show_stops(run.stops)


def _on_ray(
    model: str, name: str, *, lang: str, seed: int | None, of_ray: dict[str, Any], form: str, **of_task: Any
) -> None:
    input_format, column = of_ray["input_format"], of_ray["column"]
    files = inputs([name], form=input_format, column=column)
    from xlm.distributed.tasks import GenerateTask

    if seed is None:
        seed = earlier_run(of_ray).get("seed", secrets.randbits(63))
    source = worker_model(model, lang=lang, options=of_ray)
    task = GenerateTask(model=source, seed=seed, format=form, files=len(files) > 1, **of_task)
    counts = run_on_ray(task, files, task.identity(), form=input_format, column=column, options=of_ray)
    _show_stops(Counter(counts))


def _show_stops(stops: Counter[str]) -> None:
    found = ", ".join(f"{count} at {stop}" for stop, count in stops.most_common())
    click.echo(f"stopped: {found or 'nothing to continue'}", err=True)


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


class _Run:
    """How prompts are read, and their continuations written."""

    def __init__(self, generator: TextGenerator, *, seed: int | None, form: str) -> None:
        from xlm.model.decoding.options import DecodingOptions

        self.stops: Counter[str] = Counter()
        self._generator, self._form = generator, form
        (self._seed,) = DecodingOptions(seed=seed).row_seeds(1)

    def prompts(self, corpus: Corpus) -> Iterator[Prompt]:
        from xlm.generation.text_generator import check_one_line

        for number, text in enumerate(corpus.texts(), start=1):
            place = corpus.place(number)
            check_one_line(text, self._form, where=place)
            with naming_line(place):
                yield self._generator.prompt(number, text, where=place)

    def write(self, batch: list[Prompt]) -> None:
        """Continues prompts, and writes one line for each continuation."""
        for continued in self._generator.generate(batch, seed=self._seed):
            self.stops[continued.continuation.stop] += 1
            if self._form == "text":
                write_line(continued.text)
            else:
                write_line(json.dumps(continued.cells(), ensure_ascii=False, allow_nan=False))

    def stream(self, prompt: Prompt) -> None:
        """Continues one prompt, and writes each word when it has come."""
        for part in self._generator.stream(prompt, seed=self._seed):
            if isinstance(part, str):
                _write(part)
            else:
                self.stops[part.stop] += 1
        _write("\n")


def _batches(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Prompts in lists; an error comes after the list of those that stand before it."""
    batch: list[Prompt] = []
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
