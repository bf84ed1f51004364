"""From a request to a plan: routing, keys, directives, scripts, faults. No sockets here."""

from __future__ import annotations

import collections
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from llmshield.simulator import directives as words
from llmshield.simulator import faults_body, faults_http, faults_status, faults_stream, faults_usage, frames
from llmshield.simulator.answer import Answer, Scripted, compose, scripted, scripted_text
from llmshield.simulator.apis import Api, Endpoint, endpoint, family_of, listing
from llmshield.simulator.ask import Ask, BadRequest
from llmshield.simulator.directives import DirectiveError, Directives
from llmshield.simulator.errors import Family
from llmshield.simulator.faults_status import error_plan
from llmshield.simulator.plan import Event, Pause, Plan, Step
from llmshield.simulator.record import Received
from llmshield.simulator.table import FAULTS, Case, Fault, names

# Importing a module of faults fills the table.
__all__ = ["Provider", "faults_body", "faults_http", "faults_status", "faults_stream", "faults_usage"]

CREATED = 1_750_000_000
MODELS = (
    "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "claude-sonnet-4-5", "claude-haiku-4-5", "gemini-2.5-flash",
    "gemini-2.5-pro", "text-embedding-3-small",
)  # fmt: skip

Reply = Callable[[Received], Any]


