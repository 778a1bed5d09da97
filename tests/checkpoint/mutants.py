"""Changed checkpoints for the fuzzer: harmless changes, damage, and attacks, each a function of a base and a seed.

The files are written here byte by byte, without torch and without this library, so that any of them can be wrong.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import random
import shutil
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.demo_files import demo_maker
from xlm import convert

OPENS, REFUSED = "opens", "refused"
EQUAL = "equal"
"""Opens with the same weights, or is refused."""
ANY = "any"
"""Opens, perhaps with other weights, since nothing in the file says which are right, or is refused."""

PIPE, ENDLESS = object(), object()
"""In place of a file's bytes: a pipe, and a link to a device that never ends."""

Files = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """The files of a checkpoint: one with the empty name, or those of a directory."""

    files: Files

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(content) for content in self.files.values() if isinstance(content, bytes))

    def write(self, path: Path) -> Path:
        """Write the files, and return what to open."""
        if "" not in self.files:
            path.mkdir()
        for name, content in self.files.items():
            target = path / name if name else path
            if content is PIPE:
                os.mkfifo(target)
            elif content is ENDLESS:
                target.symlink_to("/dev/zero")
            else:
                target.write_bytes(content)
        return path

    def remove(self, path: Path) -> None:
        """Remove what ``write`` wrote."""
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class Base:
    """One small model as its original checkpoint and as the files of a directory."""

    data: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def make(cls, folder: Path) -> Base:
        """Write ``base.pth`` into a folder, and return what is in it."""
        demo = demo_maker()
        for name, value in {"EMB_DIM": 8, "N_LAYERS": 1, "N_HEADS": 2, "SENTENCES": demo.SENTENCES[:2]}.items():
            setattr(demo, name, value)
        data: dict[str, Any] = demo.write_files(folder)
        torch.save(data, folder / "base.pth")
        convert(folder / "base.pth", folder / "base")
        config = json.loads((folder / "base/config.json").read_text("utf-8"))
        tensors = read_safetensors((folder / "base/model.safetensors").read_bytes())
        return cls(data, config, tensors)


@dataclass(frozen=True)
class Generator:
    """A function that makes mutants, with what must come of them."""

    name: str
    make: Callable[[Base, random.Random], Mutant]
    expected: str
    weight: float


GENERATORS: list[Generator] = []


def generator(expected: str, weight: float = 1.0) -> Callable[[Callable[[Base, random.Random], Files]], None]:
    """Register a function by its name."""

    def register(function: Callable[[Base, random.Random], Files]) -> None:
        name = function.__name__.replace("_", " ")
        make = lambda base, rng: Mutant(function(base, rng))  # noqa: E731
        GENERATORS.append(Generator(name, make, expected, weight))

    return register


# --- Pickles ---


@dataclass(frozen=True)
class Raw:
    """Opcodes that stand in a pickle as they are; together they push one value."""

    code: bytes


@dataclass
class Storage:
    """A storage as a pickle refers to it, and its bytes."""

    kind: type
    key: str
    numel: Any
    raw: bytes
    view: tuple[Any, ...] = ()


