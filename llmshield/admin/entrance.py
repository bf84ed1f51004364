"""What a request has to look like before anybody asks who sent it: no other site's page, no name that was made to
point here.

A page on the web can have a browser on this machine send requests to this port, and can rebind a name of its own to
127.0.0.1. So `Host` has to be an address, `localhost`, a name of the policy or that of `server.admin`; `Origin`, where
there is one, has to be this port's own; `Sec-Fetch-Site` has to say that no other site asks; and whatever changes
something comes as `application/json`, which no form and no page of another site can send without asking first (and no
`Access-Control-*` is ever answered). No credential here is one that a browser sends by itself (`access`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from llmshield.admin.problems import Problem

_SINGLE = frozenset(
    {
        "host",
        "authorization",
        "content-type",
        "content-length",
        "content-encoding",
        "origin",
        "sec-fetch-site",
    }
)
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Entrance:
    """Checks heads. `names` are those that `Host` may have, besides addresses and `localhost`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower() for name in names) | {"localhost"}

    def check(self, raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """The headers by lower-case name. Raises: Problem."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in raw:
            name = raw_name.decode("latin-1").lower()
            if name in headers and name in _SINGLE:
                raise Problem("bad_request", f"The header {name!r} may stand once.")
            headers[name] = raw_value.decode("latin-1")
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Problem(
                "wrong_host",
                "The Host header names no address and none of this port's names; `admin.hosts` in the policy adds one.",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host.lower()}", f"https://{host.lower()}"}:
            raise Problem("cross_site", "The Origin header names another site than the one that is asked.")
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            raise Problem("cross_site", "The browser says that another site's page asks this.")
        return headers

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not colon:
            name = host
        elif not (port.isascii() and port.isdigit()):
            return False
        if name.startswith("[") and name.endswith("]"):
            name = name[1:-1]
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def check_type(method: str, headers: Mapping[str, str]) -> None:
    """Whatever changes something is `application/json`, also where it has no body. Raises: Problem."""
    if method not in _WITH_BODY:
        return
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise Problem(
            "unsupported_media",
            "Send `content-type: application/json`, in UTF-8; also where there is no body.",
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem("unsupported_media", "A body is read as it is: send it without `content-encoding`.")
