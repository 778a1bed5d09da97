"""Translating batches of sentences, beside CTranslate2 with the same weights.

Shapes: B sentences, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.hardware import timed
from benchmarks.models import SIZES, scale_embeddings
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from xlm.model.config import XLMConfig
from xlm.model.head import LinearHead, target_logprobs
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.transformer import Layer

ROWS, BEAMS, WEIGHTS = (1, 8, 32), (1, 4), ("float32", "int8")

_SOURCE_LANGUAGE, _TARGET_LANGUAGE = 0, 1
_SHORTEST, _LONGEST = 16, 32
"""Tokens of a source sentence, with ``</s>`` at both ends."""
_MAX_NEW_TOKENS = 60
_WORDS = 20
"""Half of the greedy translations end earlier."""
_CROSS_ATTENTION_SCALE = 2.0
"""Factor for the output of the random attention to the source, so that a translation depends on its source."""
_SHARPNESS = 3.0
"""Factor for the scores of words, so that the best word is as likely as in a trained model."""
_FIRST_WORD = 14
_NEAR_TIE = 1e-3
"""Largest difference of two float32 log-probabilities whose order another order of sums may swap."""
_SCORE_TOLERANCE = 0.01
"""Nats a token by which a beam search may be worse than another one with other rules, on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    weights: str
    beams: int
    rows: int

    def __str__(self) -> str:
        search = "greedy" if self.beams == 1 else f"beam {self.beams}"
        return f"{self.weights}, {search}, batch {self.rows}"


_Sentences = list[tuple[int, ...]]


def bench_translate(
    scratch: Path,
    *,
    size: str,
    rounds: int,
    against: str | None,
    rows: tuple[int, ...] = ROWS,
    beams: tuple[int, ...] = BEAMS,
    weights: tuple[str, ...] = WEIGHTS,
) -> Report:
    """Translate random sentences with a packed model, in turn with a peer.

    Args:
        scratch: A directory for temporary files.
        size: One of ``SIZES``, of each half of the model.
        rounds: Number of rounds; each measures everything once.
        against: ``"ctranslate2"`` or ``None``. The greedy translations in float32 must be the same; beam search must
            find translations that this library's model scores as high.
        rows: Sentences in a batch.
        beams: Numbers of beams.
        weights: Types of the weights.
    """
    model = random_translator(SIZES[size])
    ours = {each: model.for_inference(each) for each in weights}
    judge = ours.get("float32") or model.for_inference("float32")
    theirs = {}
    if against:
        write_ctranslate2(model, scratch / against)
        theirs = {each: _open_ctranslate2(scratch / against, each) for each in weights}
    del model
    measurements: list[Measurement] = []
    targets: list[Target] = []
    for case in (_Case(weights=w, beams=b, rows=n) for w in weights for b in beams for n in rows):
        ids_BS, lengths_B = _sources(judge.config, case.rows)
        works: dict[str, Callable[[], _Sentences]] = {
            "xlm": partial(_translate, ours[case.weights], ids_BS, lengths_B, case)
        }
        if against:
            works[against] = partial(_translate_by_ctranslate2, theirs[case.weights], _words(ids_BS, lengths_B), case)
        speeds, results = _measure(works, case, rounds)
        measurements += speeds.values()
        if not against:
            continue
        if size == "published":
            targets.append(
                Target(
                    name=f"xlm {case}: speed / {against}",
                    value=ratio_of_rounds(speeds["xlm"], speeds[against]),
                    limit=1.0,
                    at_least=True,
                )
            )
        if case.weights == "float32" and case.beams == 1:
            name = f"xlm {case}: of {case.rows} translations, those unlike {against}'s"
            differing = _count_differing(judge, ids_BS, lengths_B, results["xlm"], results[against])
            targets.append(Target(name=name, value=differing, limit=0.0))
            continue
        name = f"xlm {case}: score above that of {against}, by xlm float32, nats a token"
        ours_B, theirs_B = (_scores(judge, ids_BS, lengths_B, results[each]) for each in ("xlm", against))
        better = float((ours_B - theirs_B).mean())
        if case.weights == "float32":
            targets.append(Target(name=name, value=better, limit=-_SCORE_TOLERANCE, at_least=True))
        else:
            measurements.append(Measurement(name=name, unit="nats", values=(better,)))
    return Report(
        title=f"translation, {size} size, at most {_MAX_NEW_TOKENS} new tokens, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ()))),
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def _measure(
    works: dict[str, Callable[[], _Sentences]], case: _Case, rounds: int
) -> tuple[dict[str, Measurement], dict[str, _Sentences]]:
    """Run each library in turn; return its speed and its last translations."""
    speeds: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, _Sentences] = {}
    for round_ in range(rounds + 1):  # the first round is a warm-up
        for name, work in works.items():
            seconds, results[name] = timed(work)
            if round_ > 0:
                speeds[name].append(sum(map(len, results[name])) / seconds)
    return {
        name: Measurement(name=f"{name} {case}", unit="tokens/s", values=tuple(values))
        for name, values in speeds.items()
    }, results


