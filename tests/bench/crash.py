"""`make crash`: a provider that breaks on purpose, and what a caller of the gateway gets.

    python tests/bench/crash.py [--full] [--only FAULT]

Sixteen faults of a public crash test for gateways and five more, each whole and streamed, through three chains:
OpenAI with a fallback of its own dialect; OpenAI, Anthropic, Gemini with the first failing; and the same with the first
two failing in the same way. The client is the official SDK without retries. `--full` waits as long as the test says
(silence of 120 s, a stall of 30 s, an outage of 60 s); without it every time is a twentieth.

    pass      what the case asks for, in all: the whole answer, or the error that is the caller's to read
    partial   the whole answer, but too late, with too many attempts, or without what the case asks for
    safe      an honest error where an answer could be had
    fail      a hang, or a text presented as a success that is cut, doubled or wrong

Advice, counted apart: Retry-After is honoured, a silent route is not asked again, the limit of the first token is kept,
usage is reported, the fallback's name is reported.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import openai

from llmshield.simulator import Scripted, Simulator
from llmshield.simulator.record import Received
from llmshield.testing import gateway

WORDS = 60
TEXT = "".join(f"w{number:02d} " for number in range(WORDS))
"""Sixty tokens of four characters; each is said once, so that a lost or doubled one shows."""
PROMPT = "Count the words."
USED = {"a": (11, 60), "b": (12, 61), "c": (13, 62)}
"""Tokens that each provider reports: whose usage an answer has shows who gave it."""
MODELS = {"a": "gpt-4o", "b": "gpt-4.1", "c": "gemini-2.5-flash"}
ANTHROPIC = "claude-sonnet-4-5"
MODERN = "claude-opus-4-6"
"""A model that refuses to go on from an assistant's last message."""

CHAINS = ("same", "translated", "deep")
ONCE = ("same", "translated")
"""For faults that only the first provider can have."""
WAYS = ("whole", "streamed")

LIMIT_S = 15.0
"""Of the first token, and of silence between two: less than the slowest fault lasts."""
LOOSE_S = 30
"""Limits that no case is about."""
PACE_S = 0.002
"""Between two tokens, so that a fault strikes when what was before it is on its way to the client."""


