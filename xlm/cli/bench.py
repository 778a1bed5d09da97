"""``xlm bench``: measurements that anyone can repeat."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

_NEWSTEST = [f"tokenizer/text/newstest{year}.{lang}.txt" for year in (2012, 2013, 2014) for lang in ("de", "en")]


def _reference(name: str) -> Path:
    path = Path(os.environ.get("XLM_REFERENCE", "../shared")) / name
    if not path.exists():
        raise click.UsageError(f"{path} is missing: give --model and --text, or set XLM_REFERENCE")
    return path


@click.command(short_help="Measure conversion, loading and tokenizing, beside transformers.")
@click.argument("what", type=click.Choice(["convert", "load", "tokenizer"]))
@click.option("--against", type=click.Choice(["transformers"]), help="Measure this library too, in turn with xlm.")
@click.option(
    "--size",
    type=click.Choice(["published", "small"]),
    default="published",
    show_default=True,
    help="Size of the random model: that of xlm-clm-ende-1024 (570 MB), or one to try this command with.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often to measure.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write everything to this file.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory for the temporary files.  [default: the system's]",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory whose tokenizer to measure.  [default: the published one among the recorded references]",
)
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Text to tokenize, may be repeated.  [default: newstest 2012 to 2014, German and English, among them]",
)
@click.option(
    "--workers",
    type=click.IntRange(2),
    help="For tokenizer: compare this many processes with one, on a stream of --megabytes.",
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Size of that stream; --text is repeated as often as needed.",
)
def command(
    what: str,
    against: str | None,
    size: str,
    rounds: int,
    json_file: Path | None,
    scratch: Path | None,
    model: Path | None,
    texts: tuple[Path, ...],
    workers: int | None,
    megabytes: float,
) -> None:
    r"""Measures WHAT, and prints medians, spreads and ratios.

    convert: an original checkpoint with random weights to the transformers layout, beside cp and sha256.
    load: from_pretrained of the result, beside that of --against.
    tokenizer: all lines of --text by encode_batch, beside a loop of encode and that of --against; the ids must be the
    same. With --workers, several processes beside one.

    The recorded references are looked for where XLM_REFERENCE says.

    Each measurement runs in a process of its own. Exits with 1 when a ratio is over its limit.

    \b
    Example:
      xlm bench load --against transformers
      xlm bench convert --json convert.json
      xlm bench tokenizer --against transformers --model MODEL --text newstest2014.en.txt
    """
    if what == "convert" and against is not None:
        raise click.UsageError("transformers has no conversion to measure against")
    if what != "tokenizer" and (model is not None or texts or workers):
        raise click.UsageError("--model, --text and --workers belong to xlm bench tokenizer")
    if workers is not None and against is not None:
        raise click.UsageError("--workers compares xlm with itself, not with --against")
    from xlm.bench.checkpoints import bench_convert, bench_load
    from xlm.bench.tokenizers import bench_tokenizer, bench_workers

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if what == "convert":
            report = bench_convert(Path(folder), size=size, rounds=rounds)
        elif what == "tokenizer":
            model = model or _reference("published/xlm-clm-ende-1024")
            texts = texts or tuple(map(_reference, _NEWSTEST))
            if workers is None:
                report = bench_tokenizer(Path(folder), model=model, texts=texts, rounds=rounds, against=against)
            else:
                report = bench_workers(
                    Path(folder), model=model, texts=texts, rounds=rounds, workers=workers, megabytes=megabytes
                )
        else:
            report = bench_load(Path(folder), size=size, rounds=rounds, against=against)
    click.echo(str(report))
    if json_file is not None:
        report.write(json_file)
    if not all(bar.holds for bar in report.bars):
        raise SystemExit(1)