@torch.no_grad()
def random_translator(config: XLMConfig) -> XLMEncoderDecoderModel:
    """Return a translation model with random weights whose sentences depend on their source and end."""
    torch.manual_seed(0)
    model = XLMEncoderDecoderModel(config).eval()
    for half in (model.encoder, model.decoder):
        scale_embeddings(half)
    last: Any
    for last in model.decoder.transformer.layers:
        last.cross_attention.output.weight.mul_(_CROSS_ATTENTION_SCALE)
    last.ffn_norm.weight.mul_(_SHARPNESS)
    ids_BS, lengths_B = _sources(config, 16)
    end = config.eos_token_id
    langs: dict[str, Any] = {"lengths": lengths_B, "langs": _SOURCE_LANGUAGE, "decoder_langs": _TARGET_LANGUAGE}
    words_BT = model.generate(ids_BS, max_new_tokens=_WORDS, min_new_tokens=_WORDS, **langs)
    logits_BTV = model(ids_BS, words_BT[:, :-1], **langs).logits
    end_BT = logits_BTV[..., end].clone()
    logits_BTV[..., end] = float("-inf")
    missing_BT = logits_BTV.amax(-1) - end_BT
    model.decoder.head.get_parameter("bias")[end] += missing_BT.amin(1).median()
    return model


def _sources(config: XLMConfig, rows: int) -> tuple[Tensor, Tensor]:
    """Return (B, S) random sentences of several lengths, and the (B,) lengths."""
    generator = torch.Generator().manual_seed(rows)
    lengths_B = torch.randint(_SHORTEST, _LONGEST + 1, (rows,), generator=generator)
    if rows == 1:
        lengths_B[0] = (_SHORTEST + _LONGEST) // 2
    S = int(lengths_B.max())
    ids_BS = torch.randint(_FIRST_WORD, config.vocab_size, (rows, S), generator=generator)
    positions_S = torch.arange(S)
    ids_BS[positions_S >= lengths_B[:, None]] = config.pad_token_id
    ids_BS[:, 0] = config.eos_token_id
    ids_BS[torch.arange(rows), lengths_B - 1] = config.eos_token_id
    return ids_BS, lengths_B


def _translate(model: XLMEncoderDecoderModel, ids_BS: Tensor, lengths_B: Tensor, case: _Case) -> _Sentences:
    beams: dict[str, Any] = {"num_beams": case.beams, "early_stopping": True} if case.beams > 1 else {}
    ids_BT = model.generate(
        ids_BS,
        lengths=lengths_B,
        langs=_SOURCE_LANGUAGE,
        decoder_langs=_TARGET_LANGUAGE,
        max_new_tokens=_MAX_NEW_TOKENS,
        **beams,
    )
    pad = model.config.pad_token_id
    return [tuple(id_ for id_ in row[1:] if id_ != pad) for row in ids_BT.tolist()]


@torch.inference_mode()
def _logprobs(model: XLMEncoderDecoderModel, ids_BS: Tensor, lengths_B: Tensor, sentences: _Sentences) -> list[Tensor]:
    """Return the log-probabilities of the tokens of each translation, with those of the best tokens; each (2, T)."""
    result = []
    for row, sentence in enumerate(sentences):
        target_1T = torch.tensor([[model.config.eos_token_id, *sentence]])
        logits_TV = model(
            ids_BS[row : row + 1, : int(lengths_B[row])],
            target_1T[:, :-1],
            langs=_SOURCE_LANGUAGE,
            decoder_langs=_TARGET_LANGUAGE,
        ).logits[0]
        best_T = logits_TV.argmax(1)
        result.append(torch.stack([target_logprobs(logits_TV, target_1T[0, 1:]), target_logprobs(logits_TV, best_T)]))
    return result


def _scores(model: XLMEncoderDecoderModel, ids_BS: Tensor, lengths_B: Tensor, sentences: _Sentences) -> Tensor:
    """Return the (B,) mean log-probabilities of the tokens of translations."""
    return torch.stack([logprobs_2T[0].mean() for logprobs_2T in _logprobs(model, ids_BS, lengths_B, sentences)])


