"""Make a small checkpoint in the original's format, with random weights, and its BPE codes.

    python scripts/make_demo_checkpoint.py DIRECTORY [--seed N] [--positions N]

writes ``demo.pth``, ``codes`` and ``vocab``. The vocabulary covers a few English and German sentences; the weights are
random, so the model's output is meaningless. The script follows the original's ``trainer.py`` and ``dictionary.py`` and
does not use this library, so that this library's readers cannot share its mistakes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

SENTENCES = (
    "The small dog is sleeping on the grass .",
    "A small cat is sleeping on the mat .",
    "The dog and the cat are playing in the garden .",
    "A woman reads a book , and the children are listening .",
    "Der kleine Hund schläft auf der Wiese .",
    "Eine kleine Katze schläft auf der Matte .",
    "Der Hund und die Katze spielen im Garten .",
    "Eine Frau liest ein Buch , und die Kinder hören zu .",
)
LANGUAGES = ("de", "en")
SPECIAL_WORDS = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)))
EMB_DIM, N_LAYERS, N_HEADS = 32, 2, 4
N_POSITIONS = 64
"""Few, so that short texts of tests already exceed them."""
POSITIONS_OF_THE_ORIGINAL = 512
"""Fixed in the original's code, which loads no file with another number."""

Merge = tuple[str, str]


def learn_codes(words: Counter[str], merges: int) -> list[tuple[Merge, int]]:
    """Return the most frequent pairs of adjacent symbols with counts; each is merged before the next is counted."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    codes: list[tuple[Merge, int]] = []
    for _ in range(merges):
        pairs: Counter[Merge] = Counter()
        for word, symbols in pieces.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        # Equal counts are sorted alphabetically, so that the files are the same on every machine.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        codes.append((best, pairs[best]))
        pieces = {word: merge(symbols, best) for word, symbols in pieces.items()}
    return codes


def merge(symbols: list[str], pair: Merge) -> list[str]:
    """Return the symbols of a word with each occurrence of a pair merged, from the left."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def split(word: str, codes: list[tuple[Merge, int]]) -> list[str]:
    """Return the pieces of a word in the notation of the original: all but the last end in ``@@``."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    for pair, _ in codes:
        symbols = merge(symbols, pair)
    return [*(f"{symbol}@@" for symbol in symbols[:-1]), symbols[-1].removesuffix("</w>")]


def count_vocabulary(words: Counter[str], codes: list[tuple[Merge, int]]) -> Counter[str]:
    """Return the pieces of all words with their counts; each letter is included, so that any word has pieces."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in split(word, codes):
            counts[piece] += count
    for letter in sorted({letter for word in words for letter in word}):
        counts.update((letter, f"{letter}@@"))
    return counts


def random_weights(n_words: int, positions: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the tensors of the original's ``TransformerModel``, with the output projection tied to the embeddings."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(EMB_DIM**-0.5)

    def linear(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": normal(rows, columns), f"{name}.bias": normal(rows)}

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(EMB_DIM), f"{name}.bias": torch.zeros(EMB_DIM)}

    weights = {
        "position_embeddings.weight": normal(positions, EMB_DIM),
        "lang_embeddings.weight": normal(len(LANGUAGES), EMB_DIM),
        "embeddings.weight": normal(n_words, EMB_DIM),
        **norm("layer_norm_emb"),
    }
    weights["embeddings.weight"][SPECIAL_WORDS.index("<pad>")] = 0
    for layer in range(N_LAYERS):
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            weights |= linear(f"attentions.{layer}.{name}", EMB_DIM, EMB_DIM)
    for layer in range(N_LAYERS):
        weights |= norm(f"layer_norm1.{layer}")
    for layer in range(N_LAYERS):
        weights |= linear(f"ffns.{layer}.lin1", 4 * EMB_DIM, EMB_DIM)
        weights |= linear(f"ffns.{layer}.lin2", EMB_DIM, 4 * EMB_DIM)
    for layer in range(N_LAYERS):
        weights |= norm(f"layer_norm2.{layer}")
    weights["pred_layer.proj.weight"] = weights["embeddings.weight"]
    weights["pred_layer.proj.bias"] = normal(n_words)
    return weights


def make_checkpoint(counts: list[tuple[str, int]], seed: int, positions: int) -> dict[str, Any]:
    """Return the contents of a checkpoint as in the original's ``Trainer.save_checkpoint``."""
    words = [(word, 0) for word in SPECIAL_WORDS] + counts
    lang2id = {lang: index for index, lang in enumerate(LANGUAGES)}
    return {
        "epoch": 0,
        "n_total_iter": 0,
        "best_metrics": {"valid_clm_ppl": np.float64(len(words))},
        "best_stopping_criterion": np.float64(len(words)),
        "model": random_weights(len(words), positions, torch.Generator().manual_seed(seed)),
        "dico_id2word": {index: word for index, (word, _) in enumerate(words)},
        "dico_word2id": {word: index for index, (word, _) in enumerate(words)},
        "dico_counts": dict(words),
        "params": {
            "exp_name": "demo",
            "encoder_only": True,
            "emb_dim": EMB_DIM,
            "n_layers": N_LAYERS,
            "n_heads": N_HEADS,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "gelu_activation": True,
            "share_inout_emb": True,
            "sinusoidal_embeddings": False,
            "use_lang_emb": True,
            "use_memory": False,
            "asm": False,
            "context_size": 0,
            "lgs": "-".join(LANGUAGES),
            "bptt": N_POSITIONS,
            "clm_steps": [(lang, None) for lang in LANGUAGES],
            "mlm_steps": [],
            "langs": list(LANGUAGES),
            "id2lang": {index: lang for lang, index in lang2id.items()},
            "lang2id": lang2id,
            "n_langs": len(LANGUAGES),
            "n_words": len(words),
            "bos_index": 0,
            "eos_index": 1,
            "pad_index": 2,
            "unk_index": 3,
            "mask_index": 5,
            "pred_probs": torch.tensor([0.8, 0.1, 0.1]),
            "mask_scores": np.array([0.0] * len(SPECIAL_WORDS) + [1.0] * len(counts)),
        },
    }


def write_files(directory: Path, seed: int = 0, *, positions: int = POSITIONS_OF_THE_ORIGINAL) -> dict[str, Any]:
    """Write ``demo.pth``, ``codes`` and ``vocab`` to a directory, and return the contents of ``demo.pth``."""
    words = Counter(word for sentence in SENTENCES for word in sentence.split())
    codes = learn_codes(words, merges=60)
    counts = count_vocabulary(words, codes)
    vocabulary = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{left} {right} {count}\n" for (left, right), count in codes]
    (directory / "codes").write_text("".join(lines), encoding="utf-8")
    lines = [f"{word} {count}\n" for word, count in vocabulary]
    (directory / "vocab").write_text("".join(lines), encoding="utf-8")
    checkpoint = make_checkpoint(vocabulary, seed, positions)
    torch.save(checkpoint, directory / "demo.pth")
    return checkpoint


def main() -> None:
    """Write the files, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--positions", type=int, default=POSITIONS_OF_THE_ORIGINAL)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    words = write_files(arguments.directory, arguments.seed, positions=arguments.positions)["dico_id2word"]
    print(f"demo.pth: {len(words)} words, width {EMB_DIM}, {N_LAYERS} layers, random weights")


if __name__ == "__main__":
    main()
