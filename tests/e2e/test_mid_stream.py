"""Streams that break in the client's hands and go on from another provider: every dialect, fallback and break.

One gateway serves all cases at once; a case is named in its prompt, and both simulators look up what it asks of them.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types as gt

from llmshield.resuming import MARKER
from llmshield.simulator import Received, Scripted, Simulator
from llmshield.testing import gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = (
    "Gravity bends light; so far so good. A second sentence says what a first one did not: that clocks run slower "
    "near mass — naïve or not, 漢字 and 🙂 included.\n\nA third paragraph ends it."
)
WIRES = ("chat", "responses", "messages", "gemini", "gemini_array")
OWN = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini", "gemini_array": "gemini"}  # fmt: skip
FAMILIES = ("openai", "anthropic", "gemini")
BREAKS = ("cut", "fin", "unfinished", "stall", "malformed", "error_in_200", "cut_mid_event")
REPEATS = ("nothing", "suffix", "whole")
MODEL = {
    "openai": "gpt-5",
    "anthropic": "claude-opus-4-7",
    "gemini": "gemini-3",
    "prefill": "claude-sonnet-4-5",
}

PROVIDERS = "\n".join(
    f'  {name}_{family}: {{dialect: {family}, base_url: "{name.upper()}{"/v1" if family == "openai" else ""}",'
    f" timeout: {{first_token: 3s, idle: 250ms, total: 8s}}, prices: {{input: 1, output: 4}}}}"
    for name in ("a", "b")
    for family in FAMILIES
)
ROUTES = "\n".join(
    f"  - match: {{model: {way}-{own}-{other}}}\n"
    f"    to: [a_{own}, {{provider: b_{'anthropic' if other == 'prefill' else other}, model: {MODEL[other]}}}]\n"
    f"    mid_stream: {way}\n"
    for way in ("continue", "restart_marker", "error")
    for own in FAMILIES
    for other in MODEL
)
POLICY = f"""
server: {{store: "memory://"}}
providers:
{PROVIDERS}
routes:
{ROUTES}
plugins:
  - use: cost_cap
  - use: failover
"""


@dataclass
class Case:
    """What one call meets. `fallback` makes the second provider's answer of what it is asked."""

    wire: str
    other: str = "openai"
    way: str = "continue"
    fault: str = "cut"
    after: int = 7
    repeats: str = "nothing"
    first: Scripted | None = None
    second: Any = None
    asked: list[Any] = field(default_factory=list)

    @property
    def model(self) -> str:
        return f"{self.way}-{OWN[self.wire]}-{self.other}"


def said_so_far(body: Any) -> tuple[str, str]:
    """What a request shows of the answer so far, and its last message's role."""
    if "contents" in body:
        turns = [
            (turn["role"], "".join(p.get("text", "") for p in turn["parts"])) for turn in body["contents"]
        ]
    else:
        turns = []
        given = body.get("messages") or body["input"]
        for message in [{"role": "user", "content": given}] if isinstance(given, str) else given:
            content = message["content"]
            text = content if isinstance(content, str) else "".join(part["text"] for part in content)
            turns.append((message["role"], text))
    answers = [text for role, text in turns if role in ("assistant", "model")]
    return (answers[-1] if answers else ""), turns[-1][0]


