"""A small vocabulary and its merges, made here, for tests that must not depend on the published files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

TEXT = (
    "The little dog is running down the street, and the children are running after the dog. "
    "Der kleine Hund läuft die Straße hinunter, und die Kinder laufen dem Hund hinterher. "
    "Two children's dogs can't run; they don't like running... \"Nein\", sagte er - (vielleicht) 1,5 % später! "
)


def merges_of_choices(choices: Iterable[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    """Returns merges such as learning gives: parts made before, nothing made twice; some pieces are never reached.

    Args:
        choices: For each merge, two numbers that choose its left and right part.
    """
    made: dict[str, tuple[str, str]] = {}
    for left, right in choices:
        lefts = [*"abc", *(piece for piece in made if not piece.endswith("</w>"))]
        rights = [*"abc", "a</w>", "b</w>", "c</w>", *made]
        pair = (lefts[left % len(lefts)], rights[right % len(rights)])
        made.setdefault("".join(pair), pair)
    return tuple(made.values())


def learn_merges(text: str, number: int) -> tuple[tuple[str, str], ...]:
    """Returns merges learnt on the words of a text: the most frequent pair first, then by spelling."""
    words = Counter((*word[:-1], word[-1] + "</w>") for word in text.split())
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({tuple(merge_everywhere(word, best)): count for word, count in words.items()})
    return tuple(merges)


def merge_everywhere(pieces: tuple[str, ...] | list[str], pair: tuple[str, str]) -> list[str]:
    """Returns the pieces with a pair merged at all its places, left to right."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


MERGES = learn_merges(TEXT + TEXT.lower(), 80)

# The letters z, q and all that is not in the text are missing, so that there are unknown pieces.
VOCABULARY = Vocabulary(
    tokens=(
        *SPECIAL_TOKENS,
        *sorted(
            {character + end for character in set(TEXT + TEXT.lower()) - {" "} for end in ("", "</w>")}
            | {left + right for left, right in MERGES}
        ),
    )
)
