"""Put the rules into this machine's kernel, see which are there, take them out: with nft, else with iptables.

Every call may be made twice. nft changes all at once or nothing; iptables changes a table at once, and IPv4 and IPv6
one after the other.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from llmshield.child_environment import without_secrets
from llmshield.egress.rules import (
    CHAIN,
    TABLE,
    Rules,
    RulesError,
    iptables_tables,
    iptables_up,
    nft_down,
    nft_up,
)

Backend: TypeAlias = Literal["nft", "iptables"]

_WITH_CHAINS = ("nat", "filter")
_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"  # services and plain users often have no sbin on their PATH


@dataclass(frozen=True, slots=True)
class Found:
    """Rules of ours in the kernel. Of iptables only that they are there is read back."""

    backend: Backend
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()
    port: int | None = None


def choose(wanted: Backend | None = None) -> Backend:
    """The tool that is used: the wanted one, else nft, else iptables. Raises: RulesError when it isn't here.

    nft goes first because some kernels have its owner match and not that of iptables (seen in E2B's).
    """
    for backend in (wanted,) if wanted else ("nft", "iptables"):
        if _tool(backend):
            return backend
    names = wanted or "nft or iptables"
    raise RulesError(
        f"No {names} is installed here; install nftables (apt install nftables, dnf install nftables)"
    )


def up(rules: Rules, backend: Backend | None = None) -> Backend:
    """Put the rules there, in place of any of ours. Returns the tool that was used. Raises: RulesError."""
    chosen = choose(backend)
    if chosen == "nft":
        _run(("nft", "-f", "-"), nft_up(rules))
        _iptables_down()
    else:
        _iptables_set(rules)
        _nft_remove()
    return chosen


def down() -> bool:
    """Take our rules out, whichever tool put them there. Returns whether there were any. Raises: RulesError."""
    choose()
    removed = _nft_remove()
    return _iptables_down() or removed


def find() -> Found | None:
    """The rules of ours that stand; None where there are none. Raises: RulesError when the kernel can't be asked."""
    choose()
    if _tool("nft") and _nft_there():
        return _read_nft(orjson.loads(_run(("nft", "-j", "list", "table", "inet", TABLE))))
    return Found("iptables") if any(_iptables_chains(version) for version in _versions()) else None


def _nft_there() -> bool:
    listed = orjson.loads(_run(("nft", "-j", "list", "tables")))
    tables = [item["table"] for item in listed["nftables"] if "table" in item]
    return any((table["family"], table["name"]) == ("inet", TABLE) for table in tables)


def _nft_remove() -> bool:
    if not _tool("nft") or not _nft_there():
        return False
    _run(("nft", "-f", "-"), nft_down())
    return True


def _read_nft(listed: dict[str, Any]) -> Found:
    """What the rules of the chain `out` say. Rules that somebody else wrote into our table are passed over."""
    uids, gids = list[int](), list[int]()
    port = None
    for item in listed["nftables"]:
        rule = item.get("rule")
        if rule is None or rule["chain"] != "out":
            continue
        returns = any("return" in expression for expression in rule["expr"])
        for expression in rule["expr"]:
            match = expression.get("match")
            if match is not None and returns and match["op"] == "==":
                key = match["left"].get("meta", {}).get("key") if isinstance(match["left"], dict) else None
                if key in ("skuid", "skgid"):
                    (uids if key == "skuid" else gids).append(_number(match["right"], key))
            if "redirect" in expression:
                port = (expression["redirect"] or {}).get("port")
    return Found("nft", tuple(uids), tuple(gids), port)


def _number(value: int | str, key: str) -> int:
    """nft writes ids that have a name by that name."""
    if isinstance(value, int):
        return value
    import grp
    import pwd

    return pwd.getpwnam(value).pw_uid if key == "skuid" else grp.getgrnam(value).gr_gid


def _iptables_set(rules: Rules) -> None:
    if 6 not in _versions() and has_ipv6():
        raise RulesError(
            "No ip6tables is installed here, and IPv6 is on: calls would go past; install it, or nftables"
        )
    for version in _versions():
        _run((f"{_name(version)}-restore", "--noflush", "-w"), iptables_up(rules, version))
        wanted = iptables_tables(rules)
        for table in _WITH_CHAINS:
            if table not in wanted:
                _drop_chain(version, table)
            elif _ask(_words(version, table, "-C", "OUTPUT", "-j", CHAIN)).returncode != 0:
                _run(_words(version, table, "-I", "OUTPUT", "1", "-j", CHAIN))


def _iptables_down() -> bool:
    removed = False
    for version in _versions():
        for table in _iptables_chains(version):
            _drop_chain(version, table)
            removed = True
    return removed


def _drop_chain(version: int, table: str) -> None:
    if _ask(_words(version, table, "-S", CHAIN)).returncode != 0:
        return
    while _ask(_words(version, table, "-D", "OUTPUT", "-j", CHAIN)).returncode == 0:
        pass
    for step in ("-F", "-X"):
        _run(_words(version, table, step, CHAIN))


def _iptables_chains(version: int) -> list[str]:
    """The tables with a chain of ours. Tables that are not loaded are not asked: asking would load them."""
    if _tool("nft"):
        listed = orjson.loads(_run(("nft", "-j", "list", "chains")))
        family = "ip" if version == 4 else "ip6"
        chains = [item["chain"] for item in listed["nftables"] if "chain" in item]
        found = {chain["table"] for chain in chains if (chain["family"], chain["name"]) == (family, CHAIN)}
        if found:
            return [table for table in _WITH_CHAINS if table in found]
        names = Path("/proc/net/ip_tables_names" if version == 4 else "/proc/net/ip6_tables_names")
        try:
            loaded = names.read_text().split()
        except OSError:
            loaded = []
    else:
        loaded = [*_WITH_CHAINS]
    return [
        table
        for table in _WITH_CHAINS
        if table in loaded and _ask(_words(version, table, "-S", CHAIN)).returncode == 0
    ]


def _versions() -> tuple[int, ...]:
    return tuple(version for version in (4, 6) if _tool(_name(version)))


def _name(version: int) -> str:
    return "iptables" if version == 4 else "ip6tables"


def _words(version: int, table: str, *words: str) -> tuple[str, ...]:
    return (_name(version), "-w", "-t", table, *words)


def has_ipv6() -> bool:
    """Whether this network namespace has IPv6 at all; many containers have none, not even on loopback."""
    try:
        return bool(Path("/proc/net/if_inet6").read_text().strip())
    except OSError:
        return False


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_PATH)


def _ask(words: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = _tool(words[0])
    if program is None:
        raise RulesError(f"No {words[0]} is installed here; install nftables, or iptables with ip6tables")
    return subprocess.run(  # noqa: S603 - fixed commands; what varies are numbers
        (program, *words[1:]), input=text, capture_output=True, text=True, check=False, env=without_secrets()
    )


def _run(words: Sequence[str], text: str | None = None) -> str:
    done = _ask(words, text)
    if done.returncode == 0:
        return done.stdout
    said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "it said nothing")
    if "ermission" in done.stderr or "not permitted" in done.stderr:
        raise RulesError(
            f"{words[0]}: {said} Rules need root, or the capability NET_ADMIN: sudo, or an init container"
        )
    raise RulesError(f"{' '.join(words)} failed ({done.returncode}): {said}")
