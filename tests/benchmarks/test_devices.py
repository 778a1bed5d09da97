"""What the benchmarks do on a GPU, run without one.

Oracles: a stand-in for ``torch.cuda`` that records its calls, tensors that only know their device, and the targets
themselves, which must hold for right outputs and not for wrong ones. What is measured on a GPU runs here on the CPU, as
``cpu:0``, which does not equal the default device ``cpu``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import forward, generation, hardware, scoring, worker
from benchmarks.__main__ import main
from benchmarks.forward import bench_forward, rounding_limit
from benchmarks.generation import bench_generate
from benchmarks.hardware import CPU, DeviceSetup, device_setup, matrix_peak, memory_bandwidth, timed
from benchmarks.models import SIZES
from benchmarks.report import Report, machine_facts
from benchmarks.scoring import bench_score
from xlm.errors import InputError
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

TINY = XLMConfig.clm_ende_1024(vocab_size=300, emb_dim=32, n_layers=2, n_heads=2)
CARD = torch.device("cuda:1")
LIKE_A_GPU = DeviceSetup(device=torch.device("cpu:0"), packed=False)
LOGPROBS = "xlm float32: log-probabilities of the tokens, largest difference from transformers float32, nats"
WAITED = [LIKE_A_GPU.device] * 2


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in SIZES:
        monkeypatch.setitem(SIZES, size, TINY)
    monkeypatch.setattr(forward, "T", 16)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were waited for; what the machine can do is not measured."""
    found: list[torch.device] = []
    monkeypatch.setattr(hardware, "synchronize", found.append)
    monkeypatch.setattr(forward, "has_matrix_units", lambda dtype, device: True)
    monkeypatch.setattr(forward, "matrix_peak", lambda dtype, device: {LIKE_A_GPU.device: 50.0}[device])
    monkeypatch.setattr(generation, "memory_bandwidth", lambda device: {LIKE_A_GPU.device: 20.0}[device])
    return found


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a card of which 3 MB are taken, and 7 MB were at one time since the last reset."""
    asked: list[str] = []
    peak = iter([3_000_000, 7_000_000])

    def answer(name: str, value: Callable[[], Any]) -> Callable[[torch.device], Any]:
        def ask(device: torch.device) -> Any:
            assert device == CARD
            asked.append(name)
            return value()

        return ask

    cuda = {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: next(peak),
        "get_device_name": lambda: "A Card",
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, answer(name, value))
    clock = iter([10.0, 12.5])

    def read() -> float:
        asked.append("clock")
        return next(clock)

    monkeypatch.setattr(time, "perf_counter", read)
    return asked


def _named(report: Report) -> dict[str, tuple[float, ...]]:
    return {figure.name: figure.values for figure in report.measurements}


def _limits(report: Report) -> dict[str, tuple[float, bool]]:
    return {target.name: (target.limit, target.at_least) for target in report.targets}


def test_time_ends_when_the_card_is_done(card: list[str]) -> None:
    def work() -> str:
        card.append("work")
        return "done"

    assert timed(work, CARD) == (2.5, "done")
    assert card == ["synchronize", "clock", "work", "synchronize", "clock"]


def test_memory_of_a_card_is_above_what_was_taken_before(card: list[str]) -> None:
    result, figures = worker._measure_on_gpu(lambda: card.append("work"), CARD)
    assert figures == {"seconds": 2.5, "peak_mb": 4.0}
    before, after = card[: card.index("work")], card[card.index("work") :]
    assert before == ["reset_peak_memory_stats", "max_memory_allocated", "synchronize", "clock"]
    assert after == ["work", "synchronize", "clock", "max_memory_allocated"]
    assert result is None


def test_a_cpu_is_not_waited_for(card: list[str]) -> None:
    assert timed(lambda: "done") == (2.5, "done")
    assert card == ["clock", "clock"]


def test_the_report_names_the_card(card: list[str]) -> None:
    assert machine_facts(("torch",), device=CARD)["card"].startswith("A Card, CUDA ")
    assert "card" not in machine_facts(("torch",), device=CPU.device)
    assert card == ["get_device_name"]


def test_limits_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Had each taken half a second: two operations a product of numbers, four bytes a number."""
    results: list[Tensor] = []

    def half_a_second(work: Callable[[], Tensor], device: torch.device) -> float:
        assert device == CARD
        results.append(work())
        return 0.5

    monkeypatch.setattr(hardware, "fastest", half_a_second)
    with FakeTensorMode():
        assert matrix_peak(torch.bfloat16, CARD) == pytest.approx(2 * 8192**3 / 0.5 / 1e9)
        assert memory_bandwidth(CARD) == pytest.approx(2**30 / 0.5 / 1e9)
    assert [(tuple(result.shape), result.dtype) for result in results] == [
        ((8192, 8192), torch.bfloat16),
        ((), torch.float32),
    ]
    assert {result.device for result in results} == {CARD}


