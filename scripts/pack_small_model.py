"""Pack a trained model as the one that comes with the package.

    python scripts/pack_small_model.py RUN/best [TARGET]

TARGET (default ``xlm/models/xlm-clm-ende-small``) is replaced. Weights are written in float16. Like the tokenizer of a
converted model, the packed tokenizer also accepts texts without a language. If the files are larger than 8 MB when
compressed as in a wheel, the script changes nothing and exits with status 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

from xlm import XLMTokenizer, convert
from xlm.errors import XLMError

BUNDLED = Path(__file__).resolve().parent.parent / "xlm" / "models" / "xlm-clm-ende-small"
LARGEST = 8_000_000
"""Bytes, compressed."""


def compressed_size(directory: Path) -> int:
    """Return the size in bytes of the files in a directory, each compressed as in a wheel."""
    return sum(len(zlib.compress(path.read_bytes())) for path in sorted(directory.iterdir()))


def pack(source: Path, target: Path) -> int:
    """Write the model, and return its compressed size in bytes.

    Raises:
        XLMError: The source is not a model, the model is too large, or the target could not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        directory = Path(scratch) / target.name
        convert(source, directory, dtype="float16")
        XLMTokenizer.from_pretrained(directory, preset_without_lang="transformers").save_pretrained(directory)
        size = compressed_size(directory)
        if size > LARGEST:
            raise XLMError("the model is too large", where=source, found=f"{size:,} bytes", expected=f"{LARGEST:,}")
        if target.exists():
            shutil.rmtree(target)
        directory.rename(target)
    return size


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=BUNDLED)
    arguments = parser.parse_args()
    try:
        size = pack(arguments.source, arguments.target)
    except XLMError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.target}: {size:,} bytes compressed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
