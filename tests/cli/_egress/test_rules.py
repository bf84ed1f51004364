"""`llmshield egress rules`: what it prints, and what it refuses. In a kernel: tests/egress/test_firewall.py."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.egress.rules import Rules, nft_up

POLICY = """\
version: 1
providers: {openai: {dialect: openai, api_key: "env://KEY"}}
routes: [{match: {any: true}, to: [openai]}]
egress: {hosts: {api.openai.com: openai}, listen: "127.0.0.1:9443", ports: [443]}
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("egress"), ["egress", "rules", *words])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_policy_the_defaults() -> None:
    assert run("print", "--uid", "1337").stdout == nft_up(Rules(8080, 1337))


def test_the_policy_says_where_and_which_ports(folder: Path) -> None:
    (folder / "p.yaml").write_text(POLICY)

    said = run("print", "--policy", "p.yaml", "--uid", "1337", "--gid", "1400", "--only-uid", "5")
    assert said.stdout == nft_up(Rules(9443, 1337, 1400, (443,), (5,)))
    said = run("print", "--policy", "p.yaml", "--uid", "1337", "--listen", "[::1]:9000")
    assert "redirect to :9000" in said.stdout


def test_a_user_by_name() -> None:
    said = run("print", "--uid", "root", "--gid", "root")

    assert "meta skuid 0 return" in said.stdout
    assert "uid 0 is left out" in said.stderr


def test_as_iptables_reads_it() -> None:
    said = run("print", "--uid", "1337", "--backend", "iptables").stdout

    assert said.count("REDIRECT") == said.count("REJECT") == 2
    assert "ip6tables -t nat -I OUTPUT 1 -j LLMSHIELD" in said


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--uid", "no-such-user"), 2, "no such user"),
        (("--uid", "1337; drop"), 2, "no such user"),
        (("--uid", "99999999999"), 2, "no such user"),
        (("--gid", "no-such-group", "--uid", "1"), 2, "no such group"),
        ((), 2, "--uid NAME"),
        (("--uid", "1", "--only-uid", "1"), 2, "proxy's own user"),
        (("--uid", "1", "--listen", "127.0.0.1:443"), 2, "choose another"),
        (("--uid", "1", "--listen", "127.0.0.1:0"), 2, "port 0"),
        (("--uid", "1", "--listen", "nonsense"), 2, "--listen"),
        (("--uid", "1", "--listen", "10.0.0.1:8080"), 1, "127.0.0.1 and ::1 only"),
        (("--uid", "1", "--policy", "none.yaml"), 2, "none.yaml"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], status: int, said: str) -> None:
    done = run("print", *words)

    assert done.exit_code == status
    assert said in done.stderr + str(done.exception)


def test_with_wait_nothing_is_set_before_the_proxy_listens() -> None:
    done = run("up", "--uid", "1337", "--listen", "127.0.0.1:1", "--wait", "0.1")

    assert done.exit_code == 1
    assert "no rules were set" in str(done.exception)
