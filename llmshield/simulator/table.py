"""The fault table: a name, a sentence, and functions at the stages that an answer passes.

    before   (case) -> Plan                  instead of an answer
    answer   (case, answer)                  edits what the model says
    tree     (case, tree) -> tree            edits a whole reply, or the usage part of an event
    events   (case, events) -> events        edits a stream
    style    (style, directives)             edits how events are written
    plan     (case, plan) -> Plan            edits the HTTP answer, errors included

Adding a fault is adding one decorated function to `faults_status` (errors), `faults_http` (connection, head),
`faults_body` (bytes), `faults_stream` (events, texts) or `faults_usage`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmshield.simulator.answer import Answer
from llmshield.simulator.ask import Ask
from llmshield.simulator.directives import Directives
from llmshield.simulator.errors import Family
from llmshield.simulator.frames import Style
from llmshield.simulator.plan import Event, Plan, Step


@dataclasses.dataclass(slots=True)
class Case:
    """One call on its way to an answer; `ask` is None where the path has no model behind it."""

    family: Family
    want: Directives
    style: Style
    ask: Ask | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def streamed(self) -> bool:
        return self.ask is not None and self.ask.stream


Before = Callable[[Case], Plan]
OnAnswer = Callable[[Case, Answer], None]
OnTree = Callable[[Case, dict[str, Any]], dict[str, Any]]
OnEvents = Callable[[Case, Iterable[Event | Step]], Iterator[Event | Step]]
OnStyle = Callable[[Style, Directives], None]
OnPlan = Callable[[Case, Plan], Plan]


@dataclasses.dataclass(slots=True)
class Fault:
    """One row of the table; only the stages that are set do anything."""

    name: str
    doc: str
    before: Before | None = None
    answer: OnAnswer | None = None
    tree: OnTree | None = None
    events: OnEvents | None = None
    style: OnStyle | None = None
    plan: OnPlan | None = None


FAULTS: dict[str, Fault] = {}


def row(name: str, doc: str) -> Fault:
    """The row called `name`, made on first use."""
    return FAULTS.setdefault(name, Fault(name, doc))


def before(name: str, doc: str) -> Callable[[Before], Before]:
    """Register a fault that stands in for the answer."""

    def keep(fn: Before) -> Before:
        row(name, doc).before = fn
        return fn

    return keep


def on_answer(name: str, doc: str) -> Callable[[OnAnswer], OnAnswer]:
    """Register a fault that edits what is said."""

    def keep(fn: OnAnswer) -> OnAnswer:
        row(name, doc).answer = fn
        return fn

    return keep


def on_tree(name: str, doc: str) -> Callable[[OnTree], OnTree]:
    """Register a fault that edits whole replies."""

    def keep(fn: OnTree) -> OnTree:
        row(name, doc).tree = fn
        return fn

    return keep


def on_events(name: str, doc: str) -> Callable[[OnEvents], OnEvents]:
    """Register a fault that edits streams."""

    def keep(fn: OnEvents) -> OnEvents:
        row(name, doc).events = fn
        return fn

    return keep


def on_style(name: str, doc: str) -> Callable[[OnStyle], OnStyle]:
    """Register a fault of the writing."""

    def keep(fn: OnStyle) -> OnStyle:
        row(name, doc).style = fn
        return fn

    return keep


def on_plan(name: str, doc: str) -> Callable[[OnPlan], OnPlan]:
    """Register a fault of the HTTP answer."""

    def keep(fn: OnPlan) -> OnPlan:
        row(name, doc).plan = fn
        return fn

    return keep


def names() -> frozenset[str]:
    """Every fault's name."""
    return frozenset(FAULTS)
