"""The collator for language modelling: encodings of texts become a padded batch with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from xlm._io.arguments import check_flags, listed_choices, shown
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.encoding import Encoding
from xlm.tokenizer.padding import as_columns, check_padding, pad_columns, with_tensors
from xlm.tokenizer.tokenizer import XLMTokenizer

IGNORED_LABEL = -100
"""The label of a token that the loss does not count."""

_FILLS = {"labels": IGNORED_LABEL, "langs": 0}


@dataclass(frozen=True)
class DataCollatorForLanguageModeling:
    """Makes the batch of a ``DataLoader`` or a ``Trainer`` from encodings: padded tensors with ``labels``.

    Labels equal ``input_ids``, with -100 at padding and ``<pad>``, since models shift labels themselves. Encodings that
    have labels keep them, padded with -100. An entry ``langs`` holds the language of a text, as a name or an id, or an
    id for each token; the latter are padded with the id 0. Other entries become tensors as they are.

    Args:
        tokenizer: The tokenizer.
        mlm: Must be False: the loss of the models is that of causal language modelling.
        padding: As for ``XLMTokenizer.pad``.
        max_length: As for ``XLMTokenizer.pad``.
        pad_to_multiple_of: As for ``XLMTokenizer.pad``.
        return_tensors: ``"pt"`` or ``"np"`` for tensors (B, T), None for lists.

    Raises:
        InputError: An argument is invalid.
    """

    tokenizer: XLMTokenizer
    mlm: bool = False
    _: KW_ONLY
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, XLMTokenizer):
            raise InputError(
                "not a tokenizer of this library",
                where="tokenizer",
                found=shown(self.tokenizer),
                expected="an XLMTokenizer",
                remedy="the collator of transformers takes its tokenizers, and XLMTokenizer too",
            )
        check_flags(mlm=self.mlm)
        check_padding(self.padding, self.return_tensors, pad_to_multiple_of=self.pad_to_multiple_of)
        if self.mlm:
            raise InputError(
                "no such objective",
                where="mlm",
                found=True,
                expected="False: the models shift labels, for causal language modelling",
                remedy="pass mlm=False; for masked language modelling, compute the loss from the logits",
            )

    def __call__(self, examples: Sequence[Mapping[str, Any] | Sequence[int]]) -> Encoding:
        """Return the batch of some texts.

        Args:
            examples: The encoding of each text: a mapping with ``input_ids`` (T,), or only the ids.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels`` (B, T), and the other entries of the encodings.

        Raises:
            InputError: The examples are not encodings, or have different entries.
            LanguageError: The tokenizer does not have a language.
        """
        if not _are_encodings(examples):
            raise InputError(
                "not encodings", where="examples", found=shown(examples), expected="a list with one for each text"
            )
        columns, _ = as_columns([one if isinstance(one, Mapping) else {"input_ids": one} for one in examples])
        if "langs" in columns:
            columns["langs"] = [self._language(value) for value in columns["langs"]]
        own = {name: columns.pop(name) for name in _FILLS if name in columns and _are_rows(columns[name])}
        for name, rows in own.items():
            self._check_lengths(name, rows, columns["input_ids"])
        batch = self.tokenizer.pad(
            columns,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )
        if self.padding not in (False, "do_not_pad"):
            longest = max(map(len, batch["input_ids"]))
            side = self.tokenizer.padding_side
            own = pad_columns(own, fills=_FILLS, padding="max_length", longest=longest, padding_side=side)
        batch |= own
        if "labels" not in batch:
            # Texts may have been padded before, without a mask.
            batch["labels"] = [
                [
                    index if real and index != self.tokenizer.pad_token_id else IGNORED_LABEL
                    for index, real in zip(ids, mask, strict=True)
                ]
                for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
        return with_tensors(batch, self.return_tensors, remedy="pass padding=True, or remove the entry from the texts")

    def _language(self, value: object) -> object:
        """Return the id of a language that is given by name; other values as they are."""
        if not isinstance(value, str):
            return value
        ids = self.tokenizer.lang2id or {}
        if value not in ids:
            raise LanguageError(
                "the model does not have this language",
                where="langs",
                found=shown(value),
                expected=listed_choices(ids) if ids else "the id of a language: the tokenizer has no names",
            )
        return ids[value]

    def _check_lengths(self, name: str, rows: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]) -> None:
        for index, (row, others) in enumerate(zip(rows, ids, strict=True)):
            if len(row) != len(others):
                raise InputError(
                    f"{name} and input_ids differ in length",
                    where=f"examples[{index}]",
                    found=f"{len(row)} {name}",
                    expected=f"{len(others)}, one for each id",
                )


def _are_encodings(examples: object) -> bool:
    return isinstance(examples, Sequence) and all(
        hasattr(one, "__len__") and not isinstance(one, str) for one in examples
    )


def _are_rows(values: Sequence[object]) -> bool:
    return all(isinstance(value, list) for value in values)
