"""The seam between what was said and what goes on; what a client has got; the question to go on; and its edges."""

import asyncio
import itertools
import json
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmshield.channels import Channels
from llmshield.conversation import Conversation, Message, OutputForm, TextPart, Thinking
from llmshield.resuming import _LEAST_OVERLAP, GO_ON, MARKER, Resumption, Seam, Shadow
from llmshield.simulator import Received, Scripted, Simulator
from llmshield.testing import gateway, policy
from llmshield.translators.anthropic_messages import AnthropicMessages
from llmshield.translators.openai_chat import OpenAIChat
from llmshield.translators.openai_responses import OpenAIResponses

# -- the seam ----------------------------------------------------------------------------------------------------------

WORDS = st.text(alphabet="ab \n.é漢🙂", max_size=60)


def through(seam: Seam, text: str, cuts: list[int]) -> str:
    """A text in pieces through a seam."""
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return "".join(seam.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + seam.flush()


def overlap(said: str, more: str) -> int:
    """Characters of a continuation that repeat the end."""
    return max(
        (size for size in range(min(len(said), len(more)) + 1) if said.endswith(more[:size])), default=0
    )


@given(WORDS, WORDS, st.lists(st.integers(0, 200), max_size=8))
def test_a_continuation_that_repeats_nothing_is_taken_whole(said: str, more: str, cuts: list[int]) -> None:
    same = overlap(said, more)
    assume(same < _LEAST_OVERLAP and not (said and more.startswith(said)))

    assert more == through(Seam(said), more, cuts)


@given(WORDS, WORDS, st.integers(), st.lists(st.integers(0, 200), max_size=8))
def test_a_repeated_end_and_a_repeated_whole_are_taken_off(
    said: str, more: str, size: int, cuts: list[int]
) -> None:
    assume(said)
    size = (
        len(said) if len(said) <= _LEAST_OVERLAP else _LEAST_OVERLAP + size % (len(said) - _LEAST_OVERLAP + 1)
    )
    repeated = said[-size:] + more
    assume(overlap(said, repeated) == size)  # not ambiguous: "abab" may be once or twice "ab"

    assert more == through(Seam(said), repeated, cuts)


@given(
    st.text(alphabet="ab \n", min_size=1, max_size=20),
    st.text(alphabet="ab \n", max_size=20),
    st.lists(st.integers(0, 50)),
)
def test_a_prefilled_model_only_writes_white_space_again(said: str, more: str, cuts: list[int]) -> None:
    shown = said.rstrip()
    assume(shown)
    space = said[len(shown) :]

    assert more == through(Seam(said, shown), space + more, cuts)
    if more[:1] not in tuple(space[:1]):
        assert more == through(Seam(said, shown), more, cuts)


def test_the_seam_holds_no_longer_than_it_must() -> None:
    seam = Seam("The quick brown fox jumps over")

    assert "" == seam.feed(" ")  # it is in the text
    assert " the" == seam.feed("the")  # " the" is not
    assert " lazy dog" == seam.feed(" lazy dog")
    assert not seam.holds


# -- what the client has got -------------------------------------------------------------------------------------------


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> bytes:
    tree = {"id": "c1", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(tree).encode() + b"\n\n"


CALL = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]}


@pytest.mark.parametrize(
    ("got", "resumable", "said"),
    [
        ([chunk({"content": "Hel"}), chunk({"content": "lo"})], True, "Hello"),
        ([chunk({"reasoning_content": "hm"})], True, ""),
        ([chunk({"reasoning_content": "hm"}), chunk({"content": "Hi"})], True, "Hi"),
        ([chunk({"content": "Hi"}), chunk(CALL)], False, "Hi"),
        ([chunk(CALL)], False, ""),
        ([chunk({"refusal": "No"})], False, ""),
        ([chunk({"content": "Hi"}, "stop")], False, "Hi"),
        ([chunk({"content": "Hi"}), chunk({"content": "Ho"}, index=1)], False, "Hi"),
    ],
    ids=["text", "thought", "thought and text", "half a call behind text", "half a call", "refusal", "finished", "n"],
)  # fmt: skip
def test_who_may_be_taken_over(got: list[bytes], resumable: bool, said: str) -> None:
    shadow = Shadow(OpenAIChat().reader(), "continue")
    for data in got:
        shadow.feed(data)

    assert resumable == shadow.resumable
    if resumable:
        assert said == shadow.said
    assert (Resumption.of(shadow, Channels((), lambda *_: None)) is None) == (not resumable)