class Provider:
    """The simulated provider.

    name         who replies say they are from (default: the model's name)
    require_key  the one key that is accepted; others get 401, in all three families
    models       what the model lists show
    script       replies for the next calls, in order; then it answers as usual
    reply        function of the request that gives a reply, or None for the usual one
    seed         of the generator behind jitter and `rate`
    keep         how many requests are remembered
    Everything else is a directive and becomes the default of all calls. Raises: ValueError for a wrong one.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        require_key: str | None = None,
        models: Iterable[str] = MODELS,
        script: Iterable[Any] = (),
        reply: Reply | None = None,
        seed: int = 0,
        keep: int = 100_000,
        **options: Any,
    ) -> None:
        self.calls: list[Received] = []
        self.script: collections.deque[Scripted] = collections.deque(map(scripted, script))
        self.name, self.require_key, self.models = name, require_key, tuple(models)
        self.reply, self.keep = reply, keep
        self.faults = names()
        self._chance = random.Random(seed)  # noqa: S311 - repeatable by intent, protects nothing
        self._struck: collections.Counter[str] = collections.Counter()
        self._number = 0
        self._options: dict[str, object] = {}
        self._default = Directives()
        self.set(**options)

    def set(self, **options: Any) -> None:
        """Change defaults while running: directives, `name`, `require_key`, `models`; None takes one back.

        Counting of `first` and `skip` starts again. Raises: ValueError for an unknown one; nothing is changed then.
        """
        own = {key: options.pop(key) for key in ("name", "require_key", "models", "reply") if key in options}
        found = words.from_options(options, self.faults)
        merged = {**self._options, **found}
        kept = {key: value for key, value in merged.items() if value is not None}
        self._default, self._options = Directives(**kept), kept  # type: ignore[arg-type]
        for key, value in own.items():
            setattr(self, key, tuple(value) if key == "models" else value)
        self._struck.clear()

    def reset(self) -> None:
        """Forget all default directives, scripts and recorded calls."""
        self._options, self._default = {}, Directives()
        self._struck.clear()
        self.script.clear()
        self.calls.clear()

    def fail_next(self, count: int, fault: str) -> None:
        """The next `count` calls meet this fault, then all is well."""
        self.set(fault=fault, first=count, skip=0)

    def options(self) -> dict[str, object]:
        """The defaults that are set, for the control endpoint."""
        return {"name": self.name, "require_key": self.require_key is not None, **self._options}

    def bill(self) -> dict[str, tuple[int, int]]:
        """Tokens generated so far by model, as (input, output)."""
        found: dict[str, tuple[int, int]] = {}
        for call in self.calls:
            if call.usage != (0, 0):
                before = found.get(call.model, (0, 0))
                found[call.model] = (before[0] + call.usage[0], before[1] + call.usage[1])
        return found

    def record(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        at: float,
        connection: int = 0,
        client: str = "",
    ) -> Received:
        """Note one request. `target` is the path with its query."""
        if "://" in target[:8]:
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        path, _, query = target.partition("?")
        self._number += 1
        call = Received(self._number, method, path, query, headers, body, at, connection, client)
        if not path.startswith("/__sim__/"):
            if len(self.calls) >= self.keep:
                del self.calls[: max(1, self.keep // 2)]
            self.calls.append(call)
        return call

    def answer(self, call: Received) -> Plan:
        """What is sent for a recorded request."""
        family, api, model = family_of(call), None, ""
        case = Case(family, self._default, frames.Style(), headers=dict(call.headers))
        found: Endpoint | None = endpoint(call)
        if found is None:
            unknown = error_plan(
                case, 404, f"Unknown path or method: {call.method} {call.path}.", code="unknown_url"
            )
            return self._sent(call, case, unknown)
        case.family, api, model = found.family, found.api, found.model
        call.api = api.name
        if self.require_key is not None and api.name != "root" and call.key != self.require_key:
            return self._sent(call, case, error_plan(case, 401))
        body = call.json if call.method == "POST" else {}
        wrong: str | None = (
            None if isinstance(body, dict) else "We could not parse the JSON body of your request."
        )
        body = body if isinstance(body, dict) else {}
        if api.model_in_body:
            given = body.get("model")
            model = given if isinstance(given, str) else ""
            wrong = wrong or (None if model else "you must provide a model parameter")
        param: str | None = None
        ask: Ask | None = None
        try:
            model, suffix = words.split_model(unquote(model), self.faults)
            call.model = model
            if wrong is None and api.read is not None:
                try:
                    ask = api.read(body, model, found)
                except BadRequest as problem:
                    wrong, param = str(problem), problem.param
            case.want = self._directives(call, body, suffix, ask)
        except (DirectiveError, ValueError) as problem:
            return self._sent(call, case, error_plan(case, 400, f"simulator: {problem}"))
        case.ask = ask
        call.stream = case.streamed
        if case.want.ascii:
            case.style.ascii = True
        faults = self._striking(call, case.want, suffix)
        call.faults = tuple(f.name for f in faults)
        early = next((f.before(case) for f in faults if f.before is not None), None)
        if early is not None:
            plan = early
        elif wrong is not None:
            plan = error_plan(case, 400, wrong, param=param)
        elif ask is None:
            plan = _json_plan(listing(api, found, model, self.models), case)
        else:
            try:
                plan = self._said(call, case, api, ask, faults)
            except ValueError as problem:
                return self._sent(call, case, error_plan(case, 400, f"simulator: {problem}"))
        for fault in faults:
            if fault.plan is not None:
                plan = fault.plan(case, plan)
        return self._sent(call, case, plan)

    def _directives(self, call: Received, body: dict[str, Any], suffix: str, ask: Ask | None) -> Directives:
        metadata = body.get("metadata")
        given = metadata.get("simulate") if isinstance(metadata, dict) else None
        sources = [given if isinstance(given, str) else "", suffix]
        if ask is not None and "[[simulate " in ask.user:
            ask.user, prompt = words.from_prompt(ask.user)
            sources.append(prompt)
        sources.append(call.header("x-simulate") or "")
        if not any(sources):
            return self._default
        merged = dict(self._options)
        for text in sources:
            if text:
                merged.update(words.parse(text, self.faults))
        return Directives(**merged)  # type: ignore[arg-type]

    def _striking(self, call: Received, want: Directives, suffix: str) -> list[Fault]:
        """The faults that strike this call, after `skip`, `first` and `rate`."""
        if not want.fault:
            return []
        if want.first or want.skip:
            mark = f"{'+'.join(want.fault)}|{want.first}|{want.skip}|{suffix and call.model}"
            self._struck[mark] += 1
            turn = self._struck[mark] - want.skip
            if turn < 1 or (want.first and turn > want.first):
                return []
        if want.rate < 1.0 and self._chance.random() >= want.rate:
            return []
        return [FAULTS[name] for name in want.fault]

    def _said(self, call: Received, case: Case, api: Api, ask: Ask, faults: list[Fault]) -> Plan:
        """The plan of a reply that has a model behind it."""
        script = self._script(call, case) if api.scripted else None
        if script is not None and script.simulate:
            case.want = dataclasses.replace(case.want, **words.parse(script.simulate, self.faults))  # type: ignore[arg-type]
            faults.extend(FAULTS[name] for name in case.want.fault if FAULTS[name] not in faults)
            call.faults = tuple(fault.name for fault in faults)
            early = next((f.before(case) for f in faults if f.before is not None), None)
            if early is not None:
                return early
        want = case.want
        if want.name is None and self.name is not None:
            want = case.want = dataclasses.replace(want, name=self.name)
        number, created = (0, CREATED) if want.stable else (call.number, int(time.time()))
        answer = compose(ask, want, script, number, created)
        call.usage = (answer.usage.input, answer.usage.output if api.scripted else 0)
        if script is not None and (script.body is not None or script.chunks is not None):
            return _exact(script, case)
        for fault in faults:
            if fault.answer is not None:
                fault.answer(case, answer)
            if fault.style is not None:
                fault.style(case.style, want)
        plan = self._streamed(case, api, ask, answer, faults) if ask.stream else None
        if plan is None:
            tree = api.whole(ask, answer)
            for fault in faults:
                if fault.tree is not None:
                    tree = fault.tree(case, tree)
            plan = _json_plan(tree, case)
            if want.ttft:
                plan.before = (Pause(frames.Pace(jitter=want.jitter).draw(want.ttft, self._chance)),)
        if script is not None:
            plan.status = script.status
            plan.headers.extend(script.headers.items())
        return plan

    def _streamed(self, case: Case, api: Api, ask: Ask, answer: Answer, faults: list[Fault]) -> Plan:
        events: Iterable[Event | Step] = api.events(ask, answer)
        for fault in faults:
            if fault.events is not None:
                events = fault.events(case, events)
        want = case.want
        pace = frames.Pace(want.ttft, want.delay, want.jitter)
        steps: Iterator[Step] = frames.written(events, case.style, pace, self._chance, array=ask.array)
        kind = "application/json" if ask.array else "text/event-stream; charset=utf-8"
        return Plan(200, [("content-type", kind), ("cache-control", "no-cache")], steps, framing="chunked")

    def _script(self, call: Received, case: Case) -> Scripted | None:
        """The reply that a header, metadata, a function or the script has for this call."""
        given = call.header("x-simulate-reply")
        metadata = case.ask.body.get("metadata") if case.ask is not None else None
        if given is None and isinstance(metadata, dict):
            given = metadata.get("simulate_reply")
        if isinstance(given, str):
            return scripted_text(given)
        if self.reply is not None:
            made = self.reply(call)
            if made is not None:
                return scripted(made)
        return self.script.popleft() if self.script else None

    def _sent(self, call: Received, case: Case, plan: Plan) -> Plan:
        """The finishing touches of every answer: provider's headers, encoding, pieces."""
        want = case.want
        encoding = want.encoding
        if encoding == "auto":
            accepted = call.header("accept-encoding") or ""
            encoding = next((e for e in ("br", "zstd", "gzip", "deflate") if e in accepted), None)
        encoded = any(name == "content-encoding" for name, _ in plan.headers)
        if encoding is not None and not encoded and plan.body != b"":
            plan.headers.append(("content-encoding", encoding))
            squeezed = frames.compress(plan.steps(), encoding)
            plan.body = (
                b"".join(s for s in squeezed if isinstance(s, bytes))
                if isinstance(plan.body, bytes)
                else squeezed
            )
        if want.split:
            plan.length = len(plan.body) if isinstance(plan.body, bytes) else plan.length
            plan.body = frames.split(plan.steps(), want.split)
        plan.headers.extend(_family_headers(case.family, call.number if not want.stable else 0))
        call.status = plan.status
        return plan


