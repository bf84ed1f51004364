"""Usage that lies, in every way that a money book has to survive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmshield.simulator.directives import Directives
from llmshield.simulator.frames import HUGE, INFINITE, NAN, Style
from llmshield.simulator.plan import Event, Step
from llmshield.simulator.table import Case, on_events, on_style, on_tree

Lie = Callable[[Any], Any]
_KEYS = ("usage", "usageMetadata")


def _leaves(tree: Any, lie: Lie) -> Any:
    if isinstance(tree, dict):
        return {key: _leaves(value, lie) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_leaves(value, lie) for value in tree]
    return lie(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree


def edit_usage(tree: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """A copy of a reply or event with its usage changed, wherever the dialect keeps it."""
    if not isinstance(tree, dict):
        return tree
    found = dict(tree)
    for key in _KEYS:
        if isinstance(found.get(key), dict):
            changed = change(found[key])
            if changed is None:
                del found[key]
            else:
                found[key] = changed
    for key in ("message", "response"):
        if isinstance(found.get(key), dict):
            found[key] = edit_usage(found[key], change)
    return found


def _register(name: str, doc: str, change: Callable[[dict[str, Any]], Any]) -> None:
    on_tree(name, doc)(lambda case, tree: edit_usage(tree, change))

    def edit(case: Case, events: Iterable[Event | Step]) -> Iterator[Event | Step]:
        for event in events:
            if isinstance(event, Event) and isinstance(event.data, dict):
                event = Event(edit_usage(event.data, change), event.kind, event.name)
            yield event

    on_events(name, doc)(edit)


def _lie(name: str, doc: str, lie: Lie) -> None:
    _register(f"usage_{name}", doc, lambda usage: _leaves(usage, lie))


def _stand_in(name: str, doc: str, mark: str) -> None:
    _lie(name, doc, lambda value: mark)

    @on_style(f"usage_{name}", doc)
    def style(style: Style, want: Directives) -> None:
        style.stand_ins = True


_lie("x10", "usage ten times too high", lambda v: v * 10)
_lie("negative", "usage below zero", lambda v: -v - 1)
_lie("zero", "usage of nothing", lambda v: 0)
_lie("string", "usage as strings", str)
_lie("null", "usage of nulls", lambda v: None)
_lie("float", "usage with a fraction", lambda v: v + 0.5)
_lie("nested", "usage a level too deep", lambda v: {"tokens": v})
_lie("list", "usage in lists", lambda v: [v])
_stand_in("nan", "usage of NaN, which is no JSON", NAN)
_stand_in("inf", "usage of 1e999", INFINITE)
_stand_in("huge", "usage of 2^64", HUGE)
_register("usage_missing", "no usage at all", lambda usage: None)
_register("usage_text", "usage is a text", lambda usage: "plenty")


def _varied(name: str, doc: str, number: Callable[[int, int], int]) -> None:
    """Register a stream in which every delta carries usage of its own; whole replies stay honest."""

    def edit(case: Case, events: Iterable[Event | Step]) -> Iterator[Event | Step]:
        held = list(events)
        found = [e.data for e in held if isinstance(e, Event) and isinstance(e.data, dict)]
        real = next((u for tree in reversed(found) if (u := _find(tree)) is not None), None)
        turn = 0
        for event in held:
            if real is not None and isinstance(event, Event) and isinstance(event.data, dict):
                turn += 1
                own = _leaves(real[1], lambda v, turn=turn: number(v, turn))  # type: ignore[misc]
                tree = _placed(event.data, real[0], own)
                event = Event(tree, event.kind, event.name)
            yield event

    on_events(name, doc)(edit)


def _placed(tree: dict[str, Any], key: str, usage: Any) -> Any:
    """An event with this usage: in the place where it had one, else at the top."""
    if _find(tree) is None:
        return {**tree, key: usage}
    return edit_usage(tree, lambda before: usage)


def _find(tree: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    for key in _KEYS:
        if isinstance(tree.get(key), dict):
            return key, tree[key]
    for key in ("message", "response"):
        if isinstance(tree.get(key), dict):
            return _find(tree[key])
    return None


_varied("usage_differs", "another usage in every event", lambda v, turn: v + 3 * (turn % 2))
_varied("usage_decreasing", "usage that shrinks from event to event", lambda v, turn: max(0, v + 50 - turn))


@on_events("usage_twice", "the event that has the usage is sent twice")
def _twice(case: Case, events: Iterable[Event | Step]) -> Iterator[Event | Step]:
    for event in events:
        yield event
        if isinstance(event, Event) and isinstance(event.data, dict) and event.kind != "start":
            last = event.kind in ("usage", "finish", "done")
            if last and _find(event.data) is not None:
                yield event


@on_events("usage_after_done", "no usage until behind the closing event")
def _late(case: Case, events: Iterable[Event | Step]) -> Iterator[Event | Step]:
    late: Event | None = None
    for event in events:
        if isinstance(event, Event) and isinstance(event.data, dict) and _find(event.data) is not None:
            late = Event(event.data, event.kind, event.name)
            event = Event(edit_usage(event.data, lambda usage: None), event.kind, event.name)
            if event.kind == "usage":
                continue
        yield event
    if late is not None:
        yield late