class World:
    """Two simulators that know the cases, and a gateway between them and the client."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}
        self.numbers = itertools.count(1)
        self.url = ""

    def case_of(self, call: Received) -> Case:
        text = call.body.decode()
        at = text.index("case-")
        return self.cases[text[at : at + 10]]

    def primary(self, call: Received) -> Scripted:
        case = self.case_of(call)
        return case.first or Scripted(text=TEXT, simulate=f"fault={case.fault},after={case.after},delay=4ms")

    def backup(self, call: Received) -> Scripted:
        case = self.case_of(call)
        case.asked.append(call.json)
        if case.second is not None:
            made: Scripted = case.second(call)
            return made
        said, _ = said_so_far(call.json)
        if case.way != "continue" or not said:
            return Scripted(text=TEXT, usage=(70, 777))
        rest = TEXT[len(said) :]
        start = {"nothing": "", "suffix": said[-15:] if len(said) >= 15 else said, "whole": said}[
            case.repeats
        ]
        if case.other == "prefill":
            start = ""
        return Scripted(text=start + rest, usage=(70, 777))

    async def run(self, http: aiohttp.ClientSession, wires: Any, case: Case, **options: Any) -> Any:
        name = f"case-{next(self.numbers):05d}"
        self.cases[name] = case
        wire = next(each for each in wires if each.name == case.wire)
        path, body = wire.request(f"Say it. {name}", True, **options)
        path = path.replace("/models/m:", f"/models/{case.model}:")
        if "model" in body:
            body["model"] = case.model
        if case.wire == "chat":
            body["stream_options"] = {"include_usage": True}
        if case.wire.startswith("gemini"):
            body["generationConfig"] = {"candidateCount": body["generationConfig"]["candidateCount"]}
        headers = {"anthropic-version": "2023-06-01", "authorization": "Bearer sk-client"}
        async with asyncio.timeout(10), http.post(self.url + path, json=body, headers=headers) as reply:
            raw = await reply.read()
        got = wire.read(reply.status, raw, dict(reply.headers), stream=reply.status == 200)
        return got, name


@contextlib.asynccontextmanager
async def made(plugins: str = "") -> AsyncIterator[World]:
    world = World()
    async with Simulator(reply=world.primary) as a, Simulator(reply=world.backup) as b:
        given = (
            POLICY.replace('"A', f'"{a.url}')
            .replace('"B', f'"{b.url}')
            .replace("plugins:\n", f"plugins:\n{plugins}")
        )
        async with gateway(given) as (url, _):
            world.url = url
            yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with made() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[World]:
    """The same with filters that hold text back."""
    pii = '  - {use: pii, entities: {"EMAIL_ADDRESS": {action: replace}}, restore: true, scan: [user, output]}\n'
    async with made(pii + '  - {use: injection, deny: ["forbidden fruit"], scan: [output]}\n') as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def joined(got: Any) -> str:
    """All words of an answer, in order."""
    return "".join(text for key, text in got.said.items() if key.startswith("content"))


def told(got: Any) -> tuple[str, int]:
    """The model and the output tokens that a stream ends with."""
    model, output = "", 0
    for tree in got.trees:
        for node in (tree, tree.get("response") or {}, tree.get("message") or {}):
            model = node.get("model") or node.get("modelVersion") or model
            usage = node.get("usage") or node.get("usageMetadata") or {}
            output = (
                usage.get("completion_tokens")
                or usage.get("output_tokens")
                or usage.get("candidatesTokenCount")
                or output
            )
    return model, output


def matrix() -> list[Case]:
    found = []
    every = itertools.product(WIRES, MODEL, BREAKS)
    for number, (wire, other, fault) in enumerate(every):
        after = (4, 7, 19)[number % 7 % 3] + (3 if wire == "responses" else 0)
        found.append(Case(wire, other, "continue", fault, after, REPEATS[(number // 3) % 3]))
    return found


async def outcomes(
    world: World, http: aiohttp.ClientSession, wires: Any, cases: list[Case], wanted: Any
) -> list[str]:
    """What went wrong, case by case; forty at once."""
    room = asyncio.Semaphore(40)

    async def one(case: Case) -> str | None:
        async with room:
            got, _ = await world.run(http, wires, case)
        found = (got.error, joined(got), told(got))
        right = wanted(case)
        asked = len(case.asked)
        if found[:2] != right[:2] or asked != 1:
            return f"{case.wire} {case.other} {case.way} {case.fault}@{case.after} {case.repeats}: asked {asked}, {found}"
        if case.wire != "messages" and (found[2][0] != MODEL[case.other]):
            return f"{case.wire} {case.other}: {found[2]}"
        return f"{case.wire} {case.other}: {found[2]}" if found[2][1] != 777 else None

    return [wrong for wrong in await asyncio.gather(*map(one, cases)) if wrong]


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.nightly)], ids=["a third", "all"])
async def test_continue_gives_the_exact_text_wherever_and_however_it_breaks(
    world: World, http: aiohttp.ClientSession, wires: Any, step: int
) -> None:
    wrong = await outcomes(world, http, wires, matrix()[::step], lambda case: (False, TEXT))

    assert not wrong, "\n".join(wrong)


async def test_filters_that_hold_text_back_change_none_of_it(
    guarded: World, http: aiohttp.ClientSession, wires: Any
) -> None:
    wrong = await outcomes(guarded, http, wires, matrix()[::4], lambda case: (False, TEXT))

    assert not wrong, "\n".join(wrong)


_STOPS = {
    "chat": "content_filter",
    "messages": "refusal",
    "gemini": "PROHIBITED_CONTENT",
    "responses": "response.failed",
}


@pytest.mark.parametrize("way", ["continue", "restart_marker"])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_guard_that_stops_across_the_seam_does_so_in_the_dialect(
    guarded: World, http: aiohttp.ClientSession, wires: Any, wire: str, way: str
) -> None:
    text = "Eat of the forbidden fruit, friend, as much as you like"
    first = Scripted(
        text=[text[at : at + 2] for at in range(0, len(text), 2)], simulate="fault=cut,after=9,delay=4ms"
    )

    def second(call: Received) -> Scripted:
        return Scripted(text=text[len(said_so_far(call.json)[0]) :] if way == "continue" else text)

    cases = [Case(wire, other, way, first=first, second=second) for other in MODEL]
    for got, _ in await asyncio.gather(*(guarded.run(http, wires, case) for case in cases)):
        assert "fruit" not in joined(got)
        assert "friend" not in joined(got)
        assert text.startswith(joined(got)) or way == "restart_marker"
        assert _STOPS[wire.removesuffix("_array")] in got.raw.decode()
        if wire == "messages":
            _messages(got)
    assert all(len(case.asked) == 1 for case in cases)


async def test_restart_marker_says_so_and_begins_again(
    world: World, http: aiohttp.ClientSession, wires: Any
) -> None:
    cases = [
        Case(wire, other, "restart_marker", fault, 9)
        for number, (wire, other) in enumerate(itertools.product(WIRES, MODEL))
        for fault in (BREAKS[number % len(BREAKS)],)
    ]
    wrong = []
    for case, (got, _) in zip(
        cases, await asyncio.gather(*(world.run(http, wires, case) for case in cases)), strict=True
    ):
        before, mark, after = joined(got).partition(MARKER)
        if got.error or not mark or not before or not TEXT.startswith(before) or after != TEXT:
            wrong.append((case.wire, case.other, case.fault, joined(got)[-60:]))

    assert [] == wrong


async def test_error_is_what_it_was(world: World, http: aiohttp.ClientSession, wires: Any) -> None:
    for wire in WIRES:
        case = Case(wire, "openai", "error")
        got, _ = await world.run(http, wires, case)

        assert got.error
        assert [] == case.asked
        assert joined(got) == TEXT[: len(joined(got))] != ""


@pytest.mark.parametrize("way", ["continue", "restart_marker"])
@pytest.mark.parametrize("wire", WIRES)
async def test_events_keep_their_numbers_and_ids_across_the_seam(
    world: World, http: aiohttp.ClientSession, wires: Any, wire: str, way: str
) -> None:
    cases = [Case(wire, other, way, "error_in_200", after) for other in MODEL for after in (4, 11)]
    for got, _ in await asyncio.gather(*(world.run(http, wires, case) for case in cases)):
        assert not got.error
        _CHECKS[wire.removesuffix("_array")](got)
    assert all(len(case.asked) == 1 for case in cases)


@pytest.mark.parametrize("wire", WIRES)
async def test_events_keep_their_order_where_text_is_held_back(
    guarded: World, http: aiohttp.ClientSession, wires: Any, wire: str
) -> None:
    """The client may have got a head and no word yet."""
    cases = [Case(wire, "openai", "continue", "cut", after) for after in range(2, 9)]
    for case, (got, _) in zip(
        cases, await asyncio.gather(*(guarded.run(http, wires, case) for case in cases)), strict=True
    ):
        assert (False, TEXT) == (got.error, joined(got)), case
        _CHECKS[wire.removesuffix("_array")](got)


def _chat(got: Any) -> None:
    assert 1 == len({tree["id"] for tree in got.trees})
    finishes = [c["finish_reason"] for t in got.trees for c in t["choices"] if c["finish_reason"]]
    assert ["stop"] == finishes
    assert [0] == [
        at for at, tree in enumerate(got.trees) if any("role" in c["delta"] for c in tree["choices"])
    ]


def _messages(got: Any) -> None:
    kinds = [tree["type"] for tree in got.trees if tree["type"] != "ping"]
    assert ["message_start"] == kinds[:1]
    assert ["message_delta", "message_stop"] == kinds[-2:]
    assert 1 == kinds.count("message_start") == kinds.count("message_stop")
    opened: int | None = None
    seen = -1
    for tree in got.trees:
        if tree["type"] == "content_block_start":
            assert opened is None
            opened = seen = seen + 1
            assert seen == tree["index"]
        elif tree["type"] == "content_block_delta":
            assert opened == tree["index"]
        elif tree["type"] == "content_block_stop":
            assert opened == tree["index"]
            opened = None


def _responses(got: Any) -> None:
    assert list(range(len(got.trees))) == [tree["sequence_number"] for tree in got.trees]
    responses = [tree["response"] for tree in got.trees if "response" in tree]
    assert 1 == len({each["id"] for each in responses}) == len({each["created_at"] for each in responses})
    assert "response.completed" == got.trees[-1]["type"]
    assert {k: v for k, v in got.said.items() if k.startswith("content")} == {
        k: v for k, v in got.finals.items() if k.startswith("content")
    }
    items: dict[int, str] = {}
    for tree in got.trees:
        if tree["type"] == "response.output_item.added":
            assert tree["output_index"] == len(items)
            items[tree["output_index"]] = tree["item"]["id"]
        elif "item_id" in tree:
            assert items[tree["output_index"]] == tree["item_id"]
    done = [t["output_index"] for t in got.trees if t["type"] == "response.output_item.done"]
    assert sorted(items) == sorted(done)


def _gemini(got: Any) -> None:
    assert 1 == len({tree["responseId"] for tree in got.trees})
    finishes = [
        c["finishReason"] for t in got.trees for c in t.get("candidates", ()) if c.get("finishReason")
    ]
    assert ["STOP"] == finishes


_CHECKS = {"chat": _chat, "messages": _messages, "responses": _responses, "gemini": _gemini}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_break_behind_the_words_repeats_none_of_them(
    world: World, http: aiohttp.ClientSession, wires: Any, wire: str
) -> None:
    """Between the last word and the end of the answer: parts have ended, the answer has not."""
    whole = len((await world.run(http, wires, Case(wire, way="error", after=9999)))[0].trees)
    cases = [Case(wire, "openai", "continue", "cut", whole - back, "whole") for back in range(7)]
    found = await asyncio.gather(*(world.run(http, wires, case) for case in cases))

    assert [(False, TEXT)] * len(cases) == [(got.error, joined(got)) for got, _ in found]
    if wire in (
        "chat",
        "messages",
    ):  # the finish comes before the end, and whoever has finished is not asked again
        assert {0, 1} == {len(case.asked) for case in cases}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_break_inside_of_thoughts_leaves_them_and_answers(
    world: World, http: aiohttp.ClientSession, wires: Any, wire: str
) -> None:
    thoughts = [f"thought {number} " for number in range(20)]
    first = Scripted(text=TEXT, reasoning=thoughts, simulate="fault=cut,after=8,delay=4ms,thinking=1")
    cases = [Case(wire, other, first=first) for other in MODEL]
    for got, _ in await asyncio.gather(*(world.run(http, wires, case) for case in cases)):
        reasoning = "".join(text for key, text in got.said.items() if key.startswith("reasoning"))

        assert (False, TEXT) == (got.error, joined(got))
        assert reasoning == "" or "".join(thoughts).startswith(reasoning)


@pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning")
@pytest.mark.parametrize("sdk", ["openai chat", "openai responses", "anthropic", "google"])
async def test_the_official_sdks_read_it_as_one_answer(world: World, sdk: str) -> None:
    """Their stream helpers, which put events together and check their order."""
    for other in MODEL:
        name = f"case-{next(world.numbers):05d}"
        wire = {
            "openai chat": "chat",
            "openai responses": "responses",
            "anthropic": "messages",
            "google": "gemini",
        }[sdk]
        case = world.cases[name] = Case(wire, other, after=9)
        text, model = await _SDKS[sdk](world.url, case.model, f"Say it. {name}")

        assert (TEXT, 1) == (text, len(case.asked))
        # These two keep what the head said, which had gone out.
        assert model == (case.model if sdk in ("anthropic", "openai chat") else MODEL[other])


async def _openai_chat(url: str, model: str, prompt: str) -> tuple[str, str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-x", max_retries=0) as client:
        asked = client.chat.completions.stream(model=model, messages=[{"role": "user", "content": prompt}])
        async with asked as events:
            done = await events.get_final_completion()
    return done.choices[0].message.content or "", done.model


async def _openai_responses(url: str, model: str, prompt: str) -> tuple[str, str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-x", max_retries=0) as client:
        async with client.responses.stream(model=model, input=prompt) as events:
            done = await events.get_final_response()
    return done.output_text, done.model


async def _anthropic(url: str, model: str, prompt: str) -> tuple[str, str]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-x", max_retries=0) as client:
        asked = client.messages.stream(
            model=model, max_tokens=1000, messages=[{"role": "user", "content": prompt}]
        )
        async with asked as events:
            done = await events.get_final_message()
    return "".join(block.text for block in done.content if block.type == "text"), done.model


async def _google(url: str, model: str, prompt: str) -> tuple[str, str]:
    client = genai.Client(api_key="x", http_options=gt.HttpOptions(base_url=url))
    text, said = "", ""
    async for chunk in await client.aio.models.generate_content_stream(model=model, contents=prompt):
        text += chunk.text or ""
        said = chunk.model_version or said
    await client.aio.aclose()
    return text, said


_SDKS = {
    "openai chat": _openai_chat,
    "openai responses": _openai_responses,
    "anthropic": _anthropic,
    "google": _google,
}
