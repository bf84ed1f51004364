"""Text across the borders of a stream: hold back, release, flush, stop.

One code path for whole replies and streams: a whole reply is a stream of one piece. Filters run in fixed
phases, whatever the plugins' order: guards see the text as the provider wrote it, then restorers put values
back. JSON arguments that arrive in pieces are taken apart into their decoded leaves (`json_pieces.py`), so
that filters never see an escape sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmshield.call import AttachedFilter, Channel, Stop, TextFilter
from llmshield.errors import FAILURES, ShieldError
from llmshield.json_pieces import JsonPieces
from llmshield.verdicts import Block

_SLICE = 16_384
"""Characters that a filter reads in one go."""

Watch = Callable[[AttachedFilter, "Stop | BaseException"], None]
"""Told about every Stop and every exception of a filter, enforced or not; for metrics and records."""


class Stopped(ShieldError):
    """A filter ended the reply; `release` may still go out on `channel` before the dialect's stop signal."""

    def __init__(self, plugin: str, block: Block, channel: Channel, release: str) -> None:
        super().__init__(f"{plugin}: {block.message}")
        self.plugin = plugin
        self.block = block
        self.channel = channel
        self.release = release


class Channels:
    """All channels of one reply of one attempt, with the filters that plugins hung on it.

    A new one per attempt. `feed` and `flush` return what may go on to the client now.
    Raises: Stopped when an enforced filter ends the reply, or fails and is not `on_error: open`.
    """

    def __init__(self, filters: Sequence[AttachedFilter], watch: Watch) -> None:
        ordered = [f for f in filters if f.phase == "guard"] + [f for f in filters if f.phase == "restore"]
        self._filters = tuple(ordered)
        self._watch = watch
        self._lines: dict[Channel, _Line] = {}
        self._last = _NO_LINE
        self.active = bool(ordered)

    def feed(self, channel: Channel, text: str) -> str:
        """The next piece of a channel; JSON text for `tool_arguments` with an empty path, else plain text."""
        if not self.active:
            return text
        line = self._last  # nearly always the same channel as before: no look-up
        if line.channel is not channel or not line.open:
            line = self._last = self._line(channel)
        pipe = line.pipe
        if pipe is None:
            return text
        line.raw.append(text)
        out = pipe.feed(text) if len(text) <= _SLICE else _feed(pipe, text)
        line.released.append(out)
        return out

    def flush(self, channel: Channel) -> str:
        """The channel has ended: what was still held. A later `feed` would begin a new one."""
        line = self._lines.get(channel)
        if line is None or not line.open:
            return ""
        line.open = False
        if line.pipe is None:
            return ""
        out = line.pipe.flush()
        line.released.append(out)
        return out

    def flush_all(self) -> list[tuple[Channel, str]]:
        """End every channel that is open, in the order of their beginning; only those with text left."""
        rest = [(channel, self.flush(channel)) for channel, line in list(self._lines.items()) if line.open]
        return [(channel, text) for channel, text in rest if text]

    def words(self) -> Channel | None:
        """The channel of the first answer's words that began last, ended or not; None before there are any."""
        for channel in reversed(self._lines):
            if channel.kind == "content" and channel.choice == 0:
                return channel
        return None

    def said(self, channel: Channel) -> str | None:
        """What the provider has written on a channel so far; None where no filter reads it."""
        line = self._lines.get(channel)
        return "".join(line.raw) if line is not None and line.pipe is not None else None

    def forget(self, channel: Channel) -> None:
        """Drop a channel with all that is held of it: its text begins again."""
        self._lines.pop(channel, None)
        self._last = _NO_LINE

    def repeat(self, channel: Channel, text: str) -> str:
        """The provider repeats the channel's whole text in a later event: what the client is to see there.

        The same text gets the same answer as its pieces did; a text that differs from its pieces is filtered
        afresh, as a whole reply would be.
        """
        if not self.active:
            return text
        line = self._lines.get(channel)
        if line is not None and not line.open and "".join(line.raw) == text:
            return "".join(line.released) if line.released else text
        return self.whole(channel, text)

    def whole(self, channel: Channel, text: str) -> str:
        """A text that arrives in one piece and belongs to no stream: fed and flushed through fresh filters."""
        if not self.active:
            return text
        if (channel.kind != "tool_arguments" or channel.path) and self._untouched(text):
            return text
        pipe = self._build(channel)
        if pipe is None:
            return text
        return _feed(pipe, text) + pipe.flush()

    def _untouched(self, text: str) -> bool:
        """Whether every filter can tell at a glance that this whole text comes out as it is, without a verdict."""
        try:
            for attached in self._filters:
                if attached.untouched is None or not attached.untouched(text):
                    return False
        except Exception:  # noqa: BLE001  the filter will fail again when it is fed, and then it is told
            return False
        return True

    def _line(self, channel: Channel) -> _Line:
        """The channel's line, open; one that was flushed begins anew, behind the others."""
        line = self._lines.get(channel)
        if line is None or not line.open:
            pipe = self._build(channel)
            fresh = _Line(channel, pipe)
            if line is not None:
                del self._lines[channel]
                fresh.raw, fresh.released = line.raw, line.released
            line = self._lines[channel] = fresh
        return line

    def _build(self, channel: Channel) -> _Pipe | _Json | None:
        plain = self._plain(channel)
        if channel.kind != "tool_arguments" or channel.path or plain is None:
            return plain
        return _Json(channel, JsonPieces(lambda path: self._plain(_leaf(channel, path))))

    def _plain(self, channel: Channel) -> _Pipe | None:
        stages: list[_Stage] = []
        echo = channel.kind == "echo"
        for attached in self._filters:
            if echo and attached.phase == "guard":
                continue
            try:
                made = attached.factory(channel)
            except FAILURES as error:
                self._watch(attached, error)
                if attached.fail_open or not attached.enforced:
                    continue
                raise Stopped(attached.plugin, _broken(attached), channel, "") from error
            if made is not None:
                stages.append(_Stage(attached, made))
        return _Pipe(channel, stages, self._watch) if stages else None


