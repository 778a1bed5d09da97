"""Data frames in and out of ``score``. Oracle: ``score`` of the same texts as a list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scoring.small import make_model, open_tokenizer
from xlm import (
    XLMTokenizer,
    XLMWarning,
    XLMWithLMHeadModel,
    perplexity,
    score,
    score_documents,
    score_frame,
    score_stream,
)
from xlm.errors import InputError
from xlm.scoring.scorer import Scorer

pd = pytest.importorskip("pandas")
TEXTS = ["the dog is sleeping", "", "the grass"]


@pytest.fixture(scope="module")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    return make_model(tokenizer.vocab_size)


def items() -> Any:
    # An index with a value twice: rows must not be joined by it.
    return pd.DataFrame({"n": [1, 2, 3], "text": TEXTS}, index=["b", "a", "b"])


def test_a_frame_and_a_series_by_sentence(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    expected = score(model, tokenizer, TEXTS, lang="en")
    frame = items()
    found: Any = score(model, tokenizer, frame, lang="en")
    assert list(found.index) == ["b", "a", "b"]
    assert list(found.columns) == ["n", "text", "tokens", "logprob", "unknown", "status"]
    assert found["logprob"].tolist() == [result.logprob for result in expected]
    assert found["tokens"].tolist() == [len(result.logprobs) for result in expected]
    assert list(frame.columns) == ["n", "text"]  # what was given stays as it was
    of_series: Any = score(model, tokenizer, frame["text"], lang="en")
    assert list(of_series.columns) == ["text", "tokens", "logprob", "unknown", "status"]
    assert of_series["logprob"].tolist() == found["logprob"].tolist()
    assert list(of_series.index) == ["b", "a", "b"]


@pytest.mark.parametrize("options", [{}, {"by": "token"}, {"by": "word"}, {"group_by": "n"}], ids=str)
def test_a_frame_in_bits(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, options: dict[str, Any]) -> None:
    places: dict[str, Any] = {"entropies": True, "top": 2} if "by" in options else {}
    nats, bits = (
        score_frame(model, tokenizer, items(), lang="en", unit=unit, **options, **places) for unit in ("nats", "bits")
    )
    logarithms = {"logprob", "surprisal", "surprisal_without_punctuation", "entropy", "entropy_reduction"}
    assert list(nats) == list(bits)
    assert logarithms & set(nats)
    for name in nats:
        if name == "top":
            for cell, found in zip(nats[name].dropna(), bits[name].dropna(), strict=True):
                assert found == tuple((token, pytest.approx(each / np.log(2))) for token, each in cell)
        else:
            expected = nats[name] / np.log(2) if name in logarithms else nats[name]
            pd.testing.assert_series_equal(bits[name], expected)
    with pytest.raises(InputError, match="No such unit"):
        score_frame(model, tokenizer, items(), lang="en", unit="hartleys")


def test_by_word_and_token(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    expected = score(model, tokenizer, TEXTS, lang="en", ranks=True, entropies=True)
    words = score_frame(model, tokenizer, items(), lang="en", by="word")
    assert list(words.index) == ["b"] * 4 + ["a"] + ["b"] * 2
    (empty,) = words[words["n"] == 2].to_dict("records")  # a text without words keeps its row
    assert empty["status"] == "empty"
    assert all(pd.isna(empty[name]) for name in ("word", "start", "end", "tokens", "surprisal", "unknown"))
    words = words[words["n"] != 2]
    assert words[["n", "word", "start", "end", "tokens", "surprisal"]].values.tolist() == [
        [n, word.text, word.start, word.end, word.tokens, word.surprisal]
        for n, result in enumerate(expected, 1)
        for word in result.words
    ]
    tokens = score_frame(model, tokenizer, items(), lang="en", by="token", ranks=True, entropies=True)
    assert tokens["token"].tolist() == [token for result in expected for token in result.tokens]
    assert tokens["rank"].tolist() == [rank for result in expected for rank in result.ranks or ()]
    assert tokens["entropy"].tolist() == [value for result in expected for value in result.entropies or ()]
    assert tokens["id"].tolist() == [index for result in expected for index in result.ids]
    assert tokens["logprob"].tolist() == [value for result in expected for value in result.logprobs]


def test_another_column_and_nothing_at_all(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    renamed = items().rename(columns={"text": "satz"})
    found = score_frame(model, tokenizer, renamed, lang="en", column="satz")
    assert found["logprob"].tolist() == score(model, tokenizer, items(), lang="en")["logprob"].tolist()  # type: ignore[call-overload]


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
def test_no_rows_have_the_columns_of_some(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, by: str) -> None:
    some = score_frame(model, tokenizer, items(), lang="en", by=by)
    found = score_frame(model, tokenizer, items().iloc[:0], lang="en", by=by)
    assert len(found) == 0
    assert list(found.columns) == list(some.columns)


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
@pytest.mark.parametrize("texts", [[], ["", None], ["the dog", None], ["the dog"]], ids=str)
def test_types_of_columns_do_not_depend_on_what_is_missing(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: list[str | None], by: str
) -> None:
    """Numbers are numbers, and integers unless one is missing, for which pandas has no integer."""
    places: dict[str, Any] = {} if by == "sentence" else {"ranks": True, "entropies": True, "top": 2}
    frame = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    found = score_frame(model, tokenizer, frame, lang="en", by=by, **places)
    integers = {"word_number", "position", "id", "start", "end", "tokens", "rank"}
    if by == "sentence":
        integers.add("unknown")
    for name in found.columns.drop("text"):
        kind = found[name].dtype
        if name in integers:
            assert kind == ("float64" if found[name].isna().any() else "int64"), name
        elif name == "unknown":
            assert kind == "boolean"
        elif name in ("word", "token", "top", "status"):
            assert not pd.api.types.is_numeric_dtype(kind), name
        else:
            assert kind == "float64", name


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA], ids=str)
def test_a_missing_text_is_a_row_that_says_so(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, missing: Any, by: str
) -> None:
    frame = pd.DataFrame({"text": ["the dog", missing, "the grass", 3]}, index=["a", "b", "c", "b"], dtype=object)
    found = score_frame(model, tokenizer, frame, lang="en", by=by)
    assert list(dict.fromkeys(found.index)) == ["a", "b", "c"]
    wrong = found.loc["b"]
    assert wrong["status"].tolist() == ["error: 'text' is not text: NoneType", "error: 'text' is not text: int"]
    assert wrong[found.columns[1:-1]].isna().all(axis=None)
    others = score_frame(model, tokenizer, frame.loc[["a", "c"]], lang="en", by=by)
    for name in others.columns:
        assert found.loc[["a", "c"], name].tolist() == others[name].tolist()
    if by == "sentence":
        same: Any = score(model, tokenizer, frame, lang="en")
        pd.testing.assert_frame_equal(same, found)


def test_a_text_that_is_refused_is_a_row_that_says_so(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    frame = pd.DataFrame({"text": ["the dog", "the " * 99]})
    found = score_frame(model, tokenizer, frame, lang="en", too_long="refuse")
    assert found["status"].tolist()[0] == "ok"
    assert found["status"].tolist()[1].startswith("error: a text is longer than the model's positions")
    long = score_frame(model, tokenizer, frame, lang="en")
    assert long["status"].tolist()[1].startswith("long: ")


def test_unknown_tokens_have_a_column(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    frame = pd.DataFrame({"text": ["the 漢 dog 漢 漢", "the dog"]})
    assert score_frame(model, tokenizer, frame, lang="en")["unknown"].tolist() == [3, 0]
    words = score_frame(model, tokenizer, frame, lang="en", by="word")
    assert words["unknown"].tolist() == ["漢" in word for word in words["word"]]
    tokens = score_frame(model, tokenizer, frame, lang="en", by="token")
    assert tokens["unknown"].tolist() == [token == "<unk>" for token in tokens["token"]]
    assert tokens["unknown"].sum() == 3


OF_TOKENS: dict[str, Any] = {"ranks": True, "entropies": True, "top": 2}


@pytest.mark.parametrize("name", OF_TOKENS)
def test_what_is_asked_for_has_a_column_or_is_refused(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, name: str
) -> None:
    asked = {name: OF_TOKENS[name]}
    column = {"ranks": "rank", "entropies": "entropy", "top": "top"}[name]
    tokens = score_frame(model, tokenizer, items(), lang="en", by="token", **asked)
    results = score(model, tokenizer, TEXTS, lang="en", **asked)
    assert tokens[column].tolist() == [value for result in results for value in getattr(result, name)]
    words = score_frame(model, tokenizer, items().iloc[[0, 2]], lang="en", by="word", **asked)
    expected = [getattr(result, name)[word.first] for result in results for word in result.words]
    assert words[column].tolist() == expected
    with pytest.raises(InputError, match=f"A sentence has no {name}"):
        score_frame(model, tokenizer, items(), lang="en", **asked)
    with pytest.raises(InputError, match=f"A sentence has no {name}"):
        score(model, tokenizer, items(), lang="en", **asked)


@pytest.mark.parametrize(
    ("by", "name"), [("sentence", "unknown"), ("word", "surprisal"), ("token", "rank"), ("token", "status")]
)
def test_a_clash_of_columns_is_found_before_the_work(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, monkeypatch: pytest.MonkeyPatch, by: str, name: str
) -> None:
    monkeypatch.setattr(Scorer, "score_documents", lambda *_, **__: pytest.fail("it was scored"))
    frame = items().rename(columns={"n": name})
    options: dict[str, Any] = {"ranks": True} if by == "token" else {}
    with pytest.raises(InputError) as found:
        score_frame(model, tokenizer, frame, lang="en", by=by, **options)
    assert (found.value.where, found.value.found) == ("frame", repr(name))


@pytest.mark.parametrize(
    ("frame", "options", "where"),
    [
        (items().rename(columns={"text": "satz"}), {}, "column"),
        (items().rename(columns={"n": "logprob"}), {}, "frame"),
        (items(), {"by": "letter"}, "by"),
        (TEXTS, {}, "frame"),
        (items(), {"column": ["text"]}, "column"),
        (items()["text"], {"column": ["text"]}, "column"),
        (items(), {"by": ["word"]}, "by"),
        (items(), {"top": None}, "top"),
        (items(), {"word_column": "text"}, "group_by"),
        (items(), {"by": "region"}, "by"),
        (items(), {"group_by": ["n", "text"]}, "group_by"),
        (items(), {"group_by": "m"}, "column"),
        (items().rename(columns={"n": "tokens"}), {"group_by": "tokens"}, "the columns of the input"),
    ],
)
def test_errors(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, frame: Any, options: dict[str, Any], where: str
) -> None:
    with pytest.raises(InputError) as found:
        score_frame(model, tokenizer, frame, lang="en", **options)
    assert found.value.where == where


def test_a_frame_is_not_taken_for_its_names(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    """Its columns' names are what a loop over it gives."""
    for takes_texts in (
        lambda texts: list(score_stream(model, tokenizer, texts, lang="en")),
        lambda texts: perplexity(model, tokenizer, texts, lang="en"),
        lambda texts: perplexity(model, tokenizer, {"en": texts}, protocol="stream"),
    ):
        with pytest.raises(InputError) as found:
            takes_texts(items())
        assert found.value.where == "texts"
        assert takes_texts(items()["text"]) == takes_texts(TEXTS)