@pytest.mark.parametrize("against", ["transformers", None])
def test_forward(against: str | None, waits: list[torch.device], tmp_path: Path) -> None:
    if against:
        pytest.importorskip("transformers")
    report = bench_forward(tmp_path, size="published", rounds=2, against=against, setup=LIKE_A_GPU)
    assert waits == WAITED * 3 * (2 if against else 1)
    figures = _named(report)
    assert figures["matrix product, bfloat16"] == (50.0, 50.0)
    speed = figures["xlm bfloat16, speed"]
    assert figures["xlm / matrix product, bfloat16"] == tuple(value / 50 for value in speed)
    alone = {"xlm bfloat16", "matrix product, bfloat16", "xlm bfloat16, speed", "xlm / matrix product, bfloat16"}
    error = "logits, error beside transformers float32"
    if against is None:
        assert report.targets == ()
        assert set(figures) == alone
        return
    assert set(figures) == alone | {
        "transformers bfloat16",
        "xlm bfloat16 / transformers bfloat16, speed",
        f"transformers bfloat16: {error}",
    }
    times = zip(figures["transformers bfloat16"], figures["xlm bfloat16"], strict=True)
    assert figures["xlm bfloat16 / transformers bfloat16, speed"] == tuple(theirs / ours for theirs, ours in times)
    assert 1e-4 < figures[f"transformers bfloat16: {error}"][0] < rounding_limit(TINY)
    assert _limits(report) == {
        "xlm float32: logits, largest difference from transformers float32": (1e-5, False),
        f"xlm bfloat16: {error}": (rounding_limit(TINY), False),
    }
    assert all(target.holds for target in report.targets)
    assert report.targets[1].value > 1e-4  # it was bfloat16


