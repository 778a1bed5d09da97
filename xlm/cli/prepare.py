"""``xlm prepare``: convert raw text to token ids for training."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from xlm._io.progress import ProgressBar
from xlm.cli._inputs import files_by_text, open_corpus
from xlm.cli._options import PRESETS, Command, argument, input_options, option, section, workers_option
from xlm.cli._output import counted, printable

_INPUT_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=Command, short_help="Convert raw text to token ids for training")
@argument("directory", type=click.Path(path_type=Path, file_okay=False), help="Directory to write")
@section(
    "Input",
    option(
        "--train",
        "Text to train on, repeated for each language; or pairs, L1-L2=FILE1,FILE2: parallel files of two languages",
        multiple=True,
        metavar="LANG=FILE",
    ),
    option("--valid", "Held-out text or pairs for evaluation during training", multiple=True, metavar="LANG=FILE"),
    option(
        "--test",
        "Held-out text that training never reads, or pairs that it only evaluates on",
        multiple=True,
        metavar="LANG=FILE",
    ),
    option("--model", "Model whose tokenizer to use", metavar="MODEL"),
    option("--codes", "BPE codes (fastBPE)", type=_INPUT_FILE),
    option("--vocab", "Vocabulary (fastBPE); with --codes, instead of --model", type=_INPUT_FILE),
    option(
        "--preset",
        f"Text pipeline: {PRESETS}",
        metavar="NAME",
        show_default="the model's own, or original with --vocab",
    ),
)
@input_options
@workers_option
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
    r"""Write the token ids of texts to DIRECTORY, for xlm train.

    Each FILE has a format that xlm score reads. If run again, the command resumes an interrupted run and adds new
    texts; it refuses a DIRECTORY with ids of another tokenizer. With --codes and --vocab, the language ids follow the
    sorted names of all languages, so a new language requires another DIRECTORY.

    In pairs, a row of one file translates the same row of the other, so both need as many rows. Empty rows are counted
    and stay; training leaves them out, a pair if either side is empty.

    \b
    Example:
        xlm prepare data --codes codes --vocab vocab --train de=de.txt \
            --train en=en.txt --valid de=dev.de.txt --valid en=dev.en.txt
        xlm prepare data --model MODEL --train de=de.txt --train en=en.txt \
            --valid de-en=dev.de.txt,dev.en.txt
    """
    if (model is None) == (vocab is None) or (vocab is not None and codes is None):
        raise click.UsageError("give either --model, or --codes and --vocab")
    splits = {"train": train, "valid": valid, "test": test}
    texts = {split: files_by_text(f"--{split}", values) for split, values in splits.items() if values}
    if not texts:
        raise click.UsageError("give at least one text: --train LANG=FILE")
    open_corpus([file for files in texts.values() for file in files.values()], format=input_format, column=column)

    from xlm.data.prepare import language_of, prepare
    from xlm.data.shards import INDEX_FILE, Index
    from xlm.tokenizer.tokenizer import XLMTokenizer

    if model is not None:
        tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    else:
        assert codes is not None
        assert vocab is not None
        prepared = Index.read(directory).splits if (directory / INDEX_FILE).exists() else {}
        names = {*itertools.chain(*texts.values(), *prepared.values())}
        lang2id = {language: number for number, language in enumerate(sorted({*map(language_of, names)}))}
        settings = {} if preset is None else {"preset": preset}
        tokenizer = XLMTokenizer.from_codes(codes, vocab, lang2id=lang2id, **settings)
    done: dict[tuple[str, str], int] = {}
    with ProgressBar(None, unit="lines") as bar:

        def show(split: str, language: str, lines: int, tokens: int) -> None:
            done[split, language] = lines
            bar.note = f"{split} {language}: {tokens:,} tokens"
            bar.show(sum(done.values()))

        index = prepare(tokenizer, texts, directory, format=input_format, column=column, workers=workers, progress=show)
    for split, by_name in index.splits.items():
        for name, text in by_name.items():
            unknown = sum(shard.unknown for shard in text.shards)
            size = f"{counted(text.lines, 'line')}, {counted(text.tokens, 'token')}"
            click.echo(printable(f"{split} {name}: {size}, {unknown:,} unknown, {text.empty:,} empty"))
