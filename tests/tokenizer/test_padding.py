"""``pad`` and the collator. Oracle: ``pad`` and the collator of transformers, and written-out rows."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm import DataCollatorForLanguageModeling
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest

ROWS = [[0, 20, 21, 1], [0, 1], [0, 22, 23, 24, 25, 1]]


@pytest.fixture(scope="module")
def tokenizer() -> XLMTokenizer:
    return XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}, model_max_length=40)


def plain(encoding: Any) -> dict[str, Any]:
    """Return an encoding of either library as a dict of lists."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in encoding.items()}


def as_kind(rows: list[Any], kind: str) -> list[Any]:
    return {"lists": rows, "pt": [torch.tensor(row) for row in rows], "np": [np.array(row) for row in rows]}[kind]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_equal_to_transformers(both: tuple[XLMTokenizer, Any], data: st.DataObject) -> None:
    ours, peer = both
    rows = data.draw(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9), min_size=1, max_size=4))
    kind = data.draw(st.sampled_from(["lists", "pt", "np"]))
    columns = {"input_ids": as_kind(rows, kind)}
    for name in ("attention_mask", "special_tokens_mask", "token_type_ids"):
        if data.draw(st.booleans()):
            columns[name] = as_kind([[1] * len(row) for row in rows], kind)
    padding = data.draw(st.sampled_from([True, "longest", "max_length", False, "do_not_pad"]))
    arguments: dict[str, Any] = {
        "padding": padding,
        "max_length": data.draw(st.sampled_from([None, 2, 12])) if padding == "max_length" else None,
        "pad_to_multiple_of": data.draw(st.sampled_from([None, 1, 4])),
        "padding_side": data.draw(st.sampled_from([None, "left", "right"])),
        "return_attention_mask": data.draw(st.sampled_from([None, True, False])),
    }
    if arguments["return_attention_mask"] is False:
        columns.pop("attention_mask", None)  # transformers then leaves it unpadded
    # transformers refuses a single encoding of arrays
    form = data.draw(st.sampled_from(["dict", "list", *(["single"] if kind != "np" else [])]))
    if form == "single":
        given: Any = {name: values[0] for name, values in columns.items()}
    elif form == "list":
        given = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    else:
        given = columns
    try:
        expected = peer.pad(given if isinstance(given, list) else dict(given), **arguments)
        is_ragged = any(getattr(value, "dtype", None) == np.dtype(object) for value in expected.values())
    except ValueError:
        is_ragged = True
    if is_ragged:  # transformers makes an array of lists, and no tensor
        with pytest.raises(InputError, match="different lengths"):
            ours.pad(given, **arguments)
        return
    result = ours.pad(given, **arguments)
    assert {name: type(value) for name, value in result.items()} == {n: type(v) for n, v in expected.items()}
    assert plain(result) == plain(expected)


def test_a_dataloader_uses_it(tokenizer: XLMTokenizer) -> None:
    rows: Any = [tokenizer(text, lang="en") for text in ("the dog", "the", "the little dog is running")]
    loader: Any = torch.utils.data.DataLoader(
        rows, batch_size=2, collate_fn=lambda some: tokenizer.pad(some, return_tensors="pt")
    )
    for start, batch in zip((0, 2), loader, strict=True):
        some = rows[start : start + 2]
        lengths = batch["attention_mask"].sum(1).tolist()
        assert lengths == [len(row["input_ids"]) for row in some]
        assert [ids[:n].tolist() for ids, n in zip(batch["input_ids"], lengths, strict=True)] == [
            row["input_ids"] for row in some
        ]
    assert batch.to("cpu") is batch


