"""``xlm prepare``: raw text to files of ids that training reads."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from xlm.cli._options import COLUMN, INPUT_FORMAT, open_corpus
from xlm.cli._texts import by_language, printable


@click.command(short_help="Raw text to files of ids, for training.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", metavar="MODEL", help="Model whose tokenizer to use: a directory, .pth or bundled name.")
@click.option("--codes", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="BPE codes (fastBPE).")
@click.option(
    "--vocab",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Vocabulary (fastBPE); with --codes, instead of --model.",
)
@click.option("--preset", metavar="P", help="Text pipeline; by default the model's own, original for --codes.")
@click.option("--train", multiple=True, metavar="LANG=FILE", help="Text to train on, once for each language.")
@click.option("--valid", multiple=True, metavar="LANG=FILE", help="Held-out text to evaluate on while training.")
@click.option("--test", multiple=True, metavar="LANG=FILE", help="Held-out text that training never reads.")
@INPUT_FORMAT
@COLUMN
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
def command(
    directory: Path,
    model: str | None,
    codes: Path | None,
    vocab: Path | None,
    preset: str | None,
    train: tuple[str, ...],
    valid: tuple[str, ...],
    test: tuple[str, ...],
    input_format: str | None,
    column: str | None,
    workers: int,
) -> None:
    r"""Writes the token ids of texts into DIRECTORY, for "xlm train".

    Each FILE is what xlm score reads: UTF-8 text, one sentence a line, or by its name JSON lines, CSV, TSV or Parquet,
    all but the last also compressed (.gz). Run again, the command goes on where it was cut
    off, and adds texts that are new; it refuses a DIRECTORY with ids of another tokenizer. With --codes and --vocab,
    language ids follow the sorted names of all languages; so a further language needs another DIRECTORY.

    \b
    Example:
        xlm prepare data --codes codes --vocab vocab --train de=de.txt --train en=en.txt --valid en=dev.en.txt
    """
    if (model is None) == (vocab is None) or (vocab is not None and codes is None):
        raise click.UsageError("give either --model, or --codes and --vocab")
    splits = {"train": train, "valid": valid, "test": test}
    texts = {split: by_language(f"--{split}", given) for split, given in splits.items() if given}
    if not texts:
        raise click.UsageError("give at least one text: --train LANG=FILE")
    open_corpus([file for given in texts.values() for file in given.values()], form=input_format, column=column)

    from xlm.data.prepare import prepare
    from xlm.data.shards import INDEX_FILE, Index
    from xlm.tokenizer.tokenizer import XLMTokenizer

    if model is not None:
        tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    else:
        assert codes is not None
        assert vocab is not None
        there = Index.read(directory).splits if (directory / INDEX_FILE).exists() else {}
        languages = {language for given in texts.values() for language in given}
        languages |= {language for given in there.values() for language in given}
        settings = {} if preset is None else {"preset": preset}
        tokenizer = XLMTokenizer.from_codes(
            codes, vocab, lang2id={name: number for number, name in enumerate(sorted(languages))}, **settings
        )
    index = prepare(tokenizer, texts, directory, format=input_format, column=column, workers=workers, progress=_show)
    for split, by_name in index.splits.items():
        for language, text in by_name.items():
            unknown = sum(shard.unknown for shard in text.shards)
            found = f"{text.lines:,} lines, {text.tokens:,} tokens, {unknown:,} unknown"
            click.echo(printable(f"{split} {language}: {found}"))


def _show(split: str, language: str, lines: int, tokens: int) -> None:
    """Shows on a terminal how far the work is."""
    if sys.stderr.isatty():
        click.echo(f"\r{split} {language}: {lines:,} lines, {tokens:,} tokens ", nl=False, err=True)
