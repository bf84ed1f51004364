"""Whatever a provider does wrong: each official SDK gets an answer or an error of its own kind, in time, paid for once.

Every fault of the simulator and every way a connection can fail, in every dialect, whole and streamed; the seed draws
where a stream breaks, how its bytes are cut and whether somebody else may answer or go on. The text is known: what
arrives is all of it, or the beginning of it and an error. `test_faults.py` says of the chat dialect which ending is
right; here are the promises that hold for all.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as gemini_errors
from google.genai import types as gt

from llmshield.simulator import FAULTS, Scripted, Simulator
from llmshield.simulator.record import Received
from llmshield.testing import gateway, policy

# google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning")

TEXT = "".join(f"w{number:02d}é " for number in range(20))
PROMPT = "Count the words."
FAMILIES = {
    "chat": "openai", "responses": "openai", "completions": "openai", "embeddings": "openai", "messages": "anthropic",
    "gemini": "gemini",
}  # fmt: skip
SOCKETS = ("refused", "black_hole", "not_tls", "rst_at_once", "fin_at_once")
ROUTES = ("alone", "chain", "goes_on", "across")
"""Nobody else; another one of the same dialect; one that goes on with a stream; and one of another dialect that does."""
OTHERS = {"openai": "anthropic", "anthropic": "gemini", "gemini": "openai"}
TOTAL_S = 1.5
"""The longest an attempt may take; a call has two."""

OTHER_TEXT = frozenset(
    {
        "invalid_utf8",
        "u2028",
        "big_event",
        "refusal",
        "filter_finish",
        "endless",
        "out_of_order",
        "cut_mid_utf8",
    }
)
"""Faults that change what is said, so that there is no one right text."""
LIES = {name for name in FAULTS if name.startswith("usage_")} - {"usage_twice", "usage_negative"} | {
    "error_in_200"
}
"""What a provider bills that lies is `tests/plugins/cost_cap/test_cost_cap_bills.py`'s subject; nobody bills an error."""
OURS = {502, 503, 504, 529}
"""Statuses above 499 that may be answered; 529 is Anthropic's word for 503."""


@dataclasses.dataclass
class Seen:
    """What an SDK gave its program."""

    text: str = ""
    complete: bool = False
    error: Exception | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Ask:
    """One call: a fault in a dialect."""

    dialect: str
    fault: str
    streamed: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.dialect}, {'streamed' if self.streamed else 'whole'}, seed {self.seed}"

    def chance(self) -> random.Random:
        return random.Random(self.name)

    def route(self) -> str:
        """The name of a provider whose connections fail, or of the simulator's, and how its route goes on."""
        where = self.fault if self.fault in SOCKETS else "sim"
        return f"{where}-{FAMILIES[self.dialect]}-{self.chance().choice(ROUTES)}"

    def model(self) -> str:
        """The client's model: its route, and behind @ what the simulator is to do."""
        if self.fault in SOCKETS:
            return self.route()
        chance = self.chance()
        chance.choice(ROUTES)
        how = [f"fault={self.fault}", f"after={chance.randrange(32)}", "pause=2", "size=300000", "delay=1ms"]
        if self.fault in ("drip", "bomb"):
            how.remove("size=300000")
        if (split := chance.choice((0, 0, 1, 3, 17, 64))) and self.fault not in (
            "drip",
            "big_event",
            "comments",
        ):
            how.append(f"split={split}")
        return f"{self.route()}@{';'.join(how)}"


