"""The tokenizer: raw text to token ids and back, with the names and the meaning it has in transformers.

Its methods stand in the files beside this one by what they do: ``encoder.py`` a text, ``corpus_encoder.py`` many,
``decoder.py`` the way back, ``settings.py`` what all of them need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from xlm._io.files import as_path
from xlm.tokenizer.corpus_encoder import CorpusEncoder
from xlm.tokenizer.decoder import Decoder
from xlm.tokenizer.encoder import Encoder
from xlm.tokenizer.merges import check_merges, read_codes
from xlm.tokenizer.settings import SPECIAL_TOKEN_NAMES, check_names
from xlm.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SPECIAL_TOKEN_NAMES", "XLMTokenizer"]


@dataclass(frozen=True, repr=False)
class XLMTokenizer(Encoder, CorpusEncoder, Decoder):
    """Splits text into pieces of words by Moses' rules and byte-pair encoding, and numbers them.

    Args:
        vocabulary: The tokens by id.
        merges: The merges of byte-pair encoding, best first.
        preset: The text pipeline. ``"transformers"`` equals ``XLMTokenizer`` of transformers 5.x, ``"transformers-v4"``
            that of 4.57; ``"original"`` is what the models were trained with: the Perl scripts of Moses for the
            language, which must be given, then byte-pair encoding limited to the vocabulary.
        preset_without_lang: The pipeline of a text whose language is not given, where ``preset`` needs it; it then says
            so once, in the log. None refuses such a text.
        do_lowercase_and_remove_accent: Whether to lower-case the words and strip their accents. The published
            configurations say so although the published models were trained on cased text. By default False with the
            preset ``"original"``, else True.
        lang2id: The id of each language of the model; None where that is unknown, and then any language is taken.
        bos_token: Stands before every text that is encoded. By default ``"</s>"`` with the preset ``"original"``, else
            ``"<s>"``.
        sep_token: Stands after every text that is encoded.
        cls_token: For classification; nothing here uses it.
        pad_token: Fills up shorter rows of a batch.
        unk_token: Stands for a piece that is not in the vocabulary.
        mask_token: For masked language models; nothing here uses it.
        additional_special_tokens: Further tokens that are recognised in a text as they stand.
        added_tokens: Tokens of the vocabulary that are recognised in a text as they stand without being special, or
            with options; each a str or an ``AddedToken`` (``xlm.tokenizer.added_tokens``).
        model_max_length: How many tokens the model takes; texts are cut to it only where ``truncation`` asks for it.

    Raises:
        VocabularyError: A special token that is not in the vocabulary, or no merges.
        InputError: A setting that is none of those.
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        preset: str | None = None,
        codes: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **settings: Any,
    ) -> Self:
        """Returns the tokenizer of a model directory, of a checkpoint of the original, or of a name.

        Args:
            name_or_path: A directory in the transformers layout, an original ``.pth``, the name of a model that comes
                with the package (``"xlm-clm-ende-small"``), or an id on the Hugging Face hub, perhaps with
                ``@revision``; looked for in that order.
            preset: The text pipeline; None for the one that was saved, ``"original"`` for a ``.pth``.
            codes: fastBPE's codes, instead of ``merges.txt``; a ``.pth`` holds none, so it needs them.
            revision: Of a model on the hub: a branch, a tag or a commit; ``main`` when ``None``.
            cache_dir: Where fetched files are kept; where ``HF_HOME`` or ``HF_HUB_CACHE`` say when ``None``.
            local_files_only: Whether to take what the cache holds and ask nobody, as ``HF_HUB_OFFLINE=1`` does.
            token: For a model that is not public; when ``None`` it is ``HF_TOKEN`` or what ``hf auth login`` left.
            **settings: Any argument of ``XLMTokenizer`` by its name, instead of what was saved.

        Raises:
            CheckpointError: There is nothing of that name.
            HubError: It could not be fetched from the hub; one of the above.
            VocabularyError: A file is missing or broken.
            InputError: An unknown setting.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.tokenizer_files import load_tokenizer

        hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        made = load_tokenizer(name_or_path, preset=preset, codes=codes, hub=hub, kind=cls, **settings)
        return cast("Self", made)

    @classmethod
    def from_codes(
        cls,
        codes: str | os.PathLike[str],
        vocab: str | os.PathLike[str],
        *,
        lang2id: Mapping[str, int] | None = None,
        **settings: Any,
    ) -> Self:
        """Returns the tokenizer of the original's two files, such as ``codes_ende`` and ``vocab_ende``.

        The preset is ``"original"`` if no other is given.

        Args:
            codes: fastBPE's codes.
            vocab: fastBPE's vocabulary, ``word count`` a line.
            lang2id: The id of each language.
            **settings: Any other argument of ``XLMTokenizer`` by its name.

        Raises:
            VocabularyError: A file is missing or broken, or the two are of different models.
            InputError: An unknown setting, or a wrong value.
        """
        check_names(settings)
        codes_path, vocab_path = as_path("codes", codes), as_path("vocab", vocab)
        vocabulary, merges = Vocabulary.from_words(vocab_path), read_codes(codes_path)
        check_merges(vocabulary, merges, codes_path)
        return cls(vocabulary, merges, **{"preset": "original", "lang2id": lang2id, **settings})

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the tokenizer into a directory, made when missing, in the layout that transformers opens.

        Raises:
            WriteError: A file could not be written.
        """
        from xlm.checkpoint.tokenizer_files import save_tokenizer

        save_tokenizer(self, directory)

    def __repr__(self) -> str:
        case = "lower-cased, accents removed" if self.do_lowercase_and_remove_accent else "cased"
        languages = "unknown" if self.lang2id is None else ", ".join(f"{k}={v}" for k, v in self.lang2id.items())
        return (
            f"XLMTokenizer(preset={self.preset!r}, {case}, {len(self.vocabulary)} tokens, {len(self.merges)} merges, "
            f"languages: {languages}, {self.bos_token} … {self.sep_token})"
        )
