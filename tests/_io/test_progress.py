"""Progress bars. Oracle: what ``tqdm`` writes to standard error, read as text; the numbers are counted by hand."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.demo_files import write_demo_files
from tests.scoring.small import make_model, open_tokenizer
from tests.translation.test_translator import MODEL, TOKENIZER, WORDS
from xlm import evaluate, perplexity, score, score_documents, score_frame, score_stream, translate, word_vectors
from xlm._io.progress import ProgressBar
from xlm.errors import InputError


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_files(tmp_path_factory.mktemp("demo"))


PROGRAM = """
from xlm._io.progress import ProgressBar
with ProgressBar(PROGRESS, unit="texts", total=4, label="en") as bar:
    for group in bar.groups(["ab", "cd"]):
        bar.show_share(0.5)
"""


def run(progress: bool | None, **streams: int) -> str:
    program = PROGRAM.replace("PROGRESS", str(progress))
    return subprocess.run([sys.executable, "-c", program], text=True, check=True, **streams).stderr  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(("progress", "lines"), [(True, 2), (None, 0), (False, 0)])
def test_a_log_has_whole_lines(progress: bool | None, lines: int) -> None:
    written = run(progress, stderr=subprocess.PIPE)
    assert len(written.splitlines()) == lines
    assert "\r" not in written
    if lines:
        assert re.search(r"^en: +0%.* 0/4 .*texts/s\]\nen: 100%.* 4/4 .*texts/s\]\n$", written)


@pytest.mark.skipif(sys.platform == "win32", reason="needs terminals")
@pytest.mark.parametrize(("progress", "shown"), [(True, True), (None, True), (False, False)])
def test_a_terminal_has_one_line_that_changes(progress: bool | None, shown: bool) -> None:
    reading, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    run(progress, stderr=terminal)
    os.close(terminal)
    written = b""
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except OSError:  # Linux ends the stream so
            break
        if not part:
            break
        written += part
    os.close(reading)
    text = written.decode()
    assert ("4/4" in text) == shown
    assert text.count("\n") == shown


def test_groups_count_when_the_next_one_is_asked_for() -> None:
    bar = ProgressBar(False, unit="texts")
    bar.done = 10
    groups = bar.groups(["abcd", "ef"])
    seen = []
    for _ in groups:
        seen.append(bar.done)
        bar.show_share(0.5)
        seen.append(bar.done)
    assert [*seen, bar.done] == [10, 12, 14, 15, 16]


@pytest.mark.parametrize("progress", [1, 0, "yes", []])
def test_other_values_are_refused(progress: object) -> None:
    with pytest.raises(InputError) as caught:
        ProgressBar(progress, unit="texts")  # type: ignore[arg-type]
    assert caught.value.where == "progress"


TEXTS = ["the dog", "", "a cat is sleeping"]
PAIR = '{"sentence_good": "the dog", "sentence_bad": "the cat"}\n'
CALLS: dict[str, tuple[int, Callable[..., Any]]] = {
    "score": (3, lambda model, tokenizer, **options: score(model, tokenizer, TEXTS, **options)),
    "score_stream": (
        3,
        lambda model, tokenizer, **options: list(score_stream(model, tokenizer, iter(TEXTS), **options)),
    ),
    "score_documents": (
        3,
        lambda model, tokenizer, **options: score_documents(model, tokenizer, [TEXTS[:2], TEXTS[2:]], **options),
    ),
    "perplexity": (3, lambda model, tokenizer, **options: perplexity(model, tokenizer, TEXTS, **options)),
    "perplexity of a stream": (
        3,  # 10 tokens and the opening one, in windows of 4
        lambda model, tokenizer, **options: perplexity(
            model, tokenizer, ["the dog"] * 3, protocol="stream", window=4, **options
        ),
    ),
    "word_vectors": (3, lambda model, tokenizer, **options: word_vectors(model, tokenizer, TEXTS, **options)),
    "evaluate": (2, lambda model, tokenizer, tasks, **options: evaluate(model, tokenizer, tasks, **options)),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_show_all_that_is_done_and_nothing_by_default(
    demo_files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    tokenizer = open_tokenizer(demo_files)
    model = make_model(tokenizer.vocab_size)
    number, call = CALLS[name]
    options: dict[str, Any] = {"lang": "en"}
    if name == "evaluate":
        options["tasks"] = [tmp_path / "pairs.jsonl", tmp_path / "others.jsonl"]
        for task in options["tasks"]:
            task.write_text(PAIR, encoding="utf-8")
    expected = call(model, tokenizer, **options)
    assert tuple(capfd.readouterr()) == ("", "")
    result = call(model, tokenizer, progress=True, **options)
    output, errors = capfd.readouterr()
    assert output == ""
    assert f" {number}/{number} [" in errors.splitlines()[-1]
    if name != "word_vectors":  # arrays
        assert result == expected


def test_translate_shows_all_that_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"source": "de", "target": "en", "batch_size": 1}
    translate(MODEL, TOKENIZER, WORDS[:3], **options, progress=True)
    assert " 3/3 [" in capfd.readouterr().err.splitlines()[-1]


def test_a_frame_counts_its_rows(demo_files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    tokenizer = open_tokenizer(demo_files)
    model = make_model(tokenizer.vocab_size)
    words = pandas.DataFrame({"item": [1, 1, 2], "word": ["the", "dog", "A"]})
    score_frame(model, tokenizer, words, lang="en", word_column="word", group_by="item", progress=True)
    score(model, tokenizer, words["word"], lang="en", progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert [" 3/3 [" in line for line in lines] == [False, True, False, True]


def test_the_bar_moves_with_each_batch(demo_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of texts may take minutes."""
    shown: list[int] = []
    monkeypatch.setattr(ProgressBar, "show", lambda bar, done: shown.append(done))
    tokenizer = open_tokenizer(demo_files)
    score(make_model(tokenizer.vocab_size), tokenizer, ["the dog"] * 4, lang="en", batch_size=1)
    assert shown == [1, 2, 3, 4, 4]
