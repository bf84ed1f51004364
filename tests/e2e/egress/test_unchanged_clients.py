"""Clients that nobody changed: every kind, whole and streamed, gets through the transparent mount what it gets through
the ASGI mount, and the provider is asked the same bytes. In three ways in: by variables, in a closed room, by rules.

Clients are programs of their own (clients/, node/), started with the environment that a user would give them. The
provider is the simulator behind TLS, under the real hosts' names. For rules there is a namespace with a cable to a
second one, in which the provider lives; root only.
"""

import base64
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1]
HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com")
URLS = tuple(f"https://{host}" for host in HOSTS)
OTHER = "api.mistral.ai"
"""A provider that the policy does not list."""
PLUGINS = """\
version: 1
defaults: {timeout: 10s}
server: {store: "memory://", admin: null}
plugins:
  - {use: injection, scan: [system, user, assistant, tool]}
  - {use: pii, entities: {EMAIL_ADDRESS: {action: replace}}, restore: true, scan: [user, tool]}
"""
EGRESS = (
    PLUGINS.replace(", admin: null", "")
    + """\
providers:
  openai: {dialect: openai, base_url: "https://api.openai.com/v1"CONNECT}
  anthropic: {dialect: anthropic, base_url: "https://api.anthropic.com"CONNECT}
  gemini: {dialect: gemini, base_url: "https://generativelanguage.googleapis.com"CONNECT}
routes:
  - {match: {model: "claude-*"}, to: [anthropic]}
  - {match: {model: "gemini-*"}, to: [gemini]}
  - {match: {any: true}, to: [openai]}
egress:
  hosts: {api.openai.com: openai, api.anthropic.com: anthropic, generativelanguage.googleapis.com: gemini}
"""
)

PYTHON = ("openai", "anthropic", "google-genai", "requests", "httpx", "aiohttp")
NODE = ("node-fetch", "openai-node", "anthropic-node")
CLIENTS = (*PYTHON, *NODE, "curl", "java")
KNOW_NO_PROXY = ("aiohttp", *NODE)
"""Clients that obey no proxy variable (Node 20; aiohttp unless its session is told to)."""

Runner = Callable[..., subprocess.CompletedProcess[str]]
Answers = dict[str, Any]


def missing(client: str) -> str:
    """Why a client can't be tried here."""
    program = {"java": "javac", "curl": "curl"}.get(client, "node" if client in NODE else "")
    if program and shutil.which(program) is None:
        return f"no {program} here"
    if client in NODE and not (HERE / "node" / "node_modules" / ".package-lock.json").exists():
        return "the npm packages are not installed: make npm"
    return ""


def ask_all(run: Runner, folder: Path, urls: tuple[str, ...], clients: tuple[str, ...] = CLIENTS) -> Answers:
    """What each of these clients gets; `run` starts a program where and as it is to be. They ask at the same time."""

    def python() -> Answers:
        words = (sys.executable, str(HERE / "clients" / "ask.py"), *urls)
        return told(run(*words, *(each for each in PYTHON if each in clients)))

    def node() -> Answers:
        if "node-fetch" not in clients or missing("node-fetch"):
            return {}
        return told(run("node", str(HERE / "node" / "ask.mjs"), *urls[:2]))

    def java() -> Answers:
        if missing("java"):
            return {}
        if not (folder / "Ask.class").exists():
            subprocess.run(["javac", "-d", str(folder), str(HERE / "clients" / "Ask.java")], check=True)
        said = run("java", "-cp", str(folder), "Ask", urls[0])
        assert said.returncode == 0, said.stderr
        return dict(zip(("java whole", "java stream"), said.stdout.splitlines(), strict=True))

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(each) for each in (python, node, java, lambda: by_curl(run, urls[0]))]
    return {name: answer for each in asking for name, answer in each.result().items()}


def told(said: subprocess.CompletedProcess[str]) -> Answers:
    """What a program of ours prints."""
    assert said.returncode == 0, said.stderr
    found: Answers = json.loads(said.stdout)
    return found


def by_curl(run: Runner, url: str) -> Answers:
    """What curl gets."""
    found: Answers = {}
    for way in ("whole", "stream"):
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Please write to ada.lovelace@example.com \U0001f30a Grüße\u2028!"}],
                "stream": way == "stream"}  # fmt: skip
        said = run("curl", "-sS", "-N", "-H", "authorization: Bearer sk-any", "-H", "content-type: application/json", "-d",
                   json.dumps(body), f"{url}/v1/chat/completions")  # fmt: skip
        found[f"curl {way}"] = (
            base64.b64encode(said.stdout.encode()).decode() if said.returncode == 0 else said.stderr
        )
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        found: int = probe.getsockname()[1]
        return found


def calls_at(run: Runner, control: int) -> list[tuple[str, str]]:
    """What a provider was asked: path and body of each call, in an order of its own."""
    said = run("curl", "-sS", "--noproxy", "*", f"http://127.0.0.1:{control}/__sim__/calls")
    assert said.returncode == 0, said.stderr
    return sorted((call["path"], json.dumps(call["body"])) for call in json.loads(said.stdout))


