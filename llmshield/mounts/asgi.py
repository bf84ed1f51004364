"""The ASGI middleware: policy around an app that serves or proxies LLM traffic.

    app.add_middleware(ShieldMiddleware, policy="policy.yaml")

Pure ASGI: streams stay streams. Requests that a dialect of the policy claims (or an `apps:` entry, or `paths=`)
go through the engine, with the wrapped app as the provider `app`; everything else passes untouched. Inside the
app, `scope["llmshield"]` tells what was decided so far.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmshield.answer import Take
from llmshield.dialects import WireRequest
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.identity import carries_key
from llmshield.logs import log, where
from llmshield.mounts._asgi import App, AsgiClient, Lifespan, Message, Receive, Scope, Send, run_exchange
from llmshield.mounts._uvicorn import keep_trailers_out
from llmshield.policy import Policy, load
from llmshield.policy.globs import compile_globs
from llmshield.policy.providers import APP
from llmshield.runtime import Runtime
from llmshield.traffic import canonical_path
from llmshield.transport import Timeouts, Upstream

_DROPPED = frozenset(
    {b"content-length", b"content-encoding", b"transfer-encoding", b"accept-encoding", b"te", b"trailer"}
)
_NOT_BACK = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"content-encoding", b"content-type"}
)
keep_trailers_out()  # now: frameworks make their middleware when the first request is there

_QUEUE = 16
"""Messages of the app that wait for the client: backpressure reaches the app after so many."""


class ShieldMiddleware:
    """Mounts a policy around an ASGI app.

    `policy` is a file or a loaded Policy; `paths`, when given, are globs: only requests on these paths are
    guarded, and those of them that no dialect knows fall under `server.unknown_traffic`.

    Raises: PolicyError when the policy can't be used.
    """

    def __init__(
        self, app: App, policy: str | Path | Policy = "policy.yaml", paths: Sequence[str] | None = None
    ) -> None:
        self.app = app
        self._policy = policy if isinstance(policy, Policy) else load(policy)
        self._only = compile_globs(tuple(paths)) if paths is not None else None
        self.runtime = Runtime(self._policy, mount="asgi")
        self._lifespan = Lifespan(self.runtime.start, self.runtime.close)
        self._starting: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan.around(self.app, scope, receive, send)
            return
        inner = _from_its_mount(scope)
        seen = self._guarded(inner)
        if seen is None and inner is not scope:
            seen = self._guarded(scope)
        if seen is None:
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await _refuse_upgrade(receive, send)
            return
        if not self.runtime.ready:
            await self._start_late()

        async def told(
            message: Message,
        ) -> None:  # Starlette's BaseHTTPMiddleware looks as soon as an answer begins
            if message["type"] == "http.response.start":
                scope["llmshield"] = app.decision()
            await send(message)

        client = AppClient(receive, told, self._policy.server.limits.receive)
        app = AppTransport(self.app, scope, client)
        try:
            await run_exchange(
                self.runtime.engine, seen, client, mount="asgi", local={APP: app}, on_begin=app.begin
            )
            if client.gone and not client.started:
                await _end_for_nobody(send)
        finally:
            scope["llmshield"] = app.decision()  # for the middleware around us
            await app.finish()

    def _guarded(self, scope: Scope) -> Scope | None:
        """The request as the policy sees it, if it is LLM traffic; None: it passes untouched.

        A path that hides what it is counts as what it hides, and one that some router takes for a guarded one is
        guarded: Litestar's, and others where they are told to, read `/api/chat/` and `//api/chat` as `/api/chat`.
        """
        path = scope["path"]
        known = self._only or self._known_in(scope)
        if (path != "/" or self._only) and known(path):
            return scope
        plain = _tidy(path)
        if not plain:
            return None
        ended = f"{plain}/"
        for name in (plain, ended):
            if known(name) and (name is plain or not known(f"{plain}/x")):  # not the root of `/api/*`
                if path.rstrip("/") != plain:
                    return scope  # refused: it is no canonical path
                return {**scope, "path": name, "raw_path": _ended_like(name, scope.get("raw_path"))}
        raw = scope.get("raw_path")
        if self._only is None and raw and b"%" in raw:
            try:
                canonical_path(raw.partition(b"?")[0])
            except CallError:
                return scope if known(path.replace("\\", "/")) else None
        return None

    def _known_in(self, scope: Scope) -> Callable[[str], bool]:
        """Says of a path whether a dialect knows it, in a request such as this."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        dialects = self.runtime.dialects
        if scope["type"] != "http":  # a WebSocket has no method: what is guarded under any is guarded
            return lambda name: bool(dialects.methods(name, headers))
        method = scope["method"]
        return lambda name: dialects.find(method, name, headers) is not None

    async def _start_late(self) -> None:
        """Start at the first request, where the server runs no lifespan (a mounted sub-application)."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self.runtime.ready:
                await self.runtime.start()


def _from_its_mount(scope: Scope) -> Scope:
    """The request with the path that the app's own routes see: `path` begins with where the app is mounted
    (https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope, `root_path`)."""
    root: str = (scope.get("root_path") or "").rstrip("/")
    if not root or not scope["path"].startswith(f"{root}/"):
        return scope
    raw: bytes | None = scope.get("raw_path")
    start = quote(root).encode()
    # Another spelling of it is left as it is, and refused as no canonical path.
    within = raw[len(start) :] if raw is not None and raw.startswith(start) else raw
    return {**scope, "path": scope["path"][len(root) :], "raw_path": within}


def _tidy(path: str) -> str:
    """A path as the most forgiving router reads it: one slash for several, no dots, no parameters, no slash at its end."""
    if path.isprintable() and not any(map(path.__contains__, ("//", "/.", "\\", ";"))):
        return path.rstrip("/")
    steps: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        step = part.partition(";")[0]
        if step == "..":
            del steps[-1:]
        elif step and step != ".":
            steps.append(step)
    return "".join(f"/{step}" for step in steps)


def _ended_like(path: str, raw: bytes | None) -> bytes | None:
    """The raw path with the end of this one: with or without a slash."""
    if raw is None:
        return None
    return raw.partition(b"?")[0].rstrip(b"/") + (b"/" if path.endswith("/") else b"")


class AppClient(AsgiClient):
    """The client of an app: the app's own headers (cookies among them) go back with the app's answers only."""

    __slots__ = ()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head."""
        if headers.get("x-llmshield-provider") != APP:  # another target of the chain has answered
            self.app_headers = []
        await super().start(status, headers)


