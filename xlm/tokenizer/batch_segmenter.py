"""Many texts at once: what is new in them is worked out together, in arrays, before the texts are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from xlm.tokenizer.moses import Moses
from xlm.tokenizer.remembered import MARK, Memory
from xlm.tokenizer.segmenter import WINDOW, Segmenter

if TYPE_CHECKING:
    from xlm.tokenizer.batch_arrays import Array
    from xlm.tokenizer.batch_tables import BatchTables
    from xlm.tokenizer.rows import Rows

T = TypeVar("T")

# Of texts that are worked out together: a chunk that is new takes some 500 bytes meanwhile.
_MOST_CHARACTERS = 1 << 21
_MOST_CHUNKS = 1 << 18
_FEW = 1 << 12  # characters, up to which one text after the other is faster


class OfWords(Protocol):
    """Gives what is asked for of many words."""

    @property
    def dtype(self) -> str:
        """That of the values."""
        ...

    def __call__(self, words: Sequence[str]) -> tuple[Array, Array]:
        """Returns the values of words (S,), one word after the other, and how many each word has (W,)."""
        ...


class BatchSegmenter(Segmenter[T]):
    """A segmenter that also takes many texts at once.

    Args:
        rules: As for ``Segmenter``.
        fold_words: As for ``Segmenter``.
        of_word: As for ``Segmenter``.
        of_words: Gives the same as ``of_word`` for each of many words.
        memory: As for ``Segmenter``.
    """

    def __init__(
        self,
        rules: Moses,
        *,
        fold_words: bool,
        of_word: Callable[[str], Sequence[T]],
        of_words: OfWords,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(rules, fold_words=fold_words, of_word=of_word, memory=memory)
        self._of_new_words = of_words
        self._tables = _AtRest()
        self._memory.add(self._tables)

    def of_texts(self, texts: Sequence[str]) -> Rows:
        """Returns what is asked for of all pieces of each text."""
        from xlm.tokenizer.rows import Rows

        dtype = self._of_new_words.dtype
        if sum(map(len, texts)) <= _FEW:
            return Rows.of([self(text) for text in texts], dtype)
        parts = [
            Rows.of([self(text) for text in some], dtype) if _goes_alone(some[0]) else self._at_once(some)
            for some in _together(texts)
        ]
        return Rows.joined(parts)

    def _at_once(self, texts: Sequence[str]) -> Rows:
        from xlm.tokenizer.rows import Rows

        tables = self._tables.take() or self._make_tables()
        rows = Rows(*tables.of_texts(texts))
        # Only here, after all went well: tables of which a part is missing must not be used again.
        if not self._memory.has_room(len(tables)):
            self._memory.forget()
        if self._memory.has_room(len(tables)):
            self._tables.put_back(tables)
        return rows

    def _make_tables(self) -> BatchTables:
        # Here, since numpy takes longer to import than a tokenizer to load.
        from xlm.tokenizer.batch_shapes import BatchShapes
        from xlm.tokenizer.batch_tables import BatchTables

        return BatchTables(
            BatchShapes(self._rules, self._shapes, words=self._unit_words, words_by_rules=self._unit_words_by_rules),
            starts_freely=self._starts_freely,
            ends_freely=self._ends_freely,
            kind=self._kind,
            fold_words=self._fold_words,
            of_words=self._of_new_words,
            dtype=self._of_new_words.dtype,
        )


class _AtRest:
    """Holds tables while nobody uses them; who takes them has them alone, so that threads do not meet in them."""

    def __init__(self) -> None:
        self._tables: list[BatchTables] = []

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def clear(self) -> None:
        """Forgets everything."""
        self._tables.clear()

    def take(self) -> BatchTables | None:
        """Returns the tables, which are here no longer; None if there are none, or somebody else has them."""
        try:
            return self._tables.pop()
        except IndexError:
            return None

    def put_back(self, tables: BatchTables) -> None:
        """Takes tables back, instead of others that somebody has put here meanwhile."""
        self._tables[:] = [tables]


def _together(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields texts that are worked out together, not too many; one that cannot be, by itself."""
    some: list[str] = []
    characters = chunks = 0
    for text in texts:
        alone = _goes_alone(text)
        characters += len(text)
        chunks += text.count(" ") + 1
        if some and (alone or characters > _MOST_CHARACTERS or chunks > _MOST_CHUNKS):
            yield some
            some, characters, chunks = [], len(text), text.count(" ") + 1
        some.append(text)
        if alone:
            yield some
            some, characters, chunks = [], 0, 0
    if some:
        yield some


def _goes_alone(text: str) -> bool:
    return len(text) > WINDOW or MARK in text