@dataclass
class View:
    """A tensor as a pickle describes it."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    more: tuple[Any, ...] = ()
    parameter: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.storage, self.offset, self.shape, self.stride, False, OrderedDict(), *self.more)
        if self.parameter:
            plain = View(self.storage, self.offset, self.shape, self.stride, self.more)
            return torch._utils._rebuild_parameter, (plain, True, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle._Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        return ("storage", value.kind, value.key, "cpu", value.numel, *value.view)

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Raw):
            self.write(value.code)  # type: ignore[attr-defined]
        else:
            super().save(value, save_persistent_id)  # type: ignore[misc]


def dumps(value: Any, protocol: int = 2) -> bytes:
    """Return a pickle with the opcodes of ``Raw`` values in it."""
    file = io.BytesIO()
    _Pickler(file, protocol).dump(value)
    return file.getvalue()


_KINDS = {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage, torch.float64: torch.DoubleStorage}


class Draft:
    """A checkpoint that can still be changed: its data with views in place of tensors, and its storages."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.storages: dict[int, Storage] = {}
        self.data = self._lower(data)

    def _lower(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            fresh = Storage(_KINDS[value.dtype], str(len(self.storages)), value.numel(), value.numpy().tobytes())
            storage = self.storages.setdefault(value.data_ptr(), fresh)
            return View(storage, 0, tuple(value.shape), value.stride())
        if isinstance(value, dict):
            return type(value)((key, self._lower(item)) for key, item in value.items())
        return value

    @property
    def weights(self) -> dict[str, View]:
        """The state dict."""
        return dict(self.data.get("model", self.data))

    def any_weight(self, rng: random.Random) -> View:
        """One of the tensors of the model that have two dimensions."""
        return rng.choice([view for view in self.weights.values() if len(view.shape) == 2])

    def put(self, value: Any, rng: random.Random) -> None:
        """Put something into one of the places that are read."""
        places = [(self.data["params"], "dropout"), (self.data["params"], "other"), (self.data, "best_metrics")]
        place, key = rng.choice([*places, (self.data["params"]["lang2id"], "en")])
        place[key] = value

    def records(self) -> list[Storage]:
        """The storages in the order of their first use."""
        return list(self.storages.values())

    def entries(self, protocol: int = 2, folder: str = "archive") -> list[Entry]:
        """The entries of torch's zip format."""
        return [
            Entry(f"{folder}/data.pkl", dumps(self.data, protocol)),
            Entry(f"{folder}/byteorder", b"little"),
            *(Entry(f"{folder}/data/{storage.key}", storage.raw) for storage in self.records()),
            Entry(f"{folder}/version", b"3\n"),
        ]

    def zip(self, protocol: int = 2) -> bytes:
        """The file in torch's zip format."""
        return zip_file(self.entries(protocol))

    def legacy(self, protocol: int = 2, **parts: Any) -> bytes:
        """The file in the old serialisation, with other ``keys``, ``order``, … than its own."""
        order = parts.get("order", self.records())
        keys = parts.get("keys", [storage.key for storage in order])
        numels = parts.get("numels", {})
        for storage in order:
            storage.view = storage.view or (None,)
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        pickles = [0x1950A86A20F9469CFC6C, 1001, parts.get("system", system), self.data, keys]
        return b"".join(dumps(value, protocol) for value in pickles) + b"".join(
            struct.pack("<q", numels.get(storage.key, storage.numel)) + storage.raw for storage in order
        )

    def file(self, rng: random.Random) -> Files:
        """The file in one of the two serialisations."""
        return {"": rng.choice([self.zip, self.legacy])(2)}


# --- Zip files ---


@dataclass
class Entry:
    """An entry of a zip file, with whatever in it is not as it should be."""

    name: str
    data: bytes
    extra: bytes = b""
    flags: int = 0x808
    method: int = 0
    checksum: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    header_of: int | None = None
    header_at: int | None = None


def zip_file(entries: list[Entry], *, zip64: bool = True, gaps: Iterator[int] | None = None) -> bytes:
    """Return a zip file; ``gaps`` are the zeros between its entries."""
    body, directory = b"", b""
    offsets: list[int] = []
    for entry in entries:
        raw = zlib.compress(entry.data)[2:-4] if entry.method else entry.data
        checksum = zlib.crc32(entry.data) if entry.checksum is None else entry.checksum
        if entry.header_of is not None:
            offset = offsets[entry.header_of]
        elif entry.header_at is not None:
            offset = entry.header_at
        else:
            if body:
                body += bytes(next(gaps) if gaps else 0)
            offset = len(body)
            name = (entry.local_name or entry.name).encode()
            size = len(raw) if entry.local_size is None else entry.local_size
            sizes = (0, 0, 0) if entry.flags & 8 and entry.local_size is None else (checksum, size, size)
            head = (b"PK\3\4", 20, entry.flags, entry.method, 0, 0, *sizes, len(name), len(entry.extra))
            body += struct.pack("<4s5H3I2H", *head) + name + entry.extra + raw
        offsets.append(offset)
        name = entry.name.encode()
        fields = (20, 20, entry.flags, entry.method, 0, 0, checksum, len(raw), len(entry.data), len(name))
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields, 0, 0, 0, 0, 0, offset) + name
    many, end = len(entries), len(body) + len(directory)
    more = b""
    if zip64:
        more = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, many, many, len(directory), len(body))
        more += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    least = min(many, 0xFFFF)
    return (
        body + directory + more + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, least, least, len(directory), len(body), 0)
    )


# --- Directories ---


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """Return the float32 tensors of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = torch.frombuffer(bytearray(content[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return tensors


def header_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the header of a safetensors file."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    return header


def safetensors_file(tensors: Mapping[str, Tensor], header: str | None = None, *, padding: int = 0) -> bytes:
    """Return a safetensors file, with another header than its own when one is given."""
    text = (json.dumps(header_of(tensors)) if header is None else header).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.numpy().tobytes() for tensor in tensors.values())


def shuffled(items: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a dictionary in another order."""
    return dict(rng.sample(list(items.items()), len(items)))


def directory(base: Base, config: Mapping[str, Any] | None = None, weights: bytes | None = None) -> Files:
    """Return the files of a directory."""
    return {
        "config.json": json.dumps(base.config if config is None else config).encode(),
        "model.safetensors": safetensors_file(base.tensors) if weights is None else weights,
    }


