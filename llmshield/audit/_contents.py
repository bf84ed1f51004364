"""What is kept of the texts of a call: nothing, keyed hashes, the texts as the provider saw them, or those sealed.

The texts are those that the provider got and wrote, after every plugin's edits (placeholders still in): never what
the client typed where a plugin replaced it, never what was put back. Keys are redacted on top of that.
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from llmshield.evidence.identifiers import TEXTS, text_hash
from llmshield.evidence.people import Person
from llmshield.evidence.searching import seal_texts
from llmshield.records import fresh, quoted
from llmshield.redact import redact
from llmshield.sealing import KeyRing

Mode = Literal["none", "hash", "redacted", "sealed"]

MOST_TEXTS = 200
MOST_CHARACTERS = 65_536
"""Characters of one record's texts; what is beyond is counted, not kept. As JSON in ASCII they stay below 800 kB."""


class Said(NamedTuple):
    """One text: who said it (system, user, assistant, tool, output), where it stood, and its words."""

    role: str
    place: str
    text: str


def content_field(
    mode: Mode, said: list[Said], person: Person | None, ring: KeyRing, mac: bytes, request_id: str
) -> str:
    """The `content` of a record, as JSON. `ring` and `mac` are the sink's, for calls that name no person."""
    fresh()
    kept, cut = _bounded(said)
    if mode == "hash":
        key = person.ring.derive(TEXTS) if person is not None else mac
        texts = [
            f'{{"role":{quoted(each.role)},"place":{quoted(each.place)},"hash":"{text_hash(key, each.text)}"}}'
            for each in kept
        ]
        return f'{{"mode":"hash","texts":[{",".join(texts)}],"cut":{cut}}}'
    plain = json.dumps([[each.role, each.place, each.text] for each in kept], separators=(",", ":"))
    if mode == "redacted":
        return f'{{"mode":"redacted","texts":{plain},"cut":{cut}}}'
    sealed = seal_texts(plain, person.ring if person is not None else ring, request_id)
    return f'{{"mode":"sealed","sealed":"{sealed}","cut":{cut}}}'


def _bounded(said: list[Said]) -> tuple[list[Said], int]:
    """What is kept, redacted; and how many characters are not."""
    kept: list[Said] = []
    room, cut = MOST_CHARACTERS, 0
    for each in said:
        text = redact(each.text)
        if not room or len(kept) >= MOST_TEXTS:
            cut += len(text)
            continue
        kept.append(Said(each.role, each.place, text[:room]))
        cut += max(0, len(text) - room)
        room -= min(room, len(text))
    return kept, cut
