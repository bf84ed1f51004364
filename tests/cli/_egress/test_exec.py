"""`llmshield egress exec` as a user runs it: variables, the closed room, signals, exit statuses, nothing left behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmshield.egress.ca import Store

EXEC = [sys.executable, "-m", "llmshield", "egress", "exec"]


class Proxy:
    """A proxy that answers CONNECT, then tells over HTTP what it was asked."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.asked = list[str]()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listening.accept()
                threading.Thread(target=self._take, args=(peer,), daemon=True).start()

    def _take(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            head = peer.recv(65536).decode()
            if not head:
                return  # somebody who looked whether we are here
            self.asked.append(head.split(" HTTP/")[0])
            if head.startswith("CONNECT"):
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nby the proxy")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.listening.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Store().init(["api.openai.com"])
    return tmp_path


def words(proxy: Proxy, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [*EXEC, "--proxy", f"127.0.0.1:{proxy.port}", *options, "--", *command]


def run(proxy: Proxy, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(proxy, *command, options=options), capture_output=True, text=True, check=False, timeout=60
    )


ISOLATE = ("--isolate",)
MODES = [(), ISOLATE]


@pytest.fixture(params=MODES, ids=["variables", "room"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param:
        need_rooms()
    found: tuple[str, ...] = request.param
    return found


def need_rooms() -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Un", "true"], check=False).returncode != 0
    ):
        pytest.skip("this system makes no user and network namespaces for this user")


def test_a_client_reaches_the_proxy(proxy: Proxy, options: tuple[str, ...]) -> None:
    done = run(proxy, "curl", "-sS", "http://api.openai.com/v1/models", options=options)

    assert done.stdout == "by the proxy", done.stderr
    assert proxy.asked == (
        ["CONNECT api.openai.com:80"] if options else ["GET http://api.openai.com/v1/models"]
    )


def test_trust_is_set_and_arguments_are_the_commands_own(proxy: Proxy, options: tuple[str, ...]) -> None:
    done = run(proxy, "sh", "-c", 'cat "$SSL_CERT_FILE" | head -1; echo "$NODE_EXTRA_CA_CERTS" "$@"', "x", "--policy", "-p",
               options=options)  # fmt: skip

    assert done.stdout.splitlines()[0] == "-----BEGIN CERTIFICATE-----"
    assert done.stdout.splitlines()[1].endswith("ca.crt --policy -p")


@pytest.mark.parametrize(
    ("command", "status"),
    [(("true",), 0), (("sh", "-c", "exit 7"), 7), (("no-such-command",), 127), (("/",), 126)],
)
def test_the_status_is_the_commands(
    proxy: Proxy, options: tuple[str, ...], command: tuple[str, ...], status: int
) -> None:
    assert run(proxy, *command, options=options).returncode == status


def test_a_command_that_a_signal_ended(proxy: Proxy) -> None:
    need_rooms()

    assert run(proxy, "sh", "-c", "kill -KILL $$", options=ISOLATE).returncode == 137
    assert run(proxy, "sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(proxy: Proxy, options: tuple[str, ...], number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.value}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        words(proxy, "sh", "-c", script, options=options),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell can't trap what was ignored when it began, as under nohup
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "caught\n"

    assert process.returncode == 9


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_killed_it_takes_the_command_with_it(proxy: Proxy) -> None:
    need_rooms()
    script = "echo $$; while :; do sleep 0.05; done"
    with subprocess.Popen(
        words(proxy, "sh", "-c", script, options=ISOLATE), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert os.readlink(f"/proc/{child}/ns/net") != os.readlink("/proc/self/ns/net")
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while alive(child) and time.monotonic() < until:
            time.sleep(0.02)
        assert not alive(child)


INSIDE = """
import ctypes, json, os, socket, sys
outside, other = sys.argv[1:]
found = {}
def attempt(name, function):
    try: found[name] = str(function())
    except Exception as error: found[name] = type(error).__name__
def dial(host, port, kind=socket.SOCK_STREAM, family=socket.AF_INET):
    with socket.socket(family, kind) as made:
        made.settimeout(5); made.connect((host, port))
        if kind == socket.SOCK_DGRAM: made.send(b"x"); made.recv(10)
        return "through"
def enter():
    handle = os.open(f"/proc/{outside}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, 0): raise OSError(ctypes.get_errno(), "")
    return "entered"
attempt("interfaces", lambda: [name for _, name in socket.if_nameindex()])
attempt("a port that is not the policy's", lambda: dial("203.0.113.9", 8443))
attempt("the same by IPv6", lambda: dial("2001:db8::9", 8443, family=socket.AF_INET6))
attempt("HTTP/3", lambda: dial("203.0.113.9", 443, socket.SOCK_DGRAM))
attempt("a service of this machine", lambda: dial("127.0.0.1", int(other)))
attempt("another namespace", enter)
attempt("memory of the one outside", lambda: open(f"/proc/{outside}/mem", "rb"))
attempt("a name", lambda: socket.gethostbyname("api.openai.com").rpartition(".")[0])
attempt("a name's IPv6", lambda: socket.getaddrinfo("ipv6.example", 443, socket.AF_INET6))
print(json.dumps(found))
"""


def test_nothing_leads_out_of_the_room(proxy: Proxy) -> None:
    need_rooms()
    import json

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run(proxy, "python3", "-c", INSIDE, str(os.getpid()), port, options=ISOLATE)

    assert json.loads(done.stdout) == {
        "interfaces": "['lo']",
        "a port that is not the policy's": "ConnectionRefusedError",
        "the same by IPv6": "ConnectionRefusedError",
        "HTTP/3": "ConnectionRefusedError",
        "a service of this machine": "ConnectionRefusedError",
        "another namespace": "PermissionError",
        "memory of the one outside": "PermissionError",
        "a name": "198.18.0",
        "a name's IPv6": "gaierror",
    }, done.stderr
    assert proxy.asked == []


def test_one_place_may_be_reached_past_the_proxy(proxy: Proxy) -> None:
    need_rooms()
    other = Proxy()
    port = other.port

    direct = (*ISOLATE, "--direct", f"127.0.0.1:{port}")
    done = run(proxy, "curl", "-sS", f"http://127.0.0.1:{port}/x", options=direct)
    other.listening.close()
    assert done.stdout == "by the proxy"
    assert (other.asked, proxy.asked) == (["GET /x"], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user first")
def test_without_root_too(proxy: Proxy, folder: Path) -> None:
    """A user without rights makes a room, and stays who they are."""
    need_rooms()
    script = "import os, sys; sys.path[:0] = sys.argv[1:]; os.environ['HOME'] = '/nonexistent'\n" + (
        "import asyncio, encodings.idna, _posixsubprocess, json, select\n"
        "from llmshield.egress import launching, room\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "import ctypes; ctypes.CDLL(None).prctl(4, 1)  # as a process that began as this user\n"
        f"code = launching.isolate(['sh', '-c', 'id -u; id -g; exec curl -sS http://api.openai.com/x'], os.environ, [80],"
        f" ('127.0.0.1', {proxy.port}))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    if "kernel.unprivileged_userns_clone" in done.stderr:
        pytest.skip("this system makes rooms for root only")

    assert done.stdout == "12345\n12345\nby the proxy", done.stderr


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--proxy", "127.0.0.1:1"), 1, "egress run"),
        (("--proxy", "nonsense"), 2, "HOST:PORT"),
        (("--direct", "127.0.0.1:5432"), 2, "--isolate"),
        (("--isolate", "--direct", "127.0.0.1:443"), 2, "egress.ports"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], status: int, said: str) -> None:
    done = subprocess.run([*EXEC, *options, "--", "true"], capture_output=True, text=True, check=False)

    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
