"""The certificate authority of transparent egress as it lies on a disk: made once, kept apart, replaced with overlap.

    egress/ca/current/{root.crt, issuing.crt, key.pem}    what the proxy signs with
              next/{...}                                  handed out, not yet used (`rotate`)
              previous/root.crt                           still handed out, its key is gone

A set of which a file is missing is an error, never a reason to make a new one: clients that trust the old root would
be cut off, and whoever removed a file is worth asking.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from llmshield.egress.certificates import CaError, Hosts, constraints, issue, now, permitted, within
from llmshield.local_state import default_folder

Stage: TypeAlias = Literal["none", "started", "switched"]
"""Where a rotation stands: `started` hands out both roots and signs with the old one, `switched` signs with the new."""

_ROOT, _ISSUING, _KEY = "root.crt", "issuing.crt", "key.pem"
_SOON = timedelta(days=30)
_LEAVING = ".leaving-"


@dataclass(frozen=True, slots=True)
class Authority:
    """One root with its issuing certificate and key.

    `names` are the hosts that it may sign for, in lower case: the host itself and everything below it.
    """

    folder: Path
    root: x509.Certificate
    issuing: x509.Certificate
    names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root, in hex with colons, as other tools show it."""
        return self.root.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def ends(self) -> datetime:
        """When it is over (UTC)."""
        return min(self.root.not_valid_after_utc, self.issuing.not_valid_after_utc)

    def lacks(self, hosts: Hosts) -> tuple[str, ...]:
        """The hosts of these that it may not sign for. Raises: CaError for a host that no name can stand for."""
        return tuple(name for name in constraints(hosts) if not within(name, self.names))

    def signing_pem(self) -> bytes:
        """Key, issuing certificate and root in one PEM: what a proxy signs with. Never for clients."""
        return b"".join((self.folder / name).read_bytes() for name in (_KEY, _ISSUING, _ROOT))