class Clients:
    """The official SDKs, without retries."""

    def __init__(self, url: str) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0)
        self.gemini = genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=url))

    async def close(self) -> None:
        await self.openai.close()
        await self.anthropic.close()
        await self.gemini.aio.aclose()

    async def ask(self, asked: Ask, patience_s: float) -> Seen:
        """One call, as a program makes it."""
        seen = Seen()
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience_s):
                await getattr(self, f"_{asked.dialect}")(asked.model(), asked.streamed, seen)
        except Exception as error:
            seen.error = error
        seen.seconds = time.monotonic() - began
        return seen

    async def _chat(self, model: str, streamed: bool, seen: Seen) -> None:
        messages: Any = [{"role": "user", "content": PROMPT}]
        if not streamed:
            answer = await self.openai.chat.completions.create(model=model, messages=messages, max_tokens=500)
            seen.text, seen.complete = (
                answer.choices[0].message.content or "",
                bool(answer.choices[0].finish_reason),
            )
            return
        stream = await self.openai.chat.completions.create(
            model=model, messages=messages, max_tokens=500, stream=True
        )
        async for chunk in stream:
            for choice in chunk.choices or ():  # an event of an unknown kind passes, and has none
                seen.text += choice.delta.content or ""
                seen.complete |= choice.finish_reason is not None

    async def _completions(self, model: str, streamed: bool, seen: Seen) -> None:
        if not streamed:
            answer = await self.openai.completions.create(model=model, prompt=PROMPT, max_tokens=500)
            seen.text, seen.complete = answer.choices[0].text, bool(answer.choices[0].finish_reason)
            return
        stream = await self.openai.completions.create(model=model, prompt=PROMPT, max_tokens=500, stream=True)
        async for chunk in stream:
            for choice in chunk.choices or ():  # an event of an unknown kind passes, and has none
                seen.text += choice.text
                seen.complete |= choice.finish_reason is not None

    async def _responses(self, model: str, streamed: bool, seen: Seen) -> None:
        if not streamed:
            answer = await self.openai.responses.create(model=model, input=PROMPT, max_output_tokens=500)
            seen.text, seen.complete = answer.output_text, answer.status in ("completed", "incomplete")
            return
        stream = await self.openai.responses.create(
            model=model, input=PROMPT, max_output_tokens=500, stream=True
        )
        async for event in stream:
            if event.type == "response.output_text.delta":
                seen.text += event.delta
            elif event.type == "response.failed":
                raise openai.APIError("response.failed", None, body=None)  # type: ignore[arg-type]
            seen.complete |= event.type in ("response.completed", "response.incomplete")

    async def _embeddings(self, model: str, streamed: bool, seen: Seen) -> None:
        answer = await self.openai.embeddings.create(model=model, input=PROMPT)
        seen.complete = len(answer.data[0].embedding) > 0
        seen.text = TEXT

    async def _messages(self, model: str, streamed: bool, seen: Seen) -> None:
        messages: Any = [{"role": "user", "content": PROMPT}]
        if not streamed:
            answer = await self.anthropic.messages.create(model=model, messages=messages, max_tokens=500)
            seen.text = "".join(block.text for block in answer.content if block.type == "text")
            seen.complete = answer.stop_reason is not None
            return
        stream = await self.anthropic.messages.create(
            model=model, messages=messages, max_tokens=500, stream=True
        )
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                seen.text += event.delta.text
            elif event.type == "message_stop":
                seen.complete = True

    async def _gemini(self, model: str, streamed: bool, seen: Seen) -> None:
        config = gt.GenerateContentConfig(max_output_tokens=500)
        models = self.gemini.aio.models
        if not streamed:
            answers = [await models.generate_content(model=model, contents=PROMPT, config=config)]
        else:
            answers = []
            async for answer in await models.generate_content_stream(
                model=model, contents=PROMPT, config=config
            ):
                answers.append(answer)
                self._read_gemini(answer, seen)
            return
        self._read_gemini(answers[0], seen)

    @staticmethod
    def _read_gemini(answer: gt.GenerateContentResponse, seen: Seen) -> None:
        if answer.prompt_feedback is not None and answer.prompt_feedback.block_reason:
            seen.complete = True
        for candidate in answer.candidates or ():
            for part in (candidate.content.parts if candidate.content else None) or ():
                seen.text += part.text or ""
            seen.complete |= candidate.finish_reason is not None


def _reply(call: Received) -> Scripted:
    """Says TEXT, or goes on with it from where the request shows it."""
    body = call.json
    turns = body.get("contents") or body.get("messages") or body.get("input")
    said = ""
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role") in ("assistant", "model"):
            parts = turn.get("parts", turn.get("content"))
            said = parts if isinstance(parts, str) else "".join(part.get("text", "") for part in parts)
    rest = TEXT[len(said) :] if TEXT.startswith(said) else TEXT[len(said.rstrip()) :]
    return Scripted(text=[rest[i : i + 5] for i in range(0, len(rest), 5)], usage=(10, 40))


