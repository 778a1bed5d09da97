"""Who may import whom.

Oracle: the table below, read against the syntax tree of every file; and, for what is imported without being used, a
fresh interpreter.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

XLM = Path(__file__).resolve().parent.parent / "xlm"

ANYONE = {"errors", "_version", "_io"}
EVERYTHING = {"model", "inference", "tokenizer", "checkpoint", "corpus", "scoring", "generation", "data", "training"}
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),  # the files of xlm/ itself; __init__ also names the public classes, to type checkers only
    "_io": set(),
    "model": set(),
    "inference": {"model"},
    "tokenizer": set(),
    "checkpoint": {"model", "tokenizer"},
    "corpus": set(),
    "scoring": {"model", "inference", "tokenizer", "corpus"},
    "generation": {"model", "tokenizer"},
    "data": {"model", "tokenizer", "checkpoint", "corpus", "scoring"},
    "training": {"model", "tokenizer", "checkpoint", "corpus", "scoring", "data"},
    "explore": {"model", "inference", "tokenizer", "checkpoint", "corpus", "scoring"},
    "parity": EVERYTHING,
    "integrations": EVERYTHING,
    "distributed": EVERYTHING,  # and only the commands import it
    "cli": {*EVERYTHING, "parity", "explore", "distributed"},
}
# Which libraries, beside the standard one; a package that is not named here may use any.
LIBRARIES: dict[str, set[str]] = {"": set(), "_io": set(), "model": {"torch"}, "inference": {"torch"}}
# Methods in which an import may look upward, and to which package.
LOOK_UPWARD = {"from_pretrained": "checkpoint", "save_pretrained": "checkpoint", "for_inference": "inference"}


@dataclass(frozen=True)
class Import:
    """One imported module, with where it stands: the functions around it and whether only type checkers see it."""

    module: str
    line: int
    functions: tuple[str, ...] = ()
    typing_only: bool = False


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Every import in a file, whose own name is ``module``; ``from xlm import x`` counts as ``xlm.x``."""

    def visit(node: ast.AST, functions: tuple[str, ...], typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, functions, typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])]) if node.level else None
            origin = base or node.module or ""
            for alias in node.names:
                full = f"{origin}.{alias.name}" if origin == "xlm" else origin
                yield Import(full, node.lineno, functions, typing_only)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for child in ast.iter_child_nodes(node):
                yield from visit(child, (*functions, node.name), typing_only)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, functions, True)
            for child in node.orelse:
                yield from visit(child, functions, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, functions, typing_only)

    return visit(ast.parse(source), (), False)


def violations(path: str, source: str) -> list[str]:
    """What a file, named by its path below ``xlm/``, imports against the rules."""
    parts = Path(path).with_suffix("").parts
    package = parts[0] if len(parts) > 1 or parts[0] in MAY_IMPORT else ""
    if package not in MAY_IMPORT:
        return [f"{path}: the package xlm.{package} stands in no import rule"]
    return [
        f"{path}:{found.line}: {found.module}"
        for found in imports_of(source, ".".join(("xlm", *parts)))
        if not _allowed(package, path, found)
    ]


def _allowed(package: str, path: str, found: Import) -> bool:
    library, _, rest = found.module.partition(".")
    if library == "xlm":
        target = rest.partition(".")[0]
        if target == "cli":
            return package == "cli" or path == "__main__.py"
        if path == "__init__.py" and found.typing_only:
            return True
        if package == "cli" and (not target or target not in MAY_IMPORT):
            return True  # the public names, xlm.score and others
        upward = {LOOK_UPWARD.get(function) for function in found.functions[-1:]}
        return target in {package, *ANYONE, *MAY_IMPORT[package], *upward} - {"", None}
    if library in sys.stdlib_module_names:
        return True
    if library in ("benchmarks", "scripts", "tests"):
        return False  # they are not in the wheel
    if library in ("transformers", "ray") and not found.functions:
        return False  # optional: an import outside a function would make it a requirement
    if library == "torch" and package == "tokenizer":
        return bool(found.functions)  # for return_tensors="pt"; whoever only wants ids never waits for torch
    if library == "typing_extensions":
        return found.typing_only  # no dependency: mypy knows it without its being installed
    if package == "model" and found.functions:
        return False  # torch, at the head of the file
    return library in LIBRARIES.get(package, {library})


