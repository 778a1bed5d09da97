"""One pass of a command over a corpus: rows of text to rows of a table, on standard output or in a resumable file."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from xlm._io.progress import ProgressBar
from xlm.cli._inputs import damaged_inputs, refuse_inputs
from xlm.cli._output import TableWriter

if TYPE_CHECKING:
    import torch

    from xlm._io.resumable import ResumableFile
    from xlm.corpus.rows import Corpus, Row
    from xlm.corpus.tables import OutputLines
    from xlm.scoring.signature import Signature


class Table(Protocol):
    """The form of the output."""

    @property
    def columns(self) -> Mapping[str, type]:
        """Types of the cells by column, in order."""
        ...

    @property
    def header(self) -> str:
        """The line before all rows, with its end; empty for formats without one."""
        ...


class CorpusRun:
    """One pass over a corpus.

    Attributes:
        problems: Number of rows without a result.
        counts: Further numbers about the rows, by name, as in ``OutputLines``.

    Args:
        corpus: The input.
        table: The form of the output.
        compute: Returns the lines of a window of rows.
        read_at_once: Maximum number of rows in a window.
        bar: Shows the rows that are done; ``compute`` may show the share of its window that is done.
        groups: As for ``xlm.corpus.read_ahead.windows``.
    """

    def __init__(
        self,
        corpus: Corpus,
        table: Table,
        compute: Callable[[list[Row]], OutputLines],
        *,
        read_at_once: int,
        bar: ProgressBar,
        groups: Callable[[Iterable[Row]], Iterable[list[Row]]] | None = None,
    ) -> None:
        self._corpus, self._table, self._compute = corpus, table, compute
        self._read_at_once, self._bar, self._groups = read_at_once, bar, groups
        self.problems = 0
        self.counts: Counter[str] = Counter()

    def write(
        self,
        output: Path | TableWriter,
        *,
        signature: Signature,
        settings: Mapping[str, Any],
        device: torch.device,
        resume: bool,
        convert: Callable[[Path, Path], None] | None = None,
    ) -> None:
        """Write the table to standard output or a file, or continue the interrupted run that did; close the corpus.

        Args:
            output: The file, or what writes to standard output, which needs none of the following.
            signature: The signature of the results.
            settings: What else the output depends on, except the input and the processor.
            device: Device that computes.
            resume: As for ``ResumableFile``.
            convert: As for ``ResumableFile.finish``.

        Raises:
            XLMError: As for ``ResumableFile``, or the input is not that of the interrupted run.
        """
        with closing(self._corpus):
            if isinstance(output, Path):
                identity = {"signature": str(signature), **asdict(signature), **settings}
                self._to_file(output, identity, device, resume=resume, convert=convert)
                return
            output.start(self._table.columns)
            for _, lines in self._windows(self._corpus):
                output.write_lines(lines.data)

    def _to_file(
        self,
        output: Path,
        identity: dict[str, Any],
        device: torch.device,
        *,
        resume: bool,
        convert: Callable[[Path, Path], None] | None,
    ) -> None:
        import torch

        from xlm._io.resumable import ResumableFile
        from xlm.corpus.read_ahead import check_same_rows
        from xlm.inference.loading import processor_name

        columns, sizes = list(self._table.columns), self._corpus.sizes
        identity |= {"processor": processor_name(device), "columns": columns, "inputs": sizes}
        file = ResumableFile(output, identity=identity, threads=torch.get_num_threads(), resume=resume)
        self.problems, self.counts = file.problems, Counter(file.counts)
        if file.complete:
            check_same_rows(self._corpus, done=file.rows, digest=file.digest)
            click.echo(f"{output} is already complete", err=True)
            return
        if file.threads != torch.get_num_threads():
            torch.set_num_threads(file.threads)  # another number of threads gives other last digits
        try:
            self._fill(file)
        finally:
            file.close()
        file.finish(convert=convert)

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
                counts=lines.counts,
            )

    def _windows(self, rows: Iterable[Row], *, done: int = 0) -> Iterator[tuple[list[Row], OutputLines]]:
        from xlm.corpus.read_ahead import windows

        bar, size = self._bar, sum(size for _, size in self._corpus.sizes)
        bar.done = done
        tokens, start = 0, time.monotonic()
        with bar, _frozen_heap():
            for window in bar.groups(windows(rows, read_at_once=self._read_at_once, groups=self._groups)):
                if read := size and self._corpus.bytes_read():
                    so_far = bar.done + len(window)
                    bar.total = max(so_far, round(so_far * size / read))
                lines = self._compute(window)
                tokens += lines.tokens
                bar.note = f"{tokens / max(time.monotonic() - start, 1e-9):,.0f} tokens/s"
                yield window, lines
                self.problems += lines.problems
                self.counts.update(lines.counts)


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Keep the garbage collector from the libraries and the model, which take 0.1 s a full collection."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def bar_of_rows(progress: bool | None, *, output: Path | None) -> ProgressBar:
    """Return the bar of a command: by default on a terminal, unless the results go there too.

    Args:
        progress: The option ``--progress``.
        output: File of the results; ``None`` for standard output.
    """
    if progress is None and output is None and sys.stdout.isatty():
        progress = False
    return ProgressBar(progress, unit="rows")


def check_output(output: Path, files: Iterable[Path]) -> None:
    """Raise ``UsageError`` if a resumable output file, or a file beside it, would overwrite an input."""
    from xlm._io.resumable import real_target, written_beside

    refuse_inputs(output, files, option="--output", written=written_beside(real_target(output)))


def raise_if_damaged(corpus: Corpus) -> None:
    """Raise ``ClickException`` if a file could only be read in part."""
    if corpus.damaged:
        raise click.ClickException(damaged_inputs(corpus.damaged))