def with_header(base: Base, change: Callable[[dict[str, Any]], object]) -> Files:
    """Return a directory after a change of its safetensors header."""
    header = header_of(base.tensors)
    change(header)
    return directory(base, weights=safetensors_file(base.tensors, json.dumps(header)))


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return content with a few bytes changed, or a stretch cut, doubled, zeroed or moved."""
    raw = bytearray(content)
    begin = rng.randrange(len(raw))
    end = min(begin + rng.choice([1, 2, 4, 8, 64, 1000]), len(raw))
    match rng.randrange(7):
        case 0:
            for _ in range(rng.randint(1, 8)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
        case 1:
            raw[begin] ^= 1 << rng.randrange(8)
        case 2:
            del raw[begin:end]
        case 3:
            raw[begin:begin] = raw[begin:end]
        case 4:
            raw[begin:end] = bytes(end - begin)
        case 5:
            to = rng.randrange(len(raw))
            raw[to : to + end - begin] = raw[begin:end]
        case 6:
            del raw[begin:]
    return bytes(raw)


# --- Harmless changes ---


def reworked(code: bytes, rng: random.Random) -> bytes:
    """Return a pickle of protocol 2 or 3 with the places of its memo renumbered and in longer or shorter opcodes."""
    if rng.random() < 0.3:
        return pickletools.optimize(code)
    starts: list[tuple[Any, Any, int]] = [found for found in pickletools.genops(code) if found[2] is not None]  # type: ignore[misc]
    used = sorted({argument for op, argument, _ in starts if "PUT" in op.name})
    places = dict(zip(used, rng.sample(range(len(used) + 50), len(used)), strict=True))
    parts = []
    for (op, argument, at), end in zip(starts, [*(at for _, _, at in starts[1:]), len(code)], strict=True):
        if "PUT" in op.name or "GET" in op.name:
            place, get = places[argument], "GET" in op.name
            if place < 256 and rng.random() < 0.5:
                parts.append((b"h" if get else b"q") + bytes([place]))
            else:
                parts.append((b"j" if get else b"r") + struct.pack("<I", place))
        else:
            parts.append(code[at:end])
    return b"".join(parts)


def rearranged(entries: list[Entry], rng: random.Random) -> bytes:
    """Return a zip file with its entries in another order, padded otherwise, with more or fewer of them."""
    entries = [entry for entry in entries if not entry.name.endswith("/version") or rng.random() < 0.5]
    entries += [Entry(f"archive/{name}", rng.randbytes(9)) for name in ("extra", ".data/serialization_id", "data/none")]
    for entry in entries:
        size = rng.randrange(70)
        entry.extra = b"FB" + struct.pack("<H", size) + bytes(size) if rng.random() < 0.7 else b""
        entry.flags = rng.choice([0, 8, 0x800, 0x808])
    first, *others = entries
    shuffled_entries = rng.sample(others, len(others))
    order = [first, *shuffled_entries] if rng.random() < 0.5 else [*shuffled_entries, first]
    return zip_file(order, zip64=rng.random() < 0.5, gaps=(rng.choice([0, 1, 63]) for _ in count()))


def saved(base: Base, protocol: int, *, legacy: bool) -> bytes:
    """Return the checkpoint as torch itself writes it."""
    file = io.BytesIO()
    torch.save(base.data, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def varied(base: Base, rng: random.Random) -> Draft:
    """Return the checkpoint with its weights kept in another way: in one storage, turned, as parameters, prefixed."""
    draft = Draft(base.data)
    views = [view for view in draft.weights.values() if view.storage.kind is torch.FloatStorage]
    match rng.randrange(4):
        case 0:
            raw = b""
            whole = Storage(torch.FloatStorage, "whole", 0, b"")
            for storage in {id(view.storage): view.storage for view in views}.values():
                raw += bytes(4 * rng.randrange(3))
                for view in views:
                    if view.storage is storage:
                        view.storage, view.offset = whole, len(raw) // 4
                raw += storage.raw
            whole.raw, whole.numel = raw, len(raw) // 4
            draft.storages = {0: whole, **{i: s for i, s in draft.storages.items() if s.kind is not torch.FloatStorage}}
            keep = {id(view.storage) for view in [*views, draft.data["params"]["pred_probs"]]}
            draft.storages[1] = draft.data["params"]["pred_probs"].storage
            draft.storages = {i: s for i, s in draft.storages.items() if id(s) in keep}
        case 1:
            view = draft.weights["ffns.0.lin1.weight"]
            turned = base.data["model"]["ffns.0.lin1.weight"].T.contiguous()
            view.storage.raw, view.stride = turned.numpy().tobytes(), turned.T.stride()
        case 2:
            for view in views:
                view.parameter = True
        case 3:
            draft.data["model"] = OrderedDict((f"module.{name}", view) for name, view in draft.data["model"].items())
            draft.data["model_optimizer"] = {"state": {140_000_000_000_000 + i: {"step": i} for i in range(50)}}
    return draft


@generator(OPENS, 4)
def zip_as_torch_saves_it(base: Base, rng: random.Random) -> Files:
    return {"": saved(base, rng.randint(1, 5), legacy=False)}


@generator(OPENS, 4)
def legacy_as_torch_saves_it(base: Base, rng: random.Random) -> Files:
    return {"": saved(base, rng.randint(1, 5), legacy=True)}


@generator(OPENS, 4)
def zip_rearranged(base: Base, rng: random.Random) -> Files:
    entries = varied(base, rng).entries(rng.choice([2, 4]))
    first, *others = entries
    return {"": rearranged([first, *others], rng)}


@generator(OPENS, 3)
def zip_with_its_pickle_reworked(base: Base, rng: random.Random) -> Files:
    entries = varied(base, rng).entries(rng.choice([2, 3]))
    entries[0].data = reworked(entries[0].data, rng)
    return {"": zip_file(entries)}


@generator(OPENS)
def zip_without_checksums(base: Base, rng: random.Random) -> Files:
    entries = Draft(base.data).entries()
    for entry in entries:
        entry.checksum = 0
    return {"": zip_file(entries)}


@generator(OPENS, 3)
def legacy_in_another_order(base: Base, rng: random.Random) -> Files:
    draft = varied(base, rng)
    return {"": draft.legacy(rng.randint(1, 5), order=rng.sample(draft.records(), len(draft.records())))}


@generator(OPENS, 4)
def safetensors_rearranged(base: Base, rng: random.Random) -> Files:
    tensors = shuffled(base.tensors, rng)
    header = shuffled({**header_of(tensors), "__metadata__": {"format": "pt", "by": "é" * rng.randrange(9)}}, rng)
    text = json.dumps(header, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    return directory(base, weights=safetensors_file(tensors, text, padding=rng.randrange(20)))


def pickled_weights(base: Base, tensors: Mapping[str, Tensor], rng: random.Random) -> bytes:
    """Return the tensors as a pickled file of one of the two serialisations."""
    draft = Draft(OrderedDict(tensors))
    return rearranged(draft.entries(), rng) if rng.random() < 0.5 else draft.legacy(rng.randint(1, 5))


@generator(OPENS, 2)
def pickled_directory(base: Base, rng: random.Random) -> Files:
    files = directory(base)
    del files["model.safetensors"]
    return {**files, "pytorch_model.bin": pickled_weights(base, shuffled(base.tensors, rng), rng)}


def shards(base: Base, rng: random.Random) -> Files:
    """Return a directory with its weights in several files."""
    stem, suffix = rng.choice([("model", ".safetensors"), ("pytorch_model", ".bin")])
    names = [f"{stem}-{number + 1:05}{suffix}" for number in range(rng.randint(1, 4))]
    tensors = shuffled(base.tensors, rng)
    homes = {name: rng.choice(names) for name in tensors}
    files = {"config.json": directory(base)["config.json"]}
    for shard in set(homes.values()):
        part = {name: tensor for name, tensor in tensors.items() if homes[name] == shard}
        files[shard] = safetensors_file(part) if suffix == ".safetensors" else pickled_weights(base, part, rng)
    index = {"metadata": {"total_size": rng.randrange(9)}, "weight_map": homes}
    return {**files, f"{stem}{suffix}.index.json": json.dumps(index).encode()}


@generator(OPENS, 3)
def directory_of_shards(base: Base, rng: random.Random) -> Files:
    return shards(base, rng)


@generator(OPENS, 2)
def configuration_in_another_form(base: Base, rng: random.Random) -> Files:
    config = shuffled({**base.config, "unknown": [1, {"é": None}], "_name_or_path": "x"}, rng)
    files = directory(base)
    files["config.json"] = json.dumps(config, indent=rng.choice([None, 3]), ensure_ascii=rng.random() < 0.5).encode()
    return {**files, "README.md": b"# A model", "notes.bin": b"\0"}


# --- Damage ---


@generator(EQUAL, 10)
def zip_damaged(base: Base, rng: random.Random) -> Files:
    return {"": damaged(rng.choice([Draft(base.data).zip(), saved(base, rng.randint(2, 5), legacy=False)]), rng)}


@generator(ANY, 6)
def legacy_damaged(base: Base, rng: random.Random) -> Files:
    return {"": damaged(saved(base, rng.randint(1, 5), legacy=True), rng)}


@generator(ANY, 8)
def pickle_damaged_under_a_right_checksum(base: Base, rng: random.Random) -> Files:
    entries = Draft(base.data).entries(rng.randint(1, 5))
    entries[0].data = damaged(entries[0].data, rng)
    return {"": zip_file(entries)}


@generator(ANY, 8)
def opcodes_moved(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    entries = draft.entries(rng.choice([2, 4]))
    code = entries[0].data
    starts = [at for _, _, at in pickletools.genops(code) if at is not None]
    parts = [code[at:end] for at, end in zip(starts, [*starts[1:], len(code)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts[at], parts[other] = parts[other], parts[at]
            case 1:
                parts.insert(at, parts[other])
            case 2:
                del parts[at]
            case 3:
                parts.insert(at, bytes([rng.choice(b"012(.NR}]bQoi\x81\x93\x94\x85sutae")]))
    entries[0].data = b"".join(parts)
    return {"": zip_file(entries)}


@generator(ANY, 4)
def safetensors_damaged(base: Base, rng: random.Random) -> Files:
    return directory(base, weights=damaged(safetensors_file(base.tensors), rng))


@generator(ANY, 4)
def safetensors_header_damaged(base: Base, rng: random.Random) -> Files:
    text = json.dumps(header_of(base.tensors)).encode()
    return directory(base, weights=safetensors_file(base.tensors, damaged(text, rng).decode("utf-8", "replace")))


@generator(EQUAL, 3)
def configuration_damaged(base: Base, rng: random.Random) -> Files:
    files = directory(base)
    return {**files, "config.json": damaged(files["config.json"], rng)}


@generator(EQUAL, 3)
def configuration_with_other_values(base: Base, rng: random.Random) -> Files:
    values = [None, True, False, 0, 1, -1, 3, 1 << 31, 1 << 70, 1.5, 1e300, "x", "", [], [1] * 3000, {}, {"a": 1}]
    names = rng.sample(sorted(base.config), rng.randint(1, 3))
    return directory(base, config={**base.config, **{name: rng.choice(values) for name in names}})


@generator(ANY, 3)
def shards_damaged(base: Base, rng: random.Random) -> Files:
    files = shards(base, rng)
    name = rng.choice(sorted(files))
    return {**files, name: damaged(files[name], rng)}


# --- Attacks: pickles that ask for more than plain data, or for much of it ---

_LONG_TEXT = 1 << 20
_PLACE = struct.pack("<I", 5000)
_MERSENNE = (1 << 61) - 1  # Python's hashes of numbers are remainders by it


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """Return the opcode that pushes a whole number."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


