"""The rules in a kernel: twice up, twice down, what others wrote, and where packets really go. In namespaces, as root."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS = ("nft", "iptables", "ip6tables")
UP = ("rules", "up", "--uid", "1337", "--listen", "127.0.0.1:8080")
FOREIGN = """
table inet other {
  chain out {
    type filter hook output priority 5; policy accept;
    tcp dport 443 counter accept
  }
}
table ip llmshield {
  chain mine {
  }
}
table ip nat {
  chain OUTPUT {
    type nat hook output priority -100; policy accept;
  }
  chain THEIRS {
  }
}
"""


def ruleset(namespace) -> str:
    return namespace.run("nft", "-s", "list", "ruleset").stdout


@pytest.mark.parametrize("backend", ["nft", "iptables"])
def test_up_up_down_down_leaves_what_was_there(namespace, backend: str) -> None:
    if backend == "iptables":  # its own empty tables stay, so they are there before
        for tool in ("iptables", "ip6tables"):
            for table in ("nat", "filter"):
                namespace.run(tool, "-t", table, "-N", "SOMEONE")
                namespace.run(tool, "-t", table, "-I", "OUTPUT", "-j", "SOMEONE")
    else:
        namespace.run("nft", "-f", "-", text=FOREIGN)
    before = ruleset(namespace)

    namespace.shield(*UP, "--backend", backend)
    once = ruleset(namespace)
    namespace.shield(*UP, "--backend", backend)
    assert ruleset(namespace) == once != before
    assert "stand" in namespace.shield("rules", "show").stdout
    assert "gone" in namespace.shield("rules", "down", "--listen", "127.0.0.1:8080", "--uid", "1337").stdout
    assert ruleset(namespace) == before
    assert "no rules" in namespace.shield("rules", "down").stdout
    assert ruleset(namespace) == before
    assert namespace.shield("rules", "show", check=False).returncode == 1


def test_foreign_rules_are_untouched_while_ours_stand(namespace) -> None:
    namespace.run("nft", "-f", "-", text=FOREIGN)
    before = ruleset(namespace)
    namespace.shield(*UP)
    during = ruleset(namespace)

    ours = namespace.run("nft", "-s", "list", "table", "inet", "llmshield").stdout
    assert during.replace(ours, "").strip() == before.strip()


def test_other_rules_of_ours_are_replaced_whole(namespace) -> None:
    namespace.shield("rules", "up", "--uid", "1000", "--listen", "127.0.0.1:9999")
    namespace.shield(*UP)
    anew = ruleset(namespace)
    namespace.shield("rules", "down")
    namespace.shield(*UP)

    assert ruleset(namespace) == anew
    assert "1000" not in anew
    assert "9999" not in anew


@pytest.mark.parametrize(("first", "second"), [("nft", "iptables"), ("iptables", "nft")])
def test_with_the_other_tool_they_move(namespace, first: str, second: str) -> None:
    namespace.shield(*UP, "--backend", first)
    namespace.shield(*UP, "--backend", second)

    assert f"({second})" in namespace.shield("rules", "show").stdout
    text = ruleset(namespace)
    assert ("table inet llmshield" in text) == (second == "nft")
    assert ("LLMSHIELD" in text) == (second == "iptables")
    namespace.shield("rules", "down")
    assert "LLMSHIELD" not in ruleset(namespace)
    assert "llmshield" not in ruleset(namespace)


def test_without_nft_iptables_is_used(namespace, tmp_path: Path) -> None:
    """On a PATH without nft, where no folder of the system has it either."""
    for tool in ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        tmp_path.joinpath(tool).symlink_to(shutil.which(tool))
    script = (
        "from llmshield.egress import firewall; from llmshield.egress.rules import Rules\n"
        f"import os; firewall._PATH = os.environ['PATH'] = '{tmp_path}'\n"
        "rules = Rules(8080, 1337)\n"
        "print(firewall.up(rules), firewall.up(rules), firewall.find().backend, firewall.down(), firewall.down(),"
        " firewall.find())"
    )

    done = namespace.run(sys.executable, "-c", script)
    assert done.stdout == "iptables iptables iptables True False None\n"
    assert "LLMSHIELD" not in ruleset(namespace)


def test_without_the_right_to_they_are_refused_in_a_sentence(namespace) -> None:
    words = [
        "setpriv",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        sys.executable,
        "-m",
        "llmshield",
        "egress",
        *UP,
    ]
    done = namespace.run(*words, check=False)
    assert done.returncode == 1
    assert "need root" in done.stderr
    assert "Traceback" not in done.stderr


LISTEN = """
import json, socket, struct, sys, threading
def serve(family, host, port, name):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port)); listener.listen()
    def run():
        while True:
            peer, _ = listener.accept()
            try:
                if family == socket.AF_INET:
                    raw = peer.getsockopt(socket.SOL_IP, 80, 16)
                    went = socket.inet_ntoa(raw[4:8]) + " " + str(struct.unpack("!H", raw[2:4])[0])
                else:
                    raw = peer.getsockopt(socket.IPPROTO_IPV6, 80, 28)
                    went = socket.inet_ntop(socket.AF_INET6, raw[8:24]) + " " + str(struct.unpack("!H", raw[2:4])[0])
            except OSError: went = ""
            peer.sendall((name + " " + went).encode()); peer.close()
    threading.Thread(target=run, daemon=True).start()
