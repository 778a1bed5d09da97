"""Time of scoring a table of words or of documents, beside the same tokens as plain lines."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Corpus
from xlm.scoring.layout import Layout
from xlm.scoring.scorer import Scorer
from xlm.scoring.signature import ModelSource
from xlm.scoring.table import ScoreTable, scored_lines
from xlm.tokenizer.vocabulary import END_OF_WORD

TIME_LIMIT = 1.1
"""Largest processor time of a table, as a multiple of that of plain lines."""

_DOCUMENTS, _SENTENCES = 10, 50
_WORDS_OF_MODEL = 400


def bench_tables(scratch: Path, *, model: str, lang: str, words: int, rounds: int) -> Report:
    """Score a table with one word a row, of 500 sentences in 10 documents, and the same sentences as plain lines.

    The words are the shortest words of the model. Documents are compared with lines that hold a document each, which
    are scored in windows of the same length. All of it runs in this process, in turn; the model is opened before.

    Args:
        scratch: A directory for temporary files.
        model: Name of the model.
        lang: Language of the texts.
        words: Number of words.
        rounds: How often to measure, after one round that does not count.
    """
    opened = ModelSource(model=model, lang=lang).open(offsets=True)
    scorer = Scorer(opened.model, opened.tokenizer, lang=lang)
    tokens = opened.tokenizer.vocabulary.tokens
    known = [token.removesuffix(END_OF_WORD) for token in tokens if token.endswith(END_OF_WORD)]
    known = sorted((word for word in known if word.isalpha()), key=len)[:_WORDS_OF_MODEL]
    choose = random.Random(0)
    table, lines, documents = scratch / "words.csv", scratch / "lines", scratch / "documents"
    texts = [
        [[choose.choice(known) for _ in range(words // (_DOCUMENTS * _SENTENCES))] for _ in range(_SENTENCES)]
        for _ in range(_DOCUMENTS)
    ]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["document", "sentence", "number", "word"])
        for document, sentences in enumerate(texts):
            for sentence, chosen in enumerate(sentences):
                writer.writerows(
                    [document, document * _SENTENCES + sentence, number, word] for number, word in enumerate(chosen)
                )
    by_line = [" ".join(sentence) for sentences in texts for sentence in sentences]
    lines.write_text("".join(f"{line}\n" for line in by_line), encoding="utf-8")
    joined = [" ".join(" ".join(sentence) for sentence in sentences) for sentences in texts]
    documents.write_text("".join(f"{line}\n" for line in joined), encoding="utf-8")
    ways: dict[str, Callable[[], None]] = {
        "lines, one a sentence": lambda: _score_lines(scorer, lines),
        "table of words": lambda: _score_table(scorer, table, ("sentence",)),
        "lines, one a document": lambda: _score_lines(scorer, documents),
        "table of words in documents": lambda: _score_table(scorer, table, ("document", "sentence")),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if number:
                times[name].append(time.process_time() - start)
    measured = {name: Measurement(name=name, unit="s", values=tuple(values)) for name, values in times.items()}
    plain, by_word, plain_documents, by_document = measured.values()
    pairs = {by_word.name: (by_word, plain), by_document.name: (by_document, plain_documents)}
    return Report(
        title=f"scoring {words} words of {_DOCUMENTS * _SENTENCES} sentences, processor time, {rounds} rounds",
        machine=machine_facts(("torch",)),
        measurements=tuple(measured.values()),
        targets=tuple(
            Target(name=f"{name} / lines", value=ratio_of_rounds(*pair), limit=TIME_LIMIT)
            for name, pair in pairs.items()
        ),
    )


def _score_lines(scorer: Scorer, file: Path) -> None:
    table = ScoreTable(unit="sentence", format="tsv")
    for window in windows(Corpus([file])):
        scored_lines(scorer, window, table, Layout(lang=scorer.lang))


def _score_table(scorer: Scorer, file: Path, groups: tuple[str, ...]) -> None:
    layout = Layout(lang=scorer.lang, text="word", words=True, group_by=groups)
    corpus = Corpus([file], column="word", whole=True)
    table = ScoreTable(unit="given word", format="tsv", kept=tuple(corpus.columns(required=layout.columns)))
    for window in windows(corpus, groups=layout.groups_of_file):
        scored_lines(scorer, window, table, layout)
