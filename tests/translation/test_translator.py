"""Text to translated text. Oracle: the ids that the model gives for each text alone, made text by the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.small_models import small_config
from tests.model.test_seq2seq import small_translator
from tests.tokenizer.small import TEXT
from tests.training.runs import small_tokenizer
from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.generation.text_generator import TextGenerator
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.moses.detokenise import detokenized
from xlm.translation.translator import TranslationOptions, Translator, translate, translate_stream

TOKENIZER = small_tokenizer()
MODEL = small_translator(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=32, eos=1.5)
WORDS = TEXT.split()
DIRECTION: dict[str, Any] = {"source": "de", "target": "en"}


def alone(text: str, **options: Any) -> list[list[int]]:
    """Ids of the translations of one text, without ``</s>``."""
    ids = torch.tensor([[1, *TOKENIZER.encode(text, lang="de", add_special_tokens=False), 1]])
    found = MODEL.continuations(ids, langs="de", decoder_langs="en", **options)
    return [list(each.tokens[:-1] if each.stop == "eos" else each.tokens) for each in found]


def _fits(text: str) -> bool:
    """Return whether a text and its two ``</s>`` fit into the model's positions."""
    return len(TOKENIZER.encode(text, lang="de")) <= MODEL.config.max_position_embeddings


def _words(ids: list[int]) -> list[str]:
    """Return the words of ids: a special token ends its word, another one if it has the mark ``</w>``."""
    words = [""]
    for token in TOKENIZER.convert_ids_to_tokens(ids):
        words[-1] += token.removesuffix("</w>")
        if token.endswith("</w>") or token in TOKENIZER.all_special_tokens:
            words.append("")
    return [word for word in words if word]


@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join).filter(_fits), min_size=1, max_size=7
    ),
    batch_size=st.integers(1, 3),
    beams=st.sampled_from([1, 3]),
)
def test_each_text_is_translated_as_if_alone(texts: list[str], batch_size: int, beams: int) -> None:
    results = translate(
        MODEL, TOKENIZER, texts, **DIRECTION, batch_size=batch_size, num_beams=beams, n_best=beams, tokenized=True
    )
    assert [result.source for result in results] == texts
    for text, result in zip(texts, results, strict=True):
        expected = alone(text, num_beams=beams, num_return_sequences=beams)
        assert [each.text.split() for each in result.translations] == [_words(ids) for ids in expected]
        assert [list(each.tokens) for each in result.translations] == [
            TOKENIZER.convert_ids_to_tokens(ids) for ids in expected
        ]
        assert result.text == result.translations[0].text
        scores = [each.score for each in result.translations]
        assert scores == ([None] if beams == 1 else sorted(scores, reverse=True))  # type: ignore[type-var]
        assert all(each.logprob < 0 for each in result.translations)


def test_text_is_detokenised_for_reading() -> None:
    (result,) = translate(MODEL, TOKENIZER, [WORDS[0]], **DIRECTION)
    (ids,) = alone(WORDS[0])
    assert result.text == detokenized(_words(ids), "en")


def test_texts_that_cannot_be_translated_keep_their_place() -> None:
    long = " ".join(WORDS * 3)
    texts = [WORDS[0], "", long, WORDS[1], "  "]
    translator = Translator(MODEL, TOKENIZER, **DIRECTION, options=TranslationOptions(batch_size=2))
    results = translator.translate_window(texts)
    assert [result.source for result in results] == texts
    assert [bool(result.translations) for result in results] == [True, False, False, True, False]
    assert results[1].problem == "the text is empty"
    assert "more than the model's 32 positions" in str(results[2].problem)
    assert results[2].text == ""
    with pytest.raises(InputError, match=r"texts\[1\]"):
        translate(MODEL, TOKENIZER, texts, **DIRECTION)


def test_a_text_without_finite_scores_is_a_problem_of_its_own() -> None:
    model = small_translator(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=32, eos=1.5)
    index = TOKENIZER.encode(WORDS[1], lang="de", add_special_tokens=False)[0]
    model.encoder.get_parameter("transformer.embeddings.word.weight")[index] = torch.nan
    translator = Translator(model, TOKENIZER, **DIRECTION, options=TranslationOptions())
    results = translator.translate_window([WORDS[0], WORDS[1], WORDS[0]])
    assert [bool(result.translations) for result in results] == [True, False, True]
    assert str(results[1].problem).startswith("the model's scores of the next token are not finite")
    assert results[0].text == results[2].text == translate(MODEL, TOKENIZER, [WORDS[0]], **DIRECTION)[0].text


def test_a_stream_is_read_in_bounded_pieces() -> None:
    taken = []

    def texts() -> Any:
        for number in range(10_000):
            taken.append(number)
            yield WORDS[number % 5]

    stream = translate_stream(MODEL, TOKENIZER, texts(), **DIRECTION, batch_size=1)
    for _ in range(3):
        next(stream)
    assert len(taken) <= 64


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "en"}, InputError, "the same language"),
        ({"source": "fr"}, LanguageError, "where: source"),
        ({"target": "fr"}, LanguageError, "where: target"),
        ({"num_beams": 0}, InputError, "num_beams"),
        ({"n_best": 3, "num_beams": 2}, InputError, "n_best = 3, num_beams = 2"),
        ({"length_penalty": "much"}, InputError, "length_penalty"),
        ({"early_stopping": 7}, InputError, "early_stopping"),
        ({"tokenized": "yes"}, InputError, "tokenized"),
        ({"max_length": 1}, InputError, "max_length"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        translate(MODEL, TOKENIZER, [WORDS[0]], **{**DIRECTION, **changes})


def test_options_of_beam_search_without_beams_are_warned_of_once() -> None:
    with pytest.warns(XLMWarning, match="length_penalty, early_stopping: has no effect") as caught:
        translate(MODEL, TOKENIZER, WORDS[:3], **DIRECTION, batch_size=1, length_penalty=2.0, early_stopping=True)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_tokenizer_of_another_model_is_noticed(task: str) -> None:
    def use(words: int) -> None:
        if task == "translate":
            translate(small_translator(vocab_size=words), TOKENIZER, [WORDS[0]], **DIRECTION)
        else:
            lm = XLMWithLMHeadModel(small_config(vocab_size=words))
            TextGenerator(lm, TOKENIZER, lang="de", options={"max_new_tokens": 2})

    with pytest.raises(InputError, match="not in the model's vocabulary"):
        use(TOKENIZER.vocab_size - 1)
    with pytest.warns(XLMWarning, match="make sure that the tokenizer belongs to this model"):
        use(TOKENIZER.vocab_size + 128)


@pytest.mark.parametrize(
    ("ids", "message"),
    [({"eos_token_id": 0, "bos_token_id": 1}, "eos_token_id = 0"), ({"pad_token_id": 5}, "pad_token_id = 5")],
)
def test_a_tokenizer_with_other_special_tokens_is_refused(ids: dict[str, int], message: str) -> None:
    model = small_translator(vocab_size=TOKENIZER.vocab_size, **ids)
    with pytest.raises(InputError, match=rf"different special tokens(?s:.*)found: {message}"):
        translate(model, TOKENIZER, [WORDS[0]], **DIRECTION)


def test_a_single_text_or_a_language_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?i)texts is a single str"):
        translate(MODEL, TOKENIZER, "a text", **DIRECTION)
    lm = XLMWithLMHeadModel(MODEL.config)
    with pytest.raises(InputError, match=r"(?i)does not translate"):
        translate(lm, TOKENIZER, ["a"], **DIRECTION)  # type: ignore[arg-type]
    assert isinstance(MODEL, XLMEncoderDecoderModel)
