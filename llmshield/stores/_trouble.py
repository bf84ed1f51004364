"""What is told of a store that can't be used: what was found, where, and what to do about it. Never a password."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import ssl
from urllib.parse import urlsplit

from llmshield.errors import StoreUnavailable

_SQLITE: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_BUSY: (
        "another process holds it locked",
        "look for a backup, a sqlite3 shell or a stuck process on it (`fuser FILE`); keep it on a local disk",
    ),
    sqlite3.SQLITE_LOCKED: ("a table in it is locked", "look for another program that uses this file"),
    sqlite3.SQLITE_READONLY: (
        "it may not be written by this user (uid {uid})",
        "make the file, FILE-wal, FILE-shm and their folder writable for it, or name another file",
    ),
    sqlite3.SQLITE_PERM: (
        "it may not be used by this user (uid {uid})",
        "make the file and its folder writable for it, or name another file",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "it can't be opened by this user (uid {uid})",
        "it has to be a file, or a free name in a folder that this user may write to: FILE-wal is made beside it",
    ),
    sqlite3.SQLITE_FULL: (
        "the disk is full",
        "make room; nothing is lost, and calls are served again at once",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk refused to read or write ({name})",
        "look at its free space, its quota and the system's log",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged",
        "stop all processes that use it, put it and FILE-wal aside, and restore a backup or begin with a new file",
    ),
    sqlite3.SQLITE_NOTADB: ("the file is no SQLite database", "name another file; this one is left as it is"),
    sqlite3.SQLITE_PROTOCOL: (
        "its locks do not work",
        "keep it on a local disk: network file systems do not lock well enough for SQLite's WAL",
    ),
}
"""By primary result code (https://www.sqlite.org/rescode.html): what was found, what to do."""

_REDIS: dict[str, tuple[str, str]] = {
    "NOAUTH": ("it asks for a password", "write it into the URL: redis://:PASSWORD@HOST:PORT/0"),
    "WRONGPASS": ("it refuses the user or the password", "correct them in the URL; percent-encode what is no letter or digit"),
    "NOPERM": (
        "its user may not do that",
        "allow it @scripting, @read, @write, @connection and the keys of the prefix (ACL SETUSER)",
    ),
    "READONLY": ("it is a replica, which takes no writes", "name the primary"),
    "LOADING": ("it is loading its data", "wait; calls are served again when it is done"),
    "MASTERDOWN": ("it is a replica that has lost its primary", "name the primary, or bring it back"),
    "OOM": ("its memory is full", "raise maxmemory; the policy has to be noeviction, or money is forgotten"),
    "MISCONF": ("it can't write its data to disk", "look at the free space of its disk and at its log"),
    "CLUSTERDOWN": ("its cluster is down", "bring the cluster back"),
    "MOVED": ("it is part of a cluster whose nodes do not agree which of them has our keys", "look at CLUSTER SLOTS"),
    "ASK": ("it is part of a cluster that is moving our keys to another node", "wait until it has"),
    "TRYAGAIN": ("it is part of a cluster that is moving our keys to another node", "wait until it has"),
    "BUSY": ("a script of somebody else runs in it", "wait, or end it with SCRIPT KILL"),
}  # fmt: skip
"""By the first word of Redis' error."""

_WORD = re.compile(rf"(?:^|[\s-])({'|'.join(_REDIS)})\b")
"""Redis before 7 tells the error of a command inside a script in the middle: `ERR Error running script (...): @user_script:
1: -READONLY You can't write against a read only replica.`"""

_SPOKEN = (
    ("DB index is out of range", "it has no database of this number", "name another: redis://HOST:PORT/0"),
    ("invalid DB index", "that is no number of a database", "name one: redis://HOST:PORT/0"),
    ("max number of clients", "it has no room for another connection", "raise its maxclients"),
    ("without any password configured", "it has no password, and one was sent", "take the password out of the URL"),
    ("unknown command", "it does not know a command that is needed", "it has to be Redis 6 or later, with scripts"),
)  # fmt: skip


def sqlite_trouble(file: str, error: Exception) -> StoreUnavailable:
    """What a failure of SQLite means for the store in this file."""
    code = getattr(error, "sqlite_errorcode", None)
    found, remedy = _SQLITE.get((code or 0) & 0xFF, (str(error), ""))
    name = getattr(error, "sqlite_errorname", "")
    uid = os.getuid() if hasattr(os, "getuid") else "?"
    found = found.format(uid=uid, name=name)
    said = f"SQLite store {file!r}: {found}"
    return StoreUnavailable(f"{said}; {remedy.replace('FILE', file)}." if remedy else said)


def busy(file: str, seconds: float) -> StoreUnavailable:
    """The same for a lock that others did not let go in time."""
    found, remedy = _SQLITE[sqlite3.SQLITE_BUSY]
    return StoreUnavailable(
        f"SQLite store {file!r}: {found} for more than {seconds:g} s; {remedy.replace('FILE', file)}."
    )


def redis_place(url: str) -> str:
    """Where a Redis is: host, port and database, without user and password."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    try:
        port = parts.port or 6379
    except ValueError:  # a password with a slash in it: what follows is no port and must not be shown
        return f"{parts.scheme}://?"
    return f"{parts.scheme}://{host}:{port}/{parts.path.strip('/') or 0}"


def redis_trouble(place: str, error: BaseException, seconds: float = 0.0) -> StoreUnavailable:
    """What a failure of Redis, or on the way to it, means. `place` as of `redis_place`; `seconds` were waited."""
    if isinstance(error, StoreUnavailable):
        return error
    text = str(error)
    known = _WORD.search(text[:400])
    found, remedy = "", ""
    if known is not None:
        found, remedy = _REDIS[known.group(1)]
    elif place.endswith("?"):
        found, remedy = (
            "its URL can't be read",
            "percent-encode what is no letter or digit in user and password",
        )
    else:
        for words, *said in _SPOKEN:
            if words in text:
                found, remedy = said
    if not found:
        found, remedy = _on_the_way(error, seconds)
        if place.startswith("rediss:") and isinstance(error, TimeoutError):
            remedy = f"{remedy}; rediss:// is for a Redis that speaks TLS"
    return StoreUnavailable(
        f"Redis at {place}: {found}; {remedy}." if remedy else f"Redis at {place}: {found}"
    )


def _on_the_way(error: BaseException, seconds: float) -> tuple[str, str]:
    """What a failure of the connection means."""
    if isinstance(error, ConnectionRefusedError) or "refused" in str(error).lower():
        return "nobody listens there", "start Redis, or correct `server.store`"
    if isinstance(error, socket.gaierror):
        return "no such host is known", "correct `server.store`, or the name service"
    if isinstance(error, ssl.SSLError):
        return (
            f"TLS failed ({error.reason or type(error).__name__})",
            "redis:// is without TLS, rediss:// with it; roots come from SSL_CERT_FILE",
        )
    if isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError":
        waited = f" within {seconds:g} s" if seconds else ""
        return f"no answer{waited}", "look whether it is up, and at the network and firewalls between"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__, "look at the network between"
    return f"{type(error).__name__}: {str(error)[:200]}", ""
