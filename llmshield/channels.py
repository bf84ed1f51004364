"""Text across the borders of a stream: hold back, release, flush, stop.

One code path for whole replies and streams: a whole reply is a stream of one piece. Filters run in fixed
phases, whatever the plugins' order: guards see the text as the provider wrote it, then restorers put values
back. JSON arguments that arrive in pieces are taken apart into their decoded leaves (`json_pieces.py`), so
that filters never see an escape sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmshield.call import AttachedFilter, Channel, Stop, TextFilter
from llmshield.errors import ShieldError
from llmshield.json_pieces import JsonPieces
from llmshield.verdicts import Block

_SLICE = 16_384
"""Characters that a filter reads in one go."""

Watch = Callable[[AttachedFilter, "Stop | Exception"], None]
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
        self._open: dict[Channel, _Pipe | JsonPieces | None] = {}
        self._raw: dict[Channel, list[str]] = {}
        self._released: dict[Channel, list[str]] = {}
        self.active = bool(ordered)

    def feed(self, channel: Channel, text: str) -> str:
        """The next piece of a channel; JSON text for `tool_arguments` with an empty path, else plain text."""
        if not self.active:
            return text
        pipe = self._pipe(channel)
        if pipe is None:
            return text
        self._raw.setdefault(channel, []).append(text)
        out = _feed(pipe, text)
        self._released.setdefault(channel, []).append(out)
        return out

    def flush(self, channel: Channel) -> str:
        """The channel has ended: what was still held. A later `feed` would begin a new one."""
        pipe = self._open.pop(channel, None)
        if pipe is None:
            return ""
        out = pipe.flush()
        self._released.setdefault(channel, []).append(out)
        return out

    def flush_all(self) -> list[tuple[Channel, str]]:
        """End every channel that is open, in the order of their beginning; only those with text left."""
        rest = [(channel, self.flush(channel)) for channel in list(self._open)]
        return [(channel, text) for channel, text in rest if text]

    def repeat(self, channel: Channel, text: str) -> str:
        """The provider repeats the channel's whole text in a later event: what the client is to see there.

        The same text gets the same answer as its pieces did; a text that differs from its pieces is filtered
        afresh, as a whole reply would be.
        """
        if not self.active:
            return text
        if channel not in self._open and "".join(self._raw.get(channel, ())) == text:
            return "".join(self._released[channel]) if channel in self._released else text
        return self.whole(channel, text)

    def whole(self, channel: Channel, text: str) -> str:
        """A text that arrives in one piece and belongs to no stream: fed and flushed through fresh filters."""
        if not self.active:
            return text
        pipe = self._build(channel)
        if pipe is None or (type(pipe) is _Pipe and pipe.untouched(text)):
            return text
        return _feed(pipe, text) + pipe.flush()

    def _pipe(self, channel: Channel) -> _Pipe | JsonPieces | None:
        try:
            return self._open[channel]
        except KeyError:
            pipe = self._open[channel] = self._build(channel)
            return pipe

    def _build(self, channel: Channel) -> _Pipe | JsonPieces | None:
        plain = self._plain(channel)
        if channel.kind != "tool_arguments" or channel.path or plain is None:
            return plain
        return JsonPieces(lambda path: self._plain(_leaf(channel, path)))

    def _plain(self, channel: Channel) -> _Pipe | None:
        stages: list[_Stage] = []
        for attached in self._filters:
            try:
                made = attached.factory(channel)
            except Exception as error:
                self._watch(attached, error)
                if attached.fail_open or not attached.enforced:
                    continue
                raise Stopped(attached.plugin, _broken(attached), channel, "") from error
            if made is not None:
                stages.append(_Stage(attached, made))
        return _Pipe(channel, stages, self._watch) if stages else None


def _feed(pipe: _Pipe | JsonPieces, text: str) -> str:
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
            if isinstance(pipe, _Pipe):  # of JSON, the release is the decoded text of one leaf
                stopped.release = "".join(out) + stopped.release
            raise
    return "".join(out)


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

    __slots__ = ("_channel", "_stages", "_watch")

    def __init__(self, channel: Channel, stages: list[_Stage], watch: Watch) -> None:
        self._channel = channel
        self._stages = stages
        self._watch = watch

    def feed(self, text: str) -> str:
        return self._run(text, ending=False)

    def flush(self) -> str:
        return self._run("", ending=True)

    def untouched(self, text: str) -> bool:
        """Whether every filter can tell at a glance that this whole text comes out as it is, without a verdict."""
        try:
            return all(
                (glance := getattr(stage.filter, "untouched", None)) is not None and glance(text)
                for stage in self._stages
            )
        except Exception:  # noqa: BLE001  the filter will fail again when it is fed, and then it is told
            return False

    def _run(self, text: str, *, ending: bool) -> str:
        position = 0
        while position < len(self._stages):
            stage = self._stages[position]
            attached, knew = stage.attached, stage.changed
            try:
                out = stage.run(text, ending=ending)
            except Exception as error:
                self._watch(attached, error)
                del self._stages[position]
                if not attached.enforced:
                    continue
                if attached.fail_open:
                    text = text if stage.changed else stage.owed
                    continue
                raise Stopped(attached.plugin, _broken(attached), self._channel, "") from error
            if isinstance(out, Stop):
                self._watch(attached, out)
                if attached.enforced:
                    del self._stages[: position + 1]
                    release = self._run(out.release, ending=True)
                    raise Stopped(attached.plugin, out.block, self._channel, release)
                del self._stages[position]
                continue
            if attached.enforced:
                text = out
            elif stage.changed and not knew:
                self._watch(attached, _CHANGED)
            position += 1
        return text


class WouldChange(Exception):
    """A filter in monitor mode returned another text than it was given."""


_CHANGED = WouldChange()


def _broken(attached: AttachedFilter) -> Block:
    return Block(f"Policy plugin {attached.plugin!r} failed while reading the answer.", "policy_unavailable")


def _leaf(channel: Channel, path: tuple[str | int, ...]) -> Channel:
    return Channel(channel.kind, channel.choice, channel.index, path, channel.tool)
