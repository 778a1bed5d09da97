"""The pages under docs/. Oracle: exit statuses of their blocks; the files that links name; mkdocs, strictly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.documents import (
    COLUMNS,
    NOT_CODE,
    PAGES,
    README,
    RUN,
    blocks_of,
    commands_of,
    prepare,
    run_in_terminal,
    run_page,
    with_outputs,
)

NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
WITH_CODE = [
    name
    for name in NAMES
    if any(
        block.runs and (block.language == "python" or commands_of(block))
        for block in blocks_of((REPOSITORY / name).read_text("utf-8"))
    )
]


@pytest.mark.parametrize("name", WITH_CODE)
def test_its_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for needed in re.findall(r"^<!-- needs: (\w+) -->$", text, flags=re.MULTILINE):
        pytest.importorskip(needed)
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = run_page(text)
    assert len(printed) == sum(block.runs for block in blocks_of(text))
    assert "" not in [output for block, output in printed.items() if block.code.startswith("print(")]


@pytest.mark.parametrize("name", ["README.md", *NAMES])
def test_each_block_is_run_or_says_why_not(name: str) -> None:
    for block in blocks_of((REPOSITORY / name).read_text(encoding="utf-8")):
        assert block.language in (*RUN, *NOT_CODE, "toml", "yaml", "r"), f"{block.code[:60]}: no language that is known"
        if block.language in ("toml", "yaml", "r"):
            assert block.note.startswith("not run: ")
        assert block.note in ("", "output") or re.match(r"(not run|needs|runs with): \w", block.note), block.note
        if block.note == "output":
            assert block.language == "text"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", *NAMES])
def test_links_lead_somewhere(name: str) -> None:
    page = REPOSITORY / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if page != README:
            assert (REPOSITORY / "docs") in target.parents, f"{link}: outside of docs/ it is no page"
        if anchor and not anchor.startswith("xlm."):
            assert anchor in anchors(target), link


def test_outputs_are_written_under_what_prints_them() -> None:
    page = "```bash\necho a\n```\n\n<!-- output -->\n```text\nold\n```\n\n```text\nkept\n```\n"
    block = blocks_of(page)[0]
    assert with_outputs(page, {block: "new\n\n"}) == page.replace("old", "new")
    marked = "<!-- not run: it takes hours -->\n\n```bash\nxlm train\n```\n"
    assert not blocks_of(marked)[0].runs
    assert commands_of(blocks_of("```bash\npip install x\nxlm a \\\n  b   # why\n# only this\n```\n")[0]) == [
        "xlm a    b"
    ]


def test_the_output_of_a_page_is_that_of_a_terminal() -> None:
    code = """import os, sys
print(sys.stdout.isatty(), sys.stdin.isatty(), os.get_terminal_size(1).columns)
print(sys.stdin.read(), "ä" * 100_000)
print("not shown", file=sys.stderr)"""
    printed = run_in_terminal([sys.executable, "-c", code], b"input")
    assert printed.decode() == f"True False {COLUMNS}\ninput {'ä' * 100_000}\n"
    with pytest.raises(AssertionError, match="what went wrong"):
        run_in_terminal([sys.executable, "-c", "import sys; sys.exit('what went wrong')"], b"")


def test_mkdocs_builds_every_page_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        built = tmp_path / "site" / Path(name).relative_to("docs").with_suffix(".html")
        html = built.read_text(encoding="utf-8")
        # The pages open without a network.
        assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!arxiv|github)[^"]*"', html) == []
    assert "XLMWithLMHeadModel.generate" in (tmp_path / "site/api/model.html").read_text(encoding="utf-8")
    assert "tokens/s" in (tmp_path / "site/benchmarks.html").read_text(encoding="utf-8")
