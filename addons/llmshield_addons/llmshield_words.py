"""Has a listed host's client read an error in its provider's words where mitmproxy would say it in HTML.

That is so for requests that mitmproxy's own HTTP stack carries to the gateway (HTTP/2-only clients, plain HTTP): when
the gateway can't be reached, or dies before its answer begins, or mitmproxy finds the request malformed. An answer
that has begun is cut off as ever. No hook can do it: mitmproxy's `error` hook only watches, so the one method is
wrapped that hands events to the client's connection. Needs the standard library and mitmproxy and nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers.http import HttpLayer, _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Connection, Http1Server

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


def drop_trailers() -> None:
    """Have trailers of HTTP/1 dropped, as a recipient may (RFC 9110, 6.5.1): mitmproxy 12 raises NotImplementedError for
    them, and the client waits for ever. Once in a process."""
    plain = Http1Connection.read_body
    if getattr(plain, "llmshield", False):
        return

    def read_body(self: Http1Connection, event: events.Event) -> layer.CommandGenerator[None]:
        try:
            yield from plain(self, event)
        except NotImplementedError:
            assert self.stream_id is not None
            yield ReceiveHttp(self.ReceiveEndOfMessage(self.stream_id))
            is_request = isinstance(self, Http1Server)
            yield from self.mark_done(request=is_request, response=not is_request)

    read_body.llmshield = True  # type: ignore[attr-defined]
    Http1Connection.read_body = read_body  # type: ignore[method-assign]


def speak_json() -> None:
    """Have everything that mitmproxy says over HTTP/1 be JSON, also where no host is known: for a process of ours only."""

    def make_error_response(status_code: int, message: str = "") -> bytes:
        # What is wrong with a request is told with the request's own words: they may hold a key.
        said = message if status_code >= 500 else "The request is malformed HTTP; it was not sent on."
        kind = "server_error" if status_code >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": said, "type": kind, "param": None, "code": None}}).encode()
        headers = {"content-type": "application/json", "connection": "close"}
        said_so: bytes = http1.assemble_response(http.Response.make(status_code, body, headers))
        return said_so

    _http1.make_error_response = make_error_response


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
