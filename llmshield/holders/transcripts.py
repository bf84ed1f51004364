"""Conversations that were kept: a person's are exported, and erased by destroying the person's key.

They are where the policy's `use: transcripts` says; an entry in `mode: disabled` keeps nothing and still tells where.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmshield.errors import ShieldError, StoreError
from llmshield.holders import Erased, Holder, Resealed
from llmshield.holders._telling import tell
from llmshield.transcripts import Kept, Transcripts

USE = "transcripts"


class TranscriptsHolder(Holder):
    """People whose conversations are kept."""

    what = "transcripts"

    @contextmanager
    def _open(self) -> Iterator[Transcripts | None]:
        """What is kept under this policy; None where nothing is. Raises: ShieldError where it can't be reached."""
        settings: Any = next((entry.settings for entry in self.policy.plugins if entry.use == USE), None)
        if settings is None:
            yield None
            return
        transcripts = Transcripts(Kept(settings.store, settings.keys))
        for place in (transcripts.keys, transcripts.rows):
            if not place.shared:
                raise StoreError(
                    f"they are in {place.name}, which no command reaches: a gateway that stops forgets them; name a store"
                    " such as sqlite:///transcripts.db"
                )
        try:
            yield transcripts if transcripts.open(make=False) else None
        finally:
            transcripts.close()

    def _nothing(self) -> list[str]:
        """Where nothing was found: a file of another folder is easily taken for none."""
        settings: Any = next((entry.settings for entry in self.policy.plugins if entry.use == USE), None)
        if settings is None:
            return []
        return [
            f"there is no {Transcripts(Kept(settings.store, settings.keys)).keys.name} (seen from {Path.cwd()})"
        ]

    def export(self, user: str, tenant: str | None) -> Iterator[dict[str, Any]]:
        """Every transcript of this person, opened."""
        with self._open() as transcripts:
            if transcripts is not None:
                yield from transcripts.export(user, tenant)

    def erase(self, user: str, tenant: str | None) -> Erased:
        """Destroy the keys, take the transcripts out, and tell the chain: which pseudonyms, not whose."""
        with self._open() as transcripts:
            if transcripts is None:
                return Erased(proof=self._nothing())
            done = transcripts.erase(user, tenant)
        erased = Erased(len(done.people), done.transcripts, done.left, done.proof)
        if done.people:
            try:
                failure = tell(
                    self.policy,
                    {
                        "what": self.what,
                        "people": done.people,
                        "transcripts": done.transcripts,
                        "left": len(done.left),
                    },
                )
            except (ShieldError, OSError) as error:  # it was erased: that must be told whatever the log says
                failure = str(error)
            if failure is not None:
                erased.left.append(f"the chain could not be told of it: {failure}")
        return erased

    def reseal(self) -> Resealed:
        """The keys of all people, and what tells which master key the place is for."""
        with self._open() as transcripts:
            if transcripts is None:
                return Resealed()
            count, left = transcripts.people.reseal()
        if not left:
            return Resealed(count)
        return Resealed(
            count,
            [
                f"{left} people were made again by a process that did not know this key; give every process both keys, and"
                " keep the older one until their transcripts are over"
            ],
        )
