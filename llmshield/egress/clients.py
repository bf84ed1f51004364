"""What a client of each kind would meet here: does it come to the proxy, does it believe it, and what is to be set.

Which variable a client obeys was measured with the versions that docs/mounts/egress-clients.md names. No I/O: files
are read by whoever asks, and come in as `Trust`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["obeys", "passes_by", "fails"]
"""`obeys`: its calls go through the policy. `passes_by`: they go past it. `fails`: they end in an error of TLS."""

Trust: TypeAlias = Literal["both", "ours", "others", "missing"]
"""What a file of roots has: ours and the system's, ours alone, others' alone, or nothing that can be read."""

LOWER, UPPER = "https_proxy", "HTTPS_PROXY"
NO_PROXY = ("no_proxy", "NO_PROXY")
_URLLIB = frozenset({"openai", "anthropic", "google-genai", "httpx", "requests"})
"""Clients that ask Python's urllib which proxy there is."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client.

    `proxy` are variables by which it finds a proxy, `roots` those that name its roots: of both the first that is set
    counts. `adds` says that the named roots are added to its own; else they take their place. `own` is what it trusts
    without: the system's roots, or a bundle of its own. `java` reads options, not variables. `wants` is what to do
    where no variable helps.
    """

    name: str
    proxy: tuple[str, ...]
    roots: tuple[str, ...]
    adds: bool = False
    own: Literal["system", "bundled"] = "bundled"
    java: bool = False
    programs: tuple[str, ...] = ("python",)
    wants: str = ""


_PY = (LOWER, UPPER)
_NODE = "transparent mode (llmshield egress rules up), or llmshield egress exec --isolate; Node 20 obeys no proxy variable"

KINDS = (
    Kind("openai", _PY, ("SSL_CERT_FILE",), own="system"),
    Kind("anthropic", _PY, ("SSL_CERT_FILE",), own="system"),
    Kind("google-genai", _PY, ("SSL_CERT_FILE",)),
    Kind("httpx", _PY, ("SSL_CERT_FILE",)),
    Kind("requests", _PY, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")),
    Kind("aiohttp", (), ("SSL_CERT_FILE",), own="system",
         wants="transparent mode, exec --isolate, or trust_env=True in its session"),
    Kind("curl", (LOWER, UPPER), ("CURL_CA_BUNDLE", "SSL_CERT_FILE"), own="system", programs=("curl",)),
    Kind("node-fetch", (), ("NODE_EXTRA_CA_CERTS",), adds=True, programs=("node",), wants=_NODE),
    Kind("openai-node", (), ("NODE_EXTRA_CA_CERTS",), adds=True, programs=("node",), wants=_NODE),
    Kind("anthropic-node", (), ("NODE_EXTRA_CA_CERTS",), adds=True, programs=("node",), wants=_NODE),
    Kind("java", ("-Dhttps.proxyHost",), ("-Djavax.net.ssl.trustStore",), java=True, programs=("java",)),
    Kind("grpc", (LOWER, UPPER), ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",)),
    Kind("go", (UPPER, LOWER), ("SSL_CERT_FILE",), own="system", programs=()),
    Kind("rust-reqwest", (UPPER, LOWER), ("SSL_CERT_FILE",), own="system", programs=(),
         wants="a build with rustls-native-certs or native-tls: webpki-roots has its roots compiled in"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where the clients are. `environ` is theirs; `redirected` says that they are led to the proxy, and `way` how;
    `proxies` are HOST:PORT at which ours listens; `system` whether the system's own roots have ours; `trust` judges the
    file of a path; `settings` are the variables that would be right."""

    environ: Mapping[str, str]
    redirected: bool
    proxies: frozenset[tuple[str, int]]
    system: bool
    trust: Callable[[str], Trust]
    settings: Mapping[str, str]
    way: str = "by the kernel's rules"
    hosts: tuple[str, ...] = ()
    """Those of the policy, `*.` and all."""


@dataclass(frozen=True, slots=True)
class Experience:
    """What one kind of client would meet. `set` are the variables that would help, `says` is a sentence."""

    client: str
    outcome: Outcome
    says: str
    set: dict[str, str]