def test_a_text_that_has_ended_is_still_what_was_said() -> None:
    """Anthropic's blocks end one by one; the answer does not end with one."""
    shadow = Shadow(AnthropicMessages().reader(), "continue")
    for tree in (
        {"type": "message_start", "message": {"id": "m", "model": "c"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "All of it."}},
        {"type": "content_block_stop", "index": 0},
    ):
        shadow.feed(b"data: " + json.dumps(tree).encode() + b"\n\n")

    resumption = Resumption.of(shadow, Channels((), lambda *_: None))
    assert resumption is not None
    assert (None, "All of it.") == (shadow.last, resumption.said)


def event(**tree: Any) -> bytes:
    return b"data: " + json.dumps(tree).encode() + b"\n\n"


SEARCH = {"type": "web_search_call", "id": "ws", "status": "in_progress"}
DELTA = {"type": "response.output_text.delta", "item_id": "m", "content_index": 0, "delta": "Hi"}
THOUGHT = {"type": "response.reasoning_summary_text.delta", "item_id": "r", "output_index": 0, "delta": "hm"}


@pytest.mark.parametrize(
    ("events", "resumable"),
    [
        ([{**DELTA, "output_index": 0}], True),
        ([{**THOUGHT, "summary_index": 0}, {**DELTA, "output_index": 1}], True),
        ([{**THOUGHT, "summary_index": n} for n in (0, 1)] + [{**DELTA, "output_index": 1}], False),
        ([{"type": "response.output_item.added", "output_index": 0, "item": SEARCH}, {**DELTA, "output_index": 1}], False),
        ([{**DELTA, "output_index": 0}, {"type": "response.output_item.added", "output_index": 1, "item": SEARCH}], False),
    ],
    ids=["text", "a thought before it", "two thoughts in one item", "a search before it", "a search behind it"],
)  # fmt: skip
def test_items_that_would_get_other_numbers_are_not_resumed(events: list[Any], resumable: bool) -> None:
    shadow = Shadow(OpenAIResponses().reader(), "continue")
    for tree in events:
        shadow.feed(event(**tree))

    assert resumable == shadow.resumable


@pytest.mark.parametrize(("kind", "resumable"), [("thinking", True), ("server_tool_use", False)])
def test_blocks_that_would_get_other_numbers_are_not_resumed(kind: str, resumable: bool) -> None:
    shadow = Shadow(AnthropicMessages().reader(), "continue")
    shadow.feed(event(type="content_block_start", index=0, content_block={"type": kind, "thinking": "hm"}))
    shadow.feed(event(type="content_block_stop", index=0))
    shadow.feed(event(type="content_block_start", index=1, content_block={"type": "text", "text": "Hi"}))

    assert resumable == shadow.resumable


# -- the question ------------------------------------------------------------------------------------------------------


def asked(
    model: str, family: str, said: str = "Half an ", *, joins: bool = True, **more: Any
) -> Conversation:
    conversation = Conversation(model, [Message("user", [TextPart("Tell me")])], **more)
    resumption = Resumption(Shadow(OpenAIChat().reader(), "continue"), said, None, joins)
    resumption.ask(conversation, family)
    return conversation


@pytest.mark.parametrize(
    ("model", "family", "prefilled"),
    [
        *[(name, "anthropic", True) for name in (
            "claude-2.1", "claude-instant-1.2", "claude-3-haiku-20240307", "claude-3-5-sonnet-latest",
            "claude-3-7-sonnet-20250219", "claude-opus-4-0", "claude-opus-4-20250514", "claude-sonnet-4-20250514",
            "claude-opus-4-1-20250805", "claude-sonnet-4-5-20250929", "claude-haiku-4-5", "claude-opus-4-5-20251101")],
        *[(name, "anthropic", False) for name in (
            "claude-opus-4-6", "claude-sonnet-4-6", "claude-opus-4-7", "claude-sonnet-5", "some-other-model")],
        ("gpt-5", "openai", False),
        ("gemini-3-pro", "gemini", False),
        ("claude-3-haiku", "openai", False),  # behind an adapter of somebody's
    ],
)  # fmt: skip
def test_who_is_prefilled(model: str, family: str, prefilled: bool) -> None:
    last = asked(model, family).messages[-1]
    expected = ("assistant", "Half an") if prefilled else ("user", GO_ON)

    assert expected == (last.speaker, last.parts[0].text)  # type: ignore[union-attr]


