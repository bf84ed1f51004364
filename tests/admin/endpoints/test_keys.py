"""Client keys over the admin port: made, shown without the key, revoked for good."""

from typing import Any

import pytest

from llmshield.identity import Identity

TOKEN = "a-token-of-some-length"


async def test_a_key_lives_and_dies(desk: Any) -> None:
    made = await desk.ask("POST", "/v1/keys", {"tenant": "acme", "name": "laptop", "expires": "90d"})
    key, id = made.json["key"], made.json["id"]
    identity = Identity(desk.runtime.policy, desk.runtime.store)
    await identity.start()

    assert (201, "pro", "active") == (made.status, made.json["tier"], made.json["state"])
    assert ("acme", "pro") == identity.identify({"x-api-key": key}, "", "192.0.2.1")[:2]  # type: ignore[index]
    listed = await desk.ask("GET", "/v1/keys", key="read")
    assert [id] == [each["id"] for each in listed.json["keys"]]
    assert key.encode() not in listed.body
    revoked = await desk.ask("DELETE", f"/v1/keys/{id}")
    again = await desk.ask("DELETE", f"/v1/keys/{id}")
    await identity.close()
    assert (200, "revoked", revoked.json) == (revoked.status, revoked.json["state"], again.json)
    records = desk.records()
    assert ["key.create", "key.create", "key.revoke", "key.revoke"] == [each["action"] for each in records][
        :4
    ]
    assert id == records[1]["detail"]["id"]
    assert key not in str(records)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"tenant": "acme"}, 201),
        ({"tenant": "new", "tier": "free"}, 201),
        ({"tenant": "new"}, 409),
        ({"tenant": "acme", "tier": "gold"}, 409),
        ({"tenant": "a b"}, 422),
        ({"tenant": "acme", "name": "a\nb"}, 422),
        ({"tenant": "acme", "name": "a" * 65}, 422),
        ({"tenant": "acme", "expires": "0d"}, 422),
        ({"tenant": "acme", "expires": 90}, 422),
        ({}, 422),
    ],
)
async def test_what_a_key_wants(desk: Any, body: dict[str, Any], status: int) -> None:
    assert status == (await desk.ask("POST", "/v1/keys", body)).status


@pytest.mark.parametrize(
    ("id", "status"), [("0" * 12, 404), ("0" * 11, 422), ("ABCDEF012345", 422), ("x", 422)]
)
async def test_ids(desk: Any, id: str, status: int) -> None:
    assert status == (await desk.ask("DELETE", f"/v1/keys/{id}")).status


async def test_memory_keeps_no_keys(open_desk: Any) -> None:
    async with open_desk("tenants: {acme: {}}", token=TOKEN) as desk:
        said = await desk.ask("POST", "/v1/keys", {"tenant": "acme"}, key=TOKEN)

    assert (409, "conflict") == (said.status, said.code)
    assert "server.store" in said.json["detail"]


async def test_a_key_of_the_policy_is_listed_and_revoked(open_desk: Any, tmp_path: Any) -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    text = f"""
server: {{store: "sqlite:///{tmp_path}/b.db", state_dir: "{tmp_path}/s"}}
tenants: {{acme: {{keys: ["sha256:{digest}"]}}}}
"""
    async with open_desk(text, token=TOKEN) as desk:
        (listed,) = (await desk.ask("GET", "/v1/keys", key=TOKEN)).json["keys"]
        revoked = await desk.ask("DELETE", f"/v1/keys/{digest[:12]}", key=TOKEN)
        (after,) = (await desk.ask("GET", "/v1/keys", key=TOKEN)).json["keys"]

    assert (digest[:12], "policy", "active") == (listed["id"], listed["place"], listed["state"])
    assert "revoked" == revoked.json["state"] == after["state"]
