"""Faults of events and of what is said: streams that end, jump, repeat or lie, and odd texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmshield.simulator.answer import Answer
from llmshield.simulator.errors import error
from llmshield.simulator.faults_http import LONG
from llmshield.simulator.frames import dump, sse
from llmshield.simulator.plan import Event, Fin, Hang, Pause, Plan, Reset, Step, flat
from llmshield.simulator.table import Case, on_answer, on_events, on_plan, on_tree

Events = Iterable[Event | Step]
Strike = Callable[[Case, Event], Iterator[Event | Step]]

# A private-use character that stands for a byte no UTF-8 text has; it is replaced in the written bytes.
_BAD = "\ue0ff"
_WIDE = "漢字🙂é"
SEPARATORS = "\u2028\u2029\u0085"


def strike(name: str, doc: str, then: Strike, *, goes_on: bool) -> None:
    """Register what happens in place of the event behind the first `after`; at the latest at the closing one.

    `goes_on`: the stream continues with that event; otherwise this is its end.
    """

    def edit(case: Case, events: Events) -> Iterator[Event | Step]:
        sent, struck = 0, False
        for event in events:
            if not struck and isinstance(event, Event) and (sent >= case.want.after or event.kind == "done"):
                struck = True
                yield from then(case, event)
                if not goes_on:
                    return
            if isinstance(event, Event):
                sent += 1
            yield event

    on_events(name, doc)(edit)


def _end(ending: Step) -> Strike:
    def then(case: Case, event: Event) -> Iterator[Event | Step]:
        yield ending

    return then


def _nothing(case: Case, event: Event) -> Iterator[Event | Step]:
    yield from ()


def _frame(case: Case, event: Event) -> bytes:
    if case.ask is not None and case.ask.array:
        return b"," + dump(event.data, case.style)
    return sse(event, case.style)


def _mid_event(case: Case, event: Event) -> Iterator[Event | Step]:
    data = _frame(case, event)
    yield Event(raw=data[: len(data) // 2])
    yield Reset()


def _malformed(case: Case, event: Event) -> Iterator[Event | Step]:
    data = dump(event.data, case.style) if not isinstance(event.data, bytes) else event.data
    yield Event(data[: len(data) * 2 // 3], name=event.name)


def _error(case: Case, event: Event) -> Iterator[Event | Step]:
    status = 529 if case.family == "anthropic" else 503
    tree = error(
        case.family,
        status,
        case.want.message or "The server had an error in the middle of the reply.",
        code=case.want.code,
        kind=case.want.type,
    )
    if case.family == "anthropic":
        yield Event(tree, name="error")
    elif case.ask is not None and case.ask.api == "responses":
        inner = tree["error"]
        flat_error = {"type": "error", "code": inner["code"] or inner["type"], "message": inner["message"]}
        number = event.data.get("sequence_number", 0)
        yield Event({**flat_error, "param": None, "sequence_number": number}, name="error")
    else:
        yield Event(tree)


def _unknown(case: Case, event: Event) -> Iterator[Event | Step]:
    tree: dict[str, Any] = {"type": "x_simulator.unknown", "payload": {"note": "from the future"}}
    name: str | None = "x_simulator.unknown"
    if case.ask is not None and case.ask.api in ("chat", "completions", "gemini"):
        name = None
        if isinstance(event.data, dict):
            tree = {
                **event.data,
                "x_simulator": tree,
                "candidates" if "candidates" in event.data else "choices": [],
            }
    yield Event(tree, name=name)


strike("cut", "TCP RST after `after` events, or after half of a whole reply", _end(Reset()), goes_on=False)
strike("fin", "FIN after `after` events, or after half of a whole reply", _end(Fin()), goes_on=False)
strike("half_close", "as fin, but the other direction stays open", _end(Fin(half=True)), goes_on=False)
strike(
    "unfinished",
    "a stream whose HTTP ends well after `after` events without a finish; a whole reply is as usual",
    _nothing,
    goes_on=False,
)
strike("stall", "nothing more after `after` events", _end(Hang()), goes_on=False)
strike("cut_mid_event", "TCP RST in the middle of an event", _mid_event, goes_on=False)
strike(
    "malformed",
    "an event whose JSON is cut, then the rest as usual; a whole reply is cut too",
    _malformed,
    goes_on=True,
)
strike("error_in_200", "an error object inside a 200, whole or after `after` events", _error, goes_on=False)
strike("unknown_event", "an event of an unknown kind", _unknown, goes_on=True)


@on_tree("error_in_200", "an error object inside a 200")
def _error_whole(case: Case, tree: dict[str, Any]) -> dict[str, Any]:
    return error(
        case.family,
        503,
        case.want.message or "The server had an error.",
        code=case.want.code,
        kind=case.want.type,
    )


@on_plan("cut_mid_utf8", "TCP RST inside a multi-byte character")
def _mid_utf8(case: Case, plan: Plan) -> Plan:
    def cutting(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, bytes):
                at = next((i for i, byte in enumerate(step) if byte >= 0xC2), -1)
                if at >= 0:
                    yield step[: at + 1]
                    yield Reset()
            yield step

    if isinstance(plan.body, bytes):
        plan.length = len(plan.body)
    plan.body = cutting(plan.steps())
    return plan


def _insert(answer: Answer, text: str) -> None:
    """A piece of text in the middle of every choice's text."""
    for choice in answer.choices:
        choice.text.insert((len(choice.text) + 1) // 2, text)


@on_answer("cut_mid_utf8", "TCP RST inside a multi-byte character")
def _wide(case: Case, answer: Answer) -> None:
    _insert(answer, _WIDE)


@on_answer("invalid_utf8", "bytes in the text that are no UTF-8")
def _bad(case: Case, answer: Answer) -> None:
    _insert(answer, _BAD)


@on_plan("invalid_utf8", "bytes in the text that are no UTF-8")
def _bad_bytes(case: Case, plan: Plan) -> Plan:
    mark = _BAD.encode()

    def spoilt(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            yield step.replace(mark, b"\xff\xc3") if isinstance(step, bytes) else step

    plan.body = (
        flat(plan).replace(mark, b"\xff\xc3") if isinstance(plan.body, bytes) else spoilt(plan.steps())
    )
    return plan


@on_answer("u2028", "U+2028, U+2029 and U+0085 raw inside a delta")
def _separators(case: Case, answer: Answer) -> None:
    _insert(answer, SEPARATORS)


@on_answer("big_event", "one delta of `size` bytes (10 MiB)")
def _big(case: Case, answer: Answer) -> None:
    size = case.want.size or 10 << 20
    _insert(answer, "B" * size)
    answer.usage.output += size // 4


@on_answer("filter_finish", "half of the text, then the filter's finish reason")
def _filter_finish(case: Case, answer: Answer) -> None:
    for choice in answer.choices:
        del choice.text[(len(choice.text) + 1) // 2 :]
        choice.tools.clear()
        choice.finish = "filter"


@on_answer("refusal", "the model refuses, in the dialect's own way")
def _refusal(case: Case, answer: Answer) -> None:
    for choice in answer.choices:
        choice.refusal, choice.text = ["I can", "'t help", " with that."], []
        choice.tools.clear()
        choice.finish = "refusal"


@on_events("slow_first", "the head at once, the first event after `pause` seconds (30)")
def _slow_first(case: Case, events: Events) -> Iterator[Event | Step]:
    yield Pause(LONG if case.want.pause is None else case.want.pause)
    yield from events


@on_plan("slow_first", "the head at once, the first event after `pause` seconds (30)")
def _slow_whole(case: Case, plan: Plan) -> Plan:
    if not case.streamed:
        # A whole reply has no first event: its body is late.
        plan.length = len(flat(plan))
        plan.body = (Pause(LONG if case.want.pause is None else case.want.pause), flat(plan))
    return plan


@on_events(
    "no_done", "everything but the closing event ([DONE], message_stop, response.completed, last chunk)"
)
def _no_done(case: Case, events: Events) -> Iterator[Event | Step]:
    yield from (e for e in events if not (isinstance(e, Event) and e.kind == "done"))


@on_events("after_done", "events behind the closing one")
def _after_done(case: Case, events: Events) -> Iterator[Event | Step]:
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Event) and event.kind in ("delta", "usage"):
            kept = [e for e in kept if e.kind != event.kind] + [event]
        yield event
    yield from kept


@on_events("endless", "the text's deltas again and again, for ever")
def _endless(case: Case, events: Events) -> Iterator[Event | Step]:
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Event):
            if event.kind == "delta":
                kept.append(event)
            elif kept and event.kind != "start":
                break
        yield event
    while kept:
        yield from kept


@on_events("duplicate_index", "every opening event (role, block, item) is sent twice")
def _duplicate(case: Case, events: Events) -> Iterator[Event | Step]:
    for event in events:
        yield event
        if isinstance(event, Event) and event.kind == "start":
            yield event


_INDICES = ("index", "output_index", "content_index")


def _shifted(tree: Any) -> Any:
    """A copy whose indices are seven higher, where no block was ever opened."""
    if isinstance(tree, list):
        return [_shifted(v) for v in tree]
    if isinstance(tree, dict):
        return {k: v + 7 if k in _INDICES and isinstance(v, int) else _shifted(v) for k, v in tree.items()}
    return tree


@on_events("out_of_order", "every second delta has an index that was never opened")
def _out_of_order(case: Case, events: Events) -> Iterator[Event | Step]:
    odd = False
    for event in events:
        if isinstance(event, Event) and event.kind == "delta":
            odd = not odd
            if not odd:
                yield Event(_shifted(event.data), event.kind, event.name)
                continue
        yield event


def _foreign(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy with the ids of another reply."""
    return {key: "of-another-request" if key in _IDS else value for key, value in tree.items()}


_IDS = ("id", "item_id", "responseId")


@on_tree("wrong_id", "ids of another reply, in a stream from `after` on")
def _wrong_id_whole(case: Case, tree: dict[str, Any]) -> dict[str, Any]:
    return _foreign(tree)


@on_events("wrong_id", "ids of another reply, in a stream from `after` on")
def _wrong_id(case: Case, events: Events) -> Iterator[Event | Step]:
    sent = 0
    for event in events:
        if isinstance(event, Event) and isinstance(event.data, dict):
            sent += 1
            if sent > case.want.after:
                event = Event(_foreign(event.data), event.kind, event.name)
        yield event
