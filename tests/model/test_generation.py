"""Greedy decoding, and properties of all decoding methods.

Oracles: ``slow_decoding``, which has no cache and one row; and the same call for each row by itself.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.slow_decoding import Slow
from tests.model.small_models import random_ids, requested, small_model
from xlm.errors import InputError
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.result import Continuation
from xlm.model.head import LinearHead
from xlm.model.lm import XLMWithLMHeadModel

POSITIONS = 16
BOUND = 1e-10  # the models are float64, so that no two tokens tie and whatever differs is a mistake
FLOAT32_BOUND = 1e-5  # the issue's own, for log-probabilities of 2 to 8 nats

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinusoidal, ReLU": {"sinusoidal_embeddings": True, "gelu_activation": False},
    "monolingual": {"n_langs": 1},
    "no language embeddings": {"use_lang_emb": False},
    "untied": {"share_inout_emb": False},
    "adaptive softmax": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}


@functools.cache
def model_of(kind: str = "plain", *, eos_bias: float = 2.0) -> XLMWithLMHeadModel:
    """Return a small model that does not repeat itself: context, position and language all matter."""
    model = small_model(seed=1, dtype=torch.float64, **KINDS[kind])
    embeddings = model.transformer.embeddings
    with torch.no_grad():
        for module in model.transformer.layers.modules():
            if isinstance(module, nn.Linear):
                module.weight *= 6.0
        if embeddings.language is not None:
            embeddings.language.weight *= 3.0
        if embeddings.position.weight.requires_grad:
            embeddings.position.weight *= 3.0
        if isinstance(model.head, LinearHead):
            model.head.bias[1] += eos_bias  # so that rows end at different steps
    return model


def langs_for(model: XLMWithLMHeadModel, lang: str) -> str | None:
    return lang if model.config.has_language_embeddings else None


def same(found: Continuation, expected: Continuation, *, bound: float = BOUND) -> None:
    assert found.tokens == expected.tokens
    assert found.stop == expected.stop
    assert found.logprobs == pytest.approx(expected.logprobs, abs=bound)
    if expected.score is not None:
        assert found.score == pytest.approx(expected.score, abs=bound)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) and lengths (B,) of prompts of 1 to 16 tokens that begin with ``</s>``."""
    lengths = draw(st.lists(st.integers(1, POSITIONS), min_size=1, max_size=5))
    ids = random_ids(len(lengths), max(lengths), seed=draw(st.integers(0, 99)))
    ids[:, 0] = 1
    return ids, torch.tensor(lengths)


@given(
    kind=st.sampled_from(list(KINDS)),
    prompts=ragged(),
    max_new_tokens=st.integers(1, 20),
    min_new_tokens=st.integers(0, 3),
    repetition_penalty=st.sampled_from([1.0, 1.7, 0.6]),
    eos=st.sampled_from([None, (1, 30, 43), ()]),
)
@settings(max_examples=40, deadline=None)
def test_greedy_equals_the_slow_way(
    kind: str,
    prompts: tuple[Tensor, Tensor],
    max_new_tokens: int,
    min_new_tokens: int,
    repetition_penalty: float,
    eos: tuple[int, ...] | None,
) -> None:
    model, (ids, lengths) = model_of(kind), prompts
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min(min_new_tokens, max_new_tokens),
        "repetition_penalty": repetition_penalty,
    }
    langs = langs_for(model, "en")
    found = model.continuations(ids, lengths=lengths, langs=langs, eos_token_id=eos, **options)
    assert [c.prompt for c in found] == list(range(len(ids)))
    eos = (1,) if eos is None else eos
    for row, continuation in enumerate(found):
        prompt = ids[row, : lengths[row]].tolist()
        limit = min(max_new_tokens, POSITIONS - len(prompt) + 1)
        slow = Slow(
            model=model,
            prompt=prompt,
            langs=None if langs is None else [1] * 40,
            limit=limit,
            eos=eos,
            suppressed=[index for index in range(14) if index not in eos],
            min_new_tokens=options["min_new_tokens"],
            repetition_penalty=repetition_penalty,
        )
        new = list(continuation.tokens)
        assert new == slow.greedy()
        expected = [slow.logprobs(new[:step])[word] for step, word in enumerate(new)]
        assert continuation.logprobs == pytest.approx(expected, abs=BOUND)
        assert continuation.logprob == pytest.approx(sum(expected), abs=BOUND)
        ended = "eos" if new[-1] in eos else "max_new_tokens" if len(new) == max_new_tokens else "positions"
        assert continuation.stop == ended