CALLS = {
    "bytearray": b"c__builtin__\nbytearray\n" + integer(8 << 30) + b"\x85R",
    "bytearray of Python 3": b"cbuiltins\nbytearray\n" + integer(8 << 30) + b"\x85R",
    "bytearray by the stack": text("builtins") + text("bytearray") + b"\x93" + integer(8 << 30) + b"\x85R",
    "eval": b"cbuiltins\neval\n" + text("1/0") + b"\x85R",
    "os.system": b"cposix\nsystem\n" + text("true") + b"\x85R",
    "getattr": b"cbuiltins\ngetattr\n" + text("x") + text("upper") + b"\x86R",
    "a dotted name": b"ccollections\nOrderedDict.fromkeys\n(" + text("ab") + b"tR",
    "torch's own names": b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
    "arguments": b"ccollections\nOrderedDict\n](" + text("a") + b"N\x86e\x85R",
    "INST": b"(" + text("true") + b"iposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\n" + text("true") + b"o",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\xff\xff\xff\x7f",
    "PERSID": b"P1\n",
    "state of a list": b"]}b",
    "state of a dictionary": b"}}" + text("a") + b"Nsb",
    "a call of a text": text("a") + b")R",
    "a call of a type": b"ctorch\nFloatStorage\n)R",
    "object array": b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R",
    "buffer": b"\x97",
}
CLAIMS = {
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 1 << 40),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 40),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 1 << 40),
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINBYTES": b"B\xff\xff\xff\xff",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG_BINPUT": b"Nr\xff\xff\xff\xff",
    "array": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)N\x87R(K\x01"
    + integer(1 << 40)
    + b"\x85cnumpy\ndtype\n"
    + text("f8")
    + b"\x89\x88\x87R\x89C\x01atb",
}