def test_other_logits_are_seen(waits: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 and in float32, of a model that takes every text for one in another language."""
    pytest.importorskip("transformers")
    right = XLMWithLMHeadModel.forward

    def astray(model: XLMWithLMHeadModel, input_ids: Tensor, *, langs: Tensor) -> Any:
        return right(model, input_ids, langs=1 - langs)

    monkeypatch.setattr(XLMWithLMHeadModel, "forward", astray)
    report = bench_forward(tmp_path, size="small", rounds=1, against="transformers", setup=LIKE_A_GPU)
    assert [target.holds for target in report.targets] == [False, False]


@pytest.mark.parametrize("units", [True, False])
def test_products_that_a_processor_has_no_units_for_are_no_limit(
    units: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[torch.dtype] = []

    def remember(dtype: torch.dtype, device: torch.device) -> float:
        asked.append(dtype)
        return 50.0

    monkeypatch.setattr(forward, "matrix_peak", remember)
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: units)
    report = bench_forward(tmp_path, size="published", rounds=1, against=None)
    assert ("matrix product, bfloat16" in _named(report)) is units
    assert ("xlm / matrix product, bfloat16" in _limits(report)) is units
    assert (torch.bfloat16 in asked) is units
    assert ("bfloat16" in report.machine) is not units
    assert _limits(report)["xlm / matrix product, float32"] == (0.9, True)
    assert {"xlm bfloat16", "xlm bfloat16, speed"} <= set(_named(report))


@pytest.mark.parametrize("rows", [1, 32])
def test_generate(rows: int, waits: list[torch.device], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = bench_generate(
        tmp_path, size="published", rounds=2, against="transformers", rows=rows, new_tokens=3, setup=LIKE_A_GPU
    )
    assert waits == WAITED * 3 * 2
    figures, case = _named(report), f"xlm bfloat16, {rows} row{'s' * (rows > 1)}"
    assert set(figures) == {case, "transformers bfloat16", "reading memory", f"{case}, share of reading its weights"}
    # Each step reads all weights but the positions' once, two bytes each, for all rows.
    weights = 2 * (sum(p.numel() for p in XLMWithLMHeadModel(TINY).parameters()) - 512 * 32)
    shares = [speed / rows * weights / 20e9 for speed in figures[case]]
    assert figures[f"{case}, share of reading its weights"] == pytest.approx(shares)
    said = f"of {3 * rows} tokens, those that transformers would not have chosen"
    assert _limits(report) == {
        f"{case} / transformers bfloat16": (10, True),
        f"xlm bfloat16: {said}": (0, False),
        f"xlm float32: {said}": (0, False),
        LOGPROBS: (1e-4, False),
    }
    assert all(target.holds for target in report.targets[1:])


def test_other_tokens_are_seen(waits: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    ours = generation._generate

    def astray(*given: Any, **options: Any) -> Tensor:
        monkeypatch.setattr(generation, "_LANGUAGE", 0)
        result = ours(*given, **options)
        monkeypatch.setattr(generation, "_LANGUAGE", 1)
        return result

    monkeypatch.setattr(generation, "_generate", astray)
    report = bench_generate(
        tmp_path, size="small", rounds=1, against="transformers", rows=1, new_tokens=8, setup=LIKE_A_GPU
    )
    assert [target.holds for target in report.targets if target.name != LOGPROBS] == [False, False]


def test_a_wrong_cache_is_seen(waits: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that does not see its own token chooses the same ones, but with other log-probabilities."""
    pytest.importorskip("transformers")
    write = XLMCache.write

    def hidden(cache: XLMCache, layer: int, key_BNTH: Tensor, value_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        keys_BNSH, values_BNSH = write(cache, layer, key_BNTH, value_BNTH)
        seen = slice(-1 if key_BNTH.shape[2] == 1 else None)
        return keys_BNSH[:, :, seen], values_BNSH[:, :, seen]

    monkeypatch.setattr(XLMCache, "write", hidden)
    report = bench_generate(
        tmp_path, size="small", rounds=1, against="transformers", rows=1, new_tokens=8, setup=LIKE_A_GPU
    )
    assert [target.name for target in report.targets if not target.holds] == [LOGPROBS]


def test_a_gpu_is_timed_with_graphs_and_without() -> None:
    cases = generation.cases_for(DeviceSetup(device=CARD, packed=False), 32)
    assert [case.name for case in cases] == ["xlm bfloat16, 32 rows", "xlm bfloat16, 32 rows, CUDA graphs"]
    assert [case.cuda_graphs for case in cases] == [False, True]
    assert len({case.kind for case in cases}) == 2
    assert {case.at_least for case in cases} == {10}


def test_near_ties_may_change_places() -> None:
    """Ids 14 to 16 have logits 1, 1 - 2 ** -5 and 0.5, whatever stands before."""

    def peer(input_ids: Tensor, langs: Tensor) -> SimpleNamespace:
        logits_V = torch.cat([torch.full((14,), 9.0), torch.tensor([1.0, 1 - 2**-5, 0.5])])
        return SimpleNamespace(logits=logits_V.expand(1, input_ids.shape[1], -1).clone())

    ids_BT = torch.tensor([[1, 20, 14, 15, 16, 15], [1, 14, 14, 16, 15, 2]])
    for near_tie, differing in ((1e-3, 3 + 2), (0.125, 1 + 1), (0.75, 0)):
        found = generation._count_differing(peer, ids_BT, torch.tensor([2, 1]), 4, near_tie=near_tie)
        assert found == differing


@pytest.fixture
def scored(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Scores, as on a GPU and in this process."""
    pytest.importorskip("transformers")

    def score(change: Callable[[Tensor], Tensor] = lambda x: x) -> Report:
        def in_this_process(kind: str, *arguments: str) -> dict[str, float]:
            assert kind == "score"
            assert arguments[-2:] == ("cpu:0", "plain")
            with warnings.catch_warnings():  # of which the process that is measured shows none
                figures = worker._score(*arguments)
            if arguments[1:3] == ("xlm", "bfloat16"):
                logprobs = load_file(arguments[4])["logprobs"]
                save_file({"logprobs": change(logprobs).contiguous()}, arguments[4])
            return {**figures, "peak_mb": {"xlm": 10.0, "transformers": 20.0}[arguments[1]]}

        monkeypatch.setattr(scoring, "measure", in_this_process)
        return bench_score(
            tmp_path,
            size="published",
            rounds=2,
            against="transformers",
            model=demo,
            texts=[demo / "lines"],
            lines=12,
            setup=LIKE_A_GPU,
        )

    return score


def test_score(scored: Callable[..., Report]) -> None:
    report = scored()
    figures, said = _named(report), "log-probabilities, largest difference from transformers float32, nats"
    assert {name: len(values) for name, values in figures.items()} == {
        "xlm bfloat16, time": 2,
        "transformers bfloat16, time": 2,
        "xlm bfloat16, peak memory above the weights": 2,
        "transformers bfloat16, peak memory above the weights": 2,
        f"transformers bfloat16: {said}": 1,
    }
    assert _limits(report) == {
        f"xlm bfloat16: {said}": (0.25, False),
        f"xlm float32: {said}": (1e-4, False),
        "xlm bfloat16 / transformers bfloat16, speed": (2, True),
    }
    assert [target.holds for target in report.targets[:2]] == [True, True]
    assert report.targets[0].value > 1e-4  # it was bfloat16


def test_other_log_probabilities_are_seen(scored: Callable[..., Report]) -> None:
    report = scored(lambda logprobs_N: logprobs_N.roll(1))
    assert [target.holds for target in report.targets[:2]] == [False, True]


def test_device_setups() -> None:
    assert device_setup("cpu") is CPU
    with FakeTensorMode():
        assert device_setup("cuda:1") == DeviceSetup(device=CARD, packed=False)
    for nothing in ("meta", "nowhere", "cuda:99"):
        with pytest.raises(InputError, match="No such device"):
            device_setup(nothing)


@pytest.mark.parametrize("kind", ["forward", "score", "generate"])
def test_a_device_that_is_not_there_is_told_before_the_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_REFERENCE", "/nowhere")
    result = CliRunner().invoke(main, [kind, "--device", "cuda:99"])
    assert result.exit_code == 1
    assert "No such device" in result.stderr
    assert "cuda:99" in result.stderr
    assert "--device" in CliRunner().invoke(main, [kind, "--help"]).stdout
