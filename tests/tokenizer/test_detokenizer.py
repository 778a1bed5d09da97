"""Words to readable text.

Oracle: sacremoses; where it does not do what the script does, cases worked out by hand from what the rules are for.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import sacremoses
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import TEXTS
from xlm.tokenizer.moses.detokenise import _CJK, _letter, _opening, detokenized

LANGUAGES = ["en", "de", "fr", "it", "ga", "cs", "fi", "ko", "ru", "zh", "xx"]
SIGNS = [*".,?!:;%)]}([{'\"„“”`\\-–$€¿¡", "''", "``", '."', "...", "?!", "@-@", "@@", "&quot;", "'s", "'", "l'"]
WORDS = [
    *SIGNS,
    *("dogs", "dog", "d'", "eau", "li", "mail", "5", "10", "中", "文", "가", "n", "ssa", "N", "é", "'ä", "क्"),
]


@settings(max_examples=400, deadline=None)
@example(words=["dogs", "'", "x"], language="en")
@example(words=["(", "?", "x"], language="fr")
@given(words=st.lists(st.sampled_from(WORDS), max_size=10), language=st.sampled_from(LANGUAGES))
def test_equals_sacremoses(words: list[str], language: str) -> None:
    if language == "cs":  # where sacremoses fails, or looks at the end of the text
        words = [word for word in words if not word[-1].isdigit() and word not in ("-", "–")]
    if language == "fi":
        words = [word for word in words if word != ":"]
    expected = sacremoses.MosesDetokenizer(language).detokenize(words, unescape=False)
    assert detokenized(words, language) == expected


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, language=st.sampled_from([name for name in LANGUAGES if name not in ("cs", "fi")]))
def test_equals_sacremoses_on_any_text(text: str, language: str) -> None:
    words = text.split()
    assert detokenized(words, language) == sacremoses.MosesDetokenizer(language).detokenize(words, unescape=False)


def test_the_classes_are_those_of_sacremoses() -> None:
    from sacremoses.util import CJKChars

    peer = sacremoses.MosesDetokenizer
    characters = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if not character.isspace())
    assert set(_CJK) == set(CJKChars.ranges)
    for ours, theirs in ((_letter(), peer.STARTS_WITH_ALPHA), (_opening(), peer.IS_CURRENCY_SYMBOL)):
        pattern = re.compile(theirs.pattern.strip("^$"))
        assert "".join(ours.findall(characters)) == "".join(pattern.findall(characters)) != ""


@pytest.mark.parametrize(
    ("language", "words", "text"),
    [
        ("cs", "stojí 1 . 5 nebo 2 , 5 koruny .", "stojí 1.5 nebo 2,5 koruny."),
        ("cs", "je - li , e - mail , to - ono", "je-li, e-mail, to - ono"),
        ("cs", "„ ano “ a „ ne “", "„ano“ a „ne“"),
        ("fi", "EU : n ja USA : ssakin , EU : ei", "EU:n ja USA:ssakin, EU: ei"),
        ("fr", "l' eau ( quoi ? ) 5 %", "l'eau (quoi ?) 5 %"),
        ("en", "the dogs ' house is n't \" mine \" , it 's $ 5", "the dogs' house is n't \"mine\", it's $5"),
        ("de", 'er sagte : " Nein ! "', 'er sagte: "Nein!"'),
        ("en", "", ""),
    ],
)
def test_cases_worked_out_by_hand(language: str, words: str, text: str) -> None:
    assert detokenized(words.split(), language) == text


def test_sacremoses_is_not_imported() -> None:
    script = (
        "import sys\nfrom xlm.tokenizer.moses.detokenise import detokenized\n"
        "assert detokenized(['a', '.'], 'en') == 'a.'\nassert 'sacremoses' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
