"""Filters over events and whole replies: opened once for each call, for each attempt afresh."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from llmshield.call import Attempt, Channel, Reply, Stop
from llmshield.chain import Trail
from llmshield.channels import Channels, Stopped
from llmshield.dialects import Event, Piece
from llmshield.filtering import filter_event, filter_pieces, filters_of, open_channels, weight
from llmshield.racing import Floor
from llmshield.testing import call
from llmshield.verdicts import Block

CONTENT = Channel("content")


class Shout:
    """Holds the last sign back, and writes in capitals."""

    def __init__(self) -> None:
        self.held = ""

    def feed(self, text: str) -> str | Stop:
        if "stop" in text:
            return Stop(Block("no"))
        whole = self.held + text
        self.held = whole[-1:]
        return whole[:-1].upper()

    def flush(self) -> str:
        return self.held.upper()


class Codec:
    """Writes what comes late as it is."""

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        return f"[{text}]".encode()


def attempt() -> Attempt:
    return Attempt(call("x"), number=1, provider="p", model="m", dialect="openai_chat", body={})


def channels(*filters: Any) -> Channels:
    attached = [
        SimpleNamespace(plugin="p", factory=lambda channel: Shout(), phase="guard", hold_back=1, enforced=True, fail_open=False, untouched=None)
        for _ in filters
    ]  # fmt: skip
    return Channels(attached, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("filtered", [False, True])
def test_pieces_are_metered_as_the_provider_wrote_them(filtered: bool) -> None:
    holder: dict[str, Any] = {"text": "hello", "number": 12}
    tried = attempt()
    event = Event(
        "delta", pieces=[Piece(CONTENT, holder, "text"), Piece(Channel("other"), holder, "number", True)]
    )

    filter_event(event, Codec(), channels(*([1] if filtered else [])), tried)  # type: ignore[arg-type]
    assert holder["text"] == ("HELL" if filtered else "hello")
    assert tried.output_chars == (7 if filtered else 13)


def test_what_a_channel_holds_goes_out_before_the_event_that_ends_it() -> None:
    holder, final = {"text": "hello"}, {"text": "hello"}
    event = Event("delta", pieces=[Piece(CONTENT, holder, "text")])
    last = Event("done", pieces=[Piece(CONTENT, final, "text", repeats=True)], ends=(CONTENT,))
    open_ones = channels(1)

    assert b"" == filter_event(event, Codec(), open_ones, attempt())  # type: ignore[arg-type]
    assert b"[O]" == filter_event(last, Codec(), open_ones, attempt())  # type: ignore[arg-type]
    assert "HELLO" == final["text"]  # the repetition gets what its pieces got


def test_shadows_of_a_changed_text_are_cleared_and_others_kept() -> None:
    changed: dict[str, Any] = {"text": "hello", "logprobs": [1]}
    kept: dict[str, Any] = {"text": "HELLO", "logprobs": [1]}
    for holder in (changed, kept):
        filter_pieces(
            [Piece(CONTENT, holder, "text", True, shadows=((holder, "logprobs"),))], channels(1), attempt()
        )

    assert (None, [1]) == (changed["logprobs"], kept["logprobs"])


def test_weight_counts_what_is_to_be_read() -> None:
    holder = {"a": "four", "b": 5}

    assert 12 == weight([Piece(CONTENT, holder, "a"), Piece(CONTENT, holder, "b")])


def test_a_stop_comes_out() -> None:
    with pytest.raises(Stopped):
        filter_pieces([Piece(CONTENT, {"t": "please stop"}, "t", True)], channels(1), attempt())


class Step:
    """A post_response hook that takes its time and then hangs a filter."""

    plugin = "p"

    def __init__(self, log: list[str], verdict: Block | None = None) -> None:
        self.log, self.verdict = log, verdict

    async def __call__(self, asked: Any, reply: Any) -> Block | None:
        self.log.append("began")
        await asyncio.sleep(0.02)
        reply.filter(lambda channel: Shout())
        self.log.append("hung")
        return self.verdict


def exchange(monkeypatch: pytest.MonkeyPatch, step: Step, *, raced: bool) -> Any:
    monkeypatch.setattr("llmshield.filtering.run_now", lambda one, trail, asked, reply: one(asked, reply))
    asked = call("x")
    return SimpleNamespace(
        call=asked, chain=SimpleNamespace(post_response=(step,)), reply=None, trail=Trail(), attempts=[1], id="r",
        floor=Floor() if raced else None,
        heard=None,
    )  # fmt: skip


async def test_the_head_is_read_once_and_both_attempts_get_all_filters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    x = exchange(monkeypatch, Step(log), raced=True)

    both = await asyncio.gather(
        *(open_channels(x, attempt(), "m", streamed=True, status=200) for _ in range(2))
    )
    assert ["began", "hung"] == log
    assert [True, True] == [each.active for each in both]
    assert both[0] is not both[1]


async def test_a_head_that_is_refused_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other attempt must not go on with the filters that hung until then."""
    x = exchange(monkeypatch, Step([], Block("no")), raced=True)

    found = await asyncio.gather(
        *(open_channels(x, attempt(), "m", streamed=True, status=200) for _ in range(2)),
        return_exceptions=True,
    )
    assert ["CallError", "CancelledError"] == [type(each).__name__ for each in found]


