"""``xlm bench``: measurements that anyone can repeat."""

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

from xlm.errors import DependencyError

if TYPE_CHECKING:
    from xlm.bench.report import BenchReport

_NEWSTEST = [f"tokenizer/text/newstest{year}.{lang}.txt" for year in (2012, 2013, 2014) for lang in ("de", "en")]
_NEWS = ["text/newstest2016.en.txt", "text/newstest2016.de.txt"]

Measurement = Callable[[Path], "BenchReport"]
"""Takes a directory for temporary files."""

against = click.option(
    "--against", type=click.Choice(["transformers"]), help="Measure this library too, in turn with xlm."
)
size = click.option(
    "--size",
    type=click.Choice(["published", "small"]),
    default="published",
    show_default=True,
    help="Size of the random model: that of xlm-clm-ende-1024 (570 MB), or one to try this command with.",
)
device_of = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to compute: cpu, cuda, cuda:1, … Elsewhere than on the CPU both libraries do so in bfloat16, and the "
    "ratios are held to other limits.",
)
tokenizer_of = click.option(
    "--model",
    metavar="MODEL",
    help="Whose tokenizer to use: a directory, a .pth with --codes, the bundled xlm-clm-ende-small, or an id on the "
    "hub.  [default: the published one among the recorded references]",
)
codes_file = click.option(
    "--codes", type=click.Path(path_type=Path), metavar="FILE", help="BPE codes of a .pth, which holds none itself."
)
text_files = click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="UTF-8 text, one a line; may be repeated.  [default: news among the recorded references]",
)


