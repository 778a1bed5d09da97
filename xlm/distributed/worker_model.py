"""What a worker loads, once: a tokenizer, and a model whose weights stay mapped from their file where they can."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from xlm._io.arguments import check_count
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.signature import ModelSource


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerModel(ModelSource):
    """A model under a name that every worker knows, with how to open it there.

    Attributes:
        lang: Name of the language of the texts.
        threads: Threads of torch; ``None`` leaves them as they are. What Ray starts has as many as it asked CPUs for.
    """

    lang: str
    threads: int | None = None

    def network(self) -> XLMWithLMHeadModel:
        """Open the model as its file has it; errors as for ``ModelSource``, and for no such number of threads."""
        if self.threads is not None:
            check_count(threads=self.threads)
            torch.set_num_threads(self.threads)
        return ModelSource.network(self)

    def here(self) -> WorkerModel:
        """Return the same, to be opened where the work is given out: on the CPU, with the threads that there are."""
        return dataclasses.replace(self, device="cpu", threads=None)
