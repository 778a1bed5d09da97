"""``python -m benchmarks``: measurements that anyone can repeat."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Report
from xlm._io.atomic import check_target
from xlm.errors import DependencyError, XLMError

if TYPE_CHECKING:
    from benchmarks.ctranslate2_peer import Work

_NEWSTEST = [f"tokenizer/text/newstest{year}.{lang}.txt" for year in (2012, 2013, 2014) for lang in ("de", "en")]
_NEWS = ["text/newstest2016.en.txt", "text/newstest2016.de.txt"]

_INSTALL = {"transformers": "pip install 'xlm[transformers]'", "ctranslate2": "pip install ctranslate2"}

Benchmark = Callable[[Path], Report]
"""Takes a directory for temporary files."""

against_option = click.option(
    "--against", type=click.Choice(["transformers"]), help="Measure this library too, in turn with xlm."
)
peer_option = click.option(
    "--against",
    type=click.Choice(["transformers", "ctranslate2"]),
    help="Measure this library too, in turn with xlm; ctranslate2 on the CPU, in float32 and int8.",
)
size_option = click.option(
    "--size",
    type=click.Choice(["published", "small"]),
    default="published",
    show_default=True,
    help="Size of the random model: that of xlm-clm-ende-1024 (570 MB), or a small one to try this command with.",
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to compute: cpu, cuda, cuda:1, … On a GPU both libraries compute in bfloat16, with other targets.",
)
model_option = click.option(
    "--model",
    metavar="MODEL",
    help="Model whose tokenizer to use: a directory, a .pth with --codes, the bundled xlm-clm-ende-small, or an id on "
    "the hub.  [default: the published one among the recorded references]",
)
codes_option = click.option(
    "--codes", type=click.Path(path_type=Path), metavar="FILE", help="BPE codes of a .pth, which holds none itself."
)
text_option = click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="UTF-8 file, one text a line; may be repeated.  [default: news among the recorded references]",
)


def _benchmark(rounds: int) -> Callable[[Callable[..., Benchmark]], Callable[..., None]]:
    """Turn a function that returns a benchmark into a command that runs it, with the options that all share."""

    def decorate(function: Callable[..., Benchmark]) -> Callable[..., None]:
        @click.option(
            "--rounds", type=click.IntRange(1), default=rounds, show_default=True, help="How often to measure."
        )
        @click.option(
            "--scratch",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Directory for temporary files.  [default: the system's]",
        )
        @click.option(
            "--json", "json_file", type=click.Path(path_type=Path), help="Also write all results to this file."
        )
        @click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw the results (PNG).")
        @functools.wraps(function)
        def command(scratch: Path | None, json_file: Path | None, plot_file: Path | None, **options: Any) -> None:
            if options.get("against") and importlib.util.find_spec(options["against"]) is None:
                raise DependencyError(
                    f"the library {options['against']} is not installed",
                    where="--against",
                    remedy=_INSTALL[options["against"]],
                )
            benchmark = function(**options)
            for target in (json_file, plot_file):
                if target is not None:
                    check_target(target)
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                report = benchmark(Path(folder))
            report = replace(report, command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
            click.echo(str(report))
            if json_file is not None:
                report.write(json_file)
            if plot_file is not None:
                report.plot(plot_file)
            if not all(target.holds for target in report.targets):
                raise SystemExit(1)

        return command

    return decorate


def _reference(name: str) -> Path:
    path = Path(os.environ.get("XLM_REFERENCE", "../shared")) / name
    if not path.exists():
        raise click.UsageError(f"{path} is missing: give --model and --text, or set XLM_REFERENCE")
    return path


def _beside_ctranslate2(work: Work, *, device: str, **options: Any) -> Benchmark:
    from benchmarks.ctranslate2_peer import bench_beside_ctranslate2

    if device != "cpu":
        raise click.UsageError("--against ctranslate2 measures the CPU only")
    return lambda folder: bench_beside_ctranslate2(folder, work=work, **options)


def _tokenizer_model(model: str | None) -> str:
    return model or str(_reference("published/xlm-clm-ende-1024"))


class _Benchmarks(click.Group):
    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except (XLMError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Benchmarks, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure time and memory, beside other libraries and the machine's limits.

    Prints medians, spreads and ratios. What is compared is measured in turn, in one run, and the outputs are compared
    too. Models have random weights; the default texts and tokenizer are looked up among the recorded references, in
    the directory XLM_REFERENCE. Exits with 1 when a target is missed.

    \b
    Example:
      python -m benchmarks generate --against transformers --plot generate.png
      python -m benchmarks tokenizer --against transformers --model xlm-clm-ende-small --text newstest2014.en.txt
    """  # noqa: D301 (click reads \b as "do not rewrap")


@main.command(short_help="An original checkpoint to the transformers layout, beside cp and sha256.")
@size_option
@_benchmark(5)
def convert(size: str, rounds: int) -> Benchmark:
    """Convert an original checkpoint to the transformers layout, in turn with cp and sha256 of the same file."""
    from benchmarks.checkpoints import bench_convert

    return lambda folder: bench_convert(folder, size=size, rounds=rounds)