@dataclasses.dataclass
class Seen:
    """What the caller got."""

    text: str = ""
    finish: str | None = None
    usage: tuple[int, int] | None = None
    model: str = ""
    provider: str = ""
    error: Exception | None = None
    first_s: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault. `fault`: what the first provider does (times multiplied by the scale); `by`: who should answer
    (`a` the first, `-` nobody: the error is the caller's to read), `tries`: how often the first may be asked."""

    says: str
    fault: dict[str, Any]
    by: str = "b"
    tries: int = 1
    mends: bool = False
    """The fault strikes behind the first output: the answer is begun by one and ended by another."""
    least_s: float = 0.0
    most_s: float = 0.0
    model: str = ANTHROPIC
    prefill: bool = True
    chains: tuple[str, ...] = CHAINS
    ways: tuple[str, ...] = WAYS


CASES: dict[str, Case] = {
    "retry_after": Case(
        "429 with Retry-After 2 s, once", {"fault": "429", "first": 1, "retry_after": 2.0}, by="a", tries=2, least_s=2.0,
        chains=ONCE,
    ),
    "rate_limited": Case("429 for ever, without the header", {"fault": "429"}, tries=2),
    "error_once": Case("500 once", {"fault": "500", "first": 1}, by="a", tries=2, chains=ONCE),
    "unavailable": Case("503 for ever", {"fault": "503"}, tries=2),
    "reset": Case("the connection is reset before an answer", {"fault": "reset"}, tries=2),
    "silence": Case("silence for 120 s", {"fault": "silence"}, most_s=LIMIT_S),
    "slow_first": Case("the first token after 20 s", {"fault": "slow_first", "pause": 20.0}, most_s=LIMIT_S),
    "cut": Case("cut at 40 of 60 tokens", {"fault": "cut", "after": 41}, mends=True, tries=2),
    "stall": Case("a stall after 20 tokens", {"fault": "stall", "after": 21}, mends=True, most_s=LIMIT_S),
    "malformed": Case("the tenth event is malformed", {"fault": "malformed", "after": 9}, mends=True),
    "no_done": Case("no [DONE]", {"fault": "no_done"}, by="a", chains=ONCE),
    "context_length": Case("the context is too long for the model", {"fault": "context_length"}),
    "content_filter": Case("the content filter refuses", {"fault": "content_filter"}, by="-", chains=ONCE),
    "no_prefill": Case(
        "cut at 40, and a fallback that refuses prefill", {"fault": "cut", "after": 41}, mends=True, tries=2,
        model=MODERN, prefill=False,
    ),
    "outage": Case("down for 60 s, a call every 4 s", {}, chains=ONCE),
    "accounting": Case("whose name and usage are told", {"fault": "500"}, tries=2),
    # beyond the sixteen
    "prefill_refused": Case(
        "cut at 40, and a fallback that refuses prefill against its papers", {"fault": "cut", "after": 41}, by="c",
        mends=True, prefill=False, chains=("translated",), ways=("streamed",),
    ),
    "unfinished": Case("HTTP ends well, the answer does not", {"fault": "unfinished", "after": 41}, mends=True, ways=("streamed",)),
    "error_first": Case("an error object inside a 200, at once", {"fault": "error_in_200", "after": 0}, tries=2),
    "error_later": Case("an error object inside a 200, after 20 tokens", {"fault": "error_in_200", "after": 21}, mends=True, tries=2),
    "open_end": Case(
        "no [DONE], and the connection stays open", {"fault": "stall", "after": 9_999}, by="a", chains=ONCE,
        most_s=2.0, ways=("streamed",),
    ),
}  # fmt: skip
SIXTEEN = tuple(CASES)[:16]


@dataclasses.dataclass
class Verdict:
    """How a case went; `missed` is the advice that was not followed, `why` what was wrong."""

    score: str
    missed: tuple[str, ...] = ()
    why: str = ""


def _policy(case: Case, urls: dict[str, dict[str, str]], scale: float) -> str:
    """A route and its providers for each chain and way; `urls` are those of its simulators."""

    def ms(seconds: float) -> str:
        return f"{max(1, round(seconds * scale * 1000))}ms"

    usual = (
        f"circuit: {{failures: 3, window: {ms(60)}, open_for: {ms(10)}, max_open: {ms(20)}}}, "
        "prices: {input: 1, output: 2}"
    )

    def times(key: str, who: str) -> str:
        """The limit that the case is about, for who breaks; a busy machine must not make others look slow."""
        breaks = case.most_s == LIMIT_S and (who == "a" or (who == "b" and key.startswith("deep")))
        behind = case.mends and key.endswith("streamed")
        first = ms(LIMIT_S) if breaks and not behind else f"{LOOSE_S}s"
        idle = ms(LIMIT_S) if breaks and behind else f"{LOOSE_S}s"
        return f"timeout: {{connect: {LOOSE_S}s, first_token: {first}, idle: {idle}}}, {usual}"

    providers, routes = [], []
    for key, url in urls.items():
        same = key.startswith("same")
        second = "dialect: openai" if same else "dialect: anthropic"
        b = f"{{provider: {key}-b, model: {MODELS['b'] if same else case.model}}}"
        c = "" if same else f", {{provider: {key}-c, model: {MODELS['c']}}}"
        providers += [
            f"{key}-a: {{dialect: openai, base_url: {url['a']}/v1, {times(key, 'a')}}}",
            f"{key}-b: {{{second}, base_url: {url['b']}{'/v1' if same else ''}, {times(key, 'b')}}}",
            f"{key}-c: {{dialect: gemini, base_url: {url['c']}, {times(key, 'c')}}}",
        ]
        routes.append(
            f"{{match: {{model: {key}}}, to: [{{provider: {key}-a, model: {MODELS['a']}}}, {b}{c}], mid_stream: continue, "
            f"retry: {{attempts: 2, when: [429, 5xx, connect, reset], backoff: {ms(0.2)}..{ms(2)}}}}}"
        )
    lines = [
        "providers:",
        *(f"  {each}" for each in providers),
        "routes:",
        *(f"  - {each}" for each in routes),
    ]
    return "\n".join([*lines, "audit: {sink: none}", "plugins:", "  - use: failover"])


def _said(call: Received) -> tuple[str, bool]:
    """What the request shows of an answer so far, and whether it is its last message (prefill)."""
    body = call.json
    if "contents" in body:
        turns = [
            (turn.get("role"), "".join(p.get("text", "") for p in turn["parts"])) for turn in body["contents"]
        ]
    else:
        turns = [(turn["role"], _flat(turn["content"])) for turn in body["messages"]]
    own = [text for role, text in turns if role in ("assistant", "model")]
    return (own[-1] if own else ""), turns[-1][0] in ("assistant", "model")


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _replies(name: str, *, prefill: bool) -> Callable[[Received], Scripted]:
    """A model that says TEXT, or goes on with it from where the request shows it."""

    def reply(call: Received) -> Scripted:
        said, last = _said(call)
        if last and not prefill:
            body = '{"error":{"type":"invalid_request_error","message":"This model does not support assistant prefill."}}'
            return Scripted(status=400, body=body)
        at = len(said)
        if TEXT[:at].rstrip() == said.rstrip():
            rest = TEXT[at:] if TEXT[:at] == said or not last else TEXT[len(said.rstrip()) :]
        else:
            rest = f"[{name} was shown another text: {said!r}]"
        return Scripted(text=[rest[i : i + 4] for i in range(0, len(rest), 4)], usage=USED[name])

    return reply


async def ask(client: openai.AsyncOpenAI, model: str, streamed: bool, patience_s: float) -> Seen:
    """One call as a program makes it."""
    seen = Seen()
    began = time.monotonic()
    try:
        async with asyncio.timeout(patience_s):
            await (_stream if streamed else _whole)(client, model, seen)
    except Exception as error:  # whatever the SDK raises is what the caller got
        seen.error = error
    seen.seconds = time.monotonic() - began
    return seen


async def _whole(client: openai.AsyncOpenAI, model: str, seen: Seen) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": PROMPT}]
    )
    seen.provider = raw.headers["x-llmshield-provider"][-1]
    answer = raw.parse()
    seen.text, seen.finish = answer.choices[0].message.content or "", answer.choices[0].finish_reason
    seen.model = answer.model
    if answer.usage is not None:
        seen.usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)


