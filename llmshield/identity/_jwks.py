"""An issuer's public keys (RFC 7517): fetched, kept, fetched again, and believed for a declared time without it.

Only keys that can verify a signature and nothing else are taken: RSA of 2,048 bits and more, elliptic curves,
Edwards curves. A symmetric key in such a set is skipped: it would let everybody who can read the set sign.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
from joserfc.util import urlsafe_b64decode

from llmshield import clock
from llmshield.dialects import WireRequest
from llmshield.errors import ShieldError, UpstreamError
from llmshield.logs import log
from llmshield.policy.identity import is_key_set
from llmshield.transport import HttpTransport, Timeouts

Key: TypeAlias = RSAKey | ECKey | OKPKey

FETCH_S = 5.0
"""Time for one fetch, all in all."""
FORCED_S = 10.0
"""Fetches because of an unknown key id are at least so far apart: anybody can invent ids."""
RETRY_S = 5.0
"""The next try after a fetch that failed."""
_LARGEST = 512 * 1024
_MOST_KEYS = 200
_DESCRIPTION = "/.well-known/openid-configuration"
_RSA_BITS = 2048
_KINDS: dict[str, type[Any]] = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}
"""The kind of key by how an algorithm's name begins."""
_TIMEOUTS = Timeouts(connect=FETCH_S, first_token=FETCH_S, idle=FETCH_S, total=FETCH_S)


