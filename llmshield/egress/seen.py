"""Who was seen at the proxy, going where, and what became of it; kept in a file for `egress report` and `egress doctor`.

Names and addresses only: nothing is decrypted for it. A line is one host, one client and one outcome.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmshield.local_state import default_folder
from llmshield.logs import log

MOST = 10_000
"""Lines that are kept; those that were seen last stay."""


@dataclass(slots=True)
class Sight:
    """One host, client and outcome: how often, and when first and last (seconds since 1970)."""

    how: str
    host: str
    client: str
    connections: int
    first: float
    last: float


class Seen:
    """The list, read from its file where there is one."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or default_folder() / "egress" / "seen.json"
        self.sights = {(each.how, each.host, each.client): each for each in read(self.file)}
        self._changed = False

    def add(self, counts: Sequence[Sequence[Any]], now: float) -> None:
        """More of `[how, host, client, number]`."""
        for how, host, client, number in counts:
            sight = self.sights.get((how, host, client))
            if sight is None:
                sight = self.sights[how, host, client] = Sight(how, host, client, 0, now, now)
            sight.connections += number
            sight.last = now
            self._changed = True

    def write(self) -> None:
        """Write the file, whole or not at all. What can't be written is logged: it is no evidence, only a help."""
        if not self._changed:
            return
        self._changed = False
        kept = sorted(self.sights.values(), key=lambda each: -each.last)[:MOST]
        if len(kept) < len(self.sights):
            self.sights = {(each.how, each.host, each.client): each for each in kept}
        rows = [[each.how, each.host, each.client, each.connections, each.first, each.last] for each in kept]
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_text(json.dumps({"version": 1, "seen": rows}), encoding="utf-8")
            part.chmod(0o600)
            part.replace(self.file)
        except OSError as error:
            log.warning("seen_not_written", file=str(self.file), why=error.strerror or "")
            with contextlib.suppress(OSError):
                part.unlink()


def read(file: Path | None = None) -> list[Sight]:
    """What the file has; nothing where there is none, or it is none of ours."""
    try:
        rows = json.loads((file or default_folder() / "egress" / "seen.json").read_text(encoding="utf-8"))
        return [
            Sight(str(how), str(host), str(client), int(number), float(first), float(last))
            for how, host, client, number, first, last in rows["seen"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