def plainly(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


@dataclass
class Reference:
    """What all clients got by the ASGI mount, and what the provider behind it was asked."""

    answers: Answers
    calls: list[tuple[str, str]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, started: Any) -> Reference:
    folder = tmp_path_factory.mktemp("asgi")
    (folder / "policy.yaml").write_text(PLUGINS + "providers: {app: {}}\n")
    port, control = free_port(), free_port()
    words = [sys.executable, str(HERE / "clients" / "provider.py"), "127.0.0.1", str(port), str(control),
             "--policy", str(folder / "policy.yaml")]  # fmt: skip
    with started(words, cwd=folder):
        answers = ask_all(plainly, folder, (f"http://127.0.0.1:{port}",) * 3)
        calls = calls_at(plainly, control)
    for name, answer in answers.items():
        assert "ada.lovelace@example.com" in readable(answer), (name, answer)
    assert all("ada.lovelace" not in body for _, body in calls)
    return Reference(answers, calls)


def readable(answer: Any) -> str:
    """The text that an answer spells, its pieces put together."""
    if isinstance(answer, str):
        try:
            text = base64.b64decode(answer, validate=True).decode()
        except ValueError:
            return answer
        if not text.startswith("data:"):
            return text
        answer = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    if not isinstance(answer, list):
        return json.dumps(answer)
    texts = []
    for event in answer:
        event = event or {}
        for choice in event.get("choices") or []:
            texts.append((choice.get("delta") or {}).get("content") or "")
        texts.append((event.get("delta") or {}).get("text") or "")
        for candidate in event.get("candidates") or []:
            texts += [part.get("text") or "" for part in (candidate.get("content") or {}).get("parts") or []]
    return "".join(texts)


@dataclass
class Room:
    """A place from which clients ask: what they get, and what the provider was asked."""

    answers: Answers
    calls: list[tuple[str, str]]


@pytest.fixture(scope="module")
def regular(
    egress: Any, tmp_path_factory: pytest.TempPathFactory, started: Any, provider_certificate: Any
) -> Iterator[Callable[..., Room]]:
    """A proxy in regular mode; `regular(*options)` runs all clients with `llmshield egress exec OPTIONS --`."""
    folder = tmp_path_factory.mktemp("regular")
    port, control = free_port(), free_port()
    words = [sys.executable, str(HERE / "clients" / "provider.py"), "127.0.0.1", str(port), str(control),
             "--tls", str(provider_certificate(folder))]  # fmt: skip
    policy = EGRESS.replace("CONNECT", f', connect: "127.0.0.1:{port}"')
    trusting = {"SSL_CERT_FILE": str(folder / "roots.pem")}
    with started(words), egress(policy, folder / "run", "--mode", "regular", **trusting) as mount:
        proxy = mount.proxy.removeprefix("http://")

        def through(*options: str, clients: tuple[str, ...] = CLIENTS) -> Room:
            plainly(
                "curl", "-sS", "--noproxy", "*", "-X", "DELETE", f"http://127.0.0.1:{control}/__sim__/calls"
            )
            base = [sys.executable, "-m", "llmshield", "egress", "exec", "--policy", str(folder / "run" / "policy.yaml"),
                    "--ca", str(folder / "run" / "ca"), "--dir", str(folder / "public"), "--proxy", proxy, *options, "--"]  # fmt: skip
            answers = ask_all(lambda *words: plainly(*base, *words), folder, URLS, clients)
            return Room(answers, calls_at(plainly, control))

        yield through


@pytest.fixture(scope="module")
def by_variables(regular: Callable[..., Room]) -> Room:
    """Only those that obey a proxy variable: the others would go past, and ask the real provider."""
    return regular(clients=PLACES["by_variables"])


@pytest.fixture(scope="module")
def in_a_room(regular: Callable[..., Room]) -> Room:
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Un", "true"], check=False).returncode != 0
    ):
        pytest.skip("this system makes no user and network namespaces for this user")
    return regular("--isolate")


def test_curl_by_socks5(
    egress: Any, reference: Reference, tmp_path: Path, started: Any, provider_certificate: Any
) -> None:
    port, control = free_port(), free_port()
    words = [sys.executable, str(HERE / "clients" / "provider.py"), "127.0.0.1", str(port), str(control),
             "--tls", str(provider_certificate(tmp_path))]  # fmt: skip
    policy = EGRESS.replace("CONNECT", f', connect: "127.0.0.1:{port}"')
    trusting = {"SSL_CERT_FILE": str(tmp_path / "roots.pem")}
    with started(words), egress(policy, tmp_path / "run", "--mode", "socks5", **trusting) as mount:
        proxy = mount.proxy.replace("http://", "socks5h://")
        environ = ["env", f"ALL_PROXY={proxy}", f"CURL_CA_BUNDLE={mount.bundle}"]
        answers = by_curl(lambda *words: plainly(*environ, *words), URLS[0])

    for name in ("curl whole", "curl stream"):
        assert answers[name] == reference.answers[name]


