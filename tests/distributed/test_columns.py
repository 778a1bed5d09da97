"""One list of columns: the command, Ray, data frames and results give the same columns and digits.

Oracle: the plain loop over the model, one forward for each token, of ``tests/scoring/test_conditions.py``; the tokens
of a word are found by its place in a text that the tokenizer encodes as a whole.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Invoke
from tests.distributed.conftest import Engine
from tests.distributed.runs import joined, parts
from xlm import XLMTokenizer, XLMWithLMHeadModel, score_documents, score_frame
from xlm.scoring.scorer import SentenceScore, WordScore

pd = pytest.importorskip("pandas")
parquet = pytest.importorskip("pyarrow.parquet")

STORIES = {
    ("a", 1): ["The", "dog,", "", "\u00a0", 'said\u00a0"no"', "null"],
    ("a", 2): ["It", "\x07", "(\u2026)", "\u6f22."],
    ("b", 1): ["A", "cat", "don't,", "NA"],
    ("b", 2): ["the", "grass."],
}
TABLE = [
    {"story": story, "sentence": sentence, "word": word, "rt": 300.123456789 + place, "n": place, "seen": place > 1}
    for (story, sentence), words in STORIES.items()
    for place, word in enumerate(words)
]
KEPT = list(TABLE[0])
NEW = ["word_number", "start", "end", "tokens", "surprisal", "rank", "entropy", "entropy_reduction", "top"]
NEW += ["surprisal_without_punctuation", "unknown", "status"]
BY_WORD = ("--word-column", "word", "--group-by", "story", "--group-by", "sentence")
AT_PLACES = ("--ranks", "--entropy", "--top", "2")


@pytest.fixture
def pair(demo_files: Path) -> tuple[XLMWithLMHeadModel, XLMTokenizer]:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    return XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"), tokenizer


def by_hand(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> list[dict[str, Any]]:
    """The scores of the words, from one forward for each token of a story."""
    rows: list[dict[str, Any]] = []
    for _, of_story in itertools.groupby(STORIES.items(), lambda item: item[0][0]):
        sentences = [words for _, words in of_story]
        encoded = [tokenizer.encode(" ".join(words), lang="en")[1:] for words in sentences]
        ids = [tokenizer.bos_token_id, *itertools.chain(*encoded)]
        assert len(ids) <= model.config.max_position_embeddings
        tops, logprobs = [], []
        for end in range(1, len(ids)):
            with torch.no_grad():
                logits = model(torch.tensor([ids[:end]]), langs="en").logits[0, -1]
            logprobs.append(logits.double().log_softmax(0))
            tops.append([tokenizer.convert_ids_to_tokens(int(i)) for i in logits.topk(2).indices])
        place = 0
        for words, own in zip(sentences, encoded, strict=True):
            counts = [len(tokenizer.encode(word, lang="en")) - 2 for word in words]
            assert sum(counts) == len(own) - 1  # so that the words of this table can be encoded one by one
            for count in counts:
                targets = range(place, place + count)
                row = {"tokens": count, "surprisal": -sum(float(logprobs[i][ids[i + 1]]) for i in targets)}
                if count:
                    entropies = [float(-(logprobs[i].exp() * logprobs[i]).sum()) for i in (place, place + count)]
                    row |= {"entropy": entropies[0], "entropy_reduction": entropies[0] - entropies[1]}
                    row["rank"] = int((logprobs[place] > logprobs[place][ids[place + 1]]).sum()) + 1
                    row["top"] = tops[place]
                rows.append(row)
                place += count
            place += 1
    return rows


def test_every_way_gives_the_same_columns_and_digits(
    invoke: Invoke,
    engine: Engine,
    model: list[str],
    pair: tuple[XLMWithLMHeadModel, XLMTokenizer],
    tmp_path: Path,
) -> None:
    file = tmp_path / "words.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in TABLE)
    file.write_text(lines, encoding="utf-8")
    command = ["score", *model, file, *BY_WORD, *AT_PLACES]
    assert invoke(*command, "--format", "parquet", "--output", tmp_path / "exact").exit_code == 0
    exact = parquet.read_table(tmp_path / "exact").to_pylist()
    assert list(exact[0]) == ["line", *KEPT, *NEW]
    assert [{name: row[name] for name in KEPT} for row in exact] == TABLE  # numbers stay numbers

    for row, expected in zip(exact, by_hand(*pair), strict=True):
        for name in ("tokens", "rank"):
            assert row[name] == expected.get(name)
        assert row["surprisal"] == pytest.approx(expected["surprisal"], abs=3e-6)
        for name in ("entropy", "entropy_reduction"):
            assert row[name] == (None if name not in expected else pytest.approx(expected[name], abs=3e-6))
        assert row["top"] is None or [token for token, _ in json.loads(row["top"])] == expected["top"]

    # Results.
    given = [[words for (story, _), words in STORIES.items() if story == name] for name in "ab"]
    texts = [[" ".join(words) for words in story] for story in given]
    options: dict[str, Any] = {"lang": "en", "ranks": True, "entropies": True, "top": 2}
    results = [each for story in score_documents(*pair, texts, words=given, **options) for each in story]
    words: list[WordScore] = [word for result in results for word in result.words]
    for row, word in zip(exact, words, strict=True):
        for name in (*NEW[1:8], "surprisal_without_punctuation", "unknown"):
            assert row[name] == getattr(word, name), name

    # Data frames.
    frame = score_frame(*pair, pd.DataFrame(TABLE), word_column="word", group_by=["story", "sentence"], **options)
    assert list(frame.columns) == [*KEPT, *NEW]
    for row, of_frame in zip(exact, frame.to_dict("records"), strict=True):
        for name in (*KEPT, *NEW[:8], *NEW[9:]):
            cell = of_frame[name]
            assert row[name] == (None if isinstance(cell, float) and math.isnan(cell) else cell), name

    # The command from standard input, and Ray.
    for form in ("tsv", "jsonl", "parquet"):
        shown = ("--format", "tsv" if form == "parquet" else form)
        local = invoke(*command, *shown)
        piped = invoke("score", *model, *BY_WORD, *AT_PLACES, *shown, "--input-format", "jsonl", input=lines)
        assert local.exit_code == piped.exit_code == 0, piped.stderr
        assert piped.stdout == local.stdout
        out = tmp_path / form
        remote = invoke(*command, "--format", form, "--engine", "ray", "--output-dir", out, "--read-ahead", 1)
        assert remote.exit_code == 0, remote.stderr
        if form == "parquet":
            assert [row for part in parts(out) for row in parquet.read_table(part).to_pylist()] == exact
        else:
            assert (
                joined(out, header=form == "tsv") == invoke(*command, "--format", form, "--read-ahead", 1).stdout_bytes
            )
        if form == "tsv":
            rows = list(csv.DictReader(io.StringIO(local.stdout, newline=""), dialect="excel-tab"))
            for row, cells in zip(exact, rows, strict=True):
                for name in ("surprisal", "entropy", "surprisal_without_punctuation"):
                    assert cells[name] == ("" if row[name] is None else f"{row[name]:.6f}")
                assert (cells["word"], cells["rt"], cells["seen"]) == (
                    *(row["word"], repr(row["rt"])),
                    json.dumps(row["seen"]),
                )
    signatures = [line for line in local.stderr.splitlines() if line.startswith("signature")]
    assert "protocol:document|" in signatures[0]
    assert signatures[0] in remote.stderr.splitlines()


@pytest.mark.parametrize("by", ["sentence", "word", "token", "region"])
def test_texts_of_a_table_are_the_same_everywhere(
    invoke: Invoke,
    engine: Engine,
    model: list[str],
    pair: tuple[XLMWithLMHeadModel, XLMTokenizer],
    tmp_path: Path,
    by: str,
) -> None:
    table = [
        {"nr": 1, "text": "the dog is", "before": "A", "lang": "en", "spans": "0-3 4-7"},
        {"nr": 2, "text": "", "before": "", "lang": "", "spans": ""},
        {"nr": 3, "text": "dog A", "before": "", "lang": "de en", "spans": "0-5"},
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    options = ["--by", by, "--prefix-column", "before", "--lang-column", "lang"]
    keywords: dict[str, Any] = {"by": by, "prefix_column": "before", "lang_column": "lang"}
    if by == "region":
        options += ["--region-column", "spans"]
        keywords["region_column"] = "spans"
    if by != "sentence":
        options += AT_PLACES
        keywords |= {"ranks": True, "entropies": True, "top": 2}
    command = ["score", *model, file, *options]
    assert invoke(*command, "--format", "parquet", "--output", tmp_path / "exact").exit_code == 0
    exact = parquet.read_table(tmp_path / "exact").to_pylist()
    frame = score_frame(*pair, pd.DataFrame(table), lang="en", **keywords)
    assert ["line", *frame.columns] == list(exact[0])
    for row, of_frame in zip(exact, frame.to_dict("records"), strict=True):
        for name in row.keys() - {"line", "top"}:
            cell = of_frame[name]
            missing = cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))
            assert row[name] == (None if missing else cell), name
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=True) == invoke(*command).stdout_bytes


def test_plain_texts_by_word_have_them_too(
    invoke: Invoke, engine: Engine, model: list[str], pair: tuple[XLMWithLMHeadModel, XLMTokenizer], tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_text("the dog, is\n\n\u6f22\n", encoding="utf-8")
    command = ["score", *model, file, "--by", "word", *AT_PLACES]
    rows = list(csv.DictReader(io.StringIO(invoke(*command).stdout), dialect="excel-tab"))
    assert list(rows[0])[5:11] == ["logprob", "rank", "entropy", "entropy_reduction", "top", "unknown"]
    documents = [["the dog, is"], [""], ["\u6f22"]]
    results: list[SentenceScore] = [
        each for (each,) in score_documents(*pair, documents, lang="en", ranks=True, entropies=True, top=2)
    ]
    places = [(result, place) for result in results for place in [*(w.first for w in result.words), -1]]
    for row, (result, place) in zip(rows, places, strict=True):
        assert result.ranks is not None
        assert result.entropies is not None
        assert row["rank"] == str(result.ranks[place])
        assert row["entropy"] == f"{result.entropies[place]:.6f}"
        assert (row["entropy_reduction"] == "") == (row["text"] == "</s>")
    frame = score_frame(*pair, pd.DataFrame({"text": ["the dog, is"]}), lang="en", by="word", ranks=True, top=1)
    assert frame["rank"].tolist() == [int(row["rank"]) for row in rows[:3]]
    assert [top[0][0] for top in frame["top"]] == [json.loads(row["top"])[0][0] for row in rows[:3]]
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert joined(tmp_path / "out", header=True) == invoke(*command).stdout_bytes
    assert remote.exit_code == 0
