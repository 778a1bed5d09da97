"""Sampling.

Oracles: the distribution by its definition, computed below word by word; chi-squared over many draws with fixed seeds;
and the logits processors of the installed ``transformers``.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.slow_decoding import SPECIAL, Slow
from tests.model.small_models import random_ids
from tests.model.test_generation import model_of
from xlm.model.decoding.logits_processors import constraints, warpers
from xlm.model.decoding.options import DecodingOptions, derived_seed
from xlm.model.decoding.sampling import draw

# A right sampler fails one of the fixed draws below with this probability; a slip of a few per cent in one word's
# probability takes the p-value of 20,000 draws far below it.
LEAST_P_VALUE = 1e-4


def distribution(
    scores: list[float], *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """Return the probabilities of the words, with each filter applied to the result of the previous one."""
    kept = sorted((score / temperature, word) for word, score in enumerate(scores) if score > -math.inf)[::-1]
    if top_k:
        kept = [(score, word) for score, word in kept if score >= kept[min(top_k, len(kept)) - 1][0]]
    total = sum(math.exp(score) for score, _ in kept)
    nucleus: list[tuple[float, int]] = []
    for score, word in kept:
        if not nucleus or sum(math.exp(s) for s, _ in nucleus) / total < top_p:
            nucleus.append((score, word))
    kept = [(score, word) for score, word in nucleus if math.exp(score - nucleus[0][0]) >= min_p]
    total = sum(math.exp(score) for score, _ in kept)
    probabilities = [0.0] * len(scores)
    for score, word in kept:
        probabilities[word] = math.exp(score) / total
    return probabilities


def p_value(counts: Counter[Any], expected: dict[Any, float]) -> float:
    """Return the p-value of Pearson's chi-squared test; cells that expect fewer than 5 draws are merged."""
    draws = sum(counts.values())
    assert set(counts) <= {cell for cell, probability in expected.items() if probability > 0}
    cells = [(counts[cell], draws * p) for cell, p in expected.items() if draws * p >= 5]
    rare = (draws - sum(found for found, _ in cells), draws - sum(mean for _, mean in cells))
    if rare[1] >= 5:
        cells.append(rare)
    statistic = sum((found - mean) ** 2 / mean for found, mean in cells)
    assert len(cells) > 1
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8},
    {"top_k": 6},
    {"top_p": 0.7},
    {"min_p": 0.15},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.85, "min_p": 0.1},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "adaptive softmax"])
def test_samples_follow_the_distribution(kind: str, way: dict[str, Any]) -> None:
    """The first new token of 20,000 samples, and the pair of the first two of as many."""
    model, draws = model_of(kind), 20_000
    ids = random_ids(1, 3, seed=7)
    slow = Slow(model=model, prompt=ids[0].tolist(), langs=[1] * 9, limit=2)
    first = distribution(slow.constrained(slow.logits([]), []), **way)
    found = model.continuations(
        ids, langs="en", do_sample=True, num_return_sequences=draws, seed=123, max_new_tokens=2, **way
    )
    assert p_value(Counter(c.tokens[0] for c in found), dict(enumerate(first))) > LEAST_P_VALUE
    pairs: dict[tuple[int, ...], float] = {}
    for word, probability in enumerate(first):
        if word == 1:
            pairs[(1,)] = probability
        elif probability > 0:
            second = distribution(slow.constrained(slow.logits([word]), [word]), **way)
            pairs.update({(word, other): probability * p for other, p in enumerate(second)})
    assert sum(pairs.values()) == pytest.approx(1)
    assert p_value(Counter(c.tokens for c in found), pairs) > LEAST_P_VALUE


def test_the_chi_squared_test_can_fail() -> None:
    model, draws = model_of(), 20_000
    ids = random_ids(1, 3, seed=7)
    slow = Slow(model=model, prompt=ids[0].tolist(), langs=[1] * 9, limit=1)
    wrong = distribution(slow.constrained(slow.logits([]), []), temperature=1.05)
    found = model.continuations(ids, langs="en", do_sample=True, num_return_sequences=draws, seed=123, max_new_tokens=1)
    assert p_value(Counter(c.tokens[0] for c in found), dict(enumerate(wrong))) < LEAST_P_VALUE


