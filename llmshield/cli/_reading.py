"""Read the policy that a command names, and find the store that it means: what can't be read is told in one line, as
wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from llmshield.local_state import LocalState
    from llmshield.policy import Policy
    from llmshield.stores import Store

USAGE = 2

_POLICY = Path("policy.yaml")
_BOOK = Path("llmshield.db")


def policy_at(path: Path, command: str) -> Policy:
    """The policy in this file.

    Raises: PolicyError with every finding when it can't be used; typer.Exit, with a word to the user, when the
    file can't be read.
    """
    from llmshield.policy import load

    try:
        return load(path)
    except OSError as error:
        print(
            f"llmshield {command}: {path}: {error.strerror}; name a policy that can be read: --policy FILE",
            file=sys.stderr,
        )
        raise typer.Exit(USAGE) from None


def shared_store(policy: Path | None, url: str | None, command: str, *, make: bool = False) -> Store:
    """The store of this URL, or of the policy (else `policy.yaml` here, else `llmshield.db` here), not yet opened.

    Raises: ShieldError where other processes have no part in it, or there is none (with `make` it is made when it is
    opened, and the user is told); typer.Exit without any of these.
    """
    from llmshield.errors import ShieldError
    from llmshield.local_state import LocalState
    from llmshield.stores import open_store

    folder = None
    if url is None:
        if policy is not None or _POLICY.is_file():
            server = policy_at(policy or _POLICY, command).server
            url, folder = server.store, server.state_dir
        elif _BOOK.is_file():
            url = f"sqlite:///{_BOOK}"
        else:
            print(
                f"llmshield {command}: there is no {_POLICY}; say --policy FILE or --store URL",
                file=sys.stderr,
            )
            raise typer.Exit(USAGE)
    store = open_store(url)
    if not store.shared:
        raise ShieldError(
            "memory:// lives in the serving process only; set `server.store` to sqlite:// or redis://"
        )
    if store.url.scheme == "sqlite" and not Path(store.url.path).is_file():
        if not make:
            raise ShieldError(
                f"There is no store at {store.url.path!r}; start `llmshield serve` once, or check the path."
            )
        print(f"llmshield {command}: there was no store at {store.url.path}; it is made now", file=sys.stderr)
    return LocalState(store.url, Path(folder).expanduser() if folder else None).recall(store)


def shared_state(policy: Policy | Path, command: str) -> tuple[Store, LocalState]:
    """A policy's store (not yet opened, and perhaps not there any more), and what this machine knows of it.

    Raises: ShieldError where other processes have no part in it.
    """
    from llmshield.errors import ShieldError
    from llmshield.local_state import LocalState
    from llmshield.stores import open_store

    if isinstance(policy, Path):
        policy = policy_at(policy, command)
    store = open_store(policy.server.store)
    if not store.shared:
        raise ShieldError("memory:// lives in the serving process only, and forgets at its end.")
    folder = policy.server.state_dir
    return store, LocalState(store.url, Path(folder).expanduser() if folder else None)
