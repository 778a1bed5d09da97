"""Results of a benchmark with the machine they depend on; as a table, as JSON and as a picture."""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from xlm._io.atomic import replacing, write_text
from xlm._io.dependencies import needing
from xlm._version import __version__

if TYPE_CHECKING:
    import torch

_INCHES_PER_BAR, _INCHES_PER_AXES = 0.5, 0.7
_LABEL_WIDTH = 44  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One quantity, measured once a round.

    Attributes:
        name: What was measured.
        unit: Unit of the values.
        values: One value a round.
    """

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.3g} {self.unit} ({min(self.values):.3g} to {max(self.values):.3g})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A value, often a ratio, and the limit that it should keep to.

    Attributes:
        name: What the value is.
        value: For a ratio, the median over the rounds.
        limit: The largest allowed value, or the smallest.
        at_least: Whether the limit is the smallest allowed value.
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
class Report:
    """Result of a benchmark.

    Attributes:
        title: What was run, and on which sizes.
        machine: Processor, threads and versions.
        measurements: What was measured.
        targets: What was checked.
        command: The command line, if there was one.
    """

    title: str
    machine: Mapping[str, str]
    measurements: tuple[Measurement, ...]
    targets: tuple[Target, ...]
    command: str | None = None

    def __str__(self) -> str:
        names = [measurement.name for measurement in self.measurements] + [target.name for target in self.targets]
        width = max(map(len, names))
        lines = [self.title, *(f"  {key}: {value}" for key, value in self.machine.items())]
        lines += [f"  {measurement.name:<{width}}  {measurement}" for measurement in self.measurements]
        for target in self.targets:
            verdict = "holds" if target.holds else "MISSED"
            side = "at least" if target.at_least else "at most"
            lines.append(f"  {target.name:<{width}}  {target.value:.3g} ({side} {target.limit:g}: {verdict})")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write everything as JSON, with ``holds`` for each target, under the keys of the files in docs/benchmarks.

        Raises:
            WriteError: The file could not be written.
        """
        content = {
            "title": self.title,
            "machine": dict(self.machine),
            "figures": [asdict(measurement) for measurement in self.measurements],
            "bars": [{**asdict(target), "holds": target.holds} for target in self.targets],
            "command": self.command,
        }
        write_text(path, json.dumps(content, indent=2) + "\n")

    def plot(self, path: Path) -> None:
        """Draw the medians as bars with the spread over the rounds, one group a unit, without zeros.

        Args:
            path: The PNG file.

        Raises:
            DependencyError: matplotlib is not installed.
            WriteError: The file could not be written.
        """
        with needing("matplotlib is not installed", where="--plot", install="'xlm[plot]'"):
            from matplotlib.figure import Figure
        groups: dict[str, list[Measurement]] = {}
        for measurement in self.measurements:
            if measurement.median > 0:
                groups.setdefault(measurement.unit, []).append(measurement)
        heights = [_INCHES_PER_BAR * len(group) + _INCHES_PER_AXES for group in groups.values()]
        figure = Figure(figsize=(10, sum(heights) + 1.2), layout="constrained")
        figure.suptitle(self.title, fontsize=12, fontweight="bold")
        all_axes = figure.subplots(len(groups), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, (unit, group) in zip(all_axes, groups.items(), strict=True):
            medians = [measurement.median for measurement in group]
            below = [measurement.median - min(measurement.values) for measurement in group]
            above = [max(measurement.values) - measurement.median for measurement in group]
            colours = ["#1f6feb" if measurement.name.startswith("xlm") else "#9aa4af" for measurement in group]
            labels = [textwrap.fill(measurement.name, _LABEL_WIDTH) for measurement in group]
            bars = axes.barh(labels, medians, xerr=(below, above), color=colours, capsize=3)
            axes.bar_label(bars, labels=[f"{median:.3g} {unit}" for median in medians], padding=6)
            axes.invert_yaxis()
            axes.margins(x=0.35)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
            axes.xaxis.set_visible(False)
        figure.supxlabel("\n".join(f"{key}: {value}" for key, value in self.machine.items()), fontsize=8)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120)
        with replacing(path) as temporary:
            temporary.write_bytes(image.getvalue())


def machine_facts(packages: Sequence[str], *, device: torch.device | None = None) -> dict[str, str]:
    """Return what a result depends on besides the code: processor, GPU, threads, versions.

    Args:
        packages: Packages whose versions are named, if installed.
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


def ratio_of_rounds(numerator: Measurement, denominator: Measurement) -> float:
    """Return the median ratio of values from the same round, which is free of the machine's drift over time."""
    return statistics.median(quotients(numerator, denominator))


def quotients(numerator: Measurement, denominator: Measurement) -> tuple[float, ...]:
    """Return the ratios of values from the same round."""
    return tuple(a / b for a, b in zip(numerator.values, denominator.values, strict=True))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
