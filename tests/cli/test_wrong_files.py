"""Wrong files, directories and texts under every command. Oracle: one message, the contract's exit statuses, no target.

What the messages say of each kind of file is for the tests of what reads it; here it is that each command says it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.conftest import Invoke
from xlm import convert

JUNK = bytes(number * number * 7919 % 256 for number in range(1, 3000))


@pytest.fixture(scope="module")
def good(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good") / "model"
    convert(demo_files / "demo.pth", directory, codes=demo_files / "codes")
    return directory


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def junk(path: Path) -> None:
    path.write_bytes(JUNK)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def missing(path: Path) -> None:
    path.unlink()


def one_message(result: Result) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    assert result.stderr.count("Error: ") == 1
    usage = result.stderr.startswith("Usage: ")
    assert usage == (result.exit_code == 2)
    assert usage or result.stderr.startswith("Error: ")
    return result.stderr


COMMANDS: dict[str, Callable[[str | Path, Path], list[str | Path]]] = {
    "tokenize": lambda model, out: ["tokenize", model, "--lang", "en"],
    "score": lambda model, out: ["score", model, "--lang", "en"],
    "perplexity": lambda model, out: ["perplexity", model, "--lang", "en"],
    "generate": lambda model, out: ["generate", model, "--lang", "en", "--prompt", "the"],
    "explore": lambda model, out: ["explore", model, "--port", "0"],
    "plot": lambda model, out: ["plot", model, "--lang", "en", "the", "--output", out / "plot.png"],
    "convert": lambda model, out: ["convert", model, out / "converted"],
    "parity": lambda model, out: ["parity", model],
    "prepare": lambda model, out: ["prepare", out / "data", "--model", model, "--train", f"en={__file__}"],
}
PARTS = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
NEEDS_NONE_OF = {
    "tokenize": ("config.json", "model.safetensors"),
    "prepare": ("config.json", "model.safetensors"),
    "convert": ("vocab.json", "merges.txt"),  # weights can do without
    "parity": ("vocab.json", "merges.txt"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_broken_model_directories(name: str, good: Path, tmp_path: Path, invoke: Invoke) -> None:
    if name == "parity":
        pytest.importorskip("transformers")
    out = tmp_path / "out"
    out.mkdir()
    for spoil in (half, junk, a_directory, missing):
        for part in PARTS:
            if part in NEEDS_NONE_OF.get(name, ()):
                continue
            model = tmp_path / f"{spoil.__name__}-{part}"
            shutil.copytree(good, model)
            spoil(model / part)
            said = one_message(invoke(*COMMANDS[name](model, out), input="the dog\n"))
            assert str(model) in said
    assert sorted(out.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_model(name: str, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "parity":
        pytest.importorskip("transformers")
    (tmp_path / "out").mkdir()
    (tmp_path / "empty").touch()
    junk(tmp_path / "junk.pth")
    (tmp_path / "text.txt").write_text("the dog\n")
    os.mkfifo(tmp_path / "pipe.pth")
    models = ["./nothing", "./nothing/deeper", "", "out", "empty", "junk.pth", "text.txt", "pipe.pth", "\udcff"]
    for model in models:
        said = one_message(invoke(*COMMANDS[name](model, tmp_path / "out"), input="the dog\n"))
        where = said.partition("\n  where: ")[2].partition("\n")[0]
        assert Path(where.replace("\\udcff", "\udcff")) == Path(model or "the model's name")
        assert "hub can" not in said  # a path is not asked for elsewhere
        assert "holds its vocabulary" not in said  # nothing here is a checkpoint
    assert sorted((tmp_path / "out").iterdir()) == []


def test_weights_that_may_not_be_read(good: Path, tmp_path: Path, invoke: Invoke) -> None:
    shutil.copytree(good, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.chmod(0)
    if os.access(weights, os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    said = one_message(invoke("score", tmp_path / "model", "--lang", "en", input="the dog\n"))
    assert "found: Permission denied" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["tokenize", "MODEL", "--lang", "en", "FILE"],
        ["tokenize", "MODEL", "--lang", "en", "--workers", "2", "FILE"],
        ["generate", "MODEL", "--lang", "en", "FILE"],
        ["learn-bpe", "--merges", "2", "--codes", "OUT/codes", "FILE"],
        ["parity", "MODEL", "--lang", "en", "--text", "FILE"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[-3:-1]),
)
def test_a_file_that_fails_when_it_is_read_is_named(
    arguments: list[str], good: Path, tmp_path: Path, invoke: Invoke
) -> None:
    pytest.importorskip("transformers")
    failing = Path("/proc/self/mem")
    if not failing.exists():
        pytest.skip("no file here that can be opened and not be read")
    names = {"MODEL": str(good), "FILE": str(failing), "OUT": str(tmp_path)}
    result = invoke(*[names.get(argument, argument.replace("OUT/", f"{tmp_path}/")) for argument in arguments])
    assert "where: /proc/self/mem\n  found: Input/output error" in one_message(result)
    assert sorted(tmp_path.iterdir()) == []


def test_bytes_on_the_command_line_that_are_no_text(good: Path, tmp_path: Path, invoke: Invoke) -> None:
    picture = tmp_path / "a.png"
    for arguments in (
        ["generate", good, "--lang", "en", "--prompt", "a \udcff"],
        ["plot", good, "--lang", "en", "a \udcff", "--output", picture],
        ["plot", good, "--lang", "en", "a", "--title", "a \udcff", "--output", picture],
    ):
        assert r"not UTF-8: \udcff at character 3" in one_message(invoke(*arguments))
    assert not picture.exists()


def test_an_empty_language_is_none_of_the_model(good: Path, invoke: Invoke) -> None:
    said = one_message(invoke("generate", good, "--lang", "en", "--continuation-lang", "", "--prompt", "the"))
    assert "does not have this language" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["learn-bpe", "--merges", "2", "TEXT", "--codes", "TARGET"],
        ["learn-bpe", "--merges", "2", "TEXT", "--codes", "other", "--vocab", "TARGET"],
        ["plot", "MODEL", "--lang", "en", "the", "--output", "TARGET.png"],
    ],
    ids=lambda arguments: " ".join((arguments[0], arguments[-2])),
)
def test_a_target_that_cannot_be_written_is_told_before_the_work(
    arguments: list[str], good: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it worked in vain")

    for long in ("data.bpe_learning.count_words", "scoring.score.score"):
        monkeypatch.setattr(f"xlm.{long}", work)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("the dog\n" * 9)
    names = {"MODEL": str(good), "TEXT": "text"}
    for target, said in (("missing/file", "make the directory first"), ("text/file", "one of the parents is a file")):
        changed = [names.get(argument, argument.replace("TARGET", target)) for argument in arguments]
        assert said in one_message(invoke(*changed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]
