"""A real Redis cluster of two nodes: any of them may be named, and the slot with our keys may move."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from llmshield.errors import StoreUnavailable
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.stores import Grant, Labels, Line, Seat, Store, Window, open_store
from llmshield.stores._redis_scripts import SCRIPTS

LINES = (Line("tenant=acme", "ever", 1_000), Line("tenant=acme,model=m", "day:2033-05-18", 500, 4 * 10**12))
LABELS = Labels("acme", "openai", "gpt-4o")
NOW = 2_000_000_000_000
Start = Callable[..., tuple[str, "subprocess.Popen[bytes]"]]


@pytest.fixture
def nodes(start_redis: Start, tmp_path: Path) -> Iterator[list[Any]]:
    """Two primaries, each with half of the slots."""
    made: list[Any] = []
    for number in (0, 1):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        url, _ = start_redis("--cluster-enabled", "yes", "--dir", str(folder), port=free_port())
        node: Any = Redis.from_url(url)
        made.append(node)
    made[0].execute_command("CLUSTER MEET", "127.0.0.1", port_of(made[1]))
    for number, node in enumerate(made):
        node.execute_command("CLUSTER ADDSLOTS", *range(number * 8192, number * 8192 + 8192))
    until(lambda: all(state(node) == "ok" and len(known(node)) == 2 for node in made))
    yield made
    for node in made:
        node.close()


def free_port() -> int:
    """A port whose companion for the cluster's own talk (10,000 above) is free as well."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port < 55_000 and other.connect_ex(("127.0.0.1", port + 10_000)) != 0:
                return port


def port_of(node: Any) -> int:
    return int(node.connection_pool.connection_kwargs["port"])


def url_of(node: Any) -> str:
    return f"redis://127.0.0.1:{port_of(node)}/0"


def state(node: Any) -> str:
    return str(node.cluster("info")["cluster_state"])


def known(node: Any) -> dict[str, str]:
    """Ids of the nodes, by port."""
    return {
        address.rpartition("@")[0].rpartition(":")[2]: about["node_id"]
        for address, about in (
            (f"{name}@0" if "@" not in name else name, about) for name, about in node.cluster("nodes").items()
        )
    }


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


async def everything(store: Store, id: str) -> None:
    """Each kind of step once."""
    assert isinstance(await store.reserve(id, LINES, 10, 10, NOW + 60_000, NOW, LABELS), Grant)
    await store.renew([id], NOW + 70_000)
    await store.settle(id, LINES, 7, NOW, LABELS, 1, 2)
    await store.reserve(f"{id}.2", LINES, 10, 10, NOW + 60_000, NOW, LABELS)
    await store.release(f"{id}.2", LINES)
    await store.expire(NOW)
    seat = Seat("t", 2, id, NOW + 60_000)
    await store.admit([Window("t", 50, 60)], [seat], NOW)
    await store.count([Window("t", 50, 60)], NOW, 1)
    await store.sit([seat])
    await store.leave([seat])
    await store.put("shelf", id, b"note")
    await store.put_once("shelf", f"{id}.once", b"1", 0, NOW)
    await store.swap("shelf", id, b"note", b"other", 0, NOW)
    assert await store.look("shelf", id, NOW) == b"other"
    assert await store.notes("shelf", NOW) == {id: b"other", f"{id}.once": b"1"}
    await store.strike("shelf", id)
    await store.strike("shelf", f"{id}.once")
    await store.revision("shelf")
    await store.standing(LINES)
    await store.balances()
    assert [entry.amount async for entry in store.journal()]
    await store.holds()
    await store.book()
    await store.ping()


async def test_any_node_may_be_named(nodes: list[Any]) -> None:
    stores = [open_store(url_of(node)) for node in nodes]
    for number, store in enumerate(stores):
        await store.open()
        await everything(store, f"id{number}")

    for store in stores:
        assert [found.spent for found in await store.balances("tenant=acme")] == [14, 14]
        await store.close()
    with_keys = [node for node in nodes if node.dbsize()]
    assert len(with_keys) == 1
    slots = {with_keys[0].execute_command("CLUSTER KEYSLOT", key) for key in with_keys[0].keys("*")}
    assert len(slots) == 1, "every key of the book, the notes and the gates"
    assert {"reserve", "admit", "swap"} <= SCRIPTS.keys()


async def test_the_slot_moves_under_a_ledger(nodes: list[Any], tmp_path: Path) -> None:
    """What was spent goes with it; while it is on its way money is refused, and nothing is lost or doubled."""
    store = open_store(url_of(nodes[1]))
    ledger = Ledger(store, LocalState(store.url, tmp_path / "state"))
    await ledger.start()
    caps = [Cap(tenant_account("acme"), 1_000, "day")]
    held = await ledger.reserve("a", LABELS, caps, 100)
    assert isinstance(held, Reservation)
    source, target = (nodes[0], nodes[1]) if nodes[0].dbsize() else (nodes[1], nodes[0])
    await asyncio.to_thread(move, source, target)
    end = time.monotonic() + 10
    while True:
        try:
            again = await ledger.reserve("b", LABELS, caps, 1_000, 1)
            break
        except StoreUnavailable:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
    assert isinstance(again, Reservation)
    assert again.amount == 900
    await ledger.settle(held, 60)
    await ledger.settle(again, 30)

    assert (await ledger.usage())["tenants"]["acme"]["spent_usd"] == "0.000000000090"
    assert (source.dbsize(), target.dbsize() > 0) == (0, True)
    await ledger.close()
    await store.close()


def move(source: Any, target: Any) -> None:
    """Give our slot to another node, as `redis-cli --cluster reshard` does."""
    slot = source.execute_command("CLUSTER KEYSLOT", "llmshield:{book}:book")
    ids = known(source)
    own, other = ids[str(port_of(source))], ids[str(port_of(target))]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", own)
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", other)
    while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        source.execute_command("MIGRATE", "127.0.0.1", port_of(target), "", 0, 5000, "KEYS", *keys)
    for node in (target, source):
        node.execute_command("CLUSTER SETSLOT", slot, "NODE", other)
