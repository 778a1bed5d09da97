"""The model class for lm-evaluation-harness, by itself and run by the real harness on a small local task.

Oracle: ``xlm.score`` of the same texts; for generation ``model.continuations``. Where the harness is not installed,
what the class takes from it is stood in for, and the tests that need the real one are skipped.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.demo_files import write_demo_files
from tests.documents import blocks_of, commands_of
from xlm import XLMConfig, XLMTokenizer, XLMWarning, XLMWithLMHeadModel, convert, score
from xlm.errors import DependencyError, InputError, LanguageError

try:
    import lm_eval
except ImportError:
    lm_eval = None
needs_harness = pytest.mark.skipif(lm_eval is None, reason="lm-evaluation-harness is not installed: xlm[lm-eval]")
# The harness and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")

PAIRS = [
    ("The small dog", " is sleeping."),
    ("", "The small dog is sleeping on the grass."),
    ("The small dog ", "is"),
    ("The dog is sleeping", "."),
]
CHOICES = [("The small dog is", ["sleeping", "on"]), ("", ["The grass is small.", "Grass the small is."])]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_demo_files(tmp_path_factory.mktemp("harness"))
    convert(directory / "demo.pth", directory / "model", codes=directory / "codes")
    return directory / "model"


class Request:
    """What the harness gives to a model, as far as the model looks."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class StandIn:
    """What the class has from the harness's."""

    def __init__(self) -> None:
        self.cache_hook = self

    def add_partial(self, *_: object) -> None:
        """Remembers nothing."""


@pytest.fixture(scope="module")
def model_class() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if lm_eval is None:
            for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry"):
                patch.setitem(sys.modules, name, ModuleType(name))
            patch.setattr(sys.modules["lm_eval.api.model"], "LM", StandIn, raising=False)
            patch.setattr(sys.modules["lm_eval.api.registry"], "register_model", lambda _: lambda it: it, raising=False)
            patch.delitem(sys.modules, "xlm.integrations.lm_eval", raising=False)
        from xlm.integrations.lm_eval import XLMForHarness

        yield XLMForHarness
    if lm_eval is None:
        del sys.modules["xlm.integrations.lm_eval"]


@pytest.fixture(scope="module")
def harness_model(model_class: Any, model_directory: Path) -> Any:
    return model_class(str(model_directory), "en")


def test_without_the_harness_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from xlm.errors import DependencyError\n"
        "try:\n    import xlm.integrations.lm_eval\n"
        "except DependencyError as error:\n    print(error.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "pip install 'xlm[lm-eval]'\n", done.stderr
    assert issubclass(DependencyError, ImportError)


def test_the_entry_point_names_the_class() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."lm_eval.models"]\nxlm = "xlm.integrations.lm_eval:XLMForHarness"\n' in project
    assert "\nclass XLMForHarness(LM)" in (REPOSITORY / "xlm/integrations/lm_eval/__init__.py").read_text(
        encoding="utf-8"
    )


