"""Continuations as a step of a pipeline of Ray Data."""

from __future__ import annotations

from typing import Any

from xlm._io.arguments import check_count, check_flags
from xlm.corpus.formats import import_pyarrow
from xlm.distributed.columns import check_free, column_of, texts_of, with_columns
from xlm.distributed.worker_model import WorkerModel
from xlm.errors import InputError, XLMError
from xlm.generation.text_generator import GeneratedText, Prompt, TextGenerator, decoding_options
from xlm.model.decoding.options import DecodingOptions


class Generator:
    """Continues a column of prompts; for ``Dataset.map_batches`` with ``batch_format="pyarrow"``.

    The model is loaded once, by the worker that the object is made on. All columns of a batch stay, each row once for
    each of its continuations. Further columns: ``continued`` (prompt and continuation, as one writes them), ``tokens``
    and ``ids`` (lists, of the continuation), ``logprobs`` (list, nats), ``logprob`` (their sum), ``stop`` (``eos``,
    ``max_new_tokens`` or ``positions``), ``seed``, ``score`` (what beams are ranked by), ``status`` (``ok``, or
    ``error: `` and why). A prompt that cannot be continued, a null, no text, too long a one or one whose scores are not
    finite, comes out once, without figures, and raises nothing.

    Args:
        model: As for ``Scorer``.
        lang: Name of the language of the prompts.
        column: Which column holds the prompts.
        line_column: Which column numbers the prompts, from 1. With it, what is drawn for a prompt depends on the seed
            and its number only, and is what ``xlm generate`` draws for the line of that number; without it, each batch
            draws anew and no seed can be given.
        continuation_lang: Language of what is generated; ``None`` for that of the prompts.
        seed: Of the samples; ``None`` for another one for each batch.
        greedy: Take the best token at each step instead of drawing one.
        num_beams: Search with so many beams instead of drawing.
        batch_size: Most prompts to run at a time.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: As for ``Scorer``.
        device: As for ``Scorer``.
        threads: As for ``Scorer``.
        **options: Of ``XLMWithLMHeadModel.generate``, such as ``max_new_tokens``; ``top_p`` is 0.9 when not given.

    Raises:
        XLMError: There is no such model, language, device or option, or a seed and no ``line_column``.
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
        check_flags(greedy=greedy)
        check_count(num_beams=num_beams, batch_size=batch_size)
        if seed is not None and line_column is None:
            raise InputError(
                "a seed needs the numbers of the prompts, which the draws depend on too",
                where="seed",
                remedy="line_column=NAME of a column that numbers them, from 1",
            )
        self._column, self._line_column, self._batch_size, self._seed = column, line_column, batch_size, seed
        opened = WorkerModel(
            model=model, lang=lang, preset=preset, codes=codes, dtype=dtype, device=device, threads=threads
        )
        tokenizer = opened.tokenizer()
        network = opened.fast(opened.network(), few_rows=True)
        chosen = decoding_options(greedy=greedy, num_beams=num_beams, **options)
        self._generator = TextGenerator(
            network, tokenizer, lang=lang, continuation_lang=continuation_lang, options=chosen
        )
        pyarrow, _ = import_pyarrow()
        text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
        self._fields = [
            ("continued", text),
            ("tokens", pyarrow.list_(text)),
            ("ids", pyarrow.list_(whole)),
            ("logprobs", pyarrow.list_(real)),
            ("logprob", real),
            ("stop", text),
            ("seed", whole),
            ("score", real),
            ("status", text),
        ]

    def __call__(self, batch: Any) -> Any:
        """Continues a batch.

        Args:
            batch: A ``pyarrow.Table``.

        Returns:
            A ``pyarrow.Table``: its rows, in order, with further columns.

        Raises:
            InputError: Something else, without a column that is named, or with one of a name that the result needs.
        """
        texts = texts_of(batch, self._column)
        check_free(batch, self._fields)
        numbers = range(1, len(texts) + 1) if self._line_column is None else column_of(batch, self._line_column)
        results: list[list[dict[str, Any]]] = [[] for _ in texts]
        prompts: dict[int, Prompt] = {}
        for place, (number, (text, problem)) in enumerate(zip(numbers, texts, strict=True)):
            try:
                prompts[place] = self._prompt(number if self._line_column is None else number.as_py(), text, problem)
            except InputError as error:
                results[place].append(_refused(error))
        (seed,) = DecodingOptions(seed=self._seed).row_seeds(1)
        places = list(prompts)
        for first in range(0, len(places), self._batch_size):
            together = places[first : first + self._batch_size]
            found = self._generator.generate_each([prompts[place] for place in together], seed=seed)
            for place, each in zip(together, found, strict=True):
                results[place] += [_refused(each)] if isinstance(each, XLMError) else map(_cells, each)
        return with_columns(batch, results, self._fields)

    def _prompt(self, number: object, text: str | None, problem: str | None) -> Prompt:
        if text is None:
            assert problem is not None
            raise InputError(problem)
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{self._line_column!r} is not a number from 1", found=repr(number))
        return self._generator.prompt(number, text, where=self._column)


def _refused(error: XLMError) -> dict[str, Any]:
    return {"status": f"error: {error.in_short}"}


def _cells(continued: GeneratedText) -> dict[str, Any]:
    found = continued.continuation
    return {
        "continued": continued.text,
        "tokens": continued.tokens,
        "ids": found.tokens,
        "logprobs": found.logprobs,
        "logprob": found.logprob,
        "stop": found.stop,
        "seed": found.seed,
        "score": found.score,
        "status": "ok",
    }
