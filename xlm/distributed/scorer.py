"""Scores as a step of a pipeline of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xlm._io.arguments import check_choice, check_flags
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.distributed.columns import check_free, texts_of, with_columns
from xlm.distributed.worker_model import WorkerModel
from xlm.errors import InputError
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.sentence import Scorer as WindowScorer
from xlm.scoring.table import UNITS, ScoreTable, results_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

_OF_INPUT = ("line", "text")


class Scorer:
    """Adds the log-probabilities of a column of texts; for ``Dataset.map_batches`` with ``batch_format="pyarrow"``.

    The model is loaded once, by the worker that the object is made on. All columns of a batch stay; texts of one
    length share a batch of the model's. A text that cannot be scored, a null or no text, gets a ``status`` that says
    why and no figures; it raises nothing. Further columns are those of ``xlm score``:

    - ``by="sentence"``: ``tokens``, ``logprob``, ``unknown`` (how many tokens are ``<unk>``), ``status``;
    - ``by="word"``: each row once for each word, ``word`` (from 1), ``start`` and ``end`` (characters of the text; both
      are its length for the closing ``</s>``), ``tokens``, ``logprob``, ``unknown`` (whether any of the tokens is
      ``<unk>``), ``status``;
    - ``by="token"``: each row once for each token, ``position`` (from 1), ``id``, ``token``, ``logprob``, ``rank`` and
      ``entropy`` where they are asked for, ``unknown``, ``status``.

    ``logprob`` and ``entropy`` are nats; ``bits``, where asked for, is the surprisal ``-logprob / log 2``.

    Args:
        model: A model directory or a checkpoint of the original, under a path that every worker sees; the bundled
            ``xlm-clm-ende-small``; or an id on the Hugging Face hub.
        lang: Name of the language of the texts.
        column: Which column holds the texts.
        by: ``"sentence"``, ``"word"`` or ``"token"``.
        bits: Also give the surprisal in bits.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8`` (CPU only), or ``auto`` for what the file holds.
        device: Where to compute; ``None`` means the worker's GPU where it was given one, else the CPU.
        threads: Threads of torch; ``None`` leaves as many as the worker was given CPUs.
        **options: As for ``xlm.score``; ``ranks`` and ``entropies`` by token only, and no ``top``.

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
        bits: bool = False,
        preset: str | None = None,
        codes: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
        **options: Unpack[ScoringKeywords],
    ) -> None:
        check_choice("unit", UNITS, by=by)
        check_flags(bits=bits)
        chosen = ScoringOptions(**options)
        if chosen.top:
            raise InputError("these tables have no column of alternatives", where="top", found=chosen.top, expected="0")
        self._column = column
        self._table = ScoreTable(unit=by, format="parquet", bits=bits, ranks=chosen.ranks, entropies=chosen.entropies)
        self._fields = [field for field in self._table.arrow_fields() if field[0] not in _OF_INPUT]
        opened = WorkerModel(
            model=model, lang=lang, preset=preset, codes=codes, dtype=dtype, device=device, threads=threads
        )
        pair = opened.open(offsets=by == "word")
        self._scorer = WindowScorer(pair.model, pair.tokenizer, lang=lang, options=chosen)

    def __call__(self, batch: Any) -> Any:
        """Scores a batch.

        Args:
            batch: A ``pyarrow.Table``.

        Returns:
            A ``pyarrow.Table``: its rows, in order, with further columns.

        Raises:
            InputError: Something else, without the column of texts, or with one of a name that the result needs.
        """
        texts = texts_of(batch, self._column)
        check_free(batch, self._fields)
        rows = [
            Row(file="", number=number, text=text, problem=problem)
            for number, (text, problem) in enumerate(texts, start=1)
        ]
        return with_columns(batch, list(self._results(rows)), self._fields)

    def _results(self, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        for window in windows(rows):
            for row, result in zip(window, results_of(self._scorer, window), strict=True):
                yield list(self._table.cells(row, result))
