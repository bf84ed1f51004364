"""Makes plugins/llmshield_plugins/pii/names.npz, the weights of the names model; bit for bit the same each time.

    python scripts/train_names.py --data DIR [--plain FILE] [--out FILE] [--epochs N] [--texts N]

DIR holds btc_train, btc_dev, germeval_dev, germeval_test and sec_fin5 as JSON lines (`text`, `spans`); FILE harmless texts
(`text`, `label`, `set`), of which code and questions to a bank are read as texts without names. Names for the
made-up texts and for the lists are Faker's (`pip install faker==40.54.0`, MIT). Prints precision, recall and F1 by set and
kind, on texts, templates and names that were not used; docs/plugins/pii-names.md has the table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "plugins")]

from names_templates import PLAIN, PROSE, RECORDS  # noqa: E402

from llmshield_plugins.pii.name_model import BITS, KINDS, LISTS, TAGS, Model, listed, tokens  # noqa: E402
from llmshield_plugins.pii.names import Names  # noqa: E402

OUT = HERE.parent / "plugins" / "llmshield_plugins" / "pii" / "names.npz"
LOCALES = [
    "en_US",
    "en_GB",
    "en_IN",
    "en_AU",
    "en_CA",
    "de_DE",
    "fr_FR",
    "es_ES",
    "es_MX",
    "it_IT",
    "nl_NL",
    "pt_BR",
    "pt_PT",
    "pl_PL",
    "sv_SE",
    "da_DK",
    "no_NO",
    "fi_FI",
    "tr_TR",
    "cs_CZ",
    "ro_RO",
    "hu_HU",
    "hr_HR",
    "ga_IE",
    "id_ID",
    "vi_VN",
]
FIRMS = [
    "Acme",
    "Globex",
    "Umbrella",
    "Stark",
    "Wayne",
    "Apex",
    "Vertex",
    "Nova",
    "Orion",
    "Delta",
    "Summit",
    "Pioneer",
    "Atlas",
    "Zenith",
    "Quantum",
    "Blue",
    "Green",
    "Red",
    "North",
    "South",
    "Pacific",
    "Atlantic",
    "National",
    "United",
    "First",
    "General",
    "Global",
    "Digital",
    "Smart",
    "Bright",
    "Alpha",
    "Omega",
    "Sun",
    "Star",
    "Silver",
    "Gold",
    "Iron",
    "Stone",
    "River",
    "Lake",
    "Ocean",
    "Mountain",
    "Valley",
    "Harbor",
]
ENDS = [
    "Corp",
    "Inc",
    "Ltd",
    "LLC",
    "GmbH",
    "AG",
    "Bank",
    "Group",
    "Holdings",
    "Systems",
    "Technologies",
    "Solutions",
    "Industries",
    "Partners",
    "Insurance",
    "Labs",
    "Software",
    "Motors",
    "Energy",
    "Foods",
    "Media",
    "Consulting",
    "University",
    "College",
    "Hospital",
    "Airlines",
    "Logistics",
    "Capital",
    "Ventures",
    "Pharma",
    "Electric",
    "Records",
    "Press",
    "Institute",
    "Society",
]
STREETS = [
    "Main",
    "Oak",
    "Pine",
    "Maple",
    "Park",
    "High",
    "Church",
    "Mill",
    "Station",
    "Market",
    "King",
    "Queen",
    "Lake",
    "Hill",
    "River",
]
TITLES = ["Mr.", "Mrs.", "Ms.", "Dr.", "Mr", "Mrs", "Ms", "Dr", "Prof.", "Miss"]
BANNED = -1e6


# -- names ---------------------------------------------------------------------------------------------------------


def faker_names() -> dict[str, list[str]]:
    """First and last names, places and countries of Faker's locales."""
    found: dict[str, set[str]] = {name: set() for name in LISTS}
    for locale in LOCALES:
        person = _provider("person", locale)
        for kind, words in (("first", "first_names"), ("last", "last_names")):
            for suffix in ("", "_male", "_female", "_nonbinary"):
                found[kind].update(getattr(person, words + suffix, ()))
        address = _provider("address", locale)
        for words in ("cities", "city_names", "states", "provinces", "regions", "departments", "counties"):
            for entry in getattr(address, words, ()):
                name = entry[-1] if isinstance(entry, tuple | list) else entry
                if isinstance(name, str):
                    found["place"].add(name)
        found["country"].update(name for name in getattr(address, "countries", ()) if isinstance(name, str))
    return {kind: sorted(name.strip() for name in names if _is_plain(name)) for kind, names in found.items()}


