"""Encrypted key files: sealed provider keys by name, in one file that is replaced as a whole.

    llmshield-keys 1 revision 12
    anthropic enc://v1.anthropic.0f3a….…
    openai enc://v1.openai.0f3a….…
    end 0f3a….…

Each line is sealed for its own name, and the last one covers all lines above it: no line can be changed, moved, added or
taken out. (An old copy of the whole file is a file that was once right; whoever can put it back can write here anyway.)

A change writes a new file beside the old one, flushes it and renames it into place: a reader sees the old file or the
new one, and after a kill at any moment one of them is there. Writers take turns by a lock on the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmshield.errors import SecretError
from llmshield.sealing import KeyRing, pack, unpack

try:
    import fcntl
except ImportError:  # Windows: one writer at a time is then the operator's care
    fcntl = None  # type: ignore[assignment]

MAX_BYTES = 64 * 2**20
_HEAD = re.compile(rb"llmshield-keys 1 revision ([0-9]{1,15})")
_KEPT = 16
"""Files that are kept as they were read; a policy names one or two."""


@dataclass(slots=True, frozen=True)
class KeyFile:
    """What a key file holds: sealed references by name, and how often it was written."""

    entries: Mapping[str, str]
    revision: int

    def dump(self, ring: KeyRing) -> bytes:
        """As it stands on disk, under the key that seals now."""
        lines = [f"llmshield-keys 1 revision {self.revision}"]
        lines += [f"{name} {reference}" for name, reference in sorted(self.entries.items())]
        body = ("\n".join(lines) + "\n").encode()
        return body + f"end {pack(ring.seal(b'', _context(body)))}\n".encode()


def parse(data: bytes, ring: KeyRing) -> KeyFile:
    """The file in these bytes. Raises: SecretError when one of them is not as it was written."""
    at = data.rfind(b"\n", 0, -1) + 1
    body, last = data[:at], data[at:]
    if not last.startswith(b"end ") or not last.endswith(b"\n"):
        raise SecretError("it was cut, or is no key file")
    try:
        coded = last[4:-1].decode("ascii")
    except UnicodeDecodeError:
        raise SecretError("it was changed: its last line is not as it was written") from None
    ring.unseal(unpack(coded), _context(body))
    lines = body.split(b"\n")
    head = _HEAD.fullmatch(lines[0])
    if head is None:
        raise SecretError("it is no key file of this version")
    entries = dict(line.decode().split(" ", 1) for line in lines[1:-1])
    return KeyFile(MappingProxyType(entries), int(head[1]))


_read: dict[Path, tuple[tuple[int, ...], tuple[str, ...], KeyFile]] = {}


def read(path: Path, ring: KeyRing) -> KeyFile:
    """The key file at `path`; one that has not changed since is not read again.

    Raises: SecretError when it can't be read, others may read it, it is a symbolic link, or it was changed.
    """
    try:
        with open_private(path) as file:
            mark = _mark(os.fstat(file))
            held = _read.get(path)
            if held is not None and held[0] == mark and held[1] == ring.ids:
                return held[2]
            data = _read_all(file)
    except OSError as error:
        raise SecretError(f"it can't be read: {error.strerror}") from None
    made = parse(data, ring)
    if len(_read) >= _KEPT:
        _read.clear()
    _read[path] = (mark, ring.ids, made)
    return made


def change(
    path: Path, ring: KeyRing, edit: Callable[[dict[str, str]], None], *, make: bool = False
) -> KeyFile:
    """Read the file, let `edit` change its entries (name -> sealed reference), and put it back, all or nothing.

    `make`: a file that is not there yet is made, with mode 0600. Raises: SecretError as `read` does, and what `edit`
    raises; the file is then as it was.
    """
    try:
        with _alone(path.parent):
            there = make and not path.exists() and not path.is_symlink()
            old = KeyFile({}, 0) if there else read(path, ring)
            entries = dict(old.entries)
            edit(entries)
            new = KeyFile(MappingProxyType(entries), old.revision + 1)
            _replace(path, new.dump(ring))
    except OSError as error:
        raise SecretError(f"it can't be written: {error.strerror}") from None
    return new


def rotate(path: Path, ring: KeyRing) -> int:
    """Seal every entry anew under the key that seals now; how many there are. Raises: SecretError."""

    def edit(entries: dict[str, str]) -> None:
        for name, reference in entries.items():
            entries[name] = ring.seal_reference(ring.unseal_reference(reference, name), name)

    return len(change(path, ring, edit).entries)


def danger(path: Path) -> str:
    """What is unsafe about a file with keys in it: a symbolic link, or others who may read it; "" if nothing is, or
    there is no file.

    The links of Kubernetes (`key -> ..data/key`) are none: they are how it replaces all files of a volume at once.
    """
    try:
        here = path.lstat()
        if stat.S_ISLNK(here.st_mode) and not _is_projected(path):
            return f"{path} is a symbolic link; name the file itself"
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"every user of this machine may read {path} (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}"
    return ""


@contextlib.contextmanager
def open_private(path: Path) -> Iterator[int]:
    """A descriptor of the file, once it is known that it is private.

    Raises: SecretError for a symbolic link or a file that every user may read; OSError.
    """
    projected = _is_projected(path)
    if path.is_symlink() and not projected:
        raise SecretError(f"{path} is a symbolic link; name the file itself")
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
    fd = os.open(path, flags if projected else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise SecretError(f"{path} is no regular file")
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise SecretError(
                f"every user of this machine may read {path} (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}"
            )
        yield fd
    finally:
        os.close(fd)


def _is_projected(path: Path) -> bool:
    """Whether this is one of Kubernetes's links to the volume's present version."""
    try:
        return path.is_symlink() and str(path.readlink()).startswith("..data/")
    except OSError:
        return False


def _read_all(fd: int) -> bytes:
    pieces = []
    size = 0
    while piece := os.read(fd, 2**20):
        size += len(piece)
        if size > MAX_BYTES:
            raise SecretError(f"it is larger than {MAX_BYTES} bytes; expected a key file")
        pieces.append(piece)
    return b"".join(pieces)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer in this folder at a time; the system gives the lock back when a process dies."""
    if fcntl is None:
        yield
        return
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes) -> None:
    """Put `data` there as a whole, on disk before anybody sees it; what a killed writer left behind goes."""
    for left in path.parent.glob(f".{path.name}.*.new"):
        left.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    mode = stat.S_IMODE(path.stat().st_mode) & 0o660 if path.exists() else 0o600
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _context(body: bytes) -> str:
    return "key file\0" + hashlib.sha256(body).hexdigest()