@generator(REFUSED, 4)
def pickle_that_calls(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    draft.put(Raw(CALLS[rng.choice(sorted(CALLS))]), rng)
    return draft.file(rng)


@generator(REFUSED, 3)
def pickle_that_claims_lengths(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    draft.put(Raw(CLAIMS[rng.choice(sorted(CLAIMS))]), rng)
    return draft.file(rng)


@generator(REFUSED)
def bytearray_alone(base: Base, rng: random.Random) -> Files:
    return {"": zip_file([Entry("archive/data.pkl", b"\x80\x02" + CALLS["bytearray"] + b".")])}


@generator(REFUSED)
def any_codec(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    codecs = ["unicode_escape", "rot13", "zlib", "bz2", "idna", "punycode", "hex", "utf-8", "utf-16", "utf-7", "mbcs"]
    draft.put(Raw(b"c_codecs\nencode\n" + text("a" * 1000) + text(rng.choice(codecs)) + b"\x86R"), rng)
    return draft.file(rng)


@generator(REFUSED, 0.1)
def one_text_encoded_again_and_again(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    once = b"c_codecs\nencode\nj" + _PLACE + text("latin1") + b"\x86R"
    draft.put(Raw(b"(" + text("a" * _LONG_TEXT) + b"r" + _PLACE + once * 3000 + b"t"), rng)
    return draft.file(rng)


@generator(REFUSED, 0.1)
def one_text_again_and_again(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    draft.put(Raw(b"(" + text("a" * _LONG_TEXT) + b"r" + _PLACE + (b"j" + _PLACE) * 20_000 + b"t"), rng)
    return draft.file(rng)


@generator(REFUSED, 0.1)
def one_array_again_and_again(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"\x89\x88\x87R"
    state = b"(K\x01" + integer(_LONG_TEXT) + b"\x85" + dtype + b"\x89B" + struct.pack("<I", _LONG_TEXT)
    again = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)N\x87Rj" + _PLACE + b"b"
    draft.put(Raw(b"(" + state + bytes(_LONG_TEXT) + b"tr" + _PLACE + again * 3000 + b"t"), rng)
    return draft.file(rng)


@generator(REFUSED, 0.2)
def a_long_text_as_a_key_again_and_again(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    long = text("a" * _LONG_TEXT)
    key = rng.choice([b"j" + _PLACE, b"j" + _PLACE + b"K\x01\x86"])
    code = b"}(" + long + b"N" + long + b"r" + _PLACE + b"N" + (key + b"N") * 30_000 + b"u"
    draft.put(Raw(code), rng)
    return draft.file(rng)


@generator(REFUSED, 0.3)
def long_words_that_are_equal(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    words = list(base.data["dico_id2word"].values())
    items = [integer(number) + text(word) for number, word in enumerate(words)]
    places = [b"j" + _PLACE, b"j" + struct.pack("<I", 5001)]
    for place in places:
        items.append(integer(len(items)) + text("a" * _LONG_TEXT) + b"r" + place[1:])
    items += [integer(number) + places[number % 2] for number in range(len(items), 20_000)]
    draft.data["dico_id2word"] = Raw(b"}(" + b"".join(items) + b"u")
    return draft.file(rng)


@generator(REFUSED, 0.3)
def keys_that_collide(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    start = rng.randrange(1 << 20)
    numbers = [integer(_MERSENNE * (start + number)) for number in range(40_000)]
    tail = rng.choice([b"", b"K\x01\x86", text("a") + b"\x86"])
    items = b"".join(number + tail + b"N" for number in numbers)
    draft.put(Raw(b"}(" + items + b"u"), rng)
    if rng.random() < 0.3:
        draft.data["dico_id2word"] = Raw(b"}(" + items + b"u")
    return draft.file(rng)


@generator(REFUSED, 0.3)
def storage_keys_that_collide(base: Base, rng: random.Random) -> Files:
    keys = [_MERSENNE * number for number in range(1, 40_000)]
    return {"": Draft(base.data).legacy(keys=keys)}


@generator(REFUSED)
def nested_without_end(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    depth = rng.choice([200, 5000, 200_000])
    codes = {
        "lists": b"]" * depth + b"a" * (depth - 1),
        "tuples": b")" + b"\x85" * depth,
        "dictionaries": (b"}" + text("a")) * depth + b"N" + b"s" * depth,
        "a list in itself": b"]r" + _PLACE + b"j" + _PLACE + b"a",
        "a list that doubles": b"]" + (b"r" + _PLACE + b"j" + _PLACE + b"\x86") * rng.choice([25, 60]),
    }
    draft.put(Raw(codes[rng.choice(sorted(codes))]), rng)
    return draft.file(rng)


@generator(REFUSED, 2)
def a_list_that_doubles_in_place_of_an_argument(base: Base, rng: random.Random) -> Files:
    put, get = b"r" + _PLACE, b"j" + _PLACE
    start = b"(" + text("storage") + b"ctorch\nFloatStorage\n"
    storage = start + text("0") + text("cpu") + b"K\x00tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    codes = [
        start + text("0") + text("cpu") + get + b"tQ",
        start + get + text("cpu") + b"K\x00tQ",
        b"(" + get * 5 + b"tQ",
        b"c_codecs\nencode\n" + text("a") + get + b"\x86R",
        b"c_codecs\nencode\n" + get + text("latin1") + b"\x86R",
        b"cnumpy\ndtype\n" + get + b"\x85R",
        b"cnumpy\ndtype\n" + text("f8") + b"\x85R" + get + b"b",
        b"cnumpy.core.multiarray\nscalar\n" + get * 2 + b"\x86R",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R(K\x01" + get * 4 + b"tb",
        get + text("x") + b"\x93",
        text("x") + get + b"\x93",
        tensor + get + b"))\x89NtR",
        tensor + b"K\x00" + get + b")\x89NtR",
        tensor + b"K\x00)" + get + b"\x89NtR",
        b"ctorch._utils\n_rebuild_parameter\n" + get + b"\x89N\x87R",
        get + b")R",
        b"}" + get + b"Ns",
    ]
    draft = Draft(base.data)
    draft.put(Raw(b"(]" + (put + get + b"\x86") * 60 + put + rng.choice(codes) + b"t"), rng)
    return draft.file(rng)


@generator(REFUSED)
def a_tuple_in_tuples_as_a_key(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    draft.put(Raw(b"}(" + b")" + b"\x85" * rng.choice([2, 300_000]) + b"Nu"), rng)
    return draft.file(rng)


@generator(REFUSED, 0.1)
def millions_of_nothing(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    name, other = (opcode + struct.pack("<I", place) for opcode, place in ((b"r", 5000), (b"r", 5001)))
    call = b"j" + name[1:] + b"j" + other[1:] + b"R"
    reference = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + b"NK\x00t"
    dtype, array = b"cnumpy\ndtype\n" + name, b"cnumpy.core.multiarray\n_reconstruct\n" + name
    once, again = rng.choice(
        [
            (b"", b"}"),
            (b"", b"N"),
            (b"", b"]N\x85a"),
            (b"ccollections\nOrderedDict\n" + name + b")" + other, call),
            (dtype + text("f8") + b"\x85" + other, call),
            (array + b"cnumpy\nndarray\n\x85" + other, call),
            (reference + name, b"j" + name[1:] + b"Q"),
        ]
    )
    many = Raw(b"(" + once + again * 4_500_000 + b"t")
    if rng.random() < 0.2:
        return {"": rng.choice([draft.legacy(system=many), draft.legacy(keys=many)])}
    draft.put(many, rng)
    return draft.file(rng)


@generator(REFUSED)
def protocol_0(base: Base, rng: random.Random) -> Files:
    return {"": saved(base, 0, legacy=rng.random() < 0.5)}


# --- Attacks: tensors and storages ---


@generator(REFUSED, 4)
def tensor_out_of_its_storage(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    view = draft.any_weight(rng)
    rows, columns = view.shape
    changes: list[dict[str, Any]] = [
        {"offset": rng.choice([1, -1, 1 << 40, 1 << 62, 1 << 70, None, 0.0, ()])},
        {"shape": rng.choice([(rows + 1, columns), (rows, -1), (1 << 40, columns), None, [2]])},
        {"stride": rng.choice([(columns + 1, 1), (-columns, 1), (1 << 62, 1 << 62), (1,), ()])},
        {"stride": rng.choice([(0, 1), (0, 0), (1, 1), (columns, 0)])},
        {"shape": (16_000_000, columns), "stride": (0, 1)},
        {"shape": (1,) * 100_000, "stride": (1,) * 100_000},
        {"more": rng.choice([({"conj": True},), ({"neg": True},)])},
        {"storage": rng.choice([None, "0", ("storage", "0"), replace(view), 7])},
    ]
    for name, value in rng.choice(changes).items():
        setattr(view, name, value)
    return draft.file(rng)


@generator(REFUSED, 2)
def sixteen_million_positions(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    many = 16_000_000
    view = draft.weights["position_embeddings.weight"]
    columns = view.shape[1]
    view.shape, view.storage.numel = (many, columns), many * columns
    draft.data["params"]["sinusoidal_embeddings"] = rng.random() < 0.5
    match rng.randrange(4):
        case 0:
            return {"": draft.zip()}
        case 1:
            return {"": draft.legacy()}
        case 2:
            others = [storage for storage in draft.records() if storage is not view.storage]
            return {"": draft.legacy(order=others)}
        case _:
            config = {**base.config, "max_position_embeddings": many, "sinusoidal_embeddings": rng.random() < 0.5}
            return directory(base, config=config)


@generator(REFUSED, 4)
def storages_not_those_of_the_list(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    records = draft.records()
    keys = [storage.key for storage in records]
    one = rng.choice(records)
    match rng.randrange(7):
        case 0:  # torch allocates it, and fills it with nothing
            return {"": draft.legacy(order=[storage for storage in records if storage is not one])}
        case 1:
            return {"": draft.legacy(keys=[key for key in keys if key != one.key])}
        case 2:
            return {"": draft.legacy(keys=[*keys, rng.choice(["none", one.key])])}
        case 3:
            return {"": draft.legacy(keys=rng.choice([None, (), {}, [*keys[:-1], 1], "".join(keys)]))}
        case 4:
            return {"": draft.legacy(numels={one.key: rng.choice([0, one.numel + 1, -1, 1 << 40])})}
        case 5:
            return {"": draft.legacy() + rng.randbytes(rng.randint(1, 9))}
        case _:
            one.numel = rng.choice([one.numel - 1, one.numel + 1, 0, -1, 1 << 62])
            return draft.file(rng)


@generator(REFUSED)
def storage_with_two_types(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    view = draft.any_weight(rng)
    other = Storage(torch.HalfStorage, view.storage.key, view.storage.numel * 2, view.storage.raw)
    draft.data["params"]["other"] = View(other, 0, view.shape, view.stride)
    if rng.random() < 0.5:
        draft.data["params"]["other"] = View(view.storage, 0, view.shape, view.stride)
        view.storage.view = (("0", 0, 1),)
    return draft.file(rng)


@generator(REFUSED, 2)
def record_of_another_size(base: Base, rng: random.Random) -> Files:
    entries = Draft(base.data).entries()
    record = rng.choice([entry for entry in entries if "/data/" in entry.name])
    change = rng.choice([-4, -1, 1, 4, len(record.data)])
    record.data = record.data[:change] if change < 0 else record.data + bytes(change)
    return {"": zip_file(entries)}


@generator(REFUSED, 0.2)
def many_tensors_over_one_record(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    many, model = rng.choice([5000, 20_000]), draft.data["model"]
    storage = Storage(torch.FloatStorage, "all", 1 << 18, bytes(1 << 20))
    if rng.random() < 0.5:  # one storage for all of them, else one each, all in the same place of the file
        draft.storages[-1] = storage
        view = View(storage, 0, (512, 512), (512, 1))
        many = rng.choice([100, many])
        for number in range(many):
            model[f"attentions.{number}.q_lin.weight"] = View(storage, 0, view.shape, view.stride)
        draft.data["params"]["n_layers"] = many
        return draft.file(rng)
    entries = [*draft.entries()[1:], Entry("archive/data/all", storage.raw)]
    for number in range(many):
        one = Storage(torch.FloatStorage, f"all{number}", 1 << 18, b"")
        model[f"attentions.{number}.q_lin.weight"] = View(one, 0, (512, 512), (512, 1))
    at = len(entries)
    entries = [Entry("archive/data.pkl", dumps(draft.data)), *entries]
    entries += [Entry(f"archive/data/all{number}", b"", header_of=at) for number in range(many)]
    return {"": zip_file(entries)}


@generator(REFUSED)
def clusters_by_the_thousand(base: Base, rng: random.Random) -> Files:
    many = rng.choice([20, 5000, 300_000])
    large = {"asm": True, "asm_cutoffs": list(range(1, many)), "asm_div_value": rng.choice([1, 1.0001, 4])}
    if rng.random() < 0.5:
        sizes = {"vocab_size": many + 1, "n_words": many + 1, "xlm": {"causal": True}}
        return directory(base, config={**base.config, **large, **sizes})
    draft = Draft(base.data)
    draft.data["params"] |= large
    if rng.random() < 0.5:
        draft.data["params"]["n_words"] = many + 1
    return draft.file(rng)


@generator(REFUSED)
def large_sizes_in_the_configuration(base: Base, rng: random.Random) -> Files:
    names = ["n_layers", "vocab_size", "emb_dim", "max_position_embeddings", "n_langs", "n_heads"]
    large = rng.choice([100_000, 1 << 24, (1 << 31) - 1, 1 << 62])
    if rng.random() < 0.5:
        others = {"lang2id": {}, "sinusoidal_embeddings": rng.random() < 0.3, "xlm": {"causal": True}}
        return directory(base, config={**base.config, **others, rng.choice(names): large})
    draft = Draft(base.data)
    draft.data["params"][rng.choice(["n_layers", "n_words", "emb_dim", "n_langs"])] = large
    return draft.file(rng)


# --- Attacks: zip files about which programs disagree ---


@generator(REFUSED, 5)
def zip_of_two_minds(base: Base, rng: random.Random) -> Files:
    draft = Draft(base.data)
    entries = draft.entries()
    at = rng.randrange(len(entries))
    entry = entries[at]
    other = bytes(len(entry.data))
    match rng.randrange(11):
        case 0:
            entries.insert(rng.choice([0, len(entries)]), Entry(entry.name, other))
        case 1:
            entries.append(Entry(entry.name.replace("archive", "ARCHIVE"), other))
        case 2:
            entries.append(Entry(entry.name.upper().replace("ARCHIVE", "archive"), other))
        case 3:
            entries.append(Entry(f"{entry.name}x", entry.data, header_of=at))
        case 4:
            entry.local_name = entry.name[:-1] + "?"
        case 5:
            entry.flags, entry.local_size = 0, len(entry.data) + rng.choice([-1, 1, 1000])
        case 6:
            entry.method = 8
        case 7:
            entry.flags |= rng.choice([1, 32, 64, 1 << 13])
        case 8:
            entries[1].data = b"big"
        case 9:  # a second entry inside the first one's bytes
            inner = zip_file([Entry("archive/data/inner", bytes(8))])
            begin = inner.index(b"PK\1\2")
            entries[0].data += b"."  # behind the end of the pickle
            entries[0].data += inner[:begin]
            head = 30 + len(entries[0].name)
            entries.append(Entry("archive/data/inner", bytes(8), header_at=head + len(entries[0].data) - begin))
        case 10:
            entry.checksum = zlib.crc32(entry.data) ^ (1 << rng.randrange(32))
    return {"": zip_file(entries)}


@generator(REFUSED)
def zip_directory_elsewhere(base: Base, rng: random.Random) -> Files:
    content = Draft(base.data).zip()
    match rng.randrange(5):
        case 0:
            return {"": content + rng.randbytes(rng.randint(1, 30))}
        case 1:
            return {"": rng.randbytes(rng.randint(1, 30)) + content}
        case 2:
            return {"": content[:-2] + b"\x05\x00" + b"hello"}
        case 3:  # the numbers of 32 bits say something else than those of 64
            at = len(content) - rng.choice([6, 10, 12])
            return {"": content[:at] + struct.pack("<H", rng.randint(1, 5)) + content[at + 2 :]}
        case _:
            return {"": content[:-98] + b"PK\1\2" + content[-98:]}


@generator(REFUSED)
def two_pickles(base: Base, rng: random.Random) -> Files:
    entries = Draft(base.data).entries()
    entries.append(Entry("other/data.pkl", dumps({"model": {}})))
    return {"": zip_file(rng.sample(entries, len(entries)))}


# --- Attacks: directories ---


@generator(REFUSED, 4)
def safetensors_header_that_lies(base: Base, rng: random.Random) -> Files:
    name, other = rng.sample(sorted(base.tensors), 2)
    values: list[tuple[str, Any]] = [
        ("shape", [1] * 100_000),
        ("shape", [*base.tensors[name].shape, *[1] * 9]),
        ("shape", [-1]),
        ("shape", [1 << 62, 1 << 62]),
        ("shape", None),
        ("shape", 5),
        ("data_offsets", [0, 1 << 60]),
        ("data_offsets", [8, 0]),
        ("data_offsets", header_of(base.tensors)[other]["data_offsets"]),
        ("dtype", "F16"),
        ("dtype", "X"),
        ("dtype", None),
    ]
    key, value = rng.choice(values)
    return with_header(base, lambda header: header[name].__setitem__(key, value))


@generator(REFUSED)
def safetensors_names_that_are_too_many(base: Base, rng: random.Random) -> Files:
    name = sorted(base.tensors)[0]
    header = header_of(base.tensors)
    one = json.dumps(header[name])
    match rng.randrange(3):
        case 0:
            text = json.dumps(header)[:-1] + f', "{name}": {one}}}'
        case 1:
            copies = {f"transformer.attentions.{number}.q_lin.weight": header[name] for number in range(20_000)}
            text = json.dumps({**header, **copies})
        case _:
            text = json.dumps({**header, "transformer.attentions.7.q_lin.weight": header[name]})
    return directory(base, weights=safetensors_file(base.tensors, text))


@generator(REFUSED, 0.3)
def safetensors_header_of_any_size(base: Base, rng: random.Random) -> Files:
    whole = safetensors_file(base.tensors)
    match rng.randrange(4):
        case 0:
            return directory(base, weights=struct.pack("<Q", rng.choice([1 << 30, 1 << 40, (1 << 64) - 1])) + whole[8:])
        case 1:
            return directory(base, weights=safetensors_file(base.tensors, padding=1 << 24))
        case 2:
            return with_header(base, lambda header: header.update(__metadata__={str(i): "" for i in range(500_000)}))
        case _:
            return directory(base, weights=safetensors_file(base.tensors, '{"a":' * 100_000))


@generator(REFUSED, 0.1)
def json_of_any_size(base: Base, rng: random.Random) -> Files:
    files = directory(base)
    config = files["config.json"][:-1]
    filler = rng.choice([b"{}," * 8_000_000 + b"{}", b"[" * 100_000 + b"]" * 100_000, b"1" * 100_000])
    if rng.random() < 0.7:
        return {**files, "config.json": config + b', "more": [' + filler + b"]}"}
    del files["model.safetensors"]
    return {**files, "model.safetensors.index.json": b'{"weight_map": [' + filler + b"]}"}


@generator(REFUSED, 2)
def shards_that_are_not_there(base: Base, rng: random.Random) -> Files:
    files = shards(base, rng)
    index = next(name for name in files if name.endswith(".index.json"))
    content = json.loads(files[index])
    homes = content["weight_map"]
    name = rng.choice(sorted(homes))
    suffix = Path(homes[name]).suffix
    match rng.randrange(5):
        case 0:
            outside = [
                f"../x{suffix}",
                f"/dev/zero{suffix}",
                "/dev/zero",
                "config.json",
                "",
                ".",
                f"a/b{suffix}",
                None,
                3,
            ]
            homes[name] = rng.choice(outside)
        case 1:
            homes[name] = f"none{suffix}"
        case 2:
            homes["more"] = homes[name]
        case 3:
            del homes[name]
        case _:
            files[homes[name]] = rng.choice([PIPE, ENDLESS, b""])
    return {**files, index: json.dumps(content).encode()}


@generator(REFUSED)
def files_that_are_none(base: Base, rng: random.Random) -> Files:
    if rng.random() < 0.2:
        return {"": rng.choice([PIPE, ENDLESS])}
    files = directory(base)
    return {**files, rng.choice(sorted(files)): rng.choice([PIPE, ENDLESS, b""])}
