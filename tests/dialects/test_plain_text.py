"""Answers of applications that are plain text: read in whole characters, guarded as one text, whole and streamed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llmshield.dialects._plain_text import PlainText, charset, is_plain_text
from llmshield.errors import CallError, UpstreamError
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.testing import policy


@given(
    st.text(), st.lists(st.integers(min_value=0), max_size=9), st.sampled_from(["utf-8", "latin-1", "ascii"])
)
def test_text_cut_anywhere_is_the_same_text(text: str, marks: list[int], name: str) -> None:
    data = text.encode(name, "replace")
    codec = PlainText(name, guarded=True, has_length=False).stream()
    places = sorted({mark % (len(data) + 1) for mark in marks} | {0, len(data)})
    events = [event for a, b in itertools.pairwise(places) for event in codec.feed(data[a:b])]
    events += codec.close()

    assert data.decode(name) == "".join(piece.holder[piece.key] for one in events for piece in one.pieces)
    assert data == b"".join(map(codec.write, events))
    assert codec.finished


@given(st.binary(), st.lists(st.integers(min_value=0), max_size=9))
def test_bytes_that_are_no_text_end_in_an_error_however_they_are_cut(data: bytes, marks: list[int]) -> None:
    codec = PlainText("utf-8", guarded=True, has_length=False).stream()
    places = sorted({mark % (len(data) + 1) for mark in marks} | {0, len(data)})
    events = [event for a, b in itertools.pairwise(places) for event in codec.feed(data[a:b])]
    events += codec.close()
    try:
        data.decode()
    except UnicodeDecodeError:
        assert "malformed" in [one.error.reason for one in events if one.error is not None]
    else:
        assert not any(one.error for one in events)


@pytest.mark.parametrize(
    "name", ["utf-16", "utf-32", "utf-8-sig", "utf-7", "rot13", "hex", "nobody", "", "\0", "cp037"]
)
def test_charsets_that_have_no_one_way_to_begin_are_refused(name: str) -> None:
    with pytest.raises(UpstreamError, match="charset"):
        PlainText(name, guarded=True, has_length=False)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text/plain", "utf-8"),
        ("text/plain; charset=latin-1", "latin-1"),
        ('TEXT/HTML; a=b; Charset="utf-8"', "utf-8"),
        ("text/markdown;charset=UTF-8", "UTF-8"),
        ("text/event-stream; charset=utf-8", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_what_is_text_and_in_which_charset(kind: str, expected: str | None) -> None:
    headers = {"content-type": kind}

    assert (expected is not None) is is_plain_text(headers)
    assert expected in {None, charset(headers)}


def test_what_a_charset_lacks_and_what_stops_a_text() -> None:
    codec = PlainText("latin-1", guarded=True, has_length=False).stream()
    error = CallError("blocked", "Blocked by policy 'x'.")

    assert b"na\xefve ?" == codec.late(None, None, "naïve ☃")  # type: ignore[arg-type]
    assert b"\n\n[Blocked by policy 'x'.]\n" == codec.stop(error) == codec.abort(error, "1")
    assert b"" == codec.finalise()


POLICY = """
plugins:
  - {use: pii, presidio: false, scan: [user, output], entities: {EMAIL_ADDRESS: replace, CREDIT_CARD: {action: block}}}
