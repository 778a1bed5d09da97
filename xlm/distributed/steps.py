"""Steps of Ray Data pipelines: callable classes for ``Dataset.map_batches``.

``Tokenizer`` does not need torch. ``Scorer`` and ``Generator`` import it when they are created.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xlm._io.arguments import check_choice, check_count, check_flags, shown
from xlm.corpus.formats import arrow_text, import_pyarrow
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.errors import InputError, XLMError
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.tokenizer.tokenizer import XLMTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.generation.text_generator import GeneratedText

_OUTPUTS = ("tokens", "ids")

Cells = dict[str, Any]
"""New cells of one row, by column; a column without an entry gets null."""


class _Step(ABC):
    """A step that adds columns to tables.

    Args:
        column: The column that holds the texts.
        fields: The new columns in order, each with its Arrow type.
    """

    def __init__(self, column: str, fields: list[tuple[str, Any]]) -> None:
        self._column, self._fields = column, fields

    def __call__(self, batch: Any) -> Any:
        """Add columns to a batch.

        Args:
            batch: A ``pyarrow.Table``.

        Returns:
            A ``pyarrow.Table``: the rows of the batch, in order, with further columns.

        Raises:
            InputError: The batch is not a table, lacks the column, or already has a column with the name of a new one.
        """
        pyarrow, _ = import_pyarrow()
        texts = [arrow_text(value, self._column) for value in _cells(batch, self._column)]
        rows = [Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(texts, start=1)]
        taken = [name for name, _ in self._fields if name in batch.column_names]
        if taken:
            raise InputError(
                "the dataset already has a column with the name of a new one",
                where="columns",
                found=", ".join(map(repr, taken)),
                remedy="rename that column with Dataset.rename_columns",
            )
        results = self._results(batch, rows)
        if any(len(of_row) != 1 for of_row in results):
            batch = batch.take([index for index, of_row in enumerate(results) for _ in of_row])
        for name, arrow_type in self._fields:
            column = pyarrow.array([cells.get(name) for of_row in results for cells in of_row], type=arrow_type)
            batch = batch.append_column(name, column)
        return batch

    @abstractmethod
    def _results(self, batch: Any, rows: list[Row]) -> Sequence[Sequence[Cells]]:
        """Return, for each row, its results as new cells. The row is repeated once for each result."""


def _cells(batch: Any, name: str) -> Any:
    pyarrow, _ = import_pyarrow()
    if not isinstance(batch, pyarrow.Table):
        raise InputError(
            "the batch is not an Arrow table",
            where="map_batches",
            found=type(batch).__name__,
            expected="pyarrow.Table",
            remedy='pass batch_format="pyarrow" to map_batches',
        )
    if not isinstance(name, str) or batch.column_names.count(name) != 1:
        raise InputError(
            "the dataset has no column with this name, or several",
            where="column",
            found=", ".join(map(repr, batch.column_names)),
            expected=shown(name),
        )
    return batch.column(name)


class Tokenizer(_Step):
    """Pipeline step that adds the tokens or ids of a column of texts.

    Pass the class to ``Dataset.map_batches`` with ``batch_format="pyarrow"``; each worker loads the tokenizer once. All
    columns of a batch stay. The new columns are ``tokens`` (list of strings, in ``</w>`` notation) or ``ids`` (list of
    int64, with the special tokens at both ends), which are null in a row without a text; and ``status``: ``ok``, or
    ``error: `` and the reason.

    Args:
        model: As for ``Scorer``.
        lang: Name of the language of the texts.
        column: Column that holds the texts.
        output: ``"tokens"`` or ``"ids"``.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.

    Raises:
        XLMError: There is no such model, language or output.
    """

    def __init__(
        self,
        model: str,
        *,
        lang: str,
        column: str = "text",
        output: str = "ids",
        preset: str | None = None,
        codes: str | None = None,
    ) -> None:
        check_choice("output", _OUTPUTS, output=output)
        pyarrow, _ = import_pyarrow()
        self._lang, self._output = lang, output
        item = pyarrow.string() if output == "tokens" else pyarrow.int64()
        super().__init__(column, [(output, pyarrow.list_(item)), ("status", pyarrow.string())])
        self._tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
        self._tokenizer("", lang=lang)

    def _results(self, batch: Any, rows: list[Row]) -> Sequence[Sequence[Cells]]:
        texts = [row.text for row in rows if row.text is not None]
        if self._output == "tokens":
            results: Any = iter(self._tokenizer.tokenize_batch(texts, self._lang))
        else:
            results = iter(self._tokenizer.encode_batch(texts, lang=self._lang))
        return [
            [{"status": f"error: {row.problem}"} if row.text is None else {self._output: next(results), "status": "ok"}]
            for row in rows
        ]


class Scorer(_Step):
    """Pipeline step that adds the log-probabilities of a column of texts.

    Pass the class to ``Dataset.map_batches`` with ``batch_format="pyarrow"``; each worker loads the model once. All
    columns of a batch stay. Texts of equal length share a model batch. A row whose text is missing or cannot be scored
    gets a ``status`` with the reason and no numbers. The new columns are those of ``xlm score``:

    - ``by="sentence"``: ``tokens``, ``logprob``, ``unknown`` (number of tokens that are ``<unk>``), ``status``;
    - ``by="word"``: each row once for each word, ``word`` (from 1), ``start`` and ``end`` (in characters of the
      text; for the closing ``</s>``, both are the length of the text), ``tokens``, ``logprob``, ``rank``, ``entropy``,
      ``entropy_reduction`` and ``top`` of its first token if requested, ``unknown`` (whether any token of the word is
      ``<unk>``), ``status``;
    - ``by="token"``: each row once for each token, ``position`` (from 1), ``id``, ``token``, ``logprob``, ``rank``,
      ``entropy`` and ``top`` if requested, ``unknown``, ``status``.

    ``top`` is JSON, as in Parquet files of ``xlm score``.

    Args:
        model: A model directory or a checkpoint of the original, under a path that every worker sees; the bundled
            ``xlm-clm-ende-small``; or an id on the Hugging Face hub.
        lang: Name of the language of the texts.
        column: Column that holds the texts.
        by: ``"sentence"``, ``"word"`` or ``"token"``.
        unit: Unit of all log-probabilities and entropies, ``"nats"`` or ``"bits"``.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` (CPU only), or ``auto`` for the type in the file.
        device: Where to compute; ``None`` means the worker's GPU if it has one, else the CPU.
        threads: Number of torch threads; ``None`` for as many as the worker has CPUs.
        **options: As for ``xlm.score``; ``ranks``, ``entropies`` and ``top`` require another ``by`` than
            ``"sentence"``.

    Raises:
        XLMError: There is no such model, language, device or option.

    Example:
        ``dataset.map_batches(Scorer, fn_constructor_kwargs={"model": "xlm-clm-ende-small", "lang": "en"},
        batch_format="pyarrow", batch_size=4096, concurrency=8)``
    """

    @shows_scoring_options
    def __init__(
        self,
        model: str,
        *,
        lang: str,
        column: str = "text",
        by: str = "sentence",
        unit: str = "nats",
        preset: str | None = None,
        codes: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
        **options: Unpack[ScoringKeywords],
    ) -> None:
        from xlm.distributed.tasks import WorkerModel
        from xlm.scoring.layout import Layout
        from xlm.scoring.scorer import Scorer as TextScorer
        from xlm.scoring.table import ScoreTable

        chosen = ScoringOptions(**options)
        self._table = ScoreTable(
            unit=by,
            format="parquet",
            log_unit=unit,
            ranks=chosen.ranks,
            entropies=chosen.entropies,
            top=chosen.top > 0,
        )
        super().__init__(column, [field for field in self._table.arrow_fields() if field[0] not in ("line", "text")])
        source = WorkerModel(
            model=model, lang=lang, preset=preset, codes=codes, dtype=dtype, device=device, threads=threads
        )
        pair = source.open(offsets=by == "word")
        self._layout = Layout(lang=lang)
        self._scorer = TextScorer(pair.model, pair.tokenizer, lang=lang, options=chosen)

    def _results(self, batch: Any, rows: list[Row]) -> Sequence[Sequence[Cells]]:
        results: list[list[Cells]] = [[] for _ in rows]
        for window in windows(rows):
            groups = list(self._layout.groups(window))
            for text in self._layout.scores(self._scorer, groups, self._table.cells_of):
                for row, cells in self._table.rows(text):
                    if cells.get("top") is not None:
                        cells["top"] = self._table.top_cell(cells["top"])
                    results[row.number - 1].append(cells)
        return results


class Generator(_Step):
    """Pipeline step that continues a column of prompts.

    Pass the class to ``Dataset.map_batches`` with ``batch_format="pyarrow"``; each worker loads the model once. All
    columns of a batch stay, and each row appears once for each of its continuations. The new columns are ``continued``
    (prompt and continuation as readable text), ``tokens`` and ``ids`` (lists, of the continuation), ``logprobs`` (list,
    nats), ``logprob`` (their sum), ``stop`` (``eos``, ``max_new_tokens`` or ``positions``), ``seed``, ``score`` (by
    which beams are ranked) and ``status`` (``ok``, or ``error: `` and the reason). A row whose prompt is missing or
    cannot be continued appears once, with a ``status`` and no numbers.

    Args:
        model: As for ``Scorer``.
        lang: Name of the language of the prompts.
        column: Column that holds the prompts.
        line_column: Column that numbers the prompts, from 1. With it, the samples of a prompt depend only on the seed
            and the prompt's number, and equal those of ``xlm generate`` for the line with that number. Without it,
            each batch has a random seed.
        continuation_lang: Language of the continuations; ``None`` for that of the prompts.
        seed: Seed of the samples, which requires ``line_column``; ``None`` for a random seed for each batch.
        greedy: Whether to take the most likely token at each step instead of sampling.
        num_beams: Number of beams; more than 1 means beam search instead of sampling.
        batch_size: Maximum number of prompts in a model batch.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: As for ``Scorer``.
        device: As for ``Scorer``.
        threads: As for ``Scorer``.
        **options: Options of ``XLMWithLMHeadModel.generate``, such as ``max_new_tokens``; ``top_p`` defaults to 0.9.

    Raises:
        XLMError: There is no such model, language, device or option, or there is a seed without ``line_column``.
    """

    def __init__(
        self,
        model: str,
        *,
        lang: str,
        column: str = "text",
        line_column: str | None = None,
        continuation_lang: str | None = None,
        seed: int | None = None,
        greedy: bool = False,
        num_beams: int = 1,
        batch_size: int = 16,
        preset: str | None = None,
        codes: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        from xlm.distributed.tasks import WorkerModel
        from xlm.generation.text_generator import TextGenerator, decoding_options

        check_flags(greedy=greedy)
        check_count(num_beams=num_beams, batch_size=batch_size)
        if seed is not None and line_column is None:
            raise InputError(
                "a seed needs numbered prompts, since the samples depend on both",
                where="seed",
                remedy="line_column=NAME of a column that numbers the prompts, from 1",
            )
        self._line_column, self._batch_size, self._seed = line_column, batch_size, seed
        source = WorkerModel(
            model=model, lang=lang, preset=preset, codes=codes, dtype=dtype, device=device, threads=threads
        )
        pair = source.open(few_rows=True)
        self._generator = TextGenerator(
            pair.model,
            pair.tokenizer,
            lang=lang,
            continuation_lang=continuation_lang,
            options=decoding_options(greedy=greedy, num_beams=num_beams, **options),
        )
        pyarrow, _ = import_pyarrow()
        text, integer, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
        fields = [
            ("continued", text),
            ("tokens", pyarrow.list_(text)),
            ("ids", pyarrow.list_(integer)),
            ("logprobs", pyarrow.list_(real)),
            ("logprob", real),
            ("stop", text),
            ("seed", integer),
            ("score", real),
            ("status", text),
        ]
        super().__init__(column, fields)

    def _results(self, batch: Any, rows: list[Row]) -> Sequence[Sequence[Cells]]:
        from xlm.distributed.tasks import continue_rows
        from xlm.model.decoding.options import DecodingOptions

        if self._line_column is not None:
            numbers = _cells(batch, self._line_column)
            rows = [self._numbered(row, number.as_py()) for row, number in zip(rows, numbers, strict=True)]
        (seed,) = DecodingOptions(seed=self._seed).row_seeds(1)
        return [
            [{"status": f"error: {result.in_short}"}] if isinstance(result, XLMError) else list(map(_generated, result))
            for result in continue_rows(self._generator, rows, seed=seed, batch_size=self._batch_size)
        ]

    def _numbered(self, row: Row, number: object) -> Row:
        if row.text is None:
            return row
        if not isinstance(number, int) or number < 1:
            return row._replace(text=None, problem=f"{self._line_column!r} is not an integer from 1 up: {number!r}")
        return row._replace(number=number)


def _generated(text: GeneratedText) -> Cells:
    continuation = text.continuation
    names = ("logprobs", "logprob", "stop", "seed", "score")
    return {
        "continued": text.text,
        "tokens": text.tokens,
        "ids": continuation.tokens,
        **{name: getattr(continuation, name) for name in names},
        "status": "ok",
    }
