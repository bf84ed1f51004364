"""Serves a simulated provider, over TLS or behind the ASGI mount, and the same provider's control port beside it.

    provider.py HOST PORT CONTROL_PORT --tls CERTIFICATE_AND_KEY
    provider.py HOST PORT CONTROL_PORT --policy FILE

Prints `ready` when both listen. Port 0 is not offered: whoever starts it says where.
"""

import asyncio
import sys
from pathlib import Path

import uvicorn

from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import SimulatorApp


async def main() -> None:
    host, port, control, kind, path = sys.argv[1:]
    provider = SimulatorApp(stable=True)
    app = ShieldMiddleware(provider, policy=Path(path)) if kind == "--policy" else provider
    tls = {"ssl_certfile": path} if kind == "--tls" else {}
    quiet = {"log_config": None, "ws": "none"}
    servers = [
        uvicorn.Server(uvicorn.Config(app, host=host, port=int(port), **quiet, **tls)),
        uvicorn.Server(
            uvicorn.Config(provider, host="127.0.0.1", port=int(control), lifespan="off", **quiet)
        ),
    ]
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.gather(*tasks)


asyncio.run(main())
