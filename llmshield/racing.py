"""Several providers asked at once: a hedge, whose first to begin answers; and all of them, for somebody to pick.

Each is an attempt of its own: guarded, reserved and ended like any other. Who loses is cancelled, and paid for what it
did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from llmshield import clock
from llmshield.attempts import Prepared
from llmshield.call import Attempt, Usage
from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Finished,
    MediaPart,
    Metered,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from llmshield.dialects import WholeReply
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.translators import Writer
from llmshield.verdicts import Target

Fallen = tuple[Attempt, UpstreamError]


class Floor:
    """Who may speak to the client: the first attempt that wants to. Claiming it ends the others' tasks.

    `head` is held while plugins look at the reply's head, `known` says that they all have; `fallen` are the attempts
    that ended with an error.
    """

    def __init__(self) -> None:
        self.winner: Attempt | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.fallen: list[tuple[Attempt, UpstreamError | CallError]] = []
        self.head = asyncio.Lock()
        self.known = False

    def claim(self, attempt: Attempt, attempts: list[Attempt]) -> None:
        """Speak; from now on this attempt is the last one of all `attempts`: the one that headers and record tell.

        Raises: CancelledError for everybody but the first.
        """
        if self.winner is None:
            self.winner = attempt
            attempts.remove(attempt)
            attempts.append(attempt)
            mine = asyncio.current_task()
            for task in self.tasks:
                if task is not mine:
                    task.cancel()
        elif self.winner is not attempt:
            raise asyncio.CancelledError

    def sent(self, error: BaseException) -> bool:
        """Whether the attempt that ended with this error had been sent."""
        return any(attempt.sent for attempt, each in self.fallen if each is error)


Ask = Callable[[Target], Coroutine[Any, Any, None]]


async def race(
    x: Exchange, targets: Sequence[Target], after_s: float, ask: Ask, may: Callable[[], bool]
) -> list[Fallen]:
    """Ask the first target, and the others as well if nobody has begun to answer after `after_s` seconds and they
    `may` be asked.

    Returns nothing when one has answered, else the attempts that failed in the order of their targets; of a stream
    that broke in the client's hands that attempt alone.

    Raises: CallError of a guard. One that refuses an attempt before it is sent ends the call only when there is
    nobody else.
    """
    floor = x.floor = Floor()
    x.asked_at = clock.monotonic()
    loop = asyncio.get_running_loop()
    floor.tasks.append(loop.create_task(ask(targets[0])))
    refusal: BaseException | None = None
    try:
        done, _ = await asyncio.wait(floor.tasks, timeout=after_s)
        if not done and floor.winner is None and may():
            floor.tasks += [loop.create_task(ask(target)) for target in targets[1:]]
        pending = set(floor.tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.cancelled():
                    continue
                error = task.exception()
                if error is None:
                    return []
                if isinstance(error, CallError) and not floor.sent(error):
                    refusal = error
                elif not isinstance(error, UpstreamError):
                    raise error
    finally:
        for task in floor.tasks:
            task.cancel()
        await asyncio.gather(*floor.tasks, return_exceptions=True)
        x.waited()
        x.asked_at, x.floor = None, None
    failed = [(attempt, error) for attempt, error in floor.fallen if isinstance(error, UpstreamError)]
    if floor.winner is not None:
        return [each for each in failed if each[0] is floor.winner]
    if refusal is not None or not failed:
        raise refusal or UpstreamError("skipped", "Nobody could be asked.")
    return sorted(failed, key=lambda each: each[0].number)


@dataclass(slots=True)
class Candidate:
    """One whole reply that may be the answer. `text` is what it says, and which tools it calls, as its provider wrote
    it."""

    attempt: Attempt
    prepared: Prepared
    reply: WholeReply
    target: Target
    text: str


def read_text(answered: Answered) -> str:
    """The words of a reply's first choice."""
    parts = answered.choices[0].parts if answered.choices else []
    return "".join([part.text for part in parts if isinstance(part, TextPart)])


