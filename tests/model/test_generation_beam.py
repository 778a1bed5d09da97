"""Beam search.

Oracles: ``slow_decoding``, which keeps lists of all candidates and never stops early; every possible continuation of a
small vocabulary; greedy decoding; and beam search of the installed ``transformers``, without the changes that its
``generate`` makes to inputs of XLM models.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.slow_decoding import SPECIAL, Slow
from tests.model.small_models import random_ids, small_model
from tests.model.test_generation import BOUND, KINDS, POSITIONS, langs_for, model_of, ragged, same
from tests.model.transformers_peer import peer_of
from xlm.model.cache import XLMCache
from xlm.model.decoding.beam_search import _Beam, _in_rows_of_parents, beam_search
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import prepare_prompts
from xlm.model.decoding.state import CausalState


@given(
    kind=st.sampled_from(list(KINDS)),
    prompts=ragged(),
    max_new_tokens=st.integers(1, 7),
    beams=st.integers(2, 5),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.7]),
    min_new_tokens=st.integers(0, 2),
    eos=st.sampled_from([(1,), (1, 30, 43), ()]),
)
@settings(max_examples=40, deadline=None)
def test_beams_equal_the_slow_way(
    kind: str,
    prompts: tuple[Tensor, Tensor],
    max_new_tokens: int,
    beams: int,
    length_penalty: float,
    repetition_penalty: float,
    min_new_tokens: int,
    eos: tuple[int, ...],
) -> None:
    model, (ids, lengths) = model_of(kind), prompts
    langs = langs_for(model, "en")
    min_new_tokens = min(min_new_tokens, max_new_tokens)
    found = model.continuations(
        ids,
        lengths=lengths,
        langs=langs,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
        eos_token_id=eos,
    )
    assert [c.prompt for c in found] == [row for row in range(len(ids)) for _ in range(beams)]
    for row in range(len(ids)):
        prompt = ids[row, : lengths[row]].tolist()
        slow = Slow(
            model=model,
            prompt=prompt,
            langs=None if langs is None else [1] * 40,
            limit=min(max_new_tokens, POSITIONS - len(prompt) + 1),
            eos=eos,
            suppressed=[index for index in range(14) if index not in eos],
            min_new_tokens=min_new_tokens,
            repetition_penalty=repetition_penalty,
        )
        expected = slow.beams(beams, length_penalty)
        group = found[row * beams : row * beams + beams]
        assert [c.tokens for c in group] == [tokens for _, tokens in expected]
        # A negative length penalty multiplies the total and its error.
        bound = BOUND * max(1, slow.limit**-length_penalty)
        assert [c.score for c in group] == pytest.approx([score for score, _ in expected], abs=bound)
        for c in group:
            raw = [slow.logprobs(c.tokens[:step])[word] for step, word in enumerate(c.tokens)]
            assert c.logprobs == pytest.approx(raw, abs=BOUND)
            ended = "eos" if c.tokens[-1] in eos else "max_new_tokens"
            assert c.stop == ("positions" if ended != "eos" and slow.limit < max_new_tokens else ended)


def test_beams_as_wide_as_the_vocabulary_find_the_best_of_all() -> None:
    """If the beams contain every first word, two steps of beam search are exhaustive."""
    model = model_of()
    words = [*range(14, 24)]
    ids = random_ids(1, 3, seed=4)
    slow = Slow(model=model, prompt=ids[0].tolist(), langs=[0] * 9, limit=2)
    every = [(1,), *((a, b) for a, b in itertools.product(words, [1, *words]))]
    scored = sorted(
        (sum(slow.logprobs(new[:step])[word] for step, word in enumerate(new)) / len(new), new) for new in every
    )
    found = model.continuations(
        ids,
        langs="de",
        num_beams=10,
        num_return_sequences=10,
        max_new_tokens=2,
        suppress_tokens=[*SPECIAL, *range(24, 61)],
    )
    # A hypothesis that ends is kept only if it is among the ten best at its step; the best of all always is.
    assert found[0].tokens == scored[-1][1]
    assert found[0].score == pytest.approx(scored[-1][0], abs=BOUND)


@given(prompts=ragged(), repetition_penalty=st.sampled_from([1.0, 1.4]), max_new_tokens=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_one_beam_is_greedy(prompts: tuple[Tensor, Tensor], repetition_penalty: float, max_new_tokens: int) -> None:
    """Run beam search with one beam, which ``generate`` never does.

    There is no length penalty: with one, a longer continuation may score better than the greedy one.
    """
    model, (ids, lengths) = model_of("adaptive softmax" if repetition_penalty != 1 else "plain"), prompts
    chosen: dict[str, Any] = {"max_new_tokens": max_new_tokens, "repetition_penalty": repetition_penalty}
    options = DecodingOptions.checked(model.config, **chosen)
    options = dataclasses.replace(options, length_penalty=0.0)
    ready = prepare_prompts(model.config, model.device, ids, langs="en", lengths=lengths, options=options)
    with torch.inference_mode():
        found = beam_search(CausalState(model, rows=len(ids), capacity=ready.capacity), ready, options)
    expected = model.continuations(ids, lengths=lengths, langs="en", **chosen)
    # A penalty acts on logits in greedy decoding and on log-probabilities in beam search, as in transformers; an
    # adaptive softmax has only the latter, so that both are one there.
    for (best,), greedy in zip(found, expected, strict=True):
        same(best, greedy)
        if repetition_penalty == 1:
            assert best.score == pytest.approx(greedy.logprob, abs=BOUND)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -0.5, 3.0])
def test_stopping_early_changes_nothing_but_the_work(length_penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(eos_bias=3.5)
    ids, lengths = random_ids(4, 6, seed=6), torch.tensor([6, 1, 3, 2])
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": length_penalty}
    steps: list[int] = []
    step = CausalState.step

    def counted(self: CausalState, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        steps.append(len(tokens_B))
        return step(self, tokens_B, langs_B)

    monkeypatch.setattr(CausalState, "step", counted)
    found = model.continuations(ids, lengths=lengths, langs="en", **options)
    work = sum(steps)
    steps.clear()
    monkeypatch.setattr(
        "xlm.model.decoding.beam_search.PromptBeams.is_over", lambda self, produced, options: not self.running
    )
    whole = model.continuations(ids, lengths=lengths, langs="en", **options)
    for here, there in zip(found, whole, strict=True):
        same(here, there)
    assert work <= sum(steps)
    if length_penalty <= 0:
        assert work < sum(steps)


def test_early_stopping_takes_the_first_that_finish() -> None:
    model = model_of(eos_bias=3.5)
    ids = random_ids(5, 4, seed=1)
    options: dict[str, Any] = {"langs": "en", "num_beams": 2, "num_return_sequences": 2, "length_penalty": 3.0}
    early = model.continuations(ids, early_stopping=True, **options)
    late = model.continuations(ids, **options)
    assert [c.tokens for c in early] != [c.tokens for c in late]
    for row in range(5):
        best_early, best_late = early[2 * row], late[2 * row]
        assert best_early.score is not None
        assert best_late.score is not None
        assert best_early.score <= best_late.score + BOUND
        assert len(best_early.tokens) <= len(best_late.tokens)


def test_only_the_slots_behind_a_common_prompt_move() -> None:
    model = model_of()
    torch.manual_seed(0)
    cache = XLMCache(model.config, 4, capacity=9)
    cache.keys, cache.values = torch.randn_like(cache.keys), torch.randn_like(cache.values)
    cache.keys[:, :, :, :3] = cache.keys[:, :1, :, :3]
    cache.values[:, :, :, :3] = cache.values[:, :1, :, :3]
    cache.lengths += 7
    cache.uniform_length = cache.longest = 7
    rows = torch.tensor([2, 2, 0, 1])
    keys, values, address = cache.keys[:, rows], cache.values[:, rows], cache.keys.data_ptr()
    cache.select_rows(rows, shared=3)
    assert torch.equal(cache.keys[:, :, :, :7], keys[:, :, :, :7])
    assert torch.equal(cache.values[:, :, :, :7], values[:, :, :, :7])
    assert cache.keys.data_ptr() == address


def test_beams_stay_in_the_rows_of_their_parents() -> None:
    """Each row keeps a child of its beam if there is one, so that few rows of the cache move."""
    beams = [_Beam(float(-rank), token=rank, parent_index=parent) for rank, parent in enumerate((1, 3, 3, 1))]
    placed = _in_rows_of_parents(beams)
    assert [placed[1], placed[3]] == beams[:2]
    assert sorted(beam.token for beam in placed) == [0, 1, 2, 3]


def test_selected_rows_keep_their_lengths() -> None:
    model = model_of()
    cache = model.new_cache(3)
    ids = random_ids(3, 5)
    with torch.no_grad():
        model(ids, langs="en", lengths=torch.tensor([5, 2, 2]), cache=cache)
        cache.select_rows(torch.tensor([1, 0, 1, 1]))
        assert (cache.lengths.tolist(), cache.longest, cache.uniform_length) == ([2, 5, 2, 2], 5, None)
        cache.select_rows(torch.tensor([3, 0]))
        assert (cache.lengths.tolist(), cache.longest, cache.uniform_length) == ([2, 2], 2, 2)
        following = random_ids(2, 1, seed=9)
        found = model(following, langs="en", cache=cache).logits[:, 0]
        for place, row in enumerate((1, 1)):
            alone = torch.cat([ids[row, :2], following[place]])[None]
            torch.testing.assert_close(found[place], model(alone, langs="en").logits[0, -1], atol=BOUND, rtol=0)


def _peer_generate(ours: Any, ids: Tensor, **options: Any) -> Any:
    """Call ``generate`` of transformers with inputs as in training: without an appended mask, and with the language."""
    theirs = peer_of(ours)

    def inputs(input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids, "langs": torch.ones_like(input_ids)}

    theirs.prepare_inputs_for_generation = inputs
    return theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
        pad_token_id=2,
        eos_token_id=1,
        suppress_tokens=list(SPECIAL),
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.4, "min_new_tokens": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": 2.5, "repetition_penalty": 1.3},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0, "min_new_tokens": 2},
    ],
    ids=str,
)
def test_the_same_as_transformers(options: dict[str, Any]) -> None:
    model = small_model(seed=1)
    ids = random_ids(6, 5, seed=12)
    never = {"early_stopping": "never"} if "num_beams" in options else {}  # their word for what is the default here
    expected = _peer_generate(model, ids, max_new_tokens=9, do_sample=False, **never, **options)
    assert torch.equal(model.generate(ids, langs="en", max_new_tokens=9, **options), expected)
