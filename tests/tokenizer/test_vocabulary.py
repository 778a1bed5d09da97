"""The vocabulary and its files. Oracles: the published files, and the JSON that transformers itself wrote."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer.small import VOCABULARY
from xlm.errors import VocabularyError, XLMWarning
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

WORDS = "the 12\nwi@@ 7\n@@ 5\n\x00 3\n,000< 1\n"

# The right words of these lines are those of the original's own Dictionary.read_vocab, run on them.
ODD_LINES = (
    "the 12",
    "<s> 11",  # a special token
    "wi@@ 10",
    "the 9",  # again
    "\u2028@@ 9",
    "a\u2028 9",
    "\u00a0@@ 8",  # two columns, of which the first is @@
    "\u3000@@ 8",  # so that this is @@ again
    "\u00a0 8",
    "one two 7",
    "",
    "   ",
    "lonely",
    "tab\t6",
    "  around  5  ",
    "no-break\u00a04",
    "old\r mac 3\rends 2\r",  # three lines: "old", " mac 3", "ends 2"
    "wi@@ 1",  # again
    "last 0001",
)
ODD_WORDS = ("the", "wi@@", "@@", "tab", "around", "no-break", "mac", "ends", "last")
ODD_COUNTS = (12, 10, 8, 6, 5, 4, 3, 2, 1)
ODD_SKIPPED = 12


def test_words_become_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab").write_bytes(WORDS.encode())
    vocabulary = Vocabulary.from_words(tmp_path / "vocab")
    assert vocabulary.tokens == (*SPECIAL_TOKENS, "the</w>", "wi", "", "\x00</w>", ",000<</w>")
    assert vocabulary.counts == (0,) * 14 + (12, 7, 5, 3, 1)
    assert vocabulary.ids["wi"] == 15
    assert len(vocabulary) == 19
    vocabulary.to_words(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == WORDS.encode()


def test_lines_that_the_original_skips_are_skipped_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "vocab").write_bytes("\n".join(ODD_LINES).encode())
    with pytest.warns(XLMWarning) as caught:
        vocabulary = Vocabulary.from_words(tmp_path / "vocab")
    assert vocabulary.words()[14:] == ODD_WORDS
    assert vocabulary.counts == (*(0 for _ in SPECIAL_TOKENS), *ODD_COUNTS)
    assert vocabulary.ids["last</w>"] == 14 + len(ODD_WORDS) - 1  # ids close up
    (warning,) = caught
    assert warning.filename == __file__
    expected = f"{ODD_SKIPPED} of {ODD_SKIPPED + len(ODD_WORDS)} lines are skipped, as the original skips them: "
    reasons = "line 2 ('<s>' again), line 4 ('the' again), line 5 (U+2028), line 6 (U+2028), line 8 ('@@' again), …"
    assert str(warning.message) == f"{tmp_path / 'vocab'}: {expected}{reasons}"
    vocabulary.to_words(tmp_path / "again")
    assert Vocabulary.from_words(tmp_path / "again") == vocabulary  # and nothing more to say


@pytest.mark.filterwarnings("ignore:.*lines are skipped:xlm.XLMWarning")
def test_recorded_sizes_and_words_of_the_original(reference: Path, tmp_path: Path) -> None:
    cases = reference / "cases"
    for name, expected in json.loads((cases / "vocab_sizes.json").read_text()).items():
        vocabulary = Vocabulary.from_words(cases / name)
        joined = "\n".join(vocabulary.words()).encode()
        assert (len(vocabulary), hashlib.sha1(joined).hexdigest()) == (expected["size"], [*expected.values()][1])
        codes = reference / ("published/codes_xnli_15" if "xnli" in name else "bpe/codes")
        assert XLMTokenizer.from_codes(codes, cases / name).vocabulary == vocabulary


@given(st.lists(st.text(st.sampled_from("ab1@</w> \t\r\n\u00a0\u2028\ufeff\x1c")), max_size=8))
def test_what_is_written_is_read_again_or_refused(tmp_path_factory: pytest.TempPathFactory, tokens: list[str]) -> None:
    path = tmp_path_factory.mktemp("words") / "vocab"
    try:
        vocabulary = Vocabulary(tokens=(*SPECIAL_TOKENS, *tokens, "x"))
        vocabulary.to_words(path)
    except VocabularyError:
        return
    assert Vocabulary.from_words(path) == vocabulary


def test_windows_line_ends_and_a_missing_last_one_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "vocab").write_bytes(WORDS.encode())
    (tmp_path / "windows").write_bytes(WORDS[:-1].replace("\n", "\r\n").encode())
    assert Vocabulary.from_words(tmp_path / "windows") == Vocabulary.from_words(tmp_path / "vocab")


def test_json_there_and_back(tmp_path: Path) -> None:
    VOCABULARY.to_json(tmp_path / "vocab.json")
    assert Vocabulary.from_json(tmp_path / "vocab.json") == VOCABULARY
    assert pickle.loads(pickle.dumps(VOCABULARY)).ids == VOCABULARY.ids


def test_published_files_agree_and_come_back_byte_for_byte(reference: Path, tmp_path: Path) -> None:
    published = reference / "published"
    from_json = Vocabulary.from_json(published / "xlm-clm-ende-1024/vocab.json")
    from_words = Vocabulary.from_words(published / "vocab_ende")
    assert from_json.tokens == from_words.tokens
    assert len(from_words) == 64_699
    from_json.to_json(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").read_bytes() == (published / "xlm-clm-ende-1024/vocab.json").read_bytes()


@pytest.mark.filterwarnings("ignore:.*vocab_xnli_15. 18 of 121332 lines are skipped:xlm.XLMWarning")
@pytest.mark.parametrize("name", ["vocab_ende", "vocab_enfr", "vocab_xnli_15"])
def test_the_notations_are_a_bijection_on_the_published_vocabularies(
    reference: Path, tmp_path: Path, name: str
) -> None:
    source = reference / "published" / name
    vocabulary = Vocabulary.from_words(source)
    vocabulary.to_words(tmp_path / name)
    if name != "vocab_xnli_15":  # of which the original skips lines
        assert len(vocabulary) == 14 + source.read_bytes().count(b"\n")
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    assert Vocabulary.from_words(tmp_path / name) == vocabulary
    assert Vocabulary.from_dictionary(vocabulary.words(), vocabulary.counts) == vocabulary


@given(st.lists(st.text(st.sampled_from("ab@</w>é \u00a0"), min_size=1, max_size=6), unique=True, max_size=8))
def test_words_come_back_or_are_refused(words: list[str]) -> None:
    try:
        vocabulary = Vocabulary.from_dictionary([*SPECIAL_TOKENS, *words])
    except VocabularyError as error:
        tokens = [w[:-2] if w.endswith("@@") else w + "</w>" for w in words]
        assert len({*SPECIAL_TOKENS, *tokens}) < 14 + len(tokens), error  # noqa: PT017 refused only for a collision
        return
    try:
        assert vocabulary.words()[14:] == tuple(words)
    except VocabularyError:
        assert any(w == "@@" or (w.endswith("</w>@@") or w[:-2].endswith("@@")) for w in words)


def test_a_token_that_has_no_place_in_the_other_notation_is_refused(tmp_path: Path) -> None:
    for token in ("a@@</w>", "</w>", "a\nb", "a b", "\u2028", "\u00a0</w>", "<s></w>"):
        vocabulary = Vocabulary(tokens=(*SPECIAL_TOKENS, token))
        with pytest.raises(VocabularyError, match="id 14"):
            vocabulary.to_words(tmp_path / "vocab")
    assert list(tmp_path.iterdir()) == []


def good_json(**changes: object) -> bytes:
    return json.dumps({token: i for i, token in enumerate((*SPECIAL_TOKENS, "a"))} | changes).encode()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", ""),
        (b"\xff\xfe", ", line 1"),
        (b'{"a": 0,\n"b" 1}', ", line 2"),
        (b"[1, 2]", ""),
        (b"[" * 100_000, ""),
        (good_json(a="14"), ", line 1"),
        (good_json(a=14.0), ", line 1"),
        (good_json(a=True), ", line 1"),
        (good_json(a=15), ", line 1"),
        (good_json(a=13), ", line 1"),
        (good_json(a=-1), ", line 1"),
        (good_json()[:-1] + b', "a": 14}', ", line 1"),
        (good_json()[:-1] + b',\n"a"  : 14}', ", line 2"),
        (good_json()[:-1] + b',\n"b": 16}', ", line 2"),
        (good_json()[:-1] + b',\n"b":\n14}', ", line 2"),
        (good_json()[:-1] + '",\n"é": 16}'.encode()[1:], ", line 2"),
        (good_json()[:-1] + b',\n"\\u0062": 16}', ""),  # b, with an escape that nobody needs
        (b'{"a": 0}', ", line 1"),
        (b"{}", ""),
        (good_json().replace(b'"</s>": 1', b'"x": 1'), ", line 1"),
        (good_json().replace(b'"a"', b'"\\ud800"'), ", line 1"),
    ],
)
def test_broken_json_names_the_file(tmp_path: Path, content: bytes, place: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.from_json(path)
    assert f"where: {path}{place}\n" in f"{caught.value}\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"the 1\n\xe4 2\n", 2),
        (b"lonely\n", 1),
        (b"a b 3\nc d 4\n", 1),
        (b"the 1\nof 2.5\n", 2),
        (b"the 1\nof -2\n", 2),
        ("the 1\nof ²\n".encode(), 2),
        (b"the 1\nthe x\n", 2),  # the count counts before the word
        (b"the 1\n<s>@@ 2\n", 2),  # would be <s>, which is there already
        (b"a 1\nb 1\na</w>@@ 1\n", 3),  # would be a</w>, which is the first word
        (b"the 1\rof x\r", 2),
        (b'{\n  "<s>": 0,\n  "</s>": 1\n}', 2),
    ],
)
def test_broken_words_name_the_file_and_the_line(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "vocab"
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.from_words(path)
    assert f"where: {path}, line {line}\n" in f"{caught.value}\n"


@pytest.mark.parametrize("read", [Vocabulary.from_json, Vocabulary.from_words])
def test_what_is_no_file_is_named(tmp_path: Path, read: Callable[[Path], Vocabulary]) -> None:
    with pytest.raises(VocabularyError, match="No such file"):
        read(tmp_path / "missing")
    with pytest.raises(VocabularyError, match="a directory"):
        read(tmp_path)


def test_direct_construction_is_checked() -> None:
    for tokens, counts in [
        ((*SPECIAL_TOKENS, "a", "a"), None),
        ((*SPECIAL_TOKENS, "a"), (1,)),
        (SPECIAL_TOKENS[1:], None),
        (SPECIAL_TOKENS[:3], None),
    ]:
        with pytest.raises(VocabularyError):
            Vocabulary(tokens=tokens, counts=counts)
    with pytest.raises(VocabularyError, match=r"m\.pth, id 15"):
        Vocabulary.from_dictionary([*SPECIAL_TOKENS, "a", "a"], where="m.pth")