@pytest.fixture(scope="module")
def by_rules(cable: Any) -> Room:
    """Transparent mode: rules in a namespace, clients in it, proxy and gateway as a user of their own, and the provider
    at the other end of a cable."""
    near, folder = cable.near, cable.folder
    policy = ["--policy", str(folder / "policy.yaml")]
    with cable.provider(HOSTS, OTHER) as far, cable.run(EGRESS.replace("CONNECT", ""), HOSTS) as mount:
        before = near.run("nft", "list", "ruleset").stdout
        up = near.run(
            *cable.shield,
            "rules",
            "up",
            *policy,
            "--listen",
            cable.LISTEN,
            "--uid",
            str(cable.USER),
            "--wait",
            "60",
        )
        assert up.returncode == 0, up.stderr + mount.log.read_text()
        mount.wait_healthy()
        told = near.run(
            *cable.shield,
            "env",
            "--shell",
            "json",
            "--ca",
            str(folder / "ca"),
            "--dir",
            str(folder / "public"),
        )
        trust = [f"{name}={value}" for name, value in json.loads(told.stdout).items()]
        answers = ask_all(lambda *words: near.run("env", *trust, *words), folder, URLS)
        calls = calls_at(far.run, cable.CONTROL)
        # A host that the policy does not list: the provider's own certificate is seen, and believed by its own roots.
        passed = near.run("curl", "-sS", "--cacert", str(folder / "roots.pem"), f"https://{OTHER}/v1/models")
        answers["unlisted"] = passed.stdout if passed.returncode == 0 else passed.stderr
        asked = [word for client in CLIENTS for word in ("--client", client)]
        told = near.run("env", *trust, *cable.shield, "doctor", *policy, "--ca", str(folder / "ca"), "--dir",
                        str(folder / "public"), "--listen", cable.LISTEN, "--format", "json", *asked)  # fmt: skip
        answers["doctor"] = (told.returncode, json.loads(told.stdout))
        for _ in range(20):  # who was seen is written every two seconds
            answers["report"] = json.loads(
                near.run(*cable.shield, "report", *policy, "--format", "json", "--no-live").stdout
            )
            if answers["report"]["shadow"]:
                break
        answers["users"] = mount.users()
        assert near.run(*cable.shield, "rules", "down").returncode == 0
        assert near.run("nft", "list", "ruleset").stdout == before
        return Room(answers, calls)


PLACES = {
    "by_variables": tuple(client for client in CLIENTS if client not in KNOW_NO_PROXY),
    "in_a_room": CLIENTS,
    "by_rules": CLIENTS,
}


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize(
    ("place", "client"), [(place, client) for place in PLACES for client in PLACES[place]]
)
def test_a_client_that_nobody_changed(
    place: str, client: str, way: str, reference: Reference, request: pytest.FixtureRequest
) -> None:
    if reason := missing(client):
        pytest.skip(reason)
    room: Room = request.getfixturevalue(place)
    name = f"{client} {way}"

    assert room.answers[name] == reference.answers[name]


@pytest.mark.parametrize("place", ["in_a_room", "by_rules"])
def test_the_provider_is_asked_the_same_bytes(
    place: str, reference: Reference, request: pytest.FixtureRequest
) -> None:
    room: Room = request.getfixturevalue(place)
    calls = [call for call in room.calls if call[0] != "/v1/models"]

    assert calls == reference.calls
    assert len(calls) == 2 * len([client for client in CLIENTS if not missing(client)])


def test_proxy_and_gateway_are_nobody_special(by_rules: Room, cable: Any) -> None:
    """A user of their own, of no other group, with no capability."""
    wanted = {"uid": [cable.USER] * 4, "gid": [cable.USER] * 4, "groups": [], "capabilities": 0}

    assert by_rules.answers["users"] == {"gateway": wanted, "proxy": wanted}


def test_a_host_that_is_not_listed_is_not_touched(by_rules: Room) -> None:
    assert '"data"' in by_rules.answers["unlisted"]


def test_the_doctor_says_that_all_of_them_obey(by_rules: Room) -> None:
    status, found = by_rules.answers["doctor"]

    assert status == 0, found
    assert {each["client"]: each["outcome"] for each in found["clients"]} == dict.fromkeys(CLIENTS, "obeys")


def test_the_report_names_hosts_without_reading_what_they_were_told(by_rules: Room) -> None:
    found = by_rules.answers["report"]
    outcomes = {  # others may have gone along this cable before
        (each["host"], each["outcome"]) for each in found["hosts"] if each["client"].startswith("10.77.0.1")
    }

    assert found["shadow"] == [OTHER]
    assert {(host, "intercepted") for host in HOSTS} | {(OTHER, "passed")} <= outcomes
    assert not {(host, "passed") for host in HOSTS} & outcomes
