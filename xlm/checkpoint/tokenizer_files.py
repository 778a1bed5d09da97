"""Read the tokenizer of a model directory or an original checkpoint, and write it to a directory.

Reading from a directory does not import torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm._io.arguments import as_path, check_choice, shown
from xlm._io.atomic import make_directory, write_text
from xlm.checkpoint.hub import TOKENIZER, HubOptions
from xlm.checkpoint.resolve import find_model
from xlm.errors import InputError, VocabularyError, warn_caller
from xlm.tokenizer.added_tokens import AddedToken
from xlm.tokenizer.bpe import check_merges, read_codes, read_merges, write_merges
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.text_files import place_of_key, read_json_object, shortened
from xlm.tokenizer.tokenizer import SPECIAL_TOKEN_NAMES, XLMTokenizer, check_names
from xlm.tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

_MERGES = "merges.txt"
_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_ADDED_TOKENS = "added_tokens.json"

# Key of tokenizer_config.json for settings that only this library has; transformers ignores it.
_OURS = "xlm"

_OUR_SETTINGS = ("preset", "preset_without_lang")

# The setting added_tokens is not saved under its own name, but together with the special tokens in added_tokens_decoder
# or, in older directories, in added_tokens.json.
_ADDED = "added_tokens"
_MOST_ADDED = 20_000

# Keyword arguments of XLMTokenizer that tokenizer_config.json contains under the same names.
_SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(XLMTokenizer)
    if field.init and field.kw_only and field.name not in (*_OUR_SETTINGS, _ADDED)
)

# Settings of transformers that change results; only these values are supported.
_FIXED = {"clean_up_tokenization_spaces": False, "split_special_tokens": False}


# The original keeps case and accents, and wraps each sentence as "</s> … </s>". These settings depend on the training
# of the model, not on the preset, so they apply with another preset too.
_ORIGINAL_SETTINGS: dict[str, Any] = {
    "preset": "original",
    **{name: getattr(PRESETS["original"], name) for name in ("do_lowercase_and_remove_accent", "bos_token")},
}


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    *,
    preset: str | None = None,
    codes: str | os.PathLike[str] | None = None,
    hub: HubOptions | None = None,
    kind: type[XLMTokenizer] = XLMTokenizer,
    **settings: Any,
) -> XLMTokenizer:
    """Load the tokenizer of a transformers directory, an original ``.pth``, a bundled model or an id on the hub.

    Args:
        name_or_path: The directory, the file, the name or the id.
        preset: The text pipeline; ``None`` means the saved preset, by default ``"original"`` for a ``.pth`` and
            ``"transformers"`` for a directory. ``"original"`` also replaces the casing and the ``bos_token`` that were
            saved with another preset.
        codes: File of fastBPE codes, used instead of ``merges.txt``; required for a ``.pth``, which contains no codes.
        hub: Options for fetching from the hub.
        kind: The class to create: ``XLMTokenizer`` or a subclass.
        **settings: Other keyword arguments of ``XLMTokenizer``, which override the saved ones.

    Raises:
        CheckpointError: No such model exists, or the file is not a checkpoint.
        VocabularyError: A file is missing or invalid, or the tokenizer is not XLM's.
        InputError: A setting is unknown or has an invalid value.
    """
    check_names(settings)
    if preset is not None:
        check_choice("preset", PRESETS, preset=preset)
        settings["preset"] = preset
    merges_path = None if codes is None else as_path("codes", codes)
    path = find_model(name_or_path, TOKENIZER, hub)
    if path.is_dir():
        return _from_directory(path, merges_path, kind, settings)
    return _from_original(path, merges_path, kind, settings)


def original_tokenizer(
    vocabulary: Vocabulary,
    lang2id: Mapping[str, int],
    codes: Path,
    kind: type[XLMTokenizer] = XLMTokenizer,
    /,
    **settings: Any,
) -> XLMTokenizer:
    """Return the tokenizer of an original checkpoint, from its dictionary and fastBPE's codes.

    ``settings`` are keyword arguments of ``XLMTokenizer``, which override the original's settings.

    Raises:
        VocabularyError: The codes are invalid.
        InputError: A setting is invalid.
    """
    merges = read_codes(codes)
    check_merges(vocabulary, merges, codes)
    return kind(vocabulary, merges, **{**_ORIGINAL_SETTINGS, "lang2id": dict(lang2id), **settings})


def has_tokenizer(path: Path) -> bool:
    """Return whether a directory holds the vocabulary and merges of a tokenizer."""
    return (path / VOCABULARY_FILE).is_file() and (path / _MERGES).is_file()


def save_tokenizer(tokenizer: XLMTokenizer, directory: str | os.PathLike[str]) -> None:
    """Write a tokenizer to a directory, created if missing, in the layout of transformers.

    Each file is written atomically.

    Raises:
        WriteError: The directory or a file could not be written.
    """
    target = as_path("directory", directory)
    make_directory(target)
    tokenizer.vocabulary.to_json(target / VOCABULARY_FILE)
    write_merges(target / _MERGES, tokenizer.merges)
    _write_json(target / _CONFIG, _config_of(tokenizer))
    special = {name: getattr(tokenizer, name) for name in (*SPECIAL_TOKEN_NAMES, "additional_special_tokens")}
    _write_json(target / _SPECIAL_TOKENS_MAP, special)


def _config_of(tokenizer: XLMTokenizer) -> dict[str, Any]:
    ids = tokenizer.vocabulary.ids
    plain = [AddedToken(content=token, normalized=False, special=True) for token in tokenizer.all_special_tokens]
    added = {ids[token.content]: dataclasses.asdict(token) for token in (*plain, *tokenizer.added_tokens)}
    return {
        **_FIXED,
        **{name: getattr(tokenizer, name) for name in _SETTINGS},
        "id2lang": tokenizer.id2lang,
        "added_tokens_decoder": {str(index): added[index] for index in sorted(added)},
        "tokenizer_class": "XLMTokenizer",
        _OURS: {name: getattr(tokenizer, name) for name in _OUR_SETTINGS},
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _from_original(path: Path, codes: Path | None, kind: type[XLMTokenizer], settings: dict[str, Any]) -> XLMTokenizer:
    from xlm.checkpoint.original import read_dictionary  # here, because it imports torch
    from xlm.checkpoint.pickles import check_first_bytes

    if codes is None:
        check_first_bytes(path)
        raise VocabularyError(
            "a checkpoint of the original holds its vocabulary but no BPE codes",
            where=path,
            expected="codes=FILE",
            remedy="pass the codes file the model was trained with, such as codes_ende",
        )
    dictionary = read_dictionary(path)
    vocabulary = Vocabulary.from_dictionary(dictionary.words, dictionary.counts, where=path)
    return original_tokenizer(vocabulary, dictionary.lang2id, codes, kind, **settings)


def _from_directory(
    directory: Path, codes: Path | None, kind: type[XLMTokenizer], settings: dict[str, Any]
) -> XLMTokenizer:
    needed = (VOCABULARY_FILE,) if codes is not None else (VOCABULARY_FILE, _MERGES)
    missing = [name for name in needed if not _is_there(directory / name)]
    if missing:
        raise VocabularyError(
            "the directory does not hold a tokenizer",
            where=directory,
            found=f"no {' and no '.join(missing)}",
            expected=" and ".join(needed),
            remedy="fetch the missing files of the model"
            + (", or pass codes=FILE with its BPE codes" if _MERGES in missing else ""),
        )
    config_path = directory / _CONFIG
    config = read_json_object(config_path) if _is_there(config_path) else {}
    vocabulary = Vocabulary.from_json(directory / VOCABULARY_FILE)
    vocabulary = _with_added(vocabulary, directory, config)
    _check_languages(directory, config)
    merges_path = directory / _MERGES if codes is None else codes
    merges = read_merges(merges_path) if codes is None else read_codes(codes)
    check_merges(vocabulary, merges, merges_path)
    saved = _saved_settings(directory, config, vocabulary)
    ours = config.get(_OURS, {})
    if not isinstance(ours, dict):
        raise _wrong(config_path, _OURS, ours, "an object")
    saved |= {name: ours[name] for name in _OUR_SETTINGS if name in ours}
    if "preset" in settings:
        saved.pop("preset_without_lang", None)  # the saved value belongs to the saved preset
        if settings["preset"] == "original" != saved.get("preset"):
            # Drop the casing and bos_token of the saved preset, so that the defaults of the preset "original" apply.
            saved = {name: saved[name] for name in saved if name not in ("do_lowercase_and_remove_accent", "bos_token")}
    try:
        return kind(vocabulary, merges, **{**saved, **settings})
    except (InputError, VocabularyError) as error:
        if error.where not in saved or error.where in settings:
            raise  # the invalid value is the caller's, not the file's
        path = _file_of(directory, config, str(error.where))
        raise _wrong(path, str(error.where), error.found, error.expected) from error


def _with_added(vocabulary: Vocabulary, directory: Path, config: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary extended by the tokens that ``add_tokens`` of transformers added and vocab.json lacks.

    This function does not check the added tokens; ``_saved_settings`` does.
    """
    if "added_tokens_decoder" in config:
        decoder = _object(directory / _CONFIG, config, "added_tokens_decoder")
        added = {index: token.get("content") if isinstance(token, dict) else token for index, token in decoder.items()}
    else:
        path = directory / _ADDED_TOKENS
        added = {str(index): token for token, index in read_json_object(path).items()} if _is_there(path) else {}
    tokens = list(vocabulary.tokens)
    while isinstance(token := added.get(str(len(tokens))), str):
        tokens.append(token)
    return vocabulary if len(tokens) == len(vocabulary) else Vocabulary(tokens=tuple(tokens))


