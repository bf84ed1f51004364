"""Has a listed host's client read an error in its provider's words where mitmproxy would say it in HTML.

That is so for requests that mitmproxy's own HTTP stack carries to the gateway (HTTP/2-only clients, plain HTTP): when
the gateway can't be reached, or dies before its answer begins, or mitmproxy finds the request malformed. An answer
that has begun is cut off as ever. No hook can do it: mitmproxy's `error` hook only watches, so the one method is
wrapped that hands events to the client's connection. Needs the standard library and mitmproxy and nothing else.
"""

from __future__ import annotations

from typing import Any

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server

UNAVAILABLE, MALFORMED = "llmshield_unavailable", "llmshield_malformed"
"""Where a flow keeps what its client would be told: `{"status", "headers", "body"}`."""

_BEFORE_ANY_HEADER = frozenset({ErrorCode.RESPONSE_VALIDATION_FAILED, ErrorCode.RESPONSE_TOO_LARGE})


def answer(said: dict[str, Any]) -> http.Response:
    """An answer of ours."""
    headers = {**said["headers"], "x-llmshield-action": "block"}
    return http.Response.make(said["status"], said["body"].encode(), headers)


def speak() -> None:
    """Wrap it, once in a process."""
    plain = HttpLayer.event_to_child
    if getattr(plain, "llmshield", False):
        return

    def event_to_child(self: HttpLayer, child: Any, event: events.Event) -> layer.CommandGenerator[None]:
        said = _said(self, child, event)
        if said is None:
            yield from plain(self, child, event)
            return
        assert isinstance(event, ResponseProtocolError)
        at, response = event.stream_id, answer(said)
        over_http1 = isinstance(child, Http1Server)
        if over_http1:
            response.headers["connection"] = "close"
        yield from plain(self, child, ResponseHeaders(at, response))
        yield from plain(self, child, ResponseData(at, response.raw_content or b""))
        if over_http1:
            yield from plain(
                self, child, event
            )  # an answer has begun: it closes the connection, and says no more
        else:
            yield from plain(self, child, ResponseEndOfMessage(at))

    event_to_child.llmshield = True  # type: ignore[attr-defined]
    HttpLayer.event_to_child = event_to_child  # type: ignore[method-assign, assignment]


def _said(of: HttpLayer, child: Any, event: events.Event) -> dict[str, Any] | None:
    """What to say in an event's place; None where mitmproxy's own way is right."""
    if not isinstance(event, ResponseProtocolError) or child is not of.connections.get(of.context.client):
        return None
    status = event.code.http_status_code()
    flow = getattr(of.streams.get(event.stream_id), "flow", None)
    if status is None or flow is None or not of.context.client.state & ConnectionState.CAN_WRITE:
        return None
    if flow.response is not None and event.code not in _BEFORE_ANY_HEADER:
        return None
    said: dict[str, Any] | None = flow.metadata.get(MALFORMED if status < 500 else UNAVAILABLE)
    return said