@main.command(short_help="from_pretrained of a directory.")
@against_option
@size_option
@_benchmark(5)
def load(against: str | None, size: str, rounds: int) -> Benchmark:
    """Load a converted checkpoint, each time in a fresh process."""
    from benchmarks.checkpoints import bench_load

    return lambda folder: bench_load(folder, size=size, rounds=rounds, against=against)


@main.command(short_help="Texts to ids, which must be the same.")
@against_option
@model_option
@codes_option
@text_option
@click.option(
    "--workers", type=click.IntRange(2), help="Compare this many processes with one, on a file of --megabytes."
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Size of that file, which repeats the texts.",
)
@_benchmark(5)
def tokenizer(
    against: str | None,
    model: str | None,
    codes: Path | None,
    texts: tuple[Path, ...],
    workers: int | None,
    megabytes: float,
    rounds: int,
) -> Benchmark:
    """Encode all lines of the texts with encode_batch, beside a loop of encode, each time in a fresh process.

    Caches are empty at the start; then the same lines are encoded once more.
    """
    if workers is not None and against is not None:
        raise click.UsageError("--workers compares xlm with itself, not with --against")
    from benchmarks.tokenizers import bench_tokenizer, bench_workers, tokenizer_directory

    name, texts = _tokenizer_model(model), texts or tuple(map(_reference, _NEWSTEST))

    def benchmark(folder: Path) -> Report:
        directory = tokenizer_directory(name, codes, folder)
        if workers is None:
            return bench_tokenizer(folder, model=directory, texts=texts, rounds=rounds, against=against)
        return bench_workers(folder, model=directory, texts=texts, rounds=rounds, workers=workers, megabytes=megabytes)

    return benchmark


@main.command(short_help="Raw text to token ids for training.")
@model_option
@codes_option
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="File, one English text a line; may be repeated.  [default: novels among the recorded references]",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Number of processes.")
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=50.0,
    show_default=True,
    help="Size of the text, which is repeated if it is shorter.",
)
@_benchmark(3)
def prepare(
    model: str | None, codes: Path | None, texts: tuple[Path, ...], workers: int, megabytes: float, rounds: int
) -> Benchmark:
    """Run xlm prepare on a long text."""
    from benchmarks.tokenizers import bench_prepare, tokenizer_directory

    name, texts = _tokenizer_model(model), texts or (_reference("text/eltec.en.txt.gz"),)
    return lambda folder: bench_prepare(
        folder,
        model=tokenizer_directory(name, codes, folder),
        texts=texts,
        rounds=rounds,
        workers=workers,
        megabytes=megabytes,
    )


@main.command(short_help="A forward with all logits.")
@peer_option
@size_option
@device_option
@_benchmark(5)
def forward(against: str | None, size: str, device: str, rounds: int) -> Benchmark:
    """Run 8 x 128 tokens to all logits, beside the machine's highest speed of multiplying matrices."""
    if against == "ctranslate2":
        return _beside_ctranslate2("forward", size=size, rounds=rounds, device=device)
    from benchmarks.forward import bench_forward
    from benchmarks.hardware import device_setup

    setup = device_setup(device)
    return lambda folder: bench_forward(folder, size=size, rounds=rounds, against=against, setup=setup)


@main.command(short_help="Log-probabilities of lines of text, which must be the same.")
@peer_option
@size_option
@device_option
@model_option
@codes_option
@text_option
@click.option(
    "--lines",
    type=click.IntRange(1),
    help="Number of lines to score.  [default: 2000, or 200 random sentences beside ctranslate2]",
)
@_benchmark(1)
def score(
    against: str | None,
    size: str,
    device: str,
    model: str | None,
    codes: Path | None,
    texts: tuple[Path, ...],
    lines: int | None,
    rounds: int,
) -> Benchmark:
    """Score lines of text, each time in a fresh process; the other library scores padded batches of 16, in order."""
    if against == "ctranslate2":
        if model or codes or texts:
            raise click.UsageError("--against ctranslate2 scores random sentences: leave out --model, --codes, --text")
        return _beside_ctranslate2("score", size=size, rounds=rounds, device=device, lines=lines or 200)
    from benchmarks.hardware import device_setup
    from benchmarks.scoring import bench_score
    from benchmarks.tokenizers import tokenizer_directory

    setup = device_setup(device)
    name, texts = _tokenizer_model(model), texts or tuple(map(_reference, _NEWS))
    return lambda folder: bench_score(
        folder,
        size=size,
        rounds=rounds,
        against=against,
        model=tokenizer_directory(name, codes, folder),
        texts=texts,
        lines=lines or 2000,
        setup=setup,
    )