def _is_there(path: Path) -> bool:
    """Return whether a path exists. A broken link counts as existing, so that reading it raises an error."""
    return os.path.lexists(path)


def _check_languages(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model and a tokenizer that disagree on the ids of languages."""
    path = directory / "config.json"
    of_model = read_json_object(path).get("lang2id") if _is_there(path) else None
    of_tokenizer = config.get("lang2id")
    if of_model and of_tokenizer and of_model != of_tokenizer:
        raise VocabularyError(
            "the model and its tokenizer disagree on the ids of languages",
            where=f"{path} and {directory / _CONFIG}, lang2id",
            found=f"{shortened(of_model)} and {shortened(of_tokenizer)}",
            expected="the same ids in both",
            remedy="correct the wrong file; the original's ids follow the alphabetical order of the names",
        )


def _saved_settings(directory: Path, config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the saved settings of a directory, as keyword arguments of ``XLMTokenizer``."""
    path = directory / _CONFIG
    kind = config.get("tokenizer_class") or "XLMTokenizer"
    if kind != "XLMTokenizer":
        raise _wrong(path, "tokenizer_class", kind, "XLMTokenizer")
    values = dict(config)
    added: dict[str, AddedToken] = {}  # by id, written as text
    added_path = path
    if has_decoder := "added_tokens_decoder" in config:
        for index, value in _object(path, config, "added_tokens_decoder").items():
            added[index] = _added_token(path, index, value)
    else:  # transformers before 4.34 wrote these files; newer versions read them if added_tokens_decoder is absent
        if _is_there(special_path := directory / _SPECIAL_TOKENS_MAP):
            values |= read_json_object(special_path)
        if _is_there(directory / _ADDED_TOKENS):
            added_path = directory / _ADDED_TOKENS
            added = {str(index): AddedToken(content=token) for token, index in read_json_object(added_path).items()}
    _check_added(added_path, added, vocabulary)
    # transformers 5.x reads extra_special_tokens but writes both keys. It writes an unset key as an empty object.
    if values.get("extra_special_tokens"):
        values["additional_special_tokens"] = values["extra_special_tokens"]
    for name, only in _FIXED.items():
        if values.get(name, only) != only:
            warn_caller(f"{path}: {name} = {values[name]!r} is not supported and has no effect")
    eos = values.get("eos_token")
    if (eos.get("content") if isinstance(eos, dict) else eos) not in (None, XLMTokenizer.sep_token):
        warn_caller(f"{path}: eos_token = {shown(eos)} is not supported and has no effect")
    saved = {name: values[name] for name in _SETTINGS if values.get(name) is not None}
    options = {token.content: token for token in added.values()}

    def content(name: str, value: object) -> object:
        """Return the text of a special token, which transformers saves as text or as an object with options."""
        if not isinstance(value, dict):
            return value
        file = _file_of(directory, config, name)
        token = _added_token(file, name, {**value, "special": True})
        if token.has_options and not has_decoder:
            options[token.content] = token
        elif token.has_options and token != options.get(token.content):
            raise _wrong(file, name, value, "the same options as in added_tokens_decoder")
        return token.content

    for name in SPECIAL_TOKEN_NAMES:
        if name in saved:
            saved[name] = content(name, saved[name])
    further: Any = XLMTokenizer.additional_special_tokens
    if isinstance(tokens := saved.get(name := "additional_special_tokens"), list):
        further = saved[name] = [content(name, token) for token in tokens]
    # Use the special tokens that are saved, because the caller's settings may name others.
    named = (saved.get(name) or getattr(XLMTokenizer, name) or "<s>" for name in SPECIAL_TOKEN_NAMES)
    special = {token for token in (*named, *further) if isinstance(token, str)}
    if len(special | options.keys()) > _MOST_ADDED:  # one pattern of all tokens would compile slowly
        raise _wrong(path, _ADDED, len(special | options.keys()), f"at most {_MOST_ADDED:,} special and added tokens")
    saved[_ADDED] = [token for token in options.values() if token.has_options or token.content not in special]
    return saved


def _added_token(path: Path, name: str, value: object) -> AddedToken:
    """Return an added token, which transformers saves as text or as an object with options."""
    if isinstance(value, str):
        value = {"content": value}
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise _wrong(path, name, value, "a token, as text or as an object with its content")
    if wrong := [flag for flag in flags if not isinstance(value.get(flag, False), bool)]:
        raise _wrong(path, name, f"{wrong[0]} = {value[wrong[0]]!r}", "true or false")
    options = {flag: value[flag] for flag in flags if flag in value}
    return AddedToken(**{"normalized": not value.get("special", False), **options, "content": value["content"]})


def _check_added(path: Path, added: Mapping[str, AddedToken], vocabulary: Vocabulary) -> None:
    for index, token in added.items():
        if str(vocabulary.ids.get(token.content)) != index:
            raise VocabularyError(
                "an added token has the wrong id",
                where=path,
                found=f"{shown(token.content)} with id {shortened(index)}",
                expected="tokens of vocab.json with their ids, and further tokens with the next ids",
                remedy="fetch the file again, or remove the token from it",
            )


def _object(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config[name]
    if not isinstance(value, dict):
        raise _wrong(path, name, value, "an object")
    return value


def _file_of(directory: Path, config: Mapping[str, Any], name: str) -> Path:
    """Return the file that holds a saved setting."""
    special = directory / _SPECIAL_TOKENS_MAP
    in_special = "added_tokens_decoder" not in config and _is_there(special) and name in read_json_object(special)
    return special if in_special else directory / _CONFIG


def _wrong(path: Path, name: str, found: object, expected: object) -> VocabularyError:
    return VocabularyError(
        "invalid setting of the tokenizer",
        where=f"{place_of_key(path, name)}, {name}",
        found=shortened(found),
        expected=expected,
        remedy="correct the file, fetch it again, or pass the setting as an argument",
    )
