"""Evaluation. Oracle: one forward a sentence, whose log-probabilities are added up in a plain loop."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.evaluation.evaluate import ITEM_COLUMNS, Accuracy, evaluate
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

PAIRS = [
    ("The dogs are sleeping.", "The dogs is sleeping."),
    ("A cat runs.", "A cat run."),
    ("the 漢 dog", "the dog 漢 ü"),
    ("", "the"),
    ("A dog", "A \t dog"),  # the same tokens
    ("the dog", "the dog"),
    ("the dog " * 20, "the cat " * 21),  # longer than the positions
]


def logprobs(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str) -> list[float]:
    """The log-probability of each token after the opening one, by one forward."""
    ids = tokenizer.encode(text, lang="en")
    with torch.no_grad():
        scores = model(torch.tensor([ids[:-1]]), langs="en").logits[0].double().log_softmax(-1)
    return [float(scores[t, token]) for t, token in enumerate(ids[1:])]


def write_pairs(file: Path, pairs: list[tuple[str, str]], **other: str) -> Path:
    lines = [{"sentence_good": good, "sentence_bad": bad, **other} for good, bad in pairs]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def test_pairs(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    result = evaluate(model, tokenizer, file, lang="en")
    correct = ties = 0
    for (good, bad), item in zip(PAIRS[:-1], result.items[:-1], strict=True):
        expected = {"good": -sum(logprobs(model, tokenizer, good)), "bad": -sum(logprobs(model, tokenizer, bad))}
        assert {name: item.surprisals[name, "*"] for name in expected} == pytest.approx(expected, rel=1e-5)
        same = tokenizer.encode(good, lang="en") == tokenizer.encode(bad, lang="en")
        assert (item.correct, item.tie) == (not same and expected["good"] < expected["bad"], same)
        correct += item.correct
        ties += item.tie
    assert ties == 2
    assert 0 < correct < len(PAIRS) - 3  # the random model gets some right and some wrong
    last = result.items[-1]
    assert last.correct  # one token more
    (accuracy,) = result.accuracies
    unknown = sum(tokenizer.unk_token_id in tokenizer.encode(f"{good} {bad}", lang="en") for good, bad in PAIRS)
    assert accuracy == Accuracy(by="task", name="pairs", items=len(PAIRS), correct=correct + 1, ties=2, unknown=unknown)


def test_equal_tokens_tie_although_rounding_differs(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Scorer.score_windows

    def score_with_noise(*arguments: Any) -> Iterator[SentenceScore]:
        for i, result in enumerate(exact(*arguments)):
            yield dataclasses.replace(result, logprobs=(*result.logprobs[:-1], result.logprobs[-1] + i * 1e-6))

    monkeypatch.setattr(Scorer, "score_windows", score_with_noise)
    pairs = [("the dog " * n, " the  dog " * n) for n in range(1, 6)]
    pairs += [(bad, good) for good, bad in pairs]
    result = evaluate(model, tokenizer, write_pairs(tmp_path / "pairs.jsonl", pairs), lang="en")
    assert [(item.correct, item.tie) for item in result.items] == [(False, True)] * len(pairs)
    assert result.accuracies[0].accuracy == 0


SUITE = {
    "meta": {"name": "verbs", "metric": "sum"},
    "predictions": [
        {"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"},
        {"type": "formula", "formula": "((2;%match%) + (3;%match%)) < ((2;%mismatch%) + (3;%mismatch%))"},
        {"type": "formula", "formula": "(*;%match%) < (*;%mismatch%)"},
        {"type": "formula", "formula": "(4;%match%) > (4;%mismatch%)"},
    ],
}


def suite_of(sentences: list[dict[str, list[str]]]) -> dict[str, Any]:
    items = [
        {
            "item_number": index,
            "conditions": [
                {
                    "condition_name": name,
                    "regions": [{"region_number": i, "content": text} for i, text in enumerate(regions, start=1)],
                }
                for name, regions in conditions.items()
            ],
        }
        for index, conditions in enumerate(sentences)
    ]
    return {**SUITE, "items": items}


SENTENCES = [
    {"match": ["The small dog", "runs", "on the grass", ""], "mismatch": ["The small dog", "run", "on the grass", ""]},
    {"match": ["A cat", "is", "sleeping", "the"], "mismatch": ["A cat", "are", "xylophone", "the"]},
    {"match": ["", "the", "dog 漢", "ü"], "mismatch": ["the", "cat", "", "a"]},
]


def test_a_suite(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite_of(SENTENCES)), encoding="utf-8")
    result = evaluate(model, tokenizer, file, lang="en")
    held = [0, 0, 0, 0]
    for conditions, item in zip(SENTENCES, result.items, strict=True):
        surprisals: dict[str, list[float]] = {}
        for name, regions in conditions.items():
            scores = logprobs(model, tokenizer, " ".join(text for text in regions if text))
            position, sums = 0, []
            for text in regions:  # without punctuation, the tokens of a sentence are those of its regions
                length = len(tokenizer.encode(text, lang="en", add_special_tokens=False))
                sums.append(-sum(scores[position : position + length]))
                position += length
            assert position == len(scores) - 1
            surprisals[name] = [*sums, -sum(scores)]
            found = [item.surprisals[name, number] for number in ("1", "2", "3", "4", "*")]
            assert found == pytest.approx(surprisals[name], rel=1e-5, abs=1e-12)
        match, mismatch = surprisals["match"], surprisals["mismatch"]
        expected = (
            match[1] < mismatch[1],
            match[1] + match[2] < mismatch[1] + mismatch[2],
            match[4] < mismatch[4],
            match[3] > mismatch[3],
        )
        assert item.predictions == expected
        assert item.correct == all(expected)
        held = [count + holds for count, holds in zip(held, expected, strict=True)]
    assert result.items[0].ties == (False, False, False, True)  # two empty regions
    accuracies = result.accuracies
    assert [(each.by, each.name) for each in accuracies] == [
        ("task", "verbs"),
        *(("prediction", f"verbs: {prediction['formula']}") for prediction in SUITE["predictions"]),  # type: ignore[index]
    ]
    assert accuracies[0].correct == sum(item.correct for item in result.items)
    assert [each.correct for each in accuracies[1:]] == held
    assert [each.items for each in accuracies] == [3] * 5


def test_groups_and_all(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    files = [
        write_pairs(tmp_path / "1.jsonl", PAIRS[:1], UID="a", field="syntax", linguistics_term="islands"),
        write_pairs(tmp_path / "2.jsonl", PAIRS[1:3], UID="b", field="syntax", linguistics_term="binding"),
        write_pairs(tmp_path / "3.jsonl", PAIRS[4:6], UID="a", field="semantics", linguistics_term="islands"),
    ]
    with pytest.warns(XLMWarning, match="count as one task: a$"):  # the files do not number their pairs
        result = evaluate(model, tokenizer, files, lang="en")
    right = [item.correct for item in result.items]
    counts = [(each.by, each.name, each.items, each.correct, each.ties) for each in result.accuracies]
    assert counts == [
        ("task", "a", 3, sum(right[:1]) + sum(right[3:]), 2),
        ("task", "b", 2, sum(right[1:3]), 0),
        ("linguistics_term", "islands", 3, sum(right[:1]) + sum(right[3:]), 2),
        ("linguistics_term", "binding", 2, sum(right[1:3]), 0),
        ("field", "syntax", 3, sum(right[:3]), 0),
        ("field", "semantics", 2, 0, 2),
        ("all", "", 5, sum(right), 2),
    ]


def test_files_of_one_name_are_one_task_and_warn(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("a/pairs.jsonl", "b/pairs.jsonl", "b/others.jsonl")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        write_pairs(file, PAIRS[:2])
    with pytest.warns(XLMWarning, match="count as one task: pairs$") as caught:
        result = evaluate(model, tokenizer, files, lang="en")
    assert caught[0].filename == __file__
    assert [(each.name, each.items) for each in result.accuracies] == [("pairs", 4), ("others", 2), ("", 6)]


def test_rows_are_all_regions_and_sentences(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", [("the 漢 dog", "the dog")])
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps(suite_of(SENTENCES[2:])), encoding="utf-8")
    result = evaluate(model, tokenizer, [pairs, suite], lang="en")
    rows = list(result.rows())
    assert [list(row) for row in rows] == [list(ITEM_COLUMNS)] * 12
    assert [(row["task"], row["condition"], row["region"], row["text"], row["unknown"]) for row in rows] == [
        ("pairs", "good", "*", "the 漢 dog", True),
        ("pairs", "bad", "*", "the dog", False),
        ("verbs", "match", "1", "", False),
        ("verbs", "match", "2", "the", False),
        ("verbs", "match", "3", "dog 漢", True),
        ("verbs", "match", "4", "ü", True),
        ("verbs", "match", "*", "the dog 漢 ü", True),
        ("verbs", "mismatch", "1", "the", False),
        ("verbs", "mismatch", "2", "cat", False),
        ("verbs", "mismatch", "3", "", False),
        ("verbs", "mismatch", "4", "a", False),
        ("verbs", "mismatch", "*", "the cat a", False),
    ]
    for row in rows:
        item = result.items[row["task"] == "verbs"]
        assert row["surprisal"] == item.surprisals[str(row["condition"]), str(row["region"])]
        assert (row["item"], row["correct"], row["tie"]) == ("0", item.correct, item.tie)


@pytest.mark.parametrize(("correct", "items"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 12), (900, 1000)])
def test_the_interval_is_wilsons(correct: int, items: int) -> None:
    accuracy = Accuracy(by="all", name="", items=items, correct=correct, ties=0, unknown=0)
    share = correct / items
    for end, at in zip(accuracy.interval, (0.0, 1.0), strict=True):
        # An end is a probability under which the share that was found lies 1.96 standard deviations away.
        assert 0 <= end <= 1
        if (correct, at) not in ((0, 0.0), (items, 1.0)):
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / items), rel=1e-6)
        else:
            assert end == pytest.approx(at, abs=1e-12)


def test_a_broken_file_is_refused_before_any_work(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    good = write_pairs(tmp_path / "good.jsonl", PAIRS)
    (tmp_path / "broken.txt").write_text("True\ta\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        evaluate(None, tokenizer, [good, tmp_path / "broken.txt"], lang="en")  # type: ignore[arg-type]
    assert str(error.value.where) == f"{tmp_path / 'broken.txt'}, line 1"


def test_what_cannot_be_is_refused(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    good = write_pairs(tmp_path / "good.jsonl", PAIRS)
    with pytest.raises(InputError, match="There is no task"):
        evaluate(model, tokenizer, [], lang="en")
    with pytest.raises(InputError, match="Tasks are not files"):
        evaluate(model, tokenizer, 3, lang="en")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Tasks are not files"):
        evaluate(model, tokenizer, [3], lang="en")  # type: ignore[list-item]
    with pytest.raises(LanguageError):
        evaluate(model, tokenizer, good, lang="fr")


def test_a_result_prints_its_accuracies(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    result = evaluate(model, tokenizer, write_pairs(tmp_path / "good.jsonl", PAIRS), lang="en")
    first = result.accuracies[0]
    assert f"task {first.name}: {first.correct}/{first.items}" in repr(result)
    assert "surprisals" not in repr(result)