FILES = sorted(str(path.relative_to(XLM)) for path in XLM.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_imports_only_what_it_may(path: str) -> None:
    assert violations(path, (XLM / path).read_text("utf-8")) == []


UPWARD = "class A:\n    def {}(self):\n        from xlm.checkpoint.load import load_model\n"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_io/files.py", "import numpy"),
        ("_io/files.py", "from xlm.tokenizer.tokenizer import XLMTokenizer"),
        ("model/lm.py", "import numpy"),
        ("model/lm.py", "from xlm.tokenizer.tokenizer import XLMTokenizer"),
        ("model/lm.py", "from xlm import XLMTokenizer"),
        ("model/lm.py", "from ..scoring import score"),
        ("model/lm.py", "from xlm.checkpoint.load import load_model"),
        ("model/lm.py", UPWARD.format("forward")),
        ("model/lm.py", UPWARD.format("for_inference")),
        ("model/lm.py", "from xlm.inference.packed_model import InferenceModel"),
        ("inference/loading.py", "from xlm.checkpoint.load import load_model"),
        ("model/lm.py", "def forward():\n    import torch"),
        ("tokenizer/bpe.py", "import torch.nn"),
        ("tokenizer/bpe.py", "if True:\n    from torch import Tensor"),
        ("tokenizer/bpe.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("tokenizer/bpe.py", "from xlm.model.config import XLMConfig"),
        ("checkpoint/load.py", "from xlm.scoring.score import score"),
        ("checkpoint/load.py", "import transformers"),
        ("scoring/score.py", "from xlm.checkpoint.load import load_model"),
        ("data/stream.py", "from xlm.training.loop import train"),
        ("training/loop.py", "from xlm.cli import main"),
        ("parity/peer.py", "import xlm.cli.bench"),
        ("scoring/score.py", "from xlm.parity import compare"),
        ("scoring/score.py", "from xlm.explore.explorer import Explorer"),
        ("explore/explorer.py", "from xlm.training.loop import train"),
        ("explore/app.py", "from xlm.cli.generate import command"),
        ("parity/peer.py", "from xlm.cli import main"),
        ("generation/text_generator.py", "from xlm.scoring.score import score"),
        ("training/loop.py", "from xlm.distributed.pipeline import run"),
        ("parity/peer.py", "from xlm.distributed.pipeline import run"),
        ("distributed/pipeline.py", "from xlm.cli.score import command"),
        ("distributed/pipeline.py", "import ray"),
        ("__init__.py", "from xlm.model.lm import XLMWithLMHeadModel"),
        ("__init__.py", "import torch"),
        ("errors.py", "from xlm.model.config import XLMConfig"),
        ("cli/bench.py", "def command():\n    from benchmarks.report import Report"),
        ("unheard_of/file.py", ""),
    ],
)
def test_the_rules_catch(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/lm.py", "import torch\nfrom torch import nn\nfrom xlm.errors import InputError\nfrom . import cache"),
        ("model/lm.py", UPWARD.format("from_pretrained")),
        ("model/lm.py", "def for_inference():\n    from xlm.inference.packed_model import InferenceModel"),
        ("inference/loading.py", "import torch\nfrom xlm.model.lm import XLMWithLMHeadModel"),
        ("tokenizer/tokenizer.py", UPWARD.format("save_pretrained")),
        ("tokenizer/moses/data.py", "import sacremoses"),
        ("tokenizer/encoding.py", "def f():\n    import torch"),
        ("explore/app.py", "import starlette\nfrom xlm.scoring.score import score"),
        ("parity/peer.py", "import torch\nfrom xlm.checkpoint.load import load_model"),
        ("checkpoint/load.py", "import numpy\nfrom xlm._io.atomic import replacing\nimport xlm.model.lm"),
        ("checkpoint/load.py", "def f():\n    import transformers"),
        ("distributed/pipeline.py", "from xlm.scoring.table import windows\ndef f():\n    import ray.data"),
        ("cli/generate.py", "def f():\n    from xlm.distributed.pipeline import run"),
        (
            "cli/score.py",
            "import xlm\nfrom xlm import score\nfrom xlm.parity import run\nfrom xlm.cli.options import x",
        ),
        ("__main__.py", "from xlm.cli import main"),
        ("__init__.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from xlm.model.lm import XLMOutput"),
    ],
)
def test_the_rules_allow(path: str, source: str) -> None:
    assert violations(path, source) == []


def _imported_by(code: str, *libraries: str) -> list[str]:
    """Which of the libraries are imported after ``code`` in a fresh interpreter that takes warnings for errors."""
    program = f"import sys\n{code}\nprint(*(name for name in {libraries!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_import_xlm_imports_no_library() -> None:
    heavy = ("torch", "numpy", "sacremoses", "transformers", "safetensors", "click")
    assert _imported_by("import xlm; xlm.XLMError; dir(xlm)", *heavy) == []
    assert _imported_by("import numpy", *heavy) == ["numpy"]


def test_the_tokenizer_does_not_import_torch() -> None:
    modules = [".".join(("xlm", *Path(path).with_suffix("").parts)) for path in FILES if path.startswith("tokenizer")]
    assert _imported_by("\n".join(f"import {module}" for module in modules), "torch", "transformers") == []


def test_the_model_imports_no_other_library() -> None:
    found = _imported_by("import xlm.model.lm", "torch", "sacremoses", "transformers", "safetensors", "click")
    assert found == ["torch"]
