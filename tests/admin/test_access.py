"""Who is let in, with which role: keys, tokens, loopback, and nobody else."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from llmshield.admin.access import Access
from llmshield.admin.problems import Problem
from llmshield.errors import ShieldError
from llmshield.testing import FrozenClock, policy

TOKEN = "a-token-of-the-environment"
KEYS = {"ops": ("operators-own-key", "operate"), "prom": ("what-prometheus-has", "read")}


def access(text: str = "", token: str = "", base: str | Path = ".") -> Access:
    loaded = policy(f"admin: {text or '{}'}\nproviders: {{a: {{dialect: openai}}}}", base=base)
    return Access(loaded.admin, Path(base), token)


def keys() -> str:
    listed = {
        name: {"key": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}", "role": role}
        for name, (key, role) in KEYS.items()
    }
    return json.dumps({"keys": listed})


async def who(made: Access, authorization: str | None, peer: str = "10.0.0.7") -> str:
    headers = {"authorization": authorization} if authorization is not None else {}
    try:
        found = await made.officer(headers, peer)
    except Problem as refused:
        return refused.code
    return f"{found.name} {found.role}"


CREDENTIALS = [
    ("Bearer operators-own-key", "key:ops operate"),
    ("bearer  operators-own-key ", "key:ops operate"),
    ("Bearer what-prometheus-has", "key:prom read"),
    (f"Bearer {TOKEN}", "token admin"),
    (None, "unauthenticated"),
    ("", "unauthenticated"),
    ("Bearer", "unauthenticated"),
    ("Bearer ", "unauthenticated"),
    ("operators-own-key", "unauthenticated"),
    ("Basic operators-own-key", "unauthenticated"),
    ("Bearer operators-own-ke", "unauthenticated"),
    ("Bearer operators-own-key2", "unauthenticated"),
    ("Bearer Operators-own-key", "unauthenticated"),
    ("Bearer a.b.c", "unauthenticated"),
    ("Bearer sha256:" + hashlib.sha256(b"operators-own-key").hexdigest(), "unauthenticated"),
]


@pytest.mark.parametrize(("authorization", "said"), CREDENTIALS)
async def test_keys_and_the_token(authorization: str | None, said: str) -> None:
    assert said == await who(access(keys(), TOKEN), authorization)
    assert said == await who(access(keys(), TOKEN), authorization, peer="127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("127.0.0.1", "loopback read"),
        ("::1", "loopback read"),
        ("::ffff:127.0.0.1", "loopback read"),
        ("10.0.0.7", "forbidden"),
        ("2001:db8::1", "forbidden"),
        ("", "forbidden"),
    ],
)
async def test_without_any_credential_loopback_may_look(peer: str, said: str) -> None:
    assert said == await who(access(), None, peer)
    assert said == await who(access(), "Bearer anything", peer)


async def test_wrong_ones_are_throttled_and_none_is_no_guess() -> None:
    made = access(keys(), TOKEN)
    with FrozenClock() as clock:
        for _ in range(50):
            assert "unauthenticated" == await who(made, None)
        assert "token admin" == await who(made, f"Bearer {TOKEN}")
        said = [await who(made, f"Bearer wrong-{each}") for each in range(50)]

        assert ["unauthenticated"] * 30 + ["too_many_attempts"] * 20 == said
        assert "too_many_attempts" == await who(made, "Bearer operators-own-key")  # it could be a guess
        assert "token admin" == await who(made, f"Bearer {TOKEN}")  # it was right before
        assert "key:ops operate" == await who(made, "Bearer operators-own-key", peer="10.0.0.8")
        assert "key:ops operate" == await who(made, "Bearer operators-own-key")
        with pytest.raises(Problem) as refused:
            await made.officer({"authorization": "Bearer x"}, "10.0.0.7")
        assert "2" == refused.value.headers["retry-after"]
        clock.advance(2)
        assert "unauthenticated" == await who(made, "Bearer x")
        assert "too_many_attempts" == await who(made, "Bearer x")
        assert "key:prom read" == await who(made, "Bearer what-prometheus-has", peer="10.0.0.8")


@pytest.mark.parametrize("length", [1, 15])
async def test_production_has_no_token_that_can_be_guessed(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setenv("LLMSHIELD_ENV", "production")
    with pytest.raises(ShieldError, match="openssl rand"):
        await access(token="t" * length).start()
    await access(token="t" * 16).start()
    await access().start()
    monkeypatch.delenv("LLMSHIELD_ENV")
    await access(token="t" * length).start()


@pytest.fixture
def issuer(tmp_path: Path) -> ECKey:
    key = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    return key


JWT = """{jwt: {issuer: https://login.example.com/, audience: admin, jwks: "file://jwks.json", algorithms: [ES256],
  name: email, claim: /realm/groups, roles: {platform: admin, on-call: operate, all: read}}}"""
GOOD: dict[str, Any] = {
    "iss": "https://login.example.com/", "aud": "admin", "email": "ann@example.com", "realm": {"groups": ["all", "on-call"]},
}  # fmt: skip
TOKENS = [
    ({}, "jwt:ann@example.com operate"),
    ({"realm": {"groups": "platform"}}, "jwt:ann@example.com admin"),
    ({"realm": {"groups": ["nobody", 5, "all"]}}, "jwt:ann@example.com read"),
    ({"realm": {"groups": ["admin"]}}, "forbidden"),
    ({"realm": {"groups": []}}, "forbidden"),
    ({"realm": "all"}, "forbidden"),
    ({"realm": None}, "forbidden"),
    ({"email": None}, "unauthenticated"),
    ({"email": "a\nb"}, "unauthenticated"),
    ({"iss": "https://evil.example.com/"}, "unauthenticated"),
    ({"aud": "llmshield"}, "unauthenticated"),
    ({"exp": -3600}, "unauthenticated"),
    ({"exp": None}, "unauthenticated"),
    ({"nbf": 3600}, "unauthenticated"),
]


@pytest.mark.parametrize(("change", "said"), TOKENS)
async def test_tokens(issuer: ECKey, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    claims = {**GOOD, "exp": 300, **change}
    for name in ("exp", "nbf"):
        if isinstance(claims.get(name), int):
            claims[name] += int(time.time())
    token = jwt.encode({"alg": "ES256", "kid": "k1"}, claims, issuer)
    made = access(JWT, base=tmp_path)
    await made.start()

    assert said == await who(made, f"Bearer {token}")
    assert "unauthenticated" == await who(made, None, peer="127.0.0.1")
    await made.close()


async def test_tokens_of_others(issuer: ECKey, tmp_path: Path) -> None:
    claims = {**GOOD, "exp": int(time.time()) + 300}
    other = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    good = jwt.encode({"alg": "ES256", "kid": "k1"}, claims, issuer)
    made = access(JWT, base=tmp_path)
    await made.start()

    assert "unauthenticated" == await who(
        made, f"Bearer {jwt.encode({'alg': 'ES256', 'kid': 'k1'}, claims, other)}"
    )
    assert "unauthenticated" == await who(made, f"Bearer {good[:-4]}AAAA")
    assert "unauthenticated" == await who(made, "Bearer eyJhbGciOiJub25lIn0." + good.split(".")[1] + ".")
    assert "jwt:ann@example.com operate" == await who(made, f"Bearer {good}")
    await made.close()
