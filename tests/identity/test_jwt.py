"""Tokens: what is believed, what is refused and why, and where the issuer's keys come from."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from llmshield.errors import CallError, PolicyError, ShieldError
from llmshield.identity import Caller, Identity
from llmshield.identity._jwks import Jwks
from llmshield.simulator import Simulator
from llmshield.testing import FrozenClock, gateway, policy

POLICY = """
identify: [virtual_key, "jwt:sub"]
identity:
  jwt:
    issuer: https://issuer.test/
    audience: [llmshield, other]
    jwks: {url}
    algorithms: [RS256, ES256, EdDSA]
    leeway: 10s
    refresh: 10m
    outage: 1h
    {more}
providers: {{p: {{dialect: openai, api_key: env://X}}}}
tenants: {{acme: {{tier: pro}}}}
tiers: {{pro: {{}}, free: {{}}}}
"""


@asynccontextmanager
async def identity(url: str, more: str = "") -> AsyncIterator[Identity]:
    made = Identity(policy(POLICY.format(url=url, more=more)))
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def who(made: Identity, token: str, **headers: str) -> Caller:
    found = made.identify(headers or {"authorization": f"Bearer {token}"}, "", "192.0.2.1")
    return found if isinstance(found, Caller) else await found


async def refusal(made: Identity, token: str) -> CallError:
    with pytest.raises(CallError) as caught:
        await who(made, token)
    assert token not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
async def test_a_token_tells_the_tenant_wherever_it_comes_in(issuer: Any, header: str) -> None:
    async with identity(issuer.url) as made:
        token = issuer.token()
        value = f"Bearer {token}" if header == "authorization" else token
        for _ in range(2):  # the second time it is remembered
            caller = await who(made, token, **{header: value})

            assert ("acme", "pro", None, True) == (caller.tenant, caller.tier, caller.key, caller.ours)

    assert 1 == issuer.asked


async def test_a_token_in_the_query(issuer: Any) -> None:
    async with identity(issuer.url) as made:
        found = made.identify({}, f"key={issuer.token()}", "192.0.2.1")

        assert isinstance(found, Caller)
        assert "acme" == found.tenant


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"iss": "https://other.test/"}, "iss"),
        ({"iss": None}, "iss"),
        ({"iss": ["https://issuer.test/"]}, "iss"),
        ({"aud": "somebody"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": ["a", "b"]}, "aud"),
        ({"exp": None}, "exp"),
        ({"exp": 1_789_999_989}, "expired"),
        ({"exp": "1790000300"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("inf")}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": -1}, "expired"),
        ({"nbf": 1_790_000_011}, "nbf"),
        ({"nbf": "soon"}, "nbf"),
        ({"iat": 1_790_000_011}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7.5}, "sub"),
        ({"sub": ["acme"]}, "sub"),
        ({"sub": "x" * 200}, "sub"),
        ({"sub": "nobody"}, "tenant"),
    ],
)
async def test_claims_that_are_refused(issuer: Any, claims: dict[str, Any], word: str) -> None:
    with FrozenClock(1_790_000_000.0):
        async with identity(issuer.url) as made:
            error = await refusal(made, issuer.token(**claims))

    assert "unauthenticated" == error.kind
    assert word in str(error)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1_789_999_991},  # inside the leeway
        {"nbf": 1_790_000_009},
        {"nbf": 1_789_999_000, "iat": 1_790_000_000},
        {"aud": ["somebody", "other"]},
        {"exp": 1_790_000_100.5},
    ],
)
async def test_claims_that_are_taken(issuer: Any, claims: dict[str, Any]) -> None:
    with FrozenClock(1_790_000_000.0):
        async with identity(issuer.url) as made:
            assert "acme" == (await who(made, issuer.token(**claims))).tenant


async def test_a_token_ends_while_it_is_remembered(issuer: Any) -> None:
    with FrozenClock(1_790_000_000.0) as time:
        async with identity(issuer.url) as made:
            token = issuer.token(exp=1_790_000_060)
            await who(made, token)
            time.advance(69)
            await who(made, token)
            time.advance(1)

            assert "expired" in str(await refusal(made, token))


async def test_claims_that_must_be_there(issuer: Any) -> None:
    async with identity(issuer.url, "require: [nbf, jti]") as made:
        assert "nbf" in str(await refusal(made, issuer.token()))
        await who(made, issuer.token(nbf=1, jti="a"))


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    ]
    return ".".join([*parts, signature])


def confused(issuer: Any) -> str:
    """HS256 with the issuer's public key as the secret: what a library that trusts `alg` lets through."""
    text = unsigned({"alg": "HS256", "kid": "k1"}, CLAIMS)[:-1]
    signed = hmac.digest(issuer.keys["k1"].as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"


CLAIMS = {"iss": "https://issuer.test/", "aud": "llmshield", "sub": "acme", "exp": 4_000_000_000}
FORGED: dict[str, Callable[[Any], str]] = {
    "alg none": lambda i: unsigned({"alg": "none", "kid": "k1"}, CLAIMS),
    "alg None": lambda i: unsigned({"alg": "None"}, CLAIMS),
    "no signature": lambda i: unsigned({"alg": "RS256", "kid": "k1"}, CLAIMS),
    "alg is a list": lambda i: unsigned({"alg": ["RS256"], "kid": "k1"}, CLAIMS),
    "HS256 with the public key": confused,
    "an algorithm that is not pinned": lambda i: i.token(alg="RS512"),
    "PS256 with the same key": lambda i: i.token(alg="PS256"),
    "somebody else's key": lambda i: i.token(key=RSAKey.generate_key(2048)),
    "a key of its own in the head": lambda i: i.token(
        key=(own := RSAKey.generate_key(2048)), header={"alg": "RS256", "kid": "k1", "jwk": own.as_dict(private=False)}
    ),
    "a place to look for keys": lambda i: i.token(
        key=RSAKey.generate_key(2048), header={"alg": "RS256", "kid": "k1", "jku": "http://127.0.0.1:9/evil.json"}
    ),
    "EC for RSA": lambda i: i.token(alg="ES256", kid="k1", key=ECKey.generate_key("P-256")),
    "an unknown extension that must be understood": lambda i: unsigned(
        {"alg": "RS256", "kid": "k1", "crit": ["x"], "x": 1}, CLAIMS, "AAAA"
    ),
    "a key id that is no text": lambda i: unsigned({"alg": "RS256", "kid": 7}, CLAIMS, "AAAA"),
    "claims changed": lambda i: ".".join(
        (lambda p: [p[0], unsigned({}, {**CLAIMS, "sub": "other"}).split(".")[1], p[2]])(i.token().split("."))
    ),
    "claims that are no object": lambda i: unsigned({"alg": "RS256", "kid": "k1"}, ["a"], "AAAA"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
async def test_forged_tokens(issuer: Any, case: str) -> None:
    async with identity(issuer.url) as made:
        error = await refusal(made, FORGED[case](issuer))

    assert "unauthenticated" == error.kind


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "RS1", "dir"])
def test_algorithms_with_a_shared_secret_can_not_be_pinned(algorithm: str) -> None:
    with pytest.raises(PolicyError, match="algorithms"):
        policy(
            POLICY.format(url="https://issuer.test/k", more="").replace(
                "[RS256, ES256, EdDSA]", f"[{algorithm}]"
            )
        )


@pytest.mark.parametrize(
    "source", ["http://issuer.test/keys", "ftp://x/y", "https://u:p@issuer.test/k", "keys.json"]
)
def test_key_sets_come_by_https_or_from_a_file(source: str) -> None:
    with pytest.raises(PolicyError, match="jwks"):
        policy(POLICY.format(url=source, more=""))


async def test_keys_of_each_kind(issuer: Any, ec_key: ECKey) -> None:
    issuer.keys |= {"e1": ec_key, "o1": OKPKey.generate_key("Ed25519", {"kid": "o1"})}
    async with identity(issuer.url) as made:
        for kid, algorithm in (("k1", "RS256"), ("e1", "ES256"), ("o1", "EdDSA")):
            assert "acme" == (await who(made, issuer.token(kid, algorithm))).tenant


async def test_without_a_key_id_the_only_key_that_fits_counts(issuer: Any, ec_key: ECKey) -> None:
    issuer.keys["e1"] = ec_key
    async with identity(issuer.url) as made:
        assert "acme" == (await who(made, issuer.token(header={"alg": "RS256"}))).tenant
    issuer.keys["k2"] = RSAKey.generate_key(2048, {"kid": "k2"})
    async with identity(issuer.url) as made:
        assert "does not list" in str(await refusal(made, issuer.token(header={"alg": "RS256"})))


async def test_keys_that_are_no_use_are_skipped(issuer: Any) -> None:
    good = issuer.keys["k1"].as_dict(private=False)
    bad = [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ", "kid": "oct"},
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "other", "alg": "RS512"},
        {"kty": "RSA", "kid": "half", "n": "AQAB"},
        {"kty": "RSA", "kid": "small", "n": "yNi4_ubOnSTg5tS0gcOGdQ", "e": "AQAB"},
        "text", 7, None,
    ]  # fmt: skip
    issuer.answer = json.dumps({"keys": [*bad, good]}).encode()
    async with identity(issuer.url) as made:
        await who(made, issuer.token())
        for kid in ("enc", "other", "half", "small"):
            header = {"alg": "RS256", "kid": kid}
            assert "does not list" in str(await refusal(made, issuer.token(header=header)))
        secret = OctKey.import_key("secret-secret-secret")
        assert "does not take" in str(await refusal(made, issuer.token(alg="HS256", kid="oct", key=secret)))


async def test_a_new_key_is_found_and_invented_ids_do_not_drive_the_issuer_mad(issuer: Any) -> None:
    with FrozenClock() as time:
        async with identity(issuer.url) as made:
            await who(made, issuer.token())
            time.advance(20)
            issuer.keys["k2"] = RSAKey.generate_key(2048, {"kid": "k2"})

            assert "acme" == (await who(made, issuer.token("k2"))).tenant
            assert 2 == issuer.asked
            for number in range(50):
                token = issuer.token(header={"alg": "RS256", "kid": f"invented-{number}"})
                await refusal(made, token)
            assert 2 == issuer.asked
            time.advance(11)
            await refusal(made, issuer.token(header={"alg": "RS256", "kid": "invented"}))
            assert 3 == issuer.asked


async def test_a_key_that_is_withdrawn_is_withdrawn_from_remembered_tokens_too(issuer: Any) -> None:
    with FrozenClock() as time:
        async with identity(issuer.url) as made:
            token = issuer.token(exp=int(time.now()) + 86_400)
            await who(made, token)
            issuer.keys = {"k2": RSAKey.generate_key(2048, {"kid": "k2"})}
            time.advance(601)
            await who(made, token)  # starts the fetch
            await made._ways[1]._tokens._jwks.fetch_soon()  # type: ignore[attr-defined]

            assert "does not list" in str(await refusal(made, token))


@pytest.mark.parametrize("fault", ["down", "status", "redirect", "garbage", "huge", "empty"])
async def test_an_outage_keeps_the_keys_for_the_declared_time(issuer: Any, fault: str) -> None:
    with FrozenClock() as time:
        async with identity(issuer.url) as made:
            lasting = issuer.token(exp=int(time.now()) + 86_400)
            await who(made, lasting)
            issuer.down = fault == "down"
            issuer.head = {
                "status": "500 Oops",
                "redirect": "302 Found\r\nlocation: http://127.0.0.1:9/",
            }.get(fault, "200 OK")
            issuer.answer = {"garbage": b"<html>", "huge": b'{"keys":["' + b"x" * 600_000 + b'"]}', "empty": b'{"keys":[]}'}.get(fault)  # fmt: skip
            time.advance(3600)
            await who(made, lasting)
            await made._ways[1]._tokens._jwks.fetch_soon()  # type: ignore[attr-defined]
            await who(made, lasting)
            time.advance(601)
            error = await refusal(made, lasting)

            assert ("policy_unavailable", 503) == (error.kind, error.status)
            issuer.down, issuer.head, issuer.answer = False, "200 OK", None
            time.advance(11)
            assert "acme" == (await who(made, lasting)).tenant


async def test_an_issuer_that_is_away_at_the_start(issuer: Any) -> None:
    with FrozenClock() as time:
        issuer.down = True
        async with identity(issuer.url) as made:
            assert "policy_unavailable" == (await refusal(made, issuer.token())).kind
            issuer.down = False
            time.advance(11)
            assert "acme" == (await who(made, issuer.token())).tenant


async def test_keys_from_a_file(issuer: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.published())
    async with identity(f"file://{path}") as made:
        assert "acme" == (await who(made, issuer.token())).tenant
    path.write_text("{}")
    with pytest.raises(ShieldError, match="can't be used"):
        async with identity(f"file://{path}"):
            pass
    with pytest.raises(ShieldError, match="No such file"):
        async with identity(f"file://{tmp_path}/none.json"):
            pass


@pytest.mark.parametrize(
    ("issuer_says", "jwks_uri", "good"),
    [
        ("{base}", "{base}/keys.json", True),
        ("{base}/", "{base}/keys.json", False),
        ("https://issuer.test/", "{base}/keys.json", False),
        ("{base}", "http://issuer.test/keys.json", False),
        ("{base}", "file:///etc/passwd", False),
        ("{base}", None, False),
    ],
)
async def test_keys_by_the_issuers_own_description(
    issuer: Any, issuer_says: str, jwks_uri: str | None, good: bool
) -> None:
    base = issuer.url.removesuffix("/keys.json")
    said = {"issuer": issuer_says.format(base=base), "jwks_uri": jwks_uri and jwks_uri.format(base=base)}
    issuer.others["/.well-known/openid-configuration"] = json.dumps(said).encode()
    text = POLICY.format(url="https://x.test/", more="").replace("    jwks: https://x.test/\n", "")
    made = Identity(policy(text.replace("https://issuer.test/", base)))
    await made.start()
    token = issuer.token(iss=base)
    if good:
        assert "acme" == (await who(made, token)).tenant
        assert 2 == issuer.asked
    else:
        assert "policy_unavailable" == (await refusal(made, token)).kind
        assert 1 == issuer.asked
    await made.close()


async def test_a_description_leads_nowhere_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer elsewhere can't send us to what listens here."""
    asked: list[str] = []

    async def answer(self: Jwks, address: str) -> bytes:
        asked.append(address)
        return json.dumps({"issuer": "https://issuer.test", "jwks_uri": "http://127.0.0.1:9/keys"}).encode()

    monkeypatch.setattr(Jwks, "_ask", answer)
    made = Jwks(None, "https://issuer.test", Path(), refresh_s=60, outage_s=60, changed=lambda: None)
    await made.start()

    assert ["https://issuer.test/.well-known/openid-configuration"] == asked
    assert not made.usable()


def test_an_issuer_without_an_address_needs_a_key_set() -> None:
    text = POLICY.format(url="https://x.test/", more="").replace("    jwks: https://x.test/\n", "")
    for issuer in ("issuer", "file:///etc/passwd", "http://issuer.test/"):
        with pytest.raises(PolicyError, match="LS202"):
            policy(text.replace("https://issuer.test/", issuer))
    policy(text)


@pytest.mark.parametrize(
    ("claims", "tenant", "tier", "tags"),
    [
        ({"sub": "acme"}, "acme", "pro", None),
        ({"sub": "auth0|7"}, "auth0%7C7", "free", None),
        ({"sub": "a b\nc%é"}, "a%20b%0Ac%25%C3%A9", "free", None),
        ({"sub": "jo@example.com"}, "jo@example.com", "free", None),
        ({"sub": "new", "plan": "pro"}, "new", "pro", None),
        ({"sub": "acme", "plan": "free"}, "acme", "free", None),
        ({"sub": "new", "org": {"team": "search"}}, "new", "free", {"team": "search"}),
        ({"sub": "new", "org": {"team": ["search"]}}, "new", "free", None),
        ({"sub": "new", "org": "search"}, "new", "free", None),
    ],
)
async def test_what_claims_say(
    issuer: Any, claims: dict[str, Any], tenant: str, tier: str, tags: dict[str, str] | None
) -> None:
    more = "tier: free\n    claims: {tier: plan, tags: {team: /org/team}}"
    async with identity(issuer.url, more) as made:
        caller = await who(made, issuer.token(**claims))

    assert (tenant, tier, tags) == (caller.tenant, caller.tier, caller.tags)


@pytest.mark.parametrize("plan", ["gold", 7, ["pro"], {"a": 1}])
async def test_a_tier_that_the_policy_does_not_have(issuer: Any, plan: Any) -> None:
    async with identity(issuer.url, "tier: free\n    claims: {tier: plan}") as made:
        assert "tier" in str(await refusal(made, issuer.token(plan=plan)))


@pytest.mark.parametrize("key", ["sk-abc", "a.b.c", "eyJ.x.y", "e30.e30.e30", "x" * 8000, "\xe9.\xe9.\xe9"])
async def test_what_is_no_token_is_left_to_others(issuer: Any, key: str) -> None:
    async with identity(issuer.url) as made:
        assert "client keys" in str(await refusal(made, key))


async def test_the_two_readers_of_a_head_agree(issuer: Any) -> None:
    """A head with `alg` twice: what we pin is what the library checks."""
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"k1","alg":"none"}').rstrip(b"=").decode()
    async with identity(issuer.url) as made:
        await refusal(made, f"{head}.{issuer.token().split('.')[1]}.")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}),
        (
            "/v1/messages",
            {
                "model": "claude-sonnet-4-5",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "hello"}],
            },
        ),
    ],
)
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "?key"])
async def test_a_token_reaches_no_provider(
    issuer: Any, primary: Simulator, path: str, body: dict[str, Any], header: str
) -> None:
    """Though the providers here have no key of their own, and so get whatever key is not ours."""
    text = POLICY.format(url=issuer.url, more="").replace(
        "providers: {p: {dialect: openai, api_key: env://X}}",
        f"providers: {{o: {{dialect: openai, base_url: {primary.url}/v1}}, a: {{dialect: anthropic, base_url: {primary.url}}}}}",
    )
    token = issuer.token()
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        for sent, status in ((token, 200), (token[:-4] + "AAAA", 401)):
            value = f"Bearer {sent}" if header == "authorization" else sent
            headers = {"anthropic-version": "2023-06-01", **({} if header == "?key" else {header: value})}
            query = f"?key={sent}" if header == "?key" else ""
            async with http.post(url + path + query, json=body, headers=headers) as reply:
                await reply.read()
                assert status == reply.status

    assert 1 == len(primary.calls)
    assert token not in repr(primary.calls[0])
    assert token.split(".")[2] not in repr(primary.calls[0])


def test_a_signed_token_is_what_the_library_makes_of_it(issuer: Any) -> None:
    assert "acme" == jwt.decode(issuer.token(), issuer.keys["k1"]).claims["sub"]
