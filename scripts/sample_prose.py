"""Draw docstrings, comments and error messages of ``xlm/`` at random, for a reader to judge.

    python scripts/sample_prose.py SEED [--prose 100] [--messages 30]

prints one numbered entry per text, with its file and line. The same seed and the same code give the same list.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "xlm"
# Comments that tools read, not people.
_DIRECTIVES = ("type:", "noqa", "ruff:", "mypy:", "pragma", "fmt:", "!")
_WIDTH = 120


@dataclass(frozen=True, order=True)
class Entry:
    """A text in the code.

    Attributes:
        path: File, relative to the repository.
        line: Line on which the text starts.
        kind: ``docstring``, ``comment`` or ``message``.
        text: The text itself. In a message, ``{…}`` stands for each value.
    """

    path: str
    line: int
    kind: str
    text: str


def docstrings(tree: ast.Module, path: str) -> Iterator[Entry]:
    """Yield the docstrings of a module and of its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Entry(path, node.body[0].lineno, "docstring", text)


def comments(source: str, path: str) -> Iterator[Entry]:
    """Yield the comments of a file; consecutive lines that hold only a comment are one text."""
    lines = source.splitlines()
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#").strip()
        if not text or text.startswith(_DIRECTIVES):
            continue
        alone = lines[line - 1].lstrip().startswith("#")
        if block and alone and line == last + 1:
            block.append(text)
        else:
            if block:
                yield Entry(path, first, "comment", " ".join(block))
            block, first = [text], line
        last = line if alone else 0
    if block:
        yield Entry(path, first, "comment", " ".join(block))


def messages(tree: ast.Module, path: str) -> Iterator[Entry]:
    """Yield the messages of errors: the strings in a ``raise`` or in a call of a class or function named after one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_error(node.func):
            parts = [(None, value) for value in node.args] + [(word.arg, word.value) for word in node.keywords]
            fields = [(name, _literal(value)) for name, value in parts]
            lines = [f"{name}: {text}" if name else text for name, text in fields if text]
            if lines:
                yield Entry(path, node.lineno, "message", "\n".join(lines))


def _is_error(function: ast.expr) -> bool:
    """Return whether a call creates an error, such as ``InputError(…)`` or ``InputError.of_values(…)``."""
    names = [node.id for node in ast.walk(function) if isinstance(node, ast.Name)]
    names += [node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)]
    return any(name.endswith("Error") for name in names)


def _literal(node: ast.expr) -> str:
    """Return the text of a string expression, or an empty one if it has no literal text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) or "{…}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.IfExp):
        return " | ".join(filter(None, (_literal(node.body), _literal(node.orelse))))
    return ""


def collect(package: Path) -> tuple[list[Entry], list[Entry]]:
    """Return all docstrings and comments of a package, and all its messages, in the order of files and lines."""
    prose: list[Entry] = []
    errors: list[Entry] = []
    for file in sorted(package.rglob("*.py")):
        source, path = file.read_text(encoding="utf-8"), file.relative_to(package.parent).as_posix()
        tree = ast.parse(source)
        prose += [*docstrings(tree, path), *comments(source, path)]
        errors += messages(tree, path)
    return sorted(prose), sorted(errors)


def sample(entries: list[Entry], count: int, seed: int) -> list[Entry]:
    """Draw entries without repetition, in the order of files and lines."""
    return sorted(random.Random(seed).sample(entries, min(count, len(entries))))


def show(entries: list[Entry]) -> str:
    """Return the entries as a numbered list, each text indented under its place."""
    blocks = []
    for number, entry in enumerate(entries, 1):
        lines = [textwrap.fill(line, _WIDTH) if len(line) > _WIDTH else line for line in entry.text.splitlines()]
        blocks.append(
            f"{number:3}. {entry.path}:{entry.line} ({entry.kind})\n" + textwrap.indent("\n".join(lines), " " * 5)
        )
    return "\n\n".join(blocks)


def main() -> int:
    """Print the two lists and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--prose", type=int, default=100, metavar="N", help="docstrings and comments (100)")
    parser.add_argument("--messages", type=int, default=30, metavar="N", help="error messages (30)")
    arguments = parser.parse_args()
    prose, errors = collect(PACKAGE)
    for title, entries, count in (
        ("docstrings and comments", prose, arguments.prose),
        ("messages", errors, arguments.messages),
    ):
        drawn = sample(entries, count, arguments.seed)
        print(f"== {len(drawn)} of {len(entries):,} {title}, seed {arguments.seed}\n\n{show(drawn)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
