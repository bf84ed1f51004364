"""The rules that send a machine's own traffic to the proxy, as text for nft or iptables. Nothing is run here.

One table of our own (`inet llmshield`) or one chain of our own (`LLMSHIELD`): what others wrote is never touched, and
`down` is one deletion. All rules have the same meaning in both:

    what the proxy and the gateway send (by uid, and gid where given) goes out as it is: else it would come back to them
    what stays on loopback goes as it is
    TCP to the ports of `egress.ports`, of IPv4 and IPv6, is redirected to the proxy's port on loopback
    UDP to these ports (HTTP/3) is refused at once, so that clients take TCP

A redirect in the output hook always leads to 127.0.0.1 and ::1. Without a proxy there, clients are refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from llmshield.errors import ShieldError

TABLE = "llmshield"
CHAIN = "LLMSHIELD"


class RulesError(ShieldError):
    """Rules that can't be written, set or removed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is redirected. `only` are the uids whose traffic is meant; empty: everybody's."""

    port: int
    uid: int
    gid: int | None = None
    ports: tuple[int, ...] = (80, 443)
    only: tuple[int, ...] = ()

    @property
    def refused(self) -> tuple[int, ...]:
        """UDP ports on which HTTP/3 would go past; 80 speaks none."""
        return tuple(port for port in self.ports if port != 80)


def check_listen(host: str) -> None:
    """Refuse a proxy's address that a redirect never reaches. Raises: RulesError."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost":
            return
        raise RulesError(
            f"--listen {host!r}: expected an address of this machine, such as 127.0.0.1"
        ) from None
    if (
        address not in (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
        and not address.is_unspecified
    ):
        raise RulesError(
            f"--listen {host}: rules lead to 127.0.0.1 and ::1 only; have the proxy listen there, or on every address"
        )


def nft_up(rules: Rules) -> str:
    """A script that puts the table there, or anew, in one transaction.

    `-100` is `dstnat`; nft 1.0.6 refuses that name in an output hook.
    """
    ours = [f"meta skuid {rules.uid} return"]
    if rules.gid is not None:
        ours.append(f"meta skgid {rules.gid} return")
    if rules.only:
        ours.append(f"meta skuid != {_set(rules.only)} return")
    ours += ["ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return"]
    chains = [_chain("out", "nat", -100, [*ours, f"tcp dport {_set(rules.ports)} redirect to :{rules.port}"])]
    if rules.refused:
        chains.append(_chain("quic", "filter", 0, [*ours, f"udp dport {_set(rules.refused)} reject"]))
    return f"add table inet {TABLE}\n{nft_down()}table inet {TABLE} {{\n{''.join(chains)}}}\n"


def nft_down() -> str:
    """A script that removes the table; it has to be there."""
    return f"delete table inet {TABLE}\n"


def iptables_up(rules: Rules, version: int) -> str:
    """A script for `iptables-restore --noflush` (IP version 4 or 6) that makes our chains, or fills them anew.

    Naming a chain empties it. The jumps into them are not in it: there is no "once" in that language.
    """
    loopback = "127.0.0.0/8" if version == 4 else "::1/128"
    ours = [f"-m owner --uid-owner {rules.uid} -j RETURN"]
    if rules.gid is not None:
        ours.append(f"-m owner --gid-owner {rules.gid} -j RETURN")
    ours.append(f"-d {loopback} -j RETURN")
    redirect = f"-p tcp -m multiport --dports {_list(rules.ports)} -j REDIRECT --to-ports {rules.port}"
    refuse = f"-p udp -m multiport --dports {_list(rules.refused)} -j REJECT"
    written = ""
    for table, last in (("nat", redirect), ("filter", refuse)):
        if table == "filter" and not rules.refused:
            continue
        whose = [f"-m owner --uid-owner {uid} {last}" for uid in rules.only] or [last]
        written += "\n".join(
            [f"*{table}", f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {rule}" for rule in (*ours, *whose))]
        )
        written += "\nCOMMIT\n"
    return written


def iptables_tables(rules: Rules) -> tuple[str, ...]:
    """The tables of iptables that have a chain of ours."""
    return ("nat", "filter") if rules.refused else ("nat",)


def _chain(name: str, kind: str, priority: int, rules: Sequence[str]) -> str:
    lines = [f"type {kind} hook output priority {priority}; policy accept;", *rules]
    return f"  chain {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "  }\n"


def _set(numbers: Sequence[int]) -> str:
    return "{ " + ", ".join(map(str, numbers)) + " }"


def _list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
