"""Usage that lies: at the place where each dialect keeps it, whole and streamed."""

import json

import pytest

STREAMS = ("chat", "completions", "responses", "messages", "gemini")
OPTIONS = {
    "chat": {"stream_options": {"include_usage": True}},
    "completions": {"stream_options": {"include_usage": True}},
}


def usages(tree):
    """Every usage object of a reply or event, wherever it is."""
    if not isinstance(tree, dict):
        return []
    found = [tree[key] for key in ("usage", "usageMetadata") if tree.get(key) is not None]
    return found + usages(tree.get("message")) + usages(tree.get("response"))


def numbers(usage):
    if isinstance(usage, dict):
        return [n for value in usage.values() for n in numbers(value)]
    if isinstance(usage, list):
        return [n for value in usage for n in numbers(value)]
    return [] if isinstance(usage, str) and usage in ("standard", "TEXT") else [usage]


LIES = [
    ("usage_negative", lambda n: n < 0),
    ("usage_zero", lambda n: n == 0),
    ("usage_string", lambda n: isinstance(n, str)),
    ("usage_null", lambda n: n is None),
    ("usage_float", lambda n: n % 1 == 0.5),
    ("usage_nan", lambda n: n != n),
    ("usage_inf", lambda n: n == float("inf")),
    ("usage_huge", lambda n: n == 2**64),
    ("usage_text", lambda n: n == "plenty"),
]


@pytest.mark.parametrize("api", STREAMS)
@pytest.mark.parametrize(("fault", "holds"), LIES, ids=[case[0] for case in LIES])
async def test_lies(start, ask, api, fault, holds):
    sim = await start()
    whole = await ask(sim, api, fault, wait=1)
    streamed = await ask(sim, api, fault, stream=True, wait=1, **OPTIONS.get(api, {}))
    found = usages(whole.json) + [u for event in streamed.events() for u in usages(event)]

    assert len(found) >= 2
    assert all(holds(n) for usage in found for n in numbers(usage))
    assert sim.calls[0].usage[1] > 0, "the record keeps the truth"


@pytest.mark.parametrize("api", STREAMS)
async def test_ten_times(start, ask, api):
    sim = await start()
    honest = usages((await ask(sim, api, wait=1)).json)[0]
    lying = usages((await ask(sim, api, "usage_x10", wait=1)).json)[0]

    assert [10 * n for n in numbers(honest)] == numbers(lying)


@pytest.mark.parametrize("api", STREAMS)
async def test_shapes(start, ask, api):
    sim = await start()
    nested = usages((await ask(sim, api, "usage_nested", wait=1)).json)[0]
    listed = usages((await ask(sim, api, "usage_list", wait=1)).json)[0]
    missing = await ask(sim, api, "usage_missing", wait=1)
    streamed = await ask(sim, api, "usage_missing", stream=True, wait=1, **OPTIONS.get(api, {}))

    assert b'{"tokens":' in json.dumps(nested, separators=(",", ":")).encode()
    assert any(isinstance(value, list) for value in listed.values())
    assert usages(missing.json) == []
    assert [u for e in streamed.events() for u in usages(e)] == []


@pytest.mark.parametrize("api", STREAMS)
async def test_streams_that_change_their_mind(start, ask, api):
    sim = await start()
    options = OPTIONS.get(api, {})
    plain = (await ask(sim, api, "stable=1", stream=True, wait=1, **options)).events()
    differs = (await ask(sim, api, "usage_differs", stream=True, wait=1, **options)).events()
    shrinks = (await ask(sim, api, "usage_decreasing", stream=True, wait=1, **options)).events()
    twice = (await ask(sim, api, "usage_twice", stream=True, wait=1, **options)).events()
    late = (await ask(sim, api, "usage_after_done", stream=True, wait=1, **options)).events()

    assert len({json.dumps(u, sort_keys=True) for e in differs for u in usages(e)}) >= 2
    totals = [max(n for n in numbers(u)) for e in shrinks for u in usages(e)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]
    assert len(twice) > len(plain)
    assert usages(late[-1])
    assert not any(usages(e) for e in late[:-1])
