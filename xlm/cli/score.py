"""``xlm score``: rows of text to log-probabilities."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import engines, inputs, run_on_ray, uses_ray, worker_model
from xlm.cli._lines import show_signature
from xlm.cli._options import TEXT_FILES, model_source, one_language, open_corpus, scoring, scoring_options, wrong_usage
from xlm.cli._progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xlm._io.resumable import ResumableFile
    from xlm.corpus.rows import Corpus, Row
    from xlm.scoring.sentence import Scorer
    from xlm.scoring.signature import Signature
    from xlm.scoring.table import ScoredLines, ScoreTable


@click.command(name="score", short_help="Log-probability of each line, word or token of texts.")
@click.argument("model")
@click.argument("files", nargs=-1, type=TEXT_FILES)
@one_language
@scoring
@click.option(
    "--by",
    type=click.Choice(["sentence", "word", "token"]),
    default="sentence",
    show_default=True,
    help="What one row of output is.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tsv", "jsonl", "parquet"]),
    default="tsv",
    show_default=True,
    help="tsv: a header line, then tab-separated rows; a cell that holds a quote, a tab or a line end stands in "
    "double quotes, its own doubled. jsonl: the same columns as one JSON object a line. parquet: the same, with all "
    "digits; needs --output.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write there, not to stdout."
)
@click.option("--resume", is_flag=True, help="Go on with the --output, or --output-dir, of a run that was cut off.")
@click.option("--bits", is_flag=True, help="Add the surprisal in bits, -logprob / log 2.")
@click.option("--ranks", is_flag=True, help="Add each token's rank, 1 the most likely; --by token only.")
@click.option(
    "--entropy", "entropies", is_flag=True, help="Add the entropy of each prediction in nats; --by token only."
)
@click.option(
    "--too-long",
    type=click.Choice(["windows", "refuse"]),
    default="windows",
    show_default=True,
    help="What to do with a text that is longer than the model's positions.",
)
@click.option(
    "--read-ahead",
    type=click.IntRange(1),
    help="Rows to read before the first of them is scored: those of one length share a batch. 1: each at once.  "
    "[default: 4096, and 1 for lines typed at a terminal]",
)
@click.option("--progress/--no-progress", default=None, help="Show progress.  [default: on a terminal]")
@engines()
def command(model: str, files: tuple[Any, ...], by: str, form: str, **options: Any) -> None:
    r"""Write the log-probability of each row of FILES, or of standard input, in nats (natural logarithms).

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILES are UTF-8 text, one sentence a line (a line ends at a line feed, with or without a carriage
    return in front); JSON lines (.jsonl), CSV (.csv), TSV (.tsv) or Parquet (.parquet) with a column of text; all but
    the last also compressed (.gz). Each row is scored by itself. The opening token is given; what is predicted, and
    counted under "tokens", is every token of the row and the closing </s>, so an empty row counts 1. Every row of
    input has its row of output (by word or token, one or more), in order. The last column, "status", says "ok",
    "empty", "long: N windows", or "error: " and why the row has no figures.

    \b
    Columns, after "file" where there are several:
        --by sentence: line (from 1), tokens, logprob (their sum), unknown, text, status
        --by word:     line (from 1), word (from 1), start, end (characters of the row), tokens, logprob, unknown,
                       text, status
        --by token:    line (from 1), position (from 1), id, token, logprob, unknown, status
    "line" is the number of the row in its file, a header not counted: the line's number in plain text and JSON lines.
    A word is what stands between spaces, its punctuation with it; the closing </s> is a row of its own, at the end.
    "unknown" counts the tokens of a sentence that are <unk>, which stands for what the vocabulary lacks; of a token,
    and of a word with any such token, it is 1, else 0 (true and false with --format jsonl).

    With --output, results are in FILE.part until all are there. A run that was cut off, even killed, goes on with
    --resume, on the same kind of processor, and writes the same bytes that it would have written at once; where FILE is
    finished, --resume reads the input again to see that it is the same. Beside FILE, FILE.meta.json says what it was
    made with; the same signature goes to standard error at the end, with the number of tokens that were <unk>.

    With --engine ray, a cluster does the work, on any number of files; each row is scored as here, digit for digit on
    the same kind of processor. Results are in --output-dir, by --resume also those of a run that was cut off.

    \b
    Example:
        echo "Wikipedia was used to" | xlm score xlm-clm-ende-small --lang en --by token
        xlm score MODEL --lang de news.de.gz --output news.tsv --resume
    """
    if (options["ranks"] or options["entropies"]) and by != "token":
        raise click.UsageError("--ranks and --entropy go with --by token")
    if options["read_ahead"] is None:
        from xlm.corpus.read_ahead import READ_AHEAD

        typed = files in ((), (Path("-"),)) and options["output"] is None and sys.stdin.isatty()
        options["read_ahead"] = 1 if typed else READ_AHEAD
    if uses_ray(only_local=("output", "device")):
        _on_ray(model, files, by=by, form=form, options=options)
        return
    output: Path | None = options["output"]
    if output is None and (options["resume"] or form == "parquet"):
        raise click.UsageError("--resume and --format parquet need --output")
    if output is not None:
        _refuse_inputs(output, files)
    corpus = open_corpus(files or (Path("-"),), form=options["input_format"], column=options["column"])
    table = _table(by, form, files=len(files) > 1, options=options)
    opened = model_source(model, options, lang=options["lang"]).open(offsets=by == "word", signed=True)
    from xlm.scoring.sentence import Scorer

    with wrong_usage("stride"):
        scorer = Scorer(opened.model, opened.tokenizer, lang=options["lang"], options=scoring_options(options))
    made_with = opened.signature(lang=scorer.lang, long=scorer.long_texts)
    run = _Run(scorer, corpus, table, options)
    with closing(corpus):
        if output is None:
            run.to_stdout()
        else:
            run.to_file(output, made_with)
    show_signature(made_with, unknown=run.unknown)
    if run.problems:
        click.echo(f"{run.problems:,} rows could not be scored; their column status says why", err=True)
    if corpus.damaged:
        raise click.ClickException(f"read only in part, the rest being damaged: {', '.join(corpus.damaged)}")


def _on_ray(model: str, names: tuple[str, ...], *, by: str, form: str, options: dict[str, Any]) -> None:
    files = inputs(names, form=options["input_format"], column=options["column"])
    from xlm.distributed.tasks import ScoreTask

    task = ScoreTask(
        model=worker_model(model, lang=options["lang"], options=options),
        table=_table(by, form, files=len(files) > 1, options=options),
        options=scoring_options(options),
        read_at_once=options["read_ahead"],
    )
    with wrong_usage("stride"):
        identity = task.identity()
    run_on_ray(task, files, identity, form=options["input_format"], column=options["column"], options=options)


def _table(by: str, form: str, *, files: bool, options: dict[str, Any]) -> ScoreTable:
    from xlm.scoring.table import ScoreTable

    return ScoreTable(
        unit=by,
        format=form,
        files=files,
        bits=options["bits"],
        ranks=options["ranks"],
        entropies=options["entropies"],
    )


def _refuse_inputs(output: Path, files: tuple[Path, ...]) -> None:
    from xlm._io.resumable import real_target, written_beside

    written = [path for path in written_beside(real_target(output)) if path.exists()]
    for file in files:
        if file.exists() and any(file.samefile(path) for path in written):
            raise click.UsageError(f"--output {output} would overwrite an input: {file}")


class _Run:
    """One pass over a corpus."""

    def __init__(self, scorer: Scorer, corpus: Corpus, table: ScoreTable, options: dict[str, Any]) -> None:
        self._scorer, self._corpus, self._table, self._options = scorer, corpus, table, options
        self.problems = self.unknown = 0

    def to_stdout(self) -> None:
        click.echo(self._table.header.encode(), nl=False)
        for _, lines in self._windows(self._corpus):
            click.echo(lines.data, nl=False)
            sys.stdout.flush()

    def to_file(self, output: Path, made_with: Signature) -> None:
        from dataclasses import asdict

        import torch

        from xlm._io.resumable import ResumableFile
        from xlm.corpus.read_ahead import check_same_rows
        from xlm.inference.loading import processor_name

        named = ("by", "form", "column", "input_format", "batch_size", "batch_tokens", "read_ahead")
        options = {**self._options, "by": self._table.unit, "form": self._table.format}
        identity = {
            "signature": str(made_with),
            **asdict(made_with),
            **{name: options[name] for name in named},
            "processor": processor_name(self._scorer.model.device),
            "columns": list(self._table.columns),
            "inputs": self._corpus.sizes,
        }
        file = ResumableFile(
            output, identity=identity, threads=torch.get_num_threads(), resume=bool(self._options["resume"])
        )
        self.problems, self.unknown = file.problems, file.unknown
        if file.complete:
            check_same_rows(self._corpus, done=file.rows, digest=file.digest)
            click.echo(f"{output} is complete already", err=True)
            return
        if file.threads != torch.get_num_threads():
            torch.set_num_threads(file.threads)  # sums split among other threads end in other digits
        try:
            self._fill(file)
        finally:
            file.close()
        if self._table.format == "parquet":
            metadata = {"xlm.signature": str(made_with)}
            file.finish(convert=lambda lines, target: self._table.write_parquet(lines, target, metadata=metadata))
        else:
            file.finish()

    def _fill(self, file: ResumableFile) -> None:
        from xlm.corpus.read_ahead import RowsDigest

        if not file.size:
            file.append(self._table.header.encode(), rows=0, digest="")
        digest = RowsDigest()
        rows = digest.skip(self._corpus, done=file.rows, digest=file.digest)
        for window, lines in self._windows(rows, done=file.rows):
            file.append(
                lines.data,
                rows=len(window),
                digest=digest.update(window),
                problems=lines.problems,
                unknown=lines.unknown,
            )

    def _windows(self, rows: Iterable[Row], *, done: int = 0) -> Iterator[tuple[list[Row], ScoredLines]]:
        from xlm.corpus.read_ahead import windows
        from xlm.scoring.table import scored_lines

        progress = Progress(shown=self._options["progress"], total=sum(size for _, size in self._corpus.sizes))
        progress.start(rows=done)
        for window in windows(rows, read_at_once=self._options["read_ahead"]):
            lines = scored_lines(self._scorer, window, self._table)
            yield window, lines
            self.problems += lines.problems
            self.unknown += lines.unknown
            progress.update(rows=len(window), tokens=lines.tokens, read=self._corpus.bytes_read())
        progress.end()
