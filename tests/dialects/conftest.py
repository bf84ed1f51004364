"""What the dialects' tests share: streams relayed through filters as the engine does it, servers for their SDKs, and
mutations of trees."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmshield.call import AttachedFilter, Channel, Stop
from llmshield.channels import Channels, Stopped
from llmshield.dialects import StreamCodec, WholeReply
from llmshield.dialects._gemini_texts import snake
from llmshield.errors import UpstreamError


class Relayed:
    """What a client got: `raw` bytes, parsed `events` as (name, tree), `text` of each channel as it was sent on."""

    def __init__(self) -> None:
        self.raw = b""
        self.channels: list[Channel] = []
        self.error: UpstreamError | None = None
        self.stopped: Stopped | None = None

    @property
    def events(self) -> list[tuple[str, Any]]:
        found = []
        for block in self.raw.decode().split("\n\n")[:-1]:
            name, data = "", None
            for line in block.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:] if line == "data: [DONE]" else json.loads(line[6:])
            found.append((name, data))
        return found

    @property
    def trees(self) -> list[Any]:
        return [tree for _, tree in self.events if isinstance(tree, dict)]


class Replaces:
    """Puts `new` for `old`; holds back what may become `old`."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new, self.kept = old, new, ""

    def feed(self, text: str) -> str | Stop:
        self.kept += text
        out = ""
        while (place := self.kept.find(self.old)) >= 0:
            out += self.kept[:place] + self.new
            self.kept = self.kept[place + len(self.old) :]
        hold = next(n for n in range(len(self.old), -1, -1) if self.kept.endswith(self.old[:n]))
        out += self.kept[: len(self.kept) - hold]
        self.kept = self.kept[len(self.kept) - hold :]
        return out

    def flush(self) -> str | Stop:
        kept, self.kept = self.kept, ""
        return kept


@pytest.fixture(scope="session")
def replacing() -> Callable[[str, str], list[AttachedFilter]]:
    """`replacing(old, new)`: filters for every channel."""
    return lambda old, new: [
        AttachedFilter("p", lambda channel: Replaces(old, new), "guard", 64, True, False)
    ]


@pytest.fixture(scope="session")
def relay() -> Callable[..., Relayed]:
    """`relay(codec, raw, filters, cuts)`: the engine's way with a stream, without the engine."""

    def run(
        codec: StreamCodec, raw: bytes, filters: Sequence[AttachedFilter] = (), cuts: Sequence[int] = ()
    ) -> Relayed:
        channels = Channels(filters, lambda attached, what: None)
        got = Relayed()
        edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
        try:
            for chunk in [*(raw[a:b] for a, b in itertools.pairwise(edges)), None]:
                for event in codec.feed(chunk) if chunk is not None else codec.close():
                    if event.error is not None:
                        got.error = event.error
                        return got
                    for piece in (p for p in event.pieces if not p.repeats):
                        got.channels.append(piece.channel)
                        _filter(piece, channels.whole if piece.whole else channels.feed)
                    before = b""
                    for channel in event.ends:
                        rest = channels.flush(channel)
                        before += codec.late(event, channel, rest) if rest else b""
                    for piece in (p for p in event.pieces if p.repeats):
                        _filter(piece, channels.repeat)
                    got.raw += before
                    got.raw += b"" if event.hidden else codec.write(event)
        except Stopped as stopped:
            got.stopped = stopped
            return got
        for channel, rest in channels.flush_all():
            got.raw += codec.late(None, channel, rest)
        got.raw += codec.finalise()
        return got

    return run


