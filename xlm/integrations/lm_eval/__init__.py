"""Model class for EleutherAI's lm-evaluation-harness.

Versions of the harness that ignore entry points do not find the class. For these, run the harness as

python -m xlm.integrations.lm_eval --model xlm --model_args pretrained=my-model,lang=en --tasks …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xlm._io.arguments import check_count, check_flags
from xlm._io.dependencies import needing
from xlm.corpus.read_ahead import length_of, read_ahead
from xlm.errors import warn_caller
from xlm.inference.loading import load_for_inference
from xlm.scoring.options import ScoringOptions
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

_MISSING = "lm-evaluation-harness is not installed"
with needing(_MISSING, where="xlm.integrations.lm_eval", install="'xlm[lm-eval]'"):
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

# The harness's command passes this device if the user names none, even on a machine without a GPU.
_DEFAULT_DEVICE = "cuda:0"
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty", "length_penalty")


@register_model("xlm")  # type: ignore[untyped-decorator, unused-ignore]
class XLMForHarness(LM):  # type: ignore[misc]
    """A model of this library, with the interface that the harness expects.

    Args:
        pretrained: Model, as for ``from_pretrained``.
        lang: Language of all texts.
        codes: BPE codes of a checkpoint of the original.
        preset: Text pipeline; ``None`` for the model's own.
        dtype: Weight dtype: ``float32``, ``bfloat16``, ``float16``, ``int8``, or ``auto`` for that of the file.
        device: Device to compute on; ``None`` for the CPU. Without CUDA, ``cuda:0``, the default of the harness's
            command, also means the CPU, with a warning.
        closing: Whether the log-probability of a continuation includes the closing ``</s>``.
        batch_size: Maximum texts in a batch; ``None`` or ``"auto"`` for as many as suit the device.
        max_batch_size: Ignored, because the number of tokens in a batch is limited.
        max_gen_toks: Maximum tokens to generate for tasks that set no limit.

    Raises:
        InputError: An argument is invalid, or the model is bidirectional.
        LanguageError: The model lacks the language.
        CheckpointError: There is no such model.
    """

    def __init__(
        self,
        pretrained: str,
        lang: str,
        *,
        codes: str | None = None,
        preset: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        closing: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_gen_toks: int = 64,
    ) -> None:
        super().__init__()
        check_flags(closing=closing)
        if device == _DEFAULT_DEVICE and not torch.cuda.is_available():
            warn_caller(f"CUDA is not available; computing on the CPU instead of {device}")
            device = None
        self.model = load_for_inference(str(pretrained), dtype=dtype, device=device or "cpu", few_rows=False)
        self.tokenizer = XLMTokenizer.from_pretrained(str(pretrained), codes=codes, preset=preset)
        self.lang = lang
        self._language = Scorer(self.model, self.tokenizer, lang=lang).language
        self.closing = closing
        self._batch_size = (
            None if batch_size is None or str(batch_size).startswith("auto") else _count(batch_size=batch_size)
        )
        self._max_gen_toks = _count(max_gen_toks=max_gen_toks)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation in nats, and whether greedy decoding would generate it.

        Args:
            requests: Requests with context and continuation as ``args``. Both are tokenized together. A token belongs
                to the continuation if its first character does.
            disable_tqdm: Ignored, because no progress is shown.
        """
        pairs = [request.args for request in requests]
        answers = []
        for (context, _), result in zip(pairs, self._scores([a + b for a, b in pairs], ranks=True), strict=True):
            spans = self.tokenizer(result.text, lang=self.lang, return_offsets=True)["offsets"][1:-1]
            counted = [index for index, (start, _) in enumerate(spans) if start >= len(context)]
            counted += [len(spans)] if self.closing else []
            ranks = result.ranks or ()
            answers.append((sum(result.logprobs[i] for i in counted), all(ranks[i] == 1 for i in counted)))
        return self._cached("loglikelihood", requests, answers)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text as a sentence, in nats, as ``score`` computes it.

        Args:
            requests: Requests with the text as ``args``. A text longer than the model's positions is scored in windows.
            disable_tqdm: Ignored, because no progress is shown.
        """
        answers = [result.logprob for result in self._scores([request.args[0] for request in requests])]
        return self._cached("loglikelihood_rolling", requests, answers)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation of each context, cut at the first stop string.

        A long context loses its first tokens, so that the continuation fits into the model's positions. The context
        keeps at least half of the positions. Generation ends at the last position.

        Args:
            requests: Requests with the context and the generation arguments as ``args``.
            disable_tqdm: Ignored, because no progress is shown.
        """
        answers = []
        for request in requests:
            context, arguments = request.args
            until = arguments.get("until") or []
            sampling = {name: arguments[name] for name in _SAMPLING if arguments.get(name) is not None}
            if not sampling.get("do_sample"):
                sampling = {name: value for name, value in sampling.items() if name not in ("temperature", "top_p")}
            length = _count(max_gen_toks=arguments.get("max_gen_toks") or self._max_gen_toks)
            positions = self.model.config.max_position_embeddings
            tokens = self.tokenizer.encode(context, lang=self.lang, add_special_tokens=False)
            room = max(positions - length, positions // 2)  # </s> needs a position, the last new token does not
            prompt = [self.model.config.eos_token_id, *tokens[max(0, len(tokens) - room) :]]
            (continuation,) = self.model.continuations(
                torch.tensor([prompt], device=self.model.device),
                langs=self._language,
                max_new_tokens=length,
                **sampling,
            )
            text = self.tokenizer.decode(continuation.tokens, skip_special_tokens=True, lang=self.lang, detokenize=True)
            for end in [until] if isinstance(until, str) else until:
                text = text.partition(end)[0] if end else text
            answers.append(text)
        return self._cached("generate_until", requests, answers)

    def _scores(self, texts: list[str], *, ranks: bool = False) -> list[SentenceScore]:
        options = ScoringOptions(ranks=ranks, batch_size=self._batch_size)
        # The harness joins the texts, so the warning would reach nobody who can divide them.
        scorer = Scorer(self.model, self.tokenizer, lang=self.lang, options=options, warns_of_sentences=False)
        return list(scorer.score_windows(read_ahead(texts, length_of)))

    def _cached(self, name: str, requests: Sequence[Any], answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(name, request.args, answer)
        return answers


def _count(**argument: Any) -> int:
    """Check that the argument is a positive integer, and return it. The harness sometimes passes it as text."""
    ((name, value),) = argument.items()
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    check_count(**{name: value})
    assert isinstance(value, int)
    return value


def main() -> None:
    """Run the command of the harness, with the model ``xlm`` added."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
