"""Finding records: by whom, when, what and what became of it; and writing them for other programs.

Segments are read line by line and merged by time; what is no record is counted and passed over (`audit verify` names
it). Nothing here needs a key but what a person is called, an address, a client key, and sealed texts.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import heapq
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmshield.errors import SecretError
from llmshield.evidence.segments import LONGEST_LINE
from llmshield.sealing import KeyRing

COLUMNS = (
    "time", "kind", "request_id", "tenant", "tier", "user", "key_id", "client", "policy", "mount", "dialect", "operation",
    "path", "model", "provider", "answered_model", "action", "status", "error", "finish", "input_tokens", "output_tokens",
    "cost_usd", "latency_ms", "verdicts", "findings", "attempts", "role", "target", "outcome", "file", "seq", "hash",
)  # fmt: skip
"""Columns of a CSV, in this order."""
_TOGETHER = 200
"""Segments that are open at once."""
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?")
_FORMULA = tuple("=+-@\t\r\n|%＝＋－＠")
"""A cell that begins so is a formula for a spreadsheet (OWASP, CSV Injection; full-width ones in East Asian editions)."""


class Found(NamedTuple):
    """One record, and where it stands."""

    time: str
    path: Path
    line: int
    record: dict[str, Any]


@dataclass(slots=True)
class Query:
    """What is looked for; None is anything. `users`, `clients` and `keys` are pseudonyms and hashes as they stand in
    records, `texts` keyed hashes of one text, `said` that text itself (for `redacted` records). Times are RFC 3339 in UTC."""

    kinds: frozenset[str] | None = None
    tenant: str | None = None
    users: frozenset[str] | None = None
    clients: frozenset[str] | None = None
    keys: frozenset[str] | None = None
    since: str | None = None
    until: str | None = None
    model: str | None = None
    provider: str | None = None
    action: str | None = None
    plugin: str | None = None
    request_id: str | None = None
    texts: frozenset[str] | None = None
    said: str | None = None

    def takes(self, record: dict[str, Any]) -> bool:
        """Whether a record is one of them."""
        get = record.get
        time = str(get("time", ""))
        return (
            (self.kinds is None or get("kind") in self.kinds)
            and (self.tenant is None or get("tenant") == self.tenant)
            and (self.users is None or get("user") in self.users)
            and (self.clients is None or get("client") in self.clients)
            and (self.keys is None or get("key_id") in self.keys or get("actor") in self.keys)
            and (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.model is None or self.model in {get("model"), get("answered_model")})
            and (
                self.provider is None
                or any(self.provider == each.get("provider") for each in get("attempts") or ())
            )
            and (self.action is None or get("action") == self.action)
            and (self.plugin is None or any(_spoke(self.plugin, each) for each in get("verdicts") or ()))
            and (self.request_id is None or get("request_id") == self.request_id)
            and (self.texts is None or self._holds(get("content")))
        )

    def _holds(self, content: Any) -> bool:
        if not isinstance(content, dict) or self.texts is None:
            return False
        if content.get("mode") == "redacted":
            return any(each[2] == self.said for each in content.get("texts", ()))
        return any(each.get("hash") in self.texts for each in content.get("texts", ()))


def find(paths: Iterable[Path], query: Query) -> Iterator[Found]:
    """The records that a query takes, from all segments, by time: exactly so up to `_TOGETHER` of them, else one
    segment after the other. Raises: OSError."""
    begun = sorted((began, path) for path in paths if (began := _began(path)) is not None)
    wanted = [path for began, path in begun if query.until is None or began < query.until]
    found = [_find(path, query) for path in wanted]
    if len(found) <= _TOGETHER:
        return heapq.merge(*found, key=lambda each: each.time)
    return chain.from_iterable(found)


def _began(path: Path) -> str | None:
    """The time of a segment's first record; None when it has none."""
    with path.open("rb") as file, contextlib.suppress(ValueError, KeyError, TypeError):
        return str(orjson.loads(file.readline(LONGEST_LINE))["time"])
    return None


def _find(path: Path, query: Query) -> Iterator[Found]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            try:
                record = orjson.loads(line)
                if query.takes(record):
                    yield Found(str(record["time"]), path, number, record)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                continue  # no record of ours: `audit verify` names it


def _spoke(plugin: str, verdict: dict[str, Any]) -> bool:
    """Whether a plugin had something to say: `pii`, or `pii:redact` for that verdict alone."""
    name, _, action = plugin.partition(":")
    said = verdict.get("action")
    return verdict.get("plugin") == name and (said == action if action else said != "allow")


def opened(record: dict[str, Any], people: Mapping[str, KeyRing], own: Sequence[KeyRing]) -> dict[str, Any]:
    """The record with its sealed texts opened, where their key is here: `people` are by pseudonym, `own` the sink's.
    A text whose key was destroyed, or is not here, stays closed and says so (`opened`: false)."""
    content = record.get("content")
    if not isinstance(content, dict) or content.get("mode") != "sealed":
        return record
    who = record.get("user")
    for ring in own if not who else [people[who]] if who in people else []:
        with contextlib.suppress(SecretError, KeyError):
            texts = open_texts(str(content["sealed"]), ring, str(record["request_id"]))
            return record | {"content": {"mode": "sealed", "texts": texts, "cut": content.get("cut", 0)}}
    return record | {"content": {"mode": "sealed", "opened": False}}


def seal_texts(plain: str, ring: KeyRing, request_id: str) -> str:
    """Texts, as JSON, sealed for the record of one call, in base64."""
    return base64.b64encode(ring.seal(zlib.compress(plain.encode(), 1), _context(request_id))).decode()


def open_texts(sealed: str, ring: KeyRing, request_id: str) -> list[Any]:
    """What `seal_texts` has sealed. Raises: SecretError when this ring can't open it."""
    try:
        packed = ring.unseal(base64.b64decode(sealed, validate=True), _context(request_id))
        texts: list[Any] = json.loads(zlib.decompress(packed))
        return texts
    except (binascii.Error, ValueError, zlib.error):
        raise SecretError("the sealed texts are of another version") from None


def row(found: Found) -> list[str]:
    """A record as cells of a CSV, none of which is a formula for a spreadsheet."""
    record = found.record
    said = record | {
        "file": found.path.name,
        "verdicts": "; ".join(f"{v.get('plugin')}:{v.get('action')}" for v in record.get("verdicts") or ()),
        "findings": "; ".join(
            f"{f.get('type')}x{f.get('count')}@{f.get('place')}"
            for v in record.get("verdicts") or ()
            for f in v.get("findings") or ()
        ),
        "attempts": "; ".join(
            f"{a.get('provider')}/{a.get('model')}:{a.get('outcome')}" for a in record.get("attempts") or ()
        ),
    }
    return [cell(said.get(column)) for column in COLUMNS]


def cell(value: Any) -> str:
    """A value as a cell: what a spreadsheet would take for a formula gets an apostrophe before it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    if text.lstrip(" \u00a0\u3000\u200b\ufeff").startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _context(request_id: str) -> str:
    return f"audit:content:{request_id}"