def experience(kind: Kind, place: Place) -> Experience:
    """What this kind of client meets in this place."""
    comes, way, for_proxy = _comes(kind, place)
    believes, why, for_trust = _believes(kind, place)
    if not comes:
        advice = kind.wants if not kind.proxy else "set " + " and ".join(for_proxy)
        return Experience(
            kind.name, "passes_by", f"goes past the policy: {way}; {advice}", {**for_proxy, **for_trust}
        )
    if not believes:
        return Experience(
            kind.name, "fails", f"comes to the proxy ({way}), and its calls fail: {why}", for_trust
        )
    note = f"; note: {why}" if why else ""
    hint = f"; needs {kind.wants}" if kind.name == "rust-reqwest" else ""
    return Experience(kind.name, "obeys", f"obeys the policy ({way}){note}{hint}", for_trust if why else {})


def _comes(kind: Kind, place: Place) -> tuple[bool, str, dict[str, str]]:
    if place.redirected:
        return True, place.way, {}
    # What is advised wins: in the way of both spellings there may be another proxy.
    wanted = ("JAVA_TOOL_OPTIONS",) if kind.java else kind.proxy
    advice = {name: place.settings[name] for name in wanted if name in place.settings}
    if not kind.proxy:
        return False, "it obeys no proxy variable", {}
    values = _java(place.environ) if kind.java else place.environ
    name = next((name for name in kind.proxy if values.get(name)), None)
    if kind.name in _URLLIB and values.get(LOWER) == "":  # an empty one in small letters takes the other away
        name = None
    if name is None:
        return False, f"{kind.proxy[0]} is not set", advice
    found = _address(values[name], values.get("-Dhttps.proxyPort") if kind.java else None)
    if found not in place.proxies:
        return False, f"{name} leads to another proxy", advice
    unled, spared = _spared(kind, values, place.hosts)
    if spared:
        names = ("JAVA_TOOL_OPTIONS",) if kind.java else NO_PROXY
        advice = {each: place.settings[each] for each in names if each in place.settings}
        return False, f"{unled} leaves {spared[0]} out", advice
    return True, f"by {name}", {}


def _spared(kind: Kind, values: Mapping[str, str], hosts: tuple[str, ...]) -> tuple[str, list[str]]:
    """Hosts of the policy for which this client is told to use no proxy, and by which setting: a list of names, each for
    itself and all below it, or `*`."""
    names = ("-Dhttp.nonProxyHosts",) if kind.java else NO_PROXY
    told = next((name for name in names if values.get(name)), "")
    listed = re.split(r"[|,\s]+", values.get(told, "").lower())
    left_out = [each.rpartition(":")[0] or each for each in listed]
    if "*" in left_out:
        return told, list(hosts)
    ends = tuple("." + each.lstrip("*.") for each in left_out if each.strip("*."))
    return told, [host for host in hosts if ("." + host.removeprefix("*.")).endswith(ends)]


def _believes(kind: Kind, place: Place) -> tuple[bool, str, dict[str, str]]:
    wanted = ("JAVA_TOOL_OPTIONS",) if kind.java else kind.roots[:1]
    advice = {name: place.settings[name] for name in wanted if name in place.settings}
    values = _java(place.environ) if kind.java else place.environ
    name = next((name for name in kind.roots if values.get(name)), None)
    if name is None:
        if kind.own == "system" and place.system:
            return True, "", {}
        where = (
            "the system's roots do not have ours" if kind.own == "system" else "it brings roots of its own"
        )
        return False, f"{where}, and {kind.roots[0]} is not set", advice
    found = place.trust(values[name])
    if found == "missing":
        return False, f"{name} names a file that can't be read, or holds no certificate", advice
    if found == "others":
        return False, f"{name} names a file without our certificate authority, or with an old one", advice
    if found == "ours" and not kind.adds:
        return True, f"{name} has our certificate authority alone, so that every other host fails", advice
    return True, "", {}


def _java(environ: Mapping[str, str]) -> dict[str, str]:
    """The `-D` options that a Java program is given by its environment."""
    words = " ".join(
        environ.get(name, "") for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
    ).split()
    return {
        name: value for name, _, value in (word.partition("=") for word in words) if name.startswith("-D")
    }


def _address(text: str, port: str | None = None) -> tuple[str, int] | None:
    """Host and port of a proxy's URL, or of a host and a port."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        return (parts.hostname or "", int(port) if port else parts.port or 80)
    except ValueError:
        return None
