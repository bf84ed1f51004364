"""Trains what the injection plugin ships of data: the linear model and the lexicon.

    python scripts/train_injection.py FOLDER [--only lexicon|model] [--without SET ...]

FOLDER holds train.jsonl and dev.jsonl: rows `{"text", "label" (1 attack, 0 benign), "set", "subset"}`. Writes
learned.json and lexicon.txt beside the plugin. The same data give the same files, bit for bit: chance is a generator of
our own (`injection_grammar.Dice`), and sums are made in one order. Needs numpy; takes a minute. The lexicon comes first.

Beside the data it sees `injection_recipe/`: attacks and honest texts of a grammar of our own, and those attacks in the
middle of honest texts. What is left out and why: attacks inside of whole documents (the document is honest text, a
window of it would be labelled wrongly) and bare goals such as "send 100 EUR to" (honest mail says the same).

`--without` leaves sets out, to see what the model makes of a source that it never saw (`injection_eval.py --out`).
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
from injection_grammar import FOLDER, Dice, Grammar
from injection_honest import sentences

from llmshield_plugins.injection import learned, signatures, stretches

HOME = Path(learned.__file__).parent
# Sets that make honest texts most like attacks: role play, talk about attacks, ready-made prompts, our own.
NEAR = {
    "prompts_chat",
    "prompts_zh",
    "secdocs_train",
    "jackhhao_train",
    "honest",
    "code_chunks",
    "self_instruct",
}
# System prompts, which are full of orders to a model, and other texts that begin with "You are".
SYSTEMS = {"own_systems", "prompts_chat", "prompts_zh", "jackhhao_train"}
# Sums in many scripts, of which no attack is made.
LEFT_OUT = {"mgsm"}
# Not English, or not only.
OTHER_TONGUES = {"multilingual_docs", "hinglish", "prompts_zh"}
CARRIERS = {
    "gpteacher",
    "agentdojo",
    "own_mails",
    "own_errands",
    "secdocs_train",
    "multilingual_docs",
    "self_instruct",
}
CARRIED = {"own_override", "own_indirect", "own_breakout", "own_newtask", "own_outrank"}
MIXED = 1_500  # attacks of our own in the middle of honest texts
WEIGHT_NEAR, WEIGHT_SYSTEMS, WEIGHT_OWN = 4, 12, 0.5
# A word in this share of all honest texts says nothing by itself; pairs with it may.
FREQUENT = 0.02
SHORT = "a i an am as at be by do go he if in is it me my no of on or so to up us we ai hi ok"
L1, L2, ROUNDS = 1e-6, 4e-4, 150
MAX_WINDOWS = 12  # of one text, so that books do not outvote the rest
MAX_GRAM = 40  # bytes; what is longer is no pair of words
# The share of honest texts above a point, as the mean over the sets of dev.jsonl: flagged; blocked as a whole.
FLAG_SHARE, WHOLE_SHARE = 0.042, 0.002
# Honest texts of these sizes (characters) and numbers, put together from others; the share of them that gives the slope of
# what stretches of one length reach, and the share of dev.jsonl's texts that gives the height.
BOOKS = {1_000: 300, 2_000: 300, 4_000: 300, 8_000: 300, 14_000: 300, 30_000: 100, 60_000: 60}
SLOPE_SHARE, STRETCH_SHARE = 0.02, 0.0015
# A run of sentences in a text of so many words counts as alone; in longer ones it has to reach more, so much that these
# shares of dev.jsonl's texts and of the longer ones are refused for it. One of those was put together from few texts.
FEW_WORDS, RUN_SHARE, RUN_SHARE_LONG = 64, 0.001, 0.04
# How much higher blocking starts than dev.jsonl says, which holds no system prompts; they reach that far.
SPARED = 0.75

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def usable(row: Row) -> bool:
    """Whether a row is trained on."""
    if row["set"] in LEFT_OUT:
        return False
    return not row["label"] or (row["set"] != "agentdojo" and not str(row.get("subset")).startswith("doc"))


def recipe() -> list[Row]:
    """Our own texts, `own_SET`; the same every time."""
    made = [
        {"text": text, "label": label, "set": f"own_{name}"}
        for seed, (file, label) in enumerate((("attacks", 1), ("honest", 0)), 1)
        for name, text in Grammar(FOLDER / f"{file}.txt").texts(seed)
    ]
    return made + [{"text": text, "label": 0, "set": "honest"} for text in sentences()]


def mixed(rows: list[Row]) -> list[Row]:
    """Attacks of our own in the middle of honest English texts, short enough for one window."""
    dice = Dice(3)
    carriers = [
        row["text"].split()
        for row in rows
        if not row["label"] and row["set"] in CARRIERS and row["text"].isascii() and len(row["text"]) > 80
    ]
    attacks = [row for row in rows if row["set"] in CARRIED]
    made: list[Row] = []
    for _ in range(MIXED):
        carrier, attack = carriers[dice.below(len(carriers))], attacks[dice.below(len(attacks))]
        at, size = dice.below(len(carrier)), 20 + dice.below(25)
        parts = (" ".join(carrier[max(0, at - size) : at]), attack["text"], " ".join(carrier[at : at + size]))
        made.append({"text": "\n".join(parts), "label": 1, "set": f"mixed_{attack['set']}"})
    return made


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
        self.vocabulary = self._vocabulary()
        index = {gram: number for number, gram in enumerate(self.vocabulary)}
        pairs = [
            (number, column)
            for number, grams in enumerate(self.grams)
            for column in sorted(index[gram] for gram in grams if gram in index)
        ]
        self.row, self.column = (np.array(part) for part in zip(*pairs, strict=True))

    def _vocabulary(self) -> list[bytes]:
        """What the model is made of. What occurs in one set only names that set, not attacks."""
        counts: Counter[bytes] = Counter()
        honest: Counter[bytes] = Counter()
        sets: dict[bytes, set[str]] = defaultdict(set)
        for grams, name, label in zip(self.grams, self.sets, self.labels, strict=True):
            counts.update(grams)
            for gram in grams:
                sets[gram].add(name)
            if not label:
                honest.update(grams)
        # Everyday English words and those of our own texts, and no single letters, of which noise and code are full.
        # Attacks in a language of which training has little honest text would teach it the language.
        words = {word for word in (HOME / "lexicon.txt").read_bytes().split() if len(word) > 1}
        words |= {b".", b"?", b'"', b"a", b"i"}
        for file in ("attacks", "honest"):
            words.update(w for w in learned.words((FOLDER / f"{file}.txt").read_text("utf-8")) if len(w) > 2)
        most = FREQUENT * (self.labels == 0).sum()
        return sorted(
            gram
            for gram, count in counts.items()
            if (
                count >= 3 and (len(sets[gram]) >= 2 or count >= 30)
                if b" " in gram
                else count >= 10 and len(sets[gram]) >= 3 and honest[gram] < most
            )
            and len(gram) <= MAX_GRAM
            and words.issuperset(gram.split())
        )

    def scores(self, weights: np.ndarray, bias: float) -> np.ndarray:
        """The model's value for each window."""
        return np.bincount(self.row, weights=weights[self.column], minlength=len(self.grams)) + bias


