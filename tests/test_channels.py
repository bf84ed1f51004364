"""Channels: filters over cuts, phases, verdicts, failures, and the same for a whole reply and a stream."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import AttachedFilter, Channel, Stop
from llmshield.channels import Channels, Stopped, WouldChange
from llmshield.verdicts import Block

CONTENT = Channel("content")
ARGUMENTS = Channel("tool_arguments", tool="f")
MANY = settings(max_examples=300, deadline=None)
BLOCK = Block("No.", "blocked")


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


class Stops(Replaces):
    """Ends the reply at a word; what came before it may go."""

    def feed(self, text: str) -> str | Stop:
        self.kept += text
        place = self.kept.find(self.old)
        if place >= 0:
            return Stop(BLOCK, self.kept[:place])
        hold = next(n for n in range(len(self.old), -1, -1) if self.kept.endswith(self.old[:n]))
        out = self.kept[: len(self.kept) - hold]
        self.kept = self.kept[len(self.kept) - hold :]
        return out


class Holds(Replaces):
    """Holds everything to the end."""

    def feed(self, text: str) -> str | Stop:
        self.kept += text
        return ""


class Breaks(Replaces):
    """Fails at a word, or at the end."""

    def feed(self, text: str) -> str | Stop:
        if self.old and self.old in text:
            raise RuntimeError("broken")
        return text

    def flush(self) -> str | Stop:
        if not self.old:
            raise RuntimeError("broken at the end")
        return ""


class StopsAtEnd(Holds):
    """Judges at the flush only."""

    def flush(self) -> str | Stop:
        return Stop(BLOCK, "released")


def attach(
    kind,
    old="",
    new="",
    *,
    plugin="p",
    phase="guard",
    enforced=True,
    fail_open=False,
    only=None,
    untouched=None,
):
    def factory(channel):
        return None if only is not None and channel.kind != only else kind(old, new)

    return AttachedFilter(plugin, factory, phase, 64, enforced, fail_open, untouched)


class Watched:
    """What the channels told about."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, attached, what) -> None:
        self.told.append((attached.plugin, type(what).__name__))


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def stream(channels: Channels, channel: Channel, parts: list[str]) -> str:
    return "".join([channels.feed(channel, part) for part in parts]) + channels.flush(channel)


def test_without_filters_nothing_happens():
    channels = Channels([], Watched())

    assert not channels.active
    assert channels.feed(CONTENT, "a") == "a"
    assert channels.whole(CONTENT, "a") == "a"
    assert channels.repeat(CONTENT, "a") == "a"
    assert channels.flush(CONTENT) == ""
    assert channels.flush_all() == []


@MANY
@given(
    text=st.text(alphabet="abcs eret", max_size=60) | st.just("a secret secsecret"),
    cuts=st.lists(st.integers(0, 99), max_size=9),
)
def test_a_whole_reply_and_any_stream_say_the_same(text, cuts):
    filters = [
        attach(Replaces, "secret", "<S>", plugin="b"),
        attach(Replaces, "a", "ee", plugin="a"),
        attach(Replaces, "<S>", "SECRET", plugin="r", phase="restore"),
    ]
    streamed = stream(Channels(filters, Watched()), CONTENT, pieces(text, cuts))

    assert streamed == Channels(filters, Watched()).whole(CONTENT, text)
    assert streamed == text.replace("secret", "<S>").replace("a", "ee").replace("<S>", "SECRET")


@MANY
@given(
    tree=st.dictionaries(
        st.sampled_from(["a", "my secret", "b"]),
        st.sampled_from(["x", "the secret", 7, 1234, None, ["secret", {"c": "é secret \n"}]]),
        max_size=4,
    ),
    ascii=st.booleans(),
    cuts=st.lists(st.integers(0, 999), max_size=9),
)
def test_json_arguments_are_filtered_leaf_by_leaf(tree, ascii, cuts):
    text = json.dumps(tree, ensure_ascii=ascii)
    filters = [attach(Replaces, "secret", 'qu"ote', only="tool_arguments"), attach(Replaces, "1234", "N")]
    streamed = stream(Channels(filters, Watched()), ARGUMENTS, pieces(text, cuts))
    whole = Channels(filters, Watched()).whole(ARGUMENTS, text)

    assert streamed == whole
    assert json.loads(streamed) == json.loads(
        json.dumps(tree).replace("secret", 'qu\\"ote').replace("1234", '"N"')
    )


def test_leaves_of_arguments_carry_their_path_and_the_tools_name():
    seen = []

    def factory(channel):
        seen.append(channel)
        return Replaces("\0", "")

    channels = Channels([AttachedFilter("p", factory, "guard", 0, True, False)], Watched())
    stream(channels, Channel("tool_arguments", 1, 2, (), "send"), ['{"to":["x"', ',"y"]}'])

    assert [(c.kind, c.choice, c.index, c.tool) for c in seen] == [("tool_arguments", 1, 2, "send")] * len(
        seen
    )
    assert [c.path for c in seen if c.path] == [("~",), ("to", 0), ("to", 1)]