def test_a_thinking_model_is_not_prefilled() -> None:
    conversation = asked("claude-sonnet-4-5", "anthropic", thinking=Thinking(budget=2000))

    assert [("assistant", "Half an "), ("user", GO_ON)] == [
        (message.speaker, message.parts[0].text)
        for message in conversation.messages[1:]  # type: ignore[union-attr]
    ]


@pytest.mark.parametrize(("model", "family"), [("claude-sonnet-4-5", "anthropic"), ("gpt-5", "openai")])
def test_half_an_answer_in_json_is_nobodys_to_continue(model: str, family: str) -> None:
    assert asked(model, family, output=OutputForm("json")).missing
    assert not asked(model, family, joins=False, output=OutputForm("json")).missing


@pytest.mark.parametrize("said", ["", " \n"])
def test_without_words_there_is_nothing_to_go_on_from(said: str) -> None:
    assert 1 == len(asked("claude-sonnet-4-5", "anthropic", said).messages)


# -- through a gateway -------------------------------------------------------------------------------------------------


def serving(
    sims: list[Simulator], plugins: str = "", route: str = "mid_stream: continue", more: str = "", base: Path | None = None,
) -> AbstractAsyncContextManager[tuple[str, str]]:  # fmt: skip
    names = "abc"[: len(sims)]
    providers = "".join(
        f"  {name}: {{dialect: openai, base_url: {sim.url}/v1, prices: {{input: 1, output: 4}},"
        f" timeout: {{connect: 1s, first_token: 3s, idle: 300ms, total: 8s}}}}\n"
        for name, sim in zip(names, sims, strict=True)
    )
    given = (
        f"providers:\n{providers}routes:\n  - match: {{any: true}}\n    to: [{', '.join(names)}]\n    {route}\n"
        f"plugins:\n{plugins}  - use: failover\n{more}"
    )
    return gateway(policy(given, base=base) if base is not None else given)


async def stream(url: str, text: str = "hello", **more: Any) -> tuple[str, str]:
    """All words, and the error's message or the finish reason."""
    body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": text}], **more}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body) as reply:
        raw = (await reply.read()).decode()
    said, end = "", "nothing"
    for line in raw.splitlines():
        if line.startswith("data: {"):
            tree = json.loads(line[6:])
            if "error" in tree:
                return said, f"error: {tree['error']['message']}"
            for choice in tree["choices"]:
                if choice["index"] == 0:
                    said += choice["delta"].get("content") or ""
                    end = choice["finish_reason"] or end
    return said, end


def breaks(*deltas: str, **more: Any) -> Scripted:
    """Says these, and its connection breaks."""
    return Scripted(text=list(deltas), simulate=f"fault=cut,after={len(deltas) + 1},delay=5ms", **more)


def shown(call: Received) -> str:
    found = [m["content"] for m in call.json["messages"] if m["role"] == "assistant"]
    return found[-1] if found else ""


PII = '  - {use: pii, entities: {"EMAIL_ADDRESS": {action: replace}}, restore: true}\n'


