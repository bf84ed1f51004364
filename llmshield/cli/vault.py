"""`llmshield vault`: provider keys that are kept sealed: make them, open them, move them to a new master key, check.

`seal`, `unseal` and `rotate` read standard input and write standard output; with `--file` they work on an encrypted key
file. Keys come from LLMSHIELD_SECRET_KEY and LLMSHIELD_PREVIOUS_KEYS. Exit status: 0 good, 1 not, 2 usage.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._reading import policy_at
from llmshield.errors import SecretError

if TYPE_CHECKING:
    from llmshield.sealing import KeyRing

MAX_INPUT = 16 * 2**20
_REFERENCE = re.compile(r"enc://(?:v1\.|gAAAA)[A-Za-z0-9_.:=-]+")

ProviderOption = Annotated[
    str | None,
    typer.Option("--provider", help="Whose key it is; it is good for no other.", show_default=False),
]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="An encrypted key file.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    vault = typer.Typer(no_args_is_help=True, help="Provider keys, sealed: seal, unseal, rotate, check.")

    @vault.command("key")
    def key_command() -> None:
        """Print a new master key, for LLMSHIELD_SECRET_KEY."""
        from llmshield.vault import new_key

        print(new_key())

    @vault.command("seal")
    def seal_command(
        provider: ProviderOption = None,
        file: FileOption = None,
        store: Annotated[
            str | None,
            typer.Option(help="Put it into this store: gateways use it within a second.", show_default=False),
        ] = None,
    ) -> None:
        """Read a key from standard input, print its reference for the policy; or put it into a file or a store."""
        if store is not None:
            from llmshield.cli import _vault_store

            _vault_store.configure(provider, _secret(), store)
        else:
            print(seal(_secret(), provider or "", file))

    @vault.command("unseal")
    def unseal_command(provider: ProviderOption = None, file: FileOption = None) -> None:
        """Read a reference from standard input, print the key."""
        print(unseal(provider, file))

    @vault.command("rotate")
    def rotate_command(
        provider: ProviderOption = None,
        file: FileOption = None,
        store: Annotated[
            str | None, typer.Option(help="A store: the keys that were configured in it.", show_default=False)
        ] = None,
        policy: Annotated[
            Path | None,
            typer.Option(
                "--policy", "-p", help="The keys of people in what this policy keeps.", show_default=False
            ),
        ] = None,
    ) -> None:
        """Seal anew with LLMSHIELD_SECRET_KEY: every reference in standard input (one, or a whole policy), a key file, a
        store's keys, or the keys of people in audit log and transcripts."""
        if policy is not None:
            from llmshield.cli._vault_people import reseal

            raise typer.Exit(reseal(policy_at(policy, "vault")))
        if store is not None:
            from llmshield.cli import _vault_store

            count = _vault_store.reseal(store)
            print(f"{count} keys in the store are sealed with {_ring().id} now", file=sys.stderr)
        elif file is not None:
            print(f"{rotate_file(file)} keys in {file} are sealed with {_ring().id} now", file=sys.stderr)
        else:
            sys.stdout.write(rotate(_input(), provider))

    @vault.command("check")
    def check_command(
        policy: Annotated[Path, typer.Option("--policy", "-p", help="The policy.")] = Path("policy.yaml"),
    ) -> None:
        """Look whether every key of a policy can be had, and what is unsafe about them."""
        from llmshield.cli._vault_check import check

        raise typer.Exit(check(policy_at(policy, "vault")))

    @vault.command("migrate")
    def migrate_command(
        file: Annotated[
            Path, typer.Argument(help="A JSON or CSV file, or an SQLite database.", show_default=False)
        ],
        column: Annotated[str, typer.Option(help="The column that holds the keys.")] = "api_key",
        provider_column: Annotated[
            str | None,
            typer.Option(
                help="The column that says whose they are; else provider, provider_name or name.",
                show_default=False,
            ),
        ] = None,
        provider: Annotated[
            str | None, typer.Option(help="Whose they all are, where no column says it.", show_default=False)
        ] = None,
        table: Annotated[
            str | None, typer.Option(help="The table of a database.", show_default=False)
        ] = None,
        encoding: Annotated[str, typer.Option(help="How keys stand there: base64 or plain.")] = "base64",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")
        ] = False,
        backup: Annotated[bool, typer.Option(help="Keep the file as it was beside it.")] = True,
    ) -> None:
        """Seal keys that stand in a file or table, in base64 or as they are; safe to repeat."""
        from llmshield.cli._vault_migrate import Encoding, Plan, migrate

        if encoding not in list(Encoding):
            raise typer.BadParameter("expected base64 or plain", param_hint="--encoding")
        plan = Plan(_ring(), column, provider_column, provider, Encoding(encoding))
        kept = migrate(file, plan, table=table, dry=dry_run, backup=backup)
        would = "would be " if dry_run else ""
        print(
            f"{plan.sealed} {would}sealed, {plan.again} {would}sealed anew, {plan.kept} sealed already, {plan.empty} empty"
        )
        if kept is not None:
            print(
                f"llmshield vault: {kept} holds the old keys readably; delete it when all is well",
                file=sys.stderr,
            )

    @vault.command("revoke")
    def revoke_command(
        provider: Annotated[str, typer.Argument(help="The provider, as the policy names it.")],
        policy: Annotated[
            Path | None,
            typer.Option("--policy", "-p", help="The policy whose store gateways share.", show_default=False),
        ] = None,
        store: Annotated[
            str | None, typer.Option(help="The store, instead of the policy's.", show_default=False)
        ] = None,
        reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
        lift: Annotated[
            bool, typer.Option("--lift", help="Take the provider up again, with its key read anew.")
        ] = False,
    ) -> None:
        """Stop the use of a provider's key, in every process of the store, within a second."""
        from llmshield.cli import _vault_store

        _vault_store.revoke(provider, policy, store, reason, lift=lift)

    app.add_typer(vault, name="vault")


