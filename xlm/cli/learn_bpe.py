"""``xlm learn-bpe``: learn BPE codes and a vocabulary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from xlm._io.progress import ProgressBar
from xlm.cli._inputs import open_corpus, refuse_inputs, split_language
from xlm.cli._options import (
    FILE_HELP,
    OUTPUT_PATH,
    PRESETS,
    Command,
    argument,
    input_options,
    option,
    section,
    workers_option,
)
from xlm.cli._output import printable
from xlm.errors import InputError


@click.command(cls=Command, short_help="Learn BPE codes and a vocabulary from texts")
@argument("texts", nargs=-1, required=True, metavar="TEXT...", help=f"FILE or, with --preset, LANG=FILE; {FILE_HELP}")
@section(
    "Input",
    option(
        "--preset",
        f"Text pipeline that splits raw text into words: {PRESETS}; each TEXT is then LANG=FILE",
        metavar="NAME",
        show_default="split at spaces",
    ),
)
@input_options
@section(
    "Output",
    option("--codes", "BPE codes to write", type=OUTPUT_PATH, required=True),
    option("--vocab", "Vocabulary to write, with the count of each piece", type=OUTPUT_PATH),
)
@section("Training", option("--merges", "Number of merges to learn", type=click.IntRange(1), required=True))
@workers_option
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
    r"""Learn byte-pair encoding on all TEXTs together and write the two files of fastBPE.

    A line of the codes is "LEFT RIGHT COUNT". A line of the vocabulary is "PIECE COUNT", with @@ after a piece that
    does not end its word. Among equally frequent pairs, the first in alphabetical order is merged.

    \b
    Example:
        xlm learn-bpe --merges 8000 --codes codes --vocab vocab \
            --preset original de=de.txt en=en.txt
    """
    from xlm._io.atomic import check_target
    from xlm.data.bpe_learning import count_pieces, count_words, learn_merges
    from xlm.tokenizer.bpe import write_codes

    files = [split_language(text) if preset is not None else (None, Path(text)) for text in texts]
    if vocab is not None and vocab.resolve() == codes.resolve():
        raise click.UsageError(f"--codes and --vocab name the same file: {vocab}")
    for flag, target in (("--codes", codes), ("--vocab", vocab)):
        if target is not None:
            refuse_inputs(target, [path for _, path in files], option=flag)
            check_target(target)
    words: Counter[str] = Counter()
    if preset is None and any("=" in text and not Path(text).exists() for text in texts):
        raise click.UsageError("LANG=FILE requires --preset; without it, give just the file names")
    open_corpus([path for _, path in files], format=input_format, column=column)
    for lang, path in files:
        with ProgressBar(None, unit="lines", label=printable(path)) as bar:
            words.update(
                count_words(
                    path,
                    preset=preset,
                    lang=lang,
                    format=input_format,
                    column=column,
                    workers=workers,
                    progress=bar.show,
                )
            )
    if not words:
        raise InputError("there are no words to learn from", where=", ".join(str(path) for _, path in files))
    with ProgressBar(None, unit="merges", total=merges) as bar:
        learned = learn_merges(words, merges, progress=bar.show)
    pairs = [(merge.left, merge.right) for merge in learned]
    write_codes(codes, pairs, [merge.count for merge in learned])
    summary = [f"{codes}: {len(learned):,} merges from {words.total():,} words, {len(words):,} of them distinct"]
    if len(learned) < merges:
        click.echo(
            f"warning: stopped after {len(learned):,} of {merges:,} merges, as every word is one piece", err=True
        )
    if vocab is not None:
        vocabulary, left_out = count_pieces(words, pairs)
        vocabulary.to_words(vocab)
        summary.append(f"{vocab}: {len(vocabulary):,} tokens, including the special tokens")
        if left_out:
            first = ", ".join(map(repr, left_out[:5]))
            click.echo(
                f"warning: {len(left_out)} pieces are omitted, as no vocabulary file can hold them: {first}", err=True
            )
    click.echo(printable("\n".join(summary)))