def test_the_side_is_a_setting(tokenizer: XLMTokenizer, tmp_path: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    left = XLMTokenizer.from_pretrained(tmp_path, padding_side="left")
    assert left.pad({"input_ids": [[7], [8, 9]]}).input_ids == [[2, 7], [8, 9]]
    assert left(["the", "the dog"], padding=True).attention_mask[0][0] == 0
    assert left(["the", "the dog"], padding=True, padding_side="right").attention_mask[0][0] == 1
    left.save_pretrained(tmp_path)
    assert XLMTokenizer.from_pretrained(tmp_path).padding_side == "left"
    assert tokenizer_digest(left) == tokenizer_digest(tokenizer)  # ids do not depend on it
    with pytest.raises(InputError, match="where: padding_side"):
        XLMTokenizer.from_pretrained(tmp_path, padding_side="centre")


def test_multiples_apply_to_calls_too(tokenizer: XLMTokenizer) -> None:
    encoding = tokenizer(["the dog", "the"], lang="en", padding=True, pad_to_multiple_of=8)
    assert {len(row) for row in encoding.input_ids} == {8}


@pytest.mark.parametrize(
    ("encodings", "arguments", "message"),
    [
        ([], {}, "empty list"),
        (5, {}, "(?i)not an encoding"),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": [1]}], {}, r"encoded_inputs\[1\]"),
        ({"attention_mask": [1]}, {}, "no input_ids"),
        ({"input_ids": "text"}, {}, "no input_ids"),
        ({"input_ids": [[1], [2]], "labels": [1]}, {}, "one value for each text"),
        ({"input_ids": [[1], [2, 3]], "labels": [[1], [2, 3]]}, {"return_tensors": "pt"}, "where: labels"),
        ({"input_ids": [[1], [2]], "word": ["a", "b"]}, {"return_tensors": "pt"}, "remove word"),
        ({"input_ids": [[1], [2]], "word": ["a", "b"]}, {"return_tensors": "np"}, "remove word"),
        ({"input_ids": [[1]]}, {"padding": "short"}, "padding"),
        ({"input_ids": [[1]]}, {"padding_side": "top"}, "padding_side"),
        ({"input_ids": [[1]]}, {"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"input_ids": [[1]]}, {"max_length": 0, "padding": "max_length"}, "max_length"),
        ({"input_ids": [[1]]}, {"return_attention_mask": 1}, "return_attention_mask"),
    ],
)
def test_what_cannot_be_padded_is_refused(
    tokenizer: XLMTokenizer, encodings: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer.pad(encodings, **arguments)


@pytest.mark.parametrize("multiple", [None, 4])
@pytest.mark.parametrize("examples", ["ids", "encodings", "tensors", "padded"])
def test_labels_equal_those_of_transformers(
    both: tuple[XLMTokenizer, Any],
    multiple: int | None,
    examples: str,
) -> None:
    from transformers import DataCollatorForLanguageModeling as Peer

    ours, peer = both
    rows: Any = {
        "ids": ROWS,
        "encodings": [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ROWS],
        "tensors": [{"input_ids": torch.tensor(row)} for row in ROWS],
        "padded": [[*row, 2, 2] for row in ROWS],
    }[examples]
    expected = Peer(peer, mlm=False, pad_to_multiple_of=multiple)(rows)
    batch = DataCollatorForLanguageModeling(ours, mlm=False, pad_to_multiple_of=multiple)(rows)
    lengths = torch.tensor([len(row if isinstance(row, list) else row["input_ids"]) for row in rows])
    mask = torch.arange(expected["input_ids"].shape[1]) < lengths[:, None]
    assert plain(batch) == {"attention_mask": mask.long().tolist(), **plain(expected)}
    assert plain(Peer(ours, mlm=False, pad_to_multiple_of=multiple)(rows)) == plain(expected)


def test_masks_of_special_tokens(both: tuple[XLMTokenizer, Any]) -> None:
    ours, peer = both
    for row in ROWS:
        expected = peer.get_special_tokens_mask(row, already_has_special_tokens=True)
        assert ours.get_special_tokens_mask(torch.tensor(row), already_has_special_tokens=True) == expected
    with pytest.raises(InputError, match="already_has_special_tokens"):
        ours.get_special_tokens_mask(ROWS[0], already_has_special_tokens=False)


def test_own_labels_and_languages_are_kept(tokenizer: XLMTokenizer) -> None:
    batch = DataCollatorForLanguageModeling(tokenizer)(
        [
            {"input_ids": [0, 7, 1], "labels": [-100, 7, 1], "langs": "en"},
            {"input_ids": [0, 1], "labels": [-100, 1], "langs": "de"},
        ]
    )
    assert plain(batch) == {
        "input_ids": [[0, 7, 1], [0, 1, 2]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, 7, 1], [-100, 1, -100]],
        "langs": [1, 0],
    }
    by_token = DataCollatorForLanguageModeling(tokenizer, return_tensors=None)(
        [{"input_ids": [0, 7, 1], "langs": [1, 1, 1]}, {"input_ids": [0, 1], "langs": torch.tensor([1, 1])}]
    )
    assert by_token["langs"] == [[1, 1, 1], [1, 1, 0]]
    ragged = DataCollatorForLanguageModeling(tokenizer, padding="do_not_pad", return_tensors=None)(
        [{"input_ids": [0, 7, 1], "labels": [-100, 7, 1]}, {"input_ids": [0, 1], "labels": [-100, 1]}]
    )
    assert ragged["labels"] == [[-100, 7, 1], [-100, 1]]


def test_what_the_collator_refuses(tokenizer: XLMTokenizer) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer)
    with pytest.raises(InputError, match="mlm=False"):
        DataCollatorForLanguageModeling(tokenizer, mlm=True)
    with pytest.raises(InputError, match="padding"):
        DataCollatorForLanguageModeling(tokenizer, padding="short")
    with pytest.raises(InputError, match=r"(?i)labels and input_ids differ in length"):
        collator([{"input_ids": [0, 1], "labels": [0]}])
    with pytest.raises(LanguageError, match="'de' or 'en'"):
        collator([{"input_ids": [0, 1], "langs": "fr"}])
    with pytest.raises(InputError, match="padding=True"):
        DataCollatorForLanguageModeling(tokenizer, padding=False)(ROWS)


def test_neither_needs_torch() -> None:
    code = """
import sys
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm import DataCollatorForLanguageModeling, XLMTokenizer
tokenizer = XLMTokenizer(VOCABULARY, MERGES)
assert tokenizer.pad([tokenizer("the"), tokenizer("the dog")], return_tensors="np").input_ids.shape == (2, 4)
assert DataCollatorForLanguageModeling(tokenizer, return_tensors=None)([[1], [4, 3]])["labels"] == [[1, -100], [4, 3]]
assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
