"""JSON of an application's own, guarded where the policy's `apps:` say that texts are.

Made from the policy, so it is no member of the room by name: each `apps:` entry is one instance. The wrapped app
is the only provider of such calls. Texts are JSON pointers (RFC 6901); a step `*` is every item or member. Where
something else than a text stands, or stands in the way, all of it is texts: an app that puts a list into its prompt
reads every part of it. A streamed reply is server-sent events with JSON data, or one JSON object a line
(application/x-ndjson). An answer that is plain text is one text (`_plain_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from llmshield.call import Call, Channel, Operation, Path, Tree
from llmshield.dialects import Dialect, Event, Piece, StreamCodec, WholeReply, WireReply, WireRequest
from llmshield.dialects._pieces import argument_pieces
from llmshield.dialects._plain_text import PlainText, charset, is_plain_text
from llmshield.dialects._sse import COMMENT, SseParser, escape_lines, write_event
from llmshield.dialects._surrogates import Halves
from llmshield.dialects._tree import dump, load_event, walk_value
from llmshield.errors import CallError, ErrorKind, UpstreamError
from llmshield.verdicts import Answer

_STATUS: dict[ErrorKind, int] = {
    "blocked": 400, "bad_request": 400, "unauthenticated": 401, "forbidden": 403, "model_denied": 404,
    "not_found": 404, "method_not_allowed": 405, "unsupported": 501, "unsupported_media": 415, "too_large": 413,
    "conflict": 409, "rate_limited": 429, "budget_spent": 429, "policy_unavailable": 500, "store_unavailable": 503,
    "no_provider": 503, "upstream_error": 502, "upstream_timeout": 504, "client_timeout": 408, "shutting_down": 503,
}  # fmt: skip

_LINE_LIMIT = 10 * 2**20

_ENDS = frozenset((b"DONE", b"END", b"EOF", b"EOS", b"STOP", b"PING"))
"""What streams say beside their JSON. Any other word may be one of the answer."""

_BARE = Channel("content")
"""A reply, or what a stream's events add up to, that is a JSON string and nothing else: it stands in the way of every
pointer."""


class AppJson(Dialect):
    """One `apps:` entry. `matches` tells its paths, the pointers its texts."""

    name: ClassVar[str] = "app"
    family: ClassVar[str] = "app"

    def __init__(
        self,
        matches: Callable[[str], bool],
        *,
        request: Sequence[str] = (),
        reply: Sequence[str] = (),
        stream: Sequence[str] = (),
    ) -> None:
        self._matches = matches
        self._request = [_steps(pointer) for pointer in request]
        self._reply = [_steps(pointer) for pointer in reply]
        self._stream = [_steps(pointer) for pointer in stream]

    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        return "generate" if self._matches(path) and _brings_a_body(method, headers) else None

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = Call(
            id=id, dialect=self.name, family=self.family, operation=operation, model="", body=tree,
            headers=request.headers, method=request.method, path=request.path, query=request.query,
            stream=bool(self._stream),
        )  # fmt: skip
        places = {place[2]: place for steps in self._request for place in _places(tree, steps)}
        for holder, key, path in places.values():
            if not any(path[:length] in places for length in range(1, len(path))):
                walk_value(call, "user", holder, key, path)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        return dict(call.body)

    def target(self, call: Call, model: str) -> tuple[str, str]:
        return call.path, call.query

    def bound(self, body: Tree) -> int | None:
        return None

    def clamp(self, body: Tree, tokens: int) -> None:
        """An application's JSON has no bound that we know of."""

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        said = WholeReply(tree, list(_pieces(tree, self._reply, whole=True)), None, None, "")
        if self._reply and type(tree) is str:
            said.pieces.append(Piece(_BARE, _Root(said), "tree", whole=True))
        return said

    def plain_text(self, headers: Mapping[str, str]) -> PlainText | None:
        if not is_plain_text(headers):
            return None
        guarded = bool(self._reply or self._stream)
        return PlainText(charset(headers), guarded=guarded, has_length="content-length" in headers)

    def open_stream(self, call: Call) -> StreamCodec:
        return _AppStream(self._stream)

    def answer(self, call: Call, answer: Answer) -> Tree:
        tree: Tree = {}
        for steps in self._reply[:1]:
            _plant(tree, steps, answer.text)
        return tree

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        tree: Tree = {}
        for steps in self._stream[:1]:
            _plant(tree, steps, answer.text)
        return write_event(tree)

    def write_error(self, error: CallError, request_id: str) -> WireReply:
        headers = {"content-type": "application/json", **error.headers}
        if error.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(error.retry_after_s)))
        body = {"error": {"message": error.message, "code": error.code or error.kind, "param": error.param}}
        return WireReply(error.status or _STATUS[error.kind], headers, dump(body))

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return UpstreamError(
            "status", f"The app answered {status}.", status=status, headers=headers, body=body
        )

    def credentials(self, key: str) -> dict[str, str]:
        return {}


