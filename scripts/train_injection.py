"""Trains what the injection plugin ships of data: the linear model and the lexicon.

    python scripts/train_injection.py FOLDER [--only lexicon|model]

FOLDER holds train.jsonl and dev.jsonl: rows `{"text", "label" (1 attack, 0 benign), "set", "subset"}`. Writes
learned.json and lexicon.txt beside the plugin. The same data give the same files, bit for bit: no random number
is drawn, and sums are made in one order. Needs numpy (comes with the extra `pii`); takes half a minute. The lexicon comes
first: the model is made of its words.

What is left out and why: attacks inside documents (the document is honest text, a window of it would be labelled
wrongly) and bare goals such as "send 100 EUR to" (honest mail says the same).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from injection_honest import sentences

from llmshield_plugins.injection import learned, signatures

HOME = Path(learned.__file__).parent
# Sets that make honest texts most like attacks: role play, talk about attacks, ready-made prompts.
NEAR = {"prompts_chat", "prompts_zh", "secdocs_train", "jackhhao_train", "honest"}
# Their licence asks for attribution of what is made from them; nothing here needs them enough.
LEFT_OUT = {"clinc150", "banking77", "mgsm", "btc_tweets"}
SHORT = "a i an am as at be by do go he if in is it me my no of on or so to up us we ai hi ok"
L1, L2, ROUNDS = 1e-6, 1e-4, 150
MAX_WINDOWS = 12  # of one text, so that books do not outvote the rest
# The share of honest texts above a point, as the mean over the sets of dev.jsonl.
FLAG_SHARE, BLOCK_SHARE = 0.010, 0.002

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def usable(row: Row) -> bool:
    """Whether a row is trained on."""
    if row["set"] in LEFT_OUT:
        return False
    return not row["label"] or (row["set"] != "agentdojo" and not str(row.get("subset")).startswith("doc"))


class Matrix:
    """The windows of some rows as a sparse matrix of n-grams."""

    def __init__(self, rows: list[Row]) -> None:
        self.grams: list[set[bytes]] = []
        labels: list[int] = []
        self.sets: list[str] = []
        self.rows: list[int] = []
        for number, row in enumerate(rows):
            for count, (_, window) in enumerate(learned.windows(learned.words(row["text"]))):
                if count == MAX_WINDOWS:
                    break
                self.grams.append(learned.ngrams(window))
                labels.append(row["label"])
                self.sets.append(row["set"])
                self.rows.append(number)
        self.labels = np.array(labels, dtype=np.float64)
        counts: Counter[bytes] = Counter()
        sets: dict[bytes, set[str]] = defaultdict(set)
        for grams, name in zip(self.grams, self.sets, strict=True):
            for gram in grams:
                counts[gram] += 1
                sets[gram].add(name)
        # What occurs in one set only names that set, not attacks. Attacks in languages of which training has no
        # honest text would teach it the language: hence English words only, and no
        # single letters, of which noise and code are full.
        english = {word for word in (HOME / "lexicon.txt").read_bytes().split() if len(word) > 1}
        self.vocabulary = sorted(
            g
            for g, n in counts.items()
            if n >= 4 and (len(sets[g]) >= 2 or n >= 30) and english.issuperset(g.split())
        )
        index = {gram: number for number, gram in enumerate(self.vocabulary)}
        pairs = [
            (number, index[gram])
            for number, grams in enumerate(self.grams)
            for gram in sorted(grams)
            if gram in index
        ]
        self.row, self.column = (np.array(part) for part in zip(*pairs, strict=True))

    def scores(self, weights: np.ndarray, bias: float) -> np.ndarray:
        """The model's value for each window."""
        return np.bincount(self.row, weights=weights[self.column], minlength=len(self.grams)) + bias


def balanced(matrix: Matrix, dropped: np.ndarray) -> np.ndarray:
    """The weight of each window: big sets count less than their size, both labels the same in sum."""
    sizes = Counter(zip(matrix.sets, matrix.labels, strict=True))
    share = np.array([1 / math.sqrt(sizes[key]) for key in zip(matrix.sets, matrix.labels, strict=True)])
    near = np.array([name in NEAR for name in matrix.sets]) & (matrix.labels == 0)
    share[near] *= 3
    share[dropped] = 0
    for label in (0, 1):
        share[matrix.labels == label] *= 0.5 / share[matrix.labels == label].sum()
    return share


