"""Which package may import which, and that no modules import each other in a circle.

Oracle: the table below, compared with the imports in the syntax tree of every file; small made-up packages with each
kind of circle; and a fresh interpreter that shows which libraries an import loads.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

XLM = Path(__file__).resolve().parent.parent / "xlm"

ANYONE = {"errors", "_version", "_io"}
EVERYTHING = {
    "model",
    "inference",
    "tokenizer",
    "checkpoint",
    "corpus",
    "scoring",
    "evaluation",
    "generation",
    "data",
    "translation",
    "training",
}
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),  # the files of xlm/ itself; __init__ also names the public classes, to type checkers only
    "_io": set(),
    "model": set(),
    "inference": {"model"},
    "tokenizer": set(),
    "checkpoint": {"model", "tokenizer"},
    "corpus": set(),
    "scoring": {"model", "inference", "tokenizer", "corpus"},
    "evaluation": {"model", "tokenizer", "corpus", "scoring"},
    "generation": {"model", "tokenizer"},
    "data": {"model", "tokenizer", "checkpoint", "corpus", "scoring"},
    "translation": {"model", "tokenizer", "corpus", "data"},
    "training": {"model", "tokenizer", "checkpoint", "corpus", "scoring", "data", "translation"},
    "explore": {"model", "inference", "tokenizer", "checkpoint", "corpus", "scoring"},
    "parity": EVERYTHING,
    "integrations": EVERYTHING,
    "distributed": EVERYTHING,  # and only the commands import it
    "cli": {*EVERYTHING, "parity", "explore", "distributed"},
}
# Libraries that a package may import besides the standard library; a package that is not named may import any.
LIBRARIES: dict[str, set[str]] = {"": set(), "_io": {"tqdm"}, "model": {"torch"}, "inference": {"torch"}}
# Methods that may import from a package further down in the table, and the package.
LOOK_UPWARD = {
    "from_pretrained": "checkpoint",
    "from_encoder_decoder_pretrained": "checkpoint",
    "save_pretrained": "checkpoint",
    "for_inference": "inference",
}


@dataclass(frozen=True)
class Import:
    """One import.

    Attributes:
        module: The module after ``import`` or ``from``, as an absolute name.
        name: The name after ``from ... import``.
        line: Line number.
        functions: Names of the functions around it, from the outermost to the innermost.
        typing_only: Whether it is inside ``if TYPE_CHECKING``.
    """

    module: str
    name: str | None
    line: int
    functions: tuple[str, ...]
    typing_only: bool


def imports_of(path: str, source: str) -> Iterator[Import]:
    """Yield every import in a file, named by its path below ``xlm/``."""
    parts = ("xlm", *Path(path).with_suffix("").parts)

    def visit(node: ast.AST, functions: tuple[str, ...], typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, functions, typing_only)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*(parts[: -node.level] if node.level else ()), *filter(None, [node.module])])
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, functions, typing_only)
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
    """Return the imports of a file, named by its path below ``xlm/``, that break the rules."""
    parts = Path(path).with_suffix("").parts
    package = parts[0] if len(parts) > 1 or parts[0] in MAY_IMPORT else ""
    if package not in MAY_IMPORT:
        return [f"{path}: no import rule for the package xlm.{package}"]
    return [
        f"{path}:{each.line}: {each.module}"
        for each in imports_of(path, source)
        if not _is_allowed(package, path, each)
    ]


def _is_allowed(package: str, path: str, each: Import) -> bool:
    library, _, rest = each.module.partition(".")
    if library == "xlm":
        target = rest.partition(".")[0] or each.name or ""
        if target == "cli":
            return package == "cli" or path == "__main__.py"
        if path == "__init__.py" and each.typing_only:
            return True
        if package == "cli" and (not target or target not in MAY_IMPORT):
            return True  # a public name, such as xlm.score
        upward = {LOOK_UPWARD.get(function) for function in each.functions[-1:]}
        return target in {package, *ANYONE, *MAY_IMPORT[package], *upward} - {"", None}
    if library in sys.stdlib_module_names:
        return True
    if library in ("benchmarks", "scripts", "tests"):
        return False  # they are not in the wheel
    if library in ("transformers", "ray") and not each.functions:
        return False  # optional libraries: an import outside a function would make them required
    if library == "torch" and package == "tokenizer":
        return bool(each.functions)  # for return_tensors="pt"; other calls do not load torch
    if library == "typing_extensions":
        return each.typing_only  # not a dependency: mypy knows it even if it is not installed
    if package == "model" and each.functions:
        return False  # torch is imported at the head of the file
    return library in LIBRARIES.get(package, {library})


FILES = sorted(str(path.relative_to(XLM)) for path in XLM.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_imports_only_what_it_may(path: str) -> None:
    assert violations(path, (XLM / path).read_text("utf-8")) == []


def import_graph(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, at module level or in a function.

    Not counted are imports for type checkers, and those in the methods of ``LOOK_UPWARD``.

    Args:
        files: Sources by path below ``xlm/``.
    """
    modules = {_module_name(path): path for path in files}
    lazy_names = {module: _lazy_names(path, files[path]) for module, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        own_packages = {module, *_packages_of(module)}
        graph[module] = targets = set()
        for each in imports_of(path, files[path]):
            if each.typing_only or set(each.functions[-1:]) & LOOK_UPWARD.keys():
                continue
            submodule = f"{each.module}.{each.name}"
            lazy_name = lazy_names.get(each.module, {}).get(each.name)
            target = submodule if submodule in modules else lazy_name or each.module
            # Python runs the __init__ files of all packages around a module first. Those around the importing module
            # have begun already.
            targets |= ({target} | (_packages_of(target) - own_packages)) & modules.keys()
    return graph


def _module_name(path: str) -> str:
    return ".".join(("xlm", *Path(path).with_suffix("").parts)).removesuffix(".__init__")


def _packages_of(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _lazy_names(path: str, source: str) -> dict[str | None, str]:
    """Return the modules of the names that an ``__init__`` file imports on first use.

    Such a file names them in a dictionary of strings, or to type checkers.
    """
    if not path.endswith("__init__.py"):
        return {}
    names: dict[str | None, str] = {each.name: each.module for each in imports_of(path, source) if each.typing_only}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    names[str(key.value)] = str(value.value)
    return names


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return each group of modules that import each other, directly or through others."""
    reachable: dict[str, set[str]] = {}
    for module in graph:
        reachable[module], pending = set(), [module]
        while pending:
            new = graph[pending.pop()] - reachable[module]
            reachable[module] |= new
            pending += new
    groups = {frozenset(b for b in reachable[a] if a in reachable[b]) for a in graph if a in reachable[a]}
    return sorted(map(sorted, groups))


def test_no_modules_import_each_other() -> None:
    graph = import_graph({path: (XLM / path).read_text("utf-8") for path in FILES})
    assert circles(graph) == []
    assert "xlm.model.transformer" in graph["xlm.model.network"]


def test_no_packages_may_import_each_other() -> None:
    assert circles(MAY_IMPORT) == []


METHOD = "class A:\n    def {}(self):\n        from xlm.b import B\n"
TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"a.py": "import xlm.b", "b.py": "import xlm.a"}, [["xlm.a", "xlm.b"]], id="import"),
        pytest.param({"a.py": "from xlm.b import B", "b.py": "from xlm.a import A"}, [["xlm.a", "xlm.b"]], id="from"),
        pytest.param({"a.py": "from xlm import b", "b.py": "from xlm import a"}, [["xlm.a", "xlm.b"]], id="submodule"),
        pytest.param({"a.py": "from . import b", "b.py": "from .a import A"}, [["xlm.a", "xlm.b"]], id="relative"),
        pytest.param(
            {"p/a.py": "from ..q.b import B", "q/b.py": "from ..p import a"},
            [["xlm.p.a", "xlm.q.b"]],
            id="relative, from another package",
        ),
        pytest.param(
            {"a.py": "import xlm.b", "b.py": "def f():\n    def g():\n        from xlm.a import A"},
            [["xlm.a", "xlm.b"]],
            id="in a function",
        ),
        pytest.param(
            {"a.py": METHOD.format("forward"), "b.py": "import xlm.a"}, [["xlm.a", "xlm.b"]], id="in another method"
        ),
        pytest.param(
            {"a.py": "import xlm.b", "b.py": "try:\n    import xlm.c\nfinally:\n    pass", "c.py": "import xlm.a"},
            [["xlm.a", "xlm.b", "xlm.c"]],
            id="of three",
        ),
        pytest.param({"a.py": "from xlm.a import A"}, [["xlm.a"]], id="itself"),
        pytest.param(
            {
                "a.py": "import xlm.b",
                "b.py": "import xlm.a",
                "c.py": "import xlm.d",
                "d.py": "import xlm.c\nimport xlm.a",
            },
            [["xlm.a", "xlm.b"], ["xlm.c", "xlm.d"]],
            id="two circles",
        ),
        pytest.param(
            {"__init__.py": "from xlm.a import A", "a.py": "from xlm import A"}, [["xlm", "xlm.a"]], id="through xlm"
        ),
        pytest.param(
            {"__init__.py": "from xlm.a import A", "a.py": "import xlm"}, [["xlm", "xlm.a"]], id="xlm as a whole"
        ),
        pytest.param(
            {"__init__.py": f"{TYPING}from xlm.a import A", "a.py": "import xlm.b", "b.py": "from xlm import A"},
            [["xlm.a", "xlm.b"]],
            id="a lazy name, for type checkers",
        ),
        pytest.param(
            {"__init__.py": "_LAZY = {'A': 'xlm.a'}", "a.py": "import xlm.b", "b.py": "from . import A"},
            [["xlm.a", "xlm.b"]],
            id="a lazy name, in a dictionary",
        ),
        pytest.param(
            {"p/__init__.py": "from .b import B", "p/b.py": "import xlm.a", "p/c.py": "", "a.py": "import xlm.p.c"},
            [["xlm.a", "xlm.p", "xlm.p.b"]],
            id="through the package of an imported module",
        ),
        pytest.param(
            {"p/__init__.py": "from .b import B", "p/b.py": "from . import C"}, [["xlm.p", "xlm.p.b"]], id="its package"
        ),
    ],
)
def test_a_circle_is_found(files: dict[str, str], expected: list[list[str]]) -> None:
    assert circles(import_graph(files)) == expected


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a.py": "import xlm.b\nimport torch", "b.py": "from xlm.c import C", "c.py": ""}, id="a line"),
        pytest.param({"a.py": METHOD.format("from_pretrained"), "b.py": "import xlm.a"}, id="from_pretrained"),
        pytest.param(
            {"a.py": METHOD.format("from_encoder_decoder_pretrained"), "b.py": "import xlm.a"},
            id="from_encoder_decoder_pretrained",
        ),
        pytest.param({"a.py": METHOD.format("save_pretrained"), "b.py": "import xlm.a"}, id="save_pretrained"),
        pytest.param({"a.py": METHOD.format("for_inference"), "b.py": "import xlm.a"}, id="for_inference"),
        pytest.param({"a.py": f"{TYPING}import xlm.b", "b.py": "import xlm.a"}, id="for type checkers"),
        pytest.param(
            {
                "p/__init__.py": "from .b import B",
                "p/b.py": "from .c import C",
                "p/c.py": "from xlm.p import d",
                "p/d.py": "",
            },
            id="modules of a package that its __init__ imports",
        ),
        pytest.param(
            {"__init__.py": "from xlm.a import A", "a.py": "from xlm import b", "b.py": "import torch"},
            id="a submodule",
        ),
    ],
)
def test_no_circle_is_found(files: dict[str, str]) -> None:
    assert circles(import_graph(files)) == []


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
    """Return those of the libraries that ``code`` imports in a fresh interpreter; warnings are errors."""
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
    libraries = ("torch", "sacremoses", "transformers", "safetensors", "click")
    assert _imported_by("import xlm.model.lm", *libraries) == ["torch"]