def _policy(addresses: dict[str, str], backup: str, folder: Path) -> str:
    """Providers for each address and family, each with the three routes."""
    times = f"timeout: {{connect: 400ms, first_token: 700ms, idle: 400ms, total: {round(TOTAL_S * 1000)}ms}}"
    price = "prices: {input: 1, output: 2}"
    providers, routes = [], []
    for family in ("openai", "anthropic", "gemini"):
        end = "/v1" if family == "openai" else ""
        providers.append(f"backup-{family}: {{dialect: {family}, base_url: {backup}{end}, {price}}}")
        for where, address in addresses.items():
            name = f"{where}-{family}"
            providers.append(f"{name}: {{dialect: {family}, base_url: {address}{end}, {times}, {price}}}")
            for route in ROUTES:
                second = OTHERS[family] if route == "across" else family
                other = "" if route == "alone" else f", {{provider: backup-{second}, model: m}}"
                more = "mid_stream: continue, " if route in ("goes_on", "across") else ""
                routes.append(
                    f"{{match: {{model: '{name}-{route}*'}}, to: [{name}{other}], {more}retry: {{attempts: 1}}}}"
                )
    lines = [
        "providers:",
        *(f"  {each}" for each in providers),
        "routes:",
        *(f"  - {each}" for each in routes),
    ]
    return "\n".join(
        [
            *lines,
            "tenants: {anonymous: {tier: free}}",
            "tiers: {free: {budget: 100000 USD/day}}",
            f'audit: {{sink: "file://{folder}/audit.jsonl"}}',
            "plugins:",
            "  - {use: cost_cap, timeout: 20s, lost_reply: full, cut_stream: full, on_overrun: record}",
            "  - {use: failover, timeout: 20s}",
        ]
    )


@dataclasses.dataclass
class House:
    """A gateway whose providers fail, and what they have seen."""

    clients: Clients
    admin: str
    sim: Simulator
    backup: Simulator
    folder: Path

    async def usage(self) -> dict[str, Any]:
        """The tenant's figures, once nothing is held any more."""
        async with aiohttp.ClientSession() as http:
            for _ in range(100):
                async with http.get(f"{self.admin}/usage") as reply:
                    found: dict[str, Any] = (await reply.json())["tenants"]["anonymous"]
                if not Decimal(found["held_usd"]):
                    break
                await asyncio.sleep(0.1)
        return found

    def bills(self) -> dict[str, tuple[int, str]]:
        """pico-USD that each call's providers have produced, by the gateway's own id of the call, and their fault."""
        found: dict[str, tuple[int, str]] = {}
        for received in (*self.sim.calls, *self.backup.calls):
            key = received.header("x-client-request-id") or ""
            if LIES.isdisjoint(received.faults):
                bill, faults = found.get(key, (0, ""))
                bill += received.usage[0] * 10**6 + received.usage[1] * 2 * 10**6
                found[key] = (bill, faults or f"{received.api} {','.join(received.faults)}")
        return found


