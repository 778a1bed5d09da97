"""Time of scoring a table of words or of documents, beside the same tokens as plain lines."""

from __future__ import annotations

import csv
import gc
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

from benchmarks.models import SIZES
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Corpus
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.layout import Layout
from xlm.scoring.logprobs import windows_of
from xlm.scoring.scorer import Scorer
from xlm.scoring.signature import ModelSource
from xlm.scoring.table import ScoreTable, scored_lines
from xlm.tokenizer.vocabulary import END_OF_WORD

TIME_LIMIT = 1.1
"""Largest processor time of a table, as a multiple of that of plain lines."""

_SENTENCES, _WORDS = 50, 20
"""Number of sentences in a document, and of words in a sentence."""
_WORDS_OF_MODEL = 400

Documents = list[list[list[str]]]
"""The words of each sentence of each document."""


def bench_tables(scratch: Path, *, model: str, lang: str, words: int, published_words: int, rounds: int) -> Report:
    """Score a table with one word a row, as sentences and as documents, and the same texts as plain lines.

    A model of the published size, with random weights and the tokenizer of ``model``, scores a part of the table. The
    words are ASCII words of the tokenizer, the shortest ones. All of it runs in this process, in turn; the models are
    opened before.

    Args:
        scratch: A directory for temporary files.
        model: Name of the model.
        lang: Language of the texts.
        words: Number of words for this model, rounded down to whole documents of a thousand words.
        published_words: Number of words for the model of the published size.
        rounds: How often to measure, after one round that does not count.
    """
    opened = ModelSource(model=model, lang=lang).open(offsets=True)
    own, tokenizer = opened.model, opened.tokenizer
    config = replace(SIZES["published"], vocab_size=own.config.vocab_size, lang2id=own.config.lang2id)
    known = [token.removesuffix(END_OF_WORD) for token in tokenizer.vocabulary.tokens if token.endswith(END_OF_WORD)]
    known = sorted((word for word in known if word.isalpha() and word.isascii()), key=len)[:_WORDS_OF_MODEL]
    measurements: list[Measurement] = []
    targets: list[Target] = []
    for name, network, count in (
        (model, own, words),
        ("random, published size", XLMWithLMHeadModel(config).eval(), published_words),
    ):
        scorer = Scorer(network, tokenizer, lang=lang)
        documents = _documents(known, count)
        ways = _ways(scorer, scratch, documents)
        gc.freeze()  # as the commands do
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, run in ways.items():
                start = time.process_time()
                run()
                if number:
                    times[way].append(time.process_time() - start)
        total = sum(map(len, chain.from_iterable(documents)))
        measured = [
            Measurement(name=f"{name}, {way}", unit="µs a word", values=tuple(1e6 * each / total for each in values))
            for way, values in times.items()
        ]
        measurements += measured
        lines, table, lines_of_documents, table_of_documents = measured
        targets += (
            Target(name=f"{each.name} / lines", value=ratio_of_rounds(each, plain), limit=TIME_LIMIT)
            for each, plain in ((table, lines), (table_of_documents, lines_of_documents))
        )
        measurements += (
            Measurement(name=f"{name}, positions of the model for each scored token, {kind}", unit="", values=(share,))
            for kind, share in (
                ("sentences", _positions_per_token(scorer, (_joined([each]) for each in chain(*documents)))),
                ("documents", _positions_per_token(scorer, map(_joined, documents))),
            )
        )
    return Report(
        title=f"scoring {words} and {published_words} words in sentences of {_WORDS} words and documents of "
        f"{_SENTENCES} sentences, processor time, {rounds} rounds",
        machine=machine_facts(("torch",)),
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def _documents(known: list[str], words: int) -> Documents:
    choose = random.Random(0)
    sentences = max(words // _WORDS, 1)
    texts = [[choose.choice(known) for _ in range(_WORDS)] for _ in range(sentences)]
    return [texts[first : first + _SENTENCES] for first in range(0, sentences, _SENTENCES)]


def _joined(sentences: Iterable[list[str]]) -> list[str]:
    return [" ".join(words) for words in sentences]


def _ways(scorer: Scorer, scratch: Path, documents: Documents) -> dict[str, Callable[[], None]]:
    """Write the files, and return what to measure, by name."""
    table, lines, blocks = scratch / "words.csv", scratch / "lines", scratch / "documents"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["document", "sentence", "number", "word"])
        for document, sentences in enumerate(documents):
            for sentence, chosen in enumerate(sentences):
                place = document * _SENTENCES + sentence
                writer.writerows([document, place, number, word] for number, word in enumerate(chosen))
    lines.write_text("".join(f"{line}\n" for each in documents for line in _joined(each)), encoding="utf-8")
    blocks.write_text("\n".join("".join(f"{line}\n" for line in _joined(each)) for each in documents), encoding="utf-8")
    plain, laid_out = Layout(lang=scorer.lang), Layout(lang=scorer.lang, documents=True)
    return {
        "lines": lambda: _score_lines(scorer, lines, plain),
        "table of words": lambda: _score_table(scorer, table, ("sentence",)),
        "lines in documents": lambda: _score_lines(scorer, blocks, laid_out),
        "table of words in documents": lambda: _score_table(scorer, table, ("document", "sentence")),
    }


def _positions_per_token(scorer: Scorer, documents: Iterable[list[str]]) -> float:
    """Return the number of positions that the model computes for each token that it scores."""
    positions, stride = scorer.model.config.max_position_embeddings, scorer.options.stride
    assert stride is not None
    counts = [sum(len(scorer.tokenizer.encode(text, lang=scorer.lang)) - 1 for text in each) for each in documents]
    computed = [windows_of(0, count, positions=positions, stride=stride) for count in counts]
    return sum(window.end - window.start for each in computed for window in each) / sum(counts)


def _score_lines(scorer: Scorer, file: Path, layout: Layout) -> None:
    table = ScoreTable(unit="sentence", format="tsv")
    for window in windows(Corpus([file]), groups=layout.groups_of_file):
        scored_lines(scorer, window, table, layout)


def _score_table(scorer: Scorer, file: Path, groups: tuple[str, ...]) -> None:
    layout = Layout(lang=scorer.lang, text="word", words=True, group_by=groups)
    corpus = Corpus([file], column="word", whole=True)
    table = ScoreTable(unit="given word", format="tsv", kept=tuple(corpus.columns(required=layout.columns)))
    for window in windows(corpus, groups=layout.groups_of_file):
        scored_lines(scorer, window, table, layout)