def _count_differing(
    model: XLMEncoderDecoderModel, ids_BS: Tensor, lengths_B: Tensor, ours: _Sentences, theirs: _Sentences
) -> float:
    """Count the translations of a peer that differ other than by a word that is as good by less than a near tie."""
    differing = 0
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine != other:
            (logprobs_2T,) = _logprobs(model, ids_BS[row : row + 1], lengths_B[row : row + 1], [other])
            first = next((t for t, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), None)
            tie = first is not None and float(logprobs_2T[1, first] - logprobs_2T[0, first]) <= _NEAR_TIE
            differing += not tie
    return float(differing)


def write_ctranslate2(model: XLMEncoderDecoderModel, directory: Path) -> None:
    """Write a translation model in the format of CTranslate2, for one pair of languages.

    The format has no languages: the embedding of the source language is added to the encoder's positions, and that of
    the target language to the decoder's.

    Args:
        model: The model, in float32.
        directory: A new directory.
    """
    from ctranslate2.specs import Activation, TransformerSpec

    config = model.config
    spec = TransformerSpec.from_config(
        (config.n_layers, config.n_layers),
        config.n_heads,
        pre_norm=False,
        activation=Activation.GELU if config.gelu_activation else Activation.RELU,
        layernorm_embedding=True,
    )
    copy_half(spec.encoder, spec.encoder.embeddings[0], model.encoder, _SOURCE_LANGUAGE)
    copy_half(spec.decoder, spec.decoder.embeddings, model.decoder, _TARGET_LANGUAGE)
    copy_head(spec.decoder, model.decoder)
    end = config.eos_token_id
    words = [str(index) for index in range(config.vocab_size)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    for token in ("unk_token", "bos_token", "eos_token", "decoder_start_token"):
        setattr(spec.config, token, str(config.unk_token_id if token == "unk_token" else end))
    spec.validate()
    directory.mkdir()
    spec.save(str(directory))


def copy_head(spec: Any, half: XLMWithLMHeadModel) -> None:
    """Copy a linear head to the specification of a decoder."""
    head = half.head
    assert isinstance(head, LinearHead)
    spec.projection.weight = head.projection.detach().numpy()
    spec.projection.bias = head.bias.detach().numpy()


def copy_half(spec: Any, embeddings_spec: Any, half: XLMWithLMHeadModel, language: int) -> None:
    """Copy embeddings and layers to the specification of an encoder or a decoder, for one language."""
    transformer = half.transformer
    embeddings = transformer.embeddings
    spec.scale_embeddings = 1.0
    embeddings_spec.weight = embeddings.word.weight.detach().numpy()
    positions = embeddings.position.weight.detach()
    if embeddings.language is not None:
        positions = positions + embeddings.language.weight.detach()[language]
    spec.position_encodings.encodings = positions.numpy()
    _copy_norm(spec.layernorm_embedding, embeddings.norm)
    for target, layer in zip(spec.layer, transformer.layers, strict=True):
        assert isinstance(layer, Layer)
        attention, cross = layer.attention, layer.cross_attention
        _copy_linear(target.self_attention.linear[0], attention.query, attention.key, attention.value)
        _copy_linear(target.self_attention.linear[1], attention.output)
        _copy_norm(target.self_attention.layer_norm, layer.attention_norm)
        if cross is not None:
            _copy_linear(target.attention.linear[0], cross.query)
            _copy_linear(target.attention.linear[1], cross.key, cross.value)
            _copy_linear(target.attention.linear[2], cross.output)
            _copy_norm(target.attention.layer_norm, layer.cross_attention_norm)
        _copy_linear(target.ffn.linear_0, layer.ffn.up)
        _copy_linear(target.ffn.linear_1, layer.ffn.down)
        _copy_norm(target.ffn.layer_norm, layer.ffn_norm)


def _copy_linear(spec: Any, *linears: Any) -> None:
    spec.weight = torch.cat([linear.weight.detach() for linear in linears]).numpy()
    spec.bias = torch.cat([linear.bias.detach() for linear in linears]).numpy()


def _copy_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()


def _open_ctranslate2(directory: Path, weights: str) -> Any:
    import ctranslate2

    return ctranslate2.Translator(
        str(directory), device="cpu", compute_type=weights, inter_threads=1, intra_threads=torch.get_num_threads()
    )


def _words(ids_BS: Tensor, lengths_B: Tensor) -> list[list[str]]:
    return [[str(id_) for id_ in row[:length]] for row, length in zip(ids_BS.tolist(), lengths_B.tolist(), strict=True)]


def _translate_by_ctranslate2(translator: Any, sentences: list[list[str]], case: _Case) -> _Sentences:
    results = translator.translate_batch(
        sentences,
        beam_size=case.beams,
        min_decoding_length=0,
        max_decoding_length=_MAX_NEW_TOKENS,
        length_penalty=1.0,
        return_end_token=True,
    )
    return [tuple(map(int, result.hypotheses[0])) for result in results]