def one_word_a_row() -> Any:
    words = ["the", "dog,", "", "is\u00a0a", "the", "grass"]
    columns = {
        "item": [1, 1, 1, 1, 2, 2],
        "word": words,
        "part": list("aabbcc"),
        "lang": ["en", "de", None, "", "en", "en"],
    }
    return pd.DataFrame(columns, index=list("zyxwzz"))


def test_one_word_a_row(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    frame = one_word_a_row()
    words = [frame["word"].tolist()[:4], frame["word"].tolist()[4:]]
    texts = [" ".join(each) for each in words]
    by_word: dict[str, Any] = {"word_column": "word", "group_by": "item"}
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, "en"),
        ({"lang_column": "lang"}, [["en", "de", "en", "en"], ["en", "en"]]),
    ]
    for options, lang in cases:
        expected = score(model, tokenizer, texts, lang=lang, words=words)
        found = score_frame(model, tokenizer, frame, lang="en", **by_word, **options)
        pd.testing.assert_frame_equal(found[frame.columns], frame)
        assert list(found.columns[len(frame.columns) :]) == [
            *("word_number", "start", "end", "tokens", "surprisal", "surprisal_without_punctuation"),
            *("unknown", "status"),
        ]
        assert found["surprisal"].tolist() == [word.surprisal for result in expected for word in result.words]
        assert found["word_number"].tolist() == [1, 2, 3, 4, 1, 2]
    parts = score_frame(model, tokenizer, frame, lang="en", by="region", region_column="part", **by_word)
    assert parts["part"].tolist() == ["a", "b", "c"]
    assert parts["surprisal"].sum() == pytest.approx(
        sum(
            word.surprisal for result in score(model, tokenizer, texts, lang="en", words=words) for word in result.words
        )
    )


