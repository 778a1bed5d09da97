"""``xlm generate``. Oracle: the library's own continuations of each prompt by itself, read back from the output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Invoke
from tests.demo_files import demo_maker
from xlm.cli._inputs import UntilError
from xlm.errors import LanguageError
from xlm.generation.text_generator import Prompt
from xlm.model.decoding.options import derived_seed
from xlm.model.decoding.result import Continuation
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer
from xlm.tokenizer.tokenizer import XLMTokenizer

PROMPTS = ["The small dog", "", 'A woman "reads" ', "the\tdog ü 漢"]


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en"


@pytest.fixture(scope="module")
def tokenizer(demo_files: Path) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")


@pytest.fixture(scope="module")
def network(demo_files: Path) -> XLMWithLMHeadModel:
    return XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth")


def expected_for(
    network: XLMWithLMHeadModel, tokenizer: XLMTokenizer, prompt: str, **options: Any
) -> list[Continuation]:
    ids = torch.tensor([[1, *tokenizer.encode(prompt, lang="en")[1:-1]]])
    return network.continuations(ids, **{"langs": "en", "max_new_tokens": 64, **options})


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {"do_sample": True, "top_p": 0.9}),
        (
            ("--temperature", "0.8", "--top-k", "20", "--top-p", "1", "--min-p", "0.01"),
            {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 1, "min_p": 0.01},
        ),
        (("--greedy", "--repetition-penalty", "1.5"), {"repetition_penalty": 1.5}),
        (("--num-return-sequences", "3"), {"do_sample": True, "top_p": 0.9, "num_return_sequences": 3}),
        (
            ("--num-beams", "3", "--num-return-sequences", "2", "--length-penalty", "0.5", "--min-new-tokens", "2"),
            {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "min_new_tokens": 2},
        ),
        (("--continuation-lang", "de", "--greedy"), {"continuation_langs": "de"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_prompt_as_if_alone(
    invoke: Invoke,
    model: tuple[str, ...],
    network: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    arguments: tuple[str, ...],
    options: dict[str, Any],
    batch_size: int,
) -> None:
    text = "".join(f"{prompt}\n" for prompt in PROMPTS)
    seed = ("--seed", 7) if options.get("do_sample") else ()
    result = invoke("generate", *model, "--format", "jsonl", *seed, "--batch-size", batch_size, *arguments, input=text)
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    n = options.get("num_return_sequences", 1)
    assert len(rows) == len(PROMPTS) * n
    for number, prompt in enumerate(PROMPTS):
        seeds = [7 if row == 0 else derived_seed(7, row) for row in range(number * n, number * n + n)]
        expected = expected_for(network, tokenizer, prompt, **options, **({"seed": seeds} if seed else {}))
        for row, found, row_seed in zip(rows[number * n : number * n + n], expected, seeds, strict=True):
            assert row == {
                "line": number + 1,
                "prompt": prompt,
                "text": row["text"],
                "tokens": tokenizer.convert_ids_to_tokens(found.tokens),
                "ids": list(found.tokens),
                "logprobs": pytest.approx(found.logprobs, abs=1e-5),
                "logprob": pytest.approx(found.logprob, abs=1e-4),  # up to 64 of them
                "stop": found.stop,
                "seed": row_seed if seed else None,
                "score": None if found.score is None else pytest.approx(found.score, abs=1e-5),
            }
            assert row["text"].startswith(prompt)
            words = tokenizer.decode(found.tokens, skip_special_tokens=True)
            assert row["text"][len(prompt) :].replace(" ", "") == words.replace(" ", "")


def test_the_seed_of_a_row_gives_the_row_again(invoke: Invoke, model: tuple[str, ...]) -> None:
    text = "The dog\nThe cat\n"
    rows = [
        json.loads(line)
        for line in invoke("generate", *model, "--format", "jsonl", "--seed", 3, input=text).stdout.splitlines()
    ]
    again = invoke("generate", *model, "--format", "jsonl", "--seed", rows[1]["seed"], "--prompt", "The cat").stdout
    close = {name: pytest.approx(rows[1][name], abs=1e-4) for name in ("logprobs", "logprob")}
    assert json.loads(again) == {**rows[1], "line": 1, **close}


@pytest.mark.parametrize("command", ["generate", "tokenize"])
def test_a_byte_order_mark_is_no_text(invoke: Invoke, model: tuple[str, ...], tmp_path: Path, command: str) -> None:
    options = ("--greedy", "--max-new-tokens", 2) if command == "generate" else ()
    text = "The dog\n\ufeffThe cat\n"  # inside, it is a character
    (tmp_path / "marked.txt").write_text(f"\ufeff{text}", encoding="utf-8")
    plain = invoke(command, *model, *options, input=text)
    assert plain.exit_code == 0
    assert invoke(command, *model, *options, tmp_path / "marked.txt").stdout == plain.stdout
    assert invoke(command, *model, *options, input=f"\ufeff{text}").stdout == plain.stdout


def test_unseeded_runs_differ(invoke: Invoke, model: tuple[str, ...]) -> None:
    runs = {invoke("generate", *model, "--prompt", "The dog").stdout for _ in range(3)}
    assert len(runs) == 3


def test_text_and_stream_are_the_same_text(invoke: Invoke, model: tuple[str, ...]) -> None:
    for prompt in PROMPTS:
        for way in (("--seed", "5"), ("--greedy",), ("--seed", "6", "--max-new-tokens", "1")):
            (row,) = invoke("generate", *model, "--prompt", prompt, *way, "--format", "jsonl").stdout.splitlines()
            plain = invoke("generate", *model, "--prompt", prompt, *way)
            assert plain.stdout == json.loads(row)["text"] + "\n"
            streamed = invoke("generate", *model, "--prompt", prompt, *way, "--stream")
            assert streamed.stdout == plain.stdout
            assert streamed.stderr == plain.stderr == f"stopped: 1 at {json.loads(row)['stop']}\n"


def test_a_stream_of_several_lines(invoke: Invoke, model: tuple[str, ...]) -> None:
    text = "".join(f"{prompt}\n" for prompt in PROMPTS)
    found = invoke("generate", *model, "--stream", "--seed", 2, input=text)
    assert found.stdout == invoke("generate", *model, "--seed", 2, input=text).stdout
    assert len(found.stdout.split("\n")) == len(PROMPTS) + 1


def test_stops_are_counted(invoke: Invoke, model: tuple[str, ...]) -> None:
    positions: int = demo_maker().N_POSITIONS
    long = "the " * (positions - 2)
    found = invoke("generate", *model, "--greedy", "--max-new-tokens", "3", input=f"the\n{long}\n{long} the\n")
    assert found.stderr in (
        "stopped: 2 at positions, 1 at max_new_tokens\n",
        "stopped: 1 at max_new_tokens, 2 at positions\n",
    ), found.stderr
    assert invoke("generate", *model, input="").stderr == "there are no prompts to continue\n"


def test_a_prompt_that_is_too_long_is_named_after_those_before_it(
    invoke: Invoke, model: tuple[str, ...], tmp_path: Path
) -> None:
    positions: int = demo_maker().N_POSITIONS
    file = tmp_path / "prompts"
    file.write_text("the dog\n" + "the " * positions + "\nthe cat\n", encoding="utf-8")
    result = invoke("generate", *model, file, "--greedy")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert f"where: {file}, line 2\n" in result.stderr
    assert f"at most {positions}" in result.stderr
    both = invoke("generate", *model, "--greedy", "--format", "jsonl", "--prompt", "the\ndog")
    assert json.loads(both.stdout)["prompt"] == "the\ndog"
    result = invoke("generate", *model, "--prompt", "the " * positions)
    assert result.exit_code == 1
    assert "where: --prompt\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--greedy", "--num-beams", "2"), "either --greedy or --num-beams"),
        (("--cuda-graphs",), "--cuda-graphs requires --device cuda"),
        (("--greedy", "--seed", "2"), "--seed: only with sampling; found --greedy"),
        (("--num-beams", "2", "--seed", "2"), "--seed: only with sampling; found --num-beams"),
        (("--prompt", "the\ndog"), "--prompt contains a line feed"),
        (("--greedy", "--top-k", "2"), "--top-k: only with sampling; found --greedy"),
        (("--num-beams", "2", "--temperature", "2"), "--temperature: only with sampling"),
        (("--num-beams", "2", "--num-return-sequences", "3"), "at most 2"),
        (("--greedy", "--num-return-sequences", "2"), "at most 1"),
        (("--stream", "--format", "jsonl"), "--stream"),
        (("--stream", "--num-beams", "2"), "--stream"),
        (("--max-new-tokens", "0"), "--max-new-tokens"),
        (("--seed", "-1"), "--seed"),
        ((__file__,), "either --prompt or FILE"),
    ],
    ids=str,
)
def test_wrong_usage(invoke: Invoke, model: tuple[str, ...], arguments: tuple[str, ...], said: str) -> None:
    result = invoke("generate", *model, "--prompt", "the", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    "arguments", [("--temperature", "0"), ("--top-p", "2"), ("--continuation-lang", "fr")], ids=str
)
def test_wrong_values(invoke: Invoke, model: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    result = invoke("generate", *model, "--prompt", "the", *arguments)
    assert result.exit_code == 1
    assert "found: " in result.stderr
    assert "Traceback" not in result.stderr


def test_words_are_joined_as_one_writes_them(tokenizer: XLMTokenizer) -> None:
    def pieces(text: str) -> list[int]:
        return tokenizer.encode(text, lang="en", add_special_tokens=False)

    continued = IncrementalDetokenizer(tokenizer, "The  Dog", pieces("The Dog"), lang="en")
    new = pieces("is , the gartocat . The")
    written = [continued.add(index) for index in new]
    assert [word for word in written if word] == [" is", ",", " the", " gartocat", ".", " The"]
    assert len(new) > 6
    assert continued.rest() == ""
    assert IncrementalDetokenizer(tokenizer, "", [], lang="en").whole(pieces("the cat .")) == "the cat."
    assert IncrementalDetokenizer(tokenizer, "The dog ", pieces("The dog"), lang="en").whole(pieces("is")) == "is"
    assert IncrementalDetokenizer(tokenizer, "The dog", pieces("The dog"), lang="en").whole([*pieces("."), 1]) == "."


def test_any_error_comes_after_the_prompts_before_it() -> None:
    def prompts() -> Iterator[Prompt]:
        yield Prompt(line=1, text="the", ids=[1, 14])
        raise LanguageError("no such language")

    until_error = UntilError(prompts())
    assert [prompt.line for prompt in until_error] == [1]
    with pytest.raises(LanguageError):
        until_error.raise_error()
