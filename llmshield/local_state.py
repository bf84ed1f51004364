"""The state folder: what one machine keeps of a shared store's money book, on its own disk, apart from the store.

`epoch.json` says which book was spent from, so that a store that lost it is no fresh budget; `journals/` has what the
processes of this machine did (`journals`). One folder for each store; the processes of a machine share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from llmshield import clock
from llmshield.errors import StoreError
from llmshield.stores import Store, StoreUrl

_EPOCH = "epoch.json"


def default_folder() -> Path:
    """Where state is kept unless `server.state_dir` says otherwise: the user's state folder."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "llmshield"


@dataclass(slots=True)
class Known:
    """What this machine knows of a store's book. `steps` it had at least (`stores.Book`)."""

    epoch: str = ""
    steps: int = 0


class LocalState:
    """The state folder of one store on this machine; its processes share it."""

    def __init__(self, url: StoreUrl, folder: Path | None = None) -> None:
        self.store, name = _identity(url)
        self.folder = (folder or default_folder()) / "books" / name
        self.failure = ""
        """Why the folder can't be used; empty while it can."""

    @property
    def journals(self) -> Path:
        """The folder of the journals."""
        return self.folder / "journals"

    def read(self) -> Known:
        """What is known; nothing before the first installation. Raises: StoreError for a file that is none of ours."""
        path = self.folder / _EPOCH
        try:
            found = orjson.loads(path.read_bytes())
            return Known(str(found["epoch"]), int(found["steps"]))
        except (FileNotFoundError, NotADirectoryError):
            return Known()
        except PermissionError as error:
            raise StoreError(
                f"{path} is closed to uid {os.geteuid()}: it is another user's state folder, or was written as another"
                " user. Name one of this user's (server.state_dir), or give it to this user with what is in it."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} can't be read ({error.__class__.__name__}). It says which money book was spent from. Put it"
                " back from a backup, or remove it and run `llmshield budget reset --yes`."
            ) from error

    def recall(self, store: Store) -> Store:
        """Have a store, not yet opened, be the book that this machine knows. Raises: StoreError."""
        known = self.read()
        store.epoch, store.seen = known.epoch, known.steps
        return store

    def write(self, known: Known) -> None:
        """Keep it, whole or not at all. What goes wrong is told in `failure`."""
        record = {"store": self.store, "epoch": known.epoch, "steps": known.steps, "at": int(clock.now())}
        part = self.folder / f"{_EPOCH}.{os.getpid()}.{threading.get_ident()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with part.open("wb") as file:
                file.write(orjson.dumps(record) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / _EPOCH)
            self.failure = ""
        except OSError as error:
            self.failure = f"the state folder {str(self.folder)!r} can't be written ({error.strerror})"
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _identity(url: StoreUrl) -> tuple[str, str]:
    """A store's name without secrets, and the name of its folder."""
    parts = urlsplit(url.text)
    if url.scheme == "sqlite":
        text = f"sqlite:///{Path(url.path).absolute()}"
    else:
        port = parts.port or 6379
        text = f"{parts.hostname or 'localhost'}:{port}/{parts.path.strip('/') or '0'}"
        text = f"redis://{text}#{url.options.get('prefix', 'llmshield')}"
    readable = "".join([char if char.isalnum() else "-" for char in text.partition("://")[2]]).strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return text, f"{'sqlite' if url.scheme == 'sqlite' else 'redis'}-{readable[-40:]}-{digest}"
