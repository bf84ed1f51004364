"""The key ring of this process: LLMSHIELD_SECRET_KEY seals, LLMSHIELD_PREVIOUS_KEYS (commas between) only open.

Each key is 32 bytes in base64, or a reference to that (`file:///run/secrets/llmshield`, `awskms://…`). A reference is
resolved again after a minute, so that a replaced file is noticed; one that can't be reached keeps the ring as it was.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from llmshield import clock, resolvers
from llmshield.errors import SecretError
from llmshield.redact import remember
from llmshield.sealing import KeyRing, read_key

VARIABLE = "LLMSHIELD_SECRET_KEY"
PREVIOUS = "LLMSHIELD_PREVIOUS_KEYS"
_KEPT_S = 60.0

_lock = threading.Lock()
_held: tuple[tuple[str, str], float, KeyRing] | None = None


def ring() -> KeyRing:
    """The ring that the environment describes.

    Raises: SecretError, naming the variable and the remedy, when there is no key, or one is none.
    """
    global _held
    texts = (os.environ.get(VARIABLE, "").strip(), os.environ.get(PREVIOUS, "").strip())
    now = clock.monotonic()
    held = _held
    if held is not None and held[0] == texts and now < held[1]:
        return held[2]
    with _lock:
        try:
            made = KeyRing(read_master(), _previous(texts[1]))
        except SecretError:
            if held is None or held[0] != texts or not any("://" in text for text in texts):
                raise
            made = held[
                2
            ]  # the reference can't be reached just now; the keys are the same until it says otherwise
        _held = (texts, now + _KEPT_S, made)
    return made


def read_master() -> bytes:
    """The key that seals, read now. Raises: SecretError with the remedy."""
    text = os.environ.get(VARIABLE, "").strip()
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