class _AppStream(StreamCodec):
    """Events or lines of an application's own; what is no JSON object passes as it is, unless it is broken."""

    def __init__(self, pointers: Sequence[Path]) -> None:
        self._pointers = pointers
        self._sse = SseParser()
        self._halves = Halves()
        self._lines: bytearray | None = None
        self._last: dict[Channel, Path] = {}
        self._name = ""

    def feed(self, data: bytes) -> list[Event]:
        if (
            self._lines is None
            and not self._last
            and not self._sse.pending
            and data.lstrip()[:1] in {b"{", b"[", b'"'}
        ):
            self._lines = bytearray()
        if self._lines is not None:
            return self._feed_lines(data)
        events = [self._event(name, body) for name, body in self._sse.feed(data)]
        if self._sse.error is not None:
            events.append(Event(error=UpstreamError("malformed", self._sse.error)))
        return events

    def _feed_lines(self, data: bytes) -> list[Event]:
        assert self._lines is not None
        self._lines += data
        *whole, rest = self._lines.split(b"\n")
        self._lines = rest
        if len(rest) > _LINE_LIMIT:
            return [Event(error=UpstreamError("malformed", "A line of the app's stream is too long."))]
        return [self._event("", bytes(line)) for line in whole if line.strip()]

    def _event(self, name: str, body: bytes) -> Event:
        if name == COMMENT or not body:
            return Event(name=COMMENT)
        try:
            tree, odd = load_event(body)
        except ValueError:
            if body.strip(b"[]").upper() in _ENDS:
                return Event(name=name, raw=body, ends=tuple(self._last))  # `[DONE]` and its like
            return Event(error=UpstreamError("malformed", "An event of the app's stream is not JSON."))
        event = Event(name=name, tree=tree)
        event.pieces += _pieces(tree, self._pointers, whole=False, paths=self._last)
        if self._pointers and type(tree) is str:
            self._last[_BARE] = ()
            event.pieces.append(Piece(_BARE, _Root(event), "tree"))
        if odd or self._halves:
            self._halves.mend(event.pieces)
        self._name, event.output = name, bool(event.pieces)
        return event

    def close(self) -> list[Event]:
        rest, self._lines = self._lines, None if self._lines is None else bytearray()
        self.finished = True
        return [self._event("", bytes(rest))] if rest and rest.strip() else []

    def write(self, event: Event) -> bytes:
        if event.name == COMMENT:
            return b":\n\n"
        if event.tree is None:
            return (
                (b"event: " + event.name.encode() + b"\n" if event.name else b"")
                + b"data: "
                + event.raw
                + b"\n\n"
            )
        if self._lines is not None:
            return escape_lines(dump(event.tree)) + b"\n"
        return write_event(event.tree, event.name)

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        tree: Tree = {}
        path = self._last[channel]
        if path:
            _plant(tree, path, text)
        return self.write(Event(name=self._name, tree=tree if path else text))

    def finalise(self) -> bytes:
        return b""

    def stop(self, error: CallError) -> bytes:
        return self.abort(error, "")

    def abort(self, error: CallError, request_id: str) -> bytes:
        tree = {"error": {"message": error.message, "code": error.code or error.kind}}
        return self.write(Event(name="error" if self._lines is None else "", tree=tree))


class _Root:
    """The `tree` of a reply or an event as a Piece's holder."""

    __slots__ = ("_of",)

    def __init__(self, of: WholeReply | Event) -> None:
        self._of = of

    def __getitem__(self, key: str) -> Any:
        return self._of.tree

    def __setitem__(self, key: str, text: str) -> None:
        self._of.tree = text


def _steps(pointer: str) -> Path:
    """The steps of a JSON pointer; numbers stay text until a list is met."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _brings_a_body(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request has something to guard. (In HTTP/2 a body needs no header that announces it.)"""
    if method == "POST":
        return True
    length = headers.get("content-length")
    if method == "PUT" or method == "PATCH":
        return length != "0"
    return length not in {None, "0"} or "transfer-encoding" in headers


def _places(node: Any, steps: Path, done: Path = ()) -> Iterator[tuple[Any, Any, Path]]:
    """Holder, key and path of all that a pointer with wildcards leads to, and of what stands in its way."""
    step, rest = steps[0], steps[1:]
    keys: list[Any]
    if isinstance(node, dict):
        keys = list(node) if step == "*" else [step] if step in node else []
    elif isinstance(node, list):
        index = int(step) if str(step).isdecimal() else -1
        if step != "*" and index < 0:  # a list where an object was expected
            keys, rest = list(range(len(node))), ()
        else:
            keys = list(range(len(node))) if step == "*" else [index] if 0 <= index < len(node) else []
    else:
        return
    for key in keys:
        if rest and isinstance(node[key], (dict, list)):
            yield from _places(node[key], rest, (*done, key))
        else:
            yield node, key, (*done, key)


def _pieces(
    tree: Any, pointers: Sequence[Path], *, whole: bool, paths: dict[Channel, Path] | None = None
) -> Iterator[Piece]:
    for number, steps in enumerate(pointers):
        count = 0
        for place in _places(tree, steps):
            if whole and isinstance(place[0][place[1]], (dict, list)):
                inside: list[Piece] = []
                argument_pieces(inside, place[0][place[1]], Channel("content", choice=count, index=number))
                yield from inside
                count += 1
                continue
            for holder, key, path in _leaves(*place):
                channel = Channel("content", choice=count, index=number)
                count += 1
                if paths is not None:
                    paths[channel] = path
                yield Piece(channel, holder, key, whole=whole)


def _leaves(holder: Any, key: Any, path: Path) -> Iterator[tuple[Any, Any, Path]]:
    """Every string in `holder[key]`."""
    value = holder[key]
    if isinstance(value, str):
        yield holder, key, path
    elif isinstance(value, (dict, list)):
        for step in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value, step, (*path, step))


def _plant(tree: Tree, steps: Path, text: str) -> None:
    """Put a text where a path leads, making objects on the way; list positions become lists of one item."""
    node: Any = tree
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        is_index = isinstance(step, int) or step == "*"
        value: Any = (
            text if following is None else [] if isinstance(following, int) or following == "*" else {}
        )
        if is_index:
            node.append(value)
            node = node[-1]
        else:
            node = node.setdefault(step, value)
