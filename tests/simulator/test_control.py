"""The control endpoint, for tests in other processes."""

import pytest


async def test_settings_script_calls_and_bill(start, ask):
    sim = await start(name="a")

    async def control(method, what, body=None):
        raw = await ask(sim, method=method, path=f"/__sim__/{what}", body=body, wait=1)
        return raw.status, raw.json

    assert await control("GET", "health") == (200, {"ok": True, "name": "a", "calls": 0})
    status, shown = await control("PUT", "settings", {"fault": "503", "first": 1, "name": "b"})
    assert (status, shown["name"], shown["fault"]) == (200, "b", ["503"])
    assert (await ask(sim, wait=1)).status == 503
    assert await control("POST", "script", [["sc", "ripted"], {"text": "two"}]) == (200, {"waiting": 2})
    assert (await ask(sim, wait=1)).json["choices"][0]["message"]["content"] == "scripted"
    status, calls = await control("GET", "calls")
    assert [c["status"] for c in calls] == [503, 200]
    assert calls[1]["json"]["model"] == "m"
    _, later = await control("GET", f"calls?since={calls[0]['number']}")
    assert later == calls[1:]
    assert (await control("GET", "bill"))[1] == {"m": list(sim.calls[1].usage)}
    assert "429" in (await control("GET", "faults"))[1]
    assert (await control("DELETE", "calls"))[0] == 200
    assert (await control("GET", "calls"))[1] == []
    assert (await control("POST", "reset"))[0] == 200
    assert (await control("GET", "settings"))[1] == {"name": "b", "require_key": False}


@pytest.mark.parametrize(
    ("method", "what", "body", "status"),
    [
        ("PUT", "settings", {"fault": "nonsense"}, 400),
        ("PUT", "settings", [1], 400),
        ("POST", "script", [5], 400),
        ("GET", "nothing", None, 404),
    ],
)
async def test_mistakes(start, ask, method, what, body, status):
    raw = await ask(await start(), method=method, path=f"/__sim__/{what}", body=body, wait=1)

    assert status == raw.status
    assert raw.json["error"]
