"""The short way through a stream: events of a form that is known are filtered and sent as they arrive.

Nearly all events of nearly all streams differ in one text only (`dialects._again`). What such an event needs takes a few
microseconds; to wake the task of the call for it, through all that stands between the engine and the connection, takes as
long again. So while that task waits for the provider, its lane is offered what arrives (`transport.Take`), and the
task is woken for what the lane leaves: another form, a lot at once, a guard's stop, a client that does not read.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import Final

from llmshield.call import Attempt, Channel
from llmshield.channels import Channels, Stopped
from llmshield.dialects import Event, StreamCodec
from llmshield.dialects._again import Again, learn
from llmshield.errors import FAILURES
from llmshield.exchange import Exchange
from llmshield.resuming import Shadow
from llmshield.steps import Took

LONG: Final = 1_500
"""Characters of a whole answer, or of one event, from which they are filtered in a thread, off the event loop: the
filters of the default policy take up to 15 us for a character of the worst texts."""
_LESSONS: Final = 4
"""Forms of an event that are learned in vain, one after the other, before a stream is taken for one without."""


class Lane:
    """The form of a stream's events, and what is done with those that have it.

    `form` is None while there is none. `cut_short` are the events, or the beginning of one, that were filtered when a
    guard said stop: they belong before the stop signal.
    """

    __slots__ = (
        "_attempt", "_channels", "_codec", "_context", "_lessons", "_shadow", "_trouble", "_x", "cut_short", "form",
    )  # fmt: skip

    def __init__(
        self, x: Exchange, attempt: Attempt, codec: StreamCodec, channels: Channels, shadow: Shadow | None
    ) -> None:
        self._x = x
        self._attempt = attempt
        self._codec = codec
        self._channels = channels
        self._shadow = shadow
        self._context = copy_context()  # a connection's callbacks run in another call's
        self._lessons = _LESSONS
        self._trouble: BaseException | None = None
        self.cut_short = b""
        self.form: Again | None = None

    def learn(self, data: bytes, event: Event) -> None:
        """See whether the events that follow may have the form of this one, the last in `data`."""
        if self._lessons and event.again:
            self._lessons -= 1
            self.form = learn(data, event, self._codec)

    def take(self, data: bytes) -> bool:
        """Filter and send what has arrived, now; False if it is left to the task (`go`)."""
        send = self._x.client.at_once if len(data) <= LONG else None
        if send is None:
            return False
        try:
            out = self._context.run(self._filter, data)
        except FAILURES as trouble:  # the task raises it: here nobody would handle it
            self._trouble = trouble
            return False
        if out is None:
            return False
        send(out)
        if self._shadow is not None:
            self._shadow.feed(out)
        return True

    async def go(self, data: bytes) -> bool:
        """Filter and send; False if these bytes have another form, which ends this one.

        Raises: Stopped, CallError, and whatever else a filter raised.
        """
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            try:
                raise trouble
            finally:
                del (
                    trouble
                )  # its frames are this one and that of `take`: kept here or there, it would lead to itself
        out = self._filter(data)
        if out is None:
            self.form = None
            return False
        await self._x.client.send(out)
        if self._shadow is not None:
            self._shadow.feed(out)
        return True

    def _filter(self, data: bytes) -> bytes | None:
        """The events for the client; None if these bytes are no whole events of the form, or hold a lot."""
        form, channels, attempt = self.form, self._channels, self._attempt
        texts = form.read(data) if form is not None else None
        if form is None or texts is None or (len(data) > LONG and sum(map(len, texts)) > LONG):
            return None
        self._lessons = _LESSONS
        channel = form.channel
        shown: list[str] = []
        try:
            # One by one: what is held back does not depend on what came together.
            for text in texts:
                attempt.meter(text)
                shown.append(channels.feed(channel, text))
            if attempt.watch is not None:
                ask_watch(self._x, attempt, self._codec)
        except FAILURES:
            self.cut_short = form.write(data, texts, shown)
            raise
        return form.write(data, texts, shown)


def ask_watch(x: Exchange, attempt: Attempt, codec: StreamCodec) -> None:
    """Let the plugin that watches this attempt look at what has come. Raises: Stopped."""
    assert attempt.watch is not None
    plugin, watch = attempt.watch
    attempt.usage = codec.usage
    block = watch(attempt)
    if block is not None:
        x.trail.took.append(Took(plugin, "attempt", "block", True, 0.0))
        raise Stopped(plugin, block, Channel("content"), "")