class Store:
    """The folder of the authorities: `egress.ca` of the policy, else `egress/ca` in the user's state folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_folder() / "egress" / "ca"

    @property
    def public(self) -> Path:
        """The folder of what clients may have, unless another one is named: never inside the keys' folder."""
        return self.folder.parent / "public"

    def current(self) -> Authority | None:
        """What is signed with now; None before `init`. Raises: CaError."""
        if self._there("next") and not self._there("current"):
            raise CaError(
                f"A rotation in {self.folder} was broken off half way; llmshield egress ca rotate --switch ends it"
            )
        return self._read("current")

    def next(self) -> Authority | None:
        """What is handed out already and not signed with yet. Raises: CaError."""
        return self._read("next")

    def needed(self, hosts: Hosts) -> Authority:
        """The authority that can sign for all these hosts, now. Raises: CaError that says which command helps."""
        found = self.current()
        if found is None:
            raise CaError(
                f"There is no certificate authority in {self.folder}; make one: llmshield egress ca init --policy FILE"
            )
        if missing := found.lacks(hosts):
            raise CaError(
                f"The certificate authority may sign for {_listed(found.names)} only, and the policy's egress.hosts"
                f" also has {_listed(missing)}. Make one for all of them and hand it out: llmshield egress ca rotate"
            )
        if found.ends <= now():
            raise CaError(
                f"The certificate authority ended on {found.ends:%Y-%m-%d}; make a new one: llmshield egress ca rotate"
            )
        return found

    def stage(self) -> Stage:
        """Where a rotation stands."""
        if self._there("next"):
            return "started"
        return "switched" if (self.folder / "previous" / _ROOT).exists() else "none"

    def roots(self) -> list[x509.Certificate]:
        """Every root that clients have to trust now: current, next, previous. Raises: CaError."""
        current = self.current()
        if current is None:
            raise CaError(
                f"There is no certificate authority in {self.folder}; make one: llmshield egress ca init --policy FILE"
            )
        found = [current.root]
        if following := self.next():
            found.append(following.root)
        with contextlib.suppress(FileNotFoundError):
            found.append(_certificate(self.folder / "previous" / _ROOT))
        return found

    def init(self, hosts: Hosts) -> tuple[Authority, bool]:
        """The authority, and whether it was made now; one that is there is kept, whatever the hosts are.

        Raises: CaError when it is half there, can't be written, or there are no hosts to sign for.
        """
        if found := self.current():
            return found, False
        names = constraints(hosts)
        self._make("current", names)
        found = self.current()
        assert found is not None
        return found, True

    def rotate(self, hosts: Hosts) -> Authority:
        """Make the next authority; clients are given both roots, the old one signs on. Raises: CaError."""
        if self.current() is None:
            raise CaError("There is no certificate authority to replace; llmshield egress ca init makes one.")
        if self.stage() != "none":
            raise CaError(
                f"A rotation is under way already ({self.stage()}): llmshield egress ca rotate --"
                f"{'switch' if self.stage() == 'started' else 'finish'} is its next step,"
                " --abandon gives up one that is not switched."
            )
        self._make("next", constraints(hosts))
        found = self.next()
        assert found is not None
        return found

    def switch(self) -> Authority:
        """Sign with the next authority from now on; the old key is destroyed, its root still handed out.

        Raises: CaError when no rotation was started.
        """
        new, previous = self.next(), self.folder / "previous"
        if new is None:
            raise CaError("No rotation was started; llmshield egress ca rotate starts one.")
        with _told(self.folder):
            if old := self._read("current"):
                previous.mkdir(mode=0o700, exist_ok=True)
                _write(previous / _ROOT, old.root.public_bytes(Encoding.PEM), 0o644)
                # Until the next rename there is no current one: a proxy that starts then says so and ends.
                old.folder.rename(self.folder / f"{_LEAVING}{os.getpid()}")
            new.folder.rename(self.folder / "current")
            for left in self.folder.glob(f"{_LEAVING}*"):
                shutil.rmtree(left)
        return self.needed(())

    def finish(self) -> None:
        """Stop handing out the previous root. Raises: CaError when there is none."""
        if self.stage() != "switched":
            raise CaError("No rotation waits for its end; llmshield egress ca show says where it stands.")
        with _told(self.folder):
            shutil.rmtree(self.folder / "previous")

    def abandon(self) -> None:
        """Give up a rotation that was started and not switched. Raises: CaError when there is none."""
        if self.stage() != "started":
            raise CaError("No rotation can be given up; llmshield egress ca show says where it stands.")
        with _told(self.folder):
            shutil.rmtree(self.folder / "next")

    def _there(self, name: str) -> bool:
        return (self.folder / name).is_dir()

    def _read(self, name: str) -> Authority | None:
        folder = self.folder / name
        if not self._there(name):
            return None
        missing = [file for file in (_ROOT, _ISSUING, _KEY) if not (folder / file).is_file()]
        if missing:
            raise CaError(
                f"The certificate authority in {folder} lacks {_listed(missing)}. Put the file back from a backup."
                " Where that can't be done, remove the folder and run llmshield egress ca init: clients that trust"
                " the old one then have to be given the new one."
            )
        _check_private(folder, 0o700)
        _check_private(folder / _KEY, 0o600)
        root, issuing = _certificate(folder / _ROOT), _certificate(folder / _ISSUING)
        _check_pair(folder, root, issuing)
        return Authority(folder, root, issuing, permitted(issuing))

    def _make(self, name: str, names: tuple[str, ...]) -> None:
        if not names:
            raise CaError(
                "There is no host to sign for: name the LLM hosts under egress.hosts in the policy, or say --host NAME."
            )
        root, issuing, key = issue(names)
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))  # 0700
            try:
                pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                _write(part / _KEY, pem, 0o600)
                _write(part / _ISSUING, issuing.public_bytes(Encoding.PEM), 0o644)
                _write(part / _ROOT, root.public_bytes(Encoding.PEM), 0o644)
                part.rename(self.folder / name)
            except OSError:
                # A folder is never renamed onto one with files: of two processes one makes it, the other finds it.
                if not self._there(name):
                    raise
            finally:
                shutil.rmtree(part, ignore_errors=True)


def expires_soon(authority: Authority) -> bool:
    """Whether less than a month is left."""
    return authority.ends - now() < _SOON


def write_signing_folder(authority: Authority, folder: Path) -> Path:
    """Write what mitmproxy reads as its own CA into this folder (its `confdir`), for nobody else's eyes.

    The folder is made 0700 and the file 0600. Returns the file. Raises: CaError when the folder is open to others.
    """
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(folder, 0o700)
        path = folder / "mitmproxy-ca.pem"
        _write(path, authority.signing_pem(), 0o600)
    return path


def _check_pair(folder: Path, root: x509.Certificate, issuing: x509.Certificate) -> None:
    """Key, issuing certificate and root belong together. Raises: CaError."""
    try:
        key = load_pem_private_key((folder / _KEY).read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as error:
        raise CaError(
            f"{folder / _KEY} can't be read ({error.__class__.__name__}); put it back from a backup"
        ) from None
    if key.public_key() != issuing.public_key():
        raise CaError(f"{folder / _KEY} is not the key of {folder / _ISSUING}; put both back from one backup")
    try:
        issuing.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CaError(
            f"{folder / _ISSUING} was not signed by {folder / _ROOT} ({error.__class__.__name__}); put both back from"
            " one backup"
        ) from None


def _check_private(path: Path, wanted: int) -> None:
    status = path.stat()
    if status.st_mode & 0o077:
        raise CaError(
            f"{path} is open to other users (mode {status.st_mode & 0o777:o}): chmod {wanted:o} {path}, and rotate if"
            " somebody may have read the key"
        )


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise CaError(f"{path} is no certificate in PEM form; put it back from a backup") from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole, with this mode from its first byte on."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # whatever the umask is
        file.write(data)
        file.flush()
        os.fsync(handle)
    part.replace(path)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CaError(f"{error.filename or folder} can't be written: {error.strerror}") from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
