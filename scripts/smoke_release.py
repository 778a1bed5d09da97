"""Build the wheel and the sdist, install them away from this checkout, and try them out.

    python scripts/smoke_release.py [--python PYTHON …] [--beside PYTHON …] [--keep DIRECTORY]

Each ``--python`` (default: this one) gets a fresh environment with the versions of ``constraints.txt``, which downloads
torch. ``--beside`` adds the wheel to the packages that a Python already has, whatever their versions. Needs
``pip install build mypy``. Each environment runs the import, every ``--help``, a conversion in both directions, the
score of a sentence, and mypy on a user's program. The last output is the size of the base install.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
USER_PROGRAM = """\
import xlm
from xlm import XLMTokenizer, XLMWithLMHeadModel, score

tokenizer = XLMTokenizer.from_pretrained("demo")
model = XLMWithLMHeadModel.from_pretrained("demo")
total: float = sum(result.logprob for result in score(model, tokenizer, ["The dog"], lang="en"))
reveal_type(score(model, tokenizer, ["The dog"], lang="en"))
reveal_type(model.generate)
"""
WRONG_PROGRAM = 'from xlm import XLMTokenizer\n\nXLMTokenizer.from_pretrained("demo").encode(3)\n'
WEIGHTS = """\
from importlib.metadata import distributions
sizes = {}
for d in distributions():
    files = [d.locate_file(f) for f in d.files or ()]
    sizes[f"{d.name} {d.version}"] = sum(f.stat().st_size for f in files if f.is_file()) / 1e6
for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
    if size >= 1 or name.startswith("xlm "):
        print(f"  {size:8.1f} MB  {name}")
print(f"  {sum(sizes.values()):8.1f} MB  all {len(sizes)}")
"""


def run(*command: object, cwd: Path, environment: dict[str, str] | None = None, fails: bool = False) -> str:
    """Print and run a command, and return its output; exit if its status is not the expected one."""
    words = list(map(str, command))
    print("$", " ".join(word if len(word) < 60 and "\n" not in word else "…" for word in words), flush=True)
    # The environment must not contain anything of this checkout or of the caller.
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(
        words, cwd=cwd, env={**inherited, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if (done.returncode != 0) != fails:
        raise SystemExit(f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(directory: Path) -> tuple[Path, Path]:
    """Build both; the wheel is built from the sdist, so that files missing there are noticed."""
    # If the build backend is installed, do not download it again.
    alone = [] if importlib.util.find_spec("hatchling") is None else ["--no-isolation"]
    run(sys.executable, "-m", "build", *alone, "--outdir", directory, REPOSITORY, cwd=directory)
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert "xlm/py.typed" in names
    assert all(name.startswith(("xlm/", "xlm-")) for name in names), "the wheel holds more than the package"
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"}
    wanted |= {"benchmarks/__main__.py", "scripts/test"}
    assert wanted <= packed, f"the sdist lacks {wanted - packed}"
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB")
    return wheel, sdist


def try_out(python: Path, work: Path, environment: dict[str, str], version: str) -> None:
    """Run what a new user runs first, with one Python."""
    xlm = [python, "-m", "xlm"]
    printed = run(
        python,
        "-c",
        "import sys, importlib.metadata as m, xlm; "
        "print(xlm.__version__, m.version('xlm'), [n for n in xlm.__all__ if getattr(xlm, n) is None], xlm.__file__)",
        cwd=work,
        environment=environment,
    )
    assert printed.startswith(f"{version} {version} [] "), printed
    assert str(REPOSITORY) not in printed, "it is the checkout that was imported"
    listed = run(*xlm, "--help", cwd=work, environment=environment).partition("Commands:")[2]
    commands = [line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line[4] != " "]
    assert "convert" in commands
    for command in commands:
        run(*xlm, command, "--help", cwd=work, environment=environment)
    shutil.copy(REPOSITORY / "scripts" / "make_demo_checkpoint.py", work)
    run(python, "make_demo_checkpoint.py", ".", cwd=work, environment=environment)
    run(*xlm, "convert", "demo.pth", "demo", "--codes", "codes", cwd=work, environment=environment)
    run(*xlm, "convert", "demo", "again.pth", "--to", "original", cwd=work, environment=environment)
    (work / "text").write_text("The small dog is sleeping.\n", encoding="utf-8")
    scores = [
        run(*xlm, "score", *model, "--lang", "en", "text", cwd=work, environment=environment)
        for model in (["demo"], ["again.pth", "--codes", "codes"])
    ]
    assert scores[0] == scores[1]
    assert "ok" in scores[0]
    run(*xlm, "score", "no-such-model", "--lang", "en", "text", cwd=work, environment=environment, fails=True)


def check_types(python: Path, work: Path, environment: dict[str, str]) -> None:
    """Check a user's program with mypy against the installed package, and that a wrong one is refused."""
    (work / "user.py").write_text(USER_PROGRAM, encoding="utf-8")
    (work / "wrong.py").write_text(WRONG_PROGRAM, encoding="utf-8")
    # The types are read from the environment; mypy itself is the caller's.
    path = environment.get("PYTHONPATH", "")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", work / "cache"]
    # Among other packages, mypy treats ours as source and would check its imports too.
    mypy += ["--follow-imports", "silent"] if path else []
    told = run(*mypy, "user.py", cwd=work, environment={"MYPYPATH": path} if path else {})
    assert "list[xlm.scoring.scorer.SentenceScore]" in told, told
    told = run(*mypy, "wrong.py", cwd=work, environment={"MYPYPATH": path} if path else {}, fails=True)
    assert 'incompatible type "int"; expected "str"' in told, told


def main() -> int:
    """Build, and try out each Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="gets a fresh environment")
    parser.add_argument("--beside", action="append", default=[], metavar="PYTHON", help="serves as it is")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="put wheel and sdist there")
    arguments = parser.parse_args()
    fresh = arguments.python or ([] if arguments.beside else [sys.executable])
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "dist").mkdir()
        wheel, sdist = build(scratch / "dist")
        version = wheel.name.split("-")[1]
        for number, maker in enumerate([*fresh, *arguments.beside]):
            work = scratch / f"work{number}"
            work.mkdir()
            print(f"\n== {maker}: {run(maker, '--version', cwd=work).strip()}")
            if number < len(fresh):
                run(maker, "-m", "venv", "environment", cwd=work)
                python, environment = work / "environment" / "bin" / "python", {}
                pins = ["--constraint", REPOSITORY / "constraints.txt"]
                run(python, "-m", "pip", "install", "--quiet", *pins, wheel, cwd=work)
            else:
                # Keep the path as typed: the target of a link in an environment does not know the environment.
                python = Path(os.path.abspath(maker))  # noqa: PTH100
                environment = {"PYTHONPATH": str(work / "beside")}
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", work / "beside"]
                run(*pip, wheel, cwd=work)
            try_out(python, work, environment, version)
            check_types(python, work, environment)
            if number < len(fresh):
                print("the base install weighs")
                print(run(python, "-c", WEIGHTS, cwd=work), end="")
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for file in (wheel, sdist):
                shutil.copy(file, arguments.keep)
    print("\nall well")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