async def _stream(client: openai.AsyncOpenAI, model: str, seen: Seen) -> None:
    began = time.monotonic()
    raw = await client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    seen.provider = raw.headers["x-llmshield-provider"][-1]
    async for chunk in raw.parse():
        seen.model = chunk.model
        for choice in chunk.choices:
            if choice.delta.content and not seen.text:
                seen.first_s = time.monotonic() - began
            seen.text += choice.delta.content or ""
            seen.finish = choice.finish_reason or seen.finish
        if chunk.usage is not None:
            seen.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


async def run(name: str, scale: float) -> dict[str, Verdict]:
    """One fault through all chains at once: a gateway, and three providers of its own for each way."""
    case = CASES[name]
    ways = [(chain, way) for chain in case.chains for way in case.ways]
    async with contextlib.AsyncExitStack() as stack:
        sims: dict[str, dict[str, Simulator]] = {}
        for chain, way in ways:
            mine = sims[f"{chain}-{way}"] = {}
            for who in "abc":
                sim = Simulator(reply=_replies(who, prefill=case.prefill), delay=PACE_S)
                mine[who] = await stack.enter_async_context(sim)
            fault = {key: value * scale if key in _TIMES else value for key, value in case.fault.items()}
            fault = {key: f"{value:g}" if key in _TIMES else value for key, value in fault.items()}
            mine["a"].set(**fault)
            if chain == "deep":
                mine["b"].set(**{**fault, "after": min(fault.get("after", 3), 9)})
        urls = {key: {who: sim.url for who, sim in mine.items()} for key, mine in sims.items()}
        url, _ = await stack.enter_async_context(gateway(_policy(case, urls, scale)))
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        await stack.enter_async_context(client)

        async def one(chain: str, way: str) -> Verdict:
            key, streamed = f"{chain}-{way}", way == "streamed"
            if name == "outage":
                return await _outage(client, key, sims[key], streamed, scale)
            limit = (2 if chain == "deep" else 1) * LIMIT_S * scale + _slack(scale)
            seen = await ask(client, key, streamed, limit + 5.0)
            await asyncio.sleep(0.05)
            return judge(
                name, chain, streamed, seen, {who: sim.calls for who, sim in sims[key].items()}, scale
            )

        verdicts = await asyncio.gather(*(one(*each) for each in ways))
        return {f"{chain} {way}": verdict for (chain, way), verdict in zip(ways, verdicts, strict=True)}


