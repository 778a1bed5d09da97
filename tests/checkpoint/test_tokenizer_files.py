"""Tokenizers in directories and checkpoints.

Oracles: transformers, which opens what we write and writes what we open; the published directory; the checkpoint that
the original's trainer wrote; what was saved, read again.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer.fuzzing import check_spans
from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm.checkpoint import tokenizer_files
from xlm.errors import CheckpointError, InputError, VocabularyError, WriteError, XLMWarning
from xlm.tokenizer.added_tokens import AddedToken
from xlm.tokenizer.bpe import write_codes
from xlm.tokenizer.tokenizer import XLMTokenizer

LANG2ID = {"de": 0, "en": 1}
FILES = {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}

TOKENIZERS = {
    "defaults": XLMTokenizer(VOCABULARY, MERGES),
    "as the original": XLMTokenizer(
        VOCABULARY, MERGES, lang2id=LANG2ID, bos_token="</s>", do_lowercase_and_remove_accent=False
    ),
    "converted": XLMTokenizer(
        VOCABULARY, MERGES, preset="original", preset_without_lang="transformers", lang2id=LANG2ID
    ),
    "all else": XLMTokenizer(
        VOCABULARY,
        MERGES,
        lang2id={},
        cls_token="<special3>",
        mask_token="<special0>",
        additional_special_tokens=("<special0>", "<special4>"),
        model_max_length=64,
    ),
}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> XLMTokenizer:
    return TOKENIZERS[request.param]


def edit(directory: Path, name: str, **changes: Any) -> None:
    """Changes keys of a JSON file; None takes a key out."""
    values = json.loads((directory / name).read_text(encoding="utf-8")) | changes
    (directory / name).write_text(json.dumps({k: v for k, v in values.items() if v is not None}), encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    TOKENIZERS["as the original"].save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_what_is_saved_comes_back_equal(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    for _ in range(2):  # into a new directory, and over what is there
        tokenizer.save_pretrained(tmp_path / "a" / "b")
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == FILES
        assert XLMTokenizer.from_pretrained(tmp_path / "a" / "b") == tokenizer


def test_transformers_opens_what_we_save_with_the_same_ids(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path)
    text = f"{TEXT}<special4> unheard <s>"
    for kind in (transformers.XLMTokenizer, transformers.AutoTokenizer):
        peer = kind.from_pretrained(tmp_path)
        assert type(peer) is transformers.XLMTokenizer
        assert peer.encode(text) == tokenizer.encode(text)
        assert peer.all_special_tokens == tokenizer.all_special_tokens
        assert peer.model_max_length == tokenizer.model_max_length
        assert peer.lang2id == tokenizer.lang2id
        assert peer.cls_token == tokenizer.cls_token


def test_we_open_what_transformers_saves(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path / "ours")
    transformers.XLMTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert XLMTokenizer.from_pretrained(tmp_path / "theirs") == tokenizer


def test_the_published_directory(reference: Path, tmp_path: Path) -> None:
    published = reference / "published/xlm-clm-ende-1024"
    tokenizer = XLMTokenizer.from_pretrained(str(published))
    assert tokenizer.lang2id == LANG2ID
    assert (tokenizer.do_lowercase_and_remove_accent, tokenizer.bos_token) == (True, "<s>")
    assert (tokenizer.vocab_size, len(tokenizer.merges), tokenizer.model_max_length) == (64_699, 60_000, 512)
    tokenizer.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (published / name).read_bytes()
    theirs, ours = (json.loads((path / "tokenizer_config.json").read_text()) for path in (published, tmp_path))
    assert theirs.pop("extra_special_tokens") == {}  # empty there, and its name for additional_special_tokens in 5.x
    assert {key: ours[key] for key in theirs} == theirs


def test_a_directory_without_settings_has_the_defaults(saved: Path) -> None:
    for name in FILES - {"vocab.json", "merges.txt"}:
        (saved / name).unlink()
    assert XLMTokenizer.from_pretrained(saved) == TOKENIZERS["defaults"]


def test_settings_of_the_call_come_before_saved_ones(saved: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(
        saved, do_lowercase_and_remove_accent=True, bos_token="<s>", lang2id=None, preset="transformers"
    )
    assert tokenizer == TOKENIZERS["defaults"]
    with pytest.raises(InputError) as caught:
        XLMTokenizer.from_pretrained(saved, do_lowercase=True)
    assert "where: do_lowercase\n" in str(caught.value)
    assert all(name in str(caught.value) for name in ("do_lowercase_and_remove_accent", "bos_token", "preset"))
    with pytest.raises(InputError, match="where: preset"):
        XLMTokenizer.from_pretrained(saved, preset="moses")


def test_old_directories_name_their_special_tokens_in_a_file_of_their_own(saved: Path) -> None:
    edit(saved, "tokenizer_config.json", added_tokens_decoder=None, extra_special_tokens={})
    edit(saved, "special_tokens_map.json", bos_token={"content": "<special7>", "lstrip": False, "normalized": True})
    (saved / "added_tokens.json").write_text('{"<special7>": 11}')
    tokenizer = XLMTokenizer.from_pretrained(saved)
    assert tokenizer.bos_token == "<special7>"
    transformers = pytest.importorskip("transformers")
    peer = transformers.XLMTokenizer.from_pretrained(saved)
    assert peer.encode("the <special7>") == tokenizer.encode("the <special7>")


ADDED: dict[str, str | AddedToken] = {
    "a word": "the</w>",
    "a piece": "do",
    "lstrip": AddedToken(content="do", lstrip=True),
    "rstrip": AddedToken(content="do", rstrip=True),
    "single_word": AddedToken(content="do", single_word=True),
    "all three": AddedToken(content="do", lstrip=True, rstrip=True, single_word=True),
    "not normalized": AddedToken(content="do", normalized=False),
    "special": AddedToken(content="do", special=True, normalized=False),
    "options of a special token": AddedToken(content="<special1>", lstrip=True, special=True, normalized=False),
}
ADDED_TEXTS = (
    *("do", "dog", "the dog", " do ", "a\tdo b", "(do)", "do.", "  do  dodo do", "Do DO dO", "", "the</w>"),
    *("a <special1> b", "a<special1>do<s> do", "do do ", "\u00a0do\u3000", "x do\ny", "the<special1>"),
)


@pytest.mark.parametrize("lowers", [True, False], ids=["lower-cased", "cased"])
@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in ADDED), ["a word", "single_word", "options of a special token"]]
)
def test_added_tokens_of_the_vocabulary(tmp_path: Path, kinds: list[str], lowers: bool) -> None:
    transformers = pytest.importorskip("transformers")
    plain = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=lowers)
    plain.save_pretrained(tmp_path / "plain")
    peer = transformers.XLMTokenizer.from_pretrained(tmp_path / "plain")
    for kind in kinds:
        token = ADDED[kind]
        new = token if isinstance(token, str) else transformers.AddedToken(**dataclasses.asdict(token))
        peer.add_tokens([new])
    assert len(peer) == len(plain)
    peer.save_pretrained(tmp_path / "theirs")
    peer = transformers.XLMTokenizer.from_pretrained(tmp_path / "theirs")
    ours = XLMTokenizer.from_pretrained(tmp_path / "theirs")
    if not {"normalized", "special"} & {*kinds}:  # transformers itself changes these two of what it is given
        assert {token.content for token in ours.added_tokens} == {
            token if isinstance(token, str) else token.content for token in map(ADDED.__getitem__, kinds)
        }
    ours.save_pretrained(tmp_path / "ours")
    assert XLMTokenizer.from_pretrained(tmp_path / "ours") == ours
    again = transformers.XLMTokenizer.from_pretrained(tmp_path / "ours")
    for text in (*ADDED_TEXTS, TEXT):
        expected = peer.tokenize(text)
        assert (text, ours.tokenize(text)) == (text, expected)
        assert again.tokenize(text) == expected
        assert ours.encode(text) == peer.encode(text)
        assert ours.tokenize_batch([text] * 2000)[-1] == expected
        assert ours.decode(ours.encode(text), True) == peer.decode(peer.encode(text), skip_special_tokens=True)
        check_spans(ours, text, None)
        assert ours.tokenize(text, lang="en") == plain.tokenize(text, lang="en") == peer._tokenize(text, lang="en")


def test_the_recorded_case_of_an_added_token(reference: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.XLMTokenizer.from_pretrained(reference / "published/xlm-clm-ende-1024")
    peer.add_tokens(["foo"])
    peer.save_pretrained(tmp_path)
    ours = XLMTokenizer.from_pretrained(tmp_path)
    assert ours.tokenize("food") == ["foo", "d</w>"]
    assert ours.encode("food", add_special_tokens=False) == [15144, 523]


def test_added_tokens_of_old_directories(saved: Path) -> None:
    edit(saved, "tokenizer_config.json", added_tokens_decoder=None, extra_special_tokens={})
    options = {"content": "<special7>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
    edit(saved, "special_tokens_map.json", mask_token=options)
    (saved / "added_tokens.json").write_text(json.dumps({"do": VOCABULARY.ids["do"], "<special7>": 11}))
    ours = XLMTokenizer.from_pretrained(saved)
    assert [token.content for token in ours.added_tokens] == ["<special7>", "do"]
    transformers = pytest.importorskip("transformers")
    peer = transformers.XLMTokenizer.from_pretrained(saved)
    for text in (*ADDED_TEXTS, "a <special7> b"):
        assert ours.tokenize(text) == peer.tokenize(text)


def test_more_added_tokens_than_a_pattern_can_find_in_time(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {str(index): token for index, token in enumerate(VOCABULARY.tokens)}
    edit(saved, "tokenizer_config.json", added_tokens_decoder=tokens)
    assert len(XLMTokenizer.from_pretrained(saved).added_tokens) > 10
    monkeypatch.setattr(tokenizer_files, "_MOST_ADDED", len(tokens) - 1)
    with pytest.raises(VocabularyError, match=f"(?s)added_tokens.*found: {len(tokens)}\n.*at most"):
        XLMTokenizer.from_pretrained(saved)


def test_a_special_token_that_a_call_replaces_is_no_added_one(saved: Path) -> None:
    assert XLMTokenizer.from_pretrained(saved, additional_special_tokens=[]).added_tokens == ()


def test_codes_stand_in_for_merges(saved: Path, tmp_path: Path) -> None:
    (saved / "merges.txt").unlink()
    with pytest.raises(VocabularyError, match="codes=FILE"):
        XLMTokenizer.from_pretrained(saved)
    write_codes(tmp_path / "codes", MERGES)
    assert XLMTokenizer.from_pretrained(saved, codes=tmp_path / "codes") == TOKENIZERS["as the original"]


@pytest.mark.parametrize(
    ("name", "changes", "place"),
    [
        ("tokenizer_config.json", {"do_lowercase_and_remove_accent": "no"}, "do_lowercase_and_remove_accent"),
        ("tokenizer_config.json", {"lang2id": {"de": 0, "en": 0}}, "lang2id"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length"),
        ("tokenizer_config.json", {"bos_token": "<new>"}, "bos_token"),
        ("tokenizer_config.json", {"bos_token": {"content": "<s>", "lstrip": True}}, "bos_token"),
        ("tokenizer_config.json", {"extra_special_tokens": ["<new>"]}, "additional_special_tokens"),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<i>"}}, "additional_special_tokens"),
        ("tokenizer_config.json", {"tokenizer_class": "FlaubertTokenizer"}, "tokenizer_class"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"999": {"content": "<new>"}}}, "<new>"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4": {"content": "<special1>"}}}, "<special1>"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"xlm": []}, "xlm"),
        ("tokenizer_config.json", {"xlm": {"preset": "moses"}}, "preset"),
        ("vocab.json", {"<s>": 1}, "id 1"),
    ],
)
def test_wrong_settings_name_the_file(saved: Path, name: str, changes: dict[str, Any], place: str) -> None:
    edit(saved, name, **changes)
    with pytest.raises(VocabularyError) as caught:
        XLMTokenizer.from_pretrained(saved)
    assert str(saved / name) in str(caught.value)
    assert place in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("content", [b"", b"\xff\n", b"[1]"])
def test_broken_files_are_named(saved: Path, name: str, content: bytes) -> None:
    edit(saved, "tokenizer_config.json", added_tokens_decoder=None)  # else the other file is not read
    (saved / name).write_bytes(content)
    with pytest.raises(VocabularyError, match=name):
        XLMTokenizer.from_pretrained(saved)


@pytest.mark.parametrize(
    "setting",
    [
        *({"clean_up_tokenization_spaces": True}, {"split_special_tokens": True}),
        {"eos_token": "<special3>"},
    ],
)
def test_settings_without_effect_warn(saved: Path, setting: dict[str, Any]) -> None:
    edit(saved, "tokenizer_config.json", **setting)
    with pytest.warns(XLMWarning, match=next(iter(setting))) as caught:
        XLMTokenizer.from_pretrained(saved)
    assert caught[0].filename == __file__


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)no-such-model.*no directory or file of that name"):
        XLMTokenizer.from_pretrained("no-such-model")
    with pytest.raises(VocabularyError, match=r"no vocab\.json and no merges\.txt"):
        XLMTokenizer.from_pretrained(tmp_path)


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="choose another path"):
        TOKENIZERS["defaults"].save_pretrained(tmp_path / "file")
    (tmp_path / "directory/merges.txt").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"directory/merges\.txt"):
        TOKENIZERS["defaults"].save_pretrained(tmp_path / "directory")


def test_a_checkpoint_of_the_original_needs_codes_and_is_cased(reference: Path, tmp_path: Path) -> None:
    path = reference / "checkpoints/clm_ende_multi30k/clm_ende_multi30k.pth"
    with pytest.raises(VocabularyError, match="codes=FILE"):
        XLMTokenizer.from_pretrained(path)
    tokenizer = XLMTokenizer.from_pretrained(path, codes=reference / "published/codes_ende")
    published = XLMTokenizer.from_pretrained(reference / "published/xlm-clm-ende-1024")
    assert tokenizer.vocabulary.tokens == published.vocabulary.tokens
    assert tokenizer.merges == published.merges
    assert tokenizer.lang2id == LANG2ID
    assert (tokenizer.preset, tokenizer.preset_without_lang) == ("original", None)
    assert tokenizer.decode(tokenizer.encode("Über Straßen", lang="de")) == "</s>Über Straßen </s>"
    tokenizer.save_pretrained(tmp_path)
    assert XLMTokenizer.from_pretrained(tmp_path) == tokenizer
    assert XLMTokenizer.from_pretrained(reference / "published/xlm-clm-ende-1024", preset="original") == tokenizer
    overridden = XLMTokenizer.from_pretrained(
        path, codes=reference / "published/codes_ende", preset="transformers", do_lowercase_and_remove_accent=True
    )
    assert overridden.tokenize("Über") == published.tokenize("Über")
    assert overridden.bos_token == "</s>"  # as the model was trained


class Mine(XLMTokenizer):
    """A subclass, as a user writes one."""

    def tokenize(self, text: str, lang: str | None = None) -> list[str]:
        return ["mine", *super().tokenize(text, lang)]


def test_a_subclass_gets_itself_back(saved: Path, tmp_path: Path) -> None:
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    from_files = Mine.from_codes(tmp_path / "codes", tmp_path / "vocab", lang2id=LANG2ID)
    for mine in (Mine.from_pretrained(saved), Mine.from_pretrained(saved, preset="original"), from_files):
        assert type(mine) is Mine
        assert mine.tokenize("the", lang="en") == ["mine", "the</w>"]


def test_a_subclass_gets_itself_back_from_a_checkpoint_of_the_original(reference: Path) -> None:
    path = reference / "checkpoints/clm_ende_multi30k/clm_ende_multi30k.pth"
    assert type(Mine.from_pretrained(path, codes=reference / "published/codes_ende")) is Mine


def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    write_codes(tmp_path / "codes", MERGES)
    for content in (b"", b"no checkpoint", pickle.dumps({"a": 1})):
        (tmp_path / "model.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pth"):
            XLMTokenizer.from_pretrained(tmp_path / "model.pth", codes=tmp_path / "codes")


def test_importing_it_imports_no_torch() -> None:
    script = "import sys, xlm.checkpoint.tokenizer_files; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
