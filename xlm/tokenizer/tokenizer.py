"""The tokenizer: raw text to token ids and back, with the method names and behaviour of transformers.

To see how a text becomes ids, read ``pipeline.py``, the specification. ``fast/`` computes the same ids faster.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, SupportsIndex, cast, overload

from xlm._io.arguments import as_path, check_choice, check_flags, language_names, listed_choices, shown
from xlm._io.fingerprints import fingerprint
from xlm.errors import InputError, LanguageError, VocabularyError
from xlm.tokenizer.added_tokens import AddedToken, AddedTokens
from xlm.tokenizer.alignment import Span, word_numbers
from xlm.tokenizer.batches import in_batches, in_order
from xlm.tokenizer.bpe import BPE, Merges, check_merges, read_codes
from xlm.tokenizer.encoding import Encoding, truncate, truncation_for
from xlm.tokenizer.fast.pipeline import FastPipeline
from xlm.tokenizer.moses.detokenise import detokenized
from xlm.tokenizer.padding import FILLS, MOST_PADDED, SIDES, as_columns, check_padding, pad_columns, with_tensors
from xlm.tokenizer.pipeline import PRESETS, Pipeline
from xlm.tokenizer.vocabulary import END_OF_WORD, SPECIAL_TOKENS, Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

    from xlm.tokenizer.fast.arrays import RaggedArray

__all__ = ["SPECIAL_TOKEN_NAMES", "XLMTokenizer"]

SPECIAL_TOKEN_NAMES = ("bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The tokenizer settings that hold one special token each, in the order of transformers."""

Ids = int | Iterable[SupportsIndex]
"""One id, or a sequence, array or tensor (T,) of ids."""