OPTIONS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.5, "min_new_tokens": 2},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "repetition_penalty": 1.3, "early_stopping": True, "length_penalty": 0.5},
    {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9},
    {"do_sample": True, "top_k": 7, "temperature": 1.3, "repetition_penalty": 1.2},
]


@given(
    kind=st.sampled_from(list(KINDS)),
    prompts=ragged(),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 2**63 - 1),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_batched_equals_single_in_any_order(
    kind: str, prompts: tuple[Tensor, Tensor], options: dict[str, Any], seed: int, order: Any
) -> None:
    model, (ids, lengths) = model_of(kind), prompts
    options = {**options, "max_new_tokens": 9}
    n = options.get("num_return_sequences", 1)
    langs = torch.tensor([row % 2 for row in range(len(ids))]) if langs_for(model, "en") else None
    sampled: dict[str, Any] = {"seed": seed} if options.get("do_sample") else {}
    together = model.continuations(ids, lengths=lengths, langs=langs, **options, **sampled)
    rows = list(range(len(ids)))
    order.shuffle(rows)
    if sampled:
        sampled["seed"] = [together[row * n + j].seed for row in rows for j in range(n)]
    shuffled = model.continuations(
        ids[rows], lengths=lengths[rows], langs=None if langs is None else langs[rows], **options, **sampled
    )
    for place, row in enumerate(rows):
        group = together[row * n : row * n + n]
        if sampled:
            sampled["seed"] = [c.seed for c in group]
        alone = model.continuations(
            ids[row : row + 1, : lengths[row]],
            langs=None if langs is None else langs[row : row + 1],
            **options,
            **sampled,
        )
        for found, single, moved in zip(group, alone, shuffled[place * n : place * n + n], strict=True):
            same(found, single)
            same(found, moved)
            assert (found.prompt, single.prompt, moved.prompt) == (row, 0, place)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batched_equals_single_in_float32(kind: str, options: dict[str, Any]) -> None:
    model = small_model(seed=1, **KINDS[kind])
    ids, lengths, langs = random_ids(6, 9, seed=3), torch.tensor([9, 1, 4, 4, 2, 7]), langs_for(model, "en")
    options = {**options, "max_new_tokens": 9, "eos_token_id": (1, 43)}
    seeds = list(range(6 * options.get("num_return_sequences", 1)))
    together = model.continuations(ids, lengths=lengths, langs=langs, seed=seeds, **options)
    for c, seed in zip(together, seeds, strict=True):
        alone = model.continuations(
            ids[c.prompt : c.prompt + 1, : lengths[c.prompt]],
            langs=langs,
            **{**options, "seed": seed, "num_return_sequences": 1 if c.seed is not None else len(seeds) // 6},
        )
        same(c, alone[0 if c.seed is not None else seed % (len(seeds) // 6)], bound=FLOAT32_BOUND)


def test_generate_is_prompt_and_continuation_padded_on_the_right() -> None:
    model = model_of()
    ids, lengths = random_ids(4, 7, seed=5), torch.tensor([7, 1, 4, 2])
    for options in OPTIONS:
        n = options.get("num_return_sequences", 1)
        chosen = {**options, "seed": 5, "max_new_tokens": 8}
        found = model.generate(ids, lengths=lengths, langs="de", **chosen)
        rows = model.continuations(ids, lengths=lengths, langs="de", **chosen)
        assert found.dtype == torch.int64
        assert found.shape == (4 * n, max(int(lengths[c.prompt]) + len(c.tokens) for c in rows))
        for row, c in zip(found.tolist(), rows, strict=True):
            whole = [*ids[c.prompt, : lengths[c.prompt]].tolist(), *c.tokens]
            assert row == whole + [2] * (len(row) - len(whole))


def test_padding_may_be_given_in_three_ways() -> None:
    model = model_of()
    ids, lengths = random_ids(3, 6), torch.tensor([6, 2, 4])
    mask = torch.arange(6) < lengths[:, None]
    expected = model.generate(ids, lengths=lengths, langs="en")
    assert torch.equal(model.generate(ids, attention_mask=mask.long(), langs="en"), expected)
    assert torch.equal(model.generate(ids.masked_fill(~mask, 2), langs="en"), expected)


def test_where_rows_stop() -> None:
    model = model_of()
    ids = random_ids(1, POSITIONS)
    (last,) = model.continuations(ids, langs="en", eos_token_id=(), max_new_tokens=5)
    assert (len(last.tokens), last.stop) == (1, "positions")
    (exact,) = model.continuations(ids[:, :12], langs="en", eos_token_id=(), max_new_tokens=5)
    assert (len(exact.tokens), exact.stop) == (5, "max_new_tokens")
    (short,) = model.continuations(ids[:, :13], langs="en", eos_token_id=(), max_new_tokens=5)
    assert (len(short.tokens), short.stop) == (4, "positions")
    first = last.tokens[0]
    (ended,) = model.continuations(ids, langs="en", eos_token_id=first, max_new_tokens=5)
    assert (ended.tokens, ended.stop) == ((first,), "eos")
    (later,) = model.continuations(ids[:, :3], langs="en", eos_token_id=range(20, 60), min_new_tokens=4)
    assert len(later.tokens) >= 5
    assert all(token < 20 or token == 60 for token in later.tokens[:4])


def test_many_rows_of_which_most_end_early_and_one_reaches_the_last_position() -> None:
    """Ended rows must not use room or positions of the running ones."""
    model = model_of()
    ids = random_ids(12, POSITIONS, seed=8)
    lengths = torch.tensor([16, 15, 14, 1, 13, 12, 1, 9, 2, 10, 11, 1])
    found = model.continuations(ids, lengths=lengths, langs="en", eos_token_id=(), max_new_tokens=99)
    assert [len(c.tokens) for c in found] == [POSITIONS - int(length) + 1 for length in lengths]
    for row, c in enumerate(found):
        same(
            c,
            model.continuations(ids[row : row + 1, : lengths[row]], langs="en", eos_token_id=(), max_new_tokens=99)[0],
        )


def test_special_tokens_are_not_produced_unless_allowed() -> None:
    model = small_model(seed=1)
    assert isinstance(model.head, LinearHead)
    with torch.no_grad():
        model.head.bias[:14] += 100.0
        model.head.bias[1] -= 200.0
    ids = random_ids(2, 3)
    assert all(min(c.tokens) >= 14 for c in model.continuations(ids, langs="en"))
    allowed = model.continuations(ids, langs="en", suppress_tokens=(), max_new_tokens=4)
    assert all(max(c.tokens) < 14 for c in allowed)
    only = model.continuations(ids, langs="en", suppress_tokens=[*range(14), *range(15, 61)], max_new_tokens=4)
    assert [c.tokens for c in only] == [(14,) * 4] * 2


def test_the_language_of_the_continuation() -> None:
    model = model_of()
    ids = random_ids(2, 4, seed=2)

    def expected(row: int, new_langs: list[int], prompt_langs: list[int]) -> list[int]:
        return Slow(model=model, prompt=ids[row].tolist(), langs=[*prompt_langs, *new_langs], limit=6, eos=()).greedy()

    def found(**langs: Any) -> list[list[int]]:
        rows = model.continuations(ids, **langs, eos_token_id=(), suppress_tokens=(0, *range(2, 14)), max_new_tokens=6)
        return [list(c.tokens) for c in rows]

    de, en = [0] * 6, [1] * 6
    switch = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    mixed = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1]])
    assert found(langs="de") == [expected(row, de, [0] * 4) for row in range(2)]
    assert found(langs="de", continuation_langs="en") == [expected(row, en, [0] * 4) for row in range(2)]
    assert found(langs="de", continuation_langs=["en", 0]) == [expected(0, en, [0] * 4), expected(1, de, [0] * 4)]
    assert found(langs="de", continuation_langs=switch) == [
        expected(row, switch[row].tolist(), [0] * 4) for row in range(2)
    ]
    # Without it, the new tokens have the language of the prompt's last token.
    assert found(langs=mixed) == [expected(0, de, mixed[0].tolist()), expected(1, en, mixed[1].tolist())]
    assert len({str(found(langs="de", continuation_langs=other)) for other in ("de", "en", switch)}) == 3


def test_beams_and_ragged_samples_switch_languages_too() -> None:
    model = model_of()
    ids, lengths = random_ids(3, 5, seed=2), torch.tensor([5, 1, 3])
    switch = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    for options in OPTIONS:
        n = options.get("num_return_sequences", 1)
        arguments = {**options, "max_new_tokens": 4, "seed": list(range(3 * n))}
        rows = model.continuations(ids, lengths=lengths, langs="de", continuation_langs=switch, **arguments)
        for c in rows:
            length = int(lengths[c.prompt])
            slow = Slow(
                model=model,
                prompt=ids[c.prompt, :length].tolist(),
                langs=[*[0] * length, *switch[c.prompt].tolist()],
                limit=4,
            )
            expected = [slow.logprobs(c.tokens[:step])[word] for step, word in enumerate(c.tokens)]
            assert c.logprobs == pytest.approx(expected, abs=BOUND)


def test_a_stream_gives_the_same_tokens_one_by_one() -> None:
    model = model_of()
    ids = random_ids(1, 5, seed=3)
    ways: list[dict[str, Any]] = [{}, {"do_sample": True, "seed": 11, "top_p": 0.8}, {"repetition_penalty": 2.0}]
    for options in ways:
        (expected,) = model.continuations(ids, langs="en", **options)
        stream = model.stream(ids, langs="en", **options)
        tokens = []
        for token in stream:
            tokens.append(token)
            assert not torch.is_inference_mode_enabled()
            assert (stream.continuation is None) == (len(tokens) < len(expected.tokens))
        assert tuple(tokens) == expected.tokens
        assert stream.continuation == expected
        assert next(stream, None) is None


def test_dropout_is_off_and_the_mode_stays() -> None:
    model = small_model(seed=1)
    expected = model.generate(random_ids(2, 3), langs="en")
    model.train()
    model.transformer.layers[0].eval()
    assert torch.equal(model.generate(random_ids(2, 3), langs="en"), expected)
    stream = model.stream(random_ids(1, 3), langs="en", max_new_tokens=3)
    tokens = [(token, model.training) for token in stream]
    assert tokens == [(int(token), True) for token in expected[0, 3:6]]
    assert model.training
    assert not model.transformer.layers[0].training


def test_the_result_can_be_trained_on() -> None:
    """Tensors created in inference mode cannot be used in training."""
    model = small_model(seed=1)
    ids = model.generate(random_ids(2, 3), langs="en", eos_token_id=(), max_new_tokens=5)
    assert not ids.is_inference()
    torch.autograd.backward(requested(model(ids, langs="en", labels=ids).loss))
    assert model.transformer.embeddings.word.weight.grad is not None


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_inside_inference_mode_and_no_grad(options: dict[str, Any]) -> None:
    model = model_of()
    options = {**options, "seed": 4, "max_new_tokens": 6}
    ids, lengths = random_ids(3, 5), torch.tensor([1, 5, 2])
    expected = model.generate(ids, lengths=lengths, langs="en", **options)
    with torch.inference_mode():
        assert torch.equal(model.generate(ids, lengths=lengths, langs="en", **options), expected)
    with torch.no_grad():
        assert torch.equal(model.generate(ids, lengths=lengths, langs="en", **options), expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bfloat16(options: dict[str, Any]) -> None:
    """The log-probabilities of its tokens equal those of one forward pass in bfloat16."""
    model = small_model(seed=1, dtype=torch.bfloat16)
    ids, lengths = random_ids(3, 5), torch.tensor([1, 5, 2])
    for c in model.continuations(ids, lengths=lengths, langs="en", seed=4, max_new_tokens=6, **options):
        slow = Slow(model=model, prompt=ids[c.prompt, : lengths[c.prompt]].tolist(), langs=[1] * 12, limit=6)
        expected = [slow.logprobs(c.tokens[:step])[word] for step, word in enumerate(c.tokens)]
        # Logits of up to 8 are rounded to 2**-6 (twice half of 8 * 2**-8), after sums of about ten products.
        assert c.logprobs == pytest.approx(expected, abs=0.15)


def test_the_default_number_of_new_tokens() -> None:
    model = small_model(max_position_embeddings=80)
    for options in (None, DecodingOptions(), DecodingOptions(max_new_tokens=None)):
        (found,) = model.continuations(random_ids(1, 4), langs="en", eos_token_id=(), options=options)
        assert (len(found.tokens), found.stop) == (64, "max_new_tokens")


@pytest.mark.parametrize("method", ["generate", "continuations", "stream"])
def test_options_as_one_object_or_by_name(method: str) -> None:
    model, ids = model_of(), random_ids(1, 4)

    def result(**options: Any) -> list[Any]:
        return list(getattr(model, method)(ids, langs="en", **options))

    chosen = DecodingOptions(do_sample=True, seed=3, max_new_tokens=5)
    assert str(result(options=chosen)) == str(result(do_sample=True, seed=3, max_new_tokens=5))
    assert str(result(options=chosen, seed=4)) == str(result(do_sample=True, seed=4, max_new_tokens=5))
    assert str(result(options=chosen, seed=4)) != str(result(options=chosen))
    with pytest.raises(InputError) as caught:
        result(options={"seed": 3})
    assert caught.value.where == "options"