_TIMES = ("pause", "retry_after")


def _slack(scale: float) -> float:
    """What is allowed beyond a limit; a twentieth of the time is no measure on a busy machine."""
    return 1.0 if scale == 1.0 else 4.0


def judge(
    name: str, chain: str, streamed: bool, seen: Seen, calls: dict[str, list[Received]], scale: float
) -> Verdict:
    """What the caller got against what the case asks for."""
    case = CASES[name]
    by = "c" if chain == "deep" else case.by
    if by == "-":
        known = isinstance(seen.error, openai.BadRequestError) and seen.error.code == "content_filter"
        if known and not calls["b"] and len(calls["a"]) == 1:
            return Verdict("pass")
        return Verdict(
            "fail" if seen.error is None else "partial",
            (),
            f"{seen.error!r}; b was asked {len(calls['b'])} times",
        )
    if isinstance(seen.error, TimeoutError):
        return Verdict("fail", (), f"a hang: {seen.seconds:.1f} s")
    if seen.error is not None:
        if not TEXT.startswith(seen.text):
            return Verdict("fail", (), f"{seen.text!r} and then {seen.error!r}")
        return Verdict("safe", (), repr(seen.error))
    if seen.text != TEXT or seen.finish != "stop":
        return Verdict("fail", (), f"finish {seen.finish!r} with {seen.text!r}")
    failing = ("a", "b") if chain == "deep" else ("a",)
    why = []
    for who in failing:
        if len(calls[who]) > case.tries:
            why.append(f"{who} was asked {len(calls[who])} times")
    if _late(case, chain, seen, scale):
        why.append(f"it took {seen.seconds:.2f} s, {seen.first_s:.2f} s to the first token")
    if not calls[by]:
        why.append(f"{by} was not asked")
    missed = tuple(_missed(name, case, chain, by, streamed, seen, calls, scale))
    return Verdict("partial" if why else "pass", missed, "; ".join(why))


def _late(case: Case, chain: str, seen: Seen, scale: float) -> bool:
    """Whether the limits were not kept; the time of a stream behind its first token counts where it is broken there."""
    took = seen.seconds if case.mends or not seen.first_s else seen.first_s
    return case.most_s > 0 and took > (2 if chain == "deep" else 1) * case.most_s * scale + _slack(scale)


