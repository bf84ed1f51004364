"""No record, no call: where `audit.required` is set, nobody is asked and nothing is answered unwritten.

Three records tell of one exchange, by its request id. `ask` is durable before a provider gets the first byte of an
attempt (whom it is, what was decided so far); `answer` before the client gets the first byte of whatever it is
answered, a refusal included; `call`, the whole record, follows when the exchange is over. What can't be recorded is
refused with a 503 in the client's dialect. Without `required` there is only `call`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from llmshield.errors import CallError, StoreUnavailable

if TYPE_CHECKING:
    from llmshield.exchange import AtOnce, Client, Exchange


class Notary(Protocol):
    """Writes what must be durable before something happens."""

    @property
    def ready(self) -> bool:
        """Whether records can be written at the moment, as far as is known."""
        ...

    async def write(self, x: Exchange, kind: str) -> None:
        """Return when the record is durable. Raises: StoreUnavailable."""
        ...


class Witness:
    """The notary's hand on one exchange."""

    __slots__ = ("_notary",)

    def __init__(self, notary: Notary) -> None:
        self._notary = notary

    def admit(self) -> None:
        """Refuse at once while no record can be written. Raises: CallError `store_unavailable`."""
        if not self._notary.ready:
            raise _refusal()

    async def ask(self, x: Exchange) -> None:
        """Somebody is about to be asked. Raises: CallError `store_unavailable`."""
        await self._write(x, "ask")

    async def answer(self, x: Exchange) -> None:
        """The client is about to be answered. Raises: CallError `store_unavailable`."""
        await self._write(x, "answer")

    async def _write(self, x: Exchange, kind: str) -> None:
        try:
            await self._notary.write(x, kind)
        except StoreUnavailable as error:
            raise _refusal() from error


class Gate:
    """The client of an exchange behind its witness: the head goes out when it is on record.

    When it can't be, the next head, which is our refusal, goes out without.
    """

    __slots__ = ("_client", "_open", "_witness", "_x")

    def __init__(self, client: Client, witness: Witness, x: Exchange) -> None:
        self._client = client
        self._witness = witness
        self._x = x
        self._open = False

    @property
    def started(self) -> bool:
        return self._client.started

    @started.setter
    def started(self, value: bool) -> None:
        self._client.started = value

    @property
    def lingers(self) -> bool:
        return self._client.lingers

    @lingers.setter
    def lingers(self, value: bool) -> None:
        self._client.lingers = value

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head. Raises: CallError `store_unavailable`; then nothing was sent."""
        if not self._open:
            self._open = True
            await self._witness.answer(self._x)
        await self._client.start(status, headers)

    async def send(self, data: bytes) -> None:
        await self._client.send(data)

    @property
    def at_once(self) -> AtOnce | None:
        return self._client.at_once

    async def end(self) -> None:
        await self._client.end()

    def cut(self) -> None:
        self._client.cut()


def _refusal() -> CallError:
    return CallError(
        "store_unavailable",
        "The record of this call can't be written, and the policy requires one; nothing was answered. Try again.",
        retry_after_s=2.0,
    )
