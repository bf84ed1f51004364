"""Placeholders that hold for a conversation: the same value has the same one in each of its calls.

What was given so far is a note in the store: sealed by the key ring, bound to the tenant and the conversation, and gone
after its lifetime. A call reads it, numbers its new values on from there, and writes it back only where nobody else has
in the meantime; otherwise it numbers anew. Nothing is sent before that is written, so no number ever stands for two
values. Nobody reads another tenant's: its name is another, and it would not open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from llmshield import clock
from llmshield.call import Call
from llmshield.errors import StoreUnavailable
from llmshield.stores import Store
from llmshield_plugins.pii.placeholders import Given

SHELF = "pii-conversations"
MOST = 2_000
"""Values that one conversation keeps; the oldest are forgotten first, and their numbers are not given again."""
LONGEST_ID = 256
_TURNS = 12
"""Times that a note is read anew because another call of the conversation was faster."""
_CREDENTIALS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")


class Seals(Protocol):
    """A key ring."""

    def seal(self, data: bytes, context: str) -> bytes: ...

    def unseal(self, sealed: bytes, context: str) -> bytes: ...


def packed(given: Given, until_ms: int) -> bytes:
    """What was given, as it is sealed; the last `MOST` values of each sort."""
    fakes = [[kind, value, made] for (kind, value), made in given.fakes.items()]
    return json.dumps(
        {
            "v": 1, "until": until_ms, "numbers": given.numbers, "originals": list(given.originals.items())[-MOST:],
            "fakes": fakes[-MOST:],
        }
    ).encode()  # fmt: skip


def unpacked(data: bytes) -> tuple[Given, int]:
    """What `packed` wrote, and until when it is kept."""
    kept = json.loads(data)
    fakes = {(kind, value): made for kind, value, made in kept["fakes"]}
    return Given(dict(kept["originals"]), fakes, dict(kept["numbers"])), int(kept["until"])


class Conversations:
    """The notes of all conversations of one plugin. Holds no value."""

    def __init__(
        self, store: Store, ring: Callable[[], Seals], name: str, sources: tuple[str, ...], ttl_s: float
    ) -> None:
        self._store, self._ring, self._name = store, ring, name
        self._sources = [source.partition(":")[::2] for source in sources]
        self._ttl_ms = int(ttl_s * 1000)

    def page(self, call: Call) -> Page | None:
        """The conversation of a call, or None when it names none. Raises: ValueError for an id that is none."""
        for kind, name in self._sources:
            found = call.headers.get(name.lower()) if kind == "header" else _in_body(call, kind, name)
            if found is None or found == "":
                continue
            if not isinstance(found, str) or len(found) > LONGEST_ID:
                raise ValueError(
                    f"{kind}:{name} names a conversation: expected text of 1 to {LONGEST_ID} characters."
                )
            return Page(self, self._place(call, found))
        return None

    def _place(self, call: Call, conversation: str) -> str:
        """Where a conversation's note is: a hash of whose it is. Callers without a name are told apart by the key that
        they bring for the provider."""
        credential = ""
        if call.tenant == "anonymous":
            credential = "\0".join(call.headers.get(header, "") for header in _CREDENTIALS)
        whose = json.dumps([self._name, call.tenant, credential, conversation])
        return hashlib.sha256(whose.encode("utf-8", "surrogatepass")).hexdigest()


class Page:
    """One conversation's note, for one call."""

    __slots__ = ("_of", "_place", "_raw", "_until")

    def __init__(self, of: Conversations, place: str) -> None:
        self._of = of
        self._place = place
        self._raw: bytes | None = None
        self._until = 0

    async def read(self) -> Given:
        """What was given so far. Raises: StoreUnavailable, SecretError for a note that does not open."""
        now = int(clock.now() * 1000)
        return self._opened(await self._of._store.look(SHELF, self._place, now))

    async def write(self, given: Given) -> Given | None:
        """Keep it; None: done. Else another call was faster, and this is what stands there now.

        Raises: StoreUnavailable, SecretError.
        """
        now = int(clock.now() * 1000)
        until = now + self._of._ttl_ms
        new = self._of._ring().seal(packed(given, until), self._context())
        stands = await self._of._store.swap(SHELF, self._place, self._raw, new, until, now)
        return None if stands == new else self._opened(stands)

    @property
    def is_old(self) -> bool:
        """Whether half of its lifetime is over: what is used is kept longer."""
        return self._raw is not None and int(clock.now() * 1000) > self._until - self._of._ttl_ms // 2

    def _opened(self, raw: bytes | None) -> Given:
        self._raw = raw
        if raw is None:
            return Given()
        given, self._until = unpacked(self._of._ring().unseal(raw, self._context()))
        return given

    def _context(self) -> str:
        return f"pii:conversation:{self._place}"


async def agreed(page: Page, work: Callable[[Given], Given]) -> None:
    """Run `work` on what a conversation has given until its result could be kept.

    `work` takes what was given, may change it, and says what is given after it; it may run several times.
    Raises: StoreUnavailable also when other calls were faster each time; SecretError.
    """
    given = await page.read()
    for _ in range(_TURNS):
        before = given.count
        after = work(given)
        if after.count == before and not page.is_old:
            return
        stands = await page.write(after)
        if stands is None:
            return
        given = stands
    raise StoreUnavailable("a conversation has too many calls at once; its placeholders could not be kept")


def _in_body(call: Call, kind: str, name: str) -> Any:
    """`metadata:NAME` or `body:/pointer` of the call's body, a string or nothing."""
    steps = ["metadata", name] if kind == "metadata" else name.strip("/").split("/")
    value: Any = call.body
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