def test_arguments_with_a_path_of_their_own_are_plain_text():
    channels = Channels([attach(Replaces, '"', "'")], Watched())

    assert channels.whole(Channel("tool_arguments", 0, 0, (-1,)), '{"a"}') == "{'a'}"


def test_guards_run_before_restorers_whatever_their_order():
    filters = [
        attach(Replaces, "<1>", "alice", plugin="pii", phase="restore"),
        attach(Stops, "alice", plugin="guard"),
    ]

    assert stream(Channels(filters, Watched()), CONTENT, ["hi <", "1>!"]) == "hi alice!"


def test_channels_do_not_mix():
    channels = Channels([attach(Replaces, "ab", "X")], Watched())
    other = Channel("content", 1)

    out = channels.feed(CONTENT, "a") + channels.feed(other, "b") + channels.feed(CONTENT, "b")

    assert out == "bX"
    assert channels.feed(other, "za") == "z"
    assert channels.flush_all() == [(other, "a")]
    assert channels.flush_all() == []


def test_a_channel_that_was_flushed_begins_anew():
    channels = Channels([attach(Replaces, "ab", "X")], Watched())
    channels.feed(CONTENT, "a")

    assert channels.flush(CONTENT) == "a"
    assert channels.feed(CONTENT, "b") == "b"


@MANY
@given(
    text=st.sampled_from(["stop", "let it stop here", "no", "a stop b stop"]),
    cuts=st.lists(st.integers(0, 20)),
)
def test_a_stop_releases_what_came_before_it_and_nothing_after(text, cuts):
    """Through the filters behind it as well, in any cuts."""
    watched = Watched()
    filters = [attach(Stops, "stop", plugin="g"), attach(Replaces, "let", "LET", plugin="r", phase="restore")]
    channels = Channels(filters, watched)
    out = ""
    stopped = None
    try:
        for part in pieces(text, cuts):
            out += channels.feed(CONTENT, part)
        out += channels.flush(CONTENT)
    except Stopped as caught:
        stopped = caught
        out += caught.release

    assert (stopped is not None) == ("stop" in text)
    if stopped is not None:
        assert (stopped.plugin, stopped.block, stopped.channel) == ("g", BLOCK, CONTENT)
        assert watched.told == [("g", "Stop")]
    assert out == text.split("stop")[0].replace("let", "LET")


@MANY
@given(
    said=st.sampled_from(
        [
            '{"a": ["first \\u00e9", 1], "b": "x \\"y\\" stop z", "c": "more"}',
            '{"stop": 1}',
            '["a\\/b", "stop"]',
            'no json, but "stop" here',
            '{"a": "b"} and stop',
        ]
    ),
    cuts=st.lists(st.integers(0, 60)),
)
def test_a_stop_within_json_releases_json(said, cuts):
    """What a leaf lets go is spelled as the text was, and what came before it in the same piece is not lost."""
    arguments = Channel("tool_arguments", 0, 1)
    channels = Channels([attach(Stops, "stop")], Watched())
    out: list[str] = []

    def feed() -> None:
        for part in pieces(said, cuts):
            out.append(channels.feed(arguments, part))
        out.append(channels.flush(arguments))

    with pytest.raises(Stopped) as caught:
        feed()

    assert caught.value.channel == arguments
    assert "".join(out) + caught.value.release == said[: said.index("stop")]


def test_what_later_filters_held_is_released_with_a_stop():
    filters = [attach(Stops, "X", plugin="g"), attach(Holds, plugin="h", phase="restore")]
    channels = Channels(filters, Watched())
    channels.feed(CONTENT, "held ")

    with pytest.raises(Stopped) as caught:
        channels.feed(CONTENT, "more X never")

    assert caught.value.release == "held more "


def test_a_long_piece_is_fed_in_slices_and_a_stop_in_a_later_one_loses_nothing():
    before = "word " * 20_000
    channels = Channels([attach(Stops, "X", plugin="g")], Watched())

    with pytest.raises(Stopped) as caught:
        channels.feed(CONTENT, f"{before}X never")

    assert caught.value.release == before

    longest: list[int] = []

    class Measures(Replaces):
        def feed(self, text: str) -> str | Stop:
            longest.append(len(text))
            return super().feed(text)

    long = "ab" * 50_000
    assert Channels([attach(Measures, "a", "c")], Watched()).whole(CONTENT, long) == "cb" * 50_000
    assert max(longest) <= 16_384


def test_a_verdict_at_the_end_of_the_text():
    with pytest.raises(Stopped) as caught:
        stream(Channels([attach(StopsAtEnd)], Watched()), CONTENT, ["abc"])

    assert caught.value.release == "released"


@pytest.mark.parametrize(("kind", "told"), [(Stops, "Stop"), (StopsAtEnd, "Stop"), (Breaks, "RuntimeError")])
def test_a_monitor_changes_nothing_and_is_told_about(kind, told):
    watched = Watched()
    channels = Channels([attach(kind, "a", enforced=False), attach(Replaces, "b", "B", plugin="q")], watched)

    assert stream(channels, CONTENT, ["a", " a b", " c"]) == "a a B c"
    assert ("p", told) in watched.told


