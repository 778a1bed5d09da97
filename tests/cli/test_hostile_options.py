"""Every option and argument of every command, each in turn with hostile values and good ones for the rest.

The exit status is 0, 1 or 2, and an error is a message: no other exception, and no wait. A new command without a line
in ``good_lines`` fails here; new options are walked by themselves.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from tests.cli.conftest import Invoke
from tests.model.test_seq2seq import small_translator
from tests.tokenizer.small import TEXT
from tests.training.runs import prepare_text, small_tokenizer, write_config
from tests.waiting import at_most
from xlm import XLMWithLMHeadModel, convert
from xlm.cli import COMMANDS, xlm
from xlm.training.config import TrainConfig, load_config
from xlm.training.loop import train

SECONDS = 60
"""That the hostile values of one option may take together."""

WORDS = {
    "empty": "",
    "NUL": "a\0b",
    "not UTF-8": "\udcff",  # how such a byte arrives
    "no such": "no such",
    "missing/file": "missing/file",
    "directory": "directory",
    "file": "file",
    "binary": "binary",
    "pair": "en=directory",
    "pair not UTF-8": "\udcff=file",
    "-": "-",
    "formula": "$\\frac{$",
    "long": "x" * 5000,
}
NUMBERS = {"-1": "-1", "0": "0", "1.5": "1.5", "10**30": str(10**30), "nan": "nan", "inf": "inf", "1e999": "1e999"}

Line = dict[str, str]
"""What the parameters of a command are given, by their names."""


@pytest.fixture(scope="module")
def files(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, texts, recorded answers, a training run and its configuration."""
    directory = tmp_path_factory.mktemp("hostile")
    convert(demo_files / "demo.pth", directory / "model", codes=demo_files / "codes")
    model = XLMWithLMHeadModel.from_pretrained(directory / "model")
    ids = torch.arange(14, 24)[None]
    with torch.inference_mode():
        logits = model(ids, langs=1).logits
    save_file({"input_ids": ids, "langs": torch.ones_like(ids), "logits": logits}, directory / "answers.safetensors")
    tokenizer = small_tokenizer()
    small_translator(vocab_size=tokenizer.vocab_size, eos=1.5).save_pretrained(directory / "translator")
    tokenizer.save_pretrained(directory / "translator")
    (directory / "text").write_text("The small dog\n", encoding="utf-8")
    (directory / "pairs.txt").write_text("True\tThe dog\nFalse\tThe dogs\n", encoding="utf-8")
    (directory / "corpus").write_text(TEXT, encoding="utf-8")
    data = prepare_text(directory)
    config = write_config(directory / "config.toml", data, directory / "run", max_steps=1)
    train(load_config(str(config)))
    return directory


def good_lines(files: Path) -> dict[str, Line]:
    """A line that ends well for each command; several, with a word behind, where one does not reach all options."""
    model = str(files / "model")
    text = {"model": model, "lang": "en"}
    on_ray = {**text, "engine": "ray", "output_dir": "out"}
    translation = {"model": str(files / "translator"), "source": "de", "target": "en"}
    return {
        "convert": {"source": model, "target": "converted"},
        "parity": {"model": model, "reference": str(files / "answers.safetensors")},
        "parity by text": {"model": model, "text": str(files / "text"), "lang": "en"},
        "tokenize": {**text, "file": str(files / "text")},
        "tokenize on ray": {**on_ray, "file": str(files / "text")},
        "score": {**text, "files": str(files / "text")},
        "score on ray": {**on_ray, "files": str(files / "text")},
        "perplexity": {"model": model, "langs": "en", "files": str(files / "text")},
        "evaluate": {**text, "tasks": str(files / "pairs.txt")},
        "generate": {**text, "prompt": "The dog", "max_new_tokens": "2"},
        "generate from a file": {**text, "file": str(files / "text"), "max_new_tokens": "2"},
        "generate on ray": {**on_ray, "file": str(files / "text")},
        "translate": {**translation, "files": str(files / "text")},
        "translate by beams": {**translation, "files": str(files / "text"), "num_beams": "2", "output": "out"},
        "translate on ray": {**translation, "files": str(files / "text"), "engine": "ray", "output_dir": "out"},
        "explore": {"model": model, "port": "0"},
        "plot": {"model": model, "languages": "en", "texts": "The dog", "output": "plot.svg"},
        "learn-bpe": {"texts": str(files / "corpus"), "merges": "5", "codes": "codes", "vocab": "vocab"},
        "learn-bpe by preset": {
            "texts": f"en={files / 'corpus'}",
            "merges": "5",
            "codes": "codes",
            "preset": "original",
        },
        "prepare": {"directory": "data", "model": model, "train": f"en={files / 'text'}"},
        "train": {"config": str(files / "config.toml"), "changes": "output=run"},
        "train-report": {"run": str(files / "run"), "output": "report.png"},
    }


