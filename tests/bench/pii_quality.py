"""How well the `pii` plugin finds values: labelled texts, values in disguise, look-alikes, and speed.

    python tests/bench/pii_quality.py [--seeds 100] [--no-presidio] [LABELLED.jsonl ...]

A labelled file has one object a line: `{"text", "spans": [{"start", "end", "type"}], "subset"}`. A text counts for
the types that its subset labels anywhere, since such sets often label one type only. A finding is right when it has
the type and overlaps the labelled span. Nothing here is a pass mark; the suite has those.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import string
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmshield_plugins.pii import Pii
from llmshield_plugins.pii import checksums as sums

ALNUM = string.ascii_letters + string.digits


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def until(rng: random.Random, make: Callable[[], str], good: Callable[[str], bool]) -> str:
    while not good(value := make()):
        pass
    return value


def card(rng: random.Random) -> str:
    prefix, size = rng.choice(
        [("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("6011", 16), ("36", 14), ("3528", 16)]
    )
    return until(rng, lambda: prefix + digits(rng, size - len(prefix)), sums.card)


def iban(rng: random.Random) -> str:
    country, size = rng.choice([("DE", 22), ("FR", 27), ("ES", 24), ("NO", 15), ("PL", 28)])
    body = digits(rng, size - 4)
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    return f"{country}{check:02d}{body}"


def ssn(rng: random.Random) -> str:
    value = until(rng, lambda: digits(rng, 9), sums.ssn)
    return f"{value[:3]}-{value[3:5]}-{value[5:]}"


def itin(rng: random.Random) -> str:
    return f"9{digits(rng, 2)}-{rng.choice(['50', '65', '70', '88', '90', '94', '99'])}-{digits(rng, 4)}"


def email(rng: random.Random) -> str:
    name = rng.choice(["john.doe", "anna_k", "m.weber", "li-wei", "o.neil", "x9", "sales+eu"])
    return f"{name}{rng.randint(1, 99)}@{rng.choice(['example.com', 'mail.example.org', 'foo-bar.co.uk', 'web.de'])}"


def phone(rng: random.Random) -> str:
    area, office, line = rng.randint(201, 989), rng.randint(201, 989), digits(rng, 4)
    return rng.choice(
        [
            f"+1 {area} {office} {line}",
            f"({area}) {office}-{line}",
            f"{area}-{office}-{line}",
            f"+44 20 7946 0{digits(rng, 3)}",
            f"+49 171 {digits(rng, 7)}",
        ]
    )


GENERATORS: dict[str, Callable[[random.Random], str]] = {
    "EMAIL_ADDRESS": email,
    "CREDIT_CARD": card,
    "IBAN_CODE": iban,
    "US_SSN": ssn,
    "US_ITIN": itin,
    "PHONE_NUMBER": phone,
    "IP_ADDRESS": lambda r: ".".join(str(r.randint(1, 254)) for _ in range(4)),
    "MAC_ADDRESS": lambda r: ":".join(f"{r.randint(1, 254):02X}" for _ in range(6)),
    "URL_WITH_CREDENTIALS": lambda r: f"https://user{r.randint(1, 99)}:{digits(r, 3)}pW{digits(r, 4)}@db.example.com/x",
    "API_KEY": lambda r: r.choice(["sk-proj-", "sk-ant-api03-", "glpat-"]) + "".join(r.choice(ALNUM) for _ in range(48)),
    "JWT": lambda r: ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in ({"alg": "HS256", "typ": "JWT"}, {"sub": digits(r, 10)})) + "." + "".join(r.choice(ALNUM) for _ in range(43)),
    "PRIVATE_KEY": lambda r: "-----BEGIN PRIVATE KEY-----\n" + "\n".join("".join(r.choice(ALNUM + "+/") for _ in range(64)) for _ in range(3)) + "\n-----END PRIVATE KEY-----",
    "CRYPTO": lambda r: "0x" + "".join(r.choice("0123456789abcdef") for _ in range(40)),
    "DATE_OF_BIRTH": lambda r: f"{r.randint(1, 12):02d}/{r.randint(1, 28):02d}/{r.randint(1930, 2010)}",
    "STREET_ADDRESS": lambda r: f"{r.randint(1, 9999)} {r.choice(['Oak', 'Maple', 'Washington', 'Lake View'])} {r.choice(['Street', 'Avenue', 'Rd', 'Blvd'])}",
    "UK_NINO": lambda r: f"{r.choice(['AB', 'CE', 'JK'])}{digits(r, 6)}{r.choice('ABCD')}",
    "ES_NIF": lambda r: (lambda n: n + "TRWAGMYFPDXBNJZSQVHLCKE"[int(n) % 23])(digits(r, 8)),
    "BR_CPF": lambda r: (lambda v: f"{v[:3]}.{v[3:6]}.{v[6:9]}-{v[9:]}")(until(r, lambda: digits(r, 11), sums.cpf)),
    "US_PASSPORT": lambda r: r.choice(string.ascii_uppercase) + digits(r, 8),
    "UK_NHS": lambda r: until(r, lambda: digits(r, 10), sums.nhs),
    "IN_PAN": lambda r: "ABC" + "P" + r.choice(string.ascii_uppercase) + digits(r, 4) + r.choice(string.ascii_uppercase),
}  # fmt: skip
ANNOUNCE = {"DATE_OF_BIRTH": "date of birth: ", "US_PASSPORT": "passport no: ", "UK_NHS": "NHS number: "}


def separated(rng: random.Random, value: str) -> str:
    separator = rng.choice([" ", "-", ".", "\u00a0", "\u2009", "\u2011", "\u2013"])
    if value.isdigit() and len(value) in (14, 15, 16):
        return separator.join(value[i : i + 4] for i in range(0, len(value), 4))
    return value.replace("-", separator) if value.replace("-", "").isdigit() else value


def other_digits(rng: random.Random, value: str) -> str:
    zero = rng.choice([0x660, 0x6F0, 0x966, 0x9E6, 0xFF10, 0x1D7CE, 0x1D7F6])
    return "".join(chr(zero + int(c)) if c in string.digits else c for c in value)


DISGUISES: dict[str, Callable[[random.Random, str], str]] = {
    "plain": lambda r, v: v,
    "separators": separated,
    "digit scripts": other_digits,
    "fullwidth": lambda r, v: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in v),
    "zero-width": lambda r, v: "".join(c + r.choice(["", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad"]) for c in v),
    "JSON": lambda r, v: "".join(f"\\u{ord(c):04x}" if r.random() < 0.6 else c for c in v) if "\n" not in v else json.dumps(v)[1:-1],
    "HTML": lambda r, v: "".join(r.choice([f"&#{ord(c)};", f"&#x{ord(c):x};"]) if not c.isalnum() and c != "\n" else c for c in v),
    "HTML whole": lambda r, v: "".join(r.choice([f"&#{ord(c)};", f"&#x{ord(c):X};"]) for c in v),
    "URL whole": lambda r, v: "".join(f"%{byte:02{r.choice('xX')}}" for byte in v.encode()),
    "URL": lambda r, v: quote(v, safe=""),
    "base64": lambda r, v: base64.b64encode(f"value {v} end".encode()).decode(),
    "base64 bare": lambda r, v: base64.urlsafe_b64encode(v.encode()).decode().rstrip("="),
    "hex": lambda r, v: v.encode().hex(),
    "JWT carrier": lambda r, v: ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in ({"alg": "HS256"}, {"sub": v})) + "." + "".join(r.choice(ALNUM) for _ in range(43)),
}  # fmt: skip


def look_alike(rng: random.Random) -> str:
    year, month, day = rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(1, 28)
    hexes = "".join(rng.choice("0123456789abcdef") for _ in range(64))
    return rng.choice([
        lambda: f"order {digits(rng, 3)}-{digits(rng, 7)}-{digits(rng, 7)}",
        lambda: f"order number {digits(rng, rng.randint(6, 12))}",
        lambda: f"invoice INV-{year}-{digits(rng, 6)}",
        lambda: f"version {rng.randint(0, 30)}.{rng.randint(0, 30)}.{rng.randint(0, 30)}.{rng.randint(0, 9999)}",
        lambda: f"commit {hexes[:40]}", lambda: f"md5 {hexes[:32]}", lambda: f"sha256:{hexes}",
        lambda: f"{hexes[:8]}-{hexes[8:12]}-4{hexes[13:16]}-a{hexes[17:20]}-{hexes[20:32]}",
        lambda: f"{year}-{month:02d}-{day:02d}T{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}Z",
        lambda: f"{day:02d}.{month:02d}.{year} {rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
        lambda: f"{rng.randint(1, 9) * 10**9 + rng.randint(0, 10**9)}", lambda: f"ts={1_600_000_000_000 + rng.randint(0, 10**11)}",
        lambda: f"{rng.uniform(-90, 90):.6f}, {rng.uniform(-180, 180):.6f}", lambda: f"{rng.random()!r}",
        lambda: f"total {rng.randint(1, 999)},{digits(rng, 3)},{digits(rng, 3)}.{digits(rng, 2)} USD",
        lambda: f"ISBN 978-{rng.randint(0, 9)}-{digits(rng, 2)}-{digits(rng, 6)}-{rng.randint(0, 9)}",
        lambda: f"{1000 + rng.randint(0, 999)}-{2000 + rng.randint(0, 99)}", lambda: f"#{digits(rng, 8)}",
        lambda: f"000-{rng.randint(10, 99)}-{digits(rng, 4)}", lambda: f"9{digits(rng, 2)}-{rng.choice(['00', '30', '89', '93'])}-{digits(rng, 4)}",
        lambda: until(rng, lambda: "4" + digits(rng, 15), lambda v: not sums.luhn(v)),
        lambda: f"tracking 1Z{hexes[:6].upper()}{digits(rng, 10)}", lambda: f"row {' '.join(digits(rng, 2) for _ in range(8))}",
        lambda: f"pkg@{rng.randint(0, 9)}.{rng.randint(0, 99)}.{rng.randint(0, 99)}", lambda: f"img@{rng.randint(1, 3)}x.png",
        lambda: "".join(rng.choice(ALNUM) for _ in range(rng.randint(8, 24))), lambda: f"{rng.randint(1, 99)} Apples And Pears",
    ])()  # fmt: skip


def labelled(scan: Callable[[str], Any], path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    types: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        types[row.get("subset", "")].update(span["type"] for span in row["spans"])
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for row in rows:
        found = scan(row["text"])["spans"]
        for span in row["spans"]:
            hit = any(
                f["type"] == span["type"] and f["start"] < span["end"] and span["start"] < f["end"]
                for f in found
            )
            (right if hit else missed)[span["type"]] += 1
        for f in found:
            if f["type"] in types[row.get("subset", "")] and not any(
                f["type"] == s["type"] and f["start"] < s["end"] and s["start"] < f["end"]
                for s in row["spans"]
            ):
                wrong[f["type"]] += 1
    print(f"\n{path.name}\n{'type':32} {'labelled':>8} {'recall':>7} {'precision':>9}")
    for kind in sorted({*right, *missed, *wrong}, key=lambda k: -(right[k] + missed[k])):
        labels, hits = right[kind] + missed[kind], right[kind]
        precision = hits / (hits + wrong[kind]) if hits + wrong[kind] else float("nan")
        print(f"{kind:32} {labels:8} {hits / labels if labels else float('nan'):7.2f} {precision:9.2f}")


def disguised(scan: Callable[[str], Any], seeds: int, verbose: bool) -> None:
    print(f"\nvalues in disguise, share found ({seeds} seeds; `any`: under whatever kind)")
    print(f"{'kind':22}" + "".join(f"{name[:11]:>12}" for name in DISGUISES))
    total: Counter[str] = Counter()
    for kind, make in GENERATORS.items():
        line = f"{kind:22}"
        for name, wear in DISGUISES.items():
            hits = 0
            for seed in range(seeds):
                rng = random.Random(f"{kind}{name}{seed}")
                worn = wear(rng, make(rng))
                text = f"Please note: {ANNOUNCE.get(kind, '')}{worn} - thanks"
                start = text.index(worn)
                found = any(s["start"] < start + len(worn) and start < s["end"] for s in scan(text)["spans"])
                hits += found
                if verbose and not found:
                    print("   missed", kind, name, repr(text))
            total[name] += hits
            line += f"{hits / seeds:12.2f}"
        print(line)
    print(f"{'all':22}" + "".join(f"{total[name] / seeds / len(GENERATORS):12.3f}" for name in DISGUISES))


def untouched(scan: Callable[[str], Any], count: int, verbose: bool) -> None:
    touched: Counter[str] = Counter()
    for seed in range(count):
        text = look_alike(random.Random(f"look{seed}"))
        for span in scan(text)["spans"]:
            touched[span["type"]] += 1
            if verbose:
                print("   touched", span["type"], span["score"], repr(text))
    print(
        f"\nlook-alikes touched: {sum(touched.values())} of {count} ({100 * sum(touched.values()) / count:.2f} %) {dict(touched)}"
    )


def speed(scan: Callable[[str], Any]) -> None:
    prose = (
        "The quick brown fox jumps over the lazy dog. Anna went to school yesterday, and she saw no one. "
        * 100
    )
    mixed = (
        "On 2024-01-15 at 10:22 we shipped 15 items (v1.2.3) for 1,234.56 EUR to 3 customers; "
        "see https://example.com/a?b=1. "
    ) * 100
    dense = (
        "Hi, my mail is anna.smith@example.com, my card 4111 1111 1111 1111, call +1 212 555 0187 please. "
        * 100
    )
    print("\nspeed, best of 5 (CPU us): characters, prose, prose with numbers, dense in values")
    for size in (200, 500, 1000, 8000):
        line = f"{size:6}"
        for text in (prose, mixed, dense):
            cut, best = text[:size], 1e9
            for _ in range(5):
                begin = time.process_time()
                for _ in range(50):
                    scan(cut)
                best = min(best, (time.process_time() - begin) / 50)
            line += f"{best * 1e6:12.1f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labelled", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--no-presidio", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="print what was missed and what was touched")
    chosen = parser.parse_args()
    scan = Pii.scanner(Pii.Settings(presidio=not chosen.no_presidio)).scan
    for path in chosen.labelled:
        labelled(scan, path)
    disguised(scan, chosen.seeds, chosen.verbose)
    untouched(scan, 1000, chosen.verbose)
    speed(scan)


if __name__ == "__main__":
    main()