for family, host, port, name in json.loads(sys.argv[1]): serve(family, host, port, name)
print("ready", flush=True); threading.Event().wait()
"""

ASK = """
import json, os, socket, sys
for family, kind, host, port, uid in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
    ask = socket.socket(family, kind); ask.settimeout(5)
    try:
        ask.connect((host, port))
        if kind == socket.SOCK_DGRAM: ask.send(b"x")
        print(ask.recv(200).decode(), flush=True)
    except OSError as error: print(type(error).__name__, flush=True)
    os._exit(0)
"""

V4, V6, STREAM, DGRAM = 2, 10, 1, 2
PROXY = [
    (V4, "127.0.0.1", 8080, "proxy"),
    (V6, "::1", 8080, "proxy"),
    (V4, "127.0.0.1", 443, "own"),
    (V6, "::1", 443, "own"),
]
WORLD = [
    (V4, "0.0.0.0", 443, "world"),
    (V6, "::", 443, "world"),
    (V4, "0.0.0.0", 80, "world"),
    (V4, "0.0.0.0", 8443, "world"),
]
WAYS = [
    # family, kind, host, port, uid -> who answers
    ("a client's TLS", V4, STREAM, "10.77.0.2", 443, 1000, "proxy 10.77.0.2 443"),
    ("root's too", V4, STREAM, "10.77.0.2", 443, 0, "proxy 10.77.0.2 443"),
    ("plain HTTP", V4, STREAM, "10.77.0.2", 80, 1000, "proxy 10.77.0.2 80"),
    ("IPv6", V6, STREAM, "fd77::2", 443, 1000, "proxy fd77::2 443"),
    ("far away", V4, STREAM, "203.0.113.9", 443, 1000, "proxy 203.0.113.9 443"),
    ("the proxy's own", V4, STREAM, "10.77.0.2", 443, 1337, "world "),
    ("the proxy's own, IPv6", V6, STREAM, "fd77::2", 443, 1337, "world "),
    ("another port", V4, STREAM, "10.77.0.2", 8443, 1000, "world "),
    ("loopback", V4, STREAM, "127.0.0.1", 443, 1000, "own"),
    ("loopback, IPv6", V6, STREAM, "::1", 443, 1000, "own"),
    ("HTTP/3", V4, DGRAM, "10.77.0.2", 443, 1000, "PermissionError|ConnectionRefusedError"),
    ("HTTP/3, IPv6", V6, DGRAM, "fd77::2", 443, 1000, "PermissionError|ConnectionRefusedError"),
    ("the proxy's HTTP/3", V4, DGRAM, "10.77.0.2", 443, 1337, "ConnectionRefusedError|TimeoutError"),
]  # fmt: skip


def ask(space, *ways) -> list[str]:
    """Who answers each of these, one line for each."""
    return space.run("/usr/bin/env", "python3", "-c", ASK, json.dumps(ways)).stdout.splitlines()


@pytest.mark.parametrize("backend", ["nft", "iptables"])
def test_where_packets_go(pair, backend: str) -> None:
    near, far = pair
    helpers = []
    for space, listeners in ((near, PROXY), (far, WORLD)):
        words = space.words("/usr/bin/env", "python3", "-c", LISTEN, json.dumps(listeners))
        helpers.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        assert helpers[-1].stdout.readline() == b"ready\n"
    try:
        near.shield(*UP, "--backend", backend)
        answers = ask(near, *[way[1:6] for way in WAYS])
        wrong = [
            (way[0], answer)
            for way, answer in zip(WAYS, answers, strict=True)
            if not any(answer.startswith(word) for word in way[6].split("|"))
        ]
        assert wrong == []
        helpers[0].kill()
        helpers[0].wait()
        client = (V4, STREAM, "10.77.0.2", 443, 1000)
        assert ask(near, client) == ["ConnectionRefusedError"], "without a proxy nothing goes past"
        near.shield("rules", "down")
        assert ask(near, client) == ["world "]
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
            helper.stdout.close()
