"""The record of decisions: a person's records are found by pseudonym, and shredded by destroying the person's key.

The chain stays as it is and verifies. Afterwards nothing tells whose the pseudonym was, and what was sealed or hashed
for that person can be read or compared by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmshield.audit._places import sink_path
from llmshield.evidence import segments
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People, people_path
from llmshield.evidence.searching import Query, find, opened
from llmshield.holders import Erased, Holder
from llmshield.holders._telling import tell


class AuditHolder(Holder):
    """People in the policy's audit log."""

    what = "records of decisions"

    def _open(self) -> tuple[Path, Identifiers, People] | None:
        """Where the log is and who is in it; None when it keeps nobody."""
        sink = sink_path(self.policy.audit.sink)
        if sink is None or not people_path(sink).is_dir():
            return None
        ids = Identifiers.of(sink, make=False)
        return sink, ids, People(sink, ids)

    def export(self, user: str, tenant: str | None) -> Iterator[dict[str, Any]]:
        """Every record of this person, with sealed texts opened."""
        found = self._open()
        if found is None:
            return
        sink, ids, people = found
        rings = {person.pseudonym: person.ring for person in people.find(user, tenant)}
        if rings:
            for each in find(segments(sink), Query(users=frozenset(rings))):
                yield opened(each.record, rings, ids.rings)

    def erase(self, user: str, tenant: str | None) -> Erased:
        """Destroy the keys, and tell the chain that it was done: which pseudonyms, not whose."""
        found = self._open()
        if found is None:
            return Erased()
        sink, _, people = found
        gone = people.erase(user, tenant)
        if not gone:
            return Erased()
        pseudonyms = frozenset(person.pseudonym for person in gone)
        done, readable = Erased(people=len(gone)), 0
        for each in find(segments(sink), Query(users=pseudonyms)):
            done.items += 1
            content = each.record.get("content")
            readable += isinstance(content, dict) and content.get("mode") == "redacted"
        if readable:
            done.left.append(
                f"{readable} records hold redacted texts, which are part of the chain: they go with their segments, when "
                "`audit.retention` is over (`content: sealed` can be erased at once)"
            )
        failure = tell(self.policy, {"people": sorted(pseudonyms), "records": done.items})
        if failure is not None:
            done.left.append(f"the chain could not be told of it: {failure}")
        return done
