"""How many files and sockets this process may have open, and how many clients that is enough for."""

from __future__ import annotations

import sys

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

_WANTED = 65_536
"""As many as servers are usually given; the soft limit of a login shell is 1,024, for programs that use `select`."""
_RESERVED = 64
"""For stores, logs, the record, journals and the ports themselves."""
_EACH = 2
"""A client takes a socket, and the provider that is asked for it another one."""
_LEAST = 8


def raise_limit() -> None:
    """Let this process have as many open files as its hard limit allows, up to 65,536; a lower one stays."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """Clients that may be connected at once, so that a provider can still be asked for each of them."""
    if resource is None:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(_LEAST, (soft - _RESERVED) // _EACH)