def _measuring(rounds: int) -> Callable[[Callable[..., Measurement]], Callable[..., None]]:
    """Makes a command of a function that returns a measurement: options that all share, and the report."""

    def decorate(function: Callable[..., Measurement]) -> Callable[..., None]:
        @click.option(
            "--rounds", type=click.IntRange(1), default=rounds, show_default=True, help="How often to measure."
        )
        @click.option(
            "--scratch",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Directory for the temporary files.  [default: the system's]",
        )
        @click.option(
            "--json", "json_file", type=click.Path(path_type=Path), help="Also write everything to this file."
        )
        @click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw the figures (PNG).")
        @functools.wraps(function)
        def command(scratch: Path | None, json_file: Path | None, plot_file: Path | None, **options: Any) -> None:
            from xlm._atomic import check_target

            if options.get("against") and importlib.util.find_spec(options["against"]) is None:
                raise DependencyError(
                    f"the library {options['against']} is not installed",
                    where="--against",
                    remedy=f"pip install 'xlm[{options['against']}]'",
                )
            measurement = function(**options)
            for target in (json_file, plot_file):
                if target is not None:
                    check_target(target)
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                report = replace(measurement(Path(folder)), command=shlex.join(["xlm", *sys.argv[1:]]))
            click.echo(str(report))
            if json_file is not None:
                report.write(json_file)
            if plot_file is not None:
                from xlm.bench.plot import plot

                plot(report, plot_file)
            if not all(bar.holds for bar in report.bars):
                raise SystemExit(1)

        return command

    return decorate


def _reference(name: str) -> Path:
    path = Path(os.environ.get("XLM_REFERENCE", "../shared")) / name
    if not path.exists():
        raise click.UsageError(f"{path} is missing: give --model and --text, or set XLM_REFERENCE")
    return path


def _with_tokenizer(given: str | None) -> str:
    return given or str(_reference("published/xlm-clm-ende-1024"))


@click.group(short_help="Measure time and memory, beside transformers and the machine's limits.")
def command() -> None:
    r"""Measures, and prints medians, spreads and ratios.

    What is compared alternates in one run; outputs are compared in the same run. Models have random weights; the
    recorded references, which the default texts and tokenizer come from, are looked for where XLM_REFERENCE says.
    Exits with 1 when a ratio is on the wrong side of its limit.

    \b
    Example:
      xlm bench generate --against transformers --plot generate.png
      xlm bench tokenizer --against transformers --model xlm-clm-ende-small --text newstest2014.en.txt
    """


@command.command(short_help="An original checkpoint to the transformers layout, beside cp and sha256.")
@size
@_measuring(5)
def convert(size: str, rounds: int) -> Measurement:
    """Converts an original checkpoint to the transformers layout, in turn with cp and sha256 of the same file."""
    from xlm.bench.checkpoints import bench_convert

    return lambda folder: bench_convert(folder, size=size, rounds=rounds)


@command.command(short_help="from_pretrained of a directory.")
@against
@size
@_measuring(5)
def load(against: str | None, size: str, rounds: int) -> Measurement:
    """Loads a converted checkpoint, each time in a process of its own."""
    from xlm.bench.checkpoints import bench_load

    return lambda folder: bench_load(folder, size=size, rounds=rounds, against=against)


@command.command(short_help="Texts to ids; the ids must be the same.")
@against
@tokenizer_of
@codes_file
@text_files
@click.option(
    "--workers", type=click.IntRange(2), help="Compare this many processes with one, on a file of --megabytes."
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Size of that file; --text is repeated as often as needed.",
)
@_measuring(5)
def tokenizer(
    against: str | None,
    model: str | None,
    codes: Path | None,
    texts: tuple[Path, ...],
    workers: int | None,
    megabytes: float,
    rounds: int,
) -> Measurement:
    """Encodes all lines of the texts with encode_batch, beside a loop of encode, each time in a process of its own.

    Caches are empty at the start; then once more with caches filled.
    """
    if workers is not None and against is not None:
        raise click.UsageError("--workers compares xlm with itself, not with --against")
    from xlm.bench.tokenizers import bench_tokenizer, bench_workers, tokenizer_directory

    name, texts = _with_tokenizer(model), texts or tuple(map(_reference, _NEWSTEST))

    def measurement(folder: Path) -> BenchReport:
        directory = tokenizer_directory(name, codes, folder)
        if workers is None:
            return bench_tokenizer(folder, model=directory, texts=texts, rounds=rounds, against=against)
        return bench_workers(folder, model=directory, texts=texts, rounds=rounds, workers=workers, megabytes=megabytes)

    return measurement


@command.command(short_help="A forward with all logits.")
@against
@size
@device_of
@_measuring(5)
def forward(against: str | None, size: str, device: str, rounds: int) -> Measurement:
    """Runs 8 x 128 tokens to all logits, beside the largest speed that the machine multiplies matrices at."""
    from xlm.bench.forward import bench_forward
    from xlm.bench.place import place_of

    place = place_of(device)
    return lambda folder: bench_forward(folder, size=size, rounds=rounds, against=against, place=place)


@command.command(short_help="Log-probabilities of lines of text; they must be the same.")
@against
@size
@device_of
@tokenizer_of
@codes_file
@text_files
@click.option("--lines", type=click.IntRange(1), default=2000, show_default=True, help="How many lines to score.")
@_measuring(1)
def score(
    against: str | None,
    size: str,
    device: str,
    model: str | None,
    codes: Path | None,
    texts: tuple[Path, ...],
    lines: int,
    rounds: int,
) -> Measurement:
    """Scores lines of text, each time in a process of its own; the other library in padded batches of 16, as read."""
    from xlm.bench.place import place_of
    from xlm.bench.scoring import bench_score
    from xlm.bench.tokenizers import tokenizer_directory

    place = place_of(device)
    name, texts = _with_tokenizer(model), texts or tuple(map(_reference, _NEWS))
    return lambda folder: bench_score(
        folder,
        size=size,
        rounds=rounds,
        against=against,
        model=tokenizer_directory(name, codes, folder),
        texts=texts,
        lines=lines,
        place=place,
    )


@command.command(short_help="Continuations of one prompt or of 32; they must be the same.")
@against
@size
@device_of
@click.option("--rows", type=click.Choice(["1", "32"]), default="1", show_default=True, help="Prompts at once.")
@click.option("--new-tokens", type=click.IntRange(1), default=64, show_default=True, help="How many each is to get.")
@_measuring(3)
def generate(against: str | None, size: str, device: str, rows: str, new_tokens: int, rounds: int) -> Measurement:
    """Continues random prompts greedily, beside the speed that memory gives up the weights at."""
    from xlm.bench.generation import bench_generate
    from xlm.bench.place import place_of

    place = place_of(device)
    return lambda folder: bench_generate(
        folder, size=size, rounds=rounds, against=against, rows=int(rows), new_tokens=new_tokens, place=place
    )


@command.command(short_help="Training steps, beside a plain loop; the losses must be the same.")
@size
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Steps each time, after one that does not count.  [default: 1 of the published size, 3 of the small one]",
)
@_measuring(2)
def train(size: str, precision: str, steps: int | None, rounds: int) -> Measurement:
    """Takes training steps, each time in a process of its own, in turn with a loop as one would write it.

    A processor that has no units for bfloat16 takes fewer rows in it, and the report says so.
    """
    from xlm.bench.training import bench_train

    return lambda folder: bench_train(size=size, precision=precision, rounds=rounds, steps=steps)
