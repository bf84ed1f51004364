"""The yardstick: a pass-through proxy on the sidecar's stack (uvicorn, uvloop, httptools, aiohttp) and no policy.

    python tests/bench/bare.py PORT UPSTREAM_URL

It forwards head and body and streams the answer: the least that any gateway on this stack has to do.
"""

import sys

import aiohttp
import uvicorn

HOP_BY_HOP = {b"host", b"connection", b"content-length", b"transfer-encoding", b"keep-alive"}
UPSTREAM = sys.argv[2]
session: aiohttp.ClientSession | None = None


async def app(scope, receive, send):
    global session
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0),
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
                await send({"type": "lifespan.startup.complete"})
            else:
                await session.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"] if name not in HOP_BY_HOP}
    async with session.request(
        scope["method"], UPSTREAM + scope["path"], data=body, headers=headers
    ) as reply:
        kept = [
            (n.lower(), v)
            for n, v in reply.raw_headers
            if n.lower() not in {b"transfer-encoding", b"connection"}
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": kept})
        if reply.headers.get("transfer-encoding") == "chunked":
            async for piece in reply.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": await reply.read()})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="error",
    )
