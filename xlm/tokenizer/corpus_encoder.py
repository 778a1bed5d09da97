"""Many texts to pieces and ids: the same as one by one, faster, in several processes and as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from xlm.tokenizer.batches import in_batches
from xlm.tokenizer.parallel import in_order
from xlm.tokenizer.settings import TokenizerSettings, check_flag

if TYPE_CHECKING:
    from xlm.tokenizer.rows import Rows


class CorpusEncoder(TokenizerSettings):
    """Encodes any number of texts."""

    def encode_batch(
        self, texts: Iterable[str], *, lang: str | None = None, workers: int = 1, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Returns the ids of each text, as ``encode`` does.

        Args:
            texts: Any number of texts.
            lang: As for ``tokenize``, for all of them.
            workers: How many processes share the work.
            add_special_tokens: As for ``encode``.

        Raises:
            InputError: A text is not a str, ``texts`` is a single one, or there are no workers.
            LanguageError: The model does not have the language, or it is missing.
            DependencyError: The library that divides the language into words is not installed.
            XLMError: A worker process was killed; one of the above.
        """
        return list(self.encode_stream(texts, lang=lang, workers=workers, add_special_tokens=add_special_tokens))

    def encode_stream(
        self, texts: Iterable[str], *, lang: str | None = None, workers: int = 1, add_special_tokens: bool = True
    ) -> Iterator[list[int]]:
        """Returns an iterator over the ids of each text, as ``encode_batch`` does; for more than memory can hold.

        Args:
            texts: Any number of texts, read as they are needed, tens of thousands ahead for each worker.
            lang: As for ``encode_batch``.
            workers: As for ``encode_batch``.
            add_special_tokens: As for ``encode``.

        Raises:
            XLMError: As for ``encode_batch``; what a text causes, after the results of those before it.
        """
        check_flag("add_special_tokens", add_special_tokens)
        encode = partial(self._encode_each, lang=lang, add_special_tokens=add_special_tokens)
        listed = self._pipeline.lists_of_ids  # here and not in the workers: arrays are quick to hand over
        return chain.from_iterable(map(listed, in_order(encode, in_batches(texts), workers=workers)))

    def tokenize_batch(self, texts: Iterable[str], lang: str | None = None) -> list[list[str]]:
        """Returns the pieces of each text, as ``tokenize`` does; faster for many texts.

        Args:
            texts: Any number of texts.
            lang: As for ``tokenize``, for all of them.

        Raises:
            InputError: A text is not a str, or ``texts`` is a single one.
            LanguageError: The model does not have the language, or it is missing.
            DependencyError: The library that divides the language into words is not installed.
        """
        return [
            pieces for batch in in_batches(texts) for pieces in self._pipeline_for("", lang).pieces_of_each(batch, lang)
        ]

    def _encode_each(self, texts: Sequence[str], *, lang: str | None, add_special_tokens: bool) -> Rows:
        rows = self._pipeline_for("", lang).ids_of_each(texts, lang)
        return rows.between(self.bos_token_id, self.sep_token_id) if add_special_tokens else rows
