"""Figures of a benchmark, with what they were taken on; as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from xlm._atomic import write_text
from xlm._version import __version__

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured quantity over all rounds.

    Attributes:
        name: What was measured.
        unit: Of the values.
        values: One a round.
    """

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.3g} {self.unit} ({min(self.values):.3g} to {max(self.values):.3g})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A ratio that should stay on one side of a limit.

    Attributes:
        name: What is divided by what.
        value: Median of the rounds' ratios.
        limit: The largest that is allowed, or the smallest.
        at_least: Whether the limit is the smallest.
    """

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of the limit; NaN never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """A benchmark's result.

    Attributes:
        title: What was run, on which sizes.
        machine: Device, threads, versions.
        figures: What was measured.
        bars: What it is held against.
        command: What was typed, where it came from a command line.
    """

    title: str
    machine: Mapping[str, str]
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...]
    command: str | None = None

    def __str__(self) -> str:
        width = max(len(name) for name in [f.name for f in self.figures] + [bar.name for bar in self.bars])
        lines = [self.title, *(f"  {key}: {value}" for key, value in self.machine.items())]
        lines += [f"  {figure.name:<{width}}  {figure}" for figure in self.figures]
        for bar in self.bars:
            verdict = "holds" if bar.holds else "MISSED"
            side = "at least" if bar.at_least else "at most"
            lines.append(f"  {bar.name:<{width}}  {bar.value:.3g} ({side} {bar.limit:g}: {verdict})")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Writes everything as JSON, each bar with whether it ``holds``.

        Raises:
            WriteError: The file could not be written.
        """
        bars = [{**asdict(bar), "holds": bar.holds} for bar in self.bars]
        write_text(path, json.dumps({**asdict(self), "bars": bars}, indent=2) + "\n")


def machine_facts(packages: Sequence[str], *, device: torch.device | None = None) -> dict[str, str]:
    """What a figure depends on besides the code: processor, card, threads, versions.

    Args:
        packages: Whose versions to name, where installed.
        device: Where models computed; a GPU is named too.
    """
    versions = [f"xlm {__version__}", f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    facts = {
        "device": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": ", ".join(versions),
    }
    if "torch" in packages:
        import torch

        facts["threads"] = f"{torch.get_num_threads()}, {torch.backends.cpu.get_cpu_capability()}"
        if device is not None and device.type == "cuda":
            facts["card"] = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return facts


def ratio_of_rounds(numerator: Figure, denominator: Figure) -> float:
    """Median of the ratios of values that were taken in the same round, which a machine's drift leaves alone."""
    return statistics.median(quotients(numerator, denominator))


def quotients(numerator: Figure, denominator: Figure) -> tuple[float, ...]:
    """The ratios of values that were taken in the same round."""
    return tuple(a / b for a, b in zip(numerator.values, denominator.values, strict=True))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