def fit(matrix: Matrix, share: np.ndarray, weights: np.ndarray, bias: float) -> tuple[np.ndarray, float]:
    """Logistic regression with L1 and L2, by accelerated proximal gradient with a step per n-gram."""
    size = len(matrix.vocabulary)
    curve = np.bincount(matrix.column, weights=share[matrix.row] * 0.25, minlength=size) * 30 + L2 + 1e-7
    bias_curve = share.sum() * 0.5
    look, look_bias, momentum = weights.copy(), bias, 1.0
    for _ in range(ROUNDS):
        chance = 1 / (1 + np.exp(-matrix.scores(look, look_bias)))
        error = (chance - matrix.labels) * share
        slope = np.bincount(matrix.column, weights=error[matrix.row], minlength=size) + L2 * look
        new = look - slope / curve
        new = np.sign(new) * np.maximum(np.abs(new) - L1 / curve, 0)
        new_bias = look_bias - error.sum() / bias_curve
        next_momentum = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
        ahead = (momentum - 1) / next_momentum
        look, look_bias = new + ahead * (new - weights), new_bias + ahead * (new_bias - bias)
        weights, bias, momentum = new, float(new_bias), next_momentum
    return weights, bias


def train(rows: list[Row]) -> dict[str, Any]:
    """The model, before its points are set."""
    matrix = Matrix([row for row in rows if usable(row)])
    none = np.zeros(len(matrix.grams), dtype=bool)
    weights, bias = fit(matrix, balanced(matrix, none), np.zeros(len(matrix.vocabulary)), 0.0)
    # Of a long attack not every window is one: those that the first model finds harmless are dropped.
    values = matrix.scores(weights, bias)
    best: dict[int, float] = defaultdict(lambda: -math.inf)
    for number, value in zip(matrix.rows, values, strict=True):
        best[number] = max(best[number], value)
    harmless = np.array([v < 0.5 and v < best[n] for n, v in zip(matrix.rows, values, strict=True)])
    weights, bias = fit(matrix, balanced(matrix, harmless & (matrix.labels == 1)), weights, bias)
    kept = [
        (gram.decode(), round(float(w) * 1000)) for gram, w in zip(matrix.vocabulary, weights, strict=True)
    ]
    kept = [(gram, weight) for gram, weight in kept if abs(weight) >= 20]
    return {
        "bias": round(bias, 4),
        "scale": 1000,
        "ngrams": "\n".join(gram for gram, _ in kept),
        "weights": [weight for _, weight in kept],
    }


def points(model: dict[str, Any], rows: list[Row]) -> tuple[float, float]:
    """The values at which flagging and blocking start, by their share of honest texts."""
    table = dict(
        zip(
            model["ngrams"].encode().split(b"\n"), (w / model["scale"] for w in model["weights"]), strict=True
        )
    )
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if not row["label"]:
            worst = -math.inf
            for _, window in learned.windows(learned.words(row["text"])):
                worst = max(worst, model["bias"] + sum(table.get(g, 0.0) for g in learned.ngrams(window)))
            values[row["set"]].append(worst)

    def share(point: float) -> float:
        return sum(sum(v >= point for v in group) / len(group) for group in values.values()) / len(values)

    grid = [step / 100 for step in range(-300, 1000)]
    flag, block = (next(p for p in grid if share(p) <= allowed) for allowed in (FLAG_SHARE, BLOCK_SHARE))
    return flag, max(block, flag + 1.0)


def lexicon(rows: list[Row]) -> str:
    """The most frequent English words, one a line, by the number of texts that hold them."""
    short = set(SHORT.split())
    others = LEFT_OUT | {"multilingual_docs", "code_chunks", "hinglish", "prompts_zh"}
    counts: Counter[str] = Counter()
    for row in rows:
        if row["set"] not in others and row["text"].isascii():
            counts.update(set(re.findall(r"[a-z]+", row["text"].lower())))
    ranked = sorted(
        (w for w, n in counts.items() if n >= 4 and (len(w) > 2 or w in short)), key=lambda w: (-counts[w], w)
    )
    chosen = dict.fromkeys(ranked[:4_000])
    for signature in signatures.builtin():
        if signature.language == "en":
            chosen.update(dict.fromkeys(re.findall(r"[a-z]{4,}", signature.example.lower())))
    return "\n".join(chosen) + "\n"


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("lexicon", "model"))
    chosen = parser.parse_args()
    rows = read(chosen.folder / "train.jsonl")
    if chosen.only != "model":
        (HOME / "lexicon.txt").write_text(lexicon(rows), encoding="ascii")
    if chosen.only != "lexicon":
        honest = [{"text": text, "label": 0, "set": "honest"} for text in sentences()]
        model = train(rows + honest)
        model["flag"], model["block"] = points(model, read(chosen.folder / "dev.jsonl"))
        (HOME / "learned.json").write_bytes(orjson.dumps(model) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
