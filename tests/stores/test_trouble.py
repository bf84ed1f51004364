"""What a store that can't be used says, at start and at work: what was found, where (without the password), what to do."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import Labels, Line, Store, _sqlite_connect, _trouble, open_store, redis
from llmshield.stores._redis_resp import RedisError

Start = Callable[..., tuple[str, "subprocess.Popen[bytes]"]]
LABELS = Labels("acme", "openai", "gpt-4o")
LINES = (Line("tenant=acme", "ever", 1_000),)
NOW = 2_000_000_000_000
SECRET = "hunter2-secret"


async def reserve(store: Store, number: int = 0) -> None:
    await store.reserve(f"{os.getpid()}-{number}", LINES, 10, 10, NOW + 60_000, NOW, LABELS)


async def said_at_start(url: str) -> str:
    try:
        store = open_store(url)
    except StoreError as error:  # found before anything is asked
        return str(error)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


# SQLite


def garbage(file: Path) -> None:
    file.write_bytes(b"these are somebody's notes, and no database\n" * 100)


def folder(file: Path) -> None:
    file.mkdir()


def damaged(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
    connection.commit()
    connection.close()
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * 3996
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (garbage, ["is no SQLite database", "name another file"]),
        (folder, ["can't be opened", "has to be a file"]),
        (damaged, ["the file is damaged", "restore a backup"]),
    ],
)
async def test_sqlite_at_start(tmp_path: Path, make: Callable[[Path], None], words: list[str]) -> None:
    file = tmp_path / "book.db"
    make(file)
    said = await said_at_start(f"sqlite:///{file}")

    assert [word for word in (str(file), *words) if word not in said] == []


async def test_sqlite_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    said = await said_at_start(f"sqlite:///{tmp_path}/nowhere/book.db")

    assert "nowhere/book.db' does not exist; make it, or name another file" in said


async def test_sqlite_that_another_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start (a file that is no WAL yet), and at work."""
    monkeypatch.setattr(_sqlite_connect, "READ_S", 0.1)
    monkeypatch.setattr(_sqlite_connect, "_START_S", 0.2)
    file = tmp_path / "book.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN EXCLUSIVE")
    at_start = await said_at_start(f"sqlite:///{file}")
    other.execute("ROLLBACK")
    store = open_store(f"sqlite:///{file}")
    await store.open()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable) as caught:
        await reserve(store)
    other.execute("ROLLBACK")
    other.close()
    await reserve(store)
    await store.close()

    for said in (at_start, str(caught.value)):
        assert f"SQLite store {str(file)!r}: another process holds it locked" in said
        assert f"`fuser {file}`" in said


@pytest.mark.parametrize(
    ("pragma", "back", "words"),
    [
        (
            "query_only=ON",
            "query_only=OFF",
            ["may not be written by this user (uid ", "-shm and their folder"],
        ),
        ("max_page_count=1", "max_page_count=1000000", ["the disk is full", "make room"]),
    ],
)
async def test_sqlite_at_work(tmp_path: Path, pragma: str, back: str, words: list[str]) -> None:
    file = tmp_path / "book.db"
    store: Any = open_store(f"sqlite:///{file}")
    await store.open()
    store._file.writer.execute(f"PRAGMA {pragma}").fetchall()
    said = ""
    for number in range(500):
        try:
            await reserve(store, number)
        except StoreUnavailable as error:
            said = str(error)
            break
    store._file.writer.execute(f"PRAGMA {back}").fetchall()
    await reserve(store, 1000)
    await store.close()

    assert [word for word in (str(file), *words) if word not in said] == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_sqlite_that_this_user_may_not_write(tmp_path: Path) -> None:
    file = tmp_path / "book.db"
    store = open_store(f"sqlite:///{file}")
    await store.open()
    await store.close()
    file.chmod(0o444)
    tmp_path.chmod(0o555)
    said = await said_at_start(f"sqlite:///{file}")
    tmp_path.chmod(0o755)

    assert f"uid {os.getuid()}" in said


def test_every_trouble_of_sqlite_has_a_place_and_a_remedy() -> None:
    for code in _trouble._SQLITE:
        error = sqlite3.OperationalError("said by SQLite")
        error.sqlite_errorcode, error.sqlite_errorname = code | 3 << 8, "SQLITE_X"
        said = str(_trouble.sqlite_trouble("/data/book.db", error))

        assert said.startswith("SQLite store '/data/book.db': ")
        assert "; " in said
        assert "{" not in said
        assert "FILE" not in said
    said = str(_trouble.sqlite_trouble("/data/book.db", ValueError("odd")))
    assert said == "SQLite store '/data/book.db': odd"


# Redis

