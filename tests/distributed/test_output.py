"""The output directory: its lease, its finished parts and its state for resuming.

Oracle: earlier contents, written by hand or by another run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xlm.distributed.output import Output, Record
from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError

pytest.importorskip("pyarrow")

IDENTITY = {"model": "m", "inputs": ["a.txt", "b.txt"]}
SIZES = [10, 20]


def output(directory: Path) -> Output:
    return Output(Directory(str(directory)), ".tsv")


def begin(of: Output, *, resume: bool = False, **changed: Any) -> list[tuple[int, int]]:
    """Begin a run, and return the keys of the finished parts."""
    values = {**IDENTITY, "sizes": SIZES, **changed}
    sizes = values.pop("sizes")
    return sorted(of.begin(values, sizes=sizes, resume=resume))


def add(of: Output, file: int, unit: int, data: bytes = b"x", **changed: Any) -> Record:
    """Write a part and its record."""
    source = Path(of.directory.address).with_name("source")
    source.write_bytes(data)
    size = of.add_part((file, unit), source)
    record = Record(
        file=file, unit=unit, rows=1, problems=0, digest="d", bytes=size, last=False, damaged=False, processor="p"
    )
    record = replace(record, **changed)
    of.add_record(record)
    return record


@pytest.mark.parametrize("other", ["m", "n"])
@pytest.mark.parametrize("moment", ["before _meta.json", "before _run", "after _run"])
def test_of_two_runs_that_begin_at_once_one_goes_on_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, moment: str
) -> None:
    first, second = output(tmp_path / "out"), output(tmp_path / "out")
    monkeypatch.setattr(Output, "description", lambda self: None)  # both runs see an empty directory
    monkeypatch.setattr(Directory, "names", lambda self, below="": {})
    write = Directory.write
    began: list[Output] = []

    def now(step: str) -> None:
        if step == moment:
            begin(second, model=other)
            began.append(second)

    def interrupted(self: Directory, name: str, data: bytes) -> None:
        if self == first.directory:
            now(f"before {name}")
        write(self, name, data)
        if self == first.directory:
            now(f"after {name}")

    monkeypatch.setattr(Directory, "write", interrupted)
    try:
        begin(first)
        began.append(first)
    except InputError as error:
        assert error.what == "another run has taken the output directory"  # noqa: PT017
    monkeypatch.undo()
    going_on = []
    for each in began:
        try:
            add(each, 0, 0)
            going_on.append(each)
        except InputError as error:
            assert error.what == "another run has taken the output directory"  # noqa: PT017
    assert second in began
    assert len(going_on) <= 1
    for each in going_on:
        description = each.description()
        assert description is not None
        assert description["model"] == ("m" if each is first else other)


def test_a_run_that_was_resumed_elsewhere_ends(tmp_path: Path) -> None:
    killed, resumed = output(tmp_path / "out"), output(tmp_path / "out")
    begin(killed)
    add(killed, 0, 0)
    unfinished = f"_temporary/{killed.directory.writer}"
    killed.directory.write(f"{unfinished}/half", b"1")
    assert begin(resumed, resume=True) == [(0, 0)]
    assert killed.directory.names(unfinished) == {}
    for act in (lambda: add(killed, 0, 1), lambda: killed.finish(IDENTITY, [])):
        with pytest.raises(InputError, match="Another run has taken"):
            act()
    assert resumed.directory.names().keys() == {"part-0000000-0000000.tsv", "_meta.json", "_run"}
    record = add(resumed, 0, 1)
    assert begin(output(tmp_path / "out"), resume=True) == [(0, 0), record.key]


def test_a_machine_that_does_not_see_the_directory_says_so_at_once(tmp_path: Path) -> None:
    here = output(tmp_path / "out")
    begin(here)
    there = replace(
        pickle.loads(pickle.dumps(here)),
        directory=Directory(str(tmp_path / "there" / "out"), here.directory.writer),
    )
    (tmp_path / "there").mkdir()
    with pytest.raises(WriteError, match="This machine does not see the output directory"):
        add(there, 0, 0)
    assert not (tmp_path / "there" / "out").exists()
    add(replace(there, directory=here.directory), 0, 0)


def test_parts_are_in_the_order_of_their_names_however_many_there_are(tmp_path: Path) -> None:
    units = [(0, 0), (0, 9_999_999), (9, 0), (99_999, 3), (100_000, 0), (1_234_567, 0)]
    names = [output(tmp_path).part_name(unit) for unit in units]
    assert names == sorted(names)


def test_a_record_that_was_cut_short_or_is_of_another_run_is_none(tmp_path: Path) -> None:
    first = output(tmp_path / "out")
    begin(first)
    for unit in range(6):
        add(first, 0, unit)
    records = sorted((tmp_path / "out" / "_parts").iterdir())
    whole = json.loads(records[0].read_text())
    records[0].write_bytes(b"")
    records[1].write_bytes(records[1].read_bytes()[:-20])
    records[2].write_text(json.dumps({**whole, "unit": 2, "run": "another"}))
    records[3].write_text(json.dumps([1]))
    records[4].write_text(json.dumps({"run": whole["run"], "rows": 1}))
    assert begin(output(tmp_path / "out"), resume=True) == [(0, 5)]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff"])
def test_of_what_the_run_is_nothing_may_be_missing(tmp_path: Path, data: bytes) -> None:
    begin(output(tmp_path / "out"))
    (tmp_path / "out" / "_meta.json").write_bytes(data)
    with pytest.raises(InputError, match="The description of the earlier run cannot be read") as error:
        begin(output(tmp_path / "out"), resume=True)
    assert "remove the directory" in str(error.value)


def test_only_a_file_that_was_damaged_may_have_another_size(tmp_path: Path) -> None:
    first = output(tmp_path / "out")
    begin(first)
    add(first, 0, 0, last=True)
    for unit in range(3):
        add(first, 1, unit, last=unit == 2, damaged=unit == 2)
    with pytest.raises(InputError, match="differs from that of the run to resume") as error:
        begin(output(tmp_path / "out"), resume=True, sizes=[11, 20])
    assert "a.txt" in str(error.value)
    assert "11 bytes" in str(error.value)
    # The damaged part is read again.
    assert begin(output(tmp_path / "out"), resume=True, sizes=[10, 25]) == [(0, 0), (1, 0), (1, 1)]
    assert begin(output(tmp_path / "out"), resume=True, sizes=[10, 26]) == [(0, 0), (1, 0), (1, 1)]
    again = output(tmp_path / "out")
    begin(again, resume=True, sizes=[10, 26])
    add(again, 1, 2, last=True)
    with pytest.raises(InputError, match="differs from that of the run to resume"):
        begin(output(tmp_path / "out"), resume=True, sizes=[10, 25])
    assert len(begin(output(tmp_path / "out"), resume=True, sizes=[10, 26])) == 4


def test_all_is_there_when_it_is_there_whole(tmp_path: Path) -> None:
    run = output(tmp_path / "out")
    begin(run)
    records = [add(run, 0, unit, b"x" * unit) for unit in range(3)]
    success, part = tmp_path / "out" / "_SUCCESS", tmp_path / "out" / "part-0000000-0000001.tsv"
    changes: list[Callable[[], object]] = [part.unlink, lambda: part.write_bytes(b"xy")]
    for change in changes:
        change()
        with pytest.raises(WriteError, match="are not what the workers wrote") as error:
            run.finish(IDENTITY, records)
        assert "1 of 3: part-0000000-0000001.tsv" in str(error.value)
        assert not success.exists()
        part.write_bytes(b"x")
    run.finish(IDENTITY, [*records[:2], replace(records[2], damaged=True)])
    assert not success.exists()
    add(run, 0, 3)  # the file was longer once
    run.finish(IDENTITY, records)
    assert json.loads(success.read_text())["rows"] == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [
        f"part-0000000-000000{unit}.tsv" for unit in range(3)
    ]
