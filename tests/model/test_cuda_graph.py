"""Decoding with captured steps.

Oracle: the same decoding without captures. A CPU has no CUDA graphs, so a replay here repeats the work and writes into
the memory of its first result. One test shows that a graph would do the same: every step performs the same operations
on the same shapes and memory, and none of them needs a value from the device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.operations import Operations
from tests.model.small_models import random_ids
from tests.model.test_generation import BOUND, KINDS, POSITIONS, langs_for, model_of, same
from xlm.model import lm
from xlm.model.cache import XLMCache
from xlm.model.decoding import cuda_graph
from xlm.model.decoding import state as state_module
from xlm.model.decoding.state import CausalState

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "samples": {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "one language a token": {"continuation_langs": torch.arange(5 * POSITIONS).view(5, -1) % 2},
}
LENGTHS = torch.tensor([5, 1, 3, 5, 2])


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The results of all captures; from now on, decoding captures its steps."""
    made: list[Tensor] = []
    advance = XLMCache.advance

    class Capture:
        def __init__(self, device: torch.device) -> None:
            pass

        def capture(self, work: Callable[[], Tensor], undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
            work()
            undo()
            result = work()
            made.append(result)

            def replay() -> None:
                with monkeypatch.context() as patch:
                    patch.setattr(XLMCache, "advance", advance_on_the_device)
                    result.copy_(work())

            return replay, result

    def advance_on_the_device(cache: XLMCache, *given: Any) -> None:
        longest = cache.longest
        advance(cache, *given)
        cache.longest = longest  # which no graph knows

    monkeypatch.setattr(state_module, "GraphCapture", Capture)
    monkeypatch.setattr(state_module, "_STEPS_WORTH_CAPTURING", 1)
    monkeypatch.setattr(
        lm, "CausalState", lambda *args, **kwargs: CausalState(*args, **{**kwargs, "cuda_graphs": True})
    )
    return made


@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "of one length"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_is_not_recorded(kind: str, way: str, ragged: bool, request: pytest.FixtureRequest) -> None:
    """Generate up to the last position of the model, where rows of different lengths end one after the other."""
    model, ids, options = model_of(kind), random_ids(5, 5), dict(WAYS[way])
    if langs_for(model, "en") is None:
        options.pop("continuation_langs", None)
    given = {"langs": langs_for(model, "en"), "max_new_tokens": POSITIONS, "eos_token_id": (), **options}
    lengths = LENGTHS if ragged else torch.full((5,), 5)
    expected = model.continuations(ids, lengths=lengths, **given)
    assert not ragged or len({len(continuation.tokens) for continuation in expected}) > 1
    made = request.getfixturevalue("recordings")
    found = model.continuations(ids, lengths=lengths, **given)
    assert made
    for one, other in zip(found, expected, strict=True):
        same(one, other, bound=BOUND)


def test_a_stream(recordings: list[Tensor]) -> None:
    model, ids = model_of(eos_bias=-20.0), random_ids(1, 4)
    stream = model.stream(ids, langs="en", max_new_tokens=9)
    tokens = list(stream)
    assert len(recordings) == 1
    assert torch.equal(model.generate(ids, langs="en", max_new_tokens=9)[0, 4:], torch.tensor(tokens))


def test_one_recording_serves_all_steps_of_the_same_rows(recordings: list[Tensor]) -> None:
    model = model_of(eos_bias=-20.0)
    model.generate(random_ids(3, 4), langs="en", max_new_tokens=12)
    assert len(recordings) == 1
    # Beams change places within the captured memory.
    model.generate(random_ids(3, 4), langs="en", max_new_tokens=12, num_beams=2)
    assert len(recordings) == 2


@torch.inference_mode()
def test_what_the_cache_holds_is_counted(recordings: list[Tensor]) -> None:
    model = model_of()
    stepper = CausalState(model, rows=3, capacity=12, cuda_graphs=True)
    prompts, _ = model._prompts(random_ids(3, 4), langs="en", lengths=torch.tensor([4, 2, 3]))
    stepper.prefill(prompts.inputs)
    first = torch.tensor([20, 21, 22]), torch.zeros(3, dtype=torch.int64)
    for step in (1, 2, 3):
        stepper.step(*(first if step == 1 else (torch.tensor([30, 31, 32]), torch.ones(3, dtype=torch.int64))))
        # The arguments still belong to the caller; later steps use other memory.
        assert [each.tolist() for each in first] == [[20, 21, 22], [0, 0, 0]]
        assert stepper.longest == 4 + step
        assert stepper._cache.lengths.tolist() == [4 + step, 2 + step, 3 + step]


def test_few_steps_are_not_recorded(recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_STEPS_WORTH_CAPTURING", 9)
    model = model_of(eos_bias=-20.0)
    for new_tokens, recorded_now in ((9, 0), (10, 1)):  # the first token needs no step
        model.generate(random_ids(1, 4), langs="en", max_new_tokens=new_tokens)
        assert len(recordings) == recorded_now


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()  # under inference mode composite operations would be seen whole
def test_every_step_is_the_same_to_the_device(kind: str, autocast: bool) -> None:
    model, ids = copy.deepcopy(model_of(kind)).float(), random_ids(3, 4)
    has_langs = langs_for(model, "en") is not None
    langs_B = torch.zeros(3, dtype=torch.int64) if has_langs else None
    stepper = CausalState(model, rows=3, capacity=12)
    prompts, _ = model._prompts(ids, langs=langs_for(model, "en"), lengths=torch.tensor([4, 2, 3]))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        stepper.prefill(prompts.inputs)
        stepper._cache.fix_shapes()
        where = stepper._cache.keys.data_ptr(), stepper._cache.lengths.data_ptr()
        steps = []
        for tokens_B in (torch.full((3,), token) for token in (20, 21, 22)):
            # As in a capture: autocast without its cache of weights.
            uncached = torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False)
            with uncached, Operations() as operations:
                stepper.step(tokens_B, langs_B)
            steps.append(operations.made)
    assert steps[0] == steps[1] == steps[2]
    assert where == (stepper._cache.keys.data_ptr(), stepper._cache.lengths.data_ptr())
    names = [name for name, *_ in steps[0]]
    assert "aten.index_put_.default" in names
    # Nothing comes from the host, and the only copies are casts of autocast, which are part of every step.
    assert not [name for name in names if "lift_fresh" in name]
    casts = names.count("aten._to_copy.default")
    assert casts > 6 * len(model.transformer.layers) if autocast else casts == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_no_step_waits_for_the_device(kind: str) -> None:
    """On the meta device, nothing has a value, so reading one is an error."""
    model = copy.deepcopy(model_of(kind)).to("meta")
    has_langs = langs_for(model, "en") is not None
    stepper = CausalState(model, rows=3, capacity=12)
    stepper._cache.fix_shapes()
    stepper._cache.longest = 4
    tokens_B = torch.zeros(3, dtype=torch.int64, device="meta")
    logits_BV = stepper.step(tokens_B, tokens_B if has_langs else None)
    assert logits_BV.shape == (3, model.config.vocab_size)


def test_how_a_graph_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-ups run on another stream and are undone; then the work is captured once and replayed by the graph."""
    log: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        log.append(name)
        yield
        log.append(f"end of {name}")

    def graph(_: object, *, stream: object, capture_error_mode: str) -> AbstractContextManager[None]:
        assert stream is beside
        return noted(f"recording, {capture_error_mode}")

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: log.append(f"{name} waits for {other.name}"))

    main, beside = stream("main"), stream("beside")
    fake = SimpleNamespace(
        device=lambda device: noted(str(device)),
        Stream=lambda: beside,
        stream=lambda each: noted(each.name),
        current_stream=lambda: main,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        graph=graph,
    )
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: noted(f"autocast {given} {options}"))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float16)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")

    def work() -> Tensor:
        log.append("work")
        return torch.ones(1)

    recorder = cuda_graph.GraphCapture(torch.device("cuda:1"))
    assert log == ["cuda:1", "end of cuda:1"]
    for _ in range(2):
        log.clear()
        replay, result = recorder.capture(work, lambda: log.append("undo"))
        replay()
        assert result.tolist() == [1]
        autocast = "autocast ('cuda', torch.float16, True) {'cache_enabled': False}"
        assert log == [
            "cuda:1",
            autocast,
            "main",
            "beside waits for main",
            "beside",
            *("work", "undo") * 2,
            "end of beside",
            "main waits for beside",
            "recording, thread_local",
            "work",
            "end of recording, thread_local",
            "end of main",
            f"end of {autocast}",
            "end of cuda:1",
            "replay",
        ]
