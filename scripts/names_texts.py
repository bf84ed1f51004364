"""Names, and texts with names at known places: what `train_names.py` trains with."""

from __future__ import annotations

import importlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from llmshield_plugins.pii.name_model import KINDS, LISTS, TAGS
from llmshield_plugins.pii.name_tokens import Token, listed, tokens

RECIPE = Path(__file__).resolve().parent / "names_recipe"
LOCALES = (
    "en_US en_GB en_IN en_AU en_CA en_NZ en_KE en_NG en_PK de_DE de_AT de_CH fr_FR fr_CA fr_CH fr_DZ es_ES es_MX es_AR es_CO "
    "it_IT nl_NL nl_BE pt_BR pt_PT pl_PL sv_SE da_DK no_NO fi_FI is_IS tr_TR az_AZ cs_CZ sk_SK sl_SI ro_RO hu_HU hr_HR et_EE "
    "lt_LT lv_LV ga_IE id_ID vi_VN ha_NG ig_NG yo_NG sw tw_GH zu_ZA uz_UZ en_TH zh_CN ja_JP"
).split()
"""Locales of Faker whose names have Latin letters (of Chinese and Japanese the romanised ones)."""
FIRMS = (
    "Acme Globex Umbrella Stark Wayne Apex Vertex Nova Orion Delta Summit Pioneer Atlas Zenith Quantum Blue Green Red North "
    "South Pacific Atlantic National United First General Global Digital Smart Bright Alpha Omega Sun Star Silver Gold Iron "
    "Stone River Lake Ocean Mountain Valley Harbor Amber Cedar Crystal Eagle Falcon Forest Golden Grand Granite Heritage "
    "Horizon Imperial Liberty Lion Maple Metro Modern Noble Oak Phoenix Pine Prime Royal Sapphire Sierra Sterling Swift "
    "Titan Trinity Unity Urban Vista West East Central Northern Southern Eastern Western American British European"
).split()
ENDS = (
    "Corp;Inc;Inc.;Ltd;Ltd.;LLC;LLP;plc;GmbH;AG;SE;S.A.;SA;SL;S.p.A.;BV;B.V.;AB;AS;Oy;KG;Co.;Bank;Group;Holdings;Systems;Technologies;"
    "Solutions;Industries;Partners;Insurance;Labs;Software;Motors;Energy;Foods;Media;Consulting;University;College;Hospital;"
    "Airlines;Airways;Logistics;Capital;Ventures;Pharma;Pharmaceuticals;Electric;Records;Press;Institute;Society;Clinic;"
    "Credit Union;Trust;Council;School;High School;Medical Center;Hotels;Hotel;Telecom;Communications;Robotics;Shipping;"
    "Freight;Railway;Railways;Steel;Mining;Chemicals;Brewery;Theatre;Museum;Orchestra;Football Club;FC;United;City;Rovers;"
    "Foundation;Association;Federation;Publishing;Books;Studios;Entertainment;Games;Analytics;Cloud;Security;Financial;"
    "Investments;Realty;Properties;Construction;Engineering;Design;Marketing;Travel;Tours;Party;Union;Church;Law Group"
).split(";")  # fmt: skip
HEADS = (
    "University of;Bank of;Museum of;City of;Church of;Institute of;Ministry of;Department of;Hospital;Hospital Universitario;"
    "Universidad de;Universität;Universitätsklinikum;Hotel;Banco de;Banca;Landgericht;Amtsgericht;Oberlandesgericht;"
    "Stadtwerke;Sparkasse;FC;SV;TSV;VfL;Real;Sporting;AC;Université de;Royal;Royal Bank of;Bank;Radio;Port of;Diocese of"
).split(";")  # fmt: skip
STREETS = "Main Oak Pine Maple Park High Church Mill Station Market King Queen Lake Hill River Cedar Elm Washington".split()
TITLES = "Mr.;Mrs.;Ms.;Dr.;Mr;Mrs;Ms;Dr;Prof.;Professor;Miss;Sir;Lord;Judge;Senator;President;Captain;Father;Rev.".split(
    ";"
)
TITLES_DE = ("Herr", "Frau", "Herrn", "Dr.", "Prof. Dr.", "Rechtsanwalt", "Rechtsanwältin", "Richter")
PEOPLE_DE = (
    "deutsche",
    "amerikanische",
    "französische",
    "britische",
    "russische",
    "italienische",
    "polnische",
    "österreichische",
)