def test_a_region_of_words_is_about_its_first_token(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    words = ["", "the", "\u6f22", "dog"]
    frame = pd.DataFrame({"item": 1, "word": words, "part": list("aaab")})
    options: dict[str, Any] = {"word_column": "word", "group_by": "item", "by": "region", "region_column": "part"}
    found = score_frame(model, tokenizer, frame, lang="en", entropies=True, ranks=True, **options)
    (result,) = score(model, tokenizer, [" ".join(words)], lang="en", entropies=True, ranks=True)
    assert result.entropies is not None
    assert result.ranks is not None
    place = found["tokens"][0]
    assert found["rank"].tolist() == [result.ranks[0], result.ranks[place]]
    assert found["entropy"].tolist() == pytest.approx([result.entropies[0], result.entropies[place]])
    assert found["entropy_reduction"][0] == pytest.approx(result.entropies[0] - result.entropies[place])
    assert found["unknown"].tolist() == [True, False]


def test_documents_prefixes_and_regions(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    columns: dict[str, Any] = {
        "line": [1, 1, 2],
        "text": ["the dog", "A cat", "the grass"],
        "spans": [[(0, 3)], "0-1 2-5", None],
    }
    frame = pd.DataFrame({**columns, "before": ["A", None, ""]})
    found = score_frame(model, tokenizer, frame, lang="en", group_by="line")
    documents = score_documents(model, tokenizer, [["the dog", "A cat"], ["the grass"]], lang="en")
    assert found["surprisal"].tolist() == [-result.logprob for results in documents for result in results]
    assert found["line"].tolist() == [1, 1, 2]
    found = score_frame(model, tokenizer, frame, lang="en", prefix_column="before", by="token", top=1)
    results = score(model, tokenizer, columns["text"], lang="en", prefixes=["A", "", ""], top=1)
    assert found["surprisal"].tolist() == [-value for result in results for value in result.logprobs]
    assert found["top"].tolist() == [top for result in results for top in result.top or ()]
    found = score_frame(model, tokenizer, frame, lang="en", by="region", region_column="spans")
    results = score(model, tokenizer, columns["text"], lang="en", regions=[[(0, 3)], [(0, 1), (2, 5)], []])
    surprisals = [region.surprisal for result in results for region in result.regions]
    assert found["surprisal"].tolist()[:3] == surprisals
    assert found["text"].tolist() == ["the dog", "A cat", "A cat", "the grass"]


def test_a_series_has_one_column_for_everything(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    texts = pd.Series(["the dog", "the dog", "A cat"])
    found = score_frame(model, tokenizer, texts, lang="en", group_by="text")
    documents = score_documents(model, tokenizer, [["the dog", "the dog"], ["A cat"]], lang="en")
    assert found["surprisal"].tolist() == [-result.logprob for results in documents for result in results]


def test_lists_that_pandas_read_as_arrays_are_spans_and_labels(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    nested = np.array([np.array([0, 3]), np.array([4, 7])], dtype=object)  # as from Parquet
    frame = pd.DataFrame({"text": ["the dog"] * 4, "spans": [np.array([[0, 3], [4, 7]]), nested, [(0, 3)], np.ones(2)]})
    found = score_frame(model, tokenizer, frame, lang="en", by="region", region_column="spans")
    assert [status.split(":")[0] for status in found["status"]] == ["ok"] * 5 + ["error"]
    assert found["end"].tolist()[:5] == [3, 7, 3, 7, 3]
    labels = [np.array([1, 2]), np.array([1, 2]), np.array([1, 3]), np.array([1])]
    found = score_frame(model, tokenizer, frame.assign(spans=labels), lang="en", group_by="spans")
    documents = score_documents(model, tokenizer, [["the dog"] * 2, ["the dog"], ["the dog"]], lang="en")
    assert found["surprisal"].tolist() == [-result.logprob for results in documents for result in results]


def test_missing_numbers_are_one_label_in_both_libraries(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    polars = pytest.importorskip("polars")
    columns = {"text": ["the dog", "A cat", "the grass"], "item": [1.0, float("nan"), float("nan")]}
    documents = score_documents(model, tokenizer, [["the dog"], ["A cat", "the grass"]], lang="en")
    for frame in (pd.DataFrame(columns), polars.DataFrame(columns)):
        found = score_frame(model, tokenizer, frame, lang="en", group_by="item")
        assert list(found["surprisal"]) == [-result.logprob for results in documents for result in results]


def test_pandas_is_never_imported_by_us() -> None:
    program = "import sys, xlm.scoring.score, xlm.scoring.frames; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_a_warning_points_to_the_caller(model: XLMWithLMHeadModel, demo_files: Path) -> None:
    tokenizer = open_tokenizer(demo_files, bos_token="<s>")
    for scores in (score, score_frame):
        with pytest.warns(XLMWarning, match="after <s>") as caught:
            scores(model, tokenizer, items(), lang="en")
        assert caught[0].filename == __file__
