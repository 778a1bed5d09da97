"""The tokenizer: raw text to token ids and back, with the names and the meaning it has in transformers.

Longer than other files since it is the whole public surface: short methods under long docstrings, the work done by
the files beside it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, SupportsIndex, overload

from xlm.errors import InputError, LanguageError, VocabularyError
from xlm.tokenizer.batches import PackedRows, in_batches
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.detokenizer import detokenized
from xlm.tokenizer.encoding import PADDINGS, TRUNCATIONS, Encoding, collate, truncate
from xlm.tokenizer.ids import Ids, checked_ids
from xlm.tokenizer.merges import Merges, read_codes
from xlm.tokenizer.parallel import in_order
from xlm.tokenizer.pipeline import Pipeline
from xlm.tokenizer.presets import PRESETS
from xlm.tokenizer.rules import Span
from xlm.tokenizer.spans import word_numbers
from xlm.tokenizer.vocabulary import END_OF_WORD, SPECIAL_TOKENS, Vocabulary

SPECIAL_TOKEN_NAMES = ("bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a name, in the order of transformers."""


@dataclass(frozen=True, repr=False)
class XLMTokenizer:
    """Splits text into pieces of words by Moses' rules and byte-pair encoding, and numbers them.

    Args:
        vocabulary: The tokens by id.
        merges: The merges of byte-pair encoding, best first.
        preset: The text pipeline. ``"transformers"`` equals ``XLMTokenizer`` of transformers 5.x, ``"transformers-v4"``
            that of 4.57; ``"original"`` is what the models were trained with: the Perl scripts of Moses for the
            language, which must be given, then byte-pair encoding limited to the vocabulary.
        preset_without_lang: The pipeline of a text whose language is not given, where ``preset`` needs it; it then says
            so once, in the log. None refuses such a text.
        do_lowercase_and_remove_accent: Whether to lower-case the words and strip their accents. The published
            configurations say so although the published models were trained on cased text. By default False with the
            preset ``"original"``, else True.
        lang2id: The id of each language of the model; None where that is unknown, and then any language is taken.
        bos_token: Stands before every text that is encoded. By default ``"</s>"`` with the preset ``"original"``, else
            ``"<s>"``.
        sep_token: Stands after every text that is encoded.
        cls_token: For classification; nothing here uses it.
        pad_token: Fills up shorter rows of a batch.
        unk_token: Stands for a piece that is not in the vocabulary.
        mask_token: For masked language models; nothing here uses it.
        additional_special_tokens: Further tokens that are recognised in a text as they stand.
        model_max_length: How many tokens the model takes; nothing is cut off.

    Raises:
        VocabularyError: A special token that is not in the vocabulary, or no merges.
        InputError: A setting that is none of those.
    """

    vocabulary: Vocabulary
    merges: Merges = field(hash=False)
    _: KW_ONLY
    preset: str = "transformers"
    preset_without_lang: str | None = None
    do_lowercase_and_remove_accent: bool = None  # type: ignore[assignment]  # None stands for the preset's value
    lang2id: dict[str, int] | None = field(default=None, hash=False)
    bos_token: str = None  # type: ignore[assignment]  # None stands for the preset's value
    sep_token: str = "</s>"
    cls_token: str = "</s>"
    pad_token: str = "<pad>"
    unk_token: str = "<unk>"
    mask_token: str = "<special1>"
    additional_special_tokens: tuple[str, ...] = SPECIAL_TOKENS[4:]
    model_max_length: int = 512

    bos_token_id: int = field(init=False, compare=False)
    sep_token_id: int = field(init=False, compare=False)
    cls_token_id: int = field(init=False, compare=False)
    pad_token_id: int = field(init=False, compare=False)
    unk_token_id: int = field(init=False, compare=False)
    mask_token_id: int = field(init=False, compare=False)
    _pipeline: Pipeline = field(init=False, compare=False)
    _other: dict[str, Pipeline] = field(init=False, compare=False, default_factory=dict)
    _special: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("do_lowercase_and_remove_accent", "bos_token"):
            if getattr(self, name) is None and self.preset in PRESETS:
                object.__setattr__(self, name, getattr(PRESETS[self.preset], name))
        self._check_settings()
        if not self.merges:
            raise VocabularyError("There are no merges", where="merges", remedy="pass the merges of the model")
        derived: dict[str, Any] = {
            "merges": tuple(self.merges),
            "lang2id": None if self.lang2id is None else dict(self.lang2id),
            "additional_special_tokens": tuple(self.additional_special_tokens),
        }
        for name in SPECIAL_TOKEN_NAMES:
            derived[f"{name}_id"] = self._id_of_special(name, getattr(self, name))
        for token in derived["additional_special_tokens"]:
            self._id_of_special("additional_special_tokens", token)
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        # The longest first: one may begin with another.
        longest_first = sorted(self.all_special_tokens, key=len, reverse=True)
        object.__setattr__(self, "_special", re.compile(f"({'|'.join(map(re.escape, longest_first))})"))
        object.__setattr__(self, "_pipeline", self._make_pipeline(self.preset))

    def _make_pipeline(self, preset: str) -> Pipeline:
        return Pipeline(
            PRESETS[preset],
            BPE(self.merges, self.vocabulary.ids if PRESETS[preset].limits_pieces else None),
            self.vocabulary.ids,
            fold_words=self.do_lowercase_and_remove_accent,
            unk_id=self.unk_token_id,
            special=self._special,
        )

    def _check_settings(self) -> None:
        def check(name: str, holds: bool, expected: str) -> None:
            if not holds:
                found = repr(getattr(self, name))
                raise InputError("A setting of the tokenizer is wrong", where=name, found=found, expected=expected)

        check("preset", self.preset in PRESETS, " or ".join(map(repr, PRESETS)))
        without = self.preset_without_lang
        free = [name for name, preset in PRESETS.items() if not preset.lang_required]
        check("preset_without_lang", without is None or without in free, " or ".join(map(repr, [None, *free])))
        check("do_lowercase_and_remove_accent", isinstance(self.do_lowercase_and_remove_accent, bool), "true or false")
        length = self.model_max_length
        check("model_max_length", type(length) is int and length > 0, "a number of tokens above 0")
        check("additional_special_tokens", isinstance(self.additional_special_tokens, (list, tuple)), "a list")
        ids = self.lang2id
        check(
            "lang2id",
            ids is None or (isinstance(ids, Mapping) and _are_language_ids(ids)),
            "for each language an id of its own",
        )

    def _id_of_special(self, where: str, token: object) -> int:
        index = self.vocabulary.ids.get(token) if isinstance(token, str) else None
        if index is None:
            raise VocabularyError(
                "A special token is not in the vocabulary",
                where=where,
                found=repr(token),
                expected="a token of the vocabulary; adding tokens to a model is not supported",
            )
        return index

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        preset: str | None = None,
        codes: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> XLMTokenizer:
        """Returns the tokenizer of a model directory, of a checkpoint of the original, or of a bundled model.

        Args:
            name_or_path: A directory in the transformers layout, an original ``.pth``, or the name of a model that
                comes with the package: ``"xlm-clm-ende-small"``.
            preset: The text pipeline; None for the one that was saved, ``"original"`` for a ``.pth``.
            codes: fastBPE's codes, instead of ``merges.txt``; a ``.pth`` holds none, so it needs them.
            **settings: Any argument of ``XLMTokenizer`` by its name, instead of what was saved.

        Raises:
            CheckpointError: There is nothing of that name.
            VocabularyError: A file is missing or broken.
            InputError: An unknown setting.
        """
        from xlm.checkpoint.tokenizer_files import load_tokenizer

        return load_tokenizer(name_or_path, preset=preset, codes=codes, **settings)

    @classmethod
    def from_codes(
        cls,
        codes: str | os.PathLike[str],
        vocab: str | os.PathLike[str],
        *,
        lang2id: Mapping[str, int] | None = None,
        **settings: Any,
    ) -> XLMTokenizer:
        """Returns the tokenizer of the original's two files, such as ``codes_ende`` and ``vocab_ende``.

        The preset is ``"original"`` if no other is given.

        Args:
            codes: fastBPE's codes.
            vocab: fastBPE's vocabulary, ``word count`` a line.
            lang2id: The id of each language.
            **settings: Any other argument of ``XLMTokenizer`` by its name.

        Raises:
            VocabularyError: A file is missing or broken.
        """
        values: dict[str, Any] = {"preset": "original", "lang2id": None if lang2id is None else dict(lang2id)}
        return cls(Vocabulary.from_words(Path(vocab)), read_codes(Path(codes)), **(values | settings))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the tokenizer into a directory, made when missing, in the layout that transformers opens.

        Raises:
            WriteError: A file could not be written.
        """
        from xlm.checkpoint.tokenizer_files import save_tokenizer

        save_tokenizer(self, directory)

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

    def _pipeline_for(self, text: object, lang: str | None) -> Pipeline:
        """Returns the pipeline for a text of a language, both checked."""
        if not isinstance(text, str):
            raise InputError("The text is not a str", where="text", found=type(text).__name__, expected="str")
        if lang is not None:
            self._check_language(lang)
        elif PRESETS[self.preset].lang_required:
            return self._without_lang()
        return self._pipeline

    def _without_lang(self) -> Pipeline:
        preset = self.preset_without_lang
        if preset is None:
            raise LanguageError(
                "The language of the text is missing",
                where="lang",
                expected=" or ".join(map(repr, self.lang2id)) if self.lang2id else "a language such as 'en'",
                remedy=f"pass lang=…: the preset {self.preset!r} divides text by the rules of its language; "
                "or open the tokenizer with preset='transformers', which takes English rules where none is given",
            )
        if (pipeline := self._other.get(preset)) is None:
            logging.getLogger("xlm").warning(
                "The language of a text was not given: it is divided by the rules of the preset %r, which are those of "
                "English, and not as the model's training text was. Pass lang=… to have the preset %r.",
                preset,
                self.preset,
            )
            pipeline = self._other[preset] = self._make_pipeline(preset)
        return pipeline

    def _check_language(self, lang: str) -> None:
        if not isinstance(lang, str):
            raise InputError("The language is not a str", where="lang", found=repr(lang), expected="such as 'en'")
        # transformers only logs an error, and goes on with English or general rules.
        if self.lang2id and lang not in self.lang2id:
            raise LanguageError(
                "The model does not have this language",
                where="lang",
                found=repr(lang),
                expected=" or ".join(map(repr, self.lang2id)),
            )

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
    ) -> list[int]:
        """Returns the ids of a text: ``bos_token``, its pieces, ``sep_token``.

        Args:
            text: Any text.
            text_pair: A second one, whose pieces and another ``sep_token`` follow.
            lang: As for ``tokenize``, for both.
            add_special_tokens: Whether to put ``bos_token`` before and ``sep_token`` after.
            truncation: Whether to cut off what goes beyond ``max_length``: True or ``"longest_first"`` from the
                longer of two texts first, ``"only_first"`` or ``"only_second"`` from one of them.
            max_length: How many ids there may be, special tokens included; None for ``model_max_length``.

        Raises:
            InputError: The text is not a str, or an unknown way of truncation.
            LanguageError: The model does not have the language, or it is missing.
        """
        ids = self._pipeline_for(text, lang).ids(text, lang)
        pair = None if text_pair is None else self._pipeline_for(text_pair, lang).ids(text_pair, lang)
        if truncation is not False:
            if truncation not in TRUNCATIONS:
                raise InputError(
                    "Unknown truncation",
                    where="truncation",
                    found=repr(truncation),
                    expected=" or ".join(map(repr, TRUNCATIONS)),
                )
            added = 0 if not add_special_tokens else 2 if pair is None else 3
            ids, pair = truncate(ids, pair, longest=self._longest(max_length) - added, truncation=truncation)
        if not add_special_tokens:
            return ids if pair is None else ids + pair
        first = [self.bos_token_id, *ids, self.sep_token_id]
        return first if pair is None else [*first, *pair, self.sep_token_id]

    def _longest(self, max_length: int | None) -> int:
        if max_length is None:
            return self.model_max_length
        if type(max_length) is not int or max_length < 0:
            raise InputError(
                "The longest length is wrong", where="max_length", found=repr(max_length), expected="a number of ids"
            )
        return max_length

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
        """
        return list(self.encode_stream(texts, lang=lang, workers=workers, add_special_tokens=add_special_tokens))

    def encode_stream(
        self, texts: Iterable[str], *, lang: str | None = None, workers: int = 1, add_special_tokens: bool = True
    ) -> Iterator[list[int]]:
        """Returns an iterator over the ids of each text, as ``encode_batch`` does; for more than memory can hold.

        Args:
            texts: Any number of texts, read as they are needed, some thousands ahead.
            lang: As for ``tokenize``, for all of them.
            workers: How many processes share the work.
            add_special_tokens: As for ``encode``.

        Raises:
            InputError: A text is not a str, ``texts`` is a single one, or there are no workers.
            LanguageError: The model does not have the language, or it is missing.
        """
        if isinstance(texts, str):
            raise InputError("A single text is no batch", where="texts", found="a str", expected="a list of str")
        encode = partial(self._encode_each, lang=lang, add_special_tokens=add_special_tokens)
        if type(workers) is int and workers > 1:
            packed = in_order(partial(_packed, encode), in_batches(texts), workers=workers)
            return chain.from_iterable(batch.rows() for batch in packed)
        return chain.from_iterable(in_order(encode, in_batches(texts), workers=workers))

    def tokenize_batch(self, texts: Sequence[str], lang: str | None = None) -> list[list[str]]:
        """Returns the pieces of each text, as ``tokenize`` does; faster for many texts.

        Args:
            texts: Any number of texts.
            lang: As for ``tokenize``, for all of them.

        Raises:
            InputError: A text is not a str.
            LanguageError: The model does not have the language, or it is missing.
        """
        return [
            pieces for batch in in_batches(texts) for pieces in self._pipeline_for("", lang).pieces_of_each(batch, lang)
        ]

    def _encode_each(self, texts: Sequence[str], *, lang: str | None, add_special_tokens: bool) -> list[list[int]]:
        rows = list(self._pipeline_for("", lang).ids_of_each(texts, lang))
        if add_special_tokens:
            for row in rows:  # in place: a tenth of the time of new lists
                row.insert(0, self.bos_token_id)
                row.append(self.sep_token_id)
        return rows

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
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
            truncation: As for ``encode``.
            max_length: As for ``encode``.
            return_tensors: ``"pt"`` or ``"np"`` for int64 (B, T), B being 1 for a single text; None for lists.
            return_offsets: Whether to return ``offsets`` too, for each token the span of the raw text it came from
                (first character, one past the last), and ``word_ids``, the number of the word, counted from 0 between
                spaces, that it begins in. Special tokens that stand around the text have (0, 0) and None. Always
                lists, which are not padded; for single texts that are not truncated.

        Raises:
            InputError: A text is not a str, or the rows cannot be one tensor.
            LanguageError: The model does not have the language, or it is missing.
        """
        if isinstance(text, str) or not isinstance(text, Sequence):  # encode refuses what is neither
            texts: Sequence[str] = [text]
            pairs: Sequence[Any] = [text_pair]
        else:
            texts = text
            pairs = [None] * len(texts) if text_pair is None else text_pair
        if isinstance(pairs, str) or len(pairs) != len(texts):
            raise InputError(
                "There is not one second text for each first",
                where="text_pair",
                found="a str" if isinstance(pairs, str) else f"{len(pairs)} texts",
                expected=f"{len(texts)} texts",
            )
        if return_offsets and (text_pair is not None or truncation is not False):
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
            padding=padding if any(rows) or texts is text else padding not in PADDINGS and padding,
            longest=self._longest(max_length),
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

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        *,
        lang: str | None = None,
        detokenize: bool = False,
    ) -> str:
        """Returns the text that ids stand for, its words separated by one space as Moses left them.

        Args:
            token_ids: One id, or a sequence, array or tensor (T,) of them.
            skip_special_tokens: Whether to leave out special tokens.
            lang: The language of the text, which must be one of the model's.
            detokenize: Whether to join words and punctuation as one writes them, by the rules of Moses for the
                language, those of English if it is not given; special tokens count as words.

        Raises:
            InputError: Something that is not an id of the vocabulary.
            LanguageError: The model does not have the language.
        """
        if lang is not None:
            self._check_language(lang)
        tokens = self.convert_ids_to_tokens(token_ids, skip_special_tokens)
        text = self.convert_tokens_to_string([tokens] if isinstance(tokens, str) else tokens)
        return detokenized(text.split(), lang or "en") if detokenize else text

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]  # a str is iterable too

    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Returns the id of each token, that of ``unk_token`` for those that the vocabulary lacks.

        Raises:
            InputError: Something that is not a str.
        """
        if isinstance(tokens, str):
            return self.vocabulary.ids.get(tokens, self.unk_token_id)
        ids = []
        for token in tokens:
            if not isinstance(token, str):
                raise InputError("A token is not a str", where="tokens", found=repr(token), expected="str")
            ids.append(self.vocabulary.ids.get(token, self.unk_token_id))
        return ids

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = False
    ) -> str | list[str]: ...

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """Returns the token of each id; a str for a single id, which is never left out.

        Args:
            ids: One id, or a sequence, array or tensor (T,) of them.
            skip_special_tokens: Whether to leave out special tokens.

        Raises:
            InputError: Something that is not an id of the vocabulary (transformers gives ``<unk>``).
        """
        tokens = self.vocabulary.tokens
        checked = checked_ids(ids, vocab_size=len(tokens))
        if isinstance(checked, int):
            return tokens[checked]
        left_out = frozenset(self.all_special_ids) if skip_special_tokens else frozenset()
        return [tokens[index] for index in checked if index not in left_out]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Returns the text that tokens stand for, its words separated by one space."""
        return "".join(tokens).replace(END_OF_WORD, " ").strip()

    @property
    def id2lang(self) -> dict[int, str] | None:
        """The language of each id; None where the languages are unknown."""
        return None if self.lang2id is None else {index: lang for lang, index in self.lang2id.items()}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.vocabulary)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of each token."""
        return dict(self.vocabulary.ids)

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once, in the order of transformers."""
        named = (getattr(self, name) for name in SPECIAL_TOKEN_NAMES)
        return list(dict.fromkeys([*named, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def __repr__(self) -> str:
        case = "lower-cased, accents removed" if self.do_lowercase_and_remove_accent else "cased"
        languages = "unknown" if self.lang2id is None else ", ".join(f"{k}={v}" for k, v in self.lang2id.items())
        return (
            f"XLMTokenizer(preset={self.preset!r}, {case}, {len(self.vocabulary)} tokens, {len(self.merges)} merges, "
            f"languages: {languages}, {self.bos_token} … {self.sep_token})"
        )


def _packed(encode: Callable[[list[str]], list[list[int]]], texts: list[str]) -> PackedRows:
    return PackedRows.of(encode(texts))


def _are_language_ids(ids: Mapping[Any, Any]) -> bool:
    typed = all(isinstance(lang, str) and type(index) is int and index >= 0 for lang, index in ids.items())
    return typed and len(set(ids.values())) == len(ids)