class AppTransport:
    """Asks the wrapped app: it gets the client's own scope and headers, and the guarded body."""

    def __init__(self, app: App, scope: Scope, client: AsgiClient) -> None:
        self._app = app
        self._scope = scope
        self._client: AsgiClient | None = client
        self._exchange: Exchange | None = None
        self._asked: list[_AppUpstream] = []

    def begin(self, exchange: Exchange) -> None:
        """Remember whose decision the app is told."""
        self._exchange = exchange

    def decision(self) -> dict[str, Any]:
        """What was decided so far."""
        return self._exchange.decision() if self._exchange is not None else {}

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Upstream:
        """Run the app on the guarded body until its head is there. Raises: UpstreamError when it fails."""
        headers = [(name, value) for name, value in self._scope["headers"] if name not in _DROPPED]
        if request.method == "POST" or request.body:
            headers.append((b"content-length", str(len(request.body)).encode()))
        scope = {**self._scope, "headers": headers, "llmshield": self.decision()}
        caller = self._exchange.caller if self._exchange is not None else None
        if (
            caller is not None and caller.ours
        ):  # a credential for us is nothing that the app, or whom it asks, should see
            scope["headers"] = [pair for pair in headers if not carries_key(*pair)]
            scope["query_string"] = request.query.encode()
        upstream = _AppUpstream(self._app, scope, request.body, self._drop_headers)
        self._asked.append(upstream)
        try:
            await upstream.head(timeouts)
        except BaseException:
            upstream.close()  # the client may have left: nobody else knows of this answer yet
            raise
        if self._client is not None:
            self._client.app_headers = [
                (name, value) for name, value in upstream.raw_headers if name.lower() not in _NOT_BACK
            ]
        return upstream

    def _drop_headers(self, status: int) -> None:
        """The app's answer is given up. Its headers go with it, but for an error that is passed on as it is."""
        if not 400 <= status < 500 and self._client is not None:
            self._client.app_headers = []

    async def finish(self) -> None:
        """Wait for what the app does behind its answer (background tasks), as its server would."""
        self._client = self._exchange = (
            None  # both lead back here: circles that only the collector would find
        )
        asked, self._asked = self._asked, []
        for upstream in asked:
            await upstream.finish()

    async def close(self) -> None:
        """Nothing is held between requests."""


