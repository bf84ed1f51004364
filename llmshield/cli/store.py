"""`llmshield store`: back up and restore the money book, while gateways serve.

The store is the policy's (`--policy`, else `policy.yaml` here). A restored book is closed until
`llmshield budget rebuild` has added what was spent since. Exit status: 0 good, 1 when it can't be done, 2 usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyOption = Annotated[Path, typer.Option("--policy", "-p", help="The policy whose store is meant.")]
_POLICY = Path("policy.yaml")


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    store = typer.Typer(no_args_is_help=True, help="The money book: back up, restore.")

    @store.command("backup")
    def backup_command(
        folder: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder.")],
        policy: PolicyOption = _POLICY,
    ) -> None:
        """Write the SQLite file, as it is now, and this machine's journals into a folder."""
        _backup(policy, folder)

    @store.command("restore")
    def restore_command(
        folder: Annotated[Path, typer.Argument(metavar="SRC", help="A folder that `store backup` wrote.")],
        policy: PolicyOption = _POLICY,
    ) -> None:
        """Put a backup in the place of the book; it stays closed until `llmshield budget rebuild`."""
        _restore(policy, folder)

    app.add_typer(store, name="store")


def _backup(policy: Path, folder: Path) -> None:
    from llmshield.backups import backup
    from llmshield.cli._reading import shared_state

    store, state = shared_state(policy, "store")
    found = backup(store.url, state, folder)
    book = "The book" if found.book else "No book (Redis has tools of its own for that)"
    print(f"{book} and {found.journals} journals of {found.store} are in {folder}.")


def _restore(policy: Path, folder: Path) -> None:
    from llmshield.backups import restore
    from llmshield.cli._reading import shared_state
    from llmshield.windows import iso

    store, state = shared_state(policy, "store")
    found = restore(store.url, state, folder)
    what = "The book and its journals are" if found.book else "The journals are"
    print(
        f"{what} back as of {iso(found.at)}. Now `llmshield budget rebuild` adds what the journals know was spent since,"
        " and opens the book."
    )
