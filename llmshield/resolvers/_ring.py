"""The key ring of this process: LLMSHIELD_SECRET_KEY seals, LLMSHIELD_PREVIOUS_KEYS (commas between) only open.

Each key is 32 bytes in base64, or a reference to that (`file:///run/secrets/llmshield`, `awskms://…`). A reference is
resolved again after a minute, in a thread of its own, so that a replaced file is noticed and nobody waits for a network;
one that can't be reached keeps the ring as it was.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from llmshield import clock, resolvers
from llmshield.errors import SecretError
from llmshield.redact import remember
from llmshield.sealing import KeyRing, read_key

VARIABLE = "LLMSHIELD_SECRET_KEY"
PREVIOUS = "LLMSHIELD_PREVIOUS_KEYS"
_KEPT_S = 60.0


def ring() -> KeyRing:
    """The ring that the environment describes.

    Raises: SecretError, naming the variable and the remedy, when there is no key, or one is none.
    """
    held = _held
    texts = _texts()
    if held is not None and held.texts == texts:
        if clock.monotonic() >= held.until and not held.renewing:
            held.renewing = True
            threading.Thread(target=_renew, args=(held,), name="llmshield-key-ring", daemon=True).start()
        return held.ring
    with _lock:
        held = _held
        return held.ring if held is not None and held.texts == texts else _made(texts).ring


@dataclass(slots=True)
class _Held:
    """A ring, of which environment, and until when (`clock.monotonic()` seconds) it is not read again."""

    texts: tuple[str, str]
    ring: KeyRing
    until: float
    renewing: bool = False

    def __repr__(self) -> str:  # the texts are the keys
        return f"<_Held {self.ring!r} until {self.until}>"


_lock = threading.Lock()
_held: _Held | None = None


def _texts() -> tuple[str, str]:
    return os.environ.get(VARIABLE, "").strip(), os.environ.get(PREVIOUS, "").strip()


def _made(texts: tuple[str, str]) -> _Held:
    """The ring of these texts, from now on the one that is used. Raises: SecretError."""
    global _held
    made = KeyRing(_master(texts[0]), _previous(texts[1]))
    kept_s = _KEPT_S if any("://" in text for text in texts) else float("inf")
    _held = _Held(texts, made, clock.monotonic() + kept_s)
    return _held


def _renew(held: _Held) -> None:
    """Read the references again; what can't be reached just now keeps the keys as they were."""
    with _lock, contextlib.suppress(SecretError):
        if held is _held:
            _made(held.texts)
    held.until, held.renewing = clock.monotonic() + _KEPT_S, False


def read_master() -> bytes:
    """The key that seals, read now. Raises: SecretError with the remedy."""
    return _master(_texts()[0])


def _master(text: str) -> bytes:
    if not text:
        raise SecretError(f"{VARIABLE} is not set; make a key with `llmshield vault key` and export it")
    return _read(text, VARIABLE)


def references() -> tuple[tuple[str, str], ...]:
    """(variable, reference) of the keys that stand elsewhere."""
    texts = [(VARIABLE, os.environ.get(VARIABLE, ""))]
    texts += [(PREVIOUS, part) for part in os.environ.get(PREVIOUS, "").split(",")]
    return tuple((name, text.strip()) for name, text in texts if "://" in text)


def _previous(text: str) -> list[bytes]:
    return [_read(part.strip(), PREVIOUS) for part in text.split(",") if part.strip()]


def _read(text: str, variable: str) -> bytes:
    reference = resolvers.SecretRef.parse(text)
    try:
        if reference is None:
            remember(text)
        elif reference.scheme == "enc":
            raise SecretError("a key can't be sealed with itself; write it in base64, or where it is")
        return read_key(text if reference is None else resolvers.resolve(reference, Path()))
    except SecretError as error:
        raise SecretError(f"{variable}: {error}") from None
