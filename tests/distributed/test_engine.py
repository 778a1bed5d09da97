"""``--engine ray`` without a cluster: input, output and resuming.

Oracle: the bytes that the local command writes for the same files.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.distributed.conftest import Engine, poison
from tests.distributed.runs import joined, parts
from xlm.inference.loading import open_model
from xlm.scoring import signature

pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    "options",
    [
        ("--by", "sentence"),
        ("--by", "word", "--format", "jsonl", "--bits"),
        ("--by", "token", "--ranks", "--entropy", "--too-long", "refuse"),
    ],
)
def test_scores_are_those_of_the_local_command(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    command = ["score", *model, *corpus, "--read-ahead", "20", *options]
    local = invoke(*command)
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out", "--windows-per-file", "2")
    assert local.exit_code == remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header="jsonl" not in options) == local.stdout_bytes
    assert engine.done == 4 + 2 + 1 + 2
    signature = next(line for line in local.stderr.splitlines() if line.startswith("signature"))
    assert signature in remote.stderr.splitlines()
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert success["rows"] == 130 + 75 + 50
    # Two lines are not UTF-8, one is not JSON, one has no text, and some are too long if long texts are refused.
    assert success["problems"] == 4 + local.stdout.count("longer than the model's positions")
    assert (success["problems"] > 4) == ("refuse" in options)
    assert f"{success['problems']} rows could not be" in remote.stderr
    assert f"signature: {success['signature']}|unknown:{success['counts']['unknown']}" == signature
    assert [part[0] for part in success["parts"]] == [path.name for path in parts(tmp_path / "out")]
    assert not (tmp_path / "out" / "_temporary").exists()


def test_a_table_of_parquet_holds_all_digits(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    command = ["score", *model, *corpus, "--format", "parquet", "--read-ahead", "20"]
    assert invoke(*command, "--output", tmp_path / "whole.parquet").exit_code == 0
    assert invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out").exit_code == 0
    whole = parquet.read_table(tmp_path / "whole.parquet")
    found = [parquet.read_table(path) for path in parts(tmp_path / "out")]
    assert pyarrow.concat_tables(found).equals(whole)
    assert {table.schema.metadata[b"xlm.signature"] for table in found} == {whole.schema.metadata[b"xlm.signature"]}


@pytest.mark.parametrize("output", ["tokens", "ids"])
def test_tokens_are_those_of_the_local_command(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path, output: str
) -> None:
    command = ["tokenize", *model, "--output", output]
    local = invoke(*command, corpus[-1])
    remote = invoke(*command, corpus[-1], "--engine", "ray", "--output-dir", tmp_path / "out")
    assert local.exit_code == remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=False) == local.stdout_bytes
    # Each input line has one output line, whatever is wrong with it.
    broken = invoke(*command, corpus[0].parent, "--engine", "ray", "--output-dir", tmp_path / "all")
    assert broken.exit_code == 0
    assert joined(tmp_path / "all", header=False).count(b"\n") == 130 + 75 + 50
    assert "4 rows could not be processed" in broken.stderr
    assert "a.txt, line 18: not UTF-8" in broken.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "7", "--num-return-sequences", "2", "--format", "jsonl"),
        ("--seed", "7"),
        ("--num-beams", "2", "--format", "jsonl"),
        ("--greedy",),
    ],
)
def test_continuations_are_those_of_the_local_command(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(line[:30] for line in corpus[-1].read_text("utf-8").split("\n")), "utf-8")
    command = ["generate", *model, prompts, "--max-new-tokens", "4", "--batch-size", "8", *options]
    local = invoke(*command)
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out", "--windows-per-file", "3")
    assert local.exit_code == remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=False) == local.stdout_bytes
    assert len(parts(tmp_path / "out")) == 3  # 50 prompts, 24 per part
    stops = next(line for line in local.stderr.splitlines() if line.startswith("stopped"))
    assert stops in remote.stderr.splitlines()


@pytest.mark.parametrize(
    "options", [(), ("--format", "tsv", "--num-beams", "3", "--n-best", "2"), ("--format", "jsonl", "--tokenized")]
)
def test_translations_are_those_of_the_local_command(
    invoke: Invoke, engine: Engine, translator: Path, corpus: list[Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    command = ["translate", translator, "--from", "de", "--to", "en", *corpus, "--batch-size", "1", *options]
    local = invoke(*command)
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out", "--windows-per-file", "1")
    assert local.exit_code == remote.exit_code == (0 if options else 1), remote.stderr
    assert joined(tmp_path / "out", header="tsv" in options) == local.stdout_bytes
    assert len(parts(tmp_path / "out")) == 5 + 3 + 1 + 2  # of 130, 75, 0 and 50 rows, 32 in a window
    for start in ("signature", "stopped"):
        line = next(line for line in local.stderr.splitlines() if line.startswith(start))
        assert line in remote.stderr.splitlines()
    problems = json.loads((tmp_path / "out" / "_SUCCESS").read_text())["problems"]
    assert f"{problems} rows without a translation" in local.stderr
    assert f"{problems} rows could not be processed" in remote.stderr
    # Tables state the reasons; of text, standard error has the first ones.
    assert (remote.stderr.count("a.txt, line ") == 5) == (not options)


def test_names_of_files_need_not_be_utf_8(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    files = [tmp_path / os.fsdecode(name) for name in (b"a\xff.txt", b"b.txt")]
    try:
        for file in files:
            file.write_bytes(b"the dog\n")
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    command = ["score", *model, *files]
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=True) == invoke(*command).stdout_bytes


def test_a_prompt_that_cannot_be_continued_is_a_row_too(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(b"the dog\n\xff\n" + b"the " * 500 + b"\na cat\n")
    command = ["generate", *model, prompts, "--max-new-tokens", "3", "--seed", "1", "--engine", "ray"]
    result = invoke(*command, "--format", "jsonl", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    first, second, third, fourth = (json.loads(line) for line in joined(tmp_path / "out", header=False).splitlines())
    assert [row["line"] for row in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert "not UTF-8" in second["status"]
    assert "longer than the model's positions" in third["status"]
    assert "2 rows could not be processed" in result.stderr
    text = invoke(*command, "--output-dir", tmp_path / "text")
    assert text.exit_code == 0
    assert joined(tmp_path / "text", header=False).decode("utf-8").split("\n") == [
        first["text"],
        "",
        "",
        fourth["text"],
        "",
    ]


def test_a_prompt_whose_scores_are_not_finite_is_a_row_too(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the dog\n" + "the dog " * 20 + "\na cat\n")
    command = ["generate", *model, prompts, "--max-new-tokens", "3", "--seed", "1", "--engine", "ray"]
    assert invoke(*command, "--format", "jsonl", "--output-dir", tmp_path / "whole").exit_code == 0

    def poisoned(*arguments: Any, **options: Any) -> Any:
        network = open_model(*arguments, **options)
        poison(network)
        return network

    monkeypatch.setattr(signature, "open_model", poisoned)
    result = invoke(*command, "--format", "jsonl", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    whole, found = (
        [json.loads(line) for line in joined(tmp_path / name, header=False).splitlines()] for name in ("whole", "out")
    )
    assert found[1]["status"].startswith("error: the model's scores of the next token are not finite")
    assert [found[1]["line"], found[1]["prompt"]] == [2, whole[1]["prompt"]]
    for before, after in ((whole[0], found[0]), (whole[2], found[2])):
        close = {name: pytest.approx(before[name], abs=1e-4) for name in ("logprobs", "logprob")}  # in another batch
        assert after == {**before, **close}
    assert "1 row could not be processed" in result.stderr
    assert "prompts.txt, line 2: the model's scores" in result.stderr
    assert invoke(*command, "--output-dir", tmp_path / "text").exit_code == 0
    assert joined(tmp_path / "text", header=False).decode() == f"{whole[0]['text']}\n\n{whole[2]['text']}\n"


def test_files_of_prompts_have_seeds_of_their_own(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path
) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("the dog\nthe dog\n")
    command = ["generate", *model, "--max-new-tokens", "5", "--format", "jsonl"]
    ray = ["--engine", "ray", "--output-dir", tmp_path / "out"]
    assert invoke(*command, tmp_path / "*.txt", "--seed", "3", *ray).exit_code == 0
    rows = [json.loads(line) for line in joined(tmp_path / "out", header=False).splitlines()]
    assert [(Path(row["file"]).name, row["line"]) for row in rows] == [(a + ".txt", n) for a in "abc" for n in (1, 2)]
    assert len({row["seed"] for row in rows}) == 6
    # The output of each file is that of the local command for this file, with the seed of its first line.
    for first in (0, 2, 4):
        local = invoke(*command, rows[first]["file"], "--seed", str(rows[first]["seed"]))
        lines = [{name: value for name, value in row.items() if name != "file"} for row in rows[first : first + 2]]
        assert [json.loads(line) for line in local.stdout.splitlines()] == lines
    assert rows[0]["seed"] == 3


def test_what_dying_workers_took_with_them_is_done_again(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    command = ["score", *model, *corpus, "--read-ahead", "20"]
    local = invoke(*command)
    engine.loses = lambda number: number % 3 == 0
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=True) == local.stdout_bytes
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["rows"] == 130 + 75 + 50
    assert engine.done > len(parts(tmp_path / "out"))


def test_workers_that_all_die_end_the_run(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    engine.loses = lambda number: number > 5
    command = ["score", *model, *corpus, "--read-ahead", "20", "--engine", "ray", "--output-dir", tmp_path / "out"]
    result = invoke(*command)
    assert result.exit_code == 1
    assert "Workers kept dying before" in result.stderr
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert len(parts(tmp_path / "out")) == 5
    engine.loses = lambda number: False
    engine.done = 0
    again = invoke(*command, "--resume")
    assert again.exit_code == 0
    assert "5 of them from before" in again.stderr
    assert engine.done == len(parts(tmp_path / "out")) - 5
    assert joined(tmp_path / "out", header=True) == invoke(*command[: command.index("--engine")]).stdout_bytes


def test_only_what_is_missing_is_made_again(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ["score", *model, *corpus, "--read-ahead", "20", "--engine", "ray", "--output-dir", output, "--resume"]
    assert invoke(*command).exit_code == 0
    whole, all_parts = joined(output, header=True), parts(output)
    engine.done = 0
    assert invoke(*command).exit_code == 0
    assert engine.done == 0
    all_parts[2].unlink()  # a record without its part, a part without its record, and a part that was cut
    (output / "_parts" / "0000001-0000000.json").unlink()
    all_parts[-1].write_bytes(b"")
    engine.loses = lambda number: True
    assert invoke(*command).exit_code == 1
    assert not (output / "_SUCCESS").exists()
    engine.loses, engine.done = lambda number: False, 0
    assert invoke(*command).exit_code == 0
    assert (output / "_SUCCESS").exists()
    assert engine.done == 3
    assert joined(output, header=True) == whole


def test_only_the_same_run_is_gone_on_with(invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path) -> None:
    text, output = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("the dog\na cat\n" * 30)
    command = ["score", *model, text, "--read-ahead", "20", "--engine", "ray", "--output-dir", output]
    assert invoke(*command).exit_code == 0
    without = invoke(*command)
    assert without.exit_code == 1
    assert "--resume" in without.stderr
    for option in (("--bits",), ("--lang", "de"), ("--stride", "3"), ("--threads-per-worker", "2")):
        other = invoke(*command, "--resume", *option)
        assert other.exit_code == 1, option
        assert "differs from this run" in other.stderr
    data = text.read_text()
    text.write_text(data.replace("cat", "dog"))  # of the same size
    (output / "part-0000000-0000002.tsv").unlink()
    other = invoke(*command, "--resume")
    assert other.exit_code == 1
    assert "input differs from that of the run to resume" in other.stderr
    text.write_text(data + "the\n")
    assert "inputs" in invoke(*command, "--resume").stderr


def test_an_occupied_directory_is_left_alone(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("x")
    result = invoke("score", *model, corpus[0], "--engine", "ray", "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_damaged_file_is_read_as_far_as_it_goes_and_again_later(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    whole = corpus[1].read_bytes()
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    command = ["score", *model, cut, corpus[-1], "--read-ahead", "20"]
    local = invoke(*command)
    remote = invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert local.exit_code == remote.exit_code == 1
    assert "only the readable part" in remote.stderr
    assert joined(tmp_path / "out", header=True) == local.stdout_bytes
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    done, engine.done = engine.done, 0
    assert invoke(*command, "--engine", "ray", "--output-dir", tmp_path / "out", "--resume").exit_code == 1
    assert engine.done == 1 < done
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("damage", ["cut in its text", "cut behind its text", "gone"])
def test_a_file_that_was_repaired_is_gone_on_with(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path, damage: str
) -> None:
    choose = random.Random(4)
    whole = gzip.compress("".join(f"{choose.randbytes(15).hex()}\n" for _ in range(800)).encode(), mtime=0)
    file, output = tmp_path / "a.txt.gz", tmp_path / "out"
    file.write_bytes(
        {"cut in its text": whole[: len(whole) // 2], "cut behind its text": whole[:-8], "gone": whole}[damage]
    )
    command = ["score", *model, file, "--read-ahead", "100"]
    remote = [*command, "--engine", "ray", "--output-dir", output]
    if damage == "gone":  # after it was listed
        engine.before_reading = file.unlink
    assert invoke(*remote).exit_code == 1
    assert not (output / "_SUCCESS").exists()
    done = len(parts(output)) - 1
    assert done == {"cut in its text": 3, "cut behind its text": 8, "gone": 0}[damage]
    engine.before_reading = lambda: None
    file.write_bytes(whole)
    again = invoke(*remote, "--resume")
    assert again.exit_code == 0, again.stderr
    assert f"{done} of them from before" in again.stderr or not done
    assert joined(output, header=True) == invoke(*command).stdout_bytes
    assert json.loads((output / "_SUCCESS").read_text())["rows"] == 800
    file.write_bytes(gzip.compress(b"the\n"))
    assert "differs from that of the run to resume" in invoke(*remote, "--resume").stderr


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_inputs_and_outputs_may_be_anywhere(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path, scheme: str
) -> None:
    fsspec = pytest.importorskip("fsspec")
    root = f"{scheme}://{tmp_path}"
    system = fsspec.filesystem(scheme, auto_mkdir=True)
    for path in corpus:
        system.pipe(f"{tmp_path}/texts/{path.name}", path.read_bytes())
    options = ("--output", "ids", "--engine", "ray", "--resume", "--output-dir")
    command = ["tokenize", *model, f"{root}/texts", *options, f"{root}/texts/ids"]
    assert invoke(*command).exit_code == 0
    assert invoke("tokenize", *model, corpus[0].parent, *options, tmp_path / "local").exit_code == 0
    names = sorted(system.glob(f"{tmp_path}/texts/ids/part-*"))
    assert b"".join(map(system.cat, names)) == joined(tmp_path / "local", header=False)
    done, engine.done = engine.done, 0
    # The second time, there are outputs below the input directory, which are no inputs.
    again = invoke(*command)
    assert again.exit_code == 0, again.stderr
    assert (done, engine.done) == (2 * len(names), 0)
    system.rm(f"{tmp_path}/texts/ids/{Path(names[0]).name}")
    assert invoke(*command).exit_code == 0
    assert engine.done == 1
    assert json.loads(system.cat(f"{tmp_path}/texts/ids/_SUCCESS"))["rows"] == 130 + 75 + 50
    system.rm(str(tmp_path / "texts"), recursive=True)


def test_a_seed_that_was_drawn_is_that_of_the_run_that_is_resumed(
    invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ["generate", *model, corpus[-1], "--max-new-tokens", "3", "--engine", "ray", "--output-dir", output]
    assert invoke(*command).exit_code == 0
    whole = joined(output, header=False)
    parts(output)[0].unlink()
    again = invoke(*command, "--resume")
    assert again.exit_code == 0, again.stderr
    assert joined(output, header=False) == whole


def test_a_model_that_changed_since_the_run_was_given_out_is_noticed(
    invoke: Invoke,
    engine: Engine,
    model: list[str],
    corpus: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    digests = iter(["there", "here"])
    monkeypatch.setattr(signature, "model_digest", lambda network: next(digests))
    result = invoke("score", *model, corpus[0], "--engine", "ray", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "A worker differs from" in result.stderr
    assert "found: here" in result.stderr
    assert f"where: model, on {socket.gethostname()}\n" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "ray"), "--output-dir DIR"),
        (("--engine", "ray", "--output-dir", "o", "--output", "x"), "--output: only with --engine local"),
        (("--engine", "ray", "--output-dir", "o", "--device", "cuda"), "--device: only with --engine local"),
        (
            ("--engine", "ray", "--output-dir", "o", "--gpus-per-worker", "1", "--dtype", "int8"),
            "nt8 runs on the CPU only",
        ),
        (("--engine", "ray", "--output-dir", "o", "--stride", "100000"), "stride"),
        (("--engine", "ray", "--output-dir", "o", "--column", "text"), "no columns"),
        (("--engine", "ray", "--output-dir", "o", "--lang", "xx"), "xx"),
        (("--concurrency", "2"), "--concurrency: only with --engine ray"),
        (("--output-dir", "o", "--address", "auto"), "--output-dir, --address: only with --engine ray"),
    ],
)
def test_wrong_usage_is_said_before_anything_starts(
    invoke: Invoke,
    engine: Engine,
    model: list[str],
    corpus: list[Path],
    tmp_path: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    result = invoke("score", *model, corpus[0], *(str(tmp_path / "o") if word == "o" else word for word in options))
    assert result.exit_code == (1 if said in ("nt8 runs on the CPU only", "xx") else 2)
    assert said in result.stderr
    assert not (tmp_path / "o").exists()
    assert engine.done == 0


@pytest.mark.parametrize("name", ["-", "nothing.txt", "empty", "*.gz"])
def test_there_must_be_files(invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    named = name if name == "-" else str(tmp_path / name)
    for command in ("score", "tokenize", "generate"):
        result = invoke(command, *model, named, "--engine", "ray", "--output-dir", tmp_path / "o")
        assert result.exit_code == 2, result.stderr
        assert "standard input" in result.stderr or "No such file" in result.stderr


def test_the_output_is_no_input(invoke: Invoke, engine: Engine, model: list[str], corpus: list[Path]) -> None:
    result = invoke("score", *model, corpus[0], "--engine", "ray", "--output-dir", corpus[0].parent)
    assert result.exit_code == 2
    assert "holds an input" in result.stderr


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("tokenize", ("--workers", "2"), "--workers"),
        ("tokenize", ("--gpus-per-worker", "1"), "--gpus-per-worker"),
        ("generate", ("--gpus-per-worker", "1.5"), "whole"),
        ("generate", ("--stream",), "--stream"),
        ("generate", ("--prompt", "x"), "--prompt"),
    ],
)
def test_what_does_not_go_with_ray(
    invoke: Invoke,
    engine: Engine,
    model: list[str],
    corpus: list[Path],
    command: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    file = [] if "--prompt" in options else [corpus[0]]
    result = invoke(command, *model, *file, *options, "--engine", "ray", "--output-dir", "o")
    assert result.exit_code == 2
    assert said in result.stderr
    for option in (("--resume",), ("--progress",)):
        local = invoke(command, *model, corpus[0], *option)
        assert local.exit_code == 2
        assert "only with --engine ray" in local.stderr


def test_tables_line_ends_and_gzip_data_as_the_local_command(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"text,id\rA dog.,1\rA cat.,2\r")
    (folder / "b.txt").write_bytes(b"A dog.\r\nA cat.\r\n")
    behind = gzip.compress(b"A dog.\n")
    (folder / "c.txt.gz").write_bytes(behind + gzip.compress(b"A cat.\n") + b"\0\0")
    (folder / "d.txt.gz").write_bytes(behind + b"\r\n")
    (folder / "e.tsv").write_bytes(b"id\ttext\n")
    files = sorted(folder.iterdir())
    local = invoke("score", *model, *files, "--by", "word")
    remote = invoke("score", *model, folder, "--by", "word", "--engine", "ray", "--output-dir", tmp_path / "out")
    assert local.exit_code == remote.exit_code == 0, remote.stderr
    assert joined(tmp_path / "out", header=True) == local.stdout_bytes
    said = f"warning: {files[3]}: 2 bytes at byte {len(behind)}, after the gzip data, are ignored\n"
    assert (local.stderr.count(said), remote.stderr.count(said)) == (1, 1)
    assert "error: the table has no rows" in local.stdout


@pytest.mark.parametrize("command", ["score", "tokenize", "generate"])
@pytest.mark.parametrize("first", [True, False])
def test_a_table_without_the_column_ends_the_run(
    invoke: Invoke, engine: Engine, model: list[str], tmp_path: Path, command: str, first: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"id,satz\n" if first else b"id,text\n1,the dog\n")
    (folder / "b.csv").write_bytes(b"id,satz\n1,the dog\n")
    result = invoke(command, *model, folder, "--engine", "ray", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "Error: No such column\n" in result.stderr
    assert f"where: {folder / ('a.csv' if first else 'b.csv')}" in result.stderr
    assert "found: 'id', 'satz'\n  expected: 'text'\n" in result.stderr
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert engine.done == (0 if first else 2)