class Hold:
    """Holds everything back to the end, and may change it."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self.change, self.held = change, ""

    def feed(self, text: str) -> str:
        self.held += text
        return ""

    def flush(self) -> str:
        return self.change(self.held)


@pytest.fixture(scope="session")
def hold() -> type[Hold]:
    """`hold(change)`: a filter that shows all of its channel at the end, changed."""
    return Hold


Drive = Callable[..., bytes]


@pytest.fixture(scope="session")
def drive(relay: Callable[..., Relayed]) -> Drive:
    """`drive(codec, chunks, factory)`: the bytes that a client gets of a stream whose channels have the filters that
    `factory(channel)` makes; raises what ends the stream early."""

    def run(
        codec: StreamCodec, chunks: Sequence[bytes], factory: Callable[[Channel], Any] | None = None
    ) -> bytes:
        filters = [] if factory is None else [AttachedFilter("p", factory, "guard", 99, True, False)]
        got = relay(codec, b"".join(chunks), filters, list(itertools.accumulate(map(len, chunks))))
        if stop := got.error or got.stopped:
            raise stop
        return got.raw

    return run


@pytest.fixture
def filtered() -> Callable[[WholeReply, Sequence[AttachedFilter]], Any]:
    """`filtered(reply, filters)`: the tree of a whole reply behind the filters."""

    def run(reply: WholeReply, filters: Sequence[AttachedFilter]) -> Any:
        assert reply.error is None
        channels = Channels(filters, lambda attached, what: None)
        for piece in reply.pieces:
            assert piece.whole
            assert not piece.repeats or piece.channel.kind == "echo"
            _filter(piece, channels.whole)
        return reply.tree

    return run


@pytest.fixture
def scripted(serving_app: Any) -> Callable[..., AbstractAsyncContextManager[tuple[str, list[str]]]]:
    """`async with scripted(script) as (url, paths)`: a server that answers each request with the status, headers and
    body that `script(path, query, tree)` gives, for an SDK; and the paths that were called."""

    @contextlib.asynccontextmanager
    async def serving(
        script: Callable[[str, str, Any], tuple[int, dict[str, str], bytes]],
    ) -> AsyncIterator[tuple[str, list[str]]]:
        paths: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body, more = b"", True
            while more:
                part = await receive()
                body, more = body + part.get("body", b""), part.get("more_body", False)
            paths.append(scope["path"])
            tree = orjson.loads(body) if body else {}
            status, headers, data = script(scope["path"], scope["query_string"].decode(), tree)
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": data})

        async with serving_app(app, lifespan="off") as url:
            yield url, paths

    return serving


@pytest.fixture(scope="session")
def mutated() -> Callable[..., Any]:
    """`mutated(tree, rng, junk, names)`: the tree with one to three places replaced by junk, renamed to one of
    `names(key)`, doubled or taken out."""

    def mutate(tree: Any, rng: random.Random, junk: list[Any], names: Callable[[str], list[str]]) -> Any:
        tree = copy.deepcopy(tree)
        for _ in range(rng.randint(1, 3)):
            places: list[tuple[Any, Any]] = []
            level = [tree]
            while level:
                node = level.pop()
                for key in node if isinstance(node, dict) else range(len(node)):
                    places.append((node, key))
                    if isinstance(node[key], dict | list):
                        level.append(node[key])
            if not places:
                break
            node, key = rng.choice(places)
            what = rng.randrange(6)
            if what == 0:
                del node[key]
            elif what == 1 and isinstance(node, dict):
                node[rng.choice(names(key))] = node[key]
            elif what == 2:
                node[key] = [node[key], copy.deepcopy(node[key])]
            else:
                node[key] = copy.deepcopy(rng.choice(junk))
        return tree

    return mutate


WIRE = Path(__file__).parent / "wire"
FREE = ("args", "response", "labels", "parametersJsonSchema", "responseSchema")


def _snaked(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {snake(k): v if k in FREE else _snaked(v) for k, v in tree.items()}
    return [_snaked(value) for value in tree] if isinstance(tree, list) else tree


@pytest.fixture(scope="session")
def gemini_calls() -> Callable[[], dict[str, Any]]:
    """`gemini_calls()`: the body of a call with a little of everything, in both spellings that Google takes."""

    def read() -> dict[str, Any]:
        body = json.loads((WIRE / "gemini_call.json").read_bytes())
        return {"camelCase": body, "snake_case": _snaked(body)}

    return read


def _filter(piece: Any, through: Callable[[Channel, str], str]) -> None:
    value = piece.holder[piece.key]
    text = value if type(value) is str else json.dumps(value)
    out = through(piece.channel, text)
    if out != text:
        piece.holder[piece.key] = out
        for holder, key in piece.shadows:
            holder[key] = None
