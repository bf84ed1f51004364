"""`llmshield egress ca`: the certificate authority: make it, hand it out, install it, replace it.

It may sign for the policy's `egress.hosts` and for nothing else. Its key stays in the user's state folder and is never
exported. Exit status: 0 good, 1 when it can't be done, 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._egress import env
from llmshield.cli._egress._shared import CaOption, DirOption, PolicyOption, ca_store, misused, section

if TYPE_CHECKING:
    from llmshield.egress.ca import Authority, Store
    from llmshield.policy.egress import Egress

HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host", help="A host more than the policy's, such as one that is planned; may be repeated."
    ),
]
RootsOption = Annotated[
    list[Path] | None,
    typer.Option("--roots", help="A PEM file of more roots that clients trust; may be repeated."),
]


def register(group: typer.Typer) -> None:
    """Mount the commands."""
    ca = typer.Typer(no_args_is_help=True, help="The certificate authority: make, export, install, replace.")

    @ca.command("init")
    def init_command(policy: PolicyOption = None, host: HostOption = None, folder: CaOption = None) -> None:
        """Make it, for the policy's hosts; one that is there is kept."""
        init(section(policy, "ca init"), host or [], folder)

    @ca.command("export")
    def export_command(
        dir: DirOption = None, policy: PolicyOption = None, roots: RootsOption = None, folder: CaOption = None
    ) -> None:
        """Write ca.crt, bundle.pem and truststore.p12 for clients; never the key."""
        store = ca_store(folder, section(policy, "ca export"))
        export(store, dir or store.public, roots or [])

    env.register(ca)

    @ca.command("install")
    def install_command(
        remove: Annotated[bool, typer.Option("--remove", help="Take it out again.")] = False,
        policy: PolicyOption = None,
        folder: CaOption = None,
    ) -> None:
        """Have this whole system trust it, with the system's own tool (needs root)."""
        install(ca_store(folder, section(policy, "ca install")), remove)

    @ca.command("rotate")
    def rotate_command(
        switch: Annotated[bool, typer.Option("--switch", help="Sign with the new one from now on.")] = False,
        finish: Annotated[bool, typer.Option("--finish", help="Stop handing out the old one.")] = False,
        abandon: Annotated[
            bool, typer.Option("--abandon", help="Give up a new one not switched to.")
        ] = False,
        policy: PolicyOption = None,
        host: HostOption = None,
        folder: CaOption = None,
    ) -> None:
        """Replace it: make the new one and hand out both, then --switch, then --finish."""
        if switch + finish + abandon > 1:
            raise misused("ca rotate", "say one of --switch, --finish and --abandon")
        egress = section(policy, "ca rotate")
        store = ca_store(folder, egress)
        if switch:
            _say(store.switch(), "signs now; start llmshield egress run anew")
            print(
                "The old root is still handed out. When no proxy uses it any more: llmshield egress ca rotate --finish"
            )
        elif finish:
            store.finish()
            print("The old root is not handed out any more; export, and install, once more.")
        elif abandon:
            store.abandon()
            print("The new authority is gone; the one that signs was not touched.")
        else:
            _say(store.rotate(_hosts(egress, host or [])), "is made, and not used yet")
            print(
                "Exports hold both roots now. Hand them out (ca export, ca install), then: llmshield egress ca rotate --switch"
            )

    @ca.command("show")
    def show_command(policy: PolicyOption = None, folder: CaOption = None) -> None:
        """Show what it is, what it may sign for, when it ends, and where a rotation stands."""
        egress = section(policy, "ca show")
        show(ca_store(folder, egress), egress)

    group.add_typer(ca, name="ca")


def init(egress: Egress | None, more: list[str], folder: Path | None) -> None:
    """Make the authority, or say that one is there. Raises: CaError."""
    store = ca_store(folder, egress)
    authority, made = store.init(_hosts(egress, more))
    _say(authority, "made" if made else "is there already, and is kept")
    if missing := authority.lacks(_hosts(egress, more)):
        print(
            f"llmshield egress ca init: it may not sign for {', '.join(missing)}: llmshield egress ca rotate makes one"
            " that may",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def export(store: Store, folder: Path, roots: list[Path]) -> None:
    """Write what clients are given. Raises: CaError."""
    from llmshield.egress import trust

    if folder.resolve().is_relative_to(store.folder.resolve()):
        raise misused("ca export", f"--dir {folder} is inside the folder of the keys; name another one")
    system = trust.system_roots(roots)
    trust.export(store.roots(), system, folder)
    print(
        f"{folder}: {trust.CA}, {trust.BUNDLE} (with {len(system.certificates)} roots of {system.source}),"
        f" {trust.TRUSTSTORE} (password {trust.PASSWORD})"
    )
    if system.unread:
        print(
            f"llmshield egress ca export: {system.unread} roots could not be read and are left out",
            file=sys.stderr,
        )


def install(store: Store, remove: bool) -> None:
    """Put the roots into the system's trust store, or take them out. Raises: CaError."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from llmshield.egress import installing

    tool = installing.find_tool()
    if remove:
        print("Removed." if installing.uninstall(tool) else "It was not installed.")
        return
    pem = b"".join(root.public_bytes(Encoding.PEM) for root in store.roots())
    print(
        f"{installing.install(pem, tool)} is trusted by this system now. Node and Java need: llmshield egress env"
    )


def show(store: Store, egress: Egress | None) -> None:
    """Print the facts. Raises: CaError."""
    current = store.current()
    if current is None:
        print(f"There is none in {store.folder}; llmshield egress ca init makes one.")
        raise typer.Exit(1)
    for word, authority in (("signs", current), ("next", store.next())):
        if authority is not None:
            print(f"{word:12}{authority.root.subject.rfc4514_string()}")
            print(f"{'':12}SHA-256 {authority.fingerprint}")
            print(f"{'':12}until {authority.ends:%Y-%m-%d}, for {', '.join(authority.names)}")
    print(f"{'rotation':12}{store.stage()}")
    print(f"{'folder':12}{store.folder}")
    if egress is not None and (missing := current.lacks(egress.hosts)):
        print(f"{'lacks':12}{', '.join(missing)}: llmshield egress ca rotate")
        raise typer.Exit(1)


def _hosts(egress: Egress | None, more: list[str]) -> list[str]:
    return [*(egress.hosts if egress is not None else ()), *more]


def _say(authority: Authority, what: str) -> None:
    print(
        f"Certificate authority {what}: it may sign for {', '.join(authority.names)}, until {authority.ends:%Y-%m-%d}."
    )
