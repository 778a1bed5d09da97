"""``model.check_inputs = False``: a forward pass reads no values, and results are the same.

Oracle: the same model with the checks; torch's list of functions that read a value, and so wait for a GPU.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from tests.model.operations import Operations
from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from tests.model.test_inputs import WRONG
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.outputs import XLMOutput

BOUND = 2e-6  # float32 roundings of the same sums in another order
B, T = 3, 7
HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40)},
}
LENGTHS = torch.tensor([7, 4, 2])
RIGHT = torch.arange(T) < LENGTHS[:, None]
LANGS = random_ids(B, T, seed=8) % 2
INPUTS: dict[str, dict[str, Any]] = {
    "nothing is padding": {"langs": "en"},
    "lengths": {"langs": ["en", "de", "en"], "lengths": LENGTHS},
    "lengths, none of them padding": {"langs": 1, "lengths": torch.full((B,), T)},
    "on the right": {"langs": LANGS, "attention_mask": RIGHT},
    "on the left": {"langs": LANGS, "attention_mask": RIGHT.flip(1).long()},
    "in the middle": {"langs": LANGS, "attention_mask": (torch.arange(T) != LENGTHS[:, None] - 2).float()},
    "positions": {"langs": LANGS, "position_ids": torch.arange(T).flip(0).expand(B, T)},
    "pad on the left": {"langs": LANGS, "input_ids": random_ids(B, T).masked_fill(~RIGHT.flip(1), 2)},
}
each_input = pytest.mark.parametrize("inputs", INPUTS)
each_head = pytest.mark.parametrize("head", HEADS)
READERS = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique")


class Reads(TorchFunctionMode):
    """Records each function that reads a value from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or str(func)).rpartition(".")[2]
        if name in READERS:
            self.made.append(name)
        return func(*args, **(kwargs or {}))


def _reads(call: Callable[[], object]) -> list[str]:
    with Reads() as functions, Operations() as operations:
        call()
    names = [made[0] for made in operations.made]
    return [*functions.made, *(name for name in names if any(read in name for read in ("local_scalar", "nonzero")))]


def _forward(model: XLMWithLMHeadModel, inputs: str, **more: Any) -> XLMOutput:
    given = {"input_ids": random_ids(B, T), **INPUTS[inputs], **more}
    ids = given.pop("input_ids")
    labels = ids.clone()
    labels[0, 1] = -100
    output: XLMOutput = model(ids, labels=labels, output_hidden_states=True, **given)
    return output


def _pair(**changes: Any) -> tuple[XLMWithLMHeadModel, XLMWithLMHeadModel]:
    checking = small_model(seed=1, **changes)
    trusting = copy.deepcopy(checking)
    trusting.check_inputs = False
    return checking, trusting


@each_head
@each_input
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@torch.no_grad()
def test_no_result_changes(head: str, inputs: str, causal: bool) -> None:
    checking, trusting = _pair(causal=causal, **HEADS[head])
    expected, found = _forward(checking, inputs), _forward(trusting, inputs)
    assert relative_error(found.logits, expected.logits) < BOUND
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=BOUND)
    for here, there in zip(found["hidden_states"], expected["hidden_states"], strict=True):
        assert relative_error(here, there) < BOUND
    if "lengths" in INPUTS[inputs]:  # the same kernels
        assert torch.equal(found.logits, expected.logits)


@each_head
@each_input
@torch.no_grad()
def test_nothing_reads_a_value(head: str, inputs: str) -> None:
    checking, trusting = _pair(**HEADS[head])
    assert _reads(lambda: _forward(checking, inputs))
    assert _reads(lambda: _forward(trusting, inputs)) == []


@each_head
@each_input
def test_a_model_without_memory_has_no_values_to_read(head: str, inputs: str) -> None:
    """On the meta device, everything that needs a value fails, even inside of torch."""
    with torch.device("meta"):
        model = XLMWithLMHeadModel(small_config(**HEADS[head]))
    given: dict[str, Any] = {
        key: value.to("meta") if isinstance(value, Tensor) else value for key, value in INPUTS[inputs].items()
    }
    ids = given.pop("input_ids", random_ids(B, T).to("meta"))
    output = model(ids, labels=ids, **given)
    assert (output.logits.shape, requested(output.loss).shape) == ((B, T, 61), ())
    torch.autograd.backward(requested(output.loss))


