"""Fields whose form a provider prescribes: what stands there keeps to it, and comes back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmshield.testing import Lent, filtered, read, run_hook
from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.fields import as_a_name, joined

NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
USER = {"role": "user", "name": "Marta_Kowalska", "content": "Hi, I am Marta Kowalska"}


@pytest.mark.parametrize("action", ["replace", "mask", "hash", "redact", "fake", "encrypt"])
async def test_a_participant_s_name_stays_one(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", "MDEyMzQ1Njc4OWFiY2RlZkdISUpLTE1OT1BRUlNUVVY=")
    plugin = Pii(Pii.Settings(entities={"PERSON": action}, presidio=False))
    await plugin.start(Lent())
    call = read({"model": "m", "messages": [USER]})
    await run_hook(plugin, "pre_request", call)
    sent: Any = call.body["messages"][0]

    assert NAME.match(sent["name"])
    assert "Marta" not in str(sent)
    assert "Kowalska" not in str(sent)
    if action == "replace":
        assert sent["name"] == "PERSON_1"
        assert sent["content"] == "Hi, I am <PERSON_1>"  # the same person
        whole, _ = await filtered(plugin, call, ["Dear ", sent["name"][:3], sent["name"][3:], ", bye"])
        assert whole == "Dear Marta Kowalska, bye"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x", "name": "NAME"}]}),
        ("/v1/chat/completions", {"model": "m", "messages": [], "tools": [{"type": "function", "function": {"name": "NAME"}}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": [], "tools": [{"name": "NAME", "input_schema": {}}]}),
        ("/v1/responses", {"model": "m", "input": "x", "tools": [{"type": "function", "name": "NAME"}]}),
    ],
)  # fmt: skip
async def test_names_of_participants_and_tools(path: str, body: dict[str, Any]) -> None:
    plugin = Pii(Pii.Settings(recognisers=[{"kind": "STAFF", "deny": ["Blue_Falcon"]}], presidio=False))
    text = str(body).replace("NAME", "Blue_Falcon").replace("'", '"')
    import json

    call = read(json.loads(text), path=path)
    await run_hook(plugin, "pre_request", call)

    assert "STAFF_1" in str(call.body)
    assert "<STAFF_1>" not in str(call.body)


@pytest.mark.parametrize(
    ("made", "name"),
    [("<PERSON_1>", "PERSON_1"), ("*** ***", "PERSON"), ("Edda Falkrow", "Edda_Falkrow"), ("x" * 65, "PERSON"),
     ("<PERSON:9f2c>", "PERSON_9f2c"), ("", "PERSON"), ("é@ü", "PERSON")],
)  # fmt: skip
def test_what_may_stand_there(made: str, name: str) -> None:
    assert as_a_name(made, "PERSON") == name


def test_parts_of_a_name_are_one() -> None:
    parts = [Found(0, 3, "PERSON", 0.5), Found(4, 7, "LOCATION", 0.7)]

    assert joined("Ann_Lee", parts) == [Found(0, 7, "LOCATION", 0.7)]
    assert joined("Ann", parts[:1]) == parts[:1]
