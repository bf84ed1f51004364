"""From the provider to the client: one answer, whole or streamed, through the filters.

Nothing reaches the client before the first event with output (or the whole answer) has passed the filters: up
to there an attempt can be replaced. After it a reply ends in one of three ways: complete, stopped by a guard
with the dialect's stop signal, or broken with an error that makes SDKs raise. A truncated answer is never
presented as a success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from llmshield import clock
from llmshield.call import Attempt, Call
from llmshield.channels import Channels, Stopped
from llmshield.dialects import Dialect, StreamCodec, WholeReply
from llmshield.dialects._plain_text import PlainText
from llmshield.dialects._tree import load_reply
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.filtering import filter_event, filter_pieces, open_channels, weight
from llmshield.lane import LONG, Lane, ask_watch
from llmshield.resuming import Shadow
from llmshield.transport import Upstream

Ending = Literal["complete", "stopped", "broken"]

Begin = Callable[[], Awaitable[None]]
"""Sends the head of the answer to the client."""

WHOLE_LIMIT = 64 * 1024 * 1024
"""Bytes of a whole answer: it is parsed in memory. OpenAI's largest (embeddings of 2,048 inputs with 3,072
dimensions) are about 60 MB as JSON floats."""

ERROR_BODY = 1024 * 1024
"""Bytes of an error answer."""

_AFTER_FINISH_S = 2.0
"""A complete stream whose terminator does not come is finalised after this many seconds."""
DRAIN_S = 1.0
"""Seconds that the end of a connection behind a finished stream is waited for."""
_STEP = 16 * 1024
"""Bytes of a stream that are filtered in one go: some 150 events, a few milliseconds."""
_LARGE = 256 * 1024
"""Bytes of a whole answer that is read in a thread: 100,000 choices, which are 8 MB, take 2 s."""


async def read_all(upstream: Upstream, limit: int) -> bytes:
    """The whole body of an answer. Raises: UpstreamError `malformed` when it is larger than `limit` bytes."""
    first = await upstream.chunk()
    if not first:
        return b""
    parts = [first]
    size = len(first)
    while data := await upstream.chunk():
        size += len(data)
        if size > limit:
            upstream.close()
            raise UpstreamError("malformed", f"The provider's answer is larger than {limit} bytes.")
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def whole(
    x: Exchange,
    attempt: Attempt,
    upstream: Upstream,
    dialect: Dialect,
    call: Call,
    plain: PlainText | None = None,
) -> Any:
    """Read a whole answer to `call`, check it, filter it; returns the tree for the client, or the `Words` of plain text.

    Raises: UpstreamError when the answer is unusable, Stopped when a guard ends it.
    """
    data = upstream.rest()
    if data is None:
        data = await read_all(upstream, WHOLE_LIMIT)
    x.waited()  # before the head is written: it tells what we added
    if len(data) < _LARGE:
        said = read_whole(dialect, call, data, upstream.status, plain)
    else:
        said = await asyncio.to_thread(read_whole, dialect, call, data, upstream.status, plain)
    attempt.usage = said.usage
    if said.error is not None:
        raise said.error
    attempt.first_token_at = clock.monotonic()
    if x.floor is not None:  # before any filter reads it: what two attempts would find is not mixed
        x.floor.claim(attempt, x.attempts)
    model = said.model or attempt.model
    channels = await open_channels(x, attempt, model, streamed=False, status=upstream.status)
    assert x.reply is not None
    x.reply.usage = said.usage
    x.reply.finish = said.finish
    if len(data) >= _LARGE or (channels.active and weight(said.pieces) > LONG):
        await asyncio.to_thread(filter_pieces, said.pieces, channels, attempt)
    else:
        filter_pieces(said.pieces, channels, attempt)
    return said.tree


def read_whole(
    dialect: Dialect, call: Call, data: bytes, status: int, plain: PlainText | None = None
) -> WholeReply:
    """What a whole answer to `call` says. Raises: UpstreamError `malformed` when it is neither JSON nor `plain` text."""
    try:
        tree = load_reply(data)
    except ValueError:
        if plain is None:
            raise UpstreamError("malformed", "The provider's answer is not JSON.", status=status) from None
        return plain.reply(data)
    if plain is not None and type(tree) is not dict and type(tree) is not list:
        return plain.reply(data)  # a number, or a word in quotes
    return dialect.read_reply(call, tree)


async def stream(
    x: Exchange,
    attempt: Attempt,
    upstream: Upstream,
    codec: StreamCodec,
    channels: Channels,
    begin: Begin,
    idle_s: float,
    shadow: Shadow | None = None,
) -> Ending:
    """Relay a stream event by event; returns how it ended.

    Raises: UpstreamError while nothing has reached the client, or what did may be resumed; CallError when a guard
    stops it before that.
    """
    client = x.client
    rest = b""
    arrived = 0  # bytes since the last event
    heavy = False
    out: bytes | bytearray = b""
    held = bytearray()
    visible = x.resumption is not None
    lane = Lane(x, attempt, codec, channels, shadow)
    try:
        while True:
            out = bytearray()
            if rest:
                await asyncio.sleep(0)
                data = rest
            else:
                try:
                    data = await upstream.chunk(lane.take if lane.form is not None else None)
                except UpstreamError:
                    if not codec.finished:
                        raise
                    data = b""  # the reply is complete, and only its terminator does not come
            data, rest = (data, b"") if len(data) <= _STEP else (data[:_STEP], data[_STEP:])
            if lane.form is not None and await lane.go(data):
                continue
            arrived += len(data)
            events = codec.feed(data) if data else codec.close()
            if events:
                heavy, arrived = arrived > LONG and channels.active, 0
            for event in events:
                if event.error is not None:
                    raise event.error
                if heavy and weight(event.pieces) > LONG:
                    out += await asyncio.to_thread(filter_event, event, codec, channels, attempt)
                else:
                    out += filter_event(event, codec, channels, attempt)
                if not event.hidden:
                    out += codec.write(event)
                if event.output and attempt.first_token_at is None:
                    attempt.first_token_at = clock.monotonic()
                    upstream.idle_after(idle_s)
            done = codec.ended or not data
            if attempt.watch is not None and not done and not codec.finished:
                ask_watch(x, attempt, codec)
            if done:
                if not codec.ended and not codec.finished:
                    raise UpstreamError("truncated", "The stream ended in the middle of the answer.")
                out += _rest(codec, channels)
                if not codec.ended:
                    out += codec.finalise()
            elif codec.finished:
                upstream.idle_after(min(idle_s, _AFTER_FINISH_S))
            if not visible:
                held += out
                if attempt.first_token_at is None and not done:
                    continue
                visible = True
                out = held
                await begin()
            if out:
                await client.send(bytes(out))
                if shadow is not None:
                    shadow.feed(bytes(out))
            if events and not done:
                lane.learn(data, events[-1])
            if done:
                _note(x, attempt, codec)
                return "complete"
    except Stopped as stopped:
        _note(x, attempt, codec)
        error = stopped.block.error(stopped.plugin)
        x.error = error
        if not visible:
            raise error from stopped
        release = codec.late(None, stopped.channel, stopped.release) if stopped.release else b""
        await client.send((bytes(out) or lane.cut_short) + release + codec.stop(error))
        return "stopped"
    except asyncio.CancelledError:
        _note(x, attempt, codec)  # what was reported so far is billed, though nobody waits for the rest
        raise
    except UpstreamError as failure:
        _note(x, attempt, codec)
        if not visible:
            raise
        if shadow is not None and shadow.resumable:
            if out:
                await client.send(bytes(out))
                shadow.feed(bytes(out))
            raise
        attempt.reason = failure.reason
        failure.let_go()
        x.error = broken(failure)
        await client.send(bytes(out) + codec.abort(x.error, x.id))
        return "broken"


def broken(failure: UpstreamError) -> CallError:
    """The error that ends a stream which broke after parts of it had reached the client."""
    kind: Literal["upstream_timeout", "upstream_error"] = (
        "upstream_timeout" if failure.reason in {"idle", "total"} else "upstream_error"
    )
    return CallError(kind, f"The provider's stream broke ({failure.reason}); the answer is not complete.")


async def refuse_whole(call: Call, dialect: Dialect, upstream: Upstream) -> None:
    """A stream was asked for and something whole came: an error object, or what no streaming client can read.

    Raises: UpstreamError, always.
    """
    try:
        said = dialect.read_reply(call, load_reply(await read_all(upstream, ERROR_BODY)))
    except ValueError:
        said = None
    if said is not None and said.error is not None:
        raise said.error
    raise UpstreamError(
        "malformed", "The provider answered whole where a stream was asked for.", status=upstream.status
    )


async def drain(upstream: Any, seconds: float) -> None:
    """Read a finished stream to its very end, so that its connection can serve again, and an app can do what it still
    wants to."""
    try:
        async with asyncio.timeout(seconds):
            while await upstream.chunk():
                pass
    except UpstreamError as failure:
        failure.let_go()
        upstream.close()
    except TimeoutError:
        upstream.close()


def _rest(codec: StreamCodec, channels: Channels) -> bytes:
    """What filters still hold in channels that no event ended."""
    return b"".join(codec.late(None, channel, text) for channel, text in channels.flush_all())


def _note(x: Exchange, attempt: Attempt, codec: StreamCodec) -> None:
    attempt.usage = codec.usage
    if x.reply is not None and (x.floor is None or x.floor.winner is attempt):
        x.reply.usage = codec.usage
        x.reply.finish = codec.finish
        x.reply.model = codec.model or attempt.model