@main.command(short_help="A table with one word a row, beside the same tokens as plain lines.")
@click.option("--model", default="xlm-clm-ende-small", show_default=True, help="Model to score with.")
@click.option("--lang", default="en", show_default=True, help="Language of the words.")
@click.option("--words", type=click.IntRange(20), default=10_000, show_default=True, help="Number of words.")
@click.option(
    "--published-words",
    type=click.IntRange(20),
    default=1000,
    show_default=True,
    help="Number of words for a random model of the published size.",
)
@_benchmark(5)
def tables(model: str, lang: str, words: int, published_words: int, rounds: int) -> Benchmark:
    """Score a table of words in sentences and documents, in turn with the same tokens as plain lines.

    Both are measured with the model and with a random one of the published size.
    """
    from benchmarks.tables import bench_tables

    return lambda folder: bench_tables(
        folder, model=model, lang=lang, words=words, published_words=published_words, rounds=rounds
    )


@main.command(short_help="Continuations of one prompt or of many, which must be the same.")
@peer_option
@size_option
@device_option
@click.option("--rows", type=click.Choice(["1", "8", "32"]), default="1", show_default=True, help="Prompts in a batch.")
@click.option("--new-tokens", type=click.IntRange(1), default=64, show_default=True, help="New tokens a prompt.")
@_benchmark(3)
def generate(against: str | None, size: str, device: str, rows: str, new_tokens: int, rounds: int) -> Benchmark:
    """Continue random prompts greedily, beside the speed of reading the weights from memory."""
    if against == "ctranslate2":
        return _beside_ctranslate2(
            "generate", size=size, rounds=rounds, device=device, rows=int(rows), new_tokens=new_tokens
        )
    from benchmarks.generation import bench_generate
    from benchmarks.hardware import device_setup

    setup = device_setup(device)
    return lambda folder: bench_generate(
        folder, size=size, rounds=rounds, against=against, rows=int(rows), new_tokens=new_tokens, setup=setup
    )


@main.command(short_help="Translations of random sentences.")
@click.option("--against", type=click.Choice(["ctranslate2"]), help="Measure this library too, in turn with xlm.")
@size_option
@click.option(
    "--rows", type=click.IntRange(1), multiple=True, help="Sentences in a batch; may be repeated.  [default: 1, 8, 32]"
)
@click.option(
    "--beams", type=click.IntRange(1), multiple=True, help="Number of beams; may be repeated.  [default: 1, 4]"
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    multiple=True,
    help="Type of the weights; may be repeated.  [default: float32, int8]",
)
@_benchmark(3)
def translate(
    against: str | None,
    size: str,
    rows: tuple[int, ...],
    beams: tuple[int, ...],
    weights: tuple[str, ...],
    rounds: int,
) -> Benchmark:
    """Translate random sentences on the CPU with packed weights, greedily and by beam search.

    Greedy translations in float32 must be those of the other library. Its beam search stops by another rule, so the
    translations of beam search are compared by the score that this library's model gives them.
    """
    from benchmarks.translation import BEAMS, ROWS, WEIGHTS, bench_translate

    return lambda folder: bench_translate(
        folder,
        size=size,
        rounds=rounds,
        against=against,
        rows=rows or ROWS,
        beams=beams or BEAMS,
        weights=weights or WEIGHTS,
    )


@main.command(short_help="Matrix products by each library that torch includes.")
@click.option(
    "--rows", type=click.IntRange(1), multiple=True, help="Rows to multiply; may be repeated.  [default: 1, 8, 32, 128]"
)
@_benchmark(5)
def products(rows: tuple[int, ...], rounds: int) -> Benchmark:
    """Multiply rows by matrices of the published size, with weights in float32, float16 and int8."""
    from benchmarks.products import bench_products

    return lambda folder: bench_products(rows=rows or (1, 8, 32, 128), rounds=rounds)


@main.command(short_help="Where the time goes, by operation.")
@click.argument("work", type=click.Choice(["forward", "score", "generate", "train"]))
@size_option
@click.option(
    "--weights",
    "form",
    type=click.Choice(["float32", "packed float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    help="Form of the weights.",
)
@click.option("--rows", type=click.IntRange(1), default=1, show_default=True, help="Prompts in a batch.")
@click.option("--new-tokens", type=click.IntRange(1), default=64, show_default=True, help="New tokens a prompt.")
@click.option("--lines", type=click.IntRange(1), default=100, show_default=True, help="Number of sentences to score.")
@_benchmark(3)
def profile(work: str, size: str, form: str, rows: int, new_tokens: int, lines: int, rounds: int) -> Benchmark:
    """Run a work of the other benchmarks under torch's profiler, beside the limits of the machine."""
    from benchmarks.profile import bench_profile

    return lambda folder: bench_profile(
        folder, work=work, form=form, size=size, rows=rows, new_tokens=new_tokens, lines=lines, rounds=rounds
    )


@main.command(short_help="Training steps, beside a plain loop; the losses must be the same.")
@size_option
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Timed steps in each process, after a warm-up step.  [default: 1 of the published size, 3 of the small one]",
)
@_benchmark(2)
def train(size: str, precision: str, steps: int | None, rounds: int) -> Benchmark:
    """Take training steps, each time in a fresh process, in turn with a plain PyTorch loop.

    A processor without bfloat16 units takes fewer rows in that type, and the report says so.
    """
    from benchmarks.training import bench_train

    return lambda folder: bench_train(size=size, precision=precision, rounds=rounds, steps=steps)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