@pytest.fixture
async def house(
    tmp_path: Path, listening: Callable[..., AbstractAsyncContextManager[int]]
) -> AsyncIterator[House]:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.sleep(1)

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(reply=_reply))
        backup = await stack.enter_async_context(Simulator(reply=_reply))
        dead = stack.enter_context(contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(4):  # a listener whose queue is full answers no SYN
            filler = stack.enter_context(contextlib.closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        addresses = {
            "sim": sim.url,
            "refused": "http://127.0.0.1:9",
            "black_hole": f"http://127.0.0.1:{dead.getsockname()[1]}",
            "not_tls": sim.url.replace("http:", "https:"),
            "rst_at_once": f"http://127.0.0.1:{await stack.enter_async_context(listening(resets))}",
            "fin_at_once": f"http://127.0.0.1:{await stack.enter_async_context(listening(hangs_up))}",
        }
        made = policy(_policy(addresses, backup.url, tmp_path), base=tmp_path)
        url, admin = await stack.enter_async_context(gateway(made))
        clients = Clients(url)
        stack.push_async_callback(clients.close)
        yield House(clients, admin, sim, backup, tmp_path)


def wrong(asked: Ask, seen: Seen) -> str:
    """What a program could not live with; nothing where all is well."""
    error = seen.error
    if error is None:
        if not seen.complete:
            return "an end without a finish, and no error"
        if asked.fault not in OTHER_TEXT and seen.text != TEXT:
            return f"another text: {seen.text!r}"
        return ""
    if isinstance(error, TimeoutError):
        return f"it hangs ({seen.seconds:.1f} s)"
    known: tuple[type[Exception], ...] = (openai.APIError, anthropic.APIError, gemini_errors.APIError)
    if not isinstance(error, known) or isinstance(
        error, openai.APIConnectionError | anthropic.APIConnectionError
    ):
        return f"no error of the SDK: {error!r}"
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    if isinstance(status, int) and status >= 500 and status not in OURS:
        return f"status {status}: {error}"
    if asked.fault not in OTHER_TEXT and not TEXT.startswith(seen.text):
        return f"an error behind another text: {seen.text!r}"
    return ""


def asks(seeds: range) -> list[Ask]:
    """Every fault in every dialect, both ways."""
    return [
        Ask(dialect, fault, streamed, seed)
        for seed in seeds
        for fault in (*FAULTS, *SOCKETS)
        for dialect in FAMILIES
        for streamed in ((False,) if dialect == "embeddings" else (False, True))
    ]


@pytest.mark.parametrize(
    ("seeds", "slack_s"),
    [(range(1), 4.0), pytest.param(range(5), 1.0, marks=pytest.mark.nightly)],
    ids=["1 seed", "5 seeds"],
)
async def test_every_fault_in_every_dialect(house: House, seeds: range, slack_s: float) -> None:
    free = asyncio.Semaphore(12)
    found: list[str] = []
    stalled_s = 0.0

    async def watch() -> None:
        """Count the time in which this loop, that has both ends and the gateway in it, did nothing."""
        nonlocal stalled_s
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            stalled_s += time.monotonic() - began - 0.02

    async def one(asked: Ask) -> None:
        async with free:
            before = stalled_s
            seen = await house.clients.ask(asked, 60.0)
        took = seen.seconds - (stalled_s - before)
        problem = f"it took {took:.1f} s" if took > 2 * TOTAL_S + slack_s else wrong(asked, seen)
        if problem:
            found.append(f"{asked.name} ({asked.model()}): {problem}")

    watching = asyncio.ensure_future(watch())
    todo = asks(seeds)
    await asyncio.gather(*map(one, todo))
    watching.cancel()

    assert not found, "\n".join(sorted(found))
    await _settled_once(house, len(todo))


async def _settled_once(house: House, count: int) -> None:
    """Each attempt is in the book exactly once, and no provider's bill is above what was taken for it."""
    usage = await house.usage()
    records: list[Any] = []
    for _ in range(50):
        lines = (house.folder / "audit.jsonl").read_text().splitlines()
        records = [record for record in map(json.loads, lines) if record.get("kind") == "call"]
        if len(records) == count:
            break
        await asyncio.sleep(0.1)
    costs = {
        record["request_id"]: sum((Decimal(a["cost_usd"] or 0) for a in record["attempts"]), Decimal(0))
        for record in records
    }
    tries = {
        record["request_id"]: [
            (a["provider"], a["outcome"], a["reason"], a["status"], a["cost_usd"]) for a in record["attempts"]
        ]
        for record in records
    }

    assert count == len(records)
    assert Decimal(usage["held_usd"]) == 0
    assert Decimal(usage["spent_usd"]) == sum(costs.values())
    bills = house.bills()
    unpaid = sorted(
        f"{fault}: {costs[key]} USD for {bill} pico-USD, {tries[key]}"
        for key, (bill, fault) in bills.items()
        if key in costs and costs[key] * 10**12 < bill
    )
    assert not unpaid, "\n".join(unpaid)
