"""A connection to a SQLite store: how its file is made, and what is set on each connection that writes."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from llmshield.errors import StoreError
from llmshield.stores import _sqlite_steps as steps
from llmshield.stores._sqlite_log import LONG
from llmshield.stores._trouble import sqlite_trouble

_START_S = 5.0
"""Longest wait at start, where several processes may turn a new file to WAL."""

READ_S = 0.5
"""Longest wait of reports, which no call waits for."""

_PAGE_SIZE = 1024
"""Bytes of a page in a new file. A step writes 3 of them to the log: 8 us less than with SQLite's 4096."""


def connect(path: str, sync: str) -> sqlite3.Connection:
    """A connection for one thread at a time. Makes what is missing. `sync` as in SQLite's pragma.

    Raises: StoreUnavailable, StoreError.
    """
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if not Path(path).parent.is_dir():
                raise StoreError(
                    f"The folder of the SQLite store {path!r} does not exist; make it, or name another file"
                    " (sqlite:///relative.db, sqlite:////absolute.db)."
                )
            connection = sqlite3.connect(
                path, timeout=READ_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")  # a file that is there keeps its own
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={sync}")
            connection.execute("PRAGMA wal_autocheckpoint=0")  # `Log` does it
            connection.execute(f"PRAGMA journal_size_limit={LONG}")
            steps.create(connection)
            connection.execute("PRAGMA busy_timeout=0")  # we wait ourselves, and never on the event loop
            return connection
        except sqlite3.OperationalError as error:
            # Several processes that start together turn the same new file to WAL: all but one are told to wait.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise sqlite_trouble(path, error) from error
            time.sleep(0.02)
        except sqlite3.DatabaseError as error:
            raise sqlite_trouble(path, error) from error
