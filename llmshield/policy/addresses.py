"""What `base_url` of a provider must be: a web address, private on the way, in the form of its dialect."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from llmshield.policy.providers import ProviderShape
from llmshield.policy.report import Report


def check(shape: ProviderShape, path: tuple[str, ...], report: Report) -> None:
    """Report an address that can't be used, or does not look as the dialect's SDKs would write it."""
    if shape.base_url is None:
        return
    path = (*path, "base_url")
    url = _split(shape.base_url)
    if url is None:
        report.add("LS307", path, "found no web address, expected https://HOST or https://HOST/v1")
        return
    if url.username is not None or url.password is not None:
        report.add("LS309", path, "found a user or password in the address", "put keys into `api_key`")
    if url.query or url.fragment:
        report.add("LS307", path, "found a query or fragment, expected an address without")
    if url.scheme == "http" and not shape.insecure and not _is_local(shape, url):
        report.add(
            "LS308", path, f"found plain http to {url.hostname!r}: keys and texts would be readable on the way",
            "write https, or `insecure: true` beside it where the network is trusted",
        )  # fmt: skip
    tail = url.path.rstrip("/")
    versioned = any(part[:1] == "v" and part[1:2].isdigit() for part in tail.split("/"))
    if shape.dialect == "openai" and not versioned:
        better = url._replace(path=f"{tail}/v1").geturl()
        report.add(
            "LS306",
            path,
            "found an address without version, expected one that ends in /v1",
            f"write {better}",
        )
    elif shape.dialect in ("anthropic", "gemini") and versioned and tail.rsplit("/", 1)[-1][:1] == "v":
        better = url._replace(path=tail.rpartition("/")[0]).geturl()
        report.add(
            "LS306", path, f"found a version at the end, expected none for {shape.dialect}", f"write {better}"
        )


def _split(text: str) -> SplitResult | None:
    """The parts of a web address, or None if it is none."""
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        return None
    clean = not any(char.isspace() or char in "\\\"'<>{}|^`$" for char in text)
    return url if usable and clean else None


def _is_local(shape: ProviderShape, url: SplitResult) -> bool:
    """Whether the address that is dialled is on this machine."""
    host = shape.connect.host if shape.connect is not None else url.hostname or ""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
