"""Users of this machine, as options name them, and what a process gets that runs as one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NOWHERE = "/nonexistent"
"""Home of a user who has none, as Debian writes it: nothing is kept there."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user: numbers, name and home. One whom the machine has no entry for (as in containers) has its number for a
    group and a name, and no home."""

    uid: int
    gid: int
    name: str
    home: str

    def environment(self) -> dict[str, str]:
        """What tells programs of this user. `XDG_STATE_HOME` is left as it is: who sets it means it."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def closed_out_of(self, path: str) -> Path | None:
        """The first folder on the way to a path, links followed, that this user may not enter, or the path itself where
        it may not be read; None where nothing is in the way. Modes are looked at; of groups, only the own one."""
        real = Path(os.path.realpath(path))
        for way in ((*reversed(Path(path).absolute().parents),), (*reversed(real.parents), real)):
            for place in way:
                try:
                    status = place.stat()
                except OSError:
                    return None  # it is not there: somebody else says so
                wanted = 0o1 if place != real else 0o4
                shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
                if self.uid != 0 and not status.st_mode >> shift & wanted:
                    return place
        return None


def find(text: str) -> Account | None:
    """The user of a number or a name; None for a name that nobody has, and for a number that no user can have."""
    import pwd

    try:
        if not (text.isascii() and text.isdigit()):
            entry = pwd.getpwnam(text)
        elif int(text) < 2**32 - 1:
            entry = pwd.getpwuid(int(text))
        else:
            return None
    except KeyError:
        return Account(int(text), int(text), text, NOWHERE) if text.isascii() and text.isdigit() else None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir or NOWHERE)
