"""How often each word stands in a text, and each piece of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from xlm._io.arguments import check_choice
from xlm.data.text import in_batches, texts_of
from xlm.errors import InputError, LanguageError
from xlm.tokenizer import word_segmenters
from xlm.tokenizer.batches import in_order
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.fast.bpe import FastBPE
from xlm.tokenizer.fast.segmenter import Segmenter
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary, is_writable


def count_words(
    path: Path,
    *,
    preset: str | None = None,
    lang: str | None = None,
    form: str | None = None,
    column: str | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda lines: None,
) -> Counter[str]:
    """Returns how often each word stands in a text file.

    Args:
        path: One sentence a row.
        preset: None for text that is divided into words already, at spaces; else the pipeline, as a tokenizer has it,
            that divides raw text.
        lang: The language of raw text.
        form: Of the file, as for ``Corpus``.
        column: Of the file, as for ``Corpus``.
        workers: Processes that share the work.
        progress: Told the lines done so far, every now and then.

    Raises:
        InputError: The text cannot be read, there is no such preset, or raw text comes without its language.
        LanguageError: A language whose words no rule of ours divides.
    """
    if preset is not None:
        _check_raw(preset, lang)
    words: Counter[str] = Counter()
    lines = 0
    batches = in_batches(texts_of(path, form=form, column=column))
    for batch_lines, counts in in_order(partial(_count, preset=preset, lang=lang), batches, workers=workers):
        words.update(counts)
        lines += batch_lines
        progress(lines)
    return words


def _check_raw(preset: str, lang: str | None) -> None:
    check_choice("preset", PRESETS, preset=preset)
    if lang is None:
        raise InputError("the language of the text is missing", where="lang", expected="a language such as 'en'")
    if lang in word_segmenters.LANGUAGES:
        raise LanguageError(
            "the words of this language stand without spaces",
            where="lang",
            found=lang,
            expected=f"a language other than {', '.join(word_segmenters.LANGUAGES)}",
            remedy="divide the text into words first, and give it without a preset",
        )


def _count(lines: list[str], *, preset: str | None, lang: str | None) -> tuple[int, Counter[str]]:
    words: Counter[str] = Counter()
    if preset is None:
        for line in lines:
            words.update(line.split(" "))
        del words[""]  # between two spaces, and in an empty line
    else:
        assert lang is not None
        divide = _divider(preset, lang)
        for line in lines:
            words.update(divide(line))
    return len(lines), words


@cache
def _divider(preset: str, lang: str) -> Callable[[str], Sequence[str]]:
    choices = PRESETS[preset]
    return Segmenter(
        moses(choices.dialect, lang),
        casefolds=choices.do_lowercase_and_remove_accent,
        of_word=lambda word: (word,),
    )


def count_pieces(words: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> tuple[Vocabulary, list[str]]:
    """Returns the vocabulary of a text whose words are split into pieces, the most frequent first.

    Pieces that are equally frequent come in the order of their UTF-8 bytes, as fastBPE writes them.

    Args:
        words: How often each word stands in the text.
        merges: Best first.

    Returns:
        The vocabulary with its counts, and the pieces that were left out since a vocabulary file cannot hold them.

    Source: fastBPE's ``getvocab`` after ``applybpe``.
    """
    bpe = FastBPE(BPE(tuple(merges)), {}, 0)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in bpe.split(word):
            counts[piece] += count
    left_out = [piece for piece in counts if not is_writable(piece)]
    for piece in left_out:
        del counts[piece]
    # The order is that of the words as the file has them, with @@.
    words_by_id = Vocabulary(tokens=(*SPECIAL_TOKENS, *counts)).words()[len(SPECIAL_TOKENS) :]
    rows = sorted(zip(words_by_id, counts.items(), strict=True), key=lambda row: (-row[1][1], row[0].encode()))
    vocabulary = Vocabulary(
        tokens=(*SPECIAL_TOKENS, *(piece for _, (piece, _) in rows)),
        counts=(*(0 for _ in SPECIAL_TOKENS), *(count for _, (_, count) in rows)),
    )
    return vocabulary, left_out
