"""Text to pieces and ids, with the names and the meaning that these methods have in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlm.errors import InputError
from xlm.tokenizer.encoding import MOST_PADDED, Encoding, check_form, collate, truncate, truncation_for
from xlm.tokenizer.rules import Span
from xlm.tokenizer.settings import TokenizerSettings, check_flag
from xlm.tokenizer.spans import word_numbers
from xlm.tokenizer.text_files import shown


class Encoder(TokenizerSettings):
    """Encodes a text, or a few."""

    def tokenize(self, text: str, lang: str | None = None) -> list[str]:
        """Returns the pieces of a text, in ``</w>`` notation; those that the vocabulary lacks are among them.

        Args:
            text: Any text.
            lang: The language whose rules to apply. None means what ``XLMTokenizer.tokenize`` of transformers does:
                English rules, and special tokens that stand in the text are recognised; the preset ``"original"``
                refuses it, unless ``preset_without_lang`` says otherwise. A language means what
                ``XLMTokenizer._tokenize(text, lang=…)`` does: the rules of that language, and all text is text.

        Raises:
            InputError: The text is not a str.
            LanguageError: The model does not have the language, or it is missing.
            DependencyError: The library that divides the language into words is not installed.
        """
        return self._pipeline_for(text, lang).pieces(text, lang)

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> list[int]:
        """Returns the ids of a text: ``bos_token``, its pieces, ``sep_token``.

        Args:
            text: Any text.
            text_pair: A second one, whose pieces and another ``sep_token`` follow.
            lang: As for ``tokenize``, for both.
            add_special_tokens: Whether to put ``bos_token`` before and ``sep_token`` after.
            truncation: Whether to cut off what goes beyond ``max_length``: True or ``"longest_first"`` from the
                longer of two texts first, ``"only_first"`` or ``"only_second"`` from one of them, False nothing. None
                means ``"longest_first"``, with a warning, where ``max_length`` is given, else False.
            max_length: How many ids there may be, special tokens included, which stay even where there is no room for
                them; None for ``model_max_length``.

        Raises:
            InputError: The text is not a str, or an unknown way of truncation.
            LanguageError: The model does not have the language, or it is missing.
            DependencyError: The library that divides the language into words is not installed.
        """
        check_flag("add_special_tokens", add_special_tokens)
        longest = self._longest(max_length)
        truncation = truncation_for(truncation, max_length=max_length)
        ids = self._pipeline_for(text, lang).ids(text, lang)
        pair = None if text_pair is None else self._pipeline_for(text_pair, lang).ids(text_pair, lang)
        if truncation:
            added = 0 if not add_special_tokens else 2 if pair is None else 3
            ids, pair = truncate(ids, pair, longest=longest - added, truncation=truncation)
        if not add_special_tokens:
            return ids if pair is None else ids + pair
        first = [self.bos_token_id, *ids, self.sep_token_id]
        return first if pair is None else [*first, *pair, self.sep_token_id]

    def _longest(self, max_length: int | None) -> int:
        if max_length is None:
            return self.model_max_length
        if type(max_length) is not int or max_length < 1:  # transformers takes 0 for no limit
            raise InputError(
                "The longest length is wrong",
                where="max_length",
                found=shown(max_length),
                expected="a number of ids above 0, or None for model_max_length",
            )
        return max_length

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_offsets: bool = False,
    ) -> Encoding:
        """Returns ``input_ids`` and ``attention_mask`` of a text or of several.

        Args:
            text: A text, or a list of texts.
            text_pair: A second text for each, as for ``encode``.
            lang: As for ``tokenize``, for all of them.
            add_special_tokens: As for ``encode``.
            padding: True or ``"longest"`` to pad on the right to the longest text, ``"max_length"`` to ``max_length``.
            truncation: As for ``encode``; None means False where there is padding.
            max_length: As for ``encode``.
            return_tensors: ``"pt"`` or ``"np"`` for int64 (B, T), B being 1 for a single text; None for lists.
            return_offsets: Whether to return ``offsets`` too, for each token the span of the raw text it came from
                (first character, one past the last), and ``word_ids``, the number of the word, counted from 0 between
                spaces, that it begins in. Special tokens that stand around the text have (0, 0) and None. Always
                lists, which are not padded; for single texts that are not truncated.

        Raises:
            InputError: A text is not a str, or the rows cannot be one tensor.
            LanguageError: The model does not have the language, or it is missing.
            DependencyError: The library that divides the language into words is not installed.
        """
        if isinstance(text, str) or not isinstance(text, Sequence):  # encode refuses what is neither
            texts: Sequence[str] = [text]
            pairs: Sequence[Any] = [text_pair]
        else:
            texts = text
            pairs = [None] * len(texts) if text_pair is None else text_pair
        is_list = isinstance(pairs, Sequence) and not isinstance(pairs, str)
        if not is_list or len(pairs) != len(texts):
            raise InputError(
                "There is not one second text for each first",
                where="text_pair",
                found=f"{len(pairs)} texts" if is_list else f"a {type(pairs).__name__}",
                expected=f"{len(texts)} texts",
            )
        check_flag("return_offsets", return_offsets)
        check_form(padding, return_tensors)
        longest = self._longest(max_length)
        if padding == "max_length" and longest > MOST_PADDED:
            if max_length is not None:
                raise InputError(
                    "texts cannot be padded to this length",
                    where="max_length",
                    found=max_length,
                    expected=f"at most {MOST_PADDED:,}",
                )
            padding = False  # as transformers takes its own value for no limit
        truncation = truncation_for(truncation, max_length=max_length, padding=padding)
        if return_offsets and (text_pair is not None or truncation):
            raise InputError(
                "Offsets go with single texts that are not truncated",
                where="return_offsets",
                found="text_pair" if text_pair is not None else f"truncation={truncation!r}",
            )
        rows = [
            self.encode(
                one,
                other,
                lang=lang,
                add_special_tokens=add_special_tokens,
                truncation=truncation,
                max_length=max_length,
            )
            for one, other in zip(texts, pairs, strict=True)
        ]
        encoding = collate(
            rows,
            pad_id=self.pad_token_id,
            # transformers pads a text without any ids only among others
            padding=padding if any(rows) or texts is text else False,
            longest=longest,
            return_tensors=return_tensors,
        )
        if return_offsets:
            found = [self._offsets(one, lang, add_special_tokens) for one in texts]
            encoding["offsets"], encoding["word_ids"] = map(list, zip(*found, strict=True))
        if texts is text or return_tensors is not None:
            return encoding
        return Encoding({name: value[0] for name, value in encoding.items()})

    def _offsets(self, text: str, lang: str | None, add_special_tokens: bool) -> tuple[list[Span], list[int | None]]:
        spans = [span for _, span in self._pipeline_for(text, lang).spans(text, lang)]
        numbers: list[int | None] = [*word_numbers(text, spans)]
        return ([(0, 0), *spans, (0, 0)], [None, *numbers, None]) if add_special_tokens else (spans, numbers)
