"""The scripts. Oracle: bash's own parser; codes applied to words by the definition of byte-pair encoding."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.demo_files import demo_maker

SCRIPTS = (
    "scripts/demo",
    "scripts/docs",
    "scripts/test",
    "scripts/train_small_model",
    "scripts/train_small_unmt",
    "scripts/bundle_small_model",
    "scripts/_setup.sh",
    ".ci/run",
)
TEXTS = {
    "de": "Der alte Mann öffnete die Tür und sah den Hund im Garten, der leise nach einem Stein suchte",
    "en": "The old man opened the door and saw the dog in the garden, which was quietly looking for a stone",
}
"""Words for random sentences."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "new"
    script = REPOSITORY / "scripts" / "make_demo_checkpoint.py"
    subprocess.run([sys.executable, script, directory], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def checkpoint(made: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(made / "demo.pth", weights_only=False)
    return loaded


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_it(name: str) -> None:
    run = subprocess.run(["bash", "-n", REPOSITORY / name], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.endswith(".sh")])
def test_it_can_be_started_and_stops_at_errors(name: str) -> None:
    path = REPOSITORY / name
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")


def test_constraints_pin_every_requirement_once_a_python() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    pattern = re.compile(r'([A-Za-z0-9._-]+)==[0-9][A-Za-z0-9.]*(; python_version (?:<|>=) "3\.11")?')
    matches = [pattern.fullmatch(pin) for pin in pins]
    assert [pin for pin, match in zip(pins, matches, strict=True) if match is None] == []
    keys = [(match[1], match[2]) for match in matches if match is not None]
    assert len(set(keys)) == len(keys)
    for name, marker in keys:
        assert marker is None or (name, None) not in keys, f"{name} is pinned with and without a marker"
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    required = set(re.findall(r'^ *"?([a-z-]+)(?:\[[a-z]+\])?(?:>=[^"]*)"', project, flags=re.MULTILINE))
    required |= set(re.findall(r'transformers = \["([a-z]+)>=', project))
    assert {"torch", "click", "pytest", "transformers"} <= required
    assert required - {name for name, _ in keys} == set()


def test_the_demo_checkpoint_holds_what_the_original_saves(checkpoint: dict[str, Any], reference: Path) -> None:
    original = torch.load(reference / "checkpoints" / "plain.pth", weights_only=False)
    assert set(checkpoint) == set(original)
    assert list(checkpoint["model"]) == list(original["model"])
    for key in checkpoint["params"]:
        assert type(checkpoint["params"][key]) is type(original["params"][key]), key
    assert {type(value) for value in checkpoint["best_metrics"].values()} == {
        type(value) for value in original["best_metrics"].values()
    }


def test_its_words_are_one_dictionary(checkpoint: dict[str, Any]) -> None:
    words = checkpoint["dico_id2word"]
    assert list(words) == list(range(len(words))) == list(range(checkpoint["params"]["n_words"]))
    assert checkpoint["dico_word2id"] == {word: index for index, word in words.items()}
    assert list(checkpoint["dico_counts"]) == list(words.values())
    assert [words[i] for i in (0, 1, 2, 3, 4, 13)] == ["<s>", "</s>", "<pad>", "<unk>", "<special0>", "<special9>"]
    assert checkpoint["model"]["embeddings.weight"].shape[0] == len(words)
    assert torch.equal(checkpoint["model"]["embeddings.weight"], checkpoint["model"]["pred_layer.proj.weight"])


def apply_codes(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding by its definition: merge the pair that comes first in the codes, until there is none."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while True:
        present = [pair for pair in pairwise(symbols) if pair in ranks]
        if not present:
            return [*(symbol + "@@" for symbol in symbols[:-1]), symbols[-1].removesuffix("</w>")]
        best = min(present, key=ranks.__getitem__)
        i = 0
        while i < len(symbols) - 1:
            if (symbols[i], symbols[i + 1]) == best:
                symbols[i : i + 2] = ["".join(best)]
            i += 1


def test_its_codes_split_its_sentences_into_its_words(made: Path, checkpoint: dict[str, Any]) -> None:
    lines = (made / "codes").read_text(encoding="utf-8").splitlines()
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(line.split() for line in lines)}
    assert len(ranks) == len(lines) > 20
    pieces = {
        piece for sentence in demo_maker().SENTENCES for word in sentence.split() for piece in apply_codes(word, ranks)
    }
    assert pieces <= set(checkpoint["dico_word2id"])
    assert any(piece.endswith("@@") for piece in pieces)
    vocabulary = [line.split() for line in (made / "vocab").read_text(encoding="utf-8").splitlines()]
    assert [(word, int(count)) for word, count in vocabulary] == list(checkpoint["dico_counts"].items())[14:]


def test_the_seed_decides_the_weights(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    maker = demo_maker()
    (same, other) = (maker.write_files(tmp_path, seed) for seed in (0, 1))
    assert all(torch.equal(same["model"][name], tensor) for name, tensor in checkpoint["model"].items())
    assert not torch.equal(other["model"]["embeddings.weight"], checkpoint["model"]["embeddings.weight"])


@pytest.mark.slow
def test_the_small_run_of_translation(tmp_path: Path) -> None:
    """From raw text to scores, with two updates a stage; once more, after which nothing has changed."""
    if not (REPOSITORY / ".venv/installed[test]").exists():
        pytest.skip("the script would first make .venv")
    words = {lang: re.findall(r"\w+", TEXTS[lang]) for lang in ("de", "en")}
    for lang, vocabulary in words.items():
        choose = random.Random(lang)
        for name, count in (("eltec", 200), ("tatoeba-train", 400), ("tatoeba-valid", 20)):
            text = "".join(f"{' '.join(choose.choices(vocabulary, k=8))}.\n" for _ in range(count))
            if name == "tatoeba-valid":
                (tmp_path / f"{name}.{lang}.txt").write_text(text, "utf-8")
            else:
                (tmp_path / f"{name}.{lang}.txt.gz").write_bytes(gzip.compress(text.encode()))
    results = tmp_path / "results"
    options = "--set run.max_steps=2 --set run.evaluate_every=1 --set batch.batch_size=4"
    environment = {"XLM_TEXT": str(tmp_path), "XLM_RESULTS": str(results), "XLM_TRAIN_OPTIONS": options}
    contents = []
    for _ in range(2):
        run = subprocess.run(
            [REPOSITORY / "scripts/train_small_unmt", tmp_path / "work"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stderr.count("done after 2 updates") == 3
        assert re.search(r"^\| from random weights \| \d+\.\d \| \d+\.\d \|$", run.stdout, flags=re.MULTILINE)
        contents.append({path.name: path.read_bytes() for path in results.iterdir()})
    assert contents[0].keys() == {"bleu.png", "scores.json", "samples.tsv"}
    assert contents[0] == contents[1]
    scores = json.loads(contents[0]["scores.json"])
    assert scores["updates"] == {"from-clm": 2, "from-random": 2}
    assert scores["test"].keys() == {"copying the source", "from-clm", "from-random"}
