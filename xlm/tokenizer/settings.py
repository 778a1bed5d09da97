"""What a tokenizer is made of: its vocabulary, its merges and its settings, checked once, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from itertools import chain
from typing import Any

from xlm.errors import InputError, LanguageError, VocabularyError
from xlm.tokenizer.added_tokens import AddedToken, AddedTokens
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.merges import Merges
from xlm.tokenizer.pipeline import Pipeline
from xlm.tokenizer.presets import PRESETS
from xlm.tokenizer.text_files import shown
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

SPECIAL_TOKEN_NAMES = ("bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a name, in the order of transformers."""


@dataclass(frozen=True, repr=False)
class TokenizerSettings:
    """The fields of ``XLMTokenizer``, which says what they mean."""

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
    added_tokens: tuple[AddedToken, ...] = ()  # given, each may be a str too
    model_max_length: int = 512

    bos_token_id: int = field(init=False, compare=False)
    sep_token_id: int = field(init=False, compare=False)
    cls_token_id: int = field(init=False, compare=False)
    pad_token_id: int = field(init=False, compare=False)
    unk_token_id: int = field(init=False, compare=False)
    mask_token_id: int = field(init=False, compare=False)
    _pipeline: Pipeline = field(init=False, compare=False)
    _other: dict[str, Pipeline] = field(init=False, compare=False, default_factory=dict)
    _added: AddedTokens = field(init=False, compare=False)

    def __post_init__(self) -> None:
        preset = PRESETS.get(self.preset) if isinstance(self.preset, str) else None
        for name in ("do_lowercase_and_remove_accent", "bos_token"):
            if getattr(self, name) is None and preset is not None:
                object.__setattr__(self, name, getattr(preset, name))
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
        object.__setattr__(self, "added_tokens", self._checked_added_tokens())
        plain = {token: AddedToken(content=token, special=True, normalized=False) for token in self.all_special_tokens}
        found_first = [token.content for token in self.added_tokens if token.normalized and not token.special]
        object.__setattr__(
            self,
            "_added",
            AddedTokens(plain | {token.content: token for token in self.added_tokens}, [*plain, *found_first]),
        )
        object.__setattr__(self, "_pipeline", self._make_pipeline(self.preset))

    def _make_pipeline(self, preset: str) -> Pipeline:
        return Pipeline(
            PRESETS[preset],
            BPE(self.merges, self.vocabulary.ids if PRESETS[preset].limits_pieces else None),
            self.vocabulary.ids,
            fold_words=self.do_lowercase_and_remove_accent,
            unk_id=self.unk_token_id,
            added=self._added,
        )

    def _checked_added_tokens(self) -> tuple[AddedToken, ...]:
        """Return the added tokens in the order of their ids, without those that are special anyway."""
        given: tuple[Any, ...] = self.added_tokens
        tokens = [AddedToken(content=token) if isinstance(token, str) else token for token in given]
        contents = [token.content if isinstance(token, AddedToken) else None for token in tokens]
        if not all(isinstance(content, str) and content for content in contents) or len(set(contents)) < len(tokens):
            raise InputError(
                "A setting of the tokenizer is wrong",
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
                raise InputError("A setting of the tokenizer is wrong", where=name, found=found, expected=expected)

        check("vocabulary", isinstance(self.vocabulary, Vocabulary), "a Vocabulary")
        check("merges", _are_merges(self.merges), "a list of pairs of str, each a tuple")
        check("preset", isinstance(self.preset, str) and self.preset in PRESETS, " or ".join(map(repr, PRESETS)))
        without = self.preset_without_lang
        free = [name for name, preset in PRESETS.items() if not preset.lang_required]
        without_holds = without is None or (isinstance(without, str) and without in free)
        check("preset_without_lang", without_holds, " or ".join(map(repr, [None, *free])))
        check("do_lowercase_and_remove_accent", isinstance(self.do_lowercase_and_remove_accent, bool), "true or false")
        length = self.model_max_length
        check("model_max_length", type(length) is int and length > 0, "a number of tokens above 0")
        for name in ("additional_special_tokens", "added_tokens"):
            check(name, isinstance(getattr(self, name), (list, tuple)), "a list")
        ids = self.lang2id
        check(
            "lang2id",
            ids is None or (isinstance(ids, Mapping) and _are_language_ids(ids)),
            "for each language, by a printable name, an id of its own",
        )

    def _id_of_special(self, where: str, token: object) -> int:
        index = self.vocabulary.ids.get(token) if isinstance(token, str) else None
        if index is None:
            raise VocabularyError(
                "A special token is not in the vocabulary",
                where=where,
                found=shown(token),
                expected="a token of the vocabulary; adding tokens to a model is not supported",
            )
        return index

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
            raise InputError("The language is not a str", where="lang", found=shown(lang), expected="such as 'en'")
        # transformers only logs an error, and goes on with English or general rules.
        if self.lang2id and lang not in self.lang2id:
            raise LanguageError(
                "The model does not have this language",
                where="lang",
                found=shown(lang),
                expected=" or ".join(map(repr, self.lang2id)),
            )

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
    def eos_token(self) -> str:
        """``</s>``, which ends every sentence; ``XLMTokenizer`` of transformers gives it no such name."""
        return SPECIAL_TOKENS[self.eos_token_id]

    @property
    def eos_token_id(self) -> int:
        """The id of ``</s>``."""
        return 1

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once, in the order of transformers."""
        named = (getattr(self, name) for name in SPECIAL_TOKEN_NAMES)
        return list(dict.fromkeys([*named, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``."""
        return [self.vocabulary.ids[token] for token in self.all_special_tokens]


def check_names(settings: Collection[str]) -> None:
    """Raise an ``InputError`` unless these are names of settings."""
    known = [field.name for field in fields(TokenizerSettings) if field.init and field.kw_only]
    if unknown := sorted({*settings}.difference(known)):
        raise InputError("Unknown settings of the tokenizer", where=", ".join(unknown), expected=", ".join(known))


def check_flag(name: str, value: object) -> None:
    """Raise an ``InputError`` unless an argument is True or False."""
    if not isinstance(value, bool):
        raise InputError("this is not a flag", where=name, found=shown(value), expected="True or False")


def _are_merges(merges: object) -> bool:
    return (
        isinstance(merges, (list, tuple))
        and {*map(type, merges)} <= {tuple}
        and {*map(len, merges)} <= {2}
        and {*map(type, chain.from_iterable(merges))} <= {str}
    )


def _are_language_ids(ids: Mapping[Any, Any]) -> bool:
    typed = all(isinstance(lang, str) and type(index) is int and index >= 0 for lang, index in ids.items())
    # Names stand in errors and in files: none is empty, half of a surrogate pair or an escape sequence.
    return typed and all(lang and lang.isprintable() for lang in ids) and len(set(ids.values())) == len(ids)
