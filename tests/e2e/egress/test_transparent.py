"""Transparent mode from its start to every kind of end: gateway and proxy as a user of their own, rules with the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HOST = "api.openai.com"
POLICY = """\
version: 1
server: {store: "memory://"}
providers: {openai: {dialect: openai, base_url: "https://api.openai.com/v1"}}
plugins: [{use: pii, entities: {EMAIL_ADDRESS: {action: replace}}}]
egress: {hosts: {api.openai.com: openai}, on_no_sni: pass}
"""
FOREIGN = "table inet somebody { chain out { type filter hook output priority 5; policy accept; tcp dport 25 drop; }; }"
REFUSED, NO_TLS = 7, 35
"""What curl calls a connection that the kernel refuses, and a handshake that is cut off."""

Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def far(cable: Any) -> Iterator[Any]:
    cable.near.do("nft", FOREIGN)
    with cable.provider((HOST,)) as space:
        yield space


@pytest.fixture
def ask(cable: Any, far: Any) -> Ask:
    """curl's status and output for a call to the host, as some user; `roots` are what it trusts."""
    forget(cable, far)

    def call(
        uid: int = 0, url: str = f"https://{HOST}/v1/chat/completions", roots: str = ""
    ) -> tuple[int, str]:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "to ada@example.com"}]}
        trust = ["--cacert", roots or str(cable.folder / "public" / "ca.crt")] if roots != "any" else ["-k"]
        ids = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        done = cable.near.run(
            *ids,
            "curl",
            "-sS",
            "--max-time",
            "20",
            *trust,
            "-H",
            "content-type: application/json",
            "-d",
            json.dumps(body),
            url,
        )
        return done.returncode, done.stdout + done.stderr

    return call


def forget(cable: Any, far: Any) -> None:
    far.do("curl", "-sS", "-X", "DELETE", f"http://127.0.0.1:{cable.CONTROL}/__sim__/calls")


def asked(cable: Any, far: Any) -> str:
    """Everything that the provider was told."""
    said: str = far.do("curl", "-sS", f"http://127.0.0.1:{cable.CONTROL}/__sim__/calls")
    return said


def public(cable: Any) -> None:
    cable.near.do(
        *cable.shield, "ca", "export", "--ca", str(cable.folder / "ca"), "--dir", str(cable.folder / "public")
    )


def ruleset(cable: Any) -> str:
    said: str = cable.near.do("nft", "list", "ruleset")
    return said


def test_calls_of_other_users_obey_and_those_of_its_own_go_out(cable: Any, far: Any, ask: Ask) -> None:
    """The whole scenario: the rules leave one user out, and proxy and gateway are that user, without a capability. And
    the ways round it: TLS without a name to a listed host's address, though `on_no_sni` lets it pass; HTTP/3; plain HTTP."""
    before = ruleset(cable)
    with cable.run(POLICY, (HOST,), "--rules", "up") as run:
        run.wait_healthy()
        public(cable)
        obeyed = [ask(uid) for uid in (0, 48_214)]
        by_address = ask(url=f"https://{cable.FAR}/v1/models", roots="any")
        code = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)\n"
                f"s.connect(({cable.FAR!r}, 443)); s.send(b'x'); s.recv(1)")  # fmt: skip
        quic = cable.near.run("python3", "-c", code)
        plain = ask(url=f"http://{HOST}/v1/chat/completions")
        users = run.users()
        past = ask(cable.USER, roots=str(cable.folder / "roots.pem"))
        run.process.terminate()
        ended = run.process.wait(40)
    told = json.loads(asked(cable, far))

    for status, said in [*obeyed, plain]:
        assert status == 0, said
        assert '"choices"' in said
    assert by_address[0] == NO_TLS, by_address
    assert any(word in quic.stderr for word in ("ConnectionRefusedError", "PermissionError")), quic.stderr
    assert past[0] == 0, "a program of the proxy's own user goes past, as the page on rules says"
    assert ["ada@example.com" in json.dumps(call["body"]) for call in told] == [False, False, False, True]
    assert {(who["uid"][1], who["capabilities"]) for who in users.values()} == {(cable.USER, 0)}
    assert ended == 0
    assert ruleset(cable) == before


CRASHES = [
    ("proxy", "bypass", False),
    ("proxy", "block", True),
    ("run", "block", True),
    ("run", "bypass", True),  # who is killed can take nothing out
]