class _AppUpstream:
    """One answer of the wrapped app, as it comes out of its `send`."""

    def __init__(self, app: App, scope: Scope, body: bytes, given_up: Callable[[int], None]) -> None:
        self._given_up = given_up
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUE)
        self._body: bytes | None = body
        self._over = asyncio.Event()
        self._idle: float | None = None
        self._done = False
        self._error: BaseException | None = None
        self.status = 500
        self.headers: Mapping[str, str] = {}
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self._task = asyncio.get_running_loop().create_task(self._run(app, scope))

    async def _run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._queue.put)
        except asyncio.CancelledError as error:
            if not self._over.is_set():  # nobody gave it up: it has awaited a task that somebody cancelled
                self._failed(error)
                with contextlib.suppress(asyncio.QueueFull):
                    self._queue.put_nowait(None)
            raise
        except Exception as error:  # noqa: BLE001  the app's own failure is a failed attempt, told to the reader
            self._failed(error)
        await self._queue.put(None)

    def _failed(self, error: BaseException) -> None:
        self._error = error
        log.error("app_raised", error=type(error).__name__, at=where(error))  # its words may be a prompt's

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def head(self, timeouts: Timeouts) -> None:
        message = await self._next(timeouts.first_token)
        if message is None or message["type"] != "http.response.start":
            raise UpstreamError("reset", "The wrapped app ended without an answer.")
        self.status = message["status"]
        self.raw_headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}
        if self.headers.get("content-encoding", "identity") != "identity":
            self.close()
            raise UpstreamError(
                "malformed", "The wrapped app compressed its answer; mount compression outside."
            )

    def rest(self) -> None:
        """The app's answer is read as it comes."""
        return

    async def chunk(self, take: Take | None = None) -> bytes:
        while not self._done:
            message = await self._next(self._idle)
            if message is None:
                raise UpstreamError("truncated", "The wrapped app ended in the middle of its answer.")
            if message["type"] != "http.response.body":
                continue
            self._done = not message.get("more_body", False)
            if self._done:
                self._over.set()
            if data := message.get("body", b""):
                return bytes(data)
        return b""

    async def _next(self, seconds: float | None) -> Message | None:
        try:
            async with asyncio.timeout(seconds):
                message = await self._queue.get()
        except TimeoutError:
            self.close()
            raise UpstreamError("idle", "The wrapped app was silent for too long.") from None
        if message is None and self._error is not None:
            raise UpstreamError(
                "reset", f"The wrapped app raised {type(self._error).__name__}."
            ) from self._error
        return message

    def idle_after(self, seconds: float) -> None:
        self._idle = seconds

    def close(self) -> None:
        """Give up what is still to come of the answer. Behind a whole one the app goes on with what is its own."""
        self._over.set()
        if not self._done:
            self._task.cancel()
        self._given_up(self.status)

    async def finish(self) -> None:
        try:
            await asyncio.wait((self._task,))
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        self._error = None  # its frames lead back here


async def _end_for_nobody(send: Send) -> None:
    """End an exchange whose client hung up before its answer: middleware around us may take silence for a bug
    (Starlette's `BaseHTTPMiddleware`: "No response returned."). 499 is nginx's word for it."""
    with contextlib.suppress(OSError):  # so servers say that nobody is there (ASGI 2.4)
        await send({"type": "http.response.start", "status": 499, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _refuse_upgrade(receive: Receive, send: Send) -> None:
    """WebSocket traffic on a guarded path can't be guarded: the handshake is refused."""
    message: Any = await receive()
    if message["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1008, "reason": "not served by policy"})
