"""``xlm learn-bpe``: text to BPE codes and a vocabulary."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import click

from xlm.cli._options import COLUMN, INPUT_FORMAT, open_corpus
from xlm.cli._texts import printable, split_language
from xlm.errors import InputError


@click.command(short_help="Text to BPE codes and a vocabulary.")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--merges", type=click.IntRange(1), required=True, help="How many merges to learn.")
@click.option("--codes", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File for the codes.")
@click.option(
    "--vocab",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the vocabulary: the pieces of the texts after these merges, and how often each stands there.",
)
@click.option(
    "--preset",
    metavar="P",
    help="Divide raw text into words, by the pipeline of this name (original, transformers, …). Each TEXT is then "
    "LANG=FILE.  [default: the text is divided already, at spaces]",
)
@INPUT_FORMAT
@COLUMN
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that count words.")
def command(
    texts: tuple[str, ...],
    merges: int,
    codes: Path,
    vocab: Path | None,
    preset: str | None,
    input_format: str | None,
    column: str | None,
    workers: int,
) -> None:
    r"""Learns byte-pair encoding on all TEXTs together and writes the two files of fastBPE.

    A TEXT is a file that xlm score reads: UTF-8 text, one sentence a line, or by its name JSON lines, CSV, TSV or
    Parquet, all but the last also compressed (.gz). Codes are "LEFT RIGHT COUNT" a line, the
    vocabulary is "PIECE COUNT" a line with @@ where a word goes on. Among pairs that are equally frequent, the first
    by spelling is merged.

    \b
    Example:
        xlm learn-bpe --merges 8000 --codes codes --vocab vocab --preset original de=de.txt en=en.txt
    """
    from xlm._io.atomic import check_target
    from xlm.data.bpe_learning import count_pieces, count_words, learn_merges
    from xlm.tokenizer.bpe import write_codes

    for target in (codes, *([] if vocab is None else [vocab])):
        check_target(target)
    words: Counter[str] = Counter()
    files = [split_language(text) if preset is not None else (None, Path(text)) for text in texts]
    open_corpus([path for _, path in files], form=input_format, column=column)
    for lang, path in files:
        words.update(
            count_words(
                path,
                preset=preset,
                lang=lang,
                format=input_format,
                column=column,
                workers=workers,
                progress=partial(_show, f"{path}:", "lines"),
            )
        )
    if not words:
        raise InputError("there are no words to learn from", where=", ".join(str(path) for _, path in files))
    learnt = learn_merges(words, merges, progress=partial(_show, "", "merges"))
    pairs = [(merge.left, merge.right) for merge in learnt]
    write_codes(codes, pairs, [merge.count for merge in learnt])
    done = [f"{codes}: {len(learnt):,} merges of {words.total():,} words, {len(words):,} of them different"]
    warnings = []
    if len(learnt) < merges:
        warnings.append(f"every word is one piece after {len(learnt):,} merges")
    if vocab is not None:
        vocabulary, left_out = count_pieces(words, pairs)
        vocabulary.to_words(vocab)
        done.append(f"{vocab}: {len(vocabulary):,} tokens with the special ones")
        if left_out:
            shown = ", ".join(map(repr, left_out[:5]))
            warnings.append(f"no vocabulary file can hold {len(left_out)} pieces, left out: {shown}")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(printable("\n".join(done)))


def _show(where: str, what: str, number: int) -> None:
    """Shows on a terminal how far the work is."""
    if sys.stderr.isatty():
        click.echo(f"\r{where} {number:,} {what} ", nl=False, err=True)
