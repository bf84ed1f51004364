"""Shadow discovery: who speaks to LLM providers here, whether the policy knows of it, and what it cost where it does.

Three sources, and nothing is decrypted for any: what the proxy saw (names from TLS), which processes of this machine
have connections open (the kernel's tables), and the records of calls that the gateway made (the audit).
"""

from __future__ import annotations

import csv
import io
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from llmshield import clock
from llmshield.egress import known
from llmshield.egress.sockets import Connection
from llmshield.policy.egress import Egress

RESOLVE_S = 3.0
"""How long names are looked up, all together."""
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was seen at the proxy: by which client, what became of it, how often and when (seconds since 1970).

    `provider` is its name in the list of known hosts; `listed` whether the policy's `egress.hosts` has it.
    """

    host: str
    provider: str | None
    listed: bool
    client: str
    outcome: str
    connections: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Program:
    """A process with connections to a provider's address, or to the proxy.

    `host` is whose address it is as far as DNS tells: several hosts may share one, so it is a hint; `via` says whether it
    goes `to the proxy` or `straight` (in transparent mode rules may lead it to the proxy all the same).
    """

    host: str
    provider: str | None
    listed: bool
    via: str
    pid: int | None
    uid: int
    program: str
    connections: int


@dataclass(slots=True)
class Spend:
    """Calls through the gateway: of whom, to which model, at which cost (exact decimal, USD)."""

    provider: str
    model: str
    tenant: str
    calls: int = 0
    blocked: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; `notes` say what could not be looked at."""

    hosts: Sequence[Host] = ()
    programs: Sequence[Program] = ()
    spend: Sequence[Spend] = ()
    notes: Sequence[str] = field(default=())

    @property
    def shadow(self) -> list[str]:
        """Hosts of LLM providers that are spoken to and that the policy does not list."""
        found = {each.host for each in self.hosts if each.provider is not None and not each.listed}
        found |= {each.host for each in self.programs if each.provider is not None and not each.listed}
        return sorted(found)


Sight = tuple[str, str, str, int, float, float]
"""outcome, host, client, connections, first, last."""


def hosts(
    sights: Iterable[Sight], egress: Egress, since: float = 0.0, everything: bool = False
) -> list[Host]:
    """Hosts of LLM providers, and of the policy, that the proxy saw since then; with `everything` all others as well."""
    found = []
    for outcome, host, client, number, first, last in sights:
        provider, listed = known.provider_of(host), egress.provider_of(host) is not None
        if last >= since and (provider or listed or everything):
            found.append(Host(host, provider, listed, client, outcome, number, first, last))
    return sorted(
        found, key=lambda each: (each.listed, each.provider is None, each.host, each.client, each.outcome)
    )


def programs(
    connections: Iterable[Connection], egress: Egress, addresses: Mapping[str, str], proxy: tuple[str, int]
) -> list[Program]:
    """Processes that are connected to one of these addresses (address to host), or to the proxy."""
    counted = dict[tuple[str, str, int, int | None], list[Connection]]()
    for each in connections:
        address, port = each.remote
        host, via = addresses.get(address, ""), "straight"
        if (address, port) == proxy or (port == proxy[1] and address in ("127.0.0.1", "::1")):
            host, via = "", "to the proxy"
        elif not host or port not in egress.ports:
            continue
        counted.setdefault((host, via, each.uid, each.process.pid if each.process else None), []).append(each)
    found = [
        Program(
            host=host,
            provider=known.provider_of(host) if host else None,
            listed=egress.provider_of(host) is not None,
            via=via,
            pid=pid,
            uid=uid,
            program=group[0].process.program if group[0].process else "",
            connections=len(group),
        )
        for (host, via, uid, pid), group in counted.items()
    ]
    return sorted(found, key=lambda each: (each.via, each.host, each.uid, each.pid or 0))


def spend(
    records: Iterable[Mapping[str, object]], since: float = 0.0, mount: str | None = None
) -> list[Spend]:
    """What calls cost, from the audit's records (`records` are its lines as mappings), the dearest first."""
    found = dict[tuple[str, str, str], Spend]()
    for record in records:
        if record.get("kind") != "call" or (mount is not None and record.get("mount") != mount):
            continue
        if _time(record) < since:
            continue
        provider, asked, tenant = [str(record.get(name) or "") for name in ("provider", "model", "tenant")]
        model = str(record.get("answered_model") or asked)
        row = found.setdefault((provider, model, tenant), Spend(provider, model, tenant))
        row.calls += 1
        row.blocked += record.get("action") == "block"
        row.input_tokens += _whole(record.get("input_tokens"))
        row.output_tokens += _whole(record.get("output_tokens"))
        cost = record.get("cost_usd")
        try:
            row.cost_usd += Decimal(str(cost)) if cost is not None else 0
        except InvalidOperation:
            cost = None
        row.unpriced += cost is None and record.get("action") != "block"
    return sorted(found.values(), key=lambda each: (-each.cost_usd, -each.calls, each.provider, each.model))