class _Line:
    """One channel: its filters, what went in, and what came out."""

    __slots__ = ("channel", "open", "pipe", "raw", "released")

    def __init__(self, channel: Channel | None, pipe: _Pipe | _Json | None) -> None:
        self.channel = channel
        self.pipe = pipe
        self.open = channel is not None
        self.raw: list[str] = []
        self.released: list[str] = []


_NO_LINE = _Line(None, None)


def _feed(pipe: _Pipe | _Json, text: str) -> str:
    """A piece of any length; a long one in slices, since a cut makes no difference and a call into C holds the GIL.

    Raises: Stopped, with what passed before it in its `release`.
    """
    if len(text) <= _SLICE:
        return pipe.feed(text)
    out: list[str] = []
    for start in range(0, len(text), _SLICE):
        try:
            out.append(pipe.feed(text[start : start + _SLICE]))
        except Stopped as stopped:
            stopped.release = "".join(out) + stopped.release
            raise
    return "".join(out)


class _Json:
    """JSON text, its leaves behind filters of their own. What a leaf lets go when it stops is a part of that text, behind
    what the piece at hand had become before it."""

    __slots__ = ("_channel", "_pieces")

    def __init__(self, channel: Channel, pieces: JsonPieces) -> None:
        self._channel = channel
        self._pieces = pieces

    def feed(self, text: str) -> str:
        try:
            return self._pieces.feed(text)
        except Stopped as stopped:
            stopped.channel, stopped.release = self._channel, self._pieces.so_far(stopped.release)
            raise

    def flush(self) -> str:
        try:
            return self._pieces.flush()
        except Stopped as stopped:
            stopped.channel, stopped.release = self._channel, self._pieces.so_far(stopped.release)
            raise


