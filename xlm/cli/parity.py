"""``xlm parity``: does a model give the numbers it should?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from xlm.cli._options import TEXT_FILES, open_corpus
from xlm.cli._texts import printable


@click.command(short_help="Check a model against the original's recorded numbers, or against transformers.")
@click.argument("model")
@click.option("--reference", type=click.Path(path_type=Path), help="Recorded answers, .safetensors or .json.")
@click.option("--text", type=TEXT_FILES, help="Text to run both models on, one sentence a line.")
@click.option("--lang", help="Language of the text.")
def command(model: str, reference: Path | None, text: Path | None, lang: str | None) -> None:
    r"""Checks that MODEL gives the numbers it should, and exits with 1 if it does not.

    With --reference, the numbers are those that the original gave, recorded in a file: hidden states, logits,
    training loss and gradients (safetensors), or log-probabilities of sentences (JSON).

    Without it, they are those of transformers on the same files, which must be installed; on random ids, or on the
    lines of --text, whose tokens are then compared too.

    \b
    Example:
      xlm parity converted --reference plain.reference.safetensors
      xlm parity converted --text newstest2014.en.txt --lang en
    """
    if reference is not None and text is not None:
        raise click.UsageError("--reference brings its own inputs; give either it or --text")
    if (text is None) != (lang is None):
        raise click.UsageError("--text and --lang go together")
    from xlm.parity.peer import against_transformers
    from xlm.parity.reference import against_reference

    if reference is not None:
        report = against_reference(model, reference)
    else:
        texts = None if text is None else list(open_corpus([text], form=None, column=None).texts())
        report = against_transformers(model, texts=texts, lang=lang)
    click.echo(printable(report))
    if not report.holds:
        sys.exit(1)
