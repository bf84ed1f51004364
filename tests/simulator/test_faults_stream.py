"""Every fault of events and texts, in every dialect, at the level of bytes."""

import asyncio
import json

import pytest

STREAMS = ("chat", "completions", "responses", "messages", "gemini")


def text(events):
    """The text that a reader of any dialect would put together."""
    found = []
    for event in events:
        if not isinstance(event, dict):
            continue
        for choice in event.get("choices", ()):
            found.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
        if event.get("type") == "response.output_text.delta":
            found.append(event["delta"])
        if event.get("type") == "content_block_delta":
            found.append(event["delta"].get("text", ""))
        for candidate in event.get("candidates", ()):
            found.append("".join(part.get("text", "") for part in candidate["content"]["parts"]))
    return "".join(found)


def closed(api, events):
    last = events[-1]
    return {
        "chat": lambda: last == "[DONE]",
        "completions": lambda: last == "[DONE]",
        "responses": lambda: last["type"] == "response.completed",
        "messages": lambda: last["type"] == "message_stop",
        "gemini": lambda: last["candidates"][0].get("finishReason") == "STOP",
    }[api]()


@pytest.mark.parametrize("api", STREAMS)
async def test_a_stream_without_faults(start, ask, api):
    raw = await ask(await start(name="p"), api, stream=True, wait=1)
    events = raw.events()

    assert raw.headers["content-type"].startswith("text/event-stream")
    assert closed(api, events)
    assert text(events) == "Hello, I am p. You said: hello there"


@pytest.mark.parametrize("api", STREAMS)
@pytest.mark.parametrize("after", [0, 2, 5])
@pytest.mark.parametrize(
    ("fault", "end"), [("cut", "rst"), ("fin", "fin"), ("half_close", "fin"), ("stall", "open")]
)
async def test_endings_come_behind_so_many_events(start, ask, api, fault, end, after):
    sim = await start()
    raw = await ask(sim, api, f"{fault}, after={after}", stream=True, wait=0.05 if end == "open" else 1)

    assert end == raw.end
    assert after == len(raw.events()) == sim.calls[0].pieces
    assert not raw.wire.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("api", STREAMS)
async def test_an_ending_beyond_the_stream_comes_before_its_close(start, ask, api):
    raw = await ask(await start(), api, "fin, after=10000", stream=True, wait=1)

    assert not closed(api, raw.events())


@pytest.mark.parametrize("api", [api for api in STREAMS if api != "gemini_array"])
async def test_an_unfinished_stream_ends_well_in_http_alone(start, ask, api):
    sim = await start()
    raw = await ask(sim, api, "unfinished, after=4", stream=True, wait=1)

    assert len(raw.events()) == 4
    assert not closed(api, raw.events())
    assert raw.wire.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("api", STREAMS)
async def test_cut_in_the_middle(start, ask, api):
    sim = await start()
    event = await ask(sim, api, "cut_mid_event", stream=True, wait=1)
    letter = await ask(sim, api, "cut_mid_utf8", stream=True, wait=1)

    assert event.end == letter.end == "rst"
    assert len(event.events()) in (3, 4)
    assert not event.body.endswith(b"\n\n")
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        letter.body.decode()


@pytest.mark.parametrize("api", STREAMS)
async def test_a_malformed_event_among_good_ones(start, ask, api):
    events = (await ask(await start(), api, "malformed", stream=True, wait=1)).events()

    assert isinstance(events[3], str)
    assert closed(api, events)


STYLES = [
    ("crlf", lambda body: b"\r\n\r\n" in body and b"\n\n" not in body),
    ("cr", lambda body: b"\r\r" in body and b"\n" not in body),
    ("no_space", lambda body: b"data:{" in body and b"data: " not in body),
    ("multiline", lambda body: body.count(b"\ndata: ") > 3 * body.count(b"\n\n")),
    ("comments, size=1000", lambda body: body.startswith(b": ....") and body.count(b"\n: ...") > 20),
    ("bom", lambda body: body.startswith(b"\xef\xbb\xbf")),
    ("split=3", lambda body: True),
    ("ascii=1", lambda body: body.isascii()),
    ("crlf+no_space+bom+multiline", lambda body: body.startswith(b"\xef\xbb\xbf") and b"data:{\r\n" in body),
]


@pytest.mark.parametrize("api", STREAMS)
@pytest.mark.parametrize(("simulate", "holds"), STYLES, ids=[case[0] for case in STYLES])
async def test_styles_do_not_change_the_events(start, ask, api, simulate, holds):
    sim = await start()
    plain = await ask(sim, api, "stable=1, text=gr%C3%BC%C3%9Fe an alle", stream=True, wait=1)
    styled = await ask(sim, api, f"stable=1, text=gr%C3%BC%C3%9Fe an alle, {simulate}", stream=True, wait=1)

    assert holds(styled.body)
    assert plain.events() == styled.events()


async def test_split_writes_small_pieces(start, ask):
    sim = await start()
    raw = await ask(sim, "messages", "split=7", stream=True, wait=1)

    assert sim.calls[0].pieces > len(raw.body) // 7
    assert raw.wire.count(b"\r\n7\r\n") > 100


@pytest.mark.parametrize("api", STREAMS)
async def test_errors_inside_a_200(start, ask, api):
    sim = await start()
    whole = await ask(sim, api, "error_in_200", wait=1)
    raw = await ask(sim, api, "error_in_200", stream=True, wait=1)
    events = raw.events()

    assert whole.status == raw.status == 200
    assert "error" in whole.json
    assert len(events) == 4
    assert events[3].get("type") == "error" or "error" in events[3]
    assert raw.wire.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("api", STREAMS)
