"""Oracle: the source itself, bit for bit, after a way there and back; and the file system after failures."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checkpoints import bench_convert
from tests.checkpoint.original_files import demo_data, spoilt
from tests.conftest import RECORDED
from tests.demo_files import write_demo_files
from xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint import convert as module
from xlm.checkpoint.convert import ConversionReport, convert
from xlm.errors import CheckpointError, ConfigError, InputError, VocabularyError, WriteError
from xlm.tokenizer.bpe import check_merges, read_codes
from xlm.tokenizer.vocabulary import Vocabulary

TRAINED = "clm_ende_multi30k/clm_ende_multi30k"


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_same_checkpoint(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal weights (bits and types), dictionary, parameters and training state; numpy's numbers may be Python's."""
    weights = {name.removeprefix("module."): tensor for name, tensor in expected["model"].items()}
    assert found["model"].keys() == weights.keys()
    for name, tensor in weights.items():
        assert found["model"][name].dtype == tensor.dtype
        assert torch.equal(found["model"][name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    for key in expected.keys() - {"model", "params", "model_optimizer"}:
        assert found[key] == expected[key], key
    for key, value in expected["params"].items():
        if isinstance(value, np.ndarray | torch.Tensor):
            np.testing.assert_array_equal(np.asarray(found["params"][key]), np.asarray(value))
        else:
            assert found["params"][key] == value, key
            assert type(found["params"][key]) is type(value), key


@pytest.mark.parametrize("name", [*RECORDED, TRAINED])
def test_recorded_there_and_back(name: str, reference: Path, tmp_path: Path) -> None:
    pytest.importorskip("numpy._core", reason="plain unpickling, the oracle, needs the numpy that wrote the files")
    source = reference / "checkpoints" / f"{name}.pth"
    convert(source, tmp_path / "there")
    convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    # A plain load, which refuses everything but tensors and plain data.
    found = torch.load(tmp_path / "back.pth")
    assert_same_checkpoint(found, torch.load(source, weights_only=False))
    # The way back again changes nothing any more, not one byte.
    convert(tmp_path / "back.pth", tmp_path / "there again")
    assert (tmp_path / "there again" / "model.safetensors").read_bytes() == (
        tmp_path / "there" / "model.safetensors"
    ).read_bytes()


def test_demo_there_and_back(tmp_path: Path) -> None:
    expected = demo_data(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    report = convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    assert report.files == ("back.pth", "back.codes")
    found = torch.load(tmp_path / "back.pth")
    assert_same_checkpoint(found, expected)
    assert read_codes(tmp_path / "back.codes") == read_codes(tmp_path / "codes")
    shared = found["model"]["embeddings.weight"], found["model"]["pred_layer.proj.weight"]
    assert shared[0].data_ptr() == shared[1].data_ptr()


def test_the_original_can_read_what_we_write(tmp_path: Path) -> None:
    """What its loaders ask for: the dictionary's own checks, and the parameters that its model is built from."""
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    (tmp_path / "there" / "config.json").write_text(
        json.dumps({**json.loads((tmp_path / "there" / "config.json").read_text()), "xlm": {"causal": True}})
    )
    report = convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    assert any("no word counts" in note for note in report.notes)
    data = torch.load(tmp_path / "back.pth")
    assert {"epoch", "n_total_iter", "best_metrics", "best_stopping_criterion"} <= data.keys()
    words, ids, counts = (data[f"dico_{name}"] for name in ("id2word", "word2id", "counts"))
    assert words == {index: word for word, index in ids.items()}
    assert counts.keys() == ids.keys()
    tail = [counts[words[index]] for index in range(14, len(words))]
    assert tail == sorted(tail, reverse=True)
    needed = {
        *("encoder_only", "n_langs", "n_words", "eos_index", "pad_index", "id2lang", "lang2id", "use_lang_emb"),
        *("emb_dim", "n_heads", "n_layers", "dropout", "attention_dropout", "asm", "share_inout_emb"),
        *("sinusoidal_embeddings", "gelu_activation", "bos_index", "unk_index", "mask_index", "langs", "lgs"),
    }
    assert needed <= data["params"].keys()
    assert data["params"]["clm_steps"] == [("de", None), ("en", None)]


def test_from_transformers_and_back(tmp_path: Path) -> None:
    """The other way round: a directory, through the original's format, is the directory again."""
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "first", codes=tmp_path / "codes")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    config |= {"xlm": {"causal": True}, "summary_type": "first", "embed_init_std": 0.25, "lang_id": 0}
    (tmp_path / "first" / "config.json").write_text(json.dumps(config))
    convert(tmp_path / "first", tmp_path / "middle.pth", to="original")
    convert(tmp_path / "middle.pth", tmp_path / "last", codes=tmp_path / "middle.codes")
    last = json.loads((tmp_path / "last" / "config.json").read_text())
    assert {**last, "xlm": None} == {**config, "xlm": None}
    for name in ("model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "last" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


def test_without_codes(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    report = convert(tmp_path / "demo.pth", tmp_path / "there")
    assert any("weights and vocabulary only" in note for note in report.notes)
    assert left_in(tmp_path / "there") == ["config.json", "model.safetensors", "vocab.json"]
    XLMWithLMHeadModel.from_pretrained(tmp_path / "there")
    with pytest.raises(VocabularyError, match=r"merges\.txt"):
        XLMTokenizer.from_pretrained(tmp_path / "there")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("to", ["transformers", "original"])
def test_other_types(dtype: str, to: Any, tmp_path: Path) -> None:
    expected = demo_data(tmp_path, as_original=True)["model"]["embeddings.weight"].to(getattr(torch, dtype))
    report = convert(tmp_path / "demo.pth", tmp_path / "target", to=to, dtype=dtype)
    assert report.dtype == dtype
    model = XLMWithLMHeadModel.from_pretrained(tmp_path / "target", dtype="auto")
    assert torch.equal(model.transformer.embeddings.word.weight, expected)


def test_report(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    report = convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    model = XLMWithLMHeadModel.from_pretrained(tmp_path / "there")
    assert isinstance(report, ConversionReport)
    assert report.parameters == sum(weight.numel() for weight in model.parameters())
    assert report.tensors == len(list(model.parameters()))
    for text in ("demo.pth", "read back and equal", "float32", "de, en", "causal"):
        assert text in str(report)


@pytest.mark.parametrize("existing", ["a file", "a directory", "a dangling link"])
@pytest.mark.parametrize("to", ["transformers", "original"])
def test_target_exists(to: Any, existing: str, tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    target = tmp_path / "target"
    if existing == "a file":
        target.write_text("precious")
    elif existing == "a directory":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    before = left_in(tmp_path)
    with pytest.raises(WriteError, match="exists already") as error:
        convert(tmp_path / "demo.pth", target, to=to)
    assert str(target) in str(error.value)
    assert "another name" in str(error.value)
    assert left_in(tmp_path) == before
    if existing == "a file":
        assert target.read_text() == "precious"


def test_codes_beside_the_target_exist(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    (tmp_path / "back.codes").write_text("precious")
    with pytest.raises(WriteError, match="exists already"):
        convert(tmp_path / "there", tmp_path / "back.pth", to="original")
    assert (tmp_path / "back.codes").read_text() == "precious"
    assert not (tmp_path / "back.pth").exists()


LIMITED = """
import resource, sys
from xlm.checkpoint.convert import convert
from xlm.errors import WriteError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    convert(sys.argv[1], sys.argv[2], to=sys.argv[3], codes=sys.argv[5] or None)
except WriteError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [0, 1000, 50_000, 120_000])
@pytest.mark.parametrize("with_codes", [False, True])
@pytest.mark.parametrize("to", ["transformers", "original"])
def test_disk_full(to: str, limit: int, with_codes: bool, tmp_path: Path) -> None:
    """The operating system itself refuses to write more, at several points of the conversion."""
    demo_data(tmp_path, as_original=True)
    target = tmp_path / "target"
    before = left_in(tmp_path)
    codes = str(tmp_path / "codes") if with_codes else ""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "demo.pth"), str(target), to, str(limit), codes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert str(target) in done.stdout
    assert "File too large" in done.stdout
    assert left_in(tmp_path) == before


def test_no_directory_for_the_target(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    for to in ("transformers", "original"):
        with pytest.raises(WriteError, match="could not be written"):
            convert(tmp_path / "demo.pth", tmp_path / "no" / "such" / "target", to=to)


@pytest.mark.parametrize("to", ["transformers", "original"])
def test_what_was_written_is_compared(to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that gets one value wrong is found out, and nothing stays."""
    write_demo_files(tmp_path, as_original=True)
    before = left_in(tmp_path)
    writer = "write_layout" if to == "transformers" else "write_original"
    honest = getattr(module, writer)

    def wrong(*arguments: Any, **options: Any) -> None:
        honest(*arguments, **options)
        file = arguments[0] / "model.safetensors" if to == "transformers" else arguments[0]
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[middle] ^= 1
        file.write_bytes(content)

    monkeypatch.setattr(module, writer, wrong)
    with pytest.raises(WriteError, match=r"result differs when it is read back|result cannot be read back"):
        convert(tmp_path / "demo.pth", tmp_path / "target", to=to)
    assert left_in(tmp_path) == before


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demo_files(tmp_path, as_original=True)
    before = left_in(tmp_path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_compare", interrupt)
    for to in ("transformers", "original"):
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "demo.pth", tmp_path / "target", to=to)
    assert left_in(tmp_path) == before


def test_wrong_arguments(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    with pytest.raises(ConfigError, match="No such format"):
        convert(tmp_path / "demo.pth", tmp_path / "target", to="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="No such type"):
        convert(tmp_path / "demo.pth", tmp_path / "target", dtype="int8")
    with pytest.raises(VocabularyError):
        convert(tmp_path / "demo.pth", tmp_path / "target", codes=tmp_path / "demo.pth")
    assert not (tmp_path / "target").exists()


def test_vocabulary_of_another_size(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    path = tmp_path / "there" / "vocab.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**words, "more</w>": len(words)}), encoding="utf-8")
    for to, name in (("transformers", "t"), ("original", "t.pth")):
        with pytest.raises(CheckpointError, match="vocabulary and the model differ in size"):
            convert(tmp_path / "there", tmp_path / name, to=to)  # type: ignore[arg-type]


def test_models_that_the_original_cannot_represent(tmp_path: Path) -> None:
    config = XLMConfig(vocab_size=60, emb_dim=16, n_layers=1, n_heads=2, layer_norm_eps=1e-5)
    XLMWithLMHeadModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="no vocabulary"):
        convert(tmp_path / "model", tmp_path / "x.pth", to="original")
    words = {**{word: i for i, word in enumerate(demo_data(tmp_path, as_original=True)["dico_word2id"]) if i < 14}}
    words |= {f"w{i}</w>": i for i in range(14, 60)}
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match="cannot represent") as error:
        convert(tmp_path / "model", tmp_path / "x.pth", to="original")
    assert "layer_norm_eps" in str(error.value)


@pytest.mark.parametrize("name", ["out.codes", ".", "/", "a\0b", "a\ud800"])
def test_targets_without_a_name_of_their_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demo_files(tmp_path, as_original=True)
    monkeypatch.chdir(tmp_path)
    before = left_in(tmp_path)
    with pytest.raises(WriteError):
        convert(tmp_path / "demo.pth", name, to="original")
    assert left_in(tmp_path) == before


@pytest.mark.parametrize("to", ["transformers", "original"])
def test_weights_too_large_for_the_type(to: Any, tmp_path: Path) -> None:
    def large(data: dict[str, Any]) -> None:
        data["model"]["ffns.0.lin1.bias"][3] = 1e5

    path = spoilt(tmp_path, large)
    with pytest.raises(CheckpointError, match="too large") as error:
        convert(path, tmp_path / "half", to=to, dtype="float16")
    assert "transformer.layers.0.ffn.up.bias" in str(error.value)
    assert not (tmp_path / "half").exists()
    convert(path, tmp_path / "bfloat", to=to, dtype="bfloat16")


@pytest.mark.parametrize("argument", ["source", "target", "codes"])
@pytest.mark.parametrize("value", [7, ["a"], b"bytes", XLMConfig(vocab_size=60, emb_dim=16, n_layers=1, n_heads=2)])
def test_something_else_than_a_path(argument: str, value: object, tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    before = left_in(tmp_path)
    arguments: dict[str, Any] = {"source": tmp_path / "demo.pth", "target": tmp_path / "there", argument: value}
    with pytest.raises(InputError, match="(?s)Not a path.*found: " + type(value).__name__):
        convert(**arguments)
    assert left_in(tmp_path) == before


def test_codes_of_another_model(tmp_path: Path) -> None:
    write_demo_files(tmp_path, as_original=True)
    (tmp_path / "other").write_text("".join(f"{a} {b} 1\n" for a in "xyzqj" for b in "xyzqj"), encoding="utf-8")
    with pytest.raises(VocabularyError, match="codes belong to a different model") as error:
        convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "other")
    assert str(tmp_path / "other") in str(error.value)
    assert not (tmp_path / "there").exists()


def test_published_codes_belong_to_their_vocabulary_only(reference: Path) -> None:
    published = reference / "published"
    for words in ("ende", "enfr"):
        vocabulary = Vocabulary.from_words(published / f"vocab_{words}")
        for codes in ("ende", "enfr", "xnli_15"):
            path = published / f"codes_{codes}"
            expectation = contextlib.nullcontext() if words == codes else pytest.raises(VocabularyError)
            with expectation:
                check_merges(vocabulary, read_codes(path), path)


def test_a_model_carries_its_record_along(tmp_path: Path) -> None:
    """from_pretrained and save_pretrained on the same directory lose nothing of what convert kept there."""
    write_demo_files(tmp_path, as_original=True)
    convert(tmp_path / "demo.pth", tmp_path / "there", codes=tmp_path / "codes")
    before = json.loads((tmp_path / "there" / "config.json").read_text())
    assert before["xlm"]["original"]
    XLMWithLMHeadModel.from_pretrained(tmp_path / "there").save_pretrained(tmp_path / "there")
    assert json.loads((tmp_path / "there" / "config.json").read_text()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """The command, stopped while it writes: nothing is left."""
    write_demo_files(tmp_path, as_original=True)
    before = left_in(tmp_path)
    code = (
        "import os, sys, time\nfrom xlm.checkpoint import convert as module\nfrom xlm.cli import main\n"
        f"module._compare = lambda *a: (os.kill(os.getpid(), {int(number)}), time.sleep(30))\n"
        "sys.argv[1:] = ['convert', 'demo.pth', 'target']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert left_in(tmp_path) == before


@pytest.mark.slow
def test_memory_at_the_published_size(tmp_path: Path) -> None:
    """At most 1.3 times the file's size above the interpreter with torch imported; measured in its own process."""
    report = bench_convert(tmp_path, size="published", rounds=1)
    assert report.targets[1].holds, str(report)
