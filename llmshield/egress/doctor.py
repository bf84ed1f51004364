"""Look at this machine, and say in sentences what is right, what is not and what to do; then what clients would meet.

Nothing is changed. What can't be looked at without root is said, and is no fault.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509

from llmshield.egress import capturing, clients, environment, firewall, seen, sockets, trust
from llmshield.egress.ca import Store, expires_soon
from llmshield.egress.certificates import CaError
from llmshield.egress.judging import judge, readable, system_trusts
from llmshield.egress.rules import RulesError
from llmshield.policy import Policy
from llmshield.policy.egress import Egress

State: TypeAlias = Literal["good", "note", "bad"]
"""`note` is worth knowing and no fault."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, how it is, what was found, and what to do where it isn't good."""

    name: str
    state: State
    says: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found. `chosen` are the clients whose experience decides as well; empty: none does."""

    checks: Sequence[Check]
    clients: Sequence[clients.Experience]
    chosen: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Whether nothing is wrong: no check, and no client that was asked about."""
        asked = [each for each in self.clients if each.client in self.chosen]
        return all(check.state != "bad" for check in self.checks) and all(
            each.outcome == "obeys" for each in asked
        )


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose environment is looked at: this process's, or that of another one."""

    environ: Mapping[str, str]
    uid: int
    program: str = ""
    pid: int | None = None


@dataclass(slots=True)
class _Findings:
    """What one check learns and a later one needs."""

    checks: list[Check] = field(default_factory=list)
    ours: tuple[x509.Certificate, ...] = ()
    proxies: frozenset[tuple[str, int]] = frozenset()
    proxy_uids: frozenset[int] = frozenset()
    redirected: bool = False

    def add(self, name: str, state: State, says: str, do: str = "") -> None:
        self.checks.append(Check(name, state, says, do))


def examine(
    policy: Policy | None,
    store: Store,
    patient: Patient,
    folder: Path,
    chosen: Sequence[str] = (),
    listen: tuple[str, int] | None = None,
) -> Diagnosis:
    """Look at everything. `folder` is what clients are given, `listen` where the proxy is (the policy's without it)."""
    egress = (policy.egress if policy is not None else None) or Egress()
    where = listen or (egress.listen.host, egress.listen.port)
    found = _Findings()
    _policy(found, policy)
    _authority(found, store, egress)
    _files(found, folder, patient)
    if egress.mode == "local":
        _capture(found, policy)
    else:
        _proxy(found, policy, where)
        _rules(found, egress, where[1], patient)
    _sights(found)
    kinds = [kind for kind in clients.KINDS if not chosen or kind.name in chosen]
    if patient.pid is not None and not chosen:
        known = [kind for kind in kinds if any(word in patient.program for word in kind.programs)]
        kinds = known or kinds
    place = clients.Place(
        environ=patient.environ,
        redirected=found.redirected,
        way="by local capture, if `run --local` names it"
        if egress.mode == "local"
        else "by the kernel's rules",
        proxies=found.proxies,
        system=system_trusts(found.ours),
        trust=lambda path: judge(path, found.ours, patient.uid),
        settings=_settings(folder, where),
        hosts=tuple(egress.hosts),
    )
    told = [clients.experience(kind, place) for kind in kinds]
    if found.ours and told and not any(each.outcome == "obeys" for each in told):
        whose = f"of process {patient.pid}" if patient.pid is not None else "that reads this environment"
        found.add("clients", "bad", f"no client {whose} would obey the policy", 'eval "$(llmshield egress env --proxy '
                  f'{where[0]}:{where[1]})", llmshield egress exec, or transparent mode')  # fmt: skip
    return Diagnosis(found.checks, told, chosen)


def patient_of(pid: int, proc: Path = Path("/proc")) -> Patient:
    """Environment, user and program of a process. Raises: OSError when it isn't there, or isn't ours to look at."""
    entry = proc / str(pid)
    words = entry.joinpath("environ").read_bytes().split(b"\0")
    pairs = [word.decode(errors="surrogateescape").partition("=") for word in words if b"=" in word]
    environ = {name: value for name, _, value in pairs}
    program = entry.joinpath("comm").read_text().strip()
    try:
        program = (entry / "exe").readlink().name or program
    except OSError:
        pass  # its name is enough
    return Patient(environ, entry.stat().st_uid, program, pid)