async def test_unknown_events_and_twins(start, ask, api):
    sim = await start()
    plain = (await ask(sim, api, "stable=1", stream=True, wait=1)).events()
    unknown = (await ask(sim, api, "stable=1, unknown_event", stream=True, wait=1)).events()
    twins = (await ask(sim, api, "stable=1, duplicate_index", stream=True, wait=1)).events()
    shifted = (await ask(sim, api, "stable=1, out_of_order", stream=True, wait=1)).events()
    other = (await ask(sim, api, "stable=1, wrong_id", stream=True, wait=1)).events()

    assert plain == unknown[:3] + unknown[4:]
    assert "x_simulator" in json.dumps(unknown[3])
    openers = {"chat": 1, "responses": 4, "messages": 2}.get(api, 0)
    assert len(twins) == len(plain) + openers
    assert text(shifted) == text(plain)
    assert shifted != plain
    if api != "messages":
        assert "of-another-request" in json.dumps(other)


@pytest.mark.parametrize("api", STREAMS)
async def test_the_closing_event(start, ask, api):
    sim = await start()
    plain = (await ask(sim, api, "stable=1", stream=True, wait=1)).events()
    without = await ask(sim, api, "stable=1, no_done", stream=True, wait=1)
    behind = (await ask(sim, api, "stable=1, after_done", stream=True, wait=1)).events()

    assert plain[:-1] == without.events()
    assert without.wire.endswith(b"0\r\n\r\n")
    assert plain == behind[: len(plain)]
    assert len(behind) > len(plain)


@pytest.mark.parametrize("api", STREAMS)
async def test_odd_texts(start, ask, api):
    sim = await start()
    bad = await ask(sim, api, "invalid_utf8", stream=True, wait=1)
    lines = await ask(sim, api, "u2028", stream=True, wait=1)
    escaped = await ask(sim, api, "u2028, ascii=1", stream=True, wait=1)
    big = await ask(sim, api, "big_event, size=3000000", stream=True, wait=2)

    with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
        bad.body.decode()
    for separator in "\u2028\u2029\u0085":
        assert separator.encode() in lines.body
        assert separator in text(lines.events())
    assert escaped.body.isascii()
    assert text(lines.events()) == text(escaped.events())
    assert max(map(len, big.body.split(b"\n\n"))) > 3_000_000


@pytest.mark.parametrize("api", STREAMS)
async def test_the_same_odd_texts_in_a_whole_reply(start, ask, api):
    sim = await start()
    bad = await ask(sim, api, "invalid_utf8", wait=1)
    lines = await ask(sim, api, "u2028", wait=1)
    cut = await ask(sim, api, "cut_mid_utf8", wait=1)

    assert b"\xff\xc3" in bad.body
    assert "\u2028".encode() in lines.body
    assert cut.end == "rst"
    assert len(cut.body) < int(cut.headers["content-length"])


REASONS = {
    "chat": ("content_filter", "stop"),
    "completions": ("content_filter", "stop"),
    "responses": ("content_filter", "completed"),
    "messages": ("refusal", "refusal"),
    "gemini": ("SAFETY", "PROHIBITED_CONTENT"),
}


@pytest.mark.parametrize("api", STREAMS)
async def test_filters_and_refusals(start, ask, api):
    sim = await start()
    filtered, refused = REASONS[api]
    for stream in (False, True):
        stopped = await ask(sim, api, "filter_finish", stream=stream, wait=1)
        no = await ask(sim, api, "refusal", stream=stream, wait=1)

        assert f'"{filtered}"'.encode() in stopped.body
        assert f'"{refused}"'.encode() in no.body
        assert b"hello there" not in stopped.body
    if api == "chat":
        assert (await ask(sim, api, "refusal", wait=1)).json["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("api", STREAMS)
async def test_an_endless_stream_ends_with_its_reader(start, ask, api):
    sim = await start()
    raw = await ask(sim, api, "endless, delay=1ms", stream=True, wait=0.25)

    assert raw.end == "open"
    assert len(text(raw.events())) > 20


async def test_an_endless_stream_waits_for_a_slow_reader(start, ask):
    """Without backpressure the simulator would fill the memory while nobody reads."""

    sim = await start()
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=1024)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nx-simulate: endless\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    await asyncio.sleep(0.3)
    first = sim.calls[0].sent
    await asyncio.sleep(0.1)

    assert first == sim.calls[0].sent
    assert 0 < first < 50_000_000
    writer.transport.abort()
    await asyncio.sleep(0.05)
    assert sim.calls[0].disconnected


async def test_slow_first_event(start, ask):
    sim = await start()
    raw = await ask(sim, "chat", "slow_first, pause=10", stream=True, wait=0.05)

    assert raw.status == 200
    assert raw.body == b""


async def test_geminis_array_can_be_cut_as_well(start, ask):
    sim = await start()
    path = "/v1beta/models/m:streamGenerateContent"
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    whole = await ask(sim, path=path, body=body, wait=1)
    cut = await ask(sim, path=path, body=body, simulate="cut", wait=1)
    middle = await ask(sim, path=path, body=body, simulate="cut_mid_event", wait=1)

    assert len(whole.json) > 4
    assert len(json.loads(cut.body + b"]")) == 3
    assert len(middle.body) > len(cut.body)
