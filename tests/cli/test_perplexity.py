"""``xlm perplexity``. Oracle: the library's own figures; and the original's, for a model it trained (reference)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Invoke
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.perplexity import LanguagePerplexity, Perplexity, perplexity
from xlm.tokenizer.tokenizer import XLMTokenizer

TEXTS = {"en": ["The small dog is sleeping.", "", "A ü cat"], "de": ["Der kleine Hund schläft.", "Hund"]}
HEADER = ["lang", "perplexity", "tokens", "nats_per_token", "bits_per_character", "bits_per_byte", "texts", "unknown"]
HEADER += ["perplexity_per_word", "words"]
INTERVALS = ["perplexity_low", "perplexity_high", "bits_per_character_low", "bits_per_character_high"]


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for lang, texts in TEXTS.items():
        found[lang] = tmp_path / f"text.{lang}"
        found[lang].write_bytes("".join(f"{text}\n" for text in texts).encode())
    return found


def by_library(demo_files: Path, **options: object) -> Perplexity:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    return perplexity(
        XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"),
        tokenizer,
        TEXTS,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "options", [(), ("--protocol", "sentence"), ("--protocol", "stream", "--window", "7"), ("--protocol", "stream")]
)
def test_rows_are_the_languages_and_their_mean(
    invoke: Invoke, model: tuple[str, ...], demo_files: Path, files: dict[str, Path], options: tuple[str, ...]
) -> None:
    arguments = ("--lang", "en", files["en"], "--lang", "de", files["de"])
    result = invoke("perplexity", *model, *arguments, *options)
    assert result.exit_code == 0
    protocol = options[1] if options else "sentence"
    expected = by_library(demo_files, protocol=protocol, window=7 if "--window" in options else None)
    header, *rows = (line.split("\t") for line in result.stdout.splitlines())
    assert header == HEADER
    for row, each in zip(rows, expected.languages, strict=False):
        assert (row[0], int(row[2]), int(row[6]), int(row[7])) == (each.lang, each.tokens, each.texts, each.unknown)
        assert float(row[1]) == pytest.approx(each.perplexity, abs=1e-6)
        assert float(row[3]) == pytest.approx(each.nats_per_token, abs=1e-6)
        measures = (each.bits_per_character, each.bits_per_byte, each.perplexity_per_word)
        assert [row[4], row[5], row[8]] == [f"{measure:.6f}" for measure in measures]
        assert int(row[9]) == each.words
    assert rows[2] == ["mean", f"{expected.perplexity:.6f}", *[""] * 8]
    shown = protocol if expected.window is None else f"stream {expected.window}"
    assert f"|lang:en+de|protocol:{shown}|" in result.stderr
    assert result.stderr.endswith(f"|unknown:{sum(each.unknown for each in expected.languages)}\n")
    lines = invoke("perplexity", *model, *arguments, *options, "--format", "jsonl").stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [HEADER] * 3
    assert json.loads(lines[2])["perplexity"] == pytest.approx(expected.perplexity, rel=1e-12)


def test_intervals_are_those_of_the_library(
    invoke: Invoke, model: tuple[str, ...], demo_files: Path, files: dict[str, Path]
) -> None:
    arguments = ("--lang", "en", files["en"], "--lang", "de", files["de"], "--bootstrap", "20", "--format", "jsonl")
    seeded = ("--seed", "5")
    expected = by_library(demo_files)
    for options, seed in (((), 0), (seeded, 5)):
        result = invoke("perplexity", *model, *arguments, *options)
        *rows, mean = map(json.loads, result.stdout.splitlines())
        for row, each in zip(rows, expected.languages, strict=True):
            assert list(row) == [*HEADER, *INTERVALS]
            bounds = [*each.interval("perplexity", resamples=20, seed=seed)]
            bounds += each.interval("bits_per_character", resamples=20, seed=seed)
            assert [row[name] for name in INTERVALS] == pytest.approx(bounds, rel=1e-12)
        assert [mean[name] for name in INTERVALS] == [None] * 4


def test_two_models_are_compared_on_the_same_rows(
    invoke: Invoke, model: tuple[str, ...], demo_files: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    other = XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth")
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    tokenizer.save_pretrained(tmp_path / "other")
    first, second = by_library(demo_files), perplexity(other, tokenizer, TEXTS)
    arguments = ("--compare", tmp_path / "other", "--lang", "en", files["en"], "--lang", "de", files["de"])
    result = invoke("perplexity", *model, *arguments, "--format", "jsonl", "--bootstrap", "30")
    assert result.exit_code == 0, result.stderr
    *rows, last, last_other, mean = map(json.loads, result.stdout.splitlines())
    assert [(row["model"], row["lang"]) for row in rows] == [
        (name, lang) for lang in TEXTS for name in (str(model[0]), str(tmp_path / "other"), "difference")
    ]
    for i, (one, two) in enumerate(zip(first.languages, second.languages, strict=True)):
        of_one, of_two, difference = rows[3 * i : 3 * i + 3]
        assert list(of_one) == list(difference) == ["model", *HEADER, *INTERVALS]
        for row, each in ((of_one, one), (of_two, two)):
            assert (row["tokens"], row["unknown"]) == (each.tokens, each.unknown)
            assert row["perplexity"] == pytest.approx(each.perplexity, rel=1e-12)
            assert (row["perplexity_low"], row["perplexity_high"]) == each.interval("perplexity", resamples=30)
        assert [difference[name] for name in ("tokens", "texts", "unknown", "words")] == [None] * 4
        for name in ("perplexity", "nats_per_token", "bits_per_character", "bits_per_byte", "perplexity_per_word"):
            assert difference[name] == pytest.approx(getattr(one, name) - getattr(two, name), rel=1e-9)
        bounds = [*one.difference_interval(two, "perplexity", resamples=30)]
        bounds += one.difference_interval(two, "bits_per_character", resamples=30)
        assert [difference[name] for name in INTERVALS] == pytest.approx(bounds, rel=1e-9)
    assert (last["perplexity"], last_other["perplexity"]) == pytest.approx((first.perplexity, second.perplexity))
    assert mean["perplexity"] == pytest.approx(first.perplexity - second.perplexity, rel=1e-9)
    assert result.stderr.count("signature: ") == 2
    stream = invoke("perplexity", *model, *arguments, "--protocol", "stream", "--format", "tsv")
    assert stream.stdout.splitlines()[0].split("\t") == ["model", *HEADER]
    defaults = invoke("perplexity", *model, *arguments, "--format", "jsonl").stdout.splitlines()
    low, high = first.languages[0].interval("perplexity", resamples=1000)
    assert (json.loads(defaults[0])["perplexity_low"], json.loads(defaults[0])["perplexity_high"]) == (low, high)


def test_one_language_has_no_mean_and_reads_standard_input(
    invoke: Invoke, model: tuple[str, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    alone = invoke("perplexity", *model, "--lang", "en", files["en"])
    assert [line.split("\t")[0] for line in alone.stdout.splitlines()] == ["lang", "en"]
    piped = invoke("perplexity", *model, "--lang", "en", input=files["en"].read_bytes())
    assert piped.stdout == alone.stdout
    zipped = tmp_path / "text.jsonl.gz"
    zipped.write_bytes(gzip.compress("".join(json.dumps({"x": t}) + "\n" for t in TEXTS["en"]).encode()))
    assert invoke("perplexity", *model, "--lang", "en", zipped, "--column", "x").stdout == alone.stdout


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--lang", "en", "--lang", "de"),
        ("--lang", "en", "FILE", "FILE"),
        ("--lang", "en", "--lang", "en", "FILE", "FILE"),
        ("--lang", "en", "--protocol", "stream", "--stride", "3", "FILE"),
        ("--lang", "en", "--window", "1", "FILE"),
        ("--lang", "en", "--window", "5", "FILE"),
        ("--lang", "en", "--protocol", "stream", "--window", "9999", "FILE"),
        ("--lang", "en", "--stride", "9999", "FILE"),
        ("--lang", "en", "--column", "text", "FILE"),
        ("--lang", "en", "--protocol", "paragraph"),
        ("--lang", "en", "--documents", "--protocol", "stream"),
        ("--lang", "en", "--bootstrap", "0", "FILE"),
        ("--lang", "en", "--bootstrap", "9", "--protocol", "stream", "FILE"),
        ("--lang", "en", "--compare", "xlm-clm-ende-small"),
        ("--lang", "en", "--compare", "xlm-clm-ende-small", "-"),
    ],
    ids=" ".join,
)
def test_wrong_usage(invoke: Invoke, model: tuple[str, ...], files: dict[str, Path], options: tuple[str, ...]) -> None:
    arguments = [files["en"] if option == "FILE" else option for option in options]
    result = invoke("perplexity", *model, *arguments, input="the dog\n")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ((), b"", "There are no texts"),
        ((), b"the\n\xff\n", "standard input, line 2\n  found: not UTF-8"),
        (("--device", "meta"), b"the\n", "No such device"),
    ],
)
def test_what_cannot_be_done_is_said(
    invoke: Invoke, model: tuple[str, ...], options: tuple[str, ...], text: bytes, message: str
) -> None:
    result = invoke("perplexity", *model, "--lang", "en", *options, input=text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_infinite_figures_are_null(
    invoke: Invoke, model: tuple[str, ...], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguagePerplexity, "nats_per_token", 1000.0)
    result = invoke("perplexity", *model, "--lang", "en", files["en"], "--format", "jsonl")
    assert result.exit_code == 0
    (row,) = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert (row["perplexity"], row["nats_per_token"]) == (None, 1000.0)


def test_equals_what_the_original_reported(invoke: Invoke, reference: Path) -> None:
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    reported = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["evaluate_clm"]
    codes = reference / "published" / "codes_ende"
    languages = ("--lang", "de", folder / "valid.de", "--lang", "en", folder / "valid.en")
    options = ("--codes", codes, "--protocol", "stream", "--window", "64")
    result = invoke("perplexity", folder / "clm_ende_multi30k.pth", *options, *languages)
    found = {cells[0]: float(cells[1]) for cells in (line.split("\t") for line in result.stdout.splitlines()[1:])}
    # Measured: 2e-6, the error of torch's float32 log_softmax over 64,699 words, which the original uses.
    for lang in ("de", "en"):
        assert found[lang] == pytest.approx(reported[f"valid_{lang}_clm_ppl"], rel=1e-5)
    assert found["mean"] == pytest.approx((found["de"] + found["en"]) / 2, rel=1e-6)


def test_documents_are_what_stands_between_blank_rows(
    invoke: Invoke, model: tuple[str, ...], demo_files: Path, tmp_path: Path
) -> None:
    file = tmp_path / "documents"
    file.write_text("\nthe dog\nA cat\n \n\nthe grass\n", encoding="utf-8")
    pair = (
        XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"),
        XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes"),
    )
    (expected,) = perplexity(*pair, [["the dog", "A cat"], ["the grass"]], lang="en", protocol="document").languages
    for option in (("--documents",), ("--protocol", "document")):
        result = invoke("perplexity", *model, "--lang", "en", file, *option, "--format", "jsonl", "--bootstrap", "9")
        row = json.loads(result.stdout)
        assert (row["texts"], row["documents"], row["perplexity"]) == (3, 2, expected.perplexity)
        assert row["perplexity_low"] == expected.interval("perplexity", resamples=9)[0]
        assert "|protocol:document|" in result.stderr