def test_after_a_crash(cable: Any, far: Any, ask: Ask) -> None:
    """`block`: the kernel refuses clients, until it is started again. Each run takes the place of what the one before
    has left, and the last one, which ends well, leaves nothing."""
    before = ruleset(cable)
    theirs = str(cable.folder / "roots.pem")
    for killed, on_crash, stays in CRASHES:
        text = POLICY.replace("on_no_sni: pass", f"on_crash: {on_crash}")
        with cable.run(text, (HOST,), "--rules", "up") as run:
            run.wait_healthy()
            public(cable)
            assert ask()[0] == 0, (killed, on_crash)
            children = run.children()
            os.kill(children["proxy"] if killed == "proxy" else run.process.pid, signal.SIGKILL)
            assert run.process.wait(60) == (1 if killed == "proxy" else -9)
            until = time.monotonic() + 40
            while any(Path(f"/proc/{pid}").exists() for pid in children.values()):
                assert time.monotonic() < until
                time.sleep(0.1)
        forget(cable, far)
        status, said = ask(roots=theirs)

        assert status == (REFUSED if stays else 0), (killed, on_crash, said)
        assert (ruleset(cable) == before) is not stays
        assert bool(json.loads(asked(cable, far))) is not stays
    with cable.run(POLICY, (HOST,), "--rules", "up") as run:
        run.wait_healthy()
        assert ask()[0] == 0
    assert ruleset(cable) == before


def test_ipv6(cable: Any, far: Any, started: Any) -> None:
    """A host that has an address of IPv6 and no other; an unlisted one passes with its own certificate."""
    for space, last in ((cable.near, 1), (cable.far, 2)):
        done = space.run("ip", "-6", "addr", "add", f"fd77::{last}/64", "dev", "cable", "nodad")
        if done.returncode != 0:
            pytest.skip(f"no IPv6 here: {done.stderr.strip()}")
    provider = str(Path(__file__).parents[1] / "clients" / "provider.py")
    pair = str(cable.folder / "provider.pem")
    hosts = cable.folder / "hosts"
    before = hosts.read_text()
    with started(cable.far.words(sys.executable, provider, "fd77::2", "443", "9010", "--tls", pair)):
        hosts.write_text(f"127.0.0.1 localhost\nfd77::2 {HOST}\nfd77::2 other.example\n")
        try:
            with cable.run(POLICY, (HOST,), "--rules", "up") as run:
                run.wait_healthy()
                public(cable)
                body = json.dumps(
                    {"model": "m", "messages": [{"role": "user", "content": "to ada@example.com"}]}
                )
                say = ["-sS", "--max-time", "20", "-H", "content-type: application/json", "-d", body]
                ours = ["--cacert", str(cable.folder / "public" / "ca.crt")]
                theirs = ["--cacert", str(cable.folder / "roots.pem")]
                obeys = cable.near.run("curl", *say, *ours, f"https://{HOST}/v1/chat/completions")
                passes = cable.near.run(
                    "curl", "-sS", "--max-time", "20", *theirs, "https://other.example/v1/models"
                )
                by_address = cable.near.run("curl", "-sSk", "--max-time", "20", "https://[fd77::2]/v1/models")
        finally:
            hosts.write_text(before)
        told = cable.far.do("curl", "-sS", "http://127.0.0.1:9010/__sim__/calls")

    assert obeys.returncode == 0, obeys.stderr
    assert '"choices"' in obeys.stdout
    assert "ada@example.com" not in told
    assert passes.returncode == 0, passes.stderr
    assert by_address.returncode == NO_TLS, by_address.stdout


def test_rules_are_the_same_however_often(cable: Any, far: Any) -> None:
    before = ruleset(cable)
    policy = cable.folder / "policy.yaml"
    policy.write_text(POLICY)
    words = ["--policy", str(policy), "--listen", cable.LISTEN, "--uid", str(cable.USER)]
    found: list[str] = []
    printed: subprocess.CompletedProcess[str] = cable.near.run(*cable.shield, "rules", "print", *words)
    for step in ("up", "up", "down", "down"):
        cable.near.do(*cable.shield, "rules", step, *words)
        found.append(ruleset(cable))
    cable.near.do("sh", "-c", f"nft -f - <<'EOF'\n{printed.stdout}EOF")
    found.append(ruleset(cable))
    cable.near.do(*cable.shield, "rules", "down")

    assert found[0] == found[1] == found[4] != before
    assert found[2] == found[3] == ruleset(cable) == before
    assert "table inet somebody" in found[0]