@needs_harness
def test_the_harness_finds_the_class_by_what_the_entry_point_says() -> None:
    # What a harness that reads entry points does with ours: a name for now, the class when it is asked for.
    program = (
        "from lm_eval.api.registry import get_model, model_registry\n"
        "model_registry.register('xlm', target='xlm.integrations.lm_eval:XLMForHarness')\n"
        "print(get_model('xlm').__qualname__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "XLMForHarness\n", done.stderr


def test_rolling_is_score(harness_model: Any) -> None:
    texts = [a + b for a, b in PAIRS] + [" ".join(["The small dog is sleeping on the grass."] * 70)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XLMWarning)  # of the several sentences in one text
        expected = score(harness_model.model, harness_model.tokenizer, texts, lang="en")
    assert expected[-1].windows > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", XLMWarning)  # not even of several sentences, which the harness joins
        found = harness_model.loglikelihood_rolling([Request(text) for text in texts])
    assert found == [result.logprob for result in expected]


@pytest.mark.parametrize("closing", [False, True])
def test_continuations_are_the_last_tokens_of_score(harness_model: Any, closing: bool) -> None:
    harness_model.closing = closing
    found = harness_model.loglikelihood([Request(*pair) for pair in PAIRS])
    harness_model.closing = False
    for (context, continuation), (logprob, greedy) in zip(PAIRS, found, strict=True):
        (result,) = score(harness_model.model, harness_model.tokenizer, [context + continuation], lang="en", ranks=True)
        assert result.ranks is not None
        before = len(harness_model.tokenizer.tokenize(context, lang="en"))
        end = len(result.logprobs) - (not closing)
        assert logprob == pytest.approx(sum(result.logprobs[before:end]), abs=1e-6)  # other batches, other roundings
        assert greedy == all(rank == 1 for rank in result.ranks[before:end])


def test_generation_stops_where_it_is_told(harness_model: Any) -> None:
    (whole,) = harness_model.generate_until([Request("The dog", {"until": [], "max_gen_toks": 12})])
    assert len(whole.split()) > 2
    middle = whole.split()[2]
    (cut,) = harness_model.generate_until([Request("The dog", {"until": [middle], "max_gen_toks": 12})])
    assert cut == whole.partition(middle)[0]


@pytest.mark.parametrize("most", [1, 12, 31, 32, 33, 63, 64, 65, 100])
@pytest.mark.parametrize("preset", ["original", "transformers"])
def test_a_long_context_keeps_its_end_and_the_opening(
    model_class: Any, model_directory: Path, most: int, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every text of the training begins with stays in front, and is never ``<s>``, which training lacks.

    Nothing is cut while a position is free: each token that was read has one, and so all of the new but the last.
    """
    model = model_class(str(model_directory), "en", preset=preset)
    positions = model.model.config.max_position_embeddings
    assert positions == 64
    really = model.model.continuations
    done: list[tuple[list[int], list[int]]] = []

    def continuations(prompt: torch.Tensor, **options: Any) -> Any:
        (found,) = really(prompt, **options, min_new_tokens=options["max_new_tokens"])  # no </s> before
        done.append((prompt[0].tolist(), list(found.tokens)))
        return [found]

    monkeypatch.setattr(model.model, "continuations", continuations)
    contexts = ["", "The dog", *("The small dog is sleeping on the grass. " * times for times in (1, 3, 4, 12))]
    model.generate_until([Request(context, {"max_gen_toks": most}) for context in contexts])
    for context, (prompt, new) in zip(contexts, done, strict=True):
        tokens = model.tokenizer.encode(context, lang="en", add_special_tokens=False)
        assert prompt[0] == model.model.config.eos_token_id
        kept, used = len(prompt) - 1, len(prompt) + len(new) - 1
        assert prompt[1:] == tokens[len(tokens) - kept :]
        assert kept == len(tokens) or (used == positions and kept >= positions // 2)
        assert len(new) == most or (used == positions and kept <= positions // 2)


def test_a_long_context_is_continued(harness_model: Any) -> None:
    context = "The small dog is sleeping on the grass. " * 12
    (found,) = harness_model.generate_until([Request(context, {"max_gen_toks": 12})])
    ids = harness_model.tokenizer.encode(context, lang="en")[:-1]
    prompt = torch.tensor([[1, *ids[-52:]]])
    (expected,) = harness_model.model.continuations(prompt, langs="en", max_new_tokens=12)
    assert found == harness_model.tokenizer.decode(
        expected.tokens, skip_special_tokens=True, lang="en", detokenize=True
    )


def test_wrong_arguments(model_class: Any, model_directory: Path) -> None:
    with pytest.raises(InputError, match="closing"):
        model_class(str(model_directory), "en", closing="yes")
    for name in ("batch_size", "max_gen_toks"):
        for value in ("many", 0, 1.5, "-1"):
            with pytest.raises(InputError, match=f"Not a count\n  where: {name}"):
                model_class(str(model_directory), "en", **{name: value})
    with pytest.raises(InputError, match="Int8 runs on the CPU only"):
        model_class(str(model_directory), "en", dtype="int8", device="cuda")
    with pytest.raises(LanguageError):
        model_class(str(model_directory), "xx")


def test_the_type_of_the_file(model_class: Any, model_directory: Path, tmp_path: Path) -> None:
    XLMWithLMHeadModel.from_pretrained(model_directory, dtype="bfloat16").save_pretrained(tmp_path)
    XLMTokenizer.from_pretrained(model_directory).save_pretrained(tmp_path)
    found = [model_class(str(tmp_path), "en", dtype=dtype).model.weights for dtype in ("auto", "float32")]
    assert found == ["bfloat16", "float32"]


def test_a_model_without_languages(model_class: Any, model_directory: Path, tmp_path: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(model_directory)
    config = XLMConfig(vocab_size=len(tokenizer), emb_dim=16, n_layers=1, n_heads=2, n_langs=1)
    network = XLMWithLMHeadModel(config)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (found,) = model_class(str(tmp_path), "en").generate_until([Request("The dog", {"max_gen_toks": 5})])
    prompt = torch.tensor([tokenizer.encode("The dog", lang="en")[:-1]])
    (expected,) = network.eval().continuations(prompt, max_new_tokens=5)
    assert found == tokenizer.decode(expected.tokens, skip_special_tokens=True, lang="en", detokenize=True)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_without_cuda_the_harness_s_own_default_device_means_the_cpu(
    model_class: Any, model_directory: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(XLMWarning, match="computing on the CPU instead of cuda:0"):
        model = model_class(str(model_directory), "en", dtype=dtype, device="cuda:0")
    assert model.model.device == torch.device("cpu")
    with pytest.raises(InputError, match="No such device"):  # asked for, not the harness's default
        model_class(str(model_directory), "en", device="cuda:99")


def write_task(directory: Path) -> None:
    lines = [
        json.dumps({"context": context, "choices": choices, "label": 0, "text": context + " " + choices[0]})
        for context, choices in CHOICES
    ]
    (directory / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shared = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {directory / 'data.jsonl'}}}}}\ntest_split: test\n"
    )
    (directory / "choose.yaml").write_text(
        "task: choose\n" + shared + "output_type: multiple_choice\n"
        'doc_to_text: "{{context}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: label\n'
        "metric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    (directory / "roll.yaml").write_text(
        "task: roll\n" + shared + "output_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]\n',
        encoding="utf-8",
    )


@needs_harness
def test_the_real_harness_from_its_command_line(model_directory: Path, tmp_path: Path) -> None:
    write_task(tmp_path)
    command = [sys.executable, "-m", "xlm.integrations.lm_eval", "--model", "xlm", "--include_path", str(tmp_path)]
    command += ["--model_args", f"pretrained={model_directory},lang=en", "--tasks", "choose,roll"]
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out"), "--log_samples"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokenizer = XLMTokenizer.from_pretrained(model_directory)
    model = XLMWithLMHeadModel.from_pretrained(model_directory)
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    texts = [context + " " + choices[0] for context, choices in CHOICES]
    logprobs = [result.logprob for result in score(model, tokenizer, texts, lang="en")]
    size = sum(len(text.encode()) for text in texts)
    assert found["roll"]["bits_per_byte,none"] == pytest.approx(-sum(logprobs) / size / 0.6931471805599453, rel=1e-6)
    (samples,) = (tmp_path / "out").rglob("samples_choose_*.jsonl")
    for line, (context, choices) in zip(samples.read_text(encoding="utf-8").splitlines(), CHOICES, strict=True):
        answers = [float(one[0][0]) for one in json.loads(line)["resps"]]
        for choice, answer in zip(choices, answers, strict=True):
            (result,) = score(model, tokenizer, [f"{context} {choice}"], lang="en")
            before = len(tokenizer.tokenize(context, lang="en"))
            assert answer == pytest.approx(sum(result.logprobs[before:-1]), abs=1e-5)


def shown_on_the_page(directory: Path) -> str:
    """Writes the task that docs/integrations.md shows into a directory, and returns the command that it shows."""
    page = (REPOSITORY / "docs/integrations.md").read_text(encoding="utf-8")
    section = page.partition("## lm-evaluation-harness")[2].partition("\n## ")[0]
    code = {block.language: block for block in blocks_of(section)}
    (directory / "tasks").mkdir()
    (directory / "tasks/agreement.yaml").write_text(code["yaml"].code, encoding="utf-8")
    (directory / "tasks/agreement.jsonl").write_text(code["json"].code, encoding="utf-8")
    (command,) = commands_of(code["bash"])
    return command


def run_in(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(directory / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=directory, env=environment
    )


@needs_harness
def test_the_command_on_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    command = shown_on_the_page(tmp_path)
    assert "--device" not in command
    done = run_in(tmp_path, f"{command} --output_path out")
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text(encoding="utf-8"))["results"]["agreement"]["acc,none"] == 1


@needs_harness
def test_the_plain_command_finds_the_model_from_the_version_on_that_the_page_names(tmp_path: Path) -> None:
    command = shown_on_the_page(tmp_path).replace("python -m xlm.integrations.lm_eval", "lm_eval")
    assert command.startswith("lm_eval --model xlm ")
    done = run_in(tmp_path, command)
    version = tuple(map(int, importlib.metadata.version("lm_eval").split(".")[:3]))
    if version <= (0, 4, 13):
        assert "no model for this name found" in done.stderr
    else:
        assert done.returncode == 0, f"the page says otherwise\n{done.stderr[-3000:]}"
