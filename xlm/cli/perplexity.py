"""``xlm perplexity``: measure how well a model predicts texts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._inputs import open_corpus
from xlm.cli._options import (
    Command,
    batch_options,
    compute_options,
    files_argument,
    input_options,
    model_argument,
    model_source,
    option,
    section,
    stride_option,
    tokenizer_options,
    wrong_usage,
)
from xlm.cli._output import TableWriter, show_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from xlm.corpus.tables import Cell
    from xlm.scoring.perplexity import LanguagePerplexity, Perplexity

_COLUMNS = {
    "lang": str,
    "perplexity": float,
    "tokens": int,
    "nats_per_token": float,
    "bits_per_character": float,
    "bits_per_byte": float,
    "texts": int,
    "unknown": int,
    "perplexity_per_word": float,
    "words": int,
}
_MEASURES = ("perplexity", "nats_per_token", "bits_per_character", "bits_per_byte", "perplexity_per_word")
_WITH_INTERVAL = ("perplexity", "bits_per_character")
_RESAMPLES = 1000


@click.command(cls=Command, short_help="Measure the perplexity of texts, by sentence or as the original does")
@model_argument
@files_argument
@section(
    "Input",
    option(
        "--lang",
        "Language of a file, one of the model's; repeat for each file, in the same order",
        dest="langs",
        required=True,
        multiple=True,
        metavar="LANG",
    ),
)
@tokenizer_options
@input_options
@section(
    "Output",
    option(
        "--format",
        "tsv: a header and tab-separated rows; jsonl: one JSON object a row, with null for infinite numbers",
        dest="table_format",
        type=click.Choice(["tsv", "jsonl"]),
        show_default="aligned columns on a terminal, else tsv",
    ),
)
@section(
    "Scoring",
    option(
        "--protocol",
        "sentence: score each row by itself, every token predicted; document: score each row given those before it in "
        "its document, every token predicted; stream: evaluate as the original does, all rows as one sequence in "
        "windows, every token but the first of a window predicted",
        type=click.Choice(["sentence", "document", "stream"]),
        show_default="sentence, or document with --documents",
    ),
    option(
        "--documents", "Score documents, between which stand blank rows; the same as --protocol document", is_flag=True
    ),
    option("--window", "Tokens in a window of the stream", type=click.IntRange(2), show_default="256"),
    option("--compare", "Another model to measure on the same files", metavar="OTHER"),
    option(
        "--bootstrap",
        "Add 95% confidence intervals from this number of resamples of the rows or documents",
        type=click.IntRange(1, 1_000_000),
        show_default=f"none, or {_RESAMPLES} with --compare",
    ),
    option("--seed", "Seed of the resamples", type=click.IntRange(0, 2**31 - 1), default=0),
)
@stride_option
@compute_options
@batch_options
def command(
    model: str,
    files: tuple[Path, ...],
    langs: tuple[str, ...],
    table_format: str | None,
    compare: str | None,
    **options: Any,
) -> None:
    r"""Write the perplexity of MODEL on each of FILES, or on standard input.

    FILES have a format that xlm score reads. With several files, each in its own language, the last row is the mean of
    their perplexities, as the original computes it.

    \b
    Columns:
        lang, perplexity, tokens (predicted tokens), nats_per_token,
        bits_per_character, bits_per_byte (of the raw text, counting each row
        end as one), texts, unknown (predicted tokens that are <unk>, which
        replaces pieces outside the vocabulary), perplexity_per_word, words
        (between spaces, counting each row end as one); with --documents also
        documents

    The measures per word, character and byte can be compared between models with different vocabularies. The stream
    does not predict every token; for these measures, each token of the text counts like the average of those predicted.

    With --documents, each row is a sentence. Blank rows separate documents and are not scored; "texts" are the other
    rows. Each token, the </s> behind each row included, is predicted once, given as much of its document as the model's
    positions and --stride allow.

    With --bootstrap, the columns perplexity_low, perplexity_high, bits_per_character_low and bits_per_character_high
    follow. It is not for --protocol stream, whose rows are not independent.

    With --compare, the first column is "model", and each language has three rows: MODEL, OTHER and "difference",
    which is MODEL minus OTHER. The resamples are paired: each draws the same rows, or documents, for both models.

    \b
    Examples:
        xlm perplexity xlm-clm-ende-small --lang en news.en.txt
        xlm perplexity MODEL --lang de valid.de --lang en valid.en \
            --protocol stream --window 64
        xlm perplexity MODEL --compare OTHER --lang en news.en.txt
    """
    paths = files or (Path("-"),)
    if len(langs) != len(paths):
        found = f"languages: {len(langs)}, files: {len(paths)}"
        raise click.UsageError(f"--lang: give one language for each file; found {found}")
    if len(set(langs)) != len(langs):
        raise click.UsageError("two files have the same language: join them into one, which has one perplexity")
    documents = options.pop("documents")
    if documents and options["protocol"] not in (None, "document"):
        raise click.UsageError(f"--documents and --protocol {options['protocol']} exclude each other")
    options["protocol"] = options["protocol"] or ("document" if documents else "sentence")
    documents = options["protocol"] == "document"
    if options["stride"] is not None and options["protocol"] == "stream":
        raise click.UsageError("--stride is not for --protocol stream: the windows of a stream do not overlap")
    if options["window"] is not None and options["protocol"] != "stream":
        raise click.UsageError("--window requires --protocol stream")
    if options["bootstrap"] is not None and options["protocol"] == "stream":
        raise click.UsageError("--bootstrap is not for --protocol stream: the rows of a stream are not independent")
    if compare is not None and Path("-") in paths:
        raise click.UsageError("--compare reads the rows twice, so it requires FILES instead of standard input")
    corpora = {
        lang: open_corpus([path], format=options["input_format"], column=options["column"])
        for lang, path in zip(langs, paths, strict=True)
    }
    from xlm.corpus.read_ahead import split_at_blank
    from xlm.scoring.perplexity import perplexity

    models = [model] if compare is None else [model, compare]
    opened = [model_source(name, options).open(signed=True) for name in models]
    with ExitStack() as stack, wrong_usage("stride", "window"):
        for corpus in corpora.values():
            stack.callback(corpus.close)
        results = [
            perplexity(
                each.model,
                each.tokenizer,
                {
                    lang: split_at_blank(corpus.texts()) if documents else corpus.texts()
                    for lang, corpus in corpora.items()
                },
                progress=None,
                **{name: options[name] for name in ("protocol", "window", "stride", "batch_size", "batch_tokens")},
            )
            for each in opened
        ]
    by_default = None if compare is None or options["protocol"] == "stream" else _RESAMPLES
    resamples = options["bootstrap"] or by_default
    columns = {**({} if compare is None else {"model": str}), **_COLUMNS, **({"documents": int} if documents else {})}
    if resamples is not None:
        columns |= {f"{name}_{end}": float for name in _WITH_INTERVAL for end in ("low", "high")}
    table = TableWriter(format=table_format)
    table.start(columns)
    rows = _rows(models, results, resamples=resamples, seed=options["seed"])
    table.write_rows([tuple(row.get(name) for name in columns) for row in rows])
    for each, result in zip(opened, results, strict=True):
        signature = each.signature(
            lang="+".join(langs),
            protocol=result.protocol if result.window is None else f"stream {result.window}",
            long="none" if result.stride is None else f"stride {result.stride}",
        )
        show_signature(signature, unknown=sum(language.unknown for language in result.languages))


def _rows(
    models: Sequence[str], results: Sequence[Perplexity], *, resamples: int | None, seed: int
) -> Iterator[dict[str, Cell]]:
    """Yield the cells of each row by column; without ``resamples``, no confidence intervals."""

    def bounds(interval: Callable[..., tuple[float, float]], *other: LanguagePerplexity) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        for name in () if resamples is None else _WITH_INTERVAL:
            low, high = interval(*other, name, resamples=resamples, seed=seed)
            cells |= {f"{name}_low": low, f"{name}_high": high}
        return cells

    for languages in zip(*(result.languages for result in results), strict=True):
        for model, each in zip(models, languages, strict=True):
            numbers = {name: getattr(each, name) for name in (*_COLUMNS, "documents")}
            yield {"model": model, **numbers, **bounds(each.interval)}
        if len(languages) == 2:
            first, second = languages
            differences = {name: getattr(first, name) - getattr(second, name) for name in _MEASURES}
            of_difference = bounds(first.difference_interval, second)
            yield {"model": "difference", "lang": first.lang, **differences, **of_difference}
    if len(results[0].languages) > 1:
        means = [result.perplexity for result in results]
        for model, mean in zip(models, means, strict=True):
            yield {"model": model, "lang": "mean", "perplexity": mean}
        if len(means) == 2:
            yield {"model": "difference", "lang": "mean", "perplexity": means[0] - means[1]}
