"""The model that comes with the package.

Oracle: its results as ``scripts/record_small_model.py`` wrote them into ``bundled_model.json``; ``transformers`` on the
same files; and that English is likelier as English and German as German, in sentences written for this test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from evaluate_small_model import evaluate, fill
from pack_small_model import LARGEST, compressed_size

from tests.conftest import REPOSITORY
from xlm import XLMConfig, XLMError, XLMTokenizer, XLMWithLMHeadModel, convert, perplexity, score
from xlm.checkpoint.resolve import bundled_models, find_model
from xlm.data.shards import file_sha256
from xlm.parity.peer import against_transformers

NAME = "xlm-clm-ende-small"
RECORDED = json.loads((REPOSITORY / "tests" / "bundled_model.json").read_text("utf-8"))
SENTENCES = {
    "en": """
        The rain had stopped, and the children ran out into the garden.
        She put the letter on the table and left the room without a word.
        I have never been to London, but I should like to go there one day.
        He was a tall man with a grey beard and a very loud voice.
        Do you know what time it is?
        My sister gave me a book for my birthday.
        The dog lay in front of the fire and slept.
        There was nothing to be seen but the sea and the sky.
        "I do not believe you," said the young woman.
        We shall have to wait until he comes back.
        The house stood on a hill, not far from the river.
        Nobody knew where the old captain had come from.
        It is too late to do anything about it now.
        Tom wants to learn how to swim.
        They walked slowly along the road and spoke of their friends.
        Why did you not tell me that you were ill?
        The king was angry and sent his servants away.
        After dinner they sat together and talked about the war.
        This is the best coffee that I have ever had.
        He opened his eyes and looked at her in surprise.
        The train leaves at six, so we must hurry.
        Her mother had died when she was still a child.
        I cannot find my keys anywhere.
        In the morning the whole village was covered with snow.
    """,
    "de": """
        Der Regen hatte aufgehört, und die Kinder liefen hinaus in den Garten.
        Sie legte den Brief auf den Tisch und verließ wortlos das Zimmer.
        Ich bin noch nie in London gewesen, möchte aber gern einmal dorthin fahren.
        Er war ein großer Mann mit grauem Bart und einer sehr lauten Stimme.
        Weißt du, wie spät es ist?
        Meine Schwester hat mir zum Geburtstag ein Buch geschenkt.
        Der Hund lag vor dem Feuer und schlief.
        Man sah nichts als das Meer und den Himmel.
        „Ich glaube Ihnen nicht“, sagte die junge Frau.
        Wir werden warten müssen, bis er zurückkommt.
        Das Haus stand auf einem Hügel, nicht weit vom Fluss.
        Niemand wusste, woher der alte Kapitän gekommen war.
        Es ist zu spät, um jetzt noch etwas daran zu ändern.
        Tom möchte schwimmen lernen.
        Sie gingen langsam die Straße entlang und sprachen von ihren Freunden.
        Warum hast du mir nicht gesagt, dass du krank bist?
        Der König war zornig und schickte seine Diener fort.
        Nach dem Essen saßen sie zusammen und redeten über den Krieg.
        Das ist der beste Kaffee, den ich je getrunken habe.
        Er öffnete die Augen und sah sie überrascht an.
        Der Zug fährt um sechs, also müssen wir uns beeilen.
        Ihre Mutter war gestorben, als sie noch ein Kind war.
        Ich kann meine Schlüssel nirgends finden.
        Am Morgen war das ganze Dorf mit Schnee bedeckt.
    """,
}


@pytest.fixture(scope="module")
def model() -> XLMWithLMHeadModel:
    return XLMWithLMHeadModel.from_pretrained(NAME)


@pytest.fixture(scope="module")
def tokenizer() -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(NAME)


def test_its_files_are_those_that_were_recorded() -> None:
    assert {path.name: file_sha256(path) for path in bundled_models()[NAME].iterdir()} == RECORDED["files"]


def test_it_is_small() -> None:
    directory = bundled_models()[NAME]
    assert compressed_size(directory) <= LARGEST == 8_000_000
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 8 * 2**20


def test_it_is_in_the_wheel() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    files = {file.distribution_path for file in wheel.WheelBuilder(str(REPOSITORY)).recurse_included_files()}
    assert {f"xlm/models/{NAME}/{name}" for name in RECORDED["files"]} <= files


def test_its_weights_are_kept_in_half_and_computed_with_in_single_precision(model: XLMWithLMHeadModel) -> None:
    kept = XLMWithLMHeadModel.from_pretrained(NAME, dtype="auto")
    assert (kept.dtype, model.dtype) == (torch.float16, torch.float32)
    assert all(torch.equal(tensor.float(), model.state_dict()[name]) for name, tensor in kept.state_dict().items())
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000


@pytest.mark.parametrize("recorded", RECORDED["sentences"], ids=lambda recorded: recorded["lang"])
def test_log_probabilities_are_those_that_were_recorded(
    recorded: dict[str, object], model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    (found,) = score(model, tokenizer, [str(recorded["text"])], lang=str(recorded["lang"]))
    assert list(found.tokens) == recorded["tokens"]
    # Nats. Processors add float32 numbers in different orders, which changes about 1e-6.
    assert found.logprobs == pytest.approx(recorded["logprobs"], abs=1e-4)


@pytest.mark.parametrize(("lang", "other"), [("en", "de"), ("de", "en")])
def test_a_sentence_is_likelier_in_its_own_language(
    lang: str, other: str, model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    texts = [line.strip() for line in SENTENCES[lang].strip().splitlines()]
    assert len(texts) == 24
    right = score(model, tokenizer, texts, lang=lang)
    wrong = score(model, tokenizer, texts, lang=other)
    assert [a.text for a, b in zip(right, wrong, strict=True) if a.logprob <= b.logprob] == []
    # A language that is only unseen would not make such a difference.
    assert sum(a.logprob - b.logprob for a, b in zip(right, wrong, strict=True)) > 24 * 5


def test_it_opens_in_transformers_with_the_same_logits() -> None:
    pytest.importorskip("transformers")
    assert against_transformers(NAME).holds


def test_a_directory_of_its_name_comes_first(
    tmp_path: Path, tokenizer: XLMTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = XLMConfig(vocab_size=20, n_langs=2, emb_dim=8, n_layers=1, n_heads=2, lang2id={"de": 0, "en": 1})
    XLMWithLMHeadModel(config).save_pretrained(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert XLMWithLMHeadModel.from_pretrained(NAME).config.vocab_size == 20
    with pytest.raises(XLMError, match="does not hold a tokenizer"):
        XLMTokenizer.from_pretrained(NAME)
    shutil.rmtree(tmp_path / NAME)
    assert XLMWithLMHeadModel.from_pretrained(NAME).config.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("name", ["xlm-clm-ende-smal", "xlm-clm-ende_small"])
def test_a_name_that_is_nearly_right(name: str) -> None:
    for load in (XLMWithLMHeadModel.from_pretrained, XLMTokenizer.from_pretrained):
        with pytest.raises(XLMError, match=f"(?s){name}.*did you mean the bundled model '{NAME}'"):
            load(name)


@pytest.mark.parametrize("name", ["xlm-clm-ende-1024", "..", "../models/xlm-clm-ende-small", "models", "", "a\0b"])
def test_names_of_no_bundled_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(XLMError):
        XLMWithLMHeadModel.from_pretrained(name)


def test_it_is_converted_by_its_name(tmp_path: Path, tokenizer: XLMTokenizer) -> None:
    report = convert(NAME, tmp_path / "copy", dtype="float32")
    assert report.source == find_model(NAME)
    assert XLMTokenizer.from_pretrained(tmp_path / "copy") == tokenizer


def test_the_card_is_of_these_weights() -> None:
    card = (REPOSITORY / "docs" / "models" / f"{NAME}.md").read_text("utf-8")
    assert RECORDED["files"]["model.safetensors"] in card
    assert (REPOSITORY / "docs" / "models" / f"{NAME}.png").stat().st_size < 300_000


def test_figures_of_the_card_are_those_of_perplexity(
    tmp_path: Path, model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    lines = [line.strip() for line in SENTENCES["de"].strip().splitlines()]
    (tmp_path / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = evaluate(model, tokenizer, tmp_path / "text", "de")
    expected = perplexity(model, tokenizer, lines, lang="de").languages[0]
    assert (found.tokens, found.characters) == (expected.tokens, expected.characters)
    assert found.nats["de"] == pytest.approx(expected.nats, rel=1e-6)  # float32 sums in other batches
    bits = expected.bits_per_character
    assert bits is not None
    assert found.cells("de") == (f"{expected.perplexity:.1f}", f"{bits:.3f}")
    assert found.nats["en"] > found.nats["de"]


def test_a_section_of_the_card_is_filled_and_nothing_else() -> None:
    card = (
        "a\n<!-- figures: one -->\nold\n<!-- end of figures -->\nb\n<!-- figures: two -->\n\n<!-- end of figures -->\n"
    )
    assert fill(card, "one", "new\\1\n") == card.replace("old\n", "\nnew\\1\n\n")
    with pytest.raises(XLMError, match="three"):
        fill(card, "three", "new")