async def test_a_later_attempt_gets_fresh_filters_of_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    x = exchange(monkeypatch, Step(log), raced=False)
    one = await open_channels(x, attempt(), "m", streamed=True, status=200)
    two = await open_channels(x, attempt(), "other", streamed=True, status=200)

    assert ["began", "hung"] == log
    assert "other" == x.reply.model
    assert "HELL" == one.feed(CONTENT, "hello") == two.feed(CONTENT, "hello")


def test_a_listener_stands_behind_all_guards_and_before_restorers() -> None:
    reply = Reply(provider="p", model="m", dialect="openai_chat", stream=True)
    heard: list[tuple[int, str, str]] = []

    def begin(tried: Attempt) -> Any:
        def ear(channel: Channel) -> Any:
            return (
                None
                if channel.kind == "refusal"
                else lambda text: heard.append((tried.number, str(channel), text))
            )

        return ear

    reply.listen(begin)
    reply.filter(lambda channel: Shout(), hold_back=1)
    reply.filter(lambda channel: Shout(), phase="restore", hold_back=1)
    opened = Channels(filters_of(reply, attempt()), lambda *_: None)

    assert "" == opened.feed(CONTENT, "h")
    out = opened.feed(CONTENT, "ello") + opened.flush(CONTENT)
    opened.feed(Channel("refusal"), "no")
    opened.feed(Channel("tool_arguments"), '{"a": "b')
    opened.feed(Channel("tool_arguments"), 'c"}')
    opened.flush_all()
    assert "HELLO" == out
    assert "HELLO" == "".join(text for _, where, text in heard if where == "content[0.0]")
    assert "BC" == "".join(text for _, where, text in heard if where == "tool_arguments[0.0]/a")
    assert "refusal[0.0]" not in {where for _, where, _ in heard}


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("broken", ["begin", "channel", "text"])
def test_a_listener_that_fails_means_what_on_error_says(broken: str, fail_open: bool) -> None:
    reply = Reply(provider="p", model="m", dialect="openai_chat", stream=True)
    reply._fail_open = fail_open

    def fails(*_: Any) -> Any:
        raise ValueError("no")

    stages = {"begin": fails, "channel": lambda tried: fails, "text": lambda tried: lambda channel: fails}
    reply.listen(stages[broken])
    opened = Channels(filters_of(reply, attempt()), lambda *_: None)
    if fail_open:
        assert "hello" == opened.feed(CONTENT, "hello") + opened.flush(CONTENT)
    else:
        with pytest.raises(Stopped):
            opened.feed(CONTENT, "hello")
