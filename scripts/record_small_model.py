"""Record the checksums of the bundled model and its scores of two sentences, for ``tests/test_bundled_model.py``.

    python scripts/record_small_model.py [TARGET]

Run it once after ``scripts/pack_small_model.py``. The default TARGET is ``tests/bundled_model.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xlm import XLMTokenizer, XLMWithLMHeadModel, score
from xlm._io.atomic import write_text
from xlm.checkpoint.resolve import find_model
from xlm.data.shards import file_sha256

NAME = "xlm-clm-ende-small"
SENTENCES = (
    ("en", "The old man opened the door and looked at the child."),
    ("de", "Der alte Mann öffnete die Tür und sah das Kind an."),
)


def record() -> dict[str, object]:
    """Return the SHA-256 of each file, and tokens and log-probabilities (nats) of each sentence."""
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(NAME), XLMTokenizer.from_pretrained(NAME)
    sentences = []
    for lang, text in SENTENCES:
        (result,) = score(model, tokenizer, [text], lang=lang)
        logprobs = [round(logprob, 6) for logprob in result.logprobs]
        sentences.append({"lang": lang, "text": text, "tokens": list(result.tokens), "logprobs": logprobs})
    return {
        "files": {path.name: file_sha256(path) for path in sorted(find_model(NAME).iterdir())},
        "sentences": sentences,
    }


def main() -> None:
    """Run the command."""
    target = Path(__file__).resolve().parent.parent / "tests" / "bundled_model.json"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else target
    write_text(target, json.dumps(record(), indent=1, ensure_ascii=False) + "\n")
    print(target)


if __name__ == "__main__":
    main()