def _in_chunks(model: XLMWithLMHeadModel, trusted: bool) -> tuple[Tensor, Any]:
    """Return pieces with 1 to 4 tokens per row: the longest row has 13 of 16 tokens, and 16 with its padding."""
    cache, found = model.new_cache(B), []
    for chunk, counts in enumerate([(4, 2, 1), (3, 4, 1), (4, 1, 2), (2, 4, 1)]):
        ids, lengths = random_ids(B, 4, seed=chunk), torch.tensor(counts)
        model.check_inputs = not trusted
        logits = model(ids, langs="en", lengths=lengths, cache=cache).logits
        found.append(logits[torch.arange(4) < lengths[:, None]])
    return torch.cat(found), cache


@torch.no_grad()
def test_with_a_cache() -> None:
    model = small_model(seed=1)
    expected, _ = _in_chunks(model, trusted=False)
    found, cache = _in_chunks(model, trusted=True)
    assert relative_error(found, expected) < BOUND
    assert cache.lengths.tolist() == [13, 11, 5]
    step, model.check_inputs = random_ids(B, 1), False
    assert _reads(lambda: model(step, langs="en", cache=cache)) == []
    model.check_inputs = True
    model(random_ids(B, 2), langs="en", cache=cache)
    assert (cache.lengths.tolist(), cache.longest) == ([16, 14, 8], 16)
    with pytest.raises(InputError, match="cache is full") as caught:
        model(step, langs="en", cache=cache)
    assert caught.value.found == "16 tokens in the cache and 1 new ones"


@torch.no_grad()
def test_padding_in_a_cache_waits_for_nothing() -> None:
    """After the checks of values at the start, nothing reads the lengths of the rows."""
    model = small_model(seed=1)
    cache = model.new_cache(B)
    model.check_inputs = False
    assert _reads(lambda: model(random_ids(B, T), langs="en", lengths=LENGTHS, cache=cache)) == []
    assert _reads(lambda: model.hidden(random_ids(B, 2), langs="en", cache=cache)) == []
    assert cache.lengths.tolist() == [9, 6, 4]


VALUES = ("out of range", "rows [", "below zero", "too large", "of zero", "padding only", "one row of", "that counts")


@pytest.mark.parametrize("case", [case for case in WRONG if not any(words in case for words in VALUES)])
def test_types_and_shapes_are_checked_all_the_same(case: str) -> None:
    inputs, where, what, _, _ = WRONG[case]
    given = {"input_ids": random_ids(3, 5), "langs": "en", **inputs}
    model = small_model()
    model.check_inputs = False
    with pytest.raises(InputError) as caught:
        model(given.pop("input_ids"), **given)
    assert caught.value.where == where
    assert what in caught.value.what


def test_it_is_kept_by_copies() -> None:
    model = small_model()
    assert model.check_inputs
    model.check_inputs = False
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.for_inference())
    assert not any(each.check_inputs for each in copies)
    assert XLMWithLMHeadModel.check_inputs
    for value in ("no", 0, None, torch.tensor(False)):
        with pytest.raises(InputError, match="neither true nor false"):
            model.check_inputs = value  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("head", "inputs"), [("tied", "lengths"), ("untied", "nothing is padding"), ("adaptive", "on the left")]
)
@torch.no_grad()
def test_compiled_it_is_one_graph(head: str, inputs: str) -> None:
    """With the checks too, which compiled code omits. The backend only traces."""
    for model in _pair(**HEADS[head]):
        torch.compiler.reset()
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
        found, expected = _forward(compiled, inputs), _forward(model, inputs)
        assert relative_error(found.logits, expected.logits) < BOUND
        assert relative_error(found["loss"], expected["loss"]) < BOUND