apps: [{paths: ["/chat"], texts: {request: ["/prompt"], reply: ["/answer"], stream: [%s]}}]
"""


def app(parts: list[bytes], kind: str, given: str) -> Starlette:
    """An application that says these parts, streamed if there are several."""

    async def chat(request: Request) -> Response:
        assert await request.json()
        if len(parts) == 1:
            return Response(parts[0], headers={"content-type": kind})
        return StreamingResponse(iter(parts), headers={"content-type": kind})

    guard = Middleware(ShieldMiddleware, policy=policy(given))
    return Starlette(routes=[Route("/chat", chat, methods=["POST"])], middleware=[guard])


async def said(
    serving_app: Any, parts: list[bytes], kind: str, given: str = POLICY % '"/delta"'
) -> tuple[int, str, bytes]:
    async with serving_app(app(parts, kind, given)) as url, aiohttp.ClientSession() as http:
        body = {"prompt": "I am ann@mail.example"}
        async with http.post(f"{url}/chat", json=body) as answer:
            return answer.status, answer.headers["content-type"], await answer.read()


@pytest.mark.parametrize(
    ("parts", "kind", "status", "expected"),
    [
        ([b"Hello there"], "text/plain", 200, b"Hello there"),
        ([b"Hello ", b"the", b"re"], "text/plain; charset=utf-8", 200, b"Hello there"),
        ([b"to bob@mail.example now"], "text/plain", 200, b"to <EMAIL_ADDRESS_2> now"),
        ([b"to bob@ma", b"il.exam", b"ple now"], "text/plain", 200, b"to <EMAIL_ADDRESS_2> now"),
        ([b"to <EMAIL_ADD", b"RESS_1> now"], "text/plain", 200, b"to ann@mail.example now"),
        ([b"<p>to bob@mail.example</p>"], "text/html", 200, b"<p>to <EMAIL_ADDRESS_2></p>"),
        (["Grüße ".encode(), "Jürgen".encode()[:2], "Jürgen".encode()[2:]], "text/plain", 200, "Grüße Jürgen".encode()),
        (["Grüße".encode("latin-1"), b" an"], "text/plain; charset=iso-8859-1", 200, "Grüße an".encode("latin-1")),
        ([b"123"], "text/plain", 200, b"123"),
        ([b"", b""], "text/plain", 200, b""),
    ],
)  # fmt: skip
async def test_text_is_guarded_whole_and_as_it_comes(
    serving_app: Any, parts: list[bytes], kind: str, status: int, expected: bytes
) -> None:
    assert (status, kind, expected) == await said(serving_app, parts, kind)


async def test_a_policy_without_pointers_into_streams_streams_text_as_well(serving_app: Any) -> None:
    got = await said(serving_app, [b"to bob@ma", b"il.exam", b"ple now"], "text/plain", POLICY % "")

    assert (200, "text/plain", b"to <EMAIL_ADDRESS_2> now") == got


async def test_json_that_says_it_is_text_is_json(serving_app: Any) -> None:
    got = await said(
        serving_app, [b'{"answer": "to bob@mail.example", "n": "ann@mail.example"}'], "text/html"
    )

    assert (200, "application/json", b'{"answer":"to <EMAIL_ADDRESS_2>","n":"ann@mail.example"}') == got


@pytest.mark.parametrize(
    ("parts", "kind", "status"),
    [
        ([b"4111 1111 1111 1111"], "text/plain", 400),
        ([b"4111111111111111"], "text/plain", 400),  # a number, were it JSON
        ([b'"4111 1111 1111 1111"'], "text/plain", 400),
        ([b"\xff\xfe"], "text/plain", 503),
        ([b"\xff\xfe", b"a"], "text/plain", 503),
        ([b"a"], "text/plain; charset=utf-16", 503),
        ([b"a", b"b"], "text/plain; charset=nobody", 503),
        ([b"\x89PNG"], "image/png", 503),
    ],
)
async def test_what_a_guard_stops_or_nobody_can_read_is_an_error(
    serving_app: Any, parts: list[bytes], kind: str, status: int
) -> None:
    got, sent, body = await said(serving_app, parts, kind)

    assert (status, "application/json") == (got, sent)
    assert "error" in json.loads(body)
    assert b"4111" not in body


async def test_a_stream_that_is_stopped_says_so_in_its_last_line(serving_app: Any) -> None:
    parts = [b"Well, here it is, and it is yours: ", b"4111 1111 ", b"1111 1111", b" and more"]
    status, _, body = await said(serving_app, parts, "text/plain")

    assert 200 == status
    assert body.startswith(b"Well, here it is")
    assert body.endswith(b"]\n")
    assert b"pii" in body
    assert b"4111" not in body
    assert b"more" not in body


async def test_a_stream_that_breaks_says_so_in_its_last_line(serving_app: Any) -> None:
    status, _, body = await said(
        serving_app, [b"Well, here it is: ", b"so far so good", b"\xff", b"more"], "text/plain"
    )

    assert 200 == status
    assert b"not complete" in body.splitlines()[-1]
    assert b"more" not in body


async def test_an_app_whose_replies_are_not_guarded_may_say_what_it_likes(serving_app: Any) -> None:
    given = 'plugins: [{use: pii, presidio: false, scan: [user, output]}]\napps: [{paths: ["/chat"], texts: {request: ["/prompt"]}}]\n'
    assert (
        b"to bob@mail.example" == (await said(serving_app, [b"to bob@mail.example"], "text/plain", given))[2]
    )
