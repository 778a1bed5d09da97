"""Translating batches of sentences, beside CTranslate2 with the same weights.

Shapes: B sentences, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ctranslate2_models import write_translation_model
from benchmarks.engine import Engine, in_turn
from benchmarks.models import SIZES, scale_embeddings
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from xlm.model.config import XLMConfig
from xlm.model.head import target_logprobs
from xlm.model.seq2seq import XLMEncoderDecoderModel

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
    judge = model.for_inference("float32")
    directories = {"xlm": scratch / "xlm"}
    model.save_pretrained(directories["xlm"])
    if against:
        directories[against] = scratch / against
        write_translation_model(model, _SOURCE_LANGUAGE, _TARGET_LANGUAGE, directories[against])
    del model
    openers = {"xlm": ("xlm.model.seq2seq", open_xlm), "ctranslate2": ("ctranslate2", open_ctranslate2)}
    threads = torch.get_num_threads()
    measurements: list[Measurement] = []
    targets: list[Target] = []
    for each in weights:
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(Engine(*openers[name], str(directory), each, threads))
                for name, directory in directories.items()
            }
            for case in (_Case(weights=each, beams=b, rows=n) for b in beams for n in rows):
                ids_BS, lengths_B = _sources(judge.config, case.rows)
                words = [row[:length] for row, length in zip(ids_BS.tolist(), lengths_B.tolist(), strict=True)]
                works = {name: partial(_speed, engine, words, case) for name, engine in engines.items()}
                figures, results = in_turn(works, rounds)
                speeds = {
                    name: Measurement(name=f"{name} {case}", unit="tokens/s", values=values)
                    for name, values in figures.items()
                }
                measurements += speeds.values()
                if against:
                    compared = _compare(judge, case, results["xlm"], results[against], against)
                    if isinstance(compared, Target):
                        targets.append(compared)
                    else:
                        measurements.append(compared)
                if against and size == "published":
                    ratio = ratio_of_rounds(speeds["xlm"], speeds[against])
                    name = f"xlm {case}: speed / {against}"
                    targets.append(Target(name=name, value=ratio, limit=1.0, at_least=True))
    return Report(
        title=f"translation, {size} size, at most {_MAX_NEW_TOKENS} new tokens, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ()))),
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def _speed(engine: Engine, sentences: list[list[int]], case: _Case) -> tuple[float, _Sentences]:
    """Translate, and return the translated tokens a second and the translations."""
    seconds, translations = engine.run(sentences, case.beams)
    return sum(map(len, translations)) / seconds, translations


def _compare(
    judge: XLMEncoderDecoderModel, case: _Case, ours: _Sentences, theirs: _Sentences, against: str
) -> Target | Measurement:
    """Compare the translations of two libraries by a model in float32."""
    ids_BS, lengths_B = _sources(judge.config, case.rows)
    if case.weights == "float32" and case.beams == 1:
        name = f"xlm {case}: of {case.rows} translations, those unlike {against}'s"
        return Target(name=name, value=_count_differing(judge, ids_BS, lengths_B, ours, theirs), limit=0.0)
    name = f"xlm {case}: score above that of {against}, by xlm float32, nats a token"
    ours_B, theirs_B = (_scores(judge, ids_BS, lengths_B, each) for each in (ours, theirs))
    better = float((ours_B - theirs_B).mean())
    if case.weights == "float32":
        return Target(name=name, value=better, limit=-_SCORE_TOLERANCE, at_least=True)
    return Measurement(name=name, unit="nats", values=(better,))


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


def translate(model: XLMEncoderDecoderModel, sentences: list[list[int]], beams: int) -> _Sentences:
    """Translate sentences, and return the ids of the translations with their ``</s>``."""
    options: dict[str, Any] = {"num_beams": beams, "early_stopping": True} if beams > 1 else {}
    pad, longest = model.config.pad_token_id, max(map(len, sentences))
    ids_BT = model.generate(
        torch.tensor([[*sentence, *[pad] * (longest - len(sentence))] for sentence in sentences]),
        lengths=torch.tensor([*map(len, sentences)]),
        langs=_SOURCE_LANGUAGE,
        decoder_langs=_TARGET_LANGUAGE,
        max_new_tokens=_MAX_NEW_TOKENS,
        **options,
    )
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


def open_xlm(directory: str, weights: str, threads: int) -> Any:
    """Open a model with this library and return the work, which takes sentences and the number of beams."""
    torch.set_num_threads(threads)
    return partial(translate, XLMEncoderDecoderModel.from_pretrained(directory).for_inference(weights))


def open_ctranslate2(directory: str, weights: str, threads: int) -> Any:
    """Do the same with CTranslate2."""
    import ctranslate2

    model = ctranslate2.Translator(directory, compute_type=weights, inter_threads=1, intra_threads=threads)

    def run(sentences: list[list[int]], beams: int) -> _Sentences:
        results = model.translate_batch(
            [[str(id_) for id_ in sentence] for sentence in sentences],
            beam_size=beams,
            min_decoding_length=0,
            max_decoding_length=_MAX_NEW_TOKENS,
            length_penalty=1.0,
            return_end_token=True,
        )
        return [tuple(map(int, result.hypotheses[0])) for result in results]

    return run