def read_all_of(answered: Answered) -> str:
    """The words of a reply's first choice and the tools that it calls, one call a line with sorted arguments."""
    parts = answered.choices[0].parts if answered.choices else []
    calls = [f"{part.name}({_sorted(part.arguments)})" for part in parts if isinstance(part, ToolCallPart)]
    return "\n".join([text for text in (read_text(answered), *calls) if text])


def _sorted(arguments: str) -> str:
    try:
        return orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        return arguments


class TooFew(Exception):
    """Fewer replies than the quorum; `failures` says why."""

    def __init__(self, failures: list[UpstreamError]) -> None:
        super().__init__(f"{len(failures)} failed")
        self.failures = failures


async def collect(
    targets: Sequence[Target], ask: Callable[[Target], Coroutine[Any, Any, Candidate]], quorum: int
) -> tuple[list[Candidate], int]:
    """Ask all targets; the replies that came, in the targets' order, and how many did not.

    Raises: TooFew when there are fewer than `quorum`; CallError of a guard, where it leaves too few.
    """
    tasks = [asyncio.get_running_loop().create_task(ask(target)) for target in targets]
    try:
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    candidates = [result for result in results if isinstance(result, Candidate)]
    failures = [result for result in results if isinstance(result, UpstreamError)]
    enough = len(candidates) >= quorum
    for result in results:
        if isinstance(result, Candidate | UpstreamError) or (enough and isinstance(result, CallError)):
            continue
        raise result
    if not enough:
        raise TooFew(failures)
    return candidates, len(results) - len(candidates)


def as_stream(answered: Answered, writer: Writer) -> bytes:
    """A whole reply, as a stream that says all of it at once."""
    out = writer.write(Begun(answered.model, answered.id, answered.created))
    for number, choice in enumerate(answered.choices):
        out += b"".join([_part(writer, number, index, part) for index, part in enumerate(choice.parts)])
    for number, choice in enumerate(answered.choices):
        out += writer.write(Finished(number, choice.finish or "stop", choice.stop_sequence))
    if answered.usage is not None:
        out += writer.write(Metered(answered.usage))
    return out + writer.write(Over())


def _part(writer: Writer, choice: int, index: int, part: Any) -> bytes:
    if isinstance(part, TextPart):
        begun, said = PartBegun(choice, index, "refusal" if part.refusal else "text"), part.text
    elif isinstance(part, ReasoningPart):
        begun, said = PartBegun(choice, index, "reasoning", family=part.family), part.text
    elif isinstance(part, ToolCallPart):
        kind = "custom_call" if part.custom else "tool_call"
        begun, said = PartBegun(choice, index, kind, part.id, part.name), part.arguments or "{}"  # type: ignore[arg-type]
    else:
        assert isinstance(part, MediaPart | ToolResultPart)
        return b""
    out = writer.write(begun)
    if said:
        out += writer.write(PartGrew(choice, index, said))
    return out + writer.write(
        PartEnded(choice, index, getattr(part, "signature", None), getattr(part, "sealed", None))
    )


def together(answers: Sequence[Answered]) -> Answered:
    """Several replies as one with several choices; what they used is added up."""
    first = answers[0]
    if len(answers) == 1:
        return first
    choices: list[Choice] = [answered.choices[0] for answered in answers if answered.choices]
    used = [answered.usage for answered in answers if answered.usage is not None]
    return Answered(first.model, choices, sum_of(used), first.id, first.created)


def sum_of(used: Sequence[Usage]) -> Usage | None:
    """What several replies used; None where none of them says it."""
    if not used:
        return None
    total = replace(used[0])
    for usage in used[1:]:
        total.input = (total.input or 0) + (usage.input or 0)
        total.output = (total.output or 0) + (usage.output or 0)
        total.reasoning += usage.reasoning
        total.cache_read += usage.cache_read
        total.cache_write += usage.cache_write
    return total
