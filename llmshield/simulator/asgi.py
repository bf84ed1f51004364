"""The simulator as an ASGI app: for middleware, and for servers of one's own.

Bytes are the server's here, so faults of the socket are approximations: a reset is a ConnectionResetError raised from
the app, a FIN a return in the middle, and what is written outside HTTP's framing (`Wire`) is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmshield.simulator.control import as_control
from llmshield.simulator.plan import Fin, Hang, Pause, Plan, Reset, Step
from llmshield.simulator.provider import Provider
from llmshield.simulator.record import Received

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class SimulatorApp:
    """An ASGI app; settings are Provider's. `app.provider.calls` is what it received."""

    def __init__(self, **settings: Any) -> None:
        self.provider = Provider(**settings)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or the lifespan protocol. Raises: ConnectionResetError for a reset."""
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            raise ValueError(f"the simulator speaks http, not {scope['type']}")
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        raw = scope.get("raw_path") or scope["path"].encode()
        query = scope.get("query_string") or b""
        target = raw.decode("latin-1") + ("?" + query.decode("latin-1") if query else "")
        headers = [(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in scope["headers"]]
        call = self.provider.record(scope["method"], target, headers, b"".join(parts), time.monotonic())
        control = call.path.startswith("/__sim__/")
        plan = as_control(self.provider, call) if control else self.provider.answer(call)
        if isinstance(plan.body, bytes) and not plan.before:
            await self._play(call, plan, send)
            return
        await self._until_gone(call, plan, receive, send)

    async def _until_gone(self, call: Received, plan: Plan, receive: Receive, send: Send) -> None:
        """Play, and stop when the client leaves."""
        playing = asyncio.ensure_future(self._play(call, plan, send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():
                call.disconnected = True
                return
            await playing
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)

    async def _play(self, call: Received, plan: Plan, send: Send) -> None:
        for step in plan.before:
            if not await _odd(call, step):
                return
        headers = [(n.encode("latin-1"), v.encode("latin-1", "replace")) for n, v in plan.headers]
        if plan.framing == "length" and plan.status != 204:
            body = plan.body if isinstance(plan.body, bytes) else b""
            headers.append((b"content-length", str(plan.length or len(body)).encode()))
        await send({"type": "http.response.start", "status": plan.status, "headers": headers})
        if call.method != "HEAD":
            for step in plan.steps():
                if isinstance(step, bytes):
                    await send({"type": "http.response.body", "body": step, "more_body": True})
                    call.pieces, call.sent = call.pieces + 1, call.sent + len(step)
                elif not await _odd(call, step):
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        call.finished = True


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _odd(call: Received, step: Step) -> bool:
    """Play a step that is no body; False when the answer is over with it."""
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
    elif isinstance(step, Hang):
        await asyncio.get_running_loop().create_future()
    elif isinstance(step, (Reset, Fin)):
        call.finished = True
        if isinstance(step, Reset):
            raise ConnectionResetError("the simulator resets this connection, as it was asked to")
        return False
    return True
