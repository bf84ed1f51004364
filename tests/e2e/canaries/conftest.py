"""Canaries wherever a secret is kept, what shows one, and gateways whose every word is searched for them."""

import base64
import gc
import hashlib
import logging
import random
import re
import string
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from llmshield import logs, redact, vault
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy


def canary(seed: str) -> str:
    rng = random.Random(seed)
    return "CANARY-" + "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(36))


CANARIES = {name: canary(name) for name in (
    "env key", "file key", "sealed key", "client key", "own key", "wrong key", "admin token", "store password", "cookie",
    "url key", "login", "literal", "wrong admin token",
)}  # fmt: skip
CANARIES["vault master"] = base64.urlsafe_b64encode(random.Random(4).randbytes(32)).decode()
CANARIES["previous master"] = base64.urlsafe_b64encode(random.Random(5).randbytes(32)).decode()


def forms(secret: str) -> set[str]:
    """How a secret may show, in lower case."""
    raw = secret.encode()
    found = {
        secret,
        secret[::-1],
        raw.hex(),
        raw.hex(" "),
        quote(secret, safe=""),
        "".join(f"%{b:02x}" for b in raw),
    }
    found |= {secret[:8], secret[-8:], secret[:8][::-1]}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        core = coded[(0, 2, 3)[before] : len(coded) - 2]
        found |= {core, core.replace("+", "-").replace("/", "_")}
    return {form.lower() for form in found}


FORMS = {name: forms(value) for name, value in CANARIES.items()}
ANY = re.compile("|".join(re.escape(form) for each in FORMS.values() for form in sorted(each)))


def leaks(text: str) -> list[str]:
    """Which canaries a text shows, and where."""
    low = text.lower()
    if ANY.search(low) is None:
        return []
    found = []
    for name, shown in FORMS.items():
        for form in shown:
            at = low.find(form)
            if at >= 0:
                found.append(f"{name} as {form!r} in {text[max(0, at - 120) : at + 120]!r}")
    return found


BOOM = '''
"""Raises with whatever secrets it can reach."""
from llmshield.hookspecs import Plugin, hookimpl


class Boom(Plugin):
    def burst(self, call, place):
        if call.headers.get("x-boom") == place:
            raise RuntimeError(f"boom at {place}: {dict(call.headers)} {call!r} {call.query} {self.settings!r}")

    @hookimpl
    def pre_request(self, call):
        self.burst(call, "pre_request")
        call.guard_attempt(lambda attempt: self.burst(call, "guard"))

    @hookimpl
    def choose_provider(self, call, route):
        self.burst(call, "choose_provider")

    @hookimpl
    async def post_response(self, call, reply):
        self.burst(call, "post_response")
        if call.headers.get("x-boom") in ("feed", "flush"):
            plugin = self

            class Filter:
                def feed(self, text):
                    plugin.burst(call, "feed")
                    return text

                def flush(self):
                    plugin.burst(call, "flush")
                    return ""

            reply.filter(lambda channel: Filter())
        reply.at_end(lambda reply: self.burst(call, "end"))

    @hookimpl
    def on_failure(self, call, failure):
        self.burst(call, "on_failure")
'''
POLICY = """
version: 1
defaults: {timeout: 5s}
server: {store: "memory://", debug_headers: true, simulation: true, limits: {body: 64KiB}, unknown_traffic: TRAFFIC}
identify: [virtual_key]
tenants: {acme: {tier: pro, keys: ["sha256:CLIENT"]}ANON}
tiers: {pro: {rate: [1000000/hour], budget: 100000 USD/day}}
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, KEY_A circuit: {failures: 1000000}}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}, KEY_B circuit: {failures: 1000000}}
  gemini: {dialect: gemini, base_url: "URL", prices: {input: 1, output: 4}, KEY_C circuit: {failures: 1000000}}
routes:
  - {match: {model: "claude*"}, to: [anthropic], retry: {attempts: 1}}
  - {match: {model: "gemini*"}, to: [gemini], retry: {attempts: 1}}
  - {match: {model: "both*"}, to: [openai, anthropic], retry: {attempts: 2, backoff: 1ms..2ms}, mid_stream: continue}
  - {match: {any: true}, to: [openai], retry: {attempts: 1}}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: ./boom.py}
  - {use: pii, entities: {EMAIL_ADDRESS: replace}, presidio: false}
  - {use: failover}
audit: {sink: "file://AUDIT"}
"""