def balanced(matrix: Matrix, dropped: np.ndarray) -> np.ndarray:
    """The weight of each window: big sets count less than their size, both labels the same in sum."""
    sizes = Counter(zip(matrix.sets, matrix.labels, strict=True))
    factor = {
        (name, label): (WEIGHT_OWN if label and name.startswith(("own_", "mixed_")) else 1.0)
        * (WEIGHT_NEAR if not label and (name in NEAR or name.startswith("own_")) else 1.0)
        * (WEIGHT_SYSTEMS if name in SYSTEMS else 1.0)
        / math.sqrt(size)
        for (name, label), size in sizes.items()
    }
    share = np.array([factor[key] for key in zip(matrix.sets, matrix.labels, strict=True)])
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
    matrix = Matrix(rows)
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
    kept = [(gram, weight) for gram, weight in kept if abs(weight) >= 50]
    return {
        "bias": round(bias, 4),
        "scale": 1000,
        "ngrams": "\n".join(gram for gram, _ in kept),
        "weights": [weight for _, weight in kept],
    }


def books(rows: list[Row]) -> list[str]:
    """Honest English texts joined to longer ones: half of them of one set each, half of all."""
    dice = Dice(7)
    by_set: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row["label"] and row["text"].isascii() and len(row["text"]) > 100:
            by_set[row["set"]].append(row["text"])
    names = sorted(by_set)
    every = [text for name in names if name in CARRIERS | {"prompts_chat"} for text in by_set[name]]
    made: list[str] = []
    for size, count in BOOKS.items():
        for number in range(count):
            pool = every if number % 2 else by_set[names[dice.below(len(names))]]
            book = ""
            while len(book) < size:
                book += pool[dice.below(len(pool))] + "\n\n"
            made.append(book[:size])
    return made