def _provider(kind: str, locale: str) -> Any:
    try:
        return importlib.import_module(f"faker.providers.{kind}.{locale}").Provider
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(f"faker.providers.{kind}."):
            raise SystemExit("train_names: needs Faker: pip install faker==40.54.0") from None
        return None


def _is_plain(name: str) -> bool:
    return len(name) > 1 and name[0].isupper() and not set("{}.") & set(name)


def halves(names: list[str]) -> tuple[list[str], list[str]]:
    """Names to train with, and names that only the figures use."""
    mixed = sorted(names, key=lambda name: crc32(b"held out" + name.encode()))
    cut = len(mixed) * 85 // 100
    return mixed[:cut], mixed[cut:]


def hashes(names: dict[str, list[str]]) -> dict[str, set[int]]:
    """What the lists hold: of places only words of three letters and more (`De`, `of` are everywhere)."""
    return {
        kind: {
            number
            for name in found
            for word in ([name] if kind in {"first", "last"} else name.split())
            if kind in {"first", "last"} or len(word) > 2
            for number in listed(word)[:1]
        }
        for kind, found in names.items()
    }


# -- texts -----------------------------------------------------------------------------------------------------------


class Maker:
    """Texts from templates and names."""

    def __init__(self, rng: random.Random, names: dict[str, list[str]]) -> None:
        self.rng, self.names = rng, names

    def texts(self, rooms: Sequence[Sequence[str]], count: int) -> list[dict[str, Any]]:
        return [
            self._filled(self.rng.choice(self.rng.choice(rooms)).replace("\\n", "\n")) for _ in range(count)
        ]

    def _filled(self, template: str) -> dict[str, Any]:
        rng, values = self.rng, self._values()
        text, spans, at = "", [], 0
        while at < len(template):
            if template[at : at + 2] in ("{{", "}}"):
                text, at = text + template[at], at + 2
            elif template[at] == "{":
                end = template.index("}", at)
                value, kind = values[template[at + 1 : end]]
                if kind:
                    spans.append({"start": len(text), "end": len(text) + len(value), "type": kind})
                text, at = text + value, end + 1
            else:
                text, at = text + template[at], at + 1
        if rng.random() < 0.04:
            other = text.upper() if rng.random() < 0.4 else text.lower()
            text = other if len(other) == len(text) else text
        return {"text": text, "spans": spans}

    def _values(self) -> dict[str, tuple[str, str | None]]:
        rng = self.rng
        first, last = rng.choice(self.names["first"]), rng.choice(self.names["last"])
        person = {
            "first": first, "last": last, "full": self._full() if rng.random() < 0.5 else f"{first} {last}",
            "first2": rng.choice(self.names["first"]), "last2": rng.choice(self.names["last"]), "full2": self._full(),
        }  # fmt: skip
        place = {"city": self._place(), "city2": self._place()}
        place |= {"country": rng.choice(self.names["country"]), "country2": rng.choice(self.names["country"])}
        values: dict[str, tuple[str, str | None]] = {}
        for kind, found in (
            ("PERSON", person),
            ("LOCATION", place),
            ("ORGANIZATION", {"org": self._firm(), "org2": self._firm()}),
        ):
            for name, value in found.items():
                values[name] = (value, kind)
                values[f"{name}_l"] = (value.lower(), kind)
                values[f"{name}_u"] = (value.upper(), kind)
        values["title"] = (rng.choice(TITLES), None)
        values["initial"] = (rng.choice("ABCDEFGHJ"), None)
        number = rng.randint(1, 999)
        values["street"] = (
            rng.choice((
                f"{number} {rng.choice(STREETS)} {rng.choice(('Street', 'Ave', 'Road', 'St.', 'Lane'))}",
                f"{rng.choice(STREETS)}straße {number % 99 + 1}",
            )),
            None,
        )  # fmt: skip
        return values

    def _full(self) -> str:
        rng, first, last = self.rng, self.rng.choice(self.names["first"]), self.rng.choice(self.names["last"])
        chance = rng.random()
        if chance < 0.10:
            return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
        if chance < 0.16:
            return f"{first} {rng.choice(self.names['first'])} {last}"
        if chance < 0.20:
            return f"{first} {last}-{rng.choice(self.names['last'])}"
        return f"{first} {last}"

    def _place(self) -> str:
        return self.rng.choice(self.names["place" if self.rng.random() < 0.8 else "country"])

    def _firm(self) -> str:
        rng, chance = self.rng, self.rng.random()
        last = rng.choice(self.names["last"])
        if chance < 0.5:
            return f"{rng.choice(FIRMS)} {rng.choice(ENDS)}"
        if chance < 0.7:
            return f"{last} {rng.choice(ENDS)}"
        if chance < 0.8:
            return f"{last} & {rng.choice(('Sons', 'Co', 'Partners', rng.choice(self.names['last'])))}"
        if chance < 0.9:
            return (
                f"{rng.choice(('University', 'Bank', 'Museum', 'City'))} of {rng.choice(self.names['place'])}"
            )
        return rng.choice(FIRMS) + rng.choice(("", "soft", "tech", "net", "ify"))


