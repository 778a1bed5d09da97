"""Compare the two runs of ``train_small_unmt``, and write curves, scores and samples.

    python scripts/compare_unmt_runs.py WORK --output DIRECTORY

WORK is the working directory of ``train_small_unmt``: the runs ``from-clm`` and ``from-random``, the raw pairs of the
split ``test``, and the translations of its two sides (``from-clm.de-en.txt``). The script writes to DIRECTORY

    bleu.png      BLEU of each run and direction on ``valid`` against the number of updates
    scores.json   BLEU on ``test`` of both runs and of copying the source, by sacrebleu on raw text
    samples.tsv   sources, references and the translations of both runs, for every 160th pair

and prints the scores as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from xlm._io.atomic import replacing, write_text
from xlm.corpus.tables import tsv_line
from xlm.training.log import Event, read_log
from xlm.translation.bleu import corpus_bleu

RUNS = {"from-clm": "from the language model", "from-random": "from random weights"}
DIRECTIONS = ("de-en", "en-de")
SAMPLE_EVERY = 160


def draw(events: dict[str, list[Event]], path: Path) -> None:
    """Draw BLEU on the split ``valid`` of each run and direction."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    for run, color in zip(RUNS, ("tab:blue", "tab:orange"), strict=True):
        evaluations = [event for event in events[run] if event["event"] == "evaluation"]
        for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
            steps = [event["updates"] for event in evaluations]
            scores = [event["bleu"][direction] for event in evaluations]
            axes.plot(steps, scores, style, color=color, marker="o", markersize=3, label=f"{direction}, {RUNS[run]}")
    axes.set_xlabel("updates")
    axes.set_ylabel("BLEU on valid, greedy search")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text."""
    return path.read_text("utf-8").splitlines()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write the files and print the scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    parsed = parser.parse_args(arguments)
    events = {run: list(read_log(parsed.work / run)) for run in RUNS}
    draw(events, parsed.output / "bleu.png")

    scores: dict[str, dict[str, float]] = {name: {} for name in ("copying the source", *RUNS)}
    samples = []
    for direction in DIRECTIONS:
        source, reference = (lines_of(parsed.work / f"test.{lang}.txt") for lang in direction.split("-"))
        translations = {run: lines_of(parsed.work / f"{run}.{direction}.txt") for run in RUNS}
        for name, texts in {"copying the source": source, **translations}.items():
            bleu = corpus_bleu(texts, reference)
            scores[name][direction] = round(bleu.score, 2)
        for row in range(0, len(source), SAMPLE_EVERY):
            found = {run: texts[row] for run, texts in translations.items()}
            samples.append({"direction": direction, "source": source[row], "reference": reference[row], **found})
    updates = {run: max(event["updates"] for event in events[run] if "updates" in event) for run in RUNS}
    result = {"signature": bleu.signature, "updates": updates, "test": scores}
    write_text(parsed.output / "scores.json", json.dumps(result, indent=1) + "\n")
    rows = [tsv_line(samples[0]), *(tsv_line(sample.values()) for sample in samples)]
    write_text(parsed.output / "samples.tsv", "".join(rows))

    print("| BLEU on test |", *(f"{direction} |" for direction in DIRECTIONS))
    print("| --- |", *("--- |" for _ in DIRECTIONS))
    for name, by_direction in scores.items():
        print(f"| {RUNS.get(name, name)} |", *(f"{by_direction[direction]:.1f} |" for direction in DIRECTIONS))


if __name__ == "__main__":
    main()
