"""The callable classes for pipelines, called as Ray Data calls them, with Arrow tables.

Oracle: ``xlm.score``, the tokenizer and ``generate`` on the same texts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import xlm
from tests.distributed.conftest import poison
from xlm.cli import xlm as cli
from xlm.distributed import Generator, Scorer, Tokenizer
from xlm.errors import InputError, LanguageError
from xlm.generation.text_generator import TextGenerator, decoding_options

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

TEXTS = ["the dog is sleeping", None, "", "a cat on grass", "the " * 200]


@pytest.fixture(scope="module")
def opened(demo_files: Path) -> dict[str, Any]:
    """Arguments of the classes that name a model."""
    return {"model": str(demo_files / "demo.pth"), "codes": str(demo_files / "codes"), "lang": "en"}


@pytest.fixture(scope="module")
def tokenizer(opened: dict[str, Any]) -> Any:
    return xlm.XLMTokenizer.from_pretrained(opened["model"], codes=opened["codes"])


@pytest.fixture(scope="module")
def model(opened: dict[str, Any]) -> Any:
    return xlm.XLMWithLMHeadModel.from_pretrained(opened["model"])


def table(**columns: Any) -> Any:
    return pyarrow.table({"key": [{"n": number} for number in range(len(TEXTS))], "text": TEXTS, **columns})


def test_scores_stand_beside_all_other_columns(opened: dict[str, Any], model: Any, tokenizer: Any) -> None:
    given = table()
    found = Scorer(**opened)(given)
    assert found.column_names == ["key", "text", "tokens", "logprob", "unknown", "status"]
    assert found.select(given.column_names).equals(given)
    expected = iter(xlm.score(model, tokenizer, [text for text in TEXTS if text is not None], lang="en"))
    for row in found.to_pylist():
        if row["text"] is None:
            assert row["status"] == "error: 'text' is not text: NoneType"
            assert row["tokens"] is row["logprob"] is row["unknown"] is None
        else:
            result = next(expected)
            assert (row["tokens"], row["logprob"], row["unknown"]) == (
                len(result.tokens),
                result.logprob,
                result.unknown,
            )
    assert [row["status"].partition(":")[0] for row in found.to_pylist()] == ["ok", "error", "empty", "ok", "long"]


def test_words_and_tokens_are_rows(opened: dict[str, Any], model: Any, tokenizer: Any) -> None:
    expected = xlm.score(model, tokenizer, [text for text in TEXTS if text is not None], lang="en", ranks=True)
    words = Scorer(**opened, by="word")(table()).to_pylist()
    found = [(row["word"], row["start"], row["end"], row["logprob"]) for row in words if row["key"]["n"] == 0]
    closing = (len(expected[0].words) + 1, len(TEXTS[0] or ""), len(TEXTS[0] or ""), expected[0].logprobs[-1])
    assert found == [
        *((number, word.start, word.end, -word.surprisal) for number, word in enumerate(expected[0].words, start=1)),
        closing,
    ]
    tokens = Scorer(**opened, by="token", ranks=True)(table()).to_pylist()
    of_texts = [row for row in tokens if row["text"] is not None]
    assert [row["token"] for row in of_texts] == [token for result in expected for token in result.tokens]
    assert [row["unknown"] for row in of_texts] == [unknown for result in expected for unknown in result.unknowns]
    assert [row["rank"] for row in of_texts] == [rank for result in expected for rank in result.ranks or ()]
    assert [row["status"] for row in tokens if row["text"] is None] == ["error: 'text' is not text: NoneType"]


@pytest.mark.parametrize("output", ["tokens", "ids"])
def test_tokens_and_ids(opened: dict[str, Any], tokenizer: Any, output: str) -> None:
    found = Tokenizer(**opened, output=output)(table()).to_pylist()
    single = tokenizer.tokenize if output == "tokens" else tokenizer.encode
    assert [row[output] for row in found] == [None if text is None else single(text, lang="en") for text in TEXTS]
    assert [row["status"] for row in found][1].startswith("error")


def test_continuations_are_those_of_the_line(opened: dict[str, Any], model: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": 4, "num_return_sequences": 2}
    numbers = [11, 12, 13, 14, None]
    generator = Generator(**opened, seed=5, line_column="number", batch_size=2, **options)
    found = generator(table(number=pyarrow.array(numbers, pyarrow.int64()))).to_pylist()
    chosen = decoding_options(greedy=False, num_beams=1, **options)
    texts = TextGenerator(model, tokenizer, lang="en", options=chosen)
    for number, text in zip(numbers, TEXTS, strict=True):
        rows = [row for row in found if row["number"] == number]
        if text is None or number is None:
            assert [row["status"].startswith("error") for row in rows] == [True]
            continue
        expected = texts.generate([texts.prompt(number, text, where="text")], seed=5)
        assert [row["continued"] for row in rows] == [each.text for each in expected]
        assert [tuple(row["ids"]) for row in rows] == [each.continuation.tokens for each in expected]
        assert [row["stop"] for row in rows] == [each.continuation.stop for each in expected]
        assert [row["seed"] for row in rows] == [each.continuation.seed for each in expected]


def test_a_batch_may_be_empty(opened: dict[str, Any]) -> None:
    empty = table().slice(0, 0)
    for step in (Scorer(**opened), Tokenizer(**opened), Generator(**opened, greedy=True)):
        assert step(empty).num_rows == 0
        assert "status" in step(empty).column_names


def test_what_is_not_finite_has_a_status(opened: dict[str, Any], model: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"greedy": True, "max_new_tokens": 2, "num_return_sequences": 1}
    generator, scorer = Generator(**opened, **options), Scorer(**opened)
    texts = pyarrow.table({"text": ["the dog", "the dog " * 20, "a cat"]})
    expected = [row["ids"] for row in generator(texts).to_pylist()]
    poison(generator._generator._model)
    poison(scorer._scorer.model)
    continued, scored = generator(texts).to_pylist(), scorer(texts).to_pylist()
    assert [row["status"].partition(":")[0] for row in continued] == ["ok", "error", "ok"]
    assert [row["status"].partition(":")[0] for row in scored] == ["ok", "error", "ok"]
    assert "not finite" in continued[1]["status"]
    assert [row["ids"] for row in continued] == [expected[0], None, expected[2]]


def test_a_name_that_is_taken_is_said_before_anything_is_computed(
    opened: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = table(status=["ok"] * len(TEXTS), ids=["x"] * len(TEXTS))
    scorer, tokenizer, generator = Scorer(**opened), Tokenizer(**opened), Generator(**opened)
    monkeypatch.setattr(scorer, "_scorer", None)
    monkeypatch.setattr(tokenizer, "_tokenizer", None)
    monkeypatch.setattr(generator, "_generator", None)
    for step in (scorer, tokenizer, generator):
        with pytest.raises(InputError, match="a column with the name of a new one") as error:
            step(given)
        assert "'status'" in str(error.value.found)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"text": ["x"]}, "is not an Arrow table"),
        (pyarrow.table({"other": ["x"]}), "no column with this name"),
        (pyarrow.table({"text": ["x"], "status": ["ok"]}), "a column with the name of a new one"),
    ],
)
def test_a_dataset_of_another_form_is_refused(opened: dict[str, Any], batch: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Tokenizer(**opened)(batch)


@pytest.mark.parametrize("by", ["token", "word"])
def test_alternatives_are_those_of_the_command(opened: dict[str, Any], tmp_path: Path, by: str) -> None:
    """Against the file that ``xlm score --format parquet`` writes."""
    texts = [text for text in TEXTS if text]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "in.parquet")
    arguments = ["score", opened["model"], "--codes", opened["codes"], "--lang", "en", tmp_path / "in.parquet"]
    options = ["--by", by, "--top", "2", "--entropy", "--unit", "bits", "--output", tmp_path / "out.parquet"]
    written = CliRunner().invoke(cli, [str(each) for each in (*arguments, *options, "--format", "parquet")])
    assert written.exit_code == 0, written.output
    expected = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    found = Scorer(**opened, by=by, top=2, entropies=True, unit="bits")(pyarrow.table({"text": texts}))
    names = [name for name in expected.column_names if name not in ("line", "text")]
    assert found.drop_columns(["text"]).column_names == names
    for name in names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name
    assert len(json.loads(found["top"][0].as_py())) == 2


def test_scores_in_bits(opened: dict[str, Any]) -> None:
    given = pyarrow.table({"text": ["the dog"]})
    nats, bits = (
        Scorer(**opened, by="word", entropies=True, unit=unit)(given).to_pydict() for unit in ("nats", "bits")
    )
    for name in ("logprob", "entropy"):
        assert bits[name] == pytest.approx([cell / math.log(2) for cell in nats[name]])
    assert bits["tokens"] == nats["tokens"]


def test_wrong_options_are_said_at_once(opened: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="A sentence has no ranks"):
        Scorer(**opened, ranks=True)
    with pytest.raises(InputError, match="No such unit"):
        Scorer(**opened, by="letter")
    with pytest.raises(LanguageError):
        Scorer(**{**opened, "lang": "xx"})
    with pytest.raises(InputError, match="No such output"):
        Tokenizer(**opened, output="words")
    with pytest.raises(InputError, match="needs numbered prompts"):
        Generator(**opened, seed=1)
    with pytest.raises(InputError, match="max_new_tokens"):
        Generator(**opened, max_new_tokens=0)
