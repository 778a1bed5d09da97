"""Oracle: what was saved; and for hostile files, a mark on the disk that their code would have left."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.mutants import Draft, Entry, zip_file
from tests.checkpoint.original_files import demo_data, save
from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint import zip_reader
from xlm.checkpoint.convert import convert
from xlm.checkpoint.original import read_original
from xlm.checkpoint.pickles import check_first_bytes, load_pickle
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


def everything() -> dict[str, Any]:
    """All that a checkpoint may hold: types, strides, shared storages, numpy's objects, what each protocol writes."""
    whole = torch.arange(24.0).reshape(4, 6)
    shared = ["one", 2]
    types = (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    return {
        "tensors": {str(dtype): torch.arange(3).to(dtype) for dtype in types},
        "flags": torch.tensor([True, False]),
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:, ::2],
        "row": whole[2],
        "number": torch.tensor(7.5),
        "nothing": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2).half()),
        "model": torch.nn.LayerNorm(2).state_dict(),
        "numpy": [
            np.float64(1.5),
            np.bool_(True),
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.eye(3)),
            np.empty(0),
        ],
        "large": np.arange(2000, dtype=np.int16),
        "integers": [0, 255, 256, 65536, -1, 1 << 31, 1 << 40, -(1 << 70)],
        "others": [
            None,
            True,
            False,
            1.5,
            float("inf"),
            "",
            "wörd\U0001f600",
            b"",
            b"bytes\xff",
            b"x" * 300,
            "y" * 300,
        ],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, OrderedDict(a=1)],
        "keys": {1: "a", None: 2, ("de", "en"): 3, 140_000_000_000_000: 4, 1.5: 5} | {"x": shared},
        "shared": [shared, shared],
        "many": {number: f"word {number}" for number in range(3000)},
    }


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        kept = type(found) is torch.Tensor and found.dtype == expected.dtype and found.stride() == expected.stride()
        return kept and torch.equal(found, expected.detach())
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, np.ndarray):
        return bool(found.dtype == expected.dtype and np.array_equal(found, expected) and found.flags.writeable)
    return bool(found == expected)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_comes_back(protocol: int, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(everything(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pickle(path)
    assert same(found, everything())
    assert found["shared"][0] is found["shared"][1] is found["keys"]["x"]
    whole = found["whole"]
    for part in ("turned", "part", "row"):
        assert found[part].untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    before = path.read_bytes()
    whole[2, 2] = -1  # private memory, also where the file is mapped
    assert found["row"][2] == found["turned"][2, 2] == found["part"][1, 1] == -1
    assert path.read_bytes() == before


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_a_checkpoint_of_another_protocol(
    protocol: int, legacy: bool, data: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "x.pth"
    torch.save(data, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    if protocol == 0:
        # torch does not read it either: its references to storages are written as text.
        with pytest.raises(CheckpointError, match="protocol 0"):
            read_original(path)
    else:
        assert read_original(path).words == tuple(data["dico_id2word"].values())
        assert XLMTokenizer.from_pretrained(path, codes=tmp_path / "codes").vocab_size == len(data["dico_id2word"])
        convert(path, tmp_path / "converted")
    assert not recwarn.list


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
    for path, words in ((tmp_path / "missing.pth", "file cannot be read"), (tmp_path, "Not a regular file")):
        with pytest.raises(CheckpointError, match=words):
            load_pickle(path)


def test_the_check_of_the_first_bytes_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    for name, words in (("missing.pth", "file cannot be read"), ("empty.pth", "is empty")):
        messages = set()
        for read in (check_first_bytes, load_pickle):
            with pytest.raises(CheckpointError, match=words) as error:
                read(tmp_path / name)
            messages.add(str(error.value))
        assert len(messages) == 1


def uninitialised(draft: Draft) -> bytes:
    """Torch allocates a storage that the list leaves out, and puts nothing into it."""
    weights = draft.weights["embeddings.weight"].storage
    return draft.legacy(order=[storage for storage in draft.records() if storage is not weights])


def short(draft: Draft) -> bytes:
    """Torch maps a record by the count in the pickle, and goes on into the next entry."""
    storage = draft.weights["embeddings.weight"].storage
    storage.raw = storage.raw[:64]
    return draft.zip()


def long(draft: Draft) -> bytes:
    draft.weights["embeddings.weight"].storage.raw += bytes(4)
    return draft.zip()


def twice(draft: Draft) -> bytes:
    """Two names for one place, so that a small file can claim many storages."""
    entries = draft.entries()
    return zip_file([*entries, Entry("archive/data/other", entries[-1].data, header_of=len(entries) - 1)])


def inside(draft: Draft) -> bytes:
    """An entry whose header and bytes lie inside those of another one."""
    first, *others = draft.entries()
    body = zip_file([Entry("archive/data/other", bytes(8))])
    body = body[: body.index(b"PK\1\2")]
    at = 30 + len(first.name) + len(first.data)
    first.data += body
    return zip_file([first, *others, Entry("archive/data/other", bytes(8), header_at=at)])


def resized(draft: Draft) -> bytes:
    storage = draft.weights["layer_norm_emb.bias"].storage
    storage.numel, storage.raw = 1, bytes(4)
    return draft.legacy()


def beyond(draft: Draft) -> bytes:
    draft.weights["embeddings.weight"].offset = 1
    return draft.zip()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (uninitialised, "list of storages"),
        (resized, "beyond its storage of 1 numbers"),
        (short, "an entry of 64 bytes"),
        (long, "an entry of"),
        (twice, "different headers in the directory and before|overlaps"),
        (inside, "overlaps"),
        (beyond, "beyond its storage of"),
    ],
)
def test_no_memory_but_the_files_own_becomes_a_weight(
    change: Callable[[Draft], bytes], words: str, data: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    draft = Draft(data)
    path.write_bytes(change(draft))
    with pytest.raises(CheckpointError, match=words):
        read_original(path)


@pytest.mark.parametrize("name", ["archive/DATA.PKL", "archive/Data/0", "archive/data/0"])
def test_names_that_are_the_same_to_some_programs(name: str, data: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file([*Draft(data).entries(), Entry(name, b"other")]))
    with pytest.raises(CheckpointError, match="differ only in case"):
        read_original(path)


def test_storages_above_4_gb_are_found_by_their_extra_field() -> None:
    """A directory entry as it stands in a file of 5 GB, in front of a file that is not there."""
    sizes = [5 << 30, 5 << 30, 6 << 30]
    extra = b"FB\x02\x00xx" + b"\x01\x00\x18\x00" + b"".join(size.to_bytes(8, "little") for size in sizes)
    assert zip_reader._large_numbers([0xFFFFFFFF] * 3, extra) == sizes
    assert zip_reader._large_numbers([7, 0xFFFFFFFF, 0xFFFFFFFF], extra) == [7, *sizes[:2]]
    with pytest.raises(ValueError, match="size"):
        zip_reader._large_numbers([0xFFFFFFFF] * 3, extra[:6])


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