class World:
    """Gateways, a provider that may quote anything, and everything that they tell."""

    def __init__(
        self, sim: Simulator, http: aiohttp.ClientSession, stranger: aiohttp.ClientSession, folder: Path
    ) -> None:
        self.sim, self.http, self.stranger, self.folder = sim, http, stranger, folder
        self.urls: dict[str, str] = {}
        self.admins: dict[str, str] = {}
        self.lines: list[str] = []
        self.count = 0
        self.secrets = CANARIES
        self.sealed = ""

    def see(self, where: str, text: str) -> None:
        self.count += 1
        assert [] == leaks(text), where

    def logs(self, where: str) -> None:
        for line in self.lines:
            assert [] == leaks(line), f"{where}: log"
            assert line.count("\n") == 1
            assert line.strip().isprintable()
        self.lines.clear()

    async def look(self) -> None:
        """What the admin port shows and what was recorded."""
        headers = {"authorization": f"Bearer {CANARIES['admin token']}"}
        for url in self.admins.values():
            for path in ("/metrics", "/status", "/usage", "/v1/circuits"):
                async with self.http.get(url + path, headers=headers) as reply:
                    assert reply.status == 200
                    self.see(path, await reply.text())
        audits = [path for path in self.folder.iterdir() if path.name.startswith("audit-")]
        assert len(audits) >= 2
        for path in audits:
            for line in path.read_text().splitlines():
                assert [] == leaks(line), f"audit {path.name}"

    def objects(self) -> None:
        """`repr()` of every object of ours that is alive."""
        seen = 0
        shown: dict[str, list[str]] = {}
        for thing in gc.get_objects():
            kind = type(thing)
            module = getattr(kind, "__module__", "")
            if (
                not isinstance(module, str)
                or not module.startswith("llmshield")
                or module.startswith("llmshield.simulator")
            ):
                continue
            with suppress(ReferenceError):
                found = leaks(repr(thing))
                if found:
                    shown.setdefault(f"{module}.{kind.__name__}", found[:1])
            seen += 1

        assert shown == {}
        assert seen > 100


@pytest.fixture(scope="session")
def canaries() -> dict[str, str]:
    return CANARIES


@pytest.fixture(scope="session", name="leaks")
def _leaks() -> Callable[[str], list[str]]:
    return leaks


@pytest.fixture
def secrets_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Canaries wherever a secret is kept."""
    (tmp_path / "boom.py").write_text(BOOM)
    (tmp_path / "key").write_text(CANARIES["file key"])
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "keys.env").write_text(f"OTHER={CANARIES['literal']}\n")
    (tmp_path / "keys.env").chmod(0o600)
    for name, value in (
        ("LLMSHIELD_SECRET_KEY", CANARIES["vault master"]), ("LLMSHIELD_PREVIOUS_KEYS", CANARIES["previous master"]),
        ("LLMSHIELD_ADMIN_TOKEN", CANARIES["admin token"]), ("CANARY_KEY", CANARIES["env key"]),
        ("CANARY_LINES", f"{CANARIES['literal']}\n{CANARIES['literal']}"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    known = set(redact._known.values)
    root = logging.getLogger()
    state = root.handlers[:], root.level, logs.log.level, logs.log._write
    yield tmp_path
    root.handlers[:], logs.log.level, logs.log._write = state[0], state[2], state[3]
    root.setLevel(state[1])
    logging.captureWarnings(False)
    for secret in redact._known.values - known:
        redact.forget(secret)


@pytest.fixture
async def world(secrets_around: Path) -> AsyncIterator[World]:
    """One gateway with keys of its own, one that passes the client's on, and one that passes unread traffic."""
    digest = hashlib.sha256(CANARIES["client key"].encode()).hexdigest()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        sim = await enter(Simulator())
        http = await enter(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)))
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        stranger = await enter(aiohttp.ClientSession(connector=elsewhere, timeout=aiohttp.ClientTimeout(20)))
        made = World(sim, http, stranger, secrets_around)
        logs.configure("debug", made.lines.append)
        made.sealed = vault.ring().seal_reference(CANARIES["sealed key"], "gemini")
        for name, keys, anonymous, traffic in (
            ("keys", ("api_key: env://CANARY_KEY,", "api_key: file://key,", f"api_key: '{made.sealed}',"), "", "deny"),
            ("own", ("", "", ""), ", anonymous: {tier: pro}", "pass"),
        ):  # fmt: skip
            text = (
                POLICY.replace("URL", sim.url)
                .replace("CLIENT", digest)
                .replace("ANON", anonymous)
                .replace("TRAFFIC", traffic)
            )
            for letter, key in zip("ABC", keys, strict=True):
                text = text.replace(f"KEY_{letter}", key)
            text = text.replace("AUDIT", str(secrets_around / f"audit-{name}.jsonl"))
            if name == "own":
                text = text.replace("identify: [virtual_key]\n", "").replace(
                    ', keys: ["sha256:' + digest + '"]', ""
                )
            made.urls[name], made.admins[name] = await enter(gateway(policy(text, secrets_around)))
        yield made