def _missed(
    name: str, case: Case, chain: str, by: str, streamed: bool, seen: Seen, calls: dict[str, list[Received]],
    scale: float,
) -> Iterator[str]:  # fmt: skip
    first = calls["a"]
    if case.least_s and first[1].at - first[0].at < case.least_s * scale:
        yield "Retry-After"
    if name in ("silence", "slow_first", "stall") and len(first) != 1:
        yield "silent route asked again"
    if name in ("silence", "slow_first") and _late(case, chain, seen, scale):
        yield "first-token limit"
    if seen.usage != USED[by]:
        yield f"usage ({seen.usage}, not {USED[by]})"
    names = {**MODELS, "b": MODELS["b"] if chain == "same" else case.model}
    if seen.model != names[by]:
        yield f"name ({seen.model!r}, not {names[by]!r})"
    # The head of a stream that is mended has gone out before.
    if seen.provider != ("a" if case.mends and streamed else by):
        yield f"provider ({seen.provider!r})"


async def _outage(
    client: openai.AsyncOpenAI, model: str, sims: dict[str, Simulator], streamed: bool, scale: float
) -> Verdict:
    """Down for a minute under a call every four seconds, then well again."""
    every, patience = 4 * scale, LIMIT_S
    began = time.monotonic()
    sims["a"].set(fault="reset")
    wrong: list[str] = []
    back: float | None = None
    down_until = began + 60 * scale
    mended: float | None = None
    while back is None and time.monotonic() < down_until + 31 * scale + 2:
        if mended is None and time.monotonic() >= down_until:
            down = len(sims["a"].calls)
            sims["a"].set(fault=None)
            mended = time.monotonic()
        started = time.monotonic()
        seen = await ask(client, model, streamed, patience)
        if seen.error is not None or seen.text != TEXT:
            wrong.append(f"at {started - began:.1f} s: {seen.error!r} {seen.text[:40]!r}")
        if mended is not None and seen.provider == "a":
            back = time.monotonic() - mended
        await asyncio.sleep(max(0.0, every - (time.monotonic() - started)))
    if wrong:
        return Verdict("safe" if all("None" not in each for each in wrong) else "fail", (), wrong[0])
    # Three failures open it (a call has two tries), then one probe per break of 10, 20, 20, ... s.
    most = 3 + 4
    why = []
    if down > most:
        why.append(
            f"{down} attempts while it was down, at most {most} are three failures and a probe per break"
        )
    if back is None or back > 30 * scale + (0.5 if scale < 1 else 0.0):
        why.append(f"back on the primary after {back} s")
    return Verdict("partial" if why else "pass", (), "; ".join(why))


async def table(scale: float, names: Iterable[str] = CASES) -> dict[str, dict[str, Verdict]]:
    """Every fault through every chain, both ways; three faults at a time."""
    free = asyncio.Semaphore(3)

    async def one(name: str) -> dict[str, Verdict]:
        async with free:
            return await run(name, scale)

    order = sorted(names, key=lambda each: each != "outage")  # it lasts longest
    found = dict(zip(order, await asyncio.gather(*map(one, order)), strict=True))
    return {name: found[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="wait as long as the faults say: some four minutes"
    )
    parser.add_argument("--only", choices=CASES, help="one fault")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):  # the gateways' logs
        found = asyncio.run(table(1.0 if options.full else 0.05, (options.only,) if options.only else CASES))
    columns = [f"{chain} {way}" for chain in CHAINS for way in WAYS]
    print("| fault | " + " | ".join(columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    bad = []
    for name, row in found.items():
        cells = []
        for column in columns:
            verdict = row.get(column)
            cells.append("" if verdict is None else verdict.score + (" *" if verdict.missed else ""))
            if verdict is not None and (verdict.score != "pass" or verdict.missed):
                bad.append(f"{name}, {column}: {verdict.score}: {verdict.why} {', '.join(verdict.missed)}")
        print(f"| {CASES[name].says} | " + " | ".join(cells) + " |")
    for which, names in (("the sixteen", SIXTEEN), ("with five more", tuple(CASES))):
        said = [v for name in names if name in found for v in found[name].values()]
        counts = "/".join(
            str(sum(v.score == score for v in said)) for score in ("pass", "partial", "safe", "fail")
        )
        print(
            f"\n{which}: {counts} pass/partial/safe/fail, advice missed {sum(bool(v.missed) for v in said)}"
        )
    print("\n" + "\n".join(bad))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
