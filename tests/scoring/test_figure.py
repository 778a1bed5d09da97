"""The figure of a sentence. Oracles: the bars and labels that matplotlib holds; an XML parser; the same bytes twice."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.scoring.small import make_model
from xlm.errors import DependencyError, InputError, WriteError, XLMWarning
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.figure import _figure, _lines_of, draw_surprisals, plot
from xlm.scoring.score import score
from xlm.scoring.scorer import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

TEXT = "The small dog is sleeping on the grass."


@pytest.fixture(scope="module")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    return make_model(tokenizer.vocab_size)


def scored(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, *langs: str) -> list[SentenceScore]:
    return [score(model, tokenizer, [text], lang=lang)[0] for lang in langs]


def heights(axes: Any, number: int = 0) -> list[float]:
    return [bar.get_height() for bar in axes.containers[number]]


@pytest.mark.parametrize(("unit", "nats"), [("bits", math.log(2)), ("nats", 1.0)])
def test_bars_are_the_surprisals_and_stand_above_their_words(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, unit: str, nats: float
) -> None:
    results = scored(model, tokenizer, TEXT, "en", "de")
    axes: Any
    (axes,) = _figure([results], unit, None).axes
    for number, result in enumerate(results):
        assert heights(axes, number) == pytest.approx([word.surprisal / nats for word in result.words])
    assert [label.get_text() for label in axes.get_xticklabels()] == TEXT.split()
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [f"{height:.1f}" for number in range(2) for height in heights(axes, number)]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"{result.lang}: {-result.logprob / nats:.1f} {unit} in total" for result in results]
    colours = [axes.containers[number][0].get_facecolor() for number in range(2)]
    hatches = [axes.containers[number][0].get_hatch() for number in range(2)]
    assert len(set(colours)) == len(set(hatches)) == 2


def test_a_long_text_has_lines_that_hold_each_word_once() -> None:
    words = TEXT.split() * 9 + ["x" * 200]
    lines = _lines_of([[word] for word in words], 1)
    assert [word for line in lines for word in words[line]] == words
    lengths = [sum(len(word) + 1 for word in words[line]) for line in lines]
    assert 4 < len(lines) < 9
    assert max(lengths[:-1]) - min(lengths[:-1]) < 24
    assert _lines_of([], 1) == [slice(0, 0)]


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
@pytest.mark.parametrize(
    "text",
    [TEXT, "", "$\\frac{1$ _{x} $$ \\n %s", "<script>alert(1)</script> ]]> --> &amp;", "a\x00b\x1b \ud800 \u202eabc"],
    ids=ascii,
)
def test_any_text_gives_a_whole_file_and_the_same_again(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path, form: str, text: str
) -> None:
    paths = [tmp_path / f"{name}.{form}" for name in "ab"]
    for path in paths:
        draw_surprisals([scored(model, tokenizer, text, "en")], path, title=text or None)
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes()
    if form == "png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data[-8:-4] == b"IEND"
    elif form == "pdf":
        assert data.startswith(b"%PDF-1.4")
        assert data.endswith(b"%%EOF\n")
        assert b"JavaScript" not in data
    else:
        names = {element.tag.rpartition("}")[2] for element in ET.fromstring(data).iter()}
        assert "path" in names
        assert "script" not in names
    assert sorted(tmp_path.iterdir()) == paths


def test_a_character_without_a_glyph_is_told_once(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path
) -> None:
    with pytest.warns(XLMWarning, match="drawn as boxes") as caught:
        draw_surprisals([scored(model, tokenizer, "\U00012000 \U00012001", "en")], tmp_path / "a.svg")
    assert len(caught) == 1


def test_what_cannot_be_drawn_is_refused(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = scored(model, tokenizer, "the", "en")
    for panels, name, options in (
        ([results], "a.gif", {}),
        ([results], "a.png", {"unit": "hartleys"}),
        ([], "a.png", {}),
        ([results + scored(model, tokenizer, "dog", "en")], "a.png", {}),
    ):
        with pytest.raises(InputError):
            draw_surprisals(panels, tmp_path / name, **options)
    with pytest.raises(WriteError):
        draw_surprisals([results], tmp_path / "missing" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match="Matplotlib"):
        draw_surprisals([results], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_conditions_stand_side_by_side_and_regions_are_marked(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, tmp_path: Path
) -> None:
    texts = ["The dogs are $\\frac{1$ here", "The dogs  is asleep here", "A dog\nwas _{x} there"]
    results = score(model, tokenizer, texts, lang="en")
    names = ["one", "$two$", "three"]
    figure = plot(results, labels=names, regions={"verb": (4, 12), "$last": (22, 99)}, unit="nats", title="$x")
    axes: Any
    (axes,) = figure.axes
    for number, result in enumerate(results):
        assert heights(axes, number) == pytest.approx([word.surprisal for word in result.words])
    shown = [label.get_text().split() for label in axes.get_xticklabels()]
    assert shown[:3] == [["The", "A"], ["dogs", "dog"], ["are", "is", "was"]]
    assert shown[3:] == [["$\\frac{1$", "asleep", "_{x}"], ["here", "there"]]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    note = ", * with <unk>"
    totals = [f"{-result.logprob:.1f} nats in total{note * (result.unknown > 0)}" for result in results]
    assert legend == [f"{name}: {total}" for name, total in zip(names, totals, strict=True)]
    numbers = [text.get_text() for text in axes.texts if text.get_text()[0].isdigit()]
    words = [word for result in results for word in result.words]
    assert numbers == [f"{word.surprisal:.1f}{'*' * word.unknown}" for word in words]
    assert {word.unknown for word in words} == {True, False}
    (dogs, last) = axes.patches[-2:]  # "dogs are" begin in the first region, "here" in the other
    centres = axes.get_xticks()
    assert [dogs.get_x() < centre < dogs.get_x() + dogs.get_width() for centre in centres] == [0, 1, 1, 0, 0]
    assert [last.get_x() < centre < last.get_x() + last.get_width() for centre in centres] == [0, 0, 0, 0, 1]
    assert {"verb", "$last"} <= {text.get_text() for text in axes.texts}
    figure.savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_region_across_lines_is_marked_on_each(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    (result,) = score(model, tokenizer, ["the dog " * 20], lang="en")
    lines = plot(result, regions={"most": (8, 10_000)}).axes
    words = [len(axes.get_xticklabels()) for axes in lines]
    assert sum(words) == 40
    assert len(words) > 2
    spans: list[Any] = [axes.patches[-1] for axes in lines]
    marked = [
        [span.get_x() < centre < span.get_x() + span.get_width() for centre in axes.get_xticks()]
        for axes, span in zip(lines, spans, strict=True)
    ]
    assert [word for line in marked for word in line] == [False] * 2 + [True] * 38


def test_what_cannot_be_plotted_is_refused(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    two = score(model, tokenizer, ["the dog", "the small dog"], lang="en")
    (long,) = score(model, tokenizer, ["the dog " * 1200], lang="en")
    options: dict[str, Any]
    for results, options, said in (
        (two, {}, "different numbers of words"),
        ([], {}, "Not results of score"),
        ("the dog", {}, "Not results of score"),
        (two[0], {"unit": "hartleys"}, "No such unit"),
        (two[0], {"labels": ["a", "b"]}, "labels do not name"),
        (two[0], {"title": 1}, "title is not a str"),
        (two[0], {"regions": [(0, 3)]}, "Not regions"),
        (two[0], {"regions": {"a": (1, 3)}}, "No word begins in a region"),
        (two[0], {"regions": {"a": 3}}, "No word begins in a region"),
        (long, {}, "too many words"),
    ):
        with pytest.raises(InputError, match=said):
            plot(results, **options)  # type: ignore[arg-type]
