"""The blocks of R and polars in docs/psycholinguistics.md. Oracle: the file that its pandas blocks write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.documents import blocks_of, prepare, run_page

PAGE = REPOSITORY / "docs" / "psycholinguistics.md"
KEY = ["subject", "item", "sentence", "number"]
SHARED = [*KEY, "word", "rt", "surprisal", "length", "previous_surprisal", "unknown", "status"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The rows of ``regression.csv``; the folder is the current one, with the other files of the page."""
    pandas = pytest.importorskip("pandas")
    folder = tmp_path_factory.mktemp("page")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(PAGE.read_text(encoding="utf-8"))
        yield pandas.read_csv("regression.csv").sort_values(KEY, ignore_index=True)[SHARED]


def block(language: str, start: str) -> str:
    (code,) = [
        each.code
        for each in blocks_of(PAGE.read_text(encoding="utf-8"))
        if each.language == language and each.code.startswith(start)
    ]
    return code


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R")
def test_r(expected: Any) -> None:
    import pandas

    code = block("r", "times <-") + 'write.csv(data, "r.csv", row.names = FALSE)\n'
    Path("page.R").write_text(code, encoding="utf-8")
    done = subprocess.run(["Rscript", "--vanilla", "page.R"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = pandas.read_csv("r.csv").sort_values(KEY, ignore_index=True)[SHARED]
    pandas.testing.assert_frame_equal(found, expected)


def test_polars(expected: Any) -> None:
    polars = pytest.importorskip("polars")
    names: dict[str, Any] = {}
    exec(compile(block("python", "import polars"), "page", "exec"), names)
    found = names["data"].sort(KEY).select(SHARED)
    assert found.equals(polars.from_pandas(expected).cast(found.schema))
