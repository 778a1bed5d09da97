"""Hooks for mkdocs: insert the tables of the benchmarks, from the committed JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PLACE = "<!-- benchmarks -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark of a page by the tables."""
    return markdown.replace(_PLACE, tables(Path(__file__).resolve().parent.parent / "docs" / "benchmarks"))


def tables(directory: Path) -> str:
    """Return a section with a table for each JSON file of ``python -m benchmarks``."""
    return "\n\n".join(_table(json.loads(path.read_text("utf-8")), path) for path in sorted(directory.glob("*.json")))


def _table(report: dict[str, Any], path: Path) -> str:
    lines = [f"## {path.stem}", "", f"{report['title']}; `docs/benchmarks/{path.name}`", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "| measured | median | least | most | unit |", "| --- | ---: | ---: | ---: | --- |"]
    for figure in report["figures"]:
        values = sorted(figure["values"])
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        shown = " | ".join(f"{value:.3g}" for value in (middle, values[0], values[-1]))
        lines.append(f"| {figure['name']} | {shown} | {figure['unit']} |")
    if report["bars"]:
        lines += ["", "| ratio | value | limit | |", "| --- | ---: | ---: | --- |"]
    for bar in report["bars"]:
        at_least = bar.get("at_least", False)
        holds = bar["value"] >= bar["limit"] if at_least else bar["value"] <= bar["limit"]
        limit = f"at {'least' if at_least else 'most'} {bar['limit']:g}"
        lines.append(f"| {bar['name']} | {bar['value']:.3g} | {limit} | {'holds' if holds else 'missed'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(Path(__file__).resolve().parent.parent / "docs" / "benchmarks"))
