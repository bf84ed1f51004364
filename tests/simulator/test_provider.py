"""Who decides what is answered: paths, keys, directives by source, counters, scripts."""

import itertools
import json

import pytest

from llmshield.simulator import FAULTS, Provider, Scripted
from llmshield.simulator.plan import Step


def text(raw):
    return raw.json["choices"][0]["message"]["content"]


PATHS = [
    (
        "POST",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        200,
        "chat",
    ),
    (
        "POST",
        "/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        200,
        "chat",
    ),
    ("POST", "/responses", {"model": "m", "input": "x"}, 200, "responses"),
    ("POST", "/embeddings", {"model": "m", "input": "x"}, 200, "embeddings"),
    ("POST", "/v1/completions", {"model": "m", "prompt": "x"}, 200, "completions"),
    (
        "POST",
        "/messages",
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
        200,
        "messages",
    ),
    (
        "POST",
        "/v1/messages/count_tokens",
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        200,
        "count_tokens",
    ),
    ("POST", "/models/m:countTokens", {"contents": [{"parts": [{"text": "x"}]}]}, 200, "gemini_count"),
    ("POST", "/v1/models/ft:a:b:generateContent", {"contents": [{"parts": [{"text": "x"}]}]}, 200, "gemini"),
    ("GET", "/v1/models", None, 200, "models"),
    ("GET", "/models/gpt-4o", None, 200, "models"),
    ("HEAD", "/", None, 200, "root"),
    ("GET", "/", None, 200, "root"),
    ("POST", "/v1/audio/speech", {"model": "m"}, 404, ""),
    ("POST", "/v1/models/m:doMagic", {}, 404, ""),
    ("GET", "/v1/chat/completions", None, 404, ""),
    ("DELETE", "/v1/models/m", None, 404, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "api"), PATHS)
async def test_paths(start, ask, method, path, body, status, api):
    sim = await start()
    raw = await ask(sim, method=method, path=path, body=body, wait=1)

    assert status == raw.status
    assert api == sim.calls[0].api
    assert (sim.calls[0].method, sim.calls[0].path) == (method, path)


@pytest.mark.parametrize(
    ("headers", "key"),
    [("", "object"), ("anthropic-version: 2023-06-01\r\n", "has_more"), ("x-goog-api-key: k\r\n", "models")],
)
async def test_one_path_for_three_lists_of_models(start, ask, headers, key):
    raw = await ask(await start(), method="GET", path="/v1/models", headers=headers, wait=1)

    assert key in raw.json


@pytest.mark.parametrize(
    ("api", "headers"),
    [
        ("chat", "authorization: Bearer {}\r\n"),
        ("messages", "x-api-key: {}\r\n"),
        ("messages", "authorization: Bearer {}\r\n"),
        ("gemini", "x-goog-api-key: {}\r\n"),
    ],
)
async def test_a_required_key(start, ask, api, headers):
    sim = await start(require_key="right")
    good = await ask(sim, api, headers=headers.format("right"), wait=1)
    wrong = await ask(sim, api, headers=headers.format("wrong"), wait=1)
    none = await ask(sim, api, wait=1)

    assert (good.status, wrong.status, none.status) == (200, 401, 401)
    assert sim.calls[1].key == "wrong"
    assert "error" in wrong.json


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model":"m"}', b'{"messages":[{"role":"user"}]}']
)
async def test_bodies_that_are_no_request(start, ask, body):
    raw = await ask(await start(), path="/v1/chat/completions", body=body, wait=1)

    assert raw.status == 400


async def test_later_sources_win(start, ask):
    sim = await start(text="settings", name="p")
    meta = {"simulate": "text=metadata"}
    messages = [{"role": "user", "content": "[[simulate text=prompt]] x"}]

    assert text(await ask(sim, wait=1)) == "settings"
    assert text(await ask(sim, metadata=meta, wait=1)) == "metadata"
    assert text(await ask(sim, metadata=meta, model="m@text=model", wait=1)) == "model"
    assert text(await ask(sim, metadata=meta, model="m@text=model", messages=messages, wait=1)) == "prompt"
    assert (
        text(await ask(sim, "chat", "text=header", model="m@text=model", messages=messages, wait=1))
        == "header"
    )
    assert sim.calls[2].model == "m"
    assert sim.calls[2].json["model"] == "m@text=model"


async def test_first_and_skip(start, ask):
    sim = await start(fault="503", first=2, skip=1)
    found = [(await ask(sim, wait=1)).status for _ in range(5)]
    sim.fail_next(1, "429")
    found += [(await ask(sim, wait=1)).status for _ in range(2)]
    by_header = [(await ask(sim, "chat", "500, first=1", wait=1)).status for _ in range(2)]

    assert found == [200, 503, 503, 200, 200, 429, 200]
    assert by_header == [500, 200]
    assert [c.faults for c in sim.calls][:3] == [(), ("503",), ("503",)]


async def test_a_rate_is_repeatable(start, ask):
    found = []
    for _ in range(2):
        sim = await start(fault="500", rate=0.5, seed=7)
        found.append([(await ask(sim, wait=1)).status for _ in range(12)])

    assert found[0] == found[1]
    assert {200, 500} == set(found[0])