def reach(model: dict[str, Any], texts: list[str]) -> dict[str, list[float]]:
    """For stretches of each length, what most honest texts stay below: a line over the logarithm of variety."""
    made = learned.made(model)
    sums = [stretches.Sums(learned.words(text), made) for text in texts]
    found: dict[str, list[float]] = {}
    for length in stretches.LENGTHS:
        worst = [each.highest(length) for each in sums]
        at = 0
        line: list[tuple[float, float, float]] = []  # weight, logarithm, value
        for count in BOOKS.values():
            group = sorted(worst[at : at + count])
            varieties = sorted(each.variety for each in sums[at : at + count])
            place = (1 - SLOPE_SHARE) * (count - 1)
            low = int(place)
            value = group[low] + (place - low) * (group[min(low + 1, count - 1)] - group[low])
            line.append((float(count), math.log(varieties[count // 2]), value))
            at += count
        total = sum(w for w, _, _ in line)
        middle = sum(w * x for w, x, _ in line) / total
        height = sum(w * y for w, _, y in line) / total
        slope = sum(w * (x - middle) * (y - height) for w, x, y in line) / sum(
            w * (x - middle) ** 2 for w, x, _ in line
        )
        found[str(length)] = [round(height - slope * middle, 4), round(slope, 4)]
    return found


def points(model: dict[str, Any], rows: list[Row], texts: list[str]) -> None:
    """Set where flagging and blocking start, by their share of honest texts; `texts` are longer ones."""
    made = learned.made(model)

    def run_of(sums: stretches.Sums) -> tuple[float, float]:
        """The worst run, and how much more there is than a few sentences: a logarithm."""
        return made.bias + sums.run()[0] / 1000, math.log(max(1.0, sums.told() / FEW_WORDS))

    whole: dict[str, list[float]] = defaultdict(list)
    parted: dict[str, list[float]] = defaultdict(list)
    runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if not row["label"]:
            parts = learned.words(row["text"])
            short = len(parts) <= learned.WINDOW
            whole[row["set"]].append(made.bias + stretches.summed(parts, made) / 1000 if short else -math.inf)
            sums = stretches.Sums(parts, made)
            runs[row["set"]].append(run_of(sums))
            worst = sums.worst(sums.variety, -10.0) if len(parts) >= learned.SHORT else None
            parted[row["set"]].append(-math.inf if worst is None else worst[0])

    def share(point: float, margin: float, part: float, slope: float) -> float:
        above = [
            sum(
                a >= point or b >= margin or c >= part + slope * d
                for a, b, (c, d) in zip(whole[name], parted[name], runs[name], strict=True)
            )
            / len(whole[name])
            for name in whole
        ]
        return sum(above) / len(above)

    hundredths = [step / 100 for step in range(1_000)]
    lift = next(step for step in hundredths if share(math.inf, step, math.inf, 0) <= STRETCH_SHARE)
    block = next(step for step in hundredths if share(step, math.inf, math.inf, 0) <= WHOLE_SHARE)
    block = round(block + SPARED, 2)
    long = [run_of(stretches.Sums(learned.words(text), made)) for text in texts]
    # What is above the point of a whole text is refused in any case.
    slope = next(
        step
        for step in hundredths
        if share(block, math.inf, block, step) <= share(block, math.inf, math.inf, 0) + RUN_SHARE
        and sum(c >= block + step * d for c, d in long) <= RUN_SHARE_LONG * len(long)
    )
    between = next(
        step
        for step in reversed(hundredths[:400])
        if share(block - step, lift - step / 2, block - step / 2, slope) <= FLAG_SHARE
    )
    model["flag"], model["block"] = round(block - between, 2), block
    model["reach"] = {length: [round(a + lift, 4), b] for length, (a, b) in model["reach"].items()}
    model["reach"][str(stretches.RUN)] = [
        round(block - made.bias - slope * math.log(FEW_WORDS), 4),
        slope,
    ]


def lexicon(rows: list[Row]) -> str:
    """The most frequent English words, one a line, by the number of texts that hold them."""
    short = set(SHORT.split())
    others = OTHER_TONGUES | {"mgsm", "code_chunks", "clinc150", "banking77", "btc_tweets"}
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
    parser.add_argument("--without", nargs="*", default=(), metavar="SET")
    parser.add_argument("--into", type=Path, default=HOME, help="the folder to write to")
    chosen = parser.parse_args()
    rows = read(chosen.folder / "train.jsonl")
    if chosen.only != "model":
        (chosen.into / "lexicon.txt").write_text(lexicon(rows), encoding="ascii")
    if chosen.only != "lexicon":
        seen = [row for row in rows if usable(row) and row["set"] not in chosen.without] + recipe()
        model = train(seen + mixed(seen))
        dev = read(chosen.folder / "dev.jsonl")
        longer = books(rows + dev)
        model["reach"] = reach(model, longer)
        points(model, dev, longer)
        (chosen.into / "learned.json").write_bytes(orjson.dumps(model) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