def test_rows_and_steps_are_drawn_independently() -> None:
    """Two rows of the same prompt, and two steps of the same row, are independent."""
    scores_BV = torch.zeros(2, 4)
    rows = 4000
    model = model_of()
    uniform = [
        torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in DecodingOptions.checked(model.config, do_sample=True, seed=5).row_seeds(2 * rows)
    ]
    tokens = [draw(scores_BV, numbers).tolist() for numbers in uniform]
    expected = {(a, b): 1 / 16 for a in range(4) for b in range(4)}
    assert p_value(Counter(map(tuple, tokens)), expected) > LEAST_P_VALUE
    neighbours = zip(tokens[::2], tokens[1::2], strict=True)
    assert p_value(Counter((a[0], b[0]) for a, b in neighbours), expected) > LEAST_P_VALUE


def test_draws_at_the_ends_of_the_distribution() -> None:
    """Neither the smallest nor the largest number selects a word of probability 0."""
    never = float("-inf")
    scores_BV = torch.tensor([[never, 0.0, never, 0.0, never]]).expand(3, 5)
    uniform_B = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(scores_BV, uniform_B).tolist() == [1, 3, 3]
    assert draw(scores_BV, torch.tensor([0.4999999, 0.5000001, 0.0])).tolist() == [1, 3, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rare_word_at_the_far_end_is_as_likely_as_it_should_be(dtype: torch.dtype) -> None:
    """A cumulative sum in half precision would lose it, and one in float32 would change its probability."""
    V, rare = 60_000, 1e-5
    scores_BV = torch.zeros(1, V, dtype=dtype)
    probabilities = torch.full((V,), (1 - rare) / (V - 1), dtype=torch.float64)
    probabilities[-1] = rare
    scores_BV = probabilities.log()[None].to(dtype).float()
    exact = scores_BV[0].double().softmax(0)[-1]
    just_inside, just_outside = 1 - exact * 0.999, 1 - exact * 1.001
    found = draw(scores_BV.expand(2, V), torch.stack([just_inside, just_outside]))
    assert found.tolist() == [V - 1, V - 2]


def test_seeds() -> None:
    model = model_of()
    ids = random_ids(2, 4)

    def sampled(**options: Any) -> list[tuple[int | None, tuple[int, ...]]]:
        return [(c.seed, c.tokens) for c in model.continuations(ids, langs="en", do_sample=True, **options)]

    assert sampled(seed=3) == sampled(seed=3)
    assert sampled(seed=3) != sampled(seed=4)
    assert [seed for seed, _ in sampled(seed=3)] == [3, derived_seed(3, 1)]
    assert [seed for seed, _ in sampled(seed=[3, 9])] == [3, 9]
    assert sampled(seed=[8, 3])[1][0] == 3
    # Neighbouring seeds must not share rows, which they would if row r had the seed ``seed + r``.
    twenty = [seed for start in range(20) for seed, _ in sampled(seed=start, num_return_sequences=5)]
    assert len(set(twenty)) == len(twenty) == 200
    torch.manual_seed(0)
    unseeded = sampled()
    assert unseeded != sampled()
    torch.manual_seed(0)
    assert unseeded == sampled()
    assert sampled(seed=[seed for seed, _ in unseeded if seed is not None]) == unseeded
    assert all(c.seed is None for c in model.continuations(ids, langs="en"))


def test_a_seed_leaves_torchs_own_numbers_alone() -> None:
    before = torch.get_rng_state()
    model_of().generate(random_ids(2, 4), langs="en", do_sample=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def _processors(options: dict[str, Any]) -> Any:
    """Return the processors of ``transformers`` for these options, in its order."""
    process = pytest.importorskip("transformers").generation.logits_process
    makers = {
        "repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
        "temperature": process.TemperatureLogitsWarper,
        "top_k": process.TopKLogitsWarper,
        "top_p": process.TopPLogitsWarper,
        "min_p": process.MinPLogitsWarper,
    }
    processors = [maker(options[name]) for name, maker in makers.items() if name in options]
    suppress = process.SuppressTokensLogitsProcessor(list(SPECIAL))
    return process.LogitsProcessorList(
        [*processors[: "repetition_penalty" in options], suppress, *processors["repetition_penalty" in options :]]
    )


@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([61, 5000]),
    spread=st.sampled_from([0.5, 3.0]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([0.7, 1.3, 2.0]),
            "temperature": st.sampled_from([0.5, 1.9]),
            "top_k": st.integers(1, 80),
            "top_p": st.floats(0.05, 0.99),
            "min_p": st.floats(0.001, 0.9),
        },
    ),
)
@settings(max_examples=60, deadline=None)
def test_the_same_as_the_processors_of_transformers(
    seed: int, vocabulary: int, spread: float, options: dict[str, Any]
) -> None:
    """The same words remain, with the same scores.

    A word within 1e-5 of a threshold may be on either side of it, since float32 sums differ.
    """
    generator = torch.Generator().manual_seed(seed)
    logits_BV = spread * torch.randn(4, vocabulary, generator=generator)
    prompt_BT = torch.randint(14, vocabulary, (4, 9), generator=generator)
    expected = _processors(options)(prompt_BT, logits_BV.clone())
    model = model_of()
    chosen = DecodingOptions.checked(model.config, do_sample=True, **options)
    constrained_BV = constraints(chosen, prompt_BT, None, vocab_size=vocabulary)(logits_BV.clone(), 0)
    found = warpers(chosen)(constrained_BV, 0)
    different = found.isinf() != expected.isinf()
    assert torch.equal(found.masked_fill(different, 0), expected.masked_fill(different, 0))
    unfiltered = {name: value for name, value in options.items() if name not in ("top_p", "min_p")}
    scores_BV = _processors(unfiltered)(prompt_BT, logits_BV.double())
    for row, word in different.nonzero().tolist():
        assert _is_on_the_edge(scores_BV[row].softmax(0), word, **options)