class _Stage:
    """One filter at work. `owed` is the text that went in and has not come out, as long as none was changed: what
    a filter that may fail open leaves behind, and how a monitored one is known to change nothing."""

    __slots__ = ("attached", "changed", "filter", "owed", "tracked")

    def __init__(self, attached: AttachedFilter, made: TextFilter) -> None:
        self.attached = attached
        self.filter = made
        self.tracked = attached.fail_open or not attached.enforced
        self.owed = ""
        self.changed = False

    def run(self, text: str, *, ending: bool) -> str | Stop:
        """Feed a piece, and flush behind it at the end."""
        if self.tracked:
            self.owed += text
        out = self.filter.feed(text) if text else ""
        if ending and not isinstance(out, Stop):
            rest = self.filter.flush()
            out = Stop(rest.block, out + rest.release) if isinstance(rest, Stop) else out + rest
        if self.tracked and not self.changed and not isinstance(out, Stop):
            if self.owed.startswith(out):
                self.owed = self.owed[len(out) :]
                self.changed = ending and bool(self.owed)
            else:
                self.owed, self.changed = "", True
        return out


class _Pipe:
    """The filters of one channel, one behind the other."""

    __slots__ = ("_channel", "_stages", "_tracked", "_watch")

    def __init__(self, channel: Channel, stages: list[_Stage], watch: Watch) -> None:
        self._channel = channel
        self._stages = stages
        self._watch = watch
        self._tracked = any(stage.tracked for stage in stages)

    def feed(self, text: str) -> str:
        if self._tracked:
            return self._run(text, ending=False)
        for position, stage in enumerate(self._stages):
            if not text:
                return text
            try:
                out = stage.filter.feed(text)
            except FAILURES as error:
                raise self._broke(position, error) from error
            if isinstance(out, Stop):
                raise self._stopped(position, out)
            if type(out) is not str:
                raise self._broke(position, TypeError())
            text = out
        return text

    def flush(self) -> str:
        return self._run("", ending=True)

    def _run(self, text: str, *, ending: bool) -> str:
        position = 0
        while position < len(self._stages):
            stage = self._stages[position]
            attached, knew = stage.attached, stage.changed
            try:
                out = stage.run(text, ending=ending)
                if type(out) is not str and not isinstance(out, Stop):
                    raise TypeError
            except FAILURES as error:
                if attached.enforced and not attached.fail_open:
                    raise self._broke(position, error) from error
                self._watch(attached, error)
                del self._stages[position]
                if attached.enforced:
                    text = text if stage.changed else stage.owed
                continue
            if isinstance(out, Stop):
                if attached.enforced:
                    raise self._stopped(position, out)
                self._watch(attached, out)
                del self._stages[position]
                continue
            if attached.enforced:
                text = out
            elif stage.changed and not knew:
                self._watch(attached, _CHANGED)
            position += 1
        return text

    def _broke(self, position: int, error: BaseException) -> Stopped:
        """An enforced filter that is not `on_error: open` has failed: it reads no more, and nothing goes on."""
        attached = self._stages[position].attached
        self._watch(attached, error)
        del self._stages[position]
        return Stopped(attached.plugin, _broken(attached), self._channel, "")

    def _stopped(self, position: int, out: Stop) -> Stopped:
        """An enforced filter ends the reply; what it lets go runs through the filters behind it."""
        attached = self._stages[position].attached
        self._watch(attached, out)
        del self._stages[: position + 1]
        release = self._run(out.release, ending=True)
        return Stopped(attached.plugin, out.block, self._channel, release)


class WouldChange(Exception):
    """A filter in monitor mode returned another text than it was given."""


_CHANGED = WouldChange()


def _broken(attached: AttachedFilter) -> Block:
    return Block(f"Policy plugin {attached.plugin!r} failed while reading the answer.", "policy_unavailable")


def _leaf(channel: Channel, path: tuple[str | int, ...]) -> Channel:
    return Channel(channel.kind, channel.choice, channel.index, path, channel.tool)
