"""The Moses steps.

Oracles: the functions of transformers and sacremoses that do the same, on every character and on random texts; for the
Perl dialect the recorded words, and Perl itself for its classes of characters.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import TEXTS
from xlm.tokenizer import casefold
from xlm.tokenizer.alignment import AlignedText
from xlm.tokenizer.moses import normalise, tokenise
from xlm.tokenizer.moses.data import LANGUAGE_NAMES, classes_of, is_latin, prefixes_of
from xlm.tokenizer.moses.normalise import Rule, apply, apply_aligned
from xlm.tokenizer.moses.tokenise import DIALECTS, Moses, moses

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1)]
LANGUAGES = ["en", "de", "fr", "it", "ro", "fi", "ko", "cs", "es", "ru", "hi", "xx"]


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("transformers.models.xlm.tokenization_xlm")


@pytest.fixture(scope="module")
def peer_tokenizer(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("empty")
    (folder / "vocab.json").write_text('{"<unk>": 0}')
    (folder / "merges.txt").write_text("a b\n")
    return peer.XLMTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def peer_words(peer: Any, tokenizer: Any, text: str, language: str) -> list[str]:
    text = tokenizer.moses_pipeline(text, language)
    if language == "ro":
        text = peer.romanian_preprocessing(text)
    return list(tokenizer.moses_tokenize(text, language))


# In one piece a character could change how its neighbours are treated: a letter between keeps them apart.
ALL_CHARACTERS = "x".join(CHARACTERS)


def test_replace_unicode_punctuation_on_every_character(peer: Any) -> None:
    rules = normalise.replace_unicode_punctuation(perl=False)
    assert apply(rules, ALL_CHARACTERS) == peer.replace_unicode_punct(ALL_CHARACTERS)
    assert apply(rules, "。\u3000 a．b１") == ". a. b1"
    assert apply(normalise.replace_unicode_punctuation(perl=True), "。\u3000 a．  b１") == ". \u3000 a. b1"


@settings(deadline=None)
@given(text=st.text("。．，…”１ \u3000\n\u00a0.a"))
def test_replace_unicode_punctuation_on_sequences(peer: Any, text: str) -> None:
    rules = normalise.replace_unicode_punctuation(perl=False)
    assert apply(rules, text) == peer.replace_unicode_punct(text)


def test_remove_non_printing_char_on_every_character(peer: Any) -> None:
    rules = normalise.remove_non_printing_char(perl=False)
    assert apply(rules, ALL_CHARACTERS) == peer.remove_non_printing_char(ALL_CHARACTERS)
    assert apply(rules, "a\t\n\x00\u200b\ud800\u00a0 b") == "a\u00a0 b"
    assert apply(normalise.remove_non_printing_char(perl=True), "a\t\n\u200b\u00a0 b") == "a   \u00a0 b"


def test_romanian_on_every_character(peer: Any) -> None:
    assert apply(normalise.romanian(), ALL_CHARACTERS) == peer.romanian_preprocessing(ALL_CHARACTERS)
    assert apply(normalise.romanian(), "Ţară şi înțelepciune") == "Tara si intelepciune"


@pytest.mark.parametrize("language", ["en", "de", "fr", "cs", "xx"])
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("aZ1 () .!:?;,%`'„“”–—´‘’‚…«»\u00a0ºnCcm\r\"<\u0665\u3000")))
def test_normalize_punctuation_equals_sacremoses(language: str, text: str) -> None:
    sacremoses = pytest.importorskip("sacremoses")
    ours = apply(normalise.normalize_punctuation(language, perl=False), text)
    assert ours.strip() == sacremoses.MosesPunctNormalizer(language).normalize(text)


def test_lowercase_and_remove_accent_on_every_character(peer: Any) -> None:
    words = [character for character in CHARACTERS if not character.isspace()]
    ours = casefold.lowercase_and_remove_accent(words)
    assert ours == [word for word in peer.lowercase_and_remove_accent(words) if word]
    assert casefold.lowercase_and_remove_accent(["ÄÉ", "\u0301", "ß"]) == ["ae", "ß"]


@settings(deadline=None)
@given(words=st.lists(st.text(st.sampled_from("ΣσΑa'\u0301\u0345İıǅK.:Éß"), min_size=1)))
def test_lowercase_and_remove_accent_on_sequences(peer: Any, words: list[str]) -> None:
    ours = casefold.lowercase_and_remove_accent(words)
    assert ours == [word for word in peer.lowercase_and_remove_accent(words) if word]


@settings(max_examples=1000, deadline=None)
@example(text='x."   <b', language="de")
@example(text="DOTMULTI. DOTDOTMULTI THISISPROTECTED000", language="en")
@example(text="1' '2 'tis dogs' ''", language="en")
@given(text=TEXTS, language=st.sampled_from(LANGUAGES))
def test_words_equal_those_of_transformers(peer: Any, peer_tokenizer: Any, text: str, language: str) -> None:
    assert moses("sacremoses", language).words(text) == peer_words(peer, peer_tokenizer, text, language)


@pytest.mark.parametrize("dialect", ["sacremoses", "perl"])
@pytest.mark.parametrize("language", ["en", "ko", "zh", "ja"])
def test_classes_of_latin_text_are_those_of_all_text(dialect: str, language: str) -> None:
    everything, latin = "".join(CHARACTERS), "".join(filter(is_latin, CHARACTERS))
    assert len(latin) > 600
    for name in ("alnum", "alpha", "number", "lower"):
        of_all, of_latin = (getattr(classes_of(dialect, language, latin=only), name) for only in (False, True))
        assert re.findall(f"[{of_latin}]", everything) == re.findall(f"[{of_all}]", latin) != []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_one_character_is_in_the_classes_of_all_text(dialect: str, language: str) -> None:
    rules, classes = moses(dialect, language), classes_of(dialect, language)
    everything = "".join(CHARACTERS)
    assert [*filter(rules.is_alnum, everything)] == re.findall(f"[{classes.alnum}]", everything)
    assert [*filter(rules.is_lower, everything)] == re.findall(f"[{classes.lower}]", everything)


@settings(max_examples=500, deadline=None)
@given(text=st.text("aZß1é '’.,-€„\"½ª:\n"), language=st.sampled_from(LANGUAGES), dialect=st.sampled_from(DIALECTS))
def test_rules_of_latin_text_are_those_of_all_text(text: str, language: str, dialect: str) -> None:
    rules = moses(dialect, language)
    words = rules.words(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenise, "is_latin", lambda text: False)
        assert rules.words(text) == words


def test_words_of_every_character_equal_those_of_transformers(peer: Any, peer_tokenizer: Any) -> None:
    # sacremoses takes minutes for the other planes; of those one character in 64
    some = CHARACTERS[:0x10000] + CHARACTERS[0x10000::64]
    for language in ("en", "ko"):
        for text in ("".join(some), " a".join(some), "'".join(some), ".a ".join(some)):
            assert moses("sacremoses", language).words(text) == peer_words(peer, peer_tokenizer, text, language)


def test_no_word_holds_whitespace() -> None:
    # What BPE relies on; transformers joins and splits at spaces around it.
    for dialect in ("sacremoses", "perl"):
        words = moses(dialect, "en").words(" ".join(CHARACTERS))
        for some in (words, casefold.lowercase_and_remove_accent(words)):
            assert len(some) > 100_000
            assert not re.search(r"\s", "".join(some))
            assert all(some)


def test_recorded_words_of_the_scripts(reference: Path) -> None:
    """Zero differing lines: whatever the scripts did to the reference texts, before fastBPE."""
    files = sorted((reference / "tokenizer/original").glob("*.bpe"))
    assert len(files) == 16
    compared, differing = 0, []
    for recorded in files:
        rules = moses("perl", recorded.stem.rpartition(".")[2])
        texts = (reference / f"tokenizer/text/{recorded.stem}.txt").read_bytes().decode("utf-8").split("\n")[:-1]
        lines = recorded.read_bytes().decode("utf-8").split("\n")[:-1]
        for text, line in zip(texts, lines, strict=True):
            compared += 1
            if rules.words(text) != line.replace("@@ ", "").split():
                differing.append(text)
    assert compared > 38_000
    assert differing == []


@pytest.mark.parametrize(
    ("language", "text", "perl", "sacremoses"),
    [
        ("en", "He met St.", "He met St .", "He met St."),
        ("en", "a\tb\u200bc", "a b c", "abc"),
        ("de", 'Er sagte "ja."', 'Er sagte " ja " .', 'Er sagte " ja . "'),
        ("it", 'ha detto "sì."', 'ha detto " sì " .', 'ha detto " sì . "'),
        ("cs", 'řekl "ano." a', 'řekl " ano . " a', 'řekl " ano . " a'),
        ("en", "one\ntwo.", "one two .", "onetwo ."),
        ("fi", "USA:n ja EU: ei", "USA:n ja EU : ei", "USA : n ja EU : ei"),
        ("sv", "USA:s och EU: nej", "USA:s och EU : nej", "USA : s och EU : nej"),
        ("tdt", "ha'u 'b", "ha'u ' b", "ha ' u ' b"),
        ("ca", "l'aigua", "l' aigua", "l ' aigua"),
        ("fr", "l'eau 1'a", "l' eau 1 ' a", "l' eau 1 ' a"),
        ("cs", "2\u00a0000 Kč", "2,000 Kč", "2,000 Kč"),
        ("ro", "Şi ţara", "Şi ţara", "Si tara"),
        ("ga", "d'fhág sé", "d' fhág sé", "d ' fhág sé"),
        ("so", "lo'da", "lo'da", "lo ' da"),
        ("ca", "il·lusió", "il·lusió", "il · lusió"),
        ("en", "a DOTMULTI.b", "a .. b", "a ..b"),
    ],
)
def test_where_the_dialects_differ(language: str, text: str, perl: str, sacremoses: str) -> None:
    # The scripts' side was read off the scripts; what real text shows of it is recorded above.
    assert " ".join(moses("perl", language).words(text)) == perl
    assert " ".join(moses("sacremoses", language).words(text)) == sacremoses


def test_abbreviations_are_those_of_sacremoses() -> None:
    from sacremoses.corpus import NonbreakingPrefixes

    peer = NonbreakingPrefixes()
    assert {name: code for name, code in peer.available_langs.items() if name != code} == LANGUAGE_NAMES
    for language in (*peer.available_langs, "xx", "txt", ""):
        prefixes = prefixes_of(language, perl=False)
        expected = list(peer.words(language)) if language else list(peer.words("en"))
        numeric = {line.rpartition(" ")[0] for line in expected if "#NUMERIC_ONLY#" in line}
        assert prefixes.before_numbers == numeric
        assert prefixes.always == set(expected) - numeric


def test_the_classes_are_those_of_perl(tmp_path: Path) -> None:
    perl = shutil.which("perl")
    if perl is None:
        pytest.skip("perl is not installed")
    if unicodedata.unidata_version < "14":
        pytest.skip(f"this Python knows the characters of Unicode {unicodedata.unidata_version} only")
    command = [perl, "-MUnicode::UCD", "-e", "print Unicode::UCD::UnicodeVersion()"]
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if known != "14.0.0":
        pytest.skip(f"this perl knows the characters of Unicode {known or '?'}, the rules those of 14.0.0 (perl 5.36)")
    script = tmp_path / "classes.pl"
    script.write_text(
        "no warnings; for my $c (0..0x10FFFF) { my $s = chr($c); utf8::upgrade($s); print $s =~ /\\p{IsAlnum}/ ? 1 : 0,"
        " $s =~ /\\p{IsAlpha}/ ? 1 : 0, $s =~ /\\p{IsN}/ ? 1 : 0, $s =~ /\\p{IsLower}/ ? 1 : 0,"
        ' $s =~ /\\p{Cn}/ ? 1 : 0, "\\n" }'
    )
    rows = subprocess.run([perl, str(script)], capture_output=True, text=True, check=True).stdout.split()
    classes = classes_of("perl", "en")
    alnum, number, lower = (re.compile(f"[{body}]") for body in (classes.alnum, classes.number, classes.lower))
    differing = []
    for character, row in zip(CHARACTERS, rows, strict=True):
        ours = "".join(
            "1" if pattern.match(character) else "0" for pattern in (alnum, classes.has_alpha, number, lower)
        )
        # Perl and Python may know different versions of Unicode; what only one of them has assigned does not count.
        if row[4] == "0" and ours != row[:4]:
            differing.append(character)
    assert differing == []


@pytest.mark.parametrize("dialect", ["sacremoses", "perl"])
@settings(max_examples=500, deadline=None)
@given(text=TEXTS, language=st.sampled_from(LANGUAGES))
def test_aligned_words_are_the_words(dialect: str, text: str, language: str) -> None:
    rules = moses(dialect, language)
    aligned = rules.aligned_words(AlignedText.of(text))
    assert [word.text for word in aligned] == rules.words(text)
    for word in aligned:
        assert len(word.spans) == len(word.text)
        assert all(0 <= start <= end <= len(text) for start, end in word.spans)


def test_rules_align_what_they_write() -> None:
    source = AlignedText.of("a...b 12 c")
    for rule, text, spans in (
        (Rule(r"\.+", ("…",)), "a…b 12 c", [(1, 4)]),
        (Rule("(b) (1)", (1, "-", 2)), "a...b-12 c", [(4, 5), (5, 6), (6, 7)]),
        (Rule("(1)(2)", (2, 1)), "a...b 21 c", [(6, 8), (6, 8)]),
    ):
        result = apply_aligned([rule], source)
        assert result.text == text == apply([rule], source.text)
        place = next(i for i, span in enumerate(result.spans) if span == spans[0])
        assert result.spans[place : place + len(spans)] == spans


LONG = {
    "dots": lambda n: "." * n,
    "dots and quotes": lambda n: '."' * (n // 2),
    "dots, spaces and quotes": lambda n: '. " ' * (n // 4),
    "spaces": lambda n: " " * n,
    "quotes": lambda n: "'" * n,
    "apostrophes and letters": lambda n: "a'" * (n // 2),
    "hyphens": lambda n: "-" * n,
    "digits and commas": lambda n: "1," * (n // 2),
    "brackets": lambda n: "()[]<>" * (n // 6),
    "brackets and spaces": lambda n: "( ) " * (n // 4),
    "wide full stops": lambda n: "。 \u3000" * (n // 3),
    "abbreviations": lambda n: "z.B. " * (n // 5),
    "letters": lambda n: "a" * n,
    "markers": lambda n: "DOTMULTI." * (n // 9),
    "dots in a word": lambda n: "a." * (n // 2),
    "controls": lambda n: "\x00\t" * (n // 2),
    "no-break spaces": lambda n: "1\u00a0" * (n // 2),
    "marks": lambda n: "e" + "\u0301" * (n - 1),
    "spaces before a bracket": lambda n: '."' + " " * n + "<",
}


@pytest.mark.parametrize("pattern", LONG)
@pytest.mark.parametrize(("dialect", "language"), [("sacremoses", "en"), ("sacremoses", "de"), ("perl", "de")])
def test_time_is_linear(pattern: str, dialect: str, language: str) -> None:
    import time

    rules = moses(dialect, language)

    def seconds(length: int) -> float:
        text = LONG[pattern](length)
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            rules.words(text)
            best = min(best, time.process_time() - start)
        return best

    seconds(1000)
    # Sixteen times the length: linear is 16, quadratic 256.
    assert seconds(160_000) < 64 * max(seconds(10_000), 0.002)


def test_random_lines_equal_those_of_sacremoses(reference: Path, peer: Any, peer_tokenizer: Any) -> None:
    texts = [
        line
        for path in sorted((reference / "tokenizer/text").glob("*.txt"))
        for line in random.Random(path.name).sample(path.read_bytes().decode("utf-8").split("\n"), 10)
    ]
    for language in LANGUAGES:
        rules = Moses("sacremoses", language)
        for text in texts:
            assert rules.words(text) == peer_words(peer, peer_tokenizer, text, language)
