"""The record of decisions: a person's records are found by pseudonym, and shredded by destroying the person's key.

The chain stays as it is and verifies. Afterwards nothing tells whose the pseudonym was, and what was sealed or hashed
for that person can be read or compared by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmshield.audit._places import sink_path
from llmshield.errors import ShieldError
from llmshield.evidence import segments
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People, people_path
from llmshield.evidence.searching import Query, find, opened
from llmshield.holders import Erased, Holder, Resealed
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
            sink = sink_path(self.policy.audit.sink)
            return Erased(
                proof=[f"there is no {people_path(sink)} (seen from {Path.cwd()})"]
                if sink is not None
                else []
            )
        sink, _, people = found
        gone = people.erase(user, tenant)
        if not gone:
            return Erased()
        pseudonyms = frozenset(person.pseudonym for person in gone)
        done, readable = Erased(people=len(gone)), 0
        try:
            for each in find(segments(sink), Query(users=pseudonyms)):
                done.items += 1
                content = each.record.get("content")
                readable += isinstance(content, dict) and content.get("mode") == "redacted"
        except (
            ShieldError,
            OSError,
        ) as error:  # the keys are gone: that is told, and what is not known as well
            done.left.append(f"not all records could be read, some may hold redacted texts: {error}")
        if readable:
            done.left.append(
                f"{readable} records hold redacted texts, which are part of the chain: they go with their segments, when "
                "`audit.retention` is over (`content: sealed` can be erased at once)"
            )
        done.proof.append(
            f"the keys of {', '.join(sorted(pseudonyms))} were destroyed in {people_path(sink)}; other hosts have logs of"
            " their own: run this there too"
        )
        try:
            failure = tell(self.policy, {"people": sorted(pseudonyms), "records": done.items})
        except (ShieldError, OSError) as error:  # it was erased: that must be told whatever the log says
            failure = str(error)
        if failure is not None:
            done.left.append(f"the chain could not be told of it: {failure}")
        return done

    def reseal(self) -> Resealed:
        """The files of all people of the log."""
        found = self._open()
        if found is None:
            return Resealed()
        count, left = found[2].reseal()
        if not left:
            return Resealed(count)
        return Resealed(
            count,
            [
                f"{left} people's files are of an older version, without the names that they would be found by: keep the older"
                " key in LLMSHIELD_PREVIOUS_KEYS for as long as `audit.retention`"
            ],
        )