def _json_plan(tree: Any, case: Case) -> Plan:
    return Plan(200, [("content-type", "application/json")], frames.dump(tree, case.style) if tree else b"")


def _exact(script: Scripted, case: Case) -> Plan:
    """The plan of a reply whose bytes are given."""
    headers = {name.lower(): value for name, value in script.headers.items()}
    if script.chunks is None:
        headers.setdefault("content-type", "application/json")
        body = script.body or b""
        return Plan(script.status, list(headers.items()), body.encode() if isinstance(body, str) else body)
    headers.setdefault("content-type", "text/event-stream; charset=utf-8")
    parts = [c.encode() if isinstance(c, str) else c for c in script.chunks]

    def steps() -> Iterator[Step]:
        for index, part in enumerate(parts):
            # A pause of nothing still parts two writes.
            yield Pause(case.want.ttft if index == 0 else case.want.delay)
            yield part

    return Plan(script.status, list(headers.items()), steps(), framing="chunked")


def _family_headers(family: Family, number: int) -> list[tuple[str, str]]:
    if family == "openai":
        return [
            ("x-request-id", f"req_sim{number:012d}"),
            ("openai-version", "2020-10-01"),
            ("openai-organization", "org-simulator"),
            ("openai-processing-ms", "7"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "6ms"),
        ]
    if family == "anthropic":
        return [
            ("request-id", f"req_sim{number:012d}"),
            ("anthropic-organization-id", "00000000-0000-4000-8000-00000000051a"),
            ("anthropic-ratelimit-requests-limit", "4000"),
            ("anthropic-ratelimit-requests-remaining", "3999"),
            ("anthropic-ratelimit-requests-reset", "2030-01-01T00:00:00Z"),
        ]
    return [("server-timing", "gfet4t7; dur=7"), ("vary", "origin, x-origin, referer")]
