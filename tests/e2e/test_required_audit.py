"""`audit: {required: true}` on disks that are full, frozen, dead, read-only or gone: nothing passes unrecorded.

The disks are real file systems (tmpfs, ext4 on a loop device), mounted by root; where that can't be, the tests are
skipped. AUD-01 of the acceptance list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield import audit as audit_module
from llmshield.evidence import EvidenceError, segments, verify
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

POLICY = """
server: {store: "memory://", unknown_traffic: deny, paths: [{match: "/v1/files", action: pass}]}
providers:
  openai: {dialect: openai, base_url: "URL/v1"}
  anthropic: {dialect: anthropic, base_url: "URL"}
  gemini: {dialect: gemini, base_url: "URL"}
audit: {sink: "file://SINK", required: true}
"""
SAID = [{"role": "user", "content": "Tell me about rivers."}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", {"model": "gpt-4o", "messages": SAID}),
    "openai stream": ("/v1/chat/completions", {"model": "gpt-4o", "messages": SAID, "stream": True}),
    "anthropic": ("/v1/messages", {"model": "claude-x", "max_tokens": 9, "messages": SAID}),
    "gemini": (
        "/v1beta/models/gemini-x:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
    ),
    "passed on": ("/v1/files", {"x": 1}),
    "unknown": ("/v1/nothing", {"x": 1}),
    "no JSON": ("/v1/chat/completions", {}),
}


def run(*words: str | Path) -> None:
    subprocess.run(
        [str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def mounted(folder: Path, *words: str | Path) -> None:
    folder.mkdir(exist_ok=True)
    try:
        run("mount", *words, folder)
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"file systems can't be mounted here ({error})")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 256 kB."""
    folder = tmp_path / "disk"
    mounted(folder, "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs")
    yield folder
    run("umount", "-l", folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 on a loop device."""
    if shutil.which("mkfs.ext4") is None or shutil.which("fsfreeze") is None:
        pytest.skip("no mkfs.ext4 or fsfreeze")
    image, folder = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-F", image)
    mounted(folder, "-o", "loop", image)
    yield folder
    run("umount", "-l", folder)


def policy_of(sim: Simulator, folder: Path, **more: str) -> Any:
    text = POLICY.replace("URL", sim.url).replace("SINK", str(folder / "audit.jsonl"))
    for old, new in more.items():
        text = text.replace(old, new)
    return policy(text, base=folder.parent)


def fill_up(folder: Path, *, leave: int = 0) -> Path:
    """Take all room of a file system but `leave` bytes."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    if leave:
        os.truncate(ballast, ballast.stat().st_size - leave)
    return ballast


async def ask(url: str, name: str) -> tuple[int, str, bytes]:
    """Status, request id and body of one call."""
    path, body = CALLS[name]
    data = b"{" if name == "no JSON" else json.dumps(body).encode()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        async with http.post(
            f"{url}{path}", data=data, headers={"content-type": "application/json"}
        ) as reply:
            return reply.status, reply.headers["x-llmshield-request-id"], await reply.read()


async def ready(admin: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/readyz") as reply:
        return reply.status


def recorded(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in segments(folder / "audit.jsonl") for line in path.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


def good(folder: Path) -> list[str]:
    sink = folder / "audit.jsonl"
    return [report.fault for report in verify(segments(sink), sink=sink) if report.fault]


async def until(url: str, name: str, status: int) -> None:
    for _ in range(100):
        if (await ask(url, name))[0] == status:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} never gave {status}")


async def test_every_path_out_has_its_records(tmp_path: Path, primary: Simulator) -> None:
    """`ask` before anybody is asked, `answer` before anything is answered, `call` once: for every kind of exchange."""
    folder = tmp_path / "log"
    async with gateway(policy_of(primary, folder)) as (url, _):
        seen = {name: await ask(url, name) for name in CALLS}
    records = recorded(folder)

    for name, (status, id, _) in seen.items():
        kinds = [record["kind"] for record in records if record.get("request_id") == id]
        asked = ["ask"] if name in {"openai", "openai stream", "anthropic", "gemini", "passed on"} else []
        assert kinds == [*asked, "answer", "call"], name
        told = [record for record in records if record.get("request_id") == id]
        assert {record["status"] for record in told[-2:]} == {status}, name
    assert [seen[name][0] for name in ("openai", "openai stream", "anthropic", "gemini")] == [200] * 4
    assert good(folder) == []


async def test_a_full_disk_refuses_and_asks_nobody(tiny: Path, primary: Simulator) -> None:
    async with gateway(policy_of(primary, tiny)) as (url, admin):
        assert (await ask(url, "openai"))[0] == 200
        asked = len(primary.calls)
        ballast = fill_up(tiny)
        while await ready(admin) == 200:  # until what is left of the last page is used up
            await ask(url, "openai")
        asked = len(primary.calls)
        for name in CALLS:
            status, _, body = await ask(url, name)
            assert status == 503, name
            assert b"record of this call" in body, name
        assert len(primary.calls) == asked, "nobody was asked"
        ballast.unlink()
        await until(url, "openai", 200)
        assert await ready(admin) == 200
    assert good(tiny) == []
    assert "resumed" in {record["kind"] for record in recorded(tiny)} or asked


@pytest.mark.parametrize("room", [4096, 8192, 20_480])
async def test_a_disk_that_fills_up_in_the_middle_of_a_line(
    tiny: Path, primary: Simulator, room: int
) -> None:
    """Eight callers until the end: who was answered is on record, and no line is torn."""
    answered: list[str] = []
    before = len(primary.calls)

    async def caller(url: str) -> None:
        for _ in range(40):
            status, id, _ = await ask(url, "openai")
            if status == 200:
                answered.append(id)

    async with gateway(policy_of(primary, tiny)) as (url, _):
        fill_up(tiny, leave=room)
        await asyncio.gather(*(caller(url) for _ in range(8)))
    records = recorded(tiny)  # each line is JSON
    kept = {record.get("request_id") for record in records if record["kind"] == "answer"}

    assert len(answered) < 320
    assert set(answered) <= kept
    assert len(primary.calls) - before <= sum(record["kind"] == "ask" for record in records)
    assert good(tiny) == []


async def test_a_slow_disk_refuses_when_patience_is_over(
    disk: Path, primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system is frozen: a sync does not return."""
    monkeypatch.setattr(audit_module, "PATIENCE_S", 0.5)
    async with gateway(policy_of(primary, disk)) as (url, _):
        assert (await ask(url, "openai"))[0] == 200
        asked = len(primary.calls)
        run("fsfreeze", "-f", disk)
        try:
            statuses = [(await ask(url, name))[0] for name in ("openai", "openai stream", "unknown")]
        finally:
            run("fsfreeze", "-u", disk)
        assert statuses == [503, 503, 503]
        assert len(primary.calls) == asked
        await until(url, "openai", 200)
    assert good(disk) == []


async def test_a_dead_disk_refuses(disk: Path, primary: Simulator) -> None:
    """The file system is shut down under us: every write and sync is an EIO."""
    import fcntl

    async with gateway(policy_of(primary, disk)) as (url, admin):
        assert (await ask(url, "openai"))[0] == 200
        asked = len(primary.calls)
        fd = os.open(disk, os.O_RDONLY)
        try:  # EXT4_IOC_SHUTDOWN, without flushing (linux/fs/ext4/ext4.h)
            fcntl.ioctl(fd, 0x8004587D, (2).to_bytes(4, "little"))
        except OSError as error:
            pytest.skip(f"ext4 can't be shut down here ({error})")
        finally:
            os.close(fd)
        statuses = [(await ask(url, name))[0] for name in CALLS]

        assert statuses == [503] * len(CALLS)
        assert len(primary.calls) == asked
        assert await ready(admin) == 503


async def make_read_only(disk: Path, gone: Path) -> None:
    """Remove a folder and let nobody write beside it. What is opened anew in between keeps the disk busy."""
    for _ in range(50):
        shutil.rmtree(gone, ignore_errors=True)
        run("mount", "--bind", disk, disk)
        try:
            run("mount", "-o", "remount,bind,ro", disk)
        except subprocess.CalledProcessError:
            run("umount", "-l", disk)
            await asyncio.sleep(0.02)
        else:
            if not gone.exists():
                return
            run("umount", "-l", disk)
    raise AssertionError("the disk is never left alone")


async def test_a_read_only_disk(disk: Path, primary: Simulator) -> None:
    """The folder was moved away and its place is read-only: refused, and at a start told with the remedy."""
    folder = disk / "log"
    async with gateway(policy_of(primary, folder)) as (url, _):
        assert (await ask(url, "openai"))[0] == 200
        kept = disk.parent / "kept"
        shutil.copytree(folder, kept)
        await make_read_only(disk, folder)
        try:
            assert [(await ask(url, name))[0] for name in ("openai", "unknown")] == [503, 503]
            with pytest.raises(EvidenceError, match=r"audit\.sink|LLMSHIELD_SECRET_KEY"):
                async with gateway(policy_of(primary, folder)):
                    pass
        finally:
            run("umount", "-l", disk)
        await until(url, "openai", 200)
    assert good(folder) == []


async def gone(folder: Path) -> None:
    """Remove a folder into which the last records may still be written."""
    for _ in range(100):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("the folder is never left alone")


async def test_a_folder_that_is_gone_is_made_again(tmp_path: Path, primary: Simulator) -> None:
    folder = tmp_path / "log"
    async with gateway(policy_of(primary, folder)) as (url, _):
        await ask(url, "openai")
        await gone(folder)
        status, id, _ = await ask(url, "openai")
        assert (
            status,
            {"ask", "answer"} <= {r["kind"] for r in recorded(folder) if r.get("request_id") == id},
        ) == (
            200,
            True,
        )
        await gone(folder)
        folder.write_text("somebody's file")
        assert (await ask(url, "openai"))[0] == 503
        folder.unlink()
        await until(url, "openai", 200)
    assert good(folder) == []


async def test_best_effort_answers_and_counts(tiny: Path, primary: Simulator) -> None:
    """The same full disk without `required`: calls go on, and the chain tells what was lost."""
    loaded = policy_of(primary, tiny, **{"required: true": "required: false"})
    async with gateway(loaded) as (url, admin):
        ballast = fill_up(tiny)
        for _ in range(20):
            assert (await ask(url, "openai"))[0] == 200
        for _ in range(200):  # best effort: written soon, not at once
            async with aiohttp.ClientSession() as http, http.get(f"{admin}/status") as reply:
                status = (await reply.json())["audit"]
            if status["failure"] == "No space left on device" or status["written"] > 20:
                break
            await asyncio.sleep(0.02)
        assert status["failure"] == "No space left on device" or status["written"] > 20
        ballast.unlink()
        for _ in range(100):
            if sum(record["kind"] == "call" for record in recorded(tiny)) == 20:
                break
            await asyncio.sleep(0.1)
    assert sum(record["kind"] == "call" for record in recorded(tiny)) == 20
    assert good(tiny) == []


async def test_the_middleware_asks_its_app_as_little(tiny: Path, serving_app: Any) -> None:
    """The same three records around a wrapped app, and the same refusal."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from llmshield.mounts.asgi import ShieldMiddleware

    asked = []

    async def chat(request: Any) -> JSONResponse:
        asked.append(await request.json())
        message = {"role": "assistant", "content": "Rivers flow."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    loaded = policy(f"audit: {{sink: 'file://{tiny}/audit.jsonl', required: true}}\n", base=tiny)
    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    app.add_middleware(ShieldMiddleware, policy=loaded)
    async with serving_app(app) as url:
        status, id, _ = await ask(url, "openai")
        kinds = [record["kind"] for record in recorded(tiny) if record.get("request_id") == id]
        assert (status, kinds[:2]) == (200, ["ask", "answer"])
        fill_up(tiny)
        for _ in range(100):
            if (await ask(url, "openai"))[0] == 503:
                break
        before = len(asked)
        assert [(await ask(url, name))[0] for name in ("openai", "openai stream", "no JSON")] == [503] * 3
        assert len(asked) == before
    assert good(tiny) == []
