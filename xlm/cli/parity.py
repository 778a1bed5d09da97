"""``xlm parity``: compare a model's numbers with reference numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from xlm.cli._inputs import open_corpus
from xlm.cli._options import INPUT_PATH, Command, model_argument, option, section
from xlm.cli._output import printable


@click.command(cls=Command, short_help="Compare a model with recorded numbers of the original or with transformers")
@model_argument
@section(
    "Input",
    option("--reference", "Recorded numbers of the original, .safetensors or .json", type=click.Path(path_type=Path)),
    option("--text", "Text to run both models on, one sentence a line", type=INPUT_PATH, show_default="random ids"),
    option("--lang", "Language of the text", metavar="LANG"),
)
def command(model: str, reference: Path | None, text: Path | None, lang: str | None) -> None:
    r"""Check that MODEL computes the right numbers; the exit status is 1 if it does not.

    With --reference, the right numbers are those that the original computed: hidden states, logits, training loss and
    gradients (.safetensors), or log-probabilities of sentences (.json).

    Without --reference, they are those of transformers, which must be installed, on the same files. With --text, the
    command compares the tokens too.

    A translation model requires --reference, because transformers has no such model.

    \b
    Tensors of a reference (.safetensors), all but the ids optional:
        language model: input_ids, langs, lengths, position_ids; causal.hidden, causal.logits,
            bidirectional.hidden, bidirectional.logits; train.rows, train.loss, train.grad.NAME
        translation model, behind the direction, such as en-de.: src_ids, src_lengths, src_langs, tgt_ids,
            tgt_lengths, tgt_langs; encoder.hidden, decoder.hidden, decoder.logits; loss,
            grad.encoder.NAME, grad.decoder.NAME

    \b
    Examples:
        xlm parity my-model --reference plain.reference.safetensors
        xlm parity my-model --text newstest2014.en.txt --lang en
    """
    if reference is not None and text is not None:
        raise click.UsageError("--reference and --text exclude each other: the reference file contains its own inputs")
    if text is not None and lang is None:
        raise click.UsageError("--text requires --lang LANG")
    if lang is not None and text is None:
        raise click.UsageError("--lang requires --text FILE")
    if reference is not None and reference.suffix not in (".safetensors", ".json"):
        raise click.UsageError(f"--reference {reference}: the name must end in .safetensors or .json")
    from xlm.parity.peer import against_transformers
    from xlm.parity.reference import against_reference

    if reference is not None:
        report = against_reference(model, reference)
    else:
        texts = None if text is None else list(open_corpus([text], format=None, column=None).texts())
        report = against_transformers(model, texts=texts, lang=lang)
    click.echo(printable(report))
    if not report.holds:
        sys.exit(1)