def as_json(found: Diagnosis) -> str:
    """The diagnosis as JSON."""
    whole = {"good": found.good, "checks": [asdict(check) for check in found.checks]}
    return json.dumps(whole | {"clients": [asdict(each) for each in found.clients]}, indent=2) + "\n"


_SIGNS = {"good": "ok  ", "note": "note", "bad": "BAD "}


def as_text(found: Diagnosis) -> str:
    """The diagnosis for people."""
    lines = list[str]()
    for check in found.checks:
        lines.append(f"{_SIGNS[check.state]}  {check.name}: {check.says}")
        if check.do:
            lines.append(f"      {check.do}")
    lines.append("")
    lines += [f"  {each.client:15} {each.says}" for each in found.clients]
    helping = dict[str, str]()
    for each in found.clients:
        helping |= each.set
    if helping:
        lines += ["", "What would help:", *environment.render(helping, "sh").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _policy(found: _Findings, policy: Policy | None) -> None:
    if policy is None:
        found.add("policy", "note", "none was named, and there is no policy.yaml here", "say --policy FILE")
    elif policy.egress is None or not policy.egress.hosts:
        found.add(
            "policy",
            "bad",
            "it intercepts nothing",
            "name the LLM hosts: egress: {hosts: {api.openai.com: openai}}",
        )
    else:
        found.add(
            "policy",
            "good",
            f"it intercepts {', '.join(policy.egress.hosts)}; other hosts: {policy.egress.unlisted}",
        )


def _authority(found: _Findings, store: Store, egress: Egress) -> None:
    try:
        authority = store.needed(egress.hosts)
        found.ours = tuple(store.roots())
    except CaError as error:
        found.add("authority", "bad", str(error))
        return
    except PermissionError:
        found.add(
            "authority",
            "note",
            f"{store.folder} is not this user's to read",
            "run it as the proxy's user, or root",
        )
        return
    said = f"it may sign for {', '.join(authority.names)}, until {authority.ends:%Y-%m-%d}"
    stage = store.stage()
    if expires_soon(authority):
        found.add("authority", "bad", f"{said}: that is soon", "llmshield egress ca rotate")
    elif stage != "none":
        step = "--switch" if stage == "started" else "--finish"
        found.add(
            "authority",
            "note",
            f"{said}; it is being replaced ({stage})",
            f"llmshield egress ca rotate {step}",
        )
    else:
        found.add("authority", "good", said)


def _files(found: _Findings, folder: Path, patient: Patient) -> None:
    """What clients are given: there, of today, readable by the patient, without a key."""
    export = f"llmshield egress ca export --dir {folder}"
    for name in (trust.CA, trust.BUNDLE, trust.TRUSTSTORE):
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            found.add("files", "bad", f"{path}: {error.strerror}", export)
            return
        if b"PRIVATE KEY" in data:
            found.add(
                "files",
                "bad",
                f"{path} holds a private key",
                f"remove it; {export}; then llmshield egress ca rotate",
            )
            return
        verdict = judge(str(path), found.ours, patient.uid) if found.ours else "both"
        if not readable(path, patient.uid):
            found.add("files", "bad", f"{path} can't be read by uid {patient.uid}", "export into a folder that others may"
                      " enter: llmshield egress ca export --dir /etc/llmshield")  # fmt: skip
            return
        if verdict in ("others", "missing"):
            found.add("files", "bad", f"{path} does not have the roots of today", export)
            return
        if verdict == "ours" and name != trust.CA:
            found.add("files", "bad", f"{path} lacks the system's roots: other hosts would fail", export)
            return
    found.add("files", "good", f"{folder} has them, for everybody to read")


def _proxy(found: _Findings, policy: Policy | None, where: tuple[str, int]) -> None:
    found.proxies = frozenset({where, *((host, where[1]) for host in ("127.0.0.1", "localhost", "::1"))})
    listening = sockets.listeners(where[1])
    found.proxy_uids = frozenset(uid for _, uid in listening)
    try:
        socket.create_connection(where, timeout=3).close()
    except OSError as error:
        found.add("proxy", "bad", f"nobody listens on {where[0]}:{where[1]} ({error.strerror or 'no answer'})",
                  "llmshield egress run --policy FILE; or say where it is: --listen HOST:PORT")  # fmt: skip
        return
    said = f"somebody listens on {where[0]}:{where[1]}"
    if found.proxy_uids:
        said += f", uid {', '.join(map(str, sorted(found.proxy_uids)))}"
    admin = policy.server.admin if policy is not None else None
    if admin is None:
        found.add("proxy", "good", said)
        return
    status = _health(admin.host, admin.port)
    if status == 200:
        found.add("proxy", "good", f"{said}; its admin port says that all is up")
    else:
        what = "does not answer" if status is None else f"says {status}"
        found.add(
            "proxy", "bad", f"{said}; its admin port {admin} {what}", "see the log of llmshield egress run"
        )


def _capture(found: _Findings, policy: Policy | None) -> None:
    """Whether this machine can capture, and does."""
    why = capturing.trouble()
    if why is not None:
        found.add("capture", "bad", f"this machine can't: {why}", "egress.mode: transparent may do instead")
        return
    admin = policy.server.admin if policy is not None else None
    status = _health(admin.host, admin.port) if admin is not None else 200
    if status != 200:
        found.add("capture", "bad", f"this machine can; the admin port {admin} "
                  + ("does not answer" if status is None else f"says {status}"), "llmshield egress run --policy FILE")  # fmt: skip
        return
    found.redirected = True
    found.add(
        "capture", "good", "this machine can" + ("; the admin port says that all is up" if admin else "")
    )


def _rules(found: _Findings, egress: Egress, port: int, patient: Patient) -> None:
    """Rules that stand lead somewhere, and leave the proxy's own user out."""
    try:
        rules = firewall.find()
    except RulesError as error:
        found.add("rules", "note", f"could not be looked at: {error}")
        found.redirected = egress.mode == "transparent"
        return
    if rules is None:
        if egress.mode == "transparent":
            found.add("rules", "bad", "there are none, and the policy's mode is transparent: clients go past it",
                      "llmshield egress rules up --policy FILE --uid USER (as root)")  # fmt: skip
        else:
            found.add("rules", "note", "there are none: clients come in by their proxy settings")
        return
    if rules.port is not None and rules.port != port:
        found.add(
            "rules",
            "bad",
            f"they lead to port {rules.port}, and the proxy is on {port}",
            "llmshield egress rules up",
        )
        return
    outside = found.proxy_uids - set(rules.uids)
    if rules.uids and outside and not rules.gids:
        found.add("rules", "bad", f"the proxy runs as uid {min(outside)}, and they leave uid {rules.uids[0]} out: its own"
                  " calls come back to it", f"llmshield egress rules up --uid {min(outside)}")  # fmt: skip
        return
    found.redirected = True
    if patient.uid in rules.uids:
        found.redirected = False
        found.add("rules", "bad", f"they leave uid {patient.uid} out, and that is whom you asked about: it goes past the"
                  " policy", "give the proxy a user of its own")  # fmt: skip
        return
    if not found.proxy_uids:
        found.add(
            "rules",
            "bad",
            "they stand, and no proxy listens: clients are refused",
            "llmshield egress run, or rules down",
        )
        return
    found.add("rules", "good", f"they lead TCP to the proxy ({rules.backend})")


def _sights(found: _Findings) -> None:
    """Clients that do not believe us, and those that are let past."""
    for how, what, do in (
        ("distrusted", "did not believe the proxy's certificate (they pin one, or lack our authority)",
         "llmshield egress env for them; or let them past: egress.bypass"),
        ("bypassed", "pass undecrypted, as egress.bypass says", ""),
        ("crash_bypassed", "passed undecrypted while there was no gateway, as on_crash: bypass says", ""),
    ):  # fmt: skip
        sights = [each for each in seen.read() if each.how == how]
        if sights:
            some = ", ".join(f"{each.client} to {each.host} ({each.connections})" for each in sights[:5])
            more = f" and {len(sights) - 5} more" if len(sights) > 5 else ""
            found.add(how, "note", f"{some}{more} {what}", do)


def _health(host: str, port: int) -> int | None:
    import http.client

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        ask = http.client.HTTPConnection(host, port, timeout=3)
        ask.request("GET", "/healthz")
        status = ask.getresponse().status
        ask.close()
    except (OSError, http.client.HTTPException):
        return None
    return status


def _settings(folder: Path, where: tuple[str, int]) -> dict[str, str]:
    trusted = environment.trust_variables(folder, {})
    return trusted | environment.proxy_variables(*where, trusted)


def this_process() -> Patient:
    """The environment from which the doctor was called."""
    return Patient(dict(os.environ), os.geteuid())
