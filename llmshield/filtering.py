"""The filters of a reply at work: opened when its head is known, and put over its events, or over all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from types import CoroutineType
from typing import Any

from llmshield.call import (
    AttachedFilter,
    AttachedListener,
    Attempt,
    Channel,
    Hear,
    Listener,
    Reply,
    Stop,
    TextFilter,
)
from llmshield.chain import Took, run_now
from llmshield.channels import Channels, WouldChange
from llmshield.dialects import Event, Piece, StreamCodec
from llmshield.dialects._tree import dump
from llmshield.errors import PluginError
from llmshield.exchange import Exchange
from llmshield.logs import log

_HEARD = 65_536
"""Characters of one channel that are kept for the record."""


async def open_channels(
    x: Exchange, attempt: Attempt, model: str, *, streamed: bool, status: int
) -> Channels:
    """The reply's head is known: run post_response once per call, and open fresh filters per attempt."""
    if x.floor is None:
        if x.reply is None:
            await _read_head(x, attempt, model, streamed=streamed, status=status)
    else:  # several replies may begin at once: the filters of each are those of the whole head
        async with x.floor.head:
            if x.reply is None:
                await _read_head(x, attempt, model, streamed=streamed, status=status)
                x.floor.known = True
            elif not x.floor.known:  # its reading failed, and with it the call
                raise asyncio.CancelledError
    assert x.reply is not None
    reply = x.reply
    reply.provider, reply.model, reply.attempts = attempt.provider, model, len(x.attempts)

    def watch(attached: Any, what: Stop | BaseException) -> None:
        if isinstance(what, Stop):
            action = "block" if attached.enforced else "would-block"
        elif isinstance(what, WouldChange):
            action = "would-redact"
        else:
            action = "error"
            log.error("filter_failed", plugin=attached.plugin, error=type(what).__name__, request_id=x.id)
        if not any(
            t.plugin == attached.plugin and t.hook == "filter" and t.action == action for t in x.trail.took
        ):
            x.trail.took.append(Took(attached.plugin, "filter", action, attached.enforced, 0.0))

    return Channels(filters_of(reply, attempt), watch)


def filters_of(reply: Reply, attempt: Attempt) -> list[AttachedFilter]:
    """The filters of one attempt's reply; who listens stands behind all guards and changes nothing."""
    if not reply._listeners:
        return reply._filters
    ears = [
        AttachedFilter(each.plugin, _Ears(each, attempt), "guard", 0, each.enforced, each.fail_open)
        for each in reply._listeners
    ]
    return [*reply._filters, *ears]


class _Ears:
    """Who hears one attempt's reply: makes an ear for each channel."""

    __slots__ = ("_error", "_listener")

    def __init__(self, attached: AttachedListener, attempt: Attempt) -> None:
        self._listener: Listener | None = None
        self._error: Exception | None = None
        try:
            self._listener = attached.begin(attempt)
        except Exception as error:  # noqa: BLE001  raised again where a filter's failure has its meaning
            self._error = error

    def __call__(self, channel: Channel) -> TextFilter | None:
        if self._listener is None:
            raise self._error or PluginError("A listener's begin() returned nothing.")
        if channel.kind == "tool_arguments" and not channel.path:  # only asked about; its leaves speak
            return _Ear(_deaf)
        hear = self._listener(channel)
        return _Ear(hear) if hear is not None else None


class _Ear:
    """Hears one channel, and lets it through as it is."""

    __slots__ = ("_hear",)

    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def feed(self, text: str) -> str:
        self._hear(text)
        return text

    def flush(self) -> str:
        return ""


def _deaf(text: str) -> None:
    """Hears nothing."""


async def _read_head(x: Exchange, attempt: Attempt, model: str, *, streamed: bool, status: int) -> None:
    """Let every plugin look at the head of the call's first reply."""
    assert x.call is not None
    assert x.chain is not None
    reply = x.reply = Reply(
        provider=attempt.provider, model=model, dialect=attempt.dialect, stream=streamed, status=status
    )
    for step in x.chain.post_response:
        verdict = run_now(step, x.trail, x.call, reply)
        if type(verdict) is CoroutineType:
            verdict = await verdict
        if verdict is not None:
            raise verdict.error(step.plugin)
    if x.heard is not None:  # behind all guards and before what was replaced is put back
        reply._filters.append(AttachedFilter("audit", partial(_Tap, x.heard), "guard", 0, False, True))


class _Tap:
    """Hears a channel for the record, and changes nothing. A later attempt's channel of the same name is heard anew."""

    __slots__ = ("_parts", "_room")

    def __init__(self, heard: dict[str, list[str]], channel: Channel) -> None:
        self._parts: list[str] = []
        self._room = _HEARD
        if channel.kind != "tool_arguments" or channel.path:  # without a path it is only asked about
            heard[str(channel)] = self._parts

    def feed(self, text: str) -> str:
        if self._room > 0:
            self._parts.append(text[: self._room])
            self._room -= len(text)
        return text

    def flush(self) -> str:
        return ""


def filter_event(event: Event, codec: StreamCodec, channels: Channels, attempt: Attempt) -> bytes:
    """Put an event's texts through the filters; returns what is to be written before it."""
    before = b""
    if not channels.active:
        for piece in event.pieces:
            if not piece.repeats:
                value = piece.holder[piece.key]
                attempt.meter(value if type(value) is str else "12345678")
        return before
    repeats = False
    for piece in event.pieces:
        if piece.repeats:
            repeats = True
        else:
            filter_piece(piece, channels, attempt)
    for channel in event.ends:
        rest = channels.flush(channel)
        if rest:
            before += codec.late(event, channel, rest)
    if repeats:
        for piece in event.pieces:
            if piece.repeats:
                filter_piece(piece, channels, attempt)
    return before


def filter_pieces(pieces: Iterable[Piece], channels: Channels, attempt: Attempt) -> None:
    for piece in pieces:
        filter_piece(piece, channels, attempt)


def weight(pieces: Iterable[Piece]) -> int:
    """Characters that filters are to read."""
    total = 0
    for piece in pieces:
        value = piece.holder[piece.key]
        total += len(value) if type(value) is str else 8
    return total


def filter_piece(piece: Piece, channels: Channels, attempt: Attempt) -> None:
    value = piece.holder[piece.key]
    text = value if type(value) is str else dump(value).decode()
    if piece.repeats:
        out = channels.repeat(piece.channel, text)
    else:
        attempt.meter(text)
        out = channels.whole(piece.channel, text) if piece.whole else channels.feed(piece.channel, text)
    if out != text:
        piece.holder[piece.key] = out
        for holder, key in piece.shadows:
            holder[key] = None