def recipe(name: str) -> list[str]:
    """The templates `prose`, `records` or `plain`."""
    lines = (RECIPE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").replace("\\t", "\t") for line in lines if line]


def all_names() -> dict[str, list[str]]:
    """Names of each list: Faker's locales, and what `names_recipe/lists.txt` says."""
    found: dict[str, set[str]] = {name: set() for name in LISTS}
    for locale in LOCALES:
        person = _provider("person", locale)
        for kind, words in (("first", "first_names"), ("last", "last_names")):
            for suffix in ("", "_male", "_female", "_nonbinary"):
                found[kind].update(_words(person, words + suffix))
            found[kind].update(_words(person, f"{kind}_romanized_names"))
        address = _provider("address", locale)
        for words in ("cities", "city_names", "states", "provinces", "regions", "departments", "counties"):
            for entry in getattr(address, words, ()):
                name = entry[-1] if isinstance(entry, tuple | list) else entry
                if isinstance(name, str):
                    found["place"].add(name)
        found["country"].update(name for name in getattr(address, "countries", ()) if isinstance(name, str))
    for line in (RECIPE / "lists.txt").read_text(encoding="utf-8").splitlines():
        kind, _, names = line.partition(": ")
        if kind in found:
            found[kind].update(names.split("|"))
    return {kind: sorted(name.strip() for name in names if _is_plain(name)) for kind, names in found.items()}


def _words(provider: Any, name: str) -> list[str]:
    found = getattr(provider, name, ())
    return [word for word in found if isinstance(word, str)] if hasattr(found, "__iter__") else []


def _provider(kind: str, locale: str) -> Any:
    try:
        return importlib.import_module(f"faker.providers.{kind}.{locale}").Provider
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(f"faker.providers.{kind}."):
            raise SystemExit("train_names: needs Faker: pip install faker==40.54.0") from None
        return None


def _is_plain(name: str) -> bool:
    return len(name) > 1 and not set("{}()") & set(name) and max(name) < "\u0590"


def halves(names: list[str]) -> tuple[list[str], list[str]]:
    """Names to train with, and names that only the figures use."""
    mixed = sorted(names, key=lambda name: crc32(b"held out" + name.encode()))
    cut = len(mixed) * 85 // 100
    return mixed[:cut], mixed[cut:]


def hashes(names: dict[str, list[str]], common: set[int]) -> dict[str, set[int]]:
    """What the lists hold: of places and firms only words of three letters and more that are not common ones."""
    found: dict[str, set[int]] = {}
    for kind, of_kind in names.items():
        whole = kind in {"first", "last", "people"}
        found[kind] = {
            number
            for name in of_kind
            for word in ([name] if whole else name.split())
            if whole or len(word) > 2
            for number in listed(word)[:1]
            if whole or " " not in name or number not in common
        }
    return found


class Maker:
    """Texts from templates and names."""

    def __init__(self, rng: random.Random, names: dict[str, list[str]]) -> None:
        self.rng, self.names = rng, names

    def texts(self, rooms: Sequence[Sequence[str]], count: int) -> list[dict[str, Any]]:
        return [self._filled(self.rng.choice(self.rng.choice(rooms))) for _ in range(count)]

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
        if rng.random() < 0.05:
            other = text.upper() if rng.random() < 0.5 else text.lower()
            text = other if len(other) == len(text) else text
        return {"text": text, "spans": spans}

    def _values(self) -> dict[str, tuple[str, str | None]]:
        rng = self.rng
        first, last = rng.choice(self.names["first"]), rng.choice(self.names["last"])
        person = {
            "first": first, "last": last, "full": self.person() if rng.random() < 0.5 else f"{first} {last}",
            "first2": rng.choice(self.names["first"]), "last2": rng.choice(self.names["last"]), "full2": self.person(),
        }  # fmt: skip
        place = {"city": self.place(), "city2": self.place()}
        place |= {"country": rng.choice(self.names["country"]), "country2": rng.choice(self.names["country"])}
        values: dict[str, tuple[str, str | None]] = {}
        for kind, found in (
            ("PERSON", person), ("LOCATION", place), ("ORGANIZATION", {"org": self.firm(), "org2": self.firm()}),
        ):  # fmt: skip
            for name, value in found.items():
                values[name] = (value, kind)
                values[f"{name}_l"] = (value.lower(), kind)
                values[f"{name}_u"] = (value.upper(), kind)
        street = self._street()
        plain = {
            "title": rng.choice(TITLES), "title_de": rng.choice(TITLES_DE), "initial": rng.choice("ABCDEFGHJKLMNPRSTW"),
            "people": rng.choice(self.names["people"]), "people_de": rng.choice(PEOPLE_DE), "street": street,
            "street_u": street.upper(), "date_": f"{rng.randint(1, 28)} May {rng.randint(1700, 1990)}",
        }  # fmt: skip
        return values | {name: (value, None) for name, value in plain.items()}

    def _street(self) -> str:
        rng, number, last = self.rng, self.rng.randint(1, 999), self.rng.choice(self.names["last"])
        name = rng.choice(STREETS) if rng.random() < 0.5 else last
        return rng.choice((
            f"{number} {name} {rng.choice(('Street', 'Ave', 'Road', 'St.', 'Lane', 'Drive'))}",
            f"{number} {name} {rng.choice(('Court', 'Blvd', 'Way'))}, Apt {number % 40}",
            f"{name}{rng.choice(('straße', 'str.', 'weg', 'gasse'))} {number % 99 + 1}", f"Calle {last} {number}",
            f"Avenida {last}, {number}", f"{number} rue {last}", f"Via {last} {number}", f"Rua {last} {number}",
        ))  # fmt: skip

    def person(self) -> str:
        rng, first, last = self.rng, self.rng.choice(self.names["first"]), self.rng.choice(self.names["last"])
        chance = rng.random()
        if chance < 0.10:
            return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
        if chance < 0.16:
            return f"{first} {rng.choice(self.names['first'])} {last}"
        if chance < 0.20:
            return f"{first} {last}-{rng.choice(self.names['last'])}"
        if chance < 0.26:
            return f"{first[0]}. {last}"
        if chance < 0.29:
            return f"{first} {rng.choice(('van', 'de', 'von', 'van der', 'de la', 'da', 'di', 'al', 'bin'))} {last}"
        if chance < 0.33:
            return f"{first[0]}. {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
        if chance < 0.35:
            return f"{first} {last} {rng.choice(('Jr.', 'Sr.', 'III', 'II'))}"
        return f"{first} {last}"

    def place(self) -> str:
        return self.rng.choice(self.names["place" if self.rng.random() < 0.8 else "country"])

    def firm(self) -> str:
        rng, chance = self.rng, self.rng.random()
        last = rng.choice(self.names["last"])
        if chance < 0.30:
            return rng.choice(self.names["org"])
        if chance < 0.52:
            return f"{rng.choice(FIRMS)} {rng.choice(ENDS)}"
        if chance < 0.60:
            return f"{rng.choice(FIRMS)} {rng.choice(FIRMS)} {rng.choice(ENDS)}"
        if chance < 0.72:
            return f"{last} {rng.choice(ENDS)}"
        if chance < 0.80:
            return f"{last}{rng.choice((' & ', ' and ', ', '))}{rng.choice(('Sons', 'Co', 'Partners', rng.choice(self.names['last'])))}"
        if chance < 0.86:
            return f"{rng.choice(HEADS)} {rng.choice(self.names['place'])}"
        if chance < 0.92:
            return f"{rng.choice(self.names['place'])} {rng.choice(ENDS)}"
        if chance < 0.96:
            return "".join(rng.choice("ABCDEFGHIKLMNOPRSTUVW") for _ in range(rng.randint(2, 4)))
        return rng.choice(FIRMS) + rng.choice(("", "soft", "tech", "net", "ify", "ex", "ora"))

    def swapped(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same sentence about others: names of one kind in the place of names of that kind, with as many words."""
        rng, text, spans, at = self.rng, "", [], 0
        for span in sorted(row["spans"], key=lambda s: s["start"]):
            if span["type"] not in KINDS or span["start"] < at:
                continue
            old = row["text"][span["start"] : span["end"]]
            new = self._other(old, span["type"]) if rng.random() < 0.7 else old
            new = new.upper() if old.isupper() and len(old) > 4 else new.lower() if old.islower() else new
            text += row["text"][at : span["start"]]
            spans.append({"start": len(text), "end": len(text) + len(new), "type": span["type"]})
            text, at = text + new, span["end"]
        return {"text": text + row["text"][at:], "spans": spans}

    def _other(self, old: str, kind: str) -> str:
        rng, words = self.rng, old.split()
        if kind == "PERSON":
            return (
                rng.choice(self.names["first" if rng.random() < 0.4 else "last"])
                if len(words) == 1
                else self.person()
            )
        if kind == "LOCATION":
            return self.place()
        return self.firm() if len(words) > 1 or rng.random() < 0.3 else rng.choice(self.names["org"])


def labelled(folder: Path, name: str) -> list[dict[str, Any]]:
    """A labelled set."""
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


PLAIN_SETS = frozenset({"code_chunks", "banking77", "clinc150"})
_MAY_NAME = re.compile(
    r"(?i)copyright|author|@\w+\.|[A-Z][a-z]+ [A-Z][a-z]+ <|john|jane|alice|bob\b|smith|my name|london|paris|berlin"
)


def nameless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Code and short questions, with what might hold a name after all left out."""
    texts = (row["text"][:700] for row in rows if row["set"] in PLAIN_SETS)
    return [{"text": text, "spans": []} for text in texts if not _MAY_NAME.search(text)]


def gold(row: dict[str, Any]) -> tuple[list[Token], list[int]]:
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


# -- words of a language, from texts nobody labelled ---------------------------------------------------------------


def common_words(texts: Sequence[str]) -> tuple[set[int], set[int]]:
    """Words that are written small often (8 times), and now and then (2): what begins a sentence is no name for that."""
    seen: dict[int, int] = defaultdict(int)
    for text in texts:
        for word in text.split():
            if word.islower() and len(word) > 1:
                for number in listed(word):
                    seen[number] += 1
    return {n for n, count in seen.items() if count >= 8}, {n for n, count in seen.items() if 2 <= count < 8}
