"""`uid`: the user that a client runs as on this machine names its tenant (`identity.uid`), under the transparent mount.

Linux tells whose a connection is (/proc/net/tcp) while it is open, to those in the same network namespace. It is asked
once for each connection, which takes as long as the table is: 0.1 ms for a hundred connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmshield.identity import Asked, House, Way, Who
from llmshield.origins import uid_of

NOBODY = -1
"""A uid that was looked for and not found."""


class Uid(Way):
    """The tenant by the client's user."""

    form: ClassVar[str] = "uid"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        users = house.policy.identity.uid or {}
        self._users = {int(uid): Who(tenant, house.tier_of(tenant)) for uid, tenant in users.items()}

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Who | None:
        origin = asked.origin if asked is not None else None
        if origin is None:
            return None
        if origin.uid is None:
            found = uid_of(origin.address, origin.port)
            origin.uid = NOBODY if found is None else found
        return self._users.get(origin.uid)