async def test_changing_while_running(start, ask):
    sim = await start()
    sim.set(fault="404", name="other")
    broken = await ask(sim, wait=1)
    sim.set(fault=None)
    fine = await ask(sim, wait=1)
    with pytest.raises(ValueError, match="unknown fault"):
        sim.set(fault="nonsense", name="never")
    sim.reset()

    assert broken.status == 404
    assert text(fine) == "Hello, I am other. You said: hello there"
    assert sim.calls == []


@pytest.mark.parametrize("settings", [{"fault": "nonsense"}, {"colour": "red"}, {"script": [5]}])
async def test_wrong_settings(start, settings):
    with pytest.raises(ValueError, match=r"unknown|reply"):
        await start(**settings)


async def test_scripts_in_order_then_as_usual(start, ask):
    sim = await start(script=["one", {"text": "two", "finish": "length"}, Scripted(status=418, text="three")])
    sim.say({"body": '{"exact": true}', "headers": {"x-own": "1"}, "status": 207})
    replies = [await ask(sim, wait=1) for _ in range(5)]

    assert [r.status for r in replies] == [200, 200, 418, 207, 200]
    assert text(replies[0]) == "one"
    assert replies[1].json["choices"][0]["finish_reason"] == "length"
    assert replies[3].body == b'{"exact": true}'
    assert replies[3].headers["x-own"] == "1"
    assert text(replies[4]).startswith("Hello")


async def test_a_fault_does_not_use_up_the_script(start, ask):
    sim = await start(script=["one"], fault="429", first=1)
    replies = [await ask(sim, wait=1) for _ in range(2)]

    assert [r.status for r in replies] == [429, 200]
    assert text(replies[1]) == "one"


async def test_exact_chunks(start, ask):
    chunks = ['data: {"a"', b": 1}\r", "\n\r\ndata: \xe9\n\n"]
    sim = await start(script=[{"chunks": chunks}])
    raw = await ask(sim, stream=True, wait=1)

    assert raw.body == 'data: {"a": 1}\r\n\r\ndata: \xe9\n\n'.encode()
    assert sim.calls[0].pieces == 3


async def test_replies_by_header_metadata_and_function(start, ask):
    sim = await start(reply=lambda call: f"path {call.path}" if call.header("x-mine") else None)
    header = 'x-simulate-reply: {"text": ["gr\\u00fc", "n"], "simulate": "cached=1"}\r\n'
    by_header = await ask(sim, headers=header, wait=1)
    by_metadata = await ask(sim, metadata={"simulate_reply": "plain"}, wait=1)
    by_function = await ask(sim, headers="x-mine: 1\r\n", wait=1)
    broken = await ask(sim, headers="x-simulate-reply: {broken\r\n", wait=1)

    assert text(by_header) == "grün"
    assert by_header.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 1
    assert text(by_metadata) == "plain"
    assert text(by_function) == "path /v1/chat/completions"
    assert broken.status == 400


async def test_a_script_may_bring_its_fault(start, ask):
    sim = await start(
        script=[{"text": "x", "simulate": "fault=429"}, {"text": "ab" * 20, "simulate": "fault=fin"}]
    )
    first = await ask(sim, wait=1)
    second = await ask(sim, stream=True, wait=1)

    assert first.status == 429
    assert len(second.events()) == 3


async def test_stable_replies_are_the_same_bytes(start, ask):
    sim = await start(stable=True)

    for api in ("chat", "responses", "messages", "gemini", "completions"):
        first, second = [await ask(sim, api, stream=True, wait=1) for _ in range(2)]

        assert first.wire == second.wire


async def test_latencies(start, ask):
    sim = await start(ttft=0.08, delay=0.01, jitter=0.2)
    early = await ask(sim, stream=True, wait=0.05)
    whole = await ask(sim, wait=0.05)

    assert early.status == 200
    assert early.body == b""
    assert whole.wire == b""


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_can_be_played_in_every_dialect(fault, paths):
    """A fault that breaks the simulator itself would look like a fault of what is tested."""
    provider = Provider(fault=fault, size=5000, pause=0.0, after=2)
    for api, (path, body) in paths.items():
        for stream in (False, True):
            target = path.replace(":generateContent", ":streamGenerateContent") if stream else path
            tree = {**body, "stream": stream} if api != "gemini" else body
            for query in ("", "?alt=sse"):
                call = provider.record("POST", target + query, [], json.dumps(tree).encode(), 0.0)
                plan = provider.answer(call)
                played = list(itertools.islice(plan.steps(), 3000))

                assert call.faults == (fault,)
                assert all(isinstance(step, Step) for step in (*played, *plan.before))


async def test_the_bill(start, ask):
    sim = await start(fault="usage_x10")
    for _ in range(2):
        await ask(sim, model="gpt", wait=1)
    told = (await ask(sim, "messages", model="claude", wait=1)).json["usage"]

    assert sim.bill()["gpt"] == (2 * sim.calls[0].usage[0], 2 * sim.calls[0].usage[1])
    assert told["output_tokens"] == 10 * sim.bill()["claude"][1]


async def test_only_so_many_calls_are_kept(start, ask):
    sim = await start(keep=4)
    for _ in range(9):
        await ask(sim, wait=1)

    assert len(sim.calls) <= 4
    assert sim.calls[-1].number == 9


async def test_unusual_text_comes_back_as_it_was(start, ask):
    odd = json.loads('"\\ud83d lone \\u2028 \\u0000 \\"q\\" \\\\ end"')
    raw = await ask(await start(), messages=[{"role": "user", "content": odd}], wait=1)

    assert raw.status in (200, 400)
