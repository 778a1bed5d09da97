"""BLEU of translations, by the library ``sacrebleu``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xlm._io.arguments import check_flags, shown
from xlm._io.dependencies import needing
from xlm.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bleu:
    """A BLEU score of a corpus.

    Attributes:
        score: The score, from 0 to 100.
        signature: The settings that the score depends on, as ``sacrebleu`` writes them.
    """

    score: float
    signature: str


def corpus_bleu(translations: Sequence[str], references: Sequence[str], *, tokenized: bool = False) -> Bleu:
    """Return the case-sensitive corpus BLEU of translations.

    Args:
        translations: One translation for each sentence.
        references: One reference for each sentence, in the same order.
        tokenized: Whether translations and references are tokenised already, as for Moses' ``multi-bleu.perl``, which
            the paper uses. Blanks then separate words, and no count is smoothed. By default both are ordinary text, and
            the settings are those that ``sacrebleu`` recommends for comparing papers.

    Raises:
        InputError: There are no sentences, or not as many references as translations.
        DependencyError: ``sacrebleu`` is not installed.
    """
    check_flags(tokenized=tokenized)
    for name, texts in (("translations", translations), ("references", references)):
        if (
            not isinstance(texts, Sequence)
            or isinstance(texts, str)
            or not all(isinstance(each, str) for each in texts)
        ):
            raise InputError("not a list of texts", where=name, found=shown(texts), expected="a list of str")
    if len(translations) != len(references):
        raise InputError(
            "translations and references differ in number",
            where="references",
            found=f"{len(references)} references for {len(translations)} translations",
            expected="one for each translation",
        )
    if not translations:
        raise InputError(
            "there are no translations", where="translations", found="an empty list", expected="at least one"
        )
    settings = {"tokenize": "none", "smooth_method": "none", "force": True} if tokenized else {}
    metric = import_bleu()(**settings)
    score = metric.corpus_score(list(translations), [list(references)]).score
    return Bleu(score=float(score), signature=str(metric.get_signature()))


def import_bleu() -> Any:
    """Return the class ``BLEU`` of ``sacrebleu``.

    Raises:
        DependencyError: ``sacrebleu`` is not installed.
    """
    with needing("BLEU needs sacrebleu", where="sacrebleu", install="'xlm[translation]'"):
        from sacrebleu.metrics.bleu import BLEU
    return BLEU