def _is_on_the_edge(probabilities: Tensor, word: int, *, top_p: float = 9, min_p: float = 9, **_: object) -> bool:
    better = float(probabilities[probabilities > probabilities[word]].sum())
    share = float(probabilities[word] / probabilities.max())
    return min(abs(better - top_p), abs(share / min_p - 1)) < 1e-5


def test_top_p_looks_beyond_its_first_thousand_words() -> None:
    scores_BV = torch.linspace(0, 0.1, 5000).expand(2, 5000).contiguous()
    chosen = DecodingOptions.checked(model_of().config, do_sample=True, top_p=0.9)
    found = int((warpers(chosen)(scores_BV, 0)[0] > float("-inf")).sum())
    probabilities = scores_BV[0].double().softmax(0).flip(0)
    assert found == int((probabilities.cumsum(0) - probabilities < 0.9).sum())
    assert 4000 < found < 4600


def test_what_ties_with_the_last_stays() -> None:
    scores_BV = torch.tensor([[1.0, 1.0, 1.0, 0.0, -1.0]])
    config = model_of().config
    for options in ({"top_k": 2}, {"top_p": 0.3}):
        chosen = DecodingOptions.checked(config, do_sample=True, **options)
        assert warpers(chosen)(scores_BV, 0).isinf().tolist() == [[False, False, False, True, True]]


def test_words_of_the_padding_are_not_penalised() -> None:
    config = model_of().config
    prompt_BT, valid_BT = torch.tensor([[20, 21, 30], [22, 31, 32]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    chosen = DecodingOptions.checked(config, repetition_penalty=2.0, suppress_tokens=())
    found = constraints(chosen, prompt_BT, valid_BT, vocab_size=61)(torch.ones(2, 61), 0)
    assert [(row != 1).nonzero().flatten().tolist() for row in found] == [[20, 21], [22]]