def test_a_monitor_that_only_holds_back_would_change_nothing():
    watched = Watched()
    stream(Channels([attach(Replaces, "secret", "-", enforced=False)], watched), CONTENT, ["a sec", "ond"])

    assert watched.told == []


def test_a_filter_that_may_fail_open_loses_no_text():
    class HoldsThenBreaks(Breaks):
        def feed(self, text):
            if "boom" in text:
                raise RuntimeError("broken")
            self.kept += text
            return ""

    channels = Channels([attach(HoldsThenBreaks, fail_open=True)], Watched())

    assert stream(channels, CONTENT, ["before ", "boom", " after"]) == "before boom after"


def test_a_monitor_that_would_change_text_is_told_about():
    watched = Watched()

    assert (
        stream(Channels([attach(Replaces, "a", "b", enforced=False)], watched), CONTENT, ["xa", "y"]) == "xay"
    )
    assert ("p", WouldChange.__name__) in watched.told


@pytest.mark.parametrize("said", [None, b"x", 5])
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_filter_that_returns_no_text_has_failed(said, fail_open):
    class Wrong:
        def feed(self, text):
            return said

        def flush(self):
            return ""

    channels = Channels([attach(Wrong, fail_open=fail_open)], Watched())
    if fail_open:
        assert stream(channels, CONTENT, ["a", "b"]) == "ab"
        return
    with pytest.raises(Stopped) as caught:
        stream(channels, CONTENT, ["a"])

    assert caught.value.block.kind == "policy_unavailable"


@pytest.mark.parametrize("old", ["boom", ""])
def test_a_filter_that_fails_stops_the_reply(old):
    with pytest.raises(Stopped) as caught:
        stream(Channels([attach(Breaks, old)], Watched()), CONTENT, ["a", "boom"])

    assert caught.value.block.kind == "policy_unavailable"
    assert caught.value.release == ""


@pytest.mark.parametrize("old", ["boom", ""])
def test_a_filter_that_may_fail_open_is_left_out(old):
    watched = Watched()
    channels = Channels([attach(Breaks, old, fail_open=True), attach(Replaces, "a", "A")], watched)

    assert stream(channels, CONTENT, ["a", " boom", " a"]) == "A boom A"
    assert watched.told == [("p", "RuntimeError")]


def test_a_factory_that_fails_stops_the_reply_unless_open():
    def broken(channel):
        raise RuntimeError("broken")

    closed = AttachedFilter("p", broken, "guard", 0, True, False)
    opened = AttachedFilter("p", broken, "guard", 0, True, True)

    with pytest.raises(Stopped):
        Channels([closed], Watched()).feed(CONTENT, "x")
    assert Channels([opened], Watched()).feed(CONTENT, "x") == "x"


def test_a_repeated_text_says_what_its_pieces_said():
    channels = Channels([attach(Replaces, "secret", "<S>")], Watched())
    out = stream(channels, CONTENT, ["a sec", "ret b"])

    assert channels.repeat(CONTENT, "a secret b") == out == "a <S> b"
    assert channels.repeat(CONTENT, "another secret") == "another <S>"
    assert channels.repeat(Channel("refusal"), "secret") == "<S>"


def test_a_repeat_before_its_channel_has_ended_is_filtered_afresh():
    channels = Channels([attach(Replaces, "secret", "<S>")], Watched())
    channels.feed(CONTENT, "a secre")

    assert channels.repeat(CONTENT, "a secret") == "a <S>"
    assert channels.feed(CONTENT, "t") == "<S>"


def test_a_repeat_of_arguments_is_json_as_its_pieces_were():
    channels = Channels([attach(Replaces, "secret", "<S>")], Watched())
    out = stream(channels, ARGUMENTS, ['{"a":"se', 'cret"}'])

    assert channels.repeat(ARGUMENTS, '{"a":"secret"}') == out == '{"a":"<S>"}'


def test_a_repeat_is_as_whole_as_a_whole_reply_when_a_monitor_watches():
    watched = Watched()
    channels = Channels([attach(Replaces, "a", "b", enforced=False)], watched)

    assert channels.repeat(CONTENT, "aaa") == "aaa"


@pytest.mark.parametrize(("glance", "fed"), [(True, 0), (False, 1), (ValueError, 1)])
def test_a_whole_text_that_a_filter_sees_is_clean_is_not_fed(glance, fed):
    pieces = []

    class Glances:
        def __init__(self, old, new):
            pass

        def feed(self, text):
            pieces.append(text)
            return text

        def flush(self):
            return ""

    def untouched(text):
        if glance is ValueError:
            raise ValueError
        return glance

    channels = Channels([attach(Glances, untouched=untouched)], Watched())

    assert channels.whole(CONTENT, "clean") == "clean"
    assert len(pieces) == fed