def seal(secret: str, provider: str, file: Path | None) -> str:
    """The reference to a sealed key: the key itself in it, or its place in a key file. Raises: SecretError."""
    from llmshield import key_files

    ring = _ring()
    reference = ring.seal_reference(secret, provider)
    if file is None:
        return reference
    if not provider:
        raise SecretError("a key in a file needs a name; say --provider NAME")

    def edit(entries: dict[str, str]) -> None:
        entries[provider] = reference

    try:
        key_files.change(file, ring, edit, make=True)
    except SecretError as error:
        raise SecretError(f"{file}: {error}") from None
    return f"enc://{file}#{provider}"


def unseal(provider: str | None, file: Path | None) -> str:
    """The key behind the reference in standard input, or behind a name in a key file. Raises: SecretError."""
    from llmshield import resolvers

    if file is None:
        text = _input().strip()
        if "#" in text:
            return resolvers.resolve(text, Path(), provider)
        ring = _ring()
        with _of_input():
            return ring.unseal_reference(text, provider)
    if provider is None:
        raise SecretError("which key? say --provider NAME")
    return resolvers.resolve(f"enc://{file}#{provider}", Path(), provider)


def rotate(text: str, provider: str | None) -> str:
    """`text` with every sealed reference in it sealed anew; nothing else is changed.

    A bare reference without its scheme is taken too. `provider`: only its references are good, and Fernet tokens and such
    as are for anybody are sealed for it. Raises: SecretError when one of them can't be opened, or there is none.
    """
    ring = _ring()
    with _of_input():
        return _rotated(ring, text, provider)


def _rotated(ring: KeyRing, text: str, provider: str | None) -> str:
    bare = text.strip()
    if bare and "://" not in bare and not any(char.isspace() for char in bare):
        return _again(ring, bare, provider).removeprefix("enc://") + ("\n" if text.endswith("\n") else "")
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return _again(ring, match[0], provider)

    rotated = _REFERENCE.sub(replace, text)
    if not count:
        raise SecretError("there is no sealed reference; expected enc://v1.… or enc://gAAAA…")
    return rotated


def rotate_file(file: Path) -> int:
    """How many keys of this file were sealed anew. Raises: SecretError."""
    from llmshield import key_files

    try:
        return key_files.rotate(file, _ring())
    except SecretError as error:
        raise SecretError(f"{file}: {error}") from None


def _again(ring: KeyRing, reference: str, provider: str | None) -> str:
    from llmshield.sealing import FERNET, SCHEME, read_reference

    text = reference.removeprefix(SCHEME)
    owner = "" if text.startswith(FERNET) else read_reference(text)[0]
    return ring.seal_reference(ring.unseal_reference(text, provider), owner or provider or "")


@contextlib.contextmanager
def _of_input() -> Iterator[None]:
    """What goes wrong in here is about standard input, and says so."""
    try:
        yield
    except SecretError as error:
        raise SecretError(f"standard input: {error}") from None


def _ring() -> KeyRing:
    from llmshield.vault import ring

    return ring()


def _secret() -> str:
    """The key in standard input. Raises: SecretError for none, several lines, or what no provider takes."""
    from llmshield.redact import remember
    from llmshield.resolvers._value import clean

    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass("key (not shown): ")
    else:
        text = _input()
    secret = clean(text, "standard input")
    remember(secret)
    return secret


def _input() -> str:
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise SecretError(f"standard input holds more than {MAX_INPUT} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretError("standard input is no UTF-8 text") from None
