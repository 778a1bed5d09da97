"""Every public function, with hostile values for one parameter at a time and good values for the others.

The result must be a value or an ``XLMError``, never another exception and never a hang. Public are the names of
``xlm.__all__`` and docs/api with their methods; a new one without a line in ``good_arguments`` fails here.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import xlm
import xlm.scoring.sentence_ends
import xlm.scoring.signature
import xlm.scoring.vectors
import xlm.translation.translator
from tests.conftest import REPOSITORY
from tests.demo_files import write_demo_files
from tests.waiting import at_most
from xlm import XLMCache, XLMConfig, XLMError, XLMTokenizer, XLMWithLMHeadModel, convert, score
from xlm.model.decoding.options import DecodingOptions
from xlm.translation.bleu import corpus_bleu

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")

SECONDS = 10
"""That the hostile values of one parameter may take together."""

RESULTS = {
    *("Continuation", "ConversionReport", "LanguagePerplexity", "Perplexity", "SentenceScore", "Signature"),
    *("TokenStream", "WordScore", "XLMModelOutput", "XLMOutput", "DecodingOptions", "ScoringOptions"),
    *("Accuracy", "Evaluation", "ItemResult"),
    *("XLMEncoderDecoderOutput", "Bleu", "TranslatedText", "Translation", "Word", "WordVectors"),
}
"""Classes that the library makes and users read: their methods are walked, their constructors are not."""

INTERNAL = {f"XLMCache.{name}" for name in ("advance", "put_rows", "select_rows", "slots", "write")} | {
    "DecodingOptions.row_seeds"
}
"""Methods that each step of the model calls with tensors of its own; checks in them would cost every token."""

# Whose keywords ``**`` stands for, where a function has it; None where it is walked under its own name already.
KEYWORDS: dict[str, Callable[..., Any] | None] = {
    "DecodingOptions.checked": DecodingOptions,
    "Generator": None,  # DecodingOptions.checked
    "XLMConfig.clm_ende_1024": XLMConfig,
    "XLMConfig.replace": XLMConfig,
    "XLMTokenizer.from_codes": XLMTokenizer,
    "XLMTokenizer.from_pretrained": XLMTokenizer,
}


@dataclass(frozen=True)
class World:
    """A small model with its files, the source of good arguments."""

    directory: Path
    files: Path
    config: XLMConfig
    model: XLMWithLMHeadModel
    tokenizer: XLMTokenizer
    ids: torch.Tensor


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    files = write_demo_files(tmp_path_factory.mktemp("hostile"))
    convert(files / "demo.pth", files / "model", codes=files / "codes")
    tokenizer = XLMTokenizer.from_pretrained(files / "model")
    model = XLMWithLMHeadModel.from_pretrained(files / "model")
    ids = torch.tensor([tokenizer.encode("The small dog", lang="en")[:-1]])
    return World(files / "model", files, model.config, model, tokenizer, ids)


Functions = dict[str, tuple[Callable[..., Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def good_arguments(world: World) -> Functions:
    """Return each public function, bound if it is a method, with good arguments."""
    config, model, tokenizer, ids = world.config, world.model, world.tokenizer, world.ids
    hidden, body = torch.zeros(1, 2, config.emb_dim), xlm.XLMModel.from_pretrained(world.directory)
    small: dict[str, Any] = {"vocab_size": 20, "emb_dim": 4, "n_layers": 1, "n_heads": 1}
    scored: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "lang": "en"}
    prompt = {"input_ids": ids, "langs": "en", "max_new_tokens": 3, "do_sample": True}
    frame = pandas.DataFrame({"text": ["The small dog"]})
    (measured,) = xlm.perplexity(**scored, texts=["The dog", "dog"]).languages
    interval = {"measure": "perplexity", "resamples": 3, "seed": 0}
    step = {"model": str(world.directory), "lang": "en"}
    batch = pyarrow.table(frame)
    generator, scorer, divider = (xlm.distributed.Generator, xlm.distributed.Scorer, xlm.distributed.Tokenizer)
    translator = xlm.XLMEncoderDecoderModel.from_encoder_decoder_pretrained(world.directory, world.directory)
    translator.save_pretrained(world.files / "translator")
    pair = {"input_ids": ids, "langs": "en", "decoder_langs": "de"}
    translated = {**scored, "model": translator, "texts": ["The dog"], "source": "en", "target": "de", "max_length": 4}
    del translated["lang"]
    start = {"encoder": world.directory, "decoder": world.directory}
    kind = xlm.XLMEncoderDecoderModel
    (world.files / "pairs.txt").write_text("True\tThe dog\nFalse\tThe dogs\n", encoding="utf-8")
    collator = xlm.DataCollatorForLanguageModeling
    encoded = [tokenizer("The dog", lang="en")]
    growing: Functions = {}
    for owner in (model, body, translator, tokenizer):
        name = type(owner).__name__
        growing[f"{name}.add_languages"] = (_of_a_copy(owner, "add_languages"), {"names": ["fr"]})
        if owner is tokenizer:
            growing[f"{name}.add_tokens"] = (_of_a_copy(owner, "add_tokens"), {"new_tokens": ["[new]"]})
            continue
        if owner is not translator:
            for kind_of in ("activation", "gradient"):
                method = f"{kind_of}_checkpointing_enable"
                growing[f"{name}.{method}"] = (_of_a_copy(owner, method), {})
        growing[f"{name}.resize_token_embeddings"] = (_of_a_copy(owner, "resize_token_embeddings"), {})
        positions = {"new_num_position_embeddings": 8}
        growing[f"{name}.resize_position_embeddings"] = (_of_a_copy(owner, "resize_position_embeddings"), positions)
    return {
        **growing,
        "DataCollatorForLanguageModeling": (lambda **options: collator(**options)(encoded), {"tokenizer": tokenizer}),
        "DataCollatorForLanguageModeling.__call__": (collator(tokenizer), {"examples": encoded}),
        "TranslationOptions": (xlm.translation.translator.TranslationOptions, {}),
        "XLMEncoderDecoderModel": (kind, {"config": XLMConfig(**small)}),
        "XLMEncoderDecoderModel.continuations": (translator.continuations, {**pair, "max_length": 4}),
        "XLMEncoderDecoderModel.for_inference": (translator.for_inference, {}),
        "XLMEncoderDecoderModel.forward": (torch.no_grad()(translator.forward), {**pair, "decoder_input_ids": ids}),
        "XLMEncoderDecoderModel.from_encoder_decoder_pretrained": (kind.from_encoder_decoder_pretrained, start),
        "XLMEncoderDecoderModel.from_pretrained": (kind.from_pretrained, {"name_or_path": world.files / "translator"}),
        "XLMEncoderDecoderModel.generate": (translator.generate, {**pair, "max_length": 4}),
        "XLMEncoderDecoderModel.save_pretrained": (translator.save_pretrained, {"directory": "saved"}),
        "corpus_bleu": (corpus_bleu, {"translations": ["a b"], "references": ["a b"]}),
        "translate": (xlm.translate, translated),
        "translate_stream": (xlm.translate_stream, translated),
        "DecodingOptions.checked": (DecodingOptions.checked, {"config": config}),
        "Generator": (lambda **options: generator(**options)(batch), {**step, "max_new_tokens": 2}),
        "Generator.__call__": (generator(**step, max_new_tokens=2), {"batch": batch}),
        "Scorer": (lambda **options: scorer(**options)(batch), step),
        "Scorer.__call__": (scorer(**step), {"batch": batch}),
        "Tokenizer": (lambda **options: divider(**options)(batch), step),
        "Tokenizer.__call__": (divider(**step), {"batch": batch}),
        "LanguagePerplexity.difference_interval": (measured.difference_interval, {"other": measured, **interval}),
        "LanguagePerplexity.interval": (measured.interval, interval),
        "XLMCache": (XLMCache, {"config": config, "batch_size": 1}),
        "XLMConfig": (XLMConfig, small),
        "XLMConfig.clm_ende_1024": (XLMConfig.clm_ende_1024, {}),
        "XLMConfig.language_id": (config.language_id, {"language": "en"}),
        "XLMConfig.replace": (config.replace, {}),
        "XLMModel": (xlm.XLMModel, {"config": XLMConfig(**small)}),
        "XLMModel.forward": (torch.no_grad()(body.forward), {"input_ids": ids, "langs": "en"}),
        "XLMModel.from_pretrained": (xlm.XLMModel.from_pretrained, {"name_or_path": world.directory}),
        "XLMModel.save_pretrained": (body.save_pretrained, {"directory": "saved"}),
        "XLMModel.new_cache": (body.new_cache, {"batch_size": 1}),
        "XLMTokenizer": (XLMTokenizer, {"vocabulary": tokenizer.vocabulary, "merges": tokenizer.merges}),
        "XLMTokenizer.__call__": (tokenizer, {"text": "The dog", "lang": "en"}),
        "XLMTokenizer.convert_ids_to_tokens": (tokenizer.convert_ids_to_tokens, {"ids": [14, 15]}),
        "XLMTokenizer.convert_tokens_to_ids": (tokenizer.convert_tokens_to_ids, {"tokens": ["dog</w>"]}),
        "XLMTokenizer.convert_tokens_to_string": (tokenizer.convert_tokens_to_string, {"tokens": ["dog</w>"]}),
        "XLMTokenizer.decode": (tokenizer.decode, {"token_ids": [14, 15]}),
        "XLMTokenizer.encode": (tokenizer.encode, {"text": "The dog", "lang": "en"}),
        "XLMTokenizer.encode_batch": (tokenizer.encode_batch, {"texts": ["The dog"], "lang": "en"}),
        "XLMTokenizer.encode_stream": (tokenizer.encode_stream, {"texts": ["The dog"], "lang": "en"}),
        "XLMTokenizer.from_codes": (
            XLMTokenizer.from_codes,
            {"codes": world.files / "codes", "vocab": world.files / "vocab"},
        ),
        "XLMTokenizer.from_pretrained": (XLMTokenizer.from_pretrained, {"name_or_path": world.directory}),
        "XLMTokenizer.get_special_tokens_mask": (tokenizer.get_special_tokens_mask, {"token_ids": [1, 14]}),
        "XLMTokenizer.pad": (tokenizer.pad, {"encoded_inputs": encoded}),
        "XLMTokenizer.save_pretrained": (tokenizer.save_pretrained, {"directory": "saved"}),
        "XLMTokenizer.spans": (tokenizer.spans, {"text": "The dog", "lang": "en"}),
        "XLMTokenizer.tokenize": (tokenizer.tokenize, {"text": "The dog", "lang": "en"}),
        "XLMTokenizer.tokenize_batch": (tokenizer.tokenize_batch, {"texts": ["The dog"], "lang": "en"}),
        "XLMWithLMHeadModel": (XLMWithLMHeadModel, {"config": XLMConfig(**small)}),
        "XLMWithLMHeadModel.continuations": (model.continuations, prompt),
        "XLMWithLMHeadModel.for_inference": (model.for_inference, {}),
        "XLMWithLMHeadModel.forward": (torch.no_grad()(model.forward), {"input_ids": ids, "langs": "en"}),
        "XLMWithLMHeadModel.from_pretrained": (XLMWithLMHeadModel.from_pretrained, {"name_or_path": world.directory}),
        "XLMWithLMHeadModel.generate": (model.generate, prompt),
        "XLMWithLMHeadModel.hidden": (torch.no_grad()(model.hidden), {"input_ids": ids, "langs": "en"}),
        "XLMWithLMHeadModel.logits": (model.logits, {"hidden": hidden}),
        "XLMWithLMHeadModel.new_cache": (model.new_cache, {"batch_size": 1}),
        "XLMWithLMHeadModel.save_pretrained": (model.save_pretrained, {"directory": "saved"}),
        "XLMWithLMHeadModel.stream": (model.stream, prompt),
        "VectorOptions": (xlm.scoring.vectors.VectorOptions, {}),
        "convert": (convert, {"source": world.directory, "target": "converted"}),
        "evaluate": (xlm.evaluate, {**scored, "tasks": world.files / "pairs.txt"}),
        "linear_cross_entropy": (
            xlm.linear_cross_entropy,
            {
                "hidden": hidden[0],
                "weight": torch.ones(5, config.emb_dim),
                "bias": torch.ones(5),
                "targets": torch.tensor([0, 4]),
            },
        ),
        "perplexity": (xlm.perplexity, {**scored, "texts": ["The dog"]}),
        "plot": (xlm.plot, {"results": score(model, tokenizer, ["The dog"], lang="en")}),
        "score": (score, {**scored, "texts": ["The dog"]}),
        "score_documents": (xlm.score_documents, {**scored, "documents": [["The dog"]]}),
        "score_frame": (xlm.score_frame, {**scored, "frame": frame}),
        "score_stream": (xlm.score_stream, {**scored, "texts": ["The dog"]}),
        "sentence_spans": (xlm.scoring.sentence_ends.sentence_spans, {"text": "The dog. A dog.", "lang": "en"}),
        "signature": (xlm.scoring.signature.signature, scored),
        "word_vectors": (xlm.word_vectors, {**scored, "texts": ["The dog"], "attentions": True}),
        "word_vectors_stream": (xlm.word_vectors_stream, {**scored, "texts": ["The dog"]}),
    }


def _of_a_copy(owner: Any, method: str) -> Callable[..., Any]:
    """Return a method that changes its object, called on a new copy each time."""
    return lambda **arguments: getattr(copy.deepcopy(owner), method)(**arguments)


def hostile_values(world: World) -> dict[str, Any]:
    """Return values of a wrong type, size or kind, by name."""
    return {
        "None": None,
        "True": True,
        "0": 0,
        "-1": -1,
        "10**30": 10**30,
        "1.5": 1.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "''": "",
        "'no such'": "no such",
        "'no/such'": "no/such",
        "NUL": "a\0b",
        "surrogate": "\ud800",
        "bytes": b"bytes",
        "path": Path("missing/file"),
        "object": object(),
        "type": dict,
        "[]": [],
        "[None]": [None],
        "[10**30]": [10**30],
        "[nan]": [float("nan")],
        "[surrogate]": ["\ud800"],
        "[[]]": [[]],
        "{}": {},
        "{None: None}": {None: None},
        "generator": (value for value in (object(),)),
        "numpy": numpy.array([1.5, float("nan")]),
        "float tensor": torch.full((2, 3), float("nan")),
        "bool tensor": torch.ones(1, 4, dtype=torch.bool),
        "scalar tensor": torch.tensor(3),
        "empty tensor": torch.zeros(0, 4, dtype=torch.int64),
        "3-D tensor": torch.zeros(1, 4, 2, dtype=torch.int64),
        "negative tensor": torch.full_like(world.ids, -1),
        "model": world.model,
        "tokenizer": world.tokenizer,
        "config": world.config,
    }


def public_functions() -> dict[str, Callable[..., Any]]:
    """Return the functions that ``xlm.__all__`` and docs/api name, by qualified name, with the methods of classes."""
    named = [f"xlm.{name}" for name in xlm.__all__]
    for page in (REPOSITORY / "docs" / "api").glob("*.md"):
        named += re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Callable[..., Any]] = {}
    for name in named:
        module, _, last = name.rpartition(".")
        value = getattr(importlib.import_module(module), last)
        if inspect.isclass(value) and not issubclass(value, BaseException):
            if value.__name__ not in RESULTS:
                found[value.__name__] = value
            found |= {f"{value.__name__}.{method}": getattr(value, method) for method in _methods_of(value)}
        elif inspect.isfunction(value):
            found[value.__name__] = value
    return found


def _methods_of(of: type) -> Iterator[str]:
    for name in dir(of):
        function = inspect.unwrap(getattr(of, name))
        ours = (getattr(function, "__module__", None) or "").startswith("xlm.")
        if ours and inspect.isroutine(function) and (name == "__call__" or not name.startswith("_")):
            yield name


def parameters_of(name: str, function: Callable[..., Any]) -> Iterator[str]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            keywords = KEYWORDS[name]
            options = () if keywords is None else inspect.signature(keywords).parameters.values()
            yield from (option.name for option in options if option.kind is option.KEYWORD_ONLY)
        elif parameter.name != "self":
            yield parameter.name


PUBLIC = public_functions()
WALKED = [
    (name, parameter)
    for name, function in sorted(PUBLIC.items())
    if name not in INTERNAL
    for parameter in dict.fromkeys(parameters_of(name, function))
]


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Call a function and exhaust a lazy result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function(**arguments)
        if isinstance(result, Iterator):
            for _ in itertools.islice(result, 100):
                pass


@pytest.fixture(autouse=True)
def no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a new directory, with a time limit, and restore torch's threads afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with at_most(SECONDS):
        yield
    torch.set_num_threads(threads)


def test_each_public_function_has_good_arguments(good_arguments: Functions) -> None:
    needed = {name for name, _ in WALKED}
    assert needed - good_arguments.keys() == set(), "new public functions: give them a line in good_arguments"
    assert good_arguments.keys() - needed == set(), "these are public no more"
    assert INTERNAL - PUBLIC.keys() == set()
    for function, arguments in good_arguments.values():
        call(function, arguments)


@pytest.mark.parametrize(("name", "parameter"), WALKED, ids=[f"{name}({parameter})" for name, parameter in WALKED])
def test_hostile_values(world: World, good_arguments: Functions, name: str, parameter: str) -> None:
    function, arguments = good_arguments[name]
    failures = {}
    for label, value in hostile_values(world).items():
        try:
            call(function, {**arguments, parameter: value})
        except XLMError as error:
            str(error)  # this may fail too
        except Exception as error:
            failures[label] = f"{type(error).__name__}: {str(error)[:80]}"
    assert not failures