@pytest.mark.parametrize("cut", [1, 4, -2, None], ids=["one sign", "inside", "before its end", "behind it"])
async def test_placeholders_survive_the_seam_and_their_values_never_cross_it(
    primary: Simulator, backup: Simulator, cut: int | None
) -> None:
    """What the filter held at the break is neither lost nor shown as a placeholder."""
    marks: list[str] = []

    def first(call: Received) -> Scripted:
        mark = marks.append(call.json["messages"][-1]["content"].split()[-1]) or marks[0]  # type: ignore[func-returns-value]
        return (
            breaks("Write to ", mark[:cut], *([] if cut else [" now"]), "")
            if cut
            else breaks("Write to ", mark, " now")
        )

    def second(call: Received) -> Scripted:
        whole = f"Write to {marks[0]} now, and again {marks[0]}."
        return Scripted(text=whole[len(shown(call)) :])

    primary.provider.reply, backup.provider.reply = first, second
    async with serving([primary, backup], PII) as (url, _):
        said, end = await stream(url, "My address is mia.wong@example.com")

    assert ("Write to mia.wong@example.com now, and again mia.wong@example.com.", "stop") == (said, end)
    assert "mia.wong" not in backup.calls[0].body.decode()
    assert shown(backup.calls[0]).startswith("Write to " + marks[0][:cut])


async def test_a_marker_drops_what_was_held(primary: Simulator, backup: Simulator) -> None:
    mark: list[str] = []

    def first(call: Received) -> Scripted:
        mark.append(call.json["messages"][-1]["content"].split()[-1])
        return breaks("Write to ", mark[0][:4])

    primary.provider.reply = first
    backup.provider.reply = lambda call: Scripted(text=f"Ask {mark[0]}.")
    async with serving([primary, backup], PII, "mid_stream: restart_marker") as (url, _):
        said, _ = await stream(url, "I am mia.wong@example.com")

    assert f"Write to {MARKER}Ask mia.wong@example.com." == said


@pytest.mark.parametrize("way", ["continue", "restart_marker"])
async def test_guards_read_across_the_seam(primary: Simulator, backup: Simulator, way: str) -> None:
    guard = '  - {use: injection, deny: ["open sesame"], scan: [output]}\n'
    primary.provider.reply = lambda call: breaks("The word is ", "open se")
    backup.provider.reply = lambda call: Scripted(
        text="same, friends." if way == "continue" else "It is open sesame, friends."
    )
    async with serving([primary, backup], guard, f"mid_stream: {way}") as (url, _):
        said, end = await stream(url)

    assert "content_filter" == end
    assert "sesame" not in said
    assert "friends" not in said


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}  # fmt: skip


@pytest.mark.parametrize("way", ["continue", "restart_marker"])
@pytest.mark.parametrize("case", ["half a call", "two answers"])
async def test_what_nobody_resumes_ends_with_an_error(
    primary: Simulator, backup: Simulator, way: str, case: str
) -> None:
    tool = {"name": "f", "arguments": ['{"x":', '"long', " and", " longer", '"}'], "id": "call_1"}
    one = chunk({"content": "The first of two"})  # the other has not begun
    primary.provider.reply = lambda call: (
        Scripted(tools=[tool], simulate="fault=cut,after=4,delay=5ms")
        if case == "half a call"
        else Scripted(chunks=[one])
    )
    more = {"tools": [TOOL]} if case == "half a call" else {"n": 2}
    async with serving([primary, backup], route=f"mid_stream: {way}") as (url, _):
        _, end = await stream(url, **more)

    assert end.startswith("error:")
    assert [] == backup.calls


async def test_a_second_break_goes_on_from_both(primary: Simulator, backup: Simulator) -> None:
    text = "One two three four five six seven eight nine ten."
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    async with Simulator() as last:
        backup.provider.reply = lambda call: breaks("four five ", "six and a bit more than held")
        last.provider.reply = lambda call: Scripted(text=shown(call) + "!")
        async with serving([primary, backup, last]) as (url, _):
            said, end = await stream(url)

        assert "One two three " == shown(backup.calls[0])
        assert "One two three four five six and a bit more than held" == shown(last.calls[0])
        assert ("One two three four five six and a bit more than held!", "stop") == (said, end)
    assert text.startswith("One two three four")


@pytest.mark.parametrize(
    ("more", "expected"), [("two", "two"), ("One two three ", ""), ("ee ", "ee "), ("", "")]
)
async def test_a_continuation_that_ends_in_the_seams_hands(
    primary: Simulator, backup: Simulator, more: str, expected: str
) -> None:
    """All of it may be a repetition until its very end: it is judged there, and goes through the filters."""
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    backup.provider.reply = lambda call: Scripted(text=more)
    async with serving([primary, backup], PII) as (url, _):
        assert ("One two three " + expected, "stop") == await stream(url)


