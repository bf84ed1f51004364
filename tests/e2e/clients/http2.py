"""A client that speaks HTTP/2 and nothing else: so many calls at once on one connection. Needs `h2`, as mitmproxy has it.

In: {"port": of a proxy in regular mode, "roots", "host", "path", "body", "streams"}. Out: for each stream its status,
content-type and body, and when (seconds) its first byte and its end came; `reset` for one that was cut off.
"""

import asyncio
import json
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events


async def main() -> None:
    given = json.loads(sys.stdin.read())
    context = ssl.create_default_context(cafile=given["roots"])
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", given["port"])
    host = given["host"]
    writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(context, server_hostname=host)
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    conn.initiate_connection()
    conn.increment_flow_control_window(2**24)
    began = time.monotonic()
    found: dict[int, dict[str, object]] = {}
    for _ in range(given["streams"]):
        at = conn.get_next_available_stream_id()
        conn.send_headers(at, [(":method", "POST"), (":scheme", "https"), (":authority", host), (":path", given["path"]),
                               ("content-type", "application/json")])  # fmt: skip
        conn.send_data(at, given["body"].encode(), end_stream=True)
        found[at] = {"body": ""}
    writer.write(conn.data_to_send())
    print("asked", flush=True)
    left = set(found)
    while left:
        data = await asyncio.wait_for(reader.read(65536), 60)
        assert data, "closed"
        for event in conn.receive_data(data):
            at = getattr(event, "stream_id", 0) or 0
            if isinstance(event, h2.events.ResponseReceived):
                head = {name.decode(): value.decode() for name, value in event.headers}
                found[at] |= {"status": head[":status"], "type": head.get("content-type"),
                              "retry": head.get("retry-after")}  # fmt: skip
            elif isinstance(event, h2.events.DataReceived):
                found[at].setdefault("first", time.monotonic() - began)
                found[at]["body"] = str(found[at]["body"]) + event.data.decode()
                conn.acknowledge_received_data(event.flow_controlled_length, at)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                found[at]["end"] = time.monotonic() - began
                found[at]["reset"] = isinstance(event, h2.events.StreamReset)
                left.discard(at)
        writer.write(conn.data_to_send())
    print(json.dumps(list(found.values())))


asyncio.run(main())
