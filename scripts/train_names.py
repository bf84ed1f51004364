"""Makes plugins/llmshield_plugins/pii/names.npz, the weights of the names model; the same each time with the same numpy and BLAS.

    python scripts/train_names.py --data DIR --plain FILE [--out FILE] [--epochs N] [--texts N]

DIR holds btc_train, btc_dev, germeval_dev, germeval_test and sec_fin5 as JSON lines (`text`, `spans`); FILE harmless texts
(`text`, `label`, `set`): code and questions to a bank are read as texts without names, the others say which words are
common and used alike. Names for the made-up texts and for the lists are Faker's (`pip install faker==40.54.0`, MIT) and
those of `names_recipe/lists.txt`. Prints precision, recall and F1 by set and kind, on texts, templates and names that
were not used; docs/plugins/pii-names.md has the table.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "plugins")]

from names_classes import classes  # noqa: E402
from names_texts import Maker, all_names, common_words, gold, halves, hashes, labelled, nameless, recipe  # noqa: E402

from llmshield_plugins.pii.name_model import BITS, KINDS, LISTS, TAGS, Model  # noqa: E402
from llmshield_plugins.pii.names import Names  # noqa: E402

OUT = HERE.parent / "plugins" / "llmshield_plugins" / "pii" / "names.npz"
LEAD = 0.0
BANNED = -1e6
LANGUAGE_SETS = frozenset(
    {
        "multilingual_docs",
        "prompts_chat",
        "gpteacher",
        "mgsm",
        "clinc150",
        "banking77",
        "self_instruct",
        "btc_tweets",
    }
)


def train(
    rows: Iterable[dict[str, Any]], known: dict[str, set[int]], classed: dict[int, int], epochs: int, rng: random.Random,
    lead: float,
) -> Model:  # fmt: skip
    """An averaged structured perceptron; `lead` is taken off the way to O in the end, for recall."""
    shape = (1 << BITS, len(TAGS))
    weights, sums = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    between, between_sums = np.zeros((len(TAGS),) * 2, np.float32), np.zeros((len(TAGS),) * 2, np.float32)
    ban = _bans()
    model = Model(weights, between + ban, known, classed)
    examples = []
    for row in rows:
        found, tags = gold(row)
        if found:
            examples.append((model.rows_of(found).astype(np.int32), np.array(tags)))
    order, step = list(range(len(examples))), 1
    for epoch in range(epochs):
        rng.shuffle(order)
        wrong = 0
        for number in order:
            described, right = examples[number]
            model.between = between + ban
            said = np.array(model.path(weights[described].sum(1)))
            step += 1
            places = np.flatnonzero(said != right)
            if not len(places):
                continue
            wrong += 1
            for place in places:
                for tag, by in ((right[place], 1), (said[place], -1)):
                    np.add.at(weights, (described[place], tag), by)
                    np.add.at(sums, (described[place], tag), by * step)
            for row_of_tags, by in ((right, 1), (said, -1)):
                path = np.concatenate([[0], row_of_tags])
                np.add.at(between, (path[:-1], path[1:]), by)
                np.add.at(between_sums, (path[:-1], path[1:]), by * step)
        print(f"epoch {epoch + 1}: {wrong} of {len(examples)} wrong", flush=True)
    made = between - between_sums / step + ban
    made[:, 0] -= lead
    return Model(weights - sums / step, made, known, classed)


def _bans() -> Any:
    """No name begins inside."""
    ban = np.zeros((len(TAGS),) * 2, np.float32)
    for before, one in enumerate(TAGS):
        for after, other in enumerate(TAGS):
            if other[0] == "I" and one[2:] != other[2:]:
                ban[before, after] = BANNED
    return ban


def sure_of(model: Model, rows: Iterable[dict[str, Any]]) -> float:
    """The lead of O beyond which no token of these texts is part of a name; half of them need no search for that."""
    leads, named = [0.0], 0
    for row in rows:
        found, _ = gold(row)
        if found:
            scores = model.scores(found)
            lead = scores[:, 0] - scores[:, 1:].max(1)
            tags = np.array(model.path(scores))
            leads += lead[tags > 0].tolist()
            named += int((tags > 0).sum())
    leads.sort()
    return round(float(leads[min(len(leads) - 1, int(len(leads) * 0.999))]), 1)


def packed(model: Model, names: dict[str, set[int]], classed: dict[int, int]) -> dict[str, Any]:
    """What the file holds: weights in steps of a 32,000th of the largest, without the smallest."""
    scale = np.float32(np.abs(model.rows).max() / 32_000)
    rows = np.round(model.rows / scale)
    rows[np.abs(model.rows) < 0.05] = 0
    words = sorted(classed)
    return {
        "rows": rows.astype(np.int16), "scale": scale, "between": model.between, "sure": np.float32(model.sure),
        "words": np.array(words, np.uint32), "classes": np.array([classed[word] for word in words], np.uint8),
        **{kind: np.array(sorted(names.get(kind, ())), np.uint32) for kind in LISTS},
    }  # fmt: skip


def figures(model: Model, rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1 for each kind; a finding is right when it overlaps one of its kind."""
    names = Names(KINDS, model)
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    for row in rows:
        said = [(f.start, f.end, f.kind) for f in names.find(row["text"])]
        true = [(s["start"], s["end"], s["type"]) for s in row["spans"]]
        for kind, count in counts.items():
            ours, theirs = [f for f in said if f[2] == kind], [s for s in true if s[2] == kind]
            count[0] += sum(any(f[0] < s[1] and s[0] < f[1] for s in theirs) for f in ours)
            count[1] += len(ours)
            count[2] += sum(any(f[0] < s[1] and s[0] < f[1] for f in ours) for s in theirs)
            count[3] += len(theirs)
    out = {}
    for kind, (right, said_count, met, true_count) in counts.items():
        precision, recall = right / max(1, said_count), met / max(1, true_count)
        out[kind] = (precision, recall, 2 * precision * recall / max(1e-9, precision + recall))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--texts", type=int, default=14_000)
    parser.add_argument("--lead", type=float, default=LEAD)
    given = parser.parse_args()
    rng = random.Random(20_261_120)
    with given.plain.open(encoding="utf-8") as lines:
        harmless = [row for row in map(json.loads, lines) if row["label"] == 0]
    german, reports = labelled(given.data, "germeval_test"), labelled(given.data, "sec_fin5")
    labels = [
        *labelled(given.data, "btc_train"), *labelled(given.data, "germeval_dev"), *german[:3500],
        *(row for number, row in enumerate(reports) if number % 4),
    ]  # fmt: skip
    language = [row["text"] for row in harmless if row["set"] in LANGUAGE_SETS] + [
        row["text"] for row in labels
    ]
    common, rare = common_words(language)
    classed = classes(language)
    everything = all_names()
    split = {
        kind: halves(names) if kind in {"first", "last", "place", "org"} else (names, names)
        for kind, names in everything.items()
    }
    ours, held = (
        {kind: both[0] for kind, both in split.items()},
        {kind: both[1] for kind, both in split.items()},
    )
    prose, records = recipe("prose"), recipe("records")
    for_prose, for_records = (
        [p for i, p in enumerate(prose) if i % 8 != 3],
        [r for i, r in enumerate(records) if i % 7 != 3],
    )
    maker = Maker(rng, ours)
    made = maker.texts([for_prose, for_prose, for_records, for_records], given.texts)
    plain = [{"text": text, "spans": []} for text in recipe("plain") for _ in range(10)]
    rows = [
        *labels,
        *(maker.swapped(row) for row in labels if row["spans"]),
        *made,
        *plain,
        *nameless(harmless),
    ]
    # A third of the names is in no list while it trains, so that forms and neighbours have to count as well.
    part = {kind: [name for name in names if crc32(name.encode()) % 10 >= 3] for kind, names in ours.items()}

    def lists(of: dict[str, list[str]]) -> dict[str, set[int]]:
        return {**hashes(of, common), "common": common, "rare": rare}

    model = train(rows, lists(part), classed, given.epochs, rng, given.lead)
    full = lists(everything)
    judge = random.Random(7)
    sets = {
        "tweets (btc_dev)": labelled(given.data, "btc_dev"), "German prose (germeval)": german[3500:],
        "reports (sec_fin5)": reports[::4],
        "made prose": Maker(judge, held).texts([[p for i, p in enumerate(prose) if i % 8 == 3]], 500),
        "made records": Maker(judge, held).texts([[r for i, r in enumerate(records) if i % 7 == 3]], 500),
    }  # fmt: skip
    sure = sure_of(
        Model(model.rows, model.between, full, classed), [row for rows in sets.values() for row in rows]
    )
    shipped = Model(model.rows, model.between, full, classed, sure)
    np.savez_compressed(given.out, **packed(shipped, full, classed))
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, sure {sure}")
    for title, known in (("as shipped", full), ("none of the names listed", lists(ours))):
        shown = Model(model.rows, model.between, known, classed, sure)
        for name, texts in sets.items():
            if known is not full and not name.startswith("made"):
                continue
            told = "  ".join(
                f"{kind} {p:.3f} {r:.3f} {f:.3f}" for kind, (p, r, f) in figures(shown, texts).items()
            )
            print(f"{title}, {name}: {told}")


if __name__ == "__main__":
    main()