def labelled(folder: Path, name: str) -> list[dict[str, Any]]:
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def nameless(file: Path) -> list[dict[str, Any]]:
    """Code and short questions, with what might hold a name after all left out."""
    out = []
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = row["text"][:700]
            if row["label"] == 0 and row["set"] in PLAIN_SETS and not _MAY_NAME.search(text):
                out.append({"text": text, "spans": []})
    return out


PLAIN_SETS = frozenset({"code_chunks", "banking77", "clinc150"})
_MAY_NAME = re.compile(
    r"(?i)copyright|author|@\w+\.|[A-Z][a-z]+ [A-Z][a-z]+ <|john|jane|alice|bob\b|smith|my name|london|paris|berlin"
)


def gold(row: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """The tokens of a labelled text, and their tags."""
    found = tokens(row["text"])
    tags = [0] * len(found)
    for span in row["spans"]:
        if span["type"] not in KINDS:
            continue
        tag = TAGS.index(f"B-{span['type']}")
        for number, token in enumerate(found):
            if token.start >= span["start"] and token.end <= span["end"]:
                tags[number] = tag
                tag = TAGS.index(f"I-{span['type']}")
    return found, tags


# -- training --------------------------------------------------------------------------------------------------------


def train(
    rows: Iterable[dict[str, Any]], known: dict[str, set[int]], epochs: int, rng: random.Random, lead: float
) -> Model:
    """An averaged structured perceptron; `lead` is taken off the score of O in the end, for recall."""
    shape = (1 << BITS, len(TAGS))
    weights, sums = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    between, between_sums = np.zeros((len(TAGS),) * 2, np.float32), np.zeros((len(TAGS),) * 2, np.float32)
    first, first_sums = np.zeros(len(TAGS), np.float32), np.zeros(len(TAGS), np.float32)
    ban, ban_first = _bans()
    model = Model(weights, between + ban, first + ban_first, known)
    model._sure = float("inf")  # weights change under it
    examples = []
    for row in rows:
        found, tags = gold(row)
        if found:
            examples.append((model.rows_of(found), np.array(tags)))
    order, step = list(range(len(examples))), 1
    for epoch in range(epochs):
        rng.shuffle(order)
        wrong = 0
        for number in order:
            described, right = examples[number]
            model.between, model.first = between + ban, first + ban_first
            said = np.array(model.best(weights[described].sum(1)))
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
                first[row_of_tags[0]] += by
                first_sums[row_of_tags[0]] += by * step
                np.add.at(between, (row_of_tags[:-1], row_of_tags[1:]), by)
                np.add.at(between_sums, (row_of_tags[:-1], row_of_tags[1:]), by * step)
        print(f"epoch {epoch + 1}: {wrong} of {len(examples)} wrong", flush=True)
    rows_made = weights - sums / step
    rows_made[:, 0] -= lead / 37
    return Model(rows_made, between - between_sums / step + ban, first - first_sums / step + ban_first, known)


def _bans() -> tuple[Any, Any]:
    """No name begins inside."""
    ban = np.zeros((len(TAGS),) * 2, np.float32)
    for before, one in enumerate(TAGS):
        for after, other in enumerate(TAGS):
            if other[0] == "I" and one[2:] != other[2:]:
                ban[before, after] = BANNED
    return ban, np.array([BANNED if tag[0] == "I" else 0 for tag in TAGS], np.float32)


def packed(model: Model, names: dict[str, set[int]]) -> dict[str, Any]:
    """What the file holds: weights in eighths of a percent of the largest."""
    scale = np.float32(np.abs(model.rows).max() / 32_000)
    return {
        "rows": np.round(model.rows / scale).astype(np.int16), "scale": scale, "between": model.between,
        "begin": model.first, **{kind: np.array(sorted(found), np.uint32) for kind, found in names.items()},
    }  # fmt: skip


# -- figures ---------------------------------------------------------------------------------------------------------


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
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--texts", type=int, default=9000)
    parser.add_argument("--lead", type=float, default=0.0)
    given = parser.parse_args()
    rng = random.Random(20_261_120)
    everything = faker_names()
    split = {kind: halves(names) for kind, names in everything.items()}
    ours, held = (
        {kind: both[0] for kind, both in split.items()},
        {kind: both[1] for kind, both in split.items()},
    )
    ours["country"] = held["country"] = everything["country"]
    prose, records = (
        [p for i, p in enumerate(PROSE) if i % 8 != 3],
        [r for i, r in enumerate(RECORDS) if i % 7 != 3],
    )
    made = Maker(rng, ours).texts([prose, prose, records, records], given.texts)
    plain = [{"text": text.replace("\\n", "\n"), "spans": []} for text in PLAIN for _ in range(10)]
    german = labelled(given.data, "germeval_test")
    reports = labelled(given.data, "sec_fin5")
    rows = [
        *labelled(given.data, "btc_train"), *labelled(given.data, "germeval_dev"), *german[:3500],
        *(row for number, row in enumerate(reports) if number % 4), *made, *plain,
    ]  # fmt: skip
    if given.plain is not None:
        rows += nameless(given.plain)
    # A third of the names is in no list while it trains, so that forms and neighbours have to count as well.
    part = {kind: [name for name in names if crc32(name.encode()) % 10 >= 3] for kind, names in ours.items()}
    model = train(rows, hashes(part), given.epochs, rng, given.lead)
    lists = hashes(everything)
    np.savez_compressed(given.out, **packed(model, lists))
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB")
    judge = random.Random(7)
    sets = {
        "tweets (btc_dev)": labelled(given.data, "btc_dev"), "German prose (germeval)": german[3500:],
        "reports (sec_fin5)": reports[::4],
        "made prose": Maker(judge, held).texts([[p for i, p in enumerate(PROSE) if i % 8 == 3]], 500),
        "made records": Maker(judge, held).texts([[r for i, r in enumerate(RECORDS) if i % 7 == 3]], 500),
    }  # fmt: skip
    for title, known in (("as shipped", lists), ("none of the names listed", hashes(ours))):
        shown = Model(model.rows, model.between, model.first, known)
        for name, texts in sets.items():
            if known is not lists and not name.startswith("made"):
                continue
            told = "  ".join(
                f"{kind} {p:.3f} {r:.3f} {f:.3f}" for kind, (p, r, f) in figures(shown, texts).items()
            )
            print(f"{title}, {name}: {told}")


if __name__ == "__main__":
    main()
