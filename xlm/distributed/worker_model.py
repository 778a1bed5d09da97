"""What a worker loads, once: a tokenizer, and a model whose weights stay mapped from their file where they can."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from xlm._io.arguments import check_count
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.opening import made_fast, open_model
from xlm.tokenizer.tokenizer import XLMTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerModel:
    """A model by its name, with how it is to be opened.

    Attributes:
        model: A model directory or a checkpoint of the original, under a path that every worker sees; the bundled
            model, or an id on the Hugging Face hub.
        lang: Name of the language of the texts.
        preset: Text pipeline; ``None`` for the model's own.
        codes: BPE codes, for a checkpoint of the original.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``int8``, or ``auto`` for what the file holds.
        device: Where to compute; ``None`` means the worker's GPU where it was given one, else the CPU.
        threads: Threads of torch; ``None`` leaves them as they are. What Ray starts has as many as it asked CPUs for.
    """

    model: str
    lang: str
    preset: str | None = None
    codes: str | None = None
    dtype: str = "float32"
    device: str | None = None
    threads: int | None = None

    def tokenizer(self, *, offsets: bool = False) -> XLMTokenizer:
        """The tokenizer.

        Args:
            offsets: Whether it must be able to say where its words come from.

        Raises:
            VocabularyError: Its files are broken.
            CheckpointError: There is no such model.
            LanguageError: It does not have the language, or cannot say where the words come from.
        """
        tokenizer = XLMTokenizer.from_pretrained(self.model, preset=self.preset, codes=self.codes)
        tokenizer("", lang=self.lang, return_offsets=offsets)
        return tokenizer

    def network(self) -> XLMWithLMHeadModel:
        """The model as its file has it.

        Raises:
            InputError: There is no such device, it cannot compute in that type, or there is no such number of threads.
            CheckpointError: There is no such model.
        """
        if self.threads is not None:
            check_count(threads=self.threads)
            torch.set_num_threads(self.threads)
        default = "cuda" if torch.cuda.is_available() else "cpu"
        device = default if self.device is None else self.device
        return open_model(self.model, dtype=self.dtype, device=device)

    def here(self) -> WorkerModel:
        """The same, to be looked at where the work is given out: on the CPU, with the threads that there are."""
        return dataclasses.replace(self, device="cpu", threads=None)

    def fast(self, network: XLMWithLMHeadModel, *, few_rows: bool) -> XLMWithLMHeadModel:
        """The model in the form that computes fastest, as ``made_fast``."""
        return made_fast(network, dtype=self.dtype, few_rows=few_rows)