class Jwks:
    """The keys at `source` (`https://...` or `file://path`), or where the issuer's own description says that they are.
    `changed` is called whenever they are others."""

    def __init__(
        self,
        source: str | None,
        issuer: str,
        base: Path,
        *,
        refresh_s: float,
        outage_s: float,
        changed: Callable[[], None],
        place: str = "identity.jwt",
    ) -> None:
        self._place = place
        self._issuer = issuer
        self._refresh_s = refresh_s
        self._outage_s = outage_s
        self._changed = changed
        scheme, _, rest = (source or "").partition("://")
        self._file = base / rest if scheme == "file" else None
        self._source = source
        self._transports: dict[str, HttpTransport] = {}
        self._text = b""
        self._keys: dict[str, Key] = {}
        self._nameless: list[Key] = []
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Get the keys. A file that can't be used refuses the start; an issuer that is away does not: tokens are
        refused until it is there.

        Raises: ShieldError with the file and the reason.
        """
        if self._file is None:
            await self._fetch()
            return
        try:
            self._take(await asyncio.to_thread(self._read_file, self._file))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ShieldError(f"{self._place}.jwks: {self._file} can't be used: {reason}") from None

    async def close(self) -> None:
        """Stop fetching."""
        task, self._fetching = self._fetching, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        await self._let_go()

    async def _let_go(self) -> None:
        while self._transports:
            _, transport = self._transports.popitem()
            await transport.close()

    def usable(self) -> bool:
        """False when there are no keys, or they are too old to be believed. Starts a fetch when it is time for one;
        nobody waits for it."""
        now = clock.monotonic()
        age_s = now - self._fetched_at
        if age_s > self._refresh_s and now - self._tried_at > RETRY_S:
            self.fetch_soon()
        return age_s < self._refresh_s + self._outage_s

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key for a token's header; without an id, the only one that fits."""
        if kid is not None:
            key = self._keys.get(kid)
            return key if key is not None and _fits(key, algorithm) else None
        fitting = [key for key in (*self._keys.values(), *self._nameless) if _fits(key, algorithm)]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def may_fetch(self) -> bool:
        """Whether an unknown key id is worth a fetch now, or one is under way."""
        return self._fetching is not None or clock.monotonic() - self._tried_at >= FORCED_S

    def fetch_soon(self) -> asyncio.Task[bool]:
        """The fetch that is under way, or a new one; True when the keys were had."""
        task = self._fetching
        if task is None:
            task = self._fetching = asyncio.create_task(self._fetch(), name="llmshield-jwks")
            task.add_done_callback(self._fetched)
        return task

    def _fetched(self, task: asyncio.Task[bool]) -> None:
        if self._fetching is task:
            self._fetching = None

    async def _fetch(self) -> bool:
        """Swallows what goes wrong: the keys that are known go on, and their age tells how long."""
        self._tried_at = clock.monotonic()
        try:
            async with asyncio.timeout(FETCH_S):
                if self._file is not None:
                    text = await asyncio.to_thread(self._read_file, self._file)
                else:
                    text = await self._ask(self._source or await self._discover())
            self._take(text)
        except (UpstreamError, OSError, TimeoutError, ValueError) as error:
            log.warning("jwks_unavailable", error=type(error).__name__, reason=str(error))
            return False
        return True

    async def _discover(self) -> str:
        """Where the issuer says that its keys are (OpenID Connect Discovery 1.0, 4). Raises: ValueError when it says
        nothing of use, or calls itself by another name (4.3)."""
        tree = orjson.loads(await self._ask(f"{self._issuer.rstrip('/')}{_DESCRIPTION}"))
        if not isinstance(tree, dict) or tree.get("issuer") != self._issuer:
            raise ValueError("the issuer's description is another issuer's")
        found = str(tree.get("jwks_uri"))
        plain = found.startswith("http:") and not self._issuer.startswith(
            "http:"
        )  # only issuers of this machine may
        if not is_key_set(found) or found.startswith("file:") or plain:
            raise ValueError("the issuer's description names no https address of its keys")
        return found

    async def _ask(self, address: str) -> bytes:
        url = urlsplit(address)
        origin = f"{url.scheme}://{url.netloc}"
        transport = self._transports.get(origin)
        if transport is None:
            if len(self._transports) > 1:  # the keys have moved
                await self._let_go()
            transport = self._transports[origin] = HttpTransport(origin)
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        answer = await transport.ask(WireRequest("GET", url.path or "/", url.query, headers), _TIMEOUTS)
        try:
            if answer.status != 200:  # a redirect is none: the policy names where the keys are
                raise ValueError(f"the issuer answered {answer.status}")
            text = b""
            while data := await answer.chunk():
                text += data
                if len(text) > _LARGEST:
                    raise ValueError(f"the set is larger than {_LARGEST} bytes")
        except BaseException:
            answer.close()
            raise
        return text

    @staticmethod
    def _read_file(path: Path) -> bytes:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        return text

    def _take(self, text: bytes) -> None:
        """Use these keys from now on. Raises: ValueError when there is none of use."""
        if text != self._text:
            keys, nameless = _read(text)
            self._text, self._keys, self._nameless = text, keys, nameless
            self._changed()
        self._fetched_at = clock.monotonic()


def _read(text: bytes) -> tuple[dict[str, Key], list[Key]]:
    """The keys of a set that can be used, by id, and those without one."""
    tree = orjson.loads(text)
    listed = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no set of keys (RFC 7517)")
    keys: dict[str, Key] = {}
    nameless: list[Key] = []
    for item in listed[:_MOST_KEYS]:
        key = _usable(item)
        if key is None:
            continue
        if isinstance(item.get("kid"), str):
            keys.setdefault(item["kid"], key)
        else:
            nameless.append(key)
    if not keys and not nameless:
        raise ValueError("it holds no public key that signatures can be checked with")
    return keys, nameless


def _usable(item: Any) -> Key | None:
    if not isinstance(item, dict) or item.get("kty") not in {"RSA", "EC", "OKP"} or item.get("use") == "enc":
        return None
    try:
        if item["kty"] == "RSA":  # before the library sees it: it only warns
            modulus = int.from_bytes(urlsafe_b64decode(item["n"].encode()), "big")
            if modulus.bit_length() < _RSA_BITS:
                return None
        key: Any = JWKRegistry.import_key(item)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def _fits(key: Key, algorithm: str) -> bool:
    """Whether this key is of the algorithm's kind, and was not made for another one."""
    if key.alg is not None and key.alg != algorithm:
        return False
    return isinstance(key, _KINDS[algorithm[:2]])
