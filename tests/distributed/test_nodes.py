"""A cluster of several node processes, some of which are killed. Oracle: the same command on one machine.

All digits are equal: both compute in float32 with one thread, in the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from measure_score_memory import write_lines

from tests.demo_files import write_demo_files
from tests.distributed.local_cluster import LocalCluster, wait_until
from tests.distributed.runs import contents, finish, joined, locally, on, parts, started, table, wait_for_parts

pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow

ROWS = 50_000
FEWER_ROWS = 10_000
PARQUET = ("--format", "parquet")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_demo_files(tmp_path_factory.mktemp("files"))
    write_lines(directory / "lines.txt", ROWS, seed=0)
    write_lines(directory / "fewer.txt", FEWER_ROWS, seed=1)
    return directory


def score(files: Path, *inputs: Path, window: int = 256) -> list[str | Path]:
    model: list[str | Path] = [files / "demo.pth", "--codes", files / "codes", "--lang", "en"]
    return ["score", *model, *inputs, "--read-ahead", str(window)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3, cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(files: Path, cluster: LocalCluster) -> Path:
    """The output of an undisturbed run on the cluster, which equals that of the local command."""
    output, options = files / "undisturbed", [*score(files, files / "fewer.txt"), *PARQUET]
    finish(cluster, on(cluster, *options, output=output))
    done = locally(*options, "--output", files / "local")
    assert done.returncode == 0, done.stderr
    assert table(*parts(output)).equals(table(files / "local"))
    assert len(parts(output)) == -(-FEWER_ROWS // 256)
    return output


def test_fifty_thousand_rows_are_those_of_one_machine_in_all_digits_whatever_is_killed(
    files: Path, tmp_path: Path
) -> None:
    options = [*score(files, files / "lines.txt", window=1024), *PARQUET]
    done = locally(*options, "--output", tmp_path / "local")
    assert done.returncode == 0, done.stderr
    output = tmp_path / "parts"
    with LocalCluster(nodes=3, cpus=1) as cluster:
        line = on(cluster, *options, "--resume", output=output)
        with started(cluster, line) as run:
            wait_for_parts(output, 5, run)
            wait_until(cluster.workers)[0].kill()
            wait_for_parts(output, 12, run)
            run.kill()
        with started(cluster, line) as run:
            wait_for_parts(output, 18, run)
            cluster.remove_node()
            wait_for_parts(output, 25, run)
            wait_until(cluster.workers)[0].kill()
            assert len(parts(output)) < -(-ROWS // 1024), "it was killed too late"
            printed, _ = run.communicate(timeout=600)
    assert run.returncode == 0, printed
    found, expected = table(*parts(tmp_path / "parts")), table(tmp_path / "local")
    assert expected.num_rows == ROWS
    assert len(parts(tmp_path / "parts")) == -(-ROWS // 1024)
    assert found.schema == expected.schema
    assert found.equals(expected)
    signatures = [
        json.loads(path.read_text(encoding="utf-8"))["signature"]
        for path in (tmp_path / "parts" / "_SUCCESS", tmp_path / "local.meta.json")
    ]
    assert signatures[0] == signatures[1]


@pytest.mark.parametrize(
    ("form", "unit"), [("tsv", ("--by", "token", "--ranks", "--entropy")), ("jsonl", ("--by", "word", "--bits"))]
)
def test_words_and_tokens_are_the_same_bytes(
    files: Path, cluster: LocalCluster, tmp_path: Path, form: str, unit: tuple[str, ...]
) -> None:
    options = [*score(files, files / "fewer.txt", window=1024), *unit, "--format", form]
    done = locally(*options, "--output", tmp_path / "local")
    assert done.returncode == 0, done.stderr
    finish(cluster, on(cluster, *options, output=tmp_path / "parts"))
    assert joined(tmp_path / "parts", header=form == "tsv") == (tmp_path / "local").read_bytes()


def test_a_killed_worker_changes_nothing(files: Path, cluster: LocalCluster, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with started(cluster, on(cluster, *score(files, files / "fewer.txt"), *PARQUET, output=output)) as run:
        for count in (3, 10):
            wait_for_parts(output, count, run)
            worker = wait_until(cluster.workers)[0]
            worker.kill()
        assert len(parts(output)) < len(parts(undisturbed)), "it was killed too late"
        printed, _ = run.communicate(timeout=600)
    assert run.returncode == 0, printed
    assert contents(output) == contents(undisturbed)


def test_a_killed_driver_is_taken_up_again(
    files: Path, cluster: LocalCluster, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    line = on(cluster, *score(files, files / "fewer.txt"), *PARQUET, "--resume", output=output)
    for count in (5, 20):
        with started(cluster, line) as run:
            wait_for_parts(output, count, run)
            run.kill()
    assert not (output / "_SUCCESS").exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts(output)}
    assert 20 <= len(before) < len(parts(undisturbed))
    finish(cluster, line)
    assert contents(output) == contents(undisturbed)
    # Parts of the killed runs are not made again, except those whose record was not yet written.
    again = [name for name, time in before.items() if (output / name).stat().st_mtime_ns != time]
    assert len(again) <= 3


def test_a_removed_node_changes_nothing(files: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with LocalCluster(nodes=3, cpus=1) as cluster:
        line = on(cluster, *score(files, files / "fewer.txt"), *PARQUET, output=output)
        with started(cluster, line) as run:
            wait_for_parts(output, 5, run)
            cluster.remove_node()
            assert len(parts(output)) < len(parts(undisturbed)), "it was removed too late"
            printed, _ = run.communicate(timeout=600)
    assert run.returncode == 0, printed
    assert contents(output) == contents(undisturbed)


def damaged_lines() -> bytes:
    """Return JSON lines; in every window, some are malformed, have no text or are not UTF-8."""
    lines = []
    for number in range(5000):
        text = json.dumps({"text": f"The small dog {number} is sleeping ."}).encode()
        bad = (text[:-4], b'{"other": 1}', b'{"text": "\xff"}', b'{"text": null}', b"", b"[" * 50, b'{"text": 7}')
        lines.append(bad[number % len(bad)] if number % 11 == 3 else text)
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
def test_bad_rows_say_what_they_say_on_one_machine(
    files: Path, cluster: LocalCluster, tmp_path: Path, form: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(damaged_lines())
    options = [*score(files, bad), "--format", form]
    done = locally(*options, "--output", tmp_path / "local")
    printed = finish(cluster, on(cluster, *options, output=tmp_path / "parts"), status=done.returncode)
    found = (tmp_path / "local").read_bytes()
    assert found.count(b"error: ") > 400
    assert joined(tmp_path / "parts", header=form == "tsv") == found
    count = next(line for line in done.stderr.splitlines() if "could not be scored" in line)
    assert count.partition("scored")[0] in printed
