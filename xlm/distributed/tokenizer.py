"""Tokens and ids as a step of a pipeline of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from xlm._io.arguments import check_choice
from xlm.corpus.formats import import_pyarrow
from xlm.distributed.columns import check_free, texts_of, with_columns
from xlm.tokenizer.tokenizer import XLMTokenizer

_OUTPUTS = ("tokens", "ids")


class Tokenizer:
    """Adds the tokens or ids of a column of texts; for ``Dataset.map_batches`` with ``batch_format="pyarrow"``.

    The tokenizer is loaded once, by the worker that the object is made on. All columns of a batch stay. Further
    columns: ``tokens`` (list of strings, in ``</w>`` notation) or ``ids`` (list of int64, with the special tokens at
    both ends), null for a null and for what is no text; and ``status``, ``ok``, or ``error: `` and why.

    Args:
        model: As for ``Scorer``.
        lang: Name of the language of the texts.
        column: Which column holds the texts.
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
        self._column, self._lang, self._output = column, lang, output
        cells = pyarrow.string() if output == "tokens" else pyarrow.int64()
        self._fields = [(output, pyarrow.list_(cells)), ("status", pyarrow.string())]
        self._tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
        self._tokenizer("", lang=lang)

    def __call__(self, batch: Any) -> Any:
        """Tokenizes a batch.

        Args:
            batch: A ``pyarrow.Table``.

        Returns:
            A ``pyarrow.Table``: its rows, in order, with further columns.

        Raises:
            InputError: Something else, without the column of texts, or with one of a name that the result needs.
        """
        texts = texts_of(batch, self._column)
        check_free(batch, self._fields)
        found = self._found([text for text, _ in texts if text is not None])
        results = [
            [{"status": f"error: {problem}"} if text is None else {self._output: next(found), "status": "ok"}]
            for text, problem in texts
        ]
        return with_columns(batch, results, self._fields)

    def _found(self, texts: Sequence[str]) -> Iterator[object]:
        if self._output == "tokens":
            return iter(self._tokenizer.tokenize_batch(texts, self._lang))
        return iter(self._tokenizer.encode_batch(texts, lang=self._lang))