BROKE = "error: The provider's stream broke (reset); the answer is not complete."


@pytest.mark.parametrize("trouble", ["fault=400", "fault=401", "fault=503", "fault=drop", "fault=content_filter", "fault=html"])  # fmt: skip
async def test_a_fallback_that_refuses_never_masks_the_break(
    primary: Simulator, backup: Simulator, trouble: str
) -> None:
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    backup.provider.reply = lambda call: Scripted(simulate=trouble)
    async with serving([primary, backup]) as (url, _):
        said, end = await stream(url)

    assert ("One two three ", BROKE) == (said, end)
    assert 1 == len(backup.calls)


async def test_a_fallback_that_is_not_there(primary: Simulator) -> None:
    async with Simulator() as gone:
        pass
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    async with serving([primary, gone]) as (url, _):
        assert ("One two three ", BROKE) == await stream(url)


BLOCKS = """
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Block, Skip
class Mine(Plugin):
    def pre_request(self, call):
        call.guard_attempt(lambda attempt: Block("spent", "budget_spent") if attempt.number > 1 else None)
"""


@pytest.mark.parametrize(
    "plugins",
    ["  - use: ./mine.py\n", "  - {use: cost_cap, caps: [{limit: 0.000001 USD/day, providers: b}]}\n"],
    ids=["a guard's word", "its own budget"],
)
async def test_no_money_for_the_continuation(
    primary: Simulator, backup: Simulator, plugins: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(BLOCKS)
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    async with serving([primary, backup], plugins, base=tmp_path) as (url, _):
        said, end = await stream(url)

    assert ("One two three ", BROKE) == (said, end)
    assert [] == backup.calls


async def test_a_client_that_leaves_in_the_seam_ends_every_attempt_once(
    primary: Simulator, backup: Simulator, tmp_path: Path
) -> None:
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    backup.provider.reply = lambda call: Scripted(text="four", simulate="ttft=5s")
    audit = f"audit: {{sink: file://{tmp_path}/audit.jsonl}}\n"
    more = audit + "tenants: {anonymous: {tier: t}}\ntiers: {t: {budget: 5 USD/day}}\n"
    async with serving([primary, backup], "  - use: cost_cap\n", more=more) as (url, admin):
        asking = asyncio.create_task(stream(url))
        while not backup.calls:
            await asyncio.sleep(0.005)
        asking.cancel()
        left = time.monotonic()
        while not backup.calls[0].disconnected:
            assert time.monotonic() - left < 1.0
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/usage") as reply:
            used = (await reply.json())["tenants"]["anonymous"]

    assert 0.0 == float(used["held_usd"])
    assert 0.0 < float(used["spent_usd"])
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if "request_id" in record]
    assert [("a", "failed"), ("b", "cancelled")] == [
        (a["provider"], a["outcome"]) for a in record["attempts"]
    ]


async def test_a_call_of_a_tool_may_follow_and_what_was_held_comes_before_it(
    primary: Simulator, backup: Simulator
) -> None:
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    backup.provider.reply = lambda call: Scripted(tools=[{"name": "f", "arguments": {"x": "y"}}])
    async with serving([primary, backup], PII) as (url, _):
        said, end = await stream(url, tools=[TOOL])

    assert ("One two three ", "tool_calls") == (said, end)


async def test_the_record_tells_who_went_on(primary: Simulator, backup: Simulator, tmp_path: Path) -> None:
    primary.provider.reply = lambda call: breaks("One two ", "three ")
    backup.provider.reply = lambda call: Scripted(text="four.", usage=(30, 3))
    more = f"audit: {{sink: file://{tmp_path}/audit.jsonl}}\n"
    async with serving([primary, backup], more=more) as (url, _):
        assert ("One two three four.", "stop") == await stream(url)

    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if "request_id" in record]
    assert ("b", 30, 3, None) == tuple(
        record[key] for key in ("provider", "input_tokens", "output_tokens", "error")
    )
    assert [("failed", "reset"), ("ok", None)] == [(a["outcome"], a["reason"]) for a in record["attempts"]]