@dataclass(frozen=True, repr=False)
class XLMTokenizer:
    """Maps text to token ids and back, with Moses' rules, byte-pair encoding and a vocabulary.

    Args:
        vocabulary: The tokens by id.
        merges: The merges of byte-pair encoding, best first.
        preset: The text pipeline. ``"transformers"`` gives the ids of transformers 5.x, and ``"transformers-v4"`` gives
            the ids of transformers 4.57. ``"original"`` is the pipeline that the models were trained with: it applies
            the rules of Moses' Perl scripts for the language of the text, so a language is required, and it splits
            every merged piece that is not in the vocabulary.
        preset_without_lang: The preset for texts without a language, for use if ``preset`` requires a language. The
            first such text logs a warning. With None, a text without a language raises an error.
        do_lowercase_and_remove_accent: Whether to lower-case the words and strip their accents. The published
            configurations set it although the published models were trained on cased text. By default False with the
            preset ``"original"``, else True.
        lang2id: The id of each language of the model. None means that the model's languages are unknown; the tokenizer
            then accepts any language.
        bos_token: Precedes every encoded text. By default ``"</s>"`` with the preset ``"original"``, else ``"<s>"``.
        sep_token: Follows every encoded text.
        cls_token: The token for classification; the tokenizer does not use it.
        pad_token: Pads the shorter rows of a batch.
        unk_token: Replaces a piece that is not in the vocabulary.
        mask_token: The token for masked language models; the tokenizer does not use it.
        additional_special_tokens: Further special tokens.
        added_tokens: Tokens of the vocabulary, besides the special tokens, at which texts are split. A special token
            is listed here only if it has options. Each entry is a str or an ``AddedToken``
            (``xlm.tokenizer.added_tokens``).
        model_max_length: The number of tokens that the model accepts; ``truncation`` cuts texts to it.
        padding_side: The side on which shorter rows are padded, ``"right"`` or ``"left"``.

    Raises:
        VocabularyError: A special token is not in the vocabulary, or there are no merges.
        InputError: A setting is invalid.
    """

    vocabulary: Vocabulary
    merges: Merges = field(hash=False)
    _: KW_ONLY
    preset: str = "transformers"
    preset_without_lang: str | None = None
    do_lowercase_and_remove_accent: bool = None  # type: ignore[assignment]  # None means the preset's value
    lang2id: dict[str, int] | None = field(default=None, hash=False)
    bos_token: str = None  # type: ignore[assignment]  # None means the preset's value
    sep_token: str = "</s>"
    cls_token: str = "</s>"
    pad_token: str = "<pad>"
    unk_token: str = "<unk>"
    mask_token: str = "<special1>"
    additional_special_tokens: tuple[str, ...] = SPECIAL_TOKENS[4:]
    added_tokens: tuple[AddedToken, ...] = ()  # the argument may also contain str
    model_max_length: int = 512
    padding_side: str = "right"

    bos_token_id: int = field(init=False, compare=False)
    sep_token_id: int = field(init=False, compare=False)
    cls_token_id: int = field(init=False, compare=False)
    pad_token_id: int = field(init=False, compare=False)
    unk_token_id: int = field(init=False, compare=False)
    mask_token_id: int = field(init=False, compare=False)
    _pipeline: FastPipeline = field(init=False, compare=False)
    _other: dict[str, FastPipeline] = field(init=False, compare=False, default_factory=dict)
    _added: AddedTokens = field(init=False, compare=False)

    def __post_init__(self) -> None:
        preset = PRESETS.get(self.preset) if isinstance(self.preset, str) else None
        for name in ("do_lowercase_and_remove_accent", "bos_token"):
            if getattr(self, name) is None and preset is not None:
                object.__setattr__(self, name, getattr(preset, name))
        self._check_settings()
        if not self.merges:
            raise VocabularyError("there are no merges", where="merges", remedy="pass the merges of the model")
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
        object.__setattr__(self, "added_tokens", self._checked_added_tokens())
        plain = {token: AddedToken(content=token, special=True, normalized=False) for token in self.all_special_tokens}
        before_lowering = [token.content for token in self.added_tokens if token.normalized and not token.special]
        object.__setattr__(
            self,
            "_added",
            AddedTokens(plain | {token.content: token for token in self.added_tokens}, [*plain, *before_lowering]),
        )
        object.__setattr__(self, "_pipeline", self._make_pipeline(self.preset))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        preset: str | None = None,
        codes: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **settings: Any,
    ) -> Self:
        """Return the tokenizer of a model, from a directory, an original checkpoint or the name of a model.

        Args:
            name_or_path: A directory in the transformers layout, an original ``.pth``, the name of a model that comes
                with the package (``"xlm-clm-ende-small"``), or an id on the Hugging Face hub, with or without
                ``@revision``. The argument is read as the first of these that exists.
            preset: The text pipeline; by default the preset saved with the tokenizer, or ``"original"`` for a ``.pth``.
            codes: A codes file of fastBPE to use instead of ``merges.txt``; required for a ``.pth``, which contains no
                codes.
            revision: A branch, tag or commit of a model on the hub; by default ``main``.
            cache_dir: The folder for fetched files; by default the one that ``HF_HOME`` or ``HF_HUB_CACHE`` names.
            local_files_only: Whether to use only the cache, without the network, as ``HF_HUB_OFFLINE=1`` does.
            token: The access token for a private model; by default ``HF_TOKEN``, or the token that ``hf auth login``
                saved.
            **settings: Any argument of ``XLMTokenizer``; it replaces the saved value.

        Raises:
            CheckpointError: There is no such model.
            HubError: The hub did not deliver the model; a subclass of ``CheckpointError``.
            VocabularyError: A file is missing or broken.
            InputError: A setting is unknown or invalid.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.tokenizer_files import load_tokenizer

        hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        tokenizer = load_tokenizer(name_or_path, preset=preset, codes=codes, hub=hub, kind=cls, **settings)
        return cast("Self", tokenizer)

    @classmethod
    def from_codes(
        cls,
        codes: str | os.PathLike[str],
        vocab: str | os.PathLike[str],
        *,
        lang2id: Mapping[str, int] | None = None,
        **settings: Any,
    ) -> Self:
        """Return a tokenizer from the two files of the original XLM, such as ``codes_ende`` and ``vocab_ende``.

        The default preset is ``"original"``.

        Args:
            codes: The codes file of fastBPE.
            vocab: The vocabulary file of fastBPE, with ``word count`` in each line.
            lang2id: The id of each language.
            **settings: Any other argument of ``XLMTokenizer``.

        Raises:
            VocabularyError: A file is missing or broken, or the two belong to different models.
            InputError: A setting is unknown or invalid.
        """
        check_names(settings)
        codes_path, vocab_path = as_path("codes", codes), as_path("vocab", vocab)
        vocabulary, merges = Vocabulary.from_words(vocab_path), read_codes(codes_path)
        check_merges(vocabulary, merges, codes_path)
        return cls(vocabulary, merges, **{"preset": "original", "lang2id": lang2id, **settings})

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the tokenizer to a directory in the layout of transformers; create the directory if missing.

        Raises:
            WriteError: A file cannot be written.
        """
        from xlm.checkpoint.tokenizer_files import save_tokenizer

        save_tokenizer(self, directory)

    def tokenize(self, text: str, lang: str | None = None) -> list[str]:
        """Return the pieces of a text, including pieces that are not in the vocabulary; ``</w>`` ends a word.

        Args:
            text: Any text.
            lang: The language whose rules apply. With a language, special tokens in the text are ordinary text, as in
                ``XLMTokenizer._tokenize(text, lang=…)`` of transformers. Without a language, English rules apply and
                special tokens are recognised, as in ``XLMTokenizer.tokenize``. The preset ``"original"`` requires a
                language unless ``preset_without_lang`` is set.

        Raises:
            InputError: The text is not a str.
            LanguageError: The model does not have the language, or ``lang`` is missing and the preset requires it.
            DependencyError: The word segmenter of the language is not installed.
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
        """Return the ids of a text: ``bos_token``, the pieces of the text, ``sep_token``.

        Args:
            text: Any text.
            text_pair: A second text; the ids of its pieces and of another ``sep_token`` follow those of ``text``.
            lang: The language of both texts, as for ``tokenize``.
            add_special_tokens: Whether to add ``bos_token`` and ``sep_token``.
            truncation: How to cut to ``max_length``: True or ``"longest_first"`` cuts the longer of two texts first,
                ``"only_first"`` or ``"only_second"`` cuts one of them, False cuts neither. None means
                ``"longest_first"``, with a warning, if ``max_length`` is given, else False.
            max_length: The largest number of ids, special tokens included; special tokens are never cut. By default
                ``model_max_length``.

        Raises:
            InputError: The text is not a str, or another argument is invalid.
            LanguageError: The model does not have the language, or ``lang`` is missing and the preset requires it.
            DependencyError: The word segmenter of the language is not installed.
        """
        check_flags(add_special_tokens=add_special_tokens)
        longest = self._longest(max_length)
        if truncation is not None or max_length is not None:
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
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_offsets: bool = False,
    ) -> Encoding:
        """Return ``input_ids`` and ``attention_mask`` of one text or several.

        Args:
            text: A text, or a list of texts.
            text_pair: A second text, or a list of second texts, one for each text; see ``encode``.
            lang: The language of all texts, as for ``tokenize``.
            add_special_tokens: As for ``encode``.
            padding: As for ``pad``.
            truncation: As for ``encode``, but None means False if ``padding`` is given.
            max_length: As for ``encode``.
            pad_to_multiple_of: As for ``pad``.
            padding_side: As for ``pad``.
            return_tensors: ``"pt"`` or ``"np"`` for int64 (B, T), where B is 1 for a single text; None for lists.
            return_offsets: Whether to add ``offsets`` and ``word_ids``, two lists that are never padded. ``offsets``
                holds the span of each token in the raw text: the index of its first character, and the index after its
                last character. ``word_ids`` holds the number of the word in which each token begins; words are
                separated by spaces and counted from 0. The special tokens around a text have (0, 0) and None. Cannot be
                combined with ``text_pair`` or ``truncation``.

        Raises:
            InputError: A text is not a str, an argument is invalid, or the texts differ in length and
                ``return_tensors`` is set without ``padding``.
            LanguageError: The model does not have the language, or ``lang`` is missing and the preset requires it.
            DependencyError: The word segmenter of the language is not installed.
        """
        if isinstance(text, str) or not isinstance(text, Sequence):  # encode rejects a text that is not a str
            texts: Sequence[str] = [text]
            pairs: Sequence[Any] = [text_pair]
        else:
            texts = text
            pairs = [None] * len(texts) if text_pair is None else text_pair
        is_list = isinstance(pairs, Sequence) and not isinstance(pairs, str)
        if not is_list or len(pairs) != len(texts):
            raise InputError(
                "`text` and `text_pair` differ in length",
                where="text_pair",
                found=f"{len(pairs)} texts" if is_list else f"a {type(pairs).__name__}",
                expected=f"{len(texts)} texts",
            )
        check_flags(return_offsets=return_offsets)
        padding, side, longest = self._padding(padding, max_length, pad_to_multiple_of, padding_side, return_tensors)
        truncation = truncation_for(truncation, max_length=max_length, padding=padding)
        if return_offsets and (text_pair is not None or truncation):
            raise InputError(
                "offsets are not available for pairs of texts or truncated texts",
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
        if not rows:
            raise InputError("no texts to encode", where="text", found="an empty list")
        padded = pad_columns(
            {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]},
            fills={**FILLS, "input_ids": self.pad_token_id},
            # transformers does not pad a single text without ids
            padding=padding if any(rows) or texts is text else False,
            longest=longest,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=side,
        )
        encoding = with_tensors(padded, return_tensors)
        if return_offsets:
            offsets = [self._offsets(one, lang, add_special_tokens) for one in texts]
            encoding["offsets"], encoding["word_ids"] = map(list, zip(*offsets, strict=True))
        if texts is text or return_tensors is not None:
            return encoding
        return Encoding({name: value[0] for name, value in encoding.items()})

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        *,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> Encoding:
        """Return encodings as one batch, padded to one length; for ``collate_fn`` of a ``DataLoader``.

        As in transformers, this pads ``input_ids``, ``attention_mask``, ``special_tokens_mask`` and ``token_type_ids``;
        other entries stay as they are. ``DataCollatorForLanguageModeling`` also makes and pads labels.

        Args:
            encoded_inputs: What calling the tokenizer returns: the encoding of one text or of several, or a list of
                encodings of one text each. Values are lists, arrays or tensors.
            padding: True or ``"longest"`` to pad to the longest text, ``"max_length"`` to ``max_length``, False or
                ``"do_not_pad"`` not to pad.
            max_length: The number of ids that ``"max_length"`` pads to; by default ``model_max_length``. Longer texts
                are not cut.
            pad_to_multiple_of: The length is rounded up to a multiple of this number.
            padding_side: ``"right"`` or ``"left"``; by default that of the tokenizer.
            return_attention_mask: Whether to add ``attention_mask`` if it is missing; None means yes.
            return_tensors: ``"pt"`` or ``"np"`` for tensors (B, T), or (T,) for a single encoding; None for the type of
                ``input_ids``.

        Raises:
            InputError: These are not encodings, an argument is invalid, or entries cannot form a tensor.
        """
        columns, kind = as_columns(encoded_inputs)
        padding, side, longest = self._padding(padding, max_length, pad_to_multiple_of, padding_side, return_tensors)
        return_tensors = return_tensors or kind
        check_flags(return_attention_mask=return_attention_mask is None or return_attention_mask)
        rows = columns["input_ids"]
        if is_single := not (rows and isinstance(rows[0], list)):
            columns = {name: [value] for name, value in columns.items()}
            rows = [rows]
        if wrong := next((name for name, value in columns.items() if not _has_length(value, len(rows))), None):
            raise InputError(
                "an entry does not have one value for each text",
                where=f"encoded_inputs, {wrong}",
                found=shown(columns[wrong]),
                expected=f"{len(rows)} values",
            )
        if return_attention_mask is not False:
            columns.setdefault("attention_mask", [[1] * len(row) for row in rows])
        padded = pad_columns(
            columns,
            fills={**FILLS, "input_ids": self.pad_token_id},
            padding=padding if any(rows) else False,  # transformers does not pad without ids
            longest=longest,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=side,
        )
        if is_single:
            padded = Encoding({name: value[0] for name, value in padded.items()})
        return with_tensors(padded, return_tensors, remedy="pass padding=True, or remove the entry from the encodings")

    def get_special_tokens_mask(self, token_ids: Ids, *, already_has_special_tokens: bool = True) -> list[int]:
        """Return 1 for each id of a special token and 0 for each other id, as data collators of transformers ask.

        Args:
            token_ids: A sequence, array or tensor (T,) of ids.
            already_has_special_tokens: Must be True: ids as ``encode`` returns them.

        Raises:
            InputError: An id is not in the vocabulary, or ``already_has_special_tokens`` is not True.
        """
        check_choice("mask", (True,), already_has_special_tokens=already_has_special_tokens)
        special = frozenset(self.all_special_ids)
        ids = _checked_ids(token_ids, vocab_size=len(self.vocabulary))
        return [int(index in special) for index in ([ids] if isinstance(ids, int) else ids)]

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], *, special_tokens: bool = False
    ) -> int:
        """Add tokens, at which texts are split, and return how many of them were not in the vocabulary.

        ``model.resize_token_embeddings(len(tokenizer))`` gives them embeddings. As in transformers, a text that is
        encoded with a language is not split at tokens. This changes the tokenizer in place, so do not call it while
        other threads use the tokenizer.

        Args:
            new_tokens: The tokens: a str or an ``AddedToken``, or several of them.
            special_tokens: Whether these are special tokens, which ``skip_special_tokens`` omits.

        Raises:
            InputError: These are not tokens.
            VocabularyError: A token cannot be written as UTF-8.
        """
        check_flags(special_tokens=special_tokens)
        given = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens
        if not isinstance(given, Sequence) or not all(isinstance(token, (str, AddedToken)) for token in given):
            raise InputError("not tokens", where="new_tokens", found=shown(new_tokens), expected="str or AddedToken")
        tokens = {}
        for token in given:
            added = AddedToken(content=token, normalized=not special_tokens) if isinstance(token, str) else token
            tokens[added.content] = replace(added, special=added.special or special_tokens)
        tokens.pop("", None)  # transformers skips it too
        new = [content for content in tokens if content not in self.vocabulary.ids]
        counts = None if self.vocabulary.counts is None else (*self.vocabulary.counts, *[0] * len(new))
        special = [content for content, token in tokens.items() if token.special]
        self._become(
            replace(
                self,
                vocabulary=Vocabulary(tokens=(*self.vocabulary.tokens, *new), counts=counts),
                added_tokens=tuple(({token.content: token for token in self.added_tokens} | tokens).values()),
                additional_special_tokens=(
                    *self.additional_special_tokens,
                    *(content for content in special if content not in self.all_special_tokens),
                ),
            )
        )
        return len(new)

    def add_languages(self, names: str | Sequence[str]) -> dict[str, int]:
        """Add languages, and return their ids, which follow those of the others; as ``add_languages`` of a model.

        This changes the tokenizer in place, so do not call it while other threads use the tokenizer.

        Raises:
            LanguageError: The tokenizer has the language already, or does not know the names of its languages.
            InputError: ``names`` are not names.
        """
        new = language_names(names)
        ids = self.lang2id
        if ids is None:
            raise LanguageError(
                "the languages of the tokenizer have no names",
                where="lang2id",
                found="None",
                remedy="pass lang2id= to from_pretrained",
            )
        if again := [name for position, name in enumerate(new) if name in ids or name in new[:position]]:
            raise LanguageError("the tokenizer has this language already", where="names", found=", ".join(again))
        first = max(ids.values(), default=-1) + 1
        added = {name: first + number for number, name in enumerate(new)}
        self._become(replace(self, lang2id={**ids, **added}))
        return added

    def _become(self, other: XLMTokenizer) -> None:
        """Take over all fields of another tokenizer, which has been checked."""
        for each in fields(self):
            object.__setattr__(self, each.name, getattr(other, each.name))

    def encode_batch(
        self, texts: Iterable[str], *, lang: str | None = None, workers: int = 1, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Return the ids of each text, as ``encode`` does.

        Args:
            texts: Any number of texts.
            lang: The language of all texts, as for ``tokenize``.
            workers: The number of processes that share the work.
            add_special_tokens: As for ``encode``.

        Raises:
            InputError: A text is not a str, ``texts`` is a single str, or ``workers`` is below 1.
            LanguageError: The model does not have the language, or ``lang`` is missing and the preset requires it.
            DependencyError: The word segmenter of the language is not installed.
            XLMError: A worker process was killed.
        """
        return list(self.encode_stream(texts, lang=lang, workers=workers, add_special_tokens=add_special_tokens))

    def encode_stream(
        self, texts: Iterable[str], *, lang: str | None = None, workers: int = 1, add_special_tokens: bool = True
    ) -> Iterator[list[int]]:
        """Return an iterator over the ids of each text, for more texts than fit in memory.

        Args:
            texts: Any number of texts. They are read as needed, up to tens of thousands of texts ahead for each worker.
            lang: As for ``encode_batch``.
            workers: As for ``encode_batch``.
            add_special_tokens: As for ``encode``.

        Raises:
            XLMError: As for ``encode_batch``. An error in a text is raised after the results of all earlier batches.
        """
        check_flags(add_special_tokens=add_special_tokens)
        encode = partial(self._encode_each, lang=lang, add_special_tokens=add_special_tokens)
        to_lists = self._pipeline.lists_of_ids  # lists are made in this process, because workers return arrays faster
        return chain.from_iterable(map(to_lists, in_order(encode, in_batches(texts), workers=workers)))

    def tokenize_batch(self, texts: Iterable[str], lang: str | None = None) -> list[list[str]]:
        """Return the pieces of each text, as ``tokenize`` does.

        Args:
            texts: Any number of texts.
            lang: The language of all texts, as for ``tokenize``.

        Raises:
            InputError: A text is not a str, or ``texts`` is a single str.
            LanguageError: The model does not have the language, or ``lang`` is missing and the preset requires it.
            DependencyError: The word segmenter of the language is not installed.
        """
        return [
            pieces for batch in in_batches(texts) for pieces in self._pipeline_for("", lang).pieces_of_each(batch, lang)
        ]

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        *,
        lang: str | None = None,
        detokenize: bool = False,
    ) -> str:
        """Return the text of ids, with one space between words.

        Args:
            token_ids: One id, or a sequence, array or tensor (T,) of ids.
            skip_special_tokens: Whether to omit special tokens.
            lang: The language of the text.
            detokenize: Whether to join words and punctuation as in ordinary writing, by Moses' rules for ``lang``, or
                for English if ``lang`` is None. Special tokens count as words.

        Raises:
            InputError: An id is not in the vocabulary.
            LanguageError: The model does not have the language.
        """
        check_flags(detokenize=detokenize)
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
        """Return the id of each token; a token that is not in the vocabulary gets the id of ``unk_token``.

        Raises:
            InputError: A token is not a str.
        """
        if isinstance(tokens, str):
            return self.vocabulary.ids.get(tokens, self.unk_token_id)
        return [self.vocabulary.ids.get(token, self.unk_token_id) for token in _checked_tokens(tokens)]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = False
    ) -> str | list[str]: ...

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """Return the tokens of ids as a list. For a single id, return its token as a str, even if it is special.

        Args:
            ids: One id, or a sequence, array or tensor (T,) of ids.
            skip_special_tokens: Whether to omit special tokens.

        Raises:
            InputError: An id is not in the vocabulary (transformers returns ``<unk>``).
        """
        tokens = self.vocabulary.tokens
        check_flags(skip_special_tokens=skip_special_tokens)
        checked = _checked_ids(ids, vocab_size=len(tokens))
        if isinstance(checked, int):
            return tokens[checked]
        omitted = frozenset(self.all_special_ids) if skip_special_tokens else frozenset()
        return [tokens[index] for index in checked if index not in omitted]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens, with one space between words.

        Raises:
            InputError: A token is not a str.
        """
        return "".join(_checked_tokens(tokens)).replace(END_OF_WORD, " ").strip()

    @property
    def id2lang(self) -> dict[int, str] | None:
        """The language for each language id; None if the languages of the model are unknown."""
        return None if self.lang2id is None else {index: lang for lang, index in self.lang2id.items()}

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.vocabulary)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token."""
        return dict(self.vocabulary.ids)

    @property
    def eos_token(self) -> str:
        """``</s>``, which ends every sentence; ``XLMTokenizer`` of transformers does not define it."""
        return SPECIAL_TOKENS[self.eos_token_id]

    @property
    def eos_token_id(self) -> int:
        """The id of ``</s>``."""
        return 1

    @property
    def all_special_tokens(self) -> list[str]:
        """The distinct special tokens, in the order of transformers."""
        named = (getattr(self, name) for name in SPECIAL_TOKEN_NAMES)
        return list(dict.fromkeys([*named, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``."""
        return [self.vocabulary.ids[token] for token in self.all_special_tokens]

    @property
    def pipeline(self) -> Pipeline:
        """The specification of this tokenizer: a function from a text and its language to tokens with spans."""
        return self._pipeline.plain

    def __repr__(self) -> str:
        case = "lower-cased, accents removed" if self.do_lowercase_and_remove_accent else "cased"
        languages = "unknown" if self.lang2id is None else ", ".join(f"{k}={v}" for k, v in self.lang2id.items())
        return (
            f"XLMTokenizer(preset={self.preset!r}, {case}, {len(self.vocabulary)} tokens, {len(self.merges)} merges, "
            f"languages: {languages}, {self.bos_token} … {self.sep_token})"
        )

    def spans(self, text: str, *, lang: str | None = None) -> list[Span]:
        """Return the characters of each token of a text: the ``offsets`` of ``__call__``, without special tokens.

        Args:
            text: Any text.
            lang: As for ``tokenize``.

        Raises:
            InputError: The text is not a str.
            LanguageError: As for ``__call__`` with ``return_offsets``.
            DependencyError: The word segmenter of the language is not installed.
        """
        return self._pipeline_for(text, lang).spans(text, lang)

    def _offsets(self, text: str, lang: str | None, add_special_tokens: bool) -> tuple[list[Span], list[int | None]]:
        spans = self.spans(text, lang=lang)
        numbers: list[int | None] = [*word_numbers(text, spans)]
        return ([(0, 0), *spans, (0, 0)], [None, *numbers, None]) if add_special_tokens else (spans, numbers)

    def _encode_each(self, texts: Sequence[str], *, lang: str | None, add_special_tokens: bool) -> RaggedArray:
        rows = ids_of_texts(self, texts, lang=lang)
        return rows.between(self.bos_token_id, self.sep_token_id) if add_special_tokens else rows

    def _longest(self, max_length: int | None) -> int:
        if max_length is None:
            return self.model_max_length
        if type(max_length) is not int or max_length < 1:  # transformers treats 0 as no limit
            raise InputError(
                "invalid `max_length`",
                where="max_length",
                found=shown(max_length),
                expected="an int above 0, or None for model_max_length",
            )
        return max_length

    def _padding(
        self,
        padding: bool | str,
        max_length: int | None,
        pad_to_multiple_of: int | None,
        padding_side: str | None,
        return_tensors: str | None,
    ) -> tuple[bool | str, str, int]:
        """Check how to pad, and return padding, side and the length for ``"max_length"``."""
        side = self.padding_side if padding_side is None else padding_side
        check_padding(padding, return_tensors, pad_to_multiple_of=pad_to_multiple_of, padding_side=side)
        longest = self._longest(max_length)
        if padding != "max_length" or longest <= MOST_PADDED:
            return padding, side, longest
        if max_length is None:
            return False, side, longest  # like transformers, do not pad to such a large model_max_length
        raise InputError(
            "the length to pad to is too large",
            where="max_length",
            found=max_length,
            expected=f"at most {MOST_PADDED:,}",
        )

    def _pipeline_for(self, text: object, lang: str | None) -> FastPipeline:
        """Check a text and its language, and return the pipeline that applies to it."""
        if not isinstance(text, str):
            raise InputError("a text is not a str", where="text", found=type(text).__name__, expected="str")
        if lang is not None:
            self._check_language(lang)
        elif PRESETS[self.preset].lang_required:
            return self._without_lang()
        return self._pipeline

    def _without_lang(self) -> FastPipeline:
        preset = self.preset_without_lang
        if preset is None:
            raise LanguageError(
                "the language of the text is missing",
                where="lang",
                expected=listed_choices(self.lang2id) if self.lang2id else "a language such as 'en'",
                remedy=f"pass lang=…, whose rules the preset {self.preset!r} needs; "
                "or open the tokenizer with preset='transformers', which falls back to English rules",
            )
        if (pipeline := self._other.get(preset)) is None:
            logging.getLogger("xlm").warning(
                "A text without a language is tokenized with the preset %r and English rules, unlike the model's "
                "training text. Pass lang=… to use the preset %r.",
                preset,
                self.preset,
            )
            pipeline = self._other[preset] = self._make_pipeline(preset)
        return pipeline

    def _check_language(self, lang: str) -> None:
        if not isinstance(lang, str):
            raise InputError("not a language", where="lang", found=shown(lang), expected="a str such as 'en'")
        # transformers logs an error and continues with English or general rules.
        if self.lang2id and lang not in self.lang2id:
            raise LanguageError(
                "the model does not have this language",
                where="lang",
                found=shown(lang),
                expected=listed_choices(self.lang2id),
            )

    def _make_pipeline(self, name: str) -> FastPipeline:
        preset = PRESETS[name]
        bpe = BPE(self.merges, self.vocabulary.ids if preset.limits_pieces else None)
        plain = Pipeline(
            preset=preset,
            bpe=bpe.split,
            ids=self.vocabulary.ids,
            unk_id=self.unk_token_id,
            casefolds=self.do_lowercase_and_remove_accent,
            added=self._added,
        )
        return FastPipeline(plain, bpe)

    def _checked_added_tokens(self) -> tuple[AddedToken, ...]:
        """Return the added tokens in the order of their ids, omitting special tokens that have no options."""
        unchecked: tuple[Any, ...] = self.added_tokens
        tokens = [AddedToken(content=token) if isinstance(token, str) else token for token in unchecked]
        contents = [token.content if isinstance(token, AddedToken) else None for token in tokens]
        if not all(isinstance(content, str) and content for content in contents) or len(set(contents)) < len(tokens):
            raise InputError(
                "invalid tokenizer setting",
                where="added_tokens",
                found=shown(self.added_tokens),
                expected="different tokens, each a str or an AddedToken",
            )
        ids = {token.content: self._id_of_special("added_tokens", token.content) for token in tokens}
        special = set(self.all_special_tokens)
        kept = [token for token in tokens if token.has_options or token.content not in special]
        return tuple(sorted(kept, key=lambda token: ids[token.content]))

    def _check_settings(self) -> None:
        def check(name: str, holds: bool, expected: str) -> None:
            if not holds:
                found = shown(getattr(self, name))
                raise InputError("invalid tokenizer setting", where=name, found=found, expected=expected)

        check("vocabulary", isinstance(self.vocabulary, Vocabulary), "a Vocabulary")
        check("merges", _are_merges(self.merges), "a list of pairs of str, each a tuple")
        check("preset", isinstance(self.preset, str) and self.preset in PRESETS, listed_choices(PRESETS))
        without = self.preset_without_lang
        free = [name for name, preset in PRESETS.items() if not preset.lang_required]
        without_holds = without is None or (isinstance(without, str) and without in free)
        check("preset_without_lang", without_holds, listed_choices([None, *free]))
        check("do_lowercase_and_remove_accent", isinstance(self.do_lowercase_and_remove_accent, bool), "true or false")
        length = self.model_max_length
        check("model_max_length", type(length) is int and length > 0, "an int above 0")
        check("padding_side", isinstance(self.padding_side, str) and self.padding_side in SIDES, listed_choices(SIDES))
        for name in ("additional_special_tokens", "added_tokens"):
            check(name, isinstance(getattr(self, name), (list, tuple)), "a list")
        ids = self.lang2id
        check(
            "lang2id",
            ids is None or (isinstance(ids, Mapping) and _are_language_ids(ids)),
            "a mapping from printable names to distinct ids",
        )

    def _id_of_special(self, where: str, token: object) -> int:
        index = self.vocabulary.ids.get(token) if isinstance(token, str) else None
        if index is None:
            raise VocabularyError(
                "the special token is not in the vocabulary",
                where=where,
                found=shown(token),
                expected="a token of the vocabulary",
                remedy="add the token first: add_tokens",
            )
        return index


def ids_of_texts(tokenizer: XLMTokenizer, texts: Sequence[str], *, lang: str | None) -> RaggedArray:
    """Return the ids of texts, without special tokens, as one array, in which ``encode_batch`` computes them.

    Args:
        tokenizer: The tokenizer.
        texts: Texts that were checked to be str, at most some ten thousand.
        lang: As for ``encode_batch``.
    """
    return tokenizer._pipeline_for("", lang).ids_of_each(texts, lang)


def tokenizer_digest(tokenizer: XLMTokenizer) -> str:
    """Return the fingerprint of a tokenizer, computed from its tokens, its merges and all settings that change ids.

    Files of scores and prepared texts record the fingerprint. Two tokenizers that give any text different ids have
    different fingerprints.
    """
    names = [field.name for field in fields(XLMTokenizer) if field.init and field.name != "padding_side"]
    return fingerprint(
        "tokenizer",
        {name: getattr(tokenizer, name) for name in names}
        | {
            "vocabulary": tokenizer.vocabulary.tokens,
            "added_tokens": [asdict(token) for token in tokenizer.added_tokens],
        },
    )


def check_names(settings: Collection[str]) -> None:
    """Check that all keys of ``settings`` are names of tokenizer settings."""
    known = [field.name for field in fields(XLMTokenizer) if field.init and field.kw_only]
    if unknown := sorted({*settings}.difference(known)):
        raise InputError("no such tokenizer setting", where=", ".join(unknown), expected=", ".join(known))


def _are_merges(merges: object) -> bool:
    return (
        isinstance(merges, (list, tuple))
        and {*map(type, merges)} <= {tuple}
        and {*map(len, merges)} <= {2}
        and {*map(type, chain.from_iterable(merges))} <= {str}
    )


def _are_language_ids(ids: Mapping[Any, Any]) -> bool:
    typed = all(isinstance(lang, str) and type(index) is int and index >= 0 for lang, index in ids.items())
    # Errors and files show the names of languages, so a name must not be empty, or hold a lone surrogate or an escape
    # sequence.
    return typed and all(lang and lang.isprintable() for lang in ids) and len(set(ids.values())) == len(ids)


def _has_length(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _checked_tokens(tokens: Iterable[str]) -> list[str]:
    try:
        checked = [*iter(tokens)]
    except TypeError as error:
        raise InputError(
            "not a list of tokens", where="tokens", found=type(tokens).__name__, expected="a list of str"
        ) from error
    for token in checked:
        if not isinstance(token, str):
            raise InputError("a token is not a str", where="tokens", found=shown(token), expected="str")
    return checked


def _checked_ids(ids: Ids, *, vocab_size: int) -> int | list[int]:
    """Return ids as a list of ints, or as one int if ``ids`` is a single id or a 0-dimensional tensor.

    Raises:
        InputError: An id is not an integer from 0 to ``vocab_size - 1``.
    """
    # For a tensor, tolist is faster than iteration, which would make a tensor of each element.
    values: Any = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        return [_checked_id(value, vocab_size) for value in values]
    return _checked_id(values, vocab_size)


def _checked_id(value: object, vocab_size: int) -> int:
    # The check for int comes first, because isinstance with SupportsIndex takes twenty times as long.
    if type(value) is int or (isinstance(value, SupportsIndex) and not isinstance(value, bool)):
        index = value.__index__()
        if 0 <= index < vocab_size:
            return index
    raise InputError(
        "not an id of the vocabulary",
        where="ids",
        found=shown(value),
        expected=f"an integer from 0 to {vocab_size - 1}",
    )