def read_records(files: Iterable[Path]) -> Iterable[Mapping[str, object]]:
    """The records of an audit's segments, line by line; a line that is none is passed over (`audit verify` judges)."""
    for path in files:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record


def resolve(
    names: Iterable[str],
    seconds: float = RESOLVE_S,
    look_up: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo,
) -> dict[str, str]:
    """Addresses of these hosts, each with its host; names that are not answered in time are left out."""
    waiting, answers = queue.SimpleQueue[str](), queue.SimpleQueue[tuple[str, list[str]]]()
    wanted = [name for name in dict.fromkeys(names) if "*" not in name]
    for name in wanted:
        waiting.put(name)

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            found: Sequence[tuple[Any, ...]] = ()
            try:
                found = look_up(name, 443, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                found = ()
            answers.put((name, [str(each[4][0]) for each in found]))

    for _ in range(min(_THREADS, len(wanted))):
        threading.Thread(target=work, daemon=True).start()  # one that hangs is left behind
    until, got = clock.monotonic() + seconds, dict[str, list[str]]()
    while len(got) < len(wanted) and (left := until - clock.monotonic()) > 0:
        try:
            name, found = answers.get(timeout=left)
        except queue.Empty:
            break
        got[name] = found
    # In the order of the names, not of the answers: the first name keeps a shared address.
    addresses = dict[str, str]()
    for name in wanted:
        for address in got.get(name, ()):
            addresses.setdefault(address, name)
    return addresses


def as_json(report: Report) -> str:
    """The whole report as JSON."""
    whole = asdict(report) | {"shadow": report.shadow}
    whole["spend"] = [asdict(each) | {"cost_usd": _amount(each.cost_usd)} for each in report.spend]
    return json.dumps(whole, indent=2) + "\n"


_COLUMNS = (
    "kind", "host", "provider", "listed", "client", "outcome", "via", "pid", "uid", "program", "connections", "first", "last",
    "model", "tenant", "calls", "blocked", "input_tokens", "output_tokens", "cost_usd", "unpriced",
)  # fmt: skip


def as_csv(report: Report) -> str:
    """The whole report as one table; `kind` says what a row is: host, program or spend.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front: names come from strangers.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    for kind, rows in (("host", report.hosts), ("program", report.programs), ("spend", report.spend)):
        for row in rows:
            cells: dict[str, object] = {
                name: "" if value is None else value for name, value in asdict(row).items()
            }
            if "cost_usd" in cells:
                cells["cost_usd"] = _amount(cells["cost_usd"])
            for name in ("first", "last"):
                if name in cells:
                    cells[name] = _stamp(float(str(cells[name])))
            table.writerow([kind, *(_harmless(cells.get(name, "")) for name in _COLUMNS[1:])])
    return text.getvalue()


def as_text(report: Report) -> str:
    """The report for people."""
    parts = list[str]()
    if report.shadow:
        parts.append("Not in egress.hosts, and spoken to: " + ", ".join(report.shadow) + "\n")
    for title, rows, columns in (
        ("Seen at the proxy", report.hosts, ("host", "provider", "listed", "client", "outcome", "connections", "last")),
        ("Open now", report.programs, ("program", "pid", "uid", "via", "host", "provider", "listed", "connections")),
        ("Through the gateway", report.spend,
         ("provider", "model", "tenant", "calls", "blocked", "input_tokens", "output_tokens", "cost_usd", "unpriced")),
    ):  # fmt: skip
        if rows:
            cells = [[_cell(name, getattr(row, name)) for name in columns] for row in rows]
            parts.append(f"{title}\n{_table([[*columns], *cells])}")
    parts += [f"note: {note}\n" for note in report.notes]
    if not (report.hosts or report.programs or report.spend):
        parts.insert(0, "Nobody was seen speaking to an LLM provider.\n")
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "".join(f"  {line}\n" for line in lines)


def _cell(name: str, value: object) -> str:
    if name == "last" and isinstance(value, float):
        return _stamp(value)
    if isinstance(value, Decimal):
        return _amount(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def _amount(value: object) -> str:
    """An exact decimal with twelve digits, as everywhere else."""
    return f"{value:.12f}"


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _time(record: Mapping[str, object]) -> float:
    """When a record was written, seconds since 1970; 0 where it does not say."""
    try:
        return datetime.fromisoformat(str(record.get("time"))).timestamp()
    except ValueError:
        return 0.0


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