def command_of(line: str) -> click.Command:
    command = xlm.get_command(click.Context(xlm), line.split()[0])
    assert command is not None
    return command


def arguments_of(name: str, line: Line) -> list[str]:
    options, places = [], []
    for parameter in command_of(name).params:
        if (value := line.get(parameter.name or "")) is not None:
            options += [] if isinstance(parameter, click.Argument) else [parameter.opts[0], value]
            places += [value] if isinstance(parameter, click.Argument) else []
    return [name.split()[0], *options, "--", *places]


def is_number(name: str, parameter: str) -> bool:
    (of,) = (one.type for one in command_of(name).params if one.name == parameter)
    return isinstance(of, click.types.IntParamType | click.types.FloatParamType)


LINES = [*good_lines(Path())]
WALKED = [
    (name, parameter.name)
    for name in LINES
    for parameter in command_of(name).params
    if not getattr(parameter, "is_flag", False)
]


@pytest.fixture(autouse=True)
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a directory of its own, without Ray, without serving, and with an end to what waits."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("The small dog\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("xlm.explore.server.serve", lambda *_: None)
    with at_most(SECONDS):
        yield


def failure(result: Result) -> str | None:
    """What is wrong with how a command ended."""
    if not isinstance(result.exception, SystemExit | None):
        return f"{type(result.exception).__name__}: {str(result.exception)[:100]}"
    if result.exit_code not in (0, 1, 2) or "Traceback" in result.output:
        return f"status {result.exit_code}"
    return None if result.exit_code == 0 or "Error" in result.stderr else f"status {result.exit_code} without a message"


def test_every_command_has_a_line_that_ends_well(files: Path, invoke: Invoke) -> None:
    lines = good_lines(files)
    assert {name.split()[0] for name in lines} == set(COMMANDS)
    for name, line in lines.items():
        result = invoke(*arguments_of(name, line), input=b"The dog\n")
        if "ray" in name:
            assert "Ray Data is not installed" in result.stderr, result.output
        else:
            assert result.exit_code == 0, f"{name}\n{result.output}"


@pytest.mark.parametrize(("name", "parameter"), WALKED, ids=[f"{name}: {parameter}" for name, parameter in WALKED])
def test_hostile_values(
    name: str, parameter: str, files: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = good_lines(files)[name]
    if name == "train-report":  # a picture for each value takes long
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: Path(file).touch())
    failures = {}
    for label, value in (NUMBERS | WORDS if is_number(name, parameter) else WORDS).items():
        result = invoke(*arguments_of(name, {**line, parameter: value}), input=b"The dog\n")
        if (found := failure(result)) is not None:
            failures[label] = found
    assert not failures


def keys_of(part: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration, such as ``run.max_steps``."""
    for field in dataclasses.fields(part):
        factory: Any = field.default_factory
        if dataclasses.is_dataclass(factory):
            yield from keys_of(factory, f"{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("key", ["", "model", "no.such", "run.max_steps.more", *keys_of(TrainConfig)])
def test_hostile_values_in_a_configuration(
    key: str, files: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(config: TrainConfig, **_: object) -> None:
        TrainConfig.from_dict(config.to_dict())

    if key not in ("data", "output"):  # which only a run that begins looks at
        monkeypatch.setattr("xlm.training.loop.train", begin)
    failures = {}
    of_toml = ["[]", "{}", "true", "[1, nan]", '"\\u0000"', "1979-05-27", "1e400", "'''"]
    for value in [*NUMBERS.values(), *WORDS.values(), *of_toml]:
        result = invoke("train", files / "config.toml", "--set", f"{key}={value}")
        if (found := failure(result)) is not None:
            failures[value[:40]] = found
    assert not failures