SERVERS: list[asyncio.Server] = []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Close what `listen` has opened."""
    yield
    while SERVERS:
        server = SERVERS.pop()
        server.close()
        await server.wait_closed()


async def listen(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> str:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    SERVERS.append(server)
    return f"redis://:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def with_password(start: Start) -> str:
    url, _ = start("--requirepass", SECRET)
    return url


async def wrong_password(start: Start) -> str:
    return (await with_password(start)).replace("//", f"//:not-{SECRET}@")


async def password_for_none(start: Start) -> str:
    url, _ = start()
    return url.replace("//", f"//:{SECRET}@")


async def replica(start: Start) -> str:
    url, _ = start("--replicaof", "127.0.0.1", "1")
    return url


async def no_such_database(start: Start) -> str:
    url, _ = start()
    return url.replace("/0", "/99")


async def full(start: Start) -> str:
    url, _ = start("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    return url


async def gone(start: Start) -> str:
    url, server = start("--requirepass", SECRET)
    server.kill()
    server.wait(10)
    return url.replace("//", f"//:{SECRET}@")


async def hangs(start: Start) -> str:
    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()

    return await listen(quiet)


async def no_redis(start: Start) -> str:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    return await listen(web)


async def tls_to_plain(start: Start) -> str:
    url, _ = start()
    return url.replace("redis://", f"rediss://:{SECRET}@")


async def tls_to_something_else(start: Start) -> str:
    return (await no_redis(start)).replace("redis://", "rediss://")


async def unknown_host(start: Start) -> str:
    return f"redis://:{SECRET}@nowhere.invalid:6379/0"


async def slash_in_password(start: Start) -> str:
    return f"redis://:{SECRET}/x@127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_password, ["it asks for a password", "write it into the URL"]),
        (wrong_password, ["refuses the user or the password", "correct them"]),
        (password_for_none, ["it has no password, and one was sent", "take the password out"]),
        (replica, ["it is a replica, which takes no writes", "name the primary"]),
        (no_such_database, ["/99: it has no database of this number", "redis://HOST:PORT/0"]),
        (full, ["its memory is full", "raise maxmemory"]),
        (gone, ["nobody listens there", "start Redis, or correct `server.store`"]),
        (hangs, ["no answer within 0.3 s", "look whether it is up"]),
        (no_redis, ["the connection was closed"]),
        (tls_to_plain, ["rediss://127.0.0.1:", "speaks TLS"]),
        (tls_to_something_else, ["TLS failed (", "redis:// is without TLS"]),
        (unknown_host, ["redis://nowhere.invalid:6379/0: no such host", "correct `server.store`"]),
        (slash_in_password, ["its URL can't be read", "percent-encode"]),
    ],
)
async def test_redis_at_start(
    start_redis: Start,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Start], Awaitable[str]],
    words: list[str],
) -> None:
    monkeypatch.setattr(redis, "_READ_S", 0.3)
    url = await make(start_redis)
    said = await said_at_start(url)

    assert said.startswith("Redis at redis")
    assert [word for word in words if word not in said] == []
    assert SECRET not in said
    if "@127.0.0.1:" in url and make is not slash_in_password:
        assert f"127.0.0.1:{url.rsplit(':', 1)[1]}: " in said


async def test_redis_at_work(start_redis: Start, tmp_path: Path) -> None:
    """A primary that becomes a replica, runs full, hangs and dies under a running process."""
    url, server = start_redis("--requirepass", SECRET)
    store: Any = open_store(url.replace("//", f"//:{SECRET}@"))
    await store.open()
    await reserve(store)
    place = url.replace("/0", "")
    said: dict[str, str] = {}
    for name, (turn, back) in {
        "replica": (("replicaof", "127.0.0.1", "1"), ("replicaof", "no", "one")),
        "full": (("config_set", "maxmemory", "1"), ("config_set", "maxmemory", "0")),
    }.items():
        await store._read(*turn)
        with pytest.raises(StoreUnavailable) as caught:
            await reserve(store, 1)
        said[name] = str(caught.value)
        await store._read(*back)
        await reserve(store, 2)
    server.kill()
    server.wait(10)
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as caught:
            await reserve(store, 3)
        said["dead"] = said.get("dead", "") + str(caught.value)
    await store.close()

    assert "it is a replica, which takes no writes; name the primary" in said["replica"]
    assert "its memory is full; raise maxmemory" in said["full"]
    assert "nobody listens there; start Redis" in said["dead"]
    for text in said.values():
        assert text.startswith(f"Redis at {place}")
        assert SECRET not in text


def test_every_trouble_of_redis_has_a_place_and_a_remedy() -> None:
    said = {
        word: str(_trouble.redis_trouble("redis://h:1/0", RedisError(f"{word} x")))
        for word in _trouble._REDIS
    }
    inside = (
        "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't write"
    )

    assert len(set(said.values())) > len(said) - 2
    for text in said.values():
        assert text.startswith("Redis at redis://h:1/0: it") or "script of somebody" in text
        assert "; " in text
    assert "it is a replica" in str(_trouble.redis_trouble("redis://h:1/0", RedisError(inside)))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("redis://u:p@h:1/2", "redis://h:1/2"),
        ("rediss://:p%2Fq@[::1]:7/0", "rediss://[::1]:7/0"),
        ("redis://:p/q@h:1/2", "redis://?"),
    ],
)
def test_where_a_redis_is(url: str, place: str) -> None:
    assert _trouble.redis_place(url) == place


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    """As a user sees it: `llmshield serve` with a store that is none."""
    garbage(tmp_path / "book.db")
    (tmp_path / "policy.yaml").write_text(
        'version: 1\nserver: {store: "sqlite:///book.db"}\nproviders: {a: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}\n'
    )
    command = shutil.which("llmshield") or str(Path(sys.executable).with_name("llmshield"))
    done = subprocess.run(
        [command, "serve", "--policy", "policy.yaml", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode not in (0, None)
    assert "SQLite store 'book.db': the file is no SQLite database; name another file" in done.stderr
    assert "Traceback" not in done.stderr
