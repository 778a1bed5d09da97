"""What workers do with windows of prompts: continue them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xlm.corpus.rows import Row
from xlm.distributed.work import Lines, Step, TextStep, check_same, elsewhere
from xlm.distributed.worker_model import WorkerModel
from xlm.errors import InputError, XLMError
from xlm.generation.text_generator import Prompt, TextGenerator, check_one_line, decoding_options
from xlm.model.decoding.options import derived_seed
from xlm.scoring.signature import Signature, model_digest, signature


@dataclass(frozen=True, kw_only=True)
class GenerateWork:
    """Continuations, in the lines of ``xlm generate``.

    A row that cannot be continued has one line: an empty one, or an object with the further key ``status``.

    Attributes:
        opened: The model.
        continuation_lang: As for ``TextGenerator``.
        options: As for ``decoding_options``.
        form: ``"text"`` or ``"jsonl"``.
        seed: Of all lines of the first file. Each other file has a seed of its own, which depends on this one and its
            number.
        files: Whether objects say which file they are of.
        batch_size: Prompts that are run together, which is a window.
    """

    opened: WorkerModel
    continuation_lang: str | None
    options: Mapping[str, Any]
    form: str
    seed: int
    files: bool
    batch_size: int

    header = b""

    @property
    def suffix(self) -> str:
        """As ``Work``'s."""
        return ".txt" if self.form == "text" else ".jsonl"

    @property
    def read_at_once(self) -> int:
        """As ``Work``'s."""
        return self.batch_size

    def identity(self) -> dict[str, Any]:
        """As ``Work``'s."""
        made_with = elsewhere(self.opened, self._start(self.opened.here())[0])
        return {
            "signature": str(made_with),
            **asdict(made_with),
            "form": self.form,
            "continuation_lang": self.continuation_lang,
            "decoding": dict(self.options),
            "seed": self.seed,
        }

    def start(self, identity: Mapping[str, Any]) -> Step:
        """As ``Work``'s."""
        made_with, generator = self._start(self.opened)
        check_same(made_with, identity)
        return _GenerateStep(generator, self.form, self.seed, self.files)

    def _start(self, opened: WorkerModel) -> tuple[Signature, TextGenerator]:
        tokenizer = opened.tokenizer()
        network = opened.network()
        digest = model_digest(network)
        fast = opened.fast(network, few_rows=True)
        options = decoding_options(**self.options)
        generator = TextGenerator(
            fast, tokenizer, lang=opened.lang, continuation_lang=self.continuation_lang, options=options
        )
        return signature(fast, tokenizer, lang=opened.lang, protocol="generation", digest=digest), generator


@dataclass(frozen=True)
class _GenerateStep(TextStep):
    generator: TextGenerator
    form: str
    seed: int
    files: bool

    def lines(self, window: Sequence[Row], *, file: int) -> Lines:
        found = Lines()
        # Lines take the numbers from 0.
        seed = derived_seed(self.seed, -file) if file else self.seed
        written: dict[int, list[str]] = {row.number: [] for row in window}
        rows: list[Row] = []
        prompts: list[Prompt] = []
        refused: list[tuple[Row, XLMError]] = []
        for row in window:
            try:
                prompts.append(self._prompt(row))
                rows.append(row)
            except InputError as error:
                refused.append((row, error))
        for row, each in zip(rows, self.generator.generate_each(prompts, seed=seed), strict=True):
            if isinstance(each, XLMError):
                refused.append((row, each))
                continue
            found.counts.update(continued.continuation.stop for continued in each)
            written[row.number] += [self._line(row, one.text, one.cells()) for one in each]
        for row, why in sorted(refused, key=lambda pair: pair[0].number):
            reason = why.in_short
            found.add_problem(row, reason)
            cells = {"line": row.number, "prompt": row.text, "status": f"error: {reason}"}
            written[row.number].append(self._line(row, "", cells))
        found.data = "".join(f"{line}\n" for lines in written.values() for line in lines).encode("utf-8")
        return found

    def _line(self, row: Row, text: str, cells: Mapping[str, Any]) -> str:
        if self.form == "text":
            return text
        named = {"file": row.file, **cells} if self.files else cells
        return json.dumps(named, ensure_ascii=False, allow_nan=False)

    def _prompt(self, row: Row) -> Prompt:
        if row.text is None:
            raise InputError(row.problem or "there is no text")
        check_one_line(row.text, self.form)
        return self.generator.prompt(row.number, row.text, where="text")
