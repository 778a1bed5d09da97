"""Oracle: what was saved; and for hostile files, a mark on the disk that their code would have left."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.original_files import demo_data, save
from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.first_bytes import check_first_bytes
from xlm.checkpoint.original import read_original
from xlm.checkpoint.pickles import load_pickle
from xlm.errors import CheckpointError


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return demo_data(tmp_path)


@pytest.mark.parametrize("module", ["as written", "numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_comes_back(module: str, tmp_path: Path) -> None:
    values = {
        "scalar": np.float64(1.5),
        "integer": np.int64(-3),
        "flag": np.bool_(True),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "nested": [(np.float32(2),), {"x": np.array([1, 2])}],
    }
    path = save(values, tmp_path / "numpy.pth", legacy=module != "as written")
    if module != "as written":
        # Only in the old serialisation: the zip holds a checksum of the pickle, so that its text cannot be replaced.
        written = path.read_bytes()
        for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
            written = written.replace(name, module.encode())
        path.write_bytes(written)
    found = load_pickle(path)
    for key in ("scalar", "integer", "flag"):
        assert type(found[key]) is type(values[key])
        assert found[key] == values[key]
    for key in ("array", "fortran"):
        assert found[key].dtype == values[key].dtype
        np.testing.assert_array_equal(found[key], values[key])
    assert found["nested"][0] == (np.float32(2),)
    np.testing.assert_array_equal(found["nested"][1]["x"], [1, 2])


class Attack:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def attacks(mark: Path) -> dict[str, Attack]:
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Attack(os.system, f"touch '{mark}'"),
        "eval": Attack(builtins.eval, code),
        "exec": Attack(builtins.exec, code),
        "open": Attack(builtins.open, str(mark), "w"),
        "os.mkdir": Attack(os.mkdir, str(mark)),
        "pickle.loads": Attack(pickle.loads, pickle.dumps(Attack(os.mkdir, str(mark)))),
        "numpy.load": Attack(np.load, str(mark)),
        "torch.load": Attack(torch.load, str(mark)),
    }


ATTACKS = sorted(attacks(Path()))
PLACES: dict[str, Callable[[dict[str, Any], Attack], None]] = {
    "params": lambda data, attack: data["params"].__setitem__("dropout", attack),
    "dico_id2word": lambda data, attack: data["dico_id2word"].__setitem__(20, attack),
    "dico_word2id": lambda data, attack: data["dico_word2id"].__setitem__("the", attack),
    "dico_counts": lambda data, attack: data["dico_counts"].__setitem__("the", attack),
    "state dict": lambda data, attack: data["model"].__setitem__("embeddings.weight", attack),
    "beside all": lambda data, attack: data.__setitem__("anything", attack),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(attack: str, place: str, legacy: bool, data: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    PLACES[place](data, attacks(mark)[attack])
    path = save(data, tmp_path / "hostile.pth", legacy=legacy)
    readers: list[Callable[[], object]] = [
        lambda: convert(path, tmp_path / "target"),
        lambda: XLMWithLMHeadModel.from_pretrained(path),
        lambda: XLMTokenizer.from_pretrained(path, codes=tmp_path / "codes"),
    ]
    for read in readers:
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            read()
        assert str(path) in str(error.value)
        assert "refused" in str(error.value)
    assert not mark.exists()
    assert not (tmp_path / "target").exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """With plain unpickling the mark is there: the tests above would notice."""
    for name in ("os.system", "eval", "exec", "open", "os.mkdir", "pickle.loads"):
        mark = tmp_path / name
        result = torch.load(save(attacks(mark)[name], tmp_path / "x.pth"), weights_only=False)
        if name == "open":
            result.close()
        assert mark.exists(), name


def test_what_the_process_allows_is_not_allowed_here(data: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data["params"]["dropout"] = Attack(os.mkdir, str(mark))
    path = save(data, tmp_path / "hostile.pth")
    torch.serialization.add_safe_globals([(os.mkdir, "posix.mkdir"), (np.dtype, "numpy.dtype")])
    before = set(torch.serialization.get_safe_globals())
    try:
        with pytest.raises(CheckpointError):
            read_original(path)
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()
    assert not mark.exists()


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([object()], dtype=object), np.zeros(2, dtype=[("a", "f8")])]
)
def test_numpy_objects_that_are_no_numbers_are_refused(array: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pickle(save({"array": array}, tmp_path / "x.pth"))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_short(legacy: bool, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = save(demo_data(folder), folder / "whole.pth", legacy=legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError) as error:
        read_original(path)
    assert str(path) in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), legacy=st.booleans())
def test_a_damaged_byte_is_an_error_or_harmless(
    share: float, byte: int, legacy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = save(demo_data(folder), folder / "whole.pth", legacy=legacy)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] = byte
    path.write_bytes(content)
    with contextlib.suppress(XLMError):
        read_original(path)


@pytest.mark.parametrize("content", [b"", b"P", b"PK\x03\x04", b"\x80\x02", b"not a checkpoint\n" * 100, bytes(4096)])
def test_no_checkpoint_at_all(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_pickle(path)
    assert str(path) in str(error.value)


def test_a_compressed_entry_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 20))
    with pytest.raises(CheckpointError, match="compressed"):
        load_pickle(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            load_pickle(path)


def test_the_check_of_the_first_bytes_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    for name, words in (("missing.pth", "cannot be opened"), ("empty.pth", "is empty")):
        messages = set()
        for read in (check_first_bytes, load_pickle):
            with pytest.raises(CheckpointError, match=words) as error:
                read(tmp_path / name)
            messages.add(str(error.value))
        assert len(messages) == 1


def test_a_flipped_bit_in_a_weight_is_found(tmp_path: Path) -> None:
    """Torch itself checks no checksum when it maps a file."""
    path = save(demo_data(tmp_path), tmp_path / "whole.pth")
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 200 + entry.file_size // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=False, mmap=True)
    with pytest.raises(CheckpointError, match="checksum") as error:
        read_original(path)
    assert entry.filename in str(error.value)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    data = demo_data(tmp_path)
    torch.serialization.set_crc32_options(False)
    try:
        save(data, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_original(tmp_path / "x.pth").words


def test_what_is_shared_is_read_once(tmp_path: Path) -> None:
    value: list[Any] = [np.float64(1)]
    for _ in range(60):
        value = [value, value]
    found = load_pickle(save({"x": value}, tmp_path / "x.pth"))
    assert found["x"][0] is found["x"][1]
