"""`llmshield egress rules`: send this machine's own traffic to the proxy, for transparent mode, and stop that again.

One table of our own in nftables (`inet llmshield`), or one chain of our own in iptables; nothing else is touched, and
every command may be given twice. Exit status: 0 good, 1 when it can't be done (`show`: no rules), 2 usage.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._egress._shared import PolicyOption, misused, section

if TYPE_CHECKING:
    from llmshield.egress.rules import Rules

SERVICE_USER = "llmshield"


class Tool(enum.StrEnum):
    """What writes the rules."""

    nft = "nft"
    iptables = "iptables"


ListenOption = Annotated[
    str | None, typer.Option("--listen", help="Where the proxy listens, HOST:PORT; the policy's without it.")
]
UidOption = Annotated[
    str | None,
    typer.Option("--uid", help="User (number or name) of proxy and gateway, whose own traffic goes out."),
]
GidOption = Annotated[str | None, typer.Option("--gid", help="Their group, if it is to be left out as well.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only-uid", help="Redirect this user's traffic only; may be repeated.")
]
BackendOption = Annotated[
    Tool | None, typer.Option("--backend", help="nft, or iptables; the first that is installed without it.")
]


def register(group: typer.Typer) -> None:
    """Mount the commands."""
    rules = typer.Typer(
        no_args_is_help=True, help="Rules of the kernel for transparent mode: print, up, down, show."
    )

    @rules.command("print")
    def print_command(
        policy: PolicyOption = None, listen: ListenOption = None, uid: UidOption = None, gid: GidOption = None,
        only_uid: OnlyOption = None, backend: BackendOption = None,
    ) -> None:  # fmt: skip
        """Print what `up` would set."""
        show_script(_rules(policy, listen, uid, gid, only_uid or []), backend or Tool.nft)

    @rules.command("up")
    def up_command(
        policy: PolicyOption = None, listen: ListenOption = None, uid: UidOption = None, gid: GidOption = None,
        only_uid: OnlyOption = None, backend: BackendOption = None,
        wait: Annotated[
            float, typer.Option("--wait", min=0, help="Seconds to wait for the proxy to listen, first.")
        ] = 0,
    ) -> None:  # fmt: skip
        """Set the rules, in place of ours that are there."""
        up(_rules(policy, listen, uid, gid, only_uid or []), backend, wait)

    @rules.command("down")
    def down_command(
        policy: PolicyOption = None, listen: ListenOption = None, uid: UidOption = None, gid: GidOption = None
    ) -> None:
        """Take our rules out; the options are those of `up`, and change nothing."""
        from llmshield.egress import firewall

        print("Our rules are gone." if firewall.down() else "There were no rules of ours.")

    @rules.command("show")
    def show_command() -> None:
        """Say which rules of ours stand."""
        from llmshield.egress import firewall

        found = firewall.find()
        if found is None:
            print("There are no rules of ours.")
            raise typer.Exit(1)
        what = (
            f"to port {found.port}, except of uid {', '.join(map(str, found.uids))}"
            if found.port
            else "in LLMSHIELD"
        )
        print(f"Rules of ours stand ({found.backend}): {what}")

    group.add_typer(rules, name="rules")


def show_script(rules: Rules, backend: Tool) -> None:
    """Print the rules as their tool reads them."""
    from llmshield.egress.rules import CHAIN, iptables_tables, iptables_up, nft_up

    if backend is Tool.nft:
        print(nft_up(rules), end="")
        return
    for version, name in ((4, "iptables"), (6, "ip6tables")):
        print(f"# {name}-restore --noflush <<EOF\n{iptables_up(rules, version)}# EOF")
        for table in iptables_tables(rules):
            print(f"# {name} -t {table} -I OUTPUT 1 -j {CHAIN}")


def up(rules: Rules, backend: Tool | None, wait_s: float) -> None:
    """Set the rules. Raises: RulesError, also when no proxy listens after the wait."""
    from llmshield.egress import firewall
    from llmshield.egress.rules import RulesError

    if wait_s and not _listens(rules.port, wait_s):
        raise RulesError(
            f"Nothing listens on 127.0.0.1:{rules.port} after {wait_s:g} s, and no rules were set: clients would be cut"
            " off. Start llmshield egress run --mode transparent, and see its log"
        )
    used = firewall.up(rules, backend.value if backend else None)
    whose = f"of uid {', '.join(map(str, rules.only))}" if rules.only else "of this machine"
    print(
        f"TCP {whose} to port {', '.join(map(str, rules.ports))} goes to the proxy on port {rules.port} now ({used}),"
        f" except what uid {rules.uid} sends."
    )


def _rules(
    policy: Path | None, listen: str | None, uid: str | None, gid: str | None, only: list[str]
) -> Rules:
    """The rules that the options and the policy mean. Raises: typer.Exit for wrong usage; RulesError."""
    from llmshield.cli._egress.env import parse_address
    from llmshield.egress.rules import Rules, check_listen
    from llmshield.policy.egress import Egress

    egress = section(policy, "rules") or Egress()
    host, port = (
        parse_address(listen, "rules", "--listen") if listen else (egress.listen.host, egress.listen.port)
    )
    check_listen(host)
    if port == 0:
        raise misused("rules", "--listen: port 0 is any port; name the one on which the proxy listens")
    if port in egress.ports:
        raise misused(
            "rules", f"--listen: port {port} is one of those that are redirected; choose another one"
        )
    number = _user(uid if uid is not None else SERVICE_USER, "--uid", given=uid is not None)
    if number == 0:
        print(
            "llmshield egress rules: uid 0 is left out: nothing that root runs obeys the policy. Give proxy and gateway"
            " a user of their own",
            file=sys.stderr,
        )
    group = _group(gid) if gid is not None else None
    chosen = tuple(_user(text, "--only-uid", given=True) for text in only)
    if number in chosen:
        raise misused(
            "rules", f"--only-uid {number} is the proxy's own user: its calls would come back to it"
        )
    return Rules(port, number, group, egress.ports, chosen)


def _user(text: str, option: str, *, given: bool) -> int:
    from llmshield.egress import accounts

    found = accounts.find(text)
    if found is not None:
        return found.uid
    if given:
        raise misused("rules", f"{option} {text!r:.60}: no such user; name one, or a number")
    raise misused(
        "rules",
        f"say which user proxy and gateway run as: --uid NAME (there is no user {SERVICE_USER!r} here). Without it"
        " their own calls would come back to them",
    )


def _group(text: str) -> int:
    import grp

    if text.isascii() and text.isdigit() and int(text) < 2**32 - 1:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise misused("rules", f"--gid {text!r:.60}: no such group; name one, or a number") from None


def _listens(port: int, wait_s: float) -> bool:
    """Whether something listens on the port of IPv4's loopback, now or within the time."""
    import socket
    import time

    end = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        else:
            return True
